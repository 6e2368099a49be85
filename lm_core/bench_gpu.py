"""Benchmark of the exact engine on a card: the fused kernel and matrix products with stored logits, side by side."""

import time
from typing import TYPE_CHECKING, Any

from lm_core.artifacts import load_dataset
from lm_core.device import choose_device
from lm_core.errors import ResourceError
from lm_core.results import agreement

if TYPE_CHECKING:
    import torch

    from lm_core.score.machines import ExactEngine

STEPS, SEEDS, WARM_UP_IMAGES = 20, 16, 64
PUBLISHED_SECONDS = 14_400.0  # one image over 60,000 digits by the published code, on this project's two cores


def exact_gpu() -> dict[str, Any]:
    """The exact engine on a CUDA card: 16 images of 20 steps at once over all 60,000 digits, bbELS, fused and not."""
    import torch

    from lm_core.score import machines

    device = choose_device("auto")
    if not machines.can_fuse(device, torch.float32):
        raise ResourceError(
            f"this benchmark needs a CUDA card, Triton and a C compiler; the device is {device.type}: run it elsewhere."
        )
    return {
        "card": torch.cuda.get_device_name(device),
        **compare(device, len(load_dataset("mnist").images), SEEDS, STEPS),
    }


def compare(device: "torch.device", images: int, seeds: int, steps: int) -> dict[str, Any]:
    """Sample the same noises by every kind of the engine; seconds, memory, and the largest difference from the first.

    Args:
        images: the first so many digits; seeds: how many images are sampled at once.
    """
    import torch

    from lm_core.score.candidates import Area
    from lm_core.score.fused import FusedArea
    from lm_core.score.machines import ExactEngine

    class TensorCores(FusedArea):
        precision = "tf32x3"

    data = load_dataset("mnist").take(images).images
    rows, first = [], None
    kinds = (("stored logits", Area), ("fused, float32", FusedArea), ("fused, 3 × TF32", TensorCores))
    for name, area in kinds:
        for part in (data[:WARM_UP_IMAGES], data):  # the first compiles
            engine = ExactEngine(part, "bbels", device=device, fused=False)
            engine.area = area
            found, seconds, peak = _sample(engine, seeds, steps)
        first = found if first is None else first
        rows.append(
            {
                "kind": name,
                "seconds": round(seconds, 2),
                "times_the_published": round(seeds * PUBLISHED_SECONDS * images / 60_000 / seconds),
                "peak_mb": peak,
                "smallest_r": min(agreement(one, other).r for one, other in zip(found, first, strict=True)),
                "largest_difference": float(abs(found - first).max()),
            }
        )
    return {"images": images, "steps": steps, "seeds": seeds, "torch": torch.__version__, "kinds": rows}


def _sample(engine: "ExactEngine", seeds: int, steps: int) -> tuple[Any, float, int]:
    """Return the images of seeds 0, 1, … by the UNet's published curve, the seconds, and the card's peak MB."""
    import torch

    from lm_core.diffusion.ddim import sample, starting_noise
    from lm_core.diffusion.schedule import alpha_bar, step_times
    from lm_core.score.curves import published_curve

    levels, sizes = alpha_bar(step_times(steps)).tolist(), published_curve("mnist", "unet", steps)
    noise = torch.stack([starting_noise(seed, tuple(engine.images.shape[1:])) for seed in range(seeds)])
    card = engine.device.type == "cuda"
    if card:
        torch.cuda.reset_peak_memory_stats(engine.device)
    began = time.perf_counter()
    found = sample(
        lambda x, step: engine.denoise(x, levels[step], sizes[step]).mean, noise.to(engine.device), steps
    ).cpu()  # waits for the card
    seconds = time.perf_counter() - began
    return found.numpy(), seconds, torch.cuda.max_memory_allocated(engine.device) // 10**6 if card else 0
