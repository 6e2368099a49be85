"""Count what a row of a garment is made of: runs of ink. An honest stand-in for limbs, which nothing here recognises.

Torch-free, on grey images.
"""

import numpy as np

INK = 64  # of 255: brighter pixels count as ink
NARROWEST = 2  # pixels; a narrower run doesn't count

# Rows of a 32×32 Fashion-MNIST image in which sleeves hang beside the body, or legs beside each other.
BANDS = {
    "Trouser": ("leg", (20, 29)),
    "Pullover": ("sleeve", (20, 29)),
    "Coat": ("sleeve", (20, 29)),
    "Shirt": ("sleeve", (20, 29)),
}


def runs(images: np.ndarray, band: tuple[int, int]) -> np.ndarray:
    """Return the number of separate runs of ink in a row, the median over the rows of a band (the lower middle one).

    Args:
        images: uint8 [N, H, W]; ink is brighter than 64 of 255, a run at least 2 pixels wide.
        band: first row and the row after the last.

    Returns:
        int [N].
    """
    ink = images[:, band[0] : band[1]] > INK
    padded = np.pad(ink, ((0, 0), (0, 0), (NARROWEST, NARROWEST)))
    # A run counts where it reaches its NARROWEST-th pixel: so many of ink after one without.
    starts = ~padded[..., :-NARROWEST]
    for offset in range(1, NARROWEST + 1):
        stop = padded.shape[-1] - NARROWEST + offset
        starts = starts & padded[..., offset:stop]
    return np.sort(starts.sum(-1), axis=1)[:, (band[1] - band[0] - 1) // 2]


def shares(counts: np.ndarray) -> dict[int, float]:
    """Return how large a share of images has each number of runs."""
    return {int(value): float((counts == value).mean()) for value in np.unique(counts)}
