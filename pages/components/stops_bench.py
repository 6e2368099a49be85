"""What the sections on patch size, training set and noise share: their settings, and pictures with marks on them.

A section's name is the first part of its widgets' keys, which are their names in the URL.
"""

from typing import Any

import numpy as np
import streamlit as st
from PIL import Image, ImageDraw

from lm_core import artifacts, run, run_limits
from lm_core.jobs import JobContext
from lm_core.params import MAX_SEED, NETWORKS, MosaicParams
from lm_core.results import MosaicResult
from pages.components import look
from pages.components.mosaic_controls import DATASETS, class_names

COUNTS = (50, 100, 200, 300, 600, 1000)
STEPS = 20
SCALE = 9  # screen pixels an image pixel gets in a marked picture
LINE = 4  # width of a mark there
MARK = (255, 171, 26)


# -- settings ---------------------------------------------------------------------------------------------------------


def settings(section: str, *, dataset: str = "mnist", images: int = 300, seed: int = 1) -> MosaicParams:
    """Draw a section's choice of data, network, class, seed and number of images, all in the URL."""
    bound: dict[str, Any] = {"bind": "query-params"}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        names = offered()
        chosen = st.selectbox(
            "Data",
            names,
            index=names.index(dataset),
            format_func=DATASETS.__getitem__,
            key=f"{section}_data",
            width=170,
            **bound,
        )
        # A circular network belongs to another machine; the section on borders is about it.
        networks = [name for name in run.shipped_networks(chosen) if name != "resnet-circular"]
        network = st.selectbox(
            "Network",
            networks,
            format_func=lambda name: NETWORKS.get(name) or str(name),
            key=f"{section}_network",
            width=190,
            **bound,
        )
        label = None
        if network and run.network_facts(chosen, network).get("classes"):
            classes = class_names(chosen)
            label = st.selectbox(
                "Class",
                range(len(classes)),
                format_func=classes.__getitem__,
                key=f"{section}_label",
                width=170,
                **bound,
            )
        count = st.selectbox(
            "Training images",
            COUNTS,
            index=COUNTS.index(images),
            format_func=lambda number: f"{number:,}",
            key=f"{section}_images",
            width=140,
            help="The first ones of the set, or of the class. Fewer are quicker.",
            **bound,
        )
        number = st.number_input(
            "Seed", 0, MAX_SEED, seed, key=f"{section}_seed", width=130, help="Of the noise both start from.", **bound
        )
    return MosaicParams(
        dataset=chosen,
        network=network,
        label=label,
        images=at_most(chosen, label, int(count)),
        seed=int(number),
        steps=STEPS,
        engine="fast",
    )


@st.cache_data(ttl=60, show_spinner=False)
def offered() -> list[str]:
    """Return the data sets that have a network and are here."""
    here = [name for name in artifacts.DATASETS if name != "cifar10" or run_limits.has_cifar()]
    return [name for name in here if run.shipped_networks(name)]


def at_most(dataset: str, label: int | None, images: int) -> int:
    """Return how many images a small set's class has if it has fewer than asked for."""
    return images if dataset != "emoji" else min(images, class_size(dataset, label))


def same_but_windows(resolved: MosaicParams, params: MosaicParams) -> bool:
    """Whether a run's parameters, with the class and the windows filled in, are those asked for but for the windows."""
    return params.with_(patch_sizes=resolved.patch_sizes) == resolved


def made_before(params: MosaicParams) -> str:
    """Say what the pictures show that are still there while other settings have nothing to show yet."""
    network = NETWORKS.get(params.network or "", params.network) or "no network"
    classes = "" if params.label is None else f", {class_names(params.dataset)[params.label]}"
    return (
        f"Below, made before: {DATASETS.get(params.dataset, params.dataset)}, {network}{classes}, "
        f"{params.images:,} images, seed {params.seed}."
    )


@st.cache_data(show_spinner=False)
def class_size(dataset: str, label: int | None) -> int:
    """Return how many images a class, or the whole set, has."""
    data = artifacts.load_dataset(dataset)
    return len(data.images) if label is None else int((data.labels == label).sum())


def plain(context: JobContext, params: MosaicParams) -> MosaicResult:
    """Make a machine's image as a job."""
    return run.mosaic(params, on_progress=context.progress)


# -- pictures ---------------------------------------------------------------------------------------------------------


def marked(
    image: np.ndarray,
    *,
    outline: np.ndarray | None = None,
    box: tuple[int, int, int, int] | None = None,
    scale: int = SCALE,
) -> str:
    """Return a PNG's data address: an image enlarged pixel by pixel, with a line around some pixels or a box.

    Args:
        image: uint8 [C, H, W] with one or three channels.
        outline: bool [H, W], pixels to draw a line around.
        box: (top, left, bottom, right) in pixels, the last two past the end; it may leave the image and is cut there.
    """
    array = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    height, width = array.shape[:2]
    size = (width * scale, height * scale)
    picture = Image.fromarray(array).convert("RGB").resize(size, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    if outline is not None:
        for line in borders(outline):
            pen.line([(x * scale, y * scale) for y, x in line], fill=(0, 0, 0), width=LINE + 4)
        for line in borders(outline):
            pen.line([(x * scale, y * scale) for y, x in line], fill=MARK, width=LINE)
    if box is not None:
        top, left, bottom, right = (max(0, box[0]), max(0, box[1]), min(height, box[2]), min(width, box[3]))
        corners = (left * scale, top * scale, right * scale - 1, bottom * scale - 1)
        pen.rectangle(corners, outline=(0, 0, 0), width=LINE + 4)
        inner = (corners[0] + 2, corners[1] + 2, corners[2] - 2, corners[3] - 2)
        pen.rectangle(inner, outline=MARK, width=LINE)
    return look.png_address(np.asarray(picture).transpose(2, 0, 1))


def borders(region: np.ndarray) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the unit lines, as pairs of corners (y, x), between pixels inside and outside a region."""
    padded = np.pad(region.astype(bool), 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]  # [H+1, W] lines above each row
    down = padded[1:-1, 1:] != padded[1:-1, :-1]  # [H, W+1] lines left of each column
    lines = [((int(y), int(x)), (int(y), int(x) + 1)) for y, x in np.argwhere(across)]
    return lines + [((int(y), int(x)), (int(y) + 1, int(x))) for y, x in np.argwhere(down)]


def source_image(result: MosaicResult, number: int) -> np.ndarray:
    """Return a training image of a result, uint8 [C, H, W]."""
    place = int(np.searchsorted(result.source_ids, number))
    if place < len(result.source_ids) and result.source_ids[place] == number:
        return result.source_images[place]
    return artifacts.load_dataset(result.params.dataset).images[number]


def outcome(result: MosaicResult, title: str = "Theory", first_added: int | None = None) -> list[tuple[str, str, str]]:
    """Return the pictures of a result: machine, network, and the training image nearest to the machine's."""
    found = result.nearest["machine"]
    number, score = int(found["id"]), result.scores.get("machine")
    agrees = f", r = {score['r']:.2f} with the network" if score else ""
    name = f"#{number}" if first_added is None or number < first_added else f"added image {number - first_added + 1}"
    figures = [(marked(look.to_uint8(result.image)), f"{title}{agrees}", f"{title}: the machine's image")]
    nearest = f"Nearest training image to it, {name}, at distance {found['distance']:.2f}"
    figures.append((marked(source_image(result, number)), nearest, nearest))
    if result.network_image is not None:
        figures.append((marked(look.to_uint8(result.network_image)), "Network, as trained", "The network's image"))
    return figures
