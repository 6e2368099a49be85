"""Home: what this is, the five strands of learning mechanics as a map of the exhibits, whether the machine is ready.

The strands are those of Simon, Kunin et al. (arXiv 2604.21691), the patch mosaic Kamb & Ganguli's (arXiv 2412.20292).
"""

import colorsys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from lm_core import run_llm, run_mechanics, shelf
from lm_core.concepts import find_concept, measured, unit_of
from lm_core.errors import AssetError, LabError
from lm_core.exhibit_params import STRANDS as TITLES
from lm_core.exhibit_params import find_exhibit
from lm_core.mosaic import Tiles, segment
from lm_core.results import MosaicResult
from lm_core.steer_params import SteerParams
from pages.components import look, readiness, tour
from pages.components.exhibit import BADGE_COLOURS
from pages.components.exhibit_figures import STATES, score_text

HERE = Path(__file__).parent
MOSAIC_PAGE, STEERING_PAGE = "patch_mosaic.py", "steering.py"


@dataclass(frozen=True)
class Flagship:
    """One of the two exhibits that the lab is built around: its formula, why it stands where it does, its pages."""

    title: str
    formula: str
    sentence: str
    pages: dict[str, tuple[str, str]]  # name → (file, icon)


@dataclass(frozen=True)
class Strand:
    """One body of work: its page, what it claims, and its exhibits' formulas in the form that fits a card."""

    page: str
    claim: str
    formulas: dict[str, str]
    flagship: Flagship | None = None


STRANDS = {
    "a": Strand(
        "solvable_settings.py",
        "Some networks can be solved on paper: their whole training is known before it begins.",
        {
            "a1": r"u_i(t)=\frac{s_i}{1+(s_i/u_{i0}-1)\,e^{-2s_it}}",
            "a2": r"\sum_i\frac{\lambda_i}{\lambda_i+\kappa}+\frac{\delta}{\kappa}=n",
        },
    ),
    "b": Strand(
        "tractable_limits.py",
        "The wider a network and the larger its output scale, the less its weights move: lazy against rich.",
        {"b": r"\frac{\lVert\Delta W\rVert}{\lVert W_0\rVert}\;\propto\;\frac{1}{\alpha\sqrt{n}}"},
    ),
    "c": Strand(
        "macroscopic_laws.py",
        "Nobody can follow every weight, but some averages obey simple laws.",
        {
            "c1": r"S=\lambda_{\max}(\nabla^2 L)\;\to\;\frac{2}{\eta}",
            "c2": r"W^{\top}W=-\frac{1}{\lambda}\,\mathbb{E}\,[\nabla_{\!x}\ell\;x^{\top}]",
            "c3": r"M\;\leftarrow\;\mathbb{E}\,[\nabla f_M\,\nabla f_M^{\top}]",
        },
        Flagship(
            "Now do it to a language model",
            r"h\;\leftarrow\;h+\varepsilon\,\lVert h\rVert\,v",
            "A feature direction, added to a live model's activations, steers what it writes. This link is ours, not "
            "the paper's.",
            {
                "Steering": (STEERING_PAGE, "tune"),
                "Concept lab": ("concept_lab.py", "science"),
                "Monitor": ("monitor.py", "monitor_heart"),
            },
        ),
    ),
    "d": Strand(
        "hyperparameters.py",
        "A learning rate that suits a small network or batch suits a large one, scaled as theory says.",
        {
            "d1": r"\eta_{\mathrm{hidden}}\propto\frac{1}{n}\;\Rightarrow\;\eta^{*}(n)=\mathrm{const}",
            "d2": r"B\to kB,\quad\eta\to k\eta",
        },
    ),
    "e": Strand(
        "universality.py",
        "Networks of different kinds come to alike representations and to alike outputs.",
        {"e": r"\mathrm{CKA}\approx\frac{1}{1+V/(N\lVert K\rVert^2)}"},
        Flagship(
            "One image from many networks",
            r"s(x)=\frac{1}{\beta}\sum_j w_j\,\bigl(\sqrt{\bar\alpha}\,c_j-x\bigr)",
            "Convolutional networks of different kinds make nearly the image that one formula copies from patches.",
            {
                "Patch mosaic": (MOSAIC_PAGE, "grid_view"),
                "Theory vs network": ("theory_vs_network.py", "compare_arrows"),
                "Where theory stops": ("where_theory_stops.py", "report"),
            },
        ),
    ),
}


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
                st.switch_page(STEERING_PAGE)
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


def strand_row(letter: str, strand: Strand) -> None:
    """Show one strand: what it claims, and beside it a card for each of its exhibits."""
    with st.container(border=True, key=f"strand_{letter}"):
        about, cards = st.columns([3, 8], gap="medium")
        with about:
            look.card_header(f"Strand ({letter})", TITLES[letter])
            st.markdown(strand.claim)
        with cards, st.grid("auto", min_column_width=250, gap="large") as grid:
            for name, formula in strand.formulas.items():
                with grid.cell():
                    exhibit_card(name, strand.page, formula)
            if strand.flagship is not None:
                with grid.cell():
                    flagship_card(strand.flagship)


def exhibit_card(name: str, page: str, formula: str) -> None:
    """Show one law: its name, formula and kind, and how its latest run scored."""
    try:
        exhibit = find_exhibit(name)
        result, ended = run_mechanics.latest(name)
    except AssetError:  # its page says what is wrong
        st.latex(formula)
        st.markdown(f":gray[({name}) not run here yet]")
        return
    link = {"exhibit": name}
    st.page_link(page, label=f":primary[**{exhibit.title}**]", icon=":material/arrow_forward:", query_params=link)
    st.latex(formula)
    with st.container(horizontal=True, gap="xsmall"):
        st.badge(exhibit.badge, color=BADGE_COLOURS[exhibit.badge])
        if result is None:
            st.badge("not run here yet", icon=":material/schedule:", color="gray")
            return
        words, icon, colour = STATES[result.within]
        st.badge(words, icon=icon, color=colour)
    head = result.scores[0]
    expected = str(head.tolerance).replace("-", "−")
    st.caption(f"{head.name} **{score_text(head.value)}**, expected {expected}{' · run here' if ended else ''}")


def flagship_card(flagship: Flagship) -> None:
    """Show where a strand leads to."""
    st.markdown(f"**{flagship.title}**")
    st.latex(flagship.formula)
    st.markdown(flagship.sentence)
    with st.container(gap=None):
        for name, (file, icon) in flagship.pages.items():
            if (HERE / file).exists():
                st.page_link(file, label=f":primary[**{name}**]", icon=f":material/{icon}:")


def invitation() -> None:
    """Offer the tour."""
    try:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            if st.button("Take the tour", key="start_tour", icon=":material/slideshow:"):
                tour.start()
            st.caption(
                f"Five steps, {tour.planned_minutes()} minutes. Keys ← and → turn the pages, P is presenter mode.",
                width="content",
            )
    except LabError as error:
        st.error(str(error), icon=":material/error:")


look.page_header(
    "Learning Mechanics Lab",
    "Each exhibit makes a prediction, runs the experiment on this machine, and scores the one against the other.",
)
invitation()
flagship()
second_flagship()

st.html("<style>.st-key-map .katex-display { min-height: 3.2rem; align-content: center; }</style>")
with st.container(key="map"):
    st.header("The map", anchor=False)
    st.markdown(
        "Learning mechanics is the theory of how training behaves in bulk. The paper that named it sees five strands; "
        "each exhibit stands where it belongs, with what it predicts and how well that held: in the latest run on this "
        "machine, else in the one that is shipped."
    )
    for letter, strand in STRANDS.items():
        strand_row(letter, strand)
    st.page_link("scoreboard.py", label=":primary[**Every score on one page**]", icon=":material/checklist:")

st.header("This machine", anchor=False)
readiness.summary()
st.page_link("machine.py", label=":primary[**Check every file, see the queue, free memory**]", icon=":material/memory:")

st.header("Papers", anchor=False)
look.references("els", "mechanics", "steering")
look.figure_caption("Links leave this machine only when you follow them; the lab itself fetches nothing.")
