"""Exhibit a2: the eigenframework's identities hold, fits follow its curves, and repeats in a small pool break it."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from lm_core.errors import JobCancelled
from lm_core.exhibit_params import find_exhibit
from lm_core.mechanics import kernel_learning
from lm_core.mechanics.kernel_learning import (
    distinct,
    draw_pool,
    fit,
    kernel_matrix,
    law,
    learnabilities,
    log_r_squared,
    measure,
    relu_ntk,
    solve_kappa,
)

CPU = torch.device("cpu")
EXHIBIT = find_exhibit("a2")
KERNELS = EXHIBIT.control("kernel").options


def quiet(*_):
    pass


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outcome(seed: int = 0, report=quiet, **values):
    return kernel_learning.run(EXHIBIT.defaults | values, seed, CPU, report)


def rows(count: int = 40, width: int = 5) -> torch.Tensor:
    return torch.randn(count, width, generator=seeded(1), dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_run_is_within_tolerance(seed):
    found = outcome(seed)
    assert EXHIBIT.tolerances[0].holds(found.scores["log-R²"])
    assert found.scores["largest factor"] < 1.1
    assert found.scores["learnability error"] < 0.05


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_is_within_tolerance_at_ridge_one_in_a_small_pool_too(kernel):
    assert EXHIBIT.tolerances[0].holds(outcome(kernel=kernel, pool=600).scores["log-R²"])


def test_a_small_pool_without_ridge_breaks_the_law_and_the_verdict_says_why():
    found = outcome(**EXHIBIT.break_it.values)
    assert not EXHIBIT.tolerances[0].holds(found.scores["log-R²"])
    assert found.scores["largest factor"] > 2
    assert "repeats count once" in found.verdict


def test_scoring_only_the_points_not_drawn_misses_the_law():
    pool = draw_pool("Laplace", 600, seeded(), CPU)
    fits = measure(pool, 256, 1e-2, 0.0, seeded(1), quiet)
    assert (fits.undrawn.mean(0) > 1.4 * fits.pool.mean(0))[:3].all()


@pytest.mark.parametrize("n", [1, 10, 77.5])
@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0, 100.0])
def test_kappa_solves_its_equation(n, ridge):
    eigenvalues = 1 / np.arange(1, 101) ** 2
    kappa = solve_kappa(eigenvalues, n, ridge)
    assert (eigenvalues / (eigenvalues + kappa)).sum() + ridge / kappa == pytest.approx(n, rel=1e-9)


def test_learnabilities_sum_to_n_at_ridge_zero_and_to_less_above():
    eigenvalues = 1 / np.arange(1, 101) ** 2
    assert learnabilities(eigenvalues, 30, 0.0).sum() == pytest.approx(30)
    assert learnabilities(eigenvalues, 30, 0.1).sum() < 30


def test_measured_learnabilities_obey_the_conservation_law_at_a_vanishing_ridge():
    pool = draw_pool("Laplace", 300, seeded(), CPU)
    places = torch.randperm(300, generator=seeded(1))[None, :40]
    fitted = fit(pool.kernel, places, pool.eigenfunctions[places], 1e-10)
    assert float((fitted * pool.eigenfunctions).mean(1).sum()) == pytest.approx(40, rel=1e-6)


def test_a_flat_spectrum_without_noise_is_learnt_like_a_lookup_table():
    count, power = 50, np.full((50, 1), 1 / 50)
    assert learnabilities(np.ones(count), 20, 0.0) == pytest.approx(np.full(count, 20 / count))
    assert law(np.ones(count), power, 20, 0.0, 0.0) == pytest.approx([1 - 20 / count])


def test_no_points_and_an_infinite_ridge_leave_the_targets_whole_power():
    eigenvalues, power = 1 / np.arange(1, 101) ** 2, np.full((100, 1), 0.01)
    assert law(eigenvalues, power, 1e-9, 1.0, 0.5) == pytest.approx([1.25])
    assert law(eigenvalues, power, 50, 1e9, 0.5) == pytest.approx([1.25])


def test_noise_raises_the_error_in_law_and_fits_alike():
    pool, ridge = draw_pool("Gaussian", 300, seeded(), CPU), 1.0
    predicted = [law(pool.eigenvalues, pool.power, 64, ridge, noise) for noise in (0.0, 0.5)]
    measured = [measure(pool, 64, ridge, noise, seeded(1), quiet).pool.mean(0) for noise in (0.0, 0.5)]
    assert (predicted[1] > predicted[0] + 0.25).all()
    assert (measured[1] > measured[0] + 0.25).all()
    np.testing.assert_allclose(measured[1] - measured[0], predicted[1] - predicted[0], rtol=0.05)


def test_the_arc_cosine_kernel_is_that_of_random_relu_features():
    x, features = rows(12), 200_000
    weights = torch.randn(5, features, generator=seeded(2), dtype=torch.float64)
    active = (x @ weights > 0).double()
    hidden = active * (x @ weights)
    estimate = hidden @ hidden.T / features + (x @ x.T) * (active @ active.T) / features
    torch.testing.assert_close(relu_ntk(x), estimate, atol=0.06, rtol=0.01)


def test_the_relu_kernel_of_a_point_with_itself_is_its_squared_norm():
    x = rows()
    torch.testing.assert_close(relu_ntk(x).diagonal(), x.square().sum(1))
    torch.testing.assert_close(relu_ntk(torch.cat([x[:1], -x[:1]]))[0, 1], torch.zeros(()).double(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_symmetric_positive_semidefinite_with_a_mean_of_one_on_the_diagonal(name):
    kernel = kernel_matrix(name, rows())
    torch.testing.assert_close(kernel, kernel.T)
    assert torch.linalg.eigvalsh(kernel).min() > -1e-10
    assert kernel.diagonal().mean() == pytest.approx(1)


@pytest.mark.parametrize("name", ["Gaussian", "Laplace"])
def test_distance_kernels_do_not_depend_on_the_unit_of_their_inputs(name):
    torch.testing.assert_close(kernel_matrix(name, rows()), kernel_matrix(name, 1000 * rows() + 7))


@pytest.mark.parametrize("name", KERNELS)
def test_the_pool_is_rebuilt_from_its_eigensystem_and_the_labels_power_sums_to_one(name):
    pool = draw_pool(name, 100, seeded(), CPU)
    functions, values = pool.eigenfunctions, torch.from_numpy(pool.eigenvalues)
    torch.testing.assert_close(functions * values @ functions.T, pool.kernel)
    torch.testing.assert_close(functions.T @ functions / 100, torch.eye(100).double())
    assert pool.power.sum(0) == pytest.approx(np.ones(4))
    assert (np.diff(pool.eigenvalues) <= 0).all()


def test_a_batch_of_fits_equals_the_textbook_formula_one_by_one():
    pool = draw_pool("Laplace", 100, seeded(), CPU)
    places = torch.randint(100, (3, 20), generator=seeded(1))
    together = fit(pool.kernel, places, pool.labels[places], 0.1)
    for one, found in zip(places, together, strict=True):
        alpha = torch.linalg.solve(pool.kernel[one][:, one] + 0.1 * torch.eye(20).double(), pool.labels[one])
        torch.testing.assert_close(pool.kernel[:, one] @ alpha, found)


def test_a_repeat_teaches_nothing_as_the_ridge_vanishes_and_something_at_ridge_one():
    pool = draw_pool("Laplace", 100, seeded(), CPU)
    once, twice = torch.arange(20)[None], torch.arange(20).repeat(2)[None]
    gaps = []
    for ridge in (1e-9, 1.0):
        fits = [fit(pool.kernel, places, pool.labels[places], ridge) for places in (once, twice)]
        gaps.append(float((fits[0] - fits[1]).abs().max()))
    assert gaps[0] < 1e-6
    assert gaps[1] > 0.1


def test_the_number_of_different_points_is_the_mean_over_draws():
    drawn = torch.randint(300, (400, 512), generator=seeded())
    counted = np.mean([len(one.unique()) for one in drawn])
    assert distinct(512, 300) == pytest.approx(counted, rel=0.01)
    assert distinct(1, 300) == pytest.approx(1)


def test_log_r_squared_is_one_for_agreement_and_ignores_levels():
    curves = np.exp(np.array([[0.0, -4.0], [-1.0, -4.5], [-2.0, -5.0]]))
    assert log_r_squared(curves, curves) == 1
    off = curves * 1.1
    assert log_r_squared(off, curves) == pytest.approx(log_r_squared(off * [1, 50], curves * [1, 50]))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("ridge", [1e-3, 10.0])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_extreme_corners_run_and_draw(kernel, ridge, noise):
    found = outcome(kernel=kernel, ridge=ridge, noise=noise, pool=300)
    assert all(np.isfinite(value) for value in found.scores.values())
    assert found.verdict.endswith(".")
    assert all(len(curve.x) <= 120 for panel in found.panels for curve in panel.curves)


def test_the_whole_pool_runs_at_the_smallest_ridge():
    assert np.isfinite(outcome(ridge=1e-3, noise=0.5).scores["log-R²"])


def test_cancelling_stops_at_once_and_leaves_nothing_behind():
    before, shares = outcome(pool=300), []

    def cancel(share, *_):
        shares.append(share)
        if share > 0.5:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        outcome(report=cancel, pool=300)
    assert max(shares) == shares[-1] < 0.8
    assert asdict(outcome(pool=300)) == asdict(before)


def test_partial_panels_grow_and_the_global_seed_is_left_alone():
    state, drawn = torch.get_rng_state(), []
    outcome(report=lambda share, message, panels: drawn.append(panels), pool=300)
    sizes = [len(panels[0].curves[1].x) for panels in drawn if panels]
    assert sizes == list(range(len(kernel_learning.SIZES)))
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_is_another_draw():
    assert outcome(0, pool=300).scores != outcome(1, pool=300).scores
