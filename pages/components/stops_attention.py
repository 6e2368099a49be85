"""Attention: a network that looks across the whole image, against the theory that sees a window."""

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from plotly.subplots import make_subplots

from lm_core import run, run_limits, survey
from lm_core.errors import AssetError
from lm_core.jobs import JobContext
from lm_core.mosaic import segment
from lm_core.params import MAX_SEED, NETWORKS, MosaicParams
from lm_core.results import MosaicResult
from lm_core.run_limits import AttentionRun
from lm_core.survey import Survey
from pages.components import look
from pages.components.look import AMBER, BLUE, GREY, MARGIN, PLOTLY
from pages.components.mosaic_controls import class_names
from pages.components.section_jobs import live_run
from pages.components.stops_figures import finding, from_channels, in_colour, picture_grid, training_differs

PLAIN = "unet"
ATTENTIVE = {  # network beside the plain one: its data, and what it has that the plain one has not
    "unet-standard": ("mnist", "attention and normalisation"),
    "unet-attention": ("cifar10", "attention alone"),
}
MAPS_DATA = "cifar10"  # of the networks whose attention is shown
DATA_NAMES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
STEPS = 20
AGREES, DEPARTS = 0.8, 0.5  # about the paper's median for the plain UNet, .82; half of the way down to nothing
CLASSES = {
    "agree": "1 · agree",
    "related": "2 · related, but different",
    "depart": "3 · depart",
}
SHOWN = 12  # seeds of a class before "show all"
SIDE, ZOOM = 32, 8
MOSAIC_IMAGES = 300
ROW, COLUMN, CHART = "attention_row", "attention_column", "attention_chart"
AMBER_LIGHT = np.array([255, 170, 40])


def attention() -> None:
    """Draw the section."""
    st.markdown(
        "The theory gives every pixel a bounded window. Self-attention lets every place look at every other, so it is "
        "where the theory should fail. So is group normalisation, whose mean and variance are the whole image's, and "
        "the paper's network with attention has both. UNets trained on the same images, alike but for these, start "
        "from the same noise as the boundary-broken ELS machine (bbELS), which knows of neither."
    )
    network = st.pills(
        "Beside the plain UNet, one with",
        list(ATTENTIVE),
        default=next(iter(ATTENTIVE)),
        required=True,
        format_func=lambda name: f"{ATTENTIVE[name][1]} ({DATA_NAMES[ATTENTIVE[name][0]]})",
        key="attentive",
        bind="query-params",
    )
    data = ATTENTIVE[network][0]
    note = training_differs(data, PLAIN, network)
    if note:
        look.figure_caption(note)
    try:
        compare(survey.load(data, PLAIN), survey.load(data, network))
    except AssetError as error:
        st.info(str(error))
    st.subheader("Where does a pixel look?", anchor=False)
    networks = run_limits.attention_networks()
    if networks:
        looks(networks)
    else:
        st.info(
            "No network with self-attention is on this machine: restore assets/networks from the repository, or "
            "download google/ddpm-cifar10-32."
        )


# -- evidence ---------------------------------------------------------------------------------------------------------


def compare(plain: Survey, attentive: Survey) -> None:
    """State, plot and illustrate how well the machine predicts each network on the seeds that both surveys have."""
    seeds = [seed for seed in plain.seeds if seed in set(attentive.seeds)]
    r_plain, r_attention = (
        one.scores(survey.own_machine(one.network), STEPS)[[one.seeds.index(seed) for seed in seeds]]
        for one in (plain, attentive)
    )
    finding(statement(r_plain, r_attention, attentive))
    for note in dict.fromkeys(one.facts.get("note", "") for one in (plain, attentive)):
        if note:
            look.figure_caption(f"The images used: {note.rstrip('.')}.")
    distributions(NETWORKS[attentive.network], seeds, r_plain, r_attention)
    outcomes(plain, attentive, seeds, r_plain, r_attention)


def statement(r_plain: np.ndarray, r_attention: np.ndarray, attentive: Survey) -> str:
    """Say by how much attention lowers the theory's score, seed by seed, and what the paper has."""
    middle, low, high = survey.bootstrap_median(r_plain - r_attention)
    kind = ATTENTIVE[attentive.network][1]
    if low > 0:
        verdict = f"The theory predicts the network with {kind} worse"
    elif high < 0:
        verdict = f"Here the theory predicts the network with {kind} better, against the paper"
    else:
        verdict = f"No difference found between the networks with and without {kind}"
    paper = survey.published("cifar10", PLAIN, STEPS), survey.published("cifar10", "unet-attention", STEPS)
    return (
        f"{verdict}: on the same {len(r_plain)} noises the machine's median r is {np.nanmedian(r_plain):.2f} for the "
        f"plain UNet and {np.nanmedian(r_attention):.2f} with {kind}, paired median difference {middle:.3f} "
        f"(95 % interval {low:.3f} to {high:.3f}); the paper, on "
        f"CIFAR-10, has {paper[0]['bbels']:.2f} and {paper[1]['bbels']:.2f}, for a pre-trained network with both."
    )


def distributions(name: str, seeds: list[int], r_plain: np.ndarray, r_attention: np.ndarray) -> None:
    """Plot r of both networks side by side, every seed a mark, and the paired differences."""
    titles = ("r of bbELS and the network", "difference, same seed")
    figure = make_subplots(1, 2, column_widths=[0.66, 0.34], subplot_titles=titles, horizontal_spacing=0.12)
    shown = (
        (r_plain, "plain UNet", AMBER, 1),
        (r_attention, name, BLUE, 1),
        (r_plain - r_attention, "plain − attention", GREY, 2),
    )
    for values, label, colour, column in shown:
        figure.add_box(
            y=values,
            name=label,
            text=seeds,
            boxpoints="all",
            jitter=0.5,
            pointpos=0,
            marker={"color": colour, "size": 5, "opacity": 0.65},
            line={"color": colour},
            fillcolor="rgba(0,0,0,0)",
            hovertemplate="seed %{text}: %{y:.3f}<extra></extra>",
            row=1,
            col=column,
        )
    figure.add_hline(0, line={"color": GREY, "dash": "dot", "width": 1}, row=1, col=2)  # pyright: ignore[reportArgumentType]
    figure.update_layout(height=380, margin=MARGIN, showlegend=False)
    st.plotly_chart(figure, config=PLOTLY, key="attention_r")
    look.figure_caption(
        f"Pearson's r of the finished images over all pixels and channels, {STEPS} steps each, one mark a seed; boxes: "
        f"quartiles. Right: r for the plain UNet minus r for the one with attention from the same noise; above zero "
        f"the theory predicts the plain one better."
    )


def outcome_of(r: float, departs: float, agrees: float) -> str:
    """Return the class of a seed by r of machine and attention network: agree, related or depart."""
    if np.isnan(r):
        return "depart"
    return "agree" if r >= agrees else "related" if r >= departs else "depart"


def outcomes(plain: Survey, attentive: Survey, seeds: list[int], r_plain: np.ndarray, r_attention: np.ndarray) -> None:
    """Show the seeds of one outcome class as triples of images."""
    st.subheader("Three outcomes", anchor=False)
    st.markdown(
        "The paper describes three: theory, UNet and attention **agree**; attention makes something **related but "
        "different**, often a coherent object carved out of the theory's mosaic; attention **departs** entirely. Here "
        "they are told apart by r of the theory and the attention UNet alone. Whether an object is coherent isn't "
        "measured: that is for your eye."
    )
    departs, agrees = st.slider(
        "Thresholds on r(bbELS, attention): departs below, agrees from",
        0.0,
        1.0,
        (DEPARTS, AGREES),
        0.05,
        key="outcome_thresholds",
        help=f"At first {DEPARTS:g} and {AGREES:g}; the paper's median for the plain UNet is .82.",
        bind="query-params",
    )
    classes = [outcome_of(value, departs, agrees) for value in r_attention]
    counts = {name: classes.count(name) for name in CLASSES}
    chosen = st.segmented_control(
        "Outcome",
        list(CLASSES),
        default=max(counts, key=counts.__getitem__),
        required=True,
        format_func=lambda name: f"{CLASSES[name]} ({counts[name]})",
        key="outcome",
    )
    order = sorted(range(len(seeds)), key=lambda i: -np.nan_to_num(r_attention[i], nan=-1))
    members = [i for i in order if classes[i] == chosen]
    limits = {"agree": f"r ≥ {agrees:g}", "related": f"{departs:g} ≤ r < {agrees:g}", "depart": f"r < {departs:g}"}
    if not members:
        st.caption(f"No seed has {limits[chosen]}: move a threshold.")
        return
    everything = len(members) <= SHOWN or st.toggle(f"Show all {len(members)}", key="outcome_all")
    pictures = triples(plain, attentive, seeds)
    if not pictures:
        st.caption("The surveys' pictures are missing, so there is no gallery; their commands make them.")
        return
    shown = members if everything else members[:SHOWN]
    picture_grid(
        [
            (
                pictures[seeds[i]],
                f"seed {seeds[i]}, {class_name(attentive, seeds[i])}: r plain {r_plain[i]:.2f}, "
                f"attention {r_attention[i]:.2f}",
                f"Seed {seeds[i]}: theory, plain UNet, UNet with attention",
            )
            for i in shown
        ],
        narrowest=15,
        ratio=3,
    )
    look.figure_caption(
        f"{counts[chosen]} of {len(seeds)} seeds {'has' if counts[chosen] == 1 else 'have'} {limits[chosen]}; the "
        f"highest r first. Each strip from left to right: bbELS, plain UNet, UNet with attention, from the same noise."
    )


def class_name(one: Survey, seed: int) -> str:
    """Return the name of the class that a seed was conditioned on."""
    label = one.per_seed[one.seeds.index(seed)].get("label")
    return "no class" if label is None else class_names(one.dataset)[label]


def triples(plain: Survey, attentive: Survey, seeds: list[int]) -> dict[int, np.ndarray]:
    """Return for each seed bbELS, plain UNet and attention UNet side by side, uint8 [32, 96(, 3)]; {} without tiles."""
    theirs, own = survey.tiles(plain), survey.tiles(attentive)
    column = f"network-{STEPS}"
    if column not in theirs or not {"bbels", column} <= set(own):
        return {}
    return {
        seed: np.concatenate(
            [
                own["bbels"][attentive.seeds.index(seed)],
                theirs[column][plain.seeds.index(seed)],
                own[column][attentive.seeds.index(seed)],
            ],
            axis=1,
        )
        for seed in seeds
    }


# -- attention maps ---------------------------------------------------------------------------------------------------


def looks(networks: list[str]) -> None:
    """Sample a network with attention and show where one pixel's place looks, at any step."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        network = choose_network(networks) if len(networks) > 1 else networks[0]
        seed = st.number_input("Seed", 0, MAX_SEED, 0, key="attention_seed", width=140, bind="query-params")

    def work(context: JobContext) -> AttentionRun:
        return run_limits.attention_run(network, seed, on_progress=context.progress)

    key = f"{network} {seed}"
    made = live_run("attention", "Sample and look", f"Attention, seed {seed}", key, work)
    if made is None:
        st.caption("Sampling the network takes a few seconds and needs its weights alone, no CIFAR-10.")
        return
    step = st.slider(
        "Step, the noisiest first", 1, made.steps, made.steps // 2, key="attention_step", bind="query-params"
    )
    drawn = st.container()
    if run_limits.has_cifar():

        def theorise(context: JobContext) -> MosaicResult:
            return run_limits.attention_theory(made, MOSAIC_IMAGES, on_progress=context.progress)

        title = f"Theory, seed {seed}"
        mosaic = live_run("attention_theory", "Lay it over the theory's mosaic", title, key, theorise)
        if mosaic is None:
            kind = "training images" if made.label is None else "images of the class"
            st.caption(f"bbELS over {MOSAIC_IMAGES} {kind}; reading CIFAR-10 takes some seconds the first time.")
    else:
        mosaic = None
        st.caption(
            "CIFAR-10 isn't on this machine, so the theory's mosaic can't stand beside it; see the Machine page."
        )
    with drawn:
        draw_looks(made, step - 1, mosaic)


def choose_network(networks: list[str]) -> str:
    """Draw the choice of a network with attention."""
    chosen = st.segmented_control(
        "Network",
        networks,
        default=networks[0],
        required=True,
        format_func=lambda name: str(NETWORKS.get(name, name)),
        key="attention_network",
        bind="query-params",
    )
    return chosen if chosen in networks else networks[0]


@st.cache_data(max_entries=8, show_spinner=False)
def maps_at(network: str, seed: int, step: int, _made: AttentionRun) -> dict[str, np.ndarray]:
    """Evaluate the network once at a step and return its attention weights, once per step."""
    return run_limits.attention_at(_made, step)


def draw_looks(made: AttentionRun, step: int, mosaic: MosaicResult | None) -> None:
    """Draw the chosen pixel's attention over the network's estimate and over the theory's tiles."""
    maps = maps_at(made.network, made.seed, step, made)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        layer = st.segmented_control(
            "Layer, as the network runs through them", list(maps), default=next(iter(maps)), required=True, key="layer"
        )
        heads = ["mean", *(str(number + 1) for number in range(maps[layer].shape[0]))] if layer in maps else ["mean"]
        head = st.segmented_control("Head", heads, default="mean", required=True, key="head")
    if layer not in maps or head not in heads:  # left over from another network
        st.rerun()
    left, right = st.columns(2)
    row = left.slider("Row", 0, SIDE - 1, SIDE // 2, key=ROW, bind="query-params")
    column = right.slider("Column", 0, SIDE - 1, SIDE // 2, key=COLUMN, bind="query-params")
    weights = maps[layer] if head == "mean" else maps[layer][int(head) - 1 : int(head)]
    seen = looked_at(weights, row, column)
    estimate = in_colour(from_channels(made.estimates[step]))
    left, right = st.columns([2, 3], gap="large")
    with left:
        pick_pixel(estimate, row, column)
    with right:
        pictures = [
            (
                overlay(estimate, seen, row, column),
                "over the network's estimate",
                "Attention over the network's estimate",
            )
        ]
        if mosaic is not None:
            theory = in_colour(from_channels(mosaic.denoised[step]))
            borders = tile_borders(segment(mosaic, step, factor=2.0).label)
            pictures.append(
                (
                    overlay(theory, seen, row, column, borders),
                    "over the theory's tiles",
                    "Attention over the theory's mosaic",
                )
            )
        picture_grid(pictures, narrowest=13)
    describe(made, step, layer, head, weights, seen)
    if mosaic is not None:
        look.figure_caption(
            "Blue: borders of the theory's tiles at this step, each copied from one training image; inside large areas "
            "without borders no single patch decides yet."
        )


def describe(made: AttentionRun, step: int, layer: str, head: str, weights: np.ndarray, seen: np.ndarray) -> None:
    """Say what is drawn, and how much of the attention goes where the theory can't see."""
    sizes = run.default_curve(MosaicParams(MAPS_DATA, network=made.network, steps=made.steps))
    beyond, even = run_limits.beyond_window(weights, sizes[step])
    name = "no class" if made.label is None else class_names(MAPS_DATA)[made.label]
    heads = "mean of all heads" if head == "mean" else f"head {head}"
    finding(
        f"{beyond:.0%} of this layer's attention goes further than the theory's {sizes[step]}×{sizes[step]} window at "
        f"this step; spread evenly it would be {even:.0%}."
    )
    look.figure_caption(
        f"Seed {made.seed}, {name}, step {step + 1} of {made.steps}, layer {layer}, {heads}. Amber: how much the "
        f"marked pixel's place looks at each other place, the strongest ({seen.max():.1%} of it) opaque; even would be "
        f"{1 / weights.shape[-1]:.1%}. The share beyond the window is a mean over all places, not only this one. "
        "Attention says where a layer reads, not what it does with it."
    )


def pick_pixel(image: np.ndarray, row: int, column: int) -> None:
    """Draw the image under a net of invisible marks; a click on one moves the pixel."""
    ys, xs = np.divmod(np.arange(SIDE * SIDE), SIDE)
    figure = go.Figure(go.Image(z=image, hoverinfo="skip"))
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="markers",
        marker={"size": 9, "opacity": 0, "symbol": "square"},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        hovertemplate="row %{y}, column %{x}<extra></extra>",
        showlegend=False,
    )
    figure.add_shape(
        type="rect",
        x0=column - 0.5,
        x1=column + 0.5,
        y0=row - 0.5,
        y1=row + 0.5,
        line={"color": AMBER, "width": 3},
    )
    figure.update_xaxes(visible=False, range=[-0.5, SIDE - 0.5], constrain="domain")
    figure.update_yaxes(visible=False, range=[SIDE - 0.5, -0.5], scaleanchor="x")
    figure.update_layout(height=300, margin={"l": 0, "r": 0, "t": 0, "b": 0}, clickmode="event+select", dragmode=False)
    st.plotly_chart(
        figure, config=PLOTLY | {"displayModeBar": False}, key=CHART, on_select=take_click, selection_mode="points"
    )
    st.caption("Click a pixel, or use the sliders.")


def take_click() -> None:
    """Move the pixel to where the visitor has clicked."""
    points = st.session_state[CHART].selection.points
    if points:
        st.session_state[ROW], st.session_state[COLUMN] = int(points[0]["y"]), int(points[0]["x"])


def looked_at(weights: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return how much a pixel's place looks at each other, mean over heads, float32 [places, places] of the image.

    Args:
        weights: [heads, places², places²].
    """
    places = round(weights.shape[-1] ** 0.5)
    here = (row * places // SIDE) * places + column * places // SIDE
    return weights[:, here].astype(np.float32).mean(0).reshape(places, places)


def overlay(
    image: np.ndarray, seen: np.ndarray, row: int, column: int, borders: np.ndarray | None = None
) -> np.ndarray:
    """Return the image in grey, enlarged, with what is looked at in amber and the pixel framed.

    Args:
        image: uint8 [32, 32, 3]; seen: [places, places]; borders: bool [32·ZOOM, 32·ZOOM], drawn thin.
    """
    grey = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    alpha = np.kron(seen / max(float(seen.max()), 1e-9), np.ones((SIDE // len(seen), SIDE // len(seen))))[..., None]
    blended = grey * (1 - 0.85 * alpha) + AMBER_LIGHT * 0.85 * alpha
    large = np.kron(blended, np.ones((ZOOM, ZOOM, 1)))
    if borders is not None:
        large[borders] = 0.35 * large[borders] + 0.65 * np.array([90, 120, 255])
    top, left = row * ZOOM, column * ZOOM
    pixel = large[top : top + ZOOM, left : left + ZOOM].copy()
    for reach, shade in ((3, 0), (2, 255)):  # white within black is seen on any ground
        large[max(0, top - reach) : top + ZOOM + reach, max(0, left - reach) : left + ZOOM + reach] = shade
    large[top : top + ZOOM, left : left + ZOOM] = pixel
    return large.round().astype(np.uint8)


def tile_borders(label: np.ndarray) -> np.ndarray:
    """Return where tiles meet in the enlarged image, bool [32·ZOOM, 32·ZOOM], one pixel wide.

    Args:
        label: [32, 32] tile numbers.
    """
    large = np.kron(label, np.ones((ZOOM, ZOOM), dtype=label.dtype))
    borders = np.zeros(large.shape, dtype=bool)
    borders[:, 1:] |= large[:, 1:] != large[:, :-1]
    borders[1:] |= large[1:] != large[:-1]
    return borders
