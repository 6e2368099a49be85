"""Say what this machine can do and what is here: device, memory, data sets, networks, presets, each verified.

Changes and fetches nothing; for whatever is missing or corrupt it says what to do.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from typing import Any

from lm_core import cifar
from lm_core.artifacts import (
    DATASETS,
    PUBLISHED_NETWORKS,
    PUBLISHED_WEIGHTS,
    asset_path,
    find_published_network,
    manifest,
    model_cache,
    read_asset,
    search_paths,
)
from lm_core.errors import AssetError, LabError
from lm_core.steer_params import DEFAULT_MODEL

REBUILD_DATA = "run `make assets` to rebuild it"
RESTORE = "restore it with `git checkout assets`"


def report() -> dict[str, Any]:
    """Examine the machine and everything the manifest lists; unpacks and hashes each file.

    Returns: `python`, `torch`, `device` (name, kind, memory in bytes, threads, dtype), `data`, `networks`, `presets`,
    `models` (each: name → `present`, `verified`, `detail`, and `remedy` or None), and `ready`: whether everything
    shipped is verified (CIFAR-10 and published networks are the user's own, so they don't count).
    Cost: 5 s on one core, most of it unpacking.
    """
    import torch

    from lm_core.device import choose_device, describe

    try:
        shipped, problem = manifest(), None
    except AssetError as error:
        shipped, problem = {"data": {}, "networks": {}, "presets": {}}, str(error)
    data = {name: examine_data(shipped["data"].get(name), problem) for name in DATASETS if name != "cifar10"}
    networks = {name: examine_file(entry) for name, entry in shipped["networks"].items()}
    presets = {name: examine_file(entry) for name, entry in shipped["presets"].items()}
    models = {DEFAULT_MODEL: examine_language_model()}
    published = {one: examine_published(kind, one) for kind, names in PUBLISHED_NETWORKS.items() for one in names}
    groups = (data, networks, presets, models)
    ready = problem is None and all(state["verified"] for group in groups for state in group.values())
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": asdict(describe(choose_device())),
        "data": data | {"cifar10": examine_cifar10()},
        "networks": networks | published,
        "presets": presets,
        "models": models,
        "ready": ready,
    }


def _state(present: bool, verified: bool, detail: str, remedy: str | None = None) -> dict[str, Any]:
    return {"present": present, "verified": verified, "detail": detail, "remedy": remedy}


def examine_data(entry: dict[str, Any] | None, problem: str | None) -> dict[str, Any]:
    """Verify every file of one shipped data set; `problem` is what is wrong with the manifest, if anything."""
    if entry is None:
        return _state(False, False, problem or "assets/manifest.json doesn't list it.", REBUILD_DATA)
    for parts in entry["splits"].values():
        for part in parts.values():
            state = examine_file(part, REBUILD_DATA)
            if not state["verified"]:
                return state
    return _state(True, True, f"{entry['title']}; {' and '.join(entry['splits'])} set; {entry['licence']}")


def examine_file(entry: dict[str, Any], remedy: str = RESTORE) -> dict[str, Any]:
    """Verify one file of the manifest."""
    try:
        content = read_asset(entry, remedy)
    except AssetError as error:
        return _state(asset_path(entry["file"]).exists(), False, str(error), remedy)
    return _state(True, True, f"{entry['file']}, {len(content) / 1e6:.1f} MB")


def examine_cifar10() -> dict[str, Any]:
    """Look for the user's copy of CIFAR-10 and check it without parsing it."""
    try:
        copy = cifar.find(search_paths())
    except LabError as error:
        return _state(False, False, "the user's own files, optional", str(error))
    try:
        note = cifar.verify(copy)
    except AssetError as error:
        return _state(True, False, str(error), "replace it with a fresh download")
    return _state(True, not note, f"{copy.path}{f' ({note})' if note else ''}")


def examine_published(dataset: str, name: str) -> dict[str, Any]:
    """Look for a published network that the user may have downloaded, and read how it is built."""
    try:
        folder = find_published_network(dataset, name)
    except AssetError as error:
        return _state(False, False, f"for {dataset}, published by others, optional", str(error))
    try:
        kind = json.loads((folder / "config.json").read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _state(True, False, f"{folder}: its config.json can't be read ({error!r})", "download it again")
    size = (folder / PUBLISHED_WEIGHTS).stat().st_size
    return _state(True, False, f"{folder}, a diffusers {kind}, {size / 1e6:.1f} MB; no hash of it is known here")


def examine_language_model() -> dict[str, Any]:
    """Tell whether the default language model is converted, and shipped directions there for it."""
    folder, files = model_cache(DEFAULT_MODEL), sorted(asset_path("directions").glob("*.json"))
    if not (folder / "model.safetensors").is_file():
        return _state(False, False, "not converted yet", "run `make run` or `python -m lm_core prepare`")
    try:
        sha256 = json.loads((folder / "fingerprint.json").read_text("utf-8"))["sha256"]
    except (OSError, ValueError, KeyError):
        return _state(True, False, "its weights were not hashed yet", "run `python -m lm_core prepare`")
    wanted = {json.loads(file.read_text("utf-8"))["model_sha256"] for file in files}
    if wanted != {sha256}:
        return _state(True, False, f"weights {sha256[:12]}…, not those of the shipped directions", RESTORE)
    return _state(True, True, f"weights {sha256[:12]}…, {len(files)} concepts with directions")


def format_report(report: dict[str, Any]) -> str:
    """Lay a report out for people: one line a thing, then what to do about those that aren't right."""
    device = report["device"]
    gigabytes = "{:.1f} of {:.1f} GB free".format(device["memory_free"] / 1e9, device["memory_total"] / 1e9)
    lines = [
        f"Python {report['python']}, torch {report['torch']}",
        f"Device: {device['name']} ({device['kind']}, {gigabytes}, {device['threads']} threads, {device['dtype']})",
    ]
    for title, group in (("Data sets", "data"), ("Networks", "networks"), ("Presets", "presets"), ("Models", "models")):
        lines += ["", f"{title}:" if report[group] else f"{title}: none shipped"]
        for name, state in report[group].items():
            word = "verified" if state["verified"] else "present, unverified" if state["present"] else "missing"
            lines.append(f"  {name:<24} {word:<20} {state['detail']}")
            if state["remedy"] and state["remedy"] not in state["detail"]:
                lines.append(f"  {'':<24} {'':<20} → {state['remedy']}")
    closing = "Ready: everything shipped is verified." if report["ready"] else "Not ready: see the lines above."
    return "\n".join([*lines, "", closing])
