"""Kernels of an index: sort patches into cells, box the cells, and search them for one noisy window after another.

A block holds LANES patches, a cell LANES blocks: each with a box, the range of its patches' coordinates on a few
principal axes and of their distance from the span of those. The logit of patch p for window x is
(|x|² − |x − a p|²)/2β, a = √ᾱ, and |x − a p|² is at least the squared distance of x from a times the box: so a cell
whose bound is below a query's threshold holds nothing that matters to it. Logits are in units of log 2.
"""

import math

import numpy as np
from numba import njit

from lm_core.score.lanes import KERNEL, LANES, any_above, at, highest, load, positive, splat, store
from lm_core.score.sliding import NEVER, settle_one, take_in

# Numba's stored code is renewed when this file changes, not when those it builds on do: a test holds this to them.
BUILT_ON = "a425e653bb48bcf9"

F = np.float32
CELL = LANES * LANES  # patches
HOPEFUL = 0.2  # of the blocks of a cell that passes, those that pass themselves: what a search is expected to take
SAMPLE = 128  # patches that show along which axis a set is widest
ABSENT = F(1e30)  # the squared norm of what is no patch
NOWHERE = F(1e6)  # where a box is that holds nothing: farther than any pixel, with a finite square


@njit(nogil=True, cache=True)
def divide(rows, names, keys, axes, first, last, stop):
    """Split rows first … last − 1 in place along the axis on which they are widest; returns where the upper half is.

    The halves are multiples of a cell, or of a block inside one.

    Args:
        rows: uint8 [n, D] patches; names: int32 [n]; keys: float32 [n] scratch.
        axes: float32 [k, D] orthonormal.
        stop: uint8 [1], checked often: not zero ends it at once, with the rows in any order.
    """
    count, size = last - first, rows.shape[1]
    widest, axis = -1.0, 0
    for j in range(len(axes)):
        mean = square = 0.0
        stride = max(1, count // SAMPLE)
        seen = 0
        for i in range(first, last, stride):
            value = 0.0
            for d in range(size):
                value += axes[j, d] * rows[i, d]
            mean += value
            square += value * value
            seen += 1
        variance = square / seen - (mean / seen) ** 2
        if variance > widest:
            widest, axis = variance, j
    for i in range(first, last):
        value = F(0)
        for d in range(size):
            value += axes[axis, d] * F(rows[i, d])
        keys[i] = value
        if stop[0]:
            return last
    unit = CELL if count > CELL else LANES
    middle = first + max(unit, count // 2 // unit * unit)
    low, high = first, last - 1
    while low < high:  # Hoare's selection
        pivot = keys[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                names[i], names[j] = names[j], names[i]
                for d in range(size):
                    rows[i, d], rows[j, d] = rows[j, d], rows[i, d]
                i += 1
                j -= 1
            if stop[0]:
                return last
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            break
    return middle


@njit(nogil=True, cache=True)
def bisect(rows, names, keys, axes, first, last, stop):
    """Divide rows first … last − 1 until no part is larger than a block."""
    firsts, lasts = np.empty(128, np.int64), np.empty(128, np.int64)
    firsts[0], lasts[0], depth = first, last, 1
    while depth and not stop[0]:
        depth -= 1
        first, last = firsts[depth], lasts[depth]
        if last - first > LANES:
            middle = divide(rows, names, keys, axes, first, last, stop)
            firsts[depth], lasts[depth] = first, middle
            firsts[depth + 1], lasts[depth + 1] = middle, last
            depth += 2


@njit(nogil=True, cache=True)
def box(rows, axes, centre, scale, first, last, boxes, norms):
    """Fill the boxes of the blocks that hold rows first … last − 1, and the rows' squared norms.

    Args:
        boxes: float32 [blocks / LANES, k + 1, 2, LANES] lower and upper ends on each axis and off all of them,
            widened by more than float32 can be off.
        norms: float32 [n] Σ (v − centre)², exact: whole numbers below 2²⁴.
    """
    size, count = rows.shape[1], len(axes)
    for i in range(first, last):
        cell, lane = i // CELL, i // LANES % LANES
        square = 0.0
        for d in range(size):
            square += (rows[i, d] - centre) ** 2
        norms[i] = square
        square *= scale * scale
        rest, slack = square, 2e-6 * math.sqrt(square) + 1e-9
        for j in range(count + 1):
            if j < count:
                value = 0.0
                for d in range(size):
                    value += axes[j, d] * (rows[i, d] - centre)
                value *= scale
                rest -= value * value
                low, high = value - slack, value + slack
            else:
                low, high = math.sqrt(max(0.0, rest - 1e-5 * square)), math.sqrt(max(0.0, rest + 1e-5 * square))
                low, high = max(0.0, low - slack), high + slack
            if i % LANES == 0 or low < boxes[cell, j, 0, lane]:
                boxes[cell, j, 0, lane] = low
            if i % LANES == 0 or high > boxes[cell, j, 1, lane]:
                boxes[cell, j, 1, lane] = high


@njit(**KERNEL, inline="always")
def upper(boxes, group, axes, gain, points, i, ceiling):
    """Bound the logits of anything in LANES boxes by the distance of window i from each."""
    squares = splat(F(0))
    for j in range(axes + 1):
        place = ((group * (axes + 1) + j) * 2) * LANES
        low, high = load(boxes, place) * gain, load(boxes, place + LANES) * gain
        nearest, farthest = at(points, i * (axes + 2) + j), at(points, i * (axes + 2) + (j if j < axes else j + 1))
        gap = positive(splat(nearest) - high) + positive(low - farthest)
        squares = squares + gap * gap
    return splat(ceiling) - squares


@njit(**KERNEL)
def visit(
    cell, i, blocks, packed, norms, boxes, shape, numbers, windows, points, ceilings,
    threshold, peak, sums, visits, top, top_name, mass, level, prior, bounds, scratch,
):  # fmt: skip
    """Compare window i with those blocks of a cell that may matter, and raise its threshold; returns how many."""
    channels, size, axes = shape
    gain, penalty, centre, cut = numbers
    compared, middle = 0, size // channels // 2
    store(bounds, 0, upper(boxes, cell, axes, gain, points, i, at(ceilings, i)))
    for lane in range(min(LANES, blocks - cell * LANES)):
        if at(bounds, lane) <= at(threshold, i):
            continue
        block = cell * LANES + lane
        product = splat(F(0))
        for d in range(size):
            pixel = load(packed, (block * size + d) * LANES)
            product = product + at(windows, i * size + d) * (pixel - centre)
        logit = product + load(norms, block * LANES) * penalty
        compared += 1
        if any_above(logit, at(threshold, i)):
            take_in(
                logit, i, packed, (block * size + middle) * LANES, size // channels * LANES, channels, block * LANES,
                1, peak, sums, visits, top, top_name, scratch,
            )  # fmt: skip
    settle_one(i, channels, cut, prior, peak, level, sums, mass, threshold)
    return compared


@njit(**KERNEL)
def search(
    count, budget, blocks, packed, norms, boxes, outer, shape, numbers, windows, points, ceilings,
    threshold, peak, sums, visits, top, top_name, mass, level, prior, bounds, inner, scratch, solved,
):  # fmt: skip
    """Sum the posterior of some windows over all patches, leaving out what is below their thresholds.

    Args:
        count: windows; budget: vectors of boxes or pixels after which a window is given up, `solved` 0.
        blocks, packed, norms, boxes: the patches uint8 [blocks, D, LANES], their squared norms float32 [blocks,
            LANES] (ABSENT where there is none) and the boxes of the blocks; outer: those of the cells.
        shape: (C, D, k); numbers: (√(ᾱ/2β) scale of a patch, logit of a squared norm, centre, cut).
        windows: float32 [count, D], times what makes an inner product a logit; points: [count, k + 2] the windows'
            coordinates, and least and greatest distance off the axes, times √(1/2β); ceilings: [count] |x|²/2β and
            more than rounding can amount to.
        threshold … level: as in `sliding`; prior: mass of blank patches.
        bounds, inner, scratch: float32 [cells rounded up to LANES], [LANES] and [LANES].
    """
    _, size, axes = shape
    gain = numbers[0]
    cells = (blocks + LANES - 1) // LANES
    for i in range(count):
        best, expected, work = NEVER, 0.0, (cells + LANES - 1) // LANES * axes
        for group in range((cells + LANES - 1) // LANES):
            bound = upper(outer, group, axes, gain, points, i, at(ceilings, i))
            store(bounds, group * LANES, bound)
            if highest(bound) > best:
                best = highest(bound)
        first = 0
        while first < cells - 1 and at(bounds, first) < best:
            first += 1
        solved[i] = 1
        for turn in range(cells + 1):
            cell = first if turn == 0 else turn - 1
            if turn and (cell == first or at(bounds, cell) <= at(threshold, i)):
                continue
            work += axes + size * visit(
                cell, i, blocks, packed, norms, boxes, shape, numbers, windows, points, ceilings,
                threshold, peak, sums, visits, top, top_name, mass, level, prior, inner, scratch,
            )  # fmt: skip
            if turn == 0:
                for other in range(cells):
                    hopeful = at(bounds, other) > at(threshold, i)
                    expected += axes + HOPEFUL * LANES * size if hopeful else 0.0
            if work > budget or expected > budget:
                solved[i] = 0
                break
