"""Detectors of named concepts: what each is fitted to, its honest thresholds, and where it is kept. Torch loads late.

A detector is fitted once, to the concept's own examples, and kept by model and examples. Its thresholds come from
out-of-fold scores of examples without the concept, so that a wanted rate of false alarms is kept on texts like those;
on other texts it is an estimate.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lm_core.artifacts import asset_path, cache_dir
from lm_core.concepts import NEUTRAL_PROMPT, Concept, Example, concepts, find_concept
from lm_core.errors import AssetError, ParameterError
from lm_core.evaluation import EvaluationSet, evaluation_sets, load_set
from lm_core.progress import Check, Progress, go_on, quiet
from lm_core.run_detection import between, deal
from lm_core.steer_params import DEFAULT_MODEL
from lm_core.user_concepts import my_concepts
from lm_core.user_source import UserConcept

if TYPE_CHECKING:
    from torch import Tensor

    from lm_core.llm.detector import Detector
    from lm_core.llm.model import LanguageModel

METHOD, AGGREGATE = "rfm", "logistic"
SET = "set:"  # before the id of an evaluation set, for a concept may have the same
FOLDS = 5
FEWEST_A_CLASS = 10  # four fifths of them are still enough for a fit

Watched = str | Concept | EvaluationSet


@dataclass(frozen=True, eq=False)
class Source:
    """What a detector is fitted to: examples, each fold's test indices, and the site that they are read at."""

    id: str
    name: str
    examples: list[Example]
    folds: list[list[int]]
    site: str

    def key(self, method: str, aggregate: str) -> str:
        """Return a hash of everything that the detector depends on but the model."""
        said = [[one.prompt, one.response, one.target, one.start] for one in self.examples]
        content = json.dumps([said, self.folds, self.site, method, aggregate])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def choices() -> dict[str, str]:
    """Return what there is to watch for: ids and names of concepts, the user's own first, then of evaluation sets."""
    known = {one.id: one.name for one in [*my_concepts().values(), *concepts().values()] if not one.is_rating}
    return known | {SET + name: load_set(name).name for name in evaluation_sets()}


def source_of(watched: Watched, answers: bool = False) -> Source:
    """Return the examples of a concept by its id, shipped or the user's own, or of a set ("set:toxic").

    Args:
        answers: read as answers even the texts of a set that are what a user says, to watch answers for the like.

    Raises:
        ParameterError: there is no such concept or set, or it rates with digits.
    """
    if isinstance(watched, str):
        watched = _named(watched)
    if isinstance(watched, EvaluationSet):
        examples, said = watched.examples(), watched.items[0].response is None
        if said and answers:
            examples = [replace(one, prompt=NEUTRAL_PROMPT, response=one.prompt) for one in examples]
        site = "last" if said and not answers else "response"
        return Source(watched.id, watched.classes[1], examples, deal(watched), site)
    if watched.is_rating:
        raise ParameterError(f"{watched.id} asks for a digit, which no text is; watch for set:sentiment instead.")
    if isinstance(watched, UserConcept) and (folds := watched.folds()):
        examples = [watched.example(i, "response") for i in range(len(watched.rows))]
        return Source(watched.id, watched.name, examples, folds, "response")
    examples = watched.examples("response")
    return Source(watched.id, watched.name, examples, _folds(examples), "response")


def _named(name: str) -> Concept | EvaluationSet:
    if name.startswith(SET):
        return load_set(name.removeprefix(SET))
    return find_concept(name)


def _folds(examples: Sequence[Example]) -> list[list[int]]:
    """Deal out examples by their prompt; where prompts are few, by pairs with and without the concept."""
    prompts = list(dict.fromkeys(one.prompt for one in examples))
    few = len(prompts) < 2 * FOLDS
    groups = [i // 2 for i in range(len(examples))] if few else [prompts.index(one.prompt) for one in examples]
    order = list(range(max(groups) + 1))
    random.Random(0).shuffle(order)
    return [[i for i, group in enumerate(groups) if order[group] % FOLDS == fold] for fold in range(FOLDS)]


def find_detector(
    watched: Watched,
    lm: "LanguageModel",
    method: str = METHOD,
    aggregate: str = AGGREGATE,
    on_progress: Progress = quiet,
    check: Check = go_on,
    answers: bool = False,
) -> "Detector":
    """Return a concept's detector: shipped, from the cache, or fitted now (most of a minute on two cores) and kept.

    Args:
        answers: of `source_of`.
    """
    from lm_core.llm.detector import read_detector

    source = source_of(watched, answers)
    shipped = detector_path(source, method, aggregate)
    if lm.name == DEFAULT_MODEL and shipped.is_file():
        found = read_detector(shipped)
        found.check_model(lm)
        return found
    kept = cache_dir() / "detectors" / lm.sha256[:16] / shipped.name
    try:
        found = read_detector(kept)
        found.check_model(lm)
        return found
    except AssetError:  # not there, or damaged: it can be computed again
        found = fit_source(source, lm, method, aggregate, on_progress, check)
        found.write(kept)
        return found


def detector_path(source: Source, method: str = METHOD, aggregate: str = AGGREGATE) -> Path:
    """Return where a detector in the default model is, if it is shipped."""
    name = re.sub(r"[^\w-]", "", source.id)[:40]
    return asset_path("detectors", f"{name}.{source.key(method, aggregate)}.safetensors")


def fit_source(
    source: Source,
    lm: "LanguageModel",
    method: str,
    aggregate: str,
    on_progress: Progress = quiet,
    check: Check = go_on,
) -> "Detector":
    """Fit a detector to all examples, and score every example by one that was fitted without its fold.

    Raises:
        ParameterError: unusable examples (see `lm_core.llm.detectors.fit_detectors`).
    """
    import torch

    from lm_core.llm.detect import cache, shorten
    from lm_core.llm.detectors import fit_detectors

    examples = [shorten(lm, one) for one in source.examples]
    tell = between(on_progress, check, 0.0, 0.5, f"reading {len(examples)} examples of {source.name}")
    activations, norms = cache.collect(lm, examples, tell)
    targets = torch.tensor([one.target for one in examples])

    def fit(rows: Sequence[int]) -> "Detector":
        generator = torch.Generator().manual_seed(0)
        part = activations[rows], targets[rows]
        return fit_detectors(*part, [(method, aggregate)], generator=generator, check=check)[method, aggregate]

    tell = between(on_progress, check, 0.5, 0.8, f"fitting {source.name}")
    final, others, scores = fit(range(len(targets))), [], torch.zeros(len(targets))
    if min((targets > 0).sum(), (targets < 0).sum()) >= FEWEST_A_CLASS:
        for fold in source.folds:
            tell(len(others) / len(source.folds))
            others.append(fit(sorted(set(range(len(targets))) - set(fold))))
            scores[fold] = others[-1].scores(activations[fold]).cpu()
        final = replace(final, held_scores=scores, held_targets=targets)
    tell = between(on_progress, check, 0.8, 1.0, f"reading {source.name} again")
    tokens, peaks = _without(source, examples, lm, others or [final], tell)
    about = {"concept": source.name, "model": lm.name, "model_sha256": lm.sha256, "site": source.site}
    return replace(final, norms=norms.mean(0), token_scores=tokens, peaks=peaks, **about)


def _without(
    source: Source,
    examples: Sequence[Example],
    lm: "LanguageModel",
    detectors: Sequence["Detector"],
    tell: Callable[[float], None],
) -> tuple["Tensor", "Tensor"]:
    """Return the token scores, and each text's peak, of the examples without the concept.

    Each is scored by the detector that was fitted without its fold; with too few examples for that, by the only one.
    """
    import torch

    from lm_core.llm.detect import answer_row, prompt_row, read
    from lm_core.llm.detector import levels

    fold_of = {i: fold for fold, members in enumerate(source.folds) for i in members}
    chosen = [i for i, one in enumerate(examples) if one.target < 0]
    rows = [
        prompt_row(lm, one.prompt) if one.response is None else answer_row(lm, one.response, one.prompt)
        for one in (examples[i] for i in chosen)
    ]
    found = read(lm, rows, detectors, tell)
    strips = [each[fold_of[i] % len(detectors)].strip for i, each in zip(chosen, found, strict=True)]
    strips = [strip for strip in strips if len(strip)]
    return torch.cat(strips), torch.stack([levels(strip).max() for strip in strips])
