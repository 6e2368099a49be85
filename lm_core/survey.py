"""Theory against network over many seeds: what was measured, read from the files that `run_survey` writes.

Torch-free, and nothing is computed here but medians. The published figures are those of Kamb & Ganguli (2025, arXiv
2412.20292, tables of medians over 100 seeds); the paper calls them r², its published evaluation computes Pearson's r.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lm_core.artifacts import asset_path, atomic_write
from lm_core.errors import AssetError
from lm_core.results import Agreement
from lm_core.score.curves import PUBLISHED as PUBLISHED_CURVES

TILE = 32
RESAMPLES = 2000
QUALITY = 88  # of the gallery's WebP; every score is computed from the images themselves

# Network steps → machine → median; "bbels" stands for the boundary-broken machine, which predicts zero padding.
_PUBLISHED = {
    ("mnist", "unet"): {150: ("bbels", 0.89, 0.88, 0.70), 20: ("bbels", 0.84, 0.83, 0.69)},
    ("mnist", "resnet"): {150: ("bbels", 0.94, 0.82, 0.61), 20: ("bbels", 0.94, 0.84, 0.62)},
    ("mnist", "resnet-circular"): {150: ("els", 0.77, 0.36, 0.15), 20: ("els", 0.73, 0.33, 0.14)},
    ("fashion-mnist", "unet"): {150: ("bbels", 0.93, 0.93, 0.80), 20: ("bbels", 0.91, 0.91, 0.80)},
    ("fashion-mnist", "resnet"): {150: ("bbels", 0.94, 0.88, 0.68), 20: ("bbels", 0.90, 0.88, 0.74)},
    ("cifar10", "unet"): {150: ("bbels", 0.90, 0.87, 0.41), 20: ("bbels", 0.82, 0.80, 0.39)},
    ("cifar10", "resnet"): {150: ("bbels", 0.95, 0.90, 0.42), 20: ("bbels", 0.90, 0.86, 0.43)},
    ("cifar10", "resnet-circular"): {150: ("els", 0.94, 0.83, 0.35), 20: ("els", 0.90, 0.80, 0.36)},
    ("cifar10", "unet-attention"): {150: ("bbels", 0.77, 0.77, 0.48), 20: ("bbels", 0.75, 0.74, 0.47)},
}


def own_machine(network: str) -> str:
    """Return the machine that predicts a network: ELS for circular padding, boundary-broken ELS for zeros."""
    return "els" if network.endswith("circular") else "bbels"


def published(dataset: str, network: str, network_steps: int) -> dict[str, float]:
    """Return the paper's median r for the network's own machine, LS and IS; {} where it has none."""
    row = _PUBLISHED.get((dataset, network), {}).get(network_steps)
    return dict(zip((row[0], "ls", "is"), row[1:], strict=True)) if row else {}


def published_curve(dataset: str, network: str) -> tuple[int, ...] | None:
    """Return the paper's 20 windows for a network, the lowest noise first, None where it has none."""
    return PUBLISHED_CURVES.get((dataset, network))


def result_file(kind: str, dataset: str, network: str, suffix: str = "json") -> Path:
    """Return where a shipped result is: kind is survey, growth or calibration."""
    return asset_path("results", f"{kind}-{dataset}-{network}.{suffix}")


def available() -> list[tuple[str, str]]:
    """Return the (data set, network) pairs that have a survey, in the order of the published table."""
    order = [*_PUBLISHED, ("mnist", "unet-standard"), ("emoji", "unet")]
    return [pair for pair in order if result_file("survey", *pair).exists()]


def read_result(kind: str, dataset: str, network: str) -> dict[str, Any] | None:
    """Return a shipped result file's content, None where there is none.

    Raises:
        AssetError: the file is damaged.
    """
    path = result_file(kind, dataset, network)
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise AssetError(f"{path.name} is damaged ({error}); restore it from the repository.") from None


@dataclass(frozen=True)
class Survey:
    """One network's survey.

    Attributes:
        facts: the file's content: dataset, network, images, steps, seeds, machines, others, columns, command,
            provenance, note, per_seed, test_nearest, seconds.
    """

    facts: dict[str, Any]

    @property
    def dataset(self) -> str:
        return self.facts["dataset"]

    @property
    def network(self) -> str:
        return self.facts["network"]

    @property
    def per_seed(self) -> list[dict[str, Any]]:
        return self.facts["per_seed"]

    @property
    def seeds(self) -> list[int]:
        return [row["seed"] for row in self.per_seed]

    def scores(self, who: str, network_steps: int, figure: str = "r") -> np.ndarray:
        """Return one figure of a machine, or another network, against the network for every seed, [seeds]."""
        return np.array([row["scores"][str(network_steps)][who][figure] for row in self.per_seed])

    def median(self, who: str, network_steps: int, figure: str = "r") -> tuple[float, float, float]:
        """Return the median over seeds with its bootstrap interval (value, low, high)."""
        return bootstrap_median(self.scores(who, network_steps, figure))

    def nearest(self, who: str) -> np.ndarray:
        """Return each seed's root mean square distance from an image to its nearest training image, [seeds]."""
        return np.array([row["nearest"][who]["distance"] for row in self.per_seed])

    def published(self, network_steps: int) -> dict[str, float]:
        return published(self.dataset, self.network, network_steps)


def load(dataset: str, network: str) -> Survey:
    """Return the shipped survey of a network.

    Raises:
        AssetError: there is none, or it is damaged.
    """
    facts = read_result("survey", dataset, network)
    if facts is None:
        command = f"python -m lm_core survey --dataset {dataset} --network {network}"
        raise AssetError(f"There is no survey of the {network} on {dataset}; `{command}` makes one.")
    return Survey(facts)


def bootstrap_median(values: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """Return the median and its percentile bootstrap interval (Efron 1979), NaN left out.

    Args:
        values: [n].
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    picks = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[picks], axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(np.median(values)), float(low), float(high)


# -- the gallery ------------------------------------------------------------------------------------------------------


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Turn [C, H, W] in [−1, 1] into uint8 [H, W] or [H, W, 3]."""
    scaled = np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8)
    return scaled[0] if len(scaled) == 1 else scaled.transpose(1, 2, 0)


def save_tiles(path: Path, rows: list[dict[str, np.ndarray]], columns: list[str]) -> None:
    """Write the gallery: one row a seed, one column a machine or network, as WebP."""
    sheet = np.concatenate([np.concatenate([to_bytes(row[name]) for name in columns], axis=1) for row in rows])
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", quality=QUALITY, method=6)
    atomic_write(path, buffer.getvalue())


def tiles(survey: Survey) -> dict[str, np.ndarray]:
    """Return each column of a survey's gallery, uint8 [seeds, 32, 32] or [seeds, 32, 32, 3]; {} without a gallery."""
    path = result_file("survey", survey.dataset, survey.network, "webp")
    try:
        sheet = np.asarray(Image.open(path).convert("RGB"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise AssetError(f"{path.name} is damaged ({error}); restore it from the repository.") from None
    if survey.facts["channels"] == 1:
        sheet = sheet[:, :, 1]
    names = survey.facts["columns"]
    if sheet.shape[:2] != (TILE * len(survey.seeds), TILE * len(survey.facts["columns"])):
        raise AssetError(f"{path.name} isn't the gallery of its survey; restore both from the repository.")
    shape = (len(survey.seeds), TILE, len(names), TILE, *sheet.shape[2:])
    return dict(zip(names, np.moveaxis(sheet.reshape(shape), 2, 0), strict=True))


# -- rows -------------------------------------------------------------------------------------------------------------


def named(score: Agreement) -> dict[str, float]:
    """Return the three figures by name, rounded to what they can bear."""
    return {"r": round(score.r, 5), "r2": round(score.r2, 5), "R2": round(score.R2, 5)}
