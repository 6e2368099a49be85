"""Measure many seeds: every machine and network from the same noise, their scores, their nearest training images.

Each finished image is kept in the user's cache, so a survey that was interrupted goes on where it stopped, two
processes can share the seeds, and networks on the same data share the machines' images.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_core import run
from lm_core.artifacts import atomic_write, cache_dir, compact, load_dataset, manifest
from lm_core.device import choose_device
from lm_core.errors import ParameterError
from lm_core.params import MACHINES, NETWORKS, MosaicParams
from lm_core.progress import quiet
from lm_core.results import agreement
from lm_core.survey import named, own_machine, read_result, result_file, save_tiles

NETWORK_STEPS = (20, 150)
TEST_IMAGES = 100
BY_IMAGES = (30, 100, 300, 1000, 3000, 10_000, 60_000)
BY_STEPS = (5, 10, 20, 50, 100)
IMAGES_VERSION = 1  # of the kept images: raise it when an engine, the sampler or the schedule changes what it makes
MOST_SEEDS = 511  # rows of 32 pixels that a WebP can hold
WITHHELD = {"cifar10": ("is", "es")}  # their images are copies of training images that are not ours to ship

Report = Callable[[float, str, list[dict]], None]


# -- images -----------------------------------------------------------------------------------------------------------


def _kept(facts: dict[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the image that was made for these facts before, or make and keep it."""
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_dir() / f"survey-{IMAGES_VERSION}" / f"{key}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        image = make()
    buffer = io.BytesIO()
    np.save(buffer, image)
    atomic_write(path, buffer.getvalue())
    return image


def machine_image(params: MosaicParams, device: str = "auto") -> np.ndarray:
    """Return a machine's image from its seed's noise, [C, H, W]; kept.

    Args:
        params: resolved; its network only says which class and curve, and doesn't matter here.
    """
    facts = params.as_dict() | {"network": None, "data": load_dataset(params.dataset).sha256}
    if params.machine in ("is", "es"):  # they look at whole images, with one engine
        facts |= {"patch_sizes": None, "engine": "exact", "tolerance": None}

    def make() -> np.ndarray:
        chosen = choose_device(device)
        return run.machine_image(params, run.noise_of(params).to(chosen), str(chosen))

    return _kept(facts, make)


def network_image(params: MosaicParams, device: str = "auto") -> np.ndarray:
    """Return a network's image from its seed's noise, [C, H, W]; kept."""
    facts = {
        "network": run.provenance(params)["network_sha256"],
        "label": params.label,
        "seed": params.seed,
        "steps": params.steps,
    }

    def make() -> np.ndarray:
        chosen = choose_device(device)
        return run.network_image(params, run.noise_of(params).to(chosen), chosen)

    return _kept(facts, make)


# -- one seed ---------------------------------------------------------------------------------------------------------


def machines_for(network: str, also: Sequence[str] = ()) -> list[str]:
    """Return the machines that a network is compared with: its own, LS and IS, and those of `also` in their order.

    Raises:
        ParameterError: `also` names no machine.
    """
    if not set(also) <= set(MACHINES):
        raise ParameterError(f"also is {', '.join(also)}; choose among {', '.join(MACHINES)}.")
    return [machine for machine in MACHINES if machine in {own_machine(network), "ls", "is", *also}]


def others_of(dataset: str, network: str) -> list[str]:
    """Return the other networks of ours on the same data that are conditioned on a class, or not, like this one."""
    classes = run.network_facts(dataset, network).get("classes")
    known = {name: manifest()["networks"].get(f"{dataset}-{name}") for name in NETWORKS if name != network}
    return [name for name, facts in known.items() if facts and facts.get("classes") == classes]


def measure_seed(
    params: MosaicParams,
    machines: Sequence[str],
    others: Sequence[str],
    network_steps: Sequence[int] = NETWORK_STEPS,
    device: str = "auto",
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compare one network's images with machines and other networks from the same noise.

    Args:
        params: seed, network, images and so on; the machine is not used.
        check: called before every image; may raise to cancel.

    Returns:
        the row {seed, label, scores {steps: {who: {r, r2, R2}}}, nearest {who: {id, distance}}}, and every image by
        column: network-20, …, each machine, each other network (at the first of the step numbers).
    """
    one = run.resolve(params)
    images: dict[str, np.ndarray] = {}
    for steps in network_steps:
        images[f"network-{steps}"] = network_image(one.with_(steps=steps, patch_sizes=None), device)
    scores: dict[str, dict] = {str(steps): {} for steps in network_steps}
    for machine in machines:
        check()
        images[machine] = machine_image(one.with_(machine=machine), device)
        for steps in network_steps:
            scores[str(steps)][machine] = named(agreement(images[machine], images[f"network-{steps}"]))
    for other in others:
        check()
        for place, steps in enumerate(network_steps):
            image = network_image(one.with_(network=other, steps=steps, patch_sizes=None), device)
            scores[str(steps)][other] = named(agreement(image, images[f"network-{steps}"]))
            if not place:
                images[other] = image
    judged = {"network": images[f"network-{network_steps[0]}"], **{machine: images[machine] for machine in machines}}
    classmates = load_dataset(one.dataset).take(None, one.label)
    found = run.nearest(np.stack(list(judged.values())), classmates)
    nearest = {
        who: {"id": at["id"], "distance": round(at["distance"], 5)} for who, at in zip(judged, found, strict=True)
    }
    return {"seed": one.seed, "label": one.label, "scores": scores, "nearest": nearest}, images


def base_params(dataset: str, network: str, images: int, steps: int = 20) -> MosaicParams:
    """Return the parameters that all seeds of a survey share."""
    return MosaicParams(dataset, None, own_machine(network), network, 0, images, steps, engine="fast")


def extend(
    dataset: str, network: str, seeds: Sequence[int], images: int, *, device: str = "auto", on_progress: Report = quiet
) -> list[dict[str, Any]]:
    """Measure more seeds of a network; returns their rows, and reports them as they come."""
    rows: list[dict] = []
    others = others_of(dataset, network)
    for count, seed in enumerate(seeds):
        params = base_params(dataset, network, images).with_(seed=seed)

        def check(count: int = count, seed: int = seed) -> None:
            on_progress(count / len(seeds), f"seed {seed}", list(rows))

        rows.append(measure_seed(params, machines_for(network), others, device=device, check=check)[0])
    on_progress(1.0, "done", list(rows))
    return rows


# -- the files --------------------------------------------------------------------------------------------------------


def survey(
    dataset: str,
    network: str,
    seeds: Sequence[int],
    images: int,
    *,
    also: Sequence[str] = (),
    device: str = "auto",
    command: str = "",
    on_progress: Report = quiet,
) -> dict[str, Any]:
    """Compare a shipped network with every machine over many seeds and write the survey and its gallery.

    Args:
        images: training images of the machines, of a class where the network has classes.
        also: more machines than the network's own, LS and IS.

    Raises:
        ParameterError: the network isn't a shipped one, or no seeds, or too many.
    """
    _check(dataset, network, seeds)
    began, full = time.monotonic(), load_dataset(dataset)
    machines, others = machines_for(network, also), others_of(dataset, network)
    base, rows, pictures = base_params(dataset, network, images), [], []
    for count, seed in enumerate(seeds):
        row, made = measure_seed(base.with_(seed=seed), machines, others, device=device)
        rows.append(row)
        pictures.append(made)
        said = ", ".join(f"{machine} {row['scores']['20'][machine]['r']:.3f}" for machine in machines)
        on_progress((count + 1) / len(seeds), f"seed {seed}: {said}", rows)
    columns = [name for name in pictures[0] if name not in WITHHELD.get(dataset, ())]
    facts = {
        "dataset": dataset,
        "network": network,
        "images": images,
        "steps": base.steps,
        "tolerance": base.tolerance,
        "patch_sizes": list(run.resolve(base).patch_sizes or ()),
        "seeds": list(seeds),
        "machines": machines,
        "others": others,
        "columns": columns,
        "channels": int(full.images.shape[1]),
        "command": command,
        "provenance": run.provenance(base),
        "note": full.note,
        "per_seed": rows,
        "test_nearest": _test_nearest(dataset, rows),
        "seconds": round(time.monotonic() - began, 1),
    }
    save_tiles(result_file("survey", dataset, network, "webp"), pictures, columns)
    _write(result_file("survey", dataset, network), facts)
    return facts


def _check(dataset: str, network: str, seeds: Sequence[int]) -> None:
    """Raise ParameterError unless the network can have result files, and there are seeds for them."""
    if network not in run.shipped_networks(dataset):
        known = ", ".join(run.shipped_networks(dataset)) or "none"
        raise ParameterError(f"network is {network!r}; for {dataset} choose one of those shipped ({known}).")
    if not 1 <= len(seeds) <= MOST_SEEDS:
        raise ParameterError(f"there are {len(seeds)} seeds; give 1 to {MOST_SEEDS}, for example 0-99.")


def _write(path: Path, facts: dict[str, Any]) -> None:
    """Write a result file, one line a seed so that changes can be read."""
    rows = facts.pop("per_seed", None)
    text = compact(facts)
    if rows is not None:
        facts["per_seed"] = rows
        text = text[:-1] + ',"per_seed":[\n' + ",\n".join(map(compact, rows)) + "\n]}"
    atomic_write(path, (text + "\n").encode())


def _test_nearest(dataset: str, rows: list[dict]) -> list[float]:
    """Return how far test images of the seeds' classes are from their nearest training images; [] without any."""
    try:
        test = load_dataset(dataset, split="test")
    except ParameterError:
        return []
    found, labels = [], sorted({row["label"] for row in rows}, key=str)
    for label in labels:
        number = min(sum(row["label"] == label for row in rows), max(1, TEST_IMAGES // len(labels)))
        some = test.take(None, label).images[:number].astype(np.float32) / 127.5 - 1
        found += [round(at["distance"], 5) for at in run.nearest(some, load_dataset(dataset).take(None, label))]
    return found


def growth(
    dataset: str,
    network: str,
    seeds: Sequence[int],
    images: int,
    *,
    by_images: Sequence[int] = (),
    by_steps: Sequence[int] = (),
    snapshots: Sequence[Path] = (),
    device: str = "auto",
    command: str = "",
    on_progress: Callable[[float, str], None] = lambda share, message: None,
) -> dict[str, Any]:
    """Measure how the agreement with the network's own machine depends on images, steps and training; write the file.

    What an earlier call measured and this one does not stays in the file; "runs" says what made each part.

    Args:
        images: training images of the machine where they aren't what is varied.
        by_images: numbers of training images; those beyond the set are left out.
        by_steps: DDIM steps of machine and network alike.
        snapshots: weights kept during one training, see `train --snapshots`.
    """
    from lm_core.diffusion.weights import read_metadata

    _check(dataset, network, seeds)
    began, base = time.monotonic(), base_params(dataset, network, images)
    full = load_dataset(dataset)
    most = len(full.images) if run.resolve(base).label is None else len(full.images) // len(full.class_names)
    counts = [n for n in by_images if n <= most]
    tasks: list[tuple[str, dict[str, Any], MosaicParams]] = [
        *(("by_images", {"images": n}, base.with_(images=n)) for n in counts),
        *(("by_steps", {"steps": n}, base.with_(steps=n)) for n in by_steps),
    ]
    for path in snapshots:
        made = read_metadata(path)
        facts = {name: made.get(name) for name in ("minutes", "steps", "loss")}
        tasks.append(("by_training", facts, base.with_(network=str(path))))
    found: dict[str, Any] = {}
    for count, (what, facts, params) in enumerate(tasks):
        scores = []
        for seed in seeds:
            own = run.resolve(
                base.with_(seed=seed, steps=params.steps)
            )  # the class and the curve, which a file can't tell
            one = run.resolve(params.with_(seed=seed, label=own.label, patch_sizes=own.patch_sizes))
            scores.append(named(agreement(machine_image(one, device), network_image(one, device)))["r"])
        found.setdefault(what, []).append(facts | {"r": scores})
        on_progress((count + 1) / len(tasks), f"{facts}: median r {np.median(scores):.3f}")
    path = result_file("growth", dataset, network)
    facts = read_result("growth", dataset, network) or {}
    if facts.get("provenance") != run.provenance(base):  # of another network or other data
        facts = {}
    asked = {"seeds": list(seeds), "images": images, "command": command, "seconds": round(time.monotonic() - began, 1)}
    facts |= {"dataset": dataset, "network": network, "provenance": run.provenance(base)} | found
    facts["runs"] = facts.get("runs", {}) | dict.fromkeys(found, asked)
    _write(path, facts)
    return facts
