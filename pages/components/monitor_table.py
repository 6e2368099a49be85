"""The detection table: every detector on every evaluation set, beside what it must beat."""

from typing import Any

import plotly.graph_objects as go
import streamlit as st

from lm_core import detection_results, run_detection
from lm_core.artifacts import cache_dir
from lm_core.detection_results import AGGREGATES, REFERENCES, operating_point, own_path, read_results, verdict, write
from lm_core.evaluation import REAL, evaluation_sets, load_set
from lm_core.jobs import JobContext
from lm_core.ranking import FALSE_POSITIVE_RATE
from lm_core.steer_params import METHODS
from pages.components import look, section_jobs
from pages.components.look import AMBER, BLUE
from pages.components.monitor_controls import from_url, to_url
from pages.components.stops_figures import finding

SHIPPED, OWN = "Shipped", "Measured here"


def command(name: str) -> str:
    """Return what makes a set's shipped results."""
    return f"python -m lm_core detection --set {name} --ship"


def detection_table() -> None:
    """Draw the section."""
    shipped = detection_results.shipped_results()
    overview(shipped)
    names = evaluation_sets()
    from_url("set", lambda text: text if text in names else None, next(iter(shipped), names[0]))
    name = st.selectbox(
        "Evaluation set",
        names,
        format_func=lambda one: load_set(one).name,
        key="set",
        on_change=to_url("set"),
    )
    described(name)
    measured = run_here(name) or own_results(name)
    found = {label: facts for label, facts in ((SHIPPED, shipped.get(name)), (OWN, measured)) if facts}
    if not found:
        st.info("Nothing is measured on this set yet: run it here, or with the command.", icon=":material/info:")
        st.code(command(name), language="bash", wrap_lines=True)
        return
    whose = next(iter(found))
    if len(found) > 1:
        whose = (
            st.segmented_control("Results", list(found), default=whose, required=True, key="detection_whose") or whose
        )
    show(found[whose])


def overview(shipped: dict[str, dict[str, Any]]) -> None:
    """Show one row a set, and say which sets have none."""
    if shipped:
        st.dataframe([overview_row(facts) for facts in shipped.values()], hide_index=True, key="detection_overview")
        look.figure_caption(
            "Mean over five folds, which never split a template or table of facts: AUROC (.5 is chance), for reviews "
            "the correlation (0 is chance). “Chosen” is the detector that validation rows choose in each fold."
        )
    missing = [name for name in evaluation_sets() if name not in shipped]
    if missing:
        st.info(
            f"No results are shipped yet for {', '.join(load_set(name).name for name in missing)}. "
            f"They are made with `{command('SET')}`, SET being {', '.join(missing)}.",
            icon=":material/info:",
        )


def overview_row(facts: dict[str, Any]) -> dict[str, Any]:
    """Return a set's headline figures."""
    references = {one["name"]: one for one in facts["references"]}
    best = facts["best"]
    return (
        {"Set": facts["set"]["name"], "Measure": facts["measure"], "Chosen": told(facts["chosen"])}
        | {REFERENCES[name]: told(references[name]) for name in REFERENCES if name in references}
        | {"Highest": f"{best['value']:.3f} {METHODS[best['method']]}, {AGGREGATES[best['aggregate']].lower()}"}
    )


def told(row: dict[str, Any]) -> str:
    """Return a figure with its interval."""
    low, high = row["interval"]
    return f"{row['value']:.3f} ({low:.2f} to {high:.2f})"


def described(name: str) -> None:
    """Say what a set holds."""
    one = load_set(name)
    groups = len({item.group for item in one.items})
    ends = " to ".join(one.classes) if one.kind == REAL else " against ".join(reversed(one.classes))
    st.caption(f"{one.about} {len(one.items)} texts in {groups} groups: {ends}.")


def run_here(name: str) -> dict[str, Any] | None:
    """Draw the button and its job, which goes on while other sets are looked at; return what it has measured."""

    def work(context: JobContext) -> dict[str, Any]:
        facts = run_detection.table(name, on_progress=context.progress, check=context.check)
        write(facts, own_path(facts))
        return facts

    found = section_jobs.live_run(
        f"detection_{name}", "Run this set here", f"Detection: {load_set(name).name}", name, work
    )
    if found is None:
        look.figure_caption("Some minutes on two cores; it can be cancelled. The result is kept on this machine.")
    return found


def own_results(name: str) -> dict[str, Any] | None:
    """Return what was measured last on this machine."""
    paths = (cache_dir() / "detection").glob(f"*/{name}.json")
    latest = max(paths, key=lambda path: path.stat().st_mtime, default=None)
    return None if latest is None else read_results(latest)


def show(facts: dict[str, Any]) -> None:
    """Draw a set's results: who won, the table, the figure, where they come from."""
    finding(verdict(facts))
    point = operating_point(facts, FALSE_POSITIVE_RATE)
    st.markdown(
        f"With at most {FALSE_POSITIVE_RATE:.0%} false alarms wanted, the chosen detector finds "
        f"{point['true_positive_rate']:.0%} of the texts with the concept, at {point['false_positive_rate']:.1%} false "
        "alarms on the same held-out scores."
    )
    st.dataframe(method_rows(facts), hide_index=True, key="detection_methods")
    st.dataframe(reference_rows(facts), hide_index=True, key="detection_references")
    look.figure_caption(
        f"{facts['measure']}, mean over {facts['folds']} folds, with 95 % bootstrap intervals over texts. They say "
        "nothing of other authors' texts. Shuffled labels must come out at chance, or rows leak."
    )
    st.plotly_chart(forest(facts), config=look.PLOTLY, key="detection_forest")
    look.figure_caption("The same figures: detectors as dots, references as diamonds, intervals as bars.")
    st.caption(
        f"{facts['seconds']['all']:,.0f} s on {facts['threads']} threads ({facts['dtype']}), {facts['model']} "
        f"{facts['model_sha256'][:12]}, {facts['set']['cut_to_context']} texts cut to the context."
    )
    if facts.get("command"):
        st.code(facts["command"], language="bash", wrap_lines=True)


def method_rows(facts: dict[str, Any]) -> list[dict[str, str]]:
    """Return methods × {best block, all blocks}."""
    rows = {(one["method"], one["aggregate"]): one for one in facts["rows"]}
    return [
        {"Method": METHODS[method]}
        | {AGGREGATES[name]: told(rows[method, name]) for name in AGGREGATES if (method, name) in rows}
        for method in METHODS
        if any(of == method for of, _ in rows)
    ]


def reference_rows(facts: dict[str, Any]) -> list[dict[str, str]]:
    """Return the chosen detector and the references, with its lead over each."""
    rows = [{"Beside it": "Detector chosen by validation", facts["measure"]: told(facts["chosen"]), "Its lead": ""}]
    for one in facts["references"]:
        lead = facts["lead"].get(one["name"])
        rows.append(
            {
                "Beside it": REFERENCES[one["name"]],
                facts["measure"]: told(one),
                "Its lead": told(lead) if lead else "",
            }
        )
    return rows


def forest(facts: dict[str, Any]) -> go.Figure:
    """Draw every row with its interval."""
    detectors = [(f"{METHODS[one['method']]}, {AGGREGATES[one['aggregate']].lower()}", one) for one in facts["rows"]]
    groups = (
        ("detector", sorted(detectors, key=lambda pair: -pair[1]["value"]), BLUE, "circle"),
        ("reference", [(REFERENCES[one["name"]], one) for one in facts["references"]], AMBER, "diamond"),
    )
    figure = go.Figure()
    for kind, pairs, colour, symbol in groups:
        figure.add_scatter(
            x=[one["value"] for _, one in pairs],
            y=[name for name, _ in pairs],
            error_x={
                "type": "data",
                "array": [one["interval"][1] - one["value"] for _, one in pairs],
                "arrayminus": [one["value"] - one["interval"][0] for _, one in pairs],
            },
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
            name=kind,
            hovertemplate="%{y}<br>%{x:.3f}<extra></extra>",
        )
    figure.add_vline(x=0.0 if facts["set"]["kind"] == REAL else 0.5, line={"dash": "dot"}, annotation_text="chance")
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(title_text=facts["measure"])
    count = sum(len(pairs) for _, pairs, *_ in groups)
    figure.update_layout(height=22 * count + 110, margin=look.MARGIN, showlegend=False)
    return figure
