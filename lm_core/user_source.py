"""What a user's own concept is made of: rows of examples, read by the model at either site. Torch-free.

Where it is kept is `lm_core.user_concepts`.
"""

import json
import math
import re
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np

from lm_core.artifacts import asset_path
from lm_core.concepts import Concept, Example
from lm_core.errors import ParameterError
from lm_core.example_rows import CONTROLS, FEWEST_PER_CLASS, KINDS, Row, clean_text, require_enough
from lm_core.judges import judge

MINE = "my-"  # how ids of users' concepts begin
TEXT_PROMPT = "Say something."  # what every example text answers: read once for all of them
QUESTION = "What are your thoughts on the following statement? "
MOST_FOLDED = 128  # examples that are all fitted, with folds to measure; of more, a part is held out for good
MOST_FITTED = 400
FITTED_SHARE = 0.75
FOLDS = 5
FEWEST_FOLDED = 10  # a class: four fifths of them are what a fit needs
LONGEST_NAME = 60
LONGEST_ASK = 300
UNITS = {"binary": "0 as your texts without, 1 as those with", "real": "in your numbers"}


class UserConcept(Concept):
    """A concept made of rows; its source has kind (of `KINDS`), rows, and prefix where the rows are answers to it."""

    @property
    def kind(self) -> str:
        return self.source["kind"]

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return tuple(Row(one["text"], float(one["target"]), one["group"]) for one in self.source["rows"])

    @cached_property
    def classes(self) -> list[list[int]]:
        """The rows of each value where there are two values; all of them as one class otherwise."""
        values = sorted({row.target for row in self.rows})
        if len(values) != 2:
            return [list(range(len(self.rows)))]
        return [[i for i, row in enumerate(self.rows) if row.target == value] for value in values]

    @cached_property
    def fitted(self) -> list[int]:
        """The rows that directions are fitted to: all up to 128, else three quarters of each class, 400 at most."""
        if len(self.rows) <= MOST_FOLDED:
            return list(range(len(self.rows)))
        kept: list[int] = []
        for members in self.classes:
            count = max(FEWEST_PER_CLASS, min(int(FITTED_SHARE * len(members)), MOST_FITTED // len(self.classes)))
            kept += np.random.default_rng(0).permutation(members)[:count].tolist()
        return sorted(kept)

    def folds(self) -> list[list[int]]:
        """Return rows to be measured in turn by fits without them; none if there are too few, or some aren't fitted.

        Rows of one group stay together; the targets are dealt out evenly.
        """
        if min(map(len, self.classes)) < FEWEST_FOLDED or len(self.fitted) < len(self.rows):
            return []
        groups: dict[str, list[int]] = {}
        for i, row in enumerate(self.rows):
            groups.setdefault(row.group or f"row {i}", []).append(i)
        order = np.random.default_rng(0).permutation(len(groups))
        members = [list(groups.values())[place] for place in order]
        members.sort(key=lambda group: sum(self.rows[i].target for i in group) / len(group))
        return [sorted(i for group in members[start::FOLDS] for i in group) for start in range(FOLDS)]

    def examples(self, site: str) -> list[Example]:
        """Return what a direction is fitted to, two classes in turn as long as both last.

        At "response" every text answers the same prompt; at "last" the prompt is the text itself, or, for a prefix, a
        statement with the prefix or without.
        """
        kept = set(self.fitted)
        classes = [[i for i in members if i in kept] for members in reversed(self.classes)]
        turns = zip_longest(*classes)
        return [self.example(i, site) for turn in turns for i in turn if i is not None]

    def example(self, i: int, site: str) -> Example:
        """Return the i-th row as the model reads it."""
        row = self.rows[i]
        target = 2 * row.target - 1 if self.label == "binary" else row.target - self.mean
        if site == "response":
            return Example(TEXT_PROMPT, row.text, target)
        if self.kind != "prefix":
            return Example(row.text, None, target)
        return Example(prefixed(self.source["prefix"] if row.target == 1 else "", row.group), None, target)

    @cached_property
    def mean(self) -> float:
        """Mean target over the fitted rows."""
        return sum(self.rows[i].target for i in self.fitted) / len(self.fitted)

    def pose(self, prompt: str) -> str:
        """Return the prompt as it is: nothing here is a template."""
        return prompt


def prefixed(prefix: str, statement: str) -> str:
    """Return a question about a statement, with a prefix or without."""
    return f"{prefix} {QUESTION}{statement}".strip()


def everyday(kind: str) -> list[str]:
    """Return the shipped everyday statements, or prompts."""
    return json.loads(asset_path("concepts", f"{kind}.json").read_text("utf-8"))["everyday"]


def parse_user_concept(source: dict[str, Any]) -> UserConcept:
    """Check a source, of this lab or of a file from anywhere, and return its concept.

    Raises:
        ParameterError: a field is missing or makes no sense.
    """
    source = {"id": MINE + "concept", "about": "", "ask": "", "judge": {}, "prefix": ""} | source
    words = [source.get(field) for field in ("id", "name", "about", "ask", "prefix", "kind")]
    if not all(isinstance(word, str) for word in words) or source["kind"] not in KINDS:
        raise ParameterError(f"The concept has no name or kind; its kind is one of {', '.join(KINDS)}.")
    if not re.fullmatch(rf"{MINE}[a-z0-9-]{{1,60}}", source["id"]):
        raise ParameterError(f"The concept's id is {source['id'][:40]!r}; it must be {MINE} and then letters.")
    if source["judge"] and (not isinstance(source["judge"], dict) or judge(source["judge"]) is None):
        raise ParameterError("The concept's judge is no dictionary with a metric.")
    source["name"], source["ask"] = clean_name(source["name"]), clean_words("ask", source["ask"])
    source["prefix"] = clean_words("prefix", source["prefix"], least=source["kind"] == "prefix")
    label = "real" if source["kind"] == "numbers" else "binary"
    source |= {"label": label, "group": "my own", "unit": UNITS[label], "rows": _checked_rows(source, label)}
    return UserConcept(
        id=source["id"],
        name=source["name"],
        group=source["group"],
        about=source["about"],
        label=label,
        ask=source["ask"],
        judge=source["judge"],
        prompts=tuple(everyday("prompts")),
        source=source,
    )


def _checked_rows(source: dict[str, Any], label: str) -> list[dict[str, Any]]:
    rows, kept = source.get("rows"), []
    if not isinstance(rows, list):
        raise ParameterError("The concept has no rows; give a list of texts with a target each.")
    for number, row in enumerate(rows, 1):
        known = isinstance(row, dict) and isinstance(row.get("text"), str) and type(row.get("target")) in (int, float)
        if not known or not math.isfinite(row["target"]) or not isinstance(row.get("group", ""), str):
            raise ParameterError(f"Row {number} of the concept is {str(row)[:60]!r}; give it a text and a number.")
        if label == "binary" and row["target"] not in (0, 1):
            raise ParameterError(f"Row {number} of the concept has the target {row['target']}; it must be 0 or 1.")
        kept.append({"text": clean_text(row["text"]), "target": row["target"], "group": row.get("group", "")})
    require_enough([Row(row["text"], row["target"]) for row in kept], source["kind"])
    return kept


def clean_name(name: str) -> str:
    """Return a name without control characters.

    Raises:
        ParameterError: it is empty or longer than 60 characters.
    """
    name = " ".join(CONTROLS.sub(" ", name).split())
    if not 1 <= len(name) <= LONGEST_NAME:
        raise ParameterError(f"The name has {len(name)} characters; give it 1 to {LONGEST_NAME}.")
    return name


def clean_words(field: str, words: str, least: bool = False) -> str:
    """Return what goes into a prompt, on one line.

    Raises:
        ParameterError: it is longer than 300 characters, or empty where it is needed.
    """
    words = " ".join(CONTROLS.sub(" ", words).split())
    if len(words) > LONGEST_ASK or (least and not words):
        raise ParameterError(f"The {field} has {len(words)} characters; give it {int(least)} to {LONGEST_ASK}.")
    return words
