"""Local consistency: the share of pixels that aren't the centre of their nearest training patch, by number of steps."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from lm_core import run_limits, survey
from lm_core.jobs import JobContext
from lm_core.params import MAX_SEED, MosaicParams
from pages.components import look
from pages.components.look import AMBER, BLUE, GREY, MARGIN, PLOTLY
from pages.components.section_jobs import live_run
from pages.components.stops_figures import finding, picture_grid

CHECKS = {
    "machine": ("Theory, against its {images:,} images", BLUE, "circle"),
    "network": ("Network, against the same {images:,}", AMBER, "square"),
    "network-library": ("Network, against {library:,}", GREY, "diamond"),
}
PARAMS = MosaicParams("mnist", network="unet", machine="bbels", images=300, engine="fast")
COMMAND = "python -m lm_core limits"
QUARTERS = 4  # of a grey level, the unit of the packed differences


def consistency() -> None:
    """Draw the section."""
    st.markdown(
        "**Theorem** (Kamb & Ganguli): as t → 0 every pixel the theory paints equals the centre of its nearest allowed "
        "training patch. A sampler with S steps looks for the last time at t = 1/S, so it satisfies that only about. "
        "Does it come closer with more steps, and does the network?"
    )
    shipped = survey.read_result("consistency", PARAMS.dataset, PARAMS.network or "")
    if shipped is None:
        st.info(f"The precomputed check is missing; `{COMMAND}` makes it. A live run below needs nothing.")
    left, right = st.columns(2)
    with left:
        level = st.select_slider(
            "Tolerance, grey levels of 255",
            run_limits.GREY_LEVELS,
            value=2,
            key="tolerance_levels",
            help="A pixel violates the theorem if it differs by more than this from the centre of its nearest patch.",
            bind="query-params",
        )
    with right:
        inked = st.toggle(
            "Leave out blank pixels",
            key="inked",
            help="Pixels that are blank in the image and in their nearest patch satisfy the theorem trivially.",
            bind="query-params",
        )
    if shipped is not None:
        finding(statement(shipped, level, inked))
    figures, measured = st.container(), live_seed()
    facts = [one for one in (shipped, measured) if one is not None]
    with figures:
        if facts:
            chart(facts, level, inked)
            violations(facts[-1], level)


def live_seed() -> dict[str, Any] | None:
    """Draw the live run of another seed; return what it has measured."""
    st.subheader("Any other seed", anchor=False)
    seed = st.number_input("Seed", 0, MAX_SEED, 5, key="consistency_seed", width=140, bind="query-params")

    def work(context: JobContext) -> dict[str, Any]:
        return run_limits.consistency(PARAMS, seeds=[seed], on_progress=context.progress)

    done = live_run("consistency", "Check this seed", f"Local consistency, seed {seed}", str(seed), work)
    if done is None:
        st.caption(f"A minute or two on two cores: {sum(run_limits.STEPS)} steps of the theory and 15 checks.")
    return done


def shares(facts: dict[str, Any], who: str, level: int, inked: bool) -> np.ndarray:
    """Return the share of violating pixels, [seeds, steps], NaN where a seed has no such pixel or is not done."""
    table = [row["inked" if inked else "shares"].get(who, {}) for row in facts["per_seed"]]
    found = [[row.get(str(steps), {}).get(str(level)) for steps in facts["steps"]] for row in table]
    return np.array([[np.nan if share is None else share for share in row] for row in found], dtype=float)


def statement(facts: dict[str, Any], level: int, inked: bool) -> str:
    """Say what the shares do from the fewest to the most steps."""
    first, last = facts["steps"][0], facts["steps"][-1]
    median = {who: np.nanmedian(shares(facts, who, level, inked), axis=0) for who in CHECKS}
    machine, network = median["machine"], median["network-library"]
    pixels = "pixels that show something" if inked else "pixels"
    verdict = "As the theorem says, the share falls" if machine[-1] < machine[0] else "The share does not fall here"
    levels = f"{level} grey level{'s' if level != 1 else ''}"
    return (
        f"{verdict}: of the theory's {pixels} {machine[0]:.0%} are off by more than {levels} with {first} steps and "
        f"{machine[-1]:.0%} with {last}; of the network's, against {facts['library']:,} of its 60,000 training images, "
        f"{network[0]:.0%} and {network[-1]:.0%}."
    )


def chart(facts: list[dict[str, Any]], level: int, inked: bool) -> None:
    """Plot the share of violating pixels against the number of steps: medians, every seed, a live seed larger."""
    figure = go.Figure()
    for who, (name, colour, symbol) in CHECKS.items():
        for position, one in enumerate(facts):
            values, seeds = 100 * shares(one, who, level, inked), [row["seed"] for row in one["per_seed"]]
            alone, label = position > 0 or len(seeds) == 1, name.format(**one)
            figure.add_scatter(
                x=one["steps"],
                y=np.nanmedian(values, axis=0),
                name=f"{label}, seed {seeds[0]}" if alone else label,
                mode="lines+markers",
                line={"color": colour, "dash": "dot" if alone else "solid"},
                marker={"symbol": symbol, "size": 9},
                hovertemplate="%{x} steps: %{y:.1f} %<extra></extra>",
            )
            if alone:
                continue
            figure.add_scatter(
                x=np.tile(one["steps"], len(seeds)),
                y=values.ravel(),
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 5, "opacity": 0.45},
                text=np.repeat(seeds, len(one["steps"])),
                hovertemplate="seed %{text}, %{x} steps: %{y:.1f} %<extra></extra>",
                showlegend=False,
            )
    figure.update_xaxes(type="log", tickvals=facts[0]["steps"], ticktext=[str(s) for s in facts[0]["steps"]])
    figure.update_layout(
        height=380,
        margin=MARGIN,
        xaxis_title="DDIM steps S",
        yaxis_title="violating pixels, %",
        yaxis_rangemode="tozero",
        legend={"orientation": "h", "y": -0.25},
    )
    st.plotly_chart(figure, config=PLOTLY, key="consistency_chart")
    one = facts[0]
    look.figure_caption(
        f"Share of {'the pixels that are not blank' if inked else 'all pixels'} that differ by more than {level}/127.5 "
        f"on [−1, 1] from the centre of the nearest {one['patch_size']}×{one['patch_size']} patch that bbELS allows. "
        f"Lines: medians over {len(one['per_seed'])} seed{'s' if len(one['per_seed']) != 1 else ''}; small marks: each "
        f"seed. MNIST UNet. It was trained on 60,000 images, so checked against more than "
        f"{one['library']:,} its share would be lower. `{one.get('command', COMMAND)}`"
    )


def violations(facts: dict[str, Any], level: int) -> None:
    """Show the images of one seed with their violating pixels marked, for one number of steps."""
    done = [int(steps) for steps in facts["pictures"]]
    if not done:
        return
    steps = st.segmented_control(
        "Steps", done, default=20 if 20 in done else done[-1], required=True, key="consistency_steps"
    )
    seed = facts["per_seed"][0]["seed"]
    pictures = []
    for who, (name, _, _) in CHECKS.items():
        packed = facts["pictures"].get(str(steps), {}).get(who)
        if packed is None:
            continue
        image = run_limits.unpack(packed["image"])[0]
        wrong = run_limits.unpack(packed["difference"])[0] > QUARTERS * level
        label = f"{name.format(**facts)}: {wrong.sum():,} of {wrong.size:,} pixels"
        pictures.append((marked(image, wrong), label, f"Violating pixels of one image. {label}"))
    picture_grid(pictures, narrowest=11)
    look.figure_caption(
        f"Seed {seed}, {steps} steps: the image in grey, in amber the pixels that violate the theorem by more than "
        f"{level} grey level{'s' if level != 1 else ''}."
    )


def marked(image: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return uint8 [H, W, 3]: the image in grey, at 60 % of its range, with some pixels in amber."""
    grey = np.repeat(image[..., None], 3, axis=2)
    amber = np.array([255, 150, 30]) * (0.45 + 0.55 * image[..., None] / 255)
    return np.where(wrong[..., None], amber, grey).astype(np.uint8)
