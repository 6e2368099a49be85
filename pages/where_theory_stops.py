"""Where theory stops: what Kamb & Ganguli's theory gets wrong, and what it takes to get it wrong.

The score machines (arXiv 2412.20292) assume that a network sees a bounded window, the same everywhere, with the border
known only through the padding. Each section breaks one assumption, or changes what the machine is given, and measures.
"""

import streamlit as st

from lm_core.errors import LabError
from pages.components import look, stops_attention, stops_borders, stops_consistency, stops_edit

SECTIONS = {
    "attention": ("Attention", stops_attention.attention),
    "borders": ("Borders", stops_borders.borders),
    "patch-size": ("Patch size", stops_edit.patch_size),
    "training-set": ("Training set", stops_edit.training_set),
    "noise": ("Noise", stops_edit.noise),
    "consistency": ("Local consistency", stops_consistency.consistency),
}


def write_section() -> None:
    """Put the visitor's choice into the URL, by its short name; a bound widget would write the long one."""
    st.query_params["section"] = st.session_state["section"]


look.page_header(
    "Where theory stops",
    "Copying patches explains a convolutional network as long as it sees only a window. Give it attention, other "
    "borders, other windows, data or noise, and see which prediction breaks and by how much.",
)
said = st.query_params.get("section")
if said in SECTIONS:  # the URL decides, so that links and the browser's history work
    st.session_state["section"] = said
chosen = st.pills(
    "Section",
    list(SECTIONS),
    default=None if said in SECTIONS else "attention",
    required=True,
    format_func=lambda name: SECTIONS[name][0],
    key="section",
    label_visibility="collapsed",
    on_change=write_section,
)
title, draw = SECTIONS[chosen or "attention"]
st.header(title, anchor=False)
try:
    draw()
except LabError as error:
    st.error(str(error), icon=":material/error:")
st.divider()
look.references("els")
