"""Patch-size curves P(t): the window a score machine looks through at each noise level.

The published curves were calibrated on the authors' networks (Kamb & Ganguli 2025, arXiv 2412.20292, published code).
"""

from collections.abc import Sequence

from lm_core.errors import ParameterError

# Index j belongs to t = (j + 1) / 20, so the first entry is the lowest noise.
PUBLISHED = {
    ("mnist", "unet"): (3, 3, 3, 5, 5, 7, 7, 7, 9, 9, 9, 11, 13, 15, 17, 21, 23, 23, 25, 27),
    ("mnist", "resnet"): (3, 3, 5, 5, 5, 7, 7, 7, 9, 9, 11, 11, 11, 11, 13, 15, 15, 15, 15, 15),
    ("mnist", "resnet-circular"): (3, 3, 5, 5, 5, 7, 7, 9, 9, 9, 11, 11, 11, 11, 9, 9, 7, 7, 3, 3),
    ("fashion-mnist", "unet"): (3, 3, 5, 5, 7, 7, 7, 9, 11, 11, 11, 13, 15, 15, 21, 23, 25, 25, 25, 25),
    ("fashion-mnist", "resnet"): (3, 3, 5, 5, 7, 7, 9, 9, 9, 11, 11, 11, 13, 13, 13, 15, 15, 15, 17, 17),
    ("cifar10", "unet"): (3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7, 9, 9, 11, 13, 13, 15, 17, 25),
    ("cifar10", "resnet"): (3, 3, 3, 3, 5, 5, 5, 7, 7, 7, 7, 9, 9, 11, 11, 13, 15, 17, 17, 17),
    ("cifar10", "resnet-circular"): (3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15, 15),
}


def published_curve(dataset: str, network: str | None, steps: int) -> tuple[int, ...]:
    """Return the published windows for the steps of a sampler, the noisiest first.

    Grey and colour data sets without a curve of their own take MNIST's and CIFAR-10's of the same network family
    (a colour set is one that is neither MNIST nor Fashion-MNIST).

    Args:
        steps: S; the sampler's step s looks at t = (S − s) / S and takes the curve's entry nearest to that time.
    """
    family = (network or "unet").replace("-attention", "")
    if (dataset, family) not in PUBLISHED:
        dataset = "mnist" if dataset in ("mnist", "fashion-mnist") else "cifar10"
    return at_steps(PUBLISHED.get((dataset, family), PUBLISHED[dataset, "unet"]), steps)


def at_steps(curve: Sequence[int], steps: int) -> tuple[int, ...]:
    """Read a curve, whose entry j belongs to t = (j + 1)/len, at the S steps of a sampler, the noisiest first."""
    if steps < 1:
        raise ParameterError(f"steps is {steps}; choose a whole number from 1.")
    nearest = (min(len(curve), max(1, round(len(curve) * (steps - s) / steps))) for s in range(steps))
    return tuple(int(curve[j - 1]) for j in nearest)
