"""Evaluation sets for detectors: labelled texts in groups that no fold splits. Torch-free.

The shipped sets are `assets/evaluation/*.json`, made by `assets/build_evaluation.py`; published benchmarks are read
from the user's own copies (`lm_core.benchmarks`). Nothing here knows of models or scores.
"""

import json
import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lm_core.artifacts import asset_path
from lm_core.benchmarks import BENCHMARKS, BenchmarkSpec, Case
from lm_core.concepts import Example
from lm_core.errors import AssetError, ParameterError
from lm_core.params import require_int

BINARY, REAL = "binary", "real"
SETS = (  # in the order of the table
    *("truthful", "hallucinated", "harmful", "toxic", "sentiment", "language", "programming", "subject", "archaic"),
)
FIELDS = ("id", "name", "about", "kind", "classes", "question", "licence", "groups")
FEWEST_LIMITED = 20


@dataclass(frozen=True)
class Item:
    """One labelled text.

    Attributes:
        prompt: what the model is asked or shown.
        response: the answer that is judged; None if the prompt itself is.
        label: −1 or +1, or a number.
        group: its template, passage or family of facts; items of one group are never in different folds.
    """

    prompt: str
    response: str | None
    label: float
    group: str

    @property
    def text(self) -> str:
        """Everything there is to read."""
        return self.prompt if self.response is None else f"{self.prompt}\n{self.response}"


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled texts that a detector is tested on.

    Attributes:
        id, name, about: for people.
        kind: "binary" or "real".
        classes: names of the labels −1 and +1; of a real scale, of its ends.
        question: asks the model itself as a judge, with {prompt} and {response}: the answer "yes" means +1, or is a
            number on the scale.
        licence: of the texts.
        items: at least two groups, both classes, no text twice.
        notes: sentences on what was left out on loading.

    Raises:
        AssetError: any of that doesn't hold.
    """

    id: str
    name: str
    about: str
    kind: str
    classes: tuple[str, str]
    question: str
    licence: str
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in (BINARY, REAL):
            raise AssetError(f"kind of {self.id} is {self.kind!r}; it is binary or real.")
        if len(self.classes) != 2 or len(set(self.classes)) != 2 or not all(self.classes):
            raise AssetError(f"classes of {self.id} are {self.classes!r}; give two different names.")
        for item in self.items:
            self._check_item(item)
        self._check_items()
        self._check_question()

    def _check_item(self, item: Item) -> None:
        shown = f"An item of {self.id}, {str(item.prompt)[:40]!r},"
        if not all(isinstance(text, str) and text.strip() for text in (item.prompt, item.group)):
            raise AssetError(f"{shown} has an empty prompt or group; give both as text.")
        if item.response is not None and not (isinstance(item.response, str) and item.response.strip()):
            raise AssetError(f"{shown} has an empty response; give a text, or null for all items.")
        number = isinstance(item.label, int | float) and not isinstance(item.label, bool)
        if not number or not math.isfinite(item.label) or (self.kind == BINARY and abs(item.label) != 1):
            allowed = "−1 or 1" if self.kind == BINARY else "a finite number"
            raise AssetError(f"{shown} has the label {item.label!r}; it must be {allowed}.")

    def _check_items(self) -> None:
        if len({item.label for item in self.items}) < 2:
            raise AssetError(f"{self.id} has {len(self.items)} items of one class; both classes are needed.")
        if len({item.group for item in self.items}) < 2:
            raise AssetError(f"All items of {self.id} are in one group; two are needed to hold one out.")
        seen = Counter((item.prompt, item.response) for item in self.items)
        text, times = seen.most_common(1)[0]
        if times > 1:
            raise AssetError(f"{self.id} has the text {text[0][:40]!r} {times} times; keep one of them.")
        if len({item.response is None for item in self.items}) == 2:
            raise AssetError(f"Only some items of {self.id} have a response; give all of them one, or none.")

    def _check_question(self) -> None:
        asks = {"{prompt}"} | ({"{response}"} if self.items[0].response is not None else set())
        try:
            whole = self.question.format(prompt="{prompt}", response="{response}")
        except (KeyError, IndexError, ValueError):
            whole = ""
        if whole != self.question or {part for part in ("{prompt}", "{response}") if part in whole} != asks:
            raise AssetError(f"question of {self.id} is {self.question!r}; it must hold {' and '.join(sorted(asks))}.")

    def examples(self) -> list[Example]:
        """Return the items as a detector is fitted to them: targets ±1, or numbers less their mean."""
        mean = 0.0 if self.kind == BINARY else sum(item.label for item in self.items) / len(self.items)
        return [Example(item.prompt, item.response, item.label - mean) for item in self.items]

    def ask(self, item: Item) -> str:
        """Return what the model is asked when it is the judge of an item."""
        return self.question.format(prompt=item.prompt, response=item.response)

    def folds(self, count: int = 5, seed: int = 0) -> list[list[int]]:
        """Return the test items' indices of each fold, ascending; every item is in one fold, every group in one.

        Groups are dealt out in order of size, equals in random order, each to the fold c that it fits best: the
        smallest Σ_k c_k g_k over the counts of both classes, which keeps Σ c_k² small; real labels count as above or
        below their mean.

        Raises:
            ParameterError: there are too few groups for both classes to be in each fold.
        """
        require_int("count", count, 2, len(self.items))
        groups: dict[str, list[int]] = defaultdict(list)
        for index, item in enumerate(self.items):
            groups[item.group].append(index)
        order = list(groups.values())
        random.Random(seed).shuffle(order)
        high = [example.target > 0 for example in self.examples()]
        folds: list[list[int]] = [[] for _ in range(count)]
        held = [(0, 0)] * count
        for members in sorted(order, key=len, reverse=True):
            above = sum(high[index] for index in members)
            mine = (above, len(members) - above)
            best = min(range(count), key=lambda c: (held[c][0] * mine[0] + held[c][1] * mine[1], sum(held[c])))
            folds[best] += members
            held[best] = (held[best][0] + mine[0], held[best][1] + mine[1])
        if any(0 in counts for counts in held):
            raise ParameterError(
                f"count is {count}, but the {len(groups)} groups of {self.id} don't give each fold both classes; "
                "choose fewer folds."
            )
        return [sorted(fold) for fold in folds]


# -- shipped sets -----------------------------------------------------------------------------------------------------


def evaluation_sets() -> list[str]:
    """Return the ids of the shipped sets, in the order of the table."""
    return list(SETS)


@lru_cache(maxsize=len(SETS))
def load_set(name: str) -> EvaluationSet:
    """Return a shipped set.

    Raises:
        ParameterError: there is none of that id; AssetError: its file is missing or makes no sense.
    """
    if name not in SETS:
        raise ParameterError(f"set is {name!r}; choose one of {', '.join(SETS)}.")
    return read_set(asset_path("evaluation", f"{name}.json"))


def read_set(path: Path) -> EvaluationSet:
    """Read and check a set's file: an object with `FIELDS`, groups being {name: [[prompt, response, label], …]}.

    Raises:
        AssetError: no such file, not JSON, or not a set.
    """
    try:
        source = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise AssetError(f"{path.name} can't be read ({error.strerror}); restore assets/evaluation.") from None
    except ValueError as error:
        raise AssetError(f"{path.name} is no JSON ({error}); restore it, or run assets/build_evaluation.py.") from None
    return parse_set(source, path.name)


def parse_set(source: Any, origin: str) -> EvaluationSet:
    """Return what a set's file says; `origin` names it in errors."""
    missing = [field for field in FIELDS if not isinstance(source, dict) or not source.get(field)]
    if missing:
        raise AssetError(f"{origin} has no {', '.join(missing)}; a set has {', '.join(FIELDS)}.")
    try:
        items = tuple(
            Item(prompt, response, label, group)
            for group, rows in source["groups"].items()
            for prompt, response, label in rows
        )
        classes = tuple(source["classes"])
    except (AttributeError, TypeError, ValueError):
        raise AssetError(f"groups of {origin} must map names to rows [prompt, response or null, label].") from None
    said = {field: source[field] for field in ("id", "name", "about", "kind", "question", "licence")}
    return EvaluationSet(**said, classes=classes, items=items)


# -- benchmarks -------------------------------------------------------------------------------------------------------


def load_benchmark(name: str, path: str | Path, limit: int | None = None) -> EvaluationSet:
    """Read a published benchmark from the user's own copy.

    Args:
        name: a key of `BENCHMARKS`.
        path: the file or folder that its `files` describe.
        limit: most items, half of them of each class, whole groups drawn at random (always the same); None for all.

    Texts that are there twice are kept once; those with both labels, and empty ones, are left out: see `notes`.

    Raises:
        ParameterError: an unknown name or a wrong limit; AssetError: no such file, or one of another schema.
    """
    if name not in BENCHMARKS:
        raise ParameterError(f"benchmark is {name!r}; choose one of {', '.join(BENCHMARKS)}.")
    if limit is not None:
        require_int("limit", limit, FEWEST_LIMITED, 10**6)
    spec, path = BENCHMARKS[name], Path(path).expanduser()
    if not path.exists():
        raise AssetError(f"{path} isn't there: get {spec.name} from {spec.source} and give {spec.files}.")
    try:
        cases, notes = _clean(list(spec.cases(path)))
    except AssetError as error:
        raise AssetError(f"{str(error).removesuffix('.')}; {spec.name} is read from {spec.files}.") from None
    except (AttributeError, TypeError):
        raise AssetError(f"{path.name} has a value of another kind than {spec.name}: it needs {spec.files}.") from None
    if limit is not None and len(cases) > limit:
        cases = _draw(cases, limit)
        notes.append(f"{len(cases)} items were drawn, as many of each class as whole groups allow.")
    items = tuple(Item(case.prompt, case.response, 1.0 if case.positive else -1.0, case.group) for case in cases)
    return _benchmark_set(spec, items, tuple(notes))


def _benchmark_set(spec: BenchmarkSpec, items: tuple[Item, ...], notes: tuple[str, ...]) -> EvaluationSet:
    return EvaluationSet(
        id=spec.id,
        name=spec.name,
        about=spec.about,
        kind=BINARY,
        classes=spec.classes,
        question=spec.question,
        licence=spec.licence,
        items=items,
        notes=notes,
    )


def _clean(cases: list[Case]) -> tuple[list[Case], list[str]]:
    """Return the cases without empty, repeated and contradictory ones, and what was left out."""
    whole = [case for case in cases if case.prompt.strip() and (case.response is None or case.response.strip())]
    labels: dict[tuple[str, str | None], set[bool]] = defaultdict(set)
    kept = {}
    for case in whole:
        labels[case[:2]].add(case.positive)
        kept.setdefault(case[:2], case)
    clear = [case for text, case in kept.items() if len(labels[text]) == 1]
    counts = {
        "{} items without text are left out.": len(cases) - len(whole),
        "{} repeated items are kept once.": len(whole) - len(kept),
        "{} texts with both labels are left out.": len(kept) - len(clear),
    }
    return clear, [note.format(count) for note, count in counts.items() if count]


def _draw(cases: list[Case], limit: int) -> list[Case]:
    """Draw whole groups at random; neither class gets more than half of `limit`, nor far ahead of the other."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.group].append(case)
    waiting, drawn, held = list(groups.values()), [], Counter()
    random.Random(0).shuffle(waiting)
    while True:
        passed = []
        for members in waiting:
            mine = Counter(case.positive for case in members)
            ahead, further = held[True] - held[False], mine[True] - mine[False]
            fits = all(held[label] + mine[label] <= limit // 2 for label in (True, False))
            if fits and abs(ahead + further) <= max(abs(ahead), abs(further)):
                drawn += members
                held += mine
            else:
                passed.append(members)
        if len(passed) == len(waiting):
            return drawn
        waiting = passed  # what came too early may fit now
