"""Lazy or rich: the linear model equals its definitions, wide networks follow it, and small α leaves it."""

import json
import math
from dataclasses import asdict

import pytest
import torch

from lm_core.errors import JobCancelled
from lm_core.exhibit_params import ExhibitParams, find_exhibit
from lm_core.mechanics import lazy_rich
from lm_core.mechanics.lazy_rich import Data, Networks

CPU = torch.device("cpu")
QUICK = {"alpha": 1.0, "width": 32, "steps": 50}


def quiet(*_):
    pass


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_data(train: int = 12, test: int = 7) -> Data:
    data = lazy_rich.draw_data(seeded(), torch.float64, CPU)
    return Data(data.x[:train], data.y[:train], data.x_test[:test], data.y_test[:test])


def run(values=QUICK, seed=0, report=quiet):
    return lazy_rich.run(values, seed, CPU, report)


@pytest.fixture
def few_networks(monkeypatch):
    monkeypatch.setattr(lazy_rich, "WIDTHS", (16, 32))
    monkeypatch.setattr(lazy_rich, "REPEATS", 2)


@pytest.fixture(scope="module")
def default():
    return run(find_exhibit("b").defaults)


@pytest.fixture(scope="module")
def broken():
    return run(ExhibitParams("b", find_exhibit("b").break_it.values).values)


def jacobian(net: Networks, x: torch.Tensor) -> torch.Tensor:
    """Return ∂f/∂(w, a) [N, weights] of the first network at α = 1, by automatic differentiation."""
    leaves = [part[:1].clone().requires_grad_() for part in net]
    values = (leaves[1].mT @ torch.relu(leaves[0] @ x.mT / 8))[0, 0] / net.w.shape[1] ** 0.5
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(v, leaves, retain_graph=True)]) for v in values]
    return torch.stack(rows)


def test_both_laws_and_the_movement_hold_at_the_defaults(default):
    for tolerance in find_exhibit("b").tolerances:
        assert tolerance.holds(default.scores[tolerance.score]), (tolerance, default.scores)
    assert default.scores["R² of the test outputs"] > 0.98
    assert not default.diverged


def test_test_outputs_approach_the_linear_models_as_width_grows(default):
    missed = next(curve for panel in default.panels for curve in panel.curves if curve.name.startswith("1 − R²"))
    assert missed.y[-1] < 0.01 < 0.02 < missed.y[0]


def test_breaking_it_leaves_the_headline_tolerance_and_moves_the_kernel(broken):
    exhibit = find_exhibit("b")
    assert not exhibit.tolerances[0].holds(broken.scores["slope in α"])
    assert not exhibit.tolerances[2].holds(broken.scores["error of the movement"])
    change = next(curve for panel in broken.panels for curve in panel.curves if curve.name.startswith("change"))
    assert change.y[0] > 2
    assert not broken.diverged


def test_antisymmetric_networks_start_at_zero():
    data = small_data()
    net = lazy_rich.antisymmetric(65, 3, seeded(), data.x)
    assert net.w.shape == (3, 66, 64)
    assert lazy_rich.outputs(net, data.x_test).abs().max() < 1e-14


def test_kernel_is_the_jacobian_times_its_transpose():
    data = small_data()
    net = lazy_rich.antisymmetric(20, 2, seeded(), data.x)
    train, test = jacobian(net, data.x), jacobian(net, data.x_test)
    hidden, readout = lazy_rich.tangent_kernels(net, data.x_test, data.x)
    weights = net.w[0].numel()
    torch.testing.assert_close(hidden[0], test[:, :weights] @ train[:, :weights].mT)
    torch.testing.assert_close(readout[0], test[:, weights:] @ train[:, weights:].mT)


@pytest.mark.parametrize("alpha", [0.5, 7.0])
def test_closed_form_equals_descent_on_the_linear_model(alpha):
    data, steps = small_data(), 40
    net = lazy_rich.antisymmetric(20, 1, seeded(), data.x)
    lin = lazy_rich.linearise_networks(net, data)
    train, test = alpha * jacobian(net, data.x), alpha * jacobian(net, data.x_test)
    rate = lazy_rich.STEADY * len(data.x) / float(torch.linalg.eigvalsh(train @ train.mT)[-1])
    moved = torch.zeros(train.shape[1], dtype=torch.float64)
    for _ in range(steps):
        moved -= rate / len(data.x) * train.mT @ (train @ moved - data.y)
    found = lazy_rich.linearised_outputs(lin, steps)
    torch.testing.assert_close(found[0][0], train @ moved)
    torch.testing.assert_close(found[1][0], test @ moved)
    weights = net.w[0].numel()
    wanted = moved[:weights].norm() / net.w.norm()
    torch.testing.assert_close(lazy_rich.linearised_movement(lin, steps)[0] / alpha, wanted)


def test_linear_model_at_last_fits_the_labels():
    data = small_data()
    lin = lazy_rich.linearise_networks(lazy_rich.antisymmetric(400, 1, seeded(), data.x), data)
    train, _ = lazy_rich.linearised_outputs(lin, 10**7)
    torch.testing.assert_close(train[0], data.y)


def test_a_step_follows_the_gradient_of_half_the_mean_squared_error():
    data, alpha, rate = small_data(), torch.tensor([0.5, 3.0]).double(), torch.tensor([0.1, 0.02]).double()
    net = lazy_rich.antisymmetric(10, 2, seeded(), data.x)
    net.a.add_(0.1)  # away from f = 0
    leaves = Networks(*(part.clone().requires_grad_() for part in net))
    f = alpha[:, None] * (leaves.a.mT @ torch.relu(leaves.w @ data.x.mT / 8))[:, 0] / 10**0.5
    slopes = torch.autograd.grad(((f - data.y).square().mean(1) / 2).sum(), leaves)
    list(lazy_rich.descend(net, alpha, rate, data, 1))
    for part, leaf, slope in zip(net, leaves, slopes, strict=True):
        torch.testing.assert_close(part, leaf.detach() - rate[:, None, None] * slope)


def test_kernel_of_a_wide_network_is_the_arc_cosine_kernel():
    data = small_data()
    nets = lazy_rich.antisymmetric(4096, 16, seeded(), data.x)
    for found, limit in zip(
        lazy_rich.tangent_kernels(nets, data.x, data.x), lazy_rich.limit_kernels(data.x, data.x), strict=True
    ):
        error = found.std(0) / len(found) ** 0.5
        assert error.max() < 0.02 * limit.max()
        assert ((found.mean(0) - limit) / error).abs().max() < 5


def test_linearised_movement_of_wide_networks_is_the_limits():
    data = small_data()
    lin = lazy_rich.linearise_networks(lazy_rich.antisymmetric(16384, 2, seeded(), data.x), data)
    wanted = lazy_rich.limit_movement(data, 100) / 16384**0.5
    assert lazy_rich.linearised_movement(lin, 100).tolist() == pytest.approx([wanted] * 2, rel=0.03)


def test_a_very_lazy_network_is_its_linear_model():
    data, alpha = small_data(), torch.tensor([1e4]).double()
    start = lazy_rich.antisymmetric(64, 1, seeded(), data.x)
    lin = lazy_rich.linearise_networks(start, data)
    got = lazy_rich.train(start, alpha, lin, data, 100, quiet)
    torch.testing.assert_close(got.movement, lazy_rich.linearised_movement(lin, 100) / alpha, rtol=1e-3, atol=0)
    assert got.r2[0] > 0.9999
    assert got.kernel_change[0] < 1e-3


def test_slope_is_that_of_a_power_law_and_none_without_numbers():
    x = [1.0, 2.0, 5.0]
    assert lazy_rich.slope(x, [3 * value**-0.5 for value in x]) == pytest.approx(-0.5)
    assert lazy_rich.slope(x, [1.0, math.nan, 2.0]) is None
    assert lazy_rich.slope(x, [1.0, 0.0, 2.0]) is None


@pytest.mark.usefixtures("few_networks")
@pytest.mark.parametrize("values", [(0.1, 32, 50), (100.0, 33, 50), (0.1, 256, 100), (100.0, 32, 400)])
def test_corners_of_the_controls_run(values):
    outcome = run(dict(zip(QUICK, values, strict=True)))
    assert all(value is not None for value in outcome.scores.values())
    assert all(curve.x for panel in outcome.panels for curve in panel.curves)


@pytest.mark.usefixtures("few_networks")
def test_divergence_is_shown_and_not_raised(monkeypatch):
    monkeypatch.setattr(lazy_rich, "STEADY", 5.0)  # above 2 the linear model diverges, above 4 the network does
    outcome = run({"alpha": 100.0, "width": 32, "steps": 400})
    assert outcome.diverged
    assert "diverged" in outcome.verdict
    assert set(outcome.scores.values()) == {None}
    errors = next(panel for panel in outcome.panels if panel.title == "Error during training")
    assert any(y is not None for curve in errors.curves for y in curve.y)
    json.dumps(asdict(outcome), allow_nan=False)


@pytest.mark.usefixtures("few_networks")
def test_an_equal_seed_gives_an_equal_run_also_after_a_cancelled_one():
    fresh, calls = run(), []

    def cancel(*_):
        calls.append(1)
        if len(calls) == 20:
            raise JobCancelled("Cancelled.")

    state = torch.get_rng_state()
    with pytest.raises(JobCancelled):
        run(report=cancel)
    assert len(calls) == 20
    assert run() == fresh
    assert torch.equal(torch.get_rng_state(), state)
    assert run(seed=1).scores != fresh.scores


@pytest.mark.usefixtures("few_networks")
def test_panels_grow_while_networks_train():
    shares, drawn = [], []

    def watch(share, message, panels):
        shares.append(share)
        drawn.extend([panels] if panels else [])

    outcome = run(report=watch)
    assert shares == sorted(shares)
    assert shares[-1] <= 1
    counts = [sum(len(curve.x) for panel in panels for curve in panel.curves) for panels in drawn]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert {panels[0].title for panels in drawn} == {outcome.panels[0].title}


def test_a_kept_run_is_lean_and_finite(default):
    assert len(json.dumps(asdict(default), allow_nan=False, ensure_ascii=False).encode()) < 60_000
    assert max(len(curve.x) for panel in default.panels for curve in panel.curves) <= 120
    assert {curve.role for curve in default.panels[0].curves} == {"prediction", "experiment", "reference"}
