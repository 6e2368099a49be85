"""A user's text files: their encoding found out, binary ones refused, and cells that no spreadsheet runs."""

import codecs
import csv
import io
import json
import re
import unicodedata

from lm_core.errors import ParameterError

MOST_BYTES = 5_000_000
COLUMN = "text"
MAGIC = {  # how files begin that are no text
    b"PK\x03\x04": "a workbook or zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"%PDF": "a PDF",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x1f\x8b": "a gzip archive",
}
FORMULA = "=+-@\t\r＝＋－＠"  # a spreadsheet runs a cell that begins so (OWASP, "CSV Injection")


def check_size(size: int) -> None:
    """Raise ParameterError if so many bytes are too many."""
    if size > MOST_BYTES:
        raise ParameterError(f"The texts are {size / 1e6:.1f} MB; give at most {MOST_BYTES // 10**6} MB.")


def decode(content: bytes) -> tuple[str, list[str]]:
    """Return a file's text and what the user should know of its encoding: UTF-8, UTF-16 or UTF-32, else Latin-1.

    Raises:
        ParameterError: it is no text, or some lines are UTF-8 and others aren't.
    """
    kind = next((kind for start, kind in MAGIC.items() if content.startswith(start)), None)
    if kind:
        raise ParameterError(f"The file is {kind}, not text; save the table as CSV (UTF-8) and give that.")
    encoding = _wide_encoding(content)
    try:
        text, notices = content.decode(encoding or "utf-8").removeprefix("\ufeff"), []
    except UnicodeDecodeError:
        if encoding:
            raise ParameterError(f"The file begins as {encoding} but is damaged; save it as UTF-8.") from None
        text, notices = _latin(content)
    controls = sum(unicodedata.category(c) == "Cc" and c not in "\t\r\n\f" for c in text[:100_000])
    if "\0" in text or controls > len(text[:100_000]) / 100:
        raise ParameterError("The file is binary, not text; give a CSV or JSONL file.")
    return text, notices


def _wide_encoding(content: bytes) -> str | None:
    """Return utf-32 or utf-16 by the byte order mark, or by zeros at every second byte; else None."""
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    start = content[:2000]
    even, odd = start[::2].count(0), start[1::2].count(0)
    if max(even, odd) > len(start) / 5 and min(even, odd) <= len(start) / 50:
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def _latin(content: bytes) -> tuple[str, list[str]]:
    """Read what is not UTF-8 as Windows' or ISO's Latin-1, unless parts of it are UTF-8."""
    valid, broken = [], []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.isascii():
            try:
                line.decode("utf-8")
                valid.append(number)
            except UnicodeDecodeError:
                broken.append(number)
    if valid and broken:
        raise ParameterError(
            f"The file mixes encodings: line {valid[0]} is UTF-8, line {broken[0]} is not; save the file as UTF-8."
        )
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    sample = next((word for word in text.split() if not word.isascii()), "")[:30]
    return text, [
        f"The file is not UTF-8 and was read as Latin-1 (“{sample}”); if letters look wrong, save it as UTF-8."
    ]


def read_texts(name: str, content: bytes) -> tuple[list[str], list[str]]:
    """Return a file's texts and what the user should know of it.

    A CSV gives its column "text", or its first one if none is called so; JSONL gives strings or objects with "text".

    Raises:
        ParameterError: it is too big, no text, or a line is of another form.
    """
    check_size(len(content))
    text, notices = decode(content)
    if name.lower().endswith(".jsonl"):
        return [_json_text(line, n) for n, line in enumerate(text.splitlines(), 1) if line.strip()], notices
    if not name.lower().endswith(".csv"):
        return text.splitlines(), notices
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise ParameterError(f"The CSV can't be read ({error}); save it as CSV (UTF-8) with commas.") from None
    heads = [cell.strip().lower() for cell in rows[0]] if rows else []
    if COLUMN not in heads:
        return [row[0] for row in rows], [
            *notices,
            "No column is called “text”: the first one is read, all rows of it.",
        ]
    place = heads.index(COLUMN)
    return [row[place] if place < len(row) else "" for row in rows[1:]], notices


def _json_text(line: str, number: int) -> str:
    try:
        value = json.loads(line)
        text = value.get(COLUMN) if isinstance(value, dict) else value
    except (ValueError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise ParameterError(f'Line {number} is no JSON string nor an object with "text"; mend it or give plain lines.')
    return text


def safe_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: one that looks like it gets an apostrophe in front."""
    return f"'{text}" if text.lstrip("'").startswith(tuple(FORMULA)) else text


def plain_cell(text: str) -> str:
    """Undo `safe_cell`."""
    return text[1:] if re.match(rf"'+[{re.escape(FORMULA)}]", text) else text
