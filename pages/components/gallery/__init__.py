"""A gallery of small pictures: seeds as rows, machines and networks as columns, each picture a link
that opens in a new tab, or just a picture.

One HTML table over one sprite of the rows on show, so that a row costs a few kilobytes. Nothing here computes.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

__all__ = ["Cell", "gallery", "stack"]

CSS = (Path(__file__).parent / "gallery.css").read_text("utf-8")


@dataclass(frozen=True)
class Cell:
    """One picture: what stands under it, what it is in words, and where a click leads, in a new tab; "" nowhere."""

    figure: str
    alt: str
    link: str


def gallery(
    titles: Sequence[str], heads: Sequence[tuple[str, str]], cells: Sequence[Sequence[Cell]], sheet: np.ndarray
) -> None:
    """Show a grid of pictures.

    Args:
        titles: of the columns.
        heads: of each row, (what it is, a word under it).
        cells: [rows][columns].
        sheet: the pictures, uint8 [rows, columns, side, side] or [rows, columns, side, side, 3].
    """
    st.html(markup(titles, heads, cells, sheet))


def markup(
    titles: Sequence[str], heads: Sequence[tuple[str, str]], cells: Sequence[Sequence[Cell]], sheet: np.ndarray
) -> str:
    """Return the gallery's HTML; whatever is text is escaped."""
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}<small>{html.escape(word)}</small></th>'
        + "".join(_cell(cell, row, column) for column, cell in enumerate(line))
        + "</tr>"
        for row, ((name, word), line) in enumerate(zip(heads, cells, strict=True))
    )
    size = f"--columns:{sheet.shape[1]};--rows:{sheet.shape[0]}"
    return (
        f'<style>{CSS}</style><div class="lm-gallery" role="region" tabindex="0" aria-label="Gallery of seeds" '
        f'style="{size};--sprite:url({_sprite(sheet)})"><table><thead><tr><th scope="col">seed</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell, row: int, column: int) -> str:
    picture = f'<i style="--row:{row};--column:{column}"></i><span>{html.escape(cell.figure)}</span>'
    alt = html.escape(cell.alt + (", opens in a new tab" if cell.link else ""))
    said = f'title="{alt}" aria-label="{alt}"'
    if not cell.link:
        return f'<td><div role="img" {said}>{picture}</div></td>'
    # Another tab, for a link that reloads this one would lose what the visit has measured.
    return f'<td><a href="{html.escape(cell.link)}" target="_blank" rel="noopener" {said}>{picture}</a></td>'


def _sprite(sheet: np.ndarray) -> str:
    """Return every picture side by side as the data address of one lossless image."""
    rows, columns, side = sheet.shape[:3]
    array = np.moveaxis(sheet, 2, 1).reshape(rows * side, columns * side, *sheet.shape[4:])
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "WEBP", lossless=True, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def stack(tiles: Mapping[str, np.ndarray], columns: Sequence[str], rows: Sequence[int]) -> np.ndarray:
    """Return the chosen rows and columns of a survey's tiles as a gallery takes them."""
    return np.stack([tiles[column][list(rows)] for column in columns], axis=1)
