"""Where theory stops, patch size: drag the machine's window curve and see texture, chimeras, copies."""

from functools import partial

import numpy as np
import streamlit as st

from lm_core import run, survey
from lm_core.errors import ParameterError
from lm_core.params import MosaicParams, parse_patch_sizes
from lm_core.results import MosaicResult
from pages.components import look
from pages.components import stops_bench as bench
from pages.components.curve_editor import LARGEST, curve, curve_editor, order
from pages.components.section_jobs import ask
from pages.components.stops_figures import picture_rows
from pages.components.stops_limbs import limbs

SECTION, EDITOR, URL = "p", "p_editor", "p_curve"
CHOSEN = "_p_chosen"  # (data set, network, preset's name or "") that the editor's curve was ordered for
GO = "_p_go"
EARLY_CAP = 11
PRESETS = {
    "published": ("Published", "The curve that the paper's authors calibrated on their network."),
    "calibrated": ("Calibrated", "The curve calibrated on the network shown here."),
    "texture": ("P = 3 throughout", "Every pixel sees only its neighbours: texture without objects."),
    "memory": ("P = 33 throughout", "Windows as large as the image: the machine ends in a training image."),
    "early": (
        f"P ≤ {EARLY_CAP} early",
        "Too small while the shape is decided: parts are right one by one and do not fit together.",
    ),
}
SHADE = (0.3, 5)  # the paper's explanation of wrong limb counts: P of 5 at most once t < .3


def patch_size() -> None:
    """Draw the section."""
    st.markdown(
        "The window P(t) is all the theory is told about the network. Drag the curve by its points: small windows "
        "paint texture, windows that shrink too early paint parts that don't fit together, windows as large as the "
        "image copy a training image."
    )
    params = bench.settings(SECTION, seed=4)
    presets = curves(params)
    sizes = chosen_curve(params, presets)
    left, right = st.columns([5, 6], gap="large")
    with left:
        offer(params, presets)
        references = {"published": presets["published"]}
        if "calibrated" in presets:
            references["calibrated"] = presets["calibrated"]
        curve_editor(key=EDITOR, references=references, on_release=released, shade=SHADE)
        look.figure_caption(
            "The window's side at each step, in pixels. Drag a point, or draw beside the points; arrow keys work too. "
            "Tinted: windows of 5 pixels at most once t < 0.3."
        )
    with right:
        show(params.with_(patch_sizes=sizes))
    limbs()


def curves(params: MosaicParams) -> dict[str, tuple[int, ...]]:
    """Return the preset curves for a network, the noisiest step first; the calibrated one only if it was measured."""
    published = tuple(min(size, LARGEST) for size in run.default_curve(params))
    found = {"published": published}
    measured = (survey.read_result("calibration", params.dataset, params.network or "") or {}).get("patch_sizes")
    if measured and len(measured) == params.steps:
        found["calibrated"] = tuple(int(size) for size in reversed(measured))
    found["texture"] = (3,) * params.steps
    found["memory"] = (LARGEST,) * params.steps
    found["early"] = tuple(min(size, EARLY_CAP) for size in published)
    return found


def chosen_curve(params: MosaicParams, presets: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the curve on show; the URL's at first, and a preset's follows the network."""
    before = st.session_state.get(CHOSEN)
    if before is None:
        name, sizes = from_url(st.query_params.get(URL, "published"), presets, params.steps)
    else:
        name, sizes = before[2], curve(EDITOR)
    if before is None or (name and before != (params.dataset, params.network, name)):
        name = name if name in presets or not name else "published"
        order(EDITOR, presets[name] if name else sizes or presets["published"])
    st.session_state[CHOSEN] = (params.dataset, params.network, name)
    sizes = curve(EDITOR) or presets["published"]
    said = name or ",".join(map(str, sizes))
    if said == "published":
        st.query_params.pop(URL, None)
    elif st.query_params.get(URL) != said:
        st.query_params[URL] = said
    return sizes


def from_url(text: str, presets: dict[str, tuple[int, ...]], steps: int) -> tuple[str, tuple[int, ...] | None]:
    """Read a preset's name or a list of windows; nonsense is the published curve, with a word about it."""
    if text in presets:
        return text, presets[text]
    try:
        sizes = parse_patch_sizes(text, steps)
        if max(sizes) > LARGEST:
            raise ParameterError(f"patch size is {max(sizes)}; choose an odd number from 1 to {LARGEST}.")
    except ParameterError as error:
        st.warning(f"The link's curve can't be used: {error} This is the published one.", icon=":material/link_off:")
        return "published", presets["published"]
    return "", sizes


def offer(params: MosaicParams, presets: dict[str, tuple[int, ...]]) -> None:
    """Draw a button for each preset."""
    current = st.session_state[CHOSEN][2]
    with st.container(horizontal=True, gap="small"):
        for name, sizes in presets.items():
            title, lesson = PRESETS[name]
            kind = "primary" if name == current else "secondary"
            st.button(title, key=f"p_preset_{name}", help=lesson, type=kind, on_click=take, args=(params, name, sizes))


def take(params: MosaicParams, name: str, sizes: tuple[int, ...]) -> None:
    """Set the editor to a preset and run it."""
    order(EDITOR, sizes)
    st.session_state[CHOSEN] = (params.dataset, params.network, name)
    st.session_state[GO] = True


def released() -> None:
    """A point was let go: the curve is the visitor's own now, and is run."""
    dataset, network, _ = st.session_state[CHOSEN]
    st.session_state[CHOSEN] = (dataset, network, "")
    st.session_state[GO] = True


def show(params: MosaicParams) -> None:
    """Show the images of this curve, or of the last one until they are there."""
    result: MosaicResult | None = ask(
        SECTION,
        params.key(),
        f"Seed {params.seed} with this curve",
        partial(bench.plain, params=params),
        button="Make the image",
        note=f"{params.images} training images: a few seconds. After that every change of the curve runs at once.",
        go=st.session_state.pop(GO, False),
    )
    if result is not None:
        st.session_state["_p_shown"] = result
    shown: MosaicResult | None = st.session_state.get("_p_shown")
    if shown is None:
        return
    if result is None:
        same = bench.same_but_windows(shown.params, params)
        st.caption("Below: the last curve's images." if same else bench.made_before(shown.params))
    picture_rows(bench.outcome(shown))
    score = shown.scores.get("machine")
    agreement = f"r = {score['r']:.3f}, r² = {score['r2']:.3f}, R² = {score['R2']:.3f}. " if score else ""
    look.figure_caption(
        f"Machine against network, over all pixels: {agreement}The network has no window to turn: its image is the "
        f"same for every curve. The distance is the root mean square on [−1, 1]; 0 is a copy. Machine over "
        f"{shown.images_used:,} training images, the nearest image sought among all"
        f"{' of its class' if shown.params.label is not None else ''}."
    )
    st.image(strip(shown), width="stretch")
    look.figure_caption(
        f"Estimates from noise (left) to image (right), machine {'above network' if has_network(shown) else ''}, every "
        "second step and the last."
    )


def has_network(result: MosaicResult) -> bool:
    return result.network_denoised is not None


def strip(result: MosaicResult) -> np.ndarray:
    """Return the estimates of every second step and the last side by side, uint8 [H, W] or [H, W, 3]."""
    steps = sorted({*range(1, result.steps, 2), result.steps - 1})
    rows = [result.denoised] + ([result.network_denoised] if result.network_denoised is not None else [])
    pixels = np.concatenate([np.concatenate([row[step] for step in steps], axis=2) for row in rows], axis=1)
    picture = look.to_uint8(pixels).repeat(4, axis=1).repeat(4, axis=2)
    return picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
