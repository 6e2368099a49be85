"""The curve editor and the paint grids in a real Chromium, on the page of `stops_app.py`."""

import pytest

pytestmark = pytest.mark.browser
APP = "tests/browser/stops_app.py"


@pytest.fixture
def app(open_app, settled, chromium_page):
    chromium_page.goto(open_app(APP))
    settled(chromium_page)
    chromium_page.wait_for_selector(".editor circle")
    return chromium_page


def told(page, text: str) -> None:
    page.wait_for_selector(f"text={text}")


def middle(page, selector: str, nth: int = 0) -> tuple[float, float]:
    locator = page.locator(selector).nth(nth)
    locator.scroll_into_view_if_needed()
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_dragged_point_is_told_once_when_let_go(app, serious_violations):
    x, y = middle(app, ".editor circle", 1)
    app.mouse.move(x, y)
    app.mouse.down()
    app.mouse.move(x + 60, y - 400, steps=6)
    assert "P = 33" in app.locator(".editor .key").inner_text()
    told(app, "curve (25, 17, 9, 3) after 0")
    app.mouse.up()
    told(app, "curve (25, 33, 9, 3) after 1")
    app.keyboard.press("ArrowRight")
    app.keyboard.press("ArrowUp")
    app.keyboard.press("ArrowUp")
    told(app, "curve (25, 33, 13, 3) after 2")
    assert serious_violations(app) == []
    assert app.console_errors == []
    assert app.foreign_requests == []


def test_a_stroke_beside_the_points_draws_the_curve(app):
    left, top = middle(app, ".editor circle", 0)
    right, bottom = middle(app, ".editor circle", 3)
    app.mouse.move(left, bottom)
    app.mouse.down()
    app.mouse.move(right, bottom, steps=8)
    app.mouse.up()
    told(app, "curve (3, 3, 3, 3) after 1")
    assert top < bottom


def test_a_drawing_is_handed_over_by_its_button(app):
    app.locator(".paint[data-mode=draw] button[title=Blue]").click()
    app.locator(".paint[data-mode=draw] button[title='Brush 5 pixels wide']").click()  # its edge is soft
    app.mouse.move(*middle(app, ".paint[data-mode=draw] canvas", 1))
    app.mouse.down()
    app.mouse.up()
    told(app, "drawn None")
    app.get_by_text("Add this drawing").click()
    told(app, "drawn [47, 111, 208]")


def test_a_region_is_marked_by_keyboard(app):
    app.locator(".paint[data-mode=mask] button[title='Brush 1 pixel wide']").click()
    canvas = app.locator(".paint[data-mode=mask] canvas").nth(1)
    canvas.focus()
    app.keyboard.press("ArrowRight")
    app.keyboard.press("Space")
    app.get_by_text("Repaint", exact=True).click()
    told(app, "marked [[0, 0], [4, 5]]")


def test_a_pixel_is_picked_by_pointer_and_by_keyboard(app):
    x, y = middle(app, ".paint[data-mode=pick] canvas", 1)
    app.mouse.click(x + 4, y + 4)
    told(app, "picked (4, 4)")
    app.keyboard.press("ArrowUp")
    app.locator(".paint[data-mode=pick] canvas").nth(1).focus()
    app.keyboard.press("ArrowUp")
    app.keyboard.press("Enter")
    app.wait_for_function("/picked \\((2|3), 4\\)/.test(document.body.innerText)")


def test_a_finger_on_its_way_past_picks_nothing_and_says_nothing(app):
    x, y = middle(app, ".paint[data-mode=pick] canvas", 1)
    spoken = app.locator(".paint[data-mode=pick] .spoken")
    where = {"clientX": x, "clientY": y, "bubbles": True}
    for kind in ("pointerdown", "pointermove", "pointercancel"):
        app.locator(".paint[data-mode=pick] canvas").nth(1).dispatch_event(kind, where)
    assert app.locator(".paint[data-mode=pick] .said").inner_text() == "row 5, column 5"
    assert spoken.inner_text() == ""
    told(app, "picked None")
    app.mouse.click(x + 4, y + 4)
    told(app, "picked (4, 4)")
    assert spoken.inner_text() == "row 5, column 5"


def test_the_keyboard_s_cursor_shows_on_focus(app):
    """Nothing of the overlay is drawn before; Tab from the buttons above it draws the cursor's cell."""
    inked = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(v => v)"
    overlay = app.locator(".paint[data-mode=draw] canvas").nth(1)
    assert not overlay.evaluate(inked)
    app.locator(".paint[data-mode=draw] .tools button").last.focus()
    app.keyboard.press("Tab")
    assert overlay.evaluate(inked)
