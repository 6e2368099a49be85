"""What the sections of "Where theory stops" share: grids of small pictures, live runs, how a finding is stated."""

import html
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import streamlit as st

from lm_core.jobs import Job, JobContext, scheduler
from pages.components import look
from pages.components.live import job_panel, owner

BLUE, AMBER, GREY = "#5b78f0", "#d9822b", "#8a93a5"  # each readable on white and on the dark page
PLOTLY = {"displaylogo": False, "showSendToCloud": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
MARGIN = {"l": 10, "r": 10, "t": 30, "b": 10}


def finding(text: str) -> None:
    """State what the data say, in one sentence with its numbers, before the figures that show it."""
    st.markdown(f"**{text}**")


def picture_grid(pictures: Sequence[tuple[np.ndarray, str, str]], narrowest: float = 8.0, ratio: float = 1.0) -> None:
    """Show small pictures in as many columns as there is room for, enlarged pixel by pixel.

    Args:
        pictures: (uint8 [H, W] or [H, W, 3], caption, alternative text) each.
        narrowest: width of a column, in rem, below which a picture moves to the next row.
        ratio: width over height of each.
    """
    figures = "".join(
        f'<figure><img style="aspect-ratio:{ratio:g}" src="{look.png_address(to_channels(image))}" '
        f'alt="{html.escape(alt)}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for image, caption, alt in pictures
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


def live_run(
    section: str,
    button: str,
    title: str,
    key: str,
    work: Callable[[JobContext], Any],
    preview: Callable[[Any], None] | None = None,
) -> Any:
    """Draw the button of a section's live run and its job; return the latest result of this session, None before.

    Args:
        section: names the widgets and what is remembered.
        key: what makes two runs the same; the result of another key is not returned.
        work: runs on the scheduler's thread.
        preview: draws what the job has published so far.
    """
    job_name, result_name = f"_{section}_job", f"_{section}_result"

    def keep(job: Job) -> None:
        st.session_state[result_name] = (job.key, job.result)

    if st.button(button, key=f"{section}_run", icon=":material/play_arrow:"):
        st.session_state[job_name] = scheduler().submit(owner(), title, work, key=f"{section} {key}").id
        st.rerun()
    job = scheduler().get(st.session_state.get(job_name, ""), owner())
    if job is not None and job.active and job.key != f"{section} {key}":
        scheduler().cancel(job.id, owner())  # the controls have moved on: nobody waits for this any more
    show = None if preview is None else lambda job: preview(job.partial)
    job_panel(scheduler(), job, on_done=keep, key=section, preview=show)
    done_key, result = st.session_state.get(result_name, ("", None))
    return result if done_key == f"{section} {key}" else None
