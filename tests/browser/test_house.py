"""The house in a real browser: the first visit, both colour schemes, a phone's width, nothing fetched from outside."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
ALL = {
    "": "Learning Mechanics Lab",
    "solvable-settings": "Solvable settings",
    "tractable-limits": "Tractable limits",
    "macroscopic-laws": "Macroscopic laws",
    "hyperparameters": "Hyperparameters",
    "universality": "Universality",
    "scoreboard": "Scoreboard",
    "concept-lab": "Concept lab",
    "monitor": "Monitor",
    "machine": "Machine",
}
# Patch mosaic, theory vs network, where theory stops and steering have tests of their own.
PAGES = {
    path: title for path, title in ALL.items() if (ROOT / "pages" / f"{path.replace('-', '_') or 'home'}.py").exists()
}


@pytest.fixture
def visit(new_page, open_app, settled):
    def open_page(path: str, title: str, fresh: bool = False, **options):
        page = new_page(**options)
        page.goto(f"{open_app('app.py', fresh=fresh)}/{path}")
        settled(page, timeout=60_000)
        page.get_by_role("heading", name=title, level=1).wait_for()
        page.wait_for_timeout(1000)  # late fonts and chunks
        return page

    return open_page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_quiet_and_accessible(visit, serious_violations, path, scheme):
    page = visit(path, PAGES[path], color_scheme=scheme)
    assert serious_violations(page) == []
    assert page.console_errors == []
    assert page.foreign_requests == []


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_a_phone(visit, path):
    page = visit(path, PAGES[path], width=390, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    main = page.locator('[data-testid="stMain"]')
    assert main.evaluate("element => element.scrollWidth <= element.clientWidth")


def test_the_first_visitor_of_a_server_may_come_by_a_pages_address(visit):
    page = visit("machine", "Machine", fresh=True)
    assert page.get_by_role("dialog").count() == 0
    assert page.console_errors == []


def test_home_leads_to_the_patch_mosaic_and_back(visit, settled):
    page = visit("", PAGES[""])
    page.locator(".st-key-open_mosaic button").click()
    page.get_by_role("heading", name="Patch mosaic", level=1).wait_for()
    assert "/patch-mosaic" in page.url
    page.get_by_role("link", name="Home").first.click()
    page.get_by_role("heading", name=PAGES[""], level=1).wait_for()
    assert page.console_errors == []


def test_home_leads_to_an_exhibit(visit):
    page = visit("", PAGES[""])
    page.locator(".st-key-strand_a").get_by_role("link").first.click()
    page.get_by_role("heading", name="Solvable settings", level=1).wait_for()
    assert page.evaluate("new URL(location).searchParams.get('exhibit')") == "a1"
