"""What the sections of "Where theory stops" share: rows of small pictures, and how a finding is stated."""

import html
from collections.abc import Sequence

import numpy as np
import streamlit as st

from lm_core import run
from pages.components import look

DEFAULT_OBJECTIVE = "v"  # of networks trained before there was a choice


def finding(text: str) -> None:
    """State what the data say, in one sentence with its numbers, before the figures that show it."""
    st.markdown(f"**{text}**")


def training_differs(dataset: str, first: str, second: str) -> str:
    """Say how the trainings of two shipped networks differ, "" where nothing is recorded or nothing differs."""
    facts = [run.network_facts(dataset, name) for name in (first, second)]
    if not all(one.get("steps") for one in facts):
        return ""
    steps = [one["steps"] for one in facts]
    objectives = [one.get("train", {}).get("objective", DEFAULT_OBJECTIVE) for one in facts]
    if steps[0] == steps[1] and objectives[0] == objectives[1]:
        return ""
    targets = f" (objectives {objectives[0]} and {objectives[1]})" if objectives[0] != objectives[1] else ""
    return f"They were trained {steps[0]:,} and {steps[1]:,} steps{targets}, so part of the difference may be training."


def picture_grid(pictures: Sequence[tuple[np.ndarray, str, str]], narrowest: float = 8.0, ratio: float = 1.0) -> None:
    """Show small pictures in as many columns as there is room for, enlarged pixel by pixel.

    Args:
        pictures: (uint8 [H, W] or [H, W, 3], caption, alternative text) each.
        narrowest: width of a column, in rem, below which a picture moves to the next row.
        ratio: width over height of each.
    """
    addressed = [(look.png_address(to_channels(image)), caption, alt) for image, caption, alt in pictures]
    picture_rows(addressed, narrowest, ratio)


def picture_rows(pictures: Sequence[tuple[str, str, str]], narrowest: float = 7.4, ratio: float = 1.0) -> None:
    """Show pictures that are data addresses already, as `picture_grid` does: (address, caption, alternative text)."""
    figures = "".join(
        f'<figure><img style="aspect-ratio:{ratio:g}" src="{source}" alt="{html.escape(alt)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for source, caption, alt in pictures
    )
    columns = f"repeat(auto-fill, minmax(min({narrowest:g}rem, 100%), 1fr))"
    st.html(f'<div class="lm-pair" style="grid-auto-flow:row;grid-template-columns:{columns}">{figures}</div>')


def to_channels(image: np.ndarray) -> np.ndarray:
    """Turn uint8 [H, W] or [H, W, 3] into [C, H, W]."""
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def from_channels(image: np.ndarray) -> np.ndarray:
    """Turn [C, H, W] in [−1, 1] into uint8 [H, W] or [H, W, 3]."""
    pixels = look.to_uint8(image)
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def in_colour(image: np.ndarray) -> np.ndarray:
    """Turn uint8 [H, W] or [H, W, 3] into [H, W, 3]."""
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
