"""Steering: what happens to a live language model when one concept is turned up?

The claim of Beaglehole et al. (2025, arXiv 2502.03708): a concept is a direction v in the model's activations; added to
them at every token it changes what the model writes. Here h ← h + εnv with n the block's typical residual norm, the
same at every token, so that ε compares across blocks. Beside it stand the same answer unsteered and the same concept
asked for in words, which often does better.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st

from lm_core import run_llm
from lm_core.errors import LabError
from lm_core.jobs import Job, JobContext, scheduler
from lm_core.steer_params import MAX_PROMPT_CHARACTERS, SteerParams
from pages.components import look, steering_figures
from pages.components.live import job_panel, owner
from pages.components.steering_answer import Answer, answer_on_show, cosines, show_answer, write
from pages.components.steering_controls import (
    asked,
    controls,
    known_facts,
    names,
    on_phone,
    preset_links,
    remember,
    sliders,
    start_from_url,
    watched,
)

FIGURES = "_steering_figures"  # name → (parameters, concept, result)
FIGURE_JOB = "_steering_figure_job"


def figure_section(
    name: str, title: str, label: str, params: SteerParams, compute: Callable[[JobContext], Any], busy: bool, concept=""
) -> Any:
    """Offer a figure that takes a job: a button, its progress, then (parameters, concept, result) of the latest."""

    def work(context: JobContext) -> tuple:
        return name, params, concept, compute(context)

    why = "Possible when the answer is written." if busy else None
    if st.button(label, key=f"make_{name}", disabled=busy, help=why):
        job = scheduler().submit(owner(), title, work, key=f"{name}-{concept}-{params.key()}")
        st.session_state[FIGURE_JOB] = (name, job.id)
    who, job_id = st.session_state.get(FIGURE_JOB, ("", ""))
    if who == name:
        job_panel(scheduler(), scheduler().get(job_id, owner()), on_done=take_figure, key=name)
    return st.session_state.get(FIGURES, {}).get(name)


def take_figure(job: Job) -> None:
    """Put a finished figure on show."""
    name, *rest = job.result
    st.session_state.setdefault(FIGURES, {})[name] = tuple(rest)


def film(params: SteerParams, busy: bool) -> None:
    """Offer the sweep of one concept over seven strengths."""
    st.header("Film strip", anchor=False)
    look.figure_caption("The same prompt and seed at seven strengths of one concept, written as one batch.")
    concept = params.concepts[0]
    if len(params.concepts) > 1:
        labels = dict(zip(params.concepts, names(params.concepts), strict=True))
        concept = st.segmented_control(
            "Concept", list(labels), default=concept, required=True, format_func=labels.__getitem__, key="film_concept"
        )
    found = figure_section(
        "film",
        "Film strip",
        "Write at seven strengths",
        params,
        lambda context: run_llm.sweep(params, concept, on_progress=context.progress, check=context.check),
        busy,
        concept,
    )
    if found is not None:
        made_with, of, sweep = found
        steering_figures.which_prompt(made_with, params)
        steering_figures.film_strip(sweep)
        steering_figures.effect_chart(sweep, made_with, of)


def linearity(params: SteerParams, busy: bool) -> None:
    """Offer the first-order prediction of steering against its measured effect."""
    st.header("Is it linear?", anchor=False)
    found = figure_section(
        "linear",
        "Linear prediction",
        "Predict and measure",
        params,
        lambda context: run_llm.linear_response(params, on_progress=context.progress, check=context.check),
        busy,
    )
    if found is None:
        look.figure_caption(
            "To first order a direction changes each next-token logit by εn⟨∂logit/∂h, v⟩ in each block, n being the "
            "block's typical residual norm. This predicts the change at the sliders' present strengths, measures it, "
            "and finds the strength where the prediction fails."
        )
    else:
        steering_figures.which_prompt(found[0], params)
        steering_figures.linear_charts(found[2], found[0])


def interference(answer: Answer | None) -> None:
    """Show how alike the directions of the answer's concepts are."""
    found = cosines(answer)
    if found is not None:
        st.header("Do the concepts interfere?", anchor=False)
        steering_figures.cosine_map(found, answer.params.concepts)


def fetch(model: str) -> None:
    """Queue the download of a model that the visitor asked for."""
    job = scheduler().submit(owner(), "Fetching the model", lambda context: ("fetch", run_llm.fetch_model(model)))
    st.session_state[FIGURE_JOB] = ("fetch", job.id)


def wanted() -> SteerParams | None:
    """Return what the controls ask for; where that makes no sense say so, and let the answer on show stay."""
    try:
        return asked()
    except LabError as error:
        st.error(str(error), icon=":material/error:")
        return None


def ask(params: SteerParams) -> None:
    """Have an answer written; where the queue has no room say so."""
    try:
        write(params, watched())
    except LabError as error:
        st.error(str(error), icon=":material/error:")


def figures(params: SteerParams, answer: Answer | None, busy: bool) -> None:
    """Draw everything under the columns."""
    film(params, busy)
    linearity(params, busy)
    interference(answer)
    with st.expander("What is known of these concepts"):
        steering_figures.facts_table({name: known_facts(name) for name in params.concepts})
    steering_figures.export_menu(params)


look.page_header(
    "Steering",
    "One direction is added to the model's inner state at every token. Move a slider while it writes: the next word "
    "already obeys.",
)
try:
    start_from_url()
    with st.sidebar:
        beside = st.container()
        controls()
    left, right = st.columns([6, 1], vertical_alignment="bottom")
    left.text_area(
        "Prompt", key="steer_prompt", height=68, max_chars=MAX_PROMPT_CHARACTERS, placeholder="Ask the model something"
    )
    clicked = right.button("Write", key="write", type="primary", icon=":material/edit:", shortcut="g", width="stretch")
    preset_links()
    above = st.container()
    if "_fetch_now" in st.session_state:
        fetch(st.session_state.pop("_fetch_now"))
    who, job_id = st.session_state.get(FIGURE_JOB, ("", ""))
    if who == "fetch":
        job_panel(scheduler(), scheduler().get(job_id, owner()), key="fetching")
    params = wanted()
    if (st.session_state.pop("_write_now", False) or clicked) and params is not None:
        ask(params)
    answer = answer_on_show(params)
    with above if on_phone() else beside:
        sliders(answer)
    busy = show_answer(answer, params)
    remember(answer.log.stream_id if answer and not answer.recorded else "")
    if params is not None and params.concepts:
        figures(params, answer, busy)
except LabError as error:
    st.error(str(error), icon=":material/error:")
st.divider()
look.references("steering")
