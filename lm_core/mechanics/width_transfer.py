"""μP: does the best learning rate stay where it is when a network gets wider?

Networks of several widths, at every learning rate of a grid, in the standard parameterisation and in the maximal update
parameterisation (μP), which coincide at the smallest width. All rates and seeds of one width train as one stack.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lm_core.exhibit_params import Value
from lm_core.exhibit_results import Curve, Outcome, Panel
from lm_core.mechanics.digits import CLASSES, PIXELS, digits

Report = Callable[[float, str, Sequence[Panel] | None], None]

BASE = 32  # the width at which both parameterisations are the same network
LOG_RATES = tuple(range(-11, -2))  # log₂ of the learning rates
EXAMPLES, BATCH = 1024, 128
LEAST_SPREAD = 0.5  # of a pixel, in grey levels out of 16: pixels that are nearly always blank aren't blown up
LEAST_LOSS = 1e-7  # nats: float32 knows no smaller difference of logits
BETAS, EPS = (0.9, 0.999), 1e-8  # Adam's, as published
COORDINATE_STEPS, COORDINATE_RATE = 4, 2.0**-11  # early and small: the loss has hardly moved
PARTIAL = 0.05  # of the work, between two partial plots


@dataclass(frozen=True)
class Scaling:
    """How a parameterisation scales with width n: powers of n/32 that multiply what the network of width 32 has.

    Yang et al. (2022), Table 3, Adam. The first layer's weights never change with width; the hidden weights' standard
    deviation is √(2/n) in both.
    """

    name: str
    hidden_rate: float
    output_rate: float
    output_std: float


STANDARD = Scaling("standard", 0, 0, -0.5)
STANDARD_RATES = {
    "updates add up at random, n^−½": -0.5,
    "updates add up in step, n⁻¹": -1,
}  # what keeps outputs in bounds
CONSTANT = {"theory of μP: constant": 0}


def transferring(hidden_power: float) -> Scaling:
    """Return μP, whose hidden rate ∝ n⁻¹, or what it becomes with another power of n."""
    name = "μP" if hidden_power == -1 else f"μP but hidden rate ∝ n^{hidden_power:g}"
    return Scaling(name, hidden_power, -1, -1)


class Stack:
    """Networks 64–n–n–10 (ReLU, no biases) of one width, at several learning rates and seeds, that Adam trains.

    Args:
        initial: see `initial_weights`; the same at every rate.
        rates: η, one for each block of seeds.

    Attributes:
        weights: of three layers, each [rate × seed, out, in].
    """

    def __init__(self, initial: Sequence[Tensor], scaling: Scaling, rates: Sequence[float]) -> None:
        self.shape = len(rates), len(initial[0])
        ratio = initial[0].shape[1] / BASE
        powers = 0, scaling.hidden_rate, scaling.output_rate
        factors = 1, 1, ratio**scaling.output_std
        self.weights = [
            (one * factor).repeat(len(rates), 1, 1).requires_grad_()
            for one, factor in zip(initial, factors, strict=True)
        ]
        self._rates = [[rate * ratio**power for rate in rates] for power in powers]
        self._means = [torch.zeros_like(one) for one in self.weights]
        self._squares = [torch.zeros_like(one) for one in self.weights]
        self._steps = 0

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return cross-entropy in nats, [rate × seed], on images [seed or 1, n, 64] and labels [seed or 1, n]."""
        rates, seeds = self.shape
        x = images.expand(seeds, -1, -1).repeat(rates, 1, 1)
        logits = self.weights[2] @ hidden_preactivations(self.weights, x).relu()
        wanted = labels.expand(seeds, -1).repeat(rates, 1)
        return cross_entropy(logits, wanted, reduction="none").mean(1)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take one step of Adam on a batch of each seed and return the losses before it, [rate, seed]."""
        losses = self.losses(images, labels)
        gradients = torch.autograd.grad(losses.sum(), self.weights)
        self._steps += 1
        with torch.no_grad():
            for rates, *layer in zip(self._rates, self.weights, gradients, self._means, self._squares, strict=True):
                blocks = (whole.split(self.shape[1]) for whole in layer)
                for rate, weight, gradient, mean, square in zip(rates, *blocks, strict=True):
                    _adam(weight, gradient, mean, square, rate, self._steps)
        return losses.detach().view(self.shape)


def _adam(weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, rate: float, step: int) -> None:
    """Move weights and moments by Adam's rule (Kingma & Ba 2015, Algorithm 1) in place."""
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    scale = (square / (1 - BETAS[1] ** step)).sqrt_().add_(EPS)
    weight.addcdiv_(mean, scale, value=-rate / (1 - BETAS[0] ** step))


def hidden_preactivations(weights: Sequence[Tensor], images: Tensor) -> Tensor:
    """Return the second hidden layer before its ReLU, [net, n, batch], for images [net, batch, 64]."""
    return weights[1] @ (weights[0] @ images.mT).relu()


def initial_weights(width: int, seeds: int, generator: torch.Generator) -> list[Tensor]:
    """Return three layers [seed, out, in]: standard deviation √(2/in) (He et al. 2015), the output's 1/√32.

    The output's is for width 32; `Scaling.output_std` says what it becomes.
    """
    layers = (
        (width, PIXELS, math.sqrt(2 / PIXELS)),
        (width, width, math.sqrt(2 / width)),
        (CLASSES, width, BASE**-0.5),
    )
    return [std * torch.randn(seeds, out, inputs, generator=generator) for out, inputs, std in layers]


def examples(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return 1,024 digits [1, 1024, 64], each pixel standardised, and their labels [1, 1024]."""
    images, labels = digits()
    chosen = torch.randperm(len(images), generator=generator)[:EXAMPLES]
    images = images[chosen]
    images = (images - images.mean(0)) / images.std(0).clamp_min(LEAST_SPREAD)
    return images[None], labels[chosen][None]


def batches(steps: int, seeds: int, generator: torch.Generator) -> Tensor:
    """Return indices of examples [step, seed, 128], epoch after epoch, each in a new order: one for every width."""
    epochs = math.ceil(steps * BATCH / EXAMPLES)
    orders = [torch.randperm(EXAMPLES, generator=generator) for _ in range(seeds * epochs)]
    rows = torch.stack(orders).view(seeds, -1)[:, : steps * BATCH]
    return rows.view(seeds, steps, BATCH).transpose(0, 1)


def train(stack: Stack, images: Tensor, labels: Tensor, order: Tensor) -> Iterator[Tensor]:
    """Train and yield losses in nats, [rate, seed]: the batch's before each step, after the last all examples'."""
    for chosen in order:
        yield stack.step(images[0, chosen], labels[0, chosen])
    with torch.no_grad():
        yield stack.losses(images, labels).view(stack.shape)


def activation_change(stack: Stack, images: Tensor, labels: Tensor, order: Tensor) -> float:
    """Return how far training moves the second hidden layer's pre-activations, root mean square over all.

    The coordinate check of Yang et al. (2022), Appendix D.1.
    """
    first = images[:, :BATCH].expand(len(stack.weights[0]), -1, -1)
    with torch.no_grad():
        before = hidden_preactivations(stack.weights, first)
    for chosen in order:
        stack.step(images[0, chosen], labels[0, chosen])
    with torch.no_grad():
        return float((hidden_preactivations(stack.weights, first) - before).square().mean().sqrt())


def mean_log_loss(losses: Tensor) -> Tensor:
    """Return the mean natural logarithm over seeds, float64 [rate], of losses [rate, seed]; not finite if one isn't."""
    return losses.cpu().double().clamp_min(LEAST_LOSS).log().mean(1)


def best_rate(log_losses: Tensor) -> float | None:
    """Return log₂ of the best learning rate: the vertex of a parabola through the lowest point and two on either side.

    A least-squares fit: the vertex of the lowest three alone jumps when two rates are nearly as good.

    Args:
        log_losses: float64 [rate], of `LOG_RATES`; what isn't finite is left out. None if nothing is.
    """
    found = torch.where(log_losses.isfinite(), log_losses, math.inf)
    lowest = int(found.argmin())
    if found[lowest] == math.inf:
        return None
    window = range(max(lowest - 2, 0), min(lowest + 3, len(found)))
    points = torch.tensor([i - lowest for i in window if found[i] < math.inf], dtype=torch.float64)
    powers = points[:, None] ** torch.arange(3)
    _, tilt, bend = torch.linalg.lstsq(powers, found[[int(i) + lowest for i in points]][:, None]).solution[:, 0]
    if len(points) < 3 or bend <= 0:
        return float(LOG_RATES[lowest])
    vertex = float((-tilt / (2 * bend)).clamp(points[0], points[-1]))
    return LOG_RATES[lowest] + round(vertex, 9)  # the solver's last digits depend on where its arrays lie


def slope(widths: Sequence[int], log_values: Sequence[float | None]) -> float | None:
    """Return d log₂(value)/d log₂(width) by least squares over the values there are, None for fewer than two."""
    pairs = [(math.log2(n), value) for n, value in zip(widths, log_values, strict=False) if value is not None]
    if len(pairs) < 2:
        return None
    x, y = torch.tensor(pairs, dtype=torch.float64).T
    return float((x - x.mean()) @ y / (x - x.mean()).square().sum())


@dataclass
class Sweep:
    """What one parameterisation showed so far, width after width.

    Attributes:
        losses: in nats, [rate, seed] by width.
        changes: see `activation_change`, by width.
    """

    scaling: Scaling
    losses: dict[int, Tensor] = field(default_factory=dict)
    changes: dict[int, float] = field(default_factory=dict)

    @property
    def best(self) -> list[float | None]:
        """log₂ of the best learning rate at each width."""
        return [best_rate(mean_log_loss(one)) for one in self.losses.values()]

    @property
    def slope(self) -> float | None:
        """d log₂(best rate)/d log₂(width)."""
        return slope(list(self.losses), self.best)

    @property
    def loss_ratio(self) -> float | None:
        """Loss at the largest width with the smallest's best rate, over the least there; None if either isn't known."""
        wide, chosen = mean_log_loss(list(self.losses.values())[-1]), self.best[0]
        if chosen is None or not wide.isfinite().any():
            return None
        below = min(int(chosen - LOG_RATES[0]), len(LOG_RATES) - 2)
        found = torch.lerp(wide[below], wide[below + 1], chosen - LOG_RATES[below])
        ratio = math.exp(found - wide[wide.isfinite()].min()) if found.isfinite() else math.inf
        return ratio if math.isfinite(ratio) else None


def with_guides(measured: Curve, widths: Sequence[int], powers: Mapping[str, float]) -> list[Curve]:
    """Return a curve and, by name, laws ∝ n^power that start at its first point; power 0 is what μP predicts."""
    start = measured.y[0] if measured.y else None
    guides = []
    for name, power in powers.items() if start is not None else ():
        values = [start * (n / BASE) ** power for n in widths]
        guides.append(Curve.of(name, "reference" if power else "prediction", widths, values, group=measured.group))
    return [measured, *guides]


def rate_panel(sweeps: Sequence[Sweep], widths: Sequence[int]) -> Panel:
    """Draw the best learning rate against width over its predictions, which begin at the smallest width's."""
    curves = []
    for group, sweep in enumerate(sweeps):
        best = [math.nan if one is None else 2**one for one in sweep.best]
        low, high = zip(*map(seed_range, sweep.losses.values()), strict=True) if best else ((), ())
        measured = Curve.of(sweep.scaling.name, "experiment", list(sweep.losses), best, group=group, low=low, high=high)
        curves += with_guides(measured, widths, STANDARD_RATES if sweep.scaling is STANDARD else CONSTANT)
    return Panel(
        "Best learning rate",
        "width n",
        "best learning rate η",
        tuple(curves),
        "Marks: the best rate at each width, bars its range over single seeds; the lines start at the smallest width's "
        "mark, so that only their slopes are theory.",
        x_log=True,
        y_log=True,
    )


def seed_range(losses: Tensor) -> tuple[float, float]:
    """Return the least and largest best rate of single seeds, of losses [rate, seed]; NaN where every rate diverged."""
    found = [best_rate(mean_log_loss(one)) for one in losses.split(1, 1)]
    rates = [2**one for one in found if one is not None] or [math.nan]
    return min(rates), max(rates)


def loss_panel(sweep: Sweep, steps: int) -> Panel:
    """Draw the loss against the learning rate, a curve for each width."""
    rates = [2.0**one for one in LOG_RATES]
    curves = [
        Curve.of(f"n = {n}", "experiment", rates, mean_log_loss(one).exp(), group=group, joined=True)
        for group, (n, one) in enumerate(sweep.losses.items())
    ]
    return Panel(
        f"Loss against learning rate: {sweep.scaling.name}",
        "learning rate η at width 32",
        f"loss after {steps} steps (nats)",
        tuple(curves),
        "Loss on the training digits, geometric mean over seeds: where the rate transfers, the minima lie above one "
        "another; a missing point diverged.",
        x_log=True,
        y_log=True,
    )


def coordinate_panel(sweeps: Sequence[Sweep], widths: Sequence[int]) -> Panel:
    """Draw how far four steps move the hidden pre-activations, against width: why the rates move or stay."""
    curves = []
    for group, sweep in enumerate(sweeps):
        changes, power = sweep.changes, 1 + sweep.scaling.hidden_rate
        measured = Curve.of(sweep.scaling.name, "experiment", list(changes), list(changes.values()), group=group)
        curves += with_guides(measured, widths, {f"updates add up in step, n^{power:g}": power} if power else CONSTANT)
    return Panel(
        "Why: how far hidden units move",
        "width n",
        "change of pre-activations (root mean square)",
        tuple(curves),
        f"Change in the second hidden layer after {COORDINATE_STEPS} steps at η = 2⁻¹¹: under μP equal at all widths; "
        "dotted, what n equal updates of hidden weights add up to, which takes over as n grows.",
        x_log=True,
        y_log=True,
    )


def panels(sweeps: Sequence[Sweep], widths: Sequence[int], steps: int) -> tuple[Panel, ...]:
    """Draw what was measured so far, the headline first."""
    losses = [loss_panel(sweep, steps) for sweep in sweeps]
    return rate_panel(sweeps, widths), *losses, coordinate_panel(sweeps, widths)


def verdict(sweeps: Sequence[Sweep], widest: int) -> str:
    """Say how far each parameterisation's best rate moved and what the narrowest network's rate costs the widest."""
    if any(None in sweep.best for sweep in sweeps):
        return "At some width every learning rate diverged: choose fewer steps or narrower networks."
    parts = []
    for sweep in sweeps:
        ratio = sweep.loss_ratio
        cost = "makes training diverge" if ratio is None else f"costs ×{ratio:.2f} the least loss"
        parts.append(f"{sweep.scaling.name}: ∝ n^{sweep.slope:.2f}, and width {BASE}'s best rate {cost} at {widest:,}")
    edge = any(rate in (LOG_RATES[0], LOG_RATES[-1]) for sweep in sweeps for rate in sweep.best)
    caveat = " (some best rate is at the edge of the grid)" if edge else ""
    return f"Best rate from width {BASE} to {widest:,}{caveat}. " + "; ".join(parts) + "."


def run(values: Mapping[str, Value], seed: int, device: torch.device, report: Report) -> Outcome:
    """Train every width at every learning rate in both parameterisations and compare where the best rates lie."""
    steps, seeds, widest = int(values["steps"]), int(values["seeds"]), int(values["width"])
    widths = [*(BASE << i for i in range(16) if BASE << i < widest), widest]
    rates = [2.0**one for one in LOG_RATES]
    sweeps = [Sweep(one) for one in (transferring(float(values["hidden_power"])), STANDARD)]
    generator = torch.Generator().manual_seed(seed)
    images, labels = (one.to(device) for one in examples(generator))
    order = batches(max(steps, COORDINATE_STEPS), seeds, generator).to(device)
    work, done, drawn = 2 * steps * sum(n * n for n in widths), 0, 0
    for width in widths:
        initial = [one.to(device) for one in initial_weights(width, seeds, generator)]
        for sweep in sweeps:
            few = Stack(initial, sweep.scaling, [COORDINATE_RATE])
            sweep.changes[width] = activation_change(few, images, labels, order[:COORDINATE_STEPS])
            for losses in train(Stack(initial, sweep.scaling, rates), images, labels, order[:steps]):
                sweep.losses[width] = losses.cpu()
                grown = panels(sweeps, widths, steps) if done - drawn >= PARTIAL * work else None
                drawn = done if grown else drawn
                report(done / work, f"{sweep.scaling.name}, width {width:,}, {len(rates) * seeds} networks", grown)
                done += width * width
            done -= width * width
    facts = {
        "widths": widths,
        "learning rates": rates,
        "seeds": seeds,
        "steps": steps,
        "batch": BATCH,
        "examples": EXAMPLES,
        "networks trained": 2 * len(widths) * len(rates) * seeds,
    }
    return compare(sweeps, widths, facts)


def compare(sweeps: Sequence[Sweep], widths: Sequence[int], facts: dict[str, Any]) -> Outcome:
    """Score finished sweeps, the transferring parameterisation's first."""
    moved, standard = sweeps
    scores = {
        "μP slope": moved.slope,
        "standard slope": standard.slope,
        "μP loss ratio at the largest width": moved.loss_ratio,
        "standard loss ratio at the largest width": standard.loss_ratio,
    }
    diverged = any(None in sweep.best for sweep in sweeps)
    plots = panels(sweeps, widths, facts["steps"])
    return Outcome(plots, scores, verdict(sweeps, widths[-1]), facts=facts, diverged=diverged)
