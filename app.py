"""Learning Mechanics Lab: what `make run` serves. Each visitor's session runs `pages/frame.py`; `lm_core` computes.

The script doesn't stand in this file, because Streamlit takes a folder `pages` beside the script for the old kind of
app until the first visitor has been served, and would greet that visitor's link to a page with "Page not found".
"""

import logging
import os
from pathlib import Path

import streamlit as st
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from lm_core.errors import LabError
from pages.components.live import CALM
from pages.components.stream_route import stream_route

# Torch's threads wait asleep instead of spinning: beside a browser on two cores a spinning answer was half as fast.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

logger = logging.getLogger("learning_mechanics_lab")

# A page opened by its own address first looks for the server below that address, two requests that fail. Tell it where.
INDEX = (Path(st.__file__).parent / "static" / "index.html").read_text("utf-8")
INDEX = INDEX.replace("<head>", "<head><script>window.__streamlit = { BACKEND_BASE_URL: location.origin }</script>", 1)
ADDRESSES = [path.stem.replace("_", "-") for path in (Path(__file__).parent / "pages").glob("[a-z]*.py")]


async def open_page(request: Request) -> HTMLResponse:
    """Answer a page's own address."""
    return HTMLResponse(INDEX, headers={"Cache-Control": "no-cache"})


def show_calmly(error: Exception) -> bool:
    """Show what the user can mend as it is; keep anything else for the log. Widgets keep their values either way."""
    if not isinstance(error, LabError):
        logger.error("A page failed", exc_info=error)
    st.error(str(error) if isinstance(error, LabError) else CALM, icon=":material/error:")
    return True


app = st.App(
    "pages/frame.py",
    routes=[stream_route, *(Route(f"/{address}", open_page) for address in ADDRESSES)],
    on_script_error=show_calmly,
)
