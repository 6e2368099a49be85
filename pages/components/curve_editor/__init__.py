"""The patch-size curve as points to drag: one odd window for each step, the noisiest step on the left.

The curve belongs to the visitor: a page hears of it when a point is let go, and changes it itself only by `order`.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

__all__ = ["LARGEST", "curve", "curve_editor", "order"]

LARGEST = 33  # the first odd window that sees all of a 32×32 image from its middle
FOLDER = Path(__file__).parent

_mount = st.components.v2.component(
    "learning_mechanics_curve_editor",
    html=(FOLDER / "curve_editor.html").read_text("utf-8"),
    css=(FOLDER / "curve_editor.css").read_text("utf-8"),
    js=(FOLDER / "curve_editor.js").read_text("utf-8"),
)


def order(key: str, sizes: Sequence[int]) -> None:
    """Set the curve, the noisiest step first. To be called before `curve_editor` draws it."""
    st.session_state[f"{key}_orders"] = (secrets.token_hex(4), tuple(sizes))


def curve(key: str) -> tuple[int, ...] | None:
    """Return the curve as the visitor left it since the last order, else as ordered; None before the first order.

    It is remembered even while the editor isn't on show.
    """
    token, ordered = st.session_state.get(f"{key}_orders", ("", None))
    state = st.session_state.get(key)
    told: Any = state.get("curve") if state is not None and hasattr(state, "get") else None
    if ordered is None or not isinstance(told, dict) or told.get("token") != token:
        return ordered
    sizes = told.get("sizes")
    if not isinstance(sizes, list | tuple) or len(sizes) != len(ordered) or not all(map(_is_window, sizes)):
        return ordered
    known = tuple(int(size) for size in sizes)
    st.session_state[f"{key}_orders"] = (token, known)  # the widget's state is lost when another section is shown
    return known


def curve_editor(
    *,
    key: str,
    references: Mapping[str, Sequence[int]],
    on_release: Callable[[], None],
    shade: tuple[float, int] = (0, 0),
) -> None:
    """Draw the curve of the last `order` as the visitor left it.

    Args:
        references: curves drawn thin behind it, by name.
        on_release: called before the run that a point let go causes; `curve(key)` then tells the new curve.
        shade: (t, P) of a corner to tint: times below t and windows up to P.
    """
    token, ordered = st.session_state.get(f"{key}_orders", ("", ()))
    data = {
        "token": token,
        "sizes": list(curve(key) or ordered or ()),
        "largest": LARGEST,
        "references": [{"name": name, "sizes": list(sizes)} for name, sizes in references.items()],
        "shade": list(shade),
    }
    _mount(key=key, data=data, on_curve_change=on_release)


def _is_window(size: Any) -> bool:
    """Whether a browser's value is an odd window within the plot."""
    return isinstance(size, int | float) and not isinstance(size, bool) and 1 <= size <= LARGEST and size % 2 == 1
