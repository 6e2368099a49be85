"""Benchmark of the exact engine on a card: the fused kernel and matrix products with stored logits, side by side."""

from typing import TYPE_CHECKING, Any

from lm_core.artifacts import load_dataset
from lm_core.bench_fast import PUBLISHED_SECONDS_PER_1000_IMAGES, STEPS, sample_seeds
from lm_core.device import choose_device
from lm_core.errors import ResourceError
from lm_core.results import agreement

if TYPE_CHECKING:
    import torch

SEEDS, WARM_UP_IMAGES = 16, 64


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
    rows, first, card = [], None, device.type == "cuda"
    kinds = (("stored logits", Area), ("fused, float32", FusedArea), ("fused, 3 × TF32", TensorCores))
    for name, area in kinds:
        for part in (data[:WARM_UP_IMAGES], data):  # the first compiles
            engine = ExactEngine(part, "bbels", device=device, fused=False)
            engine.area = area
            if card:
                torch.cuda.reset_peak_memory_stats(device)
            found, seconds = sample_seeds(engine, "mnist", seeds, steps=steps, device=device)
        first = found if first is None else first
        rows.append(
            {
                "kind": name,
                "seconds": round(seconds, 2),
                "times_the_published": round(seeds * images / 1000 * PUBLISHED_SECONDS_PER_1000_IMAGES / seconds),
                "peak_mb": torch.cuda.max_memory_allocated(device) // 10**6 if card else 0,
                "smallest_r": min(agreement(one, other).r for one, other in zip(found, first, strict=True)),
                "largest_difference": float(abs(found - first).max()),
            }
        )
    return {"images": images, "steps": steps, "seeds": seeds, "torch": torch.__version__, "kinds": rows}
