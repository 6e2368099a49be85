"""Concept lab, what a direction means: the words it points to, its neighbours, the examples at both ends."""

import streamlit as st

from lm_core import run_lab, run_llm
from lm_core.jobs import JobContext
from lm_core.lab_results import MeaningResult
from lm_core.steer_params import DEFAULT_MODEL
from lm_core.user_concepts import is_mine
from pages.components import look, section_jobs
from pages.components.lab_common import choose_concept, method_and_site, plain, version

SECTION = "lab_meaning"


def meaning() -> None:
    """Draw the section."""
    st.markdown(
        "A direction is only numbers. Which words does it point to, which other concepts lie beside it, and which of "
        "your examples has most of it?"
    )
    concept = choose_concept()
    method, site = method_and_site("lab_meaning")
    last = next(one.blocks for one in run_llm.models() if one.id == DEFAULT_MODEL) - 1
    st.session_state.setdefault("lab_block", last)
    block = st.slider(
        "Block whose direction the lens reads",
        1,
        last,
        key="lab_block",
        persist_state="session",
        help="Counted from 0; the first block has no direction, and only the last one's words are mostly to the point.",
    )

    def work(context: JobContext) -> MeaningResult:
        context.progress(0.1, "reading the direction")
        return run_lab.meaning(concept, method=method, site=site, block=block)

    result: MeaningResult | None = section_jobs.ask(
        SECTION,
        f"{concept} {method} {site} {block} {version(concept, with_directions=True)}",
        "What it means",
        work,
        button="Look",
        note="A few seconds; afterwards it follows the controls.",
    )
    if result is not None:
        show(result)


def show(result: MeaningResult) -> None:
    """Show words, neighbours and examples; all of a model's or a file's text in tables, which render no markdown."""
    st.subheader("Words", anchor=False)
    left, right = st.columns(2)
    with left:
        words("Up: what it points to", result.up, "lab_up")
    with right:
        words("Down: what it points away from", result.down, "lab_down")
    look.figure_caption(
        f"Logit lens of block {result.block}: tokens whose logits the direction raises most and least, "
        f"with about the cosine; ␣ is a space. {plain(result.caveat)}"
    )
    if result.nearest:
        st.subheader("Nearest shipped concepts", anchor=False)
        names = [name for _, name, _ in result.nearest]
        st.dataframe(
            {"concept": names, "cosine": [value for *_, value in result.nearest]}, hide_index=True, key="lab_nearest"
        )
        look.figure_caption("Mean cosine between directions by the same method and site, over the steered blocks.")
    if result.highest:
        st.subheader("Examples at both ends", anchor=False)
        ends("Most of it", result.highest, "lab_highest")
        ends("Least of it", result.lowest, "lab_lowest")
        look.figure_caption(
            "Your examples with the highest and lowest held-out scores; each was scored by a fit without it."
        )
    elif is_mine(result.concept):
        look.figure_caption("No example was held out for this method and site; compare the methods first.")


def words(title: str, tokens: list[tuple[str, float]], key: str) -> None:
    """List tokens and where they lie along the direction."""
    st.text(title)
    shown = [spell(piece) for piece, _ in tokens]
    st.dataframe({"token": shown, "cosine": [value for _, value in tokens]}, hide_index=True, key=key, height="content")


def spell(piece: str) -> str:
    """Make a token's spaces and line ends visible."""
    return piece.replace(" ", "␣").replace("\n", "⏎") or "(nothing)"


def ends(title: str, rows: list[tuple[str, float, float]], key: str) -> None:
    """List examples with their score and label."""
    st.text(title)
    texts, scores, targets = (list(column) for column in zip(*rows, strict=True))
    st.dataframe(
        {"text": texts, "score": [round(one, 3) for one in scores], "label": targets},
        hide_index=True,
        key=key,
        column_config={"text": st.column_config.TextColumn(width="large")},
        height="content",
    )
