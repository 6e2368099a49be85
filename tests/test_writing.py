"""The dial and the log of one answer, and the route that a browser follows it by."""

import asyncio
import json
import math
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from streamlit.testing.v1 import AppTest

from lm_core import run_llm
from lm_core.errors import ParameterError
from lm_core.jobs import scheduler
from lm_core.writing import Dial, Shelf, Writing, open_writing, writing

TOKEN = {"type": "token", "step": 0, "pieces": ["A", None, "<b>"], "strengths": [0.03]}
END = {"type": "end", "state": "done", "tokens_per_second": 20.0}


def test_a_dial_gives_what_was_set_last():
    dial = Dial((0.03, -0.01))
    dial.set([0.0, 0.02])
    assert dial.get() == (0.0, 0.02)


@pytest.mark.parametrize("strengths", [(0.03,), (math.nan, 0.0), (math.inf, 0.0), (0.0, -1.1)])
def test_a_dial_refuses_nonsense_and_keeps_its_place(strengths):
    dial = Dial((0.03, -0.01))
    with pytest.raises(ParameterError, match="strength"):
        dial.set(strengths)
    assert dial.get() == (0.03, -0.01)


def test_a_reader_waits_for_the_next_event():
    log = Writing()
    threading.Timer(0.05, log.append, [TOKEN]).start()
    assert log.since(0, timeout=5) == [TOKEN]
    assert log.since(1, timeout=0.01) == []
    assert log.since(-7) == [TOKEN]


def test_nothing_is_written_after_the_end_and_its_readers_do_not_wait():
    log = Writing()
    for event in (TOKEN, END, TOKEN):
        log.append(event)
    log.close()
    assert log.closed and log.events == [TOKEN, END]
    assert log.since(2, timeout=60) == []


def test_a_shelf_forgets_the_oldest_and_the_unread():
    clock = [0.0]
    shelf = Shelf(count=2, seconds=10, now=lambda: clock[0])
    first, second = shelf.open(), shelf.open()
    assert shelf.find(first.stream_id) is first
    third = shelf.open()
    assert shelf.find(second.stream_id) is None, "the longest unread goes first"
    clock[0] = 8.0
    assert shelf.find(third.stream_id) is third
    clock[0] = 12.0
    assert shelf.find(first.stream_id) is None
    assert shelf.find(third.stream_id) is third


def test_ids_are_long_and_unlike():
    ids = {open_writing().stream_id for _ in range(20)}
    assert len(ids) == 20 and min(map(len, ids)) >= 20
    assert writing("") is None and writing("0") is None


@pytest.fixture
def browser():
    from pages.components.stream_route import stream_route

    with TestClient(Starlette(routes=[stream_route])) as client:
        yield client


def finished() -> Writing:
    log = open_writing()
    log.append(TOKEN)
    log.append(END)
    return log


def test_the_route_streams_every_event_with_its_index_and_ends(browser):
    answer = browser.get(f"/stream/{finished().stream_id}")
    assert answer.headers["content-type"].startswith("text/event-stream")
    first, second = answer.text.strip().split("\n\n")
    assert first == f"id: 0\ndata: {json.dumps(TOKEN)}"
    assert second.startswith("id: 1\n") and json.loads(second.split("data: ")[1]) == END


@pytest.mark.parametrize(("last", "index"), [("0", 1), ("nonsense", 0)])
def test_a_reader_who_lost_the_connection_goes_on_after_the_last_event(browser, last, index):
    answer = browser.get(f"/stream/{finished().stream_id}", headers={"Last-Event-ID": last})
    assert answer.text.startswith(f"id: {index}\n")


def test_events_appended_while_a_browser_reads_reach_it(browser):
    log = open_writing()
    threading.Timer(0.1, log.append, [TOKEN]).start()
    threading.Timer(0.2, log.close).start()
    kinds = [
        json.loads(part.split("data: ")[1])["type"]
        for part in browser.get(f"/stream/{log.stream_id}").text.split("\n\n")[:-1]
    ]
    assert kinds == ["token", "end"]


def test_an_end_that_comes_while_one_looks_is_not_lost():
    from pages.components.stream_route import events

    class Late(Writing):
        def since(self, n: int, timeout: float = 0.0):
            found = super().since(n, timeout)
            self.append(END)
            return found

    async def read():
        return [part async for part in events(Late(), 0)]

    with ThreadPoolExecutor(1) as thread:  # Playwright keeps a loop running in the tests' own thread
        parts = thread.submit(lambda: asyncio.run(read())).result()
    assert [part.split("data: ")[1] for part in parts] == [json.dumps(END) + "\n\n"]


def test_polling_gives_what_there_is_from_an_index_on(browser):
    stream_id = finished().stream_id
    assert browser.get(f"/stream/{stream_id}?since=1").json() == [END]
    assert browser.get(f"/stream/{stream_id}?since=2").json() == []
    assert browser.get(f"/stream/{stream_id}?since=x").json() == [TOKEN, END]


def test_an_unknown_answer_is_told_from_an_empty_one(browser):
    assert browser.get("/stream/guess").status_code == 404
    assert browser.get(f"/stream/{open_writing().stream_id}?since=0").json() == []


# -- whoever finds an answer by its id goes on with it ----------------------------------------------------------------


def answer_page():
    import streamlit as st

    from lm_core.steer_params import SteerParams
    from pages.components import steering_answer

    params = SteerParams("Hello", ("spanish",), (0.02,))
    st.button("stop", key="stop", on_click=lambda: st.session_state.answer.stop())
    if st.button("write", key="write"):
        steering_answer.write(params)
    st.session_state.answer = steering_answer.answer_on_show(params)
    steering_answer.show_answer(st.session_state.answer, params)


def test_after_a_reload_the_dial_and_stop_still_work(monkeypatch):
    from pages.components.knobs import Dials

    def steer(params, *, dial, writing, watched, on_progress, check):
        while True:
            check()
            writing.append(TOKEN | {"strengths": list(dial.get())})
            threading.Event().wait(0.01)

    monkeypatch.setattr(run_llm, "steer", steer)
    first = AppTest.from_function(answer_page, default_timeout=30).run().button(key="write").click().run()
    log = first.session_state.answer.log
    reloaded = AppTest.from_function(answer_page, default_timeout=30)
    reloaded.query_params["s"] = log.stream_id
    reloaded.run()
    adopted = reloaded.session_state.answer
    assert adopted.log is log and adopted.job.active and adopted.params.prompt == "Hello"
    adopted.turn(Dials({"spanish": 0.05}))
    assert log.since(len(log.events) + 2, timeout=5)[0]["strengths"] == [0.05]
    reloaded.button(key="stop").click().run()
    assert not reloaded.exception and scheduler().wait(adopted.job, 5).state == "cancelled"
    assert log.closed


# -- what the browser makes of the events -----------------------------------------------------------------------------


def test_projections_are_placed_by_the_token_they_begin_with():
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed; install it to run the page's modules")
    script = """
const { absorb, emptyAnswer, tintScale } = await import(process.argv[1]);
const reading = (from, values) => ({ type: "reading", from, rows: [{ nll: from, projections: { spanish: values } }] });
const answer = emptyAnswer();
absorb(answer, { type: "start", rows: [{ name: "steered", title: "Steered" }], concepts: [{ id: "spanish" }] });
for (const each of [reading(0, [1, 2]), reading(2, [3, null]), reading(2, [3, null])]) absorb(answer, each);
const [{ projections, reading: figures }] = answer.rows;
console.log(JSON.stringify([projections.spanish, figures, tintScale(answer, "spanish")]));
"""
    module = Path("pages/components/writing/answer.js").resolve()
    told = subprocess.run([node, "--input-type=module", "-e", script, module.as_uri()], capture_output=True, text=True)
    assert json.loads(told.stdout) == [[1, 2, 3, None], {"nll": 2}, 2], told.stderr


# -- sliders ----------------------------------------------------------------------------------------------------------


def test_a_slider_reaches_as_far_as_its_value_and_the_longest_strength():
    from pages.components.knobs import Knob

    assert Knob("spanish", "Spanish").reach(0.03) == 0.1
    assert Knob("spanish", "Spanish", collapse=0.2).reach(-0.25) == 0.26
    assert Knob("spanish", "Spanish").reach(0.5) == 0.5
    assert Knob("spanish", "Spanish", collapse=0.95).reach(0.0) == 1.0
