"""Concept lab, compare methods: what each tells, how alike their directions are, what steering with them costs."""

from functools import partial

import streamlit as st

from lm_core import run_lab
from lm_core.jobs import JobContext
from lm_core.lab_params import MOST_COMPARED_PROMPTS, CompareParams
from lm_core.lab_results import CompareResult
from lm_core.steer_params import METHODS, SITES
from pages.components import lab_figures, look, section_jobs
from pages.components.lab_common import choose_concept, key_label, plain, version
from pages.components.look import PLOTLY

SECTION = "lab_compare"


def compare() -> None:
    """Draw the section."""
    st.markdown(
        "Five ways to find a direction in the same activations, taken at two places. Do they find the same one, and "
        "which one steers?"
    )
    concept = choose_concept()
    for name, default in (("methods", list(METHODS)), ("sites", ["response"]), ("prompts", 6)):
        st.session_state.setdefault(f"lab_{name}", default)
    methods = st.multiselect(
        "Methods", list(METHODS), format_func=METHODS.__getitem__, key="lab_methods", persist_state="session"
    )
    left, right = st.columns(2)
    sites = left.multiselect(
        "Activations taken at", list(SITES), format_func=SITES.__getitem__, key="lab_sites", persist_state="session"
    )
    prompts = right.slider(
        "Held-out prompts",
        2,
        MOST_COMPARED_PROMPTS,
        key="lab_prompts",
        help="Each is answered at five strengths of every direction: more take longer.",
        persist_state="session",
    )
    params = CompareParams(concept, tuple(methods), tuple(sites), prompts)
    result: CompareResult | None = section_jobs.live_run(
        SECTION, "Compare", "Comparing the methods", f"{params!r} {version(concept)}", partial(work, params)
    )
    if result is None:
        look.figure_caption(
            "All methods at both sites take some two minutes of an idle processor; fewer of either take less."
        )
        return
    show(result)


def work(params: CompareParams, context: JobContext) -> CompareResult:
    """Compare on the scheduler's thread."""
    return run_lab.compare(params, on_progress=context.progress, check=context.check)


def show(result: CompareResult) -> None:
    """Show what was found, the tellers first."""
    st.markdown(f"**{finding(result)}**")
    st.subheader("What tells", anchor=False)
    figure = lab_figures.side_by_side(result)
    if figure is None:
        look.figure_caption("Too few examples to hold any out: give at least ten of each class.")
    else:
        st.plotly_chart(figure, config=PLOTLY, key="lab_compare_blocks")
        look.figure_caption(
            "Each block's direction alone, on examples that had no part in its fit; hover shows the 95 % interval."
        )
    table(result)
    st.subheader("What steers", anchor=False)
    st.plotly_chart(lab_figures.effect_against_fluency(result), config=PLOTLY, key="lab_curves")
    look.figure_caption(
        f"A curve runs through five strengths, each a mean over {result.prompts} prompts, with a 95 % bootstrap "
        f"interval. Right is more of the concept, low is more fluent. {plain(result.effect_of)}"
    )
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("The same direction?", anchor=False)
        st.plotly_chart(lab_figures.cosine_map(result), config=PLOTLY, key="lab_cosines")
        look.figure_caption(f"Cosine between directions, mean over blocks {result.blocks[0]} to {result.blocks[1]}.")
    with right:
        spectra(result)


def spectra(result: CompareResult) -> None:
    """Show the eigenvalues of the matrix that RFM has learned at a block."""
    if not result.spectra:
        return
    st.subheader("One direction or many?", anchor=False)
    last = len(next(iter(result.spectra.values()))) - 1
    kept = st.session_state.get("lab_spectrum_block", result.blocks[1])
    st.session_state["lab_spectrum_block"] = min(kept, last)
    block = st.slider("Block", 1, last, key="lab_spectrum_block")
    st.plotly_chart(lab_figures.spectrum(result.spectra, block), config=PLOTLY, key="lab_spectrum")
    look.figure_caption(
        "The largest eigenvalues of the average gradient outer product (AGOP) as shares of their sum: one near 1 is a "
        "machine that listens to a single direction."
    )


def finding(result: CompareResult) -> str:
    """State who tells best, and whether the second is really behind."""
    tested = {key: one for key, one in result.held_out.items() if one is not None}
    if not tested:
        return "Nothing could be held out, so no method can be called the better one."
    first, *others = sorted(tested, key=lambda key: -tested[key].overall)
    best = tested[first]
    said = f"{key_label(first)} has a held-out {best.measure} of {best.overall:.3f}"
    if not others:
        return f"{said}; there is nothing to compare it to."
    second = tested[others[0]]
    said += f", then {key_label(others[0])} with {second.overall:.3f}"
    if second.interval[1] < best.interval[0]:
        return f"{said}: it tells best, the 95 % intervals don't overlap."
    return f"{said}: too close to call, the 95 % intervals overlap."


def table(result: CompareResult) -> None:
    """List every method's figures."""
    rows = []
    for key in result.keys:
        tested, points = result.held_out[key], result.curves[key]
        fluent = [one for one in points if one.fluent >= 0.75]
        best = max(fluent, key=lambda one: one.effect, default=None)
        rows.append(
            {
                "method": key_label(key),
                "held out": None if tested is None else round(tested.overall, 3),
                "95 % interval": "" if tested is None else f"{tested.interval[0]:.2f}–{tested.interval[1]:.2f}",
                "best block": None if tested is None else tested.best_block,
                "best effect": None if best is None else round(best.effect, 3),
                "at strength, %": None if best is None else round(100 * best.strength, 1),
            }
        )
    st.dataframe(rows, hide_index=True, key="lab_compare_table")
    look.figure_caption(
        f"Held out: the mean of all blocks' scores, which no one chose by these examples. Best effect ({result.unit}): "
        f"largest at which three quarters of the texts are fluent; unsteered {result.unsteered.effect:.3g}, asked in "
        f"words {result.prompted.effect:.3g}."
    )
