"""Concepts as data: the shipped files keep their promises, a user's broken ones are refused in one sentence."""

import json
import os
import re
import subprocess
import sys

import pytest

from lm_core import concepts as module
from lm_core.concepts import (
    CALIBRATION_PROMPTS,
    MOST_EXAMPLES,
    Concept,
    concepts,
    facts,
    find_concept,
    read_concept,
    unit_of,
)
from lm_core.errors import AssetError, LabError, ParameterError
from lm_core.judges import judge
from lm_core.steer_params import MAX_CONCEPTS, MAX_PROMPT_CHARACTERS, MAX_STRENGTH, MAX_TOKENS, METHODS, SteerParams
from tests.tiny import concept_source, is_one_sentence, rating_source

KINDS = {  # of Beaglehole et al. 2025
    "human language",
    "programming language",
    "style",
    "mood",
    "persona",
    "science subject",
    "word sense",
    "numerical attribute",
    "hallucination",
}
SHIPPED = sorted(path.stem for path in module.asset_path("concepts").glob("*.json") if path.stem not in module.LISTS)
BINARY = [name for name in SHIPPED if name != "review-rating"]
PLACEHOLDER = re.compile(r"\{(statement|text|plain|half)\}")


# -- shipped files ----------------------------------------------------------------------------------------------------


def test_at_least_24_concepts_of_every_kind_of_the_paper_are_shipped():
    assert len(concepts()) >= 24
    assert {one.group for one in concepts().values()} >= KINDS
    assert sorted(concepts()) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_concept_is_whole(name):
    concept = find_concept(name)
    assert concept.id == name and concept.name and concept.about and concept.ask
    assert unit_of(concept) != "not judged"
    assert len(concept.calibration_prompts) == CALIBRATION_PROMPTS
    assert len(concept.evaluation_prompts) >= 20
    assert len(set(concept.prompts)) == len(concept.prompts)


@pytest.mark.parametrize("name", SHIPPED)
def test_held_out_prompts_had_no_part_in_the_examples(name):
    concept = find_concept(name)
    source, used = concept.source, set()
    for field in ("statements", "texts_with", "texts_without"):
        used |= set(source.get(field, ()))
    used |= {one["text"] for one in source.get("examples", ())}
    assert not used & set(concept.prompts)
    fitted = {one.prompt for site in ("last", "response") for one in concept.examples(site)}
    assert not fitted & {*concept.calibration_prompts, *concept.evaluation_prompts}


@pytest.mark.parametrize("site", ["last", "response"])
@pytest.mark.parametrize("name", BINARY)
def test_examples_are_balanced_and_their_prompts_filled(name, site):
    examples = find_concept(name).examples(site)
    assert sum(one.target for one in examples) == 0
    assert {one.target for one in examples} == {1.0, -1.0}
    assert 2 * 40 <= len(examples) <= 2 * MOST_EXAMPLES
    assert all(one.prompt.strip() and not PLACEHOLDER.search(one.prompt) for one in examples)
    assert all((one.response is None) == (site == "last") for one in examples)


@pytest.mark.parametrize("name", BINARY)
def test_last_site_prompts_differ_between_the_classes(name):
    examples = find_concept(name).examples("last")
    by_class = {target: {one.prompt for one in examples if one.target == target} for target in (1.0, -1.0)}
    assert not by_class[1.0] & by_class[-1.0]


@pytest.mark.parametrize("name", BINARY)
def test_judge_rates_texts_with_the_concept_above_those_without(name):
    concept = find_concept(name)
    rate, sums = judge(concept.judge), {1.0: 0.0, -1.0: 0.0}
    for one in concept.examples("response")[:64]:
        sums[one.target] += rate(one.prompt, one.response or "")
    assert sums[1.0] > sums[-1.0]


def test_rating_examples_spread_over_the_scale_and_are_centred():
    concept = find_concept("review-rating")
    assert concept.is_rating
    last, response = concept.examples("last"), concept.examples("response")
    assert len(last) == len(response) >= 120
    assert abs(sum(one.target for one in last)) < 1e-6
    targets = [one["target"] for one in concept.source["examples"]]
    assert min(targets) >= 1 and max(targets) <= 5
    assert all(sum(low <= t <= low + 1 for t in targets) >= 15 for low in (1, 2, 3, 4))
    assert all(one.start == "Rating: " and "{" not in one.prompt for one in last)
    assert all(1 <= float(one.response or "") <= 5 for one in response)


def test_unknown_concept_names_the_ones_there_are():
    with pytest.raises(ParameterError, match=r"klingon.*spanish"):
        find_concept("klingon")


# -- a user's own -----------------------------------------------------------------------------------------------------


def write(folder, source) -> Concept:
    path = folder / "mine.json"
    path.write_text(source if isinstance(source, str) else json.dumps(source), "utf-8")
    return read_concept(path)


def test_own_concept_is_read(tmp_path):
    concept = write(tmp_path, concept_source(id=None, group=None))
    assert (concept.id, concept.group, concept.label) == ("mine", "my own", "binary")
    assert concept.asked("Say it.") == "Say it.\nShout."
    assert [one.target for one in concept.examples("response")] == [1.0, -1.0] * 10
    first, second = concept.examples("response")[:2]
    assert (first.prompt, first.response, second.response) == ("What is 0?", "WOW, IT IS 0!", "it is 0.")


def test_templates_take_statement_text_plain_and_half(tmp_path):
    templates = ["{statement}|{text}|{plain}|{half}"]
    example = write(tmp_path, concept_source(**{"with": templates})).examples("last")[0]
    assert example.prompt == "What is 0?|WOW, IT IS 0!|it is 0.|WOW, IT"


def test_last_site_uses_every_template(tmp_path):
    prompts = [one.prompt for one in write(tmp_path, concept_source()).examples("last") if one.target > 0]
    for mark in (" Shout.", "Shout about this:", "Continue:"):
        assert sum(mark in prompt for prompt in prompts) == 10


def test_braces_in_a_users_texts_stay(tmp_path):
    texts = [f"function f{n}() {{ return {{n}}; }}" for n in range(10)]
    examples = write(tmp_path, concept_source(texts_with=texts)).examples("last")
    assert any("{" in one.prompt for one in examples)


def test_shared_lists_go_by_name(tmp_path):
    concept = write(tmp_path, concept_source(statements="everyday", prompts="everyday"))
    assert len(concept.prompts) >= 28 and len(concept.source["statements"]) >= 48


def test_rating_template_poses_the_held_out_prompts(tmp_path):
    concept = write(tmp_path, rating_source())
    assert concept.calibration_prompts[0] == "Rate this: Good, 0 times. Rating:"
    assert [one.response for one in concept.examples("response")[:2]] == ["1", "2"]
    assert [one.target for one in concept.examples("last")[:2]] == [-2.0, -1.0]


BROKEN = {
    "too few texts": concept_source(texts_with=["A"] * 7, texts_without=["b"] * 7),
    "more of one class": concept_source(texts_with=["A"] * 10, texts_without=["b"] * 9),
    "one class": concept_source(texts_without=[]),
    "identical texts": concept_source(texts_without=["WOW, IT IS 3!"] * 10),
    "no texts": concept_source(texts_with=None),
    "no templates": concept_source(**{"with": None}),
    "no statements": concept_source(statements=None),
    "no prompts": concept_source(prompts=None),
    "unknown list": concept_source(statements="nightly"),
    "equal targets": rating_source(examples=[{"text": str(n), "target": 3} for n in range(10)]),
    "too few ratings": rating_source(examples=[{"text": str(n), "target": n} for n in range(7)]),
    "no template": rating_source(template=None),
    "no examples": rating_source(examples=None),
    "not an object": [1, 2],
    "unknown label": concept_source(label="ordinal"),
    "texts that are no list": concept_source(texts_with="ABCDEFGHIJ", texts_without="abcdefghij"),
    "texts that are no strings": concept_source(texts_with=list(range(10))),
    "unknown placeholder": concept_source(**{"with": ["{statement} in {mood}"]}),
    "a lone brace": concept_source(**{"with": ["{statement} {"]}),
    "a rating without its target": rating_source(examples=[{"text": str(n)} for n in range(9)] + [{"target": 2}]),
    "a target in words": rating_source(examples=[{"text": str(n), "target": f"{n} stars"} for n in range(10)]),
    "unknown judge": concept_source(judge={"metric": "vibes"}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_concept_is_refused_in_one_sentence(tmp_path, case):
    with pytest.raises(ParameterError) as caught:
        concept = write(tmp_path, BROKEN[case])
        for site in ("last", "response"):
            concept.examples(site)
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize("content", ["", "{", "shouting", "\x00"])
def test_file_that_is_no_json_is_refused_in_one_sentence(tmp_path, content):
    with pytest.raises(AssetError, match=r"mine\.json is no JSON") as caught:
        write(tmp_path, content)
    assert is_one_sentence(caught.value)


def test_missing_file_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(AssetError, match=r"absent\.json can't be read") as caught:
        read_concept(tmp_path / "absent.json")
    assert is_one_sentence(caught.value)


# -- what was measured ------------------------------------------------------------------------------------------------


def sweep(best, band, collapse) -> dict:
    points = [{"strength": s, "judge": 10 * s, "fluent": 1.0} for s in (0.01, 0.02, 0.03)]
    return {"best": best, "band": band, "collapse": collapse, "gain": 0.1, "sweep": points}


MEASURED = {
    "model": "tiny",
    "blocks": [6, 25],
    "calibration": {
        "unsteered": 0.05,
        "prompted": 0.4,
        "random": [{"strength": s, "judge": s, "fluent": 1.0} for s in (0.01, 0.02, 0.03)],
        "rfm.response": sweep(0.02, [0.01, 0.02], 0.03),
        "pca.last": sweep(0.01, None, None),
    },
    "evaluation": {
        "method": "rfm",
        "site": "response",
        "steered": 0.5,
        "unsteered": 0.1,
        "random": 0.2,
        "prompted": 0.6,
        "over_unsteered": [0.3, 0.5],
        "over_random": [0.2, 0.6],
        "works": True,
    },
}


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(module, "measured", lambda concept_id: MEASURED if concept_id == "spanish" else None)


def test_facts_of_the_evaluated_direction_come_from_the_evaluation(known):
    found = facts("spanish", "tiny", "rfm", "response")
    assert found is not None and found.works and found.collapses
    assert (found.best, found.collapse, found.blocks) == (0.02, 0.03, (6, 25))
    assert found.band == (0.01, 0.0245), "to halfway, geometrically, between the last usable and the next strength"
    assert found.evaluated
    assert found.effect["steered"] == 0.5
    assert found.effect["interval"] == [0.2, 0.6], "of the stronger control"


def test_facts_of_another_direction_come_from_its_sweep(known):
    found = facts("spanish", "tiny", "pca", "last")
    assert found is not None and not found.works and not found.collapses and found.band is None
    assert not found.evaluated
    assert found.collapse == 0.03, "the largest strength that was swept"
    assert found.effect == {"steered": 0.1, "unsteered": 0.05, "random": 0.01, "prompted": 0.4}


def test_facts_are_none_where_nothing_was_measured(known):
    assert facts("spanish", "another-model", "rfm", "response") is None
    assert facts("spanish", "tiny", "linear", "last") is None
    assert facts("french", "tiny", "rfm", "response") is None


def test_every_shipped_measurement_can_be_read():
    for name in SHIPPED:
        found = module.measured(name)
        for key in (found or {"calibration": {}})["calibration"]:
            if "." in key and found is not None:
                read = facts(name, found["model"], *key.split("."))
                assert read is not None and read.effect["unsteered"] is not None


# -- parameters -------------------------------------------------------------------------------------------------------


def named(**changes) -> SteerParams:
    return SteerParams(prompt="Hello.", concepts=("spanish", "sad"), strengths=(0.05, -0.02)).with_(**changes)


REFUSED = {
    "empty prompt": {"prompt": ""},
    "blank prompt": {"prompt": " \n"},
    "prompt that is no text": {"prompt": 3},
    "too long prompt": {"prompt": "a" * (MAX_PROMPT_CHARACTERS + 1)},
    "too many concepts": {"concepts": tuple("abcdefg"), "strengths": (0.0,) * 7},
    "duplicate": {"concepts": ("sad", "sad")},
    "too few strengths": {"strengths": (0.1,)},
    "too many strengths": {"strengths": (0.1, 0.1, 0.1)},
    "NaN": {"strengths": (0.1, float("nan"))},
    "infinite": {"strengths": (0.1, float("-inf"))},
    "huge": {"strengths": (0.1, MAX_STRENGTH * 1.01)},
    "no number": {"strengths": (0.1, "0.1")},
    "truth": {"strengths": (0.1, True)},
    "unknown method": {"method": "magic"},
    "unknown site": {"site": "first"},
    "blocks in reverse": {"blocks": (9, 3)},
    "negative block": {"blocks": (-1, 3)},
    "one block end": {"blocks": (3,)},
    "half blocks": {"blocks": (2.5, 8)},
    "blocks in words": {"blocks": ("2", "8")},
    "one number for blocks": {"blocks": 5},
    "negative seed": {"seed": -1},
    "huge seed": {"seed": 2**31},
    "fractional seed": {"seed": 1.5},
    "no tokens": {"tokens": 0},
    "too many tokens": {"tokens": MAX_TOKENS + 1},
    "negative temperature": {"temperature": -0.1},
    "no nucleus": {"top_p": 0.0},
    "rewarded repetition": {"repetition_penalty": 0.9},
}


@pytest.mark.parametrize("case", REFUSED)
def test_parameters_out_of_range_are_refused_in_one_sentence(case):
    with pytest.raises(ParameterError) as caught:
        named(**REFUSED[case])
    assert is_one_sentence(caught.value)


def test_limits_themselves_are_allowed():
    many = tuple("abcdef")
    assert len(many) == MAX_CONCEPTS
    named(concepts=many, strengths=(MAX_STRENGTH,) * 3 + (-MAX_STRENGTH,) * 3)
    named(concepts=(), strengths=())
    named(prompt="a" * MAX_PROMPT_CHARACTERS, seed=2**31 - 1, tokens=MAX_TOKENS, blocks=(4, 4), temperature=0)
    assert {named(method=method).method for method in METHODS} == set(METHODS)


def test_parameters_survive_json():
    params = named(blocks=[6, 25], temperature=0.3, model="some/model")
    assert SteerParams.from_dict(json.loads(json.dumps(params.as_dict()))) == params
    assert SteerParams.from_dict(named().as_dict()).blocks is None


@pytest.mark.parametrize("values", [{"prompt": "Hi.", "strength": 1}, {}, {"prompt": "Hi.", "concepts": None}])
def test_unknown_missing_or_mistyped_names_are_refused_in_one_sentence(values):
    with pytest.raises(LabError) as caught:
        SteerParams.from_dict(values)
    assert is_one_sentence(caught.value)


def test_equal_parameters_have_equal_keys_and_others_do_not():
    assert named(concepts=["spanish", "sad"], strengths=[0.05, -0.02]).key() == named().key()
    assert SteerParams.from_dict(named().as_dict()).key() == named().key()
    changes = ({"seed": 1}, {"strengths": (0.05, 0.02)}, {"blocks": (1, 2)}, {"concepts": ("sad", "spanish")})
    assert len({named(**change).key() for change in ({}, *changes)}) == 5


def test_whole_numbers_and_decimals_of_one_value_have_one_key():
    assert named(strengths=(0, 1)) == named(strengths=(0.0, 1.0))
    assert named(strengths=(0, 1)).key() == named(strengths=(0.0, 1.0)).key()
    assert named(temperature=1).key() == named(temperature=1.0).key()


def test_another_process_gets_the_same_key_without_torch():
    code = (
        "import sys; from lm_core.steer_params import SteerParams; from lm_core import concepts;"
        "print(SteerParams(**__import__('json').loads(sys.argv[1])).key(), 'torch' in sys.modules)"
    )
    own = {**os.environ, "PYTHONHASHSEED": "7"}
    arguments = [sys.executable, "-c", code, json.dumps(named().as_dict())]
    out = subprocess.run(arguments, capture_output=True, text=True, check=True, env=own)
    assert out.stdout.split() == [named().key(), "False"]
