"""The concept lab's figures: what a block tells, how alike directions are, what an AGOP holds, effect and fluency."""

from collections.abc import Mapping

import plotly.graph_objects as go

from lm_core.lab_results import CompareResult, CurvePoint, HeldOut
from pages.components.exhibit_figures import COLOURS, SYMBOLS
from pages.components.lab_common import SHORT_METHODS, key_label
from pages.components.look import BLUE, GREY, MARGIN

DASHES = {"response": "solid", "last": "dot"}
LEGEND = {"orientation": "h", "y": -0.2, "yanchor": "top", "font": {"size": 12}}


def by_block(tested: HeldOut) -> go.Figure:
    """Plot each block's held-out figure with its interval; the first block has no direction."""
    blocks = list(range(1, len(tested.by_block)))
    figure = go.Figure()
    figure.add_scatter(
        x=[*blocks, *reversed(blocks)],
        y=[*tested.high[1:], *reversed(tested.low[1:])],
        fill="toself",
        fillcolor=BLUE,
        opacity=0.18,
        line={"width": 0},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=blocks,
        y=tested.by_block[1:],
        customdata=list(zip(tested.low[1:], tested.high[1:], strict=True)),
        mode="lines+markers",
        line={"color": BLUE},
        hovertemplate="block %{x}: %{y:.3f} (%{customdata[0]:.3f} … %{customdata[1]:.3f})<extra></extra>",
    )
    figure.update_layout(showlegend=False)
    return _block_axes(figure, tested.measure)


def side_by_side(result: CompareResult) -> go.Figure | None:
    """Plot the held-out figure of every method and site by block; None where nothing was held out."""
    tested = {key: one for key, one in result.held_out.items() if one is not None}
    figure = go.Figure()
    for key, one in tested.items():
        figure.add_scatter(
            x=list(range(1, len(one.by_block))),
            y=one.by_block[1:],
            customdata=list(zip(one.low[1:], one.high[1:], strict=True)),
            name=key_label(key, len(_sites(result))),
            mode="lines+markers",
            hovertemplate="block %{x}: %{y:.3f} (%{customdata[0]:.3f} … %{customdata[1]:.3f})",
            **_style(key),
        )
    if not tested:
        return None
    figure.update_layout(legend=LEGEND)
    return _block_axes(figure, next(iter(tested.values())).measure, 420)


def _block_axes(figure: go.Figure, measure: str, height: int = 320) -> go.Figure:
    chance = 0.5 if measure == "AUROC" else 0.0
    figure.add_hline(chance, line={"color": GREY, "dash": "dash", "width": 1.2}, annotation_text="chance")
    figure.update_xaxes(title="block")
    figure.update_yaxes(title=f"held-out {measure}")
    figure.update_layout(height=height, margin=MARGIN)
    return figure


def cosine_map(result: CompareResult) -> go.Figure:
    """Plot the cosines between directions as a map with the figures written in."""
    names = [key_label(key, len(_sites(result))) for key in result.keys]
    figure = go.Figure(
        go.Heatmap(
            z=result.cosines,
            x=names,
            y=names,
            zmin=-1,
            zmax=1,
            colorscale="RdBu",
            texttemplate="%{z:.2f}",
            hovertemplate="%{y} with %{x}: %{z:.3f}<extra></extra>",
            colorbar={"thickness": 10},
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=140 + 34 * len(names), margin=MARGIN)
    return figure


def spectrum(spectra: Mapping[str, list[list[float]]], block: int) -> go.Figure:
    """Plot the largest eigenvalues of the AGOP at a block, one set of bars a site."""
    figure = go.Figure()
    for place, (site, blocks) in enumerate(spectra.items()):
        shares = blocks[block]
        figure.add_bar(
            x=list(range(1, len(shares) + 1)),
            y=shares,
            name={"response": "mean over the response", "last": "last prompt token"}[site],
            marker={"color": COLOURS[place], "pattern": {"shape": ("", "/")[place % 2]}},
            hovertemplate="%{x}: %{y:.3f}",
        )
    figure.update_xaxes(title="eigenvalue, largest first", dtick=1)
    figure.update_yaxes(title="share of their sum", range=[0, 1])
    figure.update_layout(height=300, margin=MARGIN, legend=LEGEND | {"y": -0.3}, showlegend=len(spectra) > 1)
    return figure


def effect_against_fluency(result: CompareResult) -> go.Figure:
    """Plot a curve a method and site through its strengths, beside the random control and the prompted baseline."""
    figure = go.Figure()
    sites = len(_sites(result))
    for key, points in result.curves.items():
        _curve(figure, points, key_label(key, sites), **_style(key))
    grey = {"color": GREY, "width": 1.5, "dash": "dash"}
    _curve(figure, result.random, "random direction", line=grey, marker={"color": GREY, "symbol": "x", "size": 7})
    for name, point, symbol in (("unsteered", result.unsteered, "star"), ("prompted", result.prompted, "diamond-open")):
        _curve(figure, [point], name, marker={"color": GREY, "symbol": symbol, "size": 14})
    figure.update_xaxes(title=f"effect, {result.unit}")
    figure.update_yaxes(title="surprise, nats per token")
    figure.update_layout(height=460, margin=MARGIN, legend=LEGEND, hovermode="closest")
    return figure


def _curve(figure: go.Figure, points: list[CurvePoint], name: str, **style) -> None:
    figure.add_scatter(
        x=[one.effect for one in points],
        y=[one.nll for one in points],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [one.interval[1] - one.effect for one in points],
            "arrayminus": [one.effect - one.interval[0] for one in points],
            "thickness": 0.8,
            "width": 2,
        },
        customdata=[(100 * one.strength, 100 * one.fluent) for one in points],
        name=name,
        mode="lines+markers" if len(points) > 1 else "markers",
        hovertemplate="strength %{customdata[0]:.2g} %: effect %{x:.3g}, %{y:.2f} nats, "
        "%{customdata[1]:.0f} % of the texts fluent",
        **style,
    )


def _style(key: str) -> dict:
    """Return a method's colour and mark, and its site's dash."""
    method, site = key.split(".")
    place = list(SHORT_METHODS).index(method)
    colour = COLOURS[place]
    return {
        "line": {"color": colour, "dash": DASHES[site], "width": 1.8},
        "marker": {"color": colour, "symbol": SYMBOLS[place], "size": 7},
    }


def _sites(result: CompareResult) -> set[str]:
    return {key.split(".")[1] for key in result.keys}
