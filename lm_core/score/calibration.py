"""Patch-size calibration: at each noise level, the window through which a machine's score is most like a network's.

The paper's procedure (Kamb & Ganguli 2025): along the network's own trajectory, per sample the P with the largest
cosine between network score and machine score, then the median over samples.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lm_core.score.machines import PosteriorEngine


def score_of(denoised: Tensor, x: Tensor, alpha_bar: float) -> Tensor:
    """Return the score (√ᾱ denoised − x)/β (Tweedie), of x's shape."""
    return (alpha_bar**0.5 * denoised - x) / (1 - alpha_bar)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine between two batches of images, [B]."""
    return torch.nn.functional.cosine_similarity(a.flatten(1).double(), b.flatten(1).double(), dim=1)


def score_cosines(
    engine: PosteriorEngine,
    states: Tensor,
    estimates: Tensor,
    levels: Sequence[float],
    sizes: Sequence[int],
    on_progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """Compare a machine's score with a network's for every step and window.

    Args:
        states: [S, B, C, H, W] noisy states of the network's own trajectory, the noisiest first.
        estimates: [S, B, C, H, W] the network's estimates there.
        levels: ᾱ of each step; sizes: windows to try.

    Returns:
        float64 [S, len(sizes), B] cosines.
    """
    result = np.empty((len(states), len(sizes), states.shape[1]))
    for step, (x, estimate, level) in enumerate(zip(states, estimates, levels, strict=True)):
        wanted = score_of(estimate, x, level)
        for place, size in enumerate(sizes):
            machine = score_of(engine.denoise(x, level, size).mean, x, level)
            result[step, place] = cosine(machine, wanted).cpu().numpy()
            on_progress((step * len(sizes) + place + 1) / (len(states) * len(sizes)))
    return result


def best_sizes(cosines: np.ndarray, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return for each step the median over samples of the best window, the lower of two middle ones."""
    best = np.sort(np.asarray(sizes)[cosines.argmax(1)], axis=1)
    return tuple(int(row[(len(row) - 1) // 2]) for row in best)
