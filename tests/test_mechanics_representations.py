"""Representations agree: CKA is what it should be, the derived law has its closed forms, trained networks leave it."""

import json
import math
from dataclasses import asdict

import pytest
import torch
from torch.nn.functional import conv2d

from lm_core.errors import JobCancelled
from lm_core.exhibit_params import ExhibitParams, find_exhibit
from lm_core.mechanics import representations
from lm_core.mechanics.representations import Images, Law

CPU = torch.device("cpu")
QUICK = {"features": "relu", "images": 20, "width": 64, "networks": "random"}
HEADLINE = "largest error in 1 − CKA"


def quiet(*_):
    pass


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def correlated(count: int, images: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Gaussian features [count, images] and the kernel of their centred values."""
    root = noise(seed, images, images) * torch.linspace(1, 0.1, images).double()
    centre = torch.eye(images).double() - 1 / images
    return noise(seed + 1, count, images) @ root.mT, centre @ root @ root.mT @ centre


def gaussian_law(kernel: torch.Tensor) -> Law:
    """Return the law of Gaussian features: E‖φ‖⁴ = (tr K)² + 2‖K‖² and Var φᵀKφ = 2 tr K⁴ (Isserlis)."""
    square, trace, fourth = float(kernel.square().sum()), float(kernel.trace()), float((kernel @ kernel).square().sum())
    return Law(square, trace**2 + square - 2 * fourth / square, trace**2 + square)


def run(values=QUICK, seed=0, report=quiet):
    return representations.run(values, seed, CPU, report)


@pytest.fixture
def little(monkeypatch):
    for name, value in {"NETWORKS": 8, "DRAWS": 8192, "MLP_WIDTHS": (8, 16), "CNN_WIDTHS": (8,), "STEPS": 10}.items():
        monkeypatch.setattr(representations, name, value)


@pytest.fixture(scope="module")
def default():
    return run(find_exhibit("e").defaults)


@pytest.fixture(scope="module")
def broken():
    return run(ExhibitParams("e", find_exhibit("e").break_it.values).values)


def test_random_networks_are_predicted_at_every_width_at_the_defaults(default):
    assert find_exhibit("e").tolerances[0].score == HEADLINE
    assert find_exhibit("e").tolerances[0].holds(default.scores[HEADLINE])
    assert default.panels[0].curves[0].x == (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert not default.diverged


def test_forgetting_that_cka_ignores_scale_predicts_worse(default):
    ours, plain = (torch.tensor(curve.y) for curve in default.panels[2].curves)
    assert ours.abs().mean() < plain.abs().mean()
    assert plain.max() < 0.03  # it expects too much difference


def test_trained_networks_agree_more_with_width_and_across_architectures(default):
    mlps, mixed = (torch.tensor(default.panels[1].curves[index].y) for index in (2, 3))
    assert 0.6 < mlps[0] < 0.9
    assert mlps[-1] > 0.95
    assert mixed[0] < mixed[-1]
    assert mixed[-1] > 0.8
    assert min(default.facts["test accuracy of the MLPs, by width"].values()) > 0.75
    assert default.facts["test accuracy of the MLPs, by width"]["512"] > 0.95


def test_breaking_it_leaves_the_tolerance(broken):
    assert not find_exhibit("e").tolerances[0].holds(broken.scores[HEADLINE])
    assert broken.scores[HEADLINE] > 0.5
    line, marks = broken.panels[0].curves
    assert all(measured < predicted / 2 for measured, predicted in zip(marks.y[:3], line.y[:3], strict=True))
    assert not broken.diverged


def test_cka_of_identical_features_is_one_and_ignores_rotation_scale_and_means():
    features = noise(1, 1, 12, 30)
    rotation = torch.linalg.qr(noise(2, 12, 12)).Q
    kernel = representations.unit_kernels(features)
    for other in (features, rotation @ features, 7 * features, features + noise(3, 1, 12, 1)):
        assert float(representations.alignments(kernel, representations.unit_kernels(other))) == pytest.approx(1)
    stretched = torch.linspace(0.1, 3, 12).double()[:, None] * features
    assert float(representations.alignments(kernel, representations.unit_kernels(stretched))) < 0.95


def test_cka_is_that_of_kornblith():
    x, y = noise(1, 5, 30), noise(2, 9, 30)
    found = representations.alignments(*(representations.unit_kernels(one[None]) for one in (x, y)))
    a, b = (one - one.mean(1, keepdim=True) for one in (x, y))
    wanted = (b @ a.mT).square().sum() / ((a @ a.mT).norm() * (b @ b.mT).norm())
    torch.testing.assert_close(found[0], wanted)


def test_every_pair_of_networks_counts_once():
    kernels = representations.unit_kernels(noise(1, 4, 3, 10))
    assert len(representations.alignments(kernels)) == 6
    assert representations.alignments(kernels).max() < 1
    assert len(representations.alignments(kernels, kernels)) == 16


def test_estimated_law_of_gaussian_features_has_its_closed_form():
    features, kernel = correlated(400_000, 12)
    found = representations.estimate_law(lambda: iter(features.split(50_000)))
    for measured, exact in zip(found, gaussian_law(kernel), strict=True):
        assert measured == pytest.approx(exact, rel=0.02)


def test_kernels_of_finite_networks_have_the_moments_that_the_derivation_takes():
    count, width = 40_000, 5
    features, kernel = correlated(count * width, 8)
    law = gaussian_law(kernel)
    centred = (features - features.mean(1, keepdim=True)).unflatten(0, (count, width))
    kernels = (centred.mT @ centred / width).flatten(1)
    product = (kernels[0::2] * kernels[1::2]).sum(1)
    assert float(product.mean()) == pytest.approx(law.square, abs=5 * float(product.std()) / len(product) ** 0.5)
    square = kernels.square().sum(1)
    wanted = law.square + law.whole / width
    assert float(square.mean()) == pytest.approx(wanted, abs=5 * float(square.std()) / count**0.5)


@pytest.mark.parametrize("width", [256, 2048])
def test_wide_gaussian_networks_differ_by_the_law_and_not_by_the_one_that_sees_scale(width):
    networks = 40
    features, kernel = correlated(networks * width, 12)
    law = gaussian_law(kernel)
    pairs = representations.alignments(representations.unit_kernels(features.unflatten(0, (networks, width))))
    gap = float(1 - pairs.mean())
    error, scaled = (
        abs(predict(law, width) - gap) for predict in (representations.gap, representations.gap_with_scale)
    )
    assert error < 0.05 * gap
    assert error < scaled / 2


def test_features_of_one_pattern_always_agree():
    features = noise(1, 100_000, 1) * noise(2, 20)
    law = representations.estimate_law(lambda: iter([features]))
    assert representations.gap(law, 1) == pytest.approx(0, abs=0.02)
    assert law.whole / law.square == pytest.approx(2, rel=0.1)
    kernels = representations.unit_kernels(features[:4, None])
    torch.testing.assert_close(representations.alignments(kernels), torch.ones(6).double())


def test_difference_falls_as_one_over_width(default):
    line, marks = default.panels[0].curves
    assert line.x == marks.x
    for curve in (line, marks):
        assert math.log2(curve.y[-3] / curve.y[-1]) == pytest.approx(2, abs=0.15)  # from 512 to 2,048


def test_kernel_of_relu_features_is_the_arc_cosine_kernel():
    images = representations.draw_images(seeded(), CPU).x[:40]
    law = representations.predict("relu", images, seeded(1), quiet)
    cosine = (images.double() @ images.double().mT / 64).clamp(-1, 1)
    angle = cosine.arccos()
    kernel = (angle.sin() + (math.pi - angle) * cosine) / (2 * math.pi)
    kernel = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    assert law.square == pytest.approx(float(kernel.square().sum()), rel=0.04)


def test_cosine_features_have_a_gaussian_kernel():
    images = representations.draw_images(seeded(), CPU).x[:20]
    values = representations.feature_values(
        representations.random_weights(1, 200_000, seeded(1), images), images, "cosine"
    )
    kernel = torch.exp(-torch.cdist(images, images).square() * 2 / 64)
    torch.testing.assert_close(values[0].mT @ values[0] / 200_000, kernel, atol=0.02, rtol=0)


def test_cnn_is_two_convolutions():
    images = representations.draw_images(seeded(), CPU)
    weights = representations.cnn_weights(4, seeded(), images.x)[:2]
    found = representations.cnn_features(weights, representations.cut(images.x)[None, :6])
    for index in range(representations.CNNS):
        first, second = weights[0][index].reshape(4, 1, 3, 3), weights[1][index].reshape(4, 4, 2, 2)
        hidden = conv2d(images.x[:6].reshape(6, 1, 8, 8), first, padding=1).relu()
        wanted = conv2d(hidden, second, stride=2).relu().flatten(1).mT
        torch.testing.assert_close(found[index], wanted, atol=1e-4, rtol=1e-4)


def test_training_is_adam_on_each_network_alone(monkeypatch):
    monkeypatch.setattr(representations, "STEPS", 3)
    images = representations.draw_images(seeded(), CPU)
    weights = representations.mlp_weights(8, seeded(1), images.x)
    leaves = [weight[2].clone().requires_grad_() for weight in weights]
    optimiser, batches = torch.optim.Adam(leaves, lr=representations.RATE), seeded(2)
    for _ in representations.descend(
        weights, lambda w, x: representations.mlp_features("relu", w, x), images, seeded(2)
    ):
        batch = torch.randint(len(images.x), (representations.MLPS, representations.BATCH_IMAGES), generator=batches)[2]
        logits = leaves[1] @ torch.relu(leaves[0] @ images.x[batch].mT / 8)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits.mT, images.labels[batch]).backward()
        optimiser.step()
    for weight, leaf in zip(weights, leaves, strict=True):
        torch.testing.assert_close(weight[2], leaf.detach(), atol=1e-5, rtol=1e-4)


def test_no_network_is_trained_on_a_digit_that_is_compared():
    x = torch.full((700, 64), math.nan)
    x[representations.HELD :] = noise(1, 100, 64).float()
    images = Images(x, torch.zeros(700, dtype=torch.int64))
    weights = representations.mlp_weights(8, seeded(), x)
    representations.train(weights, lambda w, x: representations.mlp_features("relu", w, x), images, 20, seeded(), quiet)
    assert all(weight.isfinite().all() for weight in weights)


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("values", [("relu", 600, 128, "trained"), ("tanh", 20, 65, "random")])
@pytest.mark.parametrize("features", ["cosine", "cubic"])
def test_corners_of_the_controls_run(values, features):
    outcome = run(dict(zip(QUICK, (features, *values[1:]), strict=True)))
    assert all(value is not None for value in outcome.scores.values())
    assert outcome.panels[0].curves[1].x == ((8, 16) if values[3] == "trained" else (8, 16, 32, 64, 65))


def test_heavy_features_are_predicted_less_well():
    images = representations.draw_images(seeded(), CPU)
    errors = {}
    for kind in ("tanh", "cubic"):
        law = representations.predict(kind, images.x[:100], seeded(1), quiet)
        found = representations.Found(kind, 100, "random", [64], law)
        representations.align_random(found, images, seeded(2), quiet)
        errors[kind] = abs(found.errors(representations.gap)[0])
    assert errors["cubic"] > 0.06 > errors["tanh"]


@pytest.mark.usefixtures("little")
def test_divergence_is_shown_and_not_raised(monkeypatch):
    monkeypatch.setattr(representations, "RATE", 1e15)
    outcome = run(QUICK | {"features": "cubic"})
    assert outcome.diverged
    assert "diverged" in outcome.verdict
    assert outcome.panels[0].curves[1].y[0] is not None
    json.dumps(asdict(outcome), allow_nan=False)


@pytest.mark.usefixtures("little")
def test_an_equal_seed_gives_an_equal_run_also_after_a_cancelled_one():
    fresh, calls = run(), []

    def cancel(*_):
        calls.append(1)
        if len(calls) == 8:
            raise JobCancelled("Cancelled.")

    state = torch.get_rng_state()
    with pytest.raises(JobCancelled):
        run(report=cancel)
    assert len(calls) == 8
    assert run() == fresh
    assert torch.equal(torch.get_rng_state(), state)
    assert run(seed=1).scores != fresh.scores


@pytest.mark.usefixtures("little")
def test_panels_grow_while_it_runs():
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


def test_table_names_who_agrees_with_whom(default):
    (table,) = default.tables
    assert table.rows == table.columns
    values = torch.tensor(table.values)
    torch.testing.assert_close(values, values.mT, atol=2e-5, rtol=0)
    assert values.min() > 0
    assert values.max() <= 1 + 1e-4


def test_a_kept_run_is_lean_and_finite(default):
    assert len(json.dumps(asdict(default), allow_nan=False, ensure_ascii=False).encode()) < 60_000
    assert [curve.role for curve in default.panels[0].curves] == ["prediction", "experiment"]
