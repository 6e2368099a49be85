"""Theory vs network: its figures, its gallery, and the page as a visitor's session runs it, on made-up surveys."""

import csv
import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from lm_core import run_limits, run_survey, survey
from lm_core.artifacts import asset_path
from lm_core.jobs import scheduler
from lm_core.survey import Survey
from pages.components import gallery, survey_figures
from pages.components.live import OWNER_KEY
from pages.components.survey_controls import Chosen, mosaic_link, offered_count
from tests import surveys

ROOT = Path(__file__).resolve().parents[1]
FRAME = str(ROOT / "pages" / "frame.py")
SECONDS = 60
R = Chosen("mnist", "unet", "r", 20)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    st.cache_data.clear()
    surveys.place_in(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def found():
    return survey.load("mnist", "unet")


def named(figure, name: str):
    return [trace for trace in figure.data if (trace.name or "").startswith(name)]


# -- figures ----------------------------------------------------------------------------------------------------------


def test_every_seed_is_a_point_that_knows_its_seed(found):
    figure = survey_figures.distribution(found, R)
    strips = [trace for trace in figure.data if trace.type == "scatter" and trace.name is None]
    assert len(strips) == 4
    for trace, who in zip(strips, ("bbels", "ls", "is", "resnet"), strict=True):
        assert np.allclose(trace.x, found.scores(who, 20))
        assert [data[0] for data in trace.customdata] == found.seeds
        assert len(set(trace.y)) == len(trace.y)


def test_the_papers_figure_is_r_its_square_for_r2_and_absent_for_R2(found):
    marks = {
        name: named(survey_figures.distribution(found, Chosen("mnist", "unet", name, 20)), "the paper")
        for name in ("r", "r2", "R2")
    }
    assert marks["r"][0].x == (0.84, 0.83, 0.69)
    assert np.allclose(marks["r2"][0].x, np.square([0.84, 0.83, 0.69]))
    assert marks["R2"] == []


def test_live_seeds_are_open_marks_that_say_over_how_many_images(found):
    figure = survey_figures.distribution(found, R, [surveys.row(100)], 1000)
    live = named(figure, "live, 1,000 images")
    assert [trace.marker.symbol for trace in live] == ["circle-open"] * 4
    assert sum(bool(trace.showlegend) for trace in live) == 1


def test_a_row_without_a_figure_leaves_a_gap_and_no_error(found):
    short = surveys.row(100)
    del short["scores"]["150"], short["scores"]["20"]["resnet"]
    for steps in (20, 150):
        figure = survey_figures.distribution(found, Chosen("mnist", "unet", "r", steps), [short], 300)
        assert len(named(figure, "live")) == 4


def test_points_left_of_the_axis_are_counted(found):
    assert survey_figures.beyond_axis(found, R) == ""
    for row in found.per_seed[:3]:
        row["scores"]["20"]["is"]["R2"] = -4.0
    assert "3 of IS" in survey_figures.beyond_axis(found, Chosen("mnist", "unet", "R2", 20))


def test_the_table_names_median_interval_paper_and_the_extreme_seeds(found):
    table = survey_figures.table(found, R)
    low, high = survey_figures.median(found, "bbels", 20, "r")[1:]
    assert table["r"][0] == f"0.79 [{low:.2f}, {high:.2f}]"
    assert table["paper, r"] == ["0.84", "0.83", "0.69", "–"]
    assert table["best seed, r"][0] == "0.90 (#0)" and table["worst seed, r"][0] == "0.68 (#11)"


def test_the_headline_counts_on_how_many_seeds_the_machine_is_ahead(found):
    found.per_seed[0]["scores"]["20"]["ls"]["r"] = 0.99
    text = survey_figures.headline(found, R)
    assert "12 seeds" in text and "r = 0.79" in text
    assert "LS on 11, than IS on 12 of the 12 seeds" in text


def test_the_networks_own_machine_leads_and_els_and_bbels_differ_in_colour(found):
    found.facts.update(network="resnet-circular", machines=["bbels", "els", "ls", "is"])
    for row in found.per_seed:
        row["nearest"]["els"] = row["nearest"]["bbels"]
        for scores in row["scores"].values():
            scores["els"] = {name: value + 0.01 for name, value in scores["bbels"].items()}
    circular = Chosen("mnist", "resnet-circular", "r", 20)
    text = survey_figures.headline(found, circular)
    assert "Equivariant local (ELS) predicts" in text and "closer than bbELS on 12" in text
    figure = survey_figures.distribution(found, circular)
    assert figure.layout.yaxis.ticktext == ("ELS", "bbELS", "LS", "IS", "ResNet")
    violins = [trace.line.color for trace in figure.data if trace.type == "violin"]
    assert len(set(violins)) == 5
    assert query_of(mosaic_link(found, found.per_seed[0], "network-20"))["machine"] == "Equivariant local (ELS)"
    assert list(survey_figures.distances(found))[:3] == ["network", "els", "bbels"]


def test_the_papers_figures_come_with_how_its_networks_differ(found):
    for figure in ("r", "R2"):
        text = survey_figures.conditions(found, Chosen("mnist", "unet", figure, 20))
        assert "0.5 M parameters, 3,155 training steps" in text and "300 epochs" in text
    found.facts["dataset"] = "emoji"
    assert "epochs" not in survey_figures.conditions(found, Chosen("emoji", "unet", "r", 20))


def test_each_growth_chart_says_which_run_made_it():
    old = {"seeds": [0, 1], "images": 300, "command": "a"}
    new = old | {"runs": {"by_steps": {"seeds": [0, 1, 2], "images": 100, "command": "b"}}}
    assert survey_figures.made_by(new, "by_images") == old and survey_figures.made_by(new, "by_steps")["command"] == "b"
    assert survey_figures.made_from(old, "by_images") == " 2 seeds."
    assert (
        survey_figures.made_from(new["runs"]["by_steps"], "by_steps")
        == " 3 seeds, 100 training images for the machine."
    )
    assert survey_figures.made_from(survey_figures.made_by({}, "by_steps"), "by_steps") == ""


def test_the_memorising_sentence_is_read_out_of_the_distances(found):
    text = survey_figures.memorising(found)
    assert "UNet (network) 0.40" in text and "IS 0.00" in text and "test images 0.40" in text
    assert "keep 100 % of the distance of test images" in text and "machine's 0 %" in text
    without = survey.load("fashion-mnist", "unet")
    assert "keep" not in survey_figures.memorising(without)
    assert "test" not in survey_figures.distances(without)


def test_growth_shows_median_and_every_seed():
    entries = survey.read_result("growth", "mnist", "unet")["by_images"]
    figure = survey_figures.growth_chart(entries, "by_images")
    assert np.allclose(figure.data[2].y, [0.7, 0.8, 0.9]) and len(figure.data[1].x) == 9
    assert figure.layout.xaxis.type == "log"
    assert (
        "From 100 training images to 60,000 training images the median r goes from 0.70 to 0.90"
        in survey_figures.trend(entries, "by_images")
    )


def test_calibration_shows_the_curves_on_the_time_axis_even_half_way():
    for done in (7, 20):
        found = surveys.calibration(done)
        figure = survey_figures.calibration_chart(found, survey.published_curve("mnist", "unet"), short_of_best=True)
        heat = figure.data[0]
        assert np.allclose(heat.x, np.arange(1, done + 1) / 20) and np.asarray(heat.z).shape == (4, done)
        assert np.nanmax(heat.z) == 0
        assert named(figure, "published")[0].y[-1] == 27
        field = named(figure, "network's")[0]
        assert set(field.y) == {9.0} and set(field.error_y.array) == {4.0}
    assert "9 pixels at t = 0.05" in survey_figures.calibration_words(surveys.calibration(), None)


def test_the_csv_has_every_score(found):
    rows = list(csv.DictReader(io.StringIO(survey_figures.as_csv(found))))
    assert len(rows) == surveys.SEEDS * 2 * 4
    first = rows[0]
    assert (first["seed"], first["network_steps"], first["predictor"], first["r"]) == ("0", "20", "bbels", "0.9")
    assert first["nearest_distance"] == "0.38"


# -- links and gallery ------------------------------------------------------------------------------------------------


def query_of(link: str) -> dict[str, str]:
    assert urlparse(link).path == "patch-mosaic"
    return {name: values[0] for name, values in parse_qs(urlparse(link).query).items()}


def test_a_link_asks_the_patch_mosaic_for_the_same_seed_machine_class_and_images():
    found = survey.load("fashion-mnist", "unet")
    query = query_of(mosaic_link(found, found.per_seed[3], "ls"))
    assert query["seed"] == "3" and query["machine"] == "Local (LS)" and query["images"] == "300"
    assert query["dataset"] == "Fashion-MNIST" and query["label"] == "Trouser"
    assert query_of(mosaic_link(found, found.per_seed[3], "network-20"))["machine"] == "Boundary-broken ELS"


def test_another_networks_column_opens_that_network(found):
    query = query_of(mosaic_link(found, found.per_seed[0], "resnet"))
    assert query["network"].startswith("ResNet") and query["machine"] == "Boundary-broken ELS" and "label" not in query


def test_a_link_asks_for_a_number_of_images_that_is_offered(found):
    for images, offered in ((300, "300"), (600, "500"), (10_000, "10,000"), (60_000, "all")):
        found.facts["images"] = images
        assert offered_count(found, None) == offered


@pytest.mark.parametrize("path", sorted(asset_path("results").glob("survey-*.json")), ids=lambda path: path.stem)
def test_every_shipped_survey_has_a_number_of_images_that_the_patch_mosaic_offers(path):
    shipped = Survey(json.loads(path.read_text("utf-8")))
    assert offered_count(shipped, shipped.per_seed[0]["label"]) == f"{shipped.facts['images']:,}"


def test_a_link_asks_for_the_surveys_engine_and_tolerance(found):
    found.facts["tolerance"] = 0.004
    query = query_of(mosaic_link(found, found.per_seed[0], "ls"))
    assert (query["engine"], query["tolerance"]) == ("Fast", "0.004")
    assert "engine" not in query_of(mosaic_link(found, found.per_seed[0], "is"))


def test_the_gallery_escapes_text_and_has_a_place_for_every_picture():
    cell = gallery.Cell("<b>", 'say "no"', "patch-mosaic?a=1&b=2")
    html = gallery.markup(["<i>"], [("0", "a & b")], [[cell]], np.zeros((1, 1, 32, 32), np.uint8))
    assert "<b>" not in html and "&lt;b&gt;" in html and "&lt;i&gt;" in html and "a &amp; b" in html
    assert 'href="patch-mosaic?a=1&amp;b=2" target="_blank"' in html and "--row:0;--column:0" in html
    assert "opens in a new tab" in html


def test_a_picture_without_a_link_is_just_a_picture():
    html = gallery.markup(["a"], [("0", "")], [[gallery.Cell("", "a seed", "")]], np.zeros((1, 1, 32, 32), np.uint8))
    assert "<a " not in html and 'role="img" title="a seed"' in html


def test_the_gallerys_sheet_keeps_rows_and_columns_apart(found):
    tiles = survey.tiles(found)
    sheet = gallery.stack(tiles, ["ls", "network-20"], [5, 0])
    assert sheet.shape == (2, 2, 32, 32)
    means = sheet.reshape(4, -1).mean(1)
    assert np.allclose(means, [tiles["ls"][5].mean(), tiles["network-20"][5].mean(), tiles["ls"][0].mean(), 0], atol=4)


# -- the page ---------------------------------------------------------------------------------------------------------


def open_page(**state) -> AppTest:
    app = AppTest.from_file(FRAME, default_timeout=SECONDS).run()
    for name, value in state.items():
        app.session_state[name] = value
    app = app.switch_page("theory_vs_network.py").run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    kinds = ("title", "header", "markdown", "caption", "info", "error", "code")
    return "\n".join([*(each.value for kind in kinds for each in app.get(kind)), *galleries(app)])


def galleries(app: AppTest) -> list[str]:
    return [element.proto.body for element in app.get("html") if "lm-gallery" in element.proto.body]


def seeds_shown(app: AppTest) -> list[int]:
    return [int(part.split("<")[0]) for part in galleries(app)[-1].split('<th scope="row">')[1:]]


def test_the_page_opens_with_a_survey_its_caveats_and_the_best_seeds():
    app = open_page()
    text = words(app)
    assert "12 seeds" in text and "300 training images" in text and "95 % bootstrap" in text
    assert seeds_shown(app) == list(range(8))
    assert not app.error


def test_the_worst_seeds_are_one_click_away():
    app = open_page()
    app.button_group(key="sort").set_value("worst").run()
    assert not app.exception
    assert seeds_shown(app) == [11, 10, 9, 8, 7, 6, 5, 4]


def test_closed_sections_compute_nothing(monkeypatch):
    monkeypatch.setattr(survey_figures, "nearest_chart", lambda found: pytest.fail("computed"))
    monkeypatch.setattr(survey_figures, "calibration_chart", lambda *args, **options: pytest.fail("computed"))
    open_page()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("open_growth", "the median r goes from 0.70 to 0.90"),
        ("open_nearest", "Median distance to the nearest training image"),
        ("open_calibration", "Nine tenths of what moves a pixel"),
        ("open_downloads", "python -m lm_core survey --dataset mnist"),
        ("open_more", "Seeds that are in no file"),
    ],
)
def test_an_open_section_says_what_it_shows(section, said):
    assert said in words(open_page(**{section: True}))


def test_a_network_without_a_survey_names_the_command(files):
    for path in files.iterdir():
        path.unlink()
    app = open_page(open_growth=True, open_calibration=True)
    text = words(app)
    assert "python -m lm_core survey --dataset mnist --network unet" in text
    assert "Live seeds need it first" in text
    assert "python -m lm_core growth" in text and "python -m lm_core calibrate" in text
    assert not app.error


def test_a_damaged_file_is_one_sentence(files):
    (files / "survey-mnist-unet.json").write_text("{")
    assert "survey-mnist-unet.json is damaged" in words(open_page())


def test_a_missing_gallery_leaves_the_rest(files):
    (files / "survey-mnist-unet.webp").unlink()
    app = open_page()
    assert galleries(app) == [] and "12 seeds" in words(app)


def test_more_seeds_stream_in_and_stay(monkeypatch):
    asked, go_on = [], threading.Event()  # the job lasts until then

    def extend(dataset, network, seeds, images, *, on_progress):
        asked.append((dataset, network, list(seeds), images))
        on_progress(0.5, "seed 100", [surveys.row(100)])
        go_on.wait(SECONDS)
        return [surveys.row(seed) for seed in seeds]

    monkeypatch.setattr(run_survey, "extend", extend)
    app = open_page(open_more=True)
    app.button(key="measure").click().run()
    assert app.button(key="measure").disabled
    app.session_state["open_calibration"] = True
    assert app.run().button(key="calibrate").disabled
    job_id = app.session_state["_survey_jobs"]["seeds"][0]
    job = scheduler().get(job_id, app.session_state[OWNER_KEY])
    go_on.set()
    scheduler().wait(job, SECONDS)
    app.run()
    assert not app.exception and asked == [("mnist", "unet", [100, 101, 102], 300)]
    images, rows = app.session_state["_survey_live"]["mnist", "unet"]
    assert images == 300 and [row["seed"] for row in rows] == [100, 101, 102]
    app.button(key="measure").click().run()
    second = scheduler().get(app.session_state["_survey_jobs"]["seeds"][0], app.session_state[OWNER_KEY])
    scheduler().wait(second, SECONDS)
    assert asked[1][2] == [103, 104, 105]


def test_of_an_emoji_class_no_more_images_are_asked_for_than_it_has(files):
    fashion = json.loads((files / "survey-fashion-mnist-unet.json").read_text("utf-8"))
    (files / "survey-emoji-unet.json").write_text(json.dumps(fashion | {"dataset": "emoji", "images": 80}))
    app = open_page(open_more=True, open_calibration=True)
    assert app.selectbox(key="live_images").options == ["100", "300", "1,000"]
    app.selectbox(key="dataset").set_value("emoji").run()
    assert not app.exception and not app.error
    assert app.selectbox(key="live_images").options == ["80"] and app.selectbox(key="live_images").value == 80
    assert app.selectbox(key="calibrate_images").options == ["85"] and app.selectbox(key="calibrate_images").value == 85


@pytest.mark.parametrize("here", [True, False])
def test_without_cifar_nothing_is_offered_that_needs_it(files, monkeypatch, here):
    monkeypatch.setattr(run_limits, "has_cifar", lambda: here)
    fashion = json.loads((files / "survey-fashion-mnist-unet.json").read_text("utf-8"))
    (files / "survey-cifar10-unet.json").write_text(json.dumps(fashion | {"dataset": "cifar10"}))
    (files / "survey-cifar10-unet.webp").write_bytes((files / "survey-fashion-mnist-unet.webp").read_bytes())
    app = open_page(open_more=True, open_calibration=True, dataset="cifar10")
    assert ("CIFAR-10 isn't on this machine" in words(app)) is not here
    assert ("<a " in galleries(app)[0]) is here
    assert app.button(key="measure").disabled is app.button(key="calibrate").disabled is not here


def test_at_150_steps_other_networks_pictures_have_no_figure():
    for steps in (20, 150):
        app = open_page(network_steps=steps)
        cells = galleries(app)[0].split("<tbody>")[1].split("</tr>")[0].split("<span>")[1:]
        figures = [cell.split("<")[0] for cell in cells]
        assert figures[2:] == ["0.90", "0.80", "0.40", "0.85" if steps == 20 else ""]
        assert "ResNet, 20 steps" in galleries(app)[0]


def test_the_page_needs_no_torch():
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file({FRAME!r}, default_timeout=60).run().switch_page("theory_vs_network.py").run()
assert not app.exception, app.exception
raise SystemExit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
