"""Compare every window of a noisy image with every window of LANES training images at once, by sliding sums.

For one shift (dy, dx) between query and candidate the inner products of all their windows are box sums of a single
map, the query's pixels times the shifted image's: a column's sum moves down by adding a row and dropping one, a
window's sum moves right by adding a column and dropping one. A pair of windows costs the same whatever P is, about ten
operations on vectors that hold the same pair in LANES images; only what survives a threshold is exponentiated.

Logits are in units of log 2. Blank windows (all zero after centring) have logit 0 for every query: they are counted,
not compared. All arrays are flat; images and tiles end in the axis of LANES images.
"""

import math

import numpy as np
from numba import njit

from lm_core.score.candidates import TOP_K
from lm_core.score.lanes import (
    KERNEL,
    LANES,
    accumulate,
    any_above,
    at,
    exp2,
    highest,
    load,
    splat,
    store,
    total,
    where_zero,
)

# Numba's stored code is renewed when this file changes, not when the one it builds on does: a test holds this to it.
LANES_DIGEST = "55943308b7507bad"

F = np.float32
NEVER = F(-3e38)  # the logit of what is no candidate
HEADROOM = F(20.0)  # a logit may exceed its query's reference by this before the sums are rescaled


@njit(**KERNEL)
def load_images(
    packed, group, real, centre, scale, shape, window, penalty, tile, squares, scratch, blank, blank_name
):  # fmt: skip
    """Unpack LANES images into a tile and find the squared norms of all their windows.

    Args:
        packed: uint8 or float32 [groups, C, H, W, LANES]; group: which of them; real: lanes that hold an image,
            the others are blank.
        centre, scale: a stored number v is the pixel (v − centre) · scale.
        shape: (C, H, W, tall, wide, margin): the tile is [C, tall, wide, LANES], the image continued periodically,
            with its origin at (margin, margin).
        window: (up, down, left, right): the window of (a, b) is a − up … a + down, b − left … b + right, clipped.
        penalty: −ᾱ/2β in units of log 2.
        squares: [tall, wide, LANES] becomes penalty · ‖window‖² of the window centred there, NEVER for blank ones.
        blank, blank_name: int64 [tall, wide] and [tall, wide, TOP_K], to which the blank windows are added: how many
            there are, and the names of the first.
    """
    channels, height, width, tall, wide, margin = shape
    up, down, left, right = window
    zero, one, never = splat(F(0)), splat(F(1)), splat(NEVER)
    for channel in range(channels):
        for y in range(tall):
            row = ((group * channels + channel) * height + (y + height - margin) % height) * width
            for x in range(wide):
                pixel = load(packed, (row + (x + width - margin) % width) * LANES)
                store(tile, ((channel * tall + y) * wide + x) * LANES, (pixel - centre) * scale)
    for place in range(0, tall * wide * LANES, LANES):
        square = zero
        for channel in range(channels):
            pixel = load(tile, channel * tall * wide * LANES + place)
            square = square + pixel * pixel
        store(squares, place, square)
    for y in range(tall):
        for x in range(wide):
            square = zero
            for v in range(max(0, x - left), min(wide, x + right + 1)):
                square = square + load(squares, (y * wide + v) * LANES)
            store(scratch, (y * wide + x) * LANES, square)
    for y in range(tall):
        for x in range(wide):
            square = zero
            for u in range(max(0, y - up), min(tall, y + down + 1)):
                square = square + load(scratch, (u * wide + x) * LANES)
            found = int(total(where_zero(square, one, zero))) - (LANES - real)
            if found > 0 and blank[y * wide + x] < TOP_K:
                store(squares, (y * wide + x) * LANES, square)
                known = blank[y * wide + x]
                for lane in range(real):
                    if known < TOP_K and at(squares, (y * wide + x) * LANES + lane) == F(0):
                        pixel_name = (y + height - margin) % height * width + (x + width - margin) % width
                        blank_name[(y * wide + x) * TOP_K + known] = (
                            group * LANES + lane
                        ) * height * width + pixel_name
                        known += 1
            blank[y * wide + x] += found
            store(squares, (y * wide + x) * LANES, where_zero(square, never, square * penalty))


@njit(**KERNEL)
def insert(top, top_name, q, logit, name):
    """Put a candidate into the descending list of query q's TOP_K best if it belongs there."""
    place = q * TOP_K + TOP_K - 1
    if logit > at(top, place):
        while place > q * TOP_K and at(top, place - 1) < logit:
            top[place], top_name[place] = top[place - 1], top_name[place - 1]
            place -= 1
        top[place], top_name[place] = logit, name


@njit(**KERNEL, inline="always")
def take_in(logit, q, tile, centre, stride, channels, name, per_image, peak, sums, visits, top, top_name, scratch):
    """Add LANES candidates to the sums of query q; their values are the tile's pixels at `centre`."""
    place = q * (2 + channels) * LANES
    if any_above(logit, at(top, q * TOP_K + TOP_K - 1)):  # what exceeds the reference by HEADROOM is among the best too
        reference, best = at(peak, q), highest(logit)
        if best > reference + HEADROOM:
            factor = exp2(splat(reference - best))
            store(sums, place, load(sums, place) * factor)
            store(sums, place + LANES, load(sums, place + LANES) * (factor * factor))
            for channel in range(channels):
                there = place + (2 + channel) * LANES
                store(sums, there, load(sums, there) * factor)
            peak[q] = best
        store(scratch, 0, logit)
        for lane in range(LANES):
            insert(top, top_name, q, at(scratch, lane), name + lane * per_image)
    weight = exp2(logit - at(peak, q))
    accumulate(sums, place, weight)
    accumulate(sums, place + LANES, weight * weight)
    for channel in range(channels):
        accumulate(sums, place + (2 + channel) * LANES, weight * load(tile, centre + channel * stride))
    visits[q] += 1


@njit(**KERNEL, inline="always")
def add_row(column, offset, query, tile, query_row, tile_row, first, last, sign):
    """Add, or with sign −1 drop, one row of products to the column sums."""
    for v in range(first, last):
        place = (v - offset) * LANES
        product = (sign * at(query, query_row + v)) * load(tile, tile_row + v * LANES)
        store(column, place, load(column, place) + product)


@njit(**KERNEL)
def compare(
    query, tile, squares, shape, window, rows, cols, spans, gain, threshold, first_name,
    peak, sums, visits, top, top_name, column, scratch,
):  # fmt: skip
    """Compare all queries with all candidates of LANES images.

    Args:
        query: [C, H + 2 margin, W + 2 margin] the noisy image, continued periodically by the margin.
        tile, squares, shape, window: as `load_images` made them.
        rows, cols: int64 [K, 3] the shifts dy (dx) and the half-open range of query rows (columns) they are for.
        spans: int64 [H, 2] the columns of each row that still ask, half-open.
        gain: √ᾱ/β in units of log 2.
        threshold: [H, W] candidates with a smaller logit may be left out.
        first_name: name of the first image's first pixel; names count pixels.
        peak, sums, visits, top, top_name: the queries' state: the reference of the sums [H, W], Σw, Σw² and Σw·value
            [H, W, 2 + C, LANES], the vectors exponentiated [H, W], and the best logits and names [H, W, TOP_K].
        column, scratch: [W + left + right + 2, LANES] and [LANES].
    """
    channels, height, width, tall, wide, margin = shape
    up, down, left, right = window
    query_tall, query_wide = height + 2 * margin, width + 2 * margin
    stride = tall * wide * LANES
    for i in range(len(rows) // 3):
        dy, a_first, a_last = at(rows, 3 * i), at(rows, 3 * i + 1), at(rows, 3 * i + 2)
        for j in range(len(cols) // 3):
            dx, b_first, b_last = at(cols, 3 * j), at(cols, 3 * j + 1), at(cols, 3 * j + 2)
            # Coordinates u, v of the padded query from here on; column sums outside it stay zero.
            offset = b_first + margin - left - 1
            v_first, v_last = max(0, offset + 1), min(query_wide, b_last + margin + right)
            for v in range(b_last - b_first + left + right + 1):
                store(column, v * LANES, splat(F(0)))
            for a in range(a_first, a_last):
                first_u, newest, oldest = max(0, a + margin - up), a + margin + down, a + margin - up - 1
                for channel in range(channels):
                    rows_of_query, rows_of_tile = channel * query_tall, channel * tall + dy
                    if a == a_first:
                        for u in range(first_u, min(query_tall, newest + 1)):
                            query_row, tile_row = (rows_of_query + u) * query_wide, (rows_of_tile + u) * wide + dx
                            add_row(column, offset, query, tile, query_row, tile_row * LANES, v_first, v_last, F(1))
                    elif newest < query_tall and oldest >= 0:
                        new_query, old_query = (
                            (rows_of_query + newest) * query_wide,
                            (rows_of_query + oldest) * query_wide,
                        )
                        new_tile = ((rows_of_tile + newest) * wide + dx) * LANES
                        old_tile = ((rows_of_tile + oldest) * wide + dx) * LANES
                        for v in range(v_first, v_last):
                            place = (v - offset) * LANES
                            added = at(query, new_query + v) * load(tile, new_tile + v * LANES)
                            dropped = at(query, old_query + v) * load(tile, old_tile + v * LANES)
                            store(column, place, load(column, place) + added - dropped)
                    elif newest < query_tall or oldest >= 0:
                        u, sign = (newest, F(1)) if newest < query_tall else (oldest, F(-1))
                        query_row, tile_row = (rows_of_query + u) * query_wide, (rows_of_tile + u) * wide + dx
                        add_row(column, offset, query, tile, query_row, tile_row * LANES, v_first, v_last, sign)
                b_from, b_to = max(b_first, at(spans, 2 * a)), min(b_last, at(spans, 2 * a + 1))
                product = splat(F(0))
                for v in range(b_from - b_first, b_from - b_first + left + right + 1):
                    product = product + load(column, v * LANES)
                candidates = ((a + dy + margin) * wide + dx + margin) * LANES
                for b in range(b_from, b_to):
                    place = (b - b_first) * LANES
                    product = product + (load(column, place + (left + right + 1) * LANES) - load(column, place))
                    logit = product * gain + load(squares, candidates + b * LANES)
                    if any_above(logit, at(threshold, a * width + b)):
                        name = first_name + ((a + dy) % height) * width + (b + dx) % width
                        take_in(
                            logit, a * width + b, tile, candidates + b * LANES, stride, channels, name,
                            height * width, peak, sums, visits, top, top_name, scratch,
                        )  # fmt: skip


@njit(**KERNEL)
def compare_each(
    query, tile, squares, shape, window, rows, cols, asking, gain, threshold, first_name,
    peak, sums, visits, top, top_name, scratch,
):  # fmt: skip
    """Compare some queries with all their candidates of LANES images, each pair on its own: cheaper for a few.

    Args:
        rows, cols: int64 [H, 2] and [W, 2] the half-open range of tile rows (columns) where the candidates of a query
            in that row (column) are centred.
        asking: int64 [K] the queries, as row · W + column.
        The rest as in `compare`.
    """
    channels, height, width, tall, wide, margin = shape
    up, down, left, right = window
    query_tall, query_wide = height + 2 * margin, width + 2 * margin
    stride, zero = tall * wide * LANES, splat(F(0))
    for y in range(tall):  # a few rows of the tile stay in the fastest cache while all queries are compared with them
        for k in range(len(asking)):
            q = at(asking, k)
            a, b = q // width, q % width
            if not at(rows, 2 * a) <= y < at(rows, 2 * a + 1):
                continue
            u_first, u_last = max(0, a + margin - up), min(query_tall, a + margin + down + 1)
            v_first, v_last = max(0, b + margin - left), min(query_wide, b + margin + right + 1)
            x_first, x_last = at(cols, 2 * b), at(cols, 2 * b + 1)
            dy = y - a - margin
            name = first_name + ((y - margin) % height) * width
            x = x_first
            while x < x_last:
                dx = x - b - margin
                first, second, third, fourth = zero, zero, zero, zero
                together = x + 4 <= x_last
                for channel in range(channels):
                    for u in range(u_first, u_last):
                        query_row = (channel * query_tall + u) * query_wide
                        tile_row = ((channel * tall + u + dy) * wide + dx) * LANES
                        if together:
                            for v in range(v_first, v_last):
                                pixel, place = at(query, query_row + v), tile_row + v * LANES
                                first = first + pixel * load(tile, place)
                                second = second + pixel * load(tile, place + LANES)
                                third = third + pixel * load(tile, place + 2 * LANES)
                                fourth = fourth + pixel * load(tile, place + 3 * LANES)
                        else:
                            for v in range(v_first, v_last):
                                first = first + at(query, query_row + v) * load(tile, tile_row + v * LANES)
                for step in range(4 if together else 1):
                    place = (y * wide + x + step) * LANES
                    product = first if step == 0 else second if step == 1 else third if step == 2 else fourth
                    logit = product * gain + load(squares, place)
                    if any_above(logit, at(threshold, q)):
                        take_in(
                            logit, q, tile, place, stride, channels, name + (x + step - margin) % width,
                            height * width, peak, sums, visits, top, top_name, scratch,
                        )  # fmt: skip
                x += 4 if together else 1


@njit(**KERNEL)
def settle(channels, cut, prior, asking, peak, level, sums, mass, threshold):
    """Move the sums of float32 lanes into float64 and raise the thresholds accordingly.

    Args:
        cut: a candidate this far (log 2) below a query's whole mass may be left out.
        prior: float64 [H, W] mass of blank windows known of, each of logit 0.
        level: [H, W] the reference that `mass` is relative to; becomes peak.
        asking: bool [H, W] queries that still ask for candidates; the others' thresholds are out of reach.
        mass: float64 [H, W, 2 + C] Σw, Σw² and Σw·value.
    """
    for q in range(len(level)):
        if asking[q]:
            settle_one(q, channels, cut, at(prior, q), peak, level, sums, mass, threshold)
        else:
            threshold[q] = -NEVER


@njit(**KERNEL, inline="always")
def settle_one(q, channels, cut, prior, peak, level, sums, mass, threshold):
    """Do for query q what `settle` does for all."""
    columns = 2 + channels
    factor = 2.0 ** max(float(at(level, q)) - float(at(peak, q)), -1000.0)
    for column in range(columns):
        there = (q * columns + column) * LANES
        scale = factor * factor if column == 1 else factor
        mass[q * columns + column] = at(mass, q * columns + column) * scale + total(load(sums, there))
        store(sums, there, splat(F(0)))
    level[q] = at(peak, q)
    whole = at(mass, q * columns)
    found = float(at(peak, q)) + math.log2(whole) if whole > 0.0 else float(NEVER)
    blanks = math.log2(prior) if prior > 0.0 else float(NEVER)
    high, low = max(found, blanks), min(found, blanks)
    threshold[q] = F(max(float(NEVER), high + math.log2(1.0 + 2.0 ** max(low - high, -100.0)) - cut))


@njit(**KERNEL)
def name_blanks(shape, rows, cols, blank, blank_name, names):
    """Fill each query's list of names [H, W, TOP_K] with blank windows that are among its candidates."""
    _, height, width, _, wide, margin = shape
    for a in range(height):
        for b in range(width):
            count, place = 0, (a * width + b) * TOP_K
            for i in range(len(rows) // 3):
                if count < TOP_K and at(rows, 3 * i + 1) <= a < at(rows, 3 * i + 2):
                    y = a + at(rows, 3 * i) + margin
                    for j in range(len(cols) // 3):
                        if at(cols, 3 * j + 1) <= b < at(cols, 3 * j + 2):
                            there = y * wide + b + at(cols, 3 * j) + margin
                            for k in range(min(at(blank, there), TOP_K - count)):
                                names[place + count] = at(blank_name, there * TOP_K + k)
                                count += 1
