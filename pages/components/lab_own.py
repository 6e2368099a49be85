"""Concept lab, one's own concepts: the list with rename, delete, export, and import of another's."""

import hashlib
from functools import partial

import streamlit as st

from lm_core import run_lab, user_concepts
from lm_core.errors import LabError
from lm_core.jobs import JobContext
from lm_core.user_concepts import Stored, my_concepts
from lm_core.user_source import LONGEST_NAME, UserConcept
from pages.components import look, section_jobs
from pages.components.lab_common import headline, percent_band, plain, refuse, steer_link

IMPORT = "lab_import"
DELETED = "_lab_deletions"  # counts, so that what was deleted can be made anew
SAID = "_lab_said"  # what went wrong in a callback
MOST_MEGABYTES = 20


def own_concepts() -> None:
    """List the concepts in the user's folder and offer what can be done with them."""
    st.subheader("My concepts", anchor=False)
    if SAID in st.session_state:
        refuse(st.session_state.pop(SAID))
    mine = my_concepts()
    if not mine:
        look.figure_caption("None yet. They are kept on this machine, across restarts.")
    for one in mine.values():
        entry(one)
    for name, why in user_concepts.unreadable().items():
        st.warning(f"{plain(name)} can't be read: {plain(why)}", icon=":material/warning:")
    take()


def entry(one: UserConcept) -> None:
    """Draw one concept: what it is, the way to its slider, and its menu."""
    found = user_concepts.stored(one.id)
    row = {"horizontal": True, "vertical_alignment": "center"}
    with st.container(border=True, horizontal_alignment="distribute", key=f"lab_entry_{one.id}", **row):
        with st.container(gap=None, width="content"):
            st.text(one.name)
            st.caption(f"{len(one.rows)} examples · usable strength {percent_band(headline(found)[2]['band'])}")
        with st.container(width="content", **row):
            steer_link(found)
            with st.popover("More", key=f"lab_more_{one.id}"):
                menu(one)


def menu(one: UserConcept) -> None:
    """Draw what can be done with a concept."""
    st.text_input("New name", value=one.name, key=f"lab_rename_{one.id}", max_chars=LONGEST_NAME)
    st.button("Rename", key=f"lab_rename_now_{one.id}", on_click=rename, args=(one.id,), width="stretch")
    st.download_button(
        "Export",
        partial(user_concepts.export, one.id),
        f"{one.id}.safetensors",
        key=f"lab_export_{one.id}",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
        help="Directions, examples and figures in one file, for others with the same model.",
    )
    st.download_button(
        "Examples as CSV",
        partial(user_concepts.export_rows, one.id),
        f"{one.id}.csv",
        "text/csv",
        key=f"lab_rows_{one.id}",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
    )
    sure = st.checkbox("I want it gone", key=f"lab_sure_{one.id}")
    st.button(
        "Delete",
        key=f"lab_delete_{one.id}",
        icon=":material/delete:",
        disabled=not sure,
        on_click=delete,
        args=(one.id,),
        width="stretch",
    )


def rename(concept_id: str) -> None:
    """Give a concept the name in its field, before the next run."""
    try:
        user_concepts.rename(concept_id, st.session_state[f"lab_rename_{concept_id}"])
    except (LabError, OSError) as error:
        st.session_state[SAID] = str(error)


def delete(concept_id: str) -> None:
    """Remove a concept, before the next run."""
    try:
        user_concepts.delete(concept_id)
    except (LabError, OSError) as error:
        st.session_state[SAID] = str(error)
    st.session_state[DELETED] = st.session_state.get(DELETED, 0) + 1


def take() -> None:
    """Offer to add a concept from a file."""
    with st.expander("Add a concept from a file"):
        given = st.file_uploader(
            "A concept that was exported here", type="safetensors", key="lab_take", max_upload_size=MOST_MEGABYTES
        )
        content = b"" if given is None else given.getvalue()
        key = f"{hashlib.sha256(content).hexdigest()} {st.session_state.get(DELETED, 0)}"
        if st.button("Add", key="lab_take_now", disabled=given is None):
            try:
                section_jobs.start(IMPORT, "Adding the concept", key, partial(taken, content))
            except LabError as error:
                refuse(error)
        section_jobs.panel(IMPORT)
        found: Stored | str | None = section_jobs.find(IMPORT, key)
        if isinstance(found, str):
            refuse(found)
        elif found is not None:
            st.success(f"Added: {plain(found.concept.name)}.", icon=":material/check:")


def taken(content: bytes, context: JobContext) -> Stored | str:
    """Add the concept on the scheduler's thread; a refusal may quote the file, so it is handed back to be escaped."""
    context.progress(0.1, "checking the file and the model")
    try:
        return run_lab.take(content)
    except LabError as error:
        return str(error)
