"""Patch-size calibration: at each noise level, the window through which a machine's score is most like a network's.

The paper's procedure (Kamb & Ganguli 2025): along the network's own trajectory, per sample the P with the largest
cosine between network score and machine score, then the median over samples.

The machine looks at every candidate (`windows`). What may be an estimate is the cosine: it can be taken over some rows
of pixels instead of all, the same for every P, and then has a standard error.
"""

from collections.abc import Sequence

import numpy as np

from lm_core.errors import ParameterError
from lm_core.score import windows
from lm_core.score.fast import FastEngine


def check_sizes(sizes: Sequence[int], machine: str, shape: Sequence[int]) -> None:
    """Raise ParameterError unless these windows can be tried on a machine's images of shape (C, H, W)."""
    side = min(shape[1:])
    if machine not in windows.KINDS:
        raise ParameterError(f"machine is {machine!r}, which has no patch size; choose ls, els or bbels.")
    if not sizes or list(sizes) != sorted(set(sizes)) or any(size % 2 == 0 or not 1 <= size <= side for size in sizes):
        raise ParameterError(f"sizes are {list(sizes)}; choose odd numbers in ascending order, from 1 to {side}.")


def draw_rows(height: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return one row of pixels out of each of `count` stretches of the image, at random, int64 [count], ascending."""
    return np.array([rng.choice(part) for part in np.array_split(np.arange(height), count)])


def score_of(denoised: np.ndarray, x: np.ndarray, alpha_bar: float) -> np.ndarray:
    """Return the score (√ᾱ denoised − x)/β (Tweedie), of x's shape."""
    return (alpha_bar**0.5 * denoised - x) / (1 - alpha_bar)


def window_cosines(
    engine: FastEngine,
    x: np.ndarray,
    estimates: np.ndarray,
    alpha_bar: float,
    sizes: Sequence[int],
    rows: Sequence[int] | np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Compare a machine's score under windows of many sizes with a network's, at one noise level.

    Args:
        x, estimates: [B, C, H, W] noisy states of the network's trajectories and its estimates there.
        rows: of pixels that are compared.

    Returns:
        float64 [len(sizes), B] cosines, and their jackknife standard errors over rows drawn without replacement (0
        where all rows are compared).

    Cost: MNIST, 1,000 images, 15 sizes, a row of a sample: about 0.1 s of a core for bbels, 0.4 s for els, 0.01 s for
    ls.
    """
    rows = list(rows)
    noisy = x[:, :, None, rows].astype(np.float64)  # B C 1 R W, beside the sizes of the means
    found = windows.means(engine, x, alpha_bar, sizes, rows)
    machine = score_of(found, noisy, alpha_bar)
    network = score_of(estimates[:, :, None, rows].astype(np.float64), noisy, alpha_bar)
    sums = [(a * b).sum((1, 4)) for a, b in ((machine, network), (machine, machine), (network, network))]  # B S R
    parts = np.stack([np.broadcast_to(table, sums[0].shape) for table in sums]).swapaxes(1, 2)
    whole = parts.sum(3)
    return _cosine(whole), _jackknife(_cosine(whole[..., None] - parts), x.shape[2])


def _cosine(sums: np.ndarray) -> np.ndarray:
    """Return a·b / √(a·a b·b) from a·b, a·a and b·b, 0 where a or b vanishes."""
    product, norm = sums[0], np.sqrt(np.maximum(sums[1] * sums[2], 0))
    return np.divide(product, norm, out=np.zeros_like(product), where=norm > 0)


def _jackknife(without: np.ndarray, population: int) -> np.ndarray:
    """Return the standard errors of figures from their values without each of R out of `population` parts [..., R]."""
    count = without.shape[-1]
    if count == population:
        return np.zeros(without.shape[:-1])
    if count == 1:
        return np.ones(without.shape[:-1])
    return np.sqrt((count - 1) * without.var(-1) * (1 - count / population))


def best_sizes(cosines: np.ndarray, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return for each step the median over samples of the best window, the lower of two middle ones."""
    best = np.sort(np.asarray(sizes)[cosines.argmax(1)], axis=1)
    return tuple(int(row[(len(row) - 1) // 2]) for row in best)
