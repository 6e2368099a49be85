"""Index files on the machine page: build those of a data set, see what they take, delete them."""

from typing import Any

import streamlit as st

from lm_core import run_index
from lm_core.artifacts import manifest
from lm_core.jobs import JobContext
from pages.components import look, section_jobs

SECTION = "index"
DROPPED = "_index_dropped"  # how often: what was built before is then no longer there
EVERY = "all classes"


def index_files() -> None:
    """Draw the section."""
    st.markdown(
        "Sorted once into cells of similar patches, a data set answers the fast engine's low-noise steps sooner: 2.3 "
        "times for 60,000 digits, little or nothing for small or coloured sets. Without them everything works, slower."
    )
    known = manifest()["data"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("Data", list(known), key="index_data")
        classes = [EVERY, *known[name]["class_names"]]
        chosen = st.selectbox("Class", classes, key=f"index_class_{name}", disabled=len(classes) == 1)
    label = None if chosen == EVERY else classes.index(chosen) - 1

    def work(context: JobContext) -> dict[str, Any]:
        return run_index.make(name, label=label, on_progress=context.progress, check=context.check)

    key = f"{name} {label} {st.session_state.get(DROPPED, 0)}"
    found = section_jobs.live_run(SECTION, "Build the index", f"Index of {name}", key, work)
    if found is not None:
        sizes = ", ".join(f"P = {size}: {one['bytes'] / 1e6:,.0f} MB" for size, one in found["indexes"].items())
        st.success(f"{found['images']:,} images of {name}, {chosen}: {sizes}.", icon=":material/check:")
    taken = run_index.stored_bytes()
    if taken:
        st.button(
            f"Delete all ({taken / 1e6:,.0f} MB)", key="index_drop", icon=":material/delete_sweep:", on_click=drop
        )
    look.figure_caption(
        "For boundary-broken ELS with all images of the choice. 60,000 digits take 1.5 GB and one to three minutes; "
        "all files together at most 2 GB, the least recently used go."
    )


def drop() -> None:
    """Delete the files, before the next run."""
    run_index.drop()
    st.session_state[DROPPED] = st.session_state.get(DROPPED, 0) + 1
