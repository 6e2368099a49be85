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
from pages.components.mosaic_figures import SAMPLE_HELP, curve_chart, downloads, equation, memorised, sample, scores

RESULT = "_mosaic_result"  # the result on show: it outlives a change of the controls until the next is there
UNFINISHED = "_mosaic_unfinished"  # the best image of a run that was cancelled
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
def packed(key: str, images: int, factor: float, _result: MosaicResult) -> dict:
    """Pack a whole image for the lens, once per number of images and factor; its title says that number."""
    seen = _result.params.with_(images=images) if images else _result.params
    return lens_payload(replace(_result, params=seen), factor=factor)


@st.cache_data(max_entries=4, show_spinner=False)
def packed_preview(job_id: str, steps: int, _partial: MosaicResult) -> dict:
    """Pack the first steps of a run, once per step; where the pixels come from follows with the whole image."""
    return lens_payload(replace(_partial, top_image=_partial.top_image[:0]), partial=True)


def preview(asked: Asked, job: Job) -> None:
    """Show the best that a running job has so far: a whole image over some of the images, or its first steps."""
    partial = job.partial  # once: the job goes on meanwhile
    if is_whole(partial):
        payload = packed(job.id, partial.images_used, asked.factor, partial)
        sampled(asked, partial)
    else:
        payload = packed_preview(job.id, partial.steps, partial)
    lens(payload, key=f"{LENS}_{job.id}", view=asked.view)


def is_whole(partial: MosaicResult | None) -> bool:
    """Whether what a job has published is a whole image, every step with its provenance."""
    return partial is not None and partial.steps == partial.params.steps == len(partial.top_image)


def sampled(asked: Asked, result: MosaicResult) -> None:
    """Say over how many images a result is and how far off it may be."""
    line = sample(result, everything=asked.params.images is None)
    st.caption(f"{line[0].upper()}{line[1:]}.", help=SAMPLE_HELP if result.error_bound is not None else None)


def best_so_far(job: Job | None, asked: Asked) -> tuple[MosaicResult | None, str]:
    """Return the whole image that a cancelled run for the controls has left, else None; with why it ended."""
    if job is not None and job.state == "cancelled" and is_whole(job.partial):
        st.session_state[UNFINISHED] = (job.key, job.partial, str(job.error))
    if job is not None and job.state == "failed":
        st.session_state.pop(UNFINISHED, None)  # the later failure is what the visitor has to read
    key, partial, why = st.session_state.get(UNFINISHED, ("", None, ""))
    return (partial, why) if key == asked.params.key() else (None, "")


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


def show(asked: Asked, result: MosaicResult, finished: bool = True) -> None:
    """Draw a whole image: the lens and the formula; of a finished run also the scores and whether it is memorised."""
    payload = packed(asked.params.key() + ("" if finished else "-"), result.images_used, asked.factor, result)
    here = lens(payload, key=LENS, pin=asked.pin, step=asked.step, view=asked.view, on_change=follow_visitor)
    remember(here)
    sampled(asked, result)
    equation(result, here.step)
    if finished:
        left, right = st.columns(2, gap="large")
        with left:
            scores(result)
        with right:
            memorised(result)
    with st.expander("Patch sizes, numbers and downloads", key="details", on_change="rerun") as details:
        if details.open:
            curve_chart(result)
            downloads(result)


def offer_run(asked: Asked, unfinished: MosaicResult | None, why: str) -> None:
    """Say what a live run would do, or that the image on show isn't finished; start a run on a click."""
    asked.check()
    if unfinished is None:
        st.info(asked.invitation(), icon=":material/play_circle:")
    else:
        line = sample(unfinished, everything=asked.params.images is None)
        said = f"{why} The image below isn't finished: {line}. A new run starts over."
        st.info(said, icon=":material/cancel:")
    clicked = st.button("Make this image", key="run", type="primary", icon=":material/play_arrow:", shortcut="g")
    if clicked or st.session_state.pop("_run_now", False):
        compute(asked)
        st.rerun()


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
    if asked.note:
        st.warning(asked.note, icon=":material/link_off:")
    if job is not None and job.active and job.key != asked.params.key():
        scheduler().cancel(job.id, owner())  # the controls have moved on: nobody waits for this any more
    result, warning = wanted_result(asked)
    unfinished, why = None, ""
    if result is None and not (job is not None and job.active):
        unfinished, why = best_so_far(job, asked)
        offer_run(asked, unfinished, why)
    if unfinished is None:
        job_panel(scheduler(), job, on_done=take_result, preview=lambda job: preview(asked, job))
    if warning:
        st.warning(warning)
    if result is not None:
        show(asked, result)
    elif unfinished is not None:
        show(asked, unfinished, finished=False)
except LabError as error:
    st.error(str(error), icon=":material/error:")
st.divider()
look.references("els", "mechanics")
