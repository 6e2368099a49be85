"""Borders: with circular padding nothing tells a network where the image ends, and digits become texture."""

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from lm_core import run_limits, survey
from lm_core.errors import AssetError
from lm_core.jobs import JobContext
from lm_core.params import MAX_SEED
from lm_core.run_limits import BorderRun
from lm_core.survey import Survey
from pages.components import look
from pages.components.look import AMBER, BLUE, MARGIN, PLOTLY
from pages.components.section_jobs import live_run
from pages.components.stops_figures import finding, from_channels, picture_grid, training_differs

DATA, ZEROS, CIRCULAR = "mnist", "resnet", "resnet-circular"
NAMES = {
    ZEROS: "Network, zero padding",
    "bbels": "Theory with borders (bbELS)",
    CIRCULAR: "Network, circular padding",
    "els": "Theory without borders (ELS)",
}
RING = 6  # pixels: a digit resized from 28×28 keeps about that much blank around its 20×20 box
SHOWN_SEEDS = 8
LIVE_IMAGES = 300

Columns = dict[str, np.ndarray]


def borders() -> None:
    """Draw the section."""
    st.markdown(
        "A convolution is the same everywhere; only the zeros around the image tell a network where it is. Wrap the "
        "image around instead (circular padding) and every place is like every other: from the same noise the two "
        "ResNets below, alike but for the padding and trained on the same digits, must part. "
        + training_differs(DATA, ZEROS, CIRCULAR)
    )
    try:
        columns, seeds, counts = shipped_columns()
    except AssetError as error:
        st.info(f"{error} A live run below needs only the networks.")
    else:
        finding(statement(columns))
        mean_images(columns, counts)
        profile(columns)
        same_noise(columns, seeds)
    live()


@st.cache_data(max_entries=2, show_spinner=False)
def shipped_columns() -> tuple[Columns, list[int], list[int]]:
    """Read both surveys on the seeds that both have.

    Returns:
        tiles of both networks and machines, uint8 [seeds, 32, 32]; the seeds; how many training images each machine
        drew on.

    Raises:
        AssetError: a survey or its gallery is missing.
    """
    columns: Columns = {}
    pairs = [(survey.load(DATA, network), network) for network in (ZEROS, CIRCULAR)]
    seeds = [seed for seed in pairs[0][0].seeds if seed in set(pairs[1][0].seeds)]
    for one, network in pairs:
        rows, found = [one.seeds.index(seed) for seed in seeds], gallery(one)
        columns[network] = found[f"network-{one.facts['steps']}"][rows]
        columns[survey.own_machine(network)] = found[survey.own_machine(network)][rows]
    return columns, seeds, [one.facts.get("images", 0) for one, _ in pairs]


def gallery(one: Survey) -> Columns:
    """Return a survey's tiles.

    Raises:
        AssetError: there are none, or they lack the network or its machine.
    """
    found, wanted = survey.tiles(one), (f"network-{one.facts['steps']}", survey.own_machine(one.network))
    if any(name not in found for name in wanted):
        raise AssetError(
            f"The survey of the {one.network} on {one.dataset} has no pictures; "
            f"`python -m lm_core survey --dataset {one.dataset} --network {one.network}` makes them."
        )
    return found


@st.cache_data(max_entries=8, show_spinner=False)
def explained(tiles: np.ndarray) -> tuple[float, float]:
    """Return what place explains of the pixels' variance, and what it would if each image were rolled at random."""
    return run_limits.explained_by_place(tiles), run_limits.explained_by_chance(tiles)


def statement(columns: Columns) -> str:
    """Say what place explains of the ink with and without borders, and whether the theory has it too."""
    share = {name: explained(tiles)[0] for name, tiles in columns.items()}
    chance = explained(columns[CIRCULAR])[1]
    flat = share[CIRCULAR] < share[ZEROS] / 2 and share["els"] < share["bbels"] / 2
    verdict = "The theory is right about borders" if flat else "The theory's account of borders is not borne out here"
    return (
        f"{verdict}: with zero padding a pixel's place explains {share[ZEROS]:.0%} of the network's ink "
        f"({share['bbels']:.0%} of the theory's), with circular padding {share[CIRCULAR]:.1%} "
        f"({share['els']:.1%}), where images rolled to random places come to {chance:.1%}."
    )


def mean_images(columns: Columns, counts: list[int]) -> None:
    """Show each column's mean over the seeds, with what place explains and how much ink lies near the border."""
    pictures = []
    for name, title in NAMES.items():
        tiles = columns[name]
        mean, low, high = survey.bootstrap_median(run_limits.ring_share(tiles, RING))
        caption = (
            f"{title}. Place explains {explained(tiles)[0]:.1%} (rolled: {explained(tiles)[1]:.1%}); ink in the outer "
            f"{RING} pixels: {mean:.0%} ({low:.0%} to {high:.0%})"
        )
        pictures.append((tiles.mean(0).round().astype(np.uint8), caption, f"Mean image: {title}"))
    picture_grid(pictures, narrowest=12)
    area = run_limits.ring_mask(columns[ZEROS].shape[1], RING).mean()
    look.figure_caption(
        f"Mean of {len(columns[ZEROS])} images from the same seeds. Anchored digits leave a bright middle, texture a "
        f"flat grey. Place explains: variance of the mean image over that of all pixels; rolled: the same after "
        f"shifting each image at random. Ink: median over seeds with its 95 % bootstrap interval; the outer {RING} "
        f"pixels are {area:.0%} of the area. Training images: {counts[0]:,} for bbELS, {counts[1]:,} for ELS."
    )


def profile(columns: Columns) -> None:
    """Plot the mean ink against the distance from the border."""
    side = columns[ZEROS].shape[1]
    edge = np.minimum(np.arange(side), side - 1 - np.arange(side))
    distance = np.minimum(edge[:, None], edge[None, :])
    figure = go.Figure()
    for name, title in NAMES.items():
        mean = columns[name].astype(float).mean(0) / 255
        figure.add_scatter(
            x=np.arange(side // 2),
            y=[100 * mean[distance == d].mean() for d in range(side // 2)],
            name=title,
            mode="lines+markers",
            line={
                "color": BLUE if name in ("bbels", "els") else AMBER,
                "dash": "dot" if name in (CIRCULAR, "els") else "solid",
            },
            marker={"symbol": "circle" if name in ("bbels", "els") else "square", "size": 6},
            hovertemplate="%{x} pixels from the border: %{y:.0f} %<extra></extra>",
        )
    figure.update_layout(
        height=340,
        margin=MARGIN,
        xaxis_title="distance from the border, pixels",
        yaxis_title="mean ink, % of white",
        yaxis_rangemode="tozero",
        legend={"orientation": "h", "y": -0.3},
    )
    st.plotly_chart(figure, config=PLOTLY, key="border_profile")
    look.figure_caption(
        "Mean brightness of all pixels at a distance from the nearest border, over all seeds. Solid: zero padding; "
        "dotted: circular, where there is no border and the curve can only be level but for chance."
    )


def same_noise(columns: Columns, seeds: list[int]) -> None:
    """Show the first seeds, not chosen ones, a row a column of the survey."""
    st.subheader("From the same noise", anchor=False)
    for name, title in NAMES.items():
        strip = np.concatenate(list(columns[name][:SHOWN_SEEDS]), axis=1)
        count = min(SHOWN_SEEDS, len(seeds))
        alt = f"{title}: images of seeds {', '.join(map(str, seeds[:count]))}"
        picture_grid([(strip, title, alt)], narrowest=30, ratio=count)
    look.figure_caption(
        f"The first {min(SHOWN_SEEDS, len(seeds))} seeds of the survey, {seeds[0]} to {seeds[:SHOWN_SEEDS][-1]}, from "
        "left to right: each column starts from one noise."
    )


def live() -> None:
    """Draw the live run of one seed."""
    st.subheader("Any other seed", anchor=False)
    seed = st.number_input("Seed", 0, MAX_SEED, 100, key="border_seed", width=140, bind="query-params")

    def work(context: JobContext) -> BorderRun:
        return run_limits.borders(seed, images=LIVE_IMAGES, on_progress=context.progress)

    made = live_run("borders", "Make all four", f"Borders, seed {seed}", str(seed), work, preview=draw_run)
    if made is not None:
        draw_run(made)
    else:
        st.caption(
            f"The two networks take about a second each, the two machines over {LIVE_IMAGES} training images some "
            "seconds."
        )


def draw_run(made: BorderRun) -> None:
    """Show what a live run has made so far."""
    pictures = [
        (from_channels(made.images[name]), title, f"{title}, seed {made.seed}")
        for name, title in NAMES.items()
        if name in made.images
    ]
    picture_grid(pictures, narrowest=9)
    pairs = {ZEROS: "zero padding", CIRCULAR: "circular"}
    scores = [f"{title} r = {made.r[name]:.3f}" for name, title in pairs.items() if name in made.r]
    if scores:
        look.figure_caption(
            f"Seed {made.seed}, 20 steps, machines over {made.training_images:,} training images. Theory against "
            f"network: {', '.join(scores)} (Pearson's r over all pixels)."
        )
