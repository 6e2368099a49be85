"""How well scores rank: AUROC and correlations within folds, bootstrap intervals, thresholds. NumPy only."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lm_core.errors import ParameterError

DRAWS = 1000
LEVEL = 0.95
FALSE_POSITIVE_RATE = 0.05  # wanted, of texts without a concept

Folds = Sequence[Sequence[int]]


def auroc(scores: Any, labels: Any) -> float:
    """Return the chance that an item with the label scores above one without; ties count half.

    The Mann–Whitney statistic, equal to the area under the ROC curve (Hanley & McNeil 1982).

    Args:
        scores: [n] finite numbers; labels: [n], above 0 with the label, else without.

    Raises:
        ParameterError: only one class, or scores that are no numbers.
    """
    return float(_wins(*_classes(scores, labels)).mean())


def pearson(scores: Any, targets: Any) -> float:
    """Return the correlation of two lists of numbers, 0 where either is constant."""
    scores, targets = (np.asarray(each, float) for each in (scores, targets))
    apart, wanted = scores - scores.mean(), targets - targets.mean()
    scale = float(np.linalg.norm(apart) * np.linalg.norm(wanted))
    return float(apart @ wanted) / scale if scale > 0 else 0.0


def spearman(scores: Any, targets: Any) -> float:
    """Return the correlation of two lists' ranks; ties get their mean rank."""
    return pearson(ranks(np.asarray(scores, float)), ranks(np.asarray(targets, float)))


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of numbers from 0; ties share their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[places]


def skill(scores: Any, targets: Any, real: bool) -> float:
    """Return what a detector is judged by: AUROC of classes, Pearson's correlation with real targets."""
    return pearson(scores, targets) if real else auroc(scores, targets)


def within_folds(scores: Any, targets: Any, folds: Folds, measure: Callable[[Any, Any], float]) -> list[float]:
    """Return a measure in every fold: detectors of different folds score on different scales."""
    scores, targets = np.asarray(scores, float), np.asarray(targets, float)
    return [measure(scores[list(fold)], targets[list(fold)]) for fold in folds]


def resampled(scores: Any, targets: Any, folds: Folds, real: bool, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Return the mean skill over the folds [draw] with their items drawn anew, with replacement, class by class.

    Calls with the same targets, folds and seed draw the same items: the difference of two results is paired.
    """
    scores, targets = np.asarray(scores, float), np.asarray(targets, float)
    source, total = np.random.default_rng(seed), np.zeros(draws)
    for fold in map(list, folds):
        if real:
            rows = source.integers(len(fold), size=(draws, len(fold)))
            total += _correlations(scores[fold][rows], targets[fold][rows])
        else:
            wins = _wins(*_classes(scores[fold], targets[fold]))
            shares = [source.multinomial(n, np.full(n, 1 / n), size=draws) / n for n in wins.shape]
            total += ((shares[0] @ wins) * shares[1]).sum(1)
    return total / len(folds)


def interval(samples: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of bootstrap samples."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def threshold(without: Any, false_positive_rate: float) -> float:
    """Return the lowest score such that at most that share of the scores without the concept lies above it.

    Args:
        without: [n] held-out scores of texts (or tokens) without the concept.

    Raises:
        ParameterError: no scores, or a rate outside 0..1.
    """
    if not 0 <= false_positive_rate < 1:
        raise ParameterError(f"false_positive_rate is {false_positive_rate!r}; choose a number from 0 to below 1.")
    ordered = np.sort(np.asarray(without, float))
    if not len(ordered):
        raise ParameterError("There are no held-out scores without the concept; a threshold needs some.")
    return float(ordered[len(ordered) - 1 - math.floor(false_positive_rate * len(ordered) + 1e-9)])


def trailing_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Return the mean over the last `width` values up to each one [..., t], over fewer at the start."""
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, -1, dtype=float)], -1)
    ends = np.arange(1, values.shape[-1] + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[..., ends] - sums[..., starts]) / (ends - starts)


def _classes(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores, float), np.asarray(labels, float) > 0
    if scores.shape != labels.shape or not np.isfinite(scores).all():
        raise ParameterError(
            f"There are {scores.size} scores for {labels.size} labels; give one finite score for each."
        )
    if labels.all() or not labels.any():
        raise ParameterError(f"All {labels.size} items are of one class; give items of both to rank them.")
    return scores[labels], scores[~labels]


def _wins(with_: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Return [with, without] 1 where the one with the label scores higher, ½ at a tie, else 0."""
    return (with_[:, None] > without) + 0.5 * (with_[:, None] == without)


def _correlations(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    scores, targets = (each - each.mean(-1, keepdims=True) for each in (scores, targets))
    scale = np.linalg.norm(scores, axis=-1) * np.linalg.norm(targets, axis=-1)
    return np.divide((scores * targets).sum(-1), scale, out=np.zeros(len(scores)), where=scale > 0)
