"""Detectors: planted concepts are found, readouts equal their definition, and nothing is chosen on rows not given."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lm_core import ranking
from lm_core.concepts import Example
from lm_core.detection_results import AGGREGATES as SHOWN_AGGREGATES
from lm_core.errors import AssetError, JobCancelled, ParameterError
from lm_core.llm import detect
from lm_core.llm.activations import collect, on_blocks
from lm_core.llm.detect import ActivationCache, Watch, answer_row, context, pieces_of, prompt_row, read, shorten
from lm_core.llm.detector import Detector, levels, read_detector
from lm_core.llm.detectors import AGGREGATES, auroc, fit_detector, fit_detectors
from lm_core.llm.readouts import KernelReadout, Rows, fit_readout
from lm_core.steer_params import METHODS
from tests.tiny import LAYERS, WIDTH, build, is_one_sentence, tiny

KEYS = [(method, aggregate) for method in METHODS for aggregate in AGGREGATES]
LINEAR = ("linear", "logistic", "mean_difference")
SCRIPTS = [
    "Привет, как дела?",
    "今日はとても寒いです。",
    "안녕하세요 여러분",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "Ein 👩‍🚀 im All",
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def shifted(n: int = 120, layers: int = 4, d: int = 24, block: int = 2, by: float = 3.0) -> tuple[Tensor, Tensor]:
    """Return rows whose labels show in one block."""
    y = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)
    x = noise(1, n, layers, d)
    x[:, block, 3] += by / 2 * y
    return x, y


def planted(concept: str, n: int) -> tuple[Tensor, Tensor]:
    """Return rows with a label that no linear function of them tells."""
    x = noise(7, n, 3, 24)
    if concept == "product":
        return x, torch.sign(x[:, 1, 0] * x[:, 1, 1])
    return x, torch.where(x[:, 1, :4].sum(-1).abs() / 2 > 0.67, 1.0, -1.0)


# -- the planted concept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concept", ["product", "threshold"])
def test_the_agops_eigenvectors_detect_a_nonlinear_concept_that_linear_methods_miss(concept):
    x, y = planted(concept, 1600)
    rows, new = slice(0, 800), slice(800, None)
    found = fit_detectors(x[rows], y[rows], [(m, "rfm") for m in ("rfm", *LINEAR)], generator=seeded())
    skill = {method: auroc(one.scores(x[new]), y[new]) for (method, _), one in found.items()}
    assert skill["rfm"] > 0.85
    assert all(abs(skill[method] - 0.5) < 0.06 for method in LINEAR), skill


@pytest.mark.parametrize("key", KEYS)
def test_every_detector_finds_a_shift_in_one_block_and_its_sign(key):
    x, y = shifted(240)
    one = fit_detector(x[:160], y[:160], *key, generator=seeded())
    assert auroc(one.scores(x[160:]), y[160:]) > 0.85
    assert one.validation > 0.85
    if key[1] == "best":
        assert one.blocks == (2,)


@pytest.mark.parametrize("method", METHODS)
def test_real_targets_are_ranked(method):
    x, grade = noise(3, 300, 3, 20), torch.arange(300) % 5 + 1.0
    x[:, 1, 0] += 1.5 * (grade - 3)
    found = fit_detectors(x[:200], grade[:200], [(method, a) for a in AGGREGATES], generator=seeded())
    for key, one in found.items():
        assert ranking.spearman(one.scores(x[200:]), grade[200:]) > 0.6, key


def test_the_table_names_the_aggregates_that_there_are():
    assert tuple(SHOWN_AGGREGATES) == AGGREGATES


# -- what chooses -----------------------------------------------------------------------------------------------------


def test_the_best_block_is_that_of_the_validation_rows_not_of_the_training_rows_or_any_other():
    n, y = 160, torch.where(torch.arange(160) % 2 == 0, 1.0, -1.0)
    held = torch.arange(n) >= 120
    x = noise(5, n, 4, 12)
    x[:, 1, 0] += 4 * y * ~held  # tells the training rows apart only
    x[:, 2, 0] += 2 * y  # all
    one = fit_detectors(x, y, [("mean_difference", "best")], generator=seeded(), held=held)["mean_difference", "best"]
    assert one.blocks == (2,)
    new = noise(6, n, 4, 12)
    new[:, 3, 0] += 9 * y  # a block that would be best on new rows: the detector can't know
    assert abs(auroc(one.scores(new), y) - 0.5) < 0.15


def test_validation_rows_can_be_named_and_are_what_held_scores_are_of():
    x, y = shifted()
    held = torch.zeros(len(y), dtype=torch.bool)
    held[10:30] = True
    found = fit_detectors(x, y, KEYS, generator=seeded(), held=held)
    for key, one in found.items():
        torch.testing.assert_close(one.held_scores, one.scores(x[held]), msg=str(key))
        assert torch.equal(one.held_targets, y[held])
        assert one.validation == pytest.approx(roc_auc_score(y[held], one.held_scores))


def test_detectors_fitted_together_equal_those_fitted_alone_and_repeat_to_the_bit():
    x, y = shifted()
    together = fit_detectors(x, y, KEYS, generator=seeded(4))
    for key in [("rfm", "rfm"), ("logistic", "best"), ("pca", "linear")]:
        alone = fit_detector(x, y, *key, generator=seeded(4))
        assert torch.equal(alone.scores(x), together[key].scores(x))


def test_threads_share_the_blocks_without_changing_the_directions():
    x, y = shifted(layers=7)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = fit_detector(x, y, "rfm", "linear", generator=seeded())
        torch.set_num_threads(3)
        three = fit_detector(x, y, "rfm", "linear", generator=seeded())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(one.vectors, three.vectors, atol=1e-3, rtol=0)


def test_the_first_block_has_no_direction():
    x, y = shifted(block=0, by=9.0)
    one = fit_detector(x, y, "linear", "logistic", generator=seeded())
    assert not one.vectors[0].any()
    assert one.blocks == (1, 2, 3)
    torch.testing.assert_close(one.vectors[1:].norm(dim=-1), torch.ones(3, 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y": torch.ones(40)}, "Every target is 1"),
        ({"y": torch.cat([torch.ones(37), -torch.ones(3)])}, "at least 8"),
        ({"x": torch.full((40, 3, 8), torch.nan)}, "NaN"),
        ({"x": torch.ones(40, 3, 8)}, "differ"),
        ({"method": "magic"}, "magic"),
        ({"aggregate": "vote"}, "vote"),
        ({"p": 9}, "p is 9"),
        ({"held": torch.zeros(40, dtype=torch.bool)}, "validation"),
        ({"held": torch.arange(40) % 2 == 0}, "both classes"),
    ],
)
def test_unusable_input_is_refused_in_one_sentence(change, says):
    asked = {"x": noise(1, 40, 3, 8), "y": torch.where(torch.arange(40) % 2 == 0, 1.0, -1.0), "held": None, "p": 3}
    asked |= {"method": "rfm", "aggregate": "best"} | change
    x, y, method, aggregate = (asked.pop(name) for name in ("x", "y", "method", "aggregate"))
    with pytest.raises(ParameterError, match=says) as caught:
        fit_detectors(x, y, [(method, aggregate)], generator=seeded(), **asked)
    assert is_one_sentence(caught.value)


def test_fitting_can_be_cancelled():
    def check() -> None:
        raise JobCancelled("enough")

    x, y = shifted()
    with pytest.raises(JobCancelled):
        fit_detectors(x, y, KEYS, generator=seeded(), check=check)


# -- readouts ---------------------------------------------------------------------------------------------------------


def test_a_kernel_readout_equals_its_definition():
    points, alpha, root = noise(1, 6, 4).double(), noise(2, 6).double(), noise(3, 4, 4).double()
    metric, bandwidth, bias = root.T @ root, torch.tensor(2.0).double(), torch.tensor(0.5).double()
    readout, x = KernelReadout(points, alpha, metric, bandwidth, bias), noise(4, 3, 5, 4).double()
    gaps = x[..., None, :] - points
    kernel = torch.exp(-torch.einsum("...i,ij,...j->...", gaps, metric, gaps).sqrt() / 2)
    torch.testing.assert_close(readout(x), kernel @ alpha + 0.5)


@pytest.mark.parametrize("method", ["linear", "logistic", "rfm"])
def test_a_readout_knows_no_units(method):
    """Features in other units and about another origin give the same scores."""
    x, y = noise(1, 80, 5), torch.where(torch.arange(80) % 2 == 0, 1.0, -1.0)
    x[:, 0] += y
    scale, offset = torch.tensor([1.0, 50.0, 0.02, 7.0, 1.0]), torch.tensor([0.0, 300.0, 1.0, -9.0, 5.0])
    plain = fit_readout(method, Rows(x[:60], y[:60], x[60:], y[60:]))
    moved = x * scale + offset
    other = fit_readout(method, Rows(moved[:60], y[:60], moved[60:], y[60:]))
    torch.testing.assert_close(plain(x), other(moved), atol=2e-3, rtol=2e-3)


def test_a_feature_that_never_changes_is_harmless():
    x, y = noise(1, 60, 3), torch.where(torch.arange(60) % 2 == 0, 1.0, -1.0)
    x[:, 0] += y
    x[:, 1] = 4.0
    for method in ("linear", "logistic", "rfm"):
        assert fit_readout(method, Rows(x[:45], y[:45], x[45:], y[45:]))(x).isfinite().all()


def test_the_mean_of_a_linear_detectors_token_scores_is_the_texts_score():
    x, y = shifted()
    one = fit_detector(x, y, "rfm", "logistic", generator=seeded())
    tokens = noise(9, 12, 4, 24)
    torch.testing.assert_close(one.scores(tokens).mean(), one.scores(tokens.mean(0)[None])[0])


def test_heat_is_the_projection_in_residual_norms():
    x, y = shifted()
    one = fit_detector(x, y, "rfm", "best", generator=seeded())
    h, centre = x[3, 2], one.centre[2, 0]
    wanted = (h @ one.vectors[2, 0] - centre) / one.norms[2]
    torch.testing.assert_close(one.heat(one.project(x[3]))[2], wanted)
    assert one.heat(one.project(x[y > 0]))[:, 2].mean() > 0 > one.heat(one.project(x[y < 0]))[:, 2].mean()


# -- thresholds and ranking -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_auroc_equals_that_of_scikit_learn_ties_included(seed):
    source = np.random.default_rng(seed)
    labels, scores = source.choice([-1, 1], 90), source.integers(0, 12, 90).astype(float)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auroc(torch.tensor(scores), torch.tensor(labels)) == auroc(scores, labels)
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels))


def test_one_class_alone_has_no_auroc():
    for labels in ([1, 1, 1], [-1, -1, -1]):
        with pytest.raises(ParameterError, match="one class") as caught:
            auroc([0.1, 0.2, 0.3], labels)
        assert is_one_sentence(caught.value)
    with pytest.raises(ParameterError, match="finite"):
        auroc([0.1, math.nan], [1, -1])


def test_correlations_equal_numpys_and_ties_share_their_rank():
    source = np.random.default_rng(0)
    a, b = source.normal(size=50), source.normal(size=50)
    assert ranking.pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert ranking.ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    assert ranking.spearman(a, np.exp(a)) == pytest.approx(1)
    assert ranking.pearson(a, np.ones(50)) == 0


@pytest.mark.parametrize("real", [False, True])
def test_bootstrap_samples_spread_around_the_figure_as_its_standard_error_says(real):
    source = np.random.default_rng(1)
    targets = source.normal(size=200) if real else np.tile([1.0, -1.0], 100)
    scores = targets + 1.5 * source.normal(size=200)
    folds = [list(range(i, 200, 5)) for i in range(5)]
    skills = ranking.within_folds(scores, targets, folds, lambda s, t: ranking.skill(s, t, real))
    samples = ranking.resampled(scores, targets, folds, real)
    assert samples.mean() == pytest.approx(np.mean(skills), abs=0.02)
    low, high = ranking.interval(samples)
    assert low < np.mean(skills) < high
    assert 0.08 < high - low < 0.25
    assert np.array_equal(samples, ranking.resampled(2 * scores + 1, targets, folds, real).round(12)) or np.allclose(
        samples, ranking.resampled(2 * scores + 1, targets, folds, real)
    )  # the same draws: differences between detectors are paired


def test_the_intervals_cover_what_they_promise():
    """Of 95 % intervals for AUROC, about 95 % hold the true one: P(N(1, 1) > N(0, 1)) = Φ(1/√2)."""
    truth = 0.5 * (1 + math.erf(0.5))
    labels, held = np.tile([1.0, -1.0], 60), 0
    for seed in range(200):
        scores = np.random.default_rng(seed).normal(size=120) + (labels > 0)
        low, high = ranking.interval(ranking.resampled(scores, labels, [range(120)], False, draws=300))
        held += low <= truth <= high
    assert 180 <= held <= 199


def test_a_threshold_lets_at_most_the_wanted_share_pass():
    scores = np.random.default_rng(0).normal(size=200).round(1)  # with ties
    for rate in (0.0, 0.01, 0.05, 0.5):
        at = ranking.threshold(scores, rate)
        assert (scores > at).mean() <= rate
        assert (scores >= at).mean() > rate  # and no lower threshold does
    with pytest.raises(ParameterError, match="false_positive_rate"):
        ranking.threshold(scores, 1.2)
    with pytest.raises(ParameterError, match="held-out"):
        ranking.threshold([], 0.1)


def test_levels_are_trailing_means():
    strip = noise(1, 2, 20)
    found = levels(strip)
    assert found[1, 19] == pytest.approx(float(strip[1, 12:].mean()), abs=1e-5)
    assert found[0, 2] == pytest.approx(float(strip[0, :3].mean()), abs=1e-5)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [("rfm", "rfm"), ("rfm", "best"), ("logistic", "logistic")])
def test_a_detectors_file_gives_it_back(key, tmp_path):
    x, y = shifted()
    one = replace(fit_detector(x, y, *key, generator=seeded()), concept="shouting", model="m", model_sha256="a" * 64)
    one.write(tmp_path / "d.safetensors")
    again = read_detector(tmp_path / "d.safetensors")
    torch.testing.assert_close(again.scores(x), one.scores(x))
    assert (again.concept, again.blocks, again.validation) == (one.concept, one.blocks, one.validation)
    assert again.threshold(0.1) == pytest.approx(one.threshold(0.1))


def test_files_that_are_no_detector_or_of_another_version_or_model_are_refused(tmp_path):
    x, y = shifted()
    one = fit_detector(x, y, "linear", "linear", generator=seeded())
    path = tmp_path / "d.safetensors"
    for content in (b"", b"nonsense" * 9, one.pack()[:200], one.pack().replace(b'"format":"1"', b'"format":"9"')):
        path.write_bytes(content)
        with pytest.raises(AssetError, match="no file of a detector") as caught:
            read_detector(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(AssetError, match="can't be read"):
        read_detector(tmp_path / "none.safetensors")
    with pytest.raises(AssetError, match="fit it anew"):
        one.check_model(tiny())


# -- reading texts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("site", ["response", "last"])
def test_a_texts_score_is_that_of_the_activations_a_detector_is_fitted_to(family, site):
    lm, prompt = tiny(family), "Say it."
    texts = ["a", "Some words, longer ones.", "in between"]
    answered = site == "response"
    examples = [Example(prompt, text, 1.0) if answered else Example(text, None, 1.0) for text in texts]
    activations, _ = collect(lm, examples)
    found = [random_detector(seed) for seed in (1, 2)]
    rows = [answer_row(lm, text, prompt) if answered else prompt_row(lm, text) for text in texts]
    readings = read(lm, rows, found)
    for which, one in enumerate(found):
        scores = torch.tensor([each[which].score for each in readings])
        torch.testing.assert_close(scores, one.scores(activations), atol=2e-4, rtol=2e-4)
    for text, row, each in zip(texts, rows, readings, strict=True):
        assert "".join(row.pieces) == text
        assert each[0].heat.shape == (len(row.pieces), LAYERS)
        assert each[0].strip.shape == (len(row.pieces),)


def random_detector(seed: int) -> Detector:
    y = torch.where(torch.arange(40) % 2 == 0, 1.0, -1.0)
    x = noise(seed, 40, LAYERS, WIDTH) + y[:, None, None] * noise(seed + 50, LAYERS, WIDTH)
    return fit_detector(x, y, "rfm", "rfm" if seed % 2 else "logistic", generator=seeded())


def test_a_text_scores_the_same_alone_and_among_others():
    lm, one = tiny(), random_detector(1)
    rows = [answer_row(lm, "x" * n) for n in (3, 90, 41, 7)]
    together = read(lm, rows, [one])
    for row, (each,) in zip(rows, together, strict=True):
        ((alone,),) = read(lm, [row], [one])
        torch.testing.assert_close(alone.strip, each.strip, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.heat, each.heat, atol=1e-4, rtol=1e-4)


def test_an_answer_that_grows_scores_as_the_finished_one():
    """What `Watch` sees of a cached continuation is what `read` sees of the whole text."""
    lm, found = tiny(), [random_detector(1), random_detector(2)]
    row = answer_row(lm, "It grows and grows.")
    whole = read(lm, [row], found)[0]
    watch, cache, strips, heats = Watch(found, lm.device), None, [], []
    cuts = [0, row.first + 1, row.first + 2, row.first + 9, len(row.ids)]
    for start, end in pairwise(cuts):
        with torch.inference_mode(), on_blocks(lm, watch.see):
            ids = torch.tensor([row.ids[start:end]])
            cache = lm.model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values
        heat, strip = watch.take()
        heats.append(heat[:, 0])
        strips.append(strip[:, 0])
    for which in range(2):
        torch.testing.assert_close(torch.cat(strips, -1)[which, row.first :], whole[which].strip, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(torch.cat(heats, 1)[which, row.first :], whole[which].heat, atol=1e-3, rtol=1e-3)


def test_reading_can_be_cancelled_and_leaves_no_hook():
    lm, calls = tiny(), []

    def check(share: float) -> None:
        calls.append(share)
        if len(calls) == 2:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        read(lm, [answer_row(lm, f"text {n}") for n in range(40)], [random_detector(1)], check)
    assert calls == [0.0, 16 / 40]
    assert not any(block._forward_hooks for block in lm.blocks)


@pytest.mark.parametrize("text", SCRIPTS)
def test_pieces_of_any_script_join_to_the_text_one_for_each_token(text):
    lm = tiny()
    ids = detect.tokens_of(lm, text)
    pieces = pieces_of(lm, ids)
    assert len(pieces) == len(ids) == len(text.encode())  # the tiny tokenizer has a token a byte
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_text_longer_than_the_context_is_cut_and_says_by_how_much():
    lm = tiny()
    assert context(lm) == 256
    for row in (answer_row(lm, "x" * 400), prompt_row(lm, "x" * 400)):
        assert len(row.ids) == 256
        assert row.cut == 400 - len(row.pieces) > 0
    assert answer_row(lm, "x" * 40).cut == 0


@pytest.mark.parametrize("letter", ["x", "語"])
@pytest.mark.parametrize(("prompt", "response"), [(900, None), (900, 5), (5, 900), (900, 900), (20, 20)])
def test_examples_are_shortened_until_they_fit(letter, prompt, response):
    lm = tiny()
    size = len(letter.encode())
    asked = "A" + letter * (prompt // size) + "Z"
    example = Example(asked, response and "B" + letter * (response // size), 1.0)
    short = shorten(lm, example)
    tokens = lm.prompt_ids(short.prompt) + detect.tokens_of(lm, short.response or "")
    assert len(tokens) <= context(lm)
    assert short.prompt.startswith("A")
    assert short.prompt.endswith("Z")  # a question often comes last
    assert "\ufffd" not in short.prompt + (short.response or "")
    assert (short is example) == (prompt + (response or 0) < 200)
    assert short.response is None if response is None else short.response.startswith("B")
    if prompt + (response or 0) > 300:
        assert len(tokens) > context(lm) - 24  # and no more is lost than must be


# -- the cache --------------------------------------------------------------------------------------------------------


def test_a_second_concept_over_the_same_texts_reads_nothing(monkeypatch):
    lm, kept, read_texts = tiny(), ActivationCache(), []

    def counting(model, examples, check):
        read_texts.extend(one.prompt for one in examples)
        return collect(model, examples, check)

    monkeypatch.setattr(detect, "collect", counting)
    one = [Example(f"text {n}", None, 1.0) for n in range(5)]
    other = [Example(f"text {n}", None, -0.5) for n in (3, 9, 4)]  # other labels, one new text
    first = kept.collect(lm, one)
    second = kept.collect(lm, other)
    assert read_texts == [f"text {n}" for n in (0, 1, 2, 3, 4, 9)]
    torch.testing.assert_close(second[0][0], first[0][3])
    torch.testing.assert_close(second[0], collect(lm, other)[0], atol=1e-4, rtol=1e-4)
    kept.collect(build(seed=1), one)
    assert len(read_texts) == 6  # the same weights' hash: no model is told from another by its object
    other_model = build(seed=2)
    other_model.sha256 = "1" * 64
    kept.collect(other_model, one)
    assert len(read_texts) == 11


def test_the_cache_is_bounded_and_drops_what_was_used_least_recently():
    lm = tiny()
    size = LAYERS * (WIDTH + 1) * 4
    kept = ActivationCache(limit=3 * size)
    a, b, c, d = ([Example(letter, None, 1.0)] for letter in "abcd")
    for one in (a, b, c, a, d):
        kept.collect(lm, one)
    assert kept.size == 3 * size
    assert len(kept.kept) == 3
    assert kept._key(lm, b[0]) not in kept.kept
    kept.collect(lm, [*a, *b, *c, *d])  # more than it holds: still answered
    assert kept.size <= 3 * size
    kept.clear()
    assert (kept.size, len(kept.kept)) == (0, 0)
