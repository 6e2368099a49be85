"""Patch mosaic: which training patches is this generated image made of, and does the network agree?

The claim of Kamb & Ganguli (2025, arXiv 2412.20292): a score machine that was never trained copies each pixel from the
training patch that fits best and arrives, from the same noise, at nearly the image of a trained convolutional network.
"""

from dataclasses import replace

import streamlit as st

from lm_core import run, shelf
from lm_core.errors import LabError
from lm_core.jobs import Job, JobContext, scheduler
from lm_core.results import MosaicResult
from pages.components import look
from pages.components.lens import lens, lens_payload, place
from pages.components.live import job_panel, owner
from pages.components.mosaic_controls import Asked, controls, preset_links, remember, start_with_first_preset
from pages.components.mosaic_figures import curve_chart, downloads, equation, memorised, scores

RESULT = "_mosaic_result"  # the result on show: it outlives a change of the controls until the next is there
JOB = "_mosaic_job"
LENS = "lens"


def compute(asked: Asked) -> None:
    """Queue a live run and remember its job."""

    def work(context: JobContext) -> tuple[MosaicResult, str]:
        result = run.mosaic(asked.params, on_progress=context.progress)
        return result, shelf.keep(result)

    job = scheduler().submit(owner(), f"Seed {asked.params.seed}", work, key=asked.params.key())
    st.session_state[JOB] = job.id


def take_result(job: Job) -> None:
    """Put a finished job's result on show."""
    result, warning = job.result
    st.session_state[RESULT] = (job.key, result, warning)


@st.cache_data(max_entries=12, show_spinner=False)
def packed(key: str, factor: float, _result: MosaicResult) -> dict:
    """Pack a result for the lens, once per result and factor."""
    return lens_payload(_result, factor=factor)


@st.cache_data(max_entries=4, show_spinner=False)
def packed_preview(job_id: str, steps: int, _partial: MosaicResult) -> dict:
    """Pack the images of a run in progress, once per step; its provenance comes with the finished result."""
    return lens_payload(replace(_partial, top_image=_partial.top_image[:0]), partial=True)


def preview(job: Job) -> None:
    """Show the steps that a running job has taken so far."""
    partial = job.partial  # once: the job goes on meanwhile
    lens(packed_preview(job.id, partial.steps, partial), key=f"{LENS}_{job.id}")


def wanted_result(asked: Asked) -> tuple[MosaicResult | None, str]:
    """Return the result for the controls if there is one, else None; with a warning to show."""
    key, result, warning = st.session_state.get(RESULT, ("", None, ""))
    if key != asked.params.key():
        result, warning = shelf.find(asked.params), ""
        if result is not None:
            st.session_state[RESULT] = (asked.params.key(), result, warning)
    return result, warning


def follow_visitor() -> None:
    """Put a new pin, step or view into the URL before the run that it causes."""
    remember(place(LENS))


def show(asked: Asked, result: MosaicResult) -> None:
    """Draw a finished result: the lens, then the formula, the scores and whether it is memorised."""
    payload = packed(asked.params.key(), asked.factor, result)
    here = lens(payload, key=LENS, pin=asked.pin, step=asked.step, view=asked.view, on_change=follow_visitor)
    remember(here)
    equation(result, here.step)
    left, right = st.columns(2, gap="large")
    with left:
        scores(result)
    with right:
        memorised(result)
    with st.expander("Patch sizes, numbers and downloads", key="details", on_change="rerun") as details:
        if details.open:
            curve_chart(result)
            downloads(result)


look.page_header(
    "Patch mosaic",
    "The theory on the left has never been trained. From the same noise as the network on the right it copies each "
    "pixel from the training patches that fit best, and arrives at almost the same image.",
)
start_with_first_preset(shelf.presets())
job = scheduler().get(st.session_state.get(JOB, ""), owner())
try:
    with st.sidebar:
        preset_links(shelf.presets())
        asked = controls()
    if job is not None and job.active and job.key != asked.params.key():
        scheduler().cancel(job.id, owner())  # the controls have moved on: nobody waits for this any more
    result, warning = wanted_result(asked)
    if result is None and not (job is not None and job.active):
        asked.check()
        st.info(asked.invitation(), icon=":material/play_circle:")
        clicked = st.button("Make this image", key="run", type="primary", icon=":material/play_arrow:", shortcut="g")
        if clicked or st.session_state.pop("_run_now", False):
            compute(asked)
            st.rerun()
    job_panel(scheduler(), job, on_done=take_result, preview=preview)
    if warning:
        st.warning(warning)
    if result is not None:
        show(asked, result)
except LabError as error:
    st.error(str(error), icon=":material/error:")
st.divider()
look.references("els", "mechanics")
