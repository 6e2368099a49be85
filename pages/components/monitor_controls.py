"""What the monitor's sections ask for: concepts, the rate of false alarms, the detector. All of it in the URL."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from lm_core.concept_detectors import AGGREGATE, METHOD, SET, choices, source_of
from lm_core.detection_results import AGGREGATES
from lm_core.ranking import FALSE_POSITIVE_RATE
from lm_core.steer_params import METHODS
from lm_core.user_concepts import is_mine

MOST_WATCHED = 3
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
FIRST = "spanish"
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~:$])")


@dataclass(frozen=True)
class Asked:
    """What the controls ask for.

    Attributes:
        watched: ids; method, aggregate: of the detector; rate: wanted share of false alarms.
    """

    watched: tuple[str, ...]
    method: str = METHOD
    aggregate: str = AGGREGATE
    rate: float = FALSE_POSITIVE_RATE

    def key(self, *texts: str) -> str:
        """Return what makes two readings the same; concepts of the user's own may change under their names."""
        mine = [source_of(name).key(self.method, self.aggregate) for name in self.watched if is_mine(name)]
        return hashlib.sha256(repr((self, mine, texts)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def plain(text: str) -> str:
    """Return a text that markdown shows as it is."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def labels() -> dict[str, str]:
    """Return what there is to watch for, and what each is called in a list."""
    known = choices()
    return {name: f"{called} (evaluation set)" if name.startswith(SET) else called for name, called in known.items()}


def from_url(key: str, read: Callable[[str], Any], default: Any) -> None:
    """Give a widget its value before its first run: what the URL says, if it makes sense."""
    if key not in st.session_state:
        value = read(st.query_params.get(key, ""))
        st.session_state[key] = default if value is None else value


def to_url(key: str, spell: Callable[[Any], str] = str) -> Callable[[], None]:
    """Return what writes a widget's value into the URL when it changes."""

    def write() -> None:
        st.query_params[key] = spell(st.session_state[key])

    return write


def _rate(text: str) -> float | None:
    return next((rate for rate in RATES if f"{rate:g}" == text), None)


def _member(options: Sequence[str]) -> Callable[[str], str | None]:
    return lambda text: text if text in options else None


def _members(options: Sequence[str]) -> Callable[[str], list[str] | None]:
    def read(text: str) -> list[str] | None:
        return [name for name in dict.fromkeys(text.split(",")) if name in options][:MOST_WATCHED] or None

    return read


def controls(several: bool = True) -> Asked:
    """Draw the controls; with one concept where several can't be watched at once."""
    known = labels()
    options = list(known)
    default = FIRST if FIRST in options else options[0]
    if several:
        from_url("watch", _members(options), [default])
        st.session_state["watch"] = [name for name in st.session_state["watch"] if name in known]  # some may be deleted
        watched = st.multiselect(
            "Watch for",
            options,
            format_func=known.__getitem__,
            max_selections=MOST_WATCHED,
            key="watch",
            on_change=to_url("watch", ",".join),
            help="Shipped concepts, your own from the concept lab, and the +1 class of evaluation sets.",
        )
    else:
        from_url("watch_one", _member(options), default)
        if st.session_state["watch_one"] not in known:  # deleted meanwhile
            st.session_state["watch_one"] = default
        one = st.selectbox(
            "Watch for", options, format_func=known.__getitem__, key="watch_one", on_change=to_url("watch_one")
        )
        watched = [one]
    from_url("rate", _rate, FALSE_POSITIVE_RATE)
    rate = st.select_slider(
        "Wanted false alarms",
        RATES,
        format_func=lambda share: f"{share:.0%}",
        key="rate",
        on_change=to_url("rate", lambda share: f"{share:g}"),
        help="The thresholds are set so that at most this share of held-out texts without the concept pass them. "
        "On texts unlike those it is an estimate.",
    )
    with st.expander("Detector"):
        from_url("method", _member(list(METHODS)), METHOD)
        from_url("aggregate", _member(list(AGGREGATES)), AGGREGATE)
        method = st.selectbox(
            "Directions", list(METHODS), format_func=METHODS.__getitem__, key="method", on_change=to_url("method")
        )
        aggregate = st.selectbox(
            "Score",
            list(AGGREGATES),
            format_func=AGGREGATES.__getitem__,
            key="aggregate",
            on_change=to_url("aggregate"),
        )
    return Asked(tuple(watched), method, aggregate, rate)
