"""A user's own concepts: rows read from what people really upload, files that survive crashes and strangers."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from lm_core import user_concepts
from lm_core.artifacts import cache_dir
from lm_core.errors import AssetError, LabError, ParameterError, ResourceError
from lm_core.example_rows import MOST_ROWS, Row, read_table, require_enough, typed, write_csv
from lm_core.lab_params import CompareParams, LabParams
from lm_core.text_files import FORMULA, MOST_BYTES, plain_cell, safe_cell
from lm_core.user_source import MOST_FITTED, MOST_FOLDED, TEXT_PROMPT, UserConcept, everyday, parse_user_concept
from tests.tiny import is_one_sentence

SHA = "a" * 64
LAYERS, WIDTH = 3, 8


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_USER", str(tmp_path / "user"))
    return tmp_path / "user" / "concepts"


def texts(count: int = 20) -> list[dict]:
    return [{"text": f"text {i}", "target": i % 2} for i in range(count)]


def source(**changes) -> dict:
    return {"name": "Sea talk", "kind": "texts", "ask": "Talk so.", "rows": texts()} | changes


def measured(**changes) -> dict:
    points = [{"strength": s, "judge": s, "fluent": 1.0} for s in (0.01, 0.02, 0.04)]
    swept = {"best": 0.02, "band": [0.01, 0.02], "collapse": None, "gain": 0.1, "sweep": points}
    calibration = {"unsteered": 0.1, "prompted": 0.2, "random": points, "rfm.response": swept}
    figures = {"measure": "AUROC", "how": "5 folds", "rows": 20, "by_block": [0.5, 0.9, 1.0], "low": [0.5, 0.8, 0.9]}
    figures |= {"high": [0.5, 1.0, 1.0], "accuracy": [0.5, 0.9, 1.0], "overall": 0.95, "interval": [0.9, 1.0]}
    held_out = {"rfm.response": figures | {"overall_accuracy": 0.9, "scores": [0.1] * 20}}
    known = {"model": "tiny", "model_sha256": SHA, "blocks": [1, 2]}
    return known | {"calibration": calibration, "held_out": held_out} | changes


def packed(seed: int = 0, model_sha256: str = SHA, **tensors) -> bytes:
    drawn = np.random.default_rng(seed).normal(size=(LAYERS, WIDTH)).astype(np.float16)
    content = {"norms": np.ones(LAYERS, np.float32), "rfm.response": drawn, "rfm.response.correlation": drawn[:, 0]}
    facts = {"format": "1", "concept": "x", "model": "tiny", "model_sha256": model_sha256}
    return save({name: array for name, array in (content | tensors).items() if array is not None}, facts)


def stored(**changes):
    return user_concepts.save(source(**changes), measured(), packed())


# -- rows -------------------------------------------------------------------------------------------------------------


TABLE = 'text,label\nAhoy there,1\n"Well, good day",0\n'
ROWS = (Row("Ahoy there", 1.0), Row("Well, good day", 0.0))


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        "\ufeff" + TABLE,
        TABLE.replace("\n", "\r\n"),
        "\n\n" + TABLE + "\n\n",
        'Label,Text\n+,Ahoy there\n−,"Well, good day"\n',
        "text;label\nAhoy there;yes\nWell, good day;no\n",
        "text\tlabel\nAhoy there\twith\nWell, good day\twithout\n",
        'Ahoy there,positive\n"Well, good day",negative\n',
        'Ahoy there,1\n"Well, good day",-1\n',
        '{"text": "Ahoy there", "label": 1}\n{"label": "0", "text": "Well, good day"}\n',
        '{"text": "Ahoy there", "label": true}\n\n{"text": "Well, good day", "label": false, "more": []}',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_table_reads_the_same_in_every_form_and_encoding(content, encoding):
    found = read_table(content.encode(encoding))
    assert (found.kind, found.rows, found.problems) == ("texts", ROWS, ())


def test_numbers_instead_of_labels_make_a_graded_concept():
    found = read_table(b"text,label\nfine,3.5\nbad,-1\nso so,0\n")
    assert found.kind == "numbers"
    assert [row.target for row in found.rows] == [3.5, -1, 0]


def test_problems_are_listed_by_the_rows_number_and_the_rest_is_kept():
    content = "text,label\nsail,1\n,0\nrow,perhaps\nSAIL ,1\nwalk,0\nrow,1,2\nWalk,1\nride,nan\nrun,0\n"
    found = read_table(content.encode())
    says = {problem.where: problem.says for problem in found.problems}
    assert list(says) == ["Row 3", "Row 4", "Row 5", "Row 7", "Row 8", "Row 9"]
    assert "no text" in says["Row 3"]
    assert "perhaps" in says["Row 4"] and "1 or 0" in says["Row 4"]
    assert "repeats Row 2" in says["Row 5"]
    assert "3 fields" in says["Row 7"]
    assert "Row 6 with another label" in says["Row 8"]
    assert found.rows == (Row("sail", 1.0), Row("run", 0.0))
    assert [row.where for row in found.rows] == ["Row 2", "Row 10"]


def test_jsonl_problems_are_listed_by_line():
    content = '{"text": "a", "label": 1}\n[1]\nnonsense\n{"text": 4, "label": 1}\n{"txt": "b"}\n'
    found = read_table(content.encode(), "x.jsonl")
    assert [problem.where for problem in found.problems] == ["Row 2", "Row 3", "Row 4", "Row 5"]
    assert "no text and no label" in found.problems[-1].says


def test_typed_lines_are_numbered_in_their_box():
    found = typed("Ahoy!\n\nArr!\n", "Hello.\nahoy!\n")
    assert found.rows == (Row("Arr!", 1.0), Row("Hello.", 0.0))
    assert found.problems[0].where == "Without, line 2"
    assert "With, line 1" in found.problems[0].says


def test_other_columns_are_left_out_and_said():
    found = read_table(b"id,label,text\n7,1,sail\n8,0,walk\n")
    assert [row.text for row in found.rows] == ["sail", "walk"]
    assert "3 columns" in found.notices[0]


def test_scripts_and_letters_of_all_kinds_are_read():
    lines = ["海賊の話し方", "مرحبا يا صديقي", "सुनो नाविक", "שלום ימאי", "Ça va, 🏴‍☠️?"]
    content = "".join(f'{{"text": "{line}", "label": {i % 2}}}\n' for i, line in enumerate(lines))
    assert [row.text for row in read_table(content.encode()).rows] == lines


def test_latin_1_is_read_and_said():
    found = read_table("text,label\ncafé noir,1\n“thé”,0\n".encode("cp1252"))
    assert [row.text for row in found.rows] == ["café noir", "“thé”"]
    assert "Latin-1" in found.notices[0] and "café" in found.notices[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \n", "empty"),
        (b"a,b,c\n1,2,3\n", "'a, b, c'"),
        (b"name,score\nx,y\n", "text and label"),
        (b"PK\x03\x04" + bytes(100), "workbook"),
        (b"%PDF-1.7 ...", "PDF"),
        (bytes(range(256)) * 8, "binary"),
        (b"\xff\xfea\x00b", "damaged"),
        ("é,1\n".encode() + "é,0\n".encode("latin-1"), "line 1 is UTF-8, line 2 is not"),
        (b'text,label\n"never closed,1\n', "quotation mark"),
        (b'text,label\n"' + b"x" * 200_000 + b'",1\n', "131,072"),
        (b"a,1\n" * 1_000_000, "2,000"),
        (b'{"text": "a", "label": 1}\n' * (MOST_ROWS + 1), "2,000"),
        (b"\n" * 4_000_000 + b"a,1\n", "2,000"),
        (b"x" * (MOST_BYTES + 1), "5 MB"),
        (b'[{"text": "a", "label": 1}]', "one object a line"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(content, says):
    began = time.process_time()
    with pytest.raises(ParameterError, match=says.replace("(", r"\(")) as caught:
        read_table(content)
    assert is_one_sentence(caught.value)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("rows", "kind", "says"),
    [
        ([], "texts", "at least 8"),
        ([Row(f"t{i}", 1.0) for i in range(20)], "texts", "one class"),
        ([Row(f"t{i}", float(i < 7)) for i in range(20)], "texts", "13 and 7|7 and 13"),
        ([Row(f"t{i}", float(i % 5)) for i in range(15)], "numbers", "at least 16"),
        ([Row(f"t{i}", 2.0) for i in range(30)], "numbers", "two numbers"),
        ([Row(f"t{i}", float(i > 25)) for i in range(30)], "numbers", "of each number"),
        ([Row("t", 1.0)] * (MOST_ROWS + 1), "texts", "2,000"),
    ],
)
def test_too_few_examples_are_refused_in_a_sentence(rows, kind, says):
    with pytest.raises(ParameterError, match=says) as caught:
        require_enough(rows, kind)
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize("text", ["=1+1", "+49 30", "-2", "@me", "\tx", "＝x", "'=x", "''=x", "'tis", "plain", ""])
def test_no_cell_is_a_formula_and_reading_gives_the_text_back(text):
    assert not safe_cell(text).startswith(tuple(FORMULA))
    assert plain_cell(safe_cell(text)) == text


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_exported_rows_read_as_they_were(lines):
    content = "\n".join(json.dumps({"text": line, "label": 1}) for line in lines)
    rows = read_table(content.encode(), "x.jsonl").rows
    assert read_table(write_csv(rows, "texts")).rows == rows


# -- the concept ------------------------------------------------------------------------------------------------------


def test_at_the_response_all_texts_answer_one_prompt_and_at_the_end_they_are_the_prompt():
    concept = parse_user_concept(source())
    response, last = concept.examples("response"), concept.examples("last")
    assert {one.prompt for one in response} == {TEXT_PROMPT}
    assert [one.response for one in response] == [one.prompt for one in last]
    assert {one.response: one.target for one in response} == {r["text"]: 2.0 * r["target"] - 1 for r in texts()}


def test_examples_with_and_without_come_in_turn():
    rows = [{"text": f"t{i}", "target": int(i < 8)} for i in range(20)]
    examples = parse_user_concept(source(rows=rows)).examples("response")
    assert [one.target for one in examples] == [1, -1] * 8 + [-1] * 4
    assert [one.response for one in examples[:3]] == ["t0", "t8", "t1"]


def test_a_prefix_stands_before_the_statement_with_the_concept_only():
    statements = everyday("statements")[:10]
    rows = [{"text": f"{s} {t}", "target": t, "group": s} for s in statements for t in (1, 0)]
    concept = parse_user_concept(source(kind="prefix", prefix="Arr!", rows=rows))
    with_, without = concept.examples("last")[:2]
    assert with_.prompt == f"Arr! {without.prompt}"
    assert statements[0] in without.prompt
    assert concept.examples("response")[0].prompt == TEXT_PROMPT
    assert not {one.prompt for one in concept.examples("last")} & set(concept.prompts)


def test_numbers_are_centred_and_keep_their_scale():
    rows = [{"text": f"t{i}", "target": i / 2} for i in range(20)]
    concept = parse_user_concept(source(kind="numbers", rows=rows))
    targets = [one.target for one in concept.examples("response")]
    assert sum(targets) == pytest.approx(0)
    assert targets[1] - targets[0] == 0.5
    assert concept.label == "real" and not concept.is_rating


@pytest.mark.parametrize("count", [20, 24, 64, 128])
def test_folds_hold_every_row_out_once_and_deal_both_classes_out(count):
    concept = parse_user_concept(source(rows=texts(count)))
    folds = concept.folds()
    assert sorted(i for fold in folds for i in fold) == list(range(count))
    for fold in folds:
        held = [concept.rows[i].target for i in fold]
        assert abs(sum(held) - len(held) / 2) <= 1
        assert count // 2 - sum(held) >= 8  # so many remain to be fitted


def test_rows_of_one_group_are_held_out_together():
    rows = [{"text": f"t{i}", "target": i % 2, "group": f"g{i // 2}"} for i in range(40)]
    for fold in parse_user_concept(source(rows=rows)).folds():
        assert {i // 2 for i in fold} == {i // 2 for i in fold if i ^ 1 in fold}


def test_with_too_few_rows_nothing_is_held_out():
    assert parse_user_concept(source(rows=texts(18))).folds() == []


@pytest.mark.parametrize(("with_", "without"), [(100, 100), (1000, 1000), (8, 500)])
def test_of_many_rows_a_part_is_never_fitted(with_, without):
    rows = [{"text": f"t{i}", "target": int(i < with_)} for i in range(with_ + without)]
    concept = parse_user_concept(source(rows=rows))
    assert len(rows) > MOST_FOLDED
    assert concept.folds() == []
    assert len(concept.fitted) <= MOST_FITTED
    assert len(concept.fitted) < len(rows)
    assert 8 <= sum(concept.rows[i].target for i in concept.fitted) <= max(8, 0.75 * with_)
    assert concept.fitted == parse_user_concept(source(rows=rows)).fitted


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 61}, "61 characters"),
        ({"kind": "magic"}, "kind"),
        ({"id": "../../etc"}, "id"),
        ({"id": "pirate"}, "id"),
        ({"rows": "none"}, "rows"),
        ({"rows": [{"text": 3, "target": 1}]}, "Row 1"),
        ({"rows": [*texts(), {"text": "x", "target": 0.5}]}, "0 or 1"),
        ({"rows": [*texts(), {"text": "x", "target": float("inf")}]}, "Row 21"),
        ({"rows": texts(10)}, "at least 8"),
        ({"ask": "x" * 301}, "ask"),
        ({"kind": "prefix", "prefix": " "}, "prefix"),
        ({"judge": {"metric": "magic"}}, "magic"),
        ({"judge": [1]}, "judge"),
    ],
)
def test_a_broken_source_is_refused_in_a_sentence(changes, says):
    with pytest.raises(ParameterError, match=says) as caught:
        parse_user_concept(source(**changes))
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "\n"}, "name"),
        ({"kind": "poem"}, "kind"),
        ({"rows": ()}, "at least 8"),
        ({"kind": "prefix"}, "prefix"),
        ({"kind": "prefix", "prefix": "Sing.", "statements": 200}, "statements"),
        ({"method": "magic"}, "method"),
        ({"site": "first"}, "site"),
        ({"judge": {"metric": "lexicon", "words": []}}, "words"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(changes, says):
    rows = tuple(Row(one["text"], one["target"]) for one in texts())
    with pytest.raises(ParameterError, match=says) as caught:
        LabParams(**({"name": "Sea talk", "rows": rows} | changes))
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize("changes", [{"methods": ()}, {"methods": ("magic",)}, {"sites": ("first",)}, {"prompts": 1}])
def test_what_cannot_be_compared_is_refused_in_a_sentence(changes):
    with pytest.raises(ParameterError) as caught:
        CompareParams(**({"concept": "pirate"} | changes))
    assert is_one_sentence(caught.value)


# -- the folder -------------------------------------------------------------------------------------------------------


def test_a_saved_concept_is_found_by_another_process(own_folder):
    saved = stored()
    code = (
        "from lm_core.user_concepts import my_concepts; print([*my_concepts()], my_concepts()['my-sea-talk'].rows[1])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert saved.concept.id == "my-sea-talk"
    assert "['my-sea-talk']" in run.stdout and "text 1" in run.stdout
    assert [path.name for path in own_folder.iterdir()] == ["my-sea-talk.safetensors"]


def test_what_is_saved_is_a_file_of_directions_too(own_folder):
    from lm_core.llm.directions import read_directions

    saved = user_concepts.save(source(), measured(), packed(3))
    found = read_directions(user_concepts.path_of(saved.concept.id))
    drawn = load(packed(3))["rfm.response"].astype(np.float32)
    assert np.allclose(found.get("rfm", "response").numpy(), drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    assert (found.concept, found.model_sha256) == (saved.concept.id, SHA)
    assert saved.keys == ("rfm.response",)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Pirate", "my-pirate"),
        ("  Über-Größe!  ", "my-uber-groe"),
        ("../../../etc/passwd", "my-etc-passwd"),
        ("CON", "my-con"),
        ("x" * 60, "my-" + "x" * 40),
        ("海賊", None),
        ("🏴‍☠️", None),
    ],
)
def test_any_name_gives_a_safe_id(name, wanted):
    saved = stored(name=name)
    assert saved.concept.id == wanted or (wanted is None and saved.concept.id.startswith("my-"))
    assert user_concepts.stored(saved.concept.id).concept.name == name.strip()


def test_equal_names_get_ids_and_names_of_their_own():
    found = [stored(name=name).concept for name in ("Pirate", "pirate", "Pirate")]
    assert [one.id for one in found] == ["my-pirate", "my-pirate-2", "my-pirate-3"]
    assert [one.name for one in found] == ["Pirate", "pirate (2)", "Pirate (3)"]


def test_renaming_keeps_id_rows_figures_and_directions():
    saved, other = stored(), stored(name="Other")
    before = load(user_concepts.export(saved.concept.id))
    renamed = user_concepts.rename(saved.concept.id, "Salt water")
    assert renamed.concept.name == "Salt water" and renamed.concept.id == saved.concept.id
    assert renamed.concept.rows == saved.concept.rows and renamed.measured == saved.measured
    after = load(user_concepts.export(saved.concept.id))
    assert before.keys() == after.keys() and all((before[key] == after[key]).all() for key in before)
    assert user_concepts.rename(other.concept.id, "salt water").concept.name == "salt water (2)"
    with pytest.raises(ParameterError, match="name"):
        user_concepts.rename(saved.concept.id, " ")


def test_deleting_removes_the_file_and_what_was_fitted_to_it(own_folder):
    saved, other = stored(), stored(name="Sea talk too")
    kept, gone = (
        cache_dir() / "directions" / "abc" / f"{one.concept.id}.rfm.last.safetensors" for one in (other, saved)
    )
    for path in (kept, gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    user_concepts.delete(saved.concept.id)
    assert [*user_concepts.my_concepts()] == [other.concept.id]
    assert kept.is_file() and not gone.exists()
    with pytest.raises(ParameterError, match="your own"):
        user_concepts.delete(saved.concept.id)


@pytest.mark.parametrize("name", ["my-../x", "my-", "pirate", "my-x/../../y", "", "my-x\0"])
def test_no_id_leaves_the_folder(name):
    with pytest.raises(ParameterError) as caught:
        user_concepts.path_of(name)
    assert is_one_sentence(caught.value)


def test_a_write_that_fails_leaves_the_former_file(monkeypatch, own_folder):
    saved = stored()
    before = user_concepts.export(saved.concept.id)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ResourceError) as caught:
        user_concepts.rename(saved.concept.id, "Another")
    assert is_one_sentence(caught.value)
    assert user_concepts.export(saved.concept.id) == before
    assert len([*own_folder.iterdir()]) == 1


def test_a_damaged_file_is_named_and_hides_no_other(own_folder):
    saved = stored()
    (own_folder / "my-broken.safetensors").write_bytes(user_concepts.export(saved.concept.id)[:200])
    (own_folder / "my-empty.safetensors").write_bytes(b"")
    (own_folder / "my-plain.safetensors").write_bytes(packed())
    assert [*user_concepts.my_concepts()] == [saved.concept.id]
    assert sorted(user_concepts.unreadable()) == [f"my-{name}.safetensors" for name in ("broken", "empty", "plain")]
    assert all(is_one_sentence(LabError(says)) for says in user_concepts.unreadable().values())


def test_a_file_goes_from_one_user_to_another(own_folder, monkeypatch, tmp_path):
    saved = stored(rows=[*texts(), {"text": "海賊 ☠", "target": 1, "group": "g"}])
    content = user_concepts.export(saved.concept.id)
    monkeypatch.setenv("LM_USER", str(tmp_path / "elsewhere"))
    taken = user_concepts.take(content, "tiny", SHA)
    assert taken.concept.source == saved.concept.source and taken.measured == saved.measured
    assert user_concepts.export(taken.concept.id) == content
    again = user_concepts.take(content, "tiny", SHA)
    assert again.concept.id == "my-sea-talk-2" and again.concept.name == "Sea talk (2)"


def with_header(content: bytes, change) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"].get("lab", "{}"))
    change(header, about)
    if about:
        header["__metadata__"]["lab"] = json.dumps(about)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


BREAKS = {
    "version": lambda header, about: about.update(schema=2),
    "no concept of this lab": lambda header, about: about.update(source={}),
    "its header lacks": lambda header, about: header["__metadata__"].pop("model_sha256"),
    "Row 1": lambda header, about: about["source"]["rows"][0].update(target=7),
    "strengths make no sense": lambda header, about: about["measured"]["calibration"]["rfm.response"].update(best=0.5),
    "blocks make no sense": lambda header, about: about["measured"].update(blocks=[5, 2]),
    "held-out figures": lambda header, about: about["measured"]["held_out"]["rfm.response"].update(low=[0.5]),
    "NaN": lambda header, about: about["measured"].update(blocks=[float("nan"), 2]),
    "damaged": lambda header, about: header["rfm.response"].update(data_offsets=[0, 10]),
}


@pytest.mark.parametrize("says", BREAKS)
def test_a_tampered_file_is_refused_in_a_sentence(says, own_folder):
    content = with_header(user_concepts.export(stored().concept.id), BREAKS[says])
    with pytest.raises(AssetError, match=says) as caught:
        user_concepts.take(content, "tiny", SHA)
    assert is_one_sentence(caught.value)
    assert len([*own_folder.iterdir()]) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"text,label\n", b"\xff" * 100, (10**15).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"],
)
def test_what_is_no_concept_file_is_refused_in_a_sentence(content):
    with pytest.raises(AssetError, match="no concept of this lab") as caught:
        user_concepts.take(content, "tiny", SHA)
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"rfm.response": np.full((LAYERS, WIDTH), np.nan, np.float16)}, "not finite"),
        ({"rfm.response": np.ones((LAYERS + 1, WIDTH), np.float16)}, "doesn't fit"),
        ({"magic.response": np.ones((LAYERS, WIDTH), np.float16)}, "doesn't fit"),
        ({"rfm.response": None, "rfm.response.correlation": None}, "no directions"),
        ({"norms": None}, "damaged"),
    ],
)
def test_directions_that_make_no_sense_are_refused_in_a_sentence(tensors, says):
    saved = user_concepts.save(source(), measured(), packed(**tensors))
    with pytest.raises(AssetError, match=says) as caught:
        user_concepts.take(user_concepts.export(saved.concept.id), "tiny", SHA)
    assert is_one_sentence(caught.value)


def test_a_file_of_another_model_is_refused_with_both_names():
    content = user_concepts.export(stored().concept.id)
    with pytest.raises(AssetError, match=r"made in tiny .*not in other") as caught:
        user_concepts.take(content, "other", "b" * 64)
    assert is_one_sentence(caught.value)


def test_exported_examples_run_nothing_in_a_spreadsheet():
    rows = [*texts(), {"text": '=HYPERLINK("http://x")', "target": 1}, {"text": "@SUM(A1)", "target": 0}]
    content = user_concepts.export_rows(stored(rows=rows).concept.id)
    assert b"\n'=HYPERLINK" in content.replace(b'"', b"").replace(b"\r", b"")
    assert [row.text for row in read_table(content).rows] == [row["text"] for row in rows]


def test_a_user_concept_is_a_concept():
    concept = stored().concept
    assert isinstance(concept, UserConcept)
    assert len(concept.calibration_prompts) == 8 and len(concept.evaluation_prompts) >= 20
    assert concept.asked("Hi?") == "Hi?\nTalk so."
