"""How long work tells how far it is, and asks whether to go on."""

from collections.abc import Callable
from typing import Any

Progress = Callable[[float, str, Any], None]  # share done, what is going on, what there is so far
Check = Callable[[], None]  # called often; may raise to cancel


def quiet(share: float, message: str, partial: Any) -> None:
    """Report to nobody."""


def go_on() -> None:
    """Cancel nothing."""
