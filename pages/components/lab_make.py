"""Concept lab, make a concept: examples typed, from a file, or from a prefix; a direction in seconds, kept for good."""

from functools import partial
from typing import Any

import streamlit as st

from lm_core import run_lab, user_concepts
from lm_core.errors import LabError
from lm_core.example_rows import FEWEST_NUMBERS, FEWEST_PER_CLASS, Table, read_table, typed
from lm_core.jobs import JobContext
from lm_core.lab_params import LabParams
from lm_core.lab_results import LabResult
from lm_core.user_concepts import my_concepts
from lm_core.user_source import LONGEST_ASK, LONGEST_NAME, MOST_FOLDED
from pages.components import lab_figures, lab_pirate, look, section_jobs
from pages.components.lab_common import CHOICE, method_and_site, percent_band, plain, refuse, steer_link
from pages.components.lab_own import DELETED, own_concepts
from pages.components.look import PLOTLY

SECTION = "lab"
ASKED = "_lab_asked"  # key of what was last asked for
FILE = "_lab_file"  # (name, content): outlives the uploader
WAYS = {"typed": "Type or paste", "file": "A file", "prefix": "A prefix"}
MOST_MEGABYTES = 5
KEEP: Any = {"persist_state": "session"}


def make() -> None:
    """Draw the section."""
    st.markdown(
        f"Give at least {FEWEST_PER_CLASS} short texts that show what you mean and as many that don't; sixteen of each "
        "are better. The model reads them, and what tells its inner states apart becomes a slider."
    )
    st.button(
        "Fill in an example: pirate", key="lab_example", icon=":material/edit_note:", on_click=fill_in, type="tertiary"
    )
    left, right = st.columns([2, 3], vertical_alignment="bottom")
    left.text_input("Name", key="lab_name", max_chars=LONGEST_NAME, placeholder="Pirate", **KEEP)
    st.session_state.setdefault("lab_way", "typed")
    way = right.segmented_control(
        "Make it from", list(WAYS), required=True, format_func=WAYS.__getitem__, key="lab_way", **KEEP
    )
    fields, table, fault = given(way or "typed")
    fields |= finer()
    if st.button("Find the direction", key="lab_make", type="primary", icon=":material/explore:") and not fault:
        fault = begin(fields)
    if fault:
        refuse(fault)
    if table is not None:
        what_was_read(table)
    section_jobs.panel(SECTION)
    result: LabResult | None = section_jobs.find(SECTION, st.session_state.get(ASKED, ""))
    if result is not None:
        show(result)
    own_concepts()


def fill_in() -> None:
    """Put the example into the boxes, before the next run."""
    filled = {"name": lab_pirate.NAME, "way": "typed", "with": lab_pirate.WITH, "without": lab_pirate.WITHOUT}
    for name, value in filled.items():
        st.session_state[f"lab_{name}"] = value


# -- what is given ----------------------------------------------------------------------------------------------------


def given(way: str) -> tuple[dict[str, Any], Table | None, str]:
    """Draw the inputs of a way; return fields of `LabParams`, the examples read, and what makes them unusable."""
    if way == "prefix":
        return prefix(), None, ""
    try:
        table = boxes() if way == "typed" else file()
    except LabError as error:
        return {}, None, str(error)
    return ({"rows": ()}, None, "") if table is None else ({"rows": table.rows, "kind": table.kind}, table, "")


def boxes() -> Table | None:
    """Draw two boxes, one example a line; None while both are empty."""
    left, right = st.columns(2)
    with_concept = left.text_area(
        "With the concept, one example a line", key="lab_with", height=220, placeholder="Ahoy, matey!", **KEEP
    )
    without = right.text_area("Without, one a line", key="lab_without", height=220, placeholder="Hello, dear!", **KEEP)
    given_both = with_concept or "", without or ""
    return typed(*given_both) if "".join(given_both).strip() else None


def file() -> Table | None:
    """Draw the choice of a file; None while there is none."""
    st.file_uploader(
        "CSV or JSONL with the columns text and label",
        type=["csv", "tsv", "txt", "jsonl", "ndjson", "json"],
        key="lab_file",
        max_upload_size=MOST_MEGABYTES,
        on_change=keep_file,
        help="Labels are 1 or 0, yes or no, with or without, or a number in every row for a graded concept.",
    )
    name, content = st.session_state.get(FILE, ("", None))
    if content is None:
        return None
    st.text(f"Read from {name}")
    return read_table(content, name)


def keep_file() -> None:
    """Keep a file that was uploaded, or forget one that was taken away."""
    uploaded = st.session_state["lab_file"]
    st.session_state.pop(FILE, None)
    if uploaded is not None:
        st.session_state[FILE] = (uploaded.name, uploaded.getvalue())


def prefix() -> dict[str, Any]:
    """Draw a prefix and how many statements it is put before."""
    words = st.text_input("Prefix", key="lab_prefix", max_chars=LONGEST_ASK, placeholder="Speak like a pirate.", **KEEP)
    st.session_state.setdefault("lab_statements", 24)
    count = st.slider(
        "Everyday statements",
        FEWEST_NUMBERS,
        MOST_FOLDED // 2,
        key="lab_statements",
        help="The model comments on each with the prefix and without; its answers are the examples.",
        **KEEP,
    )
    return {"kind": "prefix", "prefix": words, "statements": count}


def finer() -> dict[str, Any]:
    """Draw what rarely needs changing."""
    with st.expander("Method, site, and the concept in words"):
        method, site = method_and_site("lab")
        ask = st.text_input(
            "How one would ask for it",
            key="lab_ask",
            max_chars=LONGEST_ASK,
            placeholder="Answer in this style: …",
            help="For the comparison with simply asking. Empty: the prefix, or words with the name.",
            **KEEP,
        )
    return {"method": method, "site": site, "ask": ask}


def what_was_read(table: Table) -> None:
    """Count the examples and list the rows that can't be used."""
    count = sum(row.target == 1 for row in table.rows)
    parts = f"{count} with and {len(table.rows) - count} without the concept"
    graded = f"{len(table.rows)} examples with {len({row.target for row in table.rows})} different numbers"
    st.caption(f"Read: {graded if table.kind == 'numbers' else parts}.")
    for notice in table.notices:
        st.caption(plain(notice))
    if table.problems:
        rows = "row was" if len(table.problems) == 1 else "rows were"
        with st.expander(f"{len(table.problems)} {rows} not used", expanded=True):
            st.dataframe(
                {"where": [one.where for one in table.problems], "why": [one.says for one in table.problems]},
                hide_index=True,
                key="lab_problems",
                height="content" if len(table.problems) < 8 else 300,
            )


# -- the job ----------------------------------------------------------------------------------------------------------


def begin(fields: dict[str, Any]) -> str:
    """Queue the work; return what is wrong with what was asked for, "" if nothing."""
    try:
        params = LabParams(name=st.session_state["lab_name"], **fields)
        key = f"{params.key()} {st.session_state.get(DELETED, 0)}"
        section_jobs.start(SECTION, "Finding the direction", key, partial(work, params))
    except LabError as error:
        return str(error)
    st.session_state[ASKED] = key
    return ""


def work(params: LabParams, context: JobContext) -> LabResult:
    """Make the concept on the scheduler's thread."""
    return run_lab.make(params, on_progress=context.progress, check=context.check)


# -- the result -------------------------------------------------------------------------------------------------------


def show(result: LabResult) -> None:
    """Show a concept that was made: what it tells, how strong it may be, what it writes."""
    concept_id = result.stored.concept.id
    mine = my_concepts().get(concept_id)
    if mine is None:
        return
    if st.session_state.get("_lab_offered") != concept_id:  # the other sections begin with the newest
        st.session_state["_lab_offered"] = st.session_state[CHOICE] = concept_id
        st.query_params.pop("concept", None)
    with st.container(border=True, key="lab_result"):
        look.card_header("Found and saved", mine.name)
        figures(result)
        for notice in result.notices:
            st.info(plain(notice), icon=":material/info:")
        steer_link(user_concepts.stored(concept_id))
        if result.held_out is not None:
            st.plotly_chart(lab_figures.by_block(result.held_out), config=PLOTLY, key="lab_by_block")
            look.figure_caption(
                f"How well each block's direction alone tells {result.held_out.rows} examples apart, "
                f"{plain(result.held_out.how)}; the band is the 95 % bootstrap interval. 0.5 is chance for an AUROC, 0 "
                "for a correlation."
            )
        written(result)


def figures(result: LabResult) -> None:
    """Show the headline numbers."""
    tested = result.held_out
    with st.container(horizontal=True, gap="large"):
        if tested is not None:
            low, high = tested.interval
            st.metric(f"Held-out {tested.measure}", f"{tested.overall:.3f}", width="content")
            st.metric("95 % interval", f"{low:.2f}–{high:.2f}", width="content")
            if tested.overall_accuracy is not None:
                st.metric("Held-out accuracy", f"{tested.overall_accuracy:.0%}", width="content")
        st.metric(
            "Usable strength",
            percent_band(result.band),
            width="content",
            help="Percent of the residual norm: strengths tried at which it steers and the text stays fluent.",
        )
        st.metric("Time", f"{result.seconds['all']:.0f} s", width="content")


def written(result: LabResult) -> None:
    """Show what the model writes at each strength, as plain text."""
    prompts = list(dict.fromkeys(one["prompt"] for one in result.examples))
    with st.expander("What it writes at each strength"):
        prompt = st.selectbox("Prompt", prompts, key="lab_written_prompt")
        shown = [one for one in result.examples if one["prompt"] == prompt]
        with st.grid(3, min_column_width=200, gap="xsmall", border=True, key="lab_written") as grid:
            for one in shown:
                with grid.cell():
                    strength = f"{100 * one['strength']:.2g} %" if one["strength"] else "unsteered"
                    st.markdown(f"**{strength}**" + (" · :red[collapsed]" if one["collapsed"] else ""))
                    st.text(one["text"] or "(nothing)")
