"""Benchmark of the index files: the fast engine's low-noise steps with and without them, on the same noisy images."""

import sys
import time
from typing import Any

from lm_core import bench_fast
from lm_core.artifacts import load_dataset
from lm_core.errors import AssetError
from lm_core.run_index import SIZES

SETS = (
    ("mnist", None, 1000),
    ("mnist", None, 6000),
    ("emoji", None, None),
    ("cifar10", 0, None),
    ("mnist", None, None),
)


def low_noise() -> dict[str, Any]:
    """Seconds of the fast engine's steps at P = 3 and 5, bbELS, with an index and without; builds what is missing."""
    rows = []
    for name, label, count in SETS:
        try:
            rows.append(_measure(name, label, count))
        except AssetError as error:  # CIFAR-10 is the user's own
            rows.append({"dataset": name, "label": label, "missing": str(error)})
        print(rows[-1], file=sys.stderr, flush=True)
    return {"sets": rows}


def _measure(name: str, label: int | None, count: int | None) -> dict[str, Any]:
    """Sample once without an index, then repeat the steps at small P alternately with and without."""
    from lm_core.score.fast import FastEngine

    images = load_dataset(name).take(count, label).images
    plain, indexed = FastEngine(images, "bbels", indexed=False), FastEngine(images, "bbels")
    made = {}
    for size in SIZES:
        start = time.perf_counter()
        path, built = indexed.make_index(images, size)
        indexed.find_index(size)
        made[size] = {"megabytes": path.stat().st_size // 10**6}
        if built:
            made[size]["seconds"] = round(time.perf_counter() - start, 1)
    bench_fast.sample_once(FastEngine(images[:64], "bbels"), name)  # compiles, or loads what was compiled
    steps: list = []
    seconds = bench_fast.sample_once(plain, name, steps=steps)[1]
    indexed.denoise(*steps[-1][:3])
    row: dict[str, Any] = {"dataset": name, "images": len(images), "indexes": made, "whole_seconds": round(seconds, 2)}
    taken, worst = [], 0.0
    for x, level, size, _ in steps:
        if size in SIZES:
            pair, found = [], []
            for engine in (plain, indexed):
                start = time.perf_counter()
                found.append(engine.denoise(x, level, size))
                pair.append(round(time.perf_counter() - start, 3))
            allowed = sum(one.bound + 6 * one.deviation for one in found)
            worst = max(worst, float(((found[0].mean - found[1].mean).abs().amax(1) / allowed).max()))
            taken.append({"P": size, "alpha_bar": round(level, 4), "without": pair[0], "with": pair[1]})
    without, with_index = (sum(one[key] for one in taken) for key in ("without", "with"))
    row |= {"low_noise_without": round(without, 2), "low_noise_with": round(with_index, 2)}
    row |= {"ratio": round(without / with_index, 2), "difference_to_allowed": round(worst, 3), "steps": taken}
    return row
