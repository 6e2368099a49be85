"""The exhibits of learning mechanics, run: parameters in, curves and scores out. Torch loads on first use."""

import importlib
import json
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from lm_core.artifacts import asset_path, cache_dir, write_json
from lm_core.device import choose_device
from lm_core.errors import AssetError, LabError
from lm_core.exhibit_params import NAMES, ExhibitParams, find_exhibit
from lm_core.exhibit_results import ExhibitResult, Panel
from lm_core.progress import quiet

MODULES = {
    "a1": "deep_linear",
    "a2": "kernel_learning",
    "b": "lazy_rich",
    "c1": "edge_of_stability",
    "c2": "feature_ansatz",
    "c3": "toy_rfm",
    "d1": "width_transfer",
    "d2": "batch_scaling",
    "e": "representations",
}
VARIANTS = ("default", "broken")

# What a module of `lm_core.mechanics` is given as `report`: share done, what it does, panels to draw meanwhile. It
# raises JobCancelled where the run must end.
Report = Callable[[float, str, Sequence[Panel] | None], None]


def exhibit(
    params: ExhibitParams, *, device: str = "auto", command: str = "", on_progress: Report = quiet
) -> ExhibitResult:
    """Run an exhibit's experiment and prediction and score the one against the other.

    A run of the defaults is kept in the user's cache, for the scoreboard.

    Args:
        on_progress: also gets panels that grow while the experiment runs; may raise to cancel.
    """
    import torch

    chosen = choose_device(device)
    module = importlib.import_module(f"lm_core.mechanics.{MODULES[params.exhibit]}")
    began = time.monotonic()
    outcome = module.run(params.values, params.seed, chosen, on_progress)
    seconds = round(time.monotonic() - began, 2)
    result = ExhibitResult(params, outcome, seconds, str(chosen), torch.__version__, command)
    if params == variant_params(params.exhibit):
        _write(_kept_path(params.exhibit), result)
    return result


def _write(path: Path, result: ExhibitResult) -> Path:
    write_json(path, result.as_dict())
    return path


def variant_params(name: str, variant: str = "default") -> ExhibitParams:
    """Return the parameters of a shipped run: "default", or "broken", out of the law's regime."""
    return ExhibitParams(name, find_exhibit(name).break_it.values if variant == "broken" else {})


def shipped_path(name: str, variant: str = "default") -> Path:
    """Return where a shipped run is."""
    return asset_path("results", f"exhibit-{name}{'-broken' if variant == 'broken' else ''}.json")


@lru_cache(maxsize=4 * len(NAMES))
def _read(path: Path, stamp: int) -> ExhibitResult:
    try:
        return ExhibitResult.from_dict(json.loads(path.read_text("utf-8")))
    except (ValueError, AttributeError) as error:
        raise AssetError(f"{path.name} is damaged ({error}); restore it from the repository.") from None


def shipped(params: ExhibitParams) -> ExhibitResult | None:
    """Return the shipped run of exactly these parameters, None if there is none.

    Raises:
        AssetError: it is damaged.
    """
    for variant in VARIANTS:
        path = shipped_path(params.exhibit, variant)
        if params == variant_params(params.exhibit, variant) and path.exists():
            found = _read(path, path.stat().st_mtime_ns)
            return found if found.params == params else None
    return None


def ship(result: ExhibitResult) -> Path:
    """Write a run of the default or broken parameters where pages look for it."""
    for variant in VARIANTS:
        if result.params == variant_params(result.params.exhibit, variant):
            return _write(shipped_path(result.params.exhibit, variant), result)
    raise AssetError("Only the default and the broken run of an exhibit are shipped; leave the controls as they are.")


def _kept_path(name: str) -> Path:
    return cache_dir() / "exhibits" / f"{name}.json"


def latest(name: str) -> tuple[ExhibitResult | None, float | None]:
    """Return the latest default run on this machine and when it ended (seconds since 1970), else the shipped one, None.

    Raises:
        AssetError: the shipped run is damaged. A damaged kept one is dropped.
    """
    path, params = _kept_path(name), variant_params(name)
    try:
        stamp = path.stat()
        found = _read(path, stamp.st_mtime_ns)
        if found.params == params:  # the exhibit's defaults may have changed since
            return found, stamp.st_mtime
    except OSError:
        pass
    except LabError:
        path.unlink(missing_ok=True)
    return shipped(params), None


def run_all(
    *, device: str = "auto", on_progress: Callable[[float, str, dict[str, ExhibitResult]], None] = lambda *said: None
) -> dict[str, ExhibitResult]:
    """Run every exhibit with its defaults, one after the other.

    Args:
        on_progress: gets the results that are there so far; may raise to cancel: the finished ones are kept.
    """
    found: dict[str, ExhibitResult] = {}
    for count, name in enumerate(NAMES):

        def report(
            share: float, message: str, panels: Sequence[Panel] | None, count: int = count, sofar: dict = found
        ) -> None:
            on_progress((count + share) / len(NAMES), f"({NAMES[count]}) {message}", sofar)

        report(0.0, "starting", None)
        command = f"python -m lm_core exhibit {name}"
        result = exhibit(variant_params(name), device=device, command=command, on_progress=report)
        found = found | {name: result}
    on_progress(1.0, "done", found)
    return found
