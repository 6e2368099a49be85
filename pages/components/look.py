"""What every page looks like: its header with the claim, figure captions, references. No state, no computation."""

import base64
import html
import io

import numpy as np
import streamlit as st
from PIL import Image

PAPERS = {
    "els": (
        "Kamb & Ganguli, An analytic theory of creativity in convolutional diffusion models (2024)",
        "arXiv 2412.20292",
        "https://arxiv.org/abs/2412.20292",
    ),
    "steering": (
        "Beaglehole, Radhakrishnan, Boix-Adserà & Belkin, Toward universal steering and monitoring of AI models (2025)",
        "arXiv 2502.03708",
        "https://arxiv.org/abs/2502.03708",
    ),
    "mechanics": (
        "Simon, Kunin et al., There will be a scientific theory of deep learning (2026)",
        "arXiv 2604.21691",
        "https://arxiv.org/abs/2604.21691",
    ),
}

# Of every Plotly figure.
PLOTLY = {"displaylogo": False, "showSendToCloud": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
MARGIN = {"l": 10, "r": 10, "t": 30, "b": 10}
BLUE, AMBER, GREY = "#5b78f0", "#d9822b", "#8a93a5"  # each readable on white and on the dark page

# Only what the theme has no option for.
STYLE = """
<style>
.stMainBlockContainer { max-width: 82rem; }
.lm-claim { font-size: 1.12rem; line-height: 1.5; max-width: 52rem; margin: 0; }
.lm-eyebrow { font-size: .78rem; font-weight: 600; letter-spacing: .05em; text-transform: uppercase; opacity: .75;
  margin: 0; }
.lm-card-title { font-size: 1.2rem; font-weight: 650; line-height: 1.3; margin: .1rem 0 0; padding: 0; }
.lm-pair { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 17rem); gap: .9rem; margin: 0; }
.lm-pair figure { margin: 0; }
.lm-pair img { width: 100%; aspect-ratio: 1; object-fit: contain; image-rendering: pixelated; border-radius: .4rem;
  background: #000; display: block; }
.lm-pair figcaption { font-size: .82rem; line-height: 1.35; margin-top: .4rem; }
/* The dark theme's accent is light enough to be read as text, so white on it is not. */
[data-testid^="stBaseButton-primary"], [data-testid^="stBaseButton-primary"] *,
[data-testid="stMultiSelectTagsContainer"] [data-tag] * { color: light-dark(#fff, #0b1020); }
[data-testid="stPageLink-NavLink"] { padding-left: 0; }
.katex-display { overflow-x: auto; overflow-y: hidden; padding: .2rem 0; }
/* At Streamlit's 60 % a link in a caption is too pale to read. */
[data-testid="stCaptionContainer"] { opacity: .8; }
@media (max-width: 640px) {
  .stMainBlockContainer { padding-left: 1rem; padding-right: 1rem; }
}
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
</style>
"""


def icon(pixels: int = 64) -> Image.Image:
    """Draw the lab's mark, a small mosaic. Streamlit would fetch a named icon for the browser tab from the network."""
    tiles = np.array([[0, 1, 1, 2], [0, 3, 2, 2], [4, 3, 3, 0], [4, 4, 1, 0]])
    colours = np.array([[47, 79, 208], [255, 176, 0], [95, 118, 226], [13, 150, 130], [150, 170, 245]], dtype=np.uint8)
    return Image.fromarray(colours[tiles]).resize((pixels, pixels), Image.Resampling.NEAREST)


def style() -> None:
    """Put the lab's few style rules into the page; once a run, from app.py."""
    st.html(STYLE)


def page_header(title: str, claim: str) -> None:
    """Show the title and, under it, the one sentence that the page is there to make you believe or doubt."""
    with st.container(gap="xsmall"):
        st.title(title, anchor=False)
        st.html(f'<p class="lm-claim">{html.escape(claim)}</p>')


def card_header(eyebrow: str, title: str, level: int = 3) -> None:
    """Head a card: where it belongs in small capitals, then its name as a heading of that level."""
    st.html(
        f'<p class="lm-eyebrow">{html.escape(eyebrow)}</p>'
        f'<h{level} class="lm-card-title">{html.escape(title)}</h{level}>'
    )


def figure_caption(text: str) -> None:
    """Say under a figure, in one sentence, what one is looking at, with units and the caveat."""
    st.caption(text)


def references(*names: str) -> None:
    """List papers of `PAPERS` as plain links; nothing is fetched from them."""
    lines = [f"{title}. [{label}]({address})" for title, label, address in (PAPERS[name] for name in names)]
    st.markdown("\n".join(f"- {line}" for line in lines))


def pictures(images: list[tuple[np.ndarray, str, str]]) -> None:
    """Show small images side by side, enlarged pixel by pixel.

    Args:
        images: (uint8 [C, H, W] with one or three channels, caption, alternative text) each.
    """
    figures = "".join(
        f'<figure><img src="{png_address(image)}" alt="{html.escape(alt)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for image, caption, alt in images
    )
    st.html(f'<div class="lm-pair">{figures}</div>')


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Map [−1, 1] to 0 … 255."""
    return np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8)


def png_address(image: np.ndarray) -> str:
    """Return uint8 [C, H, W] as the data address of a PNG."""
    array = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
