"""The linear scaling rule: k times the batch with k times the learning rate follows the same training curve.

A small network is trained with batches of 4 and with batches k times as large, under three rules for the learning rate:
times k (linear: Goyal et al. 2017, Eqs. 3 and 4), times √k (Malladi et al. 2022, for Adam), unchanged. All rules and
seeds of one batch size train as one stack, on the same examples in the same order.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lm_core.exhibit_params import Value
from lm_core.exhibit_results import Curve, Outcome, Panel, Role
from lm_core.mechanics.digits import CLASSES, PIXELS, digits

Report = Callable[[float, str, Sequence[Panel] | None], None]
Objective = Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]
Gradients = Callable[[Sequence[Tensor], Tensor, Tensor], list[Tensor]]
Update = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], None]

RULES = {"linear": 1.0, "square root": 0.5, "fixed": 0.0}  # the rate is η k^power
SCORES = [f"mean |Δ log loss|, {name}" for name in ("linear rule", "square-root rule", "fixed rate")]
BATCH, SEEDS, HIDDEN = 4, 8, 64
EXAMPLES = 16384
NOISE = 2.0  # grey levels out of 16, standard deviation: no two examples are equal
MARK = 1024  # examples between two comparisons: a whole number of steps up to k = 256
EVALUATED = 1024  # examples, of those trained on, whose loss is compared
EARLY, LATE = 32, 256  # examples between the base run's records, before and after the first mark
DIVERGED = 100.0  # nats
HOLDS = 0.02  # mean |Δ log loss| up to which a rule needs no excuse
BETAS, EPS = (0.9, 0.999), 1e-8  # Adam's, as published
CURVATURE_ROUNDS = 20
REPORTED = 32  # steps between two reports
PARTIAL = 0.05  # of the steps, between two partial plots


@dataclass
class Run:
    """One batch size: examples seen at each record, and losses in nats [rule, seed], NaN once diverged."""

    seen: list[int] = field(default_factory=list)
    losses: list[np.ndarray] = field(default_factory=list)

    def add(self, seen: int, losses: np.ndarray) -> None:
        """Record losses; a rule and seed that once diverged stays so."""
        lost = ~(losses < DIVERGED)
        if self.losses:
            lost |= np.isnan(self.losses[-1])
        self.seen.append(seen)
        self.losses.append(np.where(lost, np.nan, losses))

    def log_losses(self, marks: Sequence[int]) -> np.ndarray:
        """Return natural logarithms [mark, rule, seed] interpolated at numbers of examples seen."""
        logs = np.log(np.stack(self.losses))
        flat = logs.reshape(len(logs), -1)
        columns = [np.interp(marks, self.seen, column) for column in flat.T]
        return np.stack(columns, 1).reshape(-1, *logs.shape[1:])


def examples(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return 16,384 noisy digits [16384, 64], drawn with replacement, each pixel standardised, and their labels."""
    images, labels = digits()
    chosen = torch.randint(len(images), (EXAMPLES,), generator=generator)
    noisy = images[chosen] + NOISE * torch.randn(EXAMPLES, PIXELS, generator=generator)
    return (noisy - noisy.mean(0)) / noisy.std(0), labels[chosen]


def initial_weights(generator: torch.Generator) -> list[Tensor]:
    """Return weights and biases of two layers, each [seed, out, in] (biases 0), deviations √(2/64) and √(1/64)."""
    first = math.sqrt(2 / PIXELS) * torch.randn(SEEDS, HIDDEN, PIXELS, generator=generator)
    second = math.sqrt(1 / HIDDEN) * torch.randn(SEEDS, CLASSES, HIDDEN, generator=generator)
    return [first, torch.zeros(SEEDS, HIDDEN, 1), second, torch.zeros(SEEDS, CLASSES, 1)]


def network_losses(weights: Sequence[Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Return mean cross-entropy in nats [net] of ReLU networks on images [net, n, 64] and labels [net, n]."""
    hidden = torch.baddbmm(weights[1], weights[0], images.mT).relu()
    logits = torch.baddbmm(weights[3], weights[2], hidden)
    return cross_entropy(logits, labels, reduction="none").mean(1)


def network_gradients(weights: Sequence[Tensor], images: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the gradients of `network_losses`, written out: for so small networks autograd takes twice as long."""
    hidden = torch.baddbmm(weights[1], weights[0], images.mT).relu_()
    surplus = torch.baddbmm(weights[3], weights[2], hidden).softmax(1)
    wanted = labels[:, None]
    surplus.scatter_add_(1, wanted, surplus.new_tensor(-1).expand_as(wanted)).div_(images.shape[1])
    back = (weights[2].mT @ surplus).mul_(hidden > 0)
    return [back @ images, back.sum(2, keepdim=True), surplus @ hidden.mT, surplus.sum(2, keepdim=True)]


def plain(weights: Sequence[Tensor], gradients: Sequence[Tensor], rates: Tensor) -> None:
    """Take a step of SGD in place, at rates [net, 1, 1]."""
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.addcmul_(rates, gradient, value=-1)


class Adam:
    """Adam (Kingma & Ba 2015, Algorithm 1) with a learning rate for each network of a stack."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.moments = [(torch.zeros_like(one), torch.zeros_like(one)) for one in weights]
        self.steps = 0

    def __call__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor], rates: Tensor) -> None:
        """Take a step in place, at rates [net, 1, 1]."""
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in BETAS)
        for weight, gradient, (mean, square) in zip(weights, gradients, self.moments, strict=True):
            mean.lerp_(gradient, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            weight.addcdiv_(mean * rates, (square / second).sqrt_().add_(EPS), value=-1 / first)


def descend(
    gradients: Gradients,
    initial: Sequence[Tensor],
    data: tuple[Tensor, Tensor],
    order: Tensor,
    batch: int,
    rates: Sequence[float],
    optimizer: str = "SGD",
) -> Iterator[tuple[int, list[Tensor]]]:
    """Train a stack, all rates times all seeds; yield examples seen and weights before each step and at the end.

    Args:
        gradients: of each network's loss, from weights, inputs [net, batch, in] and targets [net, batch].
        initial: [seed, out, in] each.
        order: indices of examples [seed, n]; a batch is the next `batch` of them.
        rates: the stack is rate after rate, each with all seeds.
    """
    inputs, targets = data
    weights = [one.repeat(len(rates), 1, 1) for one in initial]
    each = initial[0].new_tensor(rates).repeat_interleave(len(order))[:, None, None]
    update: Update = plain if optimizer == "SGD" else Adam(weights)
    for seen in range(0, order.shape[1] - batch + 1, batch):
        yield seen, weights
        chosen = order[:, seen : seen + batch]
        batches = inputs[chosen].repeat(len(rates), 1, 1), targets[chosen].repeat(len(rates), 1)
        update(weights, gradients(weights, *batches), each)
    yield order.shape[1] // batch * batch, weights


def largest_curvature(
    objective: Objective, weights: Sequence[Tensor], inputs: Tensor, targets: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the Hessian's eigenvalue of largest size for each network, [net], by power iteration."""
    weights = [one.detach().requires_grad_() for one in weights]
    slopes = torch.autograd.grad(objective(weights, inputs, targets).sum(), weights, create_graph=True)
    vectors = [torch.randn(one.shape, generator=generator).to(one) for one in weights]
    for _ in range(CURVATURE_ROUNDS):
        size = _inner(vectors, vectors).sqrt()[:, None, None]
        vectors = [one / size for one in vectors]
        products = torch.autograd.grad(slopes, weights, vectors, retain_graph=True)
        value, vectors = _inner(vectors, products), products
    return value


def _inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum((1, 2)) for a, b in zip(left, right, strict=True)]).sum(0)


def errors(base: Run, run: Run) -> np.ndarray:
    """Return mean |log loss − log loss at k = 1| over comparisons and seeds, [rule]; NaN for a rule that diverged."""
    marks = [seen for seen in run.seen if seen]
    return np.abs(run.log_losses(marks) - base.log_losses(marks)).mean((0, 2)) if marks else np.full(len(RULES), np.nan)


def clock(base: Run, marks: Sequence[int], k: int, power: float) -> np.ndarray:
    """Predict log losses [mark, seed] of SGD at batch 4k and rate η k^power from the run at k = 1 alone.

    Training time is rate × steps, here η k^power × examples/(4k): as at k = 1 after k^(power−1) times as many examples.
    """
    return base.log_losses([seen * k ** (power - 1) for seen in marks])[:, 0]


def clock_error(base: Run, marks: Sequence[int], k: int, power: float) -> float:
    """Return what `errors` should be by the clock, for one rule."""
    return float(np.abs(clock(base, marks, k, power) - base.log_losses(marks)[:, 0]).mean())


def trajectory(name: str, role: Role, seen: Sequence[int], log_losses: np.ndarray, group: int = 0) -> Curve:
    """Return the curve of log losses [record, seed] as geometric means over seeds."""
    return Curve.of(name, role, seen, np.exp(log_losses.mean(1)), group=group)


def base_trajectory(base: Run, role: Role) -> Curve:
    """Return the curve at k = 1, every 128 examples up to the first comparison, then at each."""
    shown = [seen for seen in base.seen if seen % (MARK if seen > MARK else MARK // 8) == 0]
    return trajectory("k = 1", role, shown, base.log_losses(shown)[:, 0])


def trajectory_panel(runs: Mapping[int, Run], rule: str) -> Panel:
    """Draw the losses under one rule over those at k = 1."""
    place, base = list(RULES).index(rule), runs[1]
    curves = [base_trajectory(base, "prediction")]
    for group, (k, run) in enumerate(runs.items()):
        if k > 1:
            curves.append(trajectory(f"k = {k}", "experiment", run.seen, run.log_losses(run.seen)[:, place], group))
    return Panel(
        f"Training loss, {rule} rule",
        "examples seen",
        "training loss (nats)",
        tuple(curves),
        f"Where the rule holds, batches of {BATCH}k (marks) follow the curve of batches of {BATCH} (line); geometric "
        f"mean over {SEEDS} seeds, a curve ends where the loss passes {DIVERGED:g} nats.",
        y_log=True,
    )


def error_panel(runs: Mapping[int, Run], sgd: bool, edge: float | None) -> Panel:
    """Draw the mean |Δ log loss| of the three rules against k, and where ηk is 2/λ."""
    compared = [k for k, run in runs.items() if k > 1 and len(run.seen) > 1]
    measured = np.array([errors(runs[1], runs[k]) for k in compared]).reshape(-1, len(RULES))
    curves = []
    for group, (rule, power) in enumerate(RULES.items()):
        curves.append(Curve.of(rule, "experiment", compared, measured[:, group], group=group, joined=True))
        if sgd and power < 1:
            expected = [clock_error(runs[1], runs[k].seen[1:], k, power) for k in compared]
            curves.append(Curve.of(f"{rule}, by the clock", "prediction", compared, expected, group=group))
    caption = f"Distance from the training curve at k = 1, over {SEEDS} seeds"
    if sgd:
        caption += "; how far the other two rules fall behind follows from rate × steps alone"
    if edge is not None and edge <= 2 * max(runs) and np.isfinite(measured).any():
        span = [np.nanmin(measured), np.nanmax(measured)]
        curves.append(Curve.of("ηk = 2/λ", "reference", [edge, edge], span, group=len(RULES)))
        caption += "; the linear rule can't hold far beyond the dotted line, for the curvature λ after 1,024 examples"
    return Panel(
        "Error of three rules",
        "k, times the batch",
        "mean |Δ log loss|",
        tuple(curves),
        f"{caption}.",
        x_log=True,
        y_log=True,
    )


def rival_panel(runs: Mapping[int, Run], sgd: bool) -> Panel:
    """Draw the losses under all rules at the largest k so far, over what the clock predicts."""
    k, base = max(runs), runs[1]
    run = runs[k]
    curves = [base_trajectory(base, "prediction" if sgd else "reference")]
    for group, (rule, power) in enumerate(RULES.items() if k > 1 else ()):
        logs = run.log_losses(run.seen)[:, group]
        curves.append(trajectory(f"{rule}, k = {k}", "experiment", run.seen, logs, group))
        if sgd and power < 1:
            predicted = clock(base, run.seen, k, power)
            curves.append(trajectory(f"{rule}, by the clock", "prediction", run.seen, predicted, group))
    return Panel(
        "The other rules run late",
        "examples seen",
        "training loss (nats)",
        tuple(curves),
        f"Batches of {BATCH * k:,} under each rule (marks)"
        + (" and the curve at k = 1 on a clock slowed by k or √k (lines)." if sgd else ", and the curve at k = 1."),
        y_log=True,
    )


def panels(runs: Mapping[int, Run], sgd: bool, edge: float | None) -> tuple[Panel, ...]:
    """Draw what was measured so far, the headline first: the rule that theory has for the optimizer."""
    rule = "linear" if sgd else "square root"
    return trajectory_panel(runs, rule), error_panel(runs, sgd, edge), rival_panel(runs, sgd)


def verdict(scores: Sequence[float | None], runs: Mapping[int, Run], rate: float, sgd: bool, edge: float | None) -> str:
    """Say how far each rule strays from the curve at k = 1, and whether the curvature explains it."""
    largest = max(runs)
    if np.isnan(runs[1].losses[-1]).any():
        return f"Training diverged already at k = 1: choose a base rate below {rate:g}."
    linear, root, fixed = ("diverges" if one is None else f"{one:.2g}" for one in scores)
    text = (
        f"Mean |Δ log loss| against k = 1, for k from 2 to {largest}: linear rule {linear}, square-root rule {root}, "
    )
    text += f"fixed rate {fixed}."
    advice = "Choose a smaller k or η."
    if not sgd:
        text += " For Adam theory has the square root, exact only where gradients are mostly noise."
        return f"{text} {advice}" if scores[1] is None else text
    if scores[0] is not None and scores[0] <= HOLDS:
        return text
    if edge is not None and largest > edge:
        text += f" The largest rate ηk, {rate * largest:.2g}, is beyond the {rate * edge:.2g} (2/λ) that the loss's "
        return f"{text}curvature λ allows. {advice}"
    return f"{text} The weights move too far within k small steps. {advice}"


def keeps(seen: int, k: int) -> bool:
    """Tell whether losses are recorded after so many examples: at every comparison, more often at k = 1."""
    return seen % MARK == 0 or (k == 1 and seen % (EARLY if seen < MARK else LATE) == 0)


def run(values: Mapping[str, Value], seed: int, device: torch.device, report: Report) -> Outcome:
    """Train at every batch size under the three rules and compare with the smallest batch."""
    rate, optimizer, epochs = float(values["rate"]), str(values["optimizer"]), int(values["epochs"])
    factors = [2**i for i in range(int(math.log2(int(values["largest_k"]))) + 1)]
    sgd, edge, runs = optimizer == "SGD", None, {}
    generator = torch.Generator().manual_seed(seed)
    images, labels = (one.to(device) for one in examples(generator))
    initial = [one.to(device) for one in initial_weights(generator)]
    passes = [torch.randperm(EXAMPLES, generator=generator) for _ in range(SEEDS * epochs)]
    order = torch.stack(passes).view(SEEDS, -1).to(device)
    work, done, drawn = sum(order.shape[1] // (BATCH * k) for k in factors), 0, 0
    for k in factors:
        runs[k] = Run()
        rates = [rate * k**power for power in RULES.values()] if k > 1 else [rate]
        nets = len(rates) * SEEDS
        some = images[:EVALUATED].expand(nets, -1, -1), labels[:EVALUATED].expand(nets, -1)
        for seen, weights in descend(network_gradients, initial, (images, labels), order, BATCH * k, rates, optimizer):
            if keeps(seen, k):
                runs[k].add(seen, network_losses(weights, *some).view(-1, SEEDS).cpu().double().numpy())
            if sgd and (k, seen) == (1, MARK):
                edge = stable_factor(rate, largest_curvature(network_losses, weights, *some, generator))
            if done % REPORTED == 0:
                grown = panels(runs, sgd, edge) if done - drawn >= PARTIAL * work else None
                drawn = done if grown else drawn
                report(done / work, f"Batches of {BATCH * k:,}, {nets} networks", grown)
            done += 1
        done -= 1
    facts = {
        "examples": EXAMPLES,
        "epochs": epochs,
        "base batch": BATCH,
        "base rate": rate,
        "k": factors,
        "seeds": SEEDS,
        "steps in all": work,
        "stable rate 2/λ after 1,024 examples": float(f"{rate * edge:.4g}") if edge else None,
    }
    return compare(runs, rate, sgd, edge, facts)


def stable_factor(rate: float, curvature: Tensor) -> float | None:
    """Return the k at which ηk is 2/λ, λ the mean of curvatures [net]; None where that isn't a positive number."""
    factor = 2 / (rate * float(curvature.mean()))
    return factor if 0 < factor < math.inf else None


def compare(runs: Mapping[int, Run], rate: float, sgd: bool, edge: float | None, facts: dict[str, Any]) -> Outcome:
    """Score finished runs: the mean error of each rule over all k above 1."""
    found = np.mean([errors(runs[1], run) for k, run in runs.items() if k > 1], axis=0)
    scores = [float(value) if math.isfinite(value) else None for value in found]
    named = dict(zip(SCORES, scores, strict=True))
    text = verdict(scores, runs, rate, sgd, edge)
    return Outcome(panels(runs, sgd, edge), named, text, facts=facts, diverged=scores[0 if sgd else 1] is None)
