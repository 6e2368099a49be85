"""Strand (e), universality: networks of different kinds come to alike representations and to alike outputs.

Similarity by centred kernel alignment after Kornblith et al. (arXiv 1905.00414); outputs after Kamb & Ganguli (arXiv
2412.20292), read from the surveys that are shipped.
"""

import numpy as np
import streamlit as st

from lm_core import survey
from lm_core.errors import LabError
from lm_core.exhibit_results import Table
from lm_core.params import NETWORKS
from pages.components import exhibit, look
from pages.components.exhibit_figures import draw_tables
from pages.components.survey_controls import SHORT


def outputs_alike() -> None:
    """Show how alike the images of different networks and machines are, from the shipped surveys."""
    st.header("Alike in what they make", anchor=False)
    st.markdown(
        "The strongest universality in this lab: from the same noise, networks of different kinds draw nearly the same "
        "image, and it is the image that a theory without training copies from patches."
    )
    tables = [table for data in ("mnist", "cifar10") if (table := output_table(data)) is not None]
    draw_tables(tables, "outputs")
    st.page_link(
        "theory_vs_network.py",
        label=":primary[**See every seed: theory vs network**]",
        icon=":material/compare_arrows:",
    )
    st.page_link("patch_mosaic.py", label=":primary[**See one image: the patch mosaic**]", icon=":material/grid_view:")


def output_table(dataset: str) -> Table | None:
    """Return median r over seeds between each network of a data set and machines and other networks; None without."""
    found = [survey.load(*pair) for pair in survey.available() if pair[0] == dataset]
    if not found:
        return None
    columns = list(dict.fromkeys(who for one in found for who in (*one.facts["machines"], *one.facts["others"])))
    machines, networks = [c for c in columns if c in SHORT], [c for c in NETWORKS if c in columns]
    values = [[_median(one, who) if who != one.network else 1.0 for who in (*networks, *machines)] for one in found]
    seeds = len(found[0].seeds)
    return Table.of(
        f"{dataset}: r between images",
        [NETWORKS[one.network] for one in found],
        [*(NETWORKS[who] for who in networks), *(SHORT[who] for who in machines)],
        np.array(values, dtype=float),
        f"Median Pearson's r over {seeds} starting noises, network at 20 steps; rows: the network, columns: what it is "
        "compared with. Blank: not compared (another padding's machine, or classes differ).",
    )


def _median(one: survey.Survey, who: str) -> float:
    known = who in one.facts["machines"] or who in one.facts["others"]
    return float(np.median(one.scores(who, 20))) if known else np.nan


exhibit.strand_page(
    "Universality",
    "Networks that differ in their random beginnings, and even in their kind, come to alike representations and to "
    "alike outputs. How alike can, in the simplest case, be computed.",
    ("e",),
)
try:
    outputs_alike()
except LabError as error:
    st.error(str(error), icon=":material/error:")
look.references("els")
