"""What stands under the three columns: film strip, is it linear, do the concepts interfere, what is known, export."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from plotly.subplots import make_subplots

from lm_core import run_llm
from lm_core.concepts import ConceptFacts, choosable
from lm_core.steer_params import SteerParams
from pages.components import look

PLOTLY = {"displaylogo": False, "showSendToCloud": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
MARGIN = {"l": 10, "r": 10, "t": 30, "b": 10}
BLUE, AMBER, GREY = "#5b78f0", "#d9822b", "#8a93a5"  # each readable on white and on the dark page
LINEAR = 0.9  # R² below which the first-order prediction counts as failed


def percent(strength: float, digits: int = 1) -> str:
    """Spell a strength as people read it: +3.0 %."""
    return f"{100 * strength:+.{digits}f} %".replace("-", "−")


def spell_strengths(params: SteerParams) -> str:
    """Name every concept of an answer with its strength."""
    shipped = choosable()
    pairs = zip(params.concepts, params.strengths, strict=True)
    return ", ".join(f"{shipped[name].name} {percent(strength)}" for name, strength in pairs)


def which_prompt(made_with: SteerParams, now: SteerParams) -> None:
    """Say what prompt a figure was made for, where it is no longer the present one."""
    if made_with.prompt != now.prompt:
        st.text(f"Made for another prompt: “{made_with.prompt}”")


# The film strip


def film_strip(sweep: run_llm.SweepResult) -> None:
    """Show the texts of a sweep side by side, from the most negative strength to the most positive."""
    with st.grid(7, min_column_width=108, gap="xsmall", border=True, key="film_cards") as grid:
        for strength, text, reading in zip(sweep.strengths, sweep.texts, sweep.metrics, strict=True):
            with grid.cell():
                st.markdown(f"**{percent(strength)}**" + (" · :red[collapsed]" if reading["collapsed"] else ""))
                st.text(text or "(nothing)")


def effect_chart(sweep: run_llm.SweepResult, params: SteerParams, concept: str) -> None:
    """Plot the judge's verdict and the fluency of a sweep against strength."""
    x = [100 * strength for strength in sweep.strengths]
    judged = [reading["judge"].get(concept) for reading in sweep.metrics]  # a rating is not read off a text
    collapsed = [bool(reading["collapsed"]) for reading in sweep.metrics]
    symbols = ["x" if each else "circle" for each in collapsed]
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.12)
    fluency = [reading["nll"] for reading in sweep.metrics]
    for row, (y, title) in enumerate(((judged, sweep.unit), (fluency, "nats per token")), 1):
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+markers",
            marker={"symbol": symbols, "size": 9},
            line={"color": (BLUE, AMBER)[row - 1]},
            hovertemplate="%{x:+.1f} %: %{y:.3g}<extra></extra>",
            row=row,
            col=1,
        )
        figure.update_yaxes(title_text=title, row=row, col=1)
    figure.update_xaxes(title_text="strength, % of the residual norm", row=2, col=1)
    figure.update_layout(height=360, margin=MARGIN, showlegend=False)
    st.plotly_chart(figure, config=PLOTLY, key="effect_chart")
    others = ", the other concepts as on their sliders" if len(params.concepts) > 1 else ""
    look.figure_caption(
        f"{choosable()[concept].name} at seven strengths{others}, one answer each, seed {params.seed}. Above: what the "
        "judge counts; below: negative log-likelihood under the unsteered model, lower is more fluent. A cross marks a "
        "collapsed text. One answer a point: an illustration, not a measurement."
    )


# Is it linear?


def linear_charts(linear: run_llm.LinearResult, params: SteerParams) -> None:
    """Plot predicted against measured change of the next-token logits, and how far the prediction holds."""
    left, right = st.columns(2, gap="large")
    with left:
        scatter(linear)
        look.figure_caption(
            f"Each dot is a candidate for the first token, with {spell_strengths(params)}: the change of its logit "
            f"predicted to first order, Σ εn⟨∂logit/∂h, v⟩ over concepts and steered blocks with n the block's typical "
            f"residual norm, against the measured change; R² = {linear.r2:.3f}. Only the first token: later ones "
            "follow another text."
        )
    with right:
        r2_curve(linear)
        where = "it holds over the whole range shown"
        if linear.breaks_at is not None:
            below = "at or below" if linear.breaks_at == linear.strengths[0] else "at"
            where = f"it breaks {below} ε* = {percent(linear.breaks_at)} of the residual norm, all concepts together"
        look.figure_caption(
            f"R² of that prediction as the strength grows, in the same proportions; where R² < {LINEAR} it counts as "
            f"failed: {where}. A negative R² is drawn at 0."
        )


def scatter(linear: run_llm.LinearResult) -> None:
    """Plot the candidates, with the line on which prediction and measurement agree."""
    ends = [float(min(np.min(linear.predicted), np.min(linear.measured)))]
    ends.append(float(max(np.max(linear.predicted), np.max(linear.measured))))
    figure = go.Figure(go.Scatter(x=ends, y=ends, mode="lines", line={"dash": "dot", "color": GREY}, hoverinfo="skip"))
    figure.add_scatter(
        x=linear.predicted,
        y=linear.measured,
        mode="markers",
        marker={"color": BLUE, "size": 8},
        text=[html.escape(repr(piece)) for piece in linear.pieces],
        hovertemplate="%{text}<br>predicted %{x:.3f}<br>measured %{y:.3f}<extra></extra>",
    )
    figure.update_layout(
        height=320,
        margin=MARGIN,
        showlegend=False,
        xaxis_title="predicted change of the logit",
        yaxis_title="measured change of the logit",
    )
    st.plotly_chart(figure, config=PLOTLY, key="linear_scatter")


def r2_curve(linear: run_llm.LinearResult) -> None:
    """Plot R² against strength with ε* marked."""
    x = [100 * strength for strength in linear.strengths]
    figure = go.Figure(go.Scatter(x=x, y=np.clip(linear.r2_curve, 0, 1), mode="lines+markers", line={"color": BLUE}))
    figure.add_hline(
        LINEAR,
        line={"dash": "dot", "color": GREY},
        annotation_text=f"R² = {LINEAR}",
        annotation_position="bottom right",
    )
    if linear.breaks_at is not None:
        figure.add_scatter(
            x=[100 * linear.breaks_at] * 2,
            y=[0, 1.03],
            mode="lines+text",
            line={"dash": "dash", "color": AMBER},
            text=["", "ε*"],
            textposition="middle right",
            hoverinfo="skip",
        )
    figure.update_layout(
        height=320, margin=MARGIN, xaxis_title="strength, % of the residual norm", yaxis_title="R²", showlegend=False
    )
    figure.update_xaxes(type="log", tickvals=[0.2, 0.5, 1, 2, 5, 10, 20, 50, 100])
    figure.update_yaxes(range=[0, 1.05])
    st.plotly_chart(figure, config=PLOTLY, key="linear_curve")


# Do the concepts interfere?


def cosine_map(cosines: np.ndarray, chosen: Sequence[str]) -> None:
    """Draw the cosine matrix of the chosen concepts' directions; the figures stand in it."""
    labels = [html.escape(choosable()[name].name) for name in chosen]
    figure = go.Figure(
        go.Heatmap(
            z=cosines,
            x=labels,
            y=labels,
            zmin=-1,
            zmax=1,
            colorscale=[[0, "#e0a052"], [0.5, "#f4f6fb"], [1, "#8ea2f2"]],
            text=[[f"{value:+.2f}".replace("-", "−") for value in row] for row in cosines],
            texttemplate="%{text}",
            textfont={"color": "#0a0f1e"},
            showscale=False,
            xgap=3,
            ygap=3,
            hovertemplate="%{x} · %{y}: %{z:+.3f}<extra></extra>",
        )
    )
    figure.update_layout(height=120 + 48 * len(labels), margin=MARGIN, width=160 + 90 * len(labels))
    figure.update_yaxes(autorange="reversed")
    st.plotly_chart(figure, config=PLOTLY, key="cosine_map", width="content")
    look.figure_caption(
        "Cosine between the concepts' directions, averaged over the blocks that both steer: near 0 they hardly touch "
        "each other, near +1 one slider does the other's work. Alike in direction need not mean alike in effect."
    )


# What is known


def facts_table(known: dict[str, ConceptFacts | None]) -> None:
    """Tabulate what was measured of the chosen concepts, failures too."""
    shipped = choosable()
    measured = [(name, each) for name, each in known.items() if each is not None]
    for name in (shipped[name].name for name, each in known.items() if each is None):
        st.markdown(f"**{name}**: not measured with this method, site and model.")
    if measured:
        labels = [shipped[name].name + " (calibration only)" * (not each.evaluated) for name, each in measured]
        columns: dict[str, list[str]] = {"concept": labels}
        for column in ("unsteered", "asked in words", "random direction", "steered"):
            key = {"asked in words": "prompted", "random direction": "random"}.get(column, column)
            columns[column] = [figure(each.effect.get(key)) for _, each in measured]
        columns["95 % interval"] = [interval(each.effect.get("interval")) for _, each in measured]
        columns["usable"] = [band(each) for _, each in measured]
        columns["unit"] = [each.unit for _, each in measured]
        st.table(columns)
    look.figure_caption(
        "Means over held-out prompts, in the judge's unit. Random direction: steered along a random direction of the "
        "same norm. The interval is a 95 % bootstrap of the weaker of the two differences, steered − unsteered and "
        "steered − random; where it includes 0 the concept does not work here, and the page says so. Rows without an "
        "interval come from calibration: three or four prompts, the best of the strengths swept."
    )


def figure(value: Any) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def interval(ends: Sequence[float] | None) -> str:
    return f"[{figure(ends[0])}, {figure(ends[1])}]" if ends else "–"


def band(known: ConceptFacts) -> str:
    if not known.works or not known.band:
        return "no usable band on this model"
    return f"{percent(known.band[0])} to {percent(known.band[1])}"


# Export


def export_menu(params: SteerParams) -> None:
    """Offer the directions of a chosen concept as files."""
    with st.popover("Export directions", icon=":material/download:"):
        shipped = choosable()
        concept = st.selectbox(
            "Concept", params.concepts, format_func=lambda name: shipped[name].name, key="export_concept"
        )
        for kind, label in (("safetensors", "safetensors"), ("gguf", "GGUF control vector (llama.cpp)")):
            st.download_button(
                label,
                lambda kind=kind: run_llm.export(params, kind, concept),
                f"{concept}-{params.method}-{params.site}.{kind}",
                key=f"export_{kind}",
                on_click="ignore",
                width="stretch",
            )
        look.figure_caption(
            "safetensors holds unit vectors, the blocks' typical residual norms and the model's hash; GGUF holds "
            "vector × norm, so that llama.cpp's scale is the strength here (0.03 for 3 %)."
        )
