"""An answer while it is being written: a dial that its reader turns, a log of events that its reader follows.

The worker that writes holds both: it reads the `Dial` at every token and appends what happened to the `Writing`. Pages,
the stream's route and the command line read along from other threads. Nothing here knows of models or of browsers.
"""

import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from lm_core.errors import ParameterError
from lm_core.steer_params import MAX_STRENGTH

KEEP_SECONDS = 2 * 3600.0
KEEP_COUNT = 300


class Dial:
    """The strengths of one running answer, signed fractions of the residual norm, one a concept."""

    def __init__(self, strengths: Sequence[float] = ()):
        self._strengths = _checked(strengths)

    def get(self) -> tuple[float, ...]:
        return self._strengths  # replaced whole, so a reader never sees half a change

    def set(self, strengths: Sequence[float]) -> None:
        """Change what the next token will be written with.

        Raises:
            ParameterError: another number of strengths than before, or one not finite or beyond ±`MAX_STRENGTH`.
        """
        wanted = _checked(strengths)
        if len(wanted) != len(self._strengths):
            raise ParameterError(
                f"strengths has {len(wanted)} values, but this answer steers {len(self._strengths)} concepts; "
                "start a new answer to steer others."
            )
        self._strengths = wanted


def _checked(strengths: Sequence[float]) -> tuple[float, ...]:
    wanted = tuple(float(strength) for strength in strengths)
    for strength in wanted:
        if not math.isfinite(strength) or abs(strength) > MAX_STRENGTH:
            raise ParameterError(
                f"strength is {strength}, but must lie in [-{MAX_STRENGTH:g}, {MAX_STRENGTH:g}], a fraction of the "
                "residual norm; most concepts are usable between 0.02 and 0.05."
            )
    return wanted


class Writing:
    """A log of events, only ever appended to, closed by an event of type "end".

    Attributes:
        stream_id: what `writing` knows it by; empty for one that nobody registered.
        about: who writes it and how, for whoever finds it by its id; nothing here reads it.
    """

    about: Any = None

    def __init__(self, stream_id: str = ""):
        self.stream_id = stream_id
        self._events: list[dict[str, Any]] = []
        self._changed = threading.Condition()

    @property
    def events(self) -> list[dict[str, Any]]:
        """A copy of all events so far."""
        with self._changed:
            return list(self._events)

    @property
    def closed(self) -> bool:
        with self._changed:
            return self._is_closed()

    def append(self, event: dict[str, Any]) -> None:
        """Add an event, a dict that JSON can hold. After the end nothing is added, so a late writer does no harm."""
        with self._changed:
            if not self._is_closed():
                self._events.append(event)
                self._changed.notify_all()

    def close(self, state: str = "stopped") -> None:
        """End it, should its writer not have done so."""
        self.append({"type": "end", "state": state, "tokens_per_second": None})

    def since(self, n: int, timeout: float = 0.0) -> list[dict[str, Any]]:
        """Return the events from index n on, waiting up to `timeout` seconds for the first of them."""
        n = max(0, n)
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) > n or self._is_closed(), timeout)
            return self._events[n:]

    def _is_closed(self) -> bool:
        return bool(self._events) and self._events[-1].get("type") == "end"


class Shelf:
    """Keeps writings under ids that cannot be guessed; forgets the oldest, and those nobody has read for two hours."""

    def __init__(
        self, count: int = KEEP_COUNT, seconds: float = KEEP_SECONDS, now: Callable[[], float] = time.monotonic
    ):
        self._count, self._seconds, self._now = count, seconds, now
        self._kept: dict[str, tuple[float, Writing]] = {}  # the longest unread first
        self._lock = threading.Lock()

    def open(self) -> Writing:
        """Return a new, empty writing under a new id."""
        with self._lock:
            opened = Writing(secrets.token_urlsafe(16))
            self._kept[opened.stream_id] = (self._now(), opened)
            self._forget()
            return opened

    def find(self, stream_id: str) -> Writing | None:
        """Return the writing with that id, None if there is none or it was forgotten."""
        with self._lock:
            self._forget()
            _, found = self._kept.pop(stream_id, (0.0, None))
            if found is not None:
                self._kept[stream_id] = (self._now(), found)
            return found

    def _forget(self) -> None:
        oldest = self._now() - self._seconds
        for stream_id, (read, _) in list(self._kept.items()):
            if read >= oldest and len(self._kept) <= self._count:
                break
            del self._kept[stream_id]


_shelf = Shelf()


def open_writing() -> Writing:
    """Return a new writing that `writing` finds by its `stream_id`."""
    return _shelf.open()


def writing(stream_id: str) -> Writing | None:
    """Return a writing of this process by its id, None if there is none."""
    return _shelf.find(stream_id)
