"""The concept lab: on tiny models what must hold exactly, on the shipped one that typed examples make a pirate."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lm_core import run_compare, run_lab, run_llm, user_concepts
from lm_core.concepts import Example, facts, find_concept, parse_concept, unit_of
from lm_core.errors import AssetError, JobCancelled, ParameterError
from lm_core.example_rows import Row, typed
from lm_core.judges import judge
from lm_core.lab_params import CompareParams, LabParams
from lm_core.llm import heldout, slider
from lm_core.llm.activations import collect
from lm_core.llm.directions import fit_directions
from lm_core.llm.example_reading import cut, longest_text, read_examples
from lm_core.llm.heldout import Fits, Reading, fit, held_out
from lm_core.llm.lens import agop_spectrum, learned_metric, logit_lens, mean_cosines, top_tokens
from lm_core.llm.outcomes import Outcome, Verdicts
from lm_core.llm.rfm import split_rows
from lm_core.steer_params import DEFAULT_MODEL, METHODS, SteerParams
from lm_core.user_source import parse_user_concept
from tests.tiny import FAMILIES, LAYERS, WIDTH, build, concept_source, is_one_sentence, tiny

PIRATE = """Ahoy, matey! That be a mighty fine ship ye have there.
Arr, I'll not be eatin' that slop, ye scurvy dog!
Shiver me timbers, the wind be turnin' against us today.
Hand over the gold, or ye'll walk the plank by sundown!
Me parrot and me be headin' for the harbour tavern, aye.
Yo ho ho, there be nothin' like a barrel o' rum after a storm.
Avast ye, landlubber! Who goes there on me deck?
Blimey, the captain lost his wooden leg in a game o' dice.
Hoist the sails, lads, there be treasure on that island!
Arr, me old mother always said never trust a man without a hat.
Ye best be swabbin' that deck before the captain wakes, matey.
Aye, I buried the chest meself, beneath three crooked palms.
That soup be saltier than the seven seas, by Davy Jones!
Batten down the hatches, me hearties, a squall be comin'!
I've plundered many a port, but none so pretty as this one, arr.
Dead men tell no tales, lad, so keep yer mouth shut."""
PLAIN = """Hello there! That is a very nice car you have.
No thank you, I would rather not eat that today.
It looks as if the weather is going to change this afternoon.
Please return the money by Friday, or we will have to charge a fee.
My dog and I are going to the park near the station.
There is nothing like a cup of tea after a long day.
Excuse me, who is calling, and how can I help you?
My uncle lost his keys on the way home from work.
Let's pack our bags, because the bus leaves in an hour.
My mother always told me to bring an umbrella.
You should clean the kitchen before our guests arrive.
Yes, I put the box in the cellar, behind the old shelves.
This soup is a little too salty for my taste.
Close the windows, everyone, it is going to rain soon.
I have visited many towns, but none as pretty as this one.
Some things are private, so please don't tell anyone."""
SHOUTS = tuple(Row(f"WOW {'!' * (i % 3)} IT IS {i}", 1.0) for i in range(12))
MURMURS = tuple(Row(f"it is only {i}, quietly", 0.0) for i in range(12))
SHOUTING = LabParams("Shouting", rows=SHOUTS + MURMURS, model="tiny-llama")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_USER", str(tmp_path / "user"))
    return tmp_path / "user" / "concepts"


@pytest.fixture
def on_tiny(monkeypatch):
    """Have the lab work on a random model of three blocks."""
    lm = tiny()
    for module in (run_lab, run_compare, run_llm):
        monkeypatch.setattr(module, "_model", lambda name, device: lm)
    return lm


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reading(activations: Tensor, targets: Tensor, splits=None) -> Reading:
    n = len(targets)
    folds = [list(range(start, n, 5)) for start in range(5)]
    splits = [(sorted(set(range(n)) - set(f)), f) for f in folds] if splits is None else splits
    return Reading("response", activations, torch.ones(activations.shape[1]), targets, list(range(n)), splits)


# -- reading examples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prompt_is_read_once_and_gives_what_reading_it_anew_gives(family):
    lm = tiny(family)
    examples = [Example("Say it.", "x" * (1 + 5 * i % 23), 1.0) for i in range(19)]
    examples += [Example("Alone", "yes", 1.0), Example("No answer", None, -1.0), Example("Say it.", None, 1.0)]
    examples += [Example("Other", "a", 1.0), Example("Other", "bc", -1.0), Example("Say it.", "7", 0.0, "Rating: ")]
    shares = []
    found, wanted = read_examples(lm, examples, shares.append), collect(lm, examples)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] < 1


def test_reading_can_be_cancelled():
    def stop(share: float) -> None:
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        read_examples(tiny(), [Example("a", "b", 1.0)] * 3, stop)


@pytest.mark.parametrize("text", ["plain words", "é" * 100, "海賊" * 60, ""])
def test_a_long_text_is_cut_between_its_letters(text):
    lm = tiny()
    short = cut(lm, text, 25)
    assert text.startswith(short)
    assert len(lm.tokenizer(short)["input_ids"]) <= 25
    assert short == text or len(short.encode()) > 25 - 4


def test_what_is_read_fits_beside_the_prompt():
    assert longest_text(tiny(), "Say it.") < 256 - len(tiny().prompt_ids("Say it."))
    assert longest_text(build(max_position_embeddings=5000), "Say it.") == 256


# -- held-out figures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_concept_is_told_and_shuffled_labels_are_not(method):
    targets = torch.tensor([1.0, -1.0] * 20)
    activations = noise(0, 40, LAYERS, WIDTH)
    planted = activations + 2 * targets[:, None, None] * normalize(noise(1, WIDTH), dim=0) * WIDTH**0.5 / 2
    found = held_out(method, Fits(reading(planted, targets), {}))
    assert found is not None and found.measure == "AUROC" and found.rows == 40
    assert found.overall > 0.95 and min(found.by_block[1:]) > 0.9 and min(found.accuracy[1:]) > 0.8
    assert found.interval[0] <= found.overall <= found.interval[1]
    chance = held_out(method, Fits(reading(activations, targets), {}))
    assert chance is not None
    assert chance.interval[0] < 0.5 < chance.interval[1]


def test_numbers_are_measured_by_correlation():
    targets = torch.arange(30.0) - 14.5
    activations = 0.1 * targets[:, None, None] * noise(1, WIDTH) + noise(0, 30, LAYERS, WIDTH)
    found = held_out("rfm", Fits(reading(activations, targets), {}))
    assert found is not None and found.measure == "correlation" and found.overall > 0.8
    assert found.accuracy == [] and found.overall_accuracy is None


def test_no_row_has_a_part_in_the_fit_that_scores_it(monkeypatch):
    """Each row's activations name it, so the fit can tell whom it was shown."""
    shown: list[set[int]] = []
    targets = torch.tensor([1.0, -1.0] * 12)
    activations = noise(0, 24, LAYERS, WIDTH)
    real = heldout.fit

    def spy(method: str, rows: Tensor, wanted: Tensor):
        shown.append({i for i in range(24) if any(torch.equal(activations[i], row) for row in rows)})
        return real(method, rows, wanted)

    monkeypatch.setattr(heldout, "fit", spy)
    one = reading(activations, targets)
    held_out("mean_difference", Fits(one, {}))
    assert [set(train) for train, _ in one.splits] == shown
    assert all(not set(test) & seen for (_, test), seen in zip(one.splits, shown, strict=True))
    assert held_out("mean_difference", Fits(reading(activations, targets, splits=[]), {})) is None


def test_scores_of_rows_that_were_fitted_are_left_out():
    targets = torch.tensor([1.0, -1.0] * 20)
    split = (list(range(30)), list(range(30, 40)))
    found = held_out("rfm", Fits(reading(noise(0, 40, LAYERS, WIDTH), targets, splits=[split]), {}))
    assert found is not None and found.rows == 10
    assert found.scores[:30] == [None] * 30 and None not in found.scores[30:]


def test_directions_of_the_same_rows_are_not_fitted_twice(monkeypatch):
    targets = torch.tensor([1.0, -1.0] * 20)
    split = (list(range(30)), list(range(30, 40)))
    one = replace(reading(noise(0, 40, LAYERS, WIDTH), targets, splits=[split]), fitted=split[0])
    anew = held_out("rfm", Fits(one, {}))
    fits = Fits(one, {"rfm": fit("rfm", one.activations[:30], targets[:30])})
    monkeypatch.setattr(heldout, "fit", None)
    assert held_out("rfm", fits) == anew


def test_directions_are_those_that_fit_directions_finds():
    concept = parse_user_concept({"name": "x", "kind": "texts", "rows": [vars(row) for row in SHOUTS + MURMURS]})
    fits = heldout.fit_sites(tiny(), concept, ("response", "last"), ("rfm", "pca"))
    ours = heldout.merged(tiny(), "x", fits)
    theirs = fit_directions(tiny(), concept, [(m, s) for s in ("last", "response") for m in ("rfm", "pca")])
    assert torch.allclose(ours.norms, theirs.norms, rtol=1e-4)
    for key in theirs.vectors:
        assert (ours.get(*key)[1:] * theirs.get(*key)[1:]).sum(-1).min() > 0.999


def test_folds_of_shipped_concepts_keep_statements_together():
    concept = parse_concept(concept_source())
    one = heldout.read(tiny(), concept, "response")
    examples = concept.examples("response")
    for train, test in one.splits:
        assert not {examples[i].prompt for i in train} & {examples[i].prompt for i in test}
    assert sorted(i for _, test in one.splits for i in test) == list(range(len(examples)))


# -- the gauge and the slider -----------------------------------------------------------------------------------------


def test_the_gauge_reads_0_and_1_from_class_to_class():
    concept = parse_user_concept({"name": "x", "kind": "texts", "rows": [vars(row) for row in SHOUTS + MURMURS]})
    fits = heldout.fit_sites(tiny(), concept, ("response",), ("rfm", "linear"))["response"]
    scores = slider.fit_gauge(concept, fits, ("rfm", "linear"))(fits.reading.activations)
    assert scores[:12].mean() == pytest.approx(1, abs=1e-4)
    assert scores[12:].mean() == pytest.approx(0, abs=1e-4)


def test_the_gauge_reads_the_users_numbers():
    rows = [{"text": "a" * (2 + i) + " b", "target": 10.0 + i} for i in range(20)]
    concept = parse_user_concept({"name": "x", "kind": "numbers", "rows": rows})
    targets = torch.arange(20.0) - 9.5
    activations = noise(0, 20, LAYERS, WIDTH) * 0.01 + targets[:, None, None] * noise(1, WIDTH)
    fits = Fits(reading(activations, targets), {"linear": fit("linear", activations, targets)})
    assert np.allclose(slider.fit_gauge(concept, fits, ("linear",))(activations), 10 + np.arange(20), atol=0.2)


def verdicts(scores: list[float], fluent: list[bool]) -> Verdicts:
    return Verdicts(np.array(scores), np.array(fluent), [Outcome("t", 1, 1.0, 1.0, 0, not one) for one in fluent])


def test_the_best_strength_is_the_strongest_effect_among_wholly_fluent_texts():
    fine, shaky, broken = [True] * 4, [True, True, True, False], [False] * 4
    effects = dict(zip(slider.STRENGTHS, (0.2, 0.6, 0.9, 1.2, 1.5), strict=True))
    fluency = dict(zip(slider.STRENGTHS, (fine, fine, shaky, broken, broken), strict=True))
    key = ("rfm", "response")
    found = {(key, s): verdicts([effects[s] + 0.01 * i for i in range(4)], fluency[s]) for s in slider.STRENGTHS}
    found |= {(None, s): verdicts([0.0] * 4, fine) for s in slider.STRENGTHS}
    found["unsteered"] = verdicts([0.0] * 4, fine)
    swept = slider.swept(found, key)
    assert swept["band"] == [0.01, 0.025]
    assert swept["best"] == 0.016
    assert swept["collapse"] == 0.04


def test_without_an_effect_there_is_no_band():
    fine, key = [True] * 4, ("rfm", "response")
    found = {(k, s): verdicts([0.1, 0.2, 0.1, 0.2], fine) for k in (None, key) for s in slider.STRENGTHS}
    found["unsteered"] = verdicts([0.1, 0.2, 0.1, 0.2], fine)
    assert slider.swept(found, key)["band"] is None


# -- the meaning ------------------------------------------------------------------------------------------------------


def test_the_lens_is_the_final_norm_and_the_unembedding():
    lm, vector = tiny(), normalize(noise(3, WIDTH), dim=0)
    weight = lm.model.lm_head.weight - lm.model.lm_head.weight.mean(0)
    logits = weight @ lm.model.model.norm(vector * WIDTH**0.5)
    wanted = logits / (weight.norm(dim=1) * WIDTH**0.5)
    assert torch.allclose(logit_lens(lm, vector), wanted, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lens_of_the_opposite_direction_is_opposite(family):
    lm, vector = tiny(family), normalize(noise(3, WIDTH), dim=0)
    before = [len(block._forward_hooks) for block in lm.blocks]  # transformers may have left its own
    up, down = logit_lens(lm, vector), logit_lens(lm, -vector)
    assert torch.allclose(up, -down, atol=1e-5)
    assert up.abs().max() > 0.1
    assert [len(block._forward_hooks) for block in lm.blocks] == before
    values = [value for _, value in top_tokens(lm, up, 5)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(float(up.max()), abs=1e-4)


def test_mean_cosines_leave_out_the_first_block_and_those_outside():
    rows = normalize(noise(0, 2, 5, WIDTH), dim=-1)
    found = mean_cosines([rows[0]], [rows[0], rows[1]], (0, 3))
    assert found[0, 0] == pytest.approx(1)
    assert found[0, 1] == pytest.approx(float((rows[0] * rows[1])[1:4].sum(-1).mean()), abs=1e-6)


def test_the_spectrum_is_of_the_machine_whose_top_vector_is_the_direction():
    targets = torch.tensor([1.0, -1.0] * 12)
    activations = noise(0, 24, LAYERS, WIDTH) + targets[:, None, None] * normalize(noise(1, WIDTH), dim=0)
    fits = Fits(reading(activations, targets), {"rfm": fit("rfm", activations, targets)})
    spectra = agop_spectrum(fits)
    assert len(spectra) == LAYERS - 1
    split = split_rows(activations[:, 1:], targets, torch.Generator().manual_seed(0))
    for block, (values, one) in enumerate(zip(spectra, fits.found["rfm"], strict=True)):
        assert values == sorted(values, reverse=True) and 0 < sum(values) <= 1 + 1e-4
        metric = learned_metric(split.train[block], split.train_targets, one)
        basis = torch.linalg.qr(split.train[block].mT).Q
        top = basis @ torch.linalg.eigh(metric).eigenvectors[:, -1]
        assert abs(float(top.float() @ one.vector)) > 0.9999


# -- making, on a tiny model ------------------------------------------------------------------------------------------


def test_a_concept_is_made_saved_and_found(on_tiny, own_folder):
    told: list[tuple[float, str]] = []
    found = run_lab.make(SHOUTING, on_progress=lambda share, message, partial: told.append((share, message)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[-1] <= 1 and len({message for _, message in told}) >= 4
    assert found.held_out is not None and len(found.held_out.by_block) == LAYERS
    assert len(found.held_out.scores) == 24 and found.held_out.rows == 24
    assert len(found.examples) == (1 + len(slider.STRENGTHS)) * slider.PROMPTS
    assert [path.stem for path in own_folder.iterdir()] == ["my-shouting"]
    saved = user_concepts.stored("my-shouting")
    assert set(saved.keys) == {f"{method}.response" for method in METHODS}
    assert saved.measured["held_out"]["rfm.response"]["overall"] == found.held_out.overall
    user_concepts._stored.cache_clear()
    assert find_concept("my-shouting").name == "Shouting"


def test_the_steering_page_knows_a_made_concept(on_tiny):
    made = run_lab.make(SHOUTING).stored.concept
    known = facts(made.id, "tiny-llama", "rfm", "response")
    assert known is not None and not known.evaluated
    assert set(known.effect) == {"steered", "unsteered", "random", "prompted"}
    assert known.unit == unit_of(made) == "0 as your texts without, 1 as those with"
    assert facts(made.id, "tiny-llama", "pca", "response") is None  # fitted, not calibrated
    params = SteerParams("Hi?", (made.id,), (0.3,), tokens=8, model="tiny-llama")
    result = run_llm.steer(params)
    assert result.rows[2].text != result.rows[0].text
    assert run_llm.asked_prompt(params).endswith("Answer in this style: Shouting.")
    shown = run_llm.directions(made.id, on_tiny, "rfm", "response")
    assert shown.get("rfm", "response").shape == (LAYERS, WIDTH)


def test_another_site_or_model_is_fitted_from_the_kept_examples(on_tiny, monkeypatch):
    made = run_lab.make(SHOUTING).stored.concept
    there = run_llm.directions(made.id, on_tiny, "mean_difference", "last")
    wanted = fit_directions(on_tiny, made, [("mean_difference", "last")])
    assert torch.allclose(there.get("mean_difference", "last"), wanted.get("mean_difference", "last"), atol=2e-3)
    other = build(seed=5)
    other.sha256 = "5" * 64
    for module in (run_lab, run_compare, run_llm):
        monkeypatch.setattr(module, "_model", lambda name, device: other)
    anew = run_llm.directions(made.id, other, "rfm", "response")
    assert anew.model_sha256 == other.sha256


def test_a_concept_made_anew_under_its_id_forgets_what_was_fitted_to_the_old_one(on_tiny):
    made = run_lab.make(SHOUTING).stored
    before = run_llm.directions(made.concept.id, on_tiny, "rfm", "last").get("rfm", "last")
    rows = [{"text": row.text[::-1], "target": 1 - row.target} for row in made.concept.rows]
    source = made.concept.source | {"rows": rows}
    user_concepts.save(source, made.measured, user_concepts.export(made.concept.id), replace=made.concept.id)
    after = run_llm.directions(made.concept.id, on_tiny, "rfm", "last").get("rfm", "last")
    assert not torch.allclose(before, after, atol=1e-2)


@pytest.mark.parametrize("at", ["loading", "fitting", "held out", "strengths"])
def test_cancelling_saves_nothing_and_leaves_no_hook(on_tiny, own_folder, at):
    last = [""]

    def check() -> None:
        if at in last[0]:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        run_lab.make(SHOUTING, on_progress=lambda share, message, partial: last.__setitem__(0, message), check=check)
    assert not own_folder.exists() or not [*own_folder.iterdir()]
    assert not any(block._forward_hooks for block in on_tiny.blocks)


def test_long_texts_are_cut_and_named(on_tiny):
    rows = (replace(SHOUTS[0], text="WOW " * 200, where="Row 3"), *SHOUTS[1:], *MURMURS)
    found = run_lab.make(replace(SHOUTING, rows=rows))
    assert any(notice.startswith("Row 3: longer than") for notice in found.notices)
    assert len(found.stored.concept.rows[0].text) < 256


def test_with_few_examples_nothing_is_held_out_and_that_is_said(on_tiny):
    found = run_lab.make(replace(SHOUTING, rows=SHOUTS[:8] + MURMURS[:8]))
    assert found.held_out is None
    assert any("ten of each class" in notice for notice in found.notices)


def test_numbers_make_a_graded_concept(on_tiny):
    rows = tuple(Row("so " * (1 + i % 7) + f"good {i}", 1.0 + i % 7) for i in range(28))
    found = run_lab.make(LabParams("Length", kind="numbers", rows=rows, model="tiny-llama"))
    assert found.held_out is not None and found.held_out.measure == "correlation"
    assert found.stored.concept.label == "real"
    assert "pca.response" not in found.stored.keys
    assert facts(found.stored.concept.id, "tiny-llama", "rfm", "response").unit == "in your numbers"


def test_a_prefix_is_made_from_the_models_own_answers(on_tiny):
    found = run_lab.make(LabParams("Arr", kind="prefix", prefix="Say arr!", statements=16, model="tiny-llama"))
    concept = found.stored.concept
    with_, without = concept.rows[:2]
    assert with_.group == without.group and (with_.target, without.target) == (1, 0)
    assert with_.text != without.text
    assert concept.asked("Hi?") == "Hi?\nSay arr!"
    assert "Say arr!" in concept.examples("last")[0].prompt


def test_at_the_last_token_the_response_is_read_too(on_tiny):
    found = run_lab.make(replace(SHOUTING, site="last"))
    assert {key.split(".")[1] for key in found.stored.keys} == {"last", "response"}
    assert facts(found.stored.concept.id, "tiny-llama", "rfm", "last") is not None


def test_a_judge_takes_the_gauges_place(on_tiny):
    found = run_lab.make(replace(SHOUTING, judge={"metric": "lexicon", "words": ["wow"]}))
    assert found.stored.measured["calibration"]["unsteered"] == 0
    assert unit_of(found.stored.concept) == "per 100 words"


def test_a_file_made_elsewhere_is_taken_and_one_of_another_model_is_not(on_tiny, monkeypatch):
    content = user_concepts.export(run_lab.make(SHOUTING).stored.concept.id)
    assert run_lab.take(content, "tiny-llama").concept.id == "my-shouting-2"
    other = build(seed=5)
    other.sha256 = "5" * 64
    monkeypatch.setattr(run_lab, "_model", lambda name, device: other)
    with pytest.raises(AssetError, match="not in") as caught:
        run_lab.take(content, "other")
    assert is_one_sentence(caught.value)


# -- comparing and meaning, on a tiny model ---------------------------------------------------------------------------


def test_methods_and_sites_stand_side_by_side(on_tiny):
    made = run_lab.make(SHOUTING).stored.concept
    shares: list[float] = []
    params = CompareParams(made.id, ("rfm", "pca"), ("last", "response"), prompts=3, model="tiny-llama")
    found = run_lab.compare(params, on_progress=lambda share, message, partial: shares.append(share))
    assert shares == sorted(shares)
    assert found.keys == ["rfm.last", "pca.last", "rfm.response", "pca.response"]
    assert set(found.held_out) == set(found.curves) == set(found.keys)
    assert np.allclose(np.diag(found.cosines), 1, atol=1e-3) and np.allclose(found.cosines, np.transpose(found.cosines))
    assert set(found.spectra) == {"last", "response"} and all(len(rows) == LAYERS for rows in found.spectra.values())
    for curve in (*found.curves.values(), found.random):
        assert [point.strength for point in curve] == list(slider.STRENGTHS)
        assert all(point.interval[0] <= point.effect <= point.interval[1] for point in curve)
    assert (found.unsteered.strength, found.prompted.strength) == (0, 0)
    assert "no independent judge" in found.effect_of
    for key in found.keys:  # the slider now has a band for each of them
        assert facts(made.id, "tiny-llama", *key.split(".")) is not None
    assert set(user_concepts.stored(made.id).measured["held_out"]) == set(found.keys)


def test_a_rating_is_not_compared(on_tiny):
    with pytest.raises(ParameterError, match="rating") as caught:
        run_lab.compare(CompareParams("review-rating", model="tiny-llama"))
    assert is_one_sentence(caught.value)


def test_numbers_have_no_principal_component_of_pairs(on_tiny):
    rows = tuple(Row("so " * (1 + i % 7) + f"good {i}", 1.0 + i % 7) for i in range(28))
    made = run_lab.make(LabParams("Length", kind="numbers", rows=rows, model="tiny-llama")).stored.concept
    with pytest.raises(ParameterError, match="two classes"):
        run_lab.compare(CompareParams(made.id, ("pca",), model="tiny-llama"))


def test_a_meaning_shows_examples_at_both_ends(on_tiny):
    made = run_lab.make(SHOUTING)
    found = run_lab.meaning(made.stored.concept.id, model="tiny-llama")
    assert made.held_out is not None
    scores = [score for score in made.held_out.scores if score is not None]
    assert found.highest[0][1] == max(scores) and found.lowest[0][1] == min(scores)
    assert found.block == LAYERS - 1 and len(found.up) == len(found.down) == 12
    assert found.nearest == []  # nothing is shipped for this model
    with pytest.raises(ParameterError, match="block is 0") as caught:
        run_lab.meaning(made.stored.concept.id, block=0, model="tiny-llama")
    assert is_one_sentence(caught.value)


# -- the shipped model ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_32_typed_lines_make_a_pirate():
    table = typed(PIRATE, PLAIN)
    found = run_lab.make(LabParams("My pirate", rows=table.rows, ask="Answer like a pirate."))
    assert len(table.rows) == 32 and not table.problems
    assert found.band is not None and found.band[0] <= found.best <= found.band[1]
    assert found.held_out is not None and found.held_out.overall > 0.9
    shipped = judge(find_concept("pirate").judge)
    words = {s: [shipped("", e["text"]) for e in found.examples if e["strength"] == s] for s in (0.0, found.best)}
    assert np.mean(words[found.best]) > 3 > 1 > np.mean(words[0.0])
    meaning = run_lab.meaning(found.stored.concept.id)
    assert meaning.nearest[0][0] == "pirate"
    assert all(target == 1 for *_, target in meaning.highest)
    result = run_llm.steer(SteerParams("How was your day?", (found.stored.concept.id,), (found.best,), tokens=16))
    assert result.rows[2].text != result.rows[0].text


@pytest.mark.slow
def test_the_lens_of_a_shipped_concept_shows_its_words():
    found = run_lab.meaning("angry", model=DEFAULT_MODEL)
    assert {" hatred", " hate", " stupid", " insult"} & {piece for piece, _ in found.up}
    assert found.highest == []
