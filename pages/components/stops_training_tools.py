"""Where theory stops, training set: the edits so far, and the tools that make one: remove a source, draw, upload."""

from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from lm_core import artifacts
from lm_core.edits import MAX_ADDED, Picture, TrainingEdit, read_upload, top_sources
from lm_core.errors import LabError, ParameterError
from lm_core.mosaic import segment
from lm_core.params import MosaicParams
from lm_core.results import MosaicResult
from pages.components import look
from pages.components import stops_bench as bench
from pages.components.paint import drawing, paint_picture, pick_pixel, picked
from pages.components.stops_figures import picture_rows

PICK, DRAW, URL = "t_pick", "t_draw", "t_removed"
HISTORY = "_t_history"  # data set → list of ("removed", id) or ("added", Picture)
PROBLEM = "_t_problem"  # what was wrong with the last edit
SIDE = 32
LEAST_WEIGHT = 0.005  # a lighter source would read as 0 %
TOOLS = {"remove": "Remove a pixel's source", "draw": "Draw one", "upload": "Upload"}


# -- the edits so far -------------------------------------------------------------------------------------------------


def history(dataset: str) -> list[tuple[str, Any]]:
    """Return the visitor's edits of a data set, the oldest first; a list to change in place."""
    return st.session_state.setdefault(HISTORY, {}).setdefault(dataset, [])


def remember_url(dataset: str) -> None:
    """Take removed images from the URL on the first run, and keep it up to date afterwards."""
    if HISTORY not in st.session_state:
        said = [part for part in st.query_params.get(URL, "").split(",") if part.isdecimal() and len(part) < 8]
        history(dataset).extend(("removed", int(part)) for part in dict.fromkeys(said))
    removed = ",".join(str(what) for kind, what in history(dataset) if kind == "removed")
    if not removed:
        st.query_params.pop(URL, None)
    elif st.query_params.get(URL) != removed:
        st.query_params[URL] = removed


def channels_of(dataset: str) -> int:
    return artifacts.load_dataset(dataset).images.shape[1]


def add(dataset: str, picture: Picture) -> None:
    """Add an image, unless there are as many as there may be."""
    count = sum(kind == "added" for kind, _ in history(dataset))
    if count >= MAX_ADDED:
        raise ParameterError(f"{count} images are added, the most there may be; take one out first.")
    history(dataset).append(("added", picture))


def add_black_and_white(dataset: str) -> None:
    """Add a black and a white image, the paper's smallest training set, unless they are there."""
    try:
        for name, value in (("black", 0), ("white", 255)):
            picture = Picture.of(name, np.full((channels_of(dataset), SIDE, SIDE), value, np.uint8))
            if ("added", picture) not in history(dataset):
                add(dataset, picture)
    except LabError as error:
        st.session_state[PROBLEM] = str(error)


def undo_list(dataset: str) -> None:
    """List the edits, each with a button that takes it back."""
    done = history(dataset)
    if not done:
        return
    st.markdown(f"**Edits** ({len(done)})")
    with st.container(horizontal=True, gap="small"):
        for place, (kind, what) in enumerate(done):
            name = f"without #{what}" if kind == "removed" else f"with {what.name}"
            st.button(
                name,
                key=f"t_undo_{place}",
                icon=":material/undo:",
                help="Take this edit back",
                on_click=take_back,
                args=(dataset, place),
            )
        st.button("Take all back", key="t_undo_all", type="tertiary", on_click=done.clear)


def take_back(dataset: str, place: int) -> None:
    """Take one edit back."""
    if place < len(history(dataset)):
        history(dataset).pop(place)


# -- the tools --------------------------------------------------------------------------------------------------------


def tools(params: MosaicParams, edit: TrainingEdit, shown: MosaicResult) -> None:
    """Draw the chosen tool."""
    tool = st.segmented_control(
        "Edit", list(TOOLS), default="remove", required=True, format_func=TOOLS.__getitem__, key="t_tool"
    )
    problem = st.session_state.pop(PROBLEM, None)
    if problem:
        st.error(problem, icon=":material/error:")
    if tool == "draw":
        channels = channels_of(params.dataset)
        handed = partial(take_drawing, params.dataset, channels)
        paint_picture(key=f"{DRAW}_{channels}", channels=channels, size=SIDE, action="Add this drawing", on_done=handed)
        look.figure_caption("32×32 pixels on black. The drawing joins the training images when you add it.")
    elif tool == "upload":
        upload(params.dataset)
    else:
        remove(params.dataset, edit, shown)


def remove(dataset: str, edit: TrainingEdit, shown: MosaicResult) -> None:
    """Let a pixel be chosen on the machine's image and its sources be removed."""
    size = (shown.image.shape[1], shown.image.shape[2])
    pixel = picked(PICK, size)
    outline = None
    if pixel:
        tiles = segment(shown, shown.steps - 1)
        outline = (tiles.label == tiles.label[pixel]) & ~tiles.muted if not tiles.muted[pixel] else None
    pick_pixel(
        key=PICK,
        background=look.png_address(look.to_uint8(shown.image)),
        size=size,
        pixel=pixel,
        outline=outline,
        label="The machine's image",
        on_pick=lambda: None,
    )
    if pixel is None:
        look.figure_caption("The machine's image. Choose a pixel: its tile and the images it is copied from appear.")
        return
    effective = float(shown.effective_samples[-1][pixel])
    tile = "Outlined: the tile copied with it from one image." if outline is not None else "It belongs to no tile."
    look.figure_caption(f"{tile} Effective sources of the pixel: {effective:,.0f}.")
    first_added = TrainingEdit.first_added(artifacts.load_dataset(dataset))
    first, *others = top_sources(shown, *pixel)
    sources = [first, *(one for one in others if one[1] >= LEAST_WEIGHT)]
    columns = st.columns(3)
    for column, (number, weight) in zip(columns, sources, strict=False):
        with column:
            source_card(dataset, edit, shown, pixel, number, weight, first_added)
    every = [entry(edit, number, first_added) for number, _ in sources]
    if len(every) > 1:
        st.button(f"Remove all {len(every)}", key="t_remove_all", on_click=take_out, args=(dataset, *every))


def source_card(
    dataset: str,
    edit: TrainingEdit,
    shown: MosaicResult,
    pixel: tuple[int, int],
    number: int,
    weight: float,
    first_added: int,
) -> None:
    """Show one source with the patch that is copied, and a button that removes it."""
    added = number >= first_added
    place = int((shown.top_image[-1][pixel] == number).argmax())
    y, x = int(shown.top_y[-1][(*pixel, place)]), int(shown.top_x[-1][(*pixel, place)])
    half = int(shown.patch_sizes[-1]) // 2
    image = edit.added[number - first_added].array if added else bench.source_image(shown, number)
    name = f"added {number - first_added + 1}" if added else f"#{number}"
    picture = bench.marked(image, box=(y - half, x - half, y + half + 1, x + half + 1))
    picture_rows([(picture, f"{name}: weight {weight:.0%}", f"Training image {name} with the patch copied from it")])
    what = entry(edit, number, first_added)
    st.button(f"Remove {name}", key=f"t_remove_{number}", on_click=take_out, args=(dataset, what), width="stretch")


def entry(edit: TrainingEdit, number: int, first_added: int) -> tuple[str, Any]:
    """Return what the history says of a source: an added image by itself, one of the set by its id."""
    return ("added", edit.added[number - first_added]) if number >= first_added else ("removed", number)


def take_out(dataset: str, *sources: tuple[str, Any]) -> None:
    """Remove sources: an image of the set goes onto the list, one of the visitor's own comes off it."""
    done = history(dataset)
    for what in sources:
        if what[0] == "added" and what in done:
            done.remove(what)
        elif what[0] == "removed" and what not in done:
            done.append(what)


def take_drawing(dataset: str, channels: int) -> None:
    """Add the drawing that was handed over just now."""
    pixels = drawing(f"{DRAW}_{channels}", channels, SIDE)
    if pixels is None:
        return
    if not pixels.any():
        st.session_state[PROBLEM] = "The drawing is empty; draw something first."
        return
    number = 1 + sum(kind == "added" and what.name.startswith("drawing") for kind, what in history(dataset))
    try:
        add(dataset, Picture.of(f"drawing {number}", pixels))
    except LabError as error:
        st.session_state[PROBLEM] = str(error)


def upload(dataset: str) -> None:
    """Let files be chosen and added."""
    with st.form("t_upload_form", clear_on_submit=True, border=False):
        files = st.file_uploader(
            f"PNG or JPEG, up to 5 MB each, {MAX_ADDED} in all",
            ["png", "jpg", "jpeg"],
            accept_multiple_files=True,
            key="t_files",
        )
        invert = st.checkbox("Exchange dark and light", key="t_invert", help="For ink on white paper.")
        if st.form_submit_button("Add these images", icon=":material/add:"):
            problems = take_files(dataset, files or [], invert)
            if problems:
                st.session_state[PROBLEM] = "  \n".join(problems)
            st.rerun()
    look.figure_caption("Cut to a square at the centre, resized to 32×32, turned grey where the data set is.")


def take_files(dataset: str, files: list, invert: bool) -> list[str]:
    """Add uploaded files that can be used; returns a sentence for each that can't."""
    problems, channels = [], channels_of(dataset)
    if not files:
        return ["No file is chosen; choose one first."]
    for file in files[:MAX_ADDED]:
        try:
            add(dataset, read_upload(file.name, file.getvalue(), channels, invert))
        except LabError as error:
            problems.append(str(error))
    if len(files) > MAX_ADDED:
        problems.append(f"{len(files)} files are too many; the first {MAX_ADDED} were looked at.")
    return problems
