"""Many texts: a file or lines in, a score for each out."""

import csv
import io
from typing import Any

import streamlit as st

from lm_core import run_monitor
from lm_core.errors import ParameterError
from lm_core.jobs import JobContext
from lm_core.run_monitor import MOST_TEXTS
from lm_core.text_files import read_texts, safe_cell
from pages.components import look, section_jobs
from pages.components.monitor_controls import Asked, controls, plain

LINES = "Good morning, how are you?\nBuenos días, ¿cómo estás?\nBonjour, comment vas-tu ?\nBom dia, como estás?"
SHOWN = "_monitor_batch_shown"


def many_texts() -> None:
    """Draw the section."""
    left, right = st.columns([9, 4], gap="large")
    with left:
        upload = st.file_uploader(
            "File (a text a line; CSV or JSONL with a column “text”)", ["txt", "csv", "jsonl"], key="batch_file"
        )
        st.session_state.setdefault("batch_lines", LINES)
        lines = st.text_area(
            "Or a text a line", height=150, key="batch_lines", disabled=upload is not None, persist_state="session"
        )
    with right:
        asked = controls(several=False)
    if upload is not None:
        texts, notices = read_texts(upload.name, upload.getvalue())
        for notice in notices:
            st.info(plain(notice), icon=":material/info:")
    else:
        texts = (lines or "").splitlines()
    found = score(texts, asked)
    if found is not None:
        show(found)


def score(texts: list[str], asked: Asked) -> dict[str, Any] | None:
    """Draw the button and its job; return the scores asked for, or the visitor's last ones, which is then said."""
    count = sum(bool(text.strip()) for text in texts)
    if not asked.watched or not count:
        st.info("Choose a concept and give at least one text with words.", icon=":material/info:")
        return None
    if len(texts) > MOST_TEXTS:
        raise ParameterError(f"There are {len(texts):,} texts; give at most {MOST_TEXTS:,} at a time.")

    def work(context: JobContext) -> dict[str, Any]:
        return run_monitor.batch(
            texts,
            asked.watched[0],
            tokens=False,
            method=asked.method,
            aggregate=asked.aggregate,
            false_positive_rate=asked.rate,
            on_progress=context.progress,
            check=context.check,
        )

    button = f"Score {count:,} text{'' if count == 1 else 's'}"
    found = section_jobs.live_run("monitor_batch", button, "Scoring texts", asked.key(*texts), work)
    if found is not None:
        st.session_state[SHOWN] = found
    elif SHOWN in st.session_state:
        st.info("The scores below are of other texts or settings.", icon=":material/history:")
    return st.session_state.get(SHOWN)


def show(found: dict[str, Any]) -> None:
    """Show scores, and offer them as a file."""
    texts, name = found["texts"], plain(found["concept"])
    said = (
        f"**{found['alarms']:,} of {len(texts):,} texts pass the threshold for {name}, {found['threshold']:.2f}.** "
        f"Of held-out texts without the concept at most {found['false_positive_rate']:.0%} do; "
        "texts unlike those may more often."
    )
    if found["cut_texts"]:
        said += f" {found['cut_texts']:,} were longer than the context and cut."
    if found["left_out_empty"]:
        said += f" {found['left_out_empty']:,} empty ones were left out."
    st.markdown(said)
    rows = [
        {
            "No.": n,
            "Score": one["score"],
            "Above": "yes" if one["alarm"] else "no",
            "Cut": one["cut"],
            "Text": one["text"],
        }
        for n, one in enumerate(texts, 1)
    ]
    st.dataframe(rows, hide_index=True, key="batch_scores")
    look.figure_caption(
        f"Score: {found['unit']}, of the text's mean activation. Cut: tokens at the end that were not read. "
        f"{found['seconds']:.1f} s, {found['model']}."
    )
    st.download_button(
        "Scores (CSV)",
        lambda: as_csv(found),
        "monitor-scores.csv",
        "text/csv",
        key="batch_csv",
        icon=":material/download:",
        on_click="ignore",
    )


def as_csv(found: dict[str, Any]) -> str:
    """Return number, score, threshold, above, cut and text, a row a text; no cell is a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["number", "score", "threshold", "above", "cut", "text"])
    for n, one in enumerate(found["texts"], 1):
        facts = [n, one["score"], found["threshold"], int(one["alarm"]), one["cut"]]
        writer.writerow([*facts, safe_cell(one["text"])])
    return buffer.getvalue()
