"""Feature ansatz and FACT: closed forms, automatic differentiation, then the exhibit's claims."""

import math
from itertools import product

import pytest
import torch

from lm_core.errors import JobCancelled
from lm_core.exhibit_params import find_exhibit
from lm_core.llm.rfm import agop
from lm_core.mechanics import feature_ansatz
from lm_core.mechanics.feature_ansatz import (
    Network,
    convergence_matrix,
    cosine,
    draw_data,
    draw_network,
    feature_matrix,
    forward,
    gradients,
    input_gradients,
    run,
    square_root,
    train,
    unrest,
)

CPU = torch.device("cpu")
EXHIBIT = find_exhibit("c2")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quiet(*_) -> None:
    """Report to nobody."""


def go(seed: int = 0, **values):
    return run(EXHIBIT.defaults | values, seed, CPU, quiet)


def drawn(activation: str, count: int = 50) -> tuple[Network, torch.Tensor, torch.Tensor]:
    """Return a network and data in float64."""
    generator = seeded()
    x, y = (part.double() for part in draw_data(count, 3, generator))
    network = draw_network(activation, generator, CPU)
    return Network(*(part.double() for part in network[:4]), activation), x, y


def linear(w: torch.Tensor, slope: float = 1.0) -> Network:
    """Return a network of one ReLU, far from its kink on any data, that computes slope · w·x."""
    lift = torch.tensor([100.0], dtype=torch.float64)
    a = torch.tensor([slope], dtype=torch.float64)
    return Network(w[None], lift, a, -slope * lift, "relu")


def torch_output(parts, x: torch.Tensor, activation: str) -> torch.Tensor:
    """The network, written a second time for torch to differentiate."""
    w, b, a, c = parts
    return getattr(torch.nn.functional, activation)(x @ w.T + b) @ a + c


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_outputs_and_gradients_equal_automatic_differentiation(activation):
    network, x, y = drawn(activation)
    parts = [part.clone().requires_grad_() for part in network[:4]]
    f = torch_output(parts, x, activation)
    torch.testing.assert_close(forward(network, x)[0], f.detach())
    wanted = torch.autograd.grad(((f - y) ** 2).mean() / 2, parts)
    for found, right in zip(gradients(network, x, y), wanted, strict=True):
        torch.testing.assert_close(found, right)
    inputs = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(torch_output(network[:4], inputs, activation).sum(), inputs)
    torch.testing.assert_close(input_gradients(network, x), slopes)


def test_training_equals_torchs_optimizer():
    network, x, y = drawn("relu")
    parts = [part.clone().requires_grad_() for part in network[:4]]
    optimizer = torch.optim.SGD(parts, lr=0.05, momentum=0.9, weight_decay=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        ((torch_output(parts, x, "relu") - y).square().mean() / 2).backward()
        optimizer.step()
    assert list(train(network, x, y, 0.01, 30)) == list(range(31))
    for found, right in zip(network[:4], parts, strict=True):
        torch.testing.assert_close(found, right.detach())


@pytest.mark.parametrize("decay", [1.0, 0.01, 1e-6])
def test_fact_is_exact_where_ridge_regression_is_stationary(decay):
    _, x, y = drawn("relu", 200)
    normal = x.T @ x / len(x) + decay * torch.eye(20, dtype=torch.float64)
    network = linear(torch.linalg.solve(normal, x.T @ y / len(x)))
    found, wanted = convergence_matrix(network, x, y, decay), feature_matrix(network)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-15 / decay + 1e-13)
    assert unrest(network, x, y, decay) < 1e-12 / decay


def test_without_decay_the_pull_of_the_loss_vanishes_instead():
    _, x, y = drawn("relu", 200)
    network = linear(torch.linalg.lstsq(x, y).solution)
    assert convergence_matrix(network, x, y, 1.0).abs().max() < 1e-13


def test_fact_misses_where_training_has_not_come_to_rest():
    network, x, y = drawn("relu")
    assert unrest(network, x, y, 0.01) > 1
    assert cosine(feature_matrix(network), convergence_matrix(network, x, y, 0.01)) < 0.5


def test_factor_by_inputs_equals_factor_by_weights():
    network, x, y = drawn("silu")
    by_weights = network.w.T @ gradients(network, x, y)[0] / -0.01
    torch.testing.assert_close(convergence_matrix(network, x, y, 0.01), by_weights)


def test_the_agop_is_symmetric_positive_semidefinite_and_its_root_squares_to_it():
    network, x, _ = drawn("relu")
    outer = agop(input_gradients(network, x))
    torch.testing.assert_close(outer, outer.T)
    assert torch.linalg.eigvalsh(outer).min() > -1e-12
    torch.testing.assert_close(square_root(outer) @ square_root(outer), outer)


def test_the_ansatz_is_exact_for_one_linear_unit():
    network, (_, x, _) = linear(torch.arange(20.0, dtype=torch.float64), slope=3.0), drawn("relu")
    assert cosine(feature_matrix(network), agop(input_gradients(network, x))) == pytest.approx(1, abs=1e-12)


def test_cosine_ignores_scale_and_is_undefined_for_zero():
    matrix = torch.randn(5, 5, generator=seeded())
    assert cosine(matrix, -3 * matrix) == pytest.approx(-1)
    assert math.isnan(cosine(matrix, 0 * matrix))


def test_the_default_run_is_within_tolerance_and_the_ansatz_is_not_exact():
    found = go()
    assert EXHIBIT.tolerances[0].holds(found.scores["FACT cosine"])
    assert 0.8 < found.scores["NFA cosine"] < 0.95
    assert [table.title[:3] for table in found.tables] == ["WᵀW", "FAC", "AGO"]


def test_hardly_any_decay_breaks_fact():
    found = go(**EXHIBIT.break_it.values)
    assert not EXHIBIT.tolerances[0].holds(found.scores["FACT cosine"])
    assert "more steps" in found.verdict


def test_a_smooth_activation_comes_to_rest_and_fact_becomes_exact():
    found = go(activation="silu", decay=0.03, steps=2_000)
    assert found.scores["FACT cosine"] > 0.99999
    assert found.scores["distance from rest"] < 0.05  # 0.1 and more with ReLUs


def test_a_decay_that_wipes_the_network_out_is_said():
    found = go(activation="silu", rank=4, decay=0.3, steps=1_000)
    assert set(found.scores.values()) == {None}
    assert "wiped the first layer out" in found.verdict


def test_a_run_that_diverges_is_shown_as_far_as_it_went(monkeypatch):
    monkeypatch.setattr(feature_ansatz, "RATE", 20.0)
    found = go(steps=400)
    assert found.diverged
    assert "diverged by step" in found.verdict
    assert found.panels[0].curves[0].y


@pytest.mark.parametrize(("decay", "rank", "activation"), [*product((1e-4, 0.3), (1, 4), ("relu", "silu"))])
def test_extreme_settings_run(decay, rank, activation):
    found = go(decay=decay, rank=rank, activation=activation, steps=100)
    assert found.verdict.endswith(".")
    assert all(score is not None for score in found.scores.values())
    assert all(len(curve.x) <= 120 for panel in found.panels for curve in panel.curves)


def test_a_seed_gives_its_numbers_and_leaves_torch_alone():
    state = torch.get_rng_state()
    first, again, other = (go(seed, steps=100) for seed in (0, 0, 1))
    assert first == again
    assert first.scores != other.scores
    assert torch.equal(torch.get_rng_state(), state)


def test_a_cancelled_run_stops_at_the_next_report_and_leaves_nothing_behind():
    calls = []

    def cancel(share, message, panels):
        calls.append(share)
        if len(calls) > 2:
            raise JobCancelled("stop")

    values = EXHIBIT.defaults | {"steps": 400}
    before = run(values, 0, CPU, quiet)
    with pytest.raises(JobCancelled):
        run(values, 0, CPU, cancel)
    assert len(calls) == 3
    assert run(values, 0, CPU, quiet) == before
