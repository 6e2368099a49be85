"""One text, token by token: where it holds the concepts that are watched for, and whether that rings an alarm."""

import csv
import io

import numpy as np
import streamlit as st

from lm_core import run_monitor
from lm_core.jobs import JobContext
from lm_core.run_monitor import MonitorResult
from lm_core.text_files import safe_cell
from pages.components import look, section_jobs
from pages.components.monitor_controls import Asked, controls, plain
from pages.components.monitor_figures import course, draw, heat, strip

EXAMPLE = (
    "The bus was late again, so we walked home along the river. Al llegar a casa, mi abuela ya tenía la sopa en la "
    "mesa y nos esperaba con una sonrisa. Nobody spoke until the bowls were empty."
)
MOST_CHARACTERS = 20_000
SHOWN = "_monitor_shown"  # (key, result) of the reading on show
FIRST_TIME = "The first time a concept's detector is fitted to its examples, about a minute; then it is kept."


def one_text() -> None:
    """Draw the section."""
    left, right = st.columns([9, 4], gap="large")
    with left:
        st.session_state.setdefault("monitor_text", EXAMPLE)
        text = st.text_area("Text", height=150, max_chars=MOST_CHARACTERS, key="monitor_text", persist_state="session")
    with right:
        asked = controls()
    found = read(text or "", asked)
    if found is not None:
        show(found)


def read(text: str, asked: Asked) -> MonitorResult | None:
    """Draw the button and its job; return the reading asked for, or the visitor's last one, which is then said."""
    if not asked.watched or not text.strip():
        st.info("Choose at least one concept and give a text with words.", icon=":material/info:")
        return None
    key = asked.key(text)

    def work(context: JobContext) -> MonitorResult:
        return run_monitor.monitor(
            text,
            asked.watched,
            method=asked.method,
            aggregate=asked.aggregate,
            false_positive_rate=asked.rate,
            on_progress=context.progress,
            check=context.check,
        )

    found = section_jobs.live_run("monitor_text", "Read", "Reading the text", key, work)
    if found is not None:
        st.session_state[SHOWN] = found
    elif SHOWN in st.session_state:
        st.info("The figures below are of another text or other settings: press Read.", icon=":material/history:")
    else:
        look.figure_caption(FIRST_TIME)
    return st.session_state.get(SHOWN)


def show(found: MonitorResult) -> None:
    """Draw a reading: alarms, the table of concepts, then one concept's figures."""
    for which in range(len(found.concepts)):
        alarm(found, which)
    if found.cut:
        st.info(
            f"The last {found.cut:,} tokens were not read: the text is longer than the model's context.",
            icon=":material/content_cut:",
        )
    summary(found)
    which = 0
    if len(found.concepts) > 1:
        which = st.segmented_control(
            "Show",
            list(range(len(found.concepts))),
            default=0,
            required=True,
            format_func=lambda i: plain(found.concepts[i]) if i < len(found.concepts) else "",
            key=f"monitor_which_{len(found.concepts)}",
        )
    figures(found, which or 0)
    export(found)


def alarm(found: MonitorResult, which: int) -> None:
    """Say whether the level passes the alarm's threshold, and where first."""
    name, levels, threshold = plain(found.concepts[which]), found.levels[which], found.alarm_threshold[which]
    rings = np.flatnonzero(levels > threshold)
    if len(rings):
        st.warning(
            f"**Alarm: {name}.** The mean score of the last eight tokens first passes {threshold:.2f} at token "
            f"{rings[0] + 1} of {len(levels)} and reaches {levels.max():.2f}. At most {found.false_positive_rate:.0%} "
            "of held-out texts without the concept do.",
            icon=":material/notifications_active:",
        )
    else:
        st.success(
            f"No alarm for {name}: the level stays at or below {levels.max():.2f}; the alarm is at {threshold:.2f}.",
            icon=":material/notifications_off:",
        )


def summary(found: MonitorResult) -> None:
    """Show the whole text's score for each concept."""
    rows = [
        {
            "Concept": found.concepts[i],
            "Score of the text": round(float(found.scores[i]), 3),
            "Threshold": round(float(found.text_threshold[i]), 3),
            "Above": "yes" if found.scores[i] > found.text_threshold[i] else "no",
            "Tokens past theirs": f"{int((found.strip[i] > found.threshold[i]).sum())} of {len(found.pieces)}",
        }
        for i in range(len(found.concepts))
    ]
    st.dataframe(rows, hide_index=True, key="monitor_summary")
    look.figure_caption(
        "The text's score reads all tokens together, the alarm any eight in a row: one may pass without the other."
    )


def figures(found: MonitorResult, which: int) -> None:
    """Draw one concept's strip, course and heat map."""
    left, right = st.columns([6, 5], gap="large")
    with left:
        draw(strip(found, which), "monitor_strip")
        look.figure_caption(
            "The text, a cell a token, coloured by the score (blue: the concept, amber: not). Bold with ▲: "
            f"past the token threshold, which at most {found.false_positive_rate:.0%} of the tokens of held-out "
            "texts without the concept pass."
        )
        draw(course(found, which), "monitor_course")
        look.figure_caption(
            "The same scores along the text, and their mean over the last eight tokens, which rings the alarm: a "
            "single token says little."
        )
    with right:
        draw(heat(found, which), "monitor_heat")
        look.figure_caption(
            "Each token at each block: projection on the block's first direction, less the mean of the examples, in "
            "typical residual norms. Colours end where 4% of the figures are beyond them: some tokens "
            "are huge in early blocks."
        )


def export(found: MonitorResult) -> None:
    """Offer the figures of every token."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Tokens (CSV)",
            lambda: as_csv(found),
            "monitor-tokens.csv",
            "text/csv",
            key="monitor_csv",
            icon=":material/download:",
            on_click="ignore",
        )
        st.caption(f"{len(found.pieces):,} tokens in {found.seconds:.1f} s.", width="stretch")


def as_csv(found: MonitorResult) -> str:
    """Return token, then each concept's score and level, a row a token; no cell is a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    heads = [f"{name}: {what}" for name in found.concepts for what in ("score", "level")]
    writer.writerow(["token", *map(safe_cell, heads)])
    for t, piece in enumerate(found.pieces):
        pairs = zip(found.strip[:, t], found.levels[:, t], strict=True)
        writer.writerow([safe_cell(piece), *(f"{value:.5f}" for pair in pairs for value in pair)])
    return buffer.getvalue()
