"""The job panel: what a visitor reads while a job waits, runs and has ended."""

import threading

import pytest
from streamlit.testing.v1 import AppTest

from lm_core.errors import ParameterError
from lm_core.jobs import Job, Scheduler
from pages.components import live

PATIENCE = 30.0


def panel_page():
    """The smallest page with a job; it finds its scheduler and work where the test put them."""
    import streamlit as st

    from pages.components import live

    scheduler, work = st.session_state.scheduler, st.session_state.work
    if st.button("Run", key="run"):
        st.session_state.job = scheduler.submit(live.owner(), "Seed 3", work).id
    job = scheduler.get(st.session_state.get("job", ""), live.owner())

    def on_done(job):
        st.session_state.taken = [*st.session_state.get("taken", []), job.result]

    live.job_panel(scheduler, job, on_done=on_done, preview=lambda job: st.text(f"preview {job.partial}"))


@pytest.fixture
def open_panel():
    schedulers = []

    def open_with(work) -> AppTest:
        app = AppTest.from_function(panel_page, default_timeout=PATIENCE)
        app.session_state.scheduler = Scheduler("test")
        app.session_state.work = work
        schedulers.append(app.session_state.scheduler)
        app.run().button(key="run").click().run()
        assert not app.exception
        return app

    yield open_with
    for scheduler in schedulers:
        for job in list(scheduler._jobs.values()):
            scheduler.abandon(job.owner)


def job_of(app: AppTest) -> Job:
    scheduler = app.session_state.scheduler
    return scheduler.get(app.session_state.job, app.session_state[live.OWNER_KEY])


def ended(app: AppTest) -> AppTest:
    """Wait for the job's end and look again, as the panel's next tick would."""
    assert not app.session_state.scheduler.wait(job_of(app), PATIENCE).active
    app.run()
    assert not app.exception
    return app


def stepping(context, started: threading.Event):
    context.progress(0.4, "step 8 of 20", partial="half an image")
    started.set()
    while True:
        context.check()
        started.wait(0.005)


def test_a_running_job_shows_progress_preview_and_cancel(open_panel):
    started = threading.Event()
    app = open_panel(lambda context: stepping(context, started))
    assert started.wait(PATIENCE)
    app.run()
    assert app.get("progress")[0].proto.value == 40
    assert "Seed 3: step 8 of 20 · 40%" in app.get("progress")[0].proto.text
    assert app.text[0].value == "preview half an image"
    app.button(key="cancel").click().run()
    ended(app)
    assert app.info[0].value == "Cancelled."
    assert not app.get("progress")


def test_a_finished_job_is_handed_over_once(open_panel):
    app = open_panel(lambda context: "image")
    ended(app).run().run()
    assert app.session_state.taken == ["image"]
    assert not app.get("progress")
    assert not app.error


def test_a_users_mistake_is_shown_as_it_is(open_panel):
    def work(context):
        raise ParameterError("images is 0; choose 1 to 60,000.")

    assert ended(open_panel(work)).error[0].value == "images is 0; choose 1 to 60,000."


def test_anything_else_is_calm_and_keeps_its_details_for_the_log(open_panel, caplog):
    def work(context):
        raise RuntimeError("secret path /home/somebody")

    app = ended(open_panel(work))
    assert app.error[0].value == live.CALM
    assert "secret path" in caplog.text


def test_two_sessions_have_two_owners(open_panel):
    one, other = open_panel(lambda context: 1), open_panel(lambda context: 2)
    assert one.session_state[live.OWNER_KEY] != other.session_state[live.OWNER_KEY]


def job(**changes) -> Job:
    return Job("id", "ann", "Seed 3", None, **changes)


def test_waiting_is_described_by_place_and_time(monkeypatch):
    monkeypatch.setattr(Job, "place", property(lambda self: 3))
    monkeypatch.setattr(Job, "eta_seconds", property(lambda self: 200.0))
    assert live.describe(job()) == "Seed 3: 2 waiting before you · about 3 min left"
    monkeypatch.setattr(Job, "place", property(lambda self: 1))
    monkeypatch.setattr(Job, "eta_seconds", property(lambda self: None))
    assert live.describe(job()) == "Seed 3: next in the queue"


def test_a_job_that_ends_while_it_is_described_is_no_error(monkeypatch):
    answers = iter([12.0])
    monkeypatch.setattr(Job, "eta_seconds", property(lambda self: next(answers, None)))
    assert live.describe(job(state="running", progress=0.5)) == "Seed 3: starting · 50% · about 12 s left"


def test_a_cancelled_job_says_that_it_is_ending():
    assert "ending after this step" in live.describe(job(state="running", _stop="Cancelled."))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "a moment"), (0.6, "a moment"), (12.4, "about 12 s"), (89.0, "about 89 s"), (125.0, "about 2 min")],
)
def test_durations_are_spelled_as_people_say_them(seconds, words):
    assert live.spell_seconds(seconds) == words


def test_outside_a_session_nobody_listens():
    assert live.connection() is None
