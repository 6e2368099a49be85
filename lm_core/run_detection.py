"""The detection table: how well every detector tells the classes of an evaluation set, and what it must beat.

Parameters in, facts out; torch loads on first use. Folds never split a group, a fold's rows have no part in fitting or
choosing what is tested on them, and activations are read once a set. The headline is the detector that validation rows
choose in each fold, not the best of twenty on the test rows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_core.detection_results import AGGREGATES, Scores, summarise, verdict
from lm_core.device import choose_device
from lm_core.errors import ParameterError
from lm_core.evaluation import REAL, EvaluationSet, load_benchmark, load_set
from lm_core.progress import Check, Progress, go_on, quiet
from lm_core.steer_params import DEFAULT_MODEL, METHODS

if TYPE_CHECKING:
    from torch import Tensor

    from lm_core.llm.model import LanguageModel

SHUFFLED, SHUFFLES = ("linear", "linear"), 5  # what is fitted to shuffled labels, a quick one, and how often
FOLDS = 5
MOST_ITEMS = 500  # of a benchmark: the paper's most, and a minute of fitting


def between(on_progress: Progress, check: Check, start: float, end: float, message: str) -> Callable[[float], None]:
    """Return what takes the share done of one part, which goes from start to end of the whole."""

    def tell(share: float) -> None:
        check()
        on_progress(start + share * (end - start), message, None)

    return tell


def table(
    name: str,
    path: str | Path | None = None,
    *,
    limit: int = MOST_ITEMS,
    methods: Sequence[str] = tuple(METHODS),
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    command: str = "",
    on_progress: Progress = quiet,
    check: Check = go_on,
) -> dict[str, Any]:
    """Measure all detectors and references on a shipped set, or on the user's copy of a benchmark.

    Args:
        name: of a shipped set; of a benchmark if there is a path.
        limit: most items of a benchmark.
        check: called between batches and fits; may raise to cancel.

    Raises:
        ParameterError, AssetError: no such set, benchmark, file, method or model.
    """
    from lm_core.llm.model import open_model

    for method in methods:
        if method not in METHODS:
            raise ParameterError(f"method is {method!r}; choose one of {', '.join(METHODS)}.")
    evaluation = load_set(name) if path is None else load_benchmark(name, path, limit)
    on_progress(0.0, "loading the model", None)
    lm = open_model(model, choose_device(device))
    return measure(lm, evaluation, methods, on_progress, check) | {"command": command}


def measure(
    lm: "LanguageModel",
    evaluation: EvaluationSet,
    methods: Sequence[str] = tuple(METHODS),
    on_progress: Progress = quiet,
    check: Check = go_on,
) -> dict[str, Any]:
    """Return the facts of one set in one model, JSON-ready."""
    import torch

    from lm_core.llm.detect import cache, shorten
    from lm_core.llm.references import judge_scores, word_scores

    whole, real, folds, began = evaluation.examples(), evaluation.kind == REAL, deal(evaluation), time.monotonic()
    examples, targets = [shorten(lm, one) for one in whole], torch.tensor([one.target for one in whole])
    tell = between(on_progress, check, 0.0, 0.35, f"reading {len(examples)} texts")
    activations, _ = cache.collect(lm, examples, tell)
    laps = [time.monotonic()]
    tell = between(on_progress, check, 0.35, 0.65, "fitting detectors")
    found = cross_fit(activations, targets, evaluation, folds, methods, tell)
    found.shuffled = [shuffled_scores(activations, targets, evaluation, folds, seed, check) for seed in range(SHUFFLES)]
    laps.append(time.monotonic())
    tell = between(on_progress, check, 0.65, 1.0, "asking the model")
    found.references["judge"] = judge_scores(lm, whole, evaluation.question, real, tell)
    found.references["words"] = word_scores(whole, targets, folds, real)
    facts = {"set": _about(evaluation), "model": lm.name, "model_sha256": lm.sha256, "folds": len(folds)}
    facts["set"]["cut_to_context"] = sum(short is not one for short, one in zip(examples, whole, strict=True))
    facts |= summarise(found, targets.numpy(), folds, real)
    facts["says"] = verdict(facts)
    laps.append(time.monotonic())
    parts = zip(("reading", "fitting", "references"), laps, [began, *laps], strict=False)
    facts["seconds"] = {name: round(end - start, 1) for name, end, start in parts} | {"all": round(laps[-1] - began, 1)}
    on_progress(1.0, "done", None)
    return facts | {"threads": torch.get_num_threads(), "dtype": str(lm.model.dtype).removeprefix("torch.")}


def _about(evaluation: EvaluationSet) -> dict[str, Any]:
    names = ("id", "name", "about", "kind", "classes", "licence", "notes")
    facts = {name: getattr(evaluation, name) for name in names}
    facts |= {name: list(facts[name]) for name in ("classes", "notes")}
    return facts | {"items": len(evaluation.items), "groups": len({item.group for item in evaluation.items})}


def cross_fit(
    activations: "Tensor",
    targets: "Tensor",
    evaluation: EvaluationSet,
    folds: Sequence[Sequence[int]],
    methods: Sequence[str],
    tell: Callable[[float], None] = lambda share: None,
) -> Scores:
    """Score every item by detectors that were fitted without its fold.

    A detector's scores are standardised by those of its own validation rows, so that one threshold fits all folds.
    """
    import torch

    from lm_core.llm.detectors import fit_detectors

    keys = [(method, aggregate) for method in methods for aggregate in AGGREGATES]
    found = Scores({key: np.zeros(len(targets)) for key in keys}, {method: [] for method in methods})
    found.chosen = np.zeros(len(targets))
    done = 0
    for count, test in enumerate(map(list, folds)):

        def step() -> None:
            nonlocal done
            tell(min(done / (len(folds) * len(methods)), 1))
            done += 1

        train, held = split_fold(evaluation, test)
        source = torch.Generator().manual_seed(count)
        fitted = fit_detectors(activations[train], targets[train], keys, generator=source, held=held, check=step)
        for key, one in fitted.items():
            spread = one.held_scores.std().clamp_min(1e-9)
            found.by[key][test] = ((one.scores(activations[test]).cpu() - one.held_scores.mean()) / spread).numpy()
        best = max(keys, key=lambda key: fitted[key].validation)
        found.picks.append(best)
        found.chosen[test] = found.by[best][test]
        for method in methods:
            found.blocks[method].append(fitted[method, "best"].blocks[0])
    return found


def deal(evaluation: EvaluationSet, seed: int = 0) -> list[list[int]]:
    """Return five folds, or as many as the groups can give both classes.

    Raises:
        ParameterError: not even two.
    """
    for count in range(FOLDS, 2, -1):
        try:
            return evaluation.folds(count, seed)
        except ParameterError:
            continue
    return evaluation.folds(2, seed)


def split_fold(evaluation: EvaluationSet, test: Sequence[int]) -> tuple[list[int], "Tensor"]:
    """Return the indices of a fold's training rows, and which of those [train] are for validation: whole groups."""
    import torch

    out = set(test)
    train = [i for i in range(len(evaluation.items)) if i not in out]
    inner = replace(evaluation, items=tuple(evaluation.items[i] for i in train))
    held = torch.zeros(len(train), dtype=torch.bool)
    held[deal(inner, seed=1)[0]] = True
    return train, held


def shuffled_scores(
    activations: "Tensor",
    targets: "Tensor",
    evaluation: EvaluationSet,
    folds: Sequence[Sequence[int]],
    seed: int = 0,
    check: Check = go_on,
) -> np.ndarray:
    """Return the scores [n] of a detector fitted to labels in random order: chance, over many orders, or rows leak."""
    import torch

    from lm_core.llm.detectors import fit_detectors

    scores = np.zeros(len(targets))
    for count, test in enumerate(map(list, folds)):
        train, held = split_fold(evaluation, test)
        source = torch.Generator().manual_seed(FOLDS * seed + count)
        wanted = targets[train]
        for part in (held.nonzero()[:, 0], (~held).nonzero()[:, 0]):  # both parts keep both classes
            wanted[part] = wanted[part[torch.randperm(len(part), generator=source)]]
        fitted = fit_detectors(activations[train], wanted, [SHUFFLED], generator=source, held=held, check=check)
        scores[test] = fitted[SHUFFLED].scores(activations[test]).cpu().numpy()
    return scores
