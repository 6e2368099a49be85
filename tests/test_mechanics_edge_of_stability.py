"""Edge of stability: flows against closed forms, finite differences and dense Hessians, then the exhibit's claims."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from lm_core.errors import JobCancelled
from lm_core.exhibit_params import find_exhibit
from lm_core.mechanics import central_flow
from lm_core.mechanics.central_flow import (
    arrival,
    central_step,
    expand,
    first_eigenvectors,
    follow,
    hessian_times,
    predicted_loss,
    response,
    sharpness_gradient,
    top_eigenpairs,
)
from lm_core.mechanics.edge_of_stability import chebyshev, descend, draw_weights, run

CPU = torch.device("cpu")
EXHIBIT = find_exhibit("c1")


def quiet(*_) -> None:
    """Report to nobody."""


def go(seed: int = 0, **values):
    return run(EXHIBIT.defaults | values, seed, CPU, quiet)


def torch_loss(weights: torch.Tensor, x: np.ndarray, y: np.ndarray) -> torch.Tensor:
    """The loss, written a second time for torch to differentiate."""
    w, b, a = weights[:-1].reshape(3, -1)
    f = torch.tanh(torch.tensor(x)[:, None] * w + b) @ a + weights[-1]
    return ((f - torch.tensor(y)) ** 2).mean() / 2


def dense_hessian(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return torch.func.hessian(torch_loss)(torch.tensor(weights), x, y).numpy()


@pytest.fixture(params=[0, 1])
def place(request) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights a little trained, and the data."""
    x, y = chebyshev(4)
    rng = np.random.default_rng(request.param)
    return draw_weights(12, request.param) + 0.3 * rng.standard_normal(37), x, y


def test_loss_gradient_and_hessian_equal_automatic_differentiation(place):
    weights, x, y = place
    local = expand(weights, x, y)
    gradient, loss = torch.func.grad_and_value(torch_loss)(torch.tensor(weights), x, y)
    assert local.loss == pytest.approx(float(loss), rel=1e-12)
    np.testing.assert_allclose(local.gradient, gradient.numpy(), atol=1e-12)
    np.testing.assert_allclose(hessian_times(local, x, np.eye(37)), dense_hessian(*place), atol=1e-12)


def test_top_eigenpairs_equal_those_of_the_dense_hessian(place):
    weights, x, y = place
    local = expand(weights, x, y)
    values, vectors = top_eigenpairs(local, x, first_eigenvectors(local, x), 2)
    wanted, basis = np.linalg.eigh(dense_hessian(*place))
    np.testing.assert_allclose(values[:2], wanted[::-1][:2], rtol=1e-9)
    assert abs(vectors[:, 0] @ basis[:, -1]) == pytest.approx(1, abs=1e-9)


def test_sharpness_gradient_equals_finite_differences(place):
    weights, x, y = place
    local = expand(weights, x, y)
    found = sharpness_gradient(local, x, first_eigenvectors(local, x)[:, 0])

    def sharpness(at: np.ndarray) -> float:
        return np.linalg.eigvalsh(dense_hessian(at, x, y))[-1]

    step = 1e-5
    for index in range(0, 37, 4):
        shift = step * np.eye(37)[index]
        slope = (sharpness(weights + shift) - sharpness(weights - shift)) / (2 * step)
        assert found[index] == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_response_is_exact_for_a_quadratic_loss_and_euler_outside_the_given_eigenvectors():
    values, force = np.array([3.0, 0.5]), np.array([1.0, 2.0, -1.0])
    vectors = np.eye(3)[:, :2]
    moved = response(force, values, vectors, 2.0)
    np.testing.assert_allclose(moved, [(1 - math.exp(-6)) / 3, 2 * (1 - math.exp(-1)) / 0.5, -2.0], atol=1e-14)


def test_one_step_of_descent_equals_one_with_automatic_differentiation():
    x, y = chebyshev(3)
    weights, rate = draw_weights(10, 0), 0.1
    two = descend(weights, x, y, rate, 2, CPU)
    start = torch.tensor(weights)
    gradient, first = torch.func.grad_and_value(torch_loss)(start, x, y)
    second = torch_loss(start - rate * gradient, x, y)
    np.testing.assert_allclose(two.loss, [float(first), float(second)], rtol=1e-12)
    assert two.sharpness[0] == pytest.approx(np.linalg.eigvalsh(dense_hessian(weights, x, y))[-1], rel=1e-6)


def test_below_the_edge_the_central_flow_is_gradient_flow():
    start = draw_weights(50, 0), *chebyshev(4), 0.05, 2_000
    central, gradient = (follow(*start, central=flag) for flag in (True, False))
    assert arrival(central, 0.05) is None
    assert not central.variance.any()
    np.testing.assert_array_equal(central.loss, gradient.loss)
    np.testing.assert_array_equal(central.sharpness, gradient.sharpness)


def test_gradient_flow_equals_an_ode_solvers_and_descent_nears_it_in_the_first_order_of_the_rate():
    x, y = chebyshev(4)
    weights, time = draw_weights(50, 0), 40.0
    solved = solve_ivp(
        lambda _, w: -expand(w, x, y).gradient, (0, time), weights, method="LSODA", rtol=1e-10, atol=1e-12
    )
    wanted, errors = expand(solved.y[:, -1], x, y).loss, []
    for rate in (0.05, 0.025):
        steps = round(time / rate)
        assert follow(weights, x, y, rate, steps, central=False).loss[-1] == pytest.approx(wanted, rel=5e-4)
        errors.append(abs(descend(weights, x, y, rate, steps + 1, CPU).loss[-1] / wanted - 1))
    assert errors[1] < 1e-3
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1)


def test_the_central_flow_stays_at_two_over_the_rate_and_does_not_depend_on_its_step(monkeypatch):
    rate, start = 0.15, (draw_weights(50, 0), *chebyshev(4), 0.15, 4_000)
    coarse = follow(*start, central=True)
    there = coarse.step >= arrival(coarse, rate) + 100
    np.testing.assert_allclose(coarse.sharpness[there] * rate / 2, 1, atol=1e-3)
    monkeypatch.setattr(central_flow, "FLOW_STEP", 2)
    fine = follow(*start, central=True)
    means = [predicted_loss(one, rate)[one.step >= 1_300].mean() for one in (coarse, fine)]
    assert means[0] == pytest.approx(means[1], rel=5e-3)


def test_over_a_vanishing_step_the_variance_that_holds_the_sharpness_is_the_formulas():
    """σ² = max(0, −2∇L·∇S/‖∇S‖²), at weights on gradient flow's path where S is exactly 2/η."""
    x, y = chebyshev(4)
    path = solve_ivp(lambda _, w: -expand(w, x, y).gradient, (0, 200), draw_weights(50, 0), rtol=1e-6)
    formulas = []
    for weights in (path.y[:, 0], path.y[:, -1]):
        local = expand(weights, x, y)
        values, vectors = top_eigenpairs(local, x, first_eigenvectors(local, x), 2)
        slope = sharpness_gradient(local, x, vectors[:, 0])
        formulas.append(max(0.0, -2 * (local.gradient @ slope) / (slope @ slope)))
        _, variance = central_step(local, x, values, vectors, 2 / values[0], 1e-6)
        assert variance == pytest.approx(formulas[-1], rel=1e-4)
    assert formulas[0] == 0  # the sharpness falls at first
    assert formulas[1] > 0


def test_the_default_run_is_within_tolerance_and_beats_gradient_flow():
    found = go()
    assert all(bound.holds(found.scores[bound.score]) for bound in EXHIBIT.tolerances)
    assert found.scores["gradient flow's mean loss error"] < -0.3
    assert not found.diverged
    assert "0.99" in found.verdict or "1.00" in found.verdict


def test_starting_beyond_the_edge_breaks_the_law_and_is_called_a_catapult():
    found = go(**EXHIBIT.break_it.values)
    assert not EXHIBIT.tolerances[0].holds(found.scores["plateau / (2/η)"])
    assert not found.diverged
    assert "catapult" in found.verdict


def test_a_run_that_diverges_is_shown_as_far_as_it_went():
    found = go(eta=0.4, steps=4_000)
    assert found.diverged
    assert "diverged within" in found.verdict
    assert set(found.scores.values()) == {None}
    for panel in found.panels:
        assert any(curve.role == "experiment" and len(curve.x) > 3 for curve in panel.curves)


def test_a_run_that_stays_below_the_edge_has_no_scores_and_says_so():
    found = go(eta=0.08, steps=400)
    assert set(found.scores.values()) == {None}
    assert "too late for a plateau" in found.verdict


@pytest.mark.parametrize(("eta", "width", "degree"), [*product((0.08, 0.4), (20, 100), (3, 5))])
def test_extreme_settings_run(eta, width, degree):
    found = go(eta=eta, width=width, degree=degree, steps=200)
    assert found.verdict.endswith(".")
    assert all(curve.x for panel in found.panels for curve in panel.curves)


def test_a_seed_gives_its_numbers_and_leaves_torch_alone():
    state = torch.get_rng_state()
    first, again, other = (go(seed, eta=0.2, steps=400) for seed in (0, 0, 1))
    assert first == again
    assert first.panels != other.panels
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("allowed", [2, 8])
def test_a_cancelled_run_stops_at_the_next_report_and_leaves_nothing_behind(allowed):
    calls = []

    def cancel(share, message, _):
        calls.append((share, message))
        if len(calls) > allowed:
            raise JobCancelled("stop")

    values = EXHIBIT.defaults | {"eta": 0.2, "steps": 800}
    before = run(values, 0, CPU, quiet)
    with pytest.raises(JobCancelled):
        run(values, 0, CPU, cancel)
    assert len(calls) == allowed + 1
    assert run(values, 0, CPU, quiet) == before


def test_progress_ascends_and_partial_panels_grow():
    seen = []
    run(EXHIBIT.defaults | {"steps": 4_000}, 0, CPU, lambda *report: seen.append(report))
    shares = [share for share, _, _ in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1] <= 1) == (0, True)
    drawn = [{curve.role: len(curve.x) for curve in panels[0].curves} for _, _, panels in seen if panels]
    grown = [sizes.get("experiment", 0) for sizes in drawn]
    assert len(grown) >= 4
    assert grown == sorted(grown)
    assert all(sizes["prediction"] for sizes in drawn)
