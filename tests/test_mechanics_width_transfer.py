"""μP: stacked training is training, weights and rates scale as Table 3 says, the best rate stays where it should."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lm_core.errors import JobCancelled
from lm_core.exhibit_params import ExhibitParams, find_exhibit
from lm_core.exhibit_results import ExhibitResult
from lm_core.mechanics.width_transfer import (
    COORDINATE_RATE,
    COORDINATE_STEPS,
    LOG_RATES,
    STANDARD,
    Scaling,
    Stack,
    Sweep,
    activation_change,
    batches,
    best_rate,
    compare,
    examples,
    hidden_preactivations,
    initial_weights,
    mean_log_loss,
    run,
    slope,
    train,
    transferring,
)
from lm_core.run_mechanics import variant_params

CPU = torch.device("cpu")
MUP = transferring(-1.0)
SMALL = {"width": 64, "hidden_power": -1.0, "steps": 4, "seeds": 1}


def quiet(share, message, partial):
    assert 0 <= share <= 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(seed: int = 0):
    return examples(seeded(seed))


def run_small(report=quiet, seed: int = 0, **changes):
    return run(SMALL | changes, seed, CPU, report)


def result_of(outcome, name: str = "d1", variant: str = "default") -> ExhibitResult:
    return ExhibitResult(variant_params(name, variant), outcome, 1.0, "cpu", torch.__version__)


@pytest.fixture(scope="module")
def default():
    return run(variant_params("d1").values, 0, CPU, quiet)


@pytest.mark.slow
def test_the_best_rate_stays_under_mup_and_falls_in_the_standard_parameterisation(default):
    assert result_of(default).within
    assert abs(default.scores["μP slope"]) < 0.2
    assert default.scores["standard slope"] < -0.35
    assert 1 <= default.scores["μP loss ratio at the largest width"] < 2
    assert default.scores["standard loss ratio at the largest width"] > 3


@pytest.mark.slow
def test_a_constant_hidden_rate_breaks_the_transfer():
    outcome = run(variant_params("d1", "broken").values, 0, CPU, quiet)
    head = find_exhibit("d1").tolerances[0]
    assert head.score == "μP slope"
    assert not head.holds(outcome.scores["μP slope"])
    assert outcome.scores["μP slope"] < -0.2
    assert not outcome.diverged


@pytest.mark.slow
def test_the_result_is_small_and_its_headline_has_both_roles(default):
    found = result_of(default).as_dict()
    assert len(json.dumps(found)) < 60_000
    assert found["prediction"] and found["experiment"]
    for panel in default.panels:
        assert all(0 < len(curve.x) <= 120 for curve in panel.curves)


@pytest.mark.parametrize("scaling", [STANDARD, MUP])
def test_a_network_in_a_stack_trains_as_it_does_alone_with_torchs_adam(scaling):
    width, seeds, steps, rates = 48, 2, 6, (2.0**-9, 2.0**-5)
    images, labels = (one.squeeze(0) for one in data())
    order, initial = batches(steps, seeds, seeded(1)), initial_weights(width, seeds, seeded(2))
    stack = Stack(initial, scaling, rates)
    *_, final = train(stack, images[None], labels[None], order)
    ratio = width / 32
    for place, rate in enumerate(rates):
        for seed in range(seeds):
            layers = [nn.Linear(64, width, bias=False), nn.Linear(width, width, bias=False)]
            layers += [nn.Linear(width, 10, bias=False)]
            factors = (1, 1, ratio**scaling.output_std)
            with torch.no_grad():
                for layer, weight, factor in zip(layers, initial, factors, strict=True):
                    layer.weight.copy_(weight[seed] * factor)
            alone = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
            scaled = (rate, rate * ratio**scaling.hidden_rate, rate * ratio**scaling.output_rate)
            groups = [{"params": one.parameters(), "lr": each} for one, each in zip(layers, scaled, strict=True)]
            optimizer = torch.optim.Adam(groups)
            for chosen in order[:, seed]:
                optimizer.zero_grad()
                cross_entropy(alone(images[chosen]), labels[chosen]).backward()
                optimizer.step()
            with torch.no_grad():
                loss = cross_entropy(alone(images), labels)
            assert final[place, seed].item() == pytest.approx(loss.item(), rel=1e-3)
            for layer, weight in zip(layers, stack.weights, strict=True):
                torch.testing.assert_close(weight[place * seeds + seed], layer.weight, atol=2e-4, rtol=1e-3)


def test_both_parameterisations_are_the_same_network_at_the_smallest_width():
    images, labels = data()
    initial, order = initial_weights(32, 2, seeded()), batches(5, 2, seeded())
    *_, standard = train(Stack(initial, STANDARD, (0.01, 0.1)), images, labels, order)
    *_, mup = train(Stack(initial, MUP, (0.01, 0.1)), images, labels, order)
    assert torch.equal(standard, mup)


@pytest.mark.parametrize(("scaling", "power"), [(STANDARD, 0.0), (MUP, -0.5)])
def test_first_outputs_scale_with_width_as_the_initial_variance_says(scaling, power):
    """Outputs sum n terms of standard deviation n^output_std: the power is output_std + 1/2."""
    images, widths = data()[0].expand(16, -1, -1), (32, 128, 512)
    sizes = []
    for width in widths:
        weights = Stack(initial_weights(width, 16, seeded()), scaling, (0.1,)).weights
        with torch.no_grad():
            outputs = weights[2] @ hidden_preactivations(weights, images).relu()
        sizes.append(math.log2(outputs.square().mean().sqrt()))
    assert slope(widths, sizes) == pytest.approx(power, abs=0.06)


def changes(scaling: Scaling, widths, steps: int = COORDINATE_STEPS) -> list[float]:
    images, labels = data()
    order = batches(steps, 2, seeded(1))
    stacks = [Stack(initial_weights(n, 2, seeded(2)), scaling, (COORDINATE_RATE,)) for n in widths]
    return [math.log2(activation_change(stack, images, labels, order)) for stack in stacks]


def test_the_coordinate_check_is_flat_under_mup_and_grows_in_the_standard_parameterisation():
    widths = (64, 128, 256, 512)
    assert slope(widths, changes(MUP, widths)) == pytest.approx(0, abs=0.08)
    assert slope(widths, changes(STANDARD, widths)) > 0.6
    assert slope(widths, changes(transferring(0.0), widths)) > 0.6


def test_the_first_hidden_update_adds_up_in_step_with_width():
    """Adam's first step is η sign(gradient): in the standard parameterisation n such terms reach n, in μP 1."""
    images, labels = data()
    order, widths = batches(1, 2, seeded(1)), (128, 256, 512)
    for scaling, power in ((STANDARD, 1), (MUP, 0)):
        sizes = []
        for width in widths:
            stack = Stack(initial_weights(width, 2, seeded(3)), scaling, (COORDINATE_RATE,))
            before = stack.weights[1].detach().clone()
            stack.step(images[0, order[0]], labels[0, order[0]])
            update = stack.weights[1].detach() - before
            rate = COORDINATE_RATE * (width / 32) ** scaling.hidden_rate
            assert update.abs().max().item() == pytest.approx(rate, rel=1e-3)
            with torch.no_grad():
                first = (stack.weights[0] @ images.mT).relu()
            sizes.append(math.log2((update @ first).square().mean().sqrt()))
        assert slope(widths, sizes) == pytest.approx(power, abs=0.15)


def test_the_best_rate_is_the_vertex_of_a_parabola():
    grid = torch.tensor(LOG_RATES, dtype=torch.float64)
    for vertex in (-8.3, -6.0, -4.7):
        assert best_rate(0.7 * (grid - vertex) ** 2 - 3) == pytest.approx(vertex)


def test_a_best_rate_beyond_the_grid_is_its_edge():
    grid = torch.tensor(LOG_RATES, dtype=torch.float64)
    assert best_rate(-grid) == LOG_RATES[-1]
    assert best_rate(grid) == LOG_RATES[0]
    assert best_rate((grid - 4) ** 2) == LOG_RATES[-1]


def test_diverged_rates_are_left_out_and_do_not_hide_the_best():
    grid = torch.tensor(LOG_RATES, dtype=torch.float64)
    losses = 0.5 * (grid + 6.2) ** 2
    losses[grid > -5.5], losses[0] = math.inf, math.nan
    assert best_rate(losses) == pytest.approx(-6.2)
    assert best_rate(torch.full_like(grid, math.nan)) is None


def test_the_slope_recovers_a_power_law():
    widths = (32, 64, 256, 512)
    assert slope(widths, [3 - 0.6 * math.log2(n) for n in widths]) == pytest.approx(-0.6)
    assert slope(widths, [3 - 0.6 * math.log2(n) if n != 64 else None for n in widths]) == pytest.approx(-0.6)
    assert slope(widths, [1.0, None, None, None]) is None


def test_a_rate_that_diverges_is_not_finite_and_the_others_stay_as_they_are():
    images, labels = data()
    initial, order = initial_weights(32, 1, seeded()), batches(3, 1, seeded())
    *_, both = train(Stack(initial, MUP, (0.01, 1e30)), images, labels, order)
    *_, alone = train(Stack(initial, MUP, (0.01,)), images, labels, order)
    assert mean_log_loss(both).isfinite().tolist() == [True, False]
    torch.testing.assert_close(both[0], alone[0])


def test_runs_that_all_diverged_are_shown_as_diverged():
    lost, fine = torch.full((len(LOG_RATES), 2), math.nan), (torch.tensor(LOG_RATES)[:, None] + 6.0) ** 2 + 1
    sweeps = [Sweep(MUP, {32: fine, 64: lost}, {32: 0.1, 64: 0.1}), Sweep(STANDARD, {32: fine, 64: fine}, {32: 0.1})]
    outcome = compare(sweeps, (32, 64), {"steps": 40})
    assert outcome.diverged
    assert outcome.scores["μP slope"] is None
    assert "diverged" in outcome.verdict
    assert not result_of(outcome).within
    assert outcome.panels[0].curves[0].y[1] is None


def test_a_cancelled_run_stops_at_once_and_the_next_is_a_fresh_one():
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
    again = run_small()
    assert again == fresh
    assert torch.equal(torch.get_rng_state(), state)
    assert run_small(seed=1) != fresh


def test_curves_grow_while_it_trains():
    partial = []
    run_small(lambda share, message, panels: partial.append(panels), steps=20)
    grown = [panels for panels in partial if panels]
    assert len(grown) > 5
    assert all(len(panels) == 4 for panels in grown)
    points = [len(panels[0].curves[0].x) for panels in grown]
    assert points == sorted(points)


def test_extreme_corners_of_the_controls_run():
    exhibit = find_exhibit("d1")
    for values in (
        {"width": 128, "hidden_power": 0.0, "steps": 10, "seeds": 3},
        {"width": 130, "hidden_power": -0.5, "steps": 11, "seeds": 1},
    ):
        outcome = run(ExhibitParams("d1", values).values, 1, CPU, quiet)
        assert all(value is not None for value in outcome.scores.values())
        assert outcome.facts["widths"][-1] == values["width"]
        assert "hidden rate" in outcome.verdict
    assert exhibit.control("width").stops[0] == 128
