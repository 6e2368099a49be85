"""The controls of the patch mosaic: what is asked for, all of it in the URL.

A widget's key is its name in the URL; the lens's pin, step and view are there too, with the version of the scheme.
Until the visitor picks an engine it is the one of the shipped result, if these controls name one, else the fast one;
so links from before there was a choice find what they found.
"""

from dataclasses import dataclass
from typing import Any

import streamlit as st

from lm_core import artifacts, cifar, run, shelf
from lm_core.errors import ParameterError
from lm_core.params import ENGINES, MACHINES, MAX_SEED, NETWORKS, MosaicParams, parse_patch_sizes
from lm_core.shelf import Preset
from pages.components.lens import VIEWS, Place

URL_VERSION = "1"
DATASETS = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "emoji": "Emoji",
    "cifar10": "CIFAR-10",
    "folder": "My folder",
}
# The surveys' numbers are among them, so that a link from "Theory vs network" computes the image it shows.
COUNTS = {"emoji": [20, 50, 80, 100, 200, "all"], "folder": [20, 100, 500, "all"]}
COUNTS_PER_CLASS = [2, 50, 100, 150, 200, 300, 500, 1000, 2000, 3000, "all"]
COUNTS_WHOLE_SET = [2, 50, 100, 200, 300, 500, 1000, 2000, 3000, 10_000, "all"]
CURVES = {"published": "Published", "constant": "Constant", "own": "My own"}
TILES = {1: "exact", 2: "coherent ×2", 5: "coherent ×5", 20: "coherent ×20"}
NO_NETWORK = "none"
LIVE_ENGINE = "fast"  # of a run that the visitor starts without a word about the engine
TOLERANCES = (0.0, 0.002, 0.004, 0.008, 0.02, 0.04)
# What a live run takes: 20 steps of bbELS on MNIST, two cores.
TIMINGS = {
    "fast": "With the boundary-broken machine the fast engine takes some seconds over 1,000 MNIST images and one to "
    "two minutes over all 60,000, on two cores; the other patch machines and colour take longer. A first image is "
    "there after a few seconds.",
    "exact": "The exact engine takes 15 to 30 seconds for every 1,000 MNIST images on two cores; the fast one "
    "takes some seconds.",
    "whole": "Comparing whole images takes a few seconds over 1,000 MNIST images on two cores.",
}
ENGINE_FOR, ENGINE_WISH = "_engine_for", "_engine_wish"  # what the engine was last settled for, and the visitor's pick
TOLERANCE_NOTE = "_tolerance_note"


@dataclass(frozen=True)
class Asked:
    """What the visitor asks for: an image, and where to look in it; `note` says what of a link could not be had."""

    params: MosaicParams
    factor: float
    pin: tuple[int, int] | None
    step: int | None
    view: str
    note: str = ""

    def check(self) -> None:
        """Raise what is wrong with these settings before anything is computed."""
        run.resolve(self.params)

    def invitation(self) -> str:
        """Say what a live run of these settings would do."""
        images = "all" if self.params.images is None else f"the first {self.params.images:,}"
        return (
            f"Nobody has made this image yet: seed {self.params.seed}, {MACHINES[self.params.machine]} over {images} "
            f"training images. {self.timing}"
        )

    @property
    def timing(self) -> str:
        """Say how long a live run takes."""
        return TIMINGS["whole" if whole_images(self.params) else self.params.engine]


def whole_images(params: MosaicParams) -> bool:
    """Whether the machine compares whole images: it has one engine, and no patches."""
    return params.machine in ("is", "es")


def remember(place: Place | None) -> None:
    """Put the visitor's place in the lens into the URL."""
    if place is None:
        return
    pin = place.pin and f"{place.pin[0]},{place.pin[1]}"
    for name, value in {"v": URL_VERSION, "view": place.view, "step": place.step, "pin": pin}.items():
        if value is None:
            st.query_params.pop(name, None)
        elif st.query_params.get(name) != str(value):
            st.query_params[name] = str(value)


def preset_links(presets: list[Preset]) -> None:
    """Offer the shipped results, each a click."""
    if not presets:
        return
    st.markdown("**Presets**")
    with st.container(gap=None, key="presets"):
        for preset in presets:
            st.button(
                preset.title,
                key=f"preset_{preset.name}",
                type="tertiary",
                help=preset.lesson,
                on_click=open_preset,
                args=(preset,),
            )


def open_preset(preset: Preset) -> None:
    """Set every control to a preset's values, before the next run."""
    params = preset.params
    values: dict[str, Any] = {
        "dataset": params.dataset,
        "machine": params.machine,
        "network": params.network or NO_NETWORK,
        "images": "all" if params.images is None else params.images,
        "seed": params.seed,
        "steps": params.steps,
        "curve": "published" if params.patch_sizes is None else "own",
        "engine": params.engine,
        ENGINE_FOR: None,
    }
    if params.engine == "fast":
        values["tolerance"] = params.tolerance
    if params.label is not None:
        values["label"] = params.label
    if params.patch_sizes is not None:
        values["sizes"] = ",".join(map(str, params.patch_sizes))
    st.session_state.update(values)
    for name in ("pin", "step", "view"):
        st.query_params.pop(name, None)
    for name, value in preset.place.items():
        st.query_params[name] = value if isinstance(value, str) else str(value)


def new_seed() -> None:
    """Take the next seed and run it."""
    st.session_state["seed"] = (int(st.session_state.get("seed") or 0) + 1) % MAX_SEED
    st.session_state["_run_now"] = True


def controls() -> Asked:
    """Draw the controls in the sidebar and return what they ask for.

    Raises:
        ParameterError: a typed value makes no sense; it stays in its field.
    """
    bound: dict[str, Any] = {"bind": "query-params"}
    dataset = st.selectbox("Data", list(DATASETS), format_func=DATASETS.__getitem__, key="dataset", **bound)
    if dataset == "folder":
        dataset = st.text_input("Folder of images", key="folder", help="Not kept in the URL.").strip() or "."
    networks = [*run.shipped_networks(dataset), NO_NETWORK]
    facts = {name: run.network_facts(dataset, name) for name in networks}
    network = st.selectbox(
        "Network", networks, format_func=lambda name: network_label(name, facts[name]), key="network", **bound
    )
    label = None
    if facts[network].get("classes"):
        names = class_names(dataset)
        label = st.selectbox("Class", range(len(names)), format_func=names.__getitem__, key="label", **bound)
    machine = st.selectbox("Machine", list(MACHINES), format_func=MACHINES.__getitem__, key="machine", **bound)
    kind = dataset if dataset in DATASETS else "folder"
    counts = COUNTS.get(kind, COUNTS_WHOLE_SET if label is None else COUNTS_PER_CLASS)
    images = st.select_slider(
        "Training images used",
        counts,
        value=1000 if 1000 in counts else "all",
        format_func=lambda count: count if isinstance(count, str) else f"{count:,}",
        key="images",
        help="The first ones of the data set, or of the class.",
        **bound,
    )
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    seed = left.number_input("Seed", 0, MAX_SEED, 0, key="seed", help="Of the noise both start from.", **bound)
    right.button("Next", key="next_seed", on_click=new_seed, width="stretch", shortcut="n")
    steps = st.select_slider("Steps", [5, 10, 20, 50], value=20, key="steps", **bound)
    params = MosaicParams(
        dataset=dataset,
        label=label,
        machine=machine,
        network=None if network == NO_NETWORK else network,
        seed=int(seed),
        images=None if images == "all" else int(images),
        steps=steps,
    )
    params = params.with_(patch_sizes=patch_sizes(params))
    params = params.with_(engine=engine(params))
    note = ""
    if params.engine == "fast":
        params = params.with_(tolerance=tolerance(params.tolerance))
        note = st.session_state.get(TOLERANCE_NOTE, "")
    factor = st.select_slider(
        "Tiles",
        list(TILES),
        format_func=TILES.__getitem__,
        key="factor",
        help="Exact takes the heaviest candidate of every pixel. Coherent may take one up to that many times lighter "
        "if it continues a neighbour's source.",
        **bound,
    )
    return Asked(params, float(factor), *place_in_url(), note)


def class_names(dataset: str) -> tuple[str, ...]:
    """Return the names of a data set's classes, without reading the set."""
    return cifar.CLASS_NAMES if dataset == "cifar10" else tuple(artifacts.manifest()["data"][dataset]["class_names"])


def network_label(name: str, facts: dict[str, Any]) -> str:
    """Describe a network in a few words: its family and its size."""
    if name == NO_NETWORK:
        return "No network"
    if not facts:  # published by others, and on this machine
        return NETWORKS[name]
    return f"{NETWORKS[name]} · {facts['parameters'] / 1e6:.1f} M parameters"


def patch_sizes(params: MosaicParams) -> tuple[int, ...] | None:
    """Draw the choice of the patch-size curve; None is the published one."""
    bound: dict[str, Any] = {"bind": "query-params"}
    if whole_images(params):
        return None
    curve = st.segmented_control(
        "Patch size P(t)",
        list(CURVES),
        default="published",
        required=True,
        format_func=CURVES.__getitem__,
        key="curve",
        help="The window a pixel sees at each noise level. Published: calibrated by the paper's authors on their "
        "networks; sets without a curve of their own take that of MNIST (grey) or CIFAR-10 (colour).",
        **bound,
    )
    if curve == "constant":
        size = st.select_slider("P at every step", list(range(1, 33, 2)), value=5, key="constant", **bound)
        return (size,) * params.steps
    if curve == "own":
        published = ",".join(map(str, run.default_curve(params)))
        text = st.text_input(
            "P for each step, the noisiest first",
            published,
            key="sizes",
            help="Odd numbers with commas, or one.",
            **bound,
        )
        try:
            return parse_patch_sizes(text, params.steps)
        except ParameterError as error:
            st.error(str(error), icon=":material/error:")
            raise
    return None


def engine(params: MosaicParams) -> str:
    """Draw the choice of the engine for the other parameters; a machine that compares whole images has but one."""
    if whole_images(params):
        return "exact"
    state = st.session_state
    before, state[ENGINE_FOR] = state.get(ENGINE_FOR), params
    unsaid = state.get("engine") is None and (before is not None or "engine" not in st.query_params)
    if unsaid or before not in (None, params):
        state.pop(TOLERANCE_NOTE, None)
        state["engine"] = state.get(ENGINE_WISH) or shipped_engine(params) or LIVE_ENGINE
    picked = st.segmented_control(
        "Engine",
        list(ENGINES),
        required=True,
        format_func=ENGINES.__getitem__,
        key="engine",
        on_change=remember_engine,
        help="Exact compares every pixel with every patch; fast leaves out what can't matter and says how far off it "
        "may be.",
        bind="query-params",
    )
    if picked is None:  # the URL says nothing, after a step back in the browser's history, or nonsense
        st.rerun()
    return picked


def remember_engine() -> None:
    """Keep what the visitor has picked for the runs to come."""
    st.session_state[ENGINE_WISH] = st.session_state["engine"]


def shipped_engine(params: MosaicParams) -> str | None:
    """Return the engine of the shipped result that agrees in everything else, None if there is none."""
    for preset in shelf.presets():
        if preset.params == params.with_(engine=preset.params.engine, tolerance=preset.params.tolerance):
            return preset.params.engine
    return None


def tolerance(default: float) -> float:
    """Draw the choice of the fast engine's tolerance; leaves a note if a link asks for one that isn't offered."""
    said, labels = st.query_params.get("tolerance"), [f"{value:g}" for value in TOLERANCES]
    if said is not None and said not in labels:
        st.session_state[TOLERANCE_NOTE] = (
            f"The link asks for the tolerance {said[:20]!r}, which isn't offered; choose one of {', '.join(labels)}. "
            f"It is {default:g} now."
        )
    return st.select_slider(
        "Tolerance",
        TOLERANCES,
        value=default,
        format_func=lambda value: f"{value:g}",
        key="tolerance",
        on_change=lambda: st.session_state.pop(TOLERANCE_NOTE, None),
        help="The error of a pixel's estimate, in each step and on the scale from −1 to 1, that the engine aims at; 0 "
        "leaves nothing out and takes about five times as long.",
        bind="query-params",
    )


def place_in_url() -> tuple[tuple[int, int] | None, int | None, str]:
    """Read pin, step and view from the URL; nonsense counts as nothing."""
    numbers = [part for part in st.query_params.get("pin", "").split(",") if part.isdecimal()]
    step, view = st.query_params.get("step", ""), st.query_params.get("view", "image")
    pin = (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 and max(map(len, numbers)) < 4 else None
    return pin, int(step) if step.isdecimal() and len(step) < 4 else None, view if view in VIEWS else "image"


def start_with_first_preset(presets: list[Preset]) -> None:
    """Open the first preset when a visitor comes without any wish in the URL."""
    if presets and "_visited" not in st.session_state and not st.query_params.to_dict():
        open_preset(presets[0])
    st.session_state["_visited"] = True
