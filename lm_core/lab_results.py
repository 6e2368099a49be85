"""What the concept lab gives back: frozen, torch-free, lists that JSON can hold."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_core.user_concepts import Stored


@dataclass(frozen=True)
class HeldOut:
    """How well directions tell examples apart that had no part in the fit.

    Attributes:
        measure: "AUROC" or "correlation"; how: which rows were held out, a phrase.
        rows: how many were measured.
        by_block: [layer] of each block's direction alone; 0.5 (correlation 0) in the first, which has none.
        low, high: [layer] 95 % bootstrap intervals of these, over the rows.
        accuracy: [layer] share on the right side of the middle between the fitted classes; empty for numbers.
        overall, interval: of the mean of all blocks' scores, which no one chose by these rows.
        overall_accuracy: of the same; None for numbers.
        scores: [row] that mean, None for rows that were fitted.
    """

    measure: str
    how: str
    rows: int
    by_block: list[float]
    low: list[float]
    high: list[float]
    accuracy: list[float]
    overall: float
    interval: tuple[float, float]
    overall_accuracy: float | None
    scores: list[float | None]

    @property
    def best_block(self) -> int:
        """The block that does best on these rows; that it was chosen by them flatters its figure."""
        return max(range(1, len(self.by_block)), key=lambda layer: self.by_block[layer])

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "HeldOut":
        """Return the figures that `as_dict` described.

        Raises:
            KeyError, TypeError, ValueError: they are not such figures.
        """
        found = cls(**{field.name: values[field.name] for field in fields(cls)})
        numbers = [*found.by_block, *found.low, *found.high, *found.accuracy, found.overall, *found.interval]
        numbers += [score for score in found.scores if score is not None]
        same = len(found.by_block) == len(found.low) == len(found.high) > 1 and len(found.interval) == 2
        if not same or not all(math.isfinite(number) for number in numbers):
            raise ValueError("its held-out figures make no sense")
        return replace(found, interval=(found.interval[0], found.interval[1]))


@dataclass(frozen=True, eq=False)
class LabResult:
    """A new concept, saved.

    Attributes:
        stored: what was saved.
        held_out: None where there are too few examples to hold any out.
        band: usable strengths, fractions of the residual norm; None if none of those tried is.
        best: the strength tried that shows most of the concept among the usable (else the fluent) ones.
        examples: continuations: strength (0 unsteered), prompt, text, score, nll and collapsed of each.
        notices: what the user should know, a sentence each.
        seconds: of each phase, and in all.
    """

    stored: "Stored"
    held_out: HeldOut | None
    band: tuple[float, float] | None
    best: float
    examples: list[dict[str, Any]]
    notices: list[str]
    seconds: dict[str, float]


@dataclass(frozen=True)
class CurvePoint:
    """Texts at one strength: mean effect with its 95 % interval over prompts, mean surprise, share of fluent texts."""

    strength: float
    effect: float
    interval: tuple[float, float]
    nll: float
    fluent: float


@dataclass(frozen=True, eq=False)
class CompareResult:
    """Methods and sites side by side, in the order of `keys` ("method.site").

    Attributes:
        held_out: by key; None where nothing could be held out.
        cosines: [key][key] between directions, mean over the steered blocks.
        spectra: by site, [layer][≤ 10] the AGOP's largest eigenvalues, as shares of their sum; empty in block 0.
        curves: by key, effect against fluency, one point a strength.
        random: the same for a random direction; unsteered, prompted: single points (strength 0).
        unit: of effects; effect_of: what measured them, a sentence.
        blocks: first and last that were steered; prompts: how many each point is a mean over.
    """

    concept: str
    keys: list[str]
    held_out: dict[str, HeldOut | None]
    cosines: list[list[float]]
    spectra: dict[str, list[list[float]]]
    curves: dict[str, list[CurvePoint]]
    random: list[CurvePoint]
    unsteered: CurvePoint
    prompted: CurvePoint
    unit: str
    effect_of: str
    blocks: tuple[int, int]
    prompts: int
    seconds: float


@dataclass(frozen=True)
class MeaningResult:
    """What a direction seems to mean.

    Attributes:
        up, down: tokens that the block's direction points to most, and away from: about cosines (`logit_lens`).
        nearest: shipped concepts by mean cosine over the steered blocks: id, name, cosine; empty for a model that none
            are shipped for.
        highest, lowest: held-out examples at both ends: text, score, target.
        caveat: what to keep in mind.
    """

    concept: str
    block: int
    up: list[tuple[str, float]]
    down: list[tuple[str, float]]
    nearest: list[tuple[str, str, float]]
    highest: list[tuple[str, float, float]]
    lowest: list[tuple[str, float, float]]
    caveat: str
