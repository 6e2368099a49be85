"""The page "Monitor": its sections as a visitor's session runs them, on made-up readings and results."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from lm_core import detection_results, ranking, run_detection, run_monitor
from lm_core.detection_results import AGGREGATES, Scores, own_path, summarise, verdict
from lm_core.errors import ParameterError
from lm_core.evaluation import evaluation_sets, load_set
from lm_core.jobs import scheduler
from lm_core.ranking import FALSE_POSITIVE_RATE
from lm_core.run_monitor import MonitorResult
from lm_core.steer_params import METHODS
from lm_core.text_files import read_texts
from pages.components import live, monitor_batch, monitor_figures, monitor_table, monitor_text
from pages.components.monitor_controls import Asked, plain

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60
PIECES = ["=1+1", "<b>bold</b>", " [link](http://x)", "\n", "", " end"]


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LM_USER", str(tmp_path / "user"))


def open_section(name: str | None = None, **query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "pages" / "monitor.py"), default_timeout=SECONDS)
    for key, value in (query | ({"section": name} if name else {})).items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    return app


def press(app: AppTest, section: str) -> AppTest:
    """Press a section's button and wait for its job, as the panel's ticks would."""
    app.button(key=f"{section}_run").click().run()
    job = scheduler().get(app.session_state[f"_{section}_job"], app.session_state[live.OWNER_KEY])
    assert not scheduler().wait(job, SECONDS).active
    app.run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    """Everything a visitor can read on the page outside figures and tables."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "info", "error", "warning", "success", "code")
    return "\n".join(element.value for kind in kinds for element in app.get(kind))


def reading(concepts: tuple[str, ...] = ("spanish",), loud: bool = True, cut: int = 0) -> MonitorResult:
    n, k = len(PIECES), len(concepts)
    strip = np.tile(np.array([-1.0, -1.0, 3.0, 4.0, -1.0, -1.0]), (k, 1)) * (1 if loud else 0.1)
    levels = np.tile(np.array([-1.0, -1.0, 1.0, 2.5, 2.0, 1.5]), (k, 1)) * (1 if loud else 0.1)
    return MonitorResult(
        concepts=list(concepts),
        pieces=PIECES,
        blocks=[1, 2, 3],
        heat=np.arange(k * n * 3, dtype=float).reshape(k, n, 3),
        strip=strip,
        levels=levels,
        scores=strip.mean(1),
        threshold=np.full(k, 3.5),
        alarm_threshold=np.full(k, 2.0),
        text_threshold=np.full(k, 0.5),
        false_positive_rate=0.05,
        cut=cut,
        seconds=0.1,
    )


@pytest.fixture
def asked(monkeypatch):
    """What the page asks the core for, and what it answers."""
    calls = []

    def monitor(text, watched, *, on_progress, check, **rest):
        on_progress(0.5, "reading the text", None)
        calls.append((text, tuple(watched), rest))
        return reading(tuple(watched), loud="quiet" not in text, cut=7 if "long" in text else 0)

    def batch(texts, watched, *, on_progress, check, **rest):
        kept = [text for text in texts if text.strip()]
        on_progress(0.5, f"1 of {len(kept)} texts", None)
        calls.append((tuple(texts), watched, rest))
        scored = [{"text": text, "score": float(n), "alarm": n > 1, "cut": 0} for n, text in enumerate(kept)]
        about = {"concept": watched, "unit": "log-odds of the concept", "model": "tiny", "threshold": 1.0}
        about |= {"false_positive_rate": rest["false_positive_rate"], "alarms": sum(one["alarm"] for one in scored)}
        about |= {"left_out_empty": len(texts) - len(kept), "cut_texts": 0, "seconds": 0.1}
        return about | {"texts": scored}

    monkeypatch.setattr(run_monitor, "monitor", monitor)
    monkeypatch.setattr(run_monitor, "batch", batch)
    return calls


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_frame_lists_the_page():
    app = AppTest.from_file(str(ROOT / "pages" / "frame.py"), default_timeout=SECONDS).run()
    app.switch_page("monitor.py").run()
    assert not app.exception
    assert app.title[0].value == "Monitor"


@pytest.mark.parametrize(
    ("name", "title"), [(None, "Read a text"), ("texts", "Many texts"), ("no-such", "Read a text")]
)
def test_the_url_names_the_section(name, title):
    assert open_section(name).header[0].value == title


def test_choosing_a_section_is_written_into_the_url():
    app = open_section()
    next(pills for pills in app.button_group if pills.key == "section").set_value("table").run()
    assert app.query_params["section"] == ["table"] or app.query_params["section"] == "table"
    assert app.header[0].value == "How good are the detectors?"


def test_the_url_sets_the_controls_and_nonsense_becomes_the_default():
    app = open_section(watch="angry,nothing,set:toxic", rate="0.1", method="pca", aggregate="best")
    assert app.multiselect(key="watch").value == ["angry", "set:toxic"]
    assert app.select_slider(key="rate").value == 0.1
    assert (app.selectbox(key="method").value, app.selectbox(key="aggregate").value) == ("pca", "best")
    app = open_section(watch="nothing", rate="7", method="x", aggregate="<b>")
    assert app.multiselect(key="watch").value == ["spanish"]
    assert app.select_slider(key="rate").value == FALSE_POSITIVE_RATE
    assert app.selectbox(key="method").value == "rfm"


# -- one text ---------------------------------------------------------------------------------------------------------


def test_a_first_press_reads_the_example_and_rings_the_alarm(asked):
    app = press(open_section(), "monitor_text")
    text, watched, rest = asked[0]
    assert (text, watched) == (monitor_text.EXAMPLE, ("spanish",))
    assert rest == {"method": "rfm", "aggregate": "logistic", "false_positive_rate": 0.05}
    said = words(app)
    assert "Alarm: spanish" in said
    assert "first passes 2.00 at token 4 of 6 and reaches 2.50" in said
    assert len(app.get("plotly_chart")) == 3


def test_a_quiet_text_rings_nothing_and_a_cut_one_is_told(asked):
    app = open_section()
    app.text_area(key="monitor_text").set_value("quiet and long").run()
    said = words(press(app, "monitor_text"))
    assert "No alarm for spanish" in said
    assert "Alarm: spanish" not in said
    assert "last 7 tokens were not read" in said


def test_other_settings_keep_the_last_figures_and_say_so(asked):
    app = press(open_section(watch="angry,spanish"), "monitor_text")
    assert "another text or other settings" not in words(app)
    app.select_slider(key="rate").set_value(0.2).run()
    assert "another text or other settings" in words(app)
    assert len(app.get("plotly_chart")) == 3
    assert "another text or other settings" not in words(press(app, "monitor_text"))
    assert [rest["false_positive_rate"] for _, _, rest in asked] == [0.05, 0.2]


def test_nothing_to_watch_or_to_read_is_told_before_anything_runs(asked):
    app = open_section()
    app.text_area(key="monitor_text").set_value("  ").run()
    assert "text with words" in words(app)
    assert asked == []


def test_an_error_of_the_core_is_told(monkeypatch):
    def fail(*_, **__):
        raise ParameterError("The concept has one class only; give both.")

    monkeypatch.setattr(run_monitor, "monitor", fail)
    assert "one class only" in words(press(open_section(), "monitor_text"))


def test_the_figures_hold_the_numbers_and_no_markup_of_the_text():
    found = reading()
    drawn = monitor_figures.heat(found, 0).data[0]
    assert np.array_equal(drawn.z, found.heat[0])
    assert list(drawn.x) == [1, 2, 3]
    assert drawn.customdata[2][0] == "3 · [link](http://x)"
    strip = monitor_figures.strip(found, 0).data[0]
    cells = [cell for row in strip.text for cell in row]
    assert cells[:2] == ["=1+1", "&lt;b&gt;bold&lt;…"]
    assert [i for i, cell in enumerate(cells) if monitor_figures.PAST in cell] == [3]
    assert len(cells) == monitor_figures.STRIP_COLUMNS
    course = monitor_figures.course(found, 0).data
    assert {float(line.y[0]) for line in course[2:]} == {3.5, 2.0}


def test_figures_of_a_long_text_name_some_of_its_tokens():
    found = reading()
    n = 500
    long = MonitorResult(
        **vars(found)
        | {"pieces": ["word"] * n, "heat": np.zeros((1, n, 3)), "strip": np.zeros((1, n)), "levels": np.zeros((1, n))}
    )
    figure = monitor_figures.heat(long, 0)
    assert len(figure.layout.yaxis.tickvals) <= monitor_figures.MOST_LABELS
    assert figure.layout.height <= 1500
    monitor_figures.strip(long, 0)


def test_exported_tokens_are_no_formulas():
    rows = list(csv.reader(io.StringIO(monitor_text.as_csv(reading(("a", "b"))))))
    assert rows[0] == ["token", "a: score", "a: level", "b: score", "b: level"]
    assert rows[1][0] == "'=1+1"
    assert [float(cell) for cell in rows[4][1:]] == [4.0, 2.5, 4.0, 2.5]


def test_markdown_of_a_concepts_name_is_shown_as_it_is():
    assert plain("![x](http://y) *a*\n$b$") == r"\!\[x\]\(http\:\/\/y\) \*a\* \$b\$".replace(r"\/", "/")


# -- many texts -------------------------------------------------------------------------------------------------------


def test_lines_are_scored_and_empty_ones_left_out(asked):
    app = open_section("texts", watch_one="french")
    app.text_area(key="batch_lines").set_value("one\n\ntwo\n=three").run()
    assert app.button(key="monitor_batch_run").label == "Score 3 texts"
    press(app, "monitor_batch")
    texts, watched, rest = asked[0]
    assert (texts, watched, rest["tokens"]) == (("one", "", "two", "=three"), "french", False)
    said = words(app)
    assert "1 of 3 texts pass" in said
    assert "1 empty ones were left out" in said
    table = app.dataframe[0].value
    assert list(table["Text"]) == ["one", "two", "=three"]
    assert list(table["Above"]) == ["no", "no", "yes"]


def test_exported_scores_are_no_formulas():
    texts = [
        {"text": "=cmd()", "score": 0.5, "alarm": True, "cut": 2},
        {"text": "fine", "score": 0, "alarm": 0, "cut": 0},
    ]
    rows = list(csv.reader(io.StringIO(monitor_batch.as_csv({"threshold": 0.1, "texts": texts}))))
    assert rows[1] == ["1", "0.5", "0.1", "1", "2", "'=cmd()"]
    assert rows[2][-1] == "fine"


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "eins\nzwei".encode("utf-16"), ["eins", "zwei"]),
        ("a.csv", b'id,Text\n1,"two\nlines, one cell"\n2,b', ["two\nlines, one cell", "b"]),
        ("a.csv", b"first,1\nsecond,2", ["first", "second"]),
        ("a.jsonl", b'{"text": "a"}\n\n"b"', ["a", "b"]),
        ("a.csv", b"", []),
    ],
)
def test_files_are_read(name, content, texts):
    assert read_texts(name, content)[0] == texts


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"words": 1}', "Line 2"),
        ("a.jsonl", b"not json", "Line 1"),
        ("a.txt", b"PK\x03\x04", "workbook"),
        ("a.txt", b"x" * 5_000_001, "MB"),
        ("a.txt", b"\0\1\2" * 50, "binary"),
    ],
)
def test_files_that_cannot_be_read_are_refused_in_a_sentence(name, content, says):
    with pytest.raises(ParameterError, match=says):
        read_texts(name, content)


# -- the table --------------------------------------------------------------------------------------------------------


def made_up(name: str = "truthful") -> dict:
    """Results of random scores, better for some detectors than for others."""
    source, n = np.random.default_rng(0), 60
    targets = np.tile([1.0, -1.0], n // 2)
    folds = [list(range(i, i + 12)) for i in range(0, n, 12)]
    found = Scores(
        {(m, a): targets + source.normal(0, 1 + i, n) for i, m in enumerate(METHODS) for a in AGGREGATES},
        {m: [1, 2, 1, 1, 2] for m in METHODS},
        targets + source.normal(0, 1, n),
        [("rfm", "logistic")] * 5,
        {"judge": source.normal(0, 1, n), "words": targets + source.normal(0, 4, n)},
        [source.normal(0, 1, n)],
    )
    one = load_set(name)
    facts = {"set": {"id": name, "name": one.name, "kind": "binary", "cut_to_context": 0}, "model": "tiny", "folds": 5}
    facts |= summarise(found, targets, folds, False) | {"model_sha256": "0" * 64, "threads": 2, "dtype": "float32"}
    return facts | {"seconds": {"all": 12.0}, "command": "python -m lm_core detection --set truthful --ship"}


@pytest.fixture(scope="module")
def facts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ranking.resampled.__kwdefaults__, "draws", 50)
        return made_up()


def test_without_results_the_command_is_told(monkeypatch):
    monkeypatch.setattr(detection_results, "shipped_results", dict)
    said = words(open_section("table", set="toxic"))
    assert "No results are shipped yet" in said
    assert "python -m lm_core detection --set toxic" in said
    assert all(load_set(name).name in said for name in evaluation_sets())


def test_shipped_results_say_who_won_and_which_sets_are_missing(monkeypatch, facts):
    monkeypatch.setattr(detection_results, "shipped_results", lambda: {"truthful": facts})
    app = open_section("table")
    assert app.selectbox(key="set").value == "truthful"
    said = words(app)
    assert verdict(facts) in said
    assert load_set("toxic").name in said.split("They are made with")[0]
    assert facts["set"]["name"] not in said.split("They are made with")[0]
    overview, methods, references = (table.value for table in app.dataframe)
    assert list(overview["Set"]) == [facts["set"]["name"]]
    assert list(methods["Method"]) == list(METHODS.values())
    best = next(row for row in facts["rows"] if (row["method"], row["aggregate"]) == ("pca", "best"))
    assert methods.iloc[-1][AGGREGATES["best"]] == monitor_table.told(best)
    assert len(references) == 4
    assert references.iloc[1]["Its lead"] == monitor_table.told(facts["lead"]["judge"])
    forest = monitor_table.forest(facts)
    assert [len(trace.x) for trace in forest.data[:2]] == [20, 3]


def test_a_set_is_run_here_and_kept(monkeypatch, facts):
    monkeypatch.setattr(detection_results, "shipped_results", dict)
    calls = []

    def table(name, *, on_progress, check):
        calls.append(name)
        on_progress(0.5, "fitting detectors", None)
        return facts | {"command": ""}

    monkeypatch.setattr(run_detection, "table", table)
    app = press(open_section("table", set="truthful"), "detection_truthful")
    assert calls == ["truthful"]
    assert verdict(facts) in words(app)
    assert json.loads(own_path(facts).read_text("utf-8"))["chosen"] == facts["chosen"]
    assert verdict(facts) in words(open_section("table", set="truthful"))  # another session finds it


def test_what_is_asked_for_tells_readings_apart():
    one = Asked(("spanish",))
    assert one.key("a") == Asked(("spanish",)).key("a")
    assert len({one.key("a"), one.key("b"), one.key("a", "b"), Asked(("spanish",), rate=0.1).key("a")}) == 4
