"""A grid of pixels to paint on: a drawing of one's own, a region to mark, or one pixel to choose.

What is painted stays in the browser until its button is pressed; a chosen pixel is told at once.
"""

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

__all__ = ["drawing", "mark_region", "paint_picture", "pick_pixel", "picked", "region"]

FOLDER = Path(__file__).parent

_mount = st.components.v2.component(
    "learning_mechanics_paint",
    html=(FOLDER / "paint.html").read_text("utf-8"),
    css=(FOLDER / "paint.css").read_text("utf-8"),
    js=(FOLDER / "paint.js").read_text("utf-8"),
)


def paint_picture(*, key: str, channels: int, size: int, action: str, on_done: Callable[[], None]) -> None:
    """Show an empty black grid to draw on, grey or in colour.

    Args:
        action: label of the button that hands the drawing over.
        on_done: called before the run which that button causes; `drawing(key, …)` then tells the drawing.
    """
    data = {"mode": "draw", "channels": channels, "width": size, "height": size, "action": action}
    _show(key, data | {"token": f"{channels}x{size}", "label": "Drawing"}, on_painted=on_done)


def mark_region(
    *, key: str, mask: np.ndarray, background: str, token: str, action: str, on_done: Callable[[], None]
) -> None:
    """Show a grid on which a region is marked with a brush.

    Args:
        mask: bool [H, W], the region at first and whenever `token` changes.
        background: data address of a picture below it, or "".
        action: label of the button that hands the region over; on_done: called before the run which that causes.
    """
    height, width = mask.shape
    data = {"mode": "mask", "channels": 1, "width": width, "height": height, "action": action, "token": token}
    data |= {"initial": _encode(mask), "background": background, "label": "Region of the noise to repaint"}
    _show(key, data, on_painted=on_done)


def pick_pixel(
    *,
    key: str,
    background: str,
    size: tuple[int, int],
    pixel: tuple[int, int] | None,
    outline: np.ndarray | None,
    label: str,
    on_pick: Callable[[], None],
) -> None:
    """Show a picture on which one pixel is chosen.

    Args:
        background: data address of the picture; size: (H, W) of its grid.
        pixel: (y, x) that is chosen now.
        outline: bool [H, W], pixels to draw a line around; label: what the picture is, for screen readers.
        on_pick: called before the run that a choice causes; `picked(key)` then tells it.
    """
    data = {"mode": "pick", "channels": 1, "width": size[1], "height": size[0], "label": label, "token": "pick"}
    data |= {"background": background, "pixel": list(pixel) if pixel else None}
    data |= {"outline": _encode(outline) if outline is not None else ""}
    _show(key, data, on_pixel=on_pick)


def drawing(key: str, channels: int, size: int) -> np.ndarray | None:
    """Return the drawing handed over just now, uint8 [C, H, W]; None if there is none or it makes no sense."""
    return _decode(_state(key).get("painted"), (channels, size, size))


def region(key: str, size: tuple[int, int]) -> np.ndarray | None:
    """Return the region handed over just now, bool [H, W]; None if there is none or it makes no sense."""
    mask = _decode(_state(key).get("painted"), size)
    return None if mask is None else mask > 0


def picked(key: str, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the chosen pixel (y, x); None before there is one."""
    told = _state(key).get("pixel")
    if not isinstance(told, list | tuple) or len(told) != 2:
        return None
    good = all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < n for v, n in zip(told, size, strict=True)
    )
    return (int(told[0]), int(told[1])) if good else None


def _show(
    key: str,
    data: dict[str, Any],
    on_painted: Callable[[], None] | None = None,
    on_pixel: Callable[[], None] | None = None,
) -> None:
    data = {"initial": "", "background": "", "outline": "", "pixel": None, "action": ""} | data
    _mount(key=key, data=data, on_painted_change=on_painted or _nothing, on_pixel_change=on_pixel or _nothing)


def _nothing() -> None:
    """Streamlit wants a callback for every state it shall keep."""


def _state(key: str) -> dict[str, Any]:
    state = st.session_state.get(key)
    return dict(state) if state is not None and hasattr(state, "keys") else {}


def _encode(mask: np.ndarray) -> str:
    return base64.b64encode(mask.astype(np.uint8).tobytes()).decode()


def _decode(told: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Read the bytes that a browser sent; nonsense is None."""
    count = int(np.prod(shape))
    if not isinstance(told, str) or len(told) > 2 * count + 8:
        return None
    try:
        content = base64.b64decode(told, validate=True)
    except (binascii.Error, ValueError):
        return None
    return np.frombuffer(content, np.uint8).reshape(shape) if len(content) == count else None
