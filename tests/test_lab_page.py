"""The page "Concept lab" as a visitor's session runs it: making, comparing, meaning, on made-up results of the core."""

from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from safetensors.numpy import save
from streamlit.testing.v1 import AppTest

from lm_core import run_lab, user_concepts
from lm_core.errors import AssetError, ParameterError
from lm_core.example_rows import typed
from lm_core.jobs import scheduler
from lm_core.lab_params import LabParams
from lm_core.lab_results import CompareResult, CurvePoint, HeldOut, LabResult, MeaningResult
from pages.components import lab_compare, lab_figures, lab_pirate
from pages.components.lab_common import percent_band, plain

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60
LAYERS, WIDTH = 4, 3
CALLS: list = []


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    st.cache_data.clear()
    CALLS.clear()
    monkeypatch.setenv("LM_USER", str(tmp_path / "user"))
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run_lab, "make", made_up)


def open_lab(section: str | None = None, **query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "pages" / "frame.py"), default_timeout=SECONDS).run()
    app.switch_page("concept_lab.py")
    for name, value in (query | ({"section": section} if section else {})).items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    """Everything a visitor can read on the page but what tables hold."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "info", "error", "success", "text")
    parts = [element.value for kind in kinds for element in app.get(kind)]
    return "\n".join([*parts, *(element.proto.body for element in app.get("html"))])


def finish(app: AppTest, section: str) -> AppTest:
    """Wait for a section's job and have the page drawn with its result."""
    job = scheduler().get(app.session_state[f"_{section}_job"], app.session_state["_owner"])
    scheduler().wait(job, SECONDS)
    app.run()
    assert not app.exception
    return app


def measured(overall: float = 0.9, rows: int = 32, measure: str = "AUROC") -> HeldOut:
    block = [0.5, 0.8, overall, 0.85]
    low, high = [one - 0.05 for one in block], [one + 0.05 for one in block]
    interval, scores = (overall - 0.05, min(overall + 0.05, 1.0)), [float(i) for i in range(rows)]
    return HeldOut(measure, "a fifth at a time", rows, block, low, high, block, overall, interval, 0.875, scores)


def save_made(params: LabParams) -> user_concepts.Stored:
    """Save a concept as the core does, with directions that mean nothing."""
    points = [{"strength": s, "judge": 0.5 + s, "fluent": 1.0, "nll": 2.0} for s in (0.01, 0.04)]
    swept = {"sweep": points, "band": [0.01, 0.04], "best": 0.04, "collapse": None}
    calibration = {"unsteered": 0.1, "prompted": 0.6, "random": points, f"{params.method}.{params.site}": swept}
    measured = {"blocks": [1, 3], "calibration": calibration, "held_out": {}}
    rows = [{"text": row.text, "target": row.target, "group": ""} for row in params.rows]
    source = {"name": params.name, "kind": params.kind, "prefix": params.prefix, "rows": rows}
    vectors = np.ones((LAYERS, WIDTH), np.float32)
    tensors = {f"{params.method}.{params.site}": vectors, "norms": np.ones(LAYERS, np.float32)}
    return user_concepts.save(source, measured, save(tensors, {"model": "tiny", "model_sha256": "0" * 64}))


def made_up(params: LabParams, *, on_progress, check) -> LabResult:
    CALLS.append(params)
    on_progress(0.5, "reading and fitting")
    check()
    texts = [
        {"strength": strength, "prompt": "Say it.", "text": f"![x](y) {strength}", "collapsed": strength > 0.03}
        for strength in (0.0, 0.01, 0.04)
    ]
    return LabResult(save_made(params), measured(), (0.01, 0.04), 0.04, texts, ["Row 3 was cut."], {"all": 12.0})


def pirate(**changes) -> user_concepts.Stored:
    rows = typed(lab_pirate.WITH, lab_pirate.WITHOUT).rows
    return save_made(LabParams(**({"name": "Pirate", "rows": rows} | changes)))


# -- making -----------------------------------------------------------------------------------------------------------


def test_the_example_is_sixteen_usable_lines_of_each():
    table = typed(lab_pirate.WITH, lab_pirate.WITHOUT)
    assert [row.target for row in table.rows] == [1.0] * 16 + [0.0] * 16 and not table.problems


def test_a_newcomer_makes_the_example_in_two_clicks():
    app = open_lab()
    assert "None yet" in words(app)
    app.button(key="lab_example").click().run()
    assert "16 with and 16 without" in words(app)
    finish(app.button(key="lab_make").click().run(), "lab")
    text = words(app)
    assert "Found and saved" in text and "Pirate" in text and "12 s" in [one.value for one in app.metric]
    assert "1–4 %" in [one.value for one in app.metric] and "Row 3 was cut" in text
    assert list(user_concepts.my_concepts()) == ["my-pirate"] and len(CALLS) == 1
    assert "None yet" not in text and "![x](y) 0.04" in [one.value for one in app.text]


def test_asking_for_the_same_again_makes_no_second_concept_unless_the_first_is_gone():
    app = open_lab()
    app.button(key="lab_example").click().run()
    finish(app.button(key="lab_make").click().run(), "lab")
    app.button(key="lab_make").click().run()
    assert len(CALLS) == 1
    app.checkbox(key="lab_sure_my-pirate").check().run()
    app.button(key="lab_delete_my-pirate").click().run()
    assert not user_concepts.my_concepts() and "Found and saved" not in words(app)
    finish(app.button(key="lab_make").click().run(), "lab")
    assert len(CALLS) == 2 and list(user_concepts.my_concepts()) == ["my-pirate"]


def test_rows_that_cannot_be_used_are_listed():
    app = open_lab()
    app.text_area(key="lab_with").set_value("Ahoy!\nAhoy!\nArr!").run()
    app.text_area(key="lab_without").set_value("Arr!\nHello.").run()
    assert any("2 rows were not used" in one.label for one in app.expander)
    assert list(app.dataframe[0].value["where"]) == ["With, line 2", "Without, line 1"]


def test_what_is_wrong_is_said_and_nothing_is_lost():
    app = open_lab()
    for name, with_concept, without, says in (
        ("", lab_pirate.WITH, lab_pirate.WITHOUT, "name has 0 characters"),
        ("Pirate", lab_pirate.WITH, "", "of one class"),
        ("Pirate", "Ahoy!", "Hello.", "at least 8"),
        ("Pirate", "", "", "0 usable examples"),
    ):
        app.text_input(key="lab_name").set_value(name)
        app.text_area(key="lab_with").set_value(with_concept)
        app.text_area(key="lab_without").set_value(without)
        app.button(key="lab_make").click().run()
        assert not app.exception and says in app.error[0].value.replace("\\", "")
        assert app.text_area(key="lab_with").value == with_concept and app.text_input(key="lab_name").value == name
    assert not CALLS


def test_examples_outlive_a_look_at_another_section():
    app = open_lab()
    app.button(key="lab_example").click().run()
    section(app, "meaning")
    section(app, "make")
    assert app.text_area(key="lab_with").value == lab_pirate.WITH


def section(app: AppTest, name: str) -> None:
    next(pills for pills in app.button_group if pills.key == "lab_section").set_value(name).run()
    assert not app.exception and app.query_params["section"] == name


def way(app: AppTest, name: str) -> AppTest:
    next(one for one in app.button_group if one.key == "lab_way").set_value(name).run()
    assert not app.exception
    return app


def test_a_prefix_is_handed_on_with_its_settings():
    app = way(open_lab(), "prefix")
    app.text_input(key="lab_name").set_value("Pirate")
    app.text_input(key="lab_prefix").set_value("Speak like a pirate.")
    app.selectbox(key="lab_method").set_value("linear")
    app.slider(key="lab_statements").set_value(20).run()
    app.button(key="lab_make").click().run()
    scheduler().wait(scheduler().get(app.session_state["_lab_job"], app.session_state["_owner"]), SECONDS)
    asked = CALLS[0]
    assert (asked.kind, asked.prefix, asked.statements) == ("prefix", "Speak like a pirate.", 20)
    assert asked.method == "linear"


def test_a_file_is_read_and_a_bad_one_refused():
    app = open_lab()
    content = "text,label\n" + "".join(f"Good number {i},{i % 5 + 1}\n" for i in range(20))
    app.session_state["_lab_file"] = ("stars.csv", content.encode())
    way(app, "file")
    assert "20 examples with 5 different numbers" in words(app)
    app.session_state["_lab_file"] = ("stars.csv", b"a,b,c\n1,2,3\n")
    app.run()
    assert "columns" in app.error[0].value and not app.exception


def test_a_failure_of_the_core_is_one_sentence(monkeypatch):
    def refuse(params, **_):
        raise AssetError("The model is damaged; fetch it anew.")

    monkeypatch.setattr(run_lab, "make", refuse)
    app = open_lab()
    app.button(key="lab_example").click().run()
    finish(app.button(key="lab_make").click().run(), "lab")
    app.run()
    assert app.error[0].value == "The model is damaged; fetch it anew."
    assert app.text_area(key="lab_with").value == lab_pirate.WITH


# -- one's own --------------------------------------------------------------------------------------------------------


def test_a_concept_is_renamed_and_a_bad_name_refused():
    pirate()
    app = open_lab()
    app.text_input(key="lab_rename_my-pirate").set_value("Buccaneer").run()
    app.button(key="lab_rename_now_my-pirate").click().run()
    assert user_concepts.my_concepts()["my-pirate"].name == "Buccaneer" and "Buccaneer" in words(app)
    app.text_input(key="lab_rename_my-pirate").set_value(" ").run()
    app.button(key="lab_rename_now_my-pirate").click().run()
    assert "name has 0 characters" in app.error[0].value.replace("\\", "")
    assert user_concepts.my_concepts()["my-pirate"].name == "Buccaneer"


def test_a_damaged_file_is_named_and_the_others_stay():
    pirate()
    (user_concepts.user_dir() / "my-broken.safetensors").write_bytes(b"nothing")
    app = open_lab()
    assert "damaged" in app.warning[0].value and app.button(key="lab_rename_now_my-pirate")


def test_the_link_to_steering_has_the_best_strength():
    pirate(method="linear")
    link = next(one.proto for one in open_lab().get("page_link") if "Try it" in one.proto.label)
    assert "dials=my-pirate%3A4" in link.query_string and "method=linear" in link.query_string


# -- comparing --------------------------------------------------------------------------------------------------------


def curve(shift: float) -> list[CurvePoint]:
    return [CurvePoint(s, shift + s, (shift, shift + 2 * s), 2 + s, 1 - 10 * s) for s in (0.01, 0.02, 0.04)]


def compared(keys=("rfm.response", "linear.last"), overall=(0.95, 0.7)) -> CompareResult:
    return CompareResult(
        concept="pirate",
        keys=list(keys),
        held_out={key: measured(value) for key, value in zip(keys, overall, strict=True)},
        cosines=np.eye(len(keys)).tolist(),
        spectra={"response": [[], *[[0.6, 0.3, 0.1]] * (LAYERS - 1)]},
        curves={key: curve(i) for i, key in enumerate(keys)},
        random=curve(0.0),
        unsteered=CurvePoint(0, 0.1, (0, 0.2), 2, 1),
        prompted=CurvePoint(0, 0.9, (0.8, 1), 2, 1),
        unit="per 100 words",
        effect_of="Words of a list.",
        blocks=(1, 3),
        prompts=4,
        seconds=60.0,
    )


def test_methods_are_compared_as_asked(monkeypatch):
    seen = []
    monkeypatch.setattr(run_lab, "compare", lambda params, **_: seen.append(params) or compared())
    app = open_lab("compare", concept="pirate")
    app.multiselect(key="lab_methods").set_value(["rfm", "linear"])
    app.multiselect(key="lab_sites").set_value(["response", "last"])
    app.slider(key="lab_prompts").set_value(4).run()
    finish(app.button(key="lab_compare_run").click().run(), "lab_compare")
    asked = seen[0]
    assert (asked.concept, asked.methods, asked.sites, asked.prompts) == (
        "pirate",
        ("rfm", "linear"),
        ("response", "last"),
        4,
    )
    assert "RFM, response has a held-out AUROC of 0.950, then linear, last token with 0.700: it tells best" in words(
        app
    )
    assert list(app.dataframe[0].value["held out"]) == [0.95, 0.7]
    assert "mean over 4 prompts" in words(app)


def test_no_method_is_a_sentence():
    app = open_lab("compare")
    app.multiselect(key="lab_methods").set_value([]).run()
    assert "methods is empty" in app.error[0].value


def test_the_finding_follows_the_intervals():
    assert "don't overlap" in lab_compare.finding(compared())
    assert "too close to call" in lab_compare.finding(compared(overall=(0.9, 0.88)))
    nothing = compared()
    nothing.held_out.update(dict.fromkeys(nothing.keys))
    assert "held out" in lab_compare.finding(nothing) and lab_figures.side_by_side(nothing) is None


def test_figures_hold_what_was_measured():
    result = compared()
    lines = lab_figures.side_by_side(result).data
    assert [line.name for line in lines] == ["RFM, response", "linear, last token"]
    assert list(lines[0].y) == [0.8, 0.95, 0.85] and list(lines[0].x) == [1, 2, 3]
    names = [line.name for line in lab_figures.effect_against_fluency(result).data]
    assert names == ["RFM, response", "linear, last token", "random direction", "unsteered", "prompted"]
    assert list(lab_figures.spectrum(result.spectra, 2).data[0].y) == [0.6, 0.3, 0.1]
    assert lab_figures.by_block(measured(measure="correlation")).layout.yaxis.title.text == "held-out correlation"


# -- meaning ----------------------------------------------------------------------------------------------------------


def meant(concept: str, *, method: str, site: str, block: int) -> MeaningResult:
    CALLS.append((concept, method, site, block))
    ends = [("Ahoy <b>you</b>", 0.9, 1.0)], [("Hello", -0.8, 0.0)]
    near = [("shakespearean", "Shakespearean", 0.4)]
    return MeaningResult(concept, block, [(" arr", 0.3)], [("\n", -0.2)], near, *ends, "A caveat.")


def test_a_meaning_is_shown_and_follows_the_controls(monkeypatch):
    monkeypatch.setattr(run_lab, "meaning", meant)
    pirate()
    app = open_lab("meaning", concept="my-pirate")
    assert app.selectbox(key="lab_concept").value == "my-pirate"
    finish(app.button(key="lab_meaning_run").click().run(), "lab_meaning")
    tables = [one.value for one in app.dataframe]
    assert list(tables[0]["token"]) == ["␣arr"] and list(tables[1]["token"]) == ["⏎"]
    assert list(tables[2]["concept"]) == ["Shakespearean"] and list(tables[3]["text"]) == ["Ahoy <b>you</b>"]
    assert "A caveat" in words(app)
    app.slider(key="lab_block").set_value(12).run()
    finish(app, "lab_meaning")
    assert CALLS[-1] == ("my-pirate", "rfm", "response", 12) and "block 12" in words(app)


def test_a_concept_that_is_gone_is_not_chosen():
    app = open_lab("meaning", concept="my-lost")
    assert app.selectbox(key="lab_concept").value != "my-lost" and not app.error


def test_an_unknown_section_opens_the_first():
    assert open_lab("no-such").header[0].value == "Make a concept"


# -- words ------------------------------------------------------------------------------------------------------------


def test_a_name_cannot_bring_markdown_along():
    assert plain("![a](http://b) *c*\n$d$") == r"\!\[a\]\(http\:\/\/b\) \*c\* \$d\$".replace(r"\/", "/")
    assert percent_band(None) == "none" and percent_band((0.016, 0.04)) == "1.6–4 %"


def test_a_refusal_is_handed_back_as_words(monkeypatch):
    from pages.components import lab_own

    def refuse(content):
        raise ParameterError("No.")

    class Context:
        def progress(self, share, message):
            assert 0 <= share <= 1

    monkeypatch.setattr(run_lab, "take", refuse)
    assert lab_own.taken(b"", Context()) == "No."
