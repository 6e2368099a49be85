"""The strand pages and the scoreboard, without a browser: what they show at once, how they break, what a link opens."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from lm_core import run_mechanics
from lm_core.exhibit_params import NAMES, find_exhibit
from lm_core.jobs import scheduler
from lm_core.run_mechanics import variant_params
from pages.components.exhibit import STRAND_PAGES, key_of
from pages.components.exhibit_figures import figure_of, score_text

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60


def open_page(page: str, **query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "pages" / "frame.py"), default_timeout=SECONDS).run()
    app.switch_page(page)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def open_exhibit(name: str, **query: str) -> AppTest:
    return open_page(STRAND_PAGES[name[0]], exhibit=name, **query)


def words(app: AppTest) -> str:
    """Everything a visitor can read on the page."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "info", "error")
    parts = [element.value for kind in kinds for element in app.get(kind)]
    return "\n".join([*parts, *(element.proto.body for element in app.get("html"))])


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_run_shows_at_once(name):
    app, shipped = open_exhibit(name), run_mechanics.shipped(variant_params(name))
    assert not app.error
    assert shipped.outcome.verdict in words(app)
    assert find_exhibit(name).claim in words(app)
    assert app.metric[0].label == shipped.scores[0].name
    assert app.metric[0].value == score_text(shipped.scores[0].value)


@pytest.mark.parametrize("name", NAMES)
def test_breaking_shows_why_and_leads_back(name):
    app, exhibit = open_exhibit(name), find_exhibit(name)
    app.button(key="break_exhibit").click().run()
    assert not app.exception
    assert exhibit.break_it.why in words(app)
    assert run_mechanics.shipped(variant_params(name, "broken")).outcome.verdict in words(app)
    app.button(key="break_exhibit").click().run()
    assert run_mechanics.shipped(variant_params(name)).outcome.verdict in words(app)


def test_a_link_opens_the_broken_run():
    app = open_exhibit("a1", run="broken")
    assert find_exhibit("a1").break_it.why in words(app)
    assert "run" not in app.query_params


def test_other_settings_keep_the_last_curves_and_say_so():
    app, exhibit = open_exhibit("d2"), find_exhibit("d2")
    control = next(one for one in exhibit.controls if one.stops)
    other = next(stop for stop in control.stops if stop != control.default)
    app.select_slider(key=key_of(exhibit, control)).set_value(other).run()
    assert "of other settings" in words(app)
    assert run_mechanics.shipped(variant_params("d2")).outcome.verdict in words(app)
    assert any(button.label == "Run with these settings" for button in app.button)


@pytest.mark.slow
def test_a_live_run_takes_the_shipped_ones_place():
    app = open_exhibit("d2")
    app.button(key="run_exhibit").click().run()
    owner = app.session_state["_owner"]
    job = scheduler().get(app.session_state["_exhibit_d2_job"], owner)
    assert scheduler().wait(job, SECONDS).state == "done", job.error
    app.run()
    assert not app.exception
    assert job.result.outcome.verdict in words(app)
    assert ", here." in words(app)


def test_an_unknown_exhibit_in_a_link_opens_the_first():
    app = open_page("macroscopic_laws.py", exhibit="z9")
    assert find_exhibit("c1").claim in words(app)


def test_the_features_lead_to_a_language_model():
    assert "Now do it to a language model" in words(open_exhibit("c3"))
    assert "Now do it to a language model" not in words(open_exhibit("c1"))


def test_universality_shows_how_alike_networks_draw():
    shown = words(open_page("universality.py"))
    assert "Alike in what they make" in shown
    assert "Median Pearson's r over 100 starting noises" in shown


def test_the_scoreboard_counts_what_is_within():
    app = open_page("scoreboard.py")
    within = sum(run_mechanics.latest(name)[0].within for name in NAMES)
    assert f"**{within} of {len(NAMES)}** are within their tolerance." in words(app)
    for name in NAMES:
        assert find_exhibit(name).title in words(app)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", run_mechanics.VARIANTS)
def test_every_panel_can_be_drawn(name, variant):
    for panel in run_mechanics.shipped(variant_params(name, variant)).outcome.panels:
        figure = figure_of(panel)
        assert len(figure.data) >= len(panel.curves)
        assert figure.layout.xaxis.title.text == panel.x_label
