"""A page with nothing but a lens, on made-up results: `?case=` grey, colour, circular, alone, partial or waiting.

`sample_result` is also what the payload's tests look at.
"""

import numpy as np
import streamlit as st

from lm_core.params import MosaicParams
from lm_core.results import MosaicResult
from pages.components.lens import Place, lens, lens_payload, place

CASES = ("grey", "colour", "circular", "alone", "partial", "waiting")


def sample_result(case: str = "grey", size: int = 16, steps: int = 6, k: int = 8) -> MosaicResult:
    """Make a consistent result: every estimate is the weighted sum of its candidates' pixels, the corners are muted."""
    rng = np.random.default_rng(7)
    channels = 3 if case == "colour" else 1
    sources = _blobs(rng, 12, channels, size)
    values = sources / 127.5 - 1
    grid = np.arange(size)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    tables = {"image": [], "y": [], "x": [], "weight": []}
    for step in range(steps):
        block = (y // (step + 2)) * 7 + x // (step + 2)
        image = (block[..., None] + np.arange(k) * 5) % len(sources)
        dy, dx = block[..., None] % 3 - 1, (block[..., None] // 3 + np.arange(k)) % 3 - 1
        weight = 0.6 ** np.arange(k) * (0.3 + 0.01 * step) * np.ones((size, size, 1))
        tables["image"].append(image)
        tables["y"].append((y[..., None] + dy) % size)
        tables["x"].append((x[..., None] + dx) % size)
        tables["weight"].append(weight)
    image, top_y, top_x, weight = (np.stack(table) for table in tables.values())
    denoised = (values[image, :, top_y, top_x] * weight[..., None]).sum(-2) / weight.sum(-1)[..., None]
    denoised = denoised.transpose(0, 3, 1, 2).astype(np.float32)
    effective = np.full((steps, size, size), 6.5, dtype=np.float32)
    effective[:, :3, :3] = 120_000
    ids = np.arange(12) * 10 + 3
    alpha_bar = np.cos(np.pi / 2 * (1 - np.arange(steps + 1) / steps) / 1.008) ** 2
    noise = rng.normal(size=(channels, size, size)).astype(np.float32)
    signal, spread = np.sqrt(alpha_bar)[:, None, None, None], np.sqrt(1 - alpha_bar)[:, None, None, None]
    trajectory = (signal * np.concatenate([denoised, denoised[-1:]]) + spread * noise).astype(np.float32)
    network = {
        "network_image": np.clip(denoised[-1] * 0.9, -1, 1),
        "network_denoised": np.clip(denoised * 0.9, -1, 1),
        "network_trajectory": trajectory * 0.95,
        "scores": {
            "machine": {"r": 0.904, "r2": 0.817, "R2": 0.79},
            "ideal": {"r": 0.71, "r2": 0.504, "R2": float("nan")},
        },
        "nearest": {"machine": {"id": 33, "distance": 0.41}, "network": {"id": 43, "distance": 0.4}},
    }
    if case in ("alone", "partial", "waiting"):
        network = {}
    params = MosaicParams(
        dataset="mnist",
        machine="els" if case == "circular" else "bbels",
        network=None if case == "alone" else "unet",
        seed=1,
        images=12,
        steps=steps,
    )
    done = {"partial": 3, "waiting": 0}.get(case, steps)
    whole = case not in ("partial", "waiting")
    keep = steps if whole else 0
    return MosaicResult(
        params=params,
        noise=noise,
        trajectory=trajectory[: done + 1],
        denoised=denoised[:done],
        alpha_bar=alpha_bar,
        patch_sizes=np.array([2 * (steps - s) + 1 for s in range(steps)]),
        image=trajectory[done],
        top_image=ids[image].astype(np.int32)[:keep],
        top_y=top_y.astype(np.int16)[:keep],
        top_x=top_x.astype(np.int16)[:keep],
        top_weight=weight.astype(np.float32)[:keep],
        effective_samples=effective[:keep],
        source_ids=ids if whole else ids[:0],
        source_images=sources if whole else sources[:0],
        **network,
    )


def _blobs(rng: np.random.Generator, count: int, channels: int, size: int) -> np.ndarray:
    """Draw soft ellipses on black: uint8 [N, C, H, W]."""
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    centre, radius = (
        rng.uniform(size * 0.35, size * 0.65, (2, count, channels)),
        rng.uniform(2, size / 3, (2, count, channels)),
    )
    distance = ((y - centre[0][..., None, None]) / radius[0][..., None, None]) ** 2
    distance = distance + ((x - centre[1][..., None, None]) / radius[1][..., None, None]) ** 2
    return np.round(255 * np.exp(-(distance**2))).astype(np.uint8)


def main() -> None:
    """Show the lens and, below it, what Python knows of it."""
    st.set_page_config(layout="wide")
    st.title("Lens")
    case = st.query_params.get("case", "grey")
    factor = st.slider("factor", 1.0, 20.0, 4.0, step=1.0, key="factor")
    st.session_state["runs"] = st.session_state.get("runs", 0) + 1
    query = st.query_params.get("pin", "")
    pin = tuple(map(int, query.split("-"))) if query else None
    known = place("lens")
    asked = st.session_state.pop("order", None) or (vars(known) if known else {"pin": pin})
    payload = lens_payload(sample_result(case), factor=factor, partial=case in ("partial", "waiting"))
    here = lens(payload, key="lens", **asked)
    if here.pin:
        st.query_params["pin"] = f"{here.pin[0]}-{here.pin[1]}"
    else:
        st.query_params.pop("pin", None)
    st.button("preset", on_click=_preset, key="preset")
    st.text(f"runs {st.session_state['runs']}; {_spell(here)}")


def _preset() -> None:
    st.session_state["order"] = {"pin": (4, 4), "step": 2, "view": "mosaic"}


def _spell(place: Place) -> str:
    return f"pin {place.pin}, step {place.step}, view {place.view}"


if __name__ == "__main__":
    main()
