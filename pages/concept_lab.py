"""Concept lab: a concept of one's own as a direction in a language model, in seconds, and how good it is.

The claim of Beaglehole et al. (2025, arXiv 2502.03708): a few dozen labelled texts are enough to find, in every block
of a language model, a direction that tells a concept and steers it; their recursive feature machine finds it as the top
eigenvector of the average gradient outer product (AGOP). Here anyone makes one, sets five methods against each other on
texts that were held out, and asks what a direction means.
"""

import streamlit as st

from lm_core.errors import LabError
from pages.components import look
from pages.components.lab_common import refuse
from pages.components.lab_compare import compare
from pages.components.lab_make import make
from pages.components.lab_meaning import meaning
from pages.components.sections import choose_section

SECTIONS = {
    "make": ("Make a concept", make),
    "compare": ("Compare methods", compare),
    "meaning": ("What does it mean?", meaning),
}


look.page_header(
    "Concept lab",
    "A few dozen examples are enough to find a direction in a language model that tells your concept from everything "
    "else, and turns it up. Make one, then see which method finds the better one.",
)
title, draw = SECTIONS[choose_section("section", list(SECTIONS), lambda name: SECTIONS[name][0], key="lab_section")]
st.header(title, anchor=False)
try:
    draw()
except LabError as error:
    refuse(error)
st.divider()
look.references("steering")
