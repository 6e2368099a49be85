"""The route by which a browser follows an answer while it is written: server-sent events, or polling where those fail.

The ids cannot be guessed, and whoever has one can only read.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lm_core.writing import Writing, writing

LOOK_SECONDS = 0.02  # half a token; a look costs microseconds, and no thread is kept waiting for any reader
PING_SECONDS = 10.0
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
NOT_KEPT = "This answer is not kept here any more; write it again."


async def follow(request: Request) -> Response:
    """Answer /stream/{stream_id}: events from `Last-Event-ID` on as they come, or with ?since=N those there are."""
    log = writing(request.path_params["stream_id"])
    if log is None:
        return JSONResponse({"error": NOT_KEPT}, status_code=404, headers=HEADERS)
    since = request.query_params.get("since")
    if since is not None:
        return JSONResponse(log.since(_count(since)), headers=HEADERS)
    last = request.headers.get("last-event-id")
    start = 0 if last is None else _count(last) + 1
    return StreamingResponse(events(log, start), media_type="text/event-stream", headers=HEADERS)


async def events(log: Writing, start: int) -> AsyncIterator[str]:
    """Yield the events from index `start` on in the format of server-sent events, until the last."""
    heard = time.monotonic()
    while True:
        done = log.closed  # before looking, or the last events could come in between and be lost
        fresh = log.since(start)
        if fresh:
            yield "".join(f"id: {start + i}\ndata: {json.dumps(event)}\n\n" for i, event in enumerate(fresh))
            start, heard = start + len(fresh), time.monotonic()
        elif done:
            return
        elif time.monotonic() - heard > PING_SECONDS:
            yield ": still here\n\n"
            heard = time.monotonic()
        await asyncio.sleep(LOOK_SECONDS)


def _count(text: str) -> int:
    """Read an index that a browser sent; nonsense counts as -1, so that reading starts at the beginning."""
    return int(text) if text.isdecimal() and len(text) < 9 else -1


stream_route = Route("/stream/{stream_id}", follow)
