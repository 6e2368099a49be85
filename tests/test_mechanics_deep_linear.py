"""Exhibit a1: closed forms solve their equation, the network follows them, and it stops following out of the regime."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from lm_core.errors import JobCancelled
from lm_core.exhibit_params import find_exhibit
from lm_core.mechanics import deep_linear
from lm_core.mechanics.deep_linear import TARGET, balanced_law, descend, draw_start, law, start_strengths

CPU = torch.device("cpu")
EXHIBIT = find_exhibit("a1")


def quiet(*_):
    pass


def outcome(seed: int = 0, **values):
    return deep_linear.run(EXHIBIT.defaults | values, seed, CPU, quiet)


def started(kind: str, depth: int, sigma: float = 1e-3, width: int = 12, seed: int = 0):
    return draw_start(kind, sigma, depth, width, torch.Generator().manual_seed(seed))


def strengths(start, rate: float, steps) -> np.ndarray:
    return np.stack([record.strengths for record in descend(start, rate, steps) if record])


def noiseless(depth: int, sigma: float, width: int, monkeypatch):
    monkeypatch.setattr(deep_linear, "MISALIGNED", 0.0)
    return started("aligned", depth, sigma, width)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_run_is_within_tolerance_and_learns_the_strongest_mode_first(seed):
    found = outcome(seed)
    assert EXHIBIT.tolerances[0].holds(found.scores["R²"])
    assert "6 of 6 modes" in found.verdict
    assert "strongest first" in found.verdict
    assert found.scores["half-time error"] < 0.1
    assert not found.diverged


def test_a_large_start_breaks_the_law_and_the_verdict_says_why():
    found = outcome(**EXHIBIT.break_it.values)
    assert not EXHIBIT.tolerances[0].holds(found.scores["R²"])
    assert found.scores["R²"] < 0.9
    assert "smaller σ" in found.verdict


@pytest.mark.parametrize("depth", [3, 4])
def test_deeper_networks_follow_the_law_from_an_aligned_start_only(depth):
    values = {"depth": depth, "sigma": 0.01}
    assert outcome(**values, start="aligned").scores["R²"] > 0.998
    found = outcome(**values)
    assert found.scores["R²"] < 0.998
    assert "aligned start" in found.verdict


def test_an_aligned_start_follows_the_law_even_where_it_is_large():
    assert outcome(sigma=0.5, start="aligned").scores["R²"] > 0.998


def test_one_layer_learns_exponentially_to_round_off_in_discrete_time():
    start, rate, steps = started("random", 1, sigma=0.5), 2e-3, np.arange(0, 2000, 50)
    expected = TARGET + (start_strengths(start) - TARGET) * (1 - rate) ** steps[:, None]
    np.testing.assert_allclose(strengths(start, rate, steps), expected, atol=1e-11)


def test_one_layer_learns_all_modes_together():
    assert "all together" in outcome(depth=1).verdict


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_laws_solve_their_differential_equation(depth):
    start, times = np.array([1e-2, 2e-2, 0.1, 0.5, 0.9, 0.7]), np.linspace(0, 4, 40_001)
    curves = law(times, start, TARGET, depth)
    np.testing.assert_allclose(curves[0], start, rtol=1e-9)
    slope, u = (curves[2:] - curves[:-2]) / (times[2:] - times[:-2])[:, None], curves[1:-1]
    np.testing.assert_allclose(slope, depth * u ** (2 - 2 / depth) * (TARGET - u), atol=2e-3)


@pytest.mark.parametrize("start", [1e-6, 0.3, 2.0, 9.0])
def test_quadrature_at_depth_two_equals_the_closed_form(start):
    times = np.linspace(0, 10, 300)
    closed = law(times, np.array([start]), np.array([2.0 + 1e-12]), 2)[:, 0]
    np.testing.assert_allclose(balanced_law(times, start, 2.0, 2), closed, atol=1e-6)


def test_a_mode_that_starts_on_its_target_stays():
    for depth in (1, 2, 3):
        assert law(np.array([0.0, 5.0]), TARGET, TARGET, depth) == pytest.approx(np.stack([TARGET, TARGET]))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_halving_the_rate_halves_the_discretisation_error(depth, monkeypatch):
    start = noiseless(depth, 0.1, 8, monkeypatch)
    times, errors = np.linspace(0, 2, 21), []
    expected = law(times, start_strengths(start), TARGET, depth)
    for rate in (2e-3, 1e-3, 5e-4):
        found = strengths(start, rate, np.round(times / rate).astype(int))
        errors.append(np.abs(found - expected).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders == pytest.approx([1, 1], abs=0.1)


def test_an_aligned_start_without_noise_stays_aligned(monkeypatch):
    start = noiseless(3, 0.1, len(TARGET), monkeypatch)
    assert start_strengths(start) == pytest.approx(np.full(6, 0.1**2 * 6))  # σ²d
    final = [record for record in descend(start, 2e-3, [0, 500]) if record][-1]
    assert final.loss == pytest.approx(((TARGET - final.strengths) ** 2).sum() / 2)  # nothing outside the modes


def test_the_start_of_a_two_layer_mode_is_its_growing_half():
    start = started("random", 2)
    first, second = start.layers
    for mode, strength in enumerate(start_strengths(start)):
        half = (first @ start.right[:, mode] + second.T @ start.left[:, mode]) / 2
        assert strength == pytest.approx(float(half @ half))


def test_a_smaller_start_takes_longer_by_the_logarithm_of_the_ratio():
    times = np.linspace(0, 16, 20_001)
    halves = [deep_linear.half_times(times, law(times, np.full(6, u0), TARGET, 2)) for u0 in (1e-4, 1e-6)]
    np.testing.assert_allclose(halves[1] - halves[0], np.log(100) / (2 * TARGET), rtol=1e-3)


def test_gradient_descent_follows_the_gradient_of_the_loss():
    start = started("random", 3, sigma=0.5)
    layers = [layer.clone().requires_grad_() for layer in start.layers]
    target = (start.left * torch.from_numpy(TARGET)) @ start.right.T
    loss = (target - layers[2] @ layers[1] @ layers[0]).square().sum() / 2
    loss.backward()
    moved = [layer.detach() - 1e-3 * layer.grad for layer in layers]
    expected = (start.left * (moved[2] @ moved[1] @ moved[0] @ start.right)).sum(0)
    np.testing.assert_allclose(strengths(start, 1e-3, [0, 1])[1], expected.numpy(), rtol=1e-10)


def test_a_run_that_diverges_is_shown_as_far_as_it_went():
    found = outcome(sigma=0.5, depth=4, width=128)
    assert found.diverged
    assert found.scores["R²"] is None
    assert "diverged" in found.verdict
    assert len(found.panels[0].curves) == 12
    assert any(curve.x for curve in found.panels[0].curves if curve.role == "experiment")


@pytest.mark.parametrize("start", ["random", "aligned"])
@pytest.mark.parametrize("sigma", [1e-4, 0.5])
@pytest.mark.parametrize("depth", [1, 4])
def test_extreme_corners_run_and_draw(start, sigma, depth, monkeypatch):
    monkeypatch.setattr(deep_linear, "LAYER_UPDATES", 4_000)
    for width in (8, 128):
        found = outcome(start=start, sigma=sigma, depth=depth, width=width)
        assert found.verdict.endswith(".")
        for panel in found.panels:
            assert {"prediction", "experiment"} <= {curve.role for curve in panel.curves}
            assert all(len(curve.x) <= 120 for curve in panel.curves)


def test_cancelling_stops_at_once_and_leaves_nothing_behind():
    before = outcome(sigma=0.01)
    shares = []

    def cancel(share, *_):
        shares.append(share)
        if share > 0.3:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        deep_linear.run(EXHIBIT.defaults | {"sigma": 0.01}, 0, CPU, cancel)
    assert max(shares) == shares[-1] < 0.5
    assert asdict(outcome(sigma=0.01)) == asdict(before)


def test_partial_panels_grow_and_the_global_seed_is_left_alone():
    state, drawn = torch.get_rng_state(), []
    deep_linear.run(EXHIBIT.defaults, 3, CPU, lambda share, message, panels: drawn.append(panels))
    sizes = [len(panels[0].curves[1].x) for panels in drawn if panels]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 5
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_is_another_network():
    assert outcome(0, sigma=0.01).scores != outcome(1, sigma=0.01).scores
