"""A concept's examples read at one site; directions fitted to them, and measured on examples that were held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lm_core import ranking
from lm_core.concepts import Concept
from lm_core.lab_results import HeldOut
from lm_core.llm.baselines import fit_layers
from lm_core.llm.directions import SEED, Directions, one_thread
from lm_core.llm.example_reading import Tell, read_examples
from lm_core.llm.model import LanguageModel
from lm_core.llm.rfm import Direction
from lm_core.user_source import FOLDS, UserConcept

DRAWS = 400
FEWEST_MEASURED = 2  # of each class

Split = tuple[list[int], list[int]]  # rows to fit to, rows to measure on


@dataclass(frozen=True, eq=False)
class Reading:
    """A concept's examples at one site.

    Attributes:
        activations: [n, layer, d_model]; norms: [layer], mean length; targets: [n], ±1 or centred numbers.
        fitted: rows that directions are fitted to; splits: what to measure, none if there are too few.
    """

    site: str
    activations: Tensor
    norms: Tensor
    targets: Tensor
    fitted: list[int]
    splits: list[Split]


def read(lm: LanguageModel, concept: Concept, site: str, tell: Tell = lambda share: None) -> Reading:
    """Read all examples of a concept, shipped or a user's own, at a site."""
    if isinstance(concept, UserConcept):
        examples, fitted = [concept.example(i, site) for i in range(len(concept.rows))], concept.fitted
        splits = _user_splits(concept)
    else:
        examples = concept.examples(site)
        fitted, splits = list(range(len(examples))), _shipped_splits(concept, len(examples))
    activations, norms = read_examples(lm, examples, tell)
    targets = torch.tensor([one.target for one in examples])
    return Reading(site, activations, norms[fitted].mean(0), targets, fitted, splits)


def _user_splits(concept: UserConcept) -> list[Split]:
    """Return five folds, or once the rows that no direction is fitted to."""
    everything, folds = set(range(len(concept.rows))), concept.folds()
    if folds:
        return [(sorted(everything - set(fold)), fold) for fold in folds]
    rest = everything - set(concept.fitted)
    few = min(len(rest & set(members)) for members in concept.classes) < FEWEST_MEASURED
    return [] if few else [(concept.fitted, sorted(rest))]


def _shipped_splits(concept: Concept, count: int) -> list[Split]:
    """Return five folds; examples about the same statement, which come in pairs, are in the same one."""
    statements, pair = len(concept.source.get("statements", ())) or count, 2 if concept.label == "binary" else 1
    fold = [i // pair % statements % FOLDS for i in range(count)]
    parts = [[i for i in range(count) if fold[i] == k] for k in range(FOLDS)]
    return [(sorted(set(range(count)).difference(part)), part) for part in parts]


def fit(method: str, activations: Tensor, targets: Tensor) -> list[Direction]:
    """Return the direction of every block but the first, as `fit_directions` finds them.

    Args:
        activations: [n, layer, d_model]; targets: [n].
    """
    with one_thread():
        return fit_layers(method, activations[:, 1:], targets, generator=torch.Generator().manual_seed(SEED))


@dataclass(frozen=True, eq=False)
class Fits:
    """What was found at one site: the examples as read, and by method the direction of every block but the first."""

    reading: Reading
    found: dict[str, list[Direction]]


def fit_sites(
    lm: LanguageModel,
    concept: Concept,
    sites: Sequence[str],
    methods: Sequence[str],
    tell: Tell = lambda share: None,
) -> dict[str, Fits]:
    """Read a concept's examples at every site and fit them by every method.

    Args:
        tell: called with the share done; may raise to cancel.
    """
    fits = {}
    for i, site in enumerate(sites):
        reading, found = read(lm, concept, site, lambda share, i=i: tell((i + 0.8 * share) / len(sites))), {}
        for k, method in enumerate(methods):
            tell((i + 0.8 + 0.2 * k / len(methods)) / len(sites))
            rows = reading.fitted
            found[method] = fit(method, reading.activations[rows], reading.targets[rows])
        fits[site] = Fits(reading, found)
    return fits


def stacked(found: Sequence[Direction]) -> Tensor:
    """Return directions as rows [layer, d_model], zero in the first block."""
    return torch.stack([torch.zeros_like(found[0].vector), *(one.vector for one in found)]).float()


def merged(lm: LanguageModel, concept: str, fits: Mapping[str, Fits]) -> Directions:
    """Return what was found at several sites as one file's worth; norms are the response's where it was read."""
    each = {(method, site): rows for site, one in fits.items() for method, rows in one.found.items()}
    correlations = {key: torch.tensor([0.0, *(one.correlation for one in rows)]) for key, rows in each.items()}
    vectors = {key: stacked(rows) for key, rows in each.items()}
    norms = fits.get("response", next(iter(fits.values()))).reading.norms
    return Directions(concept, lm.name, lm.sha256, norms, vectors, correlations)


def held_out(method: str, fits: Fits, tell: Tell = lambda share: None) -> HeldOut | None:
    """Fit without some rows, score these, and say how well scores and targets go together; None if nothing is held out.

    A row's score in a block is its projection less the middle of the fitted classes (the mean, of numbers), in standard
    deviations of the fitted rows; overall it is the mean over the blocks.

    Args:
        fits: the examples; directions already found there serve where they were fitted to the very same rows.
        tell: called with the share done; may raise to cancel.
    """
    reading = fits.reading
    activations, targets, parts = reading.activations, reading.targets, reading.splits
    if not parts:
        return None
    scores = torch.full(activations.shape[:2], torch.nan)
    for i, (train, test) in enumerate(parts):
        tell(i / len(parts))
        known = fits.found.get(method) if train == reading.fitted else None
        vectors = stacked(known or fit(method, activations[train], targets[train]))
        scores[test] = standard_scores(activations, targets, vectors, train)[test]
    measured = [i for i in range(len(targets)) if scores[i].isfinite().all()]
    how = f"{len(parts)} folds, each scored by a fit to the others" if len(parts) > 1 else "rows that were never fitted"
    return _figures(scores.double().numpy(), targets.double().numpy(), measured, how)


def standard_scores(activations: Tensor, targets: Tensor, vectors: Tensor, train: Sequence[int]) -> Tensor:
    """Return all rows' scores [n, layer], in units of the fitted rows."""
    projections = torch.einsum("nld,ld->nl", activations, vectors)
    fitted, wanted = projections[train], targets[train]
    values = wanted.unique()
    if len(values) == 2:
        middle = sum(fitted[wanted == value].mean(0) for value in values) / 2
    else:
        middle = fitted.mean(0)
    return (projections - middle) / fitted.std(0).clamp_min(1e-9)


def _figures(scores: np.ndarray, targets: np.ndarray, measured: list[int], how: str) -> HeldOut:
    kept, wanted, real = scores[measured], targets[measured], len(np.unique(targets)) > 2
    wanted = wanted if real else wanted - wanted.min() - np.ptp(wanted) / 2
    columns = [*kept.T, kept[:, 1:].mean(1)]
    skills = [ranking.skill(column, wanted, real) for column in columns]
    everything = [list(range(len(measured)))]
    ends = [ranking.interval(ranking.resampled(c, wanted, everything, real, draws=DRAWS)) for c in columns]
    right = [] if real else [float(((column > 0) == (wanted > 0)).mean()) for column in columns]
    overall: list[float | None] = [None] * len(scores)
    for i, score in zip(measured, columns[-1].tolist(), strict=True):
        overall[i] = round(score, 4)
    return HeldOut(
        measure="correlation" if real else "AUROC",
        how=how,
        rows=len(measured),
        by_block=[round(value, 4) for value in skills[:-1]],
        low=[round(low, 4) for low, _ in ends[:-1]],
        high=[round(high, 4) for _, high in ends[:-1]],
        accuracy=[round(value, 4) for value in right[:-1]],
        overall=round(skills[-1], 4),
        interval=(round(ends[-1][0], 4), round(ends[-1][1], 4)),
        overall_accuracy=None if real else round(right[-1], 4),
        scores=overall,
    )
