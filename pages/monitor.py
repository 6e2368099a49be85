"""Monitor: is a concept in a text, where, and how far can the answer be trusted?

The claim of Beaglehole et al. (2025, arXiv 2502.03708): the directions that steer a model also detect, from its
activations alone, and better than the same model when it is asked. One text token by token, many texts at once, and
the table that puts the claim to the test on sets with labels.
"""

import streamlit as st

from lm_core.errors import LabError
from pages.components import look
from pages.components.monitor_batch import many_texts
from pages.components.monitor_table import detection_table
from pages.components.monitor_text import one_text
from pages.components.monitor_write import watch_it_write
from pages.components.sections import choose_section

SECTIONS = {
    "text": ("Read a text", one_text),
    "write": ("Watch it write", watch_it_write),
    "texts": ("Many texts", many_texts),
    "table": ("How good are the detectors?", detection_table),
}


look.page_header(
    "Monitor",
    "A model's inner state tells what it reads: a concept's direction, found from examples, shows where the concept "
    "is. See it token by token, and see how often it is right.",
)
title, draw = SECTIONS[choose_section("section", list(SECTIONS), lambda name: SECTIONS[name][0])]
st.header(title, anchor=False)
try:
    draw()
except LabError as error:
    st.error(str(error), icon=":material/error:")
st.divider()
look.references("steering")
