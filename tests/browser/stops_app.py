"""A page with the curve editor and the paint grids, and below them what Python was told."""

import numpy as np
import streamlit as st

from pages.components.curve_editor import curve, curve_editor, order
from pages.components.paint import drawing, mark_region, paint_picture, pick_pixel, picked, region

SIZE = 8


def take_drawing() -> None:
    pixels = drawing("draw", 3, SIZE)
    st.session_state["drawn"] = None if pixels is None else pixels.reshape(3, -1).max(1).tolist()


def take_region() -> None:
    mask = region("mask", (SIZE, SIZE))
    st.session_state["marked"] = None if mask is None else np.argwhere(mask).tolist()


def count_release() -> None:
    st.session_state["releases"] = st.session_state.get("releases", 0) + 1


def main() -> None:
    st.title("Curve and paint")
    if "curve_orders" not in st.session_state:
        order("curve", [25, 17, 9, 3])
    curve_editor(key="curve", references={"published": [25, 17, 9, 3]}, on_release=count_release, shade=(0.3, 5))
    st.text(f"curve {curve('curve')} after {st.session_state.get('releases', 0)}")
    paint_picture(key="draw", channels=3, size=SIZE, action="Add this drawing", on_done=take_drawing)
    st.text(f"drawn {st.session_state.get('drawn')}")
    mask = np.zeros((SIZE, SIZE), bool)
    mask[0, 0] = True
    mark_region(key="mask", mask=mask, background="", token="one", action="Repaint", on_done=take_region)
    st.text(f"marked {st.session_state.get('marked')}")
    pick_pixel(
        key="pick",
        background="",
        size=(SIZE, SIZE),
        pixel=picked("pick", (SIZE, SIZE)),
        outline=mask,
        label="A picture",
        on_pick=lambda: None,
    )
    st.text(f"picked {picked('pick', (SIZE, SIZE))}")


if __name__ == "__main__":
    main()
