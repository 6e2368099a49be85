"""The answer on show: who writes it, the sliders that turn it, what the queue says of it, the columns it stands in."""

from dataclasses import dataclass
from typing import Any

import streamlit as st

from lm_core import run_llm
from lm_core.jobs import Job, JobContext, scheduler
from lm_core.steer_params import SteerParams
from lm_core.writing import Dial, Writing, open_writing, writing
from pages.components import look
from pages.components.knobs import Dials
from pages.components.live import connection, describe, job_panel, owner
from pages.components.writing import columns

ANSWER = "_steering_answer"  # it outlives every change of the controls until the next is asked for
COSINES = "_steering_cosines"  # (stream id, matrix), for a job's result expires
LOOK_EVERY_SECONDS = 0.7


@dataclass(frozen=True)
class Answer:
    """An answer on show; one that another session wrote, found by its id, has neither parameters nor dial."""

    log: Writing
    params: SteerParams | None = None
    dial: Dial | None = None
    job_id: str = ""
    recorded: bool = False

    def turn(self, here: Dials) -> None:
        """Send the sliders' new strengths to the writer."""
        if self.dial is not None and self.params is not None and not self.log.closed:
            self.dial.set(here.in_force(self.params.concepts))


def write(params: SteerParams) -> Answer:
    """Queue a new answer; one that is being written ends where it is."""
    log, dial = open_writing(), Dial(params.strengths)

    def work(context: JobContext) -> Any:
        try:
            run_llm.steer(params, dial=dial, writing=log, on_progress=context.progress, check=context.check)
        finally:
            log.close()
        return run_llm.cosines(params) if len(params.concepts) > 1 else None

    before = st.session_state.get(ANSWER)
    job = scheduler().submit(owner(), "Your answer", work)
    if before is not None and before.params is not None:
        before.log.close()
    answer = Answer(log, params, dial, job.id)
    st.session_state[ANSWER] = answer
    return answer


def answer_on_show(params: SteerParams | None) -> Answer | None:
    """Return this session's answer, else the one that the URL names, if it is still kept, else a shipped recording."""
    if ANSWER not in st.session_state:
        log = writing(st.query_params.get("s", ""))
        recording = run_llm.recorded(params) if log is None and params is not None else None
        kept = Answer(log) if log is not None else None
        st.session_state[ANSWER] = Answer(recording, params, recorded=True) if recording is not None else kept
    answer = st.session_state[ANSWER]
    st.session_state["_turn"] = answer.turn if answer is not None else None
    return answer


def stop() -> None:
    """End the answer that is being written; its text stays."""
    answer = st.session_state.get(ANSWER)
    if answer is not None:
        scheduler().cancel(answer.job_id, owner())


def follow(answer: Answer, job: Job) -> None:
    """Keep a job alive while its page is open, and show its place in the queue until the first word is there."""
    if not job.active:
        st.rerun()
    scheduler().heartbeat(owner(), listening=connection())
    if not answer.log.events:
        left, right = st.columns([5, 1], vertical_alignment="center")
        left.progress(job.progress, text=describe(job))
        right.button("Cancel", key="cancel", icon=":material/close:", width="stretch", on_click=stop)


def show_answer(answer: Answer | None) -> bool:
    """Draw the columns, and above them what the queue says; return whether something is being written."""
    job = scheduler().get(answer.job_id, owner()) if answer is not None else None
    with st.container(key="queue"):
        if answer is not None and job is not None and job.active:
            st.fragment(follow, run_every=LOOK_EVERY_SECONDS)(answer, job)
        elif answer is not None and job is not None:
            answer.log.close()  # a job that was cancelled while it waited never opened its log
            if job.state == "failed":
                job_panel(scheduler(), job, key="answer")
    if answer is not None and answer.recorded:
        look.figure_caption("Recorded beforehand with these settings; Write makes it live.")
    about = {"made_with": "Learning Mechanics Lab"}
    if answer is not None and answer.params is not None:
        about |= {"params": answer.params.as_dict()}
    columns(answer.log.stream_id if answer else None, about, key="columns", on_stop=stop)
    return job is not None and job.active


def cosines(answer: Answer | None) -> Any:
    """Return the cosines [concept, concept] of the answer's directions, which its job computes last; None before."""
    if answer is None or answer.params is None:
        return None
    job = scheduler().get(answer.job_id, owner())
    if job is not None and job.state == "done":
        st.session_state[COSINES] = (answer.log.stream_id, job.result)
    stream_id, found = st.session_state.get(COSINES, ("", None))
    return found if stream_id == answer.log.stream_id else None
