"""Concepts as data: what the files in `assets/concepts/` and a user's own say, checked and read. Torch-free.

A concept is a set of examples with and without it (or with a number each), the words that ask for it, and a judge of
text. `examples(site)` turns it into what the model is shown; nothing here knows of models.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lm_core.artifacts import asset_path
from lm_core.errors import AssetError, ParameterError
from lm_core.judges import JUDGES

LISTS = ("statements", "prompts")  # files of that name hold shared lists
CALIBRATION_PROMPTS = 8  # the first of a concept's held-out prompts; the others evaluate
MOST_EXAMPLES = 64  # a class: with both sites about a minute of reading on two cores
FEWEST_TEXTS = 8
REAL = "real"
LABELS = ("binary", REAL)
NUMBERS = (int, float)
NEUTRAL_PROMPT = "Please write a short text."  # what a text without a prompt is the answer to


@dataclass(frozen=True)
class Example:
    """A prompt, what was answered (None for the last-token site), and the concept's label: ±1 or a centred number.

    `start` is how every answer begins, before the site: "Rating: " leaves only the digit to be said.
    """

    prompt: str
    response: str | None
    target: float
    start: str = ""


@dataclass(frozen=True)
class Concept:
    """One concept.

    Attributes:
        id: name of its file; name: for people; group: its kind; about: one sentence.
        label: "binary" or "real".
        ask: the concept asked for in words.
        judge: specification for `judges.judge`; {"metric": "rating"} for the expected digit.
        prompts: held-out prompts, none of them among the examples.
        source: the file's whole content.
    """

    id: str
    name: str
    group: str
    about: str
    label: str
    ask: str
    judge: dict[str, Any]
    prompts: tuple[str, ...]
    source: dict[str, Any]

    @property
    def is_rating(self) -> bool:
        """True if the judge reads a number off the digit logits instead of a text."""
        return self.judge.get("metric") == "rating"

    @property
    def answer_start(self) -> str:
        """How an answer to be judged by its digit begins."""
        return self.source.get("answer_start", "")

    @property
    def calibration_prompts(self) -> tuple[str, ...]:
        return tuple(map(self.pose, self.prompts[:CALIBRATION_PROMPTS]))

    @property
    def evaluation_prompts(self) -> tuple[str, ...]:
        return tuple(map(self.pose, self.prompts[CALIBRATION_PROMPTS:]))

    def pose(self, prompt: str) -> str:
        """Return what the model is asked: a rating's review goes into the rating's template."""
        return self.source["template"].format(text=prompt) if self.label == REAL else prompt

    def asked(self, prompt: str) -> str:
        """Return the prompt that asks for the concept in words."""
        return f"{prompt}\n{self.ask}"

    def examples(self, site: str) -> list[Example]:
        """Return what a direction is fitted to, with and without in turn.

        At the site "last" the prompts ask for the concept or don't and nothing is answered yet; at "response" the same
        plain statement is answered with or without it.
        """
        source = self.source
        if self.label == REAL:
            return self._rated(site)
        statements = source["statements"]
        if site == "response":
            pairs = zip(source["texts_with"], source["texts_without"], strict=True)
            pose = [statements[i % len(statements)] for i in range(len(source["texts_with"]))]
            return [
                Example(prompt, text, target)
                for prompt, pair in zip(pose, pairs, strict=True)
                for text, target in zip(pair, (1.0, -1.0), strict=True)
            ][: 2 * MOST_EXAMPLES]
        count = min(MOST_EXAMPLES, len(statements) * len(source["with"]))
        return [
            Example(self._fill(source[key][(i + i // len(statements)) % len(source[key])], key, i), None, target)
            for i in range(count)
            for key, target in (("with", 1.0), ("without", -1.0))
        ]

    def _fill(self, template: str, key: str, i: int) -> str:
        statements = self.source["statements"]
        texts, plain = self.source[f"texts_{key}"], self.source["texts_without"]
        text = texts[i % len(texts)]
        words = text.split(" ")
        return template.format(
            statement=statements[i % len(statements)],
            text=text,
            plain=plain[i % len(plain)],
            half=" ".join(words[: len(words) // 2]),
        )

    def _rated(self, site: str) -> list[Example]:
        """Ratings: the digit is what the prompt's end leads to, or the response itself."""
        rated = self.source["examples"][: 2 * MOST_EXAMPLES]
        mean = sum(one["target"] for one in rated) / len(rated)
        pose = self.source["template"]
        return [
            Example(
                pose.format(text=one["text"]),
                f"{one['target']:g}" if site == "response" else None,
                one["target"] - mean,
                self.answer_start,
            )
            for one in rated
        ]


def read_concept(path: Path) -> Concept:
    """Read a concept's file, shipped or a user's own.

    Raises:
        AssetError: no such file, or not JSON.
        ParameterError: a field is missing or makes no sense.
    """
    try:
        source = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise AssetError(f"The concept file {path.name} can't be read: {error.strerror}; check its path.") from None
    except ValueError as error:
        raise AssetError(
            f"The concept file {path.name} is no JSON ({error}); see assets/concepts for examples."
        ) from None
    return parse_concept(source, path.stem)


def parse_concept(source: dict[str, Any], default_id: str = "mine") -> Concept:
    """Check a concept's fields and resolve the names of shared lists."""
    if not isinstance(source, dict):
        raise ParameterError("A concept is one JSON object; see assets/concepts for examples.")
    source = {"id": default_id, "label": "binary", "group": "my own", "about": "", "ask": ""} | source
    for field in LISTS:
        if isinstance(source.get(field), str):
            source[field] = _shared(field, source[field])
    needed = (
        ("template", "examples")
        if source["label"] == REAL
        else ("with", "without", "statements", "texts_with", "texts_without")
    )
    for field in (*needed, "prompts"):
        if not source.get(field):
            raise ParameterError(f"The concept {source['id']} has no {field}; see assets/concepts for what is needed.")
    _check_kinds(source)
    _check_examples(source)
    return Concept(
        id=str(source["id"]),
        name=str(source.get("name", source["id"])),
        group=str(source["group"]),
        about=str(source["about"]),
        label=source["label"],
        ask=str(source["ask"]),
        judge=source.get("judge", {}),
        prompts=tuple(source["prompts"]),
        source=source,
    )


def _check_kinds(source: dict[str, Any]) -> None:
    """Refuse an unknown label or judge, lists of anything but text, and templates that can't be filled."""
    if source["label"] not in LABELS:
        raise ParameterError(f"label is {source['label']!r}; choose one of {', '.join(LABELS)}.")
    if source.get("judge") and source["judge"].get("metric") not in JUDGES:
        raise ParameterError(f"judge is {source['judge']!r}; its metric is one of {', '.join(JUDGES)}.")
    for field in ("with", "without", "statements", "texts_with", "texts_without", *LISTS):
        items = source.get(field, [])
        if not isinstance(items, list) or not all(isinstance(one, str) for one in items):
            raise ParameterError(f"{field} of {source['id']} is no list of texts; see assets/concepts for examples.")
    for one in source.get("examples", []):
        if not isinstance(one, dict) or not isinstance(one.get("text"), str) or type(one.get("target")) not in NUMBERS:
            raise ParameterError(f"An example of {source['id']} is {one!r}; give each a text and a number as target.")
    for template in (*source.get("with", []), *source.get("without", []), source.get("template", "")):
        try:
            template.format(statement="", text="", plain="", half="")
        except (KeyError, IndexError, ValueError):
            raise ParameterError(
                f"Template {template!r} can't be filled; it may use {{statement}}, {{text}}, {{plain}} and {{half}}."
            ) from None


def _check_examples(source: dict[str, Any]) -> None:
    if source["label"] == REAL:
        lists = {"examples": source["examples"]}
        targets = {one.get("target") for one in source["examples"]}
        if len(targets) < 2:
            raise ParameterError(f"All examples of {source['id']} have the same target; give at least two values.")
    else:
        lists = {name: source[name] for name in ("texts_with", "texts_without")}
        if len(source["texts_with"]) != len(source["texts_without"]):
            raise ParameterError(
                f"{source['id']} has {len(source['texts_with'])} texts with and {len(source['texts_without'])} without "
                "the concept; give as many of each."
            )
        if set(source["texts_with"]) & set(source["texts_without"]):
            raise ParameterError(f"{source['id']} has the same text with and without the concept; make them differ.")
    for name, items in lists.items():
        if len(items) < FEWEST_TEXTS:
            raise ParameterError(f"{source['id']} has {len(items)} {name}; give at least {FEWEST_TEXTS}.")


def _shared(kind: str, name: str) -> list[str]:
    path = asset_path("concepts", f"{kind}.json")
    lists = json.loads(path.read_text("utf-8"))
    if name not in lists:
        raise ParameterError(f"{kind} is {name!r}; choose one of {', '.join(lists)} or give a list.")
    return lists[name]


@lru_cache(maxsize=1)
def concepts() -> dict[str, Concept]:
    """Return the shipped concepts by id, grouped, in alphabetical order of their groups."""
    found = [read_concept(path) for path in asset_path("concepts").glob("*.json") if path.stem not in LISTS]
    return {one.id: one for one in sorted(found, key=lambda one: (one.group, one.name))}


def choosable() -> dict[str, Concept]:
    """Return the shipped concepts and the user's own, by id."""
    from lm_core.user_concepts import my_concepts

    return concepts() | my_concepts()


def find_concept(name: str) -> Concept:
    """Return the concept of that id, shipped or the user's own.

    Raises:
        ParameterError: there is none; says which there are. AssetError: the user's file is damaged.
    """
    from lm_core.user_concepts import is_mine, stored

    if is_mine(name):
        return stored(name).concept
    if name not in concepts():
        raise ParameterError(f"concept is {name!r}; choose one of {', '.join(concepts())}.")
    return concepts()[name]


@dataclass(frozen=True)
class ConceptFacts:
    """What was measured of a concept's direction in a model.

    Attributes:
        band: usable strengths, lowest and highest, as fractions of the residual norm, each end halfway (geometrically)
            to the next strength that was swept and not usable; None if none is usable.
        collapse: strength from which most texts collapse; the largest one swept if none did (`collapses` False).
        best: the best of the strengths swept, the one that was evaluated.
        effect: mean judge over held-out texts: steered, unsteered, random, prompted where they were measured, and
            interval: 95 % bootstrap of the weaker of the differences steered − unsteered and steered − random.
        works: on the evaluation's prompts both differences' intervals exclude zero and at least three quarters of the
            texts are fluent; for a direction that was only calibrated, whether it has a band.
        evaluated: the effect is from the evaluation; else from the few prompts of calibration, without an interval.
        blocks: first and last steered block; unit: of the effects.
    """

    band: tuple[float, float] | None
    collapse: float
    collapses: bool
    best: float
    effect: dict[str, Any]
    works: bool
    evaluated: bool
    blocks: tuple[int, int]
    unit: str


def measured(concept_id: str) -> dict[str, Any] | None:
    """Return everything that was measured of a concept, None if nothing was.

    Of a shipped one that is `assets/directions/ID.json`; of the user's own there is no evaluation in it.
    """
    from lm_core.user_concepts import is_mine, stored

    if is_mine(concept_id):
        return stored(concept_id).measured
    path = asset_path("directions", f"{concept_id}.json")
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def facts(concept_id: str, model: str, method: str, site: str) -> ConceptFacts | None:
    """Return what was measured of a concept's direction by that method at that site, None if nothing was."""
    found = measured(concept_id)
    swept = found["calibration"].get(f"{method}.{site}") if found and found["model"] == model else None
    if found is None or swept is None:
        return None
    evaluated = found.get("evaluation")
    headline = evaluated if evaluated and (evaluated["method"], evaluated["site"]) == (method, site) else None
    effect = _effect(headline) if headline else _swept_effect(found["calibration"], swept)
    return ConceptFacts(
        band=_band(swept),
        collapse=swept["collapse"] or swept["sweep"][-1]["strength"],
        collapses=swept["collapse"] is not None,
        best=swept["best"],
        effect=effect,
        works=headline["works"] if headline else swept["band"] is not None,
        evaluated=headline is not None,
        blocks=tuple(found["blocks"]),
        unit=unit_of(find_concept(concept_id)),
    )


def _band(swept: dict[str, Any]) -> tuple[float, float] | None:
    if not swept["band"]:
        return None
    strengths = [point["strength"] for point in swept["sweep"]]
    low, high = (strengths.index(end) for end in swept["band"])
    below, above = strengths[max(low - 1, 0)], strengths[min(high + 1, len(strengths) - 1)]
    return round((below * strengths[low]) ** 0.5, 4), round((above * strengths[high]) ** 0.5, 4)


def _effect(evaluated: dict[str, Any]) -> dict[str, Any]:
    effect = {name: evaluated[name] for name in ("steered", "unsteered", "random", "prompted")}
    intervals = [evaluated["over_unsteered"], evaluated["over_random"]]
    return effect | {"interval": min(intervals, key=lambda ends: ends[0])}


def _swept_effect(calibration: dict[str, Any], swept: dict[str, Any]) -> dict[str, Any]:
    """Return the calibration's own figures, from few prompts, for directions that were not the headline."""
    at = {point["strength"]: point["judge"] for point in swept["sweep"]}
    random = {point["strength"]: point["judge"] for point in calibration["random"]}
    return {
        "steered": at[swept["best"]],
        "unsteered": calibration["unsteered"],
        "random": random[swept["best"]],
        "prompted": calibration["prompted"],
    }


def unit_of(concept: Concept) -> str:
    """Return the unit of a concept's judge."""
    return JUDGES[concept.judge["metric"]][0] if concept.judge else concept.source.get("unit", "not judged")
