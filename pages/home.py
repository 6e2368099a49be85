"""Home: what this is, the five strands of learning mechanics as a map of the exhibits, whether the machine is ready.

The strands are those of Simon, Kunin et al. (arXiv 2604.21691), the patch mosaic Kamb & Ganguli's (arXiv 2412.20292).
"""

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from lm_core import run_llm, shelf
from lm_core.concepts import find_concept, measured, unit_of
from lm_core.errors import LabError
from lm_core.mosaic import Tiles, segment
from lm_core.results import MosaicResult
from lm_core.steer_params import SteerParams
from pages.components import look, readiness

MOSAIC_PAGE, MACHINE_PAGE = "patch_mosaic.py", "machine.py"
EXHIBITS = {
    "Patch mosaic": (MOSAIC_PAGE, ":material/grid_view:"),
    "Theory vs network": ("theory_vs_network.py", ":material/compare_arrows:"),
    "Where theory stops": ("where_theory_stops.py", ":material/report:"),
    "Steering": ("steering.py", ":material/tune:"),
}


@dataclass(frozen=True)
class Strand:
    """One body of work: what it claims in a formula and a sentence, and the exhibits that stand on it."""

    place: str
    title: str
    formula: str
    sentence: str
    built: tuple[str, ...]  # keys of EXHIBITS
    planned: tuple[str, ...]


STRANDS = (
    Strand(
        "Strand (a)",
        "Solvable settings",
        r"u_i(t)=\frac{s_i}{1+(s_i/u_{i0}-1)\,e^{-2s_it}}",
        "In a deep linear network every mode is learned along its own sigmoid, the strongest first.",
        ("Patch mosaic",),
        ("Deep linear modes", "Kernel learning curves"),
    ),
    Strand(
        "Strand (b)",
        "Tractable limits",
        r"\frac{\lVert\Delta W\rVert}{\lVert W_0\rVert}\;\propto\;\frac{1}{\alpha\sqrt{n}}",
        "The wider the network (n) or the larger its output scale (α), the less its weights move: lazy against rich.",
        (),
        ("Lazy and rich training",),
    ),
    Strand(
        "Strand (c)",
        "Simple macroscopic laws",
        r"\lambda_{\max}(\nabla^2 L)\;\longrightarrow\;\frac{2}{\eta}",
        "Gradient descent sharpens the loss around it until its curvature meets the edge set by the step size η.",
        (),
        ("Edge of stability", "Neural feature ansatz", "From features to steering an LLM"),
    ),
    Strand(
        "Strand (d)",
        "Theories of hyperparameters",
        r"\eta^{*}_{\mathrm{hidden}}(n)\;\propto\;\frac{1}{n}",
        "Scale the hidden layers' rate like this with width n, and one learning rate serves small and large networks.",
        (),
        ("Learning rates across widths (μP)", "Linear scaling rule"),
    ),
    Strand(
        "Strand (e)",
        "Universal behaviours",
        r"s(x)=\frac{1}{\beta}\sum_j w_j\,\bigl(\sqrt{\bar\alpha}\,c_j-x\bigr)",
        "Convolutional networks of different kinds make nearly the image that one formula copies from patches.",
        ("Patch mosaic", "Theory vs network", "Where theory stops"),
        ("Representations alike",),
    ),
    Strand(
        "Beside the map",
        "Steering a language model",
        r"h\;\leftarrow\;h+\varepsilon\,\lVert h\rVert\,v",
        "Add a concept's direction v to a live model's activations h and read on. The link to strand (c) is ours.",
        ("Steering",),
        ("Concept lab", "Monitor"),
    ),
)


@st.cache_data(show_spinner=False)
def preset_pictures() -> tuple[str, list[tuple[np.ndarray, str, str]]] | None:
    """Return a caption and the pictures of the first shipped preset, None where none is shipped."""
    preset = next(iter(shelf.presets()), None)
    if preset is None:
        return None
    result = preset.load()
    step = min(preset.place.get("step", result.steps - 1), result.steps - 1)
    pictures = [
        (look.to_uint8(result.image), "The theory's image", "Image made by the score machine"),
        (tinted(result, step), "Its mosaic: one colour, one training image", "Mosaic of training patches"),
    ]
    caption = f"Made beforehand, {result.params.images:,} training images, seed {result.params.seed}."
    if result.network_image is not None:
        pictures.append((look.to_uint8(result.network_image), "The network's image", "Image made by the network"))
    if "machine" in result.scores:
        caption += f" Over all pixels theory and network correlate with r = {result.scores['machine']['r']:.3f}."
    return caption, pictures


def tinted(result: MosaicResult, step: int) -> np.ndarray:
    """Return uint8 [3, H, W]: the step's estimate, each tile tinted by its training image, its lightness kept."""
    tiles: Tiles = segment(result, step, factor=2.0)
    light = 0.25 + 0.6 * look.to_uint8(result.denoised[step]).mean(axis=0) / 255
    colour = np.repeat(light[..., None] - 0.2, 3, axis=2)
    for y, x in np.argwhere(~tiles.muted):
        hue = int(tiles.image[y, x]) * 0.618034 % 1.0
        colour[y, x] = colorsys.hls_to_rgb(hue, light[y, x], 0.55)
    return (np.clip(colour, 0, 1) * 255).astype(np.uint8).transpose(2, 0, 1)


def flagship() -> None:
    """Show the exhibit to start with, with the pictures of its first precomputed result where there is one."""
    with st.container(border=True, key="flagship"):
        text, picture = st.columns([4, 7], gap="medium", vertical_alignment="center")
        with text:
            look.card_header("Start here", "Patch mosaic", level=2)
            st.markdown(
                "Which training patches is this generated image made of, and does the network agree? The theory has "
                "never been trained: from the same noise as the network it copies each pixel from the training patches "
                "that fit best."
            )
            if st.button("Open the patch mosaic", key="open_mosaic", type="primary", icon=":material/grid_view:"):
                st.switch_page(MOSAIC_PAGE)
        with picture:
            show_preset()


def second_flagship() -> None:
    """Show the other exhibit to start with, and one answer that was measured for it."""
    with st.container(border=True, key="second_flagship"):
        text, example = st.columns([4, 7], gap="medium", vertical_alignment="center")
        with text:
            look.card_header("Or here", "Steering", level=2)
            st.markdown(
                "A live language model, and sliders that push its inner state along a concept. Move one while it "
                "writes: the next word already obeys."
            )
            if st.button("Open steering", key="open_steering", icon=":material/tune:"):
                st.switch_page(EXHIBITS["Steering"][0])
        with example:
            for params, events in run_llm.recordings()[:1]:
                show_recording(params, events)


def show_recording(params: SteerParams, events: list[dict[str, Any]]) -> None:
    """Show one answer that was written beforehand, and what was measured of its concept."""
    text = "".join(event["pieces"][-1] or "" for event in events if event["type"] == "token")
    st.text(f"“{params.prompt}”\n\n{text} …")
    concept, strength = find_concept(params.concepts[0]), params.strengths[0]
    found, unit = measured(concept.id), unit_of(concept)
    caption = (
        f"Written beforehand by {params.model}, steered towards {concept.name} at {strength:.1%}, seed {params.seed}."
    )
    if found is not None:
        here = found["evaluation"]
        caption += (
            f" On {here['prompts']} other prompts: {here['steered']:.1f} {unit} of the concept, unsteered "
            f"{here['unsteered']:.1f}, asked for in words {here['prompted']:.1f}."
        )
    look.figure_caption(caption)


def show_preset() -> None:
    """Draw the first preset; where it is missing or damaged the page's own link is enough."""
    try:
        preset = preset_pictures()
    except LabError as error:
        st.caption(str(error))
        return
    if preset is None:
        return
    caption, pictures = preset
    look.pictures(pictures)
    look.figure_caption(caption)


def strand_card(strand: Strand) -> None:
    """Show one place on the map."""
    look.card_header(strand.place, strand.title)
    st.latex(strand.formula)
    st.markdown(strand.sentence)
    with st.container(gap=None):
        for name in strand.built:
            page, icon = EXHIBITS[name]
            st.page_link(page, label=f":primary[**{name}**]", icon=icon)
        for name in strand.planned:
            st.markdown(f":gray[{name} · not built yet]")


look.page_header(
    "Learning Mechanics Lab",
    "Each exhibit makes a prediction, runs the experiment on this machine, and scores the one against the other.",
)
flagship()
second_flagship()

st.header("The map", anchor=False)
st.markdown(
    "Learning mechanics is the theory of how training behaves in bulk. The paper that named it sees five strands; "
    "exhibits stand where they belong, and what is not built yet says so."
)
with st.grid("auto", min_column_width=260, border=True, key="map") as grid:
    for strand in STRANDS:
        with grid.cell():
            strand_card(strand)

st.header("This machine", anchor=False)
readiness.summary()
st.page_link(MACHINE_PAGE, label=":primary[**Check every file, see the queue, free memory**]", icon=":material/memory:")

st.header("Papers", anchor=False)
look.references("els", "mechanics", "steering")
look.figure_caption("Links leave this machine only when you follow them; the lab itself fetches nothing.")
