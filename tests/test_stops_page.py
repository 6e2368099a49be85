"""The page "Where theory stops": its sections as a visitor's session runs them, on made-up surveys."""

from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from lm_core import run, run_limits, survey
from lm_core.errors import AssetError
from lm_core.run_limits import AttentionRun, BorderRun
from lm_core.survey import Survey
from pages.components import stops_attention, stops_borders, stops_consistency, stops_figures

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60


@pytest.fixture(autouse=True)
def fresh_caches():
    st.cache_data.clear()
    st.cache_resource.clear()


def open_section(name: str | None = None) -> AppTest:
    app = AppTest.from_file(str(ROOT / "pages" / "frame.py"), default_timeout=SECONDS).run()
    app.switch_page("where_theory_stops.py")
    if name is not None:
        app.query_params["section"] = name
    app.run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    """Everything a visitor can read on the page."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "info", "error")
    parts = [element.value for kind in kinds for element in app.get(kind)]
    return "\n".join([*parts, *(element.proto.body for element in app.get("html"))])


def made_up(dataset: str, network: str, r: list[float]) -> Survey:
    machine = survey.own_machine(network)
    rows = [
        {"seed": seed, "label": seed if dataset == "cifar10" else None, "scores": {"20": {machine: {"r": value}}}}
        for seed, value in enumerate(r)
    ]
    return Survey({"dataset": dataset, "network": network, "steps": 20, "per_seed": rows})


SURVEYS = {
    ("cifar10", "unet"): made_up("cifar10", "unet", [0.91, 0.85, 0.88, 0.84, 0.86, 0.87]),
    ("cifar10", "unet-attention"): made_up("cifar10", "unet-attention", [0.86, 0.74, 0.7, 0.64, 0.41, 0.66]),
    ("mnist", "unet"): made_up("mnist", "unet", [0.91, 0.85, 0.88, 0.84, 0.86, 0.87]),
    ("mnist", "unet-standard"): made_up("mnist", "unet-standard", [0.86, 0.74, 0.7, 0.64, 0.41, 0.66]),
    ("mnist", "resnet"): made_up("mnist", "resnet", [0.9] * 6),
    ("mnist", "resnet-circular"): made_up("mnist", "resnet-circular", [0.7] * 6),
}


def made_up_tiles(one: Survey) -> dict[str, np.ndarray]:
    """Anchored blobs for zero padding, the same blobs rolled anywhere for circular, noise in colour."""
    source, count = np.random.default_rng(0), len(one.per_seed)
    if one.dataset == "cifar10":
        names, shape = ("network-20", "bbels"), (count, 32, 32, 3)
        return {name: source.integers(0, 256, shape, dtype=np.uint8) for name in names}
    blob = np.zeros((32, 32), np.uint8)
    blob[12:20, 12:20] = 255
    tiles = np.stack([blob] * count)
    if one.network.endswith("circular"):
        tiles = np.stack([np.roll(tile, source.integers(0, 32, 2), (0, 1)) for tile in tiles])
    return {"network-20": tiles, survey.own_machine(one.network): tiles}


@pytest.fixture
def surveys(monkeypatch):
    monkeypatch.setattr(survey, "load", lambda dataset, network: SURVEYS[dataset, network])
    monkeypatch.setattr(survey, "tiles", made_up_tiles)


@pytest.fixture
def no_surveys(monkeypatch):
    def load(dataset, network):
        raise AssetError(f"There is no survey of the {network}; `python -m lm_core survey` makes one.")

    monkeypatch.setattr(survey, "load", load)


@pytest.mark.parametrize(
    ("name", "title"),
    [(None, "Attention"), ("borders", "Borders"), ("consistency", "Local consistency"), ("no-such", "Attention")],
)
def test_the_url_names_the_section(surveys, name, title):
    assert open_section(name).header[0].value == title


def test_every_section_opens_without_surveys(no_surveys):
    for name in ("attention", "borders", "patch-size", "training-set", "noise", "consistency"):
        app = open_section(name)
        assert not app.error, name


def test_choosing_a_section_is_written_into_the_url(surveys):
    app = open_section("borders")
    next(pills for pills in app.button_group if pills.key == "section").set_value("consistency").run()
    assert app.query_params["section"] == "consistency" and app.header[0].value == "Local consistency"


def test_missing_surveys_are_named_with_their_command(no_surveys):
    assert "python -m lm_core survey" in words(open_section("attention"))
    assert "python -m lm_core survey" in words(open_section("borders"))


# -- attention --------------------------------------------------------------------------------------------------------


def test_attention_states_the_paired_difference(surveys):
    text = words(open_section("attention"))
    assert (
        "The theory predicts the network with attention and normalisation worse: on the same 6 noises" in text
        and "0.86" in text
        and "0.68" in text
    )
    difference = np.median([0.05, 0.11, 0.18, 0.2, 0.45, 0.21])
    assert f"paired median difference {difference:.3f}" in text


def test_the_statement_follows_the_data():
    attentive = SURVEYS["cifar10", "unet-attention"]
    same, better = np.linspace(0.5, 0.9, 20), np.linspace(0.6, 1.0, 20)
    noise = np.tile([0.02, -0.02], 10)
    assert "No difference found" in stops_attention.statement(same, same + noise, attentive)
    assert "better, against the paper" in stops_attention.statement(same, better, attentive)


def test_a_note_on_the_data_is_shown_once(surveys):
    for pair in (("mnist", "unet"), ("mnist", "unet-standard")):
        SURVEYS[pair].facts["note"] = "Training images were read from JPEG."
    try:
        assert words(open_section("attention")).count("were read from JPEG") == 1
    finally:
        for pair in (("mnist", "unet"), ("mnist", "unet-standard")):
            del SURVEYS[pair].facts["note"]


@pytest.mark.parametrize("section", ["attention", "borders"])
def test_networks_that_are_compared_are_said_to_differ_in_training(surveys, section):
    names = ("unet", "unet-standard") if section == "attention" else ("resnet", "resnet-circular")
    steps = [run.network_facts("mnist", name)["steps"] for name in names]
    text = words(open_section(section))
    assert f"trained {steps[0]:,} and {steps[1]:,} steps" in text
    assert ("objectives v and eps" in text) == (section == "borders")


def test_nothing_is_said_of_trainings_that_are_not_recorded(monkeypatch):
    monkeypatch.setattr(run, "network_facts", lambda dataset, name: {})
    assert stops_figures.training_differs("mnist", "a", "b") == ""


def test_outcomes_are_told_apart_by_the_thresholds(surveys):
    app = open_section("attention")
    assert "4 of 6 seeds have 0.5 ≤ r &lt; 0.8" in words(app) or "4 of 6 seeds have 0.5 ≤ r < 0.8" in words(app)
    app.slider(key="outcome_thresholds").set_value((0.65, 0.7)).run()
    assert "1 of 6 seeds has 0.65 ≤ r < 0.7" in words(app)
    assert stops_attention.outcome_of(0.8, 0.5, 0.8) == "agree"
    assert stops_attention.outcome_of(0.5, 0.5, 0.8) == "related"
    assert stops_attention.outcome_of(-0.2, 0.5, 0.8) == "depart" == stops_attention.outcome_of(np.nan, 0.5, 0.8)


def test_a_pixel_looks_from_its_own_place():
    weights = np.zeros((2, 64, 64), np.float16)
    weights[:, 8 * 3 + 5, 7] = 1  # the place in row 3, column 5 looks at the last one of row 0
    seen = stops_attention.looked_at(weights, 3 * 4 + 1, 5 * 4 + 3)
    assert seen.shape == (8, 8) and seen[0, 7] == 1 and seen.sum() == 1
    picture = stops_attention.overlay(np.zeros((32, 32, 3), np.uint8), seen, 13, 23)
    assert picture.shape == (256, 256, 3)
    assert picture[4, 250].tolist() != [0, 0, 0] and picture[200, 20].tolist() == [0, 0, 0]


def test_tiles_have_borders_only_where_they_meet():
    label = np.zeros((32, 32), int)
    label[:, 16:] = 1
    borders = stops_attention.tile_borders(label)
    assert borders[:, 128].all() and borders.sum() == 256


def test_a_run_is_drawn_at_every_step_and_for_every_layer(surveys, monkeypatch):
    source = np.random.default_rng(0)
    states = source.standard_normal((5, 3, 32, 32)).astype(np.float32)
    made = AttentionRun("unet-attention", 0, 0, states, states[1:])
    weights = np.full((4, 64, 64), 1 / 64, np.float16)
    monkeypatch.setattr(run_limits, "attention_networks", lambda: ["unet-attention"])
    monkeypatch.setattr(run_limits, "attention_at", lambda made, step, device="auto": {"1 · 8×8": weights})
    app = AppTest.from_file(str(ROOT / "pages" / "frame.py"), default_timeout=SECONDS).run()
    app.switch_page("where_theory_stops.py")
    app.session_state["_attention_results"] = {"unet-attention 0": made}
    app.run()
    assert not app.exception and not app.error
    assert "of this layer's attention goes further than the theory's 11×11 window" in words(app)
    app.slider(key="attention_step").set_value(4).run()
    assert "step 4 of 4" in words(app) and "airplane" in words(app)


# -- borders ----------------------------------------------------------------------------------------------------------


def test_borders_measures_what_place_explains(surveys):
    text = words(open_section("borders"))
    assert "The theory is right about borders: with zero padding a pixel's place explains 100%" in text
    assert "the outer 6 pixels are 61% of the area" in text


def test_borders_does_not_claim_what_the_data_lack():
    tiles = made_up_tiles(SURVEYS["mnist", "resnet"])["network-20"]
    columns = dict.fromkeys(("resnet", "bbels", "resnet-circular", "els"), tiles)
    assert "not borne out" in stops_borders.statement(columns)


def test_a_live_run_shows_what_is_there(surveys):
    app = AppTest.from_file(str(ROOT / "pages" / "frame.py"), default_timeout=SECONDS).run()
    app.switch_page("where_theory_stops.py")
    app.query_params["section"] = "borders"
    image = np.zeros((1, 32, 32), np.float32)
    made = BorderRun(100, 300, {"resnet": image, "bbels": image}, {"resnet": 0.94})
    app.session_state["_borders_results"] = {"100": made}
    app.run()
    assert "zero padding r = 0.940 (Pearson" in words(app)


# -- local consistency ------------------------------------------------------------------------------------------------


def test_consistency_states_the_shipped_shares_at_the_chosen_tolerance():
    app = open_section("consistency")
    before = words(app)
    assert "As the theorem says, the share falls" in before and "3,000 of its 60,000 training images" in before
    assert "python -m lm_core limits" in before
    app.select_slider(key="tolerance_levels").set_value(16).run()
    assert "more than 16 grey levels" in words(app) and not app.exception
    app.toggle(key="inked").set_value(True).run()
    assert "pixels that show something" in words(app)


def test_consistency_without_its_file_says_how_to_make_it(monkeypatch):
    monkeypatch.setattr(survey, "read_result", lambda *what: None)
    app = open_section("consistency")
    assert "`python -m lm_core limits` makes it" in words(app) and not app.error


def test_consistency_reads_an_unfinished_file():
    facts = {
        "steps": [5, 10],
        "per_seed": [
            {"seed": 0, "shares": {"machine": {"5": {"2": 0.5}}}, "inked": {"machine": {"5": {"2": None}}}},
        ],
    }
    found = stops_consistency.shares(facts, "machine", 2, inked=False)
    assert found.shape == (1, 2) and found[0, 0] == 0.5 and np.isnan(found[0, 1])
    assert np.isnan(stops_consistency.shares(facts, "machine", 2, inked=True)).all()
