"""The frame around every page: look, navigation, tour, and a garbage collector that does not make visitors wait."""

import gc
import sys
from pathlib import Path

import streamlit as st

from pages.components import look, tour

# Section → (file, title, icon). A page's address is its file's name with hyphens; app.py and the tour count on it.
SECTIONS = {
    "": [("home.py", "Home", "explore")],
    "Strands": [
        ("solvable_settings.py", "Solvable settings", "function"),
        ("tractable_limits.py", "Tractable limits", "all_inclusive"),
        ("macroscopic_laws.py", "Macroscopic laws", "show_chart"),
        ("hyperparameters.py", "Hyperparameters", "straighten"),
        ("universality.py", "Universality", "join_inner"),
        ("scoreboard.py", "Scoreboard", "checklist"),
    ],
    "Diffusion": [
        ("patch_mosaic.py", "Patch mosaic", "grid_view"),
        ("theory_vs_network.py", "Theory vs network", "compare_arrows"),
        ("where_theory_stops.py", "Where theory stops", "report"),
    ],
    "Language model": [
        ("steering.py", "Steering", "tune"),
        ("concept_lab.py", "Concept lab", "science"),
        ("monitor.py", "Monitor", "monitor_heart"),
    ],
    "This machine": [("machine.py", "Machine", "memory")],
}


def page_of(file: str, title: str, icon: str) -> st.Page:
    """Return one page of the navigation."""
    home = file == "home.py"
    address = None if home else Path(file).stem.replace("_", "-")
    return st.Page(file, title=title, icon=f":material/{icon}:", url_path=address, default=home)


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
tour.style()
st.logo(look.icon(), size="large")
# At the top: the sidebar is for a page's own controls, which a projector would otherwise have below the fold.
page = st.navigation(
    {section: [page_of(*entry) for entry in entries] for section, entries in SECTIONS.items()},
    position="top",
    expanded=True,  # on a phone, where it is in the sidebar after all
)
freeze_loaded(len(sys.modules) // 400)
tour.attend(page.url_path)
page.run()
