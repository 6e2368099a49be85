"""Find in seconds at which strengths a new direction may be used: a few short texts a strength, written as one batch.

Fluency is `judges.collapsed` with the nats a token under the unsteered model. How much of the concept a text shows is
told by the concept's judge or, where it has none, by the concept's own directions (`Gauge`): these read the finished
text with the unsteered model, as they read the examples. That is a weaker witness than a judge, for the direction that
steers and the one that measures come from the same examples; the unsteered model and a random direction stand beside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_core.concepts import Concept, Example
from lm_core.lab_results import CurvePoint
from lm_core.llm.calibrate import Shifts, condition, mean_judge, sweep_point, usable_band
from lm_core.llm.example_reading import Tell, read_examples
from lm_core.llm.generate import Sampling, write
from lm_core.llm.heldout import Fits
from lm_core.llm.model import LanguageModel
from lm_core.llm.outcomes import BATCH, Condition, Outcome, Verdicts, bootstrap_interval, judged, measure, stack_shifts
from lm_core.llm.reading import surprise
from lm_core.user_source import TEXT_PROMPT

STRENGTHS = (0.01, 0.016, 0.025, 0.04, 0.06)
PROMPTS = 4  # with five strengths, a random direction, the unsteered and the prompted model: one batch of 48
TOKENS = 20  # enough for `judges.collapsed` to see a loop
GAUGE_BLOCKS = 5
SAMPLING = Sampling()


@dataclass(frozen=True, eq=False)
class Gauge:
    """Reads how much of a concept an answer's activations show: 0 … 1 from class to class, or the user's numbers.

    Attributes:
        probes: [probe, d_model] directions over the length that one unit of the concept has along them.
        blocks: [probe] where each of them reads; offsets: [probe] subtracted.
    """

    probes: Tensor
    blocks: list[int]
    offsets: Tensor

    def __call__(self, activations: Tensor) -> np.ndarray:
        """Return scores [n] of activations [n, layer, d_model]."""
        read = torch.einsum("npd,pd->np", activations[:, self.blocks], self.probes) - self.offsets
        return read.mean(1).double().numpy()


def fit_gauge(concept: Concept, fits: Fits, methods: Sequence[str]) -> Gauge:
    """Return a gauge of each method's best five blocks: y = (⟨h, v⟩ − a)/b, inverting the fit ⟨h, v⟩ ≈ a + b y.

    Args:
        fits: at the response; y is 0 and 1 for two classes, else the user's numbers.
    """
    reading = fits.reading
    activations, targets = reading.activations[reading.fitted], reading.targets[reading.fitted]
    values = (targets + 1) / 2 if concept.label == "binary" else targets + getattr(concept, "mean", 0.0)
    spread, probes, blocks, offsets = values - values.mean(), [], [], []
    for found in (fits.found[method] for method in methods):
        best = sorted(range(len(found)), key=lambda i: found[i].correlation)[-GAUGE_BLOCKS:]
        for block, one in ((i + 1, found[i]) for i in best):
            projections = activations[:, block] @ one.vector
            slope = (spread @ projections / spread.square().sum()).clamp_min(1e-6)
            probes.append(one.vector / slope)
            blocks.append(block)
            offsets.append(projections.mean() / slope - values.mean())
    return Gauge(torch.stack(probes), blocks, torch.stack(offsets))


def answers(
    lm: LanguageModel, conditions: Sequence[Condition], tokens: int, tell: Tell = lambda share: None
) -> list[list[int]]:
    """Write a text for every condition, 48 at a time; returns their tokens.

    Args:
        tell: called with the share done at every token; may raise to cancel.
    """
    found: list[list[int]] = []
    for first in range(0, len(conditions), BATCH):
        part = conditions[first : first + BATCH]

        def on_token(step: int, ids: list[int | None], first=first, part=part) -> None:
            tell((first + len(part) * step / tokens) / len(conditions))

        table = stack_shifts(lm, [one.shift for one in part])
        prompts, seeds = [lm.prompt_ids(one.prompt) for one in part], [one.seed for one in part]
        found += write(lm, prompts, seeds, SAMPLING, tokens, lambda table=table: table, on_token)
    return found


def written(
    lm: LanguageModel,
    concept: Concept,
    gauge: Gauge | None,
    conditions: Sequence[Condition],
    *,
    tokens: int = TOKENS,
    tell: Tell = lambda share: None,
) -> Verdicts:
    """Write a text for every condition and measure it: its fluency, and how much of the concept it shows.

    Args:
        gauge: measures the concept where it has no judge.
        tell: called with the share done; may raise to cancel.
    """
    texts = answers(lm, conditions, tokens, lambda share: tell(0.7 * share))
    found: list[Outcome] = []
    for first in range(0, len(conditions), BATCH):
        tell(0.7 + 0.2 * first / len(conditions))
        part = slice(first, first + BATCH)
        nlls = surprise(lm, [lm.prompt_ids(one.plain) for one in conditions[part]], texts[part])
        found += [measure(lm, text, nll) for text, nll in zip(texts[part], nlls, strict=True)]
    tell(0.9)
    fluent = np.array([not one.collapsed for one in found])
    if concept.judge and not concept.is_rating:
        return Verdicts(judged(concept, conditions, found), fluent, found)
    assert gauge is not None
    read, _ = read_examples(lm, [Example(TEXT_PROMPT, one.text or " ", 0.0) for one in found])
    return Verdicts(gauge(read), fluent, found)


def sweep(
    lm: LanguageModel,
    concept: Concept,
    gauge: Gauge | None,
    shifts: Shifts,
    keys: Sequence[tuple[str, str]],
    prompts: Sequence[str],
    tell: Tell = lambda share: None,
) -> dict[Any, Verdicts]:
    """Answer every prompt unsteered, asked in words, and at every strength of each direction and of a random one.

    Returns:
        By "unsteered", "prompted", (None, strength) for the random direction, (key, strength): [prompt] each.
    """
    names: list[Any] = ["unsteered", "prompted", *((key, s) for key in (None, *keys) for s in STRENGTHS)]
    conditions = [condition(concept, shifts, name, prompt, 0) for name in names for prompt in prompts]
    found, n = written(lm, concept, gauge, conditions, tell=tell), len(prompts)
    return {name: found.part(range(i * n, (i + 1) * n)) for i, name in enumerate(names)}


def calibration(found: Mapping[Any, Verdicts], keys: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return what `sweep` found as `calibrate.calibrate` gives it.

    Usable is a strength where at least three quarters of the texts are fluent and they show more of the concept than
    the unsteered ones and those of a random direction, by more than the standard error of the paired differences.
    """
    facts: dict[str, Any] = {name: mean_judge(found[name]) for name in ("unsteered", "prompted")}
    facts["random"] = [sweep_point(found[None, s], s) for s in STRENGTHS]
    return facts | {".".join(key): swept(found, key) for key in keys}


def texts(found: Mapping[Any, Verdicts], key: tuple[str, str], prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Return a direction's texts from `sweep`, the unsteered ones (strength 0) first."""
    parts = [(0.0, found["unsteered"]), *((s, found[key, s]) for s in STRENGTHS)]
    return [text for strength, part in parts for text in _texts(prompts, strength, part)]


def swept(found: Mapping[Any, Verdicts], key: tuple[str, str]) -> dict[str, Any]:
    """Return a direction's sweep as calibration gives it, but for the best strength: among usable ones where every text
    is fluent (else the usable ones), the one that shows most of the concept.

    Args:
        found: by "unsteered" and (key or None for the random direction, strength).
    """
    facts = usable_band([(s, found[key, s], found[None, s]) for s in STRENGTHS], found["unsteered"])
    if facts["band"]:
        points = [one for one in facts["sweep"] if facts["band"][0] <= one["strength"] <= facts["band"][1]]
        fluent = [one for one in points if one["fluent"] == 1] or points
        facts["best"] = max(fluent, key=lambda one: one["judge"])["strength"]
    return facts


def _texts(prompts: Sequence[str], strength: float, part: Verdicts) -> list[dict[str, Any]]:
    return [
        {
            "strength": strength,
            "prompt": prompt,
            "text": one.text,
            "score": round(float(score), 3),
            "nll": round(one.nll, 3),
            "collapsed": one.collapsed,
        }
        for prompt, one, score in zip(prompts, part.found, part.judge, strict=True)
    ]


def curve_point(found: Verdicts, strength: float) -> CurvePoint:
    """Return a strength's point of a curve; texts are one a prompt."""
    low, high = bootstrap_interval(found.judge, np.arange(len(found.judge)))
    nll = float(np.mean([one.nll for one in found.found]))
    effect, fluent = float(found.judge.mean()), float(found.fluent.mean())
    return CurvePoint(strength, round(effect, 4), (round(low, 4), round(high, 4)), round(nll, 3), round(fluent, 3))
