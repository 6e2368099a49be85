"""The controls of "Theory vs network": which network and which figure, in the URL; and links to the patch mosaic."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np
import streamlit as st

from lm_core import artifacts, run, run_limits, survey
from lm_core.params import ENGINES, MACHINES, NETWORKS, MosaicParams
from lm_core.survey import Survey, own_machine
from pages.components import mosaic_controls
from pages.components.mosaic_controls import DATASETS, class_names, network_label

FIGURES = {"r": "r", "r2": "r²", "R2": "R²"}
NETWORK_STEPS = (20, 150)
SHORT = {"bbels": "bbELS", "els": "ELS", "ls": "LS", "es": "ES", "is": "IS"}
FIGURE_HELP = (
    "r: Pearson's correlation of the two images over all pixels and channels. r²: its square. R² = 1 − Σ(network − "
    "prediction)² / Σ(network − its mean)², negative when the network's mean grey would do better. The paper's text "
    "says r², but its published evaluation computes r and never squares it, so its figures are compared with r."
)


@dataclass(frozen=True)
class Chosen:
    """What the visitor looks at: a network, how many steps it takes, and the figure that says how alike two images are.

    `figure` is a key of `FIGURES`.
    """

    dataset: str
    network: str
    figure: str
    network_steps: int

    @property
    def figure_name(self) -> str:
        return FIGURES[self.figure]

    @property
    def network_name(self) -> str:
        return NETWORKS.get(self.network, self.network)


def controls() -> Chosen:
    """Draw the controls in one row, two on a phone, and return what they say."""
    measured = survey.available()
    datasets = [name for name in DATASETS if name != "folder" and networks_of(name, measured)]
    first = measured[0][0] if measured else datasets[0]
    bound: dict[str, Any] = {"bind": "query-params"}
    with st.container(horizontal=True, vertical_alignment="bottom", key="survey_controls"):
        dataset = st.selectbox(
            "Data",
            datasets,
            index=datasets.index(first),
            format_func=DATASETS.__getitem__,
            key="dataset",
            width=150,
            **bound,
        )
        network = st.selectbox(
            "Network",
            networks_of(dataset, measured),
            format_func=long_name,
            key="network",
            width=175,
            **bound,
        )
        figure = st.segmented_control(
            "Figure",
            list(FIGURES),
            default="r",
            required=True,
            format_func=FIGURES.__getitem__,
            key="figure",
            help=FIGURE_HELP,
            **bound,
        )
        network_steps = st.segmented_control(
            "Steps of the network",
            list(NETWORK_STEPS),
            default=NETWORK_STEPS[0],
            required=True,
            key="network_steps",
            help="DDIM steps. The machines always take 20; the paper compares them with networks at 20 and at 150.",
            **bound,
        )
    return Chosen(dataset, network, figure or "r", network_steps or NETWORK_STEPS[0])


def networks_of(dataset: str, measured: list[tuple[str, str]]) -> list[str]:
    """Return the networks of a data set that are shipped or have a survey, those with a survey first."""
    surveyed = [network for name, network in measured if name == dataset]
    return surveyed + [name for name in run.shipped_networks(dataset) if name not in surveyed]


def short_name(who: str) -> str:
    """Name a machine or network as an axis has room for it."""
    return SHORT.get(who) or NETWORKS.get(who, who)


def long_name(who: str) -> str:
    """Name a machine or network in full."""
    return str(MACHINES.get(who) or NETWORKS.get(who, who))


def predictors(found: Survey) -> list[str]:
    """Return who predicts the network: the machines, the network's own first, then the other networks."""
    return [*machines_of(found), *found.facts["others"]]


def machines_of(found: Survey) -> list[str]:
    """Return the machines of a survey, the network's own first; the file has them in the order of `MACHINES`."""
    return sorted(found.facts["machines"], key=lambda machine: machine != own_machine(found.network))


def data_here(dataset: str) -> bool:
    """Whether the data set is on this machine, so that something can be computed from it."""
    return dataset != "cifar10" or run_limits.has_cifar()


def live_counts(dataset: str, wanted: set[int]) -> list[int]:
    """Return the numbers of training images that every class of a data set has; its smallest class if there is none."""
    most = smallest_class(dataset) if dataset == "emoji" else max(wanted)
    return sorted(count for count in wanted if count <= most) or [most]


@st.cache_data(show_spinner=False)
def smallest_class(dataset: str) -> int:
    """Return how many images the smallest class has."""
    return int(np.bincount(artifacts.load_dataset(dataset).labels).min())


def mosaic_link(found: Survey, row: dict[str, Any], column: str = "") -> str:
    """Return the address of the patch mosaic for a seed of a survey.

    Args:
        column: of the gallery: a machine is shown itself, another network beside the survey's own machine. The mosaic
            has 20 steps, so an image of the network at 150 opens at 20.
    """
    dataset = found.dataset
    network = column if column in found.facts["others"] else found.network
    machine = column if column in found.facts["machines"] else machines_of(found)[0]
    query = {
        "dataset": DATASETS[dataset],
        "network": network_label(network, run.network_facts(dataset, network) or {"parameters": 0}),
        "machine": MACHINES[machine],
        "images": offered_count(found, row["label"]),
        "seed": row["seed"],
    }
    if row["label"] is not None:
        query["label"] = class_names(dataset)[row["label"]]
    if machine not in ("is", "es"):  # they have but one engine
        query |= {"engine": ENGINES["fast"], "tolerance": f"{found.facts.get('tolerance', MosaicParams.tolerance):g}"}
    return f"patch-mosaic?{urlencode(query)}"


def offered_count(found: Survey, label: int | None) -> str:
    """Return the largest number of images that the patch mosaic offers and the survey's machines had, as it says it."""
    whole = mosaic_controls.COUNTS_WHOLE_SET if label is None else mosaic_controls.COUNTS_PER_CLASS
    counts = [count for count in mosaic_controls.COUNTS.get(found.dataset, whole) if isinstance(count, int)]
    fitting = [count for count in counts if count <= found.facts["images"]]
    if found.facts["images"] > counts[-1] or not fitting:
        return "all"
    return f"{fitting[-1]:,}"
