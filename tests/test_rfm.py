"""Concept directions: planted ones are found, the maths equals its definition, and unusable examples are refused."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from lm_core.errors import ParameterError
from lm_core.llm.baselines import METHODS, fit_layers, logistic_weights
from lm_core.llm.rfm import (
    agop,
    distances,
    fit_rfm,
    fit_rfm_layers,
    laplace_kernel,
    predictor_gradients,
    ridge_coefficients,
    split_rows,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def even_concept(seed: int, n: int = 400, d: int = 48) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rows, labels |u·x| > 1 and u: the class without lies between the two halves of the class with."""
    u, x = normalize(noise(seed, d), dim=0), noise(seed + 1, n, d)
    side = torch.tensor([0.0, 2.0, 0.0, -2.0]).repeat(n // 4)
    along = side + 0.25 * noise(seed + 2, n)
    return x + torch.outer(along - x @ u, u), (along.abs() > 1).float(), u


def odd_concept(seed: int, n: int = 200, d: int = 40, shift: float = 3.0):
    """Return rows, labels and u: the class with the concept is shifted by `shift` along u."""
    u, y = normalize(noise(seed, d), dim=0), (torch.arange(n) % 2).float()
    return noise(seed + 1, n, d) + shift * torch.outer(y, u), y, u


@pytest.mark.parametrize("seed", [10, 20, 30])
def test_a_direction_with_an_even_label_is_found_where_the_difference_of_means_fails(seed):
    x, y, u = even_concept(seed)
    assert abs(fit_rfm(x, y, generator=seeded()).vector @ u) > 0.95
    assert abs(METHODS["mean_difference"](x, y, generator=seeded()).vector @ u) < 0.3


def test_a_threshold_on_gaussian_rows_is_found_too():
    x, u = noise(1, 400, 24), normalize(noise(2, 24), dim=0)
    found = fit_rfm(x, ((x @ u).abs() > 0.7).float(), generator=seeded())
    assert abs(found.vector @ u) > 0.95


def test_real_targets_work():
    x, u = noise(1, 300, 40), normalize(noise(2, 40), dim=0)
    rating = 3 + 2 * torch.tanh(2 * (x @ u))
    found = fit_rfm(x, rating, generator=seeded())
    assert found.vector @ u > 0.95
    assert found.correlation > 0.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [200, 150])
def test_every_method_finds_a_shift_and_its_sign(method, count):
    x, y, u = odd_concept(5, shift=5.0)
    kept = torch.cat([torch.arange(count)[y[:count] == 1], torch.arange(100)[y[:100] == 0]])  # 75 against 50 at 150
    found = METHODS[method](x[kept], y[kept], generator=seeded())
    assert found.vector @ u > 0.9
    assert found.correlation > 0.8
    assert found.vector.norm() == pytest.approx(1)
    flipped = METHODS[method](x[kept], 1 - y[kept], generator=seeded())
    assert flipped.vector @ u < -0.9
    assert flipped.correlation > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_real_targets(method):
    u, rating = normalize(noise(1, 40), dim=0), torch.linspace(1, 5, 200)
    found = METHODS[method](noise(2, 200, 40) + torch.outer(2 * rating, u), rating, generator=seeded())
    assert found.vector @ u > 0.9


def test_kernel_and_distances_equal_their_definition():
    x, z, root = noise(1, 5, 4).double(), noise(2, 7, 4).double(), noise(3, 4, 4).double()
    metric = root.T @ root
    wanted = torch.stack([torch.stack([((a - b) @ metric @ (a - b)).sqrt() for b in z]) for a in x])
    torch.testing.assert_close(distances(x, z, metric), wanted)
    torch.testing.assert_close(laplace_kernel(x, z, metric, 3.0), torch.exp(-wanted / 3))


def fitted_predictor(n: int = 12, d: int = 5):
    x, y, root = noise(1, n, d).double(), noise(2, n).double(), noise(3, d, d).double()
    metric = root.T @ root
    return x, y, metric, ridge_coefficients(x, y, metric, 2.0)


def test_coefficients_solve_the_ridge_system():
    x, y, metric, alpha = fitted_predictor()
    kernel = laplace_kernel(x, x, metric, 2.0)
    torch.testing.assert_close((kernel + 1e-3 * torch.eye(12)) @ alpha, y)


def test_agop_is_the_mean_outer_product_of_the_predictors_gradients():
    x, _, metric, alpha = fitted_predictor()
    outer = torch.zeros(5, 5, dtype=torch.float64)
    for j, point in enumerate(x.clone()):
        point.requires_grad_()
        others = [i for i in range(len(x)) if i != j]  # the point's own kernel has a kink there
        gaps = point - x[others]
        value = (alpha[others] * torch.exp(-((gaps @ metric) * gaps).sum(1).sqrt() / 2)).sum()
        (gradient,) = torch.autograd.grad(value, point)
        outer += torch.outer(gradient, gradient) / len(x)
    found = agop(predictor_gradients(x, alpha, metric, 2.0))
    torch.testing.assert_close(found, outer / outer.abs().max())


def test_agop_is_symmetric_positive_semidefinite_with_largest_entry_one():
    x, _, metric, alpha = fitted_predictor(40, 9)
    found = agop(predictor_gradients(x, alpha, metric, 2.0))
    torch.testing.assert_close(found, found.T, atol=1e-15, rtol=0)
    assert torch.linalg.eigvalsh(found).min() > -1e-12
    assert found.abs().max() == pytest.approx(1)


def test_agop_of_coordinates_is_that_of_the_whole_space():
    basis, coordinates = torch.linalg.qr(noise(1, 9, 4)).Q, noise(2, 20, 4)
    torch.testing.assert_close(basis @ agop(coordinates, basis) @ basis.T, agop(coordinates @ basis.T))


def test_an_absolute_bandwidth_makes_the_kernel_of_huge_rows_the_identity():
    x, y, u = even_concept(10)
    huge, identity = 1000 * x.double(), torch.eye(48).double()
    kernel = laplace_kernel(huge, huge, identity, 1.0)
    torch.testing.assert_close(kernel, torch.eye(len(x)).double(), atol=1e-3, rtol=0)
    alpha = ridge_coefficients(huge, y.double(), identity, 1.0)
    assert agop(predictor_gradients(huge, alpha, identity, 1.0)).isnan().all()
    found = fit_rfm(1000 * x + 5000, y, generator=seeded())
    assert abs(found.vector @ u) > 0.95
    assert found.bandwidth > 1000


def test_a_few_huge_rows_do_not_hide_the_direction():
    x, y, u = odd_concept(5)
    x[:3] *= 1000
    found = fit_rfm(x, y, generator=seeded())
    assert found.vector.isfinite().all()
    assert found.vector @ u > 0.8


def test_a_bandwidth_far_too_small_is_refused():
    x, y, _ = odd_concept(5)
    with pytest.raises(ParameterError, match="larger bandwidths"):
        fit_rfm(x, y, generator=seeded(), bandwidths=(1e-4,))


@pytest.mark.parametrize("method", METHODS)
def test_permuted_labels_give_chance(method):
    x, y, _ = odd_concept(5)
    orders = [torch.randperm(len(y), generator=seeded(seed)) for seed in range(6)]
    best = [METHODS[method](x, y[order], generator=seeded(seed)).correlation for seed, order in enumerate(orders)]
    # The best of up to 20 related settings on 40 rows: one has a standard error of .16.
    assert sum(best) / len(best) < 0.35
    assert METHODS[method](x, y, generator=seeded()).correlation > 0.7


@pytest.mark.parametrize("method", METHODS)
def test_layers_together_equal_layers_alone(method):
    x, y, _ = odd_concept(5, n=100)
    layers = torch.stack([x, 3 * x.flip(1), x[:, torch.randperm(40, generator=seeded())]], 1)
    for layer, together in enumerate(fit_layers(method, layers, y, generator=seeded())):
        alone = METHODS[method](layers[:, layer], y, generator=seeded())
        torch.testing.assert_close(together.vector, alone.vector)
        assert together.correlation == pytest.approx(alone.correlation)


@pytest.mark.parametrize("method", METHODS)
def test_an_equal_seed_gives_an_equal_direction_and_leaves_the_global_seed_alone(method):
    x, y, _ = odd_concept(5, n=100)
    state = torch.get_rng_state()
    first, second = (METHODS[method](x, y, generator=seeded(7)) for _ in range(2))
    assert torch.equal(first.top, second.top)
    assert first.correlation == second.correlation
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["rfm", "pca"])
def test_top_vectors_are_orthonormal_and_begin_with_the_direction(method):
    x, y, _ = odd_concept(5, n=100)
    found = METHODS[method](x, y, generator=seeded())
    assert found.top.shape == (3, 40)
    assert found.top.dtype == found.vector.dtype == torch.float32
    assert torch.equal(found.top[0], found.vector)
    torch.testing.assert_close(found.top @ found.top.T, torch.eye(3), atol=1e-5, rtol=0)
    assert replace(found, rounds=3).rounds == 3


def test_more_features_than_rows_work_in_half_precision():
    u, y = normalize(noise(1, 576), dim=0), (torch.arange(120) % 2).float()
    x = (noise(2, 120, 576) + 12 * torch.outer(y, u)).bfloat16()
    for method in METHODS:
        assert METHODS[method](x, y, generator=seeded()).vector @ u > 0.7


def test_the_split_is_stratified_centred_by_training_rows_and_keeps_pairs():
    y = torch.cat([torch.zeros(50), torch.ones(50)])
    rows = torch.cat([torch.arange(50.0), 100 + torch.arange(50.0)])[:, None, None].expand(100, 1, 3)
    split = split_rows(rows, y, seeded())
    assert [int((split.held_targets == label).sum()) for label in split.held_targets.unique()] == [10, 10]
    assert split.train.mean(1).abs().max() < 1e-12
    low, high = (split.train[:, split.train_targets == label] for label in split.train_targets.unique())
    torch.testing.assert_close(low + 100, high)


def test_logistic_weights_make_the_loss_stationary():
    x, y, _ = odd_concept(5)
    x, y, penalty = x.double(), y.double(), 0.01
    w, b = logistic_weights(x[None], y, penalty)[0].split([40, 1])
    surplus = (x @ w + b).sigmoid() - y
    assert (surplus @ x + penalty * w).abs().max() < 1e-6
    assert abs(surplus.sum()) < 1e-6


def test_one_feature_and_rows_of_equal_direction_do_not_break_the_machine():
    y = (torch.arange(40) % 2).float()
    found = fit_rfm(noise(1, 40, 1) + 3 * y[:, None], y, generator=seeded(), p=1)
    assert found.vector.tolist() == pytest.approx([1.0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x, torch.ones_like(y)), "with and without"),
        (lambda x, y: (x[:15], y[:15]), "8 of each class"),
        (lambda x, y: (x, (torch.arange(len(y)) < 7).float()), "8 of each class"),
        (lambda x, y: (x[:15], torch.arange(15.0)), "16 in all"),
        (lambda x, y: (x[:1].expand_as(x), y), "only 1 different"),
        (lambda x, y: (x.index_fill(0, torch.tensor([3]), torch.nan), y), "NaN or infinity"),
        (lambda x, y: (x, y.index_fill(0, torch.tensor([3]), torch.inf)), "NaN or infinity"),
        (lambda x, y: (x, y[:-1]), "must be"),
    ],
)
def test_unusable_examples_are_refused(method, spoil, message):
    x, y = spoil(*odd_concept(5)[:2])
    with pytest.raises(ParameterError, match=message):
        METHODS[method](x, y, generator=seeded())


@pytest.mark.parametrize("settings", [{"bandwidths": ()}, {"bandwidths": (-1,)}, {"rounds": 0}, {"ridge": 0}, {"p": 0}])
def test_unusable_settings_are_refused(settings):
    with pytest.raises(ParameterError, match=r"choose|give"):
        fit_rfm_layers(noise(1, 40, 1, 8), (torch.arange(40) % 2).float(), generator=seeded(), **settings)


def test_an_unknown_method_is_refused():
    with pytest.raises(ParameterError, match="rfm, logistic"):
        fit_layers("magic", noise(1, 40, 1, 8), (torch.arange(40) % 2).float(), generator=seeded())
