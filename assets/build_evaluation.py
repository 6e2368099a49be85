"""Write the evaluation sets, `assets/evaluation/`, from the hand-written lists of `assets/evaluation_sources/`.

    python assets/build_evaluation.py             write all sets
    python assets/build_evaluation.py --check     print what gives the labels away, as in assets/evaluation/README.md

Every choice that isn't in the lists is drawn with a fixed seed, so the same lists give the same bytes.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lm_core.artifacts import asset_path, atomic_write  # noqa: E402
from lm_core.evaluation import BINARY, REAL, EvaluationSet, Item, evaluation_sets, load_set  # noqa: E402

SEED = 0
LICENCE = "MIT, written for this project"
WORDS = r"(?u)\w+|[^\w\s]"  # punctuation counts as words
KEY = re.compile(r"\[(\d)(?:/(\d))?\]")
YES_OR_NO = "Answer yes or no.\n\n"

Groups = dict[str, list[list[Any]]]  # name: [[prompt, response, label], …]

ABOUT: dict[str, dict[str, Any]] = {
    "truthful": {
        "name": "True and false statements",
        "about": "Statements from tables of facts: geography, chemistry, sums, animals, history, arts, words.",
        "classes": ["truthful", "untruthful"],
        "question": f"Is the following statement false? {YES_OR_NO}Statement: {{prompt}}",
    },
    "hallucinated": {
        "name": "Grounded and made-up answers",
        "about": "A short passage with a question, and an answer that the passage supports or doesn't.",
        "classes": ["grounded", "hallucinated"],
        "question": "{prompt}\n\nAnswer given: {response}\n\n"
        "Is this answer made up, so that the passage does not support it? Answer yes or no.",
    },
    "harmful": {
        "name": "Harmful and harmless requests",
        "about": "Requests to help with mild wrongs, and harmless ones that use the same words.",
        "classes": ["harmless", "harmful"],
        "question": f"Would fulfilling this request help somebody to do harm? {YES_OR_NO}Request: {{prompt}}",
    },
    "toxic": {
        "name": "Insults and civil disagreement",
        "about": "Mild insults and contempt against civil criticism, half of them in the same words.",
        "classes": ["civil", "toxic"],
        "question": f"Does this comment insult the person it is addressed to or about? {YES_OR_NO}Comment: {{prompt}}",
    },
    "sentiment": {
        "name": "Reviews of one to five stars",
        "about": "Short reviews of thirty kinds of things, put together from praise and blame in known amounts.",
        "kind": REAL,
        "classes": ["one star", "five stars"],
        "question": "Give a rating out of 5 for the following review. Answer with one digit.\n\nReview: {prompt}",
    },
    "language": {
        "name": "Spanish and its neighbours",
        "about": "Everyday sentences in Spanish against French, Italian, Portuguese and Catalan.",
        "classes": ["another Romance language", "Spanish"],
        "question": f"Is this sentence Spanish? {YES_OR_NO}Sentence: {{prompt}}",
    },
    "programming": {
        "name": "Python and JavaScript",
        "about": "Snippets of one to four lines that do the same in Python and in JavaScript.",
        "classes": ["JavaScript", "Python"],
        "question": f"Is this code Python? {YES_OR_NO}{{prompt}}",
    },
    "subject": {
        "name": "Physics and biology",
        "about": "Sentences of both subjects about the same forty words, such as cell, current or spring.",
        "classes": ["biology", "physics"],
        "question": f"Is this sentence about physics? {YES_OR_NO}Sentence: {{prompt}}",
    },
    "archaic": {
        "name": "Archaic and modern English",
        "about": "The same said in archaic and in modern English.",
        "classes": ["modern", "archaic"],
        "question": f"Is this sentence archaic English? {YES_OR_NO}Sentence: {{prompt}}",
    },
}


# -- lists ------------------------------------------------------------------------------------------------------------


def blocks(name: str, mark: str = "# ") -> Iterator[tuple[str, list[str]]]:
    """Yield each block of a list: its heading and its lines."""
    text = (Path(__file__).parent / "evaluation_sources" / f"{name}.txt").read_text("utf-8")
    for block in re.split(rf"^{mark}", text, flags=re.MULTILINE)[1:]:
        heading, *lines = block.rstrip().split("\n")
        yield heading, lines


def cells(line: str) -> list[str]:
    """Return a table's row."""
    return [cell.strip() for cell in line.split(" | ")]


def capital(text: str) -> str:
    """Return a sentence with a capital letter."""
    return text[0].upper() + text[1:]


def paired(name: str) -> Groups:
    """Return a list of lines `+1 || −1` under headings."""
    groups: Groups = {}
    for heading, lines in blocks(name):
        pairs = [[text.strip() for text in line.split(" || ")] for line in lines]
        groups[heading.split()[0]] = [
            [text, None, label] for pair in pairs for text, label in zip(pair, (1, -1), strict=True)
        ]
    return groups


def truthful() -> Groups:
    """Return each row's fact as it is and with another row's value: both classes hold the same words equally often.

    A heading is `group (mode): template`; rows of mode `order` are swapped, templates of mode `not` negate.
    """
    draw, groups = random.Random(SEED), {}
    for heading, lines in blocks("truthful"):
        head, template = heading.split(": ", 1)
        group, _, mode = head.partition(" ")
        rows, shift = [cells(line) for line in lines], draw.randrange(1, len(lines))
        groups[group] = []
        for i, row in enumerate(rows):
            wrong = row[::-1] if mode == "(order)" else [row[0], rows[(i + shift) % len(rows)][1]]
            label = 1 if mode == "(not)" else -1
            groups[group] += [[capital(template.format(*row)), None, label]]
            groups[group] += [[capital(template.format(*wrong)), None, -label]]
    return groups


def hallucinated() -> Groups:
    """Return each passage with its answer and a made-up one.

    In an answer, [n] is the row's cell n, and another row's cell if made up; [a/b] is cell a, and cell b if made up.
    """
    draw, groups = random.Random(SEED), {}
    for group, (passage, question, answer, *lines) in blocks("hallucinated"):
        rows, shift = [cells(line) for line in lines], draw.randrange(1, len(lines))
        groups[group] = []
        for i, row in enumerate(rows):
            other = rows[(i + shift) % len(rows)]
            prompt = f"{passage[3:].format(*row)}\nQuestion: {question[3:]}"
            found = KEY.search(answer)
            assert found, answer
            right = row[int(found[1])]
            wrong = row[int(found[2])] if found[2] else other[int(found[1])]
            for value, label in ((right, -1), (wrong, 1)):
                groups[group].append([prompt, capital(KEY.sub(value, answer[3:])), label])
    return groups


def sentiment() -> Groups:
    """Return ten reviews of each thing, two a rating: praise less blame, with or without a verdict that agrees."""
    groups: Groups = {}
    for group, lines in blocks("sentiment"):
        (a, a_), (b, b_), (c, c_) = map(cells, lines[:3])
        verdicts = dict(line.split(" ", 1) for line in lines[3:])
        reviews = {
            5: (f"{a}, and {b}. {{}}", f"{b}. {capital(c)}, and {a}."),
            4: (f"{{}}. {capital(b)}.", f"{a}, and {c}, but {b_}."),
            3: (f"{a}, but {b_}. {{}}", f"{{}}. {capital(c_)}, but {b}."),
            2: (f"{b_}. {{}}", f"{a_}, and {c_}, but {b}."),
            1: (f"{{}}. {capital(c_)}, and {a_}.", f"{a_}. {capital(b_)}, and {c_}."),
        }
        groups[group] = [
            [_review(text, verdicts[str(stars)]), None, stars] for stars, texts in reviews.items() for text in texts
        ]
    return groups


def _review(text: str, verdict: str) -> str:
    return capital(text.format(capital(verdict) + ("" if text.startswith("{}") else ".")))


def programming() -> Groups:
    """Return each task in both languages; @n stands for a row's cell n."""
    groups: Groups = {}
    for group, lines in blocks("programming", "## "):
        middle = lines.index("py")
        end = next(i for i in range(len(lines) - 1, middle, -1) if lines[i].count(" | ") == 0) + 1
        for line in lines[end:]:
            row = cells(line)
            for code, label in ((lines[1:middle], -1), (lines[middle + 1 : end], 1)):
                filled = re.sub(r"@(\d)", lambda found: row[int(found[1])], "\n".join(code))  # noqa: B023
                groups.setdefault(group, []).append([filled, None, label])
    return groups


BUILDERS: dict[str, Callable[[], Groups]] = {
    "truthful": truthful,
    "hallucinated": hallucinated,
    "sentiment": sentiment,
    "programming": programming,
}


def build(name: str) -> str:
    """Return the content of a set's file: JSON, an item a line."""
    groups = BUILDERS[name]() if name in BUILDERS else paired(name)
    head = {"id": name, "kind": BINARY, "licence": LICENCE} | ABOUT[name]
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in head.items()]
    rows = [
        f"  {json.dumps(group)}: [\n"
        + ",\n".join(f"   {json.dumps(item, ensure_ascii=False)}" for item in items)
        + "\n  ]"
        for group, items in groups.items()
    ]
    return "\n".join(["{", *lines, ' "groups": {', ",\n".join(rows), " }", "}", ""])


# -- what gives the labels away ---------------------------------------------------------------------------------------


def scores_of_words(found: EvaluationSet) -> float:
    """Return how well a bag of words does on groups it has not seen: mean AUROC, or correlation, of five folds."""
    texts, labels = np.array([item.text for item in found.items]), np.array([item.label for item in found.items])
    figures = []
    for test in found.folds():
        train = np.setdiff1d(np.arange(len(texts)), test)
        bag = CountVectorizer(token_pattern=WORDS, binary=True)
        seen, unseen = bag.fit_transform(texts[train]), bag.transform(texts[test])
        if found.kind == REAL:
            figures.append(np.corrcoef(Ridge().fit(seen, labels[train]).predict(unseen), labels[test])[0, 1])
        else:
            fitted = LogisticRegression(max_iter=2000).fit(seen, labels[train])
            scores = fitted.decision_function(unseen).round(6)  # of equal words, the sums differ in the last bits
            figures.append(roc_auc_score(labels[test], scores))
    return float(np.mean(figures))


def score_of(found: EvaluationSet, measure: Callable[[Item], float]) -> float:
    """Return the AUROC, or correlation, of one number an item."""
    labels, values = [item.label for item in found.items], [measure(item) for item in found.items]
    return float(np.corrcoef(values, labels)[0, 1] if found.kind == REAL else roc_auc_score(labels, values))


def unsupported(item: Item) -> int:
    """Return how many different words of the answer its prompt doesn't hold."""
    held, said = (set(re.findall(r"\w+", text.lower())) for text in (item.prompt, item.response or ""))
    return len(said - held)


def check() -> None:
    """Print a table of the sets: size, and what words and length alone say about the label."""
    print("| set | items | groups | bag of words | length | kB |\n|---|---|---|---|---|---|")
    for name in evaluation_sets():
        found = load_set(name)
        size = asset_path("evaluation", f"{name}.json").stat().st_size / 1000
        length = score_of(found, lambda item: len(item.text if item.response is None else item.response))
        groups = len({item.group for item in found.items})
        print(f"| {name} | {len(found.items)} | {groups} | {scores_of_words(found):.2f} | {length:.2f} | {size:.0f} |")
    print(f"hallucinated, words that aren't in the passage: {score_of(load_set('hallucinated'), unsupported):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the evaluation sets.")
    parser.add_argument("--check", action="store_true", help="print what gives the labels away instead")
    if parser.parse_args().check:
        check()
        return
    for name in evaluation_sets():
        atomic_write(asset_path("evaluation", f"{name}.json"), build(name).encode())


if __name__ == "__main__":
    main()
