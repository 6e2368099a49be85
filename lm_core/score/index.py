"""An index of all patches of one size: cells of similar ones, so that a noisy window is compared with near ones only.

It serves the windows of ELS and the interior ones of bbELS at small P, where a posterior is dominated by near patches.
What is skipped is bounded as in the fast engine: each patch left out has less than the threshold's weight. Blank
patches are counted, not compared. `index_files` keeps an index on disk; here it is built and asked.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from lm_core.errors import ParameterError
from lm_core.score import cells
from lm_core.score.candidates import TOP_K
from lm_core.score.cells import ABSENT, CELL, NOWHERE
from lm_core.score.lanes import LANES
from lm_core.score.sliding import NEVER

MACHINES = ("els", "bbels")
AXES = 16  # principal axes of a box
START = -3e37  # the reference of a window that has met no patch: below every logit, above NEVER
SLACK = 1e-5  # of (|x| + a |p|)²/2β: more than float32 sums and axes that are orthonormal to 1e-7 can be off
SAMPLE_IMAGES = 2000  # whose patches the axes come from
TOGETHER = 8  # windows a thread searches between two looks at whether to stop
OnShare = Callable[[float], None]


@dataclass(frozen=True)
class Index:
    """The patches of one size of a set of images, in cells; arrays are flat where kernels read them.

    Attributes:
        machine, image_shape (N, C, H, W), patch_size, centre: what it was made for.
        axes: float32 [k, D] orthonormal principal axes, D = C·P².
        outer, boxes: float32 boxes of cells and of blocks, see `cells.box`.
        norms: float32 [blocks · LANES]; packed: uint8 [blocks · D · LANES], patches side by side.
        names: int32 [blocks · LANES] each patch's centre: (image · H + y) · W + x, −1 where there is no patch.
        blank: int64 [1 + TOP_K] how many patches are blank, and the names of the first.
    """

    machine: str
    image_shape: tuple[int, int, int, int]
    patch_size: int
    centre: float
    axes: np.ndarray
    outer: np.ndarray
    boxes: np.ndarray
    norms: np.ndarray
    packed: np.ndarray
    names: np.ndarray
    blank: np.ndarray

    @property
    def blocks(self) -> int:
        return len(self.norms) // LANES


@dataclass(frozen=True)
class Answer:
    """What an index knows of some windows.

    Attributes:
        solved: bool [K] whether a window was answered; the rest of its row means nothing if not.
        mean: float64 [K, C] in pixels as stored; level, mass, squares: [K] Σw and Σw² relative to 2^level.
        skipped: [K] patches left out, each of less than the threshold's weight.
        top, top_name: [K, TOP_K] best logits and names, −1 where there are fewer.
    """

    solved: np.ndarray
    mean: np.ndarray
    level: np.ndarray
    mass: np.ndarray
    squares: np.ndarray
    skipped: np.ndarray
    top: np.ndarray
    top_name: np.ndarray


def fits(machine: str, shape: tuple[int, ...], patch_size: int) -> bool:
    """Say whether there can be an index for a machine, images of a shape [N, C, H, W], and a patch size."""
    count, channels, height, width = shape
    exact = channels * patch_size**2 * 255**2 < 2**24  # norms are whole numbers in float32
    return machine in MACHINES and patch_size <= min(height, width) and exact and count * height * width < 2**31


def build(
    images: np.ndarray, machine: str, patch_size: int, centre: float, *,
    threads: int = 1, largest: float = math.inf, on_share: OnShare,
) -> Index:  # fmt: skip
    """Sort all patches into cells.

    Args:
        images: uint8 [N, C, H, W]; machine: els (every place, periodically) or bbels (interior places).
        centre: whole number that is zero to the engine: patches of nothing else are blank.
        largest: bytes that it may take.
        on_share: told the share done several times a second; what it raises ends the work within half a second.

    Raises:
        ParameterError: there can be no index for these, or it would be larger than asked.
    Cost: about a minute for 28 million patches of 5×5 on two cores; memory D + 8 bytes a patch beside the index.
    """
    if not fits(machine, images.shape, patch_size) or images.dtype != np.uint8:
        raise ParameterError(
            f"there is no index for {machine} at patch size {patch_size} on images of shape {images.shape} "
            f"({images.dtype}); choose {' or '.join(MACHINES)}, small patches and 8-bit images."
        )
    rows, names, blank = _collect(images, machine, patch_size, int(centre), lambda share: on_share(0.3 * share))
    count, size = rows.shape
    axes = _principal_axes(rows, centre)
    whole = count * (size + 8 + (len(axes) + 1) * 8 // LANES)
    if whole > largest:
        raise ParameterError(
            f"an index of {len(images):,} images at patch size {patch_size} takes {whole / 1e6:,.0f} MB, more than the "
            f"{largest / 1e6:,.0f} MB that all may take together; take fewer images."
        )
    blocks = -(-count // LANES)
    groups = -(-blocks // LANES)
    boxes = np.full((groups, len(axes) + 1, 2, LANES), NOWHERE, np.float32)
    norms = np.full(blocks * LANES, ABSENT, np.float32)
    _sort(rows, names, axes, threads, lambda share: on_share(0.3 + 0.5 * share))
    packed = np.empty((blocks, size, LANES), np.uint8)
    for first in range(0, count, 200 * CELL):
        last = min(first + 200 * CELL, count)
        cells.box(rows, axes, float(centre), 1 / 127.5, first, last, boxes, norms)
        part = np.full((-(-(last - first) // LANES) * LANES, size), int(centre), np.uint8)
        part[: last - first] = rows[first:last]
        packed[first // LANES : -(-last // LANES)] = part.reshape(-1, LANES, size).transpose(0, 2, 1)
        on_share(0.8 + 0.2 * last / count)
    padded = np.full(blocks * LANES, -1, np.int32)
    padded[:count] = names
    where = images.shape[0], images.shape[1], images.shape[2], images.shape[3]
    outer = _outer(boxes).ravel()
    return Index(
        machine, where, patch_size, centre, axes, outer, boxes.ravel(), norms, packed.ravel(), padded, blank
    )  # fmt: skip


def _collect(
    images: np.ndarray, machine: str, patch_size: int, centre: int, on_share: OnShare
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the patches that aren't blank [n, D], their names [n], and what is known of the blank ones."""
    count, channels, height, width = images.shape
    radius, step = patch_size // 2, 500
    border = 0 if machine == "els" else radius
    tall, wide = height - 2 * border, width - 2 * border
    rows = np.empty((count * tall * wide, channels * patch_size**2), np.uint8)  # pages are taken as they are filled
    names = np.empty(len(rows), np.int32)
    grid = np.arange(border, height - border)[:, None] * width + np.arange(border, width - border)
    filled, blanks, first_blanks = 0, 0, np.zeros(0, np.int64)
    for first in range(0, count, step):
        part = images[first : first + step]
        if machine == "els":
            part = np.pad(part, ((0, 0), (0, 0), (radius, radius), (radius, radius)), mode="wrap")
        windows = np.lib.stride_tricks.sliding_window_view(part, (patch_size, patch_size), axis=(2, 3))
        found = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, rows.shape[1])
        image = np.arange(first, first + len(part))
        name = (image[:, None, None] * height * width + grid).ravel()
        marked = (found != centre).any(1)
        more = int(marked.sum())
        rows[filled : filled + more], names[filled : filled + more] = found[marked], name[marked]
        first_blanks = np.concatenate([first_blanks, name[~marked][:TOP_K]])[:TOP_K]
        filled, blanks = filled + more, blanks + len(found) - more
        on_share((first + len(part)) / count)
    blank = np.full(1 + TOP_K, -1, np.int64)
    blank[0], blank[1 : 1 + len(first_blanks)] = blanks, first_blanks
    return rows[:filled], names[:filled], blank


def _principal_axes(rows: np.ndarray, centre: float) -> np.ndarray:
    """Return float32 [k, D] axes along which some patches vary most."""
    size = rows.shape[1]
    if not len(rows):
        return np.eye(min(size, AXES), size, dtype=np.float32)
    sample = rows[:: max(1, len(rows) // 100_000)].astype(np.float64) - centre
    vectors = np.linalg.eigh(sample.T @ sample / len(sample) - np.outer(sample.mean(0), sample.mean(0)))[1]
    return np.ascontiguousarray(vectors[:, ::-1][:, :AXES].T.astype(np.float32))


def _sort(rows: np.ndarray, names: np.ndarray, axes: np.ndarray, threads: int, on_share: OnShare) -> None:
    """Bisect the rows in place until blocks are left, the large parts first, then in parallel."""
    keys, stop = np.empty(len(rows), np.float32), np.zeros(1, np.uint8)
    parts, smallest = [(0, len(rows))] if len(rows) else [], max(CELL, len(rows) // 64)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="index")

    def run(work: Callable, some: list[tuple[int, int]], begun: float, share: float) -> list:
        jobs = [pool.submit(work, rows, names, keys, axes, *part, stop) for part in some]
        while wait(jobs, timeout=0.1).not_done:
            on_share(begun + share * sum(job.done() for job in jobs) / len(jobs))
        return [job.result() for job in jobs]

    try:
        while large := [part for part in parts if part[1] - part[0] > smallest]:
            middles = run(cells.divide, large, 0.4 - 0.4 * (large[0][1] - large[0][0]) / len(rows), 0.0)
            parts = [part for part in parts if part[1] - part[0] <= smallest]
            for (first, last), middle in zip(large, middles, strict=True):
                parts += [(first, middle), (middle, last)]
        run(cells.bisect, parts, 0.4, 0.6)
    finally:
        stop[0] = 1
        pool.shutdown(cancel_futures=True)


def _outer(boxes: np.ndarray) -> np.ndarray:
    """Return the boxes of the cells, from those of their blocks: float32 [cells / LANES, k + 1, 2, LANES]."""
    held = boxes[..., 1, :] < NOWHERE
    low = np.where(held, boxes[..., 0, :], NOWHERE).min(-1)
    high = np.where(held, boxes[..., 1, :], -NOWHERE).max(-1)
    outer = np.full((-(-len(boxes) // LANES) * LANES, boxes.shape[1], 2), NOWHERE, np.float32)
    outer[: len(boxes)] = np.stack([low, high], axis=-1)
    return np.ascontiguousarray(outer.reshape(-1, LANES, *outer.shape[1:]).transpose(0, 2, 3, 1))


def ask(
    index: Index, windows: np.ndarray, alpha_bar: float, cut: float, budget: float, pool: ThreadPoolExecutor,
    threads: int, on_share: OnShare,
) -> Answer:  # fmt: skip
    """Sum the posterior of some noisy windows over all patches.

    Args:
        windows: float32 [K, D], relative to √ᾱ times the index's centre.
        cut: a patch this far (log 2) below a window's whole mass may be left out.
        budget: vectors of boxes or pixels after which a window is given up.
        on_share: told the share of windows done, between batches.
    """
    count, size = windows.shape
    axes, channels = len(index.axes), index.image_shape[1]
    per_log2, scale = 1 / (2 * (1 - alpha_bar) * math.log(2)), 1 / 127.5
    exact = windows.astype(np.float64)
    norm = np.square(exact).sum(1)
    points = np.empty((count, axes + 2))
    points[:, :axes] = exact @ index.axes.T
    rest = norm - np.square(points[:, :axes]).sum(1)
    points[:, axes] = np.sqrt(np.maximum(0, rest - 1e-5 * norm))
    points[:, axes + 1] = np.sqrt(np.maximum(0, rest + 1e-5 * norm))
    points = (points * per_log2**0.5).astype(np.float32)
    reach = alpha_bar**0.5 * scale * max(index.centre, 255 - index.centre) * size**0.5
    ceilings = (per_log2 * (norm + SLACK * (norm**0.5 + reach) ** 2)).astype(np.float32)
    factors = (exact * (2 * per_log2 * alpha_bar**0.5 * scale)).astype(np.float32)
    numbers = (
        np.float32((alpha_bar * per_log2) ** 0.5), np.float32(-alpha_bar * per_log2 * scale**2),
        np.float32(index.centre), float(cut),
    )  # fmt: skip
    shape, prior = (channels, size, axes), float(index.blank[0])

    def work(first: int, last: int) -> tuple[np.ndarray, ...]:
        many = last - first
        solved, visits = np.zeros(many, np.uint8), np.zeros(many, np.int64)
        known = math.log2(prior) - cut if prior else float(NEVER)
        threshold = np.full(many, max(known, float(NEVER)), np.float32)
        peak, level = np.full(many, START, np.float32), np.full(many, START, np.float32)
        sums, mass = aligned(many * (2 + channels) * LANES), np.zeros(many * (2 + channels))
        top, top_name = np.full(many * TOP_K, NEVER, np.float32), np.full(many * TOP_K, -1, np.int64)
        bounds = aligned(-(-index.blocks // CELL) * LANES)
        cells.search(
            many, budget, index.blocks, index.packed, index.norms, index.boxes, index.outer, shape, numbers,
            factors[first:last].ravel(), points[first:last].ravel(), ceilings[first:last], threshold, peak, sums,
            visits, top, top_name, mass, level, prior, bounds, aligned(LANES), aligned(LANES), solved,
        )  # fmt: skip
        return solved, visits, level, mass.reshape(many, -1), top.reshape(many, -1), top_name.reshape(many, -1)

    parts, first = [], 0
    while first < count:
        starts = range(first, min(first + threads * TOGETHER, count), TOGETHER)
        jobs = [pool.submit(work, start, min(start + TOGETHER, count)) for start in starts]
        parts += [job.result() for job in jobs]
        first += threads * TOGETHER
        on_share(min(first, count) / count)
    return _answer(index, *[np.concatenate(part) for part in zip(*parts, strict=True)])


def _answer(
    index: Index, solved: np.ndarray, visits: np.ndarray, level: np.ndarray, mass: np.ndarray, top: np.ndarray,
    slots: np.ndarray,
) -> Answer:  # fmt: skip
    """Add the blank patches, of logit 0, to the sums over the others and to the best candidates."""
    blanks, known = float(index.blank[0]), index.blank[1:]
    level = level.astype(np.float64)
    higher = np.maximum(level, 0.0) if blanks else level
    factor = np.exp2(np.maximum(level - higher, -1000.0))
    blank = blanks * np.exp2(np.clip(-higher, -1000.0, 0.0))
    whole = mass[:, 0] * factor + blank
    squares = mass[:, 1] * factor**2 + blanks * np.exp2(np.clip(-2 * higher, -1000.0, 0.0))
    values = mass[:, 2:] * factor[:, None] + index.centre * blank[:, None]
    names = np.where(slots < 0, -1, index.names[np.maximum(slots, 0)]) if len(index.names) else slots
    logits = np.where(names < 0, float(NEVER), top.astype(np.float64))
    logits = np.concatenate([logits, np.where(known < 0, float(NEVER), 0.0) + np.zeros((len(top), 1))], axis=1)
    names = np.concatenate([names, known + np.zeros((len(top), 1), np.int64)], axis=1)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K]
    absent = int((index.names[-LANES:] < 0).sum())  # only the last block isn't full
    skipped = np.maximum(0, len(index.names) - absent - np.maximum(0, visits * LANES - absent))
    fine = (solved > 0) & (whole > 0)
    return Answer(
        fine, values / np.where(fine, whole, 1.0)[:, None], higher, whole, squares, skipped,
        np.take_along_axis(logits, order, 1), np.take_along_axis(names, order, 1),
    )  # fmt: skip


def aligned(count: int) -> np.ndarray:
    """Return zeros, float32 [count], that start at a multiple of 64 bytes: vectors don't straddle cache lines."""
    raw = np.zeros(4 * count + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * count].view(np.float32)
