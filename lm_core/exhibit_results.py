"""What an exhibit's run returns: curves, tables of numbers and scores, frozen and JSON-ready. Torch-free.

A curve's role says what it is, so that every page draws predictions, experiments and references alike.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from lm_core.errors import AssetError
from lm_core.exhibit_params import Exhibit, ExhibitParams, Tolerance, find_exhibit

DIGITS = 5  # significant ones, of every number that is kept
Role = Literal["prediction", "experiment", "reference"]


def numbers(values: Any) -> tuple[float | None, ...]:
    """Return an array, tensor or list as numbers of five significant digits, None for what isn't finite."""
    flat = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64).ravel()
    return tuple(float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in flat)


@dataclass(frozen=True)
class Curve:
    """Points to draw.

    Attributes:
        name: in the legend; role: "prediction" (a line), "experiment" (marks), "reference" (dotted: a rival theory, a
            guide for the eye).
        x, y: equally many; None leaves a gap.
        group: curves of one group have one colour, 0, 1, …: a prediction and its own experiment.
        low, high: of an interval around y, or empty.
        joined: whether an experiment's marks are joined by a line: a dense trajectory.
    """

    name: str
    role: Role
    x: tuple[float | None, ...]
    y: tuple[float | None, ...]
    group: int = 0
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    joined: bool = False

    @classmethod
    def of(cls, name: str, role: Role, x: Any, y: Any, *, group: int = 0, low: Any = (), high: Any = (), joined=False):
        """Return the curve of arrays or tensors [n]."""
        curve = cls(name, role, numbers(x), numbers(y), group, numbers(low), numbers(high), joined)
        assert len(curve.x) == len(curve.y), f"{name} has {len(curve.x)} x and {len(curve.y)} y"
        assert len(curve.low) == len(curve.high) and len(curve.low) in (0, len(curve.x)), f"{name}'s interval"
        return curve


@dataclass(frozen=True)
class Panel:
    """One plot; `caption` is one sentence on what one sees, with units. `level` and `level_name`: a horizontal line."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    caption: str
    x_log: bool = False
    y_log: bool = False
    level: float | None = None
    level_name: str = ""


@dataclass(frozen=True)
class Table:
    """A matrix to draw as a heat map: `values` [row][column], None for a blank; `diverging` puts zero in the middle."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    caption: str
    diverging: bool = False

    @classmethod
    def of(cls, title: str, rows: Sequence[str], columns: Sequence[str], values: Any, caption: str, *, diverging=False):
        """Return the table of an array or tensor [rows, columns]; without names the axes are only counted."""
        cells = tuple(numbers(row) for row in values)
        return cls(title, tuple(rows), tuple(columns), cells, caption, diverging)


@dataclass(frozen=True)
class Outcome:
    """What a module of `lm_core.mechanics` returns.

    Attributes:
        panels: the first is the headline.
        scores: by the names that the exhibit's tolerances have, and further ones; None where there is none.
        verdict: one sentence with the numbers: what agreed with what, or why it did not.
        tables: see `Table`; facts: what else a reader wants to know: sizes, steps, seeds.
        diverged: whether a run grew without bound; what there was until then is in the panels.
    """

    panels: tuple[Panel, ...]
    scores: dict[str, float | None]
    verdict: str
    tables: tuple[Table, ...] = ()
    facts: dict[str, Any] | None = None
    diverged: bool = False


@dataclass(frozen=True)
class Score:
    """One score; `within` is None where the exhibit states no tolerance for it."""

    name: str
    value: float | None
    tolerance: Tolerance | None
    within: bool | None


@dataclass(frozen=True)
class ExhibitResult:
    """A run: what was asked for, what came out, how long it took, on what."""

    params: ExhibitParams
    outcome: Outcome
    seconds: float
    device: str
    torch: str
    command: str = ""

    @property
    def exhibit(self) -> Exhibit:
        return find_exhibit(self.params.exhibit)

    @property
    def scores(self) -> list[Score]:
        """Every score, those with a tolerance first and in its order."""
        bounds = {one.score: one for one in self.exhibit.tolerances}
        found = self.outcome.scores
        names = [*bounds, *(name for name in found if name not in bounds)]
        return [
            Score(
                name, found.get(name), bounds.get(name), bounds[name].holds(found.get(name)) if name in bounds else None
            )
            for name in names
        ]

    @property
    def within(self) -> bool:
        """Whether every score that has a tolerance is within it, and nothing diverged."""
        return not self.outcome.diverged and all(score.within for score in self.scores if score.within is not None)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; prediction and experiment are the headline plot's curves."""
        curves = self.outcome.panels[0].curves if self.outcome.panels else ()
        head = self.scores[0]
        bound = {"low": head.tolerance.low, "high": head.tolerance.high} if head.tolerance else None
        plain = json.loads(json.dumps(asdict(self.outcome)))
        return {
            **self.params.as_dict(),
            "prediction": [asdict(one) for one in curves if one.role == "prediction"],
            "experiment": [asdict(one) for one in curves if one.role == "experiment"],
            "score": head.value,
            "score_name": head.name,
            "tolerance": bound,
            "within_tolerance": self.within,
            "scores": [
                {"name": one.name, "value": one.value, "tolerance": str(one.tolerance or ""), "within": one.within}
                for one in self.scores
            ],
            "outcome": plain,
            "seconds": self.seconds,
            "device": self.device,
            "torch": self.torch,
            "command": self.command,
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "ExhibitResult":
        """Return what `as_dict` described.

        Raises:
            AssetError: a field is missing or of the wrong kind.
        """
        try:
            out = found["outcome"]
            panels = [
                Panel(**one | {"curves": tuple(Curve(**_frozen(c)) for c in one["curves"])}) for one in out["panels"]
            ]
            tables = [Table(**_frozen(one)) for one in out["tables"]]
            outcome = Outcome(**out | {"panels": tuple(panels), "tables": tuple(tables)})
            params = ExhibitParams(found["exhibit"], found["values"], found["seed"])
            return cls(params, outcome, found["seconds"], found["device"], found["torch"], found["command"])
        except (KeyError, TypeError, ValueError) as error:
            raise AssetError(f"A kept run of an exhibit is damaged ({error}); run it again.") from None


def _frozen(value: Any) -> Any:
    """Turn lists into tuples, all the way down; dictionaries stay."""
    if isinstance(value, dict):
        return {name: _frozen(inner) for name, inner in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
