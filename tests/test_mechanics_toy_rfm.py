"""The toy recursive feature machine: closed forms, then the exhibit's claims."""

import math
from itertools import product

import pytest
import torch

from lm_core.errors import JobCancelled
from lm_core.exhibit_params import find_exhibit
from lm_core.llm import rfm
from lm_core.mechanics import toy_rfm
from lm_core.mechanics.feature_ansatz import cosine, draw_data
from lm_core.mechanics.toy_rfm import Data, machine, median_distance, run

CPU = torch.device("cpu")
EXHIBIT = find_exhibit("c3")


def quiet(*_) -> None:
    """Report to nobody."""


def go(seed: int = 0, **values):
    return run(EXHIBIT.defaults | values, seed, CPU, quiet)


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    drawn = *draw_data(400, 3, generator), *draw_data(200, 3, generator)
    return Data(*(part.double() for part in drawn))


@pytest.fixture
def quick(monkeypatch):
    """Train the network for a few steps only."""
    monkeypatch.setattr(toy_rfm, "STEPS", 60)


def test_the_median_distance_is_that_of_all_pairs(data):
    assert float(median_distance(data.x)) == pytest.approx(float(torch.pdist(data.x).median()), rel=1e-9)


def test_round_zero_is_laplace_kernel_regression(data):
    length = 0.7 * torch.pdist(data.x).median()
    kernel = torch.exp(-torch.cdist(data.x, data.x) / length) + 1e-3 * torch.eye(400, dtype=torch.float64)
    alpha = torch.linalg.solve(kernel, data.y)
    fitted = torch.exp(-torch.cdist(data.test_x, data.x) / length) @ alpha
    first = next(machine(data, 0.7, 0))
    assert first.error == pytest.approx(float((fitted - data.test_y).square().mean()), rel=1e-6)
    assert torch.equal(first.metric, torch.eye(20, dtype=torch.float64))


def test_metrics_are_symmetric_positive_semidefinite_with_largest_entry_one(data):
    for found in machine(data, 1.0, 3):
        torch.testing.assert_close(found.metric, found.metric.T)
        assert torch.linalg.eigvalsh(found.metric).min() > -1e-10
        assert float(found.metric.abs().max()) == pytest.approx(1)


def test_the_machine_finds_the_targets_own_agop(data):
    """For y = x₀x₁ + x₂ and Gaussian inputs E[∇y ∇yᵀ] is 1 on the first three diagonal entries, else 0."""
    wanted = torch.diag(torch.tensor([1.0] * 3 + [0.0] * 17))
    cosines = [cosine(found.metric, wanted) for found in machine(data, 1.0, 5)]
    assert cosines[0] == pytest.approx(3 / math.sqrt(3 * 20))
    assert cosines[-1] > 0.97


def test_every_step_of_the_machine_is_the_code_that_steers_a_language_model():
    for name in ("agop", "distances", "laplace_kernel", "predictor_gradients", "ridge_coefficients"):
        assert getattr(toy_rfm, name) is getattr(rfm, name)


def test_a_kernel_that_is_the_identity_ends_the_machine_and_is_said(data):
    past = list(machine(data, 1e-5, 5))
    assert [found.done for found in past] == [0]
    assert "each example alone" in toy_rfm.verdict(past, 5, 0.3, 0.3)


def test_the_default_run_is_within_tolerance_and_lowers_the_error():
    found = go()
    assert EXHIBIT.tolerances[0].holds(found.scores["cosine(M, AGOP)"])
    assert 0.8 < found.scores["cosine(M, WᵀW)"] < 0.95
    assert found.scores["test MSE, last / first round"] < 0.2
    assert "language model" in found.verdict


def test_a_short_sighted_kernel_breaks_the_agreement(quick):
    found = go(**EXHIBIT.break_it.values)
    assert not EXHIBIT.tolerances[0].holds(found.scores["cosine(M, AGOP)"])
    assert found.scores["test MSE, last / first round"] > 0.9
    assert "too little to learn features from" in found.verdict


@pytest.mark.parametrize(("rounds", "bandwidth"), [*product((1, 10), (0.01, 10.0))])
def test_extreme_settings_run(quick, rounds, bandwidth):
    found = go(rounds=rounds, bandwidth=bandwidth, n=100)
    assert found.verdict.endswith(".")
    assert all(score is not None for score in found.scores.values())
    assert len(found.panels[1].curves[0].x) == rounds + 1


def test_a_run_whose_gradients_vanish_has_no_scores(quick):
    found = go(bandwidth=1e-5, n=100)
    assert set(found.scores.values()) == {None}
    assert found.panels[0].curves[0].y


def test_a_seed_gives_its_numbers_and_leaves_torch_alone(quick):
    state = torch.get_rng_state()
    first, again, other = (go(seed, n=100) for seed in (0, 0, 1))
    assert first == again
    assert first.scores != other.scores
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("allowed", [1, 4])
def test_a_cancelled_run_stops_at_the_next_report_and_leaves_nothing_behind(quick, allowed):
    calls = []

    def cancel(share, message, panels):
        calls.append(share)
        if len(calls) > allowed:
            raise JobCancelled("stop")

    values = EXHIBIT.defaults | {"n": 200}
    before = run(values, 0, CPU, quiet)
    with pytest.raises(JobCancelled):
        run(values, 0, CPU, cancel)
    assert len(calls) == allowed + 1
    assert run(values, 0, CPU, quiet) == before


def test_panels_grow_round_by_round(quick):
    seen = []
    run(EXHIBIT.defaults | {"n": 100}, 0, CPU, lambda *report: seen.append(report))
    assert [len(panels[1].curves[0].x) for _, _, panels in seen if panels] == [1, 2, 3, 4, 5, 6]
    shares = [share for share, _, _ in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1
