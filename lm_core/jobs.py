"""One bounded queue per device: first come, first served, one job at a time; cancellable, expiring, private to owners.

It neither knows what a job computes nor stops one by force: the work calls `context.progress` or `context.check`
between its steps, and there a cancellation, the deadline or a closed page takes effect. One thread per scheduler,
started by the first job; instead of a timer thread every call, every check of the work and the idle worker sweep.
"""

import functools
import logging
import secrets
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lm_core.errors import JobCancelled, LabError, ParameterError, QueueError

logger = logging.getLogger(__name__)

IDLE_SWEEP_SECONDS = 30.0
REMEMBERED_DURATIONS = 8

BY_OWNER = "Cancelled."
REPLACED = "Replaced by a newer request."
PAGE_CLOSED = "Cancelled because its page was closed."


@dataclass(eq=False)
class Job:
    """One piece of work as its owner sees it; only the scheduler changes it, at any moment: read a field once.

    Attributes:
        id: unguessable name; owner: the session that asked; title: what is computed; key: what makes it the same work.
        state: "queued", "running", "done", "failed" or "cancelled".
        progress: fraction done, 0 to 1; message: what it is doing.
        partial: the latest intermediate value that the work published, kept when it ends: a page may be drawing it.
        result: what the work returned, once done; error: why it failed or was cancelled.
        started, finished: seconds on the scheduler's clock, None before.
    """

    id: str
    owner: str
    title: str
    key: str | None
    state: str = "queued"
    progress: float = 0.0
    message: str = ""
    partial: Any = None
    result: Any = None
    error: BaseException | None = None
    started: float | None = None
    finished: float | None = None
    _scheduler: "Scheduler | None" = field(default=None, repr=False)
    _work: "Callable[[JobContext], Any] | None" = field(default=None, repr=False)
    _stop: str | None = field(default=None, repr=False)  # why the running work must end
    _marks: list[tuple[float, float]] = field(default_factory=list, repr=False)  # first and latest (time, fraction)

    @property
    def active(self) -> bool:
        """Whether it still waits or runs."""
        return self.state in ("queued", "running")

    @property
    def cancelling(self) -> bool:
        """Whether it has been told to end and has not yet."""
        return self.state == "running" and self._stop is not None

    @property
    def place(self) -> int:
        """Place in the queue: 1 is next, 0 runs or has ended."""
        return self._scheduler._place(self) if self._scheduler else 0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until it ends, waiting included; None while nothing tells."""
        return self._scheduler._eta(self) if self._scheduler and self.active else None


class JobContext:
    """What the work is given: where it reports, and where it learns that it must end."""

    def __init__(self, scheduler: "Scheduler", job: Job) -> None:
        self._scheduler, self._job = scheduler, job

    def check(self) -> None:
        """Raise JobCancelled if the job was cancelled, its page closed or its deadline passed."""
        self._scheduler._check(self._job)

    def progress(self, fraction: float, message: str = "", partial: Any = None) -> None:
        """Check, then publish the fraction done, what is being done, and an intermediate value for the page.

        Args:
            fraction: 0 to 1, clipped.
            message: one phrase; "" keeps the last.
            partial: replaces the last one and must not be changed afterwards; None keeps it.
        """
        self._scheduler._check(self._job)
        self._scheduler._publish(self._job, fraction, message, partial)


class QueueLengths(NamedTuple):
    """How busy a device is, without a word about whose jobs they are."""

    running: int
    waiting: int
    limit: int


class Scheduler:
    """A queue with one worker thread.

    Args:
        device: name for the worker thread; the work itself decides where it computes.
        limit: jobs that may wait.
        deadline_seconds: running time after which a job is cancelled.
        keep_seconds: how long a finished job can still be read.
        grace_seconds: silence of an owner after which its jobs are cancelled; None never does.
        clock: seconds, increasing.
    """

    def __init__(
        self,
        device: str = "cpu",
        limit: int = 20,
        deadline_seconds: float = 1800.0,
        keep_seconds: float = 600.0,
        grace_seconds: float | None = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if limit < 1:
            raise ParameterError(f"limit is {limit}; at least one job must be allowed to wait.")
        self.device, self.limit = device, limit
        self.deadline_seconds, self.keep_seconds, self.grace_seconds = deadline_seconds, keep_seconds, grace_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._queue: list[Job] = []
        self._running: Job | None = None
        self._heard: dict[str, float] = {}
        self._listening: dict[str, Callable[[], bool]] = {}
        self._durations: deque[float] = deque(maxlen=REMEMBERED_DURATIONS)
        self._worker: threading.Thread | None = None

    # What pages call

    def submit(self, owner: str, title: str, work: Callable[[JobContext], Any], key: str | None = None) -> Job:
        """Put work into the queue; the owner's earlier unfinished job gives way to it.

        A waiting job is replaced and its place kept; a running one is cancelled.

        Args:
            owner: the session.
            title: what is computed, for the page.
            work: called with a `JobContext` on the worker thread; what it returns becomes `job.result`.
            key: what identifies the work: the owner's waiting, running or done job of the same key is returned instead.

        Raises:
            QueueError: `limit` jobs of others wait already; nothing is cancelled then.
        """
        with self._changed:
            self._sweep()
            mine = [job for job in self._jobs.values() if job.owner == owner]
            for job in mine:
                if key is not None and job.key == key and not job.cancelling and (job.active or job.state == "done"):
                    self._heard[owner] = self._clock()
                    return job
            place = next((i for i, job in enumerate(self._queue) if job.owner == owner), None)
            if place is None and len(self._queue) >= self.limit:
                raise QueueError(
                    f"{self.limit} jobs are waiting already, the most there may be. Try again in a minute."
                )
            for job in mine:
                self._end(job, REPLACED)
            job = Job(secrets.token_urlsafe(16), owner, title, key, _scheduler=self, _work=work)
            self._jobs[job.id] = job
            self._queue.insert(len(self._queue) if place is None else place, job)
            self._heard[owner] = self._clock()
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._serve, name=f"jobs-{self.device}", daemon=True)
                self._worker.start()
            self._changed.notify_all()
            return job

    def get(self, job_id: str, owner: str) -> Job | None:
        """Return the owner's job; None if it expired, never was, or is another's."""
        with self._changed:
            self._sweep()
            job = self._jobs.get(job_id)
            return job if job is not None and job.owner == owner else None

    def cancel(self, job_id: str, owner: str) -> bool:
        """Cancel the owner's job: at once if it waits, at its next check if it runs. False if there was none."""
        with self._changed:
            job = self.get(job_id, owner)
            return job is not None and self._end(job, BY_OWNER)

    def abandon(self, owner: str) -> None:
        """Cancel everything of an owner whose page is gone."""
        with self._changed:
            for job in [job for job in self._jobs.values() if job.owner == owner]:
                self._end(job, PAGE_CLOSED)

    def heartbeat(self, owner: str, listening: Callable[[], bool] | None = None) -> None:
        """Note that the owner's page is open.

        Args:
            listening: asked when the owner has been silent for `grace_seconds`; True counts as a heartbeat. Browsers
                slow the timers of hidden tabs down to one tick a minute, so silence alone doesn't prove a closed page.
        """
        with self._changed:
            if any(job.owner == owner and job.active for job in self._jobs.values()):
                self._heard[owner] = self._clock()
                if listening is not None:
                    self._listening[owner] = listening
            self._sweep()

    def lengths(self) -> QueueLengths:
        """Return how many jobs run and wait."""
        with self._changed:
            self._sweep()
            return QueueLengths(int(self._running is not None), len(self._queue), self.limit)

    def wait(self, job: Job, timeout: float | None = None) -> Job:
        """Block until the job has ended or `timeout` seconds have passed; for scripts and tests, never for a page."""
        with self._changed:
            self._changed.wait_for(lambda: not job.active, timeout)
            return job

    # The worker

    def _serve(self) -> None:
        while True:
            self._run(self._next())

    def _next(self) -> Job:
        with self._changed:
            self._sweep()
            while not self._queue:
                self._changed.wait(IDLE_SWEEP_SECONDS if self._jobs else None)
                self._sweep()
            job = self._queue.pop(0)
            job.state, job.started, self._running = "running", self._clock(), job
            self._changed.notify_all()
            return job

    def _run(self, job: Job) -> None:
        result, error = None, None
        try:
            assert job._work is not None
            result = job._work(JobContext(self, job))
        except BaseException as exception:  # whatever it was, the next job must get its turn
            error = exception
            if not isinstance(exception, LabError):
                logger.exception("The job %r failed", job.title)
        with self._changed:
            self._running = None
            if job._stop is not None:
                self._finish(job, "cancelled", error if isinstance(error, JobCancelled) else JobCancelled(job._stop))
            elif error is not None:
                self._finish(job, "cancelled" if isinstance(error, JobCancelled) else "failed", error)
            else:
                job.result, job.progress = result, 1.0
                self._finish(job, "done", None)

    def _check(self, job: Job) -> None:
        with self._changed:
            self._sweep()
            if job._stop is not None:
                raise JobCancelled(job._stop)

    def _publish(self, job: Job, fraction: float, message: str, partial: Any) -> None:
        with self._changed:
            job.progress = min(max(float(fraction), 0.0), 1.0)
            job.message = message or job.message
            job.partial = job.partial if partial is None else partial
            job._marks[1:] = [(self._clock(), job.progress)]
            self._changed.notify_all()

    # Everything below is called with the lock held, or takes it

    def _end(self, job: Job, reason: str) -> bool:
        """Cancel a waiting job, tell a running one to end; True if it was still active."""
        if job.state == "queued":
            self._queue.remove(job)
            self._finish(job, "cancelled", JobCancelled(reason))
            return True
        if job.state == "running":
            job._stop = job._stop or reason
            return True
        return False

    def _finish(self, job: Job, state: str, error: BaseException | None) -> None:
        job.finished = self._clock()
        # Its frames would keep the work's arrays alive for as long as the job can be read.
        job.error = error.with_traceback(None) if error is not None else None
        job._work = None
        if state == "done":
            self._durations.append(job.finished - (job.started or 0.0))
        job.state = state
        self._changed.notify_all()

    def _sweep(self) -> None:
        """Drop expired jobs; cancel those past their deadline and those whose page is gone."""
        now = self._clock()
        for job in list(self._jobs.values()):
            if job.finished is not None and now - job.finished > self.keep_seconds:
                del self._jobs[job.id]
            elif job.active and self._is_gone(job.owner, now):
                self._end(job, PAGE_CLOSED)
        running = self._running
        if running is not None and running.started is not None and now - running.started > self.deadline_seconds:
            self._end(running, f"Stopped after {self.deadline_seconds:.0f} s, the longest a job may run. Ask for less.")
        owners = {job.owner for job in self._jobs.values() if job.active}
        for table in (self._heard, self._listening):
            for owner in table.keys() - owners:
                del table[owner]

    def _is_gone(self, owner: str, now: float) -> bool:
        if self.grace_seconds is None or now - self._heard.get(owner, now) <= self.grace_seconds:
            return False
        listening = self._listening.get(owner)
        if listening is None or not listening():
            return True
        self._heard[owner] = now
        return False

    def _place(self, job: Job) -> int:
        with self._changed:
            return self._queue.index(job) + 1 if job in self._queue else 0

    def _eta(self, job: Job) -> float | None:
        """Remaining time of the running job from its own pace, plus a typical duration for each job up to this one."""
        with self._changed:
            remaining = self._remaining(self._running) if self._running is not None else 0.0
            place = self._place(job)
            if place == 0 or remaining is None:
                return remaining
            return remaining + place * statistics.median(self._durations) if self._durations else None

    def _remaining(self, job: Job) -> float | None:
        now, start = self._clock(), job.started or 0.0
        # Between the first report and the latest, so that loading a model before the first one isn't taken for pace.
        (first_time, first), (last_time, last) = [(start, 0.0), (start, 0.0), *job._marks][-2:]
        if last > first and last_time > first_time:
            pace = (last - first) / (last_time - first_time)
            return max((1.0 - last) / pace - (now - last_time), 0.0)
        if self._durations:
            return max(statistics.median(self._durations) - (now - start), 0.0)
        return None


_registry = threading.Lock()


@functools.cache
def _scheduler(device: str) -> Scheduler:
    return Scheduler(device)


def scheduler(device: str = "cpu") -> Scheduler:
    """Return the process's one scheduler for a device."""
    with _registry:  # functools.cache alone may build two when two sessions ask at once
        return _scheduler(device)
