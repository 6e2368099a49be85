"""The sections on patch size, training set and noise, run as a visitor's session runs them."""

import io
import json
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import streamlit as st
from PIL import Image
from streamlit.testing.v1 import AppTest

from lm_core import survey
from lm_core.edits import MAX_ADDED, Picture
from lm_core.jobs import scheduler
from pages.components import curve_editor, paint, section_jobs
from pages.components import stops_bench as bench
from pages.components import stops_noise as noise_section
from pages.components import stops_patch as patch_section
from pages.components import stops_training_tools as training_tools

SECONDS = 120  # for a loaded machine; nothing waits longer than it must


@pytest.fixture(autouse=True)
def fresh_caches():
    st.cache_data.clear()


@pytest.fixture
def few_steps(monkeypatch):
    """Runs of four steps: the sections don't depend on how many there are."""
    monkeypatch.setattr(bench, "STEPS", 4)


def patch_app():
    from pages.components import stops_patch

    stops_patch.patch_size()


def training_app():
    from pages.components import stops_training

    stops_training.training_set()


def noise_app():
    from pages.components import stops_noise

    stops_noise.noise()


def opened(app, **query: str) -> AppTest:
    test = AppTest.from_function(app, default_timeout=SECONDS)
    for name, value in query.items():
        test.query_params[name] = value
    test.run()
    assert not test.exception
    return test


def finished(test: AppTest, section: str) -> AppTest:
    """Run the page until the section's job has ended and its result is on show."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        job_id, owner = test.session_state[f"_{section}_job"], test.session_state["_owner"]
        job = scheduler().get(job_id, owner)
        assert job is not None
        while job.active and time.monotonic() < deadline:
            scheduler().heartbeat(owner)  # as the open page would
            scheduler().wait(job, 1)
        assert job.state == "done", job.error
        test.run()
        assert not test.exception
        if test.session_state[f"_{section}_job"] == job_id:
            return test
    raise AssertionError("the job did not end")


def words(test: AppTest) -> str:
    parts = [element.value for kind in ("subheader", "markdown", "caption", "info") for element in test.get(kind)]
    return "\n".join([*parts, *(element.proto.body for element in test.get("html"))])


# -- patch size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("app", "section"), [(patch_app, "p"), (training_app, "t"), (noise_app, "n")])
def test_nothing_is_computed_until_asked(app, section):
    test = opened(app)
    assert f"_{section}_job" not in test.session_state
    assert test.button(key=f"{section}_run")


def test_a_preset_is_run_at_once_and_beside_the_network(few_steps):
    test = opened(patch_app, p_images="50")
    test.button(key="p_run").click().run()
    finished(test, "p")
    first = words(test)
    assert "Network, as trained" in first
    assert "R² =" in first
    test.button(key="p_preset_memory").click().run()
    finished(test, "p")
    assert "at distance 0.00" in words(test)
    assert test.session_state["_p_shown"].params.patch_sizes == (33,) * 4
    assert test.query_params["p_curve"] in ("memory", ["memory"])


def test_the_url_s_curve_is_taken_and_a_bad_one_refused_kindly():
    test = opened(patch_app, p_curve=",".join(["5"] * 20))
    assert curve_of(test) == (5,) * 20
    for bad in ("4", "1,2", "99", "x"):
        test = opened(patch_app, p_curve=bad)
        assert "can't be used" in test.warning[0].value
        assert curve_of(test)[0] == 27


def test_a_preset_follows_the_network_and_an_own_curve_does_not():
    test = opened(patch_app)
    test.selectbox(key="p_network").set_value("resnet").run()
    assert curve_of(test)[0] == 15
    test = opened(patch_app, p_curve=",".join(["5"] * 20))
    test.selectbox(key="p_network").set_value("resnet").run()
    assert curve_of(test) == (5,) * 20


def curve_of(test: AppTest) -> tuple[int, ...]:
    return test.session_state["p_editor_orders"][1]


def test_an_own_curve_outlives_its_editor(monkeypatch):
    """Switching to another section drops the editor's state in the browser; the page remembers what it was told."""
    state = {"k_orders": ("token", (5,) * 20), "k": {"curve": {"token": "token", "sizes": [3] * 20}}}
    monkeypatch.setattr(st, "session_state", state)
    assert curve_editor.curve("k") == (3,) * 20
    del state["k"]
    assert curve_editor.curve("k") == (3,) * 20


def test_pictures_of_other_settings_are_named_as_such(few_steps):
    test = opened(patch_app, p_images="50")
    test.button(key="p_run").click().run()
    finished(test, "p")
    test.number_input(key="p_seed").set_value(9).run()
    finished(test, "p")
    test.session_state["_p_asked"] = None  # as if nobody had asked for this one yet
    test.number_input(key="p_seed").set_value(10).run()
    text = words(test)
    assert "Below, made before: MNIST" in text and "50 images, seed 9." in text


def test_a_measured_calibration_is_offered(monkeypatch):
    sizes = [3] * 10 + [9] * 10
    monkeypatch.setattr(
        survey, "read_result", lambda kind, *_: {"patch_sizes": sizes} if kind == "calibration" else None
    )
    test = opened(patch_app)
    test.button(key="p_preset_calibrated").click().run()
    assert curve_of(test) == tuple(reversed(sizes))


def open_limbs(monkeypatch) -> AppTest:
    """Open the page with the expander open: AppTest can't open one."""
    expander = st.expander

    def opened_expander(*args, **options):
        options.pop("on_change", None)
        part = expander(*args, expanded=True, **options)
        monkeypatch.setattr(type(part), "open", True, raising=False)
        return part

    monkeypatch.setattr(st, "expander", opened_expander)
    return opened(patch_app)


def test_without_a_survey_the_gallery_says_which_command_makes_it(monkeypatch, tmp_path):
    monkeypatch.setattr(survey, "result_file", lambda *_: tmp_path / "none")
    assert "lm_core survey --dataset fashion-mnist" in words(open_limbs(monkeypatch))


def test_the_gallery_counts_runs_and_draws_the_window(monkeypatch, tmp_path):
    def file(kind, dataset, network, suffix="json"):
        return tmp_path / f"{kind}.{suffix}"

    rows, sheet = [], np.zeros((3 * 32, 2 * 32), np.uint8)
    for seed in range(3):
        rows.append({"seed": seed, "label": 2})
        for left in range(4, 4 + 8 * (seed + 1), 8):
            sheet[32 * seed : 32 * seed + 32, left : left + 4] = 255
    sheet[:, 32:] = sheet[:, :32]
    facts = {"dataset": "fashion-mnist", "network": "unet", "channels": 1, "columns": ["bbels", "network-20"]}
    file("survey", "", "").write_text(json.dumps(facts | {"per_seed": rows}))
    Image.fromarray(sheet).save(file("survey", "", "", "webp"), lossless=True)
    monkeypatch.setattr(survey, "result_file", file)
    text = words(open_limbs(monkeypatch))
    for seed, runs in enumerate(("1 run", "2 runs", "3 runs")):
        assert f"Seed {seed}, theory: {runs}" in text
    assert "It counts stretches, not sleeves" in text


# -- training set -----------------------------------------------------------------------------------------------------


def test_edits_are_followed_by_the_machine_alone_and_taken_back(few_steps):
    test = opened(training_app, t_images="50")
    test.button(key="t_run").click().run()
    finished(test, "t")
    assert "50 images before" in words(test)
    network = next(
        line for line in words(test).split("<figure>") if "can't follow" in line or "can&#x27;t follow" in line
    )
    white = Picture.of("white", np.full((1, 32, 32), 255, np.uint8))
    test.session_state["_t_history"]["mnist"].extend([("removed", 3), ("removed", 4), ("added", white)])
    test.run()
    finished(test, "t")
    text = words(test)
    assert "49 after" in text
    assert "heaviest source is an added image" in text
    assert network in text
    assert test.button(key="t_undo_0").label == "without #3"
    test.button(key="t_undo_all").click().run()
    assert "after" not in words(test).split("images before")[1].split("correlation")[0]


def test_removed_images_come_from_the_url():
    test = opened(training_app, t_removed="7,9,x,7")
    assert test.session_state["_t_history"]["mnist"] == [("removed", 7), ("removed", 9)]


def test_black_and_white_alone_are_a_training_set(few_steps):
    test = opened(training_app, t_images="50")
    test.button(key="t_run").click().run()
    finished(test, "t")
    test.segmented_control(key="t_base").set_value("own").run()
    assert test.warning[0].value.startswith("No image is left; a training set needs two. Draw or upload some")
    test.button(key="t_black_white").click().run()
    finished(test, "t")
    assert "2 after" in words(test)
    assert "100.0% of pixels" in words(test)
    test.button(key="t_black_white").click().run()
    assert len(test.session_state["_t_history"]["mnist"]) == 2  # there already
    drawings = [("added", Picture.of(f"{n}", np.full((1, 32, 32), n, np.uint8))) for n in range(MAX_ADDED)]
    test.session_state["_t_history"]["mnist"][:] = drawings
    test.button(key="t_black_white").click().run()
    assert not test.exception and "the most there may be" in test.error[0].value


def test_uploads_are_limited_and_named_when_refused(monkeypatch):
    class File:
        def __init__(self, name: str, content: bytes) -> None:
            self.name, self.content = name, content

        def getvalue(self) -> bytes:
            return self.content

    monkeypatch.setattr(st, "session_state", {})
    assert "No file" in training_tools.take_files("mnist", [], False)[0]
    good = io.BytesIO()
    Image.new("L", (40, 40), 200).save(good, "PNG")
    files = [File("a.png", good.getvalue())] * MAX_ADDED + [File("b.png", b"")]
    problems = training_tools.take_files("mnist", [File("text.png", b"hello"), *files], False)
    assert "text.png is no PNG" in problems[0]
    assert "too many" in problems[-1]
    assert len(training_tools.history("mnist")) == MAX_ADDED - 1


# -- noise ------------------------------------------------------------------------------------------------------------


def test_a_repainted_region_changes_both_and_the_cone_is_shown(few_steps):
    test = opened(noise_app, n_images="50")
    test.button(key="n_run").click().run()
    finished(test, "n")
    text = words(test)
    assert "Theory: change, 90 % within" in text
    assert "Network: change, 90 % within" in text
    found = test.session_state["_n_shown"]
    assert found.region.sum() == 36
    test.button(key="n_preset_pixel").click().run()
    finished(test, "n")
    assert test.session_state["_n_shown"].region.sum() == 1
    assert test.session_state["_n_shown"].before is found.before


def test_heat_goes_from_dark_to_bright():
    picture = noise_section.heat(np.array([[0.0, 0.5, 2.0]]), 1.0)
    assert picture.shape == (3, 1, 3)
    assert (np.diff(picture.sum(0)[0].astype(int)) > 0).all()


def test_a_preset_s_region_is_always_a_new_one_to_the_browser(monkeypatch):
    monkeypatch.setattr(st, "session_state", {})
    tokens = set()
    for _ in range(50):
        noise_section.set_region(noise_section.square(16, 16, 1))
        tokens.add(st.session_state[noise_section.TOKEN])
    assert len(tokens) == 50


# -- jobs -------------------------------------------------------------------------------------------------------------


def test_what_a_section_uses_is_not_forgotten(monkeypatch):
    """The unedited image is older than every edit, and is on show beside each."""
    monkeypatch.setattr(st, "session_state", {})
    for number in range(3 * section_jobs.KEPT):
        job: Any = SimpleNamespace(key=f"t {number or 'before'}", result=number + 1)
        section_jobs.keep("t", job)
        assert section_jobs.find("t", "before") == 1
    assert section_jobs.find("t", "1") is None and section_jobs.find("t", str(number)) == number + 1
    assert len(st.session_state["_t_results"]) == section_jobs.KEPT


# -- what browsers say, and marks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [None, [3] * 19, [4] * 20, [35] * 20, ["3"] * 20, [True] * 20, "3" * 20])
def test_a_curve_that_makes_no_sense_leaves_the_ordered_one(monkeypatch, sizes):
    state = {"k_orders": ("token", (5,) * 20), "k": {"curve": {"token": "token", "sizes": sizes}}}
    monkeypatch.setattr(st, "session_state", state)
    assert curve_editor.curve("k") == (5,) * 20


def test_a_curve_from_before_the_last_order_does_not_count(monkeypatch):
    state = {"k_orders": ("new", (5,) * 20), "k": {"curve": {"token": "old", "sizes": [3] * 20}}}
    monkeypatch.setattr(st, "session_state", state)
    assert curve_editor.curve("k") == (5,) * 20
    state["k"]["curve"]["token"] = "new"
    assert curve_editor.curve("k") == (3,) * 20


@pytest.mark.parametrize("told", [None, 3, "", "AAAA", "%%%", "A" * 10_000])
def test_a_painting_that_makes_no_sense_is_none(monkeypatch, told):
    monkeypatch.setattr(st, "session_state", {"k": {"painted": told}})
    assert paint.drawing("k", 1, 32) is None
    assert paint.region("k", (32, 32)) is None


@pytest.mark.parametrize("told", [None, [1], [1, 40], [-1, 2], ["1", "2"], [True, False], {"y": 1}])
def test_a_pixel_that_makes_no_sense_is_none(monkeypatch, told):
    monkeypatch.setattr(st, "session_state", {"k": {"pixel": told}})
    assert paint.picked("k", (32, 32)) is None


def test_borders_surround_a_region():
    region = np.zeros((5, 5), bool)
    region[1:3, 1:4] = True
    assert len(bench.borders(region)) == 2 * (2 + 3)
    assert len(bench.borders(np.ones((5, 5), bool))) == 20


def test_published_windows_beyond_the_plot_are_cut():
    params = patch_section.MosaicParams(steps=20)
    assert all(max(curve) <= curve_editor.LARGEST for curve in patch_section.curves(params).values())
