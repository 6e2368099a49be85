"""Strand (c), macroscopic laws: few numbers of a training (its sharpness, its features) obey simple equations.

Edge of stability after Cohen et al. (arXiv 2103.00065, 2410.24206), feature ansatz after Radhakrishnan et al. (arXiv
2212.13881); from there to steering a language model the link is ours.
"""

from pathlib import Path

import streamlit as st

from pages.components import exhibit, look

LAB = "concept_lab.py" if (Path(__file__).parent / "concept_lab.py").exists() else "steering.py"


def bridge() -> None:
    """Lead from the toy to the language model."""
    with st.container(border=True, key="bridge"):
        look.card_header("From here", "Now do it to a language model")
        st.markdown(
            "What a network has learned shows in its features: in WᵀW, in the gradients of its output, and in the "
            "matrix M that a recursive feature machine finds without any network. Replace the 20 inputs by a language "
            "model's activations and the target by *is this text Spanish?*: the top eigenvector of M is a direction "
            "to steer along. The very same code finds it. (This link is ours, not the paper's.)"
        )
        st.page_link(LAB, label=":primary[**Find a direction in a language model**]", icon=":material/tune:")


name = exhibit.strand_page(
    "Macroscopic laws",
    "Nobody can follow every weight, but some averages obey simple laws: how sharp the loss gets, and what the first "
    "layer comes to look for.",
    ("c1", "c2", "c3"),
)
if name in ("c2", "c3"):
    bridge()
    look.references("steering")
