"""Watch the model while it writes: its detectors read every token, and an alarm rings at once."""

import streamlit as st

from lm_core.errors import LabError
from lm_core.params import MAX_SEED
from lm_core.steer_params import MAX_PROMPT_CHARACTERS, MAX_TOKENS, SteerParams
from pages.components import look
from pages.components.monitor_controls import Asked, controls
from pages.components.steering_answer import Answer, show_answer, write

ANSWER = "_monitor_answer"
QUESTION = "How do people say good morning in Spanish?"


def watch_it_write() -> None:
    """Draw the section."""
    left, right = st.columns([9, 4], gap="large")
    with right:
        asked = controls()
        tokens = st.slider("Tokens", 1, MAX_TOKENS, 120, key="monitor_tokens", help="The most that is written.")
        seed = st.number_input("Seed", 0, MAX_SEED, 0, key="monitor_seed")
    with left:
        st.session_state.setdefault("monitor_prompt", QUESTION)
        prompt = st.text_area(
            "Prompt", height=80, max_chars=MAX_PROMPT_CHARACTERS, key="monitor_prompt", persist_state="session"
        )
        clicked = st.button(
            "Write", key="monitor_write", type="primary", icon=":material/edit:", disabled=not asked.watched
        )
        if clicked:
            start(prompt or "", asked, int(seed), tokens)
        answer: Answer | None = st.session_state.get(ANSWER)
        if answer is None:
            look.figure_caption(
                "The model answers, and a detector reads every token as it comes. To see it with concepts that come "
                "and go, choose “Watch for” on the Steering page. A detector's first fit takes half a minute."
            )
            return
        busy = show_answer(answer, answer.params)
        if not busy and answer.log.closed:
            st.button(
                "Read it token by token",
                key="monitor_read_answer",
                icon=":material/grid_on:",
                on_click=read_it,
                args=(answer,),
            )


def start(prompt: str, asked: Asked, seed: int, tokens: int) -> None:
    """Queue an answer that the chosen detectors read, or say what is wrong with what was typed."""
    detector = {"method": asked.method, "aggregate": asked.aggregate, "false_positive_rate": asked.rate}
    try:
        params = SteerParams(prompt, (), (), seed=seed, tokens=tokens)
        write(params, asked.watched, ANSWER, rows=("unsteered",), detector=detector)
    except LabError as error:
        st.error(str(error), icon=":material/error:")


def read_it(answer: Answer) -> None:
    """Put the answer's text into the section that reads texts, and go there."""
    tokens = [event["pieces"][0] for event in answer.log.events if event["type"] == "token"]
    st.session_state["monitor_text"] = "".join(piece or "" for piece in tokens).strip()
    st.query_params["section"] = "text"
