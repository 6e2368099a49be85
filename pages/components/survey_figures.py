"""The figures of "Theory vs network": distributions over seeds, what they depend on, memorising, calibration.

Builders return plotly figures or plain tables; only the functions that start with `show_` draw.
"""

import csv
import html
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from lm_core import run, survey
from lm_core.survey import Survey, bootstrap_median
from pages.components import look
from pages.components.look import AMBER, BLUE, GREY, MARGIN, PLOTLY
from pages.components.survey_controls import (
    DATASETS,
    FIGURES,
    Chosen,
    long_name,
    machines_of,
    predictors,
    short_name,
)

DARK, RED, CYAN = "#0a0f1e", "#e03131", "#2ec4ff"  # over the map of cosines, which is yellow, grey and dark blue
COLOURS = {
    "bbels": BLUE,
    "els": "#7f9a1f",
    "ls": "#2a9d8a",
    "es": "#a66bd0",
    "is": "#d05a75",
    "network": AMBER,
}
LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0, "itemclick": False, "itemdoubleclick": False}
SPREAD = 0.13  # half the height of a strip of points, in rows
BELOW = 0.24  # how far under its row's line a strip lies
ABOVE = -0.3  # and that of the live seeds, clear of the others

Rows = Sequence[dict[str, Any]]


def number(value: float, digits: int = 2) -> str:
    """Spell a figure: two decimals and a proper minus; a dash where there is none."""
    return "–" if np.isnan(value) else f"{value:z.{digits}f}".replace("-", "−")


def span(found: tuple[float, float, float]) -> str:
    """Spell a median with its interval."""
    return f"{number(found[0])} [{number(found[1])}, {number(found[2])}]"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def rgba(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def colour_of(who: str) -> str:
    """Return the colour of a machine; other networks are grey."""
    return COLOURS.get(who, GREY)


@st.cache_data(max_entries=400, show_spinner=False)
def median_of(values: tuple[float, ...]) -> tuple[float, float, float]:
    """Return a median with its bootstrap interval; remembered, for the page asks at every run."""
    return bootstrap_median(np.array(values))


def median(found: Survey, who: str, network_steps: int, figure: str) -> tuple[float, float, float]:
    """Return a survey's median with its interval."""
    return median_of(tuple(found.scores(who, network_steps, figure).tolist()))


def published(found: Survey, who: str, chosen: Chosen) -> float | None:
    """Return the paper's figure in the visitor's unit: its median r, or that squared; there is none for R²."""
    value = found.published(chosen.network_steps).get(who)
    if value is None or chosen.figure == "R2":
        return None
    return value**2 if chosen.figure == "r2" else value


# -- the distribution over the seeds ----------------------------------------------------------------------------------


def headline(found: Survey, chosen: Chosen) -> str:
    """Say in a sentence or two what the survey found."""
    machines, name = machines_of(found), chosen.figure_name
    first, *rest = [span(median(found, who, chosen.network_steps, chosen.figure)) for who in machines]
    own = long_name(machines[0])
    others = ", ".join(f"{short_name(who)} {text}" for who, text in zip(machines[1:], rest, strict=True))
    return (
        f"Over **{len(found.seeds)} seeds**, {own} predicts the {chosen.network_name} with a median "
        f"**{name} = {first.split()[0]}** {first.partition(' ')[2]}; {others}. {ahead(found, chosen)}"
    )


def ahead(found: Survey, chosen: Chosen) -> str:
    """Say on how many seeds the network's own machine is closer than each of the others."""
    own, *others = machines_of(found)
    best = found.scores(own, chosen.network_steps, chosen.figure)
    counts = [
        f"{short_name(who)} on {int((best > found.scores(who, chosen.network_steps, chosen.figure)).sum())}"
        for who in others
    ]
    return f"It is closer than {', than '.join(counts)} of the {len(best)} seeds." if counts else ""


def conditions(found: Survey, chosen: Chosen) -> str:
    """Say what the machines and the network had."""
    of_class = " of the seed's class" if found.per_seed[0]["label"] is not None else ""
    return (
        f"Each machine had {found.facts['images']:,} training images{of_class} and {found.facts['steps']} steps, the "
        f"network {chosen.network_steps}; both start from the seed's noise. In brackets: 95 % bootstrap intervals."
        + unlike_the_paper(found, chosen)
    )


def unlike_the_paper(found: Survey, chosen: Chosen) -> str:
    """Say how network and machines differ from the paper's, "" where it has no figures or the network isn't ours."""
    facts = run.network_facts(found.dataset, found.network)
    if not facts or not found.published(chosen.network_steps):
        return ""
    return (
        f" This network: {facts['parameters'] / 1e6:.1f} M parameters, {facts['steps']:,} training steps; the paper's "
        "have 2–4 M and 300 epochs, and its machines used all training images."
    )


def distribution(found: Survey, chosen: Chosen, live: Rows = (), live_images: int = 0) -> go.Figure:
    """Plot every seed of every predictor, medians with intervals, the paper's figures, and live seeds as open marks."""
    who, figure = predictors(found), go.Figure()
    for place, name in enumerate(who):
        _cloud(figure, found, chosen, name, place)
    _medians(figure, found, chosen, who)
    _paper(figure, found, chosen, who)
    _live(figure, chosen, who, live, live_images)
    figure.update_layout(
        height=130 + 74 * len(who),
        margin=MARGIN,
        legend=LEGEND,
        hoverlabel={"align": "left"},
        violingap=0,
        clickmode="event+select",
        dragmode=False,
        xaxis_title=f"{chosen.figure_name} with the {chosen.network_name} at {chosen.network_steps} steps",
    )
    figure.update_xaxes(range=_range(found, chosen, who, live), zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(who))),
        ticktext=[short_name(name) for name in who],
        range=[len(who) - 0.45, -0.62],
        zeroline=False,
        showgrid=False,
        fixedrange=True,
    )
    return figure


def _range(found: Survey, chosen: Chosen, who: list[str], live: Rows) -> list[float]:
    """Return the axis: up to 1, down to the lowest value, but never below −1.5, where only R² goes."""
    values = [found.scores(name, chosen.network_steps, chosen.figure) for name in who]
    values += [np.array([_score(row, chosen, name)[0] for row in live]) for name in who if live]
    lowest = float(np.nanmin(np.concatenate(values)))
    return [max(min(lowest - 0.03, 0.5), -1.5), 1.02]


def _score(row: dict[str, Any], chosen: Chosen, who: str) -> tuple[float, dict[str, float]]:
    """Return a row's figure and all three, NaN where they weren't measured."""
    scores = row["scores"].get(str(chosen.network_steps), {}).get(who)
    return (scores[chosen.figure], scores) if scores else (float("nan"), dict.fromkeys(FIGURES, float("nan")))


def _heights(values: np.ndarray, place: int, offset: float = BELOW) -> np.ndarray:
    """Spread points in their strip so that neighbours in value don't cover each other."""
    rank = np.argsort(np.argsort(values))
    return place + offset + SPREAD * (2 * ((rank * 0.618034) % 1) - 1)


def _hover(name: str) -> str:
    return (
        f"{name}<br>seed %{{customdata[0]}}<br>r = %{{customdata[1]:.3f}}, r² = %{{customdata[2]:.3f}}, "
        "R² = %{customdata[3]:.3f}<extra></extra>"
    )


def _custom(rows: Rows, chosen: Chosen, who: str) -> list[list[float]]:
    return [[row["seed"], *(_score(row, chosen, who)[1][name] for name in FIGURES)] for row in rows]


def _cloud(figure: go.Figure, found: Survey, chosen: Chosen, who: str, place: int) -> None:
    """Draw one predictor: its density above the line, its seeds below."""
    values, colour = found.scores(who, chosen.network_steps, chosen.figure), colour_of(who)
    figure.add_violin(
        x=values[~np.isnan(values)],
        y0=place,
        orientation="h",
        side="negative",  # the axis points down
        width=0.9,
        points=False,
        spanmode="hard",
        line={"color": colour, "width": 1},
        fillcolor=rgba(colour, 0.25),
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=values,
        y=_heights(values, place),
        mode="markers",
        marker={"color": colour, "size": 7, "opacity": 0.75},
        selected={"marker": {"size": 12, "opacity": 1}},
        unselected={"marker": {"opacity": 0.4}},
        customdata=_custom(found.per_seed, chosen, who),
        hovertemplate=_hover(long_name(who)),
        showlegend=False,
    )


def _medians(figure: go.Figure, found: Survey, chosen: Chosen, who: list[str]) -> None:
    middle = np.array([median(found, name, chosen.network_steps, chosen.figure) for name in who])
    figure.add_scatter(
        x=middle[:, 0],
        y=list(range(len(who))),
        mode="markers",
        name="median, 95 %",
        marker={"symbol": "diamond", "size": 10, "color": GREY, "line": {"width": 1, "color": DARK}},
        error_x={
            "type": "data",
            "array": middle[:, 2] - middle[:, 0],
            "arrayminus": middle[:, 0] - middle[:, 1],
            "color": GREY,
            "thickness": 3,
            "width": 5,
        },
        unselected={"marker": {"opacity": 1}},
        text=[long_name(name) for name in who],
        customdata=middle,
        hovertemplate="%{text}<br>median %{customdata[0]:.3f}<br>95 %: %{customdata[1]:.3f} to %{customdata[2]:.3f}"
        "<extra></extra>",
    )


def _paper(figure: go.Figure, found: Survey, chosen: Chosen, who: list[str]) -> None:
    marks = [(published(found, name, chosen), place, name) for place, name in enumerate(who)]
    marks = [mark for mark in marks if mark[0] is not None]
    if not marks:
        return
    squared = ", squared" if chosen.figure == "r2" else ""
    figure.add_scatter(
        x=[value for value, _, _ in marks],
        y=[place - 0.16 for _, place, _ in marks],
        mode="markers",
        name=f"the paper's median{squared}",
        marker={"symbol": "x-thin", "size": 13, "line": {"width": 3, "color": AMBER}},
        unselected={"marker": {"opacity": 1}},
        text=[long_name(name) for _, _, name in marks],
        hovertemplate="%{text}<br>published: %{x:.2f}"
        f"<br>median r of 100 seeds{squared}, their network at {chosen.network_steps} steps<extra></extra>",
    )


def _live(figure: go.Figure, chosen: Chosen, who: list[str], live: Rows, images: int) -> None:
    for first, (place, name) in enumerate(enumerate(who)) if live else ():
        values = np.array([_score(row, chosen, name)[0] for row in live])
        figure.add_scatter(
            x=values,
            y=_heights(values, place, ABOVE),
            mode="markers",
            name=f"live, {images:,} images",
            legendgroup="live",
            marker={"symbol": "circle-open", "size": 11, "line": {"width": 2}, "color": colour_of(name)},
            unselected={"marker": {"opacity": 1}},
            customdata=_custom(live, chosen, name),
            hovertemplate=_hover(f"{long_name(name)}, live, {images:,} images"),
            showlegend=first == 0,
        )


def show_distribution(
    found: Survey, chosen: Chosen, live: Rows = (), live_images: int = 0, key: str | None = None
) -> int | None:
    """Draw the distribution; returns the seed that the visitor has clicked, if there is a `key` to click on."""
    figure = distribution(found, chosen, live, live_images)
    if key is None:
        st.plotly_chart(figure, config=PLOTLY, key="distribution_running")
        return None
    event: Any = st.plotly_chart(figure, config=PLOTLY, key=key, on_select="rerun", selection_mode="points")
    points = [point for point in event.selection.points if point.get("customdata")]
    data = points[0]["customdata"] if points else []
    return int(data[0]) if len(data) == 1 + len(FIGURES) else None


def beyond_axis(found: Survey, chosen: Chosen) -> str:
    """Say how many points the axis leaves out, "" if none."""
    low, _ = _range(found, chosen, predictors(found), ())
    out = {who: int((found.scores(who, chosen.network_steps, chosen.figure) < low).sum()) for who in predictors(found)}
    named = [f"{count} of {short_name(who)}" for who, count in out.items() if count]
    return f" Left of the chart: {', '.join(named)}." if named else ""


def table(found: Survey, chosen: Chosen) -> dict[str, list[str]]:
    """Return every predictor's medians in all three figures, the paper's, and its best and worst seed."""
    who, steps = predictors(found), chosen.network_steps
    columns: dict[str, list[str]] = {"predictor": [long_name(name) for name in who]}
    for figure, name in FIGURES.items():
        columns[name] = [span(median(found, each, steps, figure)) for each in who]
    paper = found.published(steps)
    columns["paper, r"] = [number(paper.get(name, float("nan"))) for name in who]
    for title, pick in (("best seed, r", np.nanargmax), ("worst seed, r", np.nanargmin)):
        values = [found.scores(name, steps) for name in who]
        places = [int(pick(each)) for each in values]
        columns[title] = [f"{number(each[at])} (#{found.seeds[at]})" for each, at in zip(values, places, strict=True)]
    return columns


TABLE_STYLE = """
<style>
.lm-scores { overflow-x: auto; border: 1px solid light-dark(#d8deea, #2c3548); border-radius: .5rem; }
.lm-scores:focus-visible { outline: 3px solid light-dark(#2f4fd0, #9db1ff); outline-offset: 2px; }
.lm-scores table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
.lm-scores th, .lm-scores td { padding: .4rem .6rem; text-align: left; white-space: nowrap; font-weight: 400; }
.lm-scores thead th { font-weight: 600; }
.lm-scores tbody tr { border-top: 1px solid light-dark(#eceff5, #222a39); }
.lm-scores tr > :first-child { position: sticky; left: 0; white-space: normal; min-width: 6.5rem;
  background: light-dark(#f4f6fb, #171d29); }
</style>
"""


def show_table(columns: dict[str, list[str]]) -> None:
    """Draw a table whose first column stays in sight on a phone, and which the keyboard can scroll, unlike st.table."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        + "".join(f"<td>{html.escape(value)}</td>" for value in rest)
        + "</tr>"
        for first, *rest in zip(*columns.values(), strict=True)
    )
    st.html(
        f'{TABLE_STYLE}<div class="lm-scores" role="region" tabindex="0" aria-label="Every predictor\'s figures">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


# -- what it depends on -----------------------------------------------------------------------------------------------

GROWTH = {
    "by_images": ("images", "training images of the machine", "log"),
    "by_steps": ("steps", "sampling steps of both", "log"),
    "by_training": ("minutes", "minutes of the network's training", "linear"),
}


def growth_range(charts: Sequence[Rows]) -> list[float]:
    """Return the one axis of r that all of the growth charts share."""
    values = np.concatenate([entry["r"] for entries in charts for entry in entries])
    return [float(np.nanmin(values)) - 0.03, min(float(np.nanmax(values)) + 0.03, 1.01)]


def growth_chart(entries: Rows, what: str, limits: Sequence[float] | None = None) -> go.Figure:
    """Plot r against one thing: the median over seeds, the middle half as a band, every seed as a point."""
    field, title, scale = GROWTH[what]
    x = [entry[field] for entry in entries]
    low, middle, high = np.array([np.nanquantile(entry["r"], [0.25, 0.5, 0.75]) for entry in entries]).T
    figure = go.Figure(
        go.Scatter(
            x=[*x, *x[::-1]],
            y=[*high, *low[::-1]],
            fill="toself",
            fillcolor=rgba(BLUE, 0.2),
            mode="lines",
            line={"width": 0},
            hoverinfo="skip",
        )
    )
    figure.add_scatter(
        x=[at for at, entry in zip(x, entries, strict=True) for _ in entry["r"]],
        y=[value for entry in entries for value in entry["r"]],
        mode="markers",
        marker={"color": GREY, "size": 5, "opacity": 0.7},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=x,
        y=middle,
        mode="lines+markers",
        line={"color": BLUE},
        marker={"size": 8},
        customdata=[_about(entry) for entry in entries],
        hovertemplate="%{customdata}<br>median r = %{y:.3f}<extra></extra>",
    )
    figure.update_layout(height=280, margin=MARGIN, showlegend=False, xaxis_title=title, yaxis_title="r")
    ticks = {"tickvals": x, "ticktext": [_thousands(at) for at in x]} if scale == "log" else {}
    figure.update_xaxes(type=scale, **ticks)
    figure.update_yaxes(range=limits)
    return figure


def made_by(found: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the run that made one part of a growth file: its seeds, images and command, as far as they are known."""
    return found.get("runs", {}).get(what) or {
        name: found[name] for name in ("seeds", "images", "command") if name in found
    }


def made_from(run_facts: dict[str, Any], what: str) -> str:
    """Say over how many seeds and, where they aren't what is varied, training images a growth chart was made."""
    parts = [f"{len(run_facts['seeds'])} seeds"] if "seeds" in run_facts else []
    if what != "by_images" and "images" in run_facts:
        parts.append(f"{run_facts['images']:,} training images for the machine")
    return f" {', '.join(parts)}." if parts else ""


def _thousands(count: float) -> str:
    return f"{count / 1000:g}k" if count >= 1000 else f"{count:g}"


def _about(entry: dict[str, Any]) -> str:
    """Describe one point of a growth chart."""
    parts = []
    if "images" in entry:
        parts.append(f"{entry['images']:,} images")
    if "minutes" in entry:
        parts.append(f"{entry['minutes']:.3g} min")
    if "steps" in entry:
        parts.append(f"{entry['steps']:,} steps")
    if entry.get("loss") is not None:
        parts.append(f"loss {entry['loss']:.4f}")
    return ", ".join(parts) + f"; {len(entry['r'])} seeds"


def trend(entries: Rows, what: str) -> str:
    """Say from what to what the median r goes."""
    field = GROWTH[what][0]
    first, last = entries[0], entries[-1]
    words = {"by_images": "{} training images", "by_steps": "{} steps", "by_training": "{} min of training"}[what]
    ends = [
        words.format(f"{entry[field]:,.4g}" if what == "by_training" else f"{entry[field]:,}")
        for entry in (first, last)
    ]
    return (
        f"From {ends[0]} to {ends[1]} the median r goes from {number(np.nanmedian(first['r']))} to "
        f"{number(np.nanmedian(last['r']))}."
    )


# -- memorising -------------------------------------------------------------------------------------------------------


def distances(found: Survey) -> dict[str, np.ndarray]:
    """Return the distances to the nearest training image: of the network, the machines, and of test images."""
    groups = {
        who: found.nearest(who) for who in ("network", *machines_of(found)) if who in found.per_seed[0]["nearest"]
    }
    test = np.array(found.facts["test_nearest"], dtype=float)
    return groups | ({"test": test} if len(test) else {})


def nearest_names(found: Survey) -> dict[str, str]:
    """Name the groups of `distances`."""
    network = short_name(found.network)
    return {"network": f"{network} (network)", "test": "test images"} | {
        who: short_name(who) for who in found.facts["machines"]
    }


def nearest_chart(found: Survey) -> go.Figure:
    """Plot how far each output is from its nearest training image, beside test images that nobody made."""
    groups, names, figure = distances(found), nearest_names(found), go.Figure()
    for place, (who, values) in enumerate(groups.items()):
        colour = colour_of(who)
        figure.add_violin(
            x=values,
            y0=place,
            orientation="h",
            side="negative",
            width=0.9,
            points=False,
            spanmode="hard",
            line={"color": colour, "width": 1},
            fillcolor=rgba(colour, 0.25),
            hoverinfo="skip",
        )
        seeds = found.seeds if who != "test" else [None] * len(values)
        figure.add_scatter(
            x=values,
            y=_heights(values, place),
            mode="markers",
            marker={"color": colour, "size": 6, "opacity": 0.75},
            text=[f"seed {seed}" if seed is not None else "a test image" for seed in seeds],
            hovertemplate=f"{names[who]}<br>%{{text}}: %{{x:.3f}}<extra></extra>",
        )
        figure.add_scatter(
            x=[float(np.median(values))],
            y=[place],
            mode="markers",
            marker={"symbol": "diamond", "size": 10, "color": GREY, "line": {"width": 1, "color": DARK}},
            hovertemplate=f"{names[who]}<br>median %{{x:.3f}}<extra></extra>",
        )
    figure.update_layout(
        height=90 + 66 * len(groups),
        margin=MARGIN,
        showlegend=False,
        violingap=0,
        xaxis_title="root mean square distance to the nearest training image, on [−1, 1]",
    )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(
        tickvals=list(range(len(groups))),
        ticktext=[names[who] for who in groups],
        range=[len(groups) - 0.45, -0.6],
        showgrid=False,
        zeroline=False,
    )
    return figure


def memorising(found: Survey) -> str:
    """Say in a sentence how far the outputs are from the training images, in medians read out of the data."""
    groups, names = distances(found), nearest_names(found)
    middle = {who: float(np.median(values)) for who, values in groups.items()}
    said = ", ".join(f"{names[who]} {number(value)}" for who, value in middle.items())
    sentence = f"Median distance to the nearest training image: {said}."
    if middle.get("test", 0) > 0:
        sentence += (
            f" The network's images keep {percent(middle['network'] / middle['test'])} of the distance of test images"
        )
        if "is" in middle:
            sentence += f", the ideal score machine's {percent(middle['is'] / middle['test'])}"
        sentence += "; a copy would keep none."
    return sentence


# -- calibration ------------------------------------------------------------------------------------------------------


def calibration_chart(found: dict[str, Any], curve: Sequence[int] | None, short_of_best: bool) -> go.Figure:
    """Plot the cosine of network score and machine score against time and window, with the curves over it.

    Args:
        found: what `calibrate` returns, or has so far: the lowest noise first.
        curve: the published windows, the lowest noise first.
        short_of_best: draw how much less than the step's best each window has; else the cosine itself.
    """
    cosine, steps = np.array(found["cosine"], dtype=float), found.get("steps") or len(found["cosine"])
    t = (1 + np.arange(len(cosine))) / steps
    shown = cosine - np.nanmax(cosine, axis=1, keepdims=True) if short_of_best else cosine
    floor = float(np.nanquantile(shown, 0.1)) if short_of_best else float(np.nanmin(shown))
    figure = go.Figure(
        go.Heatmap(
            x=t,
            y=found["sizes"],
            z=shown.T,
            customdata=cosine.T,
            zmin=min(floor, -1e-4) if short_of_best else floor,
            zmax=0 if short_of_best else 1,
            colorscale="Cividis",
            colorbar={
                "title": {"text": "cosine − the step's best" if short_of_best else "cosine", "side": "top"},
                "orientation": "h",
                "thickness": 10,
                "y": -0.2,
                "yanchor": "top",
                "len": 0.7,
            },
            hovertemplate="t = %{x:.2f}, P = %{y}<br>cosine %{customdata:.4f}<extra></extra>",
        )
    )
    if curve is not None:
        _published_windows(figure, curve)
    _best_windows(figure, t, found["patch_sizes"])
    _receptive_field(figure, found.get("receptive_field") or ())
    figure.update_layout(
        height=500, margin=MARGIN, legend=LEGEND, xaxis_title="time t (1 is noise)", yaxis_title="window P (pixels)"
    )
    figure.update_xaxes(range=[1 + 0.5 / steps, 0.5 / steps], showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    return figure


def _published_windows(figure: go.Figure, curve: Sequence[int]) -> None:
    t = (1 + np.arange(len(curve))) / len(curve)
    figure.add_scatter(
        x=t,
        y=curve,
        mode="lines",
        name="published P",
        line={"color": RED, "width": 4, "dash": "dash"},
        hovertemplate="published<br>t = %{x:.2f}: P = %{y}<extra></extra>",
    )


def _best_windows(figure: go.Figure, t: np.ndarray, sizes: Sequence[int]) -> None:
    figure.add_scatter(
        x=t,
        y=sizes,
        mode="lines+markers",
        name="best P",
        line={"color": "#ffffff", "width": 2},
        marker={"size": 10, "color": "#ffffff", "line": {"width": 2, "color": DARK}},
        hovertemplate="best P, median of the samples<br>t = %{x:.2f}: P = %{y}<extra></extra>",
    )


def _receptive_field(figure: go.Figure, fields: Rows) -> None:
    """Draw the network's own window, 2 · radius + 1, with its quartiles where they were measured."""
    if not fields:
        return
    low, middle, high = np.array(
        [[entry.get(name, entry["radius"]) for name in ("low", "radius", "high")] for entry in fields]
    ).T
    figure.add_scatter(
        x=[entry["t"] for entry in fields],
        y=2 * middle + 1,
        mode="markers",
        name="network's receptive field",
        marker={"symbol": "square", "size": 9, "color": CYAN, "line": {"width": 2, "color": DARK}},
        error_y={"array": 2 * (high - middle), "arrayminus": 2 * (middle - low), "color": CYAN, "width": 3},
        hovertemplate="network's receptive field<br>t = %{x:.2f}: %{y:.3g} pixels<extra></extra>",
    )


def calibration_words(found: dict[str, Any], curve: Sequence[int] | None) -> str:
    """Say how far the best windows are from the published ones and from the network's own receptive field."""
    best = np.array(found["patch_sizes"], dtype=float)
    parts = [f"{len(found['seeds'])} samples, {found['images']:,} training images."]
    if curve is not None and len(curve) == len(best):
        gap = np.abs(best - np.array(curve))
        parts.append(
            f"The best P differs from the published one by {gap.mean():.1f} pixels on average; it is the same in "
            f"{int((gap == 0).sum())} of {len(gap)} steps."
        )
    fields = sorted(found.get("receptive_field") or (), key=lambda entry: entry["t"])
    if fields:
        low, high = fields[0], fields[-1]
        parts.append(
            f"Nine tenths of what moves a pixel of the network lie in a window of {2 * low['radius'] + 1:.3g} pixels "
            f"at t = {low['t']:.2f} and of {2 * high['radius'] + 1:.3g} at t = {high['t']:.2f}; the best P there is "
            f"{best[0]:g} and {best[-1]:g}."
        )
    return " ".join(parts)


# -- downloads --------------------------------------------------------------------------------------------------------


def as_csv(found: Survey) -> str:
    """Return every score of a survey, one line each, with the distance to the nearest training image where known."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["seed", "label", "network_steps", "predictor", *FIGURES, "nearest_id", "nearest_distance"])
    for row in found.per_seed:
        for steps, scores in row["scores"].items():
            for who, figures in scores.items():
                near = row["nearest"].get(who, {})
                facts = [row["seed"], row["label"], steps, who, *(figures[name] for name in FIGURES)]
                writer.writerow([*facts, near.get("id"), near.get("distance")])
    return buffer.getvalue()


def show_downloads(found: Survey) -> None:
    """Offer the survey as files, and the command that makes it anew."""
    name = f"survey-{found.dataset}-{found.network}"
    with st.container(horizontal=True):
        st.download_button(
            "Everything (JSON)", lambda: json.dumps(found.facts), f"{name}.json", key="survey_json", on_click="ignore"
        )
        st.download_button("Scores (CSV)", lambda: as_csv(found), f"{name}.csv", key="survey_csv", on_click="ignore")
        gallery = survey.result_file("survey", found.dataset, found.network, "webp")
        if gallery.exists():
            st.download_button(
                "Gallery (WebP)", gallery.read_bytes, f"{name}.webp", key="survey_webp", on_click="ignore"
            )
    if found.facts["command"]:
        st.code(found.facts["command"], language="bash", wrap_lines=True)
    hashes = ", ".join(f"{name} {value[:12]}" for name, value in found.facts.get("provenance", {}).items())
    look.figure_caption(
        f"{DATASETS.get(found.dataset, found.dataset)}, {long_name(found.network)}. Made by that command in "
        f"{found.facts['seconds']:,.0f} s (less where images were kept from before). {hashes}"
    )
