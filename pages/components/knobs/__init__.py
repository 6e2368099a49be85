"""The concept sliders: signed strengths in percent of the residual norm, with the usable band and what collapses.

Values belong to the visitor. A page hears of each change, at most every 80 ms while a slider moves; it changes values
itself only by `order`, which a preset, an added or a removed concept does.
"""

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from lm_core.steer_params import MAX_STRENGTH

__all__ = ["Dials", "Knob", "dials", "knobs", "order", "removed"]

FOLDER = Path(__file__).parent

_mount = st.components.v2.component(
    "learning_mechanics_knobs",
    html=(FOLDER / "knobs.html").read_text("utf-8"),
    css=(FOLDER / "knobs.css").read_text("utf-8"),
    js=(FOLDER / "knobs.js").read_text("utf-8"),
)


@dataclass(frozen=True)
class Knob:
    """One slider as it is drawn; all strengths are signed fractions of the residual norm.

    Attributes:
        band: lowest and highest usable strength, None where no strength is usable.
        collapse: |strength| from which the text collapses, None where that is unknown.
        works: whether the concept was found to work, None where that was not measured.
        waits: whether it is no part of the answer that is being written.
    """

    id: str
    name: str
    band: tuple[float, float] | None = None
    collapse: float | None = None
    works: bool | None = None
    waits: bool = False

    def reach(self, value: float) -> float:
        """Return where the slider ends: ±10 %, or farther if the band, the collapse or its value lies there."""
        needed = 1.15 * max(self.collapse or 0.0, *(abs(end) for end in self.band or (0.0,)))
        return min(max(0.1, math.ceil(max(needed, abs(value)) * 50) / 50), MAX_STRENGTH)


@dataclass(frozen=True)
class Dials:
    """Where the sliders stand: concept → strength, whether all is switched off, whether the last one was let go."""

    values: dict[str, float]
    off: bool = False
    settled: bool = True

    def in_force(self, concepts: Sequence[str]) -> tuple[float, ...]:
        """Return the strength of each of these concepts, 0 if it has no slider or everything is off."""
        return tuple(0.0 if self.off else self.values.get(concept, 0.0) for concept in concepts)


def order(key: str, values: dict[str, float], off: bool = False) -> None:
    """Set the sliders: which there are and where they stand. To be called before `knobs` draws them."""
    st.session_state[f"{key}_orders"] = (secrets.token_hex(4), Dials(dict(values), off))


def dials(key: str) -> Dials:
    """Return where the sliders stand: as the visitor left them since the last order, else as ordered."""
    token, ordered = st.session_state.get(f"{key}_orders", ("", Dials({})))
    told = _state(key).get("dials")
    if not isinstance(told, dict) or told.get("token") != token or not isinstance(told.get("values"), dict):
        return ordered
    values = {name: _strength(told["values"].get(name), before) for name, before in ordered.values.items()}
    return Dials(values, told.get("off") is True, told.get("settled") is not False)


def removed(key: str) -> str | None:
    """Return the concept whose slider the visitor has just removed."""
    concept = _state(key).get("remove")
    return concept if isinstance(concept, str) else None


def knobs(sliders: Sequence[Knob], *, key: str, on_move: Callable[[], None], on_remove: Callable[[], None]) -> None:
    """Draw the sliders where `dials` says they stand.

    Args:
        sliders: one for each concept of the last `order`.
        on_move: called before the run that a move causes; `dials(key)` then tells the new strengths.
        on_remove: called after a click on ×; `removed(key)` then tells the concept.
    """
    token, _ = st.session_state.get(f"{key}_orders", ("", None))
    here = dials(key)
    values = [here.values.get(each.id, 0.0) for each in sliders]
    drawn = [
        vars(each) | {"reach": each.reach(value), "value": value} for each, value in zip(sliders, values, strict=True)
    ]
    data = {"token": token, "off": here.off, "knobs": drawn}
    _mount(key=key, data=data, on_dials_change=on_move, on_remove_change=on_remove)


def _state(key: str) -> dict[str, Any]:
    state = st.session_state.get(key)
    return dict(state) if state is not None and hasattr(state, "keys") else {}


def _strength(told: Any, before: float) -> float:
    """Read a strength that a browser sent; nonsense leaves it where it was."""
    usable = (
        isinstance(told, int | float)
        and not isinstance(told, bool)
        and math.isfinite(told)
        and abs(told) <= MAX_STRENGTH
    )
    return float(told) if usable else before
