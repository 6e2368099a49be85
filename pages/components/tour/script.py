"""The tour's script: an opening, five steps (one a strand), an end, each of a few beats; read from assets/tour.json.

A figure in the narration is a placeholder such as `{c1.score}`, filled from the shipped runs when it is spoken.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lm_core import run_mechanics
from lm_core.artifacts import asset_path
from lm_core.errors import AssetError, LabError
from lm_core.exhibit_params import STRANDS
from lm_core.exhibit_results import ExhibitResult

PLACEHOLDER = re.compile(r"\{(\w+?)(-broken)?\.([^{}]+)\}")
OWN_QUERY = ("tour", "beat", "present")  # the tour's part of a URL


@dataclass(frozen=True)
class Beat:
    """One thing to say and to look at.

    Attributes:
        page: its address, "" for Home; query: what the URL says beside the tour's own.
        show: key of the container to bring into view, "" for the top of the page.
        minutes: planned for it.
        text: sentences; one whose placeholder has no figure here is left out, so the first has none.
    """

    page: str
    query: dict[str, str]
    show: str
    minutes: float
    text: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """Some beats under one title; `strand` is the letter of the strand it visits, "" for the opening and the end."""

    title: str
    strand: str
    beats: tuple[Beat, ...]


@dataclass(frozen=True)
class Stop:
    """A beat with its place: step 0 is the opening, 1 to 5 the strands; beats count from 1."""

    step: int
    number: int
    title: str
    beat: Beat

    @property
    def query(self) -> dict[str, str]:
        """What the URL of this stop says."""
        return {**self.beat.query, "tour": str(self.step), "beat": str(self.number)}


@lru_cache(maxsize=1)
def load_tour() -> tuple[Step, ...]:
    """Return the tour.

    Raises:
        AssetError: its file is missing or damaged.
    """
    path = asset_path("tour.json")
    try:
        return parse_tour(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise AssetError(f"{path.name} can't be read ({error}); restore it from the repository.") from None


def parse_tour(source: Any) -> tuple[Step, ...]:
    """Check what the tour's file says.

    Raises:
        AssetError: a field is missing, unknown or makes no sense.
    """
    try:
        steps = tuple(
            Step(one["title"], one["strand"], tuple(_beat(each) for each in one["beats"])) for one in source["steps"]
        )
        strands = [step.strand for step in steps]
        assert strands == ["", *STRANDS, ""], f"the steps' strands are {strands}; an opening, a to e, an end are wanted"
        for step in steps:
            assert step.title and step.beats, "every step needs a title and beats"
            for beat in step.beats:
                assert beat.minutes > 0 and beat.text, f"{step.title}: a beat needs minutes and text"
                assert not PLACEHOLDER.search(beat.text[0]), f"{step.title}: a beat's first sentence needs no figure"
                assert not set(beat.query) & set(OWN_QUERY), f"{step.title}: tour, beat and present are the tour's own"
    except (KeyError, TypeError, AssertionError) as error:
        raise AssetError(f"The tour is damaged ({error}); restore assets/tour.json from the repository.") from None
    return steps


def _beat(source: dict[str, Any]) -> Beat:
    return Beat(**(source | {"text": tuple(source["text"])}))


def stops(steps: tuple[Step, ...]) -> tuple[Stop, ...]:
    """Return every beat in order."""
    return tuple(
        Stop(place, number, step.title, beat)
        for place, step in enumerate(steps)
        for number, beat in enumerate(step.beats, 1)
    )


def find_stop(every: tuple[Stop, ...], step: str | None, number: str | None) -> int | None:
    """Return which stop a URL's `tour` and `beat` mean; nonsense is no tour, or a step's first beat."""
    found = [place for place, stop in enumerate(every) if str(stop.step) == step]
    if not found:
        return None
    return next((place for place in found if str(every[place].number) == number), found[0])


def narrate(beat: Beat, figure: Callable[[str, bool, str], str | None] | None = None) -> str:
    """Return what is said at a beat, its placeholders filled by `figure(exhibit, broken, name)`."""
    figure = figure or shipped_figure
    said = []
    for sentence in beat.text:
        found = {whole: figure(name, bool(broken), field) for whole, name, broken, field in _placeholders(sentence)}
        if None not in found.values():
            said.append(PLACEHOLDER.sub(lambda match, found=found: str(found[match[0]]), sentence))
    return " ".join(said)


def _placeholders(sentence: str) -> list[tuple[str, str, str, str]]:
    return [(match[0], *match.groups()) for match in PLACEHOLDER.finditer(sentence)]


def shipped_figure(name: str, broken: bool, field: str) -> str | None:
    """Return one figure of a shipped run: `score` and `tolerance` are the headline's, else a score's own name."""
    try:
        result = run_mechanics.shipped(run_mechanics.variant_params(name, "broken" if broken else "default"))
    except LabError:
        return None
    return None if result is None else figure_of(result, field)


def figure_of(result: ExhibitResult, field: str) -> str | None:
    """Return one figure of a run as one says it, None where it has none."""
    if field == "tolerance":
        return str(result.scores[0].tolerance).replace("-", "−")
    value = result.scores[0].value if field == "score" else result.outcome.scores.get(field)
    return None if value is None else spoken(value)


def spoken(value: float) -> str:
    """Write a number with three significant digits, near one with four; what is less than one never becomes one."""
    near = 0.99 <= abs(value) < 1.01
    if 0.9999 < abs(value) < 1:
        value = math.copysign(0.9999, value)
    return f"{value:.{4 if near else 3}g}".replace("-", "−")
