"""Scoreboard: every law with what was expected of it, what was measured last, where, and how long it took."""

from datetime import datetime

import streamlit as st

from lm_core import run_mechanics
from lm_core.errors import LabError
from lm_core.exhibit_params import NAMES, STRANDS, find_exhibit
from lm_core.exhibit_results import ExhibitResult
from lm_core.jobs import JobContext
from pages.components import look
from pages.components.exhibit import STRAND_PAGES
from pages.components.exhibit_figures import STATES, score_text
from pages.components.section_jobs import live_run


def rerun_all() -> None:
    """Offer to run every exhibit anew, and show the scores as they come."""

    def work(context: JobContext) -> dict[str, ExhibitResult]:
        return run_mechanics.run_all(on_progress=context.progress)

    def preview(found: dict[str, ExhibitResult]) -> None:
        st.caption(" · ".join(f"({name}) {score_text(one.scores[0].value)}" for name, one in found.items()))

    visit = st.session_state.setdefault("_scoreboard_visit", 0)
    done = live_run("scoreboard", "Run all nine here", "All exhibits", f"run {visit}", work, preview)
    if done is not None:  # kept on disk by now; the next press runs anew
        st.session_state["_scoreboard_visit"] = visit + 1


def row(name: str) -> bool:
    """Show one exhibit's line; returns whether it is within its tolerance."""
    exhibit = find_exhibit(name)
    result, ended = run_mechanics.latest(name)
    with st.container(border=True, key=f"row_{name}"):
        text, score, when = st.columns([5, 4, 4], vertical_alignment="center")
        with text:
            look.card_header(f"({name}) {STRANDS[exhibit.strand]} · {exhibit.badge}", exhibit.title)
            st.page_link(
                STRAND_PAGES[exhibit.strand],
                label=":primary[**Open**]",
                icon=":material/open_in_new:",
                query_params={"exhibit": name},
            )
        if result is None:
            score.markdown(":gray[Not run here yet, and no run is shipped.]")
            return False
        words, icon, colour = STATES[result.within]
        with score:
            for one in result.scores:
                if one.tolerance:
                    st.markdown(f"{one.name}: **{score_text(one.value)}** (expected {one.tolerance})")
            st.badge(words, icon=icon, color=colour)
        with when:
            where = f"this machine, {datetime.fromtimestamp(ended):%d %b %Y %H:%M}" if ended else "shipped run"
            st.caption(f"{result.seconds:.1f} s on {result.device}, torch {result.torch}; {where}")
    return result.within


look.page_header("Scoreboard", "Nine laws, each with the score it needs and the score it got the last time it was run.")
summary = st.container()
rerun_all()
try:
    within = [row(name) for name in NAMES]
    summary.markdown(f"**{sum(within)} of {len(NAMES)}** are within their tolerance.")
except LabError as error:
    st.error(str(error), icon=":material/error:")
look.figure_caption(
    "Each score compares a prediction with an experiment of the default settings and seed 0. Expected is what the "
    "score must be for the law to count as holding here; a run of the defaults on any page is kept for this table."
)
st.divider()
look.references("mechanics")
