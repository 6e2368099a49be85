"""Where theory stops, training set: take images out, put one's own in; the machine follows, the network can't."""

from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from lm_core import artifacts, run_edits
from lm_core.edits import TrainingEdit, uses_added
from lm_core.errors import LabError
from lm_core.params import MosaicParams
from lm_core.results import MosaicResult
from pages.components import look
from pages.components import stops_bench as bench
from pages.components.mosaic_controls import class_names
from pages.components.section_jobs import ask
from pages.components.stops_figures import picture_rows
from pages.components.stops_training_tools import add_black_and_white, history, remember_url, tools, undo_list

SECTION = "t"
BASES = {"first": "The first images", "class": "One class", "two": "Two images", "own": "Only my own"}


def training_set() -> None:
    """Draw the section."""
    st.markdown(
        "The machine is its training images: take one out and its pixels come from elsewhere, put one in and it is "
        "copied from at once. The network would have to be trained again, so its image stays as it is."
    )
    params = bench.settings(SECTION, seed=2)
    remember_url(params.dataset)
    before: MosaicResult | None = ask(
        SECTION,
        f"before {params.key()}",
        f"Seed {params.seed}, unedited",
        partial(bench.plain, params=params),
        button="Make the unedited image",
        note=f"Over {params.images} training images, a few seconds; then edit them.",
    )
    if before is None:
        return
    edit = asked_edit(params)
    after = run_edit(params, edit)
    shown = after if after is not None and edit.edits_of(params) else before
    left, right = st.columns([5, 6], gap="large")
    with left:
        tools(params, edit, shown)
    with right:
        compare(before, after, edit, params)
        undo_list(params.dataset)


# -- the edit ---------------------------------------------------------------------------------------------------------


def asked_edit(params: MosaicParams) -> TrainingEdit:
    """Draw the choice of what to start from and return the whole edit."""
    bound: dict[str, Any] = {"bind": "query-params"}
    base = st.segmented_control(
        "Start from",
        list(BASES),
        default="first",
        required=True,
        format_func=BASES.__getitem__,
        key="t_base",
        **bound,
    )
    label, only = params.label, None
    if base == "class":
        names = class_names(params.dataset)
        label = st.selectbox(
            "Class of the machine's images",
            range(len(names)),
            format_func=names.__getitem__,
            key="t_class",
            width=220,
            **bound,
        )
    elif base == "two":
        only = two_images(params)
    elif base == "own":
        only = ()
        st.button(
            "Add a black and a white image", key="t_black_white", on_click=add_black_and_white, args=(params.dataset,)
        )
    done = history(params.dataset)
    return TrainingEdit(
        dataset=params.dataset,
        images=params.images,
        label=label,
        only=only,
        removed=tuple(what for kind, what in done if kind == "removed"),
        added=tuple(what for kind, what in done if kind == "added"),
    )


def two_images(params: MosaicParams) -> tuple[int, int]:
    """Draw the choice of two training images."""
    full = artifacts.load_dataset(params.dataset)
    bound: dict[str, Any] = {"bind": "query-params"}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        last = len(full.images) - 1
        one = st.number_input("First image", 0, last, 0, key="t_a", width=130, **bound)
        two = st.number_input("Second image", 0, last, 1, key="t_b", width=130, **bound)
        st.button("Any two", key="t_any", on_click=any_two, args=(params.dataset, params.label))
        for number in (int(one), int(two)):
            st.image(image_for_st(full.images[number]), width=72)
    return int(one), int(two)


def image_for_st(image: np.ndarray) -> np.ndarray:
    """Return uint8 [C, H, W] enlarged as Streamlit takes it."""
    array = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    return array.repeat(4, axis=0).repeat(4, axis=1)


def any_two(dataset: str, label: int | None) -> None:
    """Choose two images at random, of the network's class if it has one."""
    full = artifacts.load_dataset(dataset)
    rows = np.arange(len(full.images)) if label is None else np.flatnonzero(full.labels == label)
    one, two = np.random.default_rng().choice(rows, 2, replace=False)
    st.session_state.update(t_a=int(one), t_b=int(two))


def run_edit(params: MosaicParams, edit: TrainingEdit) -> MosaicResult | None:
    """Return the machine's image from the edited set, None while it isn't there or can't be."""
    if not edit.edits_of(params):
        return None
    try:
        data = edit.apply()
    except LabError as error:
        st.warning(f"{str(error)[0].upper()}{str(error)[1:]}", icon=":material/warning:")
        return None

    def work(context) -> MosaicResult:
        return run_edits.edited(params, edit, on_progress=context.progress)

    key, title = f"{params.key()} {edit.key()}", f"Seed {params.seed}, {len(data.images)} training images"
    changed = st.session_state.get(f"_{SECTION}_askededit") != key  # an edit is an order: nobody presses a button too
    return ask(SECTION, key, title, work, button="Make the edited image", go=changed, slot="edit")


# -- before and after -------------------------------------------------------------------------------------------------


def compare(before: MosaicResult, after: MosaicResult | None, edit: TrainingEdit, params: MosaicParams) -> None:
    """Show the machine's image before and after, and the network's, which stays."""
    figures = [(bench.marked(look.to_uint8(before.image)), f"Before{agreement(before)}", "Machine, unedited")]
    share = None
    if after is not None:
        first_added = TrainingEdit.first_added(artifacts.load_dataset(params.dataset))
        used = uses_added(after, first_added)
        share = float(used.mean()) if edit.added else None
        picture = bench.marked(look.to_uint8(after.image), outline=used if edit.added else None)
        figures.append((picture, f"After{agreement(after)}", "Machine, edited training set"))
        number = int(after.nearest["machine"]["id"])
        own = number >= first_added
        image = edit.added[number - first_added].array if own else bench.source_image(after, number)
        name = edit.added[number - first_added].name if own else f"#{number}"
        caption = f"Nearest image in the edited set, {name}: {after.nearest['machine']['distance']:.2f}"
        figures.append((bench.marked(image), caption, caption))
    if before.network_image is not None:
        figures.append(
            (
                bench.marked(look.to_uint8(before.network_image)),
                "Network: trained on the whole set, can't follow",
                "The network's image",
            )
        )
    picture_rows(figures)
    words = [f"Machine over {before.images_used:,} images before"]
    if after is not None:
        moved = float(np.abs(after.image - before.image).mean())
        words.append(f", {after.images_used:,} after; the mean pixel moved by {moved:.3f} on [−1, 1]")
    if share is not None:
        words.append(f". Outlined: the {share:.1%} of pixels whose heaviest source is an added image")
    look.figure_caption("".join(words) + ". r: Pearson's correlation with the network's image.")


def agreement(result: MosaicResult) -> str:
    score = result.scores.get("machine")
    return f", r = {score['r']:.2f}" if score else ""
