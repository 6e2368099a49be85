"""The guided tour in a real browser: a whole lesson by the arrow keys, whose keys they are, presenter mode, a phone."""

import statistics
import time

import pytest

from pages.components.tour.script import Stop, load_tour, narrate, stops

pytestmark = pytest.mark.browser

STOPS = stops(load_tour())
MOSAIC = next(place for place, stop in enumerate(STOPS) if stop.beat.page == "patch-mosaic")
STEERING = next(place for place, stop in enumerate(STOPS) if stop.beat.page == "steering")
BAR = "section.bar"
PROMPT_S = 1.0  # from a key to its words, most times: the machine may be busy
IN_VIEW = """([key, edge]) => {
  const box = document.querySelector(`.st-key-${key}`)?.getBoundingClientRect();
  return Boolean(box) && box.height > 0 && box.top < edge - 60 && box.bottom > 60;
}"""


@pytest.fixture
def visit(new_page, open_app, settled):
    """A function that opens a stop of the tour: `visit(3)`, `visit(3, present="1", width=390)`."""

    def open_stop(place: int, present: str | None = None, **options):
        stop, page = STOPS[place], new_page(**options)
        query = stop.query | ({"present": present} if present else {})
        said = "&".join(f"{name}={value}" for name, value in query.items())
        page.goto(f"{open_app('app.py')}/{stop.beat.page}?{said}")
        settled(page)
        stands(page, place)
        settled(page)
        return page

    return open_stop


def stands(page, place: int) -> None:
    """Wait until the bar tells a stop and its page is on show."""
    stop = STOPS[place]
    page.locator(f"{BAR} .text").get_by_text(narrate(stop.beat), exact=True).wait_for()
    page.wait_for_function("page => location.pathname.split('/').pop() === page", arg=stop.beat.page)


def minute(page) -> str:
    return page.locator(f"{BAR} .minute").inner_text()


def presents(page) -> bool:
    return page.evaluate("'lmPresent' in document.documentElement.dataset")


def in_url(page, name: str) -> str | None:
    return page.evaluate("name => new URL(location).searchParams.get(name)", name)


def wait_for_url(page, stop: Stop) -> None:
    for name in ("tour", "beat"):
        page.wait_for_function(
            "([name, value]) => new URL(location).searchParams.get(name) === value", arg=[name, stop.query[name]]
        )


# -- the arrow keys ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_whole_lesson_by_the_arrow_keys_alone(visit, settled):
    page, delays = visit(0, height=900), []
    for place in range(1, len(STOPS)):
        beat, began = STOPS[place].beat, time.monotonic()
        page.keyboard.press("ArrowRight")
        page.locator(f"{BAR} .text").get_by_text(narrate(beat), exact=True).wait_for()
        delays.append(time.monotonic() - began)
        stands(page, place)
        settled(page)
        if beat.show:
            edge = page.locator(BAR).bounding_box()["y"]
            page.wait_for_function(IN_VIEW, arg=[beat.show, edge])
    assert statistics.median(delays) < PROMPT_S
    page.keyboard.press("ArrowRight")  # the end is the end
    stands(page, len(STOPS) - 1)
    for place in reversed(range(len(STOPS) - 4, len(STOPS) - 1)):
        page.keyboard.press("ArrowLeft")
        stands(page, place)
    assert page.console_errors == [] and page.foreign_requests == []


def test_impatient_keys_lead_where_they_say(visit, settled):
    page = visit(0)
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    stands(page, 4)
    settled(page)
    wait_for_url(page, STOPS[4])


def test_a_broken_run_is_left_again(visit, settled):
    place = next(place for place, stop in enumerate(STOPS) if stop.beat.query.get("run") == "broken")
    page = visit(place)
    button = page.locator(".st-key-break_exhibit button")
    button.get_by_text("Back to where it holds").wait_for()
    page.keyboard.press("ArrowLeft")
    stands(page, place - 1)
    button.get_by_text("Break it").wait_for()
    page.keyboard.press("ArrowRight")
    button.get_by_text("Back to where it holds").wait_for()


def test_the_lens_keeps_its_arrow_keys_until_escape(visit, settled):
    page = visit(MOSAIC)
    page.locator(".st-key-lens canvas.overlay").first.focus()
    page.keyboard.press("ArrowRight")
    assert minute(page).startswith("arrow keys belong to this control")
    page.wait_for_timeout(500)
    stands(page, MOSAIC)
    page.keyboard.press("Escape")
    page.locator(f"{BAR} .minute").get_by_text("minute ").wait_for()  # the focus has left the lens
    settled(page)
    page.keyboard.press("ArrowLeft")
    stands(page, MOSAIC - 1)


def test_a_slider_and_a_field_keep_their_keys(visit, settled):
    page = visit(STEERING)
    page.get_by_role("textbox", name="Prompt").click()
    page.keyboard.press("End")
    page.keyboard.type("p")
    page.keyboard.press("ArrowLeft")
    assert page.get_by_role("textbox", name="Prompt").input_value().endswith("p") and not presents(page)
    slider = page.locator(".knobs input[type=range]").first
    before = slider.input_value()
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() != before
    stands(page, STEERING)


# -- the bar ----------------------------------------------------------------------------------------------------------


def test_the_bars_buttons_go_on_back_and_out(visit, settled):
    page = visit(0)
    assert page.locator(BAR).get_by_role("button", name="Back").is_disabled()
    page.locator(BAR).get_by_role("button", name="Next").click()
    stands(page, 1)
    page.locator(BAR).get_by_role("button", name="Back").click()
    stands(page, 0)
    page.locator(BAR).get_by_role("button", name="Leave").click()
    page.locator(BAR).wait_for(state="hidden")
    page.wait_for_function("!new URL(location).searchParams.has('tour')")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert page.url.rstrip("?").endswith("/")


def test_home_starts_the_tour_and_a_reload_keeps_the_place(visit, settled):
    page = visit(0)
    page.goto(page.url.split("?")[0])
    settled(page)
    page.locator(".st-key-start_tour button").click()
    stands(page, 0)
    page.keyboard.press("ArrowRight")
    stands(page, 1)
    settled(page)
    page.reload()
    stands(page, 1)


def test_the_bar_covers_nothing(visit):
    page = visit(0, width=390, height=844)
    page.wait_for_timeout(1500)  # bringing the map into view
    page.locator('[data-testid="stMain"]').evaluate("element => element.scrollTo(0, element.scrollHeight)")
    page.wait_for_timeout(300)
    last = page.get_by_text("Links leave this machine only").bounding_box()
    assert last["y"] + last["height"] < page.locator(BAR).bounding_box()["y"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("present", [None, "1"])
def test_the_bar_is_quiet_and_accessible(visit, serious_violations, scheme, present):
    page = visit(MOSAIC, present, color_scheme=scheme)
    page.wait_for_timeout(1000)
    assert serious_violations(page) == []
    assert page.console_errors == [] and page.foreign_requests == []


@pytest.mark.parametrize("present", [None, "1"])
def test_a_phone_needs_no_scrolling_sideways(visit, present):
    page = visit(MOSAIC, present, width=390, height=844, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    bar = page.locator(BAR).bounding_box()
    assert bar["x"] >= 0 and bar["x"] + bar["width"] <= 390 and bar["height"] < 844 / 2
    page.locator(BAR).get_by_role("button", name="Back").tap()
    stands(page, MOSAIC - 1)


# -- presenter mode ---------------------------------------------------------------------------------------------------


def type_size(page) -> float:
    return page.evaluate("parseFloat(getComputedStyle(document.documentElement).fontSize)")


def test_p_enlarges_the_type_and_hides_the_chrome_on_every_page_until_escape(visit, settled):
    page = visit(0)
    size = type_size(page)
    page.keyboard.press("p")
    assert presents(page) and type_size(page) >= 1.2 * size
    for part in ("stSidebar", "stHeader"):
        assert not page.get_by_test_id(part).is_visible()
    page.wait_for_function("new URL(location).searchParams.get('present') === '1'")
    page.keyboard.press("ArrowRight")
    stands(page, 1)
    settled(page)
    assert presents(page) and in_url(page, "present") == "1"
    page.reload()
    stands(page, 1)
    assert presents(page)
    settled(page)
    page.keyboard.press("Escape")
    assert not presents(page) and page.get_by_test_id("stHeader").is_visible()
    page.wait_for_function("!new URL(location).searchParams.has('present')")
    stands(page, 1)


def test_presenter_mode_outlives_the_tour_and_a_link(visit, settled):
    page = visit(0, "1")
    page.locator(BAR).get_by_role("button", name="Leave").click()
    page.locator(BAR).wait_for(state="hidden")
    settled(page)
    page.get_by_role("link", name="Every score on one page").click()
    page.get_by_role("heading", name="Scoreboard", level=1).wait_for()
    settled(page)
    assert presents(page)
    page.wait_for_function("new URL(location).searchParams.get('present') === '1'")
    page.get_by_role("button", name="Leave presenter mode").click()
    assert not presents(page)


def test_a_pages_own_controls_are_no_chrome(visit):
    page = visit(STEERING, "1")
    assert page.locator(".knobs input[type=range]").first.is_visible()
    assert not page.get_by_test_id("stSidebarNav").is_visible()


def test_a_presenters_remote_turns_pages(visit):
    page = visit(0, "1")
    page.keyboard.press("PageDown")
    stands(page, 1)
    page.keyboard.press("PageUp")
    stands(page, 0)
