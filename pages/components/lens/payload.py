"""What the lens needs of a `MosaicResult`, packed for the browser: everything a hover may ask for, in one message.

Arrays become {dtype, shape, data}: little-endian, zlib-deflated, base64. Nothing here knows Streamlit or torch.
"""

import base64
import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from lm_core.mosaic import segment, stitch
from lm_core.params import NETWORKS
from lm_core.results import MosaicResult

VERSION = 1
SHORT_NAMES = {"bbels": "bbELS", "els": "ELS", "ls": "LS", "es": "ES", "is": "IS"}
DATASET_NAMES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "emoji": "emoji", "cifar10": "CIFAR-10"}
# How a window meets the image's border: bounded by it, around it as on a torus, or it is the whole image.
WINDOWS = {"bbels": "clip", "ls": "clip", "els": "wrap", "es": "whole", "is": "whole"}
MAX_PICTURES = 4096  # thumbnails sent, those that weigh most somewhere: about 1.5 MB of MNIST
WEIGHT_UNIT = 65535  # a weight of 1; one unit is .0015 %
LOG2_UNIT = 2000  # effective candidates as 2^(u / 2000): 0.03 % apart, up to 7e9


def lens_payload(
    result: MosaicResult, factor: float = 1.0, partial: bool = False, max_pictures: int = MAX_PICTURES
) -> dict[str, Any]:
    """Pack a result for the lens.

    Args:
        factor: above 1, a coherent mosaic (`lm_core.mosaic.segment`) is sent beside the exact one.
        partial: the run is still in progress: `result` holds its first steps, and its source tables, network and scores
            may be missing (None or of length 0).
        max_pictures: how many source images are sent as thumbnails; the others are named by their number only.

    Returns:
        A JSON-ready dictionary, the same for the same arguments; "id" is a hash of the rest.

    Cost: about .3 s for 20 steps of a 32×32 image.
    """
    done, steps = len(result.denoised), max(len(result.denoised), result.params.steps)
    channels, height, width = result.noise.shape
    tables = _tables(result, factor, max_pictures) if _has_tables(result) else {}
    payload = {
        "version": VERSION,
        "partial": bool(partial),
        "title": _title(result),
        "machine": SHORT_NAMES[result.params.machine],
        "window": WINDOWS[result.params.machine],
        "channels": channels,
        "height": height,
        "width": width,
        "steps": steps,
        "done": done,
        "t": [(steps - s) / steps for s in range(steps)],
        "alpha_bar": _numbers(result.alpha_bar),
        "patch_sizes": [int(size) for size in result.patch_sizes],
        "noisy_range": _numbers(noisy_range(np.asarray(result.alpha_bar)[:done])),
        "machine_images": _images(result.trajectory, result.denoised, result.alpha_bar),
        "network": _network(result, partial),
        "scores": {name: _facts(score) for name, score in result.scores.items()},
        "nearest": {name: _facts(facts) for name, facts in result.nearest.items()},
    } | tables
    return payload | {"id": hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:16]}


def pack(array: np.ndarray) -> dict[str, Any]:
    """Return an integer array as {dtype, shape, data}; `unpack` and lens.js read it back."""
    array = np.ascontiguousarray(array)
    data = zlib.compress(array.astype(array.dtype.newbyteorder("<")).tobytes(), 6)
    return {"dtype": f"u{array.itemsize}", "shape": list(array.shape), "data": base64.b64encode(data).decode()}


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """Return the array that `pack` packed."""
    data = zlib.decompress(base64.b64decode(packed["data"]))
    return np.frombuffer(data, dtype=f"<{packed['dtype']}").reshape(packed["shape"])


def noisy_range(alpha_bar: np.ndarray) -> np.ndarray:
    """Return the half range in which a noisy state is drawn: 1 plus two standard deviations of its noise."""
    return 1 + 2 * np.sqrt(np.clip(1 - alpha_bar, 0, 1))


def _images(trajectory: np.ndarray, denoised: np.ndarray, alpha_bar: np.ndarray) -> dict[str, Any]:
    """Return noisy states (each in its own `noisy_range`) and estimates (in [−1, 1]) as bytes [S, C, H, W]."""
    limits = noisy_range(np.asarray(alpha_bar)[: len(denoised)])[:, None, None, None]
    return {
        "noisy": pack(_bytes(trajectory[: len(denoised)] / limits)),
        "denoised": pack(_bytes(denoised)),
    }


def _bytes(values: np.ndarray) -> np.ndarray:
    """Map [−1, 1] to 0 … 255, clipped."""
    return np.round((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8)


def _network(result: MosaicResult, partial: bool) -> dict[str, Any]:
    """Return the network's images, or the sentence that stands in their place."""
    name = result.params.network
    if result.network_image is None:
        if name is None:
            note = "No network is chosen; choose one to see what it paints from the same noise."
        elif partial:
            note = "The network's image, from the same noise, follows when it is done."
        else:
            note = "There is no trained network here for this data set, so the machine stands alone."
        return {"name": NETWORKS.get(name or "", "Network"), "note": note}
    facts = {"name": NETWORKS.get(name or "", PurePath(name or "network").name), "note": ""}
    steps, states, estimates = len(result.denoised), result.network_trajectory, result.network_denoised
    if states is None or estimates is None or len(estimates) != steps:  # only the finished image is known
        return facts | {"final": pack(_bytes(result.network_image))}
    return facts | _images(states, estimates, result.alpha_bar)


def _has_tables(result: MosaicResult) -> bool:
    tables = (result.top_image, result.top_weight, result.effective_samples)
    known = all(table is not None and len(table) >= len(result.denoised) for table in tables)
    return known and result.source_ids is not None and len(result.source_ids) > 0 and len(result.denoised) > 0


def _tables(result: MosaicResult, factor: float, max_pictures: int) -> dict[str, Any]:
    """Return where every pixel comes from: the top candidates, the tiles, the sources."""
    steps = len(result.denoised)
    image, weight = result.top_image[:steps], result.top_weight[:steps]
    order = _by_importance(result, image, weight)
    rank = np.empty(len(order) + 1, dtype=np.uint32)
    rank[order] = np.arange(len(order))
    rank[-1] = len(order)  # no candidate in this place
    index = rank[np.where(image < 0, len(order), np.searchsorted(result.source_ids, image))]
    pictured = min(len(order), max_pictures)
    factors = [1.0] if factor <= 1 else [1.0, float(factor)]
    tiles = [_mosaic(result, factor) for factor in factors]
    return {
        "top": {
            "index": pack(index.astype(np.uint16 if len(order) < 2**16 else np.uint32)),
            "y": pack(np.maximum(result.top_y[:steps], 0).astype(np.uint8)),
            "x": pack(np.maximum(result.top_x[:steps], 0).astype(np.uint8)),
            "weight": pack(np.round(np.clip(weight, 0, 1) * WEIGHT_UNIT).astype(np.uint16)),
        },
        "effective_log2": pack(
            np.round(np.log2(np.maximum(result.effective_samples[:steps], 1)) * LOG2_UNIT).astype(np.uint16)
        ),
        "muted": tiles[0].pop("muted"),
        "mosaics": [{key: value for key, value in one.items() if key != "muted"} for one in tiles],
        "sources": {"ids": [int(i) for i in result.source_ids[order]]} | _atlas(result.source_images[order[:pictured]]),
    }


def _by_importance(result: MosaicResult, image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the places of `source_ids`, the source with the largest weight at any pixel and step first."""
    known = image >= 0
    most = np.zeros(len(result.source_ids))
    np.maximum.at(most, np.searchsorted(result.source_ids, image[known]), weight[known])
    return np.argsort(-most, kind="stable")


def _mosaic(result: MosaicResult, factor: float) -> dict[str, Any]:
    """Return every step's tiles at one factor, with the source pixels pasted together."""
    tiles = [segment(result, step, factor) for step in range(len(result.denoised))]
    label = np.stack([one.label for one in tiles])
    return {
        "factor": factor,
        "label": pack(label.astype(np.uint16 if label.max() < 2**16 else np.uint32)),
        "choice": pack(np.stack([one.choice for one in tiles]).astype(np.uint8)),
        "stitched": pack(np.stack([stitch(result, step, one) for step, one in enumerate(tiles)])),
        "tiles": [one.count for one in tiles],
        "area": _numbers(one.mean_area for one in tiles),
        "muted": pack(np.stack([one.muted for one in tiles]).astype(np.uint8)),
    }


def _atlas(images: np.ndarray) -> dict[str, Any]:
    """Lay thumbnails out row by row in one PNG."""
    count, channels, height, width = images.shape
    columns = max(1, math.isqrt(max(count - 1, 0)) + 1)
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, channels, height, width), dtype=np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * height, columns * width, channels)
    buffer = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(buffer, "PNG", compress_level=6)
    return {"pictured": count, "columns": columns, "png": base64.b64encode(buffer.getvalue()).decode()}


def _title(result: MosaicResult) -> str:
    params = result.params
    images = "all training images" if params.images is None else f"{params.images:,} training images"
    dataset = DATASET_NAMES.get(params.dataset, PurePath(params.dataset).name)
    return f"{dataset} · {SHORT_NAMES[params.machine]} · seed {params.seed} · {images} · {params.steps} steps"


def _numbers(values: Iterable[float]) -> list[float]:
    """Round to six decimals: fewer bytes, and the same text on every machine."""
    return [round(float(value), 6) for value in values]


def _facts(facts: dict[str, float]) -> dict[str, float | None]:
    """Replace what JSON can't say (a correlation that isn't defined) by None."""
    return {name: float(value) if math.isfinite(value) else None for name, value in facts.items()}
