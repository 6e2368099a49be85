"""Posterior means under windows of many sizes at once: one pass over the training images serves every P.

For one pair of rows and one shift between query and candidate, the products of the pixels form columns; a column's sum
for radius r is the one for r − 1 and the products of two more rows, and a window's sum moves along by adding a column
and dropping one. So every further size costs about eight vector operations a pair, whatever P is. As in `sliding`,
LANES images are compared at once, candidates far below a pixel's posterior are left out, logits are in units of log 2,
and blank windows (all zero after centring, logit 0 for every query) are counted instead of compared.

Because columns are built afresh for every row of the query, a few rows cost as many times less.
"""

import math
from collections.abc import Sequence

import numpy as np
from numba import njit

from lm_core.score.fast import FastEngine
from lm_core.score.index import START, aligned
from lm_core.score.lanes import KERNEL, LANES, any_above, at, exp2, highest, load, splat, store, total, where_zero
from lm_core.score.sliding import HEADROOM, NEVER

# Numba's stored code is renewed when this file changes, not when the one it builds on does: a test holds this to it.
LANES_DIGEST = "55943308b7507bad"

F = np.float32
LEFT_OUT = 1e-3  # share of a posterior's mass that may be left out at most: a mean is off by at most twice that
LS, BBELS, ELS = range(3)
KINDS = {"ls": LS, "bbels": BBELS, "els": ELS}


@njit(**KERNEL)
def measure(packed, group, real, centre, shape, radii, kind, penalty, squares, column, blank):
    """Find the squared norms of all windows of LANES images, of every size.

    Args:
        packed: uint8 or float32 [groups, C, H, W, LANES]; group: which of them; real: lanes that hold an image,
            the others are blank.
        centre: the stored number that is zero to the kernels.
        shape: (C, H, W); radii: int64 [S], ascending.
        penalty: −ᾱ/2β in units of log 2, times the square of what a stored 1 means.
        squares: [S, H, W, LANES] becomes penalty · ‖window‖² of the window centred there, NEVER for blank ones.
        column: [H + 1, W, LANES] scratch.
        blank: int64 [S, H, W], to which the number of blank windows is added.
    """
    channels, height, width = shape
    zero, one, never, first = splat(F(0)), splat(F(1)), splat(NEVER), group * channels
    for y in range(height):
        for v in range(width):
            store(column, v * LANES, zero)
        radius = 0
        for s in range(len(radii)):
            while radius <= at(radii, s):
                for side in range(1 if radius == 0 else 2):
                    u = y - radius if side == 0 else y + radius
                    if kind == ELS:
                        u = (u + height) % height
                    if 0 <= u < height:
                        for v in range(width):
                            square = load(column, v * LANES)
                            for channel in range(channels):
                                pixel = load(packed, (((first + channel) * height + u) * width + v) * LANES) - centre
                                square = square + pixel * pixel
                            store(column, v * LANES, square)
                radius += 1
            reach = at(radii, s)
            for x in range(width):
                square = zero
                for v in range(x - reach, x + reach + 1):
                    if kind == ELS:
                        square = square + load(column, (v + width) % width * LANES)
                    elif 0 <= v < width:
                        square = square + load(column, v * LANES)
                place = (s * height + y) * width + x
                blank[place] += int(total(where_zero(square, one, zero))) - (LANES - real)
                store(squares, place * LANES, where_zero(square, never, square * penalty))


@njit(**KERNEL, inline="always")
def take_in(logit, q, packed, place, stride, centre, channels, peak, sums):
    """Add LANES candidates to the sums of query q; their values are the images' pixels at `place`."""
    reference, own = at(peak, q), q * (1 + channels) * LANES
    if any_above(logit, reference + HEADROOM):
        best = highest(logit)
        factor = exp2(splat(reference - best))
        for there in range(own, own + (1 + channels) * LANES, LANES):
            store(sums, there, load(sums, there) * factor)
        peak[q] = best
        reference = best
    weight = exp2(logit - reference)
    store(sums, own, load(sums, own) + weight)
    for channel in range(channels):
        there = own + (1 + channel) * LANES
        store(sums, there, load(sums, there) + weight * (load(packed, place + channel * stride) - centre))


@njit(**KERNEL, inline="always")
def add_rows(
    column, offset, side, query, per_query, count, upper, lower, packed, upper_row, lower_row, centre, first, last
):  # fmt: skip
    """Add the products of two rows of each query with two of the images to the column sums of v = first … last − 1."""
    for v in range(first, last):
        above, below = load(packed, upper_row + v * LANES) - centre, load(packed, lower_row + v * LANES) - centre
        for n in range(count):
            place, start = (n * side + v + offset) * LANES, n * per_query + v
            products = at(query, start + upper) * above + at(query, start + lower) * below
            store(column, place, load(column, place) + products)


@njit(**KERNEL)
def compare(count, query, packed, group, centre, squares, shape, rows, radii, kind, threshold, peak, sums, column):
    """Compare some rows of noisy images with all their candidates of LANES images, at every size.

    Args:
        query: [B, C, H + 1, W] the B = count noisy images times √ᾱ/β in units of log 2 and what a stored 1 means,
            below each channel a row of zeros.
        packed, group, centre, squares, shape, radii: as in `measure`.
        rows: int64 [R] rows of the query; kind: LS, BBELS or ELS.
        threshold: [B, S, R, W] candidates with a smaller logit may be left out.
        peak, sums: the queries' state: the reference of the sums [B, S, R, W], and Σw and Σw·value
            [B, S, R, W, 1 + C, LANES], a value being how far a stored number is from the centre.
        column: [B, W + 2 · largest radius + 2, LANES] scratch.
    """
    channels, height, width = shape
    sizes, largest = len(radii), at(radii, len(radii) - 1)
    offset, stride, zero, image = largest + 1, height * width * LANES, splat(F(0)), group * channels
    side, per_query, per_image = width + 2 * offset, channels * (height + 1) * width, sizes * len(rows) * width
    first_shift, last_shift = 0, 0
    if kind == ELS:
        last_shift = width - 1
    elif kind == BBELS:
        first_shift, last_shift = 1 - width, width - 1
    for y in range(height):  # a few rows of the images stay in the cache while all queries meet them
        for k in range(len(rows)):
            a = at(rows, k)
            if kind == LS and y != a:
                continue
            limit = largest  # windows of rows near a border see it, and match that same row only
            if kind == BBELS and y != a:
                limit = min(limit, min(min(a, y), min(height - 1 - a, height - 1 - y)))
                if limit < at(radii, 0):
                    continue
            for dx in range(first_shift, last_shift + 1):
                inside = kind == BBELS and dx != 0  # likewise for columns
                v_first, v_last = 0, width
                if inside:
                    v_first, v_last = max(0, -dx), min(width, width - dx)
                for n in range(count):
                    place = (n * side + offset) * LANES
                    zero_first, zero_last = (v_first - 1, v_last) if inside else (-offset, width + offset)
                    for v in range(zero_first, zero_last):
                        store(column, place + v * LANES, zero)
                radius = 0
                for s in range(sizes):
                    reach = at(radii, s)
                    if reach > limit or (inside and 2 * reach >= v_last - v_first):
                        break
                    while radius <= reach:
                        upper, upper_image, lower, lower_image = a - radius, y - radius, a + radius, y + radius
                        if kind == ELS:
                            upper, upper_image = (upper + height) % height, (upper_image + height) % height
                            lower, lower_image = lower % height, lower_image % height
                        elif upper < 0:
                            upper, upper_image = height, 0
                        if kind != ELS and lower >= height:
                            lower, lower_image = height, 0
                        if radius == 0:
                            lower = height
                        for channel in range(channels):
                            above = (channel * (height + 1) + upper) * width
                            below = (channel * (height + 1) + lower) * width
                            above_image = (((image + channel) * height + upper_image) * width + dx) * LANES
                            below_image = (((image + channel) * height + lower_image) * width + dx) * LANES
                            split = min(v_last, width - dx)
                            add_rows(
                                column, offset, side, query, per_query, count, above, below, packed,
                                above_image, below_image, centre, v_first, split,
                            )  # fmt: skip
                            if split < v_last:
                                back = width * LANES
                                add_rows(
                                    column, offset, side, query, per_query, count, above, below, packed,
                                    above_image - back, below_image - back, centre, split, v_last,
                                )  # fmt: skip
                        radius += 1
                    b_first, b_last = v_first, v_last
                    if inside:
                        b_first, b_last = v_first + reach, v_last - reach
                    for n in range(count):
                        start, product = n * side + offset, zero
                        first_q = n * per_image + (s * len(rows) + k) * width
                        for v in range(b_first - 1 - reach, b_first + reach):
                            there = v + width if kind == ELS and v < 0 else v
                            product = product + load(column, (start + there) * LANES)
                        for b in range(b_first, b_last):
                            enters, leaves, x = b + reach, b - reach - 1, b + dx
                            if kind == ELS:
                                enters = enters - width if enters >= width else enters
                                leaves = leaves + width if leaves < 0 else leaves
                                x = x - width if x >= width else x
                            dropped = load(column, (start + leaves) * LANES)
                            product = product + (load(column, (start + enters) * LANES) - dropped)
                            logit = product + load(squares, ((s * height + y) * width + x) * LANES)
                            if any_above(logit, at(threshold, first_q + b)):
                                place = image * stride + (y * width + x) * LANES
                                take_in(logit, first_q + b, packed, place, stride, centre, channels, peak, sums)


@njit(**KERNEL)
def settle(channels, cut, prior, peak, level, sums, mass, threshold):
    """Move the sums of float32 lanes into float64 and raise the thresholds accordingly.

    Args:
        cut: [Q] a candidate this far (log 2) below a query's whole mass may be left out.
        prior: float64 [Q] mass of blank windows known of, each of logit 0.
        level: [Q] the reference that `mass` is relative to; becomes peak.
        mass: float64 [Q, 1 + C] Σw and Σw·value.
    """
    columns = 1 + channels
    for q in range(len(level)):
        factor = 2.0 ** max(float(at(level, q)) - float(at(peak, q)), -1000.0)
        for there in range(q * columns, (q + 1) * columns):
            mass[there] = at(mass, there) * factor + total(load(sums, there * LANES))
            store(sums, there * LANES, splat(F(0)))
        level[q] = at(peak, q)
        whole = at(mass, q * columns)
        found = float(at(peak, q)) + math.log2(whole) if whole > 0.0 else float(NEVER)
        blanks = math.log2(at(prior, q)) if at(prior, q) > 0.0 else float(NEVER)
        high, low = max(found, blanks), min(found, blanks)
        threshold[q] = F(max(float(NEVER), high + math.log2(1.0 + 2.0 ** max(low - high, -100.0)) - at(cut, q)))


def means(engine: FastEngine, x: np.ndarray, alpha_bar: float, sizes: Sequence[int], rows: Sequence[int]) -> np.ndarray:
    """Return the posterior means of some rows of pixels over all of an engine's images, under windows of many sizes.

    Each is within 2 · LEFT_OUT of the exact engine's on [−1, 1], rounding aside. One thread; several may call at once.

    Args:
        engine: gives the machine (ls, bbels or els) and its packed images.
        x: [B, C, H, W] noisy images; a few together are cheaper, for they share what is read of the training images.
        alpha_bar: their signal share of the variance.
        sizes: windows P, odd, ascending, none larger than the image; rows: which rows of pixels.

    Returns:
        float64 [B, C, len(sizes), len(rows), W].
    """
    count, channels, height, width = x.shape
    shape, kind, radii = (channels, height, width), KINDS[engine.machine], np.array(sizes) // 2
    wanted = np.array(rows, dtype=np.int64)
    gain = alpha_bar**0.5 / (1 - alpha_bar) / math.log(2)
    query = np.zeros((count, channels, height + 1, width), dtype=np.float32)
    query[:, :, :height] = (x - alpha_bar**0.5 * engine.zero) * (gain * engine.scale)
    query, packed = query.ravel(), engine.packed.ravel()
    queries = count * len(radii) * len(wanted) * width
    squares = aligned(len(radii) * height * width * LANES)
    column = aligned(count * (width + 2 * int(radii[-1]) + 2) * LANES)
    blank, threshold = np.zeros((len(radii), height, width), dtype=np.int64), np.full(queries, NEVER, dtype=F)
    peak = np.full(queries, START, dtype=F)
    level, sums = peak.copy(), aligned(queries * (1 + channels) * LANES)
    mass, prior = np.zeros(queries * (1 + channels)), np.zeros(queries)
    allowed = _allowed(kind, radii, height)[:, wanted], _allowed(kind, radii, width)
    cut = np.tile(np.log2(_candidates(np.ones(blank.shape), *allowed) * engine.count / LEFT_OUT), count)
    centre, penalty = F(engine.centre), F(-0.5 * alpha_bar**0.5 * gain * engine.scale**2)
    for group in range(engine.groups):
        real = min(LANES, engine.count - group * LANES)
        measure(packed, group, real, centre, shape, radii, kind, penalty, squares, column, blank.reshape(-1))
        compare(count, query, packed, group, centre, squares, shape, wanted, radii, kind, threshold, peak, sums, column)
        prior = np.tile(_candidates(blank, *allowed), count)
        settle(channels, cut, prior, peak, level, sums, mass, threshold)
    top = np.where(prior > 0, np.maximum(level, 0), level).astype(np.float64)
    found = mass.reshape(queries, 1 + channels) * np.exp2(np.maximum(level - top, -1000.0))[:, None]
    whole = found[:, 0] + prior * np.exp2(np.clip(-top, -1000.0, 0))
    mean = found[:, 1:] / whole[:, None] * engine.scale + engine.zero
    return mean.reshape(count, len(radii), len(wanted), width, channels).transpose(0, 4, 1, 2, 3)


def _allowed(kind: int, radii: np.ndarray, side: int) -> np.ndarray:
    """Return which places along an axis each place is compared with, float64 [S, side, side]."""
    if kind == ELS:
        return np.ones((len(radii), side, side))
    if kind == LS:
        return np.repeat(np.eye(side)[None], len(radii), 0)
    inside = np.minimum(np.arange(side), side - 1 - np.arange(side)) >= radii[:, None]
    return np.maximum(np.eye(side), inside[:, :, None] * inside[:, None]).astype(np.float64)


def _candidates(places: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Sum the counts at places [S, H, W] over each query's candidates, rows [S, R, H] and cols [S, W, W]: [S·R·W]."""
    return (rows @ places.astype(np.float64) @ cols.transpose(0, 2, 1)).ravel()
