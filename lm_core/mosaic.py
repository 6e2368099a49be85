"""From posterior weights to a mosaic: which training image each pixel is drawn from, and the tiles that makes.

Torch-free, on the top-k tables of a `MosaicResult`.
"""

from dataclasses import dataclass

import numpy as np

from lm_core.results import MosaicResult

MUTED_ABOVE = 200.0  # effective candidates beyond which a pixel has no single source worth colouring


@dataclass(frozen=True)
class Tiles:
    """A segmentation of one step's image into patches copied from one training image at one offset.

    Attributes:
        choice: [H, W] which of the K candidates each pixel is attributed to.
        image, dy, dx: [H, W] its training image and the offset source − pixel.
        label: [H, W] tile number, connected pixels of equal (image, dy, dx).
        muted: [H, W] True where the posterior has no real single source.
        count: number of tiles that are not muted; mean_area: their mean size in pixels.
    """

    choice: np.ndarray
    image: np.ndarray
    dy: np.ndarray
    dx: np.ndarray
    label: np.ndarray
    muted: np.ndarray
    count: int
    mean_area: float


def segment(result: MosaicResult, step: int, factor: float = 1.0, muted_above: float = MUTED_ABOVE) -> Tiles:
    """Cut one step's image into tiles.

    Args:
        step: zero-based, the noisiest first.
        factor: 1 attributes each pixel to its heaviest candidate (exact). Above 1, a pixel may take any candidate whose
            weight is at least 1/factor of its heaviest, and takes the one that continues most of its neighbours: fewer,
            larger tiles that tell the same story (coherent).
        muted_above: effective candidates above which a pixel counts as having no single source.
    """
    image, weight = result.top_image[step], result.top_weight[step]
    height, width, _ = image.shape
    dy = result.top_y[step].astype(np.int32) - np.arange(height)[:, None, None]
    dx = result.top_x[step].astype(np.int32) - np.arange(width)[None, :, None]
    # One integer per (image, offset); circular machines wrap, so offsets count modulo the image.
    source = (image.astype(np.int64) * height + dy % height) * width + dx % width
    allowed = (image >= 0) & (weight * factor >= weight[..., :1])
    choice = np.zeros((height, width), dtype=np.int64)
    if factor > 1:
        choice = continue_neighbours(source, allowed)
    pick = lambda table: np.take_along_axis(table, choice[..., None], axis=2)[..., 0]  # noqa: E731
    muted = result.effective_samples[step] > muted_above
    chosen = np.where(muted, -1, pick(source))
    label = connected_components(chosen)
    sizes = np.bincount(label[~muted]) if (~muted).any() else np.zeros(0, dtype=np.int64)
    sizes = sizes[sizes > 0]
    return Tiles(
        choice=choice,
        image=pick(image),
        dy=pick(dy),
        dx=pick(dx),
        label=label,
        muted=muted,
        count=len(sizes),
        mean_area=float(sizes.mean()) if len(sizes) else 0.0,
    )


def continue_neighbours(source: np.ndarray, allowed: np.ndarray, sweeps: int = 8) -> np.ndarray:
    """Choose per pixel, among its allowed candidates, the one that most of its four neighbours share.

    Iterated conditional modes on a checkerboard, so that two neighbours never change at once; ties keep the heavier.

    Args:
        source: [H, W, K] integer identity of (image, offset).
        allowed: [H, W, K] which candidates may be taken.

    Returns:
        [H, W] chosen candidate.
    """
    height, width, k = source.shape
    choice = np.zeros((height, width), dtype=np.int64)
    parity = (np.arange(height)[:, None] + np.arange(width)[None, :]) % 2
    preference = -np.arange(k) / (k + 1)  # less than one neighbour's vote
    # To start, let a pixel count every neighbour that could take the same source, not only those that do.
    possible = _votes(source, lambda other: (other[..., None, :] == source[..., :, None]).any(-1), allowed)
    choice = np.where(allowed, possible + preference, -np.inf).argmax(-1)
    for sweep in range(sweeps):
        chosen = np.take_along_axis(source, choice[..., None], axis=2)
        votes = _votes(chosen, lambda other: other == source, None)
        better = np.where(allowed, votes + preference, -np.inf).argmax(-1)
        choice = np.where(parity == sweep % 2, better, choice)
    return choice


def _votes(table: np.ndarray, match, allowed: np.ndarray | None) -> np.ndarray:
    """Count, over the four neighbours, where `match(neighbour's rows of table)` holds; outside the image none does."""
    if allowed is not None:
        table = np.where(allowed, table, -2)
    padded = np.pad(table, ((1, 1), (1, 1), (0, 0)), constant_values=-2)
    height, width, _ = table.shape
    shifts = ((0, 1), (2, 1), (1, 0), (1, 2))
    return np.sum([match(padded[y : y + height, x : x + width]) for y, x in shifts], axis=0)


def connected_components(values: np.ndarray) -> np.ndarray:
    """Number the 4-connected regions of equal value.

    Args:
        values: [H, W] integers.

    Returns:
        [H, W] region numbers from 0, in reading order of their first pixel.
    """
    height, width = values.shape
    label = np.arange(height * width).reshape(height, width)
    right, below = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    while True:  # each sweep lets the smallest number spread along whole runs, so a few suffice
        before = label.copy()
        for x in range(1, width):
            label[:, x] = np.where(right[:, x - 1], np.minimum(label[:, x], label[:, x - 1]), label[:, x])
        for x in range(width - 2, -1, -1):
            label[:, x] = np.where(right[:, x], np.minimum(label[:, x], label[:, x + 1]), label[:, x])
        for y in range(1, height):
            label[y] = np.where(below[y - 1], np.minimum(label[y], label[y - 1]), label[y])
        for y in range(height - 2, -1, -1):
            label[y] = np.where(below[y], np.minimum(label[y], label[y + 1]), label[y])
        if (label == before).all():
            break
    return np.unique(label, return_inverse=True)[1].reshape(height, width)


def stitch(result: MosaicResult, step: int, tiles: Tiles) -> np.ndarray:
    """Paste the chosen sources' own pixels together.

    Returns:
        uint8 [C, H, W].
    """
    choice = tiles.choice[..., None]
    y = np.take_along_axis(result.top_y[step], choice, axis=2)[..., 0]
    x = np.take_along_axis(result.top_x[step], choice, axis=2)[..., 0]
    place = np.searchsorted(result.source_ids, tiles.image)
    return result.source_images[place, :, y, x].transpose(2, 0, 1)
