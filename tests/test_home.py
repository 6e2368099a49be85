"""The house's own pages: home and machine, run as a visitor's session runs them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from lm_core import artifacts, doctor, exhibit_params, run_index, run_mechanics, shelf
from lm_core.errors import AssetError
from lm_core.exhibit_results import ExhibitResult, Outcome
from lm_core.jobs import scheduler
from lm_core.params import MosaicParams
from lm_core.results import MosaicResult
from pages.components import live, tour

ROOT = Path(__file__).resolve().parents[1]
FRAME = str(ROOT / "pages" / "frame.py")
SECONDS = 30


@pytest.fixture(autouse=True)
def fresh_caches():
    st.cache_data.clear()
    st.cache_resource.clear()


def open_frame(page: str | None = None) -> AppTest:
    app = AppTest.from_file(FRAME, default_timeout=SECONDS).run()
    if page is not None:
        app = app.switch_page(page).run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    """Everything a visitor can read on the page."""
    parts = [
        element.value for kind in ("title", "header", "subheader", "markdown", "caption") for element in app.get(kind)
    ]
    return "\n".join([*parts, *(element.proto.body for element in app.get("html"))])


def small_result() -> MosaicResult:
    """A made-up result of two steps on 8×8 pixels: two tiles, left and right."""
    steps, size, top = 2, 8, 8
    image = np.linspace(-1, 1, size * size, dtype=np.float32).reshape(1, size, size)
    ids = np.full((steps, size, size, top), -1, np.int32)
    ids[..., 0] = np.arange(size)[None, None, :] // 4
    rows, columns = np.mgrid[:size, :size].astype(np.int16)
    place = np.ones((steps, 1, 1, top), np.int16)
    return MosaicResult(
        params=MosaicParams(images=2, steps=steps, seed=5),
        noise=image,
        trajectory=np.stack([image] * (steps + 1)),
        denoised=np.stack([image] * steps),
        alpha_bar=np.array([0.01, 0.5, 1.0]),
        patch_sizes=np.array([5, 3]),
        image=image,
        top_image=ids,
        top_y=rows[None, :, :, None] * place,
        top_x=columns[None, :, :, None] * place,
        top_weight=np.full((steps, size, size, top), 0.1, np.float32),
        effective_samples=np.ones((steps, size, size), np.float32),
        source_ids=np.array([0, 1]),
        source_images=np.zeros((2, 1, size, size), np.uint8),
        network_image=image,
        scores={"machine": {"r": 0.912, "r2": 0.83, "R2": 0.8}},
    )


@pytest.fixture
def exhibits(tmp_path, monkeypatch):
    """A function that makes up exhibits, {name: score of its run or None for no run}, in place of the shipped ones."""

    def forget():
        exhibit_params.find_exhibit.cache_clear()

    def make(scores: dict[str, float | None]) -> None:
        (tmp_path / "exhibits").mkdir()
        (tmp_path / "results").mkdir()
        for name, score in scores.items():
            (tmp_path / "exhibits" / f"{name}.json").write_text(json.dumps(made_up(name)))
            if score is not None:
                params = run_mechanics.variant_params(name)
                run_mechanics.ship(ExhibitResult(params, Outcome((), {"R²": score}, "It agrees."), 1, "cpu", "2"))

    for module in (exhibit_params, run_mechanics):
        monkeypatch.setattr(module, "asset_path", lambda *parts: tmp_path.joinpath(*parts))
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))
    forget()
    yield make
    forget()


def made_up(name: str) -> dict:
    """An exhibit's file: one control, R² of at least 0.9 expected."""
    text = ("question", "claim", "symbols", "experiment", "fitted_note", "open_direction")
    return {
        **dict.fromkeys(text, "Said."),
        "id": name,
        "title": f"The law {name}",
        "formula": "a=b",
        "badge": "law",
        "fitted": 0,
        "controls": [{"name": "n", "label": "n", "help": "Size.", "default": 2, "stops": [2, 4]}],
        "tolerances": [{"score": "R²", "low": 0.9}],
        "break_it": {"label": "Larger", "why": "Too large.", "values": {"n": 4}},
        "larger": None,
        "references": [],
    }


def cards(app: AppTest) -> dict[str, list[str]]:
    """The map's links to exhibits: exhibit → what its card says, up to the next link."""
    found, name = {}, None
    for element in app.main:
        if element.type == "page_link":
            name = dict(parse_qsl(element.proto.query_string)).get("exhibit")
            found |= {name: []} if name else {}
        elif name and element.type in ("markdown", "caption", "latex"):
            found[name].append(element.value)
    return found


def test_home_places_every_exhibit_on_one_of_five_strands(exhibits):
    exhibits(dict.fromkeys(exhibit_params.NAMES, 0.95))
    app = open_frame()
    text = words(app)
    strands = [text.index(f"Strand ({letter})") for letter in "abcde"]
    assert strands == sorted(strands)
    assert list(cards(app)) == list(exhibit_params.NAMES)
    assert len(app.get("latex")) == len(exhibit_params.NAMES) + 2  # and the two flagships
    assert "This link is ours, not the paper's." in text
    for paper in ("2412.20292", "2502.03708", "2604.21691"):
        assert paper in text


def test_a_card_says_kind_score_tolerance_and_state(exhibits):
    exhibits({"a1": 0.95678, "b": 0.2, "c1": None})
    said = {name: " ".join(lines) for name, lines in cards(open_frame()).items()}
    assert "law" in said["a1"] and "within tolerance" in said["a1"]
    assert "R² **0.9568**, expected at least 0.9" in said["a1"]
    assert "outside tolerance" in said["b"]
    assert "not run here yet" in said["c1"] and "R²" not in said["c1"]


def test_a_run_on_this_machine_comes_before_the_shipped_one(exhibits):
    exhibits({"a1": 0.95})
    shipped = run_mechanics.shipped(run_mechanics.variant_params("a1"))
    kept = artifacts.cache_dir() / "exhibits" / "a1.json"
    kept.parent.mkdir()
    kept.write_text(json.dumps(replace(shipped, outcome=replace(shipped.outcome, scores={"R²": 0.97})).as_dict()))
    assert "R² **0.97**, expected at least 0.9 · run here" in " ".join(cards(open_frame())["a1"])


def test_home_stands_without_any_exhibit(exhibits):
    exhibits({})
    app = open_frame()
    for name in exhibit_params.NAMES:
        assert f"({name}) not run here yet" in words(app)
    assert not app.error


def test_home_leads_to_both_flagships_and_into_the_tour():
    app = open_frame()
    links = [link.proto.page for link in app.get("page_link")]
    for page in ("patch-mosaic", "theory-vs-network", "where-theory-stops", "steering", "scoreboard", "machine"):
        assert links.count(page) == 1
    assert app.button(key="open_mosaic").label == "Open the patch mosaic"
    assert "Five steps, 20 minutes." in words(app)
    app.button(key="start_tour").click().run()
    assert not app.exception
    assert app.query_params["tour"] == "0"


def test_home_says_what_is_wrong_with_a_damaged_tour(monkeypatch):
    def damaged():
        raise AssetError("The tour is damaged; restore assets/tour.json from the repository.")

    monkeypatch.setattr(tour, "load_tour", damaged)
    assert "restore assets/tour.json" in open_frame().error[0].value


def test_home_shows_the_first_preset_with_its_score(monkeypatch):
    preset = shelf.Preset("one", "One", "", small_result().params, {"step": 0}, "presets/one.npz", "")
    monkeypatch.setattr(shelf, "presets", lambda: [preset])
    monkeypatch.setattr(shelf.Preset, "load", lambda self: small_result())
    text = words(open_frame())
    assert text.count("data:image/png;base64") == 3
    assert "r = 0.912" in text
    assert "seed 5" in text


def test_home_stands_without_any_preset(monkeypatch):
    monkeypatch.setattr(shelf, "presets", list)
    assert "data:image/png" not in words(open_frame())


def test_home_says_what_is_wrong_with_a_damaged_preset(monkeypatch):
    def damaged():
        raise AssetError("The result file one.npz is damaged; make it again.")

    monkeypatch.setattr(shelf, "presets", damaged)
    assert "one.npz is damaged" in words(open_frame())


def test_home_says_what_is_wrong_with_the_manifest(monkeypatch):
    def missing():
        raise AssetError("assets/manifest.json is missing: run `make assets` to rebuild it.")

    monkeypatch.setattr(artifacts, "manifest", missing)
    monkeypatch.setattr(shelf, "presets", list)
    app = open_frame()
    assert "make assets" in app.error[0].value


def test_home_names_the_data_sets_that_are_here():
    text = words(open_frame())
    for name in ("mnist", "fashion-mnist", "emoji"):
        assert f" {name}]" in text
    assert "cifar10 · yours to add" in text  # tests run without LM_DATA


def test_the_first_paint_imports_no_torch():
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file({FRAME!r}, default_timeout=60).run()
assert not app.exception, app.exception
raise SystemExit("torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_machine_shows_memory_and_queue_lengths_but_no_job():
    app = open_frame("machine.py")
    figures = {metric.label: metric.value for metric in app.metric}
    assert figures["Running"] == figures["Waiting"] == "0"
    assert figures["Memory free"].endswith("GB")
    assert {"CPU cores", "This app holds", "torch"} <= set(figures)


def test_machine_verifies_on_request_and_home_knows_afterwards(monkeypatch):
    good = {"present": True, "verified": True, "detail": "fine", "remedy": None}
    bad = {"present": True, "verified": False, "detail": "unet.safetensors isn't as shipped", "remedy": "restore it"}
    report = {
        "python": "3.11",
        "torch": "2.13",
        "device": {
            "name": "A CPU",
            "kind": "cpu",
            "memory_total": 8e9,
            "memory_free": 4e9,
            "threads": 2,
            "dtype": "float32",
        },
        "data": {"mnist": good},
        "networks": {"mnist-unet": bad},
        "presets": {},
        "models": {},
        "ready": False,
    }
    monkeypatch.setattr(doctor, "report", lambda: report)
    app = open_frame("machine.py")
    assert "A CPU" not in words(app)
    app.button(key="examine").click().run()
    assert not app.exception
    text = words(app)
    assert "A CPU" in text
    assert "verified" in text
    assert "not as shipped" in text
    assert "restore it" in text
    assert "A CPU" in words(open_frame())


def test_machine_frees_memory():
    app = open_frame("machine.py")
    app.button(key="free_memory").click().run()
    assert not app.exception
    assert app.success[0].value.startswith("Freed")


def test_machine_builds_an_index_in_a_job_and_deletes_it(monkeypatch, tmp_path):
    monkeypatch.setenv("LM_CACHE", str(tmp_path))

    def make(dataset, *, label, on_progress, check):
        check()
        on_progress(0.5, "patch size 3", None)
        (tmp_path / "indexes").mkdir()
        (tmp_path / "indexes" / "a.index").write_bytes(bytes(3_000_000))
        return {"images": 6000, "label": label, "indexes": {3: {"bytes": 3_000_000}}}

    monkeypatch.setattr(run_index, "make", make)
    app = open_frame("machine.py")
    app.selectbox(key="index_class_mnist").select("3").run()
    app.button(key="index_run").click().run()
    job = scheduler().get(app.session_state["_index_job"], app.session_state[live.OWNER_KEY])
    assert scheduler().wait(job, 10).state == "done"
    app.run()
    assert "6,000 images of mnist, 3: P = 3: 3 MB" in app.success[0].value
    app.button(key="index_drop").click().run()
    assert not app.exception and not app.success
    assert list((tmp_path / "indexes").iterdir()) == []
    assert all(button.key != "index_drop" for button in app.button)
