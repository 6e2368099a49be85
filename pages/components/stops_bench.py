"""What the sections on patch size, training set and noise share: their settings, jobs, and pictures with marks on them.

A section's name is the first part of its widgets' keys, which are their names in the URL.
"""

import base64
import html
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image, ImageDraw

from lm_core import artifacts, cifar, run
from lm_core.errors import AssetError
from lm_core.jobs import Job, JobContext, scheduler
from lm_core.params import MAX_SEED, NETWORKS, MosaicParams
from lm_core.results import MosaicResult
from pages.components import look
from pages.components.live import job_panel, owner

DATASETS = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "emoji": "Emoji", "cifar10": "CIFAR-10"}
COUNTS = (50, 100, 200, 300, 600, 1000)
STEPS = 20
KEPT = 6  # results a section remembers
SCALE = 9  # screen pixels an image pixel gets in a marked picture
LINE = 4  # width of a mark there
MARK = (255, 171, 26)
GRID = """
<style>
.lm-row { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(7.4rem, 45%), 1fr)); gap: .9rem;
  margin: 0; }
.lm-row figure { margin: 0; max-width: 15rem; }
.lm-row img { width: 100%; aspect-ratio: 1; object-fit: contain; image-rendering: pixelated; border-radius: .4rem;
  background: #808080; display: block; }
.lm-row figcaption { font-size: .82rem; line-height: 1.35; margin-top: .4rem; }
</style>
"""


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
            classes = artifacts.manifest()["data"].get(chosen, {}).get("class_names") or cifar.CLASS_NAMES
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
    names = []
    for name in DATASETS:
        try:
            if name == "cifar10":
                cifar.find(artifacts.search_paths())
        except AssetError:
            continue
        if run.shipped_networks(name):
            names.append(name)
    return names


def at_most(dataset: str, label: int | None, images: int) -> int:
    """Return how many images a small set's class has if it has fewer than asked for."""
    return images if dataset != "emoji" else min(images, class_size(dataset, label))


@st.cache_data(show_spinner=False)
def class_size(dataset: str, label: int | None) -> int:
    """Return how many images a class, or the whole set, has."""
    data = artifacts.load_dataset(dataset)
    return len(data.images) if label is None else int((data.labels == label).sum())


# -- jobs and their results -------------------------------------------------------------------------------------------


def start(section: str, title: str, key: str, work: Callable[[JobContext], Any]) -> None:
    """Queue a section's work unless its result is there already; the visitor's earlier job gives way."""
    if find(section, key) is not None:
        return
    job = scheduler().submit(owner(), title, work, key=f"{section} {key}")
    st.session_state[f"_{section}_job"] = job.id
    if job.state == "done":
        keep(section, job)


def keep(section: str, job: Job) -> None:
    """Remember a finished job's result, the latest few."""
    kept = st.session_state.setdefault(f"_{section}_results", {})
    kept[str(job.key).removeprefix(f"{section} ")] = job.result
    while len(kept) > KEPT:
        kept.pop(next(iter(kept)))


def find(section: str, key: str) -> Any:
    """Return the result of this key, None if it isn't there."""
    return st.session_state.get(f"_{section}_results", {}).get(key)


def panel(section: str, preview: Callable[[Job], None] | None = None) -> Job | None:
    """Show the section's job while there is one, and how it ended; returns it."""
    job = scheduler().get(st.session_state.get(f"_{section}_job", ""), owner())
    job_panel(scheduler(), job, on_done=lambda done: keep(section, done), key=f"{section}_job", preview=preview)
    return job


def ask(
    section: str,
    key: str,
    title: str,
    work: Callable[[JobContext], Any],
    *,
    button: str,
    note: str = "",
    go: bool = False,
    slot: str = "",
) -> Any:
    """Return a result if it is there; else offer it on a button, or start it at once if the visitor has asked before.

    What was cancelled or has failed isn't started again by itself.

    Args:
        key: of the result; button: what asks for the first; note: what to expect, beside the button.
        go: whether the visitor has just asked by other means than the button.
        slot: tells a section's kinds of results apart: whether one was asked for says nothing about the other.

    Returns:
        None while it isn't there; the job is shown by then.
    """
    result, asked = find(section, key), f"_{section}_asked{slot}"
    if result is not None:
        st.session_state[asked] = key
        return result
    job = scheduler().get(st.session_state.get(f"_{section}_job", ""), owner())
    if job is None or not job.active or job.key != f"{section} {key}":
        wanted = go or st.session_state.get(asked) not in (None, key)
        if not wanted:
            with st.container(horizontal=True, vertical_alignment="center"):
                wanted = st.button(button, key=f"{section}_run", type="primary", icon=":material/play_arrow:")
                if note:
                    st.caption(note, width="stretch")
        if wanted:
            st.session_state[asked] = key
            start(section, title, key, work)
            st.rerun()
    panel(section)
    return None


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
    return address(picture)


def borders(region: np.ndarray) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the unit lines, as pairs of corners (y, x), between pixels inside and outside a region."""
    padded = np.pad(region.astype(bool), 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]  # [H+1, W] lines above each row
    down = padded[1:-1, 1:] != padded[1:-1, :-1]  # [H, W+1] lines left of each column
    lines = [((int(y), int(x)), (int(y), int(x) + 1)) for y, x in np.argwhere(across)]
    return lines + [((int(y), int(x)), (int(y) + 1, int(x))) for y, x in np.argwhere(down)]


def address(picture: Image.Image) -> str:
    """Return a picture as the data address of a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def row(figures: list[tuple[str, str, str]]) -> None:
    """Show pictures in rows that wrap: (data address, caption, alternative text) each."""
    drawn = "".join(
        f'<figure><img src="{source}" alt="{html.escape(alt)}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for source, caption, alt in figures
    )
    st.html(f'{GRID}<div class="lm-row">{drawn}</div>')


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
