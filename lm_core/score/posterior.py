"""A streaming softmax over candidates that remembers where its weight came from.

Candidates arrive tile by tile as logits and values; the running (max, sum, sum of squares, numerator, top-k) of every
query is exact after every tile, and two runs over different candidates merge exactly. Sums are kept in float64.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

# A logit this far below the best counts as this far: 1e9 such candidates weigh 4e-9 of the best one, less than float32
# holds, and both e^-40 and its square stay clear of denormal numbers, on which processors are twenty times slower.
FLOOR_NATS = {torch.float32: 40.0, torch.float64: 340.0}
MOST_COLOURS = 4


@dataclass
class StreamingPosterior:
    """The state of R softmaxes with values of V numbers, after any number of candidates.

    Attributes:
        peak: [R] largest logit so far.
        mass, square_mass: [R] Σ exp(l − peak) and Σ exp(2(l − peak)), float64.
        numerator: [R, V] Σ exp(l − peak) value, float64.
        top_logit, top_index: [R, K] the K largest logits, descending, and the candidates they belong to; −1 for none.
    """

    peak: Tensor
    mass: Tensor
    square_mass: Tensor
    numerator: Tensor
    top_logit: Tensor
    top_index: Tensor

    @classmethod
    def empty(
        cls, rows: int, values: int, top_k: int, device: torch.device, dtype: torch.dtype
    ) -> "StreamingPosterior":
        """Return the state before the first candidate."""
        zeros = torch.zeros(rows, dtype=torch.float64, device=device)
        return cls(
            peak=torch.full((rows,), -torch.inf, dtype=dtype, device=device),
            mass=zeros,
            square_mass=zeros.clone(),
            numerator=torch.zeros(rows, values, dtype=torch.float64, device=device),
            top_logit=torch.full((rows, top_k), -torch.inf, dtype=dtype, device=device),
            top_index=torch.full((rows, top_k), -1, dtype=torch.int64, device=device),
        )

    def add(self, logits: Tensor, values: Tensor, index: Tensor) -> None:
        """Take in T candidates.

        Args:
            logits: [G, R/G, T], overwritten.
            values: [G, T, V], shared by the rows of a group.
            index: int64 [G, T].
        """
        groups, per_group, tile = logits.shape
        highest = logits.amax(-1).flatten()
        self._take_top(logits.reshape(-1, tile), highest, index, per_group)
        peak = torch.maximum(self.peak, highest)
        floor = FLOOR_NATS[logits.dtype]
        live = highest > peak - floor
        rows = slice(None)
        if groups == 1 and int(live.sum()) < len(peak) // 2:
            rows = live.nonzero().squeeze(1)
            logits = logits[:, rows]
        weights = logits.sub_(peak[rows].view(groups, -1, 1)).clamp_min_(-floor).exp_()
        self._rescale(peak)
        self.numerator[rows] += _weigh(weights, values).flatten(0, 1)
        self.mass[rows] += weights.sum(-1).flatten()
        self.square_mass[rows] += torch.linalg.vector_norm(weights, dim=-1).flatten().double().square()

    def add_repeated(self, logit: float, value: float, index: Tensor, count: int) -> None:
        """Take in `count` identical candidates at once, the same for every row.

        Args:
            index: int64 [≤ K], the first of them, for the top-k.
        """
        peak = self.peak.clamp_min(logit)
        self._rescale(peak)
        weight = (logit - peak).double().exp()
        self.mass += count * weight
        self.square_mass += count * weight.square()
        self.numerator += count * weight[:, None] * value
        rows = (self.top_logit[:, -1] < logit).nonzero().squeeze(1)
        names = index.expand(len(rows), -1)
        self._merge_top(rows, torch.full(names.shape, logit, dtype=peak.dtype, device=peak.device), names)

    def _rescale(self, peak: Tensor) -> None:
        """Express the sums relative to a new peak, no smaller than the old."""
        shrink = (self.peak.double() - peak).exp()
        self.mass *= shrink
        self.square_mass *= shrink.square()
        self.numerator *= shrink[:, None]
        self.peak = peak

    def _take_top(self, logits: Tensor, highest: Tensor, index: Tensor, per_group: int) -> None:
        """Merge a tile's best candidates into the top-k of those rows that they reach."""
        rows = (highest > self.top_logit[:, -1]).nonzero().squeeze(1)
        if not len(rows):
            return
        best = logits[rows].topk(min(self.top_logit.shape[1], logits.shape[1]), dim=1)
        self._merge_top(rows, best.values, index[(rows // per_group)[:, None], best.indices])

    def _merge_top(self, rows: Tensor, logit: Tensor, index: Tensor) -> None:
        logit = torch.cat([self.top_logit[rows], logit], dim=1)
        index = torch.cat([self.top_index[rows], index], dim=1)
        order = logit.sort(dim=1, descending=True, stable=True).indices[:, : self.top_logit.shape[1]]
        self.top_logit[rows], self.top_index[rows] = logit.gather(1, order), index.gather(1, order)

    def merge(self, other: "StreamingPosterior") -> None:
        """Take in everything another run over the same queries has seen; one that has seen nothing changes nothing."""
        peak = torch.maximum(self.peak, other.peak)
        mine, theirs = (
            torch.where(state.peak == peak, 0.0, state.peak.double() - peak).exp() for state in (self, other)
        )
        self.mass = self.mass * mine + other.mass * theirs
        self.square_mass = self.square_mass * mine.square() + other.square_mass * theirs.square()
        self.numerator = self.numerator * mine[:, None] + other.numerator * theirs[:, None]
        self._merge_top(torch.arange(len(peak), device=peak.device), other.top_logit, other.top_index)
        self.peak = peak

    def pairs(self, rows: int) -> "tuple[StreamingPosterior, StreamingPosterior]":
        """Split 2S runs over the same rows, one behind the other, into the even runs and the odd ones."""
        tables = (getattr(self, field.name).unflatten(0, (-1, 2, rows)) for field in fields(self))
        even, odd = zip(*((table[:, 0].flatten(0, 1), table[:, 1].flatten(0, 1)) for table in tables), strict=True)
        return StreamingPosterior(*even), StreamingPosterior(*odd)

    @property
    def mean(self) -> Tensor:
        """Posterior mean of the values, float64 [R, V]."""
        return self.numerator / self.mass[:, None]

    @property
    def effective_samples(self) -> Tensor:
        """1/Σw², float64 [R], between 1 and the number of candidates."""
        return self.mass.square() / self.square_mass

    @property
    def top_weight(self) -> Tensor:
        """Weights of the top-k, float64 [R, K]; a row of all candidates sums to one."""
        return (self.top_logit - self.peak[:, None]).double().exp() / self.mass[:, None]


def _weigh(weights: Tensor, values: Tensor) -> Tensor:
    """Return Σ weight · value [G, R/G, V], colours one by one: together they are added less accurately.

    With three columns a product of 252 terms was off by 1.3e-6 of Σ |weight · value|, one by one by 2.7e-7.
    """
    if values.shape[-1] > MOST_COLOURS:  # whole images
        return weights @ values
    return torch.cat([weights @ value for value in values.split(1, dim=-1)], dim=-1)
