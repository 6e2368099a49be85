"""Fused attention for the exact engine on a card: logits, softmax and top-k in one Triton kernel, none of it stored.

A posterior is attention: windows of the noisy image are the queries, training patches the keys, their centres the
values, and −ᾱ‖p‖²/2β is a bias per key. Written as one kernel, a logit lives in registers only (Dao et al. 2022;
Milakov & Gimelshein 2018 for the running softmax). Library kernels of attention return the mean, but neither Σw² nor
the heaviest keys, which the provenance needs; and windows overlap, so keys are read where they lie in the images
instead of being copied out.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]  # not for every platform
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from lm_core.score.candidates import TOP_K, Area, Keys, window_offsets
from lm_core.score.posterior import StreamingPosterior

# Queries and candidates of one block, and how much of their windows at once. With fewer warps many registers spill.
BLOCK: dict[str, Any] = {"ROWS": 64, "TILE": 64, "DEPTH": 32, "num_warps": 8}
PROGRAMS_PER_PROCESSOR = 4  # so that no multiprocessor waits long for the last block
MOST_SPLITS = 64
OLDEST_CAPABILITY = (7, 5)  # of the cards that the kernel was compiled for


@triton.jit
def attend(
    query_ptr,
    rows,
    length,
    image_ptr,
    start_ptr,
    penalty_ptr,
    value_ptr,
    candidates,
    offset_ptr,
    bar_ptr,
    peak_ptr,
    sums_ptr,
    top_ptr,
    index_ptr,
    per_split,
    CHANNELS: tl.constexpr,
    SUMS: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend from a block of rows to a split of the candidates; `posterior` says what lies behind the pointers."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(1)
    live = row < rows
    bar = tl.load(bar_ptr + row, mask=live, other=float("inf"))
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    sums = tl.zeros([ROWS, SUMS], tl.float64)
    which = tl.arange(0, SUMS)[None, :]
    top = tl.full([ROWS, K], float("-inf"), tl.float32)
    slots, places = tl.arange(0, K)[None, :], tl.arange(0, TILE)
    index = tl.zeros([ROWS, K], tl.int32) - 1 - slots  # negative for none, and no two alike
    for first in range(split * per_split, tl.minimum(candidates, (split + 1) * per_split), TILE):
        candidate = first + places
        there = candidate < candidates
        start = tl.load(start_ptr + candidate, mask=there, other=0)
        penalty = tl.load(penalty_ptr + candidate, mask=there, other=float("-inf"))
        logits = tl.zeros([ROWS, TILE], tl.float32)
        for begin in range(0, length, DEPTH):
            depth = begin + tl.arange(0, DEPTH)
            within = depth < length
            query = tl.load(
                query_ptr + row[:, None] * length + depth[None, :], mask=live[:, None] & within[None, :], other=0.0
            )
            offset = tl.load(offset_ptr + depth, mask=within, other=0)
            key = tl.load(image_ptr + (offset[:, None] + start[None, :]), mask=within[:, None], other=0.0)
            logits = tl.dot(query, key, logits, input_precision=PRECISION)
        logits += penalty[None, :]

        highest = tl.max(logits, 1)
        higher = tl.maximum(peak, highest)
        shrink = tl.exp(peak - higher).to(tl.float64)
        weights = tl.exp(logits - higher[:, None])
        peak = higher
        sums *= tl.where(which == 1, (shrink * shrink)[:, None], shrink[:, None])
        sums += tl.where(which == 0, tl.sum(weights, 1).to(tl.float64)[:, None], 0.0)
        sums += tl.where(which == 1, tl.sum(weights * weights, 1).to(tl.float64)[:, None], 0.0)
        for channel in tl.static_range(CHANNELS):
            value = tl.load(value_ptr + candidate * CHANNELS + channel, mask=there, other=0.0)
            product = tl.sum(weights * value[None, :], 1).to(tl.float64)
            sums += tl.where(which == 2 + channel, product[:, None], 0.0)

        # The largest of the tile takes the place of the smallest of the top-k, the latest of equal ones, until nothing
        # of the tile belongs there.
        more = tl.max((highest > tl.maximum(bar, tl.min(top, 1))).to(tl.int32), 0)
        while more > 0:
            best, place = tl.max(logits, 1, return_indices=True)
            least = tl.min(top, 1)
            latest = tl.max(tl.where(top == least[:, None], index, -K - 1), 1)
            enters = best > tl.maximum(bar, least)
            put = enters[:, None] & (index == latest[:, None])
            top = tl.where(put, best[:, None], top)
            index = tl.where(put, (first + place)[:, None], index)
            logits = tl.where(places[None, :] == place[:, None], float("-inf"), logits)
            more = tl.max(enters.to(tl.int32), 0)

    out = split * rows + row
    tl.store(peak_ptr + out, peak, mask=live)
    tl.store(sums_ptr + out[:, None] * SUMS + which, sums, mask=live[:, None])
    tl.store(top_ptr + out[:, None] * K + slots, top, mask=live[:, None])
    tl.store(index_ptr + out[:, None] * K + slots, index, mask=live[:, None])


def posterior(
    queries: Tensor, keys: Keys, offsets: Tensor, bar: Tensor, splits: int, precision: str
) -> StreamingPosterior:
    """Return the posterior over some candidates for rows of queries, by one launch of the kernel.

    Args:
        queries: float32 [R, D], times √ᾱ/β; fewer than 2³¹ numbers, as in the keys' padded images.
        keys: M candidates.
        offsets: int64 [D], where the numbers of a window lie, counted from its first.
        bar: float32 [R]; only candidates with a larger logit are looked at for the top-k.
        splits: into how many parts the candidates are divided, to occupy a card when there are few rows; a power of 2.
        precision: of the products: ieee (float32), or tf32x3, three products on tensor cores that come close to it.
    """
    rows, length = queries.shape
    count, channels = keys.values.shape
    shape: dict[str, Any] = {"CHANNELS": channels, "SUMS": _power_of_two(2 + channels), "K": TOP_K}
    shape["PRECISION"] = precision
    peak = queries.new_empty(splits * rows)
    sums = queries.new_empty(splits * rows, shape["SUMS"], dtype=torch.float64)
    top = queries.new_empty(splits * rows, TOP_K)
    index = torch.empty_like(top, dtype=torch.int32)
    with torch.cuda.device_of(queries):  # Triton launches on the current card
        attend[(_parts(rows, BLOCK["ROWS"]), splits)](
            queries.contiguous(), rows, length, keys.padded, keys.starts.to(torch.int32), keys.penalty,
            keys.values.contiguous(), count, offsets.to(torch.int32), bar.contiguous(), peak, sums, top, index,
            _parts(count, splits * BLOCK["TILE"]) * BLOCK["TILE"], **shape, **BLOCK,
        )  # fmt: skip
    order = index.argsort(1)  # of equal candidates the first counts as the heavier
    order = order.gather(1, top.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
    top, index = top.gather(1, order), index.gather(1, order).long()
    names = torch.where(index < 0, -1, keys.names[index.clamp_min(0)])
    state = StreamingPosterior(peak, sums[:, 0], sums[:, 1], sums[:, 2 : 2 + channels], top, names)
    while len(state.peak) > rows:
        state, later = state.pairs(rows)  # neighbours, for among equal candidates the earlier stay the first
        state.merge(later)
    return state


class FusedArea(Area):
    """A group of many locations whose pixels are compared with all candidates by the kernel."""

    precision = "ieee"

    def bytes_per_image(self) -> int:
        """Of a padded image and its square, and of each candidate's start, name, square and centre on their way."""
        channels, height, width = self.query.x.shape[1:]
        padded = (height + self.window[0]) * (width + self.window[1])
        return 8 * channels * padded + (56 + 8 * channels) * self.rows.numel()

    def compare(self, state: StreamingPosterior, keys: Keys) -> None:
        """Give every pixel some candidates, in as many splits as keep all multiprocessors of the card busy."""
        device, tiles = self.queries.device, _parts(len(keys.starts), BLOCK["TILE"])
        processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
        wanted = _parts(PROGRAMS_PER_PROCESSOR * processors, _parts(len(self.queries), BLOCK["ROWS"]))
        splits = _power_of_two(min(wanted, tiles, MOST_SPLITS))
        offsets = window_offsets(keys.padded, self.window)
        state.merge(posterior(self.queries, keys, offsets, state.top_logit[:, -1], splits, self.precision))


def _parts(whole: int, part: int) -> int:
    """Return how many parts of a size cover the whole."""
    return -(-whole // part)


def _power_of_two(least: int) -> int:
    """Return the smallest power of two that is no smaller."""
    return 1 << (least - 1).bit_length()
