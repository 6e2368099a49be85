"""Theory vs network: over many seeds, how well does each machine predict each network?

The paper's table (Kamb & Ganguli 2025, arXiv 2412.20292: medians over 100 seeds) on networks trained here, with what
the table leaves out: every seed, the worst too, what the agreement depends on, and two measures of locality.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import streamlit as st

from lm_core import survey
from lm_core.errors import LabError
from lm_core.jobs import Job, JobContext, scheduler
from lm_core.params import NETWORKS, MosaicParams
from lm_core.survey import Survey, own_machine
from pages.components import look, survey_figures
from pages.components.gallery import Cell, gallery, stack
from pages.components.live import job_panel, owner
from pages.components.mosaic_controls import DATASETS, class_names
from pages.components.survey_controls import (
    NETWORK_STEPS,
    Chosen,
    controls,
    data_here,
    live_counts,
    long_name,
    mosaic_link,
    predictors,
    short_name,
)

JOBS = "_survey_jobs"  # what for → (job's id, data set, network)
LIVE = "_survey_live"  # data set, network → (images, rows measured in this visit)
CALIBRATED = "_survey_calibrated"  # data set, network → what a live calibration found
FIRST_LIVE_SEED = 100
MOST_LIVE_SEEDS = 5  # they keep the only worker from other visitors
LIVE_IMAGES = (100, 300, 1000)
SORTS = {"best": "Best first", "worst": "Worst first", "seed": "By seed"}
ROWS = (8, 25, "all")


@st.cache_data(max_entries=12, show_spinner=False)
def read(dataset: str, network: str, stamp: float) -> tuple[Survey, dict[str, np.ndarray]]:
    """Return a survey with its gallery, read once for each version of its file."""
    found = survey.load(dataset, network)
    return found, survey.tiles(found)


def open_survey(chosen: Chosen) -> tuple[Survey, dict[str, np.ndarray]]:
    """Return the survey of the chosen network.

    Raises:
        AssetError: there is none; says the command that makes it.
    """
    path = survey.result_file("survey", chosen.dataset, chosen.network)
    return read(chosen.dataset, chosen.network, path.stat().st_mtime if path.exists() else 0.0)


# -- jobs -------------------------------------------------------------------------------------------------------------


def start(what: str, title: str, chosen: Chosen, work: Callable[[JobContext], Any]) -> None:
    """Queue a live computation, remember its job and show it; where the queue has no room say so."""
    try:
        job = scheduler().submit(owner(), title, work)
    except LabError as error:
        st.error(str(error), icon=":material/error:")
        return
    st.session_state.setdefault(JOBS, {})[what] = (job.id, chosen.dataset, chosen.network)
    st.rerun()


def job_of(what: str, chosen: Chosen) -> Job | None:
    """Return the live computation of that kind for the chosen network, None if there is none."""
    job_id, *of = st.session_state.get(JOBS, {}).get(what, ("",))
    return scheduler().get(job_id, owner()) if of == [chosen.dataset, chosen.network] else None


def busy() -> bool:
    """Whether a live computation of this visit is queued or running, whatever it is for."""
    jobs = [scheduler().get(job_id, owner()) for job_id, *_ in st.session_state.get(JOBS, {}).values()]
    return any(job is not None and job.active for job in jobs)


def start_button(label: str, key: str, chosen: Chosen, **options: Any) -> bool:
    """Draw the button that starts a live computation, disabled while one runs or without the data."""
    active, here = busy(), data_here(chosen.dataset)
    why = "One at a time: another of your computations is running." if active else None
    return st.button(label, key=key, disabled=active or not here, help=why, **options)


def absent(dataset: str) -> str:
    """Say that a data set isn't here and what that means, "" if it is."""
    if data_here(dataset):
        return ""
    return f"{DATASETS[dataset]} isn't on this machine, so nothing can be computed anew; see the Machine page."


# -- the distribution, and more seeds ---------------------------------------------------------------------------------


def live_rows(chosen: Chosen) -> tuple[int, list[dict]]:
    """Return over how many images the seeds of this visit were measured, and their rows."""
    return st.session_state.get(LIVE, {}).get((chosen.dataset, chosen.network), (0, []))


def keep_rows(chosen: Chosen, images: int, rows: list[dict]) -> None:
    """Add measured seeds to those of this visit; another number of images starts over."""
    before, kept = live_rows(chosen)
    merged = {row["seed"]: row for row in [*(kept if before == images else []), *rows]}
    live = st.session_state.setdefault(LIVE, {})
    live[chosen.dataset, chosen.network] = (images, list(merged.values()))


def distribution(found: Survey, tiles: dict[str, np.ndarray], chosen: Chosen) -> None:
    """Show every seed; while more are measured, with those as they come."""
    job = job_of("seeds", chosen)
    if job is not None and job.state in ("cancelled", "failed") and job.partial:
        keep_rows(chosen, *job.partial)
    images, rows = live_rows(chosen)

    def preview(job: Job) -> None:
        images, rows = job.partial
        survey_figures.show_distribution(found, chosen, rows, images)

    job_panel(scheduler(), job, on_done=lambda job: keep_rows(chosen, *job.result), key="seeds", preview=preview)
    if job is None or not job.active:  # else the panel draws it
        one_seed(found, tiles, chosen, rows, images)
    look.figure_caption(
        "Each dot is a seed: one pair of images from the same noise. Click it, and the seed's images appear here."
        + survey_figures.beyond_axis(found, chosen)
    )


@st.fragment
def one_seed(found: Survey, tiles: dict[str, np.ndarray], chosen: Chosen, rows: list[dict], images: int) -> None:
    """Show the distribution and, of a seed that was clicked, its images: a fragment, so that a click is quick."""
    seed = survey_figures.show_distribution(found, chosen, rows, images, key="distribution")
    if seed in found.seeds and tiles:
        show_gallery(found, tiles, chosen, [found.seeds.index(seed)])
    elif seed is not None:
        every = {row["seed"]: row for row in [*found.per_seed, *rows]}
        if seed in every and data_here(found.dataset):
            st.markdown(f"[Open seed {seed} in the patch mosaic]({mosaic_link(found, every[seed])})")


def more_seeds(found: Survey, chosen: Chosen) -> None:
    """Offer to measure seeds that nobody has measured yet."""
    images, rows = live_rows(chosen)
    if missing := absent(chosen.dataset):
        st.info(missing, icon=":material/info:")
    st.markdown(
        "Seeds that are in no file, measured here and now: the machines, this network at 20 and 150 steps and the "
        "other networks, all from the same noise. Some seconds a seed, more with more images."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        count = st.slider("Seeds", 1, MOST_LIVE_SEEDS, 3, key="live_seeds", width=220)
        counts = live_counts(chosen.dataset, {*LIVE_IMAGES, found.facts["images"]})
        most = st.selectbox(
            "Training images",
            counts,
            index=counts.index(found.facts["images"]) if found.facts["images"] in counts else 0,
            format_func=lambda number: f"{number:,}",
            key="live_images",
            width=160,
        )
        clicked = start_button("Measure", "measure", chosen, type="primary", icon=":material/play_arrow:")
    first = max(FIRST_LIVE_SEED, *(seed + 1 for seed in found.seeds))
    if images == most:
        first = max([first, *(row["seed"] + 1 for row in rows)])
    if most != found.facts["images"]:
        look.figure_caption(
            f"The file's machines had {found.facts['images']:,} images; with another number the open marks aren't "
            "samples of the same distribution."
        )
    if clicked:
        seeds = list(range(first, first + count))
        start(
            "seeds", f"Seeds {seeds[0]} to {seeds[-1]}", chosen, lambda context: measure(chosen, seeds, most, context)
        )


def measure(chosen: Chosen, seeds: list[int], images: int, context: JobContext) -> tuple[int, list[dict]]:
    """Measure seeds on the worker's thread, publishing the rows so far."""

    def report(share: float, message: str, rows: list[dict]) -> None:
        context.progress(share, message, (images, rows))

    report(0.0, "loading", [])
    from lm_core import run_survey

    return images, run_survey.extend(chosen.dataset, chosen.network, seeds, images, on_progress=report)


# -- the gallery ------------------------------------------------------------------------------------------------------


def column_title(column: str) -> str:
    """Head a column of the gallery; the pictures of other networks are those at the fewer steps."""
    steps = re.fullmatch(r"network-(\d+)", column)
    if steps:
        return f"network, {steps[1]} steps"
    return f"{short_name(column)}, {NETWORK_STEPS[0]} steps" if column in NETWORKS else short_name(column)


def show_gallery(found: Survey, tiles: dict[str, np.ndarray], chosen: Chosen, places: list[int]) -> None:
    """Draw some seeds' images, each a link to the patch mosaic."""
    columns = list(tiles)
    names = class_names(found.dataset) if found.per_seed[0]["label"] is not None else ()
    heads, cells, here = [], [], data_here(found.dataset)
    for place in places:
        row = found.per_seed[place]
        heads.append((f"{row['seed']}", names[row["label"]] if names else ""))
        cells.append([picture(found, row, column, chosen, here) for column in columns])
    gallery([column_title(column) for column in columns], heads, cells, stack(tiles, columns, places))


def picture(found: Survey, row: dict[str, Any], column: str, chosen: Chosen, here: bool) -> Cell:
    """Describe one image of the gallery, without the figure of another network at steps its picture isn't of."""
    other_steps = column in found.facts["others"] and chosen.network_steps != NETWORK_STEPS[0]
    scores = None if other_steps else row["scores"][str(chosen.network_steps)].get(column)
    figure = survey_figures.number(scores[chosen.figure]) if scores else ""
    what = long_name(column) if scores else column_title(column)
    said = f", {chosen.figure_name} {figure}" if scores else ""
    alt = f"Seed {row['seed']}, {what}{said}"
    return Cell(figure, f"{alt}: the patch mosaic", mosaic_link(found, row, column)) if here else Cell(figure, alt, "")


@st.fragment
def browse(found: Survey, tiles: dict[str, np.ndarray], chosen: Chosen) -> None:
    """Let the visitor sort the gallery and say how much of it to see."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        sort = st.segmented_control(
            "Order", list(SORTS), default="best", required=True, format_func=SORTS.__getitem__, key="sort",
            bind="query-params",
        )  # fmt: skip
        by = st.selectbox(
            "by the figure of",
            [who for who in predictors(found) if who in tiles],
            format_func=short_name,
            key="sort_by",
            width=160,
            disabled=sort == "seed",
        )
        many = st.segmented_control(
            "Seeds", ROWS, default=ROWS[0], required=True, format_func=lambda count: str(count).capitalize(), key="rows"
        )
    places = np.arange(len(found.seeds))
    if sort != "seed":
        scores = found.scores(by, chosen.network_steps, chosen.figure)
        places = np.argsort(-scores if sort == "best" else scores, kind="stable")
    show_gallery(found, tiles, chosen, places[: None if many == "all" else int(many or ROWS[0])].tolist())
    hidden = [short_name(who) for who in predictors(found) if who not in tiles]
    without = f" {', '.join(hidden)}: no pictures, they would be copies of training images." if hidden else ""
    others = ""
    if found.facts["others"] and chosen.network_steps != NETWORK_STEPS[0]:
        others = f" Other networks have none: their pictures are of {NETWORK_STEPS[0]} steps."
    click = absent(found.dataset) or (
        "A click opens the seed in the patch mosaic, in a new tab, to be computed anew; the network takes "
        f"{NETWORK_STEPS[0]} steps there."
    )
    look.figure_caption(
        f"The images of a seed from the same noise. Under each: its {chosen.figure_name} with the network at "
        f"{chosen.network_steps} steps.{others} {click}{without}"
    )


# -- what it depends on, memorising, calibration ----------------------------------------------------------------------


def growth(chosen: Chosen) -> None:
    """Show r against images, steps and training, as far as the file has them."""
    found = survey.read_result("growth", chosen.dataset, chosen.network)
    charts = {what: found[what] for what in survey_figures.GROWTH if found and found.get(what)}
    if found is None or not charts:
        command = f"python -m lm_core growth --dataset {chosen.dataset} --network {chosen.network} --by images steps"
        st.info(f"Not measured for this network yet; `{command}` does it.")
        return
    limits = survey_figures.growth_range(list(charts.values()))
    commands: dict[str, None] = {}  # in order, each once
    for column, (what, entries) in zip(st.columns(len(charts), gap="medium"), charts.items(), strict=True):
        with column:
            figure = survey_figures.growth_chart(entries, what, limits)
            st.plotly_chart(figure, config=look.PLOTLY, key=f"growth_{what}")
            made = survey_figures.made_by(found, what)
            look.figure_caption(survey_figures.trend(entries, what) + survey_figures.made_from(made, what))
            commands |= {made["command"]: None} if made.get("command") else {}
    look.figure_caption(
        f"{short_name(own_machine(chosen.network))} against the network: the median, the middle half as a band, each "
        "seed as a point. Few seeds: the shape of the curve, not its third decimal."
    )
    if commands:
        st.code("\n".join(commands), language="bash", wrap_lines=True)


def nearest(found: Survey) -> None:
    """Show how far the outputs are from the training images."""
    st.plotly_chart(survey_figures.nearest_chart(found), config=look.PLOTLY, key="nearest")
    st.markdown(survey_figures.memorising(found))
    of_class = " of its class" if found.per_seed[0]["label"] is not None else ""
    test = "" if len(found.facts["test_nearest"]) else " This data set has no test images to compare with."
    look.figure_caption(
        f"The network's image of every seed, at {NETWORK_STEPS[0]} steps whatever is chosen above, and the machines', "
        f"each against the nearest training image{of_class} of the whole set: the root mean square of the difference "
        f"of all pixels and channels, from −1 to 1 (0 is a copy). Unseen test images in the same way.{test}"
    )


def calibration(chosen: Chosen) -> None:
    """Show the calibrated window and the measured receptive field, shipped or made in this visit."""
    shipped = survey.read_result("calibration", chosen.dataset, chosen.network)
    live = st.session_state.get(CALIBRATED, {}).get((chosen.dataset, chosen.network))
    job, curve = job_of("calibration", chosen), survey.published_curve(chosen.dataset, chosen.network)

    def take(job: Job) -> None:
        st.session_state.setdefault(CALIBRATED, {})[chosen.dataset, chosen.network] = job.result

    def preview(job: Job) -> None:
        figure = survey_figures.calibration_chart(job.partial, curve, short_of_best=True)
        st.plotly_chart(figure, config=look.PLOTLY, key="calibration_running")

    job_panel(scheduler(), job, on_done=take, key="calibration", preview=preview)
    found = live or shipped
    if found is not None:
        relative = st.toggle(
            "Colour by the distance from the step's best",
            value=True,
            key="short_of_best",
            help="At a given noise level the windows differ little; this shows by how much each falls short.",
        )
        figure = survey_figures.calibration_chart(found, curve, relative)
        st.plotly_chart(figure, config=look.PLOTLY, key="calibration_chart")
        st.markdown(("Live: " if live else "") + survey_figures.calibration_words(found, curve))
        look.figure_caption(
            "Cosine between the network's score and the machine's along the network's own path, for each window P; the "
            "line is the median of the samples' best P. Receptive field: 2 × the radius that holds 90 % of "
            "|∂denoised(pixel)/∂x|, plus one; it is measured on the network alone. Two measurements of locality, and "
            "they need not agree: a network may look further than it needs to."
        )
    else:
        st.info(
            "Not calibrated yet; the button below does it, or "
            f"`python -m lm_core calibrate --dataset {chosen.dataset} --network {chosen.network}`."
        )
    calibrate_live(chosen, shipped)
    if shipped and shipped.get("command") and not live:
        st.code(shipped["command"], language="bash", wrap_lines=True)


def calibrate_live(chosen: Chosen, shipped: dict[str, Any] | None) -> None:
    """Offer to calibrate here and now."""
    if missing := absent(chosen.dataset):
        st.info(missing, icon=":material/info:")
    counts = live_counts(chosen.dataset, set(LIVE_IMAGES))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        samples = st.slider("Samples", 1, 10, 3, key="calibrate_samples", width=200)
        images = st.selectbox(
            "Training images",
            counts,
            index=counts.index(300) if 300 in counts else 0,
            format_func=lambda number: f"{number:,}",
            key="calibrate_images",
            width=160,
        )
        clicked = start_button("Calibrate live", "calibrate", chosen, icon=":material/straighten:")
    if clicked:
        seeds = list(
            range(1000, 1000 + samples)
        )  # apart from the survey's, so that nothing is chosen on what it judges
        sizes = list(shipped["sizes"]) if shipped else list(range(3, 33, 2))
        params = MosaicParams(chosen.dataset, None, own_machine(chosen.network), chosen.network, images=images)

        def work(context: JobContext) -> dict[str, Any]:
            from lm_core import run_calibrate

            return run_calibrate.calibrate(params, seeds, sizes, on_progress=context.progress)

        start("calibration", "Calibration", chosen, work)


# -- the page ---------------------------------------------------------------------------------------------------------


def section(title: str, key: str, draw: Callable[[], None]) -> None:
    """Put a part of the page behind a heading that opens it; what is closed is not computed."""
    with st.expander(f"**{title}**", key=key, on_change="rerun") as part:
        if part.open:
            draw()


def show(found: Survey, tiles: dict[str, np.ndarray], chosen: Chosen) -> None:
    """Draw everything there is about a network."""
    st.markdown(survey_figures.headline(found, chosen))
    distribution(found, tiles, chosen)
    survey_figures.show_table(survey_figures.table(found, chosen))
    look.figure_caption(survey_figures.conditions(found, chosen))
    if found.facts["note"]:
        st.caption(found.facts["note"])
    section("More seeds, live", "open_more", lambda: more_seeds(found, chosen))
    if tiles:
        st.header("Gallery", anchor=False)
        browse(found, tiles, chosen)
    st.header("Look closer", anchor=False)
    section("Does it hold? Images, steps, training", "open_growth", lambda: growth(chosen))
    section("Is it memorising?", "open_nearest", lambda: nearest(found))
    section("How local is the network? Calibration", "open_calibration", lambda: calibration(chosen))
    section("Downloads", "open_downloads", lambda: survey_figures.show_downloads(found))


look.page_header(
    "Theory vs network",
    "From the same noise, a machine that was never trained predicts what a network will draw. How well, over many "
    "seeds: every dot is one of them, and the worst are a click away.",
)
try:
    chosen = controls()
    try:
        found, tiles = open_survey(chosen)
    except LabError as error:
        unmeasured = not survey.result_file("survey", chosen.dataset, chosen.network).exists()
        live = " Live seeds need it first: they are drawn beside its own." if unmeasured else ""
        st.info(str(error) + live, icon=":material/info:")
        section("Does it hold? Images, steps, training", "open_growth", lambda: growth(chosen))
        section("How local is the network? Calibration", "open_calibration", lambda: calibration(chosen))
    else:
        show(found, tiles, chosen)
except LabError as error:
    st.error(str(error), icon=":material/error:")
st.divider()
look.references("els", "mechanics")
