"""Made-up survey files for the tests of the pages that read them: 12 seeds, two classes or none, blocks as pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lm_core import survey

SEEDS = 12
MIDDLE = {"bbels": 0.9, "ls": 0.8, "is": 0.4, "resnet": 0.85}


def place_in(folder: Path, monkeypatch) -> None:
    """Have survey files looked for in a folder, and put there MNIST's UNet, fully, and Fashion-MNIST's, barely."""
    monkeypatch.setattr(survey, "result_file", finder(folder))
    write(folder)


def finder(folder: Path) -> Callable[..., Path]:
    """Return what stands in for `survey.result_file`."""
    return lambda kind, dataset, network, suffix="json": _path(folder, kind, dataset, network, suffix)


def write(folder: Path) -> None:
    """Write the files."""
    for dataset, classes in (("mnist", 0), ("fashion-mnist", 2)):
        facts, pictures = _survey(dataset, classes)
        _path(folder, "survey", dataset).write_text(json.dumps(facts))
        survey.save_tiles(_path(folder, "survey", dataset, suffix="webp"), pictures, facts["columns"])
    _path(folder, "growth", "mnist").write_text(json.dumps(_growth()))
    _path(folder, "calibration", "mnist").write_text(json.dumps(calibration()))


def _path(folder: Path, kind: str, dataset: str, network: str = "unet", suffix: str = "json") -> Path:
    return folder / f"{kind}-{dataset}-{network}.{suffix}"


def row(seed: int, label: int | None = None) -> dict:
    """Make one seed's row: the larger the seed, the worse."""
    figures = {who: round(r - 0.02 * seed, 5) for who, r in MIDDLE.items()}
    scores = {who: {"r": r, "r2": round(r * r, 5), "R2": round(2 * r * r - 1, 5)} for who, r in figures.items()}
    near = {"network": 0.4, "bbels": 0.38, "ls": 0.36, "is": 0.0}
    return {
        "seed": seed,
        "label": label,
        "scores": {"20": scores, "150": scores},
        "nearest": {who: {"id": seed, "distance": distance} for who, distance in near.items()},
    }


def _survey(dataset: str, classes: int) -> tuple[dict, list[dict[str, np.ndarray]]]:
    rows = [row(seed, seed % classes if classes else None) for seed in range(SEEDS)]
    columns = ["network-20", "network-150", *MIDDLE]
    pictures = [
        {name: np.full((1, 32, 32), 2 * (seed * len(columns) + place) / 80 - 1) for place, name in enumerate(columns)}
        for seed in range(SEEDS)
    ]
    facts = {
        "dataset": dataset,
        "network": "unet",
        "images": 300,
        "steps": 20,
        "seeds": list(range(SEEDS)),
        "machines": ["bbels", "ls", "is"],
        "others": ["resnet"],
        "columns": columns,
        "channels": 1,
        "command": f"python -m lm_core survey --dataset {dataset} --network unet",
        "provenance": {"network_sha256": "ab" * 32},
        "note": "",
        "per_seed": rows,
        "test_nearest": [] if classes else [0.4] * 10,
        "seconds": 12.0,
    }
    return facts, pictures


def _growth() -> dict:
    return {
        "seeds": [0, 1, 2],
        "images": 300,
        "command": "python -m lm_core growth",
        "by_images": [{"images": n, "r": [r, r + 0.05, r - 0.05]} for n, r in ((100, 0.7), (1000, 0.8), (60_000, 0.9))],
        "by_training": [{"minutes": m, "steps": 100 * m, "loss": 0.1, "r": [0.6, 0.7, 0.8]} for m in (1, 4)],
    }


def calibration(done: int = 20) -> dict:
    """Make what `run_calibrate.calibrate` has after some of its 20 steps."""
    sizes = [3, 9, 15, 21]
    best = [sizes[step // 5] for step in range(20)]
    return {
        "steps": 20,
        "sizes": sizes,
        "cosine": [[1 - 0.01 * abs(size - b) for size in sizes] for b in best[:done]],
        "patch_sizes": best[:done],
        "receptive_field": [{"t": (s + 1) / 20, "radius": 4.0, "low": 3.0, "high": 6.0} for s in range(20)],
        "seeds": [1000, 1001],
        "images": 300,
        "machine": "bbels",
    }
