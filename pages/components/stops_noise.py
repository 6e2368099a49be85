"""Where theory stops, noise: repaint a region of it and see how far the change spreads, in machine and network."""

import secrets
from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from lm_core import run_edits
from lm_core.edits import BRUSHES, NoiseEdit
from lm_core.params import MAX_SEED, MosaicParams
from lm_core.results import MosaicResult
from lm_core.run_edits import Influence
from pages.components import look
from pages.components import stops_bench as bench
from pages.components.look import PLOTLY
from pages.components.paint import mark_region, region
from pages.components.section_jobs import ask
from pages.components.stops_figures import picture_rows

SECTION, MASK = "n", "n_mask"
REGION, TOKEN, GO = "_n_region", "_n_token", "_n_go"
SIDE = 32
NOISE_LIMIT = 3.0  # standard deviations from black to white
WHO = {"machine": "Theory", "network": "Network"}
KINDS = {"states": "Noisy image", "estimates": "Estimate"}
CIVIDIS = np.array(
    [
        (0, 34, 78),
        (18, 53, 112),
        (59, 73, 108),
        (87, 93, 109),
        (112, 113, 115),
        (138, 134, 120),
        (165, 156, 116),
        (195, 179, 105),
        (225, 204, 85),
        (254, 232, 56),
    ],
    dtype=float,
)
PRESETS = {
    "middle": ("Middle 6×6", (13, 13, 6)),
    "corner": ("Corner 6×6", (0, 0, 6)),
    "pixel": ("One pixel", (16, 16, 1)),
}


def noise() -> None:
    """Draw the section."""
    st.markdown(
        "Both start from the same noise. Repaint a part of it: in one step a change can reach only as far as the "
        "machine's window, or the network's receptive field, and step by step it spreads. Where the theory holds, both "
        "cones are equally wide."
    )
    params = bench.settings(SECTION, seed=4)
    latest = st.session_state.get("_n_shown")
    before = latest.before if latest is not None and bench.same_but_windows(latest.before.params, params) else None
    left, right = st.columns([5, 6], gap="large")
    with left:
        edit = brush(params, before)
    with right:
        found: Influence | None = ask(
            SECTION,
            f"{params.key()} {edit.key()}",
            f"Seed {params.seed}, noise repainted",
            partial(work, params=params, edit=edit, before=before),
            button="Run both, unedited and edited",
            note=f"Two runs over {params.images} training images, a few seconds each.",
            go=st.session_state.pop(GO, False),
        )
        if found is not None:
            st.session_state["_n_shown"] = found
            if before is None:
                st.rerun()  # the grid can show the noise now
        elif latest is not None:
            st.caption(
                "Below: the last region's run." if before is not None else bench.made_before(latest.before.params)
            )
        found = found or latest
        if found is not None:
            show(found)


def work(context, *, params: MosaicParams, edit: NoiseEdit, before: MosaicResult | None) -> Influence:
    """Run both as a job."""
    return run_edits.influence(params, edit, before=before, on_progress=context.progress)


# -- the brush --------------------------------------------------------------------------------------------------------


def brush(params: MosaicParams, before: MosaicResult | None) -> NoiseEdit:
    """Draw the grid to mark a region on and the choice of what goes into it."""
    bound: dict[str, Any] = {"bind": "query-params"}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control(
            "Repaint with",
            list(BRUSHES),
            default="fresh",
            required=True,
            format_func=BRUSHES.__getitem__,
            key="n_brush",
            **bound,
        )
        seed = 1
        if kind != "zero":
            seed = st.number_input(
                "Its seed", 0, MAX_SEED, 1, key="n_other", width=120, help="Of the noise that is painted in.", **bound
            )
    marked = current_region()
    with st.container(horizontal=True, gap="small"):
        for name, (title, place) in PRESETS.items():
            st.button(title, key=f"n_preset_{name}", on_click=set_region, args=(square(*place),))
    view = "noise"
    if before is not None:
        view = st.segmented_control(
            "Below the marks",
            ["noise", "image"],
            default="noise",
            required=True,
            format_func={"noise": "Starting noise", "image": "Theory's image"}.__getitem__,
            key="n_view",
        )
    background = ""
    if before is not None:
        picture = before.noise / NOISE_LIMIT if view == "noise" else before.image
        background = look.png_address(look.to_uint8(picture))
    mark_region(
        key=MASK,
        mask=marked,
        background=background,
        token=st.session_state.get(TOKEN, "first"),
        action="Repaint and run",
        on_done=take_region,
    )
    look.figure_caption(
        "Mark the region to repaint. "
        + ("The noise itself appears here after the first run." if before is None else "")
    )
    return NoiseEdit.of(marked, kind or "fresh", int(seed))


def square(top: int, left: int, size: int) -> np.ndarray:
    """Return a mask with a square in it."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top : top + size, left : left + size] = True
    return mask


def current_region() -> np.ndarray:
    """Return the region that was handed over last, a square in the middle at first."""
    return st.session_state.get(REGION, square(*PRESETS["middle"][1]))


def set_region(mask: np.ndarray) -> None:
    """Mark a preset's region."""
    st.session_state[REGION] = mask
    st.session_state[TOKEN] = secrets.token_hex(4)
    st.session_state[GO] = "_n_shown" in st.session_state


def take_region() -> None:
    """Take the region that the visitor has marked, and run it."""
    mask = region(MASK, (SIDE, SIDE))
    if mask is None or not mask.any():
        st.toast("No pixel is marked; paint over the region to change.", icon=":material/warning:")
        return
    st.session_state[REGION], st.session_state[GO] = mask, True


# -- the cone ---------------------------------------------------------------------------------------------------------


def show(found: Influence) -> None:
    """Show the changes at a step, and how far they reach at every step."""
    kind = st.segmented_control(
        "Change of",
        list(KINDS),
        default="estimates",
        required=True,
        format_func=KINDS.__getitem__,
        key="n_kind",
        help="Noisy image: what goes from step to step. Estimate: the clean image that is guessed from it.",
        bind="query-params",
    )
    kind = kind or "estimates"
    tables: dict[str, np.ndarray] = getattr(found, kind)
    count, steps = len(next(iter(tables.values()))), found.before.steps
    step = st.select_slider(
        "Step",
        list(range(count)),
        value=min(8, count - 1),
        format_func=lambda place: f"t = {1 - place / steps:.2f}",
        key=f"n_step_{kind}",
    )
    limit = max(float(np.quantile(np.concatenate([table.ravel() for table in tables.values()]), 0.998)), 1e-6)
    for who, table in tables.items():
        radius = int(getattr(found, f"{kind[:-1]}_radius")[who][step])
        picture = bench.marked(heat(table[step], limit), outline=found.region)
        caption = f"{WHO[who]}: change, 90 % within {radius} pixel{'' if radius == 1 else 's'} of the region"
        figures = [(picture, caption, caption)]
        for run, title in ((found.before, "before"), (found.after, "after")):
            name = f"{WHO[who]}, {title}"
            image = look.to_uint8(clean(run, who, kind, step))
            figures.append((bench.marked(image, outline=found.region), name, name))
        picture_rows(figures)
    look.figure_caption(
        f"|after − before|, mean over channels, from 0 (dark) to {limit:.2f} (bright) on the scale of [−1, 1], one "
        "scale for all steps and both. Outlined: the region that was repainted."
    )
    cone_chart(found, kind)


def clean(result: MosaicResult, who: str, kind: str, step: int) -> np.ndarray:
    """Return the picture of a step: an estimate, or a noisy image drawn in its own range."""
    prefix = "" if who == "machine" else "network_"
    if kind == "estimates":
        return getattr(result, f"{prefix}denoised")[step]
    state = getattr(result, f"{prefix}trajectory")[step]
    return state / (1 + 2 * float(np.sqrt(max(0.0, 1 - result.alpha_bar[step]))))


def heat(values: np.ndarray, limit: float) -> np.ndarray:
    """Colour [H, W] from 0 to a limit: uint8 [3, H, W], cividis."""
    place = np.clip(values / limit, 0, 1) * (len(CIVIDIS) - 1)
    low = np.minimum(place.astype(int), len(CIVIDIS) - 2)
    share = (place - low)[..., None]
    return (CIVIDIS[low] * (1 - share) + CIVIDIS[low + 1] * share).round().astype(np.uint8).transpose(2, 0, 1)


def cone_chart(found: Influence, kind: str) -> None:
    """Plot the radius that holds 90 % of the change against time, and the farthest the machine can reach."""
    steps, figure = found.before.steps, go.Figure()
    radii: dict[str, np.ndarray] = getattr(found, f"{kind[:-1]}_radius")
    styles = {"machine": ("solid", "circle"), "network": ("dash", "diamond")}
    for who, radius in radii.items():
        t = 1 - np.arange(len(radius)) / steps
        dash, symbol = styles[who]
        marker = {"symbol": symbol, "size": 8}
        figure.add_trace(go.Scatter(x=t, y=radius, name=WHO[who], mode="lines+markers", line_dash=dash, marker=marker))
    # A state holds the estimates before it, so it can have changed as far as the last of them.
    farthest = found.reach if kind == "estimates" else np.concatenate([[0], found.reach])
    t = 1 - np.arange(len(farthest)) / steps
    figure.add_trace(go.Scatter(x=t, y=farthest, name="Theory, farthest possible", mode="lines", line_dash="dot"))
    figure.update_layout(
        height=280,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        xaxis_title="time t (1 is noise)",
        yaxis_title="pixels from the region",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02},
    )
    figure.update_xaxes(autorange="reversed")
    figure.update_yaxes(rangemode="tozero")
    st.plotly_chart(figure, config=PLOTLY, key="n_cone")
    look.figure_caption(
        "How far from the repainted region one must go to find 90 % of the change, in pixels, a diagonal step "
        "counting one. Dotted: the half windows summed over the steps so far, beyond which the theory's image can't "
        "have changed at all; it ends at the image's edge."
    )
