"""What the detection table says: rows with intervals, who won, thresholds, and its files. Torch-free."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lm_core import ranking
from lm_core.artifacts import asset_path, cache_dir, write_json
from lm_core.errors import AssetError
from lm_core.evaluation import evaluation_sets
from lm_core.steer_params import METHODS

AGGREGATES = {
    "best": "Best block",
    "rfm": "All blocks, RFM",
    "linear": "All blocks, linear",
    "logistic": "All blocks, logistic",
}
REFERENCES = {"judge": "The model asked", "words": "Bag of words", "shuffled": "Shuffled labels"}
DIGITS = 4

Key = tuple[str, str]  # method, aggregate


@dataclass
class Scores:
    """Out-of-fold scores [n] by detector and reference, and what was chosen in each fold."""

    by: dict[Key, np.ndarray] = field(default_factory=dict)
    blocks: dict[str, list[int]] = field(default_factory=dict)  # method → its best block, fold by fold
    chosen: np.ndarray = field(default_factory=lambda: np.zeros(0))
    picks: list[Key] = field(default_factory=list)
    references: dict[str, np.ndarray] = field(default_factory=dict)
    shuffled: list[np.ndarray] = field(default_factory=list)  # one for each order of the labels


class Summary:
    """Turns out-of-fold scores [n] into figures; all differences are paired, for every row draws the same items."""

    def __init__(self, targets: np.ndarray, folds: Sequence[Sequence[int]], real: bool):
        self.targets, self.folds, self.real = targets, folds, real

    def samples(self, scores: np.ndarray) -> np.ndarray:
        """Return bootstrap samples of the skill [draw]."""
        return ranking.resampled(scores, self.targets, self.folds, self.real)

    def row(self, scores: np.ndarray) -> dict[str, Any]:
        """Return a row's mean skill over the folds, its interval and the folds' own."""
        each = ranking.within_folds(scores, self.targets, self.folds, lambda s, t: ranking.skill(s, t, self.real))
        facts: dict[str, Any] = {"value": _round(np.mean(each)), "interval": _ends(self.samples(scores))}
        if self.real:
            ranks = ranking.within_folds(scores, self.targets, self.folds, ranking.spearman)
            facts["spearman"] = _round(np.mean(ranks))
        return facts | {"folds": [_round(value) for value in each]}

    def shuffled(self, orders: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return the row of shuffled labels: mean over the orders, interval over orders and items."""
        rows = [self.row(scores) for scores in orders]
        samples = np.concatenate([self.samples(scores) for scores in orders])
        return {"value": _round(np.mean([row["value"] for row in rows])), "interval": _ends(samples)} | {
            "orders": [row["value"] for row in rows]
        }

    def lead(self, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
        """Return by how much our scores beat theirs."""
        gap = self.row(ours)["value"] - self.row(theirs)["value"]
        return {"value": _round(gap), "interval": _ends(self.samples(ours) - self.samples(theirs))}


def summarise(found: Scores, targets: np.ndarray, folds: Sequence[Sequence[int]], real: bool) -> dict[str, Any]:
    """Return rows, references, the chosen detector and its lead, with 95 % bootstrap intervals over items."""
    of = Summary(targets, folds, real)
    rows: list[dict[str, Any]] = [
        {"method": method, "aggregate": aggregate}
        | of.row(scores)
        | ({"blocks": found.blocks[method]} if aggregate == "best" else {})
        for (method, aggregate), scores in found.by.items()
    ]
    best = max(rows, key=lambda one: one["value"])
    top = found.by[best["method"], best["aggregate"]]
    tied = [key for key, scores in found.by.items() if of.lead(top, scores)["interval"][0] <= 0]
    return {
        "measure": "Pearson correlation" if real else "AUROC",
        "rows": rows,
        "references": [
            *({"name": name} | of.row(found.references[name]) for name in ("judge", "words")),
            {"name": "shuffled"} | of.shuffled(found.shuffled),
        ],
        "chosen": of.row(found.chosen) | {"picks": [list(pick) for pick in found.picks]},
        "best": {name: best[name] for name in ("method", "aggregate", "value")} | {"tied": [list(key) for key in tied]},
        "lead": {name: of.lead(found.chosen, found.references[name]) for name in ("judge", "words")},
        "scores": [_round(score) for score in found.chosen],
        "targets": [_round(target) for target in targets],
    }


def verdict(facts: dict[str, Any]) -> str:
    """Say who won, and by how much."""
    chosen, best = facts["chosen"], facts["best"]
    said = f"The detector that validation chose: {facts['measure']} {_told(chosen)}"
    for name, gap in facts["lead"].items():
        low, high = gap["interval"]
        how = "ahead of" if low > 0 else "behind" if high < 0 else "level with"
        said += f"; {how} {REFERENCES[name].lower()} by {_told(gap)}"
    winner = f"{METHODS[best['method']]}, {AGGREGATES[best['aggregate']].lower()}"
    return (
        f"{said}. Highest of {len(facts['rows'])} on the test rows: {winner}, {best['value']:.3f}; "
        f"{len(best['tied']) - 1} others can't be told from it."
    )


def _told(figure: dict[str, Any]) -> str:
    low, high = figure["interval"]
    return f"{figure['value']:.3f} ({low:.3f} to {high:.3f})"


def operating_point(facts: dict[str, Any], false_positive_rate: float) -> dict[str, float]:
    """Return the chosen detector's threshold for a wanted rate of false alarms, and both rates on held-out scores.

    For real targets, "without the concept" means below the mean.
    """
    scores, above = np.array(facts["scores"]), np.array(facts["targets"]) > 0
    at = ranking.threshold(scores[~above], false_positive_rate)
    return {
        "threshold": at,
        "false_positive_rate": float((scores[~above] > at).mean()),
        "true_positive_rate": float((scores[above] > at).mean()),
    }


def _round(value: Any) -> float:
    return round(float(value), DIGITS)


def _ends(samples: np.ndarray) -> list[float]:
    return [_round(end) for end in ranking.interval(samples)]


# -- files ------------------------------------------------------------------------------------------------------------


def result_path(name: str) -> Path:
    """Return where a set's shipped results are."""
    return asset_path("results", f"detection-{name}.json")


def write(facts: dict[str, Any], path: Path) -> None:
    """Write a set's results."""
    write_json(path, facts)


def own_path(facts: dict[str, Any]) -> Path:
    """Return where results that a user measured are kept: the cache folder, by model and set."""
    return cache_dir() / "detection" / facts["model_sha256"][:16] / f"{facts['set']['id']}.json"


def read_results(path: Path) -> dict[str, Any]:
    """Read results.

    Raises:
        AssetError: there are none, or the file is damaged.
    """
    try:
        facts = json.loads(path.read_text("utf-8"))
    except OSError:
        raise AssetError(f"{path.name} isn't there; make it with `python -m lm_core detection`.") from None
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not {"set", "rows", "chosen", "scores", "targets"} <= set(facts):
        raise AssetError(f"{path.name} is damaged; make it anew with `python -m lm_core detection`.")
    return facts


def shipped_results() -> dict[str, dict[str, Any]]:
    """Return the shipped results by set, in the table's order; sets without any are left out."""
    return {name: read_results(result_path(name)) for name in evaluation_sets() if result_path(name).is_file()}
