"""The queue: order, privacy, cancelling at each phase, crashes, closed pages, expiry, remaining time."""

import logging
import threading
import time

import pytest

from lm_core.errors import JobCancelled, ParameterError, QueueError
from lm_core.jobs import BY_OWNER, PAGE_CLOSED, REPLACED, Scheduler, scheduler

PATIENCE = 30.0  # seconds before a test that waits on a thread gives up


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """Work that stands still between its steps until it is let on."""

    def __init__(self, result="result") -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.result, self.ended = result, threading.Event()

    def __call__(self, context):
        self.entered.set()
        try:
            while not self.open.wait(0.002):
                context.check()
            context.check()
            return self.result
        finally:
            self.ended.set()

    def wait_entered(self) -> "Gate":
        assert self.entered.wait(PATIENCE)
        return self


@pytest.fixture
def queue():
    queue = Scheduler("test")
    yield queue
    for job in list(queue._jobs.values()):
        queue.abandon(job.owner)


def finish(queue, job):
    assert not queue.wait(job, PATIENCE).active
    return job


def test_a_job_returns_its_result_and_its_times(queue):
    job = finish(queue, queue.submit("ann", "Two and two", lambda context: 4))
    assert (job.state, job.result, job.error, job.progress, job.place) == ("done", 4, None, 1.0, 0)
    assert job.started is not None and job.finished >= job.started
    assert job.eta_seconds is None
    assert queue.get(job.id, "ann") is job


def test_no_thread_before_the_first_job():
    before = threading.active_count()
    Scheduler("idle").lengths()
    assert threading.active_count() == before


def test_jobs_run_one_at_a_time_first_come_first_served(queue):
    order, running, most = [], [], []
    gate = Gate()
    first = queue.submit("owner", "first", gate)
    gate.wait_entered()

    def work(name):
        def inner(context):
            running.append(name)
            most.append(len(running))
            order.append(name)
            context.progress(0.5)
            running.remove(name)

        return inner

    jobs = [queue.submit(f"owner {i}", "later", work(i)) for i in range(8)]
    assert [job.place for job in jobs] == list(range(1, 9))
    assert first.place == 0
    assert queue.lengths() == (1, 8, 20)
    gate.open.set()
    for job in jobs:
        finish(queue, job)
    assert order == list(range(8))
    assert set(most) == {1}
    assert queue.lengths() == (0, 0, 20)


def test_many_submitting_threads_never_overlap():
    queue = Scheduler("crowd", limit=100)
    inside, worst, jobs, lock = [0], [0], [], threading.Lock()

    def work(context):
        inside[0] += 1
        worst[0] = max(worst[0], inside[0])
        time.sleep(0.001)
        context.progress(0.5)
        inside[0] -= 1
        return threading.current_thread().name

    def submitter(number):
        for turn in range(3):
            job = queue.submit(f"{number}-{turn}", "work", work)
            with lock:
                jobs.append(job)

    threads = [threading.Thread(target=submitter, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {finish(queue, job).state for job in jobs} == {"done"}
    assert worst[0] == 1
    assert {job.result for job in jobs} == {"jobs-crowd"}  # one worker


def test_cancel_while_waiting_is_immediate_and_never_runs(queue):
    gate, ran = Gate(), []
    queue.submit("ann", "long", gate)
    gate.wait_entered()
    waiting = queue.submit("bob", "short", ran.append)
    behind = queue.submit("cem", "short", lambda context: 3)
    assert behind.place == 2
    assert queue.cancel(waiting.id, "bob")
    assert (waiting.state, waiting.place, str(waiting.error)) == ("cancelled", 0, BY_OWNER)
    assert behind.place == 1
    gate.open.set()
    assert finish(queue, behind).result == 3
    assert ran == []
    assert not queue.cancel(waiting.id, "bob")


def test_cancel_while_running_takes_effect_at_the_next_check_and_frees_the_slot(queue):
    gate = Gate()
    job = queue.submit("ann", "long", gate)
    gate.wait_entered()
    after = queue.submit("bob", "short", lambda context: "turn")
    assert queue.cancel(job.id, "ann")
    assert finish(queue, after).result == "turn"
    assert job.state == "cancelled" and isinstance(job.error, JobCancelled) and job.result is None
    assert gate.ended.is_set()  # the work's own finally ran


def test_cancel_between_the_last_check_and_the_end_drops_the_result(queue):
    started, go = threading.Event(), threading.Event()

    def work(context):
        started.set()
        go.wait(PATIENCE)
        return "too late"

    job = queue.submit("ann", "deaf", work)
    started.wait(PATIENCE)
    queue.cancel(job.id, "ann")
    assert job.cancelling and job.state == "running"
    go.set()
    finish(queue, job)
    assert (job.state, job.result, job.cancelling) == ("cancelled", None, False)


def test_cancel_before_the_first_report(queue):
    gate, reports = Gate(), []

    def work(context):
        gate(type("Silent", (), {"check": lambda self: None})())
        context.progress(0.1)
        reports.append("published")

    job = queue.submit("ann", "slow to start", work)
    gate.wait_entered()
    queue.cancel(job.id, "ann")
    gate.open.set()
    assert finish(queue, job).state == "cancelled"
    assert reports == [] and job.progress == 0


def test_cancel_after_the_end_changes_nothing(queue):
    job = finish(queue, queue.submit("ann", "quick", lambda context: 1))
    assert not queue.cancel(job.id, "ann")
    assert (job.state, job.result) == ("done", 1)


@pytest.mark.parametrize("crash", [RuntimeError("boom"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
def test_a_crash_is_logged_and_releases_the_slot(queue, caplog, crash):
    def work(context):
        raise crash

    with caplog.at_level(logging.ERROR, "lm_core.jobs"):
        job = finish(queue, queue.submit("ann", "Unlucky", work))
    assert (job.state, job.result) == ("failed", None)
    assert job.error is crash and job.error.__traceback__ is None  # no frame keeps the work's arrays alive
    assert "Unlucky" in caplog.text and "Traceback" in caplog.text and job.id not in caplog.text
    assert finish(queue, queue.submit("bob", "next", lambda context: "fine")).result == "fine"


def test_a_users_mistake_fails_without_a_traceback_in_the_log(queue, caplog):
    def work(context):
        raise ParameterError("images is 0; choose 1 to 60,000.")

    job = finish(queue, queue.submit("ann", "wrong", work))
    assert job.state == "failed" and str(job.error) == "images is 0; choose 1 to 60,000."
    assert "Traceback" not in caplog.text


def test_owners_never_see_or_touch_each_others_jobs(queue):
    gate = Gate()
    job = queue.submit("ann", "private", gate, key="same")
    gate.wait_entered()
    assert queue.get(job.id, "bob") is None
    assert not queue.cancel(job.id, "bob")
    assert job.state == "running" and not job.cancelling
    assert queue.submit("bob", "private", lambda context: 1, key="same") is not job
    queue.abandon("bob")
    assert not job.cancelling
    assert queue.get("no such id", "ann") is None


def test_job_names_cannot_be_guessed(queue):
    ids = {queue.submit(f"{i}", "x", lambda context: None).id for i in range(10)}
    assert len(ids) == 10 and all(len(name) >= 20 for name in ids)


def test_a_newer_request_replaces_the_owners_waiting_one_and_keeps_its_place(queue):
    gate = Gate()
    queue.submit("busy", "long", gate)
    gate.wait_entered()
    old = queue.submit("ann", "old", lambda context: "old")
    other = queue.submit("bob", "other", lambda context: "other")
    new = queue.submit("ann", "new", lambda context: "new")
    assert (old.state, str(old.error)) == ("cancelled", REPLACED)
    assert (new.place, other.place) == (1, 2)
    assert queue.lengths().waiting == 2
    gate.open.set()
    assert finish(queue, new).result == "new"


def test_a_newer_request_cancels_the_owners_running_one(queue):
    gate = Gate()
    old = queue.submit("ann", "old", gate)
    gate.wait_entered()
    new = queue.submit("ann", "new", lambda context: "new")
    assert finish(queue, new).result == "new"
    assert (old.state, str(old.error)) == ("cancelled", REPLACED)


def test_the_same_key_returns_the_job_that_is_there(queue):
    gate, calls = Gate(), []
    blocker = queue.submit("busy", "long", gate)
    gate.wait_entered()
    job = queue.submit("ann", "work", lambda context: calls.append(1) or len(calls), key="k")
    assert queue.submit("ann", "work", lambda context: calls.append(1), key="k") is job
    gate.open.set()
    assert finish(queue, job).result == 1
    assert queue.submit("ann", "work", lambda context: calls.append(1), key="k") is job
    assert queue.submit("ann", "work", lambda context: "other", key="l") is not job
    assert blocker.state == "done" and calls == [1]


def test_the_same_key_starts_again_after_a_failure_or_a_cancellation(queue):
    gate = Gate()
    job = queue.submit("ann", "work", gate, key="k")
    gate.wait_entered()
    queue.cancel(job.id, "ann")
    again = queue.submit("ann", "work", lambda context: 1 / 0, key="k")
    assert again is not job
    finish(queue, again)
    third = queue.submit("ann", "work", lambda context: "at last", key="k")
    assert finish(queue, third).result == "at last"


def test_the_cap_refuses_with_a_sentence_and_cancels_nothing():
    queue = Scheduler("small", limit=2)
    gate = Gate()
    running = queue.submit("ann", "long", gate)
    gate.wait_entered()
    waiting = [queue.submit(name, "wait", lambda context: "ok") for name in ("bob", "cem")]
    with pytest.raises(QueueError, match="2 jobs are waiting already"):
        queue.submit("dan", "one too many", lambda context: None)
    with pytest.raises(QueueError):
        queue.submit("ann", "one too many", lambda context: None)
    assert not running.cancelling and [job.state for job in waiting] == ["queued"] * 2
    replaced = queue.submit("cem", "instead", lambda context: "ok")  # needs no further place
    gate.open.set()
    assert finish(queue, replaced).state == "done" and finish(queue, running).state == "done"


def test_a_queue_without_room_is_refused():
    with pytest.raises(ParameterError, match="limit is 0"):
        Scheduler("none", limit=0)


def test_the_deadline_cancels_with_a_reason():
    clock = Clock()
    queue = Scheduler("test", deadline_seconds=60, grace_seconds=None, clock=clock)
    gate = Gate()
    job = queue.submit("ann", "endless", gate)
    gate.wait_entered()
    clock.now += 59
    queue.lengths()
    assert not job.cancelling
    clock.now += 2
    finish(queue, job)
    assert job.state == "cancelled" and "60 s" in str(job.error)


def test_a_closed_page_cancels_its_running_and_waiting_jobs_after_the_grace():
    clock = Clock()
    queue = Scheduler("test", grace_seconds=15, clock=clock)
    gate = Gate()
    running = queue.submit("ann", "long", gate)
    gate.wait_entered()
    waiting = queue.submit("bob", "wait", lambda context: None)
    staying = queue.submit("cem", "wait", lambda context: "stayed")
    clock.now += 14
    queue.heartbeat("cem")
    assert running.active and waiting.active
    clock.now += 2
    assert queue.get(staying.id, "cem") is staying
    assert (waiting.state, str(waiting.error)) == ("cancelled", PAGE_CLOSED)
    assert finish(queue, staying).result == "stayed"  # the running job's own check ended it
    assert (running.state, str(running.error)) == ("cancelled", PAGE_CLOSED)


def test_heartbeats_keep_a_job_alive():
    clock = Clock()
    queue = Scheduler("test", grace_seconds=15, clock=clock)
    gate = Gate()
    job = queue.submit("ann", "long", gate)
    gate.wait_entered()
    for _ in range(10):
        clock.now += 10
        queue.heartbeat("ann")
    assert not job.cancelling
    gate.open.set()
    assert finish(queue, job).state == "done"


def test_a_silent_page_that_still_listens_keeps_its_job():
    clock, connected = Clock(), [True]
    queue = Scheduler("test", grace_seconds=15, clock=clock)
    gate = Gate()
    job = queue.submit("ann", "long", gate)
    gate.wait_entered()
    queue.heartbeat("ann", listening=lambda: connected[0])
    for _ in range(5):
        clock.now += 60  # a hidden tab's timers tick once a minute
        queue.lengths()
    assert not job.cancelling
    connected[0] = False
    clock.now += 60
    assert finish(queue, job).state == "cancelled"


def test_without_a_grace_silence_never_cancels():
    clock = Clock()
    queue = Scheduler("test", deadline_seconds=1e9, grace_seconds=None, clock=clock)
    gate = Gate()
    job = queue.submit("ann", "long", gate)
    gate.wait_entered()
    clock.now += 1e6
    queue.lengths()
    assert not job.cancelling
    gate.open.set()
    finish(queue, job)


def test_abandon_cancels_everything_of_one_owner(queue):
    gate = Gate()
    running = queue.submit("ann", "long", gate)
    gate.wait_entered()
    kept = queue.submit("bob", "wait", lambda context: "kept")
    queue.abandon("ann")
    assert finish(queue, kept).result == "kept"
    assert running.state == "cancelled"


def test_finished_jobs_expire_and_leave_nothing_behind():
    clock = Clock()
    queue = Scheduler("test", keep_seconds=600, clock=clock)
    job = finish(queue, queue.submit("ann", "work", lambda context: "big array"))
    clock.now += 599
    assert queue.get(job.id, "ann") is job
    clock.now += 2
    assert queue.get(job.id, "ann") is None
    queue.heartbeat("a stranger")
    assert not queue._jobs and not queue._heard and not queue._listening


def test_progress_is_published_with_message_and_partial(queue):
    seen, go = threading.Event(), threading.Event()

    def work(context):
        context.progress(0.25, "step 5 of 20", partial="half an image")
        context.progress(0.5)
        context.progress(7.0)
        context.progress(-1.0)
        context.progress(0.75)
        seen.set()
        go.wait(PATIENCE)
        return "image"

    job = queue.submit("ann", "work", work)
    assert seen.wait(PATIENCE)
    assert (job.progress, job.message, job.partial) == (0.75, "step 5 of 20", "half an image")
    go.set()
    finish(queue, job)
    assert job.partial == "half an image" and job.result == "image"


def test_a_cancelled_job_keeps_what_it_had_shown(queue):
    gate = Gate()

    def work(context):
        context.progress(0.5, partial="half")
        gate(context)

    job = queue.submit("ann", "work", work)
    gate.wait_entered()
    queue.cancel(job.id, "ann")
    assert finish(queue, job).partial == "half"


class Steps:
    """Work that reports the fractions a test hands it, one at a time."""

    def __init__(self, clock) -> None:
        self.clock, self.fraction, self.reported = clock, None, threading.Event()
        self.told, self.entered = threading.Event(), threading.Event()

    def report(self, seconds, fraction):
        self.clock.now += seconds
        self.fraction = fraction
        self.reported.clear()
        self.told.set()
        assert self.reported.wait(PATIENCE)

    def __call__(self, context):
        self.entered.set()
        while True:
            assert self.told.wait(PATIENCE)
            self.told.clear()
            if self.fraction is None:
                self.reported.set()
                return "done"
            context.progress(self.fraction)
            self.reported.set()


def test_remaining_time_follows_the_pace_after_the_first_report():
    clock = Clock()
    queue = Scheduler("test", grace_seconds=None, clock=clock)
    steps = Steps(clock)
    job = queue.submit("ann", "work", steps)
    assert steps.entered.wait(PATIENCE)
    assert job.eta_seconds is None  # nothing tells yet
    steps.report(8.0, 0.0)  # loading
    assert job.eta_seconds is None
    steps.report(1.0, 0.1)
    assert job.eta_seconds == pytest.approx(9.0)
    steps.report(1.0, 0.2)
    assert job.eta_seconds == pytest.approx(8.0)
    clock.now += 3.0
    assert job.eta_seconds == pytest.approx(5.0)
    clock.now += 30.0
    assert job.eta_seconds == 0.0  # late, never negative
    waiting = queue.submit("bob", "next", lambda context: None)
    assert waiting.eta_seconds is None  # no job has ended yet, so a turn's length is unknown
    steps.report(0.0, None)
    finish(queue, job)
    finish(queue, waiting)


def test_remaining_time_of_waiting_jobs_adds_typical_turns():
    clock = Clock()
    queue = Scheduler("test", grace_seconds=None, clock=clock)
    first = Steps(clock)
    job = queue.submit("ann", "work", first)
    assert first.entered.wait(PATIENCE)
    first.report(20.0, None)
    finish(queue, job)
    second = Steps(clock)
    running = queue.submit("ann", "work", second)
    assert second.entered.wait(PATIENCE)
    waiting = [queue.submit(name, "work", lambda context: None) for name in ("bob", "cem")]
    clock.now += 5.0
    assert running.eta_seconds == pytest.approx(15.0)
    assert [job.eta_seconds for job in waiting] == pytest.approx([35.0, 55.0])
    second.report(5.0, 0.5)
    assert [job.eta_seconds for job in waiting] == pytest.approx([30.0, 50.0])
    second.report(0.0, None)
    for job in waiting:
        finish(queue, job)


def test_one_scheduler_per_device_even_when_asked_at_once():
    found, barrier = [], threading.Barrier(8)

    def ask():
        barrier.wait()
        found.append(scheduler("a device of this test"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert scheduler("another device of this test") is not found[0]
