"""Exhibit c3: a kernel machine that never saw a network finds the features the network learnt.

The recursive feature machine (Radhakrishnan et al. 2024) is kernel ridge regression with a metric M on its inputs,
which is set to the fitted predictor's average gradient outer product (AGOP), again and again. Its every step is a
function of `lm_core.llm.rfm`, the code that finds the directions that steer a language model. The network is
`feature_ansatz`'s.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lm_core.exhibit_params import Value
from lm_core.exhibit_results import Curve, Outcome, Panel, Table
from lm_core.llm.rfm import RIDGE, agop, distances, laplace_kernel, predictor_gradients, ridge_coefficients
from lm_core.mechanics.feature_ansatz import (
    INPUTS,
    cosine,
    draw_data,
    draw_network,
    feature_matrix,
    forward,
    input_gradients,
    scaled,
    train,
)

RANK = 3  # x0·x1 + x2
TEST_EXAMPLES = 1_000
DECAY, STEPS = 0.01, 2_000  # of the network: by then it has come to rest
REPORT_EVERY = 50
AGREE = 0.98  # cosine from which the verdict speaks of agreement: the exhibit's tolerance
SCORES = "cosine(M, AGOP)", "cosine(M, WᵀW)", "test MSE, last / first round", "network's test MSE"

Report = Callable[[float, str, Sequence[Panel] | None], None]


class Data(NamedTuple):
    """Training and test inputs [n, d] and targets [n]."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


class Learnt(NamedTuple):
    """The trained network's AGOP, its largest entry 1, and WᵀW [d, d], both float64 on the CPU, and its test MSE."""

    outer: Tensor
    features: Tensor
    error: float


class Round(NamedTuple):
    """After `done` updates: M [d, d], float64 on the CPU, and the mean squared error on the test inputs with it."""

    done: int
    metric: Tensor
    error: float


def median_distance(x: Tensor) -> Tensor:
    """Return the median distance between the rows of x [n, d]."""
    row, other = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    return distances(x, x, torch.eye(x.shape[1]).to(x))[row, other].median()


def machine(data: Data, bandwidth: float, rounds: int) -> Iterator[Round]:
    """Run a recursive feature machine; yield it before the first update of M = 1, and after each.

    (K + 10⁻³)α = y with K = exp(−√((x−z)ᵀM(x−z))/L), then M ← AGOP of f(x) = Σ_i α_i K(x, x_i), divided by its largest
    entry (Radhakrishnan et al. 2024, Algorithm 1).

    Args:
        bandwidth: L in median distances between training inputs.

    Ends early where every gradient is zero, for K is the identity. Cost: O(n³ + n²d) a round.
    """
    length, metric = bandwidth * median_distance(data.x), torch.eye(data.x.shape[1]).to(data.x)
    for done in range(rounds + 1):
        alpha = ridge_coefficients(data.x, data.y, metric, length)
        fitted = laplace_kernel(data.test_x, data.x, metric, length) @ alpha
        yield Round(done, metric.cpu().double(), float((fitted - data.test_y).square().mean()))
        metric = agop(predictor_gradients(data.x, alpha, metric, length))
        if not metric.isfinite().all():
            return


def train_network(data: Data, generator: torch.Generator, report: Report) -> Learnt:
    """Train a ReLU network on the same examples; report the first .7 of the work."""
    x, y, test_x = data.x.float(), data.y.float(), data.test_x.float()
    network = draw_network("relu", generator, x.device)
    for step in train(network, x, y, DECAY, STEPS):
        if step % REPORT_EVERY == 0:
            report(0.7 * step / STEPS, f"Training the network, step {step:,} of {STEPS:,}", None)
    outer, features = agop(input_gradients(network, x)), feature_matrix(network)
    error = (forward(network, test_x)[0] - data.test_y).square().mean()
    return Learnt(outer.cpu().double(), features.cpu().double(), float(error))


def panels(learnt: Learnt, past: Sequence[Round]) -> tuple[Panel, ...]:
    """Draw M's diagonal now over the network's, and the errors and cosines round by round."""
    inputs, rounds, last = range(INPUTS), [one.done for one in past], past[-1]
    looks = (
        Curve.of("AGOP of the network", "experiment", inputs, learnt.outer.diagonal()),
        Curve.of("M of the kernel machine", "prediction", inputs, last.metric.diagonal()),
        Curve.of("WᵀW of the network, scaled", "reference", inputs, scaled(learnt.features, learnt.outer).diagonal()),
    )
    errors = (
        Curve.of("kernel machine", "experiment", rounds, [one.error for one in past], joined=True),
        Curve.of("kernel regression, M = 1", "reference", rounds, [past[0].error] * len(past)),
        Curve.of("network", "reference", rounds, [learnt.error] * len(past), group=1),
    )
    agreement = [
        Curve.of(f"M and {name}", "experiment", rounds, values, group=group, joined=True)
        for group, (name, values) in enumerate(
            (
                ("AGOP", [cosine(one.metric, learnt.outer) for one in past]),
                ("WᵀW", [cosine(one.metric, learnt.features) for one in past]),
            )
        )
    ]
    return (
        Panel(
            "What each looks at",
            "input",
            "diagonal entry, the AGOP's and M's largest entry is 1",
            looks,
            f"Diagonals after round {last.done}: the kernel machine's M, found without any network, over the AGOP of "
            "the trained network; the target depends on inputs 0, 1 and 2.",
        ),
        Panel(
            "Test error",
            "round",
            "mean squared error on test inputs",
            errors,
            "Round 0 is plain kernel regression; each round learns which inputs matter. The target's variance is 2.",
            y_log=True,
        ),
        Panel(
            "Agreement by round",
            "round",
            "cosine with M, all entries",
            tuple(agreement),
            "Cosine over all entries between M and the network's two feature matrices; M starts as the identity.",
            level=AGREE,
            level_name="tolerance",
        ),
    )


def tables(learnt: Learnt, last: Round) -> tuple[Table, ...]:
    """Return M, the AGOP and WᵀW as heat maps."""
    names = [f"x{index}" for index in range(INPUTS)]
    parts = (
        ("M", last.metric, "The kernel machine's metric, divided by its largest entry."),
        ("AGOP", learnt.outer, "The network's average gradient outer product, divided by its largest entry."),
        ("WᵀW", learnt.features, "The feature matrix of the network's first layer."),
    )
    return tuple(Table.of(title, names, names, matrix, caption, diverging=True) for title, matrix, caption in parts)


def verdict(past: Sequence[Round], rounds: int, outer: float, features: float) -> str:
    """Say what the machine learnt, from its cosines with the network's AGOP and WᵀW."""
    last = past[-1]
    if last.done < rounds:
        return (
            f"After {last.done} rounds every gradient of the predictor is zero: with so small a bandwidth the kernel "
            "sees each example alone; choose a larger one."
        )
    text = (
        f"After round {last.done} the cosine of the kernel machine's M is {outer:.3f} with the network's AGOP and "
        f"{features:.3f} with its WᵀW, and its test error went from {past[0].error:.3g} to {last.error:.3g}"
    )
    if outer >= AGREE:
        return f"{text}; the same code finds the directions that steer a language model."
    if last.error > 0.9 * past[0].error:
        return f"{text}: there was too little to learn features from; choose a bandwidth near 1 and more examples."
    return f"{text}; choose more rounds, more examples or a bandwidth near 1."


def run(values: Mapping[str, Value], seed: int, device: torch.device, report: Report) -> Outcome:
    """Train the network, run the machine on the same examples and compare what they look at."""
    count, rounds, bandwidth = int(values["n"]), int(values["rounds"]), float(values["bandwidth"])
    dtype, generator = torch.float32 if device.type == "mps" else torch.float64, torch.Generator().manual_seed(seed)
    drawn = *draw_data(count, RANK, generator), *draw_data(TEST_EXAMPLES, RANK, generator)
    data = Data(*(part.to(device, dtype) for part in drawn))
    learnt, past = train_network(data, generator, report), []
    for found in machine(data, bandwidth, rounds):
        past.append(found)
        report(0.7 + 0.3 * found.done / rounds, f"Round {found.done} of {rounds}", panels(learnt, past))
    outer, features = (cosine(past[-1].metric, other) for other in (learnt.outer, learnt.features))
    figures = outer, features, past[-1].error / past[0].error, learnt.error
    whole = past[-1].done == rounds
    found = {name: f if whole and math.isfinite(f) else None for name, f in zip(SCORES, figures, strict=True)}
    facts = {
        "examples": count,
        "test examples": TEST_EXAMPLES,
        "inputs": INPUTS,
        "network steps": STEPS,
        "weight decay": DECAY,
        "ridge": RIDGE,
        "test MSE by round": [float(f"{one.error:.4g}") for one in past],
    }
    text = verdict(past, rounds, outer, features)
    return Outcome(panels(learnt, past), found, text, tables(learnt, past[-1]), facts)
