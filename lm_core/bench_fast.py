"""Benchmarks of the fast engine: against the exact one at several sizes, and on all 60,000 digits."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_core.artifacts import asset_path, load_dataset
from lm_core.errors import AssetError
from lm_core.results import agreement
from lm_core.run_index import SIZES as INDEXED_SIZES

if TYPE_CHECKING:
    import torch

    from lm_core.score.machines import Denoised, PosteriorEngine

REFERENCE = "results/full-mnist.npz"
PLOT = "screenshots/fast-growth.svg"
# The published implementation on this project's 2-core reference machine, MNIST, one image of 20 steps, measured once:
# 24 s per 100 training images, growing linearly (see the README).
PUBLISHED_SECONDS_PER_1000_IMAGES = 240.0
STEPS, CHECKED_STEPS, CHECKED_PIXELS = 20, (8, 11, 14, 19), 2
SIZES, EXACT_SIZES = (1000, 3000, 10_000, 30_000, 60_000), (1000, 3000)


def growth() -> dict[str, Any]:
    """Seconds of both engines for a 20-step MNIST image at several N, of fast on other data; no index; draws a plot."""
    from lm_core.score.fast import FastEngine
    from lm_core.score.machines import ExactEngine

    whole = load_dataset("mnist")
    sample_once(FastEngine(whole.images[:64], "bbels"), "mnist")  # compiles, or loads what was compiled
    rows = []
    for count in SIZES:
        images = whole.take(count).images
        image, seconds = sample_once(FastEngine(images, "bbels", indexed=False), "mnist")
        row: dict[str, Any] = {"images": count, "fast_seconds": round(seconds, 2)}
        if count in EXACT_SIZES:
            exact, took = sample_once(ExactEngine(images, "bbels"), "mnist")
            alike = {"r": agreement(image, exact).r, "mean_abs_error": float(np.abs(image - exact).mean())}
            row |= {"exact_seconds": round(took, 2), "ratio": round(took / seconds, 2), **alike}
        rows.append(row)
    exponent = math.log(rows[-1]["fast_seconds"] / rows[0]["fast_seconds"]) / math.log(SIZES[-1] / SIZES[0])
    others = {}
    for name, label in (("fashion-mnist", 0), ("emoji", None), ("cifar10", 0)):
        try:
            data = load_dataset(name).take(None, label)
        except AssetError as error:  # CIFAR-10 is the user's own
            others[name] = {"missing": str(error)}
            continue
        _, seconds = sample_once(FastEngine(data.images, "bbels", indexed=False), name)
        facts = {"images": len(data.images), "label": label, "data_sha256": data.sha256, "note": data.note}
        others[name] = facts | {"fast_seconds": round(seconds, 2)}
    asset_path(PLOT).write_text(_plot(rows), encoding="utf-8")
    measured = {"growth_exponent": round(exponent, 3), "others": others, "plot": PLOT}
    return {"steps": STEPS, "data_sha256": whole.sha256, "mnist": rows, **measured}


def full_mnist() -> dict[str, Any]:
    """The fast engine over all 60,000 digits, with an index if there is one: seconds, memory, agreement, float64."""
    import psutil

    from lm_core.score.fast import FastEngine

    path = asset_path(REFERENCE)
    if not path.exists():
        raise AssetError(f"{path.name} is missing; make it with `bench full-mnist-reference`, twenty minutes.")
    with np.load(path, allow_pickle=False) as file:
        reference = file["image"]
    data, process, peak = load_dataset("mnist"), psutil.Process(), 0

    def watch(share: float) -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)

    sample_once(FastEngine(data.images[:64], "bbels"), "mnist")
    engine, steps = FastEngine(data.images, "bbels"), []
    image, seconds = sample_once(engine, "mnist", watch, steps)
    return {
        "data_sha256": data.sha256,
        "seconds": round(seconds, 2),
        "r_to_exact": agreement(image, reference).r,
        "mean_abs_error": float(np.abs(image - reference).mean()),
        "peak_mb": round(peak / 2**20),
        "tolerance": engine.tolerance,
        "indexed_patch_sizes": [size for size in INDEXED_SIZES if engine.find_index(size)],
        "threads": engine.threads,
        "largest_step_error": max(_error(found) for *_, found in steps),
        "float64": [_check(data.images, *steps[step]) for step in CHECKED_STEPS],
    }


def full_mnist_reference() -> dict[str, Any]:
    """Make the image that `fast-full-mnist` is compared with: the exact engine over 60,000 digits, twenty minutes."""
    from lm_core.score.machines import ExactEngine

    data = load_dataset("mnist")
    image, seconds = sample_once(ExactEngine(data.images, "bbels"), "mnist")
    facts = {"data_sha256": data.sha256, "seconds": round(seconds, 1)}
    command = "python -m lm_core bench full-mnist-reference"
    np.savez_compressed(asset_path(REFERENCE), image=image, command=command, **facts)
    return facts | {"file": REFERENCE}


def _error(found: "Denoised") -> float:
    """Return the mean over pixels of bound + 2 deviations."""
    if found.bound is None or found.deviation is None:
        return 0.0
    return float((found.bound + 2 * found.deviation).mean())


def _check(images: np.ndarray, x: "torch.Tensor", level: float, size: int, found: "Denoised") -> dict[str, Any]:
    """Compare certified means of some interior pixels with float64 sums over all images, window by window.

    Args:
        images: uint8 [N, 1, H, W]; x: [1, 1, H, W]; level: ᾱ; size: P; found: what the fast engine says.
    """
    import torch
    import torch.nn.functional as F

    assert found.bound is not None and found.deviation is not None
    radius = size // 2
    inner = slice(radius, x.shape[-1] - radius)
    known = (found.deviation[0] == 0)[inner, inner].nonzero() + radius
    chosen = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:CHECKED_PIXELS]].tolist()
    excess, largest = -math.inf, 0.0
    for a, b in chosen:
        kernel = x[:, :, a - radius : a + radius + 1, b - radius : b + radius + 1].double()
        logits, values = [], []
        for part in torch.tensor(images).split(2000):
            pixels = part.double() / 127.5 - 1
            squares = F.avg_pool2d(pixels.square(), size, 1, divisor_override=1)
            logits.append((level**0.5 * F.conv2d(pixels, kernel) - level / 2 * squares).flatten() / (1 - level))
            values.append(pixels[:, :, inner, inner].flatten())
        mean = float(torch.softmax(torch.cat(logits), 0) @ torch.cat(values))
        error = abs(mean - float(found.mean[0, 0, a, b]))
        largest, excess = max(largest, error), max(excess, error - float(found.bound[0, a, b]))
    return {"P": size, "pixels": len(chosen), "largest_error": largest, "bounds_hold": excess <= 0}


def sample_once(
    engine: "PosteriorEngine",
    dataset: str,
    on_chunk: Callable[[float], None] = lambda share: None,
    steps: list[tuple["torch.Tensor", float, int, "Denoised"]] | None = None,
) -> tuple[np.ndarray, float]:
    """Sample seed 0; arguments as in `sample_seeds`. Returns the image [C, H, W] and the seconds it took."""
    images, seconds = sample_seeds(engine, dataset, 1, on_chunk=on_chunk, taken=steps)
    return images[0], seconds


def sample_seeds(
    engine: "PosteriorEngine",
    dataset: str,
    seeds: int,
    *,
    steps: int = STEPS,
    device: "torch.device | str" = "cpu",
    on_chunk: Callable[[float], None] = lambda share: None,
    taken: list[tuple["torch.Tensor", float, int, "Denoised"]] | None = None,
) -> tuple[np.ndarray, float]:
    """Sample seeds 0, 1, … at once with the published curve of the UNet.

    Args:
        device: the engine's.
        taken: takes each step's noisy images, ᾱ, P and what the engine found.

    Returns:
        The images [seeds, C, H, W] and the seconds they took.
    """
    import torch

    from lm_core.diffusion.ddim import sample, starting_noise
    from lm_core.diffusion.schedule import alpha_bar, step_times
    from lm_core.score.curves import published_curve

    levels, sizes = alpha_bar(step_times(steps)), published_curve(dataset, "unet", steps)

    def denoise(x: "torch.Tensor", step: int) -> "torch.Tensor":
        found = engine.denoise(x, float(levels[step]), sizes[step], on_chunk)
        if taken is not None:
            taken.append((x, float(levels[step]), sizes[step], found))
        return found.mean

    shape = load_dataset(dataset).images.shape[1:]
    start = torch.stack([starting_noise(seed, shape) for seed in range(seeds)]).to(device)
    began = time.perf_counter()
    images = sample(denoise, start, steps).cpu().numpy()  # waits for a card
    return images, time.perf_counter() - began


def _plot(rows: list[dict[str, Any]]) -> str:
    """Draw seconds against N on logarithmic axes, as SVG."""
    left, top, width, height = 70, 20, 520, 280
    x_range, y_range = (3.0, 5.0), (0.0, 4.0)

    def place(images: float, seconds: float) -> tuple[float, float]:
        x = (math.log10(images) - x_range[0]) / (x_range[1] - x_range[0])
        y = (math.log10(seconds) - y_range[0]) / (y_range[1] - y_range[0])
        return left + width * x, top + height * (1 - y)

    parts = []
    for power in range(int(y_range[0]), int(y_range[1]) + 1):
        y = place(1000, 10**power)[1]
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.0f}" y2="{y:.0f}" stroke="#9995"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{10**power:,} s</text>')
    for images in (1000, 10_000, 100_000):
        x = place(images, 1)[0]
        parts.append(f'<text x="{x:.0f}" y="{top + height + 20}" text-anchor="middle">{images:,}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">training images</text>')
    exact = [(row["images"], row["exact_seconds"]) for row in rows if "exact_seconds" in row]
    slope = exact[-1][1] / exact[-1][0]
    exact.append((SIZES[-1], slope * SIZES[-1]))
    fast = [(row["images"], row["fast_seconds"]) for row in rows]
    for name, points, colour in (("exact", exact, "#d97706"), ("fast", fast, "#2563eb")):
        places = [place(*point) for point in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        measured = places[:-1] if name == "exact" else places
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in measured]
        x, y = places[-1]
        label = "exact (extrapolated from 3,000)" if name == "exact" else name
        parts.append(f'<text x="{x - 6:.0f}" y="{y - 10:.0f}" text-anchor="end" fill="{colour}">{label}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 350" font-family="sans-serif" font-size="13" '
        f'fill="#777">\n{body}\n</svg>\n'
    )
