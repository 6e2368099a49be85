"""What tests of several pages read off a browser page."""


def cells(page, which: int = 0) -> list[str]:
    """Return what the cells of a table hold, counted from the top; it is painted, so its accessible twin is read."""
    found = page.get_by_test_id("stDataFrame").nth(which).locator("canvas [role=gridcell]")
    found.first.wait_for(state="attached")
    return found.all_text_contents()


def fits(page, width: int = 390) -> None:
    """Assert that nothing is wider than the window; the page gets its width back."""
    before = page.viewport_size
    page.set_viewport_size({"width": width, "height": 844})
    page.wait_for_function(
        "width => document.documentElement.scrollWidth <= width &&"
        " (e => e.scrollWidth <= e.clientWidth)(document.querySelector('[data-testid=stMain]'))",
        arg=width,
        timeout=10_000,
    )
    page.set_viewport_size(before)
