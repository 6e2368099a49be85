"""Networks on disk: safetensors files whose metadata says how to build them and what made them."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from lm_core.artifacts import atomic_write
from lm_core.diffusion.networks import NetworkConfig, build_network, place
from lm_core.errors import AssetError, ParameterError


def save_network(
    path: Path, network: nn.Module, config: NetworkConfig, metadata: dict, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write the weights and, as JSON in the file's metadata, the configuration and what made them.

    Args:
        dtype: of the weights in the file; float16 halves it, `load_network` computes in float32 all the same. The
            metadata names any other than float32 as "stored".
    """
    tensors = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in network.state_dict().items()}
    made = {key: value for key, value in metadata.items() if key != "stored"}
    stored = {} if dtype == torch.float32 else {"stored": str(dtype).removeprefix("torch.")}
    text = {"lm_core": json.dumps(made | stored | {"network": config.as_dict()}, sort_keys=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, save(tensors, metadata=text))


def read_metadata(path: Path) -> dict:
    """Return what `save_network` wrote beside the weights.

    Raises:
        AssetError: the file is missing, no safetensors file, or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})["lm_core"])
    except FileNotFoundError:
        raise AssetError(f"There is no network file {path.name}; train one with `python -m lm_core train`.") from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise AssetError(f"{path.name} is not a network of this project or is damaged ({error}).") from None


def load_network(path: Path, device: torch.device) -> tuple[nn.Module, NetworkConfig, dict]:
    """Return the network in evaluation mode with float32 weights, its configuration and its metadata.

    Raises:
        AssetError: the file is missing or damaged, or its tensors don't fit its configuration.
    """
    metadata = read_metadata(path)
    try:
        config = NetworkConfig(**metadata["network"])
        network = build_network(config)
        with safe_open(path, framework="pt") as file:
            network.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})
    except (SafetensorError, RuntimeError, KeyError, TypeError, ParameterError) as error:
        reason = str(error).splitlines()[0]
        raise AssetError(f"The weights in {path.name} don't fit the network they describe: {reason}") from None
    return place(network, device).requires_grad_(False).eval(), config, metadata
