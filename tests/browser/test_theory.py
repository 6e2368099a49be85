"""Theory vs network in a real browser: quiet and accessible, a phone's width, a click on a dot, links that arrive."""

import pytest

from tests import surveys

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(open_app, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("surveys")
    surveys.write(folder)
    return open_app("tests/browser/theory_app.py", env={"LM_TEST_SURVEYS": str(folder)})


@pytest.fixture
def visit(new_page, address, settled):
    def open_page(query: str = "", **options):
        page = new_page(**options)
        page.goto(address + query)
        settled(page)
        page.locator(".lm-gallery").first.wait_for()
        page.locator(".st-key-distribution .scatterlayer").wait_for()
        return page

    return open_page


def test_the_page_is_quiet_and_accessible_in_light_and_dark(visit, serious_violations):
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        assert serious_violations(page) == []
        assert page.console_errors == [] and page.foreign_requests == []


def test_the_page_fits_a_phone_and_the_gallery_scrolls_inside_it(visit):
    page = visit(width=390, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    gallery = page.locator(".lm-gallery")
    gallery.evaluate("element => element.scrollLeft = 200")
    head = gallery.locator("tbody th").first.bounding_box()
    assert abs(head["x"] - gallery.bounding_box()["x"]) < 3


def test_controls_are_in_the_url_and_a_link_sets_them(visit, settled):
    page = visit("/?dataset=Fashion-MNIST&figure=R²&network_steps=150&sort=Worst+first")
    page.get_by_text("R² with the UNet at 150 steps").wait_for()
    assert page.locator(".lm-gallery tbody th").first.inner_text().startswith("11")
    page.get_by_role("radio", name="r", exact=True).click()
    settled(page)
    page.get_by_text("r with the UNet at 150 steps").wait_for()
    assert "figure" not in page.url


def test_a_clicked_dot_shows_its_seed_and_the_link_opens_it_in_the_patch_mosaic(visit, open_app, settled):
    page = visit()
    dot = page.locator(".st-key-distribution .scatterlayer .points path").nth(3)
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator(".lm-gallery").nth(1).wait_for()
    assert page.locator(".lm-gallery").first.locator("tbody th").inner_text() == "3"
    link = page.locator(".lm-gallery a").nth(3)
    assert link.get_attribute("target") == "_blank", "in this tab it would end the visit and what was measured in it"
    page.goto(f"{open_app('app.py')}/{link.get_attribute('href')}")
    settled(page)
    page.get_by_text("seed 3, Local (LS) over the first 300 training images").wait_for()
    assert page.console_errors == []
