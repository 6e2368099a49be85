"""The steering page in a real browser, on the real model: streaming, turning the dial, stop, reload, figures."""

import json
import re

import pytest

pytestmark = pytest.mark.browser
STEERED = ".column.steered"
QUESTION = "What+do+you+think+about+the+city+of+London%3F"
PATIENCE = 120_000  # the first answer of a server loads the model


@pytest.fixture(scope="module")
def address(open_app) -> str:
    return open_app("app.py") + "/steering"


@pytest.fixture
def show(address, settled):
    """A function that opens the page in a browser page with these words in the URL."""

    def open_page(page, query: str = f"prompt={QUESTION}&dials=spanish:3&tokens=40"):
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}?{query}")
        settled(page, PATIENCE)
        page.locator(".st-key-write button").wait_for()
        page.locator(".knobs").wait_for()
        page.locator(".column").first.wait_for()
        return page

    return open_page


def start(page, tokens: int = 1) -> None:
    """Click write and wait for that many steered tokens of the new answer."""
    page.locator(".st-key-write button").click()
    page.locator('.writing[data-state="waiting"], .writing[data-state="writing"]').wait_for()
    page.locator(f"{STEERED} .t").nth(tokens - 1).wait_for()


def finish(page) -> None:
    page.locator('.writing[data-state="done"]').wait_for()


def texts(page) -> list[str]:
    return [each.inner_text() for each in page.locator(".column .text").all()]


def tints(page) -> list[str]:
    return page.locator(f"{STEERED} .t").evaluate_all("tokens => tokens.map(token => token.style.backgroundColor)")


def slider(page, name: str = "Spanish"):
    return page.locator(f'.knobs input[aria-label^="{name}"]')


def test_three_columns_are_written_side_by_side_and_nothing_leaves_the_machine(chromium_page, show):
    page = show(chromium_page)
    start(page)
    finish(page)
    headings = page.locator(".column h3").all_inner_texts()
    assert headings == ["Unsteered", "Asked for in words", "Steered"]
    unsteered, prompted, steered = texts(page)
    assert unsteered and prompted and steered and steered != unsteered
    page.locator(f"{STEERED} .metrics").get_by_text("fluency").wait_for()
    assert re.search(r"\d+ tokens.*tokens/s", page.locator(f"{STEERED} .status").inner_text())
    assert set(tints(page)) != {""}
    assert page.console_errors == [] and page.foreign_requests == []


def test_a_slider_moved_while_it_writes_changes_the_next_tokens_and_not_the_text_before(chromium_page, show):
    page = show(chromium_page, f"prompt={QUESTION}&dials=spanish:3&tokens=200")
    start(page, tokens=8)
    before = texts(page)[2]
    slider(page).focus()
    page.keyboard.press("Home")  # as far to the left as it goes
    at_the_move = len(tints(page))
    page.locator(f"{STEERED} .t").nth(at_the_move + 12).wait_for()
    page.locator(f"{STEERED} .stop").click()
    finish(page)
    found = tints(page)
    assert found[0] == found[5] != found[-1]
    assert texts(page)[2].startswith(before)
    keys = page.locator(f"{STEERED} .keys").inner_text()
    assert "Spanish −" in keys
    trace = page.locator(f"{STEERED} .trace path").first.get_attribute("d")
    assert len(set(re.findall(r"[ML]\d+ ([\d.]+)", trace))) > 1, "the trace has a step"
    assert page.console_errors == []


def test_everything_off_by_key_and_on_again(chromium_page, show):
    page = show(chromium_page, f"prompt={QUESTION}&dials=spanish:3&tokens=200")
    start(page, tokens=3)
    page.locator(".column h3").first.click()
    page.keyboard.press("0")
    page.locator(".knobs .master[aria-pressed=true]").wait_for()
    page.locator(f"{STEERED} .keys").get_by_text("Spanish +0.0 %").wait_for()
    page.keyboard.press("0")
    page.locator(f"{STEERED} .keys").get_by_text("Spanish +3.0 %").wait_for()
    page.locator(".st-key-steer_prompt textarea").fill("I have 0 ideas")
    assert page.locator(".knobs .master").get_attribute("aria-pressed") == "false", "a typed 0 is a 0"
    page.locator(f"{STEERED} .stop").click()
    finish(page)


def test_stop_keeps_the_text(chromium_page, show):
    page = show(chromium_page, f"prompt={QUESTION}&dials=spanish:3&tokens=300")
    start(page, tokens=10)
    page.locator(f"{STEERED} .stop").click()
    finish(page)
    page.locator(f"{STEERED} .status").get_by_text("stopped after").wait_for()
    kept = texts(page)
    page.wait_for_timeout(1500)
    assert texts(page) == kept and len(kept[2]) > 10
    page.locator(".st-key-make_film button:not([disabled])").wait_for()


def test_a_reload_brings_back_controls_and_text(chromium_page, show, settled):
    page = show(chromium_page, f"prompt={QUESTION}&dials=spanish:3.4,angry:-1&tokens=24&seed=7&temperature=0.5")
    start(page)
    finish(page)
    page.wait_for_url("**&s=**")
    written = texts(page)
    page.reload()
    settled(page)
    finish(page)
    assert texts(page) == written
    assert page.locator(".st-key-steer_prompt textarea").input_value() == "What do you think about the city of London?"
    assert slider(page).input_value() == "0.034" and slider(page, "Angry").input_value() == "-0.01"
    assert page.locator(".st-key-steer_seed input").input_value() == "7"


def test_a_reload_while_it_writes_goes_on_with_the_same_answer(chromium_page, show, settled):
    page = show(chromium_page, f"prompt={QUESTION}&dials=spanish:3&tokens=300")
    start(page, tokens=5)
    page.wait_for_url("**&s=**")
    before = texts(page)[2]
    page.reload()
    settled(page)
    page.locator(f"{STEERED} .t").nth(4).wait_for()
    slider(page).focus()
    page.keyboard.press("Home")
    page.locator(f"{STEERED} .keys").get_by_text("Spanish −").wait_for()
    page.locator(f"{STEERED} .stop").click()
    finish(page)
    page.locator(f"{STEERED} .status").get_by_text("stopped after").wait_for()
    assert texts(page)[2].startswith(before)


def test_the_projections_tint_every_column_and_the_prompt(chromium_page, show):
    page = show(chromium_page)
    start(page)
    finish(page)
    page.locator('.writing input[value="spanish"]').check()
    page.locator(".writing .asked").wait_for()
    page.locator(".writing .text .t.more").first.wait_for()
    assert page.locator(".asked .t.more, .asked .t.less").count()
    page.locator(f"{STEERED} .text").focus()
    page.keyboard.press("ArrowRight")
    assert re.search(r"Steered, token 1 .*Spanish written at \+3\.0 %, projection [+−]\.\d+",
                     page.locator(".readout").inner_text())  # fmt: skip


def test_model_text_stays_text(chromium_page, show):
    page = show(chromium_page, "prompt=%3Cb%3Ehello%3C%2Fb%3E%3Cimg+src%3Dx%3E&dials=spanish:3&tokens=8")
    start(page)
    finish(page)
    page.locator('.writing input[value="spanish"]').check()
    assert "<b>hello</b><img" in page.locator(".asked .text").inner_text()
    assert page.locator(".writing :is(b, img)").count() == 0


def test_the_answer_is_copied_as_json(new_page, show):
    page = show(new_page(permissions=["clipboard-read", "clipboard-write"]))
    start(page)
    finish(page)
    page.get_by_role("button", name="Copy as JSON").click()
    page.get_by_text("Copied").wait_for()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert [row["name"] for row in copied["rows"]] == ["unsteered", "prompted", "steered"]
    assert copied["rows"][2]["text"] == texts(page)[2]
    assert copied["params"]["prompt"] == "What do you think about the city of London?"
    assert len(copied["strengths"]) >= copied["rows"][2]["tokens"] and copied["strengths"][0] == [0.03]


def test_concepts_are_added_and_removed(chromium_page, show, settled):
    page = show(chromium_page)
    page.locator(".st-key-steer_add input").click()
    page.get_by_text(re.compile("^French · ")).click()
    slider(page, "French").wait_for()
    page.get_by_role("button", name="Remove Spanish").click()
    slider(page).wait_for(state="detached")
    page.wait_for_function("new URL(location).searchParams.get('dials').startsWith('french')")
    assert page.console_errors == []


def test_every_preset_is_written_by_a_click(chromium_page, show):
    page = show(chromium_page, "")
    presets = page.locator(".st-key-presets button")
    assert presets.count() >= 6
    presets.last.click()
    page.locator(f"{STEERED} .t").nth(5).wait_for()
    page.locator(f"{STEERED} .stop").click()
    finish(page)


def test_a_concept_comes_and_goes_while_it_writes(chromium_page, show, settled):
    page = show(chromium_page, f"prompt={QUESTION}&dials=spanish:50&tokens=300")
    assert slider(page).input_value() == "0.5", "the range reaches as far as the URL asks"
    start(page, tokens=2)
    add = page.locator(".st-key-steer_add input")
    add.click()
    page.get_by_text(re.compile("^French · ")).click()
    page.locator(".knob", has_text="French").get_by_text("from the next answer on").wait_for()
    page.get_by_role("button", name="Remove Spanish").click()
    page.locator(f"{STEERED} .keys").get_by_text("Spanish +0.0 %").wait_for()
    slider(page).wait_for(state="detached")
    settled(page)
    add.click()
    page.get_by_text(re.compile("^Spanish · ")).click()
    page.locator(f"{STEERED} .keys").get_by_text("Spanish +2.0 %").wait_for()
    page.locator(f"{STEERED} .stop").click()
    finish(page)
    page.get_by_text("from the next answer on").wait_for(state="hidden")


def test_an_alarm_rings_while_it_writes(chromium_page, show, serious_violations):
    page = show(chromium_page, f"prompt={QUESTION}&dials=spanish:3&tokens=60&watch=spanish")
    start(page)
    page.locator(f"{STEERED} .alarm").get_by_text("Alarm: Spanish").wait_for()
    finish(page)
    assert page.locator(".column").first.locator(".alarm").inner_text() == "", "none where nothing is steered"
    page.locator('.writing input[value="detector:spanish"]').check()
    page.locator(f"{STEERED} .t.more").first.wait_for()
    page.locator(f"{STEERED} .text").focus()
    page.keyboard.press("ArrowRight")
    assert re.search(r"detector for Spanish \d", page.locator(".readout").inner_text())
    assert serious_violations(page) == []
    assert page.console_errors == []


@pytest.mark.slow
def test_film_strip_linearity_and_cosines(chromium_page, show):
    page = show(chromium_page, f"prompt={QUESTION}&dials=spanish:3,angry:2&tokens=16")
    start(page)
    finish(page)
    page.get_by_text("Cosine between the concepts' directions").wait_for()
    page.locator(".st-key-make_film button").click()
    page.get_by_text("one answer each, seed").wait_for()
    assert len(re.findall(r"[+−]\d+\.\d %", page.locator(".st-key-film_cards").inner_text())) == 7
    page.locator(".st-key-make_linear button").click()
    page.get_by_text("is a candidate for the first token").wait_for()
    assert page.console_errors == []


def test_two_visitors_take_turns_and_see_only_their_own(new_page, show):
    first, second = (show(new_page(), f"prompt={each}&dials=spanish:3&tokens=100") for each in ("One", "Two"))
    start(first, tokens=3)
    second.locator(".st-key-write button").click()
    second.get_by_text("next in the queue").wait_for()
    first.locator(f"{STEERED} .stop").click()
    second.locator(f"{STEERED} .t").nth(2).wait_for()
    finish(first)
    assert texts(first) != texts(second)
    first.close()
    finish(second)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(new_page, show, serious_violations, scheme):
    page = show(new_page(color_scheme=scheme), f"prompt={QUESTION}&dials=spanish:3,angry:-1&tokens=20")
    assert serious_violations(page) == []
    start(page)
    finish(page)
    page.wait_for_timeout(500)
    assert serious_violations(page) == []
    page.locator('.writing input[value="spanish"]').check()
    assert serious_violations(page) == []


@pytest.mark.parametrize(
    "query",
    [
        "dials=nonsense:x,spanish:9999,%3Cb%3E:1&seed=banana&tokens=-4&blocks=9-9999&method=magic&model=../etc&s=guess",
        "dials=&prompt=",
        "temperature=nan&top_p=inf&repetition_penalty=-1&dials=spanish:nan",
    ],
)
def test_nonsense_in_the_url_gets_a_calm_page(chromium_page, show, query):
    page = show(chromium_page, query)
    page.locator(".writing").wait_for()
    assert "Traceback" not in page.inner_text("body") and page.console_errors == []


def test_an_empty_prompt_is_answered_with_a_sentence(chromium_page, show):
    page = show(chromium_page)
    page.locator(".st-key-steer_prompt textarea").fill("  ")
    page.locator(".st-key-write button").click()
    page.get_by_text("prompt is empty").first.wait_for()


def test_on_a_phone_the_sliders_stand_above_the_text_and_everything_fits(new_page, show):
    phone = {"has_touch": True, "is_mobile": True, "user_agent": "Mozilla/5.0 (Linux; Android 15) Mobile"}
    page = show(new_page(width=390, height=844, **phone), f"prompt={QUESTION}&dials=spanish:3&tokens=16")
    start(page)
    finish(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("[data-testid=stMain] .knobs").is_visible()


def test_where_server_sent_events_fail_the_page_polls(chromium_page, show):
    page = show(chromium_page, f"prompt={QUESTION}&dials=spanish:3&tokens=16")
    page.route(re.compile(r"/stream/[^?]+$"), lambda route: route.abort())
    start(page)
    finish(page)
    assert all(texts(page))
