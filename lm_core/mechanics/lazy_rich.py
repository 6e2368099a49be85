"""Lazy or rich: a wide network's training against the linear model around its starting point (exhibit b).

The network is f(x) = (α/√n) Σ_i a_i relu(w_i·x/√d). Its units come in pairs (w, a), (w, −a), so that f is 0 at first
(Chizat, Oyallon & Bach 2019). K is its neural tangent kernel (Jacot, Gabriel & Hongler 2018) at the start and at
α = 1; at another α it is α²K. Gradient descent on ½ mean (f − y)² is predicted from K alone; nothing is fitted.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lm_core.exhibit_params import Value
from lm_core.exhibit_results import Curve, Outcome, Panel, numbers
from lm_core.mechanics.digits import PIXELS, digits

WIDTHS = (64, 128, 256, 512, 1024)
REPEATS = 8  # networks of each width: with 3, the predicted slope strays to −.61 (seed 7)
MULTIPLES = (1, 2, 4, 8)  # of the chosen α
TRAIN, TEST = 128, 512
STEADY = 0.5  # step size × largest eigenvalue of the kernel on the mean; the linear model diverges above 2
EXPLODED = 1e6  # mean squared error, of labels ±1
MOMENTS, DOTS, REPORT_EVERY = 32, 100, 4

Report = Callable[[float, str, Sequence[Panel] | None], None]


class Data(NamedTuple):
    """Training images [N, d] and labels ±1 [N], test images [T, d] and labels."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


class Networks(NamedTuple):
    """B networks of width n: hidden weights w [B, n, d] and readout weights a [B, n, 1]."""

    w: Tensor
    a: Tensor


class Linearised(NamedTuple):
    """B networks linearised at their start, for α = 1.

    Attributes:
        values, vectors: [B, N] ascending and [B, N, N]: K = vectors · values · vectorsᵀ on the training images.
        labels: [B, N], the labels in K's eigenvectors.
        hidden: [B, N, N], the hidden weights' part of K; length: [B], those weights' norm ‖W₀‖.
        test: [B, T, N], the kernel between test and training images.
    """

    values: Tensor
    vectors: Tensor
    labels: Tensor
    hidden: Tensor
    length: Tensor
    test: Tensor


class Trained(NamedTuple):
    """What B trained networks did, [B] each.

    Attributes:
        movement: ‖ΔW‖/‖W₀‖ of the hidden weights; kernel_change: ‖ΔK‖/‖K‖ on the training images.
        r2: of the test outputs, as the linearisation predicts them; error: mean squared error on the training images.
    """

    movement: Tensor
    kernel_change: Tensor
    r2: Tensor
    error: Tensor


@dataclass
class Found:
    """What a run at `alpha`, `width` and `steps` has found so far; its panels are drawn from this.

    Attributes:
        predicted: ‖ΔW‖/‖W₀‖ of the linearised networks [REPEATS], at each of WIDTHS; limit: √n ‖ΔW‖/‖W₀‖ as n → ∞.
        by_width: what the trained networks did; predicted_by_alpha, by_alpha: one of `width`, at `alphas`.
        moments: steps at which errors on training and test images are noted: linear_errors, errors.
        dots: test outputs of the linearisation and of the network at `alpha`.
    """

    alpha: float
    width: int
    steps: int
    predicted: list[Tensor] = field(default_factory=list)
    limit: float = math.nan
    by_width: list[Trained] = field(default_factory=list)
    predicted_by_alpha: Tensor | None = None
    by_alpha: Trained | None = None
    moments: list[int] = field(default_factory=list)
    linear_errors: list[tuple[float, float]] = field(default_factory=list)
    errors: list[tuple[float, float]] = field(default_factory=list)
    dots: tuple[Tensor, Tensor] | None = None

    @property
    def alphas(self) -> list[float]:
        """The scales of the sweep over α."""
        return [self.alpha * multiple for multiple in MULTIPLES]


def draw_data(generator: torch.Generator, dtype: torch.dtype, device: torch.device | str) -> Data:
    """Return TRAIN and TEST different digits, each image scaled to norm √d, labelled 1 if odd and −1 if even."""
    images, labels = digits(dtype)
    x = images * (PIXELS**0.5 / images.norm(dim=1, keepdim=True))
    y = (2 * (labels % 2) - 1).to(dtype)
    order = torch.randperm(len(x), generator=generator)
    train, test = order[:TRAIN], order[TRAIN : TRAIN + TEST]
    return Data(*(part.to(device) for part in (x[train], y[train], x[test], y[test])))


def antisymmetric(width: int, count: int, generator: torch.Generator, like: Tensor) -> Networks:
    """Draw networks of standard normal weights in pairs (w, a), (w, −a); an odd width gets one unit more."""
    shape = count, (width + 1) // 2
    w = torch.randn(*shape, PIXELS, generator=generator, dtype=like.dtype).to(like.device)
    a = torch.randn(*shape, 1, generator=generator, dtype=like.dtype).to(like.device)
    return Networks(torch.cat([w, w], 1), torch.cat([a, -a], 1))


def outputs(net: Networks, x: Tensor) -> Tensor:
    """Return f/α [B, N] on images [N, d]."""
    return (net.a.mT @ (net.w @ x.mT / PIXELS**0.5).relu_())[:, 0] / net.w.shape[1] ** 0.5


def tangent_kernels(net: Networks, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden and the readout weights' parts of K [B, U, V] between images u [U, d] and v [V, d].

    Σ ∂f(u) ∂f(v) over weights: (1/n) Σ_i a_i² 1[w_i·u > 0] 1[w_i·v > 0] u·v/d, and
    (1/n) Σ_i relu(w_i·u/√d) relu(w_i·v/√d). Costs O(B n U V).
    """
    left, right = ((net.w @ x.mT / PIXELS**0.5).relu_() for x in (u, v))
    readout = left.mT @ right
    hidden = (left.sign_() * net.a.square()).mT @ right.sign_() * (u @ v.mT / PIXELS)
    return hidden / net.w.shape[1], readout / net.w.shape[1]


def limit_kernels(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return both parts [U, V] in the limit of infinite width, for images of norm √d.

    With cos θ = u·v/d: (π − θ) cos θ/2π and [sin θ + (π − θ) cos θ]/2π (Cho & Saul 2009, section 2).
    """
    cosine = (u @ v.mT / PIXELS).clamp(-1, 1)
    angle = cosine.arccos()
    hidden = (math.pi - angle) * cosine / (2 * math.pi)
    return hidden, angle.sin() / (2 * math.pi) + hidden


def linearise(hidden: Tensor, readout: Tensor, y: Tensor, length: Tensor, test: Tensor) -> Linearised:
    """Diagonalise K, given in its two parts [B, N, N]; the other arguments are as in `Linearised`."""
    values, vectors = (part.to(y) for part in torch.linalg.eigh((hidden + readout).cpu()))  # mps has no eigh
    values = values.clamp_min(torch.finfo(y.dtype).eps * values[:, -1:])
    return Linearised(values, vectors, (vectors.mT @ y[:, None])[..., 0], hidden, length, test)


def linearise_networks(net: Networks, data: Data) -> Linearised:
    """Linearise networks at the weights they have."""
    between = torch.stack(tangent_kernels(net, data.x_test, data.x)).sum(0)
    return linearise(*tangent_kernels(net, data.x, data.x), data.y, net.w.flatten(1).norm(dim=1), between)


def coefficients(lin: Linearised, steps: int) -> Tensor:
    """Return c [B, N, 1] such that the linearised network's weights have moved by Jᵀc/α, J the Jacobian at α = 1.

    c = K⁻¹[1 − (1 − ηα²K/N)^t] y (Lee et al. 2019, section 2.2, for discrete steps from f = 0). As ηα²/N is
    STEADY/λ_max, c depends on no α.
    """
    decay = steps * torch.log1p(-STEADY * lin.values / lin.values[:, -1:])
    return lin.vectors @ (-torch.expm1(decay) / lin.values * lin.labels)[..., None]


def linearised_movement(lin: Linearised, steps: int) -> Tensor:
    """Return α ‖ΔW‖/‖W₀‖ [B] of the linearised networks' hidden weights: ‖J_Wᵀc‖² = cᵀ K_W c."""
    c = coefficients(lin, steps)
    return (c.mT @ lin.hidden @ c)[:, 0, 0].clamp_min(0).sqrt() / lin.length


def linearised_outputs(lin: Linearised, steps: int) -> tuple[Tensor, Tensor]:
    """Return the linearised networks' outputs on training [B, N] and test images [B, T], Kc, the same at every α."""
    c = coefficients(lin, steps)
    return (lin.vectors @ (lin.values[..., None] * (lin.vectors.mT @ c)))[..., 0], (lin.test @ c)[..., 0]


def limit_movement(data: Data, steps: int) -> float:
    """Return α √n ‖ΔW‖/‖W₀‖ of the linearised network as n → ∞; ‖W₀‖ is √(nd) there."""
    hidden, readout = (part[None] for part in limit_kernels(data.x, data.x))
    length, test = data.x.new_full((1,), PIXELS**0.5), data.x.new_empty(1, 0, len(data.x))
    lin = linearise(hidden, readout, data.y, length, test)
    return float(linearised_movement(lin, steps))


def descend(net: Networks, alpha: Tensor, rate: Tensor, data: Data, steps: int) -> Iterator[int]:
    """Train networks in place by full-batch gradient descent on ½ mean (f − y)², both layers; yield after each step.

    Args:
        alpha, rate: [B], each network's α and step size η.

    Cost: a step multiplies 2 B n N d pairs of numbers; 300 steps of B = 3, n = 1024 take about 1 s of a core.
    """
    scale = (alpha / net.w.shape[1] ** 0.5)[:, None, None]
    for step in range(1, steps + 1):
        hidden = (net.w @ data.x.mT / PIXELS**0.5).relu_()
        pull = (scale * (net.a.mT @ hidden) - data.y) * (rate[:, None, None] * scale / len(data.x))  # B 1 N
        readout = hidden @ pull.mT
        net.w.sub_((hidden.sign_().mul_(pull) @ data.x).mul_(net.a / PIXELS**0.5))
        net.a.sub_(readout)
        yield step


def train(
    start: Networks, alpha: Tensor, lin: Linearised, data: Data, steps: int, on_step: Callable[[int, Networks], None]
) -> Trained:
    """Train copies of networks at α [B] with η = STEADY N/(λ_max α²) and compare them with their linearisation.

    Args:
        start, lin: B networks and their linearisations, or one for all α.
        on_step: is given the number of each step, from 1, and the networks.
    """
    net = Networks(*(part.expand(len(alpha), -1, -1).clone() for part in start))
    rate = STEADY * len(data.x) / (lin.values[:, -1] * alpha.square())
    for step in descend(net, alpha, rate, data, steps):
        on_step(step, net)
    test, kernel = alpha[:, None] * outputs(net, data.x_test), lin.vectors * lin.values[:, None] @ lin.vectors.mT
    change = torch.stack(tangent_kernels(net, data.x, data.x)).sum(0) - kernel
    missed = (test - linearised_outputs(lin, steps)[1]).square().sum(1)
    return Trained(
        movement=(net.w - start.w).flatten(1).norm(dim=1) / lin.length,
        kernel_change=change.flatten(1).norm(dim=1) / kernel.flatten(1).norm(dim=1),
        r2=1 - missed / (test - test.mean(1, keepdim=True)).square().sum(1),
        error=(alpha[:, None] * outputs(net, data.x) - data.y).square().mean(1),
    )


def slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return d log y/d log x by least squares, None unless every y is a positive number."""
    if not all(math.isfinite(value) and value > 0 for value in y):
        return None
    u, v = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    u = u - u.mean()
    return float(u @ v / (u @ u))


def log_means(rows: Sequence[Tensor]) -> list[float]:
    """Return the geometric mean of each row."""
    return [float(row.log().mean().exp()) for row in rows]


def squared_errors(data: Data, train: Tensor, test: Tensor) -> tuple[float, float]:
    """Return the mean squared errors of outputs on training and on test images."""
    return float((train - data.y).square().mean()), float((test - data.y_test).square().mean())


def sweep_widths(found: Found, data: Data, generator: torch.Generator, note: Report) -> None:
    """Predict the movement at every width, then train REPEATS networks of each."""
    starts = [antisymmetric(width, REPEATS, generator, data.x) for width in WIDTHS]
    lins = [linearise_networks(start, data) for start in starts]
    found.predicted = [linearised_movement(lin, found.steps) / found.alpha for lin in lins]
    found.limit = limit_movement(data, found.steps) / found.alpha
    alpha = data.x.new_full((REPEATS,), found.alpha)
    for i, (width, start, lin) in enumerate(zip(WIDTHS, starts, lins, strict=True)):
        message = f"Training {REPEATS} networks of width {width}"
        before, each = sum(WIDTHS[:i]) / sum(WIDTHS), width / sum(WIDTHS) / found.steps
        note(before, message, panels(found))

        def on_step(step: int, net: Networks, before=before, each=each, message=message) -> None:
            if step % REPORT_EVERY == 0:
                note(before + step * each, message, None)

        found.by_width.append(train(start, alpha, lin, data, found.steps, on_step))


def sweep_alphas(found: Found, data: Data, generator: torch.Generator, note: Report) -> None:
    """Train one network at all scales α from the same weights, and watch the first."""
    start = antisymmetric(found.width, 1, generator, data.x)
    lin = linearise_networks(start, data)
    alpha = data.x.new_tensor(found.alphas)
    found.predicted_by_alpha = linearised_movement(lin, found.steps) / alpha
    spaced = torch.logspace(0, math.log10(found.steps), MOMENTS, dtype=torch.float64).round()
    found.moments = [int(moment) for moment in spaced.unique()]
    found.linear_errors = [squared_errors(data, *linearised_outputs(lin, moment)) for moment in found.moments]
    message = f"Training a network of width {found.width} at {len(MULTIPLES)} scales α"

    def on_step(step: int, net: Networks) -> None:
        if step in found.moments:
            watched = Networks(net.w[:1], net.a[:1])
            train, test = (found.alpha * outputs(watched, x) for x in (data.x, data.x_test))
            found.errors.append(squared_errors(data, train, test))
            found.dots = linearised_outputs(lin, step)[1][0, :DOTS], test[0, :DOTS]
            note(step / found.steps, message, panels(found) if len(found.errors) % 8 == 0 else None)
        elif step % REPORT_EVERY == 0:
            note(step / found.steps, message, None)

    found.by_alpha = train(start, alpha, lin, data, found.steps, on_step)


def panels(found: Found) -> tuple[Panel, ...]:
    """Draw what there is so far, the headline first."""
    drawn = [_by_width(found), _departures(found)]
    if found.predicted_by_alpha is not None:
        drawn[1:1] = [_by_alpha(found, found.predicted_by_alpha), _errors(found)]
    if found.dots is not None:
        drawn.insert(3, _outputs(found, *found.dots))
    return tuple(drawn)


def _by_width(found: Found) -> Panel:
    done = [one.movement for one in found.by_width]
    low, high = [one.min() for one in done], [one.max() for one in done]
    curves = (
        Curve.of("linearised networks", "prediction", WIDTHS, log_means(found.predicted)),
        Curve.of("infinite-width kernel", "reference", WIDTHS, [found.limit / width**0.5 for width in WIDTHS]),
        Curve.of("trained networks", "experiment", WIDTHS[: len(done)], log_means(done), low=low, high=high),
    )
    caption = (
        f"How far the hidden weights move in {found.steps} steps at α = {found.alpha:g}, as a share of their norm: "
        f"geometric mean and range of {REPEATS} networks; the dotted line falls as exactly 1/√n."
    )
    axes = "width n (hidden units)", "‖ΔW‖/‖W₀‖"
    return Panel("Weights move less in wider networks", *axes, curves, caption, x_log=True, y_log=True)


def _by_alpha(found: Found, predicted: Tensor) -> Panel:
    measured = found.by_alpha.movement if found.by_alpha else ()
    curves = (
        Curve.of("linearised network", "prediction", found.alphas, predicted),
        Curve.of("trained network", "experiment", found.alphas[: len(measured)], measured),
    )
    caption = (
        f"One network of width {found.width}, trained for {found.steps} steps from the same weights at "
        f"{len(MULTIPLES)} scales α: its linearisation moves by exactly 1/α."
    )
    return Panel("… and at a larger scale α", "scale α", "‖ΔW‖/‖W₀‖", curves, caption, x_log=True, y_log=True)


def _errors(found: Found) -> Panel:
    curves = []
    for group, images in enumerate(("training", "test")):
        line, marks = ([row[group] for row in rows] for rows in (found.linear_errors, found.errors))
        curves.append(Curve.of(f"linearised, {images}", "prediction", found.moments, line, group=group))
        curves.append(Curve.of(f"network, {images}", "experiment", found.moments[: len(marks)], marks, group=group))
    caption = (
        f"Mean squared error (labels ±1) on {TRAIN} training and {TEST} test digits, of the network of width "
        f"{found.width} at α = {found.alpha:g} and of its linearisation."
    )
    return Panel("Error during training", "step", "mean squared error", tuple(curves), caption, x_log=True, y_log=True)


def _outputs(found: Found, linear: Tensor, network: Tensor) -> Panel:
    ends = [linear.min(), linear.max()]
    curves = Curve.of("equal", "prediction", ends, ends), Curve.of("test digits", "experiment", linear, network)
    caption = (
        f"{DOTS} test digits, shown to the network of width {found.width} at α = {found.alpha:g} and to its "
        "linearisation: a mark on the line is an image on which both answer the same."
    )
    return Panel("Outputs on unseen digits", "linearised output", "network's output", curves, caption)


def _departures(found: Found) -> Panel:
    widths = WIDTHS[: len(found.by_width)]
    kernel = [one.kernel_change.mean() for one in found.by_width]
    missed = [1 - one.r2.mean() for one in found.by_width]
    curves = (
        Curve.of("change of the kernel, ‖ΔK‖/‖K₀‖", "experiment", widths, kernel, joined=True),
        Curve.of("1 − R² of the test outputs", "experiment", widths, missed, group=1, joined=True),
    )
    caption = (
        f"How far training at α = {found.alpha:g} leaves the linear model: relative change of the tangent kernel, and "
        f"the share of the test outputs' variance that the linear model misses; means of {REPEATS} networks."
    )
    axes = "width n (hidden units)", "share"
    return Panel("What the linear model misses", *axes, curves, caption, x_log=True, y_log=True)


def scores(found: Found, trained: Trained, predicted: Tensor) -> dict[str, float | None]:
    """Return both slopes, and for `width` and `alpha` the relative error of the movement and R² of the test outputs."""
    measured = {
        "slope in α": slope(found.alphas, trained.movement.tolist()),
        "slope in width": slope(WIDTHS, log_means([one.movement for one in found.by_width])),
        "error of the movement": float((trained.movement[0] / predicted[0] - 1).abs()),
        "R² of the test outputs": float(trained.r2[0]),
    }
    return {name: None if value is None or not math.isfinite(value) else value for name, value in measured.items()}


def verdict(found: Found, got: Mapping[str, float | None], change: float, diverged: bool) -> str:
    """Say in one sentence whether the network trained as its linearisation does."""
    where = f"width {found.width} and α = {found.alpha:g}"
    if diverged:
        return f"Training diverged near {where}, as the kernel outgrew its step size; raise α or the width."
    a, n, error, r2 = got.values()
    return (
        f"Movement goes as α^{a:.3f} (linear model: −1) and width^{n:.3f} (−½); at {where} the linear model misses it "
        f"by {error:.1%} and predicts the test outputs with R² = {r2:.3f}, the kernel changes by {change:.0%}, and the "
        f"mean squared test error is {found.errors[-1][1]:.3f} (linear model: {found.linear_errors[-1][1]:.3f})."
    )


def run(values: Mapping[str, Value], seed: int, device: torch.device, report: Report) -> Outcome:
    """Train networks of many widths and scales α and compare each with its linearisation."""
    found = Found(float(values["alpha"]), int(values["width"]), int(values["steps"]))
    generator = torch.Generator().manual_seed(seed)
    report(0.0, "Predicting", None)
    data = draw_data(generator, torch.float32 if device.type == "mps" else torch.float64, device)
    units = REPEATS * sum(WIDTHS), len(MULTIPLES) * found.width
    part = units[0] / sum(units)
    sweep_widths(found, data, generator, lambda share, *rest: report(part * share, *rest))
    sweep_alphas(found, data, generator, lambda share, *rest: report(part + (1 - part) * share, *rest))
    assert found.by_alpha is not None and found.predicted_by_alpha is not None
    got = scores(found, found.by_alpha, found.predicted_by_alpha)
    change = float(found.by_alpha.kernel_change[0])
    errors = torch.cat([one.error for one in (*found.by_width, found.by_alpha)])
    facts = {
        "widths": list(WIDTHS),
        "networks of each width": REPEATS,
        "scales α": found.alphas,
        "images (training, test)": [TRAIN, TEST],
        "steps": found.steps,
        "step size × largest eigenvalue of the kernel": STEADY,
        "slope in width of the linearised networks": slope(WIDTHS, log_means(found.predicted)),
        "change of the kernel": numbers(change)[0],
        "test error of network and linearisation": numbers([found.errors[-1][1], found.linear_errors[-1][1]]),
    }
    diverged = None in got.values() or bool((errors.nan_to_num(math.inf) > EXPLODED).any())
    sentence = verdict(found, got, change, diverged)
    return Outcome(panels(found), dict.fromkeys(got) if diverged else got, sentence, facts=facts, diverged=diverged)
