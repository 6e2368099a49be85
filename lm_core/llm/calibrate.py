"""Find at which strengths a direction steers, and measure what it does on prompts that had no part in choosing.

Two controls stand beside every figure: the unsteered model, and a random direction of equal norm in the same blocks.
Calibration picks, from the concept's first held-out prompts, each direction's best strength and usable band; evaluation
takes the best one to the others. Where nothing works, the facts say so.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_core.concepts import Concept
from lm_core.llm.directions import Directions, Steering, random_directions
from lm_core.llm.model import LanguageModel
from lm_core.llm.outcomes import Condition, Verdicts, bootstrap_interval, verdicts

STRENGTHS = (0.01, 0.02, 0.035, 0.055, 0.085)
FLUENT_SHARE = 0.75  # of the texts at a usable strength
RANDOM_SEED = 1234

Check = Callable[[float], None]


@dataclass(frozen=True)
class Plan:
    """How much to measure: prompts, seeds and tokens cost time in proportion."""

    blocks: tuple[int, int]
    strengths: tuple[float, ...] = STRENGTHS
    calibration_prompts: int = 4
    calibration_tokens: int = 32
    evaluation_prompts: int = 20
    evaluation_tokens: int = 40
    seeds: tuple[int, ...] = (0, 1, 2)
    other_prompts: int = 20  # for the methods beside the best one, at the first seed only; 0 leaves them out


class Shifts:
    """Makes the shift [layer, d_model] of any direction at any strength in a plan's blocks."""

    def __init__(self, lm: LanguageModel, directions: Directions, blocks: tuple[int, int]):
        def steering(vectors: Tensor) -> Steering:
            return Steering([vectors], directions.norms, [blocks], lm)

        self.table = {key: steering(vectors) for key, vectors in directions.vectors.items()}
        self.control = steering(random_directions(lm, RANDOM_SEED))

    def of(self, key: tuple[str, str] | None, strength: float) -> Tensor | None:
        """Return the shift of (method, site), of the random control for None."""
        steering = self.control if key is None else self.table[key]
        shift = steering.shift(torch.tensor([[strength]]))
        return None if shift is None else shift[:, 0]


def measure_concept(
    lm: LanguageModel, concept: Concept, directions: Directions, plan: Plan, check: Check = lambda share: None
) -> dict[str, Any]:
    """Calibrate every direction of a concept and evaluate the best; returns JSON-ready facts."""
    began = time.monotonic()
    shifts = Shifts(lm, directions, plan.blocks)
    calibration = calibrate(lm, concept, shifts, plan, lambda share: check(share / 2))
    evaluation = evaluate(lm, concept, shifts, plan, calibration, lambda share: check((1 + share) / 2))
    return {
        "concept": concept.id,
        "model": lm.name,
        "model_sha256": lm.sha256,
        "blocks": list(plan.blocks),
        "calibration": calibration,
        "evaluation": evaluation,
        "seconds": round(time.monotonic() - began, 1),
    }


def calibrate(
    lm: LanguageModel, concept: Concept, shifts: Shifts, plan: Plan, check: Check = lambda share: None
) -> dict[str, Any]:
    """Sweep every direction's strength; returns for each "method.site" its sweep, best strength, band, collapse."""
    prompts = concept.calibration_prompts[: plan.calibration_prompts]
    keys: list[Any] = ["unsteered", "prompted", *((None, s) for s in plan.strengths)]
    keys += [(key, strength) for key in shifts.table for strength in plan.strengths]
    conditions = [condition(concept, shifts, key, prompt, 0) for key in keys for prompt in prompts]
    all_found = verdicts(lm, concept, conditions, tokens=plan.calibration_tokens, check=check)
    found = {key: all_found.part(range(i * len(prompts), (i + 1) * len(prompts))) for i, key in enumerate(keys)}
    facts: dict[str, Any] = {name: mean_judge(found[name]) for name in ("unsteered", "prompted")}
    facts["random"] = [sweep_point(found[None, s], s) for s in plan.strengths]
    for key in shifts.table:
        sweep = [(s, found[key, s], found[None, s]) for s in plan.strengths]
        facts[".".join(key)] = usable_band(sweep, found["unsteered"])
    return facts


def condition(concept: Concept, shifts: Shifts, key: Any, prompt: str, seed: int) -> Condition:
    if isinstance(key, str):
        return Condition(concept.asked(prompt) if key == "prompted" else prompt, prompt, seed)
    return Condition(prompt, prompt, seed, shifts.of(*key))


def mean_judge(found: Verdicts) -> float:
    return round(float(found.judge.mean()), 4)


def sweep_point(found: Verdicts, strength: float) -> dict[str, float]:
    point = {"strength": strength, "judge": mean_judge(found), "fluent": round(float(found.fluent.mean()), 3)}
    if found.found:
        point["nll"] = round(float(np.mean([one.nll for one in found.found])), 3)
        point["distinct2"] = round(float(np.mean([one.distinct2 for one in found.found])), 3)
    return point


def usable_band(sweep: list[tuple[float, Verdicts, Verdicts]], unsteered: Verdicts) -> dict[str, Any]:
    """Return a sweep's points, its best strength, the band of usable ones and where most texts collapse."""
    usable = [s for s, found, random in sweep if _fluent(found) and _beats(found, unsteered) and _beats(found, random)]
    means = {s: float(found.judge.mean()) for s, found, _ in sweep}
    collapse = next((s for s, found, _ in sweep if found.fluent.mean() < 0.5), None)
    fluent = [s for s, found, _ in sweep if _fluent(found)]
    best = max(usable or fluent or [sweep[0][0]], key=lambda s: means[s])
    band = _around(best, usable, [s for s, *_ in sweep]) if usable else None
    points = [sweep_point(found, s) for s, found, _ in sweep]
    return {"best": best, "band": band, "collapse": collapse, "gain": _gain(means[best], unsteered), "sweep": points}


def _gain(mean: float, unsteered: Verdicts) -> float:
    return round(mean - float(unsteered.judge.mean()), 4)


def _around(best: float, usable: Sequence[float], strengths: Sequence[float]) -> list[float]:
    """Return the first and last of the unbroken run of usable strengths that the best one is in."""
    low = high = strengths.index(best)
    while low > 0 and strengths[low - 1] in usable:
        low -= 1
    while high + 1 < len(strengths) and strengths[high + 1] in usable:
        high += 1
    return [strengths[low], strengths[high]]


def _fluent(found: Verdicts) -> bool:
    return bool(found.fluent.mean() >= FLUENT_SHARE)


def _beats(found: Verdicts, other: Verdicts) -> bool:
    """Tell whether the mean is higher by more than the standard error of the paired difference."""
    difference = found.judge - other.judge
    return bool(difference.mean() > difference.std(ddof=1) / len(difference) ** 0.5 and difference.mean() > 0)


def evaluate(
    lm: LanguageModel,
    concept: Concept,
    shifts: Shifts,
    plan: Plan,
    calibration: dict[str, Any],
    check: Check = lambda share: None,
) -> dict[str, Any]:
    """Measure the calibrated RFM direction on new prompts against both controls and the prompt, then the other methods.

    Works means: the bootstrap intervals (95 %, over prompts) of the difference to the unsteered model and to the random
    direction exclude zero, and at least three quarters of the texts are fluent.
    """
    rfm = [key for key in shifts.table if key[0] == "rfm"]
    chosen = max(rfm, key=lambda key: _promise(calibration[".".join(key)]))
    strength = calibration[".".join(chosen)]["best"]
    seeds = plan.seeds[:1] if concept.is_rating else plan.seeds  # a rating is read off the logits: no noise in it
    rows = [(prompt, seed) for prompt in concept.evaluation_prompts[: plan.evaluation_prompts] for seed in seeds]
    keys: list[Any] = ["unsteered", "prompted", (None, strength), (chosen, strength)]
    conditions = [condition(concept, shifts, key, prompt, seed) for key in keys for prompt, seed in rows]
    others = [(key, calibration[".".join(key)]["best"]) for key in shifts.table if key != chosen]
    few = concept.evaluation_prompts[: plan.other_prompts]
    conditions += [condition(concept, shifts, key, prompt, plan.seeds[0]) for key in others for prompt in few]
    all_found = verdicts(lm, concept, conditions, tokens=plan.evaluation_tokens, check=check)
    n = len(rows)
    unsteered, prompted, random, steered = (all_found.part(range(i * n, (i + 1) * n)) for i in range(4))
    facts = _compare(rows, unsteered, prompted, random, steered)
    facts |= {"method": chosen[0], "site": chosen[1], "strength": strength, "prompts": len(rows) // len(seeds)}
    facts |= {"seeds": list(seeds), "tokens": plan.evaluation_tokens, "others": {}}
    for i, (key, at) in enumerate(others):
        part = all_found.part(range(4 * n + i * len(few), 4 * n + (i + 1) * len(few)))
        if few:
            facts["others"][".".join(key)] = sweep_point(part, at)
    if concept.is_rating:
        facts["curve"] = _rating_curve(lm, concept, shifts, chosen, plan)
    return facts


def _rating_curve(
    lm: LanguageModel, concept: Concept, shifts: Shifts, chosen: tuple[str, str], plan: Plan
) -> list[dict[str, float]]:
    """Return the mean expected rating from the most negative strength to the most positive."""
    prompts = concept.evaluation_prompts[: plan.evaluation_prompts]
    strengths = [*(-s for s in reversed(plan.strengths)), 0.0, *plan.strengths]
    points = []
    for strength in strengths:
        conditions = [condition(concept, shifts, (chosen, strength), prompt, 0) for prompt in prompts]
        points.append(sweep_point(verdicts(lm, concept, conditions, tokens=1), strength))
    return points


def _promise(facts: dict[str, Any]) -> tuple[bool, float]:
    return facts["band"] is not None, facts["gain"]


def _compare(
    rows: list[tuple[str, int]], unsteered: Verdicts, prompted: Verdicts, random: Verdicts, steered: Verdicts
) -> dict[str, Any]:
    prompts = np.unique([prompt for prompt, _ in rows], return_inverse=True)[1]
    names = {"steered": steered, "unsteered": unsteered, "random": random, "prompted": prompted}
    facts: dict[str, Any] = {name: mean_judge(found) for name, found in names.items()}
    works = float(steered.fluent.mean()) >= FLUENT_SHARE
    for name, other in (("unsteered", unsteered), ("random", random), ("prompted", prompted)):
        low, high = bootstrap_interval(steered.judge - other.judge, prompts)
        facts[f"over_{name}"] = [round(low, 4), round(high, 4)]
        works = works and (low > 0 or name == "prompted")
    facts["fluent"] = {name: round(float(found.fluent.mean()), 3) for name, found in names.items()}
    facts["works"] = bool(works)
    if steered.found:
        facts["nll"] = {name: round(float(np.mean([o.nll for o in v.found])), 3) for name, v in names.items()}
        facts["example"] = {"prompt": rows[0][0], "text": steered.found[0].text}
    return facts
