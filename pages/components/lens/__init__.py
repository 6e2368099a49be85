"""The lens: hover a pixel of a generated image and see the training patches it comes from.

`payload.py` packs a result for the browser; `lens.js`, with the modules beside it, shows it; this module mounts it and
says where the visitor is. Hovering never reaches Python; a pin, a step or a view does, debounced, as one script run.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from pages.components.lens.payload import lens_payload

__all__ = ["VIEWS", "Place", "lens", "lens_payload", "place"]

VIEWS = ("image", "mosaic", "stitched", "sources", "difference", "wipe")
FOLDER = Path(__file__).parent
MODULES = ("model.js", "words.js", "paint.js", "save.js", "lens.js")  # each imports only from those before it


def _script() -> str:
    """Join the modules into the single one that Streamlit takes: imports go, exports become plain names."""
    parts = [(FOLDER / name).read_text("utf-8") for name in MODULES]
    joined = re.sub(r"^import .*;\n", "", "\n".join(parts), flags=re.MULTILINE)
    return re.sub(r"^export (?!default)", "", joined, flags=re.MULTILINE)


_mount = st.components.v2.component(
    "learning_mechanics_lens",
    html=(FOLDER / "lens.html").read_text("utf-8"),
    css=(FOLDER / "lens.css").read_text("utf-8"),
    js=_script(),
)


@dataclass(frozen=True)
class Place:
    """Where the visitor of a lens is.

    Attributes:
        pin: pinned pixel (y, x), None for none.
        step: zero-based, the noisiest first; None follows the last step there is.
        view: one of `VIEWS`.
    """

    pin: tuple[int, int] | None = None
    step: int | None = None
    view: str = "image"

    @classmethod
    def parse(cls, values: Any) -> "Place":
        """Read what a browser or a URL says; whatever makes no sense becomes the default."""
        values = values if isinstance(values, dict) else {}
        pin, step, view = (values.get(name) for name in ("pin", "step", "view"))
        is_pin = isinstance(pin, list | tuple) and len(pin) == 2 and all(_is_place(number) for number in pin)
        return cls(
            pin=(int(pin[0]), int(pin[1])) if is_pin else None,
            step=int(step) if _is_place(step) else None,
            view=view if view in VIEWS else "image",
        )

    def as_dict(self) -> dict[str, Any]:
        return {"pin": list(self.pin) if self.pin else None, "step": self.step, "view": self.view}


def _is_place(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < 10_000


def lens(
    payload: dict[str, Any],
    *,
    key: str,
    pin: tuple[int, int] | None = None,
    step: int | None = None,
    view: str = "image",
    on_change: Callable[[], None] | None = None,
) -> Place:
    """Show a lens and return where the visitor is.

    The visitor's place outlives new data. `pin`, `step` and `view` are obeyed when the lens appears, and later whenever
    one of them differs from what was asked and what was returned the last time (a preset, say), never merely because
    they lag behind the visitor. So a page passes its order if it has one, else `place(key)`, else what its URL says.

    Args:
        payload: from `lens_payload`.
        key: the lens's own, unique on the page; with the same key new data doesn't mount it anew.
        on_change: called before the run that a pin, step or view has caused; `place(key)` then tells them.
    """
    asked = Place.parse({"pin": pin, "step": step, "view": view})
    orders = st.session_state.get(f"{key}_orders")
    if orders is None or key not in st.session_state:
        orders = {"token": secrets.token_hex(4), "wanted": asked, "asked": asked, "returned": asked}
    here = _told(key, orders["token"]) or orders["returned"]
    changed = {
        name: value
        for name, value in vars(asked).items()
        if value not in (getattr(orders["asked"], name), getattr(orders["returned"], name), getattr(here, name))
    }
    if changed:
        here = Place(**(vars(here) | changed))
        orders = orders | {"token": secrets.token_hex(4), "wanted": here}
    data = {"payload": payload, "key": key, "token": orders["token"], "wanted": orders["wanted"].as_dict()}
    _mount(key=key, data=data, on_place_change=on_change or _nothing)
    st.session_state[f"{key}_orders"] = orders | {"asked": asked, "returned": here}
    return here


def place(key: str) -> Place | None:
    """Return where the visitor of a lens is, None before it was first shown."""
    orders = st.session_state.get(f"{key}_orders")
    return orders and (_told(key, orders["token"]) or orders["returned"])


def _told(key: str, token: str) -> Place | None:
    """Return what the browser said after the page's last order, None if it hasn't spoken since."""
    state = st.session_state.get(key)
    values = state.get("place") if isinstance(state, dict) else None
    return Place.parse(values) if isinstance(values, dict) and values.get("token") == token else None


def _nothing() -> None:
    """Streamlit wants a callback for every state it shall keep."""
