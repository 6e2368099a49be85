"""The three columns: one prompt answered unsteered, asked for in words, and steered, each token as it is written.

The text comes to the browser over `/stream/{id}` (stream_route.py), never through the script: a widget that moves
meanwhile reruns the script and leaves the text alone. This module mounts the columns and tells of a click on stop.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

__all__ = ["columns", "join_modules"]

FOLDER = Path(__file__).parent
MODULES = ("answer.js", "follow.js", "words.js", "draw.js", "writing.js")  # each imports only from those before it


def join_modules(folder: Path, names: tuple[str, ...]) -> str:
    """Join a component's modules into the single one that Streamlit takes: imports go, exports become plain names."""
    joined = "\n".join((folder / name).read_text("utf-8") for name in names)
    joined = re.sub(r"^import .*;\n", "", joined, flags=re.MULTILINE)
    return re.sub(r"^export (?!default)", "", joined, flags=re.MULTILINE)


_mount = st.components.v2.component(
    "learning_mechanics_writing",
    html=(FOLDER / "writing.html").read_text("utf-8"),
    css=(FOLDER / "writing.css").read_text("utf-8"),
    js=join_modules(FOLDER, MODULES),
)


def columns(stream_id: str | None, about: dict[str, Any], *, key: str, on_stop: Callable[[], None]) -> None:
    """Show the answer of a stream, as far as it is written; None shows what will stand there.

    Args:
        stream_id: of a `lm_core.writing.Writing`; another one starts the columns anew.
        about: what "Copy as JSON" puts beside the texts: parameters, versions.
        key: the component's own, unique on the page.
        on_stop: called when the visitor clicks stop; the texts stay.
    """
    _mount(key=key, data={"stream": stream_id, "about": about}, on_stop_change=on_stop)
