"""The bridge from a page to its job: who owns it, and the panel that shows it until it has ended.

The job runs on the scheduler's thread; nothing here computes or blocks. The panel looks again every 0.7 s, only while
the job is active, and each look is the heartbeat that keeps the job alive.
"""

import secrets
from collections.abc import Callable

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from lm_core.errors import LabError
from lm_core.jobs import Job, Scheduler

LOOK_EVERY_SECONDS = 0.7
OWNER_KEY = "_owner"
SEEN_KEY = "_job_seen"
CALM = "Something went wrong; details are in the log. Your settings are as you left them: change one, or try again."


def owner() -> str:
    """Return this browser session's secret name in the job queue."""
    if OWNER_KEY not in st.session_state:
        st.session_state[OWNER_KEY] = secrets.token_urlsafe(16)
    return st.session_state[OWNER_KEY]


def connection() -> Callable[[], bool] | None:
    """Return a function that tells, from any thread, whether this session's browser is still connected."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is None or not runtime.exists():
        return None
    session = context.session_id
    return lambda: runtime.exists() and runtime.get_instance().is_active_session(session)


def job_panel(
    scheduler: Scheduler,
    job: Job | None,
    on_done: Callable[[Job], None] | None = None,
    key: str = "job",
    preview: Callable[[Job], None] | None = None,
) -> None:
    """Show a job of this session: place in the queue, progress, remaining time, cancel; then how it ended.

    When the job ends the whole page runs once more, so that it can draw `job.result`. A job that is done shows nothing.

    Args:
        job: from `submit` or `get`; None shows nothing.
        on_done: called once with the finished job, before that run.
        key: of this panel, if a page has several.
        preview: draws `job.partial` under the bar, at each look.
    """
    if job is None:
        return
    panel = st.fragment(_panel, run_every=LOOK_EVERY_SECONDS) if job.active else _panel
    panel(scheduler, job, on_done, key, preview)


def _panel(scheduler: Scheduler, job: Job, on_done, key: str, preview) -> None:
    if not job.active:
        seen = f"{SEEN_KEY}_{key}"
        if st.session_state.get(seen) != job.id:
            st.session_state[seen] = job.id
            if job.state == "done" and on_done is not None:
                on_done(job)
            st.rerun()
        _outcome(job)
        return
    scheduler.heartbeat(job.owner, listening=connection())
    with st.container(border=True, key=f"{key}_panel"):
        left, right = st.columns([5, 1], vertical_alignment="center")
        left.progress(job.progress, text=describe(job))
        right.button(
            "Cancel",
            key="cancel" if key == "job" else f"cancel_{key}",
            icon=":material/close:",
            width="stretch",
            disabled=job.cancelling,
            on_click=scheduler.cancel,
            args=(job.id, job.owner),
        )
        if preview is not None and job.partial is not None:
            preview(job)


def _outcome(job: Job) -> None:
    """Say calmly how a job ended that has no result."""
    if job.state == "cancelled":
        st.info(str(job.error), icon=":material/cancel:")
    elif job.state == "failed":
        st.error(str(job.error) if isinstance(job.error, LabError) else CALM, icon=":material/error:")


def describe(job: Job) -> str:
    """Return one line on an active job: what it does or how many are before it, and how long it will take."""
    seconds, place = job.eta_seconds, job.place  # once each: the job goes on meanwhile
    remaining = f" · {spell_seconds(seconds)} left" if seconds is not None else ""
    if job.cancelling:
        return f"{job.title}: ending after this step…"
    if job.state == "queued":
        before = "next in the queue" if place <= 1 else f"{place - 1} waiting before you"
        return f"{job.title}: {before}{remaining}"
    return f"{job.title}: {job.message or 'starting'} · {job.progress:.0%}{remaining}"


def spell_seconds(seconds: float) -> str:
    """Return a duration as people say it: "about 12 s", "about 3 min"."""
    if seconds < 1:
        return "a moment"
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
