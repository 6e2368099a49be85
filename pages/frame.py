"""The frame around every page: look, navigation, and a garbage collector that does not make visitors wait."""

import gc
import sys

import streamlit as st

from pages.components import look

# The address of a page is its file's name with hyphens; app.py counts on it.
PAGES = [
    st.Page("home.py", title="Home", icon=":material/explore:", default=True),
    st.Page("patch_mosaic.py", title="Patch mosaic", icon=":material/grid_view:", url_path="patch-mosaic"),
    st.Page(
        "theory_vs_network.py",
        title="Theory vs network",
        icon=":material/compare_arrows:",
        url_path="theory-vs-network",
    ),
    st.Page(
        "where_theory_stops.py",
        title="Where theory stops",
        icon=":material/report:",
        url_path="where-theory-stops",
    ),
    st.Page("steering.py", title="Steering", icon=":material/tune:", url_path="steering"),
    st.Page("machine.py", title="Machine", icon=":material/memory:", url_path="machine"),
]


@st.cache_resource(show_spinner=False)
def freeze_loaded(modules_in_four_hundreds: int) -> None:
    """Take what is loaded out of the garbage collector's sight, anew after every four hundred modules.

    With torch and diffusers loaded a full collection takes about 450 ms, and every session would wait for it.
    """
    gc.collect()
    gc.freeze()


st.set_page_config(
    page_title="Learning Mechanics Lab",
    page_icon=look.icon(),
    layout="wide",
    menu_items={"About": "Learning Mechanics Lab: theory beside trained networks, with a score between them."},
)
look.style()
st.logo(look.icon(), size="large")
page = st.navigation(PAGES)
freeze_loaded(len(sys.modules) // 400)
page.run()
