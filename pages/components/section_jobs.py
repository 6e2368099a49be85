"""The jobs of a page's sections: start one, show it while it runs, remember what it has made."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from lm_core.jobs import Job, JobContext, scheduler
from pages.components.live import job_panel, owner

KEPT = 6  # results a section remembers


def start(section: str, title: str, key: str, work: Callable[[JobContext], Any]) -> None:
    """Queue a section's work unless its result is there already; the visitor's earlier job gives way."""
    if find(section, key) is not None:
        return
    job = scheduler().submit(owner(), title, work, key=f"{section} {key}")
    st.session_state[f"_{section}_job"] = job.id
    if job.state == "done":
        keep(section, job)


def keep(section: str, job: Job) -> None:
    """Remember a finished job's result, the few used last."""
    kept = st.session_state.setdefault(f"_{section}_results", {})
    key = str(job.key).removeprefix(f"{section} ")
    kept.pop(key, None)
    kept[key] = job.result
    while len(kept) > KEPT:
        kept.pop(next(iter(kept)))


def find(section: str, key: str) -> Any:
    """Return the result of this key, None if it isn't there; what is asked for is forgotten last."""
    kept = st.session_state.get(f"_{section}_results", {})
    if key in kept:
        kept[key] = kept.pop(key)
    return kept.get(key)


def current(section: str) -> Job | None:
    """Return the section's latest job."""
    return scheduler().get(st.session_state.get(f"_{section}_job", ""), owner())


def panel(section: str, preview: Callable[[Job], None] | None = None) -> Job | None:
    """Show the section's job while there is one, and how it ended; returns it."""
    job = current(section)
    job_panel(scheduler(), job, on_done=lambda done: keep(section, done), key=f"{section}_job", preview=preview)
    return job


def ask(
    section: str,
    key: str,
    title: str,
    work: Callable[[JobContext], Any],
    *,
    button: str,
    note: str = "",
    go: bool = False,
    slot: str = "",
    preview: Callable[[Any], None] | None = None,
) -> Any:
    """Return a result if it is there; else offer it on a button, or start it at once if the visitor has asked before.

    What was cancelled or has failed isn't started again by itself.

    Args:
        key: of the result; button: what asks for the first; note: what to expect, beside the button.
        go: whether the visitor has just asked by other means than the button.
        slot: tells a section's kinds of results apart: whether one was asked for says nothing about the other.
        preview: draws what the job has published so far.

    Returns:
        None while it isn't there; the job is shown by then.
    """
    result, asked = find(section, key), f"_{section}_asked{slot}"
    if result is not None:
        st.session_state[asked] = key
        return result
    job = current(section)
    if job is None or not job.active or job.key != f"{section} {key}":
        wanted = go or st.session_state.get(asked) not in (None, key)
        if not wanted:
            with st.container(horizontal=True, vertical_alignment="center"):
                wanted = st.button(button, key=f"{section}_run", type="primary", icon=":material/play_arrow:")
                if note:
                    st.caption(note, width="stretch")
        if wanted:
            st.session_state[asked] = key
            start(section, title, key, work)
            st.rerun()
    panel(section, None if preview is None else lambda job: preview(job.partial))
    return None


def live_run(
    section: str,
    button: str,
    title: str,
    key: str,
    work: Callable[[JobContext], Any],
    preview: Callable[[Any], None] | None = None,
) -> Any:
    """Draw a button that always stays and its job; return this key's result, None before.

    Args:
        section: names the widgets and what is remembered.
        key: what makes two runs the same; the result of another key is not returned.
        work: runs on the scheduler's thread.
        preview: draws what the job has published so far.
    """
    if st.button(button, key=f"{section}_run", icon=":material/play_arrow:"):
        start(section, title, key, work)
        st.rerun()
    job = current(section)
    if job is not None and job.active and job.key != f"{section} {key}":
        scheduler().cancel(job.id, owner())  # the controls have moved on: nobody waits for this any more
    panel(section, None if preview is None else lambda job: preview(job.partial))
    return find(section, key)
