"""The fast posterior engine: the exact engine's posterior over the whole training set, in a fraction of its time.

Every candidate is compared, but by sliding sums whose cost does not depend on P (`sliding`), and only those that can
matter are exponentiated: what is left out is bounded by the threshold it failed. Where the posterior is so broad that
fewer images tell the same, a random subset of them is enough. So each pixel's mean comes with an error of two parts:
a bound that holds, and a standard error that is an estimate.
"""

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm_core.score import index_files, sliding
from lm_core.score.candidates import TOP_K
from lm_core.score.index import MACHINES, START, Answer, Index, aligned, ask
from lm_core.score.lanes import LANES
from lm_core.score.machines import Denoised, ExactEngine, OnChunk, _quiet, check
from lm_core.score.sliding import NEVER

EARLY_PASSES = (320, 3200)  # images of a first look, and of a second
SMALL_BLOCKS, SMALL_BLOCK, BLOCK = 16, 2, 16  # groups of images between two looks at whether to stop: few at first
PAIR_COST, SLIDE_COST = 0.7, 1.5  # vector operations a pixel of a window, and a pixel of a sliding column
STOPPED = 1000  # images after which many a query needs no more, whatever their number
MIN_BLOCKS = 8  # before a standard error is believed
MIN_EFFECTIVE = 200.0  # effective candidates below which a random subset may miss what matters
# Float32: a generous estimate for the sums behind a logit (tests reach a tenth of it), and the error of 2^x.
ROUNDING, EXP2_ERROR = 4 * float(np.finfo(np.float32).eps), 2e-6


class Geometry(NamedTuple):
    """Which windows a machine compares at one patch size, in the kernel's terms (see `sliding`)."""

    shape: tuple[int, int, int, int, int, int]
    window: tuple[int, int, int, int]
    rows: np.ndarray
    cols: np.ndarray

    @property
    def allowed(self) -> tuple[np.ndarray, np.ndarray]:
        """How often row a (column b) is compared with row (column) y: float64 [H, H] and [W, W]."""
        height, width = self.shape[1:3]
        return _allowed(self.rows, height), _allowed(self.cols, width)


def _allowed(shifts: np.ndarray, side: int) -> np.ndarray:
    table = np.zeros((side, side))
    for shift, first, last in shifts.reshape(-1, 3):
        places = np.arange(first, last)
        table[places, (places + shift) % side] += 1
    return table


def geometry(machine: str, channels: int, height: int, width: int, patch_size: int) -> Geometry:
    """Lay out a patch machine (ls, els, bbels) for one patch size."""
    if machine == "els":
        tall, wide = min(patch_size, height), min(patch_size, width)
        window = (tall // 2, tall - 1 - tall // 2, wide // 2, wide - 1 - wide // 2)
        margin = max(window)
        rows = [(shift, 0, height) for shift in range(height)]
        cols = [(shift, 0, width) for shift in range(width)]
        shape = (channels, height, width, 2 * (height + margin) - 1, 2 * (width + margin) - 1, margin)
    else:
        radius = patch_size // 2
        tall, wide = min(radius, height - 1), min(radius, width - 1)
        window = (tall, tall, wide, wide)
        shape = (channels, height, width, height, width, 0)
        rows, cols = _border_shifts(machine, height, radius), _border_shifts(machine, width, radius)
    flat = (np.array(shifts, dtype=np.int64).ravel() for shifts in (rows, cols))
    return Geometry(shape, window, *flat)


def _ranges(shifts: np.ndarray, side: int, margin: int) -> np.ndarray:
    """Return for each place along an axis the range of tile places of its candidates, int64 [side, 2], flat.

    Raises:
        AssertionError: they aren't contiguous.
    """
    table = shifts.reshape(-1, 3)
    ranges = np.empty((side, 2), dtype=np.int64)
    for place in range(side):
        reached = table[(table[:, 1] <= place) & (place < table[:, 2]), 0] + place + margin
        ranges[place] = reached.min(), reached.max() + 1
        assert len(reached) == ranges[place, 1] - ranges[place, 0]
    return ranges.ravel()


def _clipped(shifts: np.ndarray, asking: np.ndarray) -> np.ndarray:
    """Return the shifts [K, 3], flat, with their ranges cut to where anything asks."""
    if not asking.any():
        return shifts[:0]
    first, last = asking.argmax(), len(asking) - asking[::-1].argmax()
    table = shifts.reshape(-1, 3).copy()
    table[:, 1], table[:, 2] = np.maximum(table[:, 1], first), np.minimum(table[:, 2], last)
    return np.ascontiguousarray(table[table[:, 1] < table[:, 2]].ravel())


def _border_shifts(machine: str, side: int, radius: int) -> list[tuple[int, int, int]]:
    """Return the shifts along one axis: everywhere by nothing and, for bbELS, from interior to interior."""
    shifts = [(0, 0, side)]
    reach = side - 2 * radius - 1 if machine == "bbels" else 0
    for shift in range(1, reach + 1):
        shifts += [(shift, radius, side - radius - shift), (-shift, radius + shift, side - radius)]
    return shifts


class Worker:
    """One thread's share of a posterior: its sums and its scratch memory."""

    def __init__(self, layout: Geometry) -> None:
        channels, height, width, tall, wide, _ = layout.shape
        pixels = height * width
        self.tile, self.squares = aligned(channels * tall * wide * LANES), aligned(tall * wide * LANES)
        self.scratch, self.column = aligned(tall * wide * LANES), aligned((width + sum(layout.window) + 2) * LANES)
        self.blank, self.blank_name = np.zeros(tall * wide, np.int64), np.zeros(tall * wide * TOP_K, np.int64)
        self.threshold = np.full(pixels, NEVER, dtype=np.float32)
        self.peak = np.full(pixels, START, dtype=np.float32)
        self.level = self.peak.copy()
        self.sums = aligned(pixels * (2 + channels) * LANES)
        self.mass = np.zeros(pixels * (2 + channels))
        self.visits = np.zeros(pixels, dtype=np.int64)
        self.top = np.full(pixels * TOP_K, NEVER, dtype=np.float32)
        self.top_name = np.full(pixels * TOP_K, -1, dtype=np.int64)


@dataclass
class Totals:
    """What has been summed over some images, of all workers: relative to 2^level."""

    level: np.ndarray  # [Q]
    mass: np.ndarray  # [Q, 2 + C]

    def at(self, level: np.ndarray) -> np.ndarray:
        """Return the masses relative to another level."""
        factor = np.exp2(np.maximum(self.level - level, -1000.0))[:, None]
        return self.mass * np.concatenate([factor, factor**2, np.repeat(factor, self.mass.shape[1] - 2, 1)], axis=1)


class FastEngine:
    """A score machine over all its training images: sliding comparison, certified thresholds, high noise by subsets.

    Memory: the images once more, packed, and per thread a tile of LANES images.

    Attributes:
        index_share: of what comparing it with all images costs a query, how much is spent on an index where there is
            one: before the first image (but no more than a look at STOPPED images costs), and after SMALL_BLOCKS.
    """

    index_share = 0.1

    def __init__(
        self, images: np.ndarray, machine: str, *, tolerance: float = 0.008, threads: int | None = None, seed: int = 0,
        indexed: bool = True,
    ) -> None:  # fmt: skip
        """Pack the training images in a random order; nothing is computed yet.

        Args:
            images: uint8 [N, C, H, W], or floating point in [−1, 1].
            machine: is, es, ls, els or bbels; is and es are computed by the exact engine, which is fast at them.
            tolerance: error of a pixel's mean that is aimed at, on [−1, 1]: half of it for what is left out, half for
                two standard errors; rounding comes on top. 0 leaves nothing out.
            threads: how many compute, one for each core if None.
            seed: of the order in which images are taken in.
            indexed: whether index files of these images are used, if there are any.
        """
        exact = ExactEngine(images, machine)
        self.exact = exact if machine in ("is", "es") else None
        self.image_shape = tuple(images.shape[1:])
        self.machine, self.tolerance = machine, tolerance
        self.threads = threads or torch.get_num_threads()
        self.count = len(images)
        self.order = np.random.default_rng(seed).permutation(self.count)
        if images.dtype == np.uint8:
            self.scale, self.centre = 1 / 127.5, float(np.round((exact.centre + 1) * 127.5))
        else:
            self.scale, self.centre = 1.0, exact.centre
        self.reach = float(np.abs((np.array([images.min(), images.max()]) - self.centre) * self.scale).max())
        indexable = indexed and images.dtype == np.uint8 and machine in MACHINES
        self.content = index_files.digest(images) if indexable else ""
        stored = images if images.dtype == np.uint8 else images.astype(np.float32)
        groups = -(-self.count // LANES)
        padded = np.full((groups * LANES, *images.shape[1:]), self.centre, dtype=stored.dtype)
        padded[: self.count] = stored[self.order]
        self.packed = np.ascontiguousarray(padded.reshape(groups, LANES, *images.shape[1:]).transpose(0, 2, 3, 4, 1))
        self.groups, self.pool = groups, ThreadPoolExecutor(self.threads, thread_name_prefix="fast-engine")
        self.passes = (*[count for count in EARLY_PASSES if 3 * count < self.count], self.count)

    def at_tolerance(self, tolerance: float) -> "FastEngine":
        """Return this engine, its images and threads, with another tolerance."""
        other = copy.copy(self)
        other.tolerance = tolerance
        return other

    def find_index(self, patch_size: int) -> Index | None:
        """Return the index of these images for a patch size, if there is one on disk."""
        return index_files.find(self.content, self.machine, patch_size) if self.content and self.tolerance else None

    def make_index(self, images: np.ndarray, patch_size: int, on_share: OnChunk = _quiet) -> tuple[Path, bool]:
        """Build the index file of this engine's images, given once more; see `index_files.make`."""
        return index_files.make(images, self.machine, patch_size, self.centre, threads=self.threads, on_share=on_share)

    @property
    def zero(self) -> float:
        """The pixel value, on [−1, 1], that is zero to the kernels."""
        return self.centre * self.scale - (1.0 if self.packed.dtype == np.uint8 else 0.0)

    def denoise(
        self, x: Tensor, alpha_bar: float, patch_size: int, on_chunk: OnChunk = _quiet, images: int | None = None
    ) -> Denoised:
        """Return the posterior mean of the clean image given a noisy one, with its error.

        Args, errors: as `ExactEngine.denoise`.
        """
        check(x, self.image_shape, alpha_bar, patch_size)
        count = self.count if images is None else images
        if self.exact is not None:
            return self.exact.denoise(x, alpha_bar, patch_size, on_chunk, images=count)
        parts = []
        for b, one in enumerate(x.cpu().numpy()):
            posterior = _Posterior(self, one, alpha_bar, patch_size, count)
            parts.append(posterior.run(lambda done, first=b: on_chunk((first + done) / len(x))))
        fields: list[Any] = [torch.cat(tables).to(x.device) for tables in zip(*parts, strict=True)]
        return Denoised(*fields)


class _Posterior:
    """One noisy image at one noise level: batches of images until all are in, or enough."""

    def __init__(self, engine: FastEngine, x: np.ndarray, alpha_bar: float, patch_size: int, count: int) -> None:
        self.engine, (channels, height, width) = engine, x.shape
        self.layout = geometry(engine.machine, channels, height, width, patch_size)
        self.groups = min(engine.groups, -(-count // LANES))  # a whole number of groups, all their images
        self.count = min(self.groups * LANES, engine.count)
        margin = self.layout.shape[-1]
        self.alpha_bar, beta = alpha_bar, 1 - alpha_bar
        self.gain = np.float32(alpha_bar**0.5 / beta / math.log(2))
        self.penalty = np.float32(-0.5 * alpha_bar / beta / math.log(2))
        moved = x.astype(np.float32) - np.float32(alpha_bar**0.5 * engine.zero)
        self.query = np.pad(moved, ((0, 0), (margin, margin), (margin, margin)), mode="wrap")
        self.rows, self.cols = self.layout.allowed
        self.candidates = (self.rows.sum(1)[:, None] * self.cols.sum(1)).ravel()  # a query's, in each image
        self.workers = [Worker(self.layout) for _ in range(engine.threads)]
        pixels = height * width
        self.asking = np.ones(pixels, dtype=bool)
        self.mean, self.effective, self.error = np.zeros((pixels, channels)), np.zeros(pixels), np.zeros(pixels)
        self.log_mass = np.zeros(pixels)  # log 2 of the mass of all images, estimated where a query no longer asks
        self.used = np.zeros(pixels, dtype=np.int64)  # images that a query has asked
        self.blocks, self.moments = 0, np.zeros((pixels, channels, 3))
        self.ranges = _ranges(self.layout.rows, height, margin), _ranges(self.layout.cols, width, margin)
        self.answered, self.skipped = np.zeros(pixels, dtype=bool), np.zeros(pixels, dtype=np.int64)  # by the index
        self.known_top = np.full((pixels, TOP_K), float(NEVER))
        self.known_name = np.full((pixels, TOP_K), -1, dtype=np.int64)
        self.index = engine.find_index(patch_size) if self.count == engine.count else None
        self._narrow()
        # Mass U left out moves a mean in an interval of length 2 by at most 2U/(Z + U): half the tolerance is for it.
        share = engine.tolerance / 4
        self.cut = math.log2(self.candidates.max() * self.count / share) if share else 1e30

    def run(self, on_chunk: OnChunk) -> tuple[Tensor, ...]:
        """Take in blocks of images until done; returns the fields of a `Denoised` for one image.

        Blocks have fixed sizes, so that a result doesn't depend on how busy the machine is.
        """
        engine, done = self.engine, 0
        self._ask_index(engine.index_share * min(1, STOPPED / engine.count), on_chunk)
        while done < self.groups and self.asking.any():
            size = SMALL_BLOCK if self.blocks < SMALL_BLOCKS else max(BLOCK, engine.threads)
            block = range(done, min(done + size, self.groups))
            prior = self.blanks()
            jobs = [
                engine.pool.submit(self._work, worker, block[place :: engine.threads], prior)
                for place, worker in enumerate(self.workers)
            ]
            for job in jobs:
                job.result()
            done = block.stop
            self._add_block()
            self._update(done)
            if self.blocks == SMALL_BLOCKS:
                self._ask_index(engine.index_share * (1 - done / self.groups), on_chunk)
            on_chunk(done / self.groups)
        return self._result()

    def _ask_index(self, share: float, on_chunk: OnChunk) -> None:
        """Let the index answer the queries that it can for a share of what comparing them with all images costs."""
        engine, index = self.engine, self.index
        if index is None:
            return
        channels, height, width = self.layout.shape[:3]
        size = index.patch_size
        border = 0 if engine.machine == "els" else size // 2
        inside = np.zeros((height, width), dtype=bool)
        inside[border : height - border, border : width - border] = True
        queries = np.flatnonzero(self.asking & inside.ravel())
        if not len(queries):
            return
        windows = np.lib.stride_tricks.sliding_window_view(self.query, (size, size), axis=(1, 2))
        windows = windows.transpose(1, 2, 0, 3, 4).reshape(-1, channels * size**2)
        each = min(self._pairs_cost(), self._sliding_cost()) / len(self.queries) * engine.groups
        answer = ask(
            index, windows[np.isin(np.flatnonzero(inside), queries)], self.alpha_bar, self.cut, share * each,
            engine.pool, engine.threads, lambda _: on_chunk(0.0),
        )  # fmt: skip
        self._take(queries[answer.solved], answer)

    def _take(self, queries: np.ndarray, answer: Answer) -> None:
        """Take the answers to these queries, which then ask no more."""
        solved, engine = answer.solved, self.engine
        self.mean[queries] = (answer.mean[solved] - engine.centre) * engine.scale
        self.effective[queries] = answer.mass[solved] ** 2 / answer.squares[solved]
        self.log_mass[queries] = answer.level[solved] + np.log2(answer.mass[solved])
        self.error[queries], self.used[queries] = 0.0, engine.count
        self.skipped[queries] = answer.skipped[solved]
        self.known_top[queries], self.known_name[queries] = answer.top[solved], answer.top_name[solved]
        self.answered[queries], self.asking[queries] = True, False
        self._narrow()

    def _work(self, worker: Worker, groups: range, prior: np.ndarray) -> None:
        """Compare the query with some groups of images, in one thread."""
        engine, layout = self.engine, self.layout
        channels, height, width = layout.shape[:3]
        query, packed = self.query.ravel(), engine.packed.ravel()
        centre, scale = np.float32(engine.centre), np.float32(engine.scale)
        for group in groups:
            real = min(LANES, engine.count - group * LANES)
            sliding.load_images(
                packed, group, real, centre, scale, layout.shape, layout.window, self.penalty,
                worker.tile, worker.squares, worker.scratch, worker.blank, worker.blank_name,
            )  # fmt: skip
            name = group * LANES * height * width
            if self.few:
                sliding.compare_each(
                    query, worker.tile, worker.squares, layout.shape, layout.window, *self.ranges, self.queries,
                    self.gain, worker.threshold, name, worker.peak, worker.sums, worker.visits, worker.top,
                    worker.top_name, worker.scratch,
                )  # fmt: skip
            else:
                sliding.compare(
                    query, worker.tile, worker.squares, layout.shape, layout.window, self.rows_now, self.cols_now,
                    self.spans, self.gain, worker.threshold, name, worker.peak, worker.sums, worker.visits, worker.top,
                    worker.top_name, worker.column, worker.scratch,
                )  # fmt: skip
            sliding.settle(
                channels, self.cut, prior, self.asking,
                worker.peak, worker.level, worker.sums, worker.mass, worker.threshold,
            )  # fmt: skip

    def blanks(self) -> np.ndarray:
        """Return how many blank candidates each query has among the images so far, float64 [Q]."""
        _, height, width, tall, wide, margin = self.layout.shape
        found = np.sum([worker.blank for worker in self.workers], axis=0).reshape(tall, wide)
        places = found[margin : margin + height, margin : margin + width].astype(np.float64)
        return (self.rows @ places @ self.cols.T).ravel()

    def totals(self) -> Totals:
        """Merge the workers' sums and the blank candidates, relative to the highest reference (0 for blanks)."""
        blanks = self.blanks()
        level = np.max([worker.level for worker in self.workers], axis=0).astype(np.float64)
        level = np.where(blanks > 0, np.maximum(level, 0.0), level)
        shares = [
            Totals(worker.level.astype(np.float64), worker.mass.reshape(len(level), -1)).at(level)
            for worker in self.workers
        ]
        mass = np.sum(shares, axis=0)
        mass[:, 0] += blanks * np.exp2(np.clip(-level, -1000.0, 0.0))
        mass[:, 1] += blanks * np.exp2(np.clip(-2 * level, -1000.0, 0.0))
        return Totals(level, mass)

    def _add_block(self) -> None:
        """Take the latest sums, and what they have grown by into the moments that standard errors are made of."""
        latest = self.totals()
        if self.blocks:
            before = self.totals_now.at(latest.level)
            factor = np.exp2(np.maximum(2 * (self.totals_now.level - latest.level), -1000.0))
            self.moments *= factor[:, None, None]
        else:
            before = np.zeros_like(latest.mass)
        grown = latest.mass - before
        weight, value = grown[:, :1], grown[:, 2:]
        self.moments += np.stack([value**2, value * weight, np.broadcast_to(weight**2, value.shape)], axis=2)
        self.totals_now, self.blocks = latest, self.blocks + 1

    def _update(self, done: int) -> None:
        """Take the estimates of all queries that still ask, and let those go for which they are good enough."""
        engine, totals = self.engine, self.totals_now
        mass, known = totals.mass[:, 0], self.asking & (totals.mass[:, 0] > 0)
        effective = np.divide(mass**2, totals.mass[:, 1], out=np.zeros_like(mass), where=known)
        deviation = self.deviation(done)
        self.mean[known] = totals.mass[known, 2:] / mass[known, None]
        self.effective[known] = effective[known] * self.groups / done
        self.log_mass[known] = totals.level[known] + np.log2(mass[known] * self.groups / done)
        self.error[known] = deviation[known]
        self.used[self.asking] = min(done * LANES, self.count)
        if engine.tolerance and self.blocks >= MIN_BLOCKS:
            enough = known & (effective >= MIN_EFFECTIVE) & (4 * deviation <= engine.tolerance)
            if enough.any():
                self.asking = self.asking & ~enough
                self._narrow()

    def _narrow(self) -> None:
        """Restrict rows, columns and spans to the queries that still ask."""
        _, height, width = self.layout.shape[:3]
        asking = self.asking.reshape(height, width)
        rows, cols = np.any(asking, axis=1, keepdims=True), np.any(asking, axis=0)
        self.rows_now, self.cols_now = _clipped(self.layout.rows, rows[:, 0]), _clipped(self.layout.cols, cols)
        first, last = asking.argmax(1), width - asking[:, ::-1].argmax(1)
        self.spans = np.where(rows, np.stack([first, last], axis=1), 0).ravel()
        self.queries = np.flatnonzero(self.asking)
        self.few = self._pairs_cost() < self._sliding_cost()

    def _pairs_cost(self) -> float:
        """Return about how many vector operations it takes to compare pair by pair, a group of images."""
        return float(self.candidates[self.queries].sum()) * (6 + PAIR_COST * self._window_pixels())

    def _sliding_cost(self) -> float:
        """Return about how many vector operations it takes to compare by sliding sums, a group of images."""
        up, down, left, right = self.layout.window
        channels = self.layout.shape[0]
        rows, cols = (table.reshape(-1, 3) for table in (self.rows_now, self.cols_now))
        tall, wide = rows[:, 2] - rows[:, 1], cols[:, 2] - cols[:, 1]
        columns = (2 * tall + up + down).sum() * (wide + left + right).sum() * channels
        spans = self.spans.reshape(-1, 2)
        return SLIDE_COST * float(columns) + 6 * float(self.candidates.max() * (spans[:, 1] - spans[:, 0]).sum())

    def _window_pixels(self) -> int:
        up, down, left, right = self.layout.window
        return (up + down + 1) * (left + right + 1) * self.layout.shape[0]

    def deviation(self, done: int) -> np.ndarray:
        """Return the standard error of the means over images drawn without replacement, [Q], the worst channel's.

        A mean is a ratio of sums over blocks of images; its variance is that of the linearised ratio, which is the
        jackknife's for many blocks. It is an estimate: it holds if no image that was not looked at outweighs by far
        those that were, and is never below what one of them of average weight could do.
        """
        remaining = max(0.0, 1 - done / self.engine.groups)
        mass = self.totals_now.mass
        if not remaining:
            return np.zeros(len(mass))
        if self.blocks < 2:
            return np.ones(len(mass))
        whole = np.maximum(mass[:, :1], 1e-150)  # its square is a number too
        mean = mass[:, 2:] / whole
        squares, products, weights = np.moveaxis(self.moments, 2, 0)
        residual = np.maximum(0.0, squares - 2 * mean * products + mean**2 * weights)
        variance = (residual / whole**2).max(1) * self.blocks / (self.blocks - 1)
        unseen = 2 / (done * LANES)
        return np.sqrt(np.maximum(variance, unseen**2) * remaining)

    def _result(self) -> tuple[Tensor, ...]:
        """Return the fields of a `Denoised` with a batch axis of one."""
        engine, blanks = self.engine, self.blanks()
        channels, height, width = self.layout.shape[:3]
        mean = (self.mean + engine.zero).T.reshape(channels, height, width)
        logit, name = self._best(blanks)
        weight = np.exp2(np.clip(logit - self.log_mass[:, None], -1000.0, 0.0))
        image = np.maximum(name, 0) // (height * width) % engine.count
        image = np.where(name < 0, -1, np.where(self.answered[:, None], image, engine.order[image]))
        place = np.where(name < 0, -1, name % (height * width))
        fields = (
            mean.astype(np.float32),
            self.effective.astype(np.float32),
            image,
            np.where(place < 0, -1, place // width),
            np.where(place < 0, -1, place % width),
            np.where(name < 0, 0.0, weight).astype(np.float32),
            self.bound(blanks).astype(np.float32),
            self.error.astype(np.float32),
        )
        pixels = height, width
        shapes = [(channels, *pixels), pixels, *[(*pixels, TOP_K)] * 4, pixels, pixels]
        return tuple(
            torch.from_numpy(np.ascontiguousarray(field).reshape(1, *shape))
            for field, shape in zip(fields, shapes, strict=True)
        )

    def bound(self, blanks: np.ndarray) -> np.ndarray:
        """Return by how much a mean over the images used can be off, [Q]: mass left out, and float32 arithmetic."""
        engine = self.engine
        real = np.maximum(0, self.candidates * self.used - blanks)
        visits = np.sum([worker.visits for worker in self.workers], axis=0)
        idle = blanks + self.candidates * (-self.used % LANES)  # lanes visited for nothing are at most these
        skipped = np.clip(real - np.maximum(0, visits * LANES - idle), 0, None)
        skipped = np.where(self.answered, self.skipped, skipped)
        left_out = skipped / (self.candidates.max() * self.count) * engine.tolerance / 4
        largest = max(self._query_norm() ** 2, self.alpha_bar * self._window_pixels() * engine.reach**2)
        rounding = ROUNDING * math.log(2) * float(self.gain) / math.sqrt(self.alpha_bar) * largest
        return np.minimum(2.0, 2 * left_out / (1 + left_out) + 2 * rounding + EXP2_ERROR)

    def _query_norm(self) -> float:
        """Return the largest ‖x_Ω‖."""
        tall, wide = sum(self.layout.window[:2]) + 1, sum(self.layout.window[2:]) + 1
        square = np.square(self.query, dtype=np.float64).sum(0)
        for axis, side in ((0, tall), (1, wide)):
            sums = np.cumsum(np.concatenate([np.zeros_like(square.take([0], axis)), square], axis), axis)
            last = sums.shape[axis] - 1
            ends = np.minimum(np.arange(1, last + 1) + side - 1, last)
            square = sums.take(ends, axis) - sums.take(np.arange(last), axis)
        return math.sqrt(max(0.0, float(square.max())))

    def _best(self, blanks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Merge the workers' best candidates and blank ones; returns logits and names [Q, TOP_K], descending."""
        pixels = len(blanks)
        logit = [worker.top.reshape(pixels, TOP_K).astype(np.float64) for worker in self.workers]
        name = [worker.top_name.reshape(pixels, TOP_K) for worker in self.workers]
        for worker in self.workers:
            names = np.full(pixels * TOP_K, -1, dtype=np.int64)
            sliding.name_blanks(
                self.layout.shape, self.layout.rows, self.layout.cols, worker.blank, worker.blank_name, names
            )
            names = names.reshape(pixels, TOP_K)
            logit.append(np.where(names < 0, float(NEVER), 0.0))
            name.append(names)
        logits, names = np.concatenate(logit, axis=1), np.concatenate(name, axis=1)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K]
        logits, names = np.take_along_axis(logits, order, 1), np.take_along_axis(names, order, 1)
        answered = self.answered[:, None]
        return np.where(answered, self.known_top, logits), np.where(answered, self.known_name, names)
