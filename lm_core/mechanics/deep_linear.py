"""Exhibit a1: gradient descent on a deep linear network learns the target's modes one after another (Saxe et al. 2013).

The network is a product of square matrices W_L … W_1, trained on ½‖Σ − W_L…W_1‖²; its modes are the target's singular
vectors. Each mode's strength is predicted from its strength at the start alone. Inputs are white, so there are no data.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm_core.exhibit_params import Value
from lm_core.exhibit_results import Curve, Outcome, Panel

TARGET = np.array([6.0, 4.0, 3.0, 2.0, 1.0, 0.5])
RATES = (2e-3, 1e-2)  # learning rates: the usual one, and the largest, for plateaus that would take too many steps
MISALIGNED = 0.1  # share of Gaussian noise in each layer of an aligned start
LAYER_UPDATES = 120_000  # most in one run, times 1 + (width/64)³: about 6 s of one core
POINTS = 112
LEARNT = 0.95  # share of its target at which a mode counts as learnt
ASLEEP = 0.1  # share below which a mode must start for its half-time to mean anything
DIVERGED = 1e3  # times the strongest target mode
REGIME = 0.998  # R² below which the verdict says why: the exhibit's tolerance

Report = Callable[[float, str, Sequence[Panel] | None], None]


class Start(NamedTuple):
    """Target modes `left`, `right` [d, 6], orthonormal columns, and the layers [d, d], W_1 first."""

    left: Tensor
    right: Tensor
    layers: list[Tensor]


class Record(NamedTuple):
    """Mode strengths uᵢᵀW_L…W_1vᵢ [6] and loss ½‖Σ − W_L…W_1‖² after `step` steps."""

    step: int
    strengths: np.ndarray
    loss: float


def layer_scale(sigma: float, depth: int, width: int) -> float:
    """Return (σ√d)^{2/L}, the root-mean-square singular value of a layer, so that all products start equally small."""
    return (sigma * math.sqrt(width)) ** (2 / depth)


def draw_orthogonal(width: int, generator: torch.Generator) -> Tensor:
    """Return a random orthogonal matrix [d, d], uniform over the group."""
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def draw_start(kind: str, sigma: float, depth: int, width: int, generator: torch.Generator) -> Start:
    """Draw a target's singular vectors and the layers, float64.

    Args:
        kind: "random": Gaussian entries of standard deviation `layer_scale`/√d, which is σ at depth 2. "aligned":
            W_l = `layer_scale` R_{l+1}R_lᵀ with R_1 = V, R_{L+1} = U and random rotations between them (Saxe et al.
            2013, the decoupled initial conditions), plus a tenth of a random start.
    """
    left, right = (draw_orthogonal(width, generator) for _ in range(2))
    scale, modes = layer_scale(sigma, depth, width), len(TARGET)
    entries = torch.randn(depth, width, width, generator=generator, dtype=torch.float64) / math.sqrt(width)
    if kind == "random":
        layers = list(scale * entries)
    else:
        frames = [right, *(draw_orthogonal(width, generator) for _ in range(depth - 1)), left]
        turns = [after @ before.T for before, after in pairwise(frames)]
        layers = [scale * (turn + MISALIGNED * noise) for turn, noise in zip(turns, entries, strict=True)]
    return Start(left[:, :modes], right[:, :modes], layers)


def start_strengths(start: Start) -> np.ndarray:
    """Return the mode strengths u_i0 [6] that the law starts from, measured before the first step.

    Depth 2: ‖(W₁vᵢ + W₂ᵀuᵢ)/2‖², the growing half of mode i (its other half decays; Saxe et al. 2013). Otherwise the
    product's own strength uᵢᵀW_L…W_1vᵢ, without its sign at depth 3 and above, where a mode below zero never grows.
    """
    left, right, layers = start
    if len(layers) == 2:
        growing = (layers[0] @ right + layers[1].T @ left) / 2
        return growing.square().sum(0).cpu().numpy()
    strengths = (left * (reduce(torch.matmul, reversed(layers)) @ right)).sum(0).cpu().numpy()
    return strengths if len(layers) == 1 else np.abs(strengths)


def law(times: np.ndarray, start: np.ndarray, target: np.ndarray, depth: int) -> np.ndarray:
    """Return the predicted mode strengths [times, modes].

    Saxe et al. 2013: u̇ = L u^{2−2/L}(s − u). Depth 1: s + (u₀ − s)e^{−t}. Depth 2: s/[1 + (s/u₀ − 1)e^{−2st}]. Above:
    `balanced_law`.

    Args:
        times: learning rate × step, ascending; start, target: [modes], start above 0 for depth 2 and more.
    """
    if depth == 1:
        return target + (start - target) * np.exp(-times[:, None])
    if depth == 2:
        return target / (1 + (target / start - 1) * np.exp(-2 * target * times[:, None]))
    pairs = zip(start, target, strict=True)
    return np.stack([balanced_law(times, u0, s, depth) for u0, s in pairs], axis=1)


def balanced_law(times: np.ndarray, start: float, target: float, depth: int) -> np.ndarray:
    """Solve u̇ = L u^{2−2/L}(s − u) from u(0) = start > 0 by quadrature, for a depth of at least 2.

    With y = log(u/|s − u|) it reads ẏ = L s u^{1−2/L}: t(y) is an integral, inverted by interpolation.
    """
    if start == target:
        return np.full_like(times, target)
    side = 1 if start < target else -1
    first = math.log(start / abs(target - start))
    y = np.linspace(first, max(first, 0) + 40, 20_000)  # at the end u is s to round-off
    u = target / (1 + side * np.exp(-y))
    pace = 1 / (depth * target * u ** (1 - 2 / depth))
    t = np.concatenate([[0], np.cumsum((pace[1:] + pace[:-1]) / 2 * np.diff(y))])
    return target / (1 + side * np.exp(-np.interp(times, t, y)))


def plan(sigma: float, depth: int, width: int) -> tuple[float, int]:
    """Return the learning rate and the steps that the weakest mode needs, and a third more, as far as a run may go.

    The time to reach `LEARNT` of s from the nominal strength σ²d is found on the law's own curve.
    """
    weakest = TARGET[-1:]
    floor = 6 / (depth * weakest[0] ** (2 - 2 / depth))  # some relaxation times, for a start near the target
    grid = np.geomspace(floor / 100, 1e7, 4_000)
    missing = np.abs(law(grid, np.array([sigma**2 * width]), weakest, depth)[:, 0] / weakest[0] - 1)
    wanted = max(floor, 1.3 * float(grid[np.argmax(missing < 1 - LEARNT)]))
    most = LAYER_UPDATES / (depth * (1 + (width / 64) ** 3))
    rate = min(max(wanted / most, RATES[0]), RATES[1])
    return rate, math.ceil(min(wanted / rate, most))


def record_steps(steps: int) -> np.ndarray:
    """Return the steps at which strengths are recorded: 0, then evenly spaced in the logarithm up to the last."""
    return np.unique(np.r_[0, np.geomspace(max(1, steps / 150), steps, POINTS - 1).round().astype(int)])


def descend(start: Start, rate: float, steps: Sequence[int] | np.ndarray) -> Iterator[Record | None]:
    """Train by gradient descent; yield a record at each of the ascending `steps`, and None every hundred between.

    Stops after a record that isn't finite or is beyond `DIVERGED`. Cost: 3L products of [d, d] matrices a step.
    """
    left, right, layers = start.left, start.right, [layer.clone() for layer in start.layers]
    target = (left * torch.from_numpy(TARGET).to(left)) @ right.T
    wanted = {int(step) for step in steps}
    for step in range(max(wanted) + 1):
        products = [layers[0]]
        for layer in layers[1:]:
            products.append(layer @ products[-1])
        error = target - products[-1]
        if step in wanted:
            strengths = (left * (products[-1] @ right)).sum(0).double().cpu().numpy()
            loss = float(error.square().sum() / 2)
            yield Record(step, strengths, loss)
            if beyond(loss):
                return
        elif step % 100 == 0:
            yield None
        for place in range(len(layers) - 1, -1, -1):
            gradient = error @ products[place - 1].T if place else error
            error = layers[place].T @ error if place else error
            layers[place] = layers[place].add(gradient, alpha=rate)


def beyond(loss: float) -> bool:
    """Tell whether a run with this loss has diverged."""
    return not loss < (DIVERGED * TARGET[0]) ** 2


def r_squared(prediction: np.ndarray, measured: np.ndarray) -> float | None:
    """Return 1 − Σ(measured − prediction)²/Σ(measured − mean)² over all entries, None where it is undefined."""
    spread = ((measured - measured.mean()) ** 2).sum()
    value = 1 - ((measured - prediction) ** 2).sum() / spread if spread > 0 else math.nan
    return float(value) if math.isfinite(value) else None


def half_times(times: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """Return when each mode [times, modes] first reaches half its target; NaN if it never does or starts awake."""
    found = np.full(len(TARGET), np.nan)
    for mode, share in enumerate((strengths / TARGET).T):
        after = int(np.argmax(share >= 0.5))
        if after and abs(share[0]) < ASLEEP:
            found[mode] = np.interp(0.5, share[after - 1 : after + 1], times[after - 1 : after + 1])
    return found


def panels(times: np.ndarray, records: Sequence[Record], predicted: np.ndarray) -> tuple[Panel, ...]:
    """Draw the strengths and the loss measured so far over the predictions [times, modes] at all times but 0."""
    seen = records[1::2]
    at = times[[1 + 2 * place for place in range(len(seen))]]
    curves = []
    for mode, s in enumerate(TARGET):
        measured = [record.strengths[mode] for record in seen]
        curves.append(Curve.of(f"s = {s:g}, law", "prediction", times[1:], predicted[1:, mode], group=mode))
        curves.append(Curve.of(f"s = {s:g}, network", "experiment", at, measured, group=mode))
    losses = ((TARGET - predicted) ** 2).sum(1) / 2
    staircase = (
        Curve.of("law", "prediction", times[1:], losses[1:]),
        Curve.of("network", "experiment", at, [record.loss for record in seen]),
    )
    return (
        Panel(
            "Mode strengths",
            "time t = learning rate × step",
            "mode strength u",
            tuple(curves),
            "Each mode of the target waits near its start, then goes to its strength s: marks are the trained network, "
            "lines the law, and the time axis is logarithmic.",
            x_log=True,
        ),
        Panel(
            "Loss",
            "time t = learning rate × step",
            "loss ½‖Σ − W‖²",
            staircase,
            "The loss falls in steps, one for each mode; the law leaves out what a start puts outside the modes.",
            x_log=True,
            y_log=True,
        ),
    )


def verdict(values: Mapping[str, Value], score: float | None, measured: np.ndarray, error: float | None) -> str:
    """Say how well the law did, from R², the half-times of modes that have one, and their largest relative error."""
    text = f"R² = {score:.5f} between network and law" if score is not None else "R² is undefined"
    if error is None:
        text += "; no mode both starts near zero and reaches half its strength in this run"
    else:
        order = "all together" if values["depth"] == 1 else "strongest first"
        kept = f", {order}" if values["depth"] == 1 or np.all(np.diff(measured) > 0) else ", but not strongest first"
        text += f"; {len(measured)} of {len(TARGET)} modes start near zero and reach half their strength{kept}, "
        text += f"within {error:.2%} of the predicted times"
    if score is None or score >= REGIME:
        return f"{text}."
    if int(values["depth"]) > 2 and values["start"] == "random":
        return f"{text}. From three layers on the law needs an aligned start."
    return f"{text}. So large a start learns before its layers have aligned with the target: choose a smaller σ."


def run(values: Mapping[str, Value], seed: int, device: torch.device, report: Report) -> Outcome:
    """Train a deep linear network and predict its mode strengths."""
    sigma, depth, width = float(values["sigma"]), int(values["depth"]), int(values["width"])
    drawn = draw_start(str(values["start"]), sigma, depth, width, torch.Generator().manual_seed(seed))
    dtype = torch.float32 if device.type == "mps" else torch.float64
    layers = [layer.to(device, dtype) for layer in drawn.layers]
    start = Start(drawn.left.to(device, dtype), drawn.right.to(device, dtype), layers)
    (rate, steps), initial = plan(sigma, depth, width), start_strengths(drawn)
    marks = record_steps(steps)
    times = rate * marks
    predicted = law(times, initial, TARGET, depth)
    records: list[Record] = []
    report(0.0, f"Training {depth} layers of {width} × {width}", panels(times, records, predicted))
    for record in descend(start, rate, marks):
        records += [record] if record else []
        grown = panels(times, records, predicted) if record and len(records) % 16 == 0 else None
        report(records[-1].step / steps, f"Step {records[-1].step:,} of {steps:,}", grown)
    facts = {
        "steps": steps,
        "learning rate": rate,
        "target strengths": TARGET.tolist(),
        "start strengths": [float(f"{value:.5g}") for value in initial],
    }
    return compare(values, times, records, predicted, facts)


def compare(
    values: Mapping[str, Value],
    times: np.ndarray,
    records: Sequence[Record],
    predicted: np.ndarray,
    facts: dict[str, Any],
) -> Outcome:
    """Score records at the first of `times` against the law's strengths [times, modes]."""
    plots = panels(times, records, predicted)
    if beyond(records[-1].loss):
        text = f"Training diverged by step {records[-1].step:,}: choose a smaller σ or fewer layers."
        return Outcome(plots, {"R²": None, "half-time error": None}, text, facts=facts, diverged=True)
    measured = np.stack([record.strengths for record in records])
    score, reached = r_squared(predicted, measured), half_times(times, measured)
    errors = np.abs(reached / half_times(times, predicted) - 1)
    both = np.isfinite(errors)
    error = float(errors[both].max()) if both.any() else None
    text = verdict(values, score, reached[both], error)
    return Outcome(plots, {"R²": score, "half-time error": error}, text, facts=facts)
