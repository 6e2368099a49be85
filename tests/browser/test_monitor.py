"""The monitor in a real browser, on the real model: what it says and shows is what the core computes."""

import csv
import re

import numpy as np
import pytest

from lm_core import run_monitor
from pages.components.monitor_text import EXAMPLE
from tests.browser.looks import cells, fits

pytestmark = pytest.mark.browser
PATIENCE = 120_000  # the first reading of a server loads the model
MARKS = "(document.querySelector('.st-key-monitor_strip').textContent.split('▲').length - 1)"  # one on the colour bar
WATCHED = ("spanish",)  # its detector is shipped


@pytest.fixture(scope="module")
def address(open_app) -> str:
    return open_app("app.py") + "/monitor"


@pytest.fixture
def show(address, settled):
    """A function that opens the page in a browser page with this query."""

    def open_page(page, query: str = ""):
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}?{query}")
        settled(page, PATIENCE)
        page.get_by_role("heading", name="Monitor", level=1).wait_for()
        return page

    return open_page


@pytest.fixture(scope="module")
def computed():
    """What the core says of the example."""
    return run_monitor.monitor(EXAMPLE, WATCHED)


@pytest.fixture(scope="module")
def read(new_module_page, address, settled):
    """A page with the example read."""
    page = new_module_page(color_scheme="light")
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}?watch={','.join(WATCHED)}")
    settled(page, PATIENCE)
    press_read(page)
    settled(page, PATIENCE)
    return page


def press_read(page) -> None:
    page.locator(".st-key-monitor_text_run button").click()
    page.locator(".st-key-monitor_heat .nsewdrag").first.wait_for()
    page.get_by_text("press Read").wait_for(state="detached")


def past(page) -> str:
    """Return "k of n" tokens past the threshold, as the summary has it of the first concept."""
    return cells(page)[4]


def hover(page, key: str, across: float, down: float) -> str:
    """Return the label of the cell at these shares of a figure's width and height."""
    area = page.locator(f".st-key-{key} .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * down)
    label = page.locator(f".st-key-{key} .hoverlayer .hovertext")
    label.wait_for()
    return label.text_content()


# -- a text -----------------------------------------------------------------------------------------------------------


def test_the_alarm_rings_and_the_summary_has_the_core_s_figures(read, computed, serious_violations):
    read.get_by_text("Alarm: Spanish.").wait_for()
    expected = [
        [name, f"{score:.3f}", f"{threshold:.3f}"]
        for name, score, threshold in zip(computed.concepts, computed.scores, computed.text_threshold, strict=True)
    ]
    found = cells(read)
    rows = [found[i : i + 5] for i in range(0, len(found), 5)]
    assert [[row[0], *(f"{float(cell):.3f}" for cell in row[1:3])] for row in rows] == expected
    above = computed.scores > computed.text_threshold
    assert [row[3] for row in rows] == ["yes" if one else "no" for one in above]
    assert serious_violations(read) == []
    assert read.console_errors == [] and read.foreign_requests == []


def test_hovering_the_heat_map_reads_the_core_s_figures(read, computed):
    tokens, blocks = len(computed.pieces), len(computed.blocks)
    for token, block in ((2, 3), (tokens // 2, blocks - 1), (tokens - 1, blocks // 2)):
        label = hover(read, "monitor_heat", (block + 0.5) / blocks, (token + 0.5) / tokens)
        figure = f"{computed.heat[0, token, block]:.3f}"
        assert label.startswith(f"{token + 1} · ")
        assert f"block {computed.blocks[block]}{figure} residual norms" in label
        read.mouse.move(0, 0)
        read.locator(".st-key-monitor_heat .hovertext").wait_for(state="detached")


def test_the_file_has_the_core_s_figures(read, computed):
    with read.expect_download() as caught:
        read.locator(".st-key-monitor_csv button").click()
    head, *rows = csv.reader(caught.value.path().read_text("utf-8").splitlines())
    assert head == ["token", *(f"{name}: {what}" for name in computed.concepts for what in ("score", "level"))]
    columns = np.array([[float(cell) for cell in row[1:]] for row in rows]).T
    np.testing.assert_allclose(columns[::2], computed.strip, atol=2e-5)
    np.testing.assert_allclose(columns[1::2], computed.levels, atol=2e-5)


def test_on_a_phone_the_reading_fits(read):
    fits(read)


def test_more_false_alarms_allowed_mark_more_tokens(chromium_page, show, settled):
    page = show(chromium_page, "watch=spanish&rate=0.01")
    press_read(page)
    few = int(past(page).split()[0])
    page.wait_for_function(f"() => {MARKS} === {few + 1}")
    page.locator(".st-key-rate [role=slider], .st-key-rate input[type=range]").first.focus()
    page.keyboard.press("End")
    page.get_by_text("press Read").wait_for()
    page.wait_for_function("new URL(location).searchParams.get('rate') === '0.2'")
    press_read(page)
    page.wait_for_function(f"() => {MARKS} > {few + 1}")
    many = page.evaluate(MARKS) - 1
    table = page.get_by_test_id("stDataFrame").first
    table.locator("canvas [role=gridcell]", has_text=f"{many} of ").wait_for(state="attached")
    assert page.console_errors == []


def test_an_empty_text_is_answered_with_a_sentence(chromium_page, show):
    page = show(chromium_page)
    page.locator(".st-key-monitor_text textarea").fill("  ")
    page.locator(".st-key-monitor_text textarea").blur()
    page.get_by_text("Choose at least one concept and give a text with words.").wait_for()


# -- an answer --------------------------------------------------------------------------------------------------------


def test_an_alarm_rings_while_it_writes_and_the_answer_is_read_token_by_token(chromium_page, show, serious_violations):
    page = show(chromium_page, "section=write&watch=spanish")
    page.locator(".st-key-monitor_prompt textarea").fill("Escribe un poema sobre el mar en español.")
    page.locator(".st-key-monitor_write button").click()
    page.locator(".column .alarm").get_by_text("Alarm: Spanish").wait_for()
    page.locator(".column .stop").click()
    page.locator('.writing[data-state="done"]').wait_for()
    page.locator(".st-key-monitor_read_answer button").wait_for()
    written = page.locator(".column .text").inner_text().strip()
    assert serious_violations(page) == []
    fits(page)
    page.locator(".st-key-monitor_read_answer button").click()
    page.locator(".st-key-monitor_text textarea").wait_for()
    assert page.locator(".st-key-monitor_text textarea").input_value() == written
    press_read(page)
    page.get_by_text("Alarm: Spanish.").wait_for()
    assert page.console_errors == [] and page.foreign_requests == []


# -- many texts -------------------------------------------------------------------------------------------------------


def test_a_file_is_scored_and_comes_back_a_row_a_text_without_formulas(chromium_page, show, serious_violations):
    page = show(chromium_page, "section=texts&watch_one=spanish")
    texts = ["Buenos días a todos, ¿cómo están ustedes?", "The bus was late again.", "=1+1", "@SUM(A1)", "Hi."]
    content = "text,place\n" + "".join(f'"{text}",somewhere\n' for text in texts)
    page.locator(".st-key-batch_file input[type=file]").set_input_files(
        {"name": "texts.csv", "mimeType": "text/csv", "buffer": content.encode()}
    )
    page.get_by_role("button", name="Score 5 texts").click()  # of the file: the field has four
    page.get_by_text(re.compile(r"\d of 5 texts pass the threshold for Spanish")).wait_for()
    assert len(cells(page)) == 5 * 5
    with page.expect_download() as caught:
        page.locator(".st-key-batch_csv button").click()
    rows = list(csv.DictReader(caught.value.path().read_text("utf-8").splitlines()))
    assert [row["text"] for row in rows] == [*texts[:2], "'=1+1", "'@SUM(A1)", "Hi."]
    assert [row["above"] for row in rows[:2]] == ["1", "0"]
    expected = run_monitor.batch(texts, "spanish", tokens=False)["texts"]
    assert [float(row["score"]) for row in rows] == pytest.approx([one["score"] for one in expected], abs=2e-5)
    assert serious_violations(page) == []
    fits(page)
    assert page.console_errors == [] and page.foreign_requests == []


def test_a_binary_file_of_texts_gets_one_sentence(chromium_page, show):
    page = show(chromium_page, "section=texts")
    page.locator(".st-key-batch_file input[type=file]").set_input_files(
        {"name": "texts.csv", "mimeType": "text/csv", "buffer": b"PK\x03\x04" + bytes(range(256))}
    )
    page.get_by_text("The file is a workbook or zip archive, not text").wait_for()
    assert page.get_by_test_id("stAlert").count() == 1 and page.console_errors == []


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_table_shows_a_set_s_shipped_results_or_how_to_make_them(chromium_page, show, settled, serious_violations):
    page = show(chromium_page, "section=table")
    page.locator(".st-key-detection_forest .nsewdrag").first.or_(
        page.get_by_text("Nothing is measured on this set yet")
    ).first.wait_for()
    settled(page)
    assert serious_violations(page) == []
    fits(page)
    assert page.console_errors == [] and page.foreign_requests == []
