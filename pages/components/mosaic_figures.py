"""What stands around the lens of the patch mosaic: the scores, the equation, the patch-size curve, downloads."""

import io
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from PIL import Image

from lm_core import run
from lm_core.artifacts import load_dataset
from lm_core.params import MACHINES, NETWORKS
from lm_core.results import MosaicResult
from pages.components import look

PLOTLY = {"displaylogo": False, "showSendToCloud": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}


def sample(result: MosaicResult, everything: bool) -> str:
    """Say over how many training images a result is, and how far off it may be: "all 60,000 images, ±0.004 …".

    Args:
        everything: whether that many images are all there are.
    """
    asked = result.params.images or result.images_used
    used = result.images_used or asked
    if used < asked:
        images = f"{used:,} of {asked:,} images so far"
    else:
        images = f"{'all ' if everything else ''}{asked:,} images"
    if result.error_bound is None:
        return f"{images}, exact"
    return f"{images}, ±{rounded_up(result.error)} ({'certified' if result.certified else 'partly estimated'})"


SAMPLE_HELP = (
    "How far off the worst step is, given its input, on the scale from −1 to 1: the mean over pixels of a bound on "
    "what was left out, plus two standard errors where only some of the images were looked at. That part is an "
    "estimate: it misses a rare image that outweighs all others; tolerance 0 looks at everything. How errors grow from "
    "step to step is not in it."
)


def rounded_up(error: float) -> str:
    """Return a small positive number with three decimals, or as many as its first digit needs, never rounded down."""
    digits = max(3, -math.floor(math.log10(error))) if error > 0 else 3
    return f"{math.ceil(round(error * 10**digits, 6)) / 10**digits:.{digits}f}"


def scores(result: MosaicResult) -> None:
    """Tabulate how well the machine and the ideal score machine predict the network; each figure has its name."""
    st.subheader("Does the network agree?", anchor=False)
    if not result.scores:
        st.caption("No network stands beside this machine, so there is nothing to score.")
        return
    machine = MACHINES[result.params.machine]
    rows = {machine: result.scores["machine"], "Ideal score (memorises)": result.scores["ideal"]}
    figures = {name: [f"{row[key]:.3f}" for row in rows.values()] for name, key in NAMES.items()}
    st.table({"prediction": list(rows)} | figures)
    network = NETWORKS.get(result.params.network or "", result.params.network)
    look.figure_caption(
        f"The finished images against the {network}'s, over all pixels and channels, {result.steps} steps each. "
        + HOW_ALIKE
    )
    note = load_dataset(result.params.dataset).note if result.params.dataset == "cifar10" else ""
    if note:
        st.caption(note)


NAMES = {"r": "r", "r²": "r2", "R²": "R2"}
HOW_ALIKE = (
    "r: Pearson's correlation; r²: its square; R² = 1 − Σ(network − prediction)² / Σ(network − its mean)², negative "
    "when the network's mean grey would do better. The paper's tables give r."
)


def memorised(result: MosaicResult) -> None:
    """Show each output beside the training image nearest to it."""
    st.subheader("Is it memorised?", anchor=False)
    images = []
    for who, title, image in (
        ("machine", "Theory", result.image),
        ("network", "Network", result.network_image),
    ):
        if who not in result.nearest or image is None:
            continue
        found = result.nearest[who]
        images.append((look.to_uint8(image), title, f"{title}'s image"))
        nearest = find_source(result, int(found["id"]))
        caption = f"Its nearest, #{int(found['id'])}: {found['distance']:.2f}"
        images.append((nearest, caption, f"Training image nearest to the {title.lower()}'s image"))
    look.pictures(images)
    of_class = " of its class" if result.params.label is not None else ""
    look.figure_caption(
        f"Each output and the training image{of_class} nearest to it, with their root mean square distance on [−1, 1]; "
        "a memorised image would be at 0."
    )


def find_source(result: MosaicResult, name: int) -> np.ndarray:
    """Return a training image of a result, uint8 [C, H, W]: from its own thumbnails, else from the data set."""
    place = int(np.searchsorted(result.source_ids, name))
    if place < len(result.source_ids) and result.source_ids[place] == name:
        return result.source_images[place]
    return load_dataset(result.params.dataset).images[name]


def enlarge(image: np.ndarray, side: int) -> Image.Image:
    """Turn uint8 [C, H, W] into a picture of about that many pixels, each pixel a square."""
    array = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    factor = max(1, side // array.shape[0])
    return Image.fromarray(array).resize((array.shape[1] * factor, array.shape[0] * factor), Image.Resampling.NEAREST)


def equation(result: MosaicResult, step: int | None) -> None:
    """Show the formula of the machine with its symbols tied to the controls."""
    step = result.steps - 1 if step is None else min(step, result.steps - 1)
    alpha, size = float(result.alpha_bar[step]), int(result.patch_sizes[step])
    whole, images = result.params.machine in ("is", "es"), result.images_used or result.params.images
    window = "the whole image" if whole else f"the {size}×{size} window around the pixel (control: patch size)"
    with st.container(border=True):
        st.latex(
            r"\mathrm{denoised}(x)=\sum_j w_j\,c_j,\qquad w_j\;\propto\;"
            r"\exp\!\Big(\!-\frac{\lVert x_\Omega-\sqrt{\bar\alpha}\,p_j\rVert^2}{2\,(1-\bar\alpha)}\Big)"
        )
        st.caption(
            f"Ω: {window}. p: a patch of the {images:,} training images that "
            f"{MACHINES[result.params.machine]} allows (controls: machine, images), c: its centre pixel. At this step "
            f"the signal share ᾱ is {alpha:.3f}, t = {1 - step / result.steps:.2f}. Nothing in it was trained; the "
            "patch sizes are the theory's only calibrated numbers."
        )


def curve_chart(result: MosaicResult) -> None:
    """Plot the patch size against time."""
    t = 1 - np.arange(result.steps) / result.steps
    figure = go.Figure(go.Scatter(x=t, y=result.patch_sizes, mode="lines+markers", line_shape="hvh"))
    figure.update_layout(
        height=260,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        xaxis_title="time t (1 is noise)",
        yaxis_title="patch size P (pixels)",
    )
    figure.update_xaxes(autorange="reversed")
    st.plotly_chart(figure, config=PLOTLY, key="curve_chart")
    look.figure_caption("The window P through which the machine sees, in pixels, at each step of this run.")


def downloads(result: MosaicResult) -> None:
    """Offer the whole result and a film of it."""
    params, name = result.params, f"mosaic-{result.params.dataset.split('/')[-1]}-seed{result.params.seed}"
    facts = {"params": params.as_dict(), "scores": result.scores, "nearest": result.nearest}
    facts |= {"provenance": result.provenance, "seconds": result.seconds, "network": None}
    facts |= {"images_used": result.images_used, "error": result.error, "certified": result.certified}
    if params.network:
        facts["network"] = run.network_facts(params.dataset, params.network)
    with st.container(horizontal=True):
        st.download_button("Arrays (NPZ)", lambda: npz(result), f"{name}.npz", key="npz", on_click="ignore")
        st.download_button(
            "Facts (JSON)", lambda: json.dumps(facts, indent=1), f"{name}.json", key="json", on_click="ignore"
        )
        st.download_button("Film (GIF)", lambda: film(result), f"{name}.gif", key="gif", on_click="ignore")
    network = f" and {NETWORKS.get(params.network, params.network)}" if params.network else ""
    look.figure_caption(f"The estimates of {MACHINES[params.machine]}{network} at every step, with seed and hashes.")


def npz(result: MosaicResult) -> bytes:
    """Return the result as the bytes of an npz file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.npz"
        result.save(path)
        return path.read_bytes()


def film(result: MosaicResult) -> bytes:
    """Return a GIF of the estimates, the machine's beside the network's."""
    frames = []
    for step in range(result.steps):
        images = [result.denoised[step]]
        if result.network_denoised is not None:
            images.append(result.network_denoised[step])
        pixels = look.to_uint8(np.concatenate(images, axis=2))
        frames.append(enlarge(pixels, 256).convert("RGB"))
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=[120] * (len(frames) - 1) + [1500], loop=0
    )
    return buffer.getvalue()
