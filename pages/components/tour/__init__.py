"""The guided tour and presenter mode: a bar under every page, and the keys →, ←, P and Esc.

`script.py` says what is told where; `tour.js` shows it and hears the keys; this module keeps both and the URL together.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from lm_core.errors import LabError
from lm_core.exhibit_params import STRANDS
from pages.components.tour.script import OWN_QUERY, Stop, find_stop, load_tour, narrate, stops

__all__ = ["attend", "planned_minutes", "presenting", "start", "style"]

FOLDER = Path(__file__).parent
KEY, HERE = "tour_bar", "_tour"

_mount = st.components.v2.component(
    "learning_mechanics_tour",
    html=(FOLDER / "tour.html").read_text("utf-8"),
    css=(FOLDER / "tour.css").read_text("utf-8"),
    js=(FOLDER / "tour.js").read_text("utf-8"),
)


@dataclass(frozen=True)
class Here:
    """Where a visitor is.

    Attributes:
        seq: number of the browser's last word; at: the stop, None outside the tour.
        page: address of the page; url: the stop that the page's URL named in the last run.
    """

    seq: int = 0
    at: int | None = None
    present: bool = False
    page: str | None = None
    url: int | None = None


def style() -> None:
    """Put the few rules that reach outside the bar into the page."""
    st.html(f"<style>{(FOLDER / 'present.css').read_text('utf-8')}</style>")


def attend(page: str) -> None:
    """Draw the bar and follow the visitor; in every run, before the page of that address is drawn."""
    try:
        every = stops(load_tour())
    except LabError:  # `start` says so; the pages stand without a tour
        every = ()
    before: Here = st.session_state.get(HERE, Here())
    here = st.session_state[HERE] = _follow(page, before, every)
    _draw(here, every)
    if (here.at, here.present, here.page) == (before.at, before.present, before.page):
        return
    stop = None if here.at is None else every[here.at]
    query = ({} if stop is None else stop.query) | ({"present": "1"} if here.present else {})
    if stop is not None and (stop.beat.page != page or _turned(before, here, every)):
        st.switch_page(file_of(stop.beat.page), query_params=query)
    for name in OWN_QUERY:
        if name not in query:
            st.query_params.pop(name, None)
        elif st.query_params.get(name) != query[name]:
            st.query_params[name] = query[name]


def _turned(before: Here, here: Here, every: tuple[Stop, ...]) -> bool:
    """Whether the bar was sent to a stop that asks something else of the same page; between others the page stays."""
    told = here.seq != before.seq and before.at is not None and here.at is not None
    return told and every[before.at].beat.query != every[here.at].beat.query


def _follow(page: str, before: Here, every: tuple[Stop, ...]) -> Here:
    """Return where the visitor is now: where the bar was sent, else where a new URL leads, else where it was."""
    url = find_stop(every, st.query_params.get("tour"), st.query_params.get("beat"))
    told, arrived = _told(before.seq, len(every)), page != before.page
    if told is not None:
        return Here(told.seq, told.at, told.present, page, url)
    at = url if arrived or url not in (None, before.url) else before.at
    asked = st.query_params.get("present") if arrived else None
    return Here(before.seq, at, before.present if asked is None else asked == "1", page, url)


def _told(seq: int, count: int) -> Here | None:
    """Return what the browser has said since its word number `seq`, None if nothing that makes sense."""
    state = st.session_state.get(KEY)
    said = state.get("said") if hasattr(state, "get") else None
    if not isinstance(said, dict) or not _whole(said.get("seq")) or said["seq"] <= seq:
        return None
    at = said.get("at")
    if at is not None and not (_whole(at) and 0 <= at < count):
        return None
    return Here(int(said["seq"]), None if at is None else int(at), said.get("present") is True)


def _whole(number: Any) -> bool:
    return (
        number.is_integer() if isinstance(number, float) else isinstance(number, int) and not isinstance(number, bool)
    )


def _draw(here: Here, every: tuple[Stop, ...]) -> None:
    lines = [_line(stop) for stop in every] if here.at is not None else []
    data = {"seq": here.seq, "at": here.at, "present": here.present, "stops": lines}
    with st.container(key="tour"):
        _mount(key=KEY, data=data, on_said_change=_nothing)


def _line(stop: Stop) -> dict[str, Any]:
    """Return a stop as the bar shows it."""
    known = 1 <= stop.step <= len(STRANDS)
    beat = stop.beat
    return {
        "step": stop.step,
        "heading": f"Step {stop.step} of {len(STRANDS)} · {stop.title}" if known else stop.title,
        "page": beat.page,
        "show": beat.show,
        "minutes": beat.minutes,
        "text": narrate(beat),
    }


def start() -> None:
    """Go to the tour's first stop.

    Raises:
        AssetError: its file is missing or damaged.
    """
    first = stops(load_tour())[0]
    present = {"present": "1"} if presenting() else {}
    st.switch_page(file_of(first.beat.page), query_params=first.query | present)


def presenting() -> bool:
    """Whether presenter mode is on, for figures: their type has its own size."""
    return st.session_state.get(HERE, Here()).present


def planned_minutes() -> int:
    """Return how long the tour takes.

    Raises:
        AssetError: its file is missing or damaged.
    """
    return round(sum(stop.beat.minutes for stop in stops(load_tour())))


def file_of(address: str) -> str:
    """Return the file of a page beside `frame.py`, by the frame's rule for addresses."""
    return f"{address.replace('-', '_') or 'home'}.py"


def _nothing() -> None:
    """Streamlit wants a callback for every state it shall keep."""
