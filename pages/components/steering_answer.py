"""The answer on show: who writes it, the sliders that turn it, what the queue says of it, the columns it stands in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from lm_core import run_llm
from lm_core.jobs import Job, JobContext, scheduler
from lm_core.steer_params import SteerParams
from lm_core.writing import Dial, Writing, open_writing, writing
from pages.components import look
from pages.components.knobs import Dials
from pages.components.live import LOOK_EVERY_SECONDS, connection, describe, job_panel, owner
from pages.components.writing import columns

ANSWER = "_steering_answer"  # it outlives every change of the controls until the next is asked for
COSINES = "_steering_cosines"  # (stream id, matrix), for a job's result expires


@dataclass(frozen=True)
class Answer:
    """An answer on show. Its log carries it, so that after a reload the session that finds the log goes on with it.

    Attributes:
        watched: what its detectors look for.
        job_id, owner: the job that writes it and the session that asked for it.
        page: tells whether that session's browser is still connected.
    """

    log: Writing
    params: SteerParams
    dial: Dial | None = None
    watched: tuple[str, ...] = ()
    job_id: str = ""
    owner: str = ""
    page: Callable[[], bool] | None = None
    recorded: bool = False

    @property
    def job(self) -> Job | None:
        return scheduler().get(self.job_id, self.owner)

    def turn(self, here: Dials) -> None:
        """Send the sliders' new strengths to the writer."""
        if self.dial is not None and not self.log.closed:
            self.dial.set(here.in_force(self.params.concepts))

    def lacks(self, concept: str) -> bool:
        """Whether a slider of this concept moves nothing until the next answer."""
        return not self.log.closed and concept not in self.params.concepts

    def stop(self) -> None:
        """End it where it is; its text stays."""
        scheduler().cancel(self.job_id, self.owner)


def write(params: SteerParams, watched: Sequence[str] = (), slot: str = ANSWER, **options: Any) -> Answer:
    """Queue a new answer; this session's last one, or one that only this session still reads, ends where it is.

    Args:
        watched: what detectors look for in it.
        slot: in the session's state, a page's own.
        options: further ones of `run_llm.steer`.
    """
    log, dial = open_writing(), Dial(params.strengths)

    def work(context: JobContext) -> Any:
        try:
            tell = {"on_progress": context.progress, "check": context.check}
            run_llm.steer(params, dial=dial, writing=log, watched=watched, **options, **tell)
        finally:
            log.close()
        return run_llm.cosines(params) if len(params.concepts) > 1 else None

    before = st.session_state.get(slot)
    job = scheduler().submit(owner(), "Your answer", work)
    if before is not None and (before.owner == owner() or before.page is None or not before.page()):
        before.stop()
        before.log.close()
    answer = log.about = Answer(log, params, dial, tuple(watched), job.id, owner(), connection())
    st.session_state[slot] = answer
    return answer


def answer_on_show(params: SteerParams | None) -> Answer | None:
    """Return this session's answer, else the one that the URL names, if it is still kept, else a shipped recording."""
    if ANSWER not in st.session_state:
        log = writing(st.query_params.get("s", ""))
        answer = log.about if log is not None else None
        if answer is None and params is not None and (recording := run_llm.recorded(params)) is not None:
            answer = Answer(recording, params, recorded=True)
        st.session_state[ANSWER] = answer
    return st.session_state[ANSWER]


def follow(answer: Answer, job: Job) -> None:
    """Keep a job alive while its page is open, and show its place in the queue until the first word is there."""
    if not job.active:
        st.rerun()
    scheduler().heartbeat(answer.owner, listening=connection())
    if not answer.log.events:
        left, right = st.columns([5, 1], vertical_alignment="center")
        left.progress(job.progress, text=describe(job))
        right.button("Cancel", key="cancel", icon=":material/close:", width="stretch", on_click=answer.stop)


def show_answer(answer: Answer | None, params: SteerParams | None) -> bool:
    """Draw the columns, and above them what the queue says; return whether something is being written.

    Args:
        params: what the controls ask for now.
    """
    job = answer.job if answer is not None else None
    with st.container(key="queue"):
        if answer is not None and job is not None and job.active:
            st.fragment(follow, run_every=LOOK_EVERY_SECONDS)(answer, job)
        elif answer is not None:
            answer.log.close()  # a job that was cancelled while it waited never opened its log
            if job is not None and job.state == "failed":
                job_panel(scheduler(), job, key="answer")
    if answer is not None and answer.recorded:
        which = "these settings" if answer.params == params else "other settings than the present ones"
        look.figure_caption(f"Recorded beforehand with {which}; Write makes it live.")
    about: dict[str, Any] = {"made_with": "Learning Mechanics Lab"}
    if answer is not None:
        about |= {"params": answer.params.as_dict(), "watched": list(answer.watched)}
    on_stop = answer.stop if answer else lambda: None
    columns(answer.log.stream_id if answer else None, about, key="columns", on_stop=on_stop)
    return job is not None and job.active


def cosines(answer: Answer | None) -> Any:
    """Return the cosines [concept, concept] of the answer's directions, which its job computes last; None before."""
    if answer is None:
        return None
    job = answer.job
    if job is not None and job.state == "done":
        st.session_state[COSINES] = (answer.log.stream_id, job.result)
    stream_id, found = st.session_state.get(COSINES, ("", None))
    return found if stream_id == answer.log.stream_id else None
