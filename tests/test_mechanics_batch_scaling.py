"""The linear scaling rule: exact where it must be, of first order where it is not, and its end where curvature says."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lm_core.errors import JobCancelled
from lm_core.exhibit_params import find_exhibit
from lm_core.exhibit_results import ExhibitResult
from lm_core.mechanics import batch_scaling
from lm_core.mechanics.batch_scaling import (
    SCORES,
    SEEDS,
    Run,
    clock,
    descend,
    errors,
    examples,
    initial_weights,
    largest_curvature,
    network_gradients,
    network_losses,
    run,
    stable_factor,
)
from lm_core.run_mechanics import variant_params

CPU = torch.device("cpu")
LINEAR, ROOT, FIXED = SCORES


def quiet(share, message, partial):
    assert 0 <= share <= 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def few_examples(monkeypatch):
    monkeypatch.setattr(batch_scaling, "EXAMPLES", 2048)


def run_small(report=quiet, seed: int = 0, **changes):
    return run({"largest_k": 16, "rate": 0.01, "optimizer": "SGD", "epochs": 1} | changes, seed, CPU, report)


def result_of(outcome, variant: str = "default") -> ExhibitResult:
    return ExhibitResult(variant_params("d2", variant), outcome, 1.0, "cpu", torch.__version__)


@pytest.fixture(scope="module")
def default():
    return run(variant_params("d2").values, 0, CPU, quiet)


@pytest.mark.slow
def test_the_linear_rule_holds_and_the_others_do_not(default):
    assert result_of(default).within
    assert default.scores[LINEAR] < 0.02
    assert default.scores[ROOT] > 0.25
    assert default.scores[FIXED] > default.scores[ROOT]


@pytest.mark.slow
def test_the_clock_predicts_how_far_the_other_rules_fall_behind(default):
    curves = {(curve.name, curve.role): np.array(curve.y) for curve in default.panels[1].curves}
    for rule in ("square root", "fixed"):
        measured, predicted = curves[rule, "experiment"], curves[f"{rule}, by the clock", "prediction"]
        assert np.abs(predicted / measured - 1).max() < 0.05


@pytest.mark.slow
def test_the_linear_rules_error_grows_with_k(default):
    (linear,) = (np.array(curve.y) for curve in default.panels[1].curves if curve.name == "linear")
    assert (np.diff(linear) > 0).all()


@pytest.mark.slow
def test_the_result_is_small_and_its_headline_has_both_roles(default):
    found = result_of(default).as_dict()
    assert len(json.dumps(found)) < 60_000
    assert found["prediction"] and found["experiment"]
    for panel in default.panels:
        assert all(0 < len(curve.x) <= 120 for curve in panel.curves)


@pytest.mark.slow
def test_batches_beyond_the_curvatures_limit_break_the_rule():
    outcome = run(variant_params("d2", "broken").values, 0, CPU, quiet)
    head = find_exhibit("d2").tolerances[0]
    assert head.score == LINEAR
    assert not head.holds(outcome.scores[LINEAR])
    assert outcome.facts["stable rate 2/λ after 1,024 examples"] < 0.01 * 256
    assert "beyond" in outcome.verdict


def squared_losses(weights, inputs, targets):
    """Half the mean squared residual [net] of linear models [net, 1, d] on inputs [net, n, d] and targets [net, n]."""
    return ((weights[0] @ inputs.mT)[:, 0] - targets).square().mean(1) / 2


def squared_gradients(weights, inputs, targets):
    """The gradients of `squared_losses`."""
    residuals = weights[0] @ inputs.mT - targets[:, None]
    return [residuals @ inputs / inputs.shape[1]]


def regression(d: int = 6, n: int = 64):
    x = torch.randn(n, d, generator=seeded(1), dtype=torch.float64)
    y = torch.randn(n, generator=seeded(2), dtype=torch.float64)
    return (x, y), [torch.randn(1, 1, d, generator=seeded(3), dtype=torch.float64)]


def last(*args) -> torch.Tensor:
    *_, (_, weights) = descend(*args)
    return weights[0].detach()


def test_on_a_quadratic_the_linear_rule_is_exact_to_first_order_in_the_rate():
    """At a fixed training time, rate × steps, the difference between k = 8 and k = 1 halves with the rate."""
    data, initial = regression()
    orders = [torch.arange(64).repeat(cycles)[None] for cycles in (8, 16, 32, 64)]
    gaps = []
    for order, rate in zip(orders, (0.04, 0.02, 0.01, 0.005), strict=True):
        small = last(squared_gradients, initial, data, order, 2, [rate])
        large = last(squared_gradients, initial, data, order, 16, [8 * rate])
        gaps.append(float((large - small).norm()))
    measured = np.log2(np.array(gaps[:-1]) / gaps[1:])
    assert measured[-1] == pytest.approx(1, abs=0.1)
    assert (measured > 0.8).all()


def test_on_equal_batches_every_batch_size_follows_its_closed_form():
    """With one curvature h in every batch, SGD multiplies the error by 1 − ηh a step."""
    x, y = torch.full((64, 1), 1.5, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    start, rate, h = [torch.ones(1, 1, 1, dtype=torch.float64)], 0.02, 1.5**2
    for k in (1, 4, 16):
        found = last(squared_gradients, start, (x, y), torch.arange(64)[None], k, [rate * k, rate])
        expected = [(1 - rate * k * h) ** (64 // k), (1 - rate * h) ** (64 // k)]
        assert found.flatten().tolist() == pytest.approx(expected)


def test_the_curvature_of_a_quadratic_is_its_largest_eigenvalue():
    (x, y), initial = regression()
    weights = [initial[0].repeat(2, 1, 1)]
    found = largest_curvature(squared_losses, weights, x.expand(2, -1, -1), y.expand(2, -1), seeded())
    wanted = torch.linalg.eigvalsh(x.T @ x / len(x))[-1].item()
    assert found.tolist() == pytest.approx([wanted] * 2, rel=0.01)
    assert stable_factor(0.1, found) == pytest.approx(2 / wanted / 0.1, rel=0.01)
    assert stable_factor(0.1, -found) is None


def test_the_written_out_gradients_are_autograds():
    images, labels = examples(seeded())
    chosen = torch.arange(SEEDS * 16).view(SEEDS, 16)
    weights = [one.double().add(0.1).requires_grad_() for one in initial_weights(seeded(1))]
    inputs = images.double()[chosen], labels[chosen]
    wanted = torch.autograd.grad(network_losses(weights, *inputs).sum(), weights)
    for mine, autograds in zip(network_gradients([one.detach() for one in weights], *inputs), wanted, strict=True):
        torch.testing.assert_close(mine, autograds)


@pytest.mark.parametrize(("optimizer", "kind"), [("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam)])
def test_the_stack_trains_as_each_seed_alone_in_a_plain_loop(optimizer, kind):
    images, labels = examples(seeded())
    initial, rates = initial_weights(seeded(1)), [0.05, 0.01]
    order = torch.stack([torch.randperm(len(images), generator=seeded(seed))[:320] for seed in range(SEEDS)])
    *_, (seen, weights) = descend(network_gradients, initial, (images, labels), order, 32, rates, optimizer)
    assert seen == 320
    for place, rate in enumerate(rates):
        for seed in (0, SEEDS - 1):
            alone = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            parts = alone[0].weight, alone[0].bias, alone[2].weight, alone[2].bias
            with torch.no_grad():
                for part, first in zip(parts, initial, strict=True):
                    part.copy_(first[seed].reshape(part.shape))
            steps = kind(alone.parameters(), lr=rate)
            for chosen in order[seed].split(32):
                steps.zero_grad()
                cross_entropy(alone(images[chosen]), labels[chosen]).backward()
                steps.step()
            for part, stacked in zip(parts, weights, strict=True):
                mine = stacked[place * SEEDS + seed].reshape(part.shape)
                torch.testing.assert_close(mine, part, atol=1e-4, rtol=1e-3)


def test_at_k_1_there_is_no_error_and_the_clock_stands_still():
    base = Run()
    for seen in (0, 1024, 2048, 4096):
        base.add(seen, np.exp(-seen / 1000) * np.ones((1, SEEDS)))
    assert errors(base, base).tolist() == [0]
    marks = [1024, 2048]
    np.testing.assert_array_equal(clock(base, marks, 8, 1.0), base.log_losses(marks)[:, 0])


def test_the_clock_reads_the_base_run_k_times_earlier():
    base = Run()
    for seen in range(0, 4097, 32):
        base.add(seen, np.full((1, SEEDS), np.exp(-seen / 1000)))
    np.testing.assert_allclose(clock(base, [4096], 4, 0.0), -4096 / 4 / 1000)
    np.testing.assert_allclose(clock(base, [4096], 4, 0.5), -4096 / 2 / 1000)


def test_what_once_diverged_stays_out_of_the_record():
    found = Run()
    for seen, loss in ((0, 2.0), (1024, math.inf), (2048, 3.0)):
        found.add(seen, np.array([[loss, 1.0]]))
    assert np.isnan(found.losses[1][0, 0]) and np.isnan(found.losses[2][0, 0])
    assert [losses[0, 1] for losses in found.losses] == [1.0, 1.0, 1.0]


def test_a_rate_that_diverges_is_shown_as_far_as_it_went(few_examples):
    outcome = run_small(largest_k=256, rate=0.1)
    assert outcome.diverged
    assert outcome.scores[LINEAR] is None
    assert outcome.scores[FIXED] is not None
    assert "diverges" in outcome.verdict
    assert "Choose a smaller" in outcome.verdict
    ends = {curve.name: curve.y for curve in outcome.panels[0].curves}
    assert ends["k = 1"][-1] is not None
    assert ends["k = 256"][0] is not None
    assert ends["k = 256"][-1] is None
    assert not result_of(outcome).within


def test_adam_is_shown_with_the_square_root_rule(few_examples):
    outcome = run_small(optimizer="Adam", rate=0.001)
    assert "square root" in outcome.panels[0].title
    assert outcome.scores[ROOT] < outcome.scores[LINEAR]
    assert not any(curve.role == "prediction" for curve in outcome.panels[1].curves)


def test_a_cancelled_run_stops_at_once_and_the_next_is_a_fresh_one(few_examples):
    calls = []

    def cancel(share, message, partial):
        calls.append(share)
        if len(calls) == 3:
            raise JobCancelled("enough")

    state = torch.get_rng_state()
    fresh = run_small()
    with pytest.raises(JobCancelled):
        run_small(cancel)
    assert len(calls) == 3
    assert run_small() == fresh
    assert torch.equal(torch.get_rng_state(), state)
    assert run_small(seed=1) != fresh


def test_curves_grow_while_it_trains(few_examples):
    reports = []
    run_small(lambda *report: reports.append(report))
    grown = [panels for *_, panels in reports if panels]
    assert len(grown) > 5
    points = [sum(len(curve.x) for curve in panels[0].curves) for panels in grown]
    assert points == sorted(points)
    shares = [share for share, *_ in reports]
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    "changes", [{"largest_k": 4, "rate": 0.001}, {"largest_k": 255, "optimizer": "Adam", "rate": 0.1}]
)
def test_extreme_corners_of_the_controls_run(few_examples, changes):
    outcome = run_small(epochs=2, **changes)
    assert outcome.panels[0].curves
    assert outcome.facts["k"][-1] == {4: 4, 255: 128}[changes["largest_k"]]
    assert outcome.scores[FIXED] is not None
