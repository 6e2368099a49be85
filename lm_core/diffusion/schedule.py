"""The noise schedule: x_t = √ᾱ x₀ + √β η, with β = 1 − ᾱ and t in [0, 1]."""

import numpy as np
from numpy.typing import ArrayLike

COSINE_OFFSET = 1.008  # the cosine schedule of the published figures (Kamb & Ganguli 2025)


def alpha_bar(t: ArrayLike) -> np.ndarray:
    """Return the signal share of the variance, ᾱ(t) = cos²(π t / 2 / 1.008) (Kamb & Ganguli 2025).

    Args:
        t: times in [0, 1]; 0 is clean, 1 is noise.

    Returns:
        float64 array of t's shape, in (0, 1].
    """
    return np.cos(np.pi / 2 * np.asarray(t, dtype=np.float64) / COSINE_OFFSET) ** 2


def step_times(steps: int) -> np.ndarray:
    """Return the S+1 times 1, (S−1)/S, …, 0 of a sampler with S steps; the machine is evaluated at the first S."""
    return np.arange(steps, -1, -1, dtype=np.float64) / steps
