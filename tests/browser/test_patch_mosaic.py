"""The patch mosaic in a real browser: first frame, hover, pin, scrub, live run, cancel, two visitors.

What happens to a cancelled run's best image is tested without a browser, on a run that lasts until it is cancelled.
"""

import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from lm_core import run, shelf
from lm_core.jobs import scheduler
from lm_core.results import MosaicResult
from pages.components.mosaic_figures import rounded_up, sample

pytestmark = pytest.mark.browser
LENS = ".st-key-lens"


@pytest.fixture(scope="module")
def address(open_app) -> str:
    return open_app("app.py") + "/patch-mosaic"


@pytest.fixture
def preset(chromium_page, address, settled):
    """The page as a visitor first sees it."""
    chromium_page.goto(address)
    settled(chromium_page)
    chromium_page.wait_for_selector(f"{LENS} canvas")
    return chromium_page


def test_a_visitor_sees_a_finished_preset_with_its_score_and_nothing_leaves_the_machine(preset):
    text = preset.locator(".lens").inner_text()
    assert re.search(r"r = \.\d{3}", text) and "Where this pixel comes from" in text
    assert "Traceback" not in preset.inner_text("body")
    assert preset.console_errors == [] and preset.foreign_requests == []


def test_axe_finds_nothing_serious_in_light_and_dark(new_page, address, settled, serious_violations):
    for scheme in ("light", "dark"):
        page = new_page(color_scheme=scheme)
        page.goto(address)
        settled(page)
        page.wait_for_selector(f"{LENS} canvas")
        assert serious_violations(page) == []


def test_pin_and_view_are_in_the_url_and_survive_a_reload(preset, settled):
    canvas = preset.locator(f"{LENS} canvas").first
    box = canvas.bounding_box()
    preset.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.7)
    preset.wait_for_function("new URL(location).searchParams.get('pin')?.startsWith('22,9')", timeout=15_000)
    preset.get_by_role("radio", name="Stitched").or_(preset.get_by_role("button", name="Stitched")).first.click()
    preset.wait_for_function("new URL(location).searchParams.get('view') === 'stitched'", timeout=15_000)
    preset.reload()
    settled(preset)
    preset.wait_for_selector(f"{LENS} canvas")
    preset.get_by_text("pixel (22, 9)").first.wait_for(timeout=15_000)


def test_a_control_makes_a_new_image_live_and_it_is_kept(preset, settled):
    preset.goto(preset.url.split("?")[0] + "?images=50&seed=12345&steps=5")
    settled(preset)
    preset.locator(".st-key-run button").click()
    preset.wait_for_selector(f"{LENS} canvas", timeout=120_000)
    preset.get_by_text("Does the network agree?").wait_for(timeout=120_000)
    preset.reload()
    settled(preset)
    preset.get_by_text("Does the network agree?").wait_for(timeout=30_000)
    assert not preset.locator(".st-key-run button").count()
    assert preset.console_errors == []


def test_engine_and_tolerance_are_in_the_url_and_the_presets_are_exact(preset, settled):
    engine = preset.get_by_test_id("stSidebar").get_by_role("radiogroup", name="Engine")
    assert engine.get_by_role("radio", name="Exact").is_checked()
    assert preset.get_by_text("1,000 images, exact.").count() == 1
    engine.get_by_role("radio", name="Fast").click()
    preset.wait_for_function("new URL(location).searchParams.get('engine') === 'Fast'")
    preset.locator(".st-key-tolerance input[type=range]").focus()
    preset.keyboard.press("ArrowRight")
    preset.wait_for_function("new URL(location).searchParams.get('tolerance') === '0.02'")
    preset.reload()
    settled(preset)
    assert engine.get_by_role("radio", name="Fast").is_checked()
    preset.get_by_test_id("stSidebar").get_by_text("0.02", exact=True).wait_for()


def test_a_link_without_an_engine_finds_its_preset_and_asks_for_a_fast_run_otherwise(chromium_page, address, settled):
    engine = chromium_page.get_by_test_id("stSidebar").get_by_role("radiogroup", name="Engine")
    for query, name in (("images=300&machine=Equivariant+local+(ELS)", "Exact"), ("seed=6", "Fast")):
        chromium_page.goto(f"{address}?{query}")
        settled(chromium_page)
        chromium_page.locator(f"{LENS} canvas" if name == "Exact" else ".st-key-run").first.wait_for()
        assert engine.get_by_role("radio", name=name).is_checked()


def test_a_fast_run_says_how_far_off_it_may_be(preset, settled):
    preset.goto(preset.url.split("?")[0] + "?images=50&seed=54321&steps=5&engine=Fast")
    settled(preset)
    preset.locator(".st-key-run button").click()
    preset.get_by_text(re.compile(r"50 images, ±0\.\d+ \((certified|partly estimated)\)\.")).wait_for(timeout=120_000)
    assert preset.console_errors == []


def test_a_run_can_be_cancelled_and_the_slot_is_free_again(preset, settled):
    preset.goto(preset.url.split("?")[0] + "?images=all&seed=4242")
    settled(preset)
    preset.locator(".st-key-run button").click()
    preset.locator(".st-key-cancel button").click(timeout=60_000)
    preset.get_by_text("Cancelled.").wait_for(timeout=60_000)
    preset.locator(".st-key-run button").wait_for(timeout=30_000)
    assert "seed=4242" in preset.url


def test_two_visitors_queue_and_see_only_their_own(new_page, address, settled):
    first, second = new_page(), new_page()
    for page, seed in ((first, 501), (second, 502)):
        page.goto(f"{address}?images=all&seed={seed}")
        settled(page, 60_000)
    first.locator(".st-key-run button").click()
    first.locator(".st-key-cancel button").wait_for(timeout=60_000)
    second.locator(".st-key-run button").click()
    second.get_by_text("next in the queue").wait_for(timeout=60_000)
    assert "501" not in second.locator("[data-testid=stMain]").inner_text()
    first.close()  # closing a tab cancels its job: the other's starts
    second.get_by_text(re.compile("Seed 502: step")).wait_for(timeout=90_000)
    second.locator(".st-key-cancel button").click()
    second.get_by_text("Cancelled.").wait_for(timeout=60_000)


@pytest.mark.parametrize(
    "query, said",
    [
        ("seed=banana&machine=magic&pin=a,b&step=-4&view=x&images=-5", "Patch mosaic"),
        ("dataset=CIFAR-10", "LM_DATA"),
        ("curve=My+own&sizes=4,4", "patch size is 4"),
        ("seed=5&tolerance=-7", "The link asks for the tolerance '-7', which isn't offered"),
    ],
)
def test_nonsense_in_the_url_gets_a_calm_page(chromium_page, address, settled, query, said):
    chromium_page.goto(f"{address}?{query}")
    settled(chromium_page)
    chromium_page.get_by_text(said).first.wait_for(timeout=30_000)
    assert "Traceback" not in chromium_page.inner_text("body")


def test_the_page_fits_a_phone(new_page, address, settled):
    page = new_page(width=390, height=844, has_touch=True)
    page.goto(address)
    settled(page)
    page.wait_for_selector(f"{LENS} canvas")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def whole_partial(seed: int) -> MosaicResult:
    """A whole image over some of the images, such as the fast engine publishes, made of a shipped result."""
    result = shelf.presets()[0].load()
    error = np.full(result.effective_samples.shape, 0.004, dtype=np.float32)
    params = result.params.with_(seed=seed, engine="fast")
    partial = replace(result, params=params, images_used=320, error_bound=error, error_deviation=error)
    return replace(partial, scores={}, nearest={}, ideal_image=None)


def cancelled_after(partial: MosaicResult, monkeypatch) -> AppTest:
    """Open the page, start a run that publishes something and then goes on for ever, and cancel it."""
    published = threading.Event()

    def mosaic(params, on_progress):
        on_progress(0.1, "step 1 of 20", partial)
        published.set()
        while True:
            on_progress(0.1, "", None)
            published.wait(0.01)

    monkeypatch.setattr(run, "mosaic", mosaic)
    app = AppTest.from_file(str(Path(__file__).parents[2] / "app.py"), default_timeout=60)
    app.switch_page("pages/patch_mosaic.py")
    app.query_params["seed"] = str(partial.params.seed)
    app.run().button(key="run").click().run()
    assert published.wait(30)
    app.run().button(key="cancel").click().run()
    job = scheduler().get(app.session_state["_mosaic_job"], app.session_state["_owner"])
    assert job is not None and scheduler().wait(job, 30).state == "cancelled"
    app.run()
    assert not app.exception
    return app


def captions(app: AppTest) -> str:
    return " ".join(one.value for one in app.caption)


def test_a_cancelled_run_keeps_its_best_whole_image_and_says_that_it_is_not_finished(monkeypatch):
    line = "320 of 1,000 images so far, ±0.012 (partly estimated)"
    app = cancelled_after(whole_partial(seed=600), monkeypatch)
    assert [info.value for info in app.info] == [
        f"Cancelled. The image below isn't finished: {line}. A new run starts over."
    ]
    assert f"{line}." in captions(app) and "a patch of the 320 training images" in captions(app)
    assert not app.subheader and "nothing to score" not in captions(app)
    app.number_input(key="seed").set_value(601).run()
    assert line not in captions(app)
    app.number_input(key="seed").set_value(600).run()
    assert line in captions(app) and app.button(key="run") and not app.exception


def test_a_cancelled_run_without_a_whole_image_leaves_nothing(monkeypatch):
    whole = whole_partial(seed=602)
    steps = {name: getattr(whole, name)[:3] for name in ("denoised", "top_image", "effective_samples")}
    app = cancelled_after(replace(whole, **steps, trajectory=whole.trajectory[:4]), monkeypatch)
    assert "Cancelled." in [info.value for info in app.info] and "so far" not in captions(app)


def test_the_error_is_never_rounded_down():
    assert [rounded_up(error) for error in (0.0, 0.004, 0.0041, 0.012, 0.00012)] == [
        *("0.000", "0.004", "0.005", "0.012", "0.0002")
    ]


def test_the_line_says_how_many_images_and_what_the_error_is():
    partial = whole_partial(seed=1)
    done = replace(partial, images_used=1000, error_deviation=np.zeros_like(partial.error_bound))
    assert sample(done, everything=False) == "1,000 images, ±0.004 (certified)"
    assert sample(done, everything=True) == "all 1,000 images, ±0.004 (certified)"
    assert sample(replace(done, error_bound=None, error_deviation=None), everything=True) == "all 1,000 images, exact"
