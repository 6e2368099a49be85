"""How an exhibit's curves, tables and scores are drawn: predictions are lines, experiments marks, references dotted."""

from collections.abc import Sequence

import plotly.graph_objects as go
import streamlit as st

from lm_core.exhibit_results import Curve, ExhibitResult, Panel, Score, Table
from pages.components import look
from pages.components.look import AMBER, BLUE, GREY, MARGIN, PLOTLY
from pages.components.tour import presenting

COLOURS = (BLUE, AMBER, "#1c9c86", "#a75fc4", "#d0566b", GREY)  # each readable on white and on the dark page
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")  # never hue alone
LARGE_TYPE = 17  # of figures in presenter mode, whose type follows no style sheet
FEW = 9  # different values
DENSE = 60  # marks that are joined get smaller from here on
STATES = {
    True: ("within tolerance", ":material/check_circle:", "green"),
    False: ("outside tolerance", ":material/error:", "orange"),
    None: ("no tolerance stated", ":material/info:", "gray"),
}


def figure_of(panel: Panel, height: int = 400) -> go.Figure:
    """Return the plot of a panel."""
    figure = go.Figure()
    for curve in panel.curves:
        _add(figure, curve)
    if panel.level is not None:
        figure.add_hline(
            panel.level, line={"color": GREY, "dash": "dash", "width": 1.5}, annotation_text=panel.level_name
        )
    figure.update_xaxes(
        title=panel.x_label, **_axis(panel.x_log, [x for curve in panel.curves for x in curve.x], few=True)
    )
    figure.update_yaxes(title=panel.y_label, **_axis(panel.y_log, [y for curve in panel.curves for y in curve.y]))
    figure.update_layout(
        height=height + 14 * len(panel.curves),
        margin=MARGIN | {"t": 34},
        title={"text": panel.title, "font": {"size": 15}, "x": 0, "xref": "paper"},
        legend={"orientation": "h", "y": -90 / height, "yanchor": "top"},
        hovermode="closest",
    )
    if presenting():
        for set_axis in (figure.update_xaxes, figure.update_yaxes):
            set_axis(tickfont_size=LARGE_TYPE, title_font_size=LARGE_TYPE)
        figure.update_layout(legend_font_size=LARGE_TYPE, legend_y=-140 / height, title_font_size=LARGE_TYPE + 3)
    return figure


def _axis(log: bool, values: Sequence[float | None], few: bool = False) -> dict:
    """Return an axis's kind; a logarithmic one is marked at its few values, or over two decades at powers of ten."""
    if not log:
        return {"type": "linear", "exponentformat": "SI"}
    positive = [value for value in values if value is not None and value > 0]
    ticks = sorted(set(positive))
    if few and len(ticks) <= FEW:
        return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    wide = bool(positive) and max(positive) / min(positive) > 100
    return {"type": "log", "exponentformat": "power", "dtick": 1 if wide else None}


def _add(figure: go.Figure, curve: Curve) -> None:
    """Add one curve in the manner of its role, with its interval."""
    dense = curve.joined and len(curve.x) > DENSE  # a line too, so not in its prediction's colour
    place = (curve.group + (dense and curve.role == "experiment")) % len(COLOURS)
    colour = COLOURS[place]
    marks = curve.role == "experiment" and not dense
    bars = {"type": "data", "symmetric": False, "thickness": 1, "width": 3}
    if curve.low and marks:
        pairs = list(zip(curve.y, curve.low, curve.high, strict=True))
        bars["arrayminus"] = [None if None in row else row[0] - row[1] for row in pairs]
        bars["array"] = [None if None in row else row[2] - row[0] for row in pairs]
    figure.add_scatter(
        x=curve.x,
        y=curve.y,
        name=curve.name,
        mode="lines+markers" if marks and curve.joined else "markers" if marks else "lines",
        line={
            "color": GREY if curve.role == "reference" else colour,
            "width": 1.2 if curve.role == "experiment" else 2.2,
            "dash": "dot" if curve.role == "reference" else "solid",
        },
        opacity=0.75 if dense else 1,
        marker={"color": colour, "symbol": SYMBOLS[place], "size": 7, "line": {"width": 1, "color": "white"}},
        error_y=bars if "array" in bars else None,
        connectgaps=False,
        hovertemplate=f"{curve.name}<br>%{{x:.4g}}: %{{y:.4g}}<extra></extra>",
    )
    if curve.low and not marks:
        figure.add_scatter(
            x=[*curve.x, *reversed(curve.x)],
            y=[*curve.high, *reversed(curve.low)],
            fill="toself",
            fillcolor=colour,
            opacity=0.18,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )


def draw_panel(panel: Panel, key: str, height: int = 400) -> None:
    """Draw a panel and, under it, what one is looking at."""
    st.plotly_chart(figure_of(panel, height), config=PLOTLY, key=key)
    look.figure_caption(panel.caption)


def draw_panels(panels: Sequence[Panel], key: str) -> None:
    """Draw further panels, two beside each other where there is room."""
    if not panels:
        return
    with st.grid(min(len(panels), 2), min_column_width=330, key=f"{key}_grid") as grid:
        for place, panel in enumerate(panels):
            with grid.cell():
                draw_panel(panel, f"{key}_{place}", height=320)


def draw_tables(tables: Sequence[Table], key: str) -> None:
    """Draw tables of numbers as heat maps; those of at most a dozen rows have their figures written in."""
    if not tables:
        return
    with st.grid("auto", min_column_width=270, key=f"{key}_tables") as grid:
        for place, table in enumerate(tables):
            with grid.cell():
                st.plotly_chart(_heat(table), config=PLOTLY, key=f"{key}_table_{place}")
                look.figure_caption(table.caption)


def _heat(table: Table) -> go.Figure:
    height, width = len(table.values), len(table.values[0])
    few = height <= 12
    names = {"x": list(table.columns) or None, "y": list(table.rows) or None}
    figure = go.Figure(
        go.Heatmap(
            z=table.values,
            **names,
            colorscale="RdBu" if table.diverging else "Cividis",
            zmid=0 if table.diverging else None,
            texttemplate="%{z:.2f}" if few else None,
            hovertemplate="%{y}, %{x}: %{z:.4g}<extra></extra>",
            colorbar={"thickness": 10},
            xgap=1 if few else 0,
            ygap=1 if few else 0,
        )
    )
    figure.update_yaxes(autorange="reversed", showticklabels=bool(table.rows), showgrid=False)
    figure.update_xaxes(showticklabels=bool(table.columns), showgrid=False)
    if height == width and not few:
        figure.update_yaxes(scaleanchor="x", constrain="domain")
    figure.update_layout(
        height=300 if not few else 120 + 42 * height,
        margin=MARGIN | {"t": 34},
        title={"text": table.title, "font": {"size": 15}, "x": 0, "xref": "paper"},
    )
    return figure


def score_text(value: float | None) -> str:
    """Write a score with four significant digits, five near one."""
    if value is None:
        return "none"
    return f"{value:.{5 if 0.99 < value < 1 else 4}g}".replace("-", "−")


def draw_scores(result: ExhibitResult) -> None:
    """Show the headline score large with its tolerance, the others small."""
    first, *others = result.scores
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.metric(first.name, score_text(first.value), width="content")
        with st.container(gap="xsmall", width="content"):
            badge(first)
            if first.tolerance:
                st.caption(f"expected: {first.tolerance}", width="content")
        for score in others:
            with st.container(gap="xsmall", width="content"):
                st.markdown(f"{score.name} **{score_text(score.value)}**", width="content")
                if score.tolerance:
                    st.caption(
                        f"expected: {score.tolerance}, {'yes' if score.within else 'no'}",
                        width="content",
                    )


def badge(score: Score) -> None:
    """Say whether a score is within its tolerance."""
    words, icon, colour = STATES[score.within]
    st.badge(words, icon=icon, color=colour)
