"""A user's example texts: read from two boxes or a CSV or JSONL file, checked row by row, and written back safely.

A row that can't be used is left out and listed with its number, as a spreadsheet or an editor counts it; what makes the
whole file unusable is one sentence. Nothing here knows of models or concepts. Torch-free.
"""

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lm_core.errors import ParameterError
from lm_core.text_files import check_size, decode, plain_cell, safe_cell

MOST_ROWS = 2000
MOST_LINES = 20 * MOST_ROWS  # with empty ones, which don't count as rows
FEWEST_PER_CLASS = 8
FEWEST_NUMBERS = 16
LEAST = f"at least {FEWEST_PER_CLASS} with and as many without"
COLUMNS = ("text", "label")
KINDS = {"texts": "Texts with and without", "numbers": "Texts with a number each", "prefix": "A prefix"}
YES = ("1", "+1", "+", "yes", "with", "positive")
NO = ("0", "-1", "-", "no", "without", "negative")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
LABEL_HELP = "use 1 or 0, + or −, yes or no, with or without, positive or negative, or a number in every row"


@dataclass(frozen=True)
class Row:
    """One example: 1 with the concept, 0 without, or how much of it.

    Rows of one group are never held out apart; `where` is the place in what the user gave.
    """

    text: str
    target: float
    group: str = ""
    where: str = field(default="", compare=False)


class Problem(NamedTuple):
    """What is wrong with one row, and where it is."""

    where: str
    says: str


@dataclass(frozen=True)
class Table:
    """The usable rows of what a user gave; `kind` is "texts" (targets 1 and 0) or "numbers"; notices concern all."""

    kind: str
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...] = ()
    notices: tuple[str, ...] = ()


class Entry(NamedTuple):
    """A text and its label as they were given."""

    where: str
    text: str
    label: str


def typed(with_concept: str, without: str) -> Table:
    """Return the examples of two boxes, one a line.

    Raises:
        ParameterError: both are empty, or they are too much.
    """
    if not (with_concept + without).strip():
        raise ParameterError(f"No examples are given; type {LEAST}.")
    check_size(len((with_concept + without).encode("utf-8", "replace")))
    boxes = (("With", with_concept, "1"), ("Without", without, "0"))
    entries = [
        Entry(f"{name}, line {number}", line, label)
        for name, box, label in boxes
        for number, line in enumerate(box.splitlines(), 1)
        if line.strip()
    ]
    return _table(_limited(entries), [], [])


def read_table(content: bytes, name: str = "") -> Table:
    """Return the examples of a CSV or JSONL file with the columns text and label.

    Args:
        name: of the file; .jsonl, .ndjson and .json mean JSON, as does a content that begins with a brace.

    Raises:
        ParameterError: the file is empty, too large, no text, or of other columns.
    """
    check_size(len(content))
    text, notices = decode(content)
    if not text.strip():
        raise ParameterError("The file is empty; give one with the columns text and label.")
    problems: list[Problem] = []
    is_json = name.lower().endswith((".jsonl", ".ndjson", ".json")) or text.lstrip()[:1] in "{["
    read = _json_entries(text, problems) if is_json else _csv_entries(text, problems, notices)
    return _table(_limited(read), problems, notices)


def clean_text(text: str) -> str:
    """Return a text without control characters and surrounding space; its letters composed (NFC)."""
    return unicodedata.normalize("NFC", CONTROLS.sub(" ", text)).strip()


def require_enough(rows: Sequence[Row], kind: str) -> None:
    """Raise ParameterError unless a direction can be fitted to the rows."""
    if not 1 <= len(rows) <= MOST_ROWS:
        raise ParameterError(f"There are {len(rows):,} usable examples; give at most {MOST_ROWS:,}, {LEAST}.")
    if kind == "numbers":
        values = {row.target for row in rows}
        if len(rows) < FEWEST_NUMBERS or len(values) < 2:
            found = f"{len(rows)} usable examples with {len(values)} different numbers"
            raise ParameterError(f"There are {found}; give at least {FEWEST_NUMBERS} examples and two numbers.")
        if len(values) == 2:
            _require_classes([sum(row.target == value for row in rows) for value in sorted(values)], "of each number")
        return
    count = sum(row.target == 1 for row in rows)
    _require_classes([count, len(rows) - count], "with and as many without")


def _require_classes(counts: Sequence[int], wanted: str) -> None:
    if min(counts) == 0:
        raise ParameterError(
            f"All {max(counts)} usable examples are of one class; give at least {FEWEST_PER_CLASS} {wanted}."
        )
    if min(counts) < FEWEST_PER_CLASS:
        raise ParameterError(
            f"There are {counts[0]} and {counts[1]} usable examples of the two classes; give at least "
            f"{FEWEST_PER_CLASS} {wanted}."
        )


def _limited(entries: Iterable[Entry]) -> list[Entry]:
    kept = []
    for entry in entries:
        if len(kept) == MOST_ROWS:
            raise ParameterError(f"There are more than {MOST_ROWS:,} rows; give at most {MOST_ROWS:,}.")
        kept.append(entry)
    return kept


# -- text to entries --------------------------------------------------------------------------------------------------


def _csv_entries(text: str, problems: list[Problem], notices: list[str]) -> Iterator[Entry]:
    """Yield the entries of a CSV file; a row's number is that of the spreadsheet, the header being row 1."""
    delimiter, places, width, header = _layout(text)
    if width > len(COLUMNS):
        notices.append(f"The file has {width} columns; only text and label were used.")
    for number, fields in _records(text, delimiter):
        if number == header or not any(map(str.strip, fields)):
            continue
        if len(fields) != width:
            problems.append(
                Problem(f"Row {number}", f"has {len(fields)} fields, not {width}; put a text with commas in quotes")
            )
            fields = [""] * width  # it still counts as a row
        yield Entry(f"Row {number}", *(plain_cell(fields[place]) for place in places))


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader, number = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 0
    while number < MOST_LINES:
        number += 1
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ParameterError(
                f"Row {number} can't be read ({error}); a quotation mark is unclosed or not doubled, or a text is "
                "longer than 131,072 characters."
            ) from None
    raise ParameterError(f"There are more than {MOST_ROWS:,} rows; give at most {MOST_ROWS:,}.")


def _layout(text: str) -> tuple[str, tuple[int, int], int, int]:
    """Return the delimiter, the places of text and label, the number of fields, and the header's row, 0 without one.

    Raises:
        ParameterError: the first row is neither a header with text and label nor a text with a label.
    """
    first: dict[str, tuple[int, list[str]]] = {}
    for delimiter in ",;\t":
        rows = ((number, fields) for number, fields in _records(text, delimiter) if any(map(str.strip, fields)))
        first[delimiter] = next(rows, (1, []))
    for delimiter, (number, fields) in first.items():
        header = [field.strip().lower() for field in fields]
        if all(header.count(name) == 1 for name in COLUMNS):
            return delimiter, (header.index("text"), header.index("label")), len(header), number
    for delimiter, (_, fields) in first.items():
        if len(fields) == len(COLUMNS) and _value(fields[1]) is not None:
            return delimiter, (0, 1), len(COLUMNS), 0
    found = ", ".join(field.strip()[:20] for field in max((fields for _, fields in first.values()), key=len)[:6])
    raise ParameterError(f"The columns are {found!r}; give two, named text and label.")


def _json_entries(text: str, problems: list[Problem]) -> Iterator[Entry]:
    """Yield the entries of a JSONL file; a row's number is that of its line."""
    if text.lstrip().startswith("["):
        raise ParameterError("The file is one JSON list; write one object a line, with text and label.")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"Row {number}"
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            found: Any = str(error)
        fault = _json_fault(found)
        if fault:
            problems.append(Problem(where, fault))
            found = dict.fromkeys(COLUMNS, "")  # it still counts as a row
        label = found["label"]
        yield Entry(where, found["text"], str(int(label)) if isinstance(label, bool) else str(label))


def _json_fault(found: Any) -> str:
    if not isinstance(found, dict):
        return f"is no JSON object ({str(found)[:60]})"
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        return f"has no {' and no '.join(missing)}"
    return "" if isinstance(found["text"], str) else f"has {str(found['text'])[:40]!r} as its text; give words"


# -- entries to rows --------------------------------------------------------------------------------------------------


def _word(label: str) -> str:
    return label.strip().lower().replace("−", "-").replace("–", "-")


def _value(label: str) -> float | None:
    """Return a label's number, 1 or 0 for words and signs, None for what is none of these."""
    word = _word(label)
    if word in YES or word in NO:
        return float(word in YES)
    return _number(word)


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _kind(entries: Sequence[Entry]) -> str:
    """Return "numbers" if the labels are numbers beyond two classes, else "texts"."""
    numbers = {_number(_word(entry.label)) for entry in entries} - {None}
    words = any(_number(_word(entry.label)) is None and _value(entry.label) is not None for entry in entries)
    return "texts" if words or numbers <= {0.0, 1.0} or numbers <= {-1.0, 1.0} else "numbers"


def _target(label: str, kind: str) -> float | None:
    if kind == "numbers":
        return _number(_word(label))
    value = _value(label)
    return None if value not in (1.0, 0.0, -1.0) else float(value == 1)


def _table(entries: Sequence[Entry], problems: list[Problem], notices: list[str]) -> Table:
    """Keep the usable entries; one that repeats another is left out, two of different labels are both."""
    kind, twice, said = _kind(entries), set(), {problem.where for problem in problems}
    kept: dict[str, Row] = {}
    for where, given, label in (entry for entry in entries if entry.where not in said):
        text, target = clean_text(given), _target(label, kind)
        key = " ".join(text.casefold().split())
        if not text:
            problems.append(Problem(where, "has no text"))
        elif target is None:
            problems.append(Problem(where, f"has the label {label[:30]!r}; {LABEL_HELP}"))
        elif key not in kept:
            kept[key] = Row(text, target, where=where)
        elif kept[key].target == target:
            problems.append(Problem(where, f"repeats {kept[key].where} and is left out"))
        else:
            twice.add(key)
            problems.append(Problem(where, f"is the text of {kept[key].where} with another label; both are left out"))
    order = {entry.where: place for place, entry in enumerate(entries)}
    rows = tuple(row for key, row in kept.items() if key not in twice)
    return Table(kind, rows, tuple(sorted(problems, key=lambda one: order[one.where])), tuple(notices))


# -- rows to a file ---------------------------------------------------------------------------------------------------


def write_csv(rows: Iterable[Row], kind: str) -> bytes:
    """Return the rows as a CSV file that spreadsheets open without running anything: UTF-8 with a byte order mark."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        label = f"{row.target!r}" if kind == "numbers" else "with" if row.target == 1 else "without"
        writer.writerow((safe_cell(row.text), label))
    return out.getvalue().encode("utf-8-sig")
