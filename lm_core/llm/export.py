"""Directions for other programs: a llama.cpp control vector in GGUF."""

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor


def control_vector(vectors: Tensor, norms: Tensor, blocks: tuple[int, int], architecture: str) -> bytes:
    """Return a GGUF control vector: `direction.N`, float32, is what strength 1 adds to the output of block N.

    llama.cpp reads tensors `direction.1` … and adds them, times its own scale, to the residual stream after that layer.

    Args:
        vectors: [layer, d_model] unit rows; norms: [layer]; blocks: first and last one that steers.
        architecture: the model's type, such as "llama".
    """
    from gguf import GGUFWriter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vector.gguf"
        writer = GGUFWriter(str(path), "controlvector")
        writer.add_string("controlvector.model_hint", architecture)
        writer.add_uint32("controlvector.layer_count", len(vectors))
        for layer in range(max(blocks[0], 1), blocks[1] + 1):  # the format has no direction for block 0
            added = (vectors[layer] * norms[layer]).float().cpu().numpy()
            writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(added))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()
