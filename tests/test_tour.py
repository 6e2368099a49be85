"""The guided tour: what its file says, what is told, and how it follows a visitor's URL. `browser/` tests its keys."""

import ast
import json
import re
from copy import deepcopy
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from lm_core.artifacts import asset_path
from lm_core.errors import AssetError
from lm_core.exhibit_params import NAMES, STRANDS
from lm_core.exhibit_results import ExhibitResult, Outcome
from lm_core.run_mechanics import variant_params
from pages.components.tour.script import (
    PLACEHOLDER,
    Beat,
    figure_of,
    find_stop,
    load_tour,
    narrate,
    parse_tour,
    spoken,
    stops,
)

ROOT = Path(__file__).resolve().parents[1]
STEPS = load_tour()
STOPS = stops(STEPS)
STRAND_PAGES = {"a": "solvable-settings", "b": "tractable-limits", "c": "macroscopic-laws"}
STRAND_PAGES |= {"d": "hyperparameters", "e": "universality"}


def addresses() -> set[str]:
    """Every address of the frame's navigation."""
    tree = ast.parse((ROOT / "pages" / "frame.py").read_text("utf-8"))
    table = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "SECTIONS")
    files = [Path(file) for entries in ast.literal_eval(table).values() for file, _, _ in entries]
    return {
        "" if file.stem == "home" else file.stem.replace("_", "-") for file in files if (ROOT / "pages" / file).exists()
    }


# -- what its file says -----------------------------------------------------------------------------------------------


def test_five_steps_visit_the_five_strands_between_an_opening_and_an_end():
    assert [step.strand for step in STEPS] == ["", *STRANDS, ""]
    for step in STEPS[1:-1]:
        assert step.title == STRANDS[step.strand]
        assert 2 <= len(step.beats) <= 4
        assert step.beats[0].page == STRAND_PAGES[step.strand]


def test_it_takes_about_twenty_minutes():
    assert 18 <= sum(stop.beat.minutes for stop in STOPS) <= 22
    assert all(0.5 <= stop.beat.minutes <= 2 for stop in STOPS)


def test_every_page_is_in_the_navigation():
    assert {stop.beat.page for stop in STOPS} <= addresses()


def test_every_exhibit_is_one_and_on_its_strands_page():
    for beat in (stop.beat for stop in STOPS):
        if beat.page in STRAND_PAGES.values():
            assert beat.query["exhibit"] in NAMES
            assert beat.page == STRAND_PAGES[beat.query["exhibit"][0]]
            assert beat.query["run"] in ("default", "broken")


def test_one_law_of_every_strand_is_broken():
    assert [stop.beat.query["exhibit"] for stop in STOPS if stop.beat.query.get("run") == "broken"] == [
        *("a1", "b", "c1", "d1", "e")
    ]


def test_the_end_leads_from_the_feature_ansatz_to_a_language_model():
    assert [beat.query.get("exhibit", beat.page) for beat in STEPS[-1].beats][:3] == ["c2", "c3", "steering"]
    assert "our own link" in narrate(STEPS[-1].beats[2])
    assert STEPS[5].beats[-1].page == "patch-mosaic"


def test_narration_is_short_and_has_no_figure_typed_in():
    for stop in STOPS:
        words = narrate(stop.beat, lambda *_: "0.1234")
        assert len(words) < 300, words
        plain = PLACEHOLDER.sub("", " ".join(stop.beat.text))
        assert not re.search(r"\d", re.sub(r"2/η|nears 1 ", "", plain)), plain


def test_placeholders_name_exhibits():
    named = [match[1] for stop in STOPS for match in PLACEHOLDER.finditer(" ".join(stop.beat.text))]
    assert {"a1", "b", "c1", "d1", "e"} <= set(named) <= set(NAMES)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda steps: steps.pop(),
        lambda steps: steps[1].update(strand="b"),
        lambda steps: steps[0].update(beats=[]),
        lambda steps: steps[0].update(title=""),
        lambda steps: steps[0].pop("beats"),
        lambda steps: steps[0]["beats"][0].update(minutes=0),
        lambda steps: steps[0]["beats"][0].update(minutes="long"),
        lambda steps: steps[0]["beats"][0].update(colour="red"),
        lambda steps: steps[0]["beats"][0].pop("show"),
        lambda steps: steps[0]["beats"][0].update(text=["It is {c1.score}."]),
        lambda steps: steps[0]["beats"][0]["query"].update(tour="1"),
    ],
)
def test_a_damaged_tour_says_so(spoil):
    source = json.loads(asset_path("tour.json").read_text("utf-8"))
    assert parse_tour(deepcopy(source)) == STEPS
    spoil(source["steps"])
    with pytest.raises(AssetError, match=r"restore assets/tour\.json"):
        parse_tour(source)


# -- what is told -----------------------------------------------------------------------------------------------------


def beat(*text: str) -> Beat:
    return Beat("", {}, "", 1, text)


def test_figures_are_filled_in_and_a_sentence_without_its_figure_is_left_out():
    known = {("c1", False, "score"): "1.002", ("c1", True, "score"): "3"}
    told = narrate(
        beat("It hovers.", "At {c1.score}.", "Broken {c1-broken.score}.", "Never {a1.score}.", "{c1.score} {c1.R²}."),
        lambda *wanted: known.get(wanted),
    )
    assert told == "It hovers. At 1.002. Broken 3."


def test_figures_come_from_a_run():
    exhibit = "a1"
    first = variant_params(exhibit)
    result = ExhibitResult(first, Outcome((), {"R²": 0.998765, "slope": -0.5, "none": None}, ""), 1, "cpu", "2")
    assert figure_of(result, "score") == "0.9988"
    assert figure_of(result, "slope") == "−0.5"
    assert figure_of(result, "tolerance") == "at least 0.998"
    assert figure_of(result, "none") is None and figure_of(result, "unknown") is None


@pytest.mark.parametrize(
    ("value", "said"), [(0.99995, "0.9999"), (1.0, "1"), (1.00218, "1.002"), (-0.53844, "−0.538"), (0.0805, "0.0805")]
)
def test_numbers_are_short_and_what_is_less_than_one_is_not_one(value, said):
    assert spoken(value) == said


def test_a_url_names_a_stop_and_nonsense_none():
    assert find_stop(STOPS, "0", "1") == 0
    third = find_stop(STOPS, "3", "2")
    assert STOPS[third].query.items() >= {"exhibit": "c1", "tour": "3", "beat": "2"}.items()
    for wrong in ("7", "-1", "x", "", None):
        assert find_stop(STOPS, wrong, "1") is None
    for beatless in ("9", "x", None):
        assert STOPS[find_stop(STOPS, "3", beatless)].query["beat"] == "1"


# -- how it follows a visitor -----------------------------------------------------------------------------------------


def open_url(**query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "pages" / "frame.py"), default_timeout=30)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def title(app: AppTest) -> str:
    return app.title[0].value


def test_a_tour_link_opens_its_page_from_any_address():
    app = open_url(tour="5", beat="4", present="1")
    assert title(app) == "Patch mosaic"
    kept = {name: app.query_params[name] for name in ("view", "tour", "beat", "present")}
    assert kept == {"view": "mosaic", "tour": "5", "beat": "4", "present": "1"}


def test_a_link_to_no_stop_is_a_link_to_the_page():
    app = open_url(tour="99", beat="1")
    assert title(app) == "Learning Mechanics Lab"
    assert "tour" not in app.query_params


def test_a_page_that_writes_its_own_url_does_not_end_the_tour():
    app = open_url(tour="0")
    app.query_params.clear()
    assert app.run().session_state["_tour"].at == 0


def test_leaving_the_page_by_another_way_ends_the_tour_but_not_presenter_mode():
    app = open_url(tour="0", present="1")
    app.query_params.clear()
    app.switch_page("machine.py").run()
    here = app.session_state["_tour"]
    assert (here.at, here.present) == (None, True)
    assert app.query_params["present"] == "1"
