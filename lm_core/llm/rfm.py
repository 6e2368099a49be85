"""Concept directions by recursive feature machines, and what every way to find a direction shares.

The machine of Radhakrishnan, Beaglehole, Pandit & Belkin (2024) as Beaglehole et al. (2026) use it on activations:
kernel ridge regression with K_M(x, z) = exp(−√((x−z)ᵀM(x−z))/L), then M ← the average gradient outer product (AGOP) of
the fitted predictor, and again. A concept's direction is the top eigenvector of M. Unlike the paper's L ∈ {1, 10, 100},
L is a multiple of the median distance between the rows: an L far below the rows' norms makes K the identity.

It knows arrays only: nothing here runs a language model.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lm_core.errors import ParameterError

BANDWIDTHS = (0.7, 7.0)  # L in median distances (√2 for unit rows): the published 1 and 10; 100 finds what 10 finds
ROUNDS = 5
RIDGE = 1e-3  # the published λ
VALIDATION_SHARE = 0.2  # the published split
MIN_PER_CLASS = 8
MIN_EXAMPLES = 16


@dataclass(frozen=True, eq=False)
class Direction:
    """A concept's direction in one layer's activations, with the choices that validation made.

    Attributes:
        vector: float32 [d_model], a unit vector; more of the concept is on its positive side.
        top: float32 [p, d_model], orthonormal, the first equal to `vector`; each with a positive correlation.
        correlation: Pearson correlation of ⟨activation, vector⟩ with the target on the validation rows, 0..1.
        bandwidth: the kernel's L in the units of its inputs; NaN where no kernel is used.
        rounds: how often M was updated; 0 where no kernel is used.
        unit_rows: whether the fit scaled the centred rows to norm 1. The correlation never does.
    """

    vector: Tensor
    top: Tensor
    correlation: float
    bandwidth: float
    rounds: int
    unit_rows: bool


class Split(NamedTuple):
    """Training and validation rows [layer, n, d_model] and targets [n], both less the training mean, float64."""

    train: Tensor
    train_targets: Tensor
    held: Tensor
    held_targets: Tensor


class Candidate(NamedTuple):
    """What one setting found in every layer.

    Attributes:
        top: [layer, p, d_model] unit vectors.
        skill: [layer] correlation of the setting's predictor with the targets on the validation rows; 0 without one.
        usable: [layer] whether the fit was finite.
        bandwidth: [layer].
    """

    top: Tensor
    skill: Tensor
    usable: Tensor
    bandwidth: Tensor
    rounds: int
    unit_rows: bool


def laplace_kernel(x: Tensor, z: Tensor, metric: Tensor, bandwidth: Tensor | float) -> Tensor:
    """Return exp(−√((x−z)ᵀM(x−z))/L) [..., n, m] for x [..., n, d], z [..., m, d], M [..., d, d], L one or [...]."""
    return torch.exp(-distances(x, z, metric) / column(bandwidth, x))


def distances(x: Tensor, z: Tensor, metric: Tensor) -> Tensor:
    """Return √((x−z)ᵀM(x−z)), [..., n, m], for a symmetric positive semidefinite M [..., d, d]."""
    scaled = x @ metric
    squares_x, squares_z = (scaled * x).sum(-1), (z @ metric * z).sum(-1)
    return (squares_x[..., :, None] + squares_z[..., None, :] - 2 * scaled @ z.mT).clamp_min(0).sqrt()


def column(value: Tensor | float, like: Tensor) -> Tensor:
    """Return a number for each layer, or one for all, as [..., 1, 1] of the dtype and device of `like`."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)[..., None, None]


def ridge_coefficients(
    points: Tensor, targets: Tensor, metric: Tensor, bandwidth: Tensor | float, ridge: float = RIDGE
) -> Tensor:
    """Return α [..., n] of kernel ridge regression, (K + λI)α = y, on points [..., n, d] and targets [n]."""
    kernel = laplace_kernel(points, points, metric, bandwidth)
    kernel.diagonal(dim1=-2, dim2=-1).fill_(1 + ridge)  # exp(−0) without the distance's rounding error
    return torch.linalg.solve(kernel, targets.to(kernel).expand(kernel.shape[:-1])[..., None])[..., 0]


def predictor_gradients(points: Tensor, alpha: Tensor, metric: Tensor, bandwidth: Tensor | float) -> Tensor:
    """Return the gradients [..., n, d] of f(x) = Σ_i α_i K_M(x, x_i) at its own training points [..., n, d].

    ∇f(x_j) = −Σ_i α_i K_ij M(x_j − x_i) / (L d_ij); a point's own term, whose kernel has a kink there, counts as zero.
    Costs O(n²d + nd²), without a tensor of n²d entries.
    """
    apart, length = distances(points, points, metric), column(bandwidth, points)
    touching = apart <= 1e-6 * apart.amax((-2, -1), keepdim=True)  # a distance of rounding errors has no direction
    weights = (alpha[..., None, :] * torch.exp(-apart / length) / (length * apart)).masked_fill(touching, 0)
    return (weights @ points - weights.sum(-1, keepdim=True) * points) @ metric


def agop(gradients: Tensor, basis: Tensor | None = None) -> Tensor:
    """Return the average gradient outer product [..., d, d], divided by its largest entry.

    Args:
        gradients: [..., n, d].
        basis: [..., d_model, d] orthonormal columns, if the gradients are coordinates in a subspace: the largest entry
            is that of the whole [d_model, d_model] matrix.

    Where every gradient is zero (K is the identity, for L is far too small), the result is NaN.
    """
    whole = gradients if basis is None else gradients @ basis.mT
    largest = whole.square().mean(-2).amax(-1)  # that of a positive semidefinite matrix is on its diagonal
    return gradients.mT @ gradients / (gradients.shape[-2] * column(largest, gradients))


def fit_rfm_layers(
    activations: Tensor,
    targets: Tensor,
    *,
    generator: torch.Generator,
    bandwidths: Sequence[float] = BANDWIDTHS,
    rounds: int = ROUNDS,
    ridge: float = RIDGE,
    p: int = 3,
) -> list[Direction]:
    """Find one concept's direction in every layer; bandwidth, rounds and row scaling are chosen on validation rows.

    Args:
        activations: [n, layer, d_model].
        targets: [n]; two values (the larger means the concept) or real.
        generator: draws the validation rows, a fifth of each class, the same in every layer.
        bandwidths: L in median distances between training rows.
        rounds: most updates of M, 1..10.
        ridge: λ of the kernel regression, above 0.
        p: how many top eigenvectors to keep.

    Raises:
        ParameterError: unusable examples (see `split_rows`) or settings.

    Cost: for n=200, d_model=576 about .2 s for a layer on one core; memory a few float64 copies of the activations.
    """
    if not (bandwidths and all(0 < value < math.inf for value in bandwidths)):
        raise ParameterError(f"bandwidths is {bandwidths}; give at least one finite multiple above 0, such as 1.")
    if not (1 <= rounds <= 10 and 0 < ridge < math.inf):
        raise ParameterError(
            f"rounds is {rounds} and ridge {ridge}; choose rounds of 1..10 and a finite ridge above 0."
        )
    split = split_rows(activations, targets, generator)
    if not 1 <= p <= min(split.train.shape[1:]):
        raise ParameterError(f"p is {p}; choose 1..{min(split.train.shape[1:])}, the smaller of rows and width.")
    return choose(search(split, bandwidths, rounds, ridge, p), split)


def fit_rfm(
    activations: Tensor,
    targets: Tensor,
    *,
    generator: torch.Generator,
    bandwidths: Sequence[float] = BANDWIDTHS,
    rounds: int = ROUNDS,
    ridge: float = RIDGE,
    p: int = 3,
) -> Direction:
    """Find one concept's direction in one layer's activations [n, d_model]; otherwise as `fit_rfm_layers`."""
    layers = activations[:, None]
    return fit_rfm_layers(layers, targets, generator=generator, bandwidths=bandwidths, rounds=rounds, ridge=ridge, p=p)[
        0
    ]


def search(split: Split, bandwidths: Sequence[float], rounds: int, ridge: float, p: int) -> Iterator[Candidate]:
    """Yield the machine's top p eigenvectors for each row scaling, bandwidth and round."""
    basis = torch.linalg.qr(split.train.mT).Q  # M never leaves the training rows' span: min(n, d_model) coordinates do
    identity = torch.eye(basis.shape[-1]).to(basis).expand(len(basis), -1, -1)
    for unit_rows in (False, True):
        scaled = [normalize(rows, dim=-1) if unit_rows else rows for rows in (split.train, split.held)]
        points, held = (rows @ basis for rows in scaled)
        row, other = torch.triu_indices(points.shape[-2], points.shape[-2], offset=1)
        median = distances(points, points, identity)[:, row, other].median(-1).values.clamp_min(1e-300)
        for bandwidth in (multiple * median for multiple in bandwidths):
            metric, usable = identity, torch.ones_like(median, dtype=torch.bool)
            alpha = ridge_coefficients(points, split.train_targets, metric, bandwidth, ridge)
            for done in range(1, rounds + 1):
                metric = agop(predictor_gradients(points, alpha, metric, bandwidth), basis)
                usable = usable & metric.isfinite().all(-1).all(-1)
                metric = torch.where(usable[:, None, None], metric, identity)
                vectors = torch.linalg.eigh(metric).eigenvectors[..., -p:].flip(-1)
                alpha = ridge_coefficients(points, split.train_targets, metric, bandwidth, ridge)
                fitted = laplace_kernel(held, points, metric, bandwidth) @ alpha[..., None]
                skill = pearson(fitted, split.held_targets)[:, 0]
                yield Candidate((basis @ vectors).mT, skill, usable, bandwidth, done, unit_rows)


def choose(candidates: Iterable[Candidate], split: Split) -> list[Direction]:
    """Return each layer's best candidate, signed so that its correlations on the validation rows are positive.

    Best is the largest |Pearson(⟨a, v⟩, y)| of the top vector v. Where that is within chance (three standard errors)
    for every candidate, as with a label that depends on |⟨a, v⟩|, the candidate whose predictor does best is best.
    """
    best: list[tuple[tuple[bool, float, float], Direction] | None] = [None] * len(split.train)
    chance = 3 / math.sqrt(len(split.held_targets))
    for candidate in candidates:
        signed = pearson(split.held @ candidate.top.mT, split.held_targets)
        top = (candidate.top * torch.where(signed < 0, -1.0, 1.0)[..., None]).float()
        figures = zip(signed[:, 0].abs().tolist(), candidate.skill.tolist(), candidate.usable.tolist(), strict=True)
        for layer, (strength, skill, usable) in enumerate(figures):
            rank = (True, strength, skill) if strength > chance else (False, skill, strength)
            leader = best[layer]
            if usable and (leader is None or rank > leader[0]):
                choices = float(candidate.bandwidth[layer]), candidate.rounds, candidate.unit_rows
                best[layer] = rank, Direction(top[layer, 0].clone(), top[layer].clone(), strength, *choices)
    if None in best:
        lost = f"No direction is finite in layer {best.index(None)}"
        raise ParameterError(f"{lost}; give examples that differ more, or larger bandwidths, such as 1.")
    return [leader[1] for leader in best if leader is not None]


def pearson(projections: Tensor, targets: Tensor) -> Tensor:
    """Return the correlation of projections [layer, n, p] with targets [n], [layer, p]; 0 where either is constant."""
    projections, targets = projections - projections.mean(-2, keepdim=True), targets - targets.mean()
    scale = projections.norm(dim=-2) * targets.norm()
    return torch.where(scale > 0, (targets @ projections) / scale, 0)


def split_rows(activations: Tensor, targets: Tensor, generator: torch.Generator) -> Split:
    """Check the examples, hold out a fifth of each class (of all rows if targets are real), centre all.

    Classes of equal size lose the same places, so that the i-th row of one stays the partner of the i-th of the other.

    Raises:
        ParameterError: wrong shapes, non-finite values, one class, under 8 rows a class or 16 in all, identical rows.
    """
    check_examples(activations, targets)
    wanted = targets.to(activations.device).double()
    labels, places = wanted.unique(return_inverse=True)
    groups = places if len(labels) == 2 else torch.zeros_like(places)
    keys = torch.rand(len(wanted), generator=generator, device=generator.device).to(wanted.device)
    held = torch.zeros_like(places, dtype=torch.bool)
    for members in (group.nonzero()[:, 0] for group in (groups == 0, groups == 1)):
        held[members[keys[: len(members)].argsort()[: round(VALIDATION_SHARE * len(members))]]] = True
    rows = activations.detach().double().transpose(0, 1)
    centre, middle = rows[:, ~held].mean(1, keepdim=True), wanted[~held].mean()
    return Split(rows[:, ~held] - centre, wanted[~held] - middle, rows[:, held] - centre, wanted[held] - middle)


def check_examples(activations: Tensor, targets: Tensor) -> None:
    """Raise ParameterError unless a direction can be fitted to activations [n, layer, d_model] and targets [n]."""
    if activations.ndim != 3 or targets.shape != activations.shape[:1]:
        shapes = f"{list(activations.shape)} and {list(targets.shape)}"
        raise ParameterError(f"Activations and targets are {shapes}; they must be [n, layer, d_model] and [n].")
    if not (activations.isfinite().all() and targets.isfinite().all()):
        raise ParameterError("Activations or targets hold NaN or infinity; load the model in bfloat16 or float32.")
    labels, counts = targets.unique(return_counts=True)
    if len(labels) == 1:
        raise ParameterError(f"Every target is {labels.item():g}; give examples with and without the concept.")
    if len(targets) < MIN_EXAMPLES or (len(labels) == 2 and counts.min() < MIN_PER_CLASS):
        least = f"at least {MIN_PER_CLASS} of each class and {MIN_EXAMPLES} in all"
        raise ParameterError(f"There are {len(targets)} examples, {counts.tolist()[:2]} of a value; give {least}.")
    for layer in range(activations.shape[1]):
        distinct = len(activations[:, layer].unique(dim=0))
        if distinct <= len(targets) / 2:
            found = f"{distinct} different activations among {len(targets)} examples"
            raise ParameterError(f"Layer {layer} has only {found}; give examples that differ.")
