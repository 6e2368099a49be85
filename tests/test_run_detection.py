"""The detection table and the monitor, on made-up sets and tiny models: nothing leaks, figures mean what they say."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lm_core import concept_detectors, detection_results, run_detection, run_monitor
from lm_core.bench_detection import by_method
from lm_core.concept_detectors import choices, find_detector, source_of
from lm_core.concepts import NEUTRAL_PROMPT, Example, concepts, parse_concept
from lm_core.detection_results import operating_point, read_results, summarise, verdict
from lm_core.errors import AssetError, JobCancelled, ParameterError
from lm_core.evaluation import EvaluationSet, Item
from lm_core.llm import detectors
from lm_core.llm.detect import answer_row
from lm_core.llm.reading import Reader
from lm_core.llm.references import NO, YES, judge_scores, word_scores
from lm_core.ranking import auroc
from lm_core.steer_params import DEFAULT_MODEL, METHODS
from lm_core.user_concepts import my_concepts
from lm_core.user_source import parse_user_concept
from tests.tiny import LAYERS, build, concept_source, is_one_sentence, rating_source, tiny

QUICK = ("linear", "mean_difference")
WORDS = ("rain", "bread", "ship", "stone", "glass", "horse")


def made_up(groups: int = 20, per_group: int = 4, kind: str = "binary", answered: bool = False) -> EvaluationSet:
    """Return texts that shout or don't; real labels count the exclamation marks."""
    items = []
    for group in range(groups):
        for n in range(per_group):
            said = f"{WORDS[group % 6]} {group} {WORDS[n % 6]}"
            if kind == "real":
                prompt, label = said + "!" * (2 * n + 1), float(n + 1)
            else:
                prompt, label = (said.upper() + "!!", 1.0) if n % 2 else (said + ".", -1.0)
            items.append(Item("Say it." if answered else prompt, prompt if answered else None, label, f"g{group}"))
    question = "Loud? {prompt} {response}" if answered else "Loud? {prompt}"
    about = {"id": "shouts", "name": "Shouts", "about": "Loud or not.", "licence": "CC0"}
    return EvaluationSet(**about, kind=kind, classes=("calm", "loud"), question=question, items=tuple(items))


@pytest.fixture(scope="module")
def facts():
    return run_detection.measure(tiny(), made_up(), QUICK)


# -- the table --------------------------------------------------------------------------------------------------------


def test_a_table_has_every_detector_every_reference_and_who_won(facts):
    assert {(row["method"], row["aggregate"]) for row in facts["rows"]} == {
        (method, aggregate) for method in QUICK for aggregate in detection_results.AGGREGATES
    }
    assert [row["name"] for row in facts["references"]] == ["judge", "words", "shuffled"]
    assert all(row["interval"][0] <= row["value"] <= row["interval"][1] for row in facts["rows"])
    assert all(row["value"] == pytest.approx(np.mean(row["folds"]), abs=1e-3) for row in facts["rows"])
    assert facts["chosen"]["value"] > 0.95
    assert len(facts["chosen"]["picks"]) == 5
    assert facts["set"] | {"items": 80, "groups": 20, "cut_to_context": 0} == facts["set"]
    assert facts["model_sha256"] == tiny().sha256
    assert "AUROC" in facts["says"]
    assert "the model asked" in facts["says"]
    json.dumps(facts, allow_nan=False)


def test_real_targets_give_correlations():
    facts = run_detection.measure(tiny(), made_up(kind="real"), ("linear",))
    assert facts["measure"] == "Pearson correlation"
    assert facts["chosen"]["value"] > 0.6
    assert facts["chosen"]["spearman"] > 0.6
    assert operating_point(facts, 0.1)["false_positive_rate"] <= 0.1


def test_answers_are_read_after_their_prompts():
    facts = run_detection.measure(tiny(), made_up(answered=True), ("linear",))
    assert facts["chosen"]["value"] > 0.9


def test_a_detector_never_sees_a_row_of_its_fold_nor_its_group(monkeypatch):
    evaluation = made_up()
    n = len(evaluation.items)
    activations = torch.randn(n, LAYERS, 12, generator=torch.Generator().manual_seed(0))
    activations[:, 0, 0] = torch.arange(n)  # every row knows its number
    given, plain = [], detectors.fit_detectors

    def watched(rows, targets, keys, *, held, **rest):
        given.append((rows[:, 0, 0].long().tolist(), held.tolist()))
        return plain(rows, targets, keys, held=held, **rest)

    monkeypatch.setattr(detectors, "fit_detectors", watched)
    folds, targets = evaluation.folds(5), torch.tensor([one.target for one in evaluation.examples()])
    run_detection.cross_fit(activations, targets, evaluation, folds, ("linear",))
    run_detection.shuffled_scores(activations, targets, evaluation, folds)
    assert len(given) == 10
    group = [item.group for item in evaluation.items]
    for (rows, held), test in zip(given, [*folds, *folds], strict=True):
        assert sorted([*rows, *test]) == list(range(n))
        assert not {group[i] for i in rows} & {group[i] for i in test}
        validation = {group[i] for i, out in zip(rows, held, strict=True) if out}
        assert validation
        assert not validation & {group[i] for i, out in zip(rows, held, strict=True) if not out}


@pytest.mark.parametrize("method", METHODS)
def test_activations_that_say_nothing_give_chance(method):
    """Were a test row seen in fitting or choosing, 80 rows of width 200 would be learnt by heart."""
    evaluation = made_up(groups=40)
    targets = torch.tensor([one.target for one in evaluation.examples()])
    activations = torch.randn(len(targets), LAYERS, 200, generator=torch.Generator().manual_seed(1))
    folds = evaluation.folds(5)
    found = run_detection.cross_fit(activations, targets, evaluation, folds, (method,))
    for scores in [*found.by.values(), found.chosen]:
        assert abs(np.mean([auroc(scores[fold], targets[fold]) for fold in folds]) - 0.5) < 0.13


def test_shuffled_labels_give_chance_where_true_ones_give_all(facts):
    (shuffled,) = (row for row in facts["references"] if row["name"] == "shuffled")
    assert shuffled["interval"][0] < 0.5 < shuffled["interval"][1]
    assert len(shuffled["orders"]) == run_detection.SHUFFLES
    assert abs(shuffled["value"] - 0.5) < 0.2
    assert min(row["value"] for row in facts["rows"]) > 0.9


def test_the_headline_is_what_validation_chooses_not_what_the_test_rows_would():
    targets, folds = np.tile([1.0, -1.0], 40), [list(range(i, 80, 5)) for i in range(5)]
    good, bad = targets + 0.0, np.random.default_rng(0).normal(size=80)
    found = detection_results.Scores({("rfm", "best"): good, ("pca", "best"): bad}, {"rfm": [1] * 5, "pca": [2] * 5})
    found.chosen, found.picks = bad, [("pca", "best")] * 5
    found.references, found.shuffled = {"judge": bad, "words": bad}, [bad]
    facts = summarise(found, targets, folds, False)
    assert facts["best"]["value"] == 1.0 > facts["chosen"]["value"]
    assert facts["best"]["tied"] == [["rfm", "best"]]
    assert facts["lead"]["judge"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert "level with the model asked" in verdict(facts)


def test_the_threshold_for_a_wanted_rate_is_from_held_out_scores(facts):
    scores, targets = np.array(facts["scores"]), np.array(facts["targets"])
    for rate in (0.0, 0.05, 0.25):
        point = operating_point(facts, rate)
        assert (scores[targets < 0] > point["threshold"]).mean() == point["false_positive_rate"] <= rate
        assert point["true_positive_rate"] > 0.8


def test_a_table_can_be_cancelled_at_any_point():
    for after in (0, 3, 8, 14):
        calls = []

        def check(calls: list = calls, after: int = after) -> None:
            calls.append(1)
            if len(calls) > after:
                raise JobCancelled("enough")

        with pytest.raises(JobCancelled):
            run_detection.measure(tiny(), made_up(), ("linear",), check=check)
        assert not any(block._forward_hooks for block in tiny().blocks)


def test_progress_never_goes_back():
    shares = []
    run_detection.measure(tiny(), made_up(), ("linear",), lambda share, message, partial: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_texts_longer_than_the_context_are_cut_and_counted():
    evaluation = made_up()
    long = replace(evaluation.items[0], prompt="word " * 100 + "x.")
    facts = run_detection.measure(tiny(), replace(evaluation, items=(long, *evaluation.items[1:])), ("linear",))
    assert facts["set"]["cut_to_context"] == 1


@pytest.mark.parametrize("words", [("丘", "川"), ("гора", "река"), ("جبل", "نهر")])
def test_sets_in_other_scripts_work(words):
    items = [
        Item(f"{word} {n} {word}", None, label, f"g{n}")
        for n in range(20)
        for word, label in zip(words, (1.0, -1.0), strict=True)
    ]
    facts = run_detection.measure(tiny(), replace(made_up(), items=tuple(items)), ("linear",))
    assert facts["chosen"]["value"] > 0.9
    assert next(row for row in facts["references"] if row["name"] == "words")["value"] == 1.0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"name": "nowhere"}, "nowhere"),
        ({"name": "truthful", "methods": ("magic",)}, "magic"),
        ({"name": "favabench", "path": "nowhere.json"}, "nowhere.json"),
        ({"name": "magic", "path": "nowhere.json"}, "magic"),
        ({"name": "truthful", "model": "/nowhere/at/all"}, "no model"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(asked, says):
    with pytest.raises((ParameterError, AssetError), match=says) as caught:
        run_detection.table(**asked)
    assert "\n" not in str(caught.value)


def test_results_are_written_and_read_and_damage_is_told(facts, tmp_path):
    path = tmp_path / "detection-shouts.json"
    detection_results.write(facts, path)
    assert read_results(path) == json.loads(json.dumps(facts))
    for content in ("", "[]", "{}", '{"set": 1}'):
        path.write_text(content)
        with pytest.raises(AssetError, match="damaged"):
            read_results(path)
    with pytest.raises(AssetError, match="isn't there"):
        read_results(tmp_path / "none.json")


def test_the_benchmark_names_each_method_and_reference(facts):
    found = by_method(facts)
    assert set(found) == {*QUICK, *(f"{method}, best block" for method in QUICK)} | {
        *("chosen by validation", "judge", "words", "shuffled")
    }
    assert found["linear"] == next(
        row["value"] for row in facts["rows"] if (row["method"], row["aggregate"]) == ("linear", "logistic")
    )


def test_shipped_results_are_honest():
    shipped = detection_results.shipped_results()
    if not shipped:
        pytest.skip("no results are shipped yet: `python -m lm_core detection` makes them")
    for name, facts in shipped.items():
        assert facts["set"]["id"] == name
        assert facts["command"]
        shuffled = next(row for row in facts["references"] if row["name"] == "shuffled")
        nothing = 0.0 if facts["set"]["kind"] == "real" else 0.5
        assert abs(shuffled["value"] - nothing) < 0.15
        assert facts["says"] == verdict(facts)


# -- references -------------------------------------------------------------------------------------------------------


def test_the_judge_is_the_difference_of_the_models_own_yes_and_no():
    lm, example = tiny(), Example("Is it?", None, 1.0)
    (found,) = judge_scores(lm, [example], "Answer: {prompt}", False)
    with torch.no_grad():
        logits = lm.model(torch.tensor([lm.prompt_ids("Answer: Is it?")])).logits[0, -1]
    chances = logits.softmax(-1)
    yes, no = ({lm.tokenizer(word)["input_ids"][0] for word in kind} for kind in (YES, NO))
    assert found == pytest.approx(float((chances[list(yes)].sum() / chances[list(no)].sum()).log()), abs=1e-3)
    assert 1 <= judge_scores(lm, [example], "Stars: {prompt}", True)[0] <= 5


def test_the_judge_reads_long_texts_cut_and_in_their_order():
    lm = tiny()
    examples = [Example("x" * 600, None, 1.0), Example("short", None, 1.0), Example("y" * 90, None, -1.0)]
    together = judge_scores(lm, examples, "Loud? {prompt}", False)
    alone = [judge_scores(lm, [one], "Loud? {prompt}", False)[0] for one in examples]
    assert together == pytest.approx(alone, abs=1e-3)


def test_a_bag_of_words_knows_words_and_nothing_of_their_order():
    folds, targets = made_up().folds(5), torch.tensor([one.target for one in made_up().examples()])
    loud = [Example("sun rain" if t > 0 else "snow rain", None, 1.0) for t in targets]
    assert auroc(word_scores(loud, targets, folds, False), targets) == 1.0
    turned = [Example("dog bites man" if t > 0 else "man bites dog", None, 1.0) for t in targets]
    assert auroc(word_scores(turned, targets, folds, False), targets) == 0.5
    assert not word_scores([Example("?!", None, 1.0)] * len(targets), targets, folds, False).any()


# -- the monitor ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(monkeypatch, tmp_path):
    monkeypatch.setenv("LM_CACHE", str(tmp_path))
    lm = build()
    monkeypatch.setattr(run_monitor, "_open", lambda *_: lm)
    return lm


SHOUTING = parse_concept(concept_source())
WHISPERING = parse_concept(
    concept_source(id="whispering", name="Whispering", texts_with=[f"psst, {n}…" for n in range(10)])
)


def test_a_text_is_looked_at_token_by_token_for_several_concepts(model):
    text = "well, WOW, IT IS 7!"
    found = run_monitor.monitor(text, [SHOUTING, WHISPERING])
    assert found.concepts == ["Shouting", "Whispering"]
    assert "".join(found.pieces) == text
    assert found.heat.shape == (2, len(found.pieces), LAYERS - 1)
    assert found.blocks == [1, 2]
    assert found.strip.shape == found.levels.shape == (2, len(found.pieces))
    assert np.allclose(found.strip.mean(1), found.scores, atol=1e-3)  # a logistic readout is linear
    assert found.levels[0, 9] == pytest.approx(found.strip[0, 2:10].mean(), abs=1e-4)
    for field in (found.threshold, found.alarm_threshold, found.text_threshold):
        assert field.shape == (2,)
        assert np.isfinite(field).all()
    assert found.cut == 0
    assert all(isinstance(value, list | np.ndarray | float | int) for value in vars(found).values())  # no tensors


def test_thresholds_keep_the_wanted_rate_on_texts_that_had_no_part_in_the_fit(model):
    one = find_detector(SHOUTING, model)
    without = one.held_scores[one.held_targets < 0]
    assert len(without) == len(one.peaks) == 10
    assert len(one.token_scores) == sum(len(f"it is {n}.") for n in range(10))
    for rate in (0.0, 0.1, 0.3):
        assert (without > one.threshold(rate)).float().mean() <= rate
        assert (one.token_scores > one.token_threshold(rate)).float().mean() <= rate
        assert (one.peaks > one.alarm_threshold(rate)).float().mean() <= rate
    assert auroc(one.held_scores, one.held_targets) > 0.9


def test_a_detector_is_fitted_once_a_concept_and_model(model, monkeypatch):
    fitted, plain = [], concept_detectors.fit_source

    def counting(*words, **rest):
        fitted.append(1)
        return plain(*words, **rest)

    monkeypatch.setattr(concept_detectors, "fit_source", counting)
    for _ in range(2):
        run_monitor.monitor("Hello", [SHOUTING])
    assert len(fitted) == 1
    run_monitor.monitor("Hello", [SHOUTING], aggregate="best")
    run_monitor.monitor("Hello", [parse_concept(concept_source(texts_with=[f"OH {n}!" for n in range(10)]))])
    assert len(fitted) == 3  # same id, other examples


def test_a_kept_detector_that_is_damaged_or_of_another_model_is_fitted_anew(model, tmp_path):
    before = find_detector(SHOUTING, model)
    (path,) = tmp_path.rglob("*.safetensors")
    for content in (b"half a file", path.read_bytes().replace(b"0" * 64, b"1" * 64)):
        path.write_bytes(content)
        assert torch.equal(find_detector(SHOUTING, model).held_scores, before.held_scores)


def test_a_shipped_detector_of_another_model_is_refused(model, tmp_path, monkeypatch):
    shipped = tmp_path / "shipped.safetensors"
    replace(find_detector(SHOUTING, model), model_sha256="1" * 64).write(shipped)
    monkeypatch.setattr(concept_detectors, "detector_path", lambda *_: shipped)
    model.name = DEFAULT_MODEL
    with pytest.raises(AssetError, match="fit it anew"):
        find_detector(SHOUTING, model)


def test_evaluation_sets_are_watched_for_where_their_texts_are_read(model):
    asked, answered = find_detector(made_up(), model, "linear"), find_detector(made_up(answered=True), model, "linear")
    assert (asked.site, answered.site) == ("last", "response")
    found = run_monitor.monitor("RAIN AND SHIP!!", [made_up(), made_up(answered=True)], method="linear")
    calm = run_monitor.monitor("rain and ship.", [made_up(), made_up(answered=True)], method="linear")
    assert (found.scores > calm.scores).all()
    assert found.concepts == ["loud", "loud"]


def test_a_concept_with_few_examples_takes_its_thresholds_from_validation_rows(model):
    source = concept_source()
    few = source | {name: source[name][:9] for name in ("texts_with", "texts_without")}
    one = find_detector(parse_concept(few), model)
    assert len(one.held_scores) == 4
    assert len(one.peaks) == 9


def test_many_texts_are_scored_in_their_order(model):
    texts = ["WOW, IT IS 5!", "", "it is 5.", "今日は寒い。", "x" * 300]
    shares = []
    found = run_monitor.batch(texts, SHOUTING, on_progress=lambda share, *_: shares.append(share))
    assert [one["text"] for one in found["texts"]] == [text for text in texts if text]
    assert found["texts"][0]["score"] > found["texts"][1]["score"]
    assert [one["cut"] > 0 for one in found["texts"]] == [False, False, False, True]
    assert (found["left_out_empty"], found["cut_texts"]) == (1, 1)
    assert found["alarms"] == sum(one["score"] > found["threshold"] for one in found["texts"])
    assert "".join(token["piece"] for token in found["texts"][2]["tokens"]) == texts[3]
    assert "tokens" not in run_monitor.batch(texts, SHOUTING, tokens=False)["texts"][0]
    assert shares == sorted(shares)
    json.dumps(found, allow_nan=False)


def test_the_monitor_can_be_cancelled(model):
    def check() -> None:
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        run_monitor.monitor("Hello", [SHOUTING], check=check)
    with pytest.raises(JobCancelled):
        run_monitor.batch(["Hello"], SHOUTING, check=check)
    assert not any(block._forward_hooks for block in model.blocks)


@pytest.mark.parametrize(
    ("text", "watched", "says"),
    [
        (" \n", [SHOUTING], "empty"),
        ("Hello", [], "0 concepts"),
        ("Hello", [SHOUTING] * 7, "7 concepts"),
        ("Hello", ["klingon"], "klingon"),
        ("Hello", ["set:klingon"], "klingon"),
        ("Hello", [parse_concept(rating_source())], "digit"),
    ],
)
def test_what_cannot_be_watched_is_refused_in_one_sentence(model, text, watched, says):
    with pytest.raises(ParameterError, match=says) as caught:
        run_monitor.monitor(text, watched)
    assert is_one_sentence(caught.value)


def test_too_many_texts_are_refused(model):
    with pytest.raises(ParameterError, match="10,001"):
        run_monitor.batch(["x"] * 10_001, SHOUTING)


def test_an_answer_is_watched_while_it_is_written(model):
    """Read in pieces as it grows, its scores are those of the finished text, and the alarm rings where they say."""
    text, prompt = "it is 3. WOW, IT IS 4!", "Count."
    watch = run_monitor.live([SHOUTING], model, false_positive_rate=0.1)
    row = answer_row(model, text, prompt)
    tokens = row.ids[row.first :]
    nothing = torch.zeros(0, LAYERS)
    reader = Reader(
        model, row.ids[: row.first], 2, torch.zeros(0, LAYERS, model.d_model), nothing, torch.ones(LAYERS), watch
    )
    for start in range(0, len(tokens), 3):
        reader.feed([tokens[start : start + 3], tokens[start : start + 3] if start == 0 else []])
    found = run_monitor.monitor(text, [SHOUTING], prompt=prompt, false_positive_rate=0.1)
    whole = np.array(reader.scores[0])
    assert np.allclose(whole, found.strip[:, : len(tokens)], atol=1e-3)
    assert np.allclose(reader.scores[1], found.strip[:, :3], atol=1e-3)
    assert watch.alarm_thresholds() == pytest.approx(found.alarm_threshold)
    assert (watch.alarms(whole) == (found.levels[:, : len(tokens)] > found.alarm_threshold[:, None])).all()


def test_a_sets_texts_are_read_as_answers_where_answers_are_watched():
    said, answered = source_of("set:toxic"), source_of("set:toxic", answers=True)
    assert (said.site, answered.site) == ("last", "response")
    assert [one.prompt for one in said.examples] == [one.response for one in answered.examples]
    assert {one.prompt for one in answered.examples} == {NEUTRAL_PROMPT}
    assert said.key("rfm", "logistic") != answered.key("rfm", "logistic")
    both = (source_of("set:hallucinated"), source_of("set:hallucinated", answers=True))
    assert both[0].key("rfm", "logistic") == both[1].key("rfm", "logistic")


def test_a_users_own_rows_keep_their_groups_together(model):
    rows = [
        {"text": f"{'LOUD' if n % 2 else 'calm'} {n // 2} {WORDS[n % 6]}", "target": n % 2, "group": f"g{n // 4}"}
        for n in range(48)
    ]
    mine = parse_user_concept({"id": "my-own", "name": "Own", "kind": "texts", "rows": rows})
    source = source_of(mine)
    for fold in source.folds:
        out = {rows[i]["group"] for i in fold}
        assert not out & {rows[i]["group"] for i in range(48) if i not in fold}
    found = run_monitor.monitor("LOUD 7 ship", [mine], method="linear")
    assert found.concepts == ["Own"]
    assert found.scores[0] > run_monitor.monitor("calm 7 ship", [mine], method="linear").scores[0]


def test_the_choices_are_all_concepts_but_ratings_and_all_sets():
    known = choices()
    assert "spanish" in known
    assert "set:toxic" in known
    assert len(known) == len(my_concepts()) + sum(not one.is_rating for one in concepts().values()) + 9
    source = source_of("set:hallucinated")
    assert source.site == "response"
    assert source.key("rfm", "best") != source.key("rfm", "logistic")
    assert {i for fold in source_of("spanish").folds for i in fold} == set(range(len(source_of("spanish").examples)))
