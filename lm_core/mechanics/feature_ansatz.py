"""Exhibit c2: what a trained first layer looks at, by the neural feature ansatz and by a theorem at convergence.

A network f(x) = Σ_j a_j φ(w_j·x + b_j) + c learns a target that depends on few of its inputs. Its feature matrix WᵀW is
compared with the average gradient outer product (AGOP; Radhakrishnan et al. 2024), and with what weight decay makes of
it where training has come to rest (FACT; Boix-Adsera et al. 2025). The toy RFM trains this network too.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm_core.exhibit_params import Value
from lm_core.exhibit_results import Curve, Outcome, Panel, Table
from lm_core.llm.rfm import agop

INPUTS = 20
WIDTH = 128
EXAMPLES = 1_000
RATE, MOMENTUM = 0.05, 0.9
RECORDS = 50
TAIL = 100  # last steps that are averaged
REPORT_EVERY = 50
TINY = 1e-15  # a weight below it counts as zero
DRAWINGS = 10  # of partial panels in a run
STATIONARY = 0.98  # cosine from which the verdict calls training converged: the exhibit's tolerance
SCORES = "FACT cosine", "NFA cosine", "NFA cosine, root of AGOP", "distance from rest"

TARGETS: dict[int, Callable[[Tensor], Tensor]] = {  # by how many inputs they depend on
    1: lambda x: x[:, 0],
    2: lambda x: x[:, 0] * x[:, 1],
    3: lambda x: x[:, 0] * x[:, 1] + x[:, 2],
    4: lambda x: x[:, 0] * x[:, 1] + x[:, 2] * x[:, 3],
}
Report = Callable[[float, str, Sequence[Panel] | None], None]


class Network(NamedTuple):
    """Weights w [h, d], b [h], a [h], c [1], and the name of the activation φ: "relu" or "silu", z/(1 + e^{−z})."""

    w: Tensor
    b: Tensor
    a: Tensor
    c: Tensor
    activation: str


class Alignment(NamedTuple):
    """After `step` steps: training loss, cosines of WᵀW with the three predictions, and how far W is from rest."""

    step: int
    loss: float
    fact: float
    nfa: float
    root: float
    unrest: float


def draw_data(count: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw Gaussian inputs [n, d], float32, and targets [n] that depend on the first `rank` of them."""
    x = torch.randn(count, INPUTS, generator=generator)
    return x, TARGETS[rank](x)


def draw_network(activation: str, generator: torch.Generator, device: torch.device) -> Network:
    """Draw a network: w and a Gaussian with variance 1/(a layer's inputs), b and c zero."""
    w = torch.randn(WIDTH, INPUTS, generator=generator) / math.sqrt(INPUTS)
    a = torch.randn(WIDTH, generator=generator) / math.sqrt(WIDTH)
    b, c = torch.zeros(WIDTH, device=device), torch.zeros(1, device=device)
    return Network(w.to(device), b, a.to(device), c, activation)


def forward(network: Network, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return f(x) [n], the hidden values φ(z) [n, h] and the slopes ∂f/∂z = φ′(z) a [n, h] for x [n, d]."""
    z = torch.addmm(network.b, x, network.w.T)
    if network.activation == "relu":
        hidden, slope = z.clamp_min(0), z > 0
    else:
        gate = z.sigmoid()
        hidden = z * gate
        slope = gate + hidden * (1 - gate)
    return hidden @ network.a + network.c, hidden, slope * network.a


def gradients(network: Network, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of ½ mean (f − y)² with respect to w, b, a and c."""
    f, hidden, slopes = forward(network, x)
    error = (f - y) / len(x)
    back = slopes * error[:, None]
    return back.T @ x, back.sum(0), error @ hidden, error.sum(0, keepdim=True)


def train(network: Network, x: Tensor, y: Tensor, decay: float, steps: int) -> Iterator[int]:
    """Train in place on ½ mean (f − y)² + ½ λ‖all weights‖² by full-batch descent with momentum.

    Yields how many steps are done, before each and at the end.
    Cost: about .6 ms a step for 1,000 examples on one core.
    """
    weights = network[:4]
    speeds = [torch.zeros_like(part) for part in weights]
    for step in range(steps):
        yield step
        for part, speed, gradient in zip(weights, speeds, gradients(network, x, y), strict=True):
            speed.mul_(MOMENTUM).add_(gradient).add_(part, alpha=decay)
            part.sub_(speed, alpha=RATE)
        if step % REPORT_EVERY == 0:
            for part in (*weights, *speeds):  # units that the decay wipes out would slow a CPU down as denormal numbers
                part.mul_(part.abs() >= TINY)
    yield steps


def input_gradients(network: Network, x: Tensor) -> Tensor:
    """Return ∇ₓf [n, d] at inputs [n, d]."""
    return forward(network, x)[2] @ network.w


def feature_matrix(network: Network) -> Tensor:
    """Return WᵀW [d, d]."""
    return network.w.T @ network.w


def convergence_matrix(network: Network, x: Tensor, y: Tensor, decay: float) -> Tensor:
    """Return −(1/λ) E[∇ₓℓ xᵀ] [d, d], which is WᵀW where the decayed loss is stationary in W.

    FACT (Boix-Adsera et al. 2025): there E[∇_z ℓ xᵀ] + λW = 0; multiply by Wᵀ. ℓ = ½ (f − y)². Elsewhere the matrix
    isn't even symmetric.
    """
    f, _, slopes = forward(network, x)
    return ((f - y)[:, None] * (slopes @ network.w)).T @ x / (-decay * len(x))


def unrest(network: Network, x: Tensor, y: Tensor, decay: float) -> float:
    """Return ‖E[∇_z ℓ xᵀ] + λW‖ / ‖λW‖, zero where the decayed loss is stationary in W."""
    pull = decay * network.w
    return float((gradients(network, x, y)[0] + pull).norm() / pull.norm())


def square_root(matrix: Tensor) -> Tensor:
    """Return the square root of a symmetric positive semidefinite matrix [d, d], in float64 on the CPU, or its NaN."""
    if not matrix.isfinite().all():
        return matrix
    values, vectors = torch.linalg.eigh(matrix.cpu().double())
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def cosine(a: Tensor, b: Tensor) -> float:
    """Return ⟨a, b⟩/(‖a‖‖b‖) over all entries, NaN if either is zero or not finite."""
    a, b = a.cpu().double(), b.cpu().double()
    return float((a * b).sum() / (a.norm() * b.norm()))


def align(network: Network, x: Tensor, y: Tensor, decay: float, step: int) -> Alignment:
    """Compare WᵀW with the predictions from the network's gradients at its training inputs [n, d]."""
    features, outer = feature_matrix(network), agop(input_gradients(network, x))
    return Alignment(
        step=step,
        loss=float((forward(network, x)[0] - y).square().mean() / 2),
        fact=cosine(features, convergence_matrix(network, x, y, decay)),
        nfa=cosine(features, outer),
        root=cosine(features, square_root(outer)),
        unrest=unrest(network, x, y, decay),
    )


def tail_start(steps: int) -> int:
    """Return the step from which a run of that many is averaged: its last 100 steps, or its last tenth if shorter."""
    return steps - min(TAIL, steps // 10)


def record_steps(steps: int) -> set[int]:
    """Return the steps to compare at: 0, fifty evenly spaced in the logarithm, and every second one of the tail."""
    early = np.geomspace(1, steps, RECORDS).round().astype(int).tolist()
    return {0, *early, *range(tail_start(steps), steps + 1, 2)}


def settle(past: Sequence[Alignment], steps: int) -> Alignment:
    """Return the mean over the tail of a finished run.

    A ReLU's gradient jumps where a unit's kink passes an example, and a minimum lies on such kinks: there the gradients
    to either side, not each of them, balance the decay, so that single steps scatter however small the rate.
    """
    tail = np.mean([one for one in past if one.step >= tail_start(steps)], axis=0)
    return Alignment(steps, *tail[1:].tolist())


def scaled(matrix: Tensor, like: Tensor) -> Tensor:
    """Return the matrix with the Frobenius norm of `like`."""
    return matrix * (like.norm() / matrix.norm())


def panels(network: Network, x: Tensor, y: Tensor, decay: float, past: Sequence[Alignment]) -> tuple[Panel, ...]:
    """Draw the diagonals of the feature matrix and its predictions now, and the cosines and the loss so far."""
    features, inputs, later = feature_matrix(network), range(INPUTS), past[1:]
    steps, outer = [one.step for one in later], agop(input_gradients(network, x))
    looks = (
        Curve.of("WᵀW of the network", "experiment", inputs, features.diagonal()),
        Curve.of("FACT", "prediction", inputs, convergence_matrix(network, x, y, decay).diagonal()),
        Curve.of("NFA: AGOP, scaled", "reference", inputs, scaled(outer, features).diagonal()),
    )
    cosines = (
        Curve.of("FACT", "experiment", steps, [one.fact for one in later], group=0, joined=True),
        Curve.of("NFA: AGOP", "experiment", steps, [one.nfa for one in later], group=1, joined=True),
        Curve.of("NFA: root of AGOP", "experiment", steps, [one.root for one in later], group=2, joined=True),
    )
    loss = Curve.of("network", "experiment", steps, [one.loss for one in later], joined=True)
    rest = Curve.of("‖E[∇ℓ xᵀ] + λW‖ / ‖λW‖", "experiment", steps, [one.unrest for one in later], group=1, joined=True)
    return (
        Panel(
            "What the first layer looks at",
            "input",
            "diagonal entry",
            looks,
            "Diagonal of the feature matrix WᵀW, input by input, over what FACT computes from the loss's gradients, "
            "without a free factor; the AGOP of the ansatz is scaled to the norm of WᵀW.",
        ),
        Panel(
            "Agreement while training",
            "step",
            "cosine with WᵀW, all entries",
            cosines,
            "Cosine between WᵀW and each prediction, over all entries: FACT has to hold only where training has come "
            "to rest, where single steps scatter under a ReLU; the ansatz is no theorem anywhere.",
            x_log=True,
            level=STATIONARY,
            level_name="tolerance of FACT",
        ),
        Panel(
            "Loss and rest",
            "step",
            "½ mean (f − y)², and distance from rest",
            (loss, rest),
            "Training loss, and how far the first layer is from rest: the mismatch of the loss's pull and the decay's, "
            "relative to the latter.",
            x_log=True,
            y_log=True,
        ),
    )


def tables(network: Network, x: Tensor, y: Tensor, decay: float) -> tuple[Table, ...]:
    """Return the feature matrix, its two predictions, as heat maps."""
    names = [f"x{index}" for index in range(INPUTS)]
    parts = (
        ("WᵀW", feature_matrix(network), "The first layer's feature matrix, input by input."),
        (
            "FACT: −E[∇ₓℓ xᵀ]/λ",
            convergence_matrix(network, x, y, decay),
            "What it has to be where training has come to rest, at the same scale.",
        ),
        ("AGOP", agop(input_gradients(network, x)), "Average gradient outer product, divided by its largest entry."),
    )
    return tuple(Table.of(title, names, names, matrix, caption, diverging=True) for title, matrix, caption in parts)


def verdict(last: Alignment, decay: float, activation: str) -> str:
    """Say how well the two predictions fit at the end, and why if they don't."""
    if not math.isfinite(last.fact):
        return (
            f"After {last.step:,} steps weight decay λ = {decay:g} has wiped the first layer out, so no cosine is "
            "defined; choose a smaller λ."
        )
    text = (
        f"At the end of {last.step:,} steps the cosine with WᵀW is {last.fact:.4f} for FACT and {last.nfa:.3f} for the "
        f"neural feature ansatz ({last.root:.3f} with the root of the AGOP)"
    )
    if last.fact < STATIONARY:
        return (
            f"{text}; loss and decay still pull the first layer {last.unrest:.0%} out of balance, and FACT holds only "
            "where they balance: choose more steps or a larger λ."
        )
    kinks = ", since single steps of a ReLU network jump between its kinks" if activation == "relu" else ""
    return f"{text}; in a single step loss and decay pull the first layer {last.unrest:.1%} out of balance{kinks}."


def run(values: Mapping[str, Value], seed: int, device: torch.device, report: Report) -> Outcome:
    """Train the network and compare its feature matrix with both predictions as it learns."""
    decay, steps, activation = float(values["decay"]), int(values["steps"]), str(values["activation"])
    generator = torch.Generator().manual_seed(seed)
    x, y = (part.to(device) for part in draw_data(EXAMPLES, int(values["rank"]), generator))
    network = draw_network(activation, generator, device)
    past, marks, draw_every = [], record_steps(steps), max(1, steps // DRAWINGS)
    plots: tuple[Panel, ...] = ()
    for step in train(network, x, y, decay, steps):
        if step in marks:
            past.append(align(network, x, y, decay, step))
            if not math.isfinite(past[-1].loss):
                text = f"Training diverged by step {step:,}; choose another seed, or a smaller λ."
                return Outcome(plots, dict.fromkeys(SCORES), text, diverged=True)
        if step % draw_every == 0:
            plots = panels(network, x, y, decay, past)
        if step % REPORT_EVERY == 0:
            report(step / steps, f"Step {step:,} of {steps:,}", plots if step and step % draw_every == 0 else None)
    last = settle(past, steps)
    figures = last.fact, last.nfa, last.root, last.unrest
    found = {name: f if math.isfinite(f) else None for name, f in zip(SCORES, figures, strict=True)}
    facts = {
        "examples": EXAMPLES,
        "inputs": INPUTS,
        "hidden units": WIDTH,
        "steps": steps,
        "learning rate": RATE,
        "momentum": MOMENTUM,
        "training loss": float(f"{last.loss:.4g}"),
    }
    plots, heat = panels(network, x, y, decay, past), tables(network, x, y, decay)
    return Outcome(plots, found, verdict(last, decay, activation), heat, facts)
