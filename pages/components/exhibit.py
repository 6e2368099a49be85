"""One exhibit on a page: its law, its controls, prediction over experiment, score, how to break it, what stays open.

A shipped run shows at once; a live one goes through the job queue and its curves grow meanwhile. Every control is in
the URL as ID_CONTROL; `run=broken` opens the run out of the law's regime, `run=default` the one within.
"""

import json
from collections.abc import Sequence
from typing import Any

import streamlit as st

from lm_core import run_mechanics
from lm_core.errors import LabError
from lm_core.exhibit_params import STRANDS, Control, Exhibit, ExhibitParams, Value, find_exhibit
from lm_core.exhibit_results import ExhibitResult, Panel
from lm_core.jobs import JobContext
from lm_core.params import MAX_SEED
from pages.components import look, section_jobs
from pages.components.exhibit_figures import draw_panel, draw_panels, draw_scores, draw_tables
from pages.components.sections import choose_section
from pages.components.stops_figures import finding

STRAND_PAGES = {
    "a": "solvable_settings.py",
    "b": "tractable_limits.py",
    "c": "macroscopic_laws.py",
    "d": "hyperparameters.py",
    "e": "universality.py",
}
BADGE_COLOURS = {"theorem": "green", "law": "blue", "heuristic": "orange", "derived here": "violet"}


def choose(names: Sequence[str]) -> str:
    """Draw the choice among a strand's exhibits, in the URL as `exhibit`, and return it."""
    if len(names) == 1:
        return names[0]
    return choose_section("exhibit", names, lambda name: f"({name}) {find_exhibit(name).title}")


def draw(name: str) -> None:
    """Draw an exhibit."""
    exhibit = find_exhibit(name)
    open_variant(exhibit)
    with st.container(key="exhibit_law"):
        law(exhibit)
    plot_place, controls_place = st.columns([9, 4], gap="large")  # on a phone the plot comes first
    with controls_place:
        with st.container(key="exhibit_controls"):
            params = controls(exhibit)
            pressed = run_button(params)
        with st.container(key="exhibit_break"):
            break_it(exhibit, params)
    with plot_place, st.container(key="exhibit_plot"):
        result = find_result(params, pressed)
        if result is not None:
            show(result, params)
    if result is not None:
        draw_panels(result.outcome.panels[1:], f"{name}_more")
        draw_tables(result.outcome.tables, name)
        provenance(result)
    with st.container(key="exhibit_open"):
        remarks(exhibit)


def open_variant(exhibit: Exhibit) -> None:
    """Take `run=broken` or `run=default` of the URL for the controls' values, once."""
    said = st.query_params.get("run")
    if said in run_mechanics.VARIANTS:
        del st.query_params["run"]
        set_values(exhibit, run_mechanics.variant_params(exhibit.id, said).values)


def set_values(exhibit: Exhibit, values: dict[str, Value]) -> None:
    """Set the controls to these values, those left out to their defaults."""
    for control in exhibit.controls:
        st.session_state[key_of(exhibit, control)] = values.get(control.name, control.default)


def key_of(exhibit: Exhibit, control: Control) -> str:
    """Return the control's widget key and name in the URL."""
    return f"{exhibit.id}_{control.name}"


def law(exhibit: Exhibit) -> None:
    """State the law, what kind of statement it is, and what its symbols mean."""
    look.card_header(f"({exhibit.id}) {STRANDS[exhibit.strand]}", exhibit.title, level=2)
    st.markdown(exhibit.claim)
    with st.container(horizontal=True, gap="small"):
        st.badge(exhibit.badge, color=BADGE_COLOURS[exhibit.badge])
        count = exhibit.fitted
        st.badge(f"{count or 'no'} fitted parameter{'' if count == 1 else 's'}", color="gray", help=exhibit.fitted_note)
    st.latex(exhibit.formula)
    with st.expander("What the symbols are, and what is run"):
        st.markdown(exhibit.symbols)
        st.markdown(exhibit.experiment)
        st.markdown(exhibit.fitted_note)


def controls(exhibit: Exhibit) -> ExhibitParams:
    """Draw the controls and return what they say."""
    values: dict[str, Value] = {}
    for control in exhibit.controls:
        shared: dict[str, Any] = {"key": key_of(exhibit, control), "help": control.help, "bind": "query-params"}
        fresh = shared["key"] not in st.session_state
        if control.options:
            default = {"default": control.default} if fresh else {}
            values[control.name] = st.pills(control.label, control.options, required=True, **default, **shared)
        else:
            default = {"value": control.default} if fresh else {}
            values[control.name] = st.select_slider(
                control.label, control.stops, format_func=lambda stop: f"{stop:g}", **default, **shared
            )
    seed = st.number_input("Seed", 0, MAX_SEED, 0, key=f"{exhibit.id}_seed", bind="query-params", width=140)
    return ExhibitParams(exhibit.id, values, seed)


def run_button(params: ExhibitParams) -> bool:
    """Draw the button for a live run; where there is no result yet, the plot's place has one."""
    if run_mechanics.shipped(params) is None:
        return False
    return st.button("Run it here", key="run_exhibit", icon=":material/play_arrow:", type="primary", width="stretch")


def break_it(exhibit: Exhibit, params: ExhibitParams) -> None:
    """Draw the button that leaves the law's regime, or the way back and why the law broke."""
    broken = params.values == exhibit.defaults | exhibit.break_it.values
    label = "Back to where it holds" if broken else f"Break it: {exhibit.break_it.label}"
    st.button(
        label,
        key="break_exhibit",
        icon=":material/undo:" if broken else ":material/heart_broken:",
        width="stretch",
        on_click=set_values,
        args=(exhibit, {} if broken else exhibit.break_it.values),
    )
    if broken:
        st.markdown(f"**Why it breaks.** {exhibit.break_it.why}")
    if exhibit.larger is not None:
        st.button(
            f"Larger: {exhibit.larger.label}",
            key="larger_exhibit",
            icon=":material/zoom_out_map:",
            help=exhibit.larger.why,
            width="stretch",
            on_click=set_values,
            args=(exhibit, exhibit.larger.values),
        )


def find_result(params: ExhibitParams, pressed: bool) -> ExhibitResult | None:
    """Return the run of these parameters: live if there is one, else shipped; offers or shows the job otherwise.

    While none is there the visitor's last one is returned, which `show` then says.
    """
    section, key = f"exhibit_{params.exhibit}", params.key()
    shipped, live = run_mechanics.shipped(params), section_jobs.find(section, key)
    job = section_jobs.current(section)
    asked = job is not None and job.key == f"{section} {key}"
    if live is None and (pressed or asked or shipped is None):

        def work(context: JobContext) -> ExhibitResult:
            return run_mechanics.exhibit(params, on_progress=context.progress)

        live = section_jobs.ask(
            section,
            key,
            f"({params.exhibit}) {find_exhibit(params.exhibit).title}",
            work,
            button="Run with these settings",
            note="Seconds on a laptop; the curves grow meanwhile.",
            go=pressed,
            preview=preview,
        )
        if live is None and section_jobs.current(section) is not None and section_jobs.current(section).active:
            return None
    result = live or shipped
    last = f"_{section}_shown"
    if result is not None:
        st.session_state[last] = result
    return result or st.session_state.get(last) or run_mechanics.shipped(ExhibitParams(params.exhibit, {}))


def preview(panels: Sequence[Panel]) -> None:
    """Draw what a running experiment has published."""
    if panels:
        draw_panel(panels[0], "exhibit_growing")


def show(result: ExhibitResult, params: ExhibitParams) -> None:
    """Draw the headline: the finding, the plot, the scores; say so if they are of other settings than chosen."""
    if result.params != params:
        said = ", ".join(f"{name} {value}" for name, value in result.params.values.items())
        st.info(f"These curves are of other settings ({said}, seed {result.params.seed}).", icon=":material/history:")
    finding(result.outcome.verdict)
    draw_panel(result.outcome.panels[0], f"{result.params.exhibit}_headline")
    with st.container(key="exhibit_score"):
        draw_scores(result)


def provenance(result: ExhibitResult) -> None:
    """Say where a run comes from and offer its numbers."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f"{result.seconds:.1f} s on {result.device}, torch {result.torch}"
            + (f", made beforehand by `{result.command}`." if result.command else ", here."),
            width="stretch",
        )
        st.download_button(
            "JSON",
            lambda: json.dumps(result.as_dict(), ensure_ascii=False),
            f"exhibit-{result.params.exhibit}-{result.params.key()}.json",
            "application/json",
            key="export_exhibit",
            icon=":material/download:",
            on_click="ignore",
        )


def remarks(exhibit: Exhibit) -> None:
    """Say what the law leaves open, and whose it is."""
    st.markdown(f"**Open direction.** {exhibit.open_direction}")
    st.markdown("\n".join(f"- {one.text}. [{one.label}]({one.url})" for one in exhibit.references))


def strand_page(title: str, claim: str, names: Sequence[str]) -> str:
    """Draw a strand's page up to its last exhibit; returns the exhibit that is shown."""
    look.page_header(title, claim)
    name = choose(names)
    try:
        draw(name)
    except LabError as error:
        st.error(str(error), icon=":material/error:")
    return name
