"""The concept lab in a real browser, on the real model: a newcomer's pirate, from the boxes to a slider and a file."""

import re

import pytest

from lm_core import user_concepts
from pages.components import lab_pirate
from tests.browser.looks import cells, fits

pytestmark = pytest.mark.browser
NAME, CONCEPT = "Pirate talk", "my-pirate-talk"
PATIENCE = 120_000  # a direction takes some ten seconds, on a loaded machine more
GOOD = "Ahoy there,1\nArr matey,1\nHello dear,0\nGood day,0\n"


@pytest.fixture(scope="module")
def address(open_app) -> str:
    return open_app("app.py") + "/concept-lab"


@pytest.fixture
def show(address, settled):
    """A function that opens the lab in a browser page, by default at this server."""

    def open_page(page, query: str = "", at: str = address):
        page.set_default_timeout(PATIENCE)
        page.goto(f"{at}{query}")
        settled(page, PATIENCE)
        page.get_by_role("heading", name="Concept lab", level=1).wait_for()
        return page

    return open_page


@pytest.fixture(scope="module")
def made(new_module_page, address, settled):
    """A page on which pirate was typed and found; `progress` is what its job said meanwhile."""
    page = new_module_page(color_scheme="light")
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    settled(page, PATIENCE)
    page.locator(".st-key-lab_name input").fill(NAME)
    page.locator(".st-key-lab_with textarea").fill(lab_pirate.WITH)
    page.locator(".st-key-lab_without textarea").fill(lab_pirate.WITHOUT)
    page.locator(".st-key-lab_make button").click()
    said = page.locator(".st-key-lab_job_panel").get_by_text(re.compile(r"Finding the direction: .*\d+%"))
    said.wait_for()
    page.progress = page.locator(".st-key-lab_job_panel").inner_text()
    page.locator(".st-key-lab_result").wait_for()
    settled(page, PATIENCE)
    yield page
    if user_concepts.is_mine(CONCEPT) and CONCEPT in user_concepts.my_concepts():
        user_concepts.delete(CONCEPT)


def upload(page, key: str, name: str, content: bytes) -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.locator(f".st-key-{key} input[type=file]").set_input_files(file)


# -- making -----------------------------------------------------------------------------------------------------------


def test_thirty_two_typed_lines_become_a_concept_with_progress_and_held_out_figures(made, serious_violations):
    assert re.search(r"Finding the direction: .*\d+%", made.progress) and "Cancel" in made.progress
    found = made.locator(".st-key-lab_result").inner_text()
    assert "found and saved" in found.lower() and NAME in found
    auroc = re.search(r"Held-out AUROC\s+([01]\.\d{3})", found)
    accuracy = re.search(r"Held-out accuracy\s+(\d+)%", found)
    assert auroc and float(auroc[1]) > 0.9 and accuracy and int(accuracy[1]) > 80
    assert re.search(r"Usable strength.*\n+.*%", found)
    made.locator(".st-key-lab_by_block .nsewdrag").first.wait_for()
    assert serious_violations(made) == []
    assert made.console_errors == [] and made.foreign_requests == []


def test_on_a_phone_the_result_fits(made):
    fits(made)


def test_its_link_leads_to_its_slider_which_steers(made, chromium_page, show):
    page = show(chromium_page)
    page.locator(f".st-key-lab_entry_{CONCEPT} a").click()
    page.locator(f'.knobs input[aria-label^="{NAME}"]').wait_for()
    page.locator(".st-key-write button").click()
    page.locator(".column.steered .t").nth(3).wait_for()
    page.locator(".column.steered .stop").click()
    page.locator('.writing[data-state="done"]').wait_for()
    page.locator(".column.steered .keys").get_by_text(f"{NAME} +").wait_for()
    assert page.console_errors == [] and page.foreign_requests == []


def test_another_server_has_it_and_it_goes_out_as_a_file_and_comes_in_again(made, new_page, open_app, show):
    restarted = show(new_page(), at=open_app("app.py", fresh=True) + "/concept-lab")
    restarted.locator(f".st-key-lab_entry_{CONCEPT}").get_by_text(NAME, exact=True).wait_for()
    page = show(new_page())
    more = page.locator(f".st-key-lab_more_{CONCEPT} button").first
    more.click()
    with page.expect_download() as caught:
        page.locator(f".st-key-lab_export_{CONCEPT} button:visible").first.click()
    file = caught.value.path().read_bytes()
    assert caught.value.suggested_filename == f"{CONCEPT}.safetensors"
    page.get_by_text("I want it gone").click()
    page.locator(f".st-key-lab_delete_{CONCEPT} button:not([disabled])").click()
    page.get_by_text("None yet.").wait_for()
    page.get_by_text("Add a concept from a file").click()
    upload(page, "lab_take", "pirate.safetensors", file)
    page.locator(".st-key-lab_take_now button:not([disabled])").click()
    page.get_by_text(f"Added: {NAME}.").wait_for()
    page.locator(f".st-key-lab_entry_{CONCEPT}").wait_for()
    assert page.console_errors == []


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_row_that_is_wrong_is_named_and_the_good_ones_stay(chromium_page, show, serious_violations):
    page = show(chromium_page)
    page.get_by_role("radio", name="A file").click()
    upload(page, "lab_file", "examples.csv", ("text,label\n" + GOOD + "No label here,perhaps\n").encode())
    page.get_by_text("Read: 2 with and 2 without the concept.").wait_for()
    page.get_by_text("1 row was not used").wait_for()
    where, why = cells(page)[:2]
    assert where == "Row 6" and "perhaps" in why
    assert serious_violations(page) == []
    assert page.console_errors == []


def test_a_binary_file_gets_one_sentence_and_nothing_typed_is_lost(chromium_page, show):
    page = show(chromium_page)
    page.locator(".st-key-lab_name input").fill("Kept")
    page.locator(".st-key-lab_with textarea").fill("Ahoy!")
    page.get_by_role("radio", name="A file").click()
    upload(page, "lab_file", "picture.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    page.get_by_text("The file is a PNG picture, not text").wait_for()
    assert page.get_by_test_id("stAlert").count() == 1
    page.get_by_role("radio", name="Type or paste").click()
    page.locator(".st-key-lab_with textarea").wait_for()
    assert page.locator(".st-key-lab_with textarea").input_value() == "Ahoy!"
    assert page.locator(".st-key-lab_name input").input_value() == "Kept"
    assert page.console_errors == []


# -- the other sections -----------------------------------------------------------------------------------------------


def test_two_methods_are_compared(made, chromium_page, show, settled, serious_violations):
    page = show(chromium_page, f"?section=compare&concept={CONCEPT}")
    tags = page.locator(".st-key-lab_methods [data-tag]")
    for left in (4, 3, 2):
        page.locator(".st-key-lab_methods input").focus()
        page.keyboard.press("Backspace")
        tags.nth(left).wait_for(state="detached")
    page.locator(".st-key-lab_prompts input[type=range]").focus()
    page.keyboard.press("Home")
    page.locator(".st-key-lab_prompts").get_by_text("2", exact=True).first.wait_for()
    settled(page)
    page.locator(".st-key-lab_compare_run button").click()
    page.locator(".st-key-lab_curves .nsewdrag").first.wait_for()
    page.get_by_text(re.compile(r"has a held-out AUROC of [01]\.\d{3}, then .* with [01]\.\d{3}")).wait_for()
    found = cells(page)
    assert any("RFM" in cell for cell in found)
    settled(page)
    assert serious_violations(page) == []
    fits(page)
    assert page.console_errors == [] and page.foreign_requests == []


def test_the_direction_has_words_neighbours_and_examples(made, chromium_page, show, settled, serious_violations):
    page = show(chromium_page, f"?section=meaning&concept={CONCEPT}")
    page.locator(".st-key-lab_meaning_run button").click()
    assert len(cells(page)) >= 10
    assert set(cells(page, 3)) & set(lab_pirate.WITH.splitlines())
    cells(page, 2)
    settled(page)
    assert serious_violations(page) == []
    fits(page)
    assert page.console_errors == [] and page.foreign_requests == []
