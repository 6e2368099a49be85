"""Exhibit c1: gradient descent's sharpness climbs to 2/η and hovers there (Cohen et al. 2021), as a central flow says.

A tanh network with one hidden layer learns a Chebyshev polynomial from 20 points by full-batch gradient descent. Torch
trains it, on the chosen device; flows and sharpness are `central_flow`'s, on the CPU.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm_core.exhibit_params import Value
from lm_core.exhibit_results import Curve, Outcome, Panel, Role
from lm_core.mechanics.central_flow import (
    Flow,
    arrival,
    expand,
    first_eigenvectors,
    follow,
    predicted_loss,
    top_eigenpairs,
)

POINTS = 20
MEASURE_EVERY = 20  # steps between two measurements of the sharpness
REPORT_EVERY = 200
BINS = 100
BURSTS = 3_000  # steps past the edge below which a mean over the bursts, some 1,500 steps each, is not settled
DIVERGED = 1e6

Report = Callable[[float, str, Sequence[Panel] | None], None]


class Descent(NamedTuple):
    """Gradient descent so far: loss and sharpness before each step [steps], NaN where not reached or not measured."""

    done: int
    loss: np.ndarray
    sharpness: np.ndarray
    diverged: bool = False


def chebyshev(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 20 evenly spaced x in [−1, 1] and the Chebyshev polynomial T_degree(x) (Cohen et al. 2021)."""
    x = np.linspace(-1, 1, POINTS)
    return x, np.cos(degree * np.arccos(x))


def draw_weights(width: int, seed: int) -> np.ndarray:
    """Draw weights [3h + 1], uniform within ±1/√(a layer's inputs), torch's usual start."""
    uniform = torch.rand(3 * width + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * uniform - 1).numpy() / np.repeat([1, math.sqrt(width)], [2 * width, width + 1])


def train_step(vector: Tensor, points: Tensor, targets: Tensor, rate: float) -> Tensor:
    """Take one step of gradient descent on weights [P] in place; return the loss before it."""
    (w, b, a), c, column = vector[:-1].view(3, -1), vector[-1], points[:, None]
    # tanh; torch's own would wake all of the processor's threads for these few numbers.
    hidden = torch.sigmoid(2 * (column * w + b)) * 2 - 1
    residual = (hidden * a).sum(1) + c - targets
    loss = residual.square().mean() / 2
    scaled = (rate / len(points)) * residual[:, None]
    back = scaled * a * (1 - hidden.square())
    w -= (column * back).sum(0)
    b -= back.sum(0)
    a -= (scaled * hidden).sum(0)
    c -= scaled.sum()
    return loss


def descend(
    weights: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    rate: float,
    steps: int,
    device: torch.device,
    on_progress: Callable[[Descent], None] = lambda _: None,
) -> Descent:
    """Train by full-batch gradient descent on `device`, to the end or until it diverges.

    Args:
        on_progress: gets the run so far every `REPORT_EVERY` steps; may raise to cancel.

    Cost: about 20 operations on [n, h] a step; the time goes into starting them.
    """
    dtype = torch.float32 if device.type == "mps" else torch.float64
    points, targets, vector = (torch.tensor(part, dtype=dtype, device=device) for part in (x, y, weights))
    losses = torch.empty(steps, dtype=dtype, device=device)
    loss, sharpness = np.full((2, steps), np.nan)
    vectors = first_eigenvectors(expand(weights, x, y), x)
    for done in range(steps):
        if done % MEASURE_EVERY == 0 or done < MEASURE_EVERY:
            local = expand(vector.cpu().numpy().astype(np.float64), x, y)
            if not local.loss < DIVERGED:
                loss[:done] = losses[:done].cpu().numpy()
                return Descent(done, loss, sharpness, diverged=True)
            values, vectors = top_eigenpairs(local, x, vectors, 2)
            sharpness[done] = values[0]
        if done % REPORT_EVERY == 0:
            loss[:done] = losses[:done].cpu().numpy()
            on_progress(Descent(done, loss, sharpness))
        losses[done] = train_step(vector, points, targets, rate)
    return Descent(steps, losses.cpu().numpy().astype(np.float64), sharpness)


def running_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the values so far, at each of them."""
    return np.cumsum(values) / np.arange(1, len(values) + 1)


def dotted(name: str, role: Role, step: np.ndarray, values: np.ndarray) -> list[Curve]:
    """Return a curve through about a hundred of the values that are finite, none if none is."""
    there = np.flatnonzero(np.isfinite(values))
    picked = there[np.unique(np.linspace(0, len(there) - 1, BINS).astype(int))] if len(there) else there
    return [Curve.of(name, role, step[picked], values[picked], joined=True)] if len(there) else []


def binned(name: str, values: np.ndarray, count: int) -> list[Curve]:
    """Return an experiment's curve: mean, minimum and maximum in a hundredth of the run each, none without values.

    A run of fewer steps than that is drawn step by step.
    """
    width = max(1, len(values) // BINS) if count >= len(values) // BINS else 1
    parts = [(start, values[start : min(start + width, count)]) for start in range(0, count, width)]
    kept = [(start + width / 2, part[np.isfinite(part)]) for start, part in parts if np.isfinite(part).any()]
    if not kept:
        return []
    middle, mean, low, high = np.array([(at, part.mean(), part.min(), part.max()) for at, part in kept]).T
    return [Curve.of(name, "experiment", middle, mean, low=low, high=high, joined=True)]


def panels(rate: float, central: Flow, gradient: Flow, descent: Descent) -> tuple[Panel, ...]:
    """Draw what there is of the three runs: sharpness, loss, and mean losses from where the flow reaches 2/η."""
    sharp = dotted("central flow", "prediction", central.step, central.sharpness)
    sharp += dotted("gradient flow", "reference", gradient.step, gradient.sharpness)
    loss = dotted("central flow, mean loss", "prediction", central.step, predicted_loss(central, rate))
    loss += dotted("gradient flow", "reference", gradient.step, gradient.loss)
    sharp += binned("gradient descent", descent.sharpness, descent.done)
    loss += binned("gradient descent", descent.loss, descent.done)
    drawn = [
        Panel(
            "Sharpness",
            "step",
            "largest eigenvalue of the Hessian",
            tuple(sharp),
            "Gradient descent's sharpness, mean and range in each hundredth of the run, rises to 2/η and hovers there "
            "with the central flow; gradient flow, without a step size, goes on rising.",
            level=2 / rate,
            level_name="2/η",
        ),
        Panel(
            "Loss",
            "step",
            "loss ½ mean (f − y)²",
            tuple(loss),
            "Gradient descent's loss, mean and range in each hundredth of the run, comes in bursts once the sharpness "
            "is at 2/η; the central flow predicts the mean over them, not a burst.",
            y_log=True,
        ),
    ]
    edge = arrival(central, rate)
    if edge is None or descent.done <= edge:
        return tuple(drawn)
    window, steps = central.step >= edge, np.arange(edge, descent.done)
    means = dotted("gradient descent", "experiment", steps, running_mean(descent.loss[edge : descent.done]))
    means += dotted(
        "central flow", "prediction", central.step[window], running_mean(predicted_loss(central, rate)[window])
    )
    means += dotted("gradient flow", "reference", gradient.step[window], running_mean(gradient.loss[window]))
    caption = (
        f"Loss averaged from step {edge:,}, where the central flow reaches 2/η, up to each step; bursts of some "
        "1,500 steps even out."
    )
    return *drawn, Panel("Mean loss at the edge", "step", "mean loss since the edge", tuple(means), caption)


def scores(rate: float, central: Flow, gradient: Flow, descent: Descent) -> dict[str, float | None]:
    """Compare gradient descent with both flows from where the central flow reaches 2/η; None where it doesn't."""
    names = "plateau / (2/η)", "mean loss error", "gradient flow's mean loss error", "second eigenvalue / (2/η)"
    edge = arrival(central, rate)
    if edge is None or descent.diverged or descent.done - edge < MEASURE_EVERY:
        return dict.fromkeys(names)
    window, loss = central.step >= edge, descent.loss[edge:].mean()
    figures = (
        descent.sharpness[::MEASURE_EVERY][math.ceil(edge / MEASURE_EVERY) :].mean() * rate / 2,
        predicted_loss(central, rate)[window].mean() / loss - 1,
        gradient.loss[window].mean() / loss - 1,
        central.second[window].max() * rate / 2,
    )
    return {name: float(f) if math.isfinite(f) else None for name, f in zip(names, figures, strict=True)}


def verdict(rate: float, central: Flow, descent: Descent, found: Mapping[str, float | None]) -> str:
    """Say what the sharpness and the mean loss did."""
    start, top = (descent.sharpness[0] * rate / 2, np.nanmax(descent.sharpness) * rate / 2)
    edge, done = arrival(central, rate), descent.done
    if descent.diverged:
        return (
            f"Gradient descent diverged within {done:,} steps: its sharpness started at {start:.2f} × 2/η, and nothing "
            "holds it above the edge; choose a smaller η or a narrower network."
        )
    plateau, error, other, _ = found.values()
    if edge is None or plateau is None:
        return (
            f"Sharpness got to {top:.2f} × 2/η in {done:,} steps, too late for a plateau to score; choose a larger η "
            "or more steps."
        )
    if error is None or other is None:
        return f"The central flow could not be solved from a sharpness of {start:.2f} × 2/η; choose a smaller η."
    text = (
        f"From step {edge:,} on sharpness averages {plateau:.3f} × 2/η, and the central flow's mean loss is off by "
        f"{error:+.1%}, gradient flow's by {other:+.1%}"
    )
    if start > 1:
        lowest = np.nanmin(descent.sharpness) * rate / 2
        return (
            f"{text}; sharpness started at {start:.2f} × 2/η, above the edge, and was thrown down to "
            f"{lowest:.2f} × 2/η (a catapult), which a flow of small oscillations does not describe."
        )
    if done - edge < BURSTS:
        return f"{text}; only {done - edge:,} steps are past the edge, too few to average over bursts."
    return f"{text}."


def run(values: Mapping[str, Value], seed: int, device: torch.device, report: Report) -> Outcome:
    """Solve both flows, then train by gradient descent from the same weights."""
    rate, width, degree, steps = float(values["eta"]), int(values["width"]), int(values["degree"]), int(values["steps"])
    start = draw_weights(width, seed), *chebyshev(degree), rate, steps
    central = follow(*start, central=True, on_progress=lambda share: report(0.2 * share, "Central flow", None))
    gradient = follow(*start, central=False, on_progress=lambda share: report(0.2 + 0.2 * share, "Gradient flow", None))

    def grow(descent: Descent) -> None:
        drawn = panels(rate, central, gradient, descent) if descent.done % (5 * REPORT_EVERY) == 0 else None
        share = 0.4 + 0.6 * descent.done / steps
        report(share, f"Gradient descent, step {descent.done:,} of {steps:,}", drawn)

    descent = descend(*start, device, grow)
    found = scores(rate, central, gradient, descent)
    facts = {
        "weights": 3 * width + 1,
        "points": POINTS,
        "steps done": descent.done,
        "2/η": float(f"{2 / rate:.5g}"),
        "sharpness at the start": float(f"{descent.sharpness[0]:.5g}"),
        "central flow at 2/η from step": arrival(central, rate),
    }
    text = verdict(rate, central, descent, found)
    return Outcome(panels(rate, central, gradient, descent), found, text, facts=facts, diverged=descent.diverged)
