"""Figures of the monitor: the strip of tokens, its course with the thresholds, the heat map of tokens × blocks.

A text's tokens appear as Plotly labels, escaped, and in tables: never as markup.
"""

import html
import math

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from lm_core.run_monitor import MonitorResult
from pages.components import look
from pages.components.look import AMBER, BLUE, GREY

SCALE = [[0, "#e0a052"], [0.5, "#f4f6fb"], [1, "#8ea2f2"]]  # dark text is readable on all of it
INK = "#161b29"
STRIP_COLUMNS = 8
LONGEST_LABEL = 9
SATURATED = 96  # percentile of sizes at which colours end
MOST_LABELS = 80  # tokens named beside the heat map; hovering names all
PAST = "▲"


def spell(piece: str, longest: int = LONGEST_LABEL) -> str:
    """Return a token as a Plotly label: one line, escaped, spaces and breaks visible where they are all there is."""
    shown = piece.replace("\n", "⏎").replace("\r", "").replace("\t", "⇥").strip() or ("␣" if piece else "…")
    return html.escape(shown if len(shown) <= longest else shown[: longest - 1] + "…")


def names_of(found: MonitorResult) -> list[str]:
    """Return "3 · river" for each token, for hovering."""
    return [f"{i} · {spell(piece, 40)}" for i, piece in enumerate(found.pieces, 1)]


def reach(values: np.ndarray) -> float:
    """Return the end of a colour scale about zero: what all but a few sizes stay below, for some tokens' are huge."""
    return float(np.percentile(np.abs(values), SATURATED)) or float(np.abs(values).max()) or 1.0


def strip(found: MonitorResult, which: int) -> go.Figure:
    """Draw the tokens in reading order, coloured by the score; those past the threshold are bold and marked."""
    scores, threshold = found.strip[which], float(found.threshold[which])
    rows = math.ceil(len(scores) / STRIP_COLUMNS)
    spare = rows * STRIP_COLUMNS - len(scores)
    words = [
        f"<b>{spell(piece)}{PAST}</b>" if score > threshold else spell(piece)
        for piece, score in zip(found.pieces, scores, strict=True)
    ]

    def wrap(values: list, empty: object) -> list[list]:
        padded = [*values, *[empty] * spare]
        return [padded[i : i + STRIP_COLUMNS] for i in range(0, len(padded), STRIP_COLUMNS)]

    end = max(reach(scores), abs(threshold))
    figure = go.Figure(
        go.Heatmap(
            z=wrap([float(score) for score in scores], None),
            text=wrap(words, ""),
            customdata=wrap(names_of(found), ""),
            texttemplate="%{text}",
            textfont={"color": INK, "size": 12},
            hovertemplate="%{customdata}<br>score %{z:.2f}<extra></extra>",
            hoverongaps=False,
            colorscale=SCALE,
            zmin=-end,
            zmax=end,
            xgap=1,
            ygap=3,
            colorbar={
                "orientation": "h",
                "y": 0,
                "yanchor": "top",
                "thickness": 10,
                "tickvals": [-end, 0, threshold],
                "ticktext": [f"{-end:.1f}", "0", f"{PAST} {threshold:.1f}"],
            },
        )
    )
    figure.update_xaxes(visible=False, fixedrange=True)
    figure.update_yaxes(visible=False, autorange="reversed", fixedrange=True)
    figure.update_layout(height=30 * rows + 70, margin={"l": 0, "r": 0, "t": 6, "b": 50})
    return figure


def course(found: MonitorResult, which: int) -> go.Figure:
    """Draw scores and levels along the text, with the threshold of each."""
    x, names = list(range(1, len(found.pieces) + 1)), names_of(found)
    figure = go.Figure()
    shown = {"customdata": names, "hovertemplate": "%{customdata}<br>%{y:.2f}"}
    figure.add_scatter(
        x=x, y=found.strip[which], mode="markers", name="token", marker={"color": GREY, "size": 6}, **shown
    )
    figure.add_scatter(
        x=x, y=found.levels[which], mode="lines", name="last 8", line={"color": BLUE, "width": 3}, **shown
    )
    lines = (
        (found.threshold, "threshold, token", GREY, "dot"),
        (found.alarm_threshold, "alarm, last 8", AMBER, "dash"),
    )
    for threshold, name, colour, dash in lines:
        level = float(threshold[which])
        figure.add_scatter(
            x=[x[0], x[-1]],
            y=[level, level],
            mode="lines",
            name=name,
            line={"color": colour, "dash": dash},
            hovertemplate="%{y:.2f}",
        )
    figure.update_xaxes(title_text="token")
    figure.update_yaxes(title_text="score")
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    figure.update_layout(height=300, margin=look.MARGIN | {"t": 60}, legend=legend)
    return figure


def heat(found: MonitorResult, which: int) -> go.Figure:
    """Draw projections of every token at every block: tokens downwards, blocks to the right."""
    values, count = found.heat[which], len(found.pieces)
    step = math.ceil(count / MOST_LABELS)
    end = reach(values)
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=found.blocks,
            y=list(range(1, count + 1)),
            customdata=[[name] * len(found.blocks) for name in names_of(found)],
            hovertemplate="%{customdata}<br>block %{x}<br>%{z:.3f} residual norms<extra></extra>",
            colorscale=SCALE,
            zmin=-end,
            zmax=end,
            colorbar={"orientation": "h", "y": 1, "yanchor": "bottom", "thickness": 10},
        )
    )
    ticks = list(range(1, count + 1, step))
    figure.update_yaxes(
        autorange="reversed", tickvals=ticks, ticktext=[spell(found.pieces[i - 1]) for i in ticks], title_text=None
    )
    figure.update_xaxes(title_text="block")
    figure.update_layout(height=min(max(15 * count + 120, 320), 1500), margin=look.MARGIN | {"t": 60})
    return figure


def draw(figure: go.Figure, key: str) -> None:
    """Put a figure on the page."""
    st.plotly_chart(figure, config=look.PLOTLY, key=key)
