"""Steering the shipped model through `run_llm` and the command line: the real model, the shipped directions."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lm_core import run_llm
from lm_core.__main__ import main
from lm_core.concepts import concepts, facts, find_concept, measured
from lm_core.errors import AssetError, JobCancelled, ParameterError
from lm_core.ranking import trailing_mean
from lm_core.steer_params import DEFAULT_MODEL, SteerParams
from lm_core.writing import Dial, Writing, writing

FEWEST_MEASURED = 24
PROMPT = "What do you think about the city of London?"
SPANISH = SteerParams(PROMPT, ("spanish",), (0.03,), tokens=20)


@pytest.fixture(scope="module")
def answer():
    log = Writing()
    return run_llm.steer(SPANISH, writing=log), log.events


def test_an_answer_is_three_rows_from_one_prompt(answer):
    result, _ = answer
    assert [row.name for row in result.rows] == ["unsteered", "prompted", "steered"]
    assert all(row.text and row.tokens for row in result.rows)
    assert result.rows[2].metrics["judge"]["spanish"] > 0.5 > result.rows[0].metrics["judge"]["spanish"]
    assert set(result.as_dict()) >= {"unsteered", "prompted", "steered", "params"}


def test_the_events_tell_the_whole_answer_in_order(answer):
    result, events = answer
    kinds = [event["type"] for event in events]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("token") == max(row.tokens for row in result.rows)
    steered = "".join(event["pieces"][2] or "" for event in events if event["type"] == "token")
    assert steered.strip() == result.rows[2].text
    readings = [event for event in events if event["type"] == "reading"]
    assert sum(len(one["rows"][2]["projections"]["spanish"]) for one in readings) == result.rows[2].tokens
    json.dumps(events, allow_nan=False)


def test_an_alarm_rings_in_what_is_steered_and_not_beside():
    log = Writing()
    result = run_llm.steer(SPANISH, writing=log, rows=("unsteered", "steered"), watched=("spanish",))
    assert [row.name for row in result.rows] == ["unsteered", "steered"]
    plain, steered = (row.metrics["alarms"]["spanish"] for row in result.rows)
    assert plain is None and 0 <= steered < SPANISH.tokens
    (watched,) = log.events[0]["watched"]
    assert watched["name"] == "Spanish"
    readings = [event["rows"] for event in log.events if event["type"] == "reading"]
    for row in range(2):
        strip = [value for rows in readings for value in rows[row]["scores"]["spanish"]]
        assert len(strip) == result.rows[row].tokens
        rings = np.flatnonzero(trailing_mean(np.array([strip]), 8)[0] > watched["threshold"])
        assert rings[:1].tolist() == [found for found in [(plain, steered)[row]] if found is not None]


def test_strength_zero_is_the_unsteered_answer():
    result = run_llm.steer(SPANISH.with_(strengths=(0.0,)))
    assert result.rows[2].text == result.rows[0].text


def test_steering_leaves_the_unsteered_row_and_the_model_as_they_were(answer):
    result, _ = answer
    again = run_llm.steer(SPANISH, dial=Dial((0.0,)))  # prompts of equal length: bfloat16 rounds with the padding
    assert again.rows[0].text == result.rows[0].text
    assert again.rows[2].text == result.rows[0].text


def test_a_dial_turned_while_it_writes_acts_from_the_next_token_on():
    dial = Dial((0.0,))
    turned_at = 6

    def turn(share: float, message: str, partial: object = None) -> None:
        if message.startswith(f"token {turned_at} "):
            dial.set((0.04,))

    result = run_llm.steer(SPANISH.with_(strengths=(0.0,), tokens=24), dial=dial, on_progress=turn)
    plain, _, steered = result.pieces
    assert [s[0] for s in result.strengths] == [0.0] * turned_at + [0.04] * (len(result.strengths) - turned_at)
    assert steered[:turned_at] == plain[:turned_at]
    assert steered != plain


def test_a_cancelled_answer_keeps_its_text_and_leaves_no_hook():
    log, calls = Writing(), []

    def check() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        run_llm.steer(SPANISH, writing=log, check=check)
    assert [event["type"] for event in log.events] == ["start", *["token"] * 4, "reading", "end"]
    assert log.events[-1]["state"] == "stopped"
    lm = run_llm._model(DEFAULT_MODEL, "auto")
    assert not any(block._forward_hooks for block in lm.blocks)


def test_the_first_answer_is_a_recording_that_anybody_can_repeat():
    known = facts("shakespearean", DEFAULT_MODEL, "rfm", "response")
    assert known is not None
    params = SteerParams(PROMPT, ("shakespearean",), (known.best,))
    log = run_llm.recorded(params)
    assert log is not None
    assert log.closed
    assert writing(log.stream_id) is log
    again = run_llm.steer(params)
    for row, said in enumerate(again.rows):  # other processors round differently, and one token can change the rest
        told = "".join(event["pieces"][row] or "" for event in log.events if event["type"] == "token").strip()
        assert said.text[:20] == told[:20]
    assert run_llm.recorded(params.with_(seed=1)) is None


def test_the_sweep_goes_from_minus_to_plus_through_the_unsteered_answer(answer):
    result, _ = answer
    found = run_llm.sweep(SPANISH.with_(tokens=12), "spanish")
    assert found.strengths == sorted(found.strengths)
    assert found.strengths[3] == 0
    assert result.rows[0].text.startswith(found.texts[3][:20])
    assert found.metrics[-1]["nll"] > found.metrics[3]["nll"]


def test_a_small_step_is_linear_and_a_large_one_is_not():
    found = run_llm.linear_response(SPANISH.with_(strengths=(0.0004,)))
    assert found.r2 > 0.95
    assert np.corrcoef(found.predicted, found.measured)[0, 1] > 0.99
    assert found.r2_curve[0] > 0.95 > 0.5 > found.r2_curve[-1]
    assert found.breaks_at is not None
    assert 0.0004 < found.breaks_at < 0.02
    with pytest.raises(ParameterError, match="zero"):
        run_llm.linear_response(SPANISH.with_(strengths=(0.0,)))


def test_cosines_are_those_of_unit_vectors():
    found = run_llm.cosines(SteerParams(PROMPT, ("spanish", "french"), (0.0, 0.0)))
    assert np.allclose(np.diag(found), 1, atol=1e-3)
    assert found[0, 1] == pytest.approx(found[1, 0])
    assert 0 < found[0, 1] < 1


def test_shipped_concepts_have_directions_and_honest_figures():
    shipped = {name: measured(name) for name in concepts()}
    assert sum(found is not None for found in shipped.values()) >= FEWEST_MEASURED
    for name, found in shipped.items():
        if found is None:
            continue
        evaluation = found["evaluation"]
        known = facts(name, DEFAULT_MODEL, evaluation["method"], evaluation["site"])
        assert known is not None
        if known.works:
            assert known.effect["interval"][0] > 0
            assert evaluation["fluent"]["steered"] >= 0.75
        if known.band:
            assert 0 < known.band[0] <= known.band[1]
        assert run_llm.directions_path(name).is_file()


def test_directions_belong_to_one_model():
    lm = run_llm._model(DEFAULT_MODEL, "auto")
    found = run_llm.directions("spanish", lm, "rfm", "response")
    with pytest.raises(AssetError, match="fit them anew"):
        replace(found, model_sha256="0" * 64).check_model(lm)


def test_the_words_ask_for_what_is_turned_up_and_against_what_is_turned_down():
    up, down = (find_concept(name).ask for name in ("spanish", "angry"))
    asked = run_llm.asked_prompt(SteerParams(PROMPT, ("spanish", "angry", "french"), (0.02, -0.02, 0.0)))
    assert asked == f"{PROMPT}\n{up}\nDo not do this: {down}"


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_directions_are_exported(kind, tmp_path):
    content = run_llm.export(SPANISH, kind, "spanish")
    path = tmp_path / f"v.{kind}"
    path.write_bytes(content)
    lm = run_llm._model(DEFAULT_MODEL, "auto")
    found = run_llm.directions("spanish", lm, "rfm", "response")
    wanted = found.get("rfm", "response").numpy()
    if kind == "gguf":
        from gguf import GGUFReader

        tensors = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
        assert np.allclose(tensors["direction.10"], wanted[10] * found.norms[10].item(), rtol=1e-3)
    else:
        from lm_core.llm.directions import read_directions

        assert np.allclose(read_directions(path).get("rfm", "response").numpy(), wanted, atol=1e-3)


def command(capsys, *words: str) -> tuple[int, str, str]:
    code = main([*words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_steer_prints_one_json_object(capsys):
    words = ["steer", "--prompt", PROMPT, "--concept", "spanish=0.03", "--tokens", "8", "--json"]
    code, out, _ = command(capsys, *words)
    found = json.loads(out)
    assert code == 0
    assert found["steered"]["tokens"] == 8
    assert set(found["unsteered"]) == {"text", "tokens", "metrics"}


def test_detect_scores_lines(capsys, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("Buenos días a todos.\nGood morning to all.\n", "utf-8")
    code, out, _ = command(capsys, "detect", "--concept", "spanish", "--text-file", str(path), "--json")
    found = json.loads(out)
    assert code == 0
    assert [one["alarm"] for one in found["texts"]] == [True, False]
    assert found["texts"][0]["score"] > found["threshold"] > found["texts"][1]["score"]
    assert len(found["texts"][0]["tokens"]) > 3


def test_fit_finds_directions_of_a_concept_file(capsys, tmp_path):
    source = find_concept("spanish").source | {"id": "mine"}
    source |= {name: source[name][:10] for name in ("texts_with", "texts_without")}
    path, out = tmp_path / "mine.json", tmp_path / "mine.safetensors"
    path.write_text(json.dumps(source), "utf-8")
    words = ("fit", "--concept-file", str(path), "--method", "mean_difference", "--out", str(out), "--json")
    code, said, _ = command(capsys, *words)
    assert code == 0
    assert out.is_file()
    assert json.loads(said)["best_blocks"]["mean_difference.response"]["validation_correlation"] > 0.5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["steer", "--prompt", ""], "prompt is empty"),
        (["steer", "--prompt", "x " * 1500, "--concept", "spanish=0.03"], "tokens"),
        (["steer", "--prompt", "x", "--concept", "klingon=0.03"], "klingon"),
        (["steer", "--prompt", "x", "--concept", "spanish=nan"], "nan"),
        (["steer", "--prompt", "x", "--concept", "spanish=7"], "-1 to 1"),
        (["steer", "--prompt", "x", "--concept", "spanish"], "spanish=0.03"),
        (["steer", "--prompt", "x", "--concept", "spanish=0.03", "--blocks", "20-90"], "0 to 29"),
        (["steer", "--prompt", "x", "--concept", "spanish=0.03", "--blocks", "9-3"], "first ≤ last"),
        (["steer", "--prompt", "x", "--model", "/nowhere/at/all"], "no model"),
        (["fit", "--concept-file", "nowhere.json", "--out", "x.safetensors"], "nowhere.json"),
        (["fit", "--concept-file", "spanish", "--method", "magic", "--out", "x.safetensors"], "magic"),
        (["detect", "--concept", "spanish", "--text-file", "nowhere.txt"], "nowhere.txt"),
        (["detect", "--concept", "klingon", "--text-file", "README.md"], "klingon"),
        (["detect", "--concept", "spanish", "--text-file", "README.md", "--method", "magic"], "magic"),
        (["detect", "--concept", "spanish", "--text-file", "README.md", "--aggregate", "magic"], "magic"),
        (["detect", "--concept", "spanish", "--text-file", "README.md", "--false-positive-rate", "2"], "rate"),
        (["steer", "--prompt", "x", "--watch", "klingon"], "klingon"),
    ],
)
def test_bad_input_is_refused_in_one_line(capsys, words, says):
    code, out, err = command(capsys, *words)
    assert code == 2
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert says in last


def test_a_folder_of_pickles_is_refused(capsys, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    code, _, err = command(capsys, "steer", "--prompt", "x", "--model", str(tmp_path))
    assert code == 2
    assert "could run code" in err
