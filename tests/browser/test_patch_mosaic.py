"""The patch mosaic in a real browser: first frame, hover, pin, scrub, live run, cancel, two visitors."""

import re

import pytest

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
