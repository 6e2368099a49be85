"""Where theory stops: what Kamb & Ganguli's theory gets wrong, and what it takes to get it wrong.

The score machines (arXiv 2412.20292) assume that a network sees a bounded window, the same everywhere, with the border
known only through the padding. Each section breaks one assumption, or changes what the machine is given, and measures.
"""

import streamlit as st

from lm_core.errors import LabError
from pages.components import look
from pages.components.stops_attention import attention
from pages.components.stops_borders import borders
from pages.components.stops_consistency import consistency
from pages.components.stops_noise import noise
from pages.components.stops_patch import patch_size
from pages.components.stops_training import training_set

SECTIONS = {
    "attention": ("Attention", attention),
    "borders": ("Borders", borders),
    "patch-size": ("Patch size", patch_size),
    "training-set": ("Training set", training_set),
    "noise": ("Noise", noise),
    "consistency": ("Local consistency", consistency),
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
