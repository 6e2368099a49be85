"""The other ways to find a concept's direction, beside the recursive feature machine, and the table of all of them.

All share the machine's checks, split, centring, choice and sign (`lm_core.llm.rfm`): only the direction differs. Where
a method has a ridge, it too is chosen on the validation rows.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from lm_core.errors import ParameterError
from lm_core.llm.rfm import Candidate, Direction, Split, choose, fit_rfm, fit_rfm_layers, split_rows

RIDGES = (1e-3, 1e-1, 10.0)  # linear: in mean squared row norms; a larger one gives the difference of means
PENALTIES = (1e-2, 1.0, 100.0)  # logistic: on standardised inputs, beside the sum of the losses
NEWTON_STEPS = 15
COMPONENTS = 3


def candidate(vectors: Tensor) -> Candidate:
    """Return directions [layer, d_model, p], of any length, as unit vectors to choose from."""
    lengths = vectors.norm(dim=-2, keepdim=True)
    usable = (lengths.isfinite() & (lengths > 0))[:, 0, 0]
    nothing = torch.zeros_like(usable, dtype=vectors.dtype)
    return Candidate((vectors / lengths).mT, nothing, usable, nothing + torch.nan, 0, False)


def mean_difference_candidates(split: Split) -> Iterator[Candidate]:
    """Yield Xᵀ(y − ȳ): for two classes, the difference of their means; for real targets, the covariance with them."""
    yield candidate(split.train.mT @ split.train_targets[:, None])


def linear_candidates(split: Split) -> Iterator[Candidate]:
    """Yield the weights Xᵀ(XXᵀ + λI)⁻¹(y − ȳ) of ridge regression for every λ of `RIDGES`."""
    gram = split.train @ split.train.mT
    energy = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    identity = torch.eye(gram.shape[-1]).to(gram)
    for ridge in RIDGES:
        alpha = torch.linalg.solve(
            gram + ridge * energy * identity, split.train_targets[:, None].expand(*gram.shape[:2], 1)
        )
        yield candidate(split.train.mT @ alpha)


def logistic_candidates(split: Split) -> Iterator[Candidate]:
    """Yield the gradient of the logit of ridge logistic regression on standardised inputs, for all of `PENALTIES`.

    Real targets are scaled to 0..1 and taken as probabilities.
    """
    spread = split.train.std(1, keepdim=True)
    spread = torch.where(spread > 0, spread, 1)
    basis = torch.linalg.qr((split.train / spread).mT).Q  # the weights lie in the rows' span
    points = (split.train / spread) @ basis
    lowest, highest = split.train_targets.aminmax()
    shares = (split.train_targets - lowest) / (highest - lowest)
    for penalty in PENALTIES:
        yield candidate(basis @ logistic_weights(points, shares, penalty)[:, :-1, None] / spread.mT)


def logistic_weights(points: Tensor, shares: Tensor, penalty: float) -> Tensor:
    """Minimise Σ cross-entropy(shares, σ(Xw + b)) + ½ penalty ‖w‖² by Newton's method; b is free.

    Each step has the best of ten lengths 1, ½, ¼ …, so the loss never rises.

    Args:
        points: [layer, n, r]; shares: [n] in 0..1.

    Returns:
        w and then b, [layer, r + 1].
    """
    inputs = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    ridge = torch.full_like(inputs[0, 0], penalty)
    ridge[-1] = 0
    lengths = torch.cat([0.5 ** torch.arange(10.0), torch.zeros(1)]).to(inputs)[:, None, None]
    weights = torch.zeros_like(inputs[:, 0])
    for _ in range(NEWTON_STEPS):
        chance = (inputs @ weights[..., None])[..., 0].sigmoid()
        slope = ((chance - shares)[:, None] @ inputs)[:, 0] + ridge * weights
        curvature = inputs.mT @ (inputs * (chance * (1 - chance))[..., None]) + ridge.diag()
        trials = weights - lengths * torch.linalg.solve(curvature, slope)
        logits = torch.einsum("lnr,slr->sln", inputs, trials)
        losses = binary_cross_entropy_with_logits(logits, shares.expand_as(logits), reduction="none").sum(-1)
        best = (losses + 0.5 * (ridge * trials.square()).sum(-1)).argmin(0)
        weights = trials[best, torch.arange(len(best), device=best.device)]
    return weights


def pca_candidates(split: Split) -> Iterator[Candidate]:
    """Yield the top principal components of differences, not centred: their mean is the concept.

    Differences are those of pairs (the i-th row with the concept minus the i-th without) if the classes are equally
    large, else the rows themselves minus the middle between the class means. Real targets are halved by rank, and the
    lower half's i-th is paired with the upper half's i-th.
    """
    labels, targets = split.train_targets.unique(), split.train_targets
    if len(labels) == 2:
        low, high = (split.train[:, targets == label] for label in labels)
    else:
        order, half = targets.argsort(stable=True), len(targets) // 2
        low, high = split.train[:, order[:half]], split.train[:, order[-half:]]
    if low.shape == high.shape:
        differences = high - low
    else:
        differences = split.train - (low.mean(1, keepdim=True) + high.mean(1, keepdim=True)) / 2
    yield candidate(torch.linalg.svd(differences, full_matrices=False).Vh[:, :COMPONENTS].mT)


CANDIDATES: dict[str, Callable[[Split], Iterator[Candidate]]] = {
    "logistic": logistic_candidates,
    "linear": linear_candidates,
    "mean_difference": mean_difference_candidates,
    "pca": pca_candidates,
}


def fit_layers(method: str, activations: Tensor, targets: Tensor, *, generator: torch.Generator) -> list[Direction]:
    """Find one concept's direction in every layer by any method of `METHODS`, all layers in one pass.

    Args:
        method: a key of `METHODS`.
        activations: [n, layer, d_model].
        targets: [n]; two values (the larger means the concept) or real.
        generator: draws the validation rows; one state of it draws the same rows for every method.

    Returns:
        A direction for each layer. `top` has 3 rows for rfm and pca, 1 for the others; baselines have bandwidth NaN
        and 0 rounds.

    Raises:
        ParameterError: an unknown method or unusable examples (see `lm_core.llm.rfm.split_rows`).
    """
    if method == "rfm":
        return fit_rfm_layers(activations, targets, generator=generator)
    if method not in CANDIDATES:
        raise ParameterError(f"method is {method!r}; choose one of {', '.join(METHODS)}.")
    split = split_rows(activations, targets, generator)
    return choose(CANDIDATES[method](split), split)


def fit_layer(method: str, activations: Tensor, targets: Tensor, *, generator: torch.Generator) -> Direction:
    """Find the direction in one layer's activations [n, d_model]; otherwise as `fit_layers`."""
    return fit_layers(method, activations[:, None], targets, generator=generator)[0]


METHODS: dict[str, Callable[..., Direction]] = {
    "rfm": fit_rfm,
    **{method: partial(fit_layer, method) for method in CANDIDATES},
}
logistic, linear, mean_difference, pca = (METHODS[name] for name in ("logistic", "linear", "mean_difference", "pca"))
