"""Where theory stops: what Kamb & Ganguli's theory gets wrong, and what it takes to get it wrong.

The score machines (arXiv 2412.20292) assume that a network sees a bounded window, the same everywhere, with the border
known only through the padding. Each section breaks one assumption, or changes what the machine is given, and measures.
"""

import streamlit as st

from lm_core.errors import LabError
from pages.components import look
from pages.components.sections import choose_section
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


look.page_header(
    "Where theory stops",
    "Copying patches explains a convolutional network as long as it sees only a window. Give it attention, other "
    "borders, other windows, data or noise, and see which prediction breaks and by how much.",
)
title, draw = SECTIONS[choose_section("section", list(SECTIONS), lambda name: SECTIONS[name][0])]
st.header(title, anchor=False)
try:
    draw()
except LabError as error:
    st.error(str(error), icon=":material/error:")
st.divider()
look.references("els")
