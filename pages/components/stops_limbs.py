"""Where theory stops, patch size: sleeves and legs that no pixel could count, with the window drawn over them."""

import numpy as np
import streamlit as st

from lm_core import artifacts, ink, survey
from lm_core.errors import AssetError
from pages.components import look
from pages.components import stops_bench as bench
from pages.components.mosaic_controls import class_names
from pages.components.stops_figures import picture_rows

DATASET, NETWORK = "fashion-mnist", "unet"
COMMAND = f"python -m lm_core survey --dataset {DATASET} --network {NETWORK}"
COLUMNS = {"left": 6, "middle": 16, "right": 26}
RARE = 0.05
ROWS = 12


def limbs() -> None:
    """Draw the gallery inside an expander; nothing is read before it is opened."""
    with st.expander(
        "Sleeves and legs, with the window drawn over them",
        key="p_limbs",
        on_change="rerun",
        icon=":material/checkroom:",
    ) as part:
        if not part.open:
            return
        st.markdown(
            "Once t < 0.3 the published window of this network is 7 pixels or fewer, 3 to 5 at the end. A sleeve is "
            "finished by pixels that can't see the other sleeve, so nothing makes two of them agree."
        )
        try:
            found = survey.load(DATASET, NETWORK)
            tiles = survey.tiles(found)
        except AssetError as error:
            st.info(str(error), icon=":material/info:")
            return
        if "bbels" not in tiles or "network-20" not in tiles:
            st.info(f"The survey has no pictures; `{COMMAND}` makes them.", icon=":material/info:")
            return
        gallery(found, tiles)


def gallery(found: survey.Survey, tiles: dict[str, np.ndarray]) -> None:
    """Show the machine's and the network's image of every seed of a class, the rarest counts first."""
    published = survey.published_curve(DATASET, NETWORK) or (3,)
    steps, names = len(published), class_names(DATASET)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.segmented_control(
            "Garment", list(ink.BANDS), default="Pullover", required=True, key="p_garment", bind="query-params"
        )
        side = st.segmented_control("Window over", list(COLUMNS), default="left", required=True, key="p_side")
    name, side = name or "Pullover", side or "left"
    place = st.select_slider(
        "Step",
        list(range(steps, 0, -1)),
        value=6,
        format_func=lambda j: f"t = {j / steps:.2f}: P = {published[j - 1]}",
        key="p_step",
    )
    limb, band = ink.BANDS[name]
    usual = training_shares(names.index(name), band)
    mine = [row for row, facts in enumerate(found.per_seed) if facts["label"] == names.index(name)]
    counts = {who: ink.runs(tiles[who][mine], band) for who in ("bbels", "network-20")} if mine else {}
    if not mine:
        st.info(f"The survey has no {name.lower()}.", icon=":material/info:")
        return
    rarity = [min(usual.get(int(counts[who][i]), 0.0) for who in counts) for i in range(len(mine))]
    half, y, x = published[place - 1] // 2, (band[0] + band[1]) // 2, COLUMNS[side]
    box = (y - half, x - half, y + half + 1, x + half + 1)
    figures = []
    for i in np.argsort(rarity, kind="stable")[:ROWS]:
        for who, title in (("bbels", "theory"), ("network-20", "network")):
            number = int(counts[who][i])
            rare = " (rare)" if usual.get(number, 0.0) < RARE else ""
            picture = bench.marked(tiles[who][mine[i]][None], box=box)
            seed = found.seeds[mine[i]]
            caption = f"Seed {seed}, {title}: {number} run{'' if number == 1 else 's'}{rare}"
            figures.append((picture, caption, f"{name}, {caption}, window of {published[place - 1]} pixels"))
    picture_rows(figures)
    look.figure_caption(
        f"Runs: separate stretches of ink, at least {ink.NARROWEST} pixels wide and brighter than {ink.INK} of 255, in "
        f"a row; the median over rows {band[0]} to {band[1] - 1}, where the {limb}s are. It counts stretches, not "
        f"{limb}s: a {limb} that touches its neighbour makes one fewer. Among the training images of {name}: "
        f"{spell(usual)}. Here, theory: {spell(ink.shares(counts['bbels']))}; network: "
        f"{spell(ink.shares(counts['network-20']))}. Rare: fewer than {RARE:.0%} of the training images. The box is "
        "the P×P window at the chosen step, cut at the image's edge."
    )


def spell(shares: dict[int, float]) -> str:
    """Say the shares that round to 1 % or more in words: "1 run 40%, 2 runs 25%"."""
    return ", ".join(
        f"{runs} run{'' if runs == 1 else 's'} {share:.0%}" for runs, share in shares.items() if share >= 0.005
    )


@st.cache_data(show_spinner="Counting in the training images …")
def training_shares(label: int, band: tuple[int, int]) -> dict[int, float]:
    """Return how large a share of a class's training images has each number of runs."""
    data = artifacts.load_dataset(DATASET)
    return ink.shares(ink.runs(data.images[data.labels == label][:, 0], band))
