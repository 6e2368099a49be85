"""From projections to one score: linear regression, logistic regression, or a recursive feature machine.

A readout's inputs are the projections ⟨h, v⟩ on the directions of one block or of all, side by side (Beaglehole et al.
2026 aggregate all blocks so). Whatever a readout can choose, the validation rows choose.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from lm_core.errors import ParameterError
from lm_core.llm.baselines import PENALTIES, RIDGES, logistic_weights
from lm_core.llm.rfm import agop, distances, laplace_kernel, pearson, predictor_gradients, ridge_coefficients

BANDWIDTHS = (1.0, 5.0)  # of the kernel readout, in median distances between its rows
ROUNDS = 3


@dataclass(frozen=True, eq=False)
class LinearReadout:
    """score = ⟨features, weights⟩ + bias: weights [f]. The mean of scores is the score of the mean."""

    kind: ClassVar[str] = "linear"
    weights: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return scores [...] of features [..., f]."""
        return features @ self.weights.to(features) + self.bias.to(features)


@dataclass(frozen=True, eq=False)
class KernelReadout:
    """score = Σ_i alpha_i K_M(features, points_i) + bias: points [m, f], alpha [m], metric M [f, f]."""

    kind: ClassVar[str] = "kernel"
    points: Tensor
    alpha: Tensor
    metric: Tensor
    bandwidth: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return scores [...] of features [..., f]."""
        exact = features.to(torch.float32 if features.device.type == "mps" else torch.float64)  # distances cancel
        points, alpha, metric, bandwidth, bias = (
            one.to(exact) for one in (self.points, self.alpha, self.metric, self.bandwidth, self.bias)
        )
        middle = points.mean(0)
        flat = exact.reshape(-1, exact.shape[-1]) - middle
        scores = laplace_kernel(flat, points - middle, metric, bandwidth) @ alpha + bias
        return scores.reshape(features.shape[:-1]).to(features)


Readout = LinearReadout | KernelReadout
READOUTS: dict[str, type[LinearReadout] | type[KernelReadout]] = {
    one.kind: one for one in (LinearReadout, KernelReadout)
}


class Rows(NamedTuple):
    """Features [n, f] and targets [n] of the training rows, and of the validation rows."""

    train: Tensor
    train_targets: Tensor
    held: Tensor
    held_targets: Tensor


def fit_readout(method: str, rows: Rows) -> Readout:
    """Fit a readout in float64.

    Raises:
        ParameterError: an unknown method, or features that say nothing.
    """
    if method not in FITS:
        raise ParameterError(f"aggregate is {method!r}; choose one of best, {', '.join(FITS)}.")
    rows = Rows(*(each.double() for each in rows))
    centre, spread = rows.train.mean(0), rows.train.std(0)
    spread = torch.where(spread > 0, spread, 1)
    scaled = rows._replace(train=(rows.train - centre) / spread, held=(rows.held - centre) / spread)
    best = max(FITS[method](scaled), key=lambda one: _agreement(one, scaled))
    if isinstance(best, LinearReadout):
        weights = best.weights / spread
        return LinearReadout(weights.float(), (best.bias - centre @ weights).float())
    metric = best.metric / torch.outer(spread, spread)
    points = best.points * spread + centre
    return KernelReadout(*(each.float() for each in (points, best.alpha, metric, best.bandwidth, best.bias)))


def _agreement(readout: Readout, rows: Rows) -> float:
    found = pearson(readout(rows.held)[:, None], rows.held_targets)[0]
    return float(found) if found.isfinite() else -1.0


def _linear(rows: Rows) -> Iterable[Readout]:
    middle, identity = rows.train_targets.mean(), torch.eye(rows.train.shape[1]).to(rows.train)
    gram, slope = rows.train.T @ rows.train, rows.train.T @ (rows.train_targets - middle)
    for ridge in RIDGES:
        yield LinearReadout(torch.linalg.solve(gram + ridge * len(rows.train) * identity, slope), middle)


def _logistic(rows: Rows) -> Iterable[Readout]:
    """Real targets are scaled to 0..1 and taken as probabilities."""
    lowest, highest = rows.train_targets.aminmax()
    shares = (rows.train_targets - lowest) / (highest - lowest)
    for penalty in PENALTIES:
        weights = logistic_weights(rows.train[None], shares, penalty)[0]
        yield LinearReadout(weights[:-1], weights[-1])


def _rfm(rows: Rows) -> Iterable[Readout]:
    """The machine itself, M = identity first: plain kernel regression is among the choices."""
    points, middle = rows.train, rows.train_targets.mean()
    identity = torch.eye(points.shape[1]).to(points)
    row, other = torch.triu_indices(len(points), len(points), offset=1)
    median = distances(points, points, identity)[row, other].median().clamp_min(1e-12)
    for bandwidth in (multiple * median for multiple in BANDWIDTHS):
        metric = identity
        for _ in range(ROUNDS + 1):
            alpha = ridge_coefficients(points, rows.train_targets - middle, metric, bandwidth)
            yield KernelReadout(points, alpha, metric, bandwidth, middle)
            metric = agop(predictor_gradients(points, alpha, metric, bandwidth))
            if not metric.isfinite().all():
                break


FITS: dict[str, Callable[[Rows], Iterable[Readout]]] = {"rfm": _rfm, "linear": _linear, "logistic": _logistic}
