"""The lens in a real Chromium, on the made-up results of `lens_app.py`."""

import re

import numpy as np
import pytest

from tests.browser.lens_app import sample_result

pytestmark = pytest.mark.browser
APP = "tests/browser/lens_app.py"
SIZE = 16
VIEWS = ("image", "mosaic", "stitched", "sources", "difference", "wipe")


@pytest.fixture
def show(open_app, settled):
    """A function that opens a case of the harness on a page and waits for the lens."""

    def open_case(page, case: str = "grey", query: str = ""):
        page.goto(f"{open_app(APP)}/?case={case}{query}")
        if case == "waiting":
            page.wait_for_selector(".lens .notice:not(:empty)")
        else:
            page.wait_for_selector(".lens .body:not([hidden])")
            page.wait_for_function("document.querySelector('.stBidiComponent') !== null")
        settled(page)
        frames(page)
        return page

    return open_case


def frames(page) -> None:
    """Wait until two animation frames have been drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def choose(page, value) -> None:
    page.locator(f'.lens input[value="{value}"]').check(force=True)
    frames(page)


def place_of(page, y: float, x: float, overlay: str = ".left .overlay") -> tuple[float, float]:
    box = page.locator(overlay).bounding_box()
    return box["x"] + (x + 0.5) / SIZE * box["width"], box["y"] + (y + 0.5) / SIZE * box["height"]


def hover(page, y: int, x: int, overlay: str = ".left .overlay") -> None:
    page.mouse.move(*place_of(page, y, x, overlay))
    frames(page)


def text(page, part: str) -> str:
    return page.locator(f".lens [data-part={part}]").inner_text().replace("\u00a0", " ")


def cards(page) -> list[str]:
    return page.locator(".lens .cards li:not([hidden]) button .name").all_inner_texts()


def told(page) -> str:
    """What Python says it knows: "runs 1; pin None, step None, view image"."""
    return page.get_by_text(re.compile("^runs ")).inner_text()


def pixel(page, selector: str, y: float, x: float) -> list[int]:
    """The canvas's RGBA where an image pixel's middle is drawn; fractions address its borders."""
    return page.locator(selector).evaluate(
        "(canvas, [y, x]) => [...canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 1, 1).data]",
        [(y + 0.5) / SIZE, (x + 0.5) / SIZE],
    )


def expected_cards(y: int, x: int, step: int = 5) -> list[str]:
    result = sample_result()
    pairs = zip(result.top_image[step, y, x], result.top_weight[step, y, x], strict=True)
    return [f"#{image} · {100 * weight:.1f} %".replace(" 0.", " .") for image, weight in pairs]


def test_the_lens_appears_without_errors_or_foreign_requests(chromium_page, show):
    page = show(chromium_page)
    assert cards(page)
    assert "r = .904" in text(page, "score")
    assert (page.console_errors, page.foreign_requests) == ([], [])


def test_images_show_the_estimates_pixel_by_pixel(chromium_page, show):
    page, result = show(chromium_page), sample_result()
    for selector, images in ((".left .base", result.denoised), (".right .base", result.network_denoised)):
        for y, x in ((0, 0), (5, 9), (8, 8), (15, 3)):
            grey = round((float(np.clip(images[-1, 0, y, x], -1, 1)) + 1) * 127.5)
            assert pixel(page, selector, y, x)[:3] == pytest.approx([grey] * 3, abs=1)


def test_hovering_tells_where_a_pixel_comes_from_without_the_server(chromium_page, show):
    page = show(chromium_page)
    before = told(page)
    for y, x, overlay in ((3, 4, ".left .overlay"), (12, 9, ".right .overlay"), (0, 15, ".left .overlay")):
        hover(page, y, x, overlay)
        assert text(page, "facts").startswith(
            f"pixel ({y}, {x}) · t = .17 · window P = 3 · effective sources 6.5 · theory"
        )
        assert cards(page) == expected_cards(y, x)
    rest = page.locator(".lens .rest .share").inner_text()
    assert rest == f"{100 * (1 - sample_result().top_weight[5, 0, 15].sum()):.1f} %".replace("0.", ".")
    page.wait_for_timeout(700)
    assert told(page) == before


def test_arrow_keys_move_the_pixel_and_a_screen_reader_hears_it(chromium_page, show):
    page = show(chromium_page)
    hover(page, 4, 4)
    stage = page.locator(".left .overlay")
    stage.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Shift+ArrowDown", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    frames(page)
    assert text(page, "facts").startswith("pixel (9, 5)")
    page.wait_for_function("document.querySelector('.stBidiComponent [data-testid]').shadowRoot"
                           ".querySelector('[aria-live]').textContent.startsWith('Pixel row 9, column 5')")  # fmt: skip
    assert "from training image" in page.locator(".lens [aria-live]").text_content()
    assert "32" not in stage.get_attribute("aria-label")
    assert "16 by 16 pixels" in stage.get_attribute("aria-label")


def test_a_pin_reaches_the_url_stays_while_hovering_and_survives_a_reload(chromium_page, show, settled):
    page = show(chromium_page)
    page.mouse.click(*place_of(page, 6, 7))
    page.wait_for_url("**pin=6-7**")
    page.get_by_text("pin (6, 7)").wait_for()
    assert page.locator(".lens .detail").is_visible()
    assert page.locator(".lens .detail canvas").first.bounding_box()["width"] >= 192
    hover(page, 2, 12)
    assert text(page, "facts").startswith("pixel (2, 12)")
    page.mouse.move(5, 5)
    frames(page)
    assert text(page, "facts").startswith("pixel (6, 7)")
    page.reload()
    page.wait_for_selector(".lens .body:not([hidden])")
    settled(page)
    frames(page)
    assert text(page, "facts").startswith("pixel (6, 7)")
    assert text(page, "unpin").startswith("(6, 7)")
    page.locator(".left .overlay").focus()
    page.keyboard.press("Escape")
    page.wait_for_url(lambda url: "pin=" not in url)
    assert not page.locator(".lens .detail").is_visible()
    assert page.console_errors == []


def test_a_pin_does_not_send_the_payload_again(chromium_page, show):
    received = []
    chromium_page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: received.append(len(frame))))
    page = show(chromium_page)
    size = max(received)
    assert size > 10_000
    received.clear()
    page.mouse.click(*place_of(page, 6, 7))
    page.get_by_text("pin (6, 7)").wait_for()
    assert sum(received) < size / 2


def test_enter_pins_and_a_card_enlarges_its_source(chromium_page, show):
    page = show(chromium_page)
    hover(page, 5, 5)
    page.locator(".left .overlay").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url("**pin=5-6**")
    second = expected_cards(5, 6)[1].split(" ")[0]
    page.locator(".lens .cards button").nth(1).click()
    frames(page)
    assert second in page.locator(".lens .detail figcaption").first.inner_text()
    assert page.locator(".lens .cards button").nth(1).get_attribute("aria-pressed") == "true"


def test_the_film_is_scrubbed_by_keys_buttons_and_dragging_and_plays(chromium_page, show):
    page = show(chromium_page)
    assert text(page, "time") == "step 6 of 6 · t = .17"
    strip = page.locator(".lens [data-part=strip]")
    strip.focus()
    for key, step in (("ArrowLeft", 5), ("Home", 1), ("ArrowRight", 2), ("End", 6), ("ArrowRight", 6)):
        page.keyboard.press(key)
        frames(page)
        assert text(page, "time").startswith(f"step {step} of 6")
        assert strip.get_attribute("aria-valuenow") == str(step)
    page.locator(".lens [data-part=back]").click()
    box = strip.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 5.5 / 6, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 2.5 / 6, box["y"] + 10, steps=4)
    page.mouse.up()
    frames(page)
    assert text(page, "time") == "step 3 of 6 · t = .67"
    page.get_by_text("step 2, view image").wait_for()
    page.keyboard.press("Space")
    page.get_by_text("step 5, view image").wait_for()
    assert text(page, "time").startswith("step 6 of 6")


def test_every_view_paints_something_else_and_explains_itself(chromium_page, show):
    page = show(chromium_page)
    seen, captions = set(), set()
    for view in VIEWS:
        choose(page, view)
        page.get_by_text(f"view {view}").wait_for()
        frames(page)
        seen.add(page.locator(".left .base").evaluate("canvas => canvas.toDataURL()"))
        caption = page.locator(".left figcaption").inner_text()
        assert caption.startswith("Theory (bbELS), t = .17")
        assert caption.endswith(".")
        captions.add(caption)
    assert len(seen) == len(captions) == len(VIEWS)
    assert page.console_errors == []


def test_the_mosaic_tells_tiles_and_both_attributions(chromium_page, show):
    page = show(chromium_page)
    choose(page, "mosaic")
    coherent = page.locator(".left figcaption").inner_text()
    assert "within a factor 4 of the heaviest" in coherent
    choose(page, 0)
    exact = page.locator(".left figcaption").inner_text()
    assert "(the heaviest source)" in exact
    assert re.search(r"\d+ tiles, mean [\d.]+ pixels; hatched: no single source", exact)
    red, green, blue, _ = pixel(page, ".left .base", 1, 1)
    assert max(red, green, blue) - min(red, green, blue) < 20, "a muted pixel is grey"
    red, green, blue, _ = pixel(page, ".left .base", 9, 9)
    assert max(red, green, blue) - min(red, green, blue) > 20, "a tile is coloured"


def test_the_noisy_state_is_shown_in_its_own_range(chromium_page, show):
    page = show(chromium_page)
    choose(page, "noisy")
    page.locator(".lens [data-part=strip]").focus()
    page.keyboard.press("Home")
    frames(page)
    assert "grey from −3 (black) to 3 (white)" in page.locator(".left figcaption").inner_text()
    result = sample_result()
    grey = round((float(result.trajectory[0, 0, 5, 9]) / 3 + 1) * 127.5)
    assert pixel(page, ".left .base", 5, 9)[0] == pytest.approx(grey, abs=2)


def test_the_window_is_bounded_by_the_image_or_wraps_around_it(new_page, show):
    """At pixel (8, 0) and P = 3 the window's left border lies one pixel beyond the image."""
    for case, wraps in (("grey", False), ("circular", True)):
        page = show(new_page(), case)
        hover(page, 8, 0)
        line = [pixel(page, ".left .overlay", 7, 14.5 + shift)[3] for shift in (-0.05, 0, 0.05)]
        assert any(line) == wraps, case


def test_the_wipe_moves_by_keyboard_and_by_dragging(chromium_page, show):
    page = show(chromium_page)
    choose(page, "wipe")
    frames(page)
    divider = page.locator(".lens [data-part=divider]")
    assert not page.locator(".right .base").is_visible()
    divider.focus()
    page.keyboard.press("End")
    frames(page)
    assert divider.get_attribute("aria-valuenow") == "100"
    machine = pixel(page, ".left .base", 8, 8)
    page.keyboard.press("Home")
    frames(page)
    network = pixel(page, ".left .base", 8, 8)
    assert machine != network
    page.keyboard.press("PageUp")
    frames(page)
    box = page.locator(".left .stage").bounding_box()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 30, steps=3)
    page.mouse.up()
    frames(page)
    assert divider.get_attribute("aria-valuenow") == "75"
    assert "pin None" in told(page), "dragging the divider pins nothing"


def test_new_data_keeps_the_component_and_the_visitors_place(chromium_page, show, settled):
    page = show(chromium_page)
    page.mouse.click(*place_of(page, 6, 7))
    choose(page, "mosaic")
    page.get_by_text("pin (6, 7), step None, view mosaic").wait_for()
    page.locator(".lens").evaluate("node => { node.marked = true }")
    page.locator(".st-key-factor input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "() => document.querySelector('.stBidiComponent [data-testid]').shadowRoot"
        ".querySelector('[data-part=tiling]').textContent.endsWith('×5')"
    )
    settled(page)
    assert page.locator(".lens").evaluate("node => node.marked")
    assert "pin (6, 7), step None, view mosaic" in told(page)
    assert page.locator('.lens input[value="mosaic"]').is_checked()
    assert text(page, "facts").startswith("pixel (6, 7)")


def test_the_page_can_order_another_place_and_the_visitor_can_leave_it(chromium_page, show, settled):
    page = show(chromium_page)
    page.mouse.click(*place_of(page, 6, 7))
    page.get_by_text("pin (6, 7)").wait_for()
    page.get_by_text("preset").click()
    page.get_by_text("pin (4, 4), step 2, view mosaic").wait_for()
    settled(page)
    page.mouse.move(5, 5)
    frames(page)
    assert text(page, "facts").startswith("pixel (4, 4) · t = .67")
    choose(page, "sources")
    page.get_by_text("pin (4, 4), step 2, view sources").wait_for()
    page.get_by_text("preset").click()
    page.get_by_text("pin (4, 4), step 2, view mosaic").wait_for()


@pytest.mark.parametrize(
    ("case", "sentence", "disabled"),
    [
        ("alone", "No network is chosen", {"difference", "wipe"}),
        ("partial", "follows when it is done", set(VIEWS) - {"image"}),
    ],
)
def test_what_is_missing_is_said_and_its_views_are_off(chromium_page, show, case, sentence, disabled):
    page = show(chromium_page, case)
    assert sentence in page.locator(".right .absent").inner_text()
    assert {view for view in VIEWS if page.locator(f'.lens input[value="{view}"]').is_disabled()} == disabled
    if case == "partial":
        assert text(page, "time") == "step 3 of 6 · t = .67"
        assert "step 3 of 6 so far" in page.locator(".left figcaption").inner_text()
        assert "patches appear when the run is done" in text(page, "facts")
    assert page.console_errors == []


def test_before_the_first_step_a_sentence_stands_in(chromium_page, show):
    page = show(chromium_page, "waiting")
    assert "first step is being computed" in text(page, "notice")
    assert not page.locator(".lens .body").is_visible()


def test_nonsense_in_the_pin_is_ignored(chromium_page, show):
    page = show(chromium_page, query="&pin=99-99")
    assert not page.locator(".lens [data-part=unpin]").is_visible()
    assert cards(page)


def test_the_view_is_saved_as_a_picture_by_the_browser(chromium_page, show):
    page = show(chromium_page)
    choose(page, "mosaic")
    page.get_by_text("view mosaic").wait_for()
    before = told(page)
    with page.expect_download() as download:
        page.locator(".lens [data-part=export]").click()
    assert re.fullmatch(r"mnist-bbels-seed-1-.*-mosaic-step-6\.png", download.value.suggested_filename)
    with open(download.value.path(), "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    assert told(page) == before
    assert (page.console_errors, page.foreign_requests) == ([], [])


def test_on_a_phone_everything_fits_and_a_tap_pins(new_page, show):
    page = show(new_page(width=390, height=844, has_touch=True, is_mobile=True, device_scale_factor=2))
    for view in VIEWS:
        page.locator(f'.lens input[value="{view}"]').evaluate("input => input.click()")
        frames(page)
        widths = page.evaluate("() => ['stMain', 'stApp'].map(name => document.querySelector(`[data-testid=${name}]`))"
                               ".map(node => node.scrollWidth - node.clientWidth)")  # fmt: skip
        assert widths == [0, 0], view
    page.locator('.lens input[value="image"]').evaluate("input => input.click()")
    page.locator(".left .overlay").scroll_into_view_if_needed()
    frames(page)
    page.touchscreen.tap(*place_of(page, 9, 10))
    page.wait_for_url("**pin=9-10**")
    assert page.locator(".lens .detail canvas").first.bounding_box()["width"] >= 192
    assert page.locator(".lens .cards canvas").first.bounding_box()["width"] >= 96


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(new_page, show, serious_violations, scheme):
    page = show(new_page(color_scheme=scheme), query="&pin=6-7")
    for view in ("mosaic", "wipe", "sources"):
        choose(page, view)
        assert serious_violations(page) == [], view
    assert page.locator(".lens").get_attribute("data-scheme") == scheme


def test_hovering_is_cheap(chromium_page, show):
    """The handler and the drawing it causes; a loaded machine only makes some slower, so the fast ones are judged."""
    page = show(chromium_page)
    choose(page, "mosaic")
    times = page.locator(".left .overlay").evaluate("""async canvas => {
        const box = canvas.getBoundingClientRect(), handled = [], drawn = [], frame = window.requestAnimationFrame;
        const timed = (action, times) => {
            const start = performance.now();
            action();
            times.push(performance.now() - start);
        };
        window.requestAnimationFrame = callback => frame(() => timed(callback, drawn));
        for (let i = 0; i < 60; i++) {
            const at = { clientX: box.x + (i * 37) % box.width, clientY: box.y + (i * 91) % box.height };
            timed(() => canvas.dispatchEvent(new PointerEvent("pointermove", at)), handled);
            await new Promise(done => frame(() => frame(done)));
        }
        window.requestAnimationFrame = frame;
        return [handled, drawn].map(times => times.sort((a, b) => a - b));
    }""")
    handled, drawn = ([f"{each[int(share * (len(each) - 1))]:.2f}" for share in (0, 0.2, 0.5)] for each in times)
    print(f"hover, ms at 0, 20 and 50 %: handler {handled}, drawing {drawn}")
    assert float(handled[1]) < 2
    assert float(drawn[1]) < 8
