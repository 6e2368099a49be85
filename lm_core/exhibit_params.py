"""What an exhibit of learning mechanics claims, and what a run of it is asked for: data, validated once. Torch-free.

An exhibit is a file of `assets/exhibits/`: its law, badge, controls, tolerances, how to break it, what it leaves open.
The computation of the same name is `lm_core.mechanics`'s; `run_mechanics` brings the two together.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from lm_core.artifacts import asset_path
from lm_core.errors import AssetError, ParameterError
from lm_core.params import MAX_SEED, require_int

NAMES = ("a1", "a2", "b", "c1", "c2", "c3", "d1", "d2", "e")
BADGES = ("theorem", "law", "heuristic", "derived here")
STRANDS = {
    "a": "Solvable settings",
    "b": "Tractable limits",
    "c": "Macroscopic laws",
    "d": "Hyperparameters",
    "e": "Universality",
}

Value = int | float | str


@dataclass(frozen=True)
class Control:
    """One thing to turn.

    Attributes:
        name: as in the URL and `--set NAME=VALUE`; label: with symbol and unit; help: what it does.
        default: its value in the shipped run.
        stops: numbers a slider stops at, ascending; the command line takes any number between the first and the last.
        options: words to choose from, for a control that is no number.
    """

    name: str
    label: str
    help: str
    default: Value
    stops: tuple[int | float, ...] = ()
    options: tuple[str, ...] = ()

    def check(self, value: Any) -> Value:
        """Return the value as this control's kind.

        Raises:
            ParameterError: it is no such kind or out of range; says the range.
        """
        if self.options:
            if value not in self.options:
                raise ParameterError(f"{self.name} is {value!r}; choose one of {', '.join(self.options)}.")
            return value
        low, high, whole = self.stops[0], self.stops[-1], all(isinstance(stop, int) for stop in self.stops)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= high or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise ParameterError(f"{self.name} is {value!r}; choose {kind} from {low:g} to {high:g}.")
        return int(value) if whole else float(value)

    def parse(self, text: str) -> Value:
        """Read a value from text, then `check` it."""
        if self.options:
            return self.check(text)
        try:
            return self.check(float(text))
        except ValueError as error:
            if isinstance(error, ParameterError):
                raise
            return self.check(text)


@dataclass(frozen=True)
class Tolerance:
    """Which values of one score count as agreement: from `low` to `high`, either None for no bound."""

    score: str
    low: float | None = None
    high: float | None = None

    def holds(self, value: float | None) -> bool:
        """Tell whether a score is within; None or not-a-number never is."""
        if value is None or not math.isfinite(value):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return f"at least {self.low:g}" if self.low is not None else f"at most {self.high:g}"


@dataclass(frozen=True)
class Variant:
    """Other values of some controls under one button: `break_it` leaves the law's regime, `larger` wants a GPU."""

    label: str
    why: str
    values: dict[str, Value]


@dataclass(frozen=True)
class Reference:
    """A paper: "Saxe et al., Exact solutions … (2013)", "arXiv 1312.6120" and its address."""

    text: str
    label: str
    url: str


@dataclass(frozen=True)
class Exhibit:
    """One law, its prediction and its experiment, before anything is computed.

    Attributes:
        id: a key of `NAMES`; title, question: for people; claim: one sentence.
        formula: LaTeX; symbols: Markdown that ties the formula's symbols to the controls.
        experiment: Markdown, what is trained or computed, with sizes.
        badge: one of `BADGES`; fitted: number of parameters fitted to the experiment; fitted_note: which.
        tolerances: the first is the headline score's.
        break_it, larger: see `Variant`; open_direction: which of the ten open directions it touches, and how.
    """

    id: str
    title: str
    question: str
    claim: str
    formula: str
    symbols: str
    experiment: str
    badge: str
    fitted: int
    fitted_note: str
    controls: tuple[Control, ...]
    tolerances: tuple[Tolerance, ...]
    break_it: Variant
    larger: Variant | None
    open_direction: str
    references: tuple[Reference, ...]

    @property
    def strand(self) -> str:
        """The letter of its strand."""
        return self.id[0]

    @property
    def defaults(self) -> dict[str, Value]:
        """The values of the shipped run."""
        return {control.name: control.default for control in self.controls}

    def control(self, name: str) -> Control:
        """Return a control by its name.

        Raises:
            ParameterError: there is none of that name; says which there are.
        """
        for control in self.controls:
            if control.name == name:
                return control
        known = ", ".join(control.name for control in self.controls)
        raise ParameterError(f"exhibit {self.id} has no control {name!r}; choose one of {known}.")


def parse_exhibit(source: Mapping[str, Any]) -> Exhibit:
    """Check an exhibit's file.

    Raises:
        AssetError: a field is missing, unknown or makes no sense.
    """
    try:
        fields = dict(source)
        fields["controls"] = tuple(
            Control(**{**one, "stops": tuple(one.get("stops", ())), "options": tuple(one.get("options", ()))})
            for one in source["controls"]
        )
        fields["tolerances"] = tuple(Tolerance(**one) for one in source["tolerances"])
        fields["break_it"] = Variant(**source["break_it"])
        fields["larger"] = Variant(**source["larger"]) if source.get("larger") else None
        fields["references"] = tuple(Reference(**one) for one in source["references"])
        exhibit = Exhibit(**fields)
        for control in exhibit.controls:
            assert bool(control.stops) != bool(control.options), f"{control.name} needs stops or options"
            assert list(control.stops) == sorted(control.stops), f"{control.name}'s stops must ascend"
            control.check(control.default)
            assert not control.stops or control.default in control.stops, f"{control.name}'s default must be a stop"
        for variant in (exhibit.break_it, exhibit.larger):
            for name, value in variant.values.items() if variant else ():
                exhibit.control(name).check(value)
        assert exhibit.badge in BADGES, f"badge must be one of {', '.join(BADGES)}"
        assert exhibit.tolerances, "there must be a tolerance"
    except (KeyError, TypeError, AssertionError, ParameterError) as error:
        raise AssetError(
            f"The exhibit {source.get('id')} is damaged ({error}); restore it from the repository."
        ) from None
    return exhibit


@lru_cache(maxsize=len(NAMES))
def find_exhibit(name: str) -> Exhibit:
    """Return an exhibit by its name.

    Raises:
        ParameterError: there is none of that name; AssetError: its file is missing or damaged.
    """
    if name not in NAMES:
        raise ParameterError(f"exhibit is {name!r}; choose one of {', '.join(NAMES)}.")
    path = asset_path("exhibits", f"{name}.json")
    try:
        source = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(f"{path.name} can't be read ({error}); restore assets/exhibits from the repository.") from None
    return parse_exhibit(source)


@dataclass(frozen=True)
class ExhibitParams:
    """One run of an exhibit.

    Attributes:
        exhibit: a key of `NAMES`.
        values: of its controls; those left out have their defaults.
        seed: of weights, data and batches.
    """

    exhibit: str
    values: dict[str, Value]
    seed: int = 0

    def __post_init__(self) -> None:
        exhibit = find_exhibit(self.exhibit)
        checked = {name: exhibit.control(name).check(value) for name, value in self.values.items()}
        object.__setattr__(self, "values", exhibit.defaults | checked)
        require_int("seed", self.seed, 0, MAX_SEED)

    def with_(self, **changes: Any) -> "ExhibitParams":
        """Return a validated copy with some fields changed."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"exhibit": self.exhibit, "values": dict(self.values), "seed": self.seed}

    def key(self) -> str:
        """Return a short content hash, the same for equal parameters on every machine."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]
