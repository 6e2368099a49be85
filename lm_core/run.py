"""What pages and the command line ask for: parameters in, results out. Torch and the engines load on first use."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_core.artifacts import (
    PUBLISHED_NETWORKS,
    ImageData,
    asset_path,
    find_published_network,
    forget_datasets,
    has_published_network,
    load_dataset,
    manifest,
    read_asset,
)
from lm_core.device import choose_device, on_release
from lm_core.errors import AssetError, ParameterError
from lm_core.params import NETWORKS, MosaicParams
from lm_core.progress import quiet
from lm_core.results import MosaicResult, agreement

if TYPE_CHECKING:
    import torch

    from lm_core.diffusion.denoisers import Network
    from lm_core.score.fast import FastEngine
    from lm_core.score.machines import PosteriorEngine

DEFAULT_IMAGES = 1000
FIRST_IMAGES = 3000  # the first images of a pass cost as much again as so many of the others
RESTORE = "restore it from the repository"

Progress = Callable[[float, str, MosaicResult | None], None]


# -- networks and data ------------------------------------------------------------------------------------------------


def shipped_networks(dataset: str) -> list[str]:
    """Return the networks there are for a data set, in the order of `params.NETWORKS`.

    They are those that are shipped, and published ones that are on this machine (`artifacts.PUBLISHED_NETWORKS`).
    """
    shipped = manifest()["networks"]
    return [name for name in NETWORKS if f"{dataset}-{name}" in shipped or has_published_network(dataset, name)]


def network_path(dataset: str, network: str) -> Path:
    """Return where a network's weights are: a shipped file, a published network's folder, or what the user names.

    Raises:
        ParameterError: no such network; says which there are.
        AssetError: a shipped file is missing or is not the one that was shipped, or a published network isn't here.
    """
    if network in PUBLISHED_NETWORKS.get(dataset, {}):
        return find_published_network(dataset, network)
    entry = manifest()["networks"].get(f"{dataset}-{network}")
    if entry is None:
        if Path(network).expanduser().exists():
            return Path(network).expanduser()
        shipped = ", ".join(shipped_networks(dataset)) or "none"
        raise ParameterError(
            f"network is {network!r}; for {dataset} choose one of those shipped ({shipped}) or a file or folder."
        )
    read_asset(entry, RESTORE)
    return asset_path(entry["file"])


@lru_cache(maxsize=32)
def _sha256(path: Path, stamp: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def network_facts(dataset: str, network: str) -> dict[str, Any]:
    """Return what is recorded of a shipped network (parameters, loss, command …), {} for a network of the user's."""
    return manifest()["networks"].get(f"{dataset}-{network}", {})


def default_curve(params: MosaicParams) -> tuple[int, ...]:
    """Return the published patch sizes for some parameters, the noisiest step first."""
    from lm_core.score.curves import published_curve

    return published_curve(params.dataset, params.network, params.steps)


def resolve(params: MosaicParams) -> MosaicParams:
    """Fill in what is left open: the class a conditional network needs (seed modulo classes), the published curve."""
    data = load_dataset(params.dataset)
    label = params.label
    if label is None and params.network and network_facts(params.dataset, params.network).get("classes"):
        label = params.seed % len(data.class_names)
    sizes = params.patch_sizes or default_curve(params)
    images = len(data.take(params.images, label).images)
    return params.with_(label=label, patch_sizes=sizes, images=images)


def engine_for(params: MosaicParams, device: str, data: ImageData | None = None) -> "PosteriorEngine":
    """Return the engine of resolved parameters, with the images of a recent one if they are the same.

    Args:
        data: training images to use instead of those that the parameters name.
    """
    if data is not None:
        return _new_engine(params, data, device)
    content = load_dataset(params.dataset).sha256  # a folder's images may have changed
    where = params.dataset, content, params.label, params.images or 0, params.machine
    if params.engine == "exact" or params.machine in ("is", "es"):  # those two are quick as they are
        return _engine(*where, device)
    return _fast_engine(*where).at_tolerance(params.tolerance)


def _new_engine(params: MosaicParams, data: ImageData, device: str) -> "PosteriorEngine":
    from lm_core.score.fast import FastEngine
    from lm_core.score.machines import ExactEngine

    if params.engine == "exact" or params.machine in ("is", "es"):
        return ExactEngine(data.images, params.machine, device=device)
    return FastEngine(data.images, params.machine).at_tolerance(params.tolerance)


@lru_cache(maxsize=4)
def _engine(name: str, content: str, label: int | None, images: int, machine: str, device: str) -> "PosteriorEngine":
    from lm_core.score.machines import ExactEngine

    return ExactEngine(load_dataset(name).take(images, label).images, machine, device=device)


@lru_cache(maxsize=2)
def _fast_engine(name: str, content: str, label: int | None, images: int, machine: str) -> "FastEngine":
    from lm_core.score.fast import FastEngine

    return FastEngine(load_dataset(name).take(images, label).images, machine)


on_release(_fast_engine.cache_clear)
on_release(_engine.cache_clear)
on_release(forget_datasets)


# -- one mosaic -------------------------------------------------------------------------------------------------------


def mosaic(
    params: MosaicParams,
    *,
    device: str = "auto",
    noise: np.ndarray | None = None,
    data: ImageData | None = None,
    on_progress: Progress = quiet,
) -> MosaicResult:
    """Make a machine's image with its provenance, and from the same noise the network's and the ideal machine's.

    Args:
        noise: [C, H, W] to start from instead of the seed's.
        data: training images to use instead of those that the parameters name (the network keeps its own).
        on_progress: called with the share done, a phrase, and after every step a result of the steps so far; may raise
            to cancel.

    Raises:
        ParameterError, AssetError: what can't be computed, and what can instead.
    """

    from lm_core.diffusion.schedule import alpha_bar, step_times

    began = time.monotonic()
    on_progress(0.0, "loading", None)
    chosen = choose_device(device)
    if data is None:
        params = resolve(params)
        library = load_dataset(params.dataset)
        images, classmates = library.take(params.images, params.label), library.take(None, params.label)
    else:
        params = resolve(params.with_(images=None)).with_(images=len(data.images))
        library = images = classmates = data
    start = starting_noise(params, images, noise).to(chosen)
    network = _run_network(params, images, start, chosen) if params.network else {}
    engine, levels = engine_for(params, str(chosen), data), alpha_bar(step_times(params.steps))
    work = [number + FIRST_IMAGES for number in engine.passes]
    for position, number in enumerate(engine.passes):
        book = _StepBook(params, images, library, start, levels, network, number)
        before, share = sum(work[:position]) / sum(work), work[position] / sum(work)
        _run_machine(engine, book, start, before, share, on_progress)
    ideal = machine_image(params.with_(machine="is"), start, str(chosen), data)
    return book.result(ideal=ideal, classmates=classmates, seconds=time.monotonic() - began)


def _run_machine(
    engine: "PosteriorEngine", book: "_StepBook", start: "torch.Tensor", before: float, share: float, say: Progress
) -> None:
    """Sample a machine over the book's number of training images and write its steps into the book.

    Args:
        before, share: of the whole work, what was done before and what this run is.
        say: told the share done of the whole and, while there is no earlier image to look at, every step's result.
    """
    from lm_core.diffusion.ddim import sample

    steps, sizes = book.params.steps, book.params.patch_sizes or ()
    refining = f" with {book.images:,} images" if share < 1 else ""

    def report(step: int, part: float, partial: MosaicResult | None) -> None:
        say(before + share * (step + part) / steps, f"step {min(step + 1, steps)} of {steps}{refining}", partial)

    def denoise(x: "torch.Tensor", step: int) -> "torch.Tensor":
        level, on_chunk = float(book.levels[step]), lambda part: report(step, part, None)
        book.denoised.append(engine.denoise(x, level, sizes[step], on_chunk, images=book.images))
        return book.denoised[-1].mean

    def on_step(step: int, denoised: "torch.Tensor", x: "torch.Tensor") -> None:
        book.states.append(x)
        report(step + 1, 0.0, book.result() if not before or step + 1 == steps else None)

    sample(denoise, start, steps, on_step)


def starting_noise(params: MosaicParams, data: ImageData, noise: np.ndarray | None) -> "torch.Tensor":
    """Return the noise to start from, [1, C, H, W] float32.

    Raises:
        ParameterError: a given noise has the wrong shape or values that aren't finite.
    """
    import torch

    from lm_core.diffusion.ddim import starting_noise

    shape = data.images.shape[1:]
    if noise is None:
        return starting_noise(params.seed, shape)[None]
    if not np.issubdtype(noise.dtype, np.number) or noise.shape != shape:
        raise ParameterError(f"the noise is {noise.dtype} of shape {noise.shape}; give numbers of shape {shape}.")
    if not np.isfinite(noise).all():
        raise ParameterError("the noise contains values that are not finite; give finite numbers.")
    return torch.as_tensor(noise.astype(np.float32))[None]


def network_for(params: MosaicParams, data: ImageData, device: "torch.device") -> "Network":
    """Load the network of some parameters.

    Raises:
        AssetError: it was trained for another number of channels.
    """
    from lm_core.diffusion.denoisers import open_network

    network = open_network(network_path(params.dataset, params.network or ""), device)
    if network.channels != data.images.shape[1]:
        raise AssetError(
            f"the network {params.network} takes {network.channels} channels, {data.name} has {data.images.shape[1]}; "
            "choose a network trained on images of that kind."
        )
    return network


def network_states(
    params: MosaicParams, data: ImageData, start: "torch.Tensor", device: "torch.device"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Sample the network; returns its states [S+1, B, C, H, W] and estimates [S, B, C, H, W]."""
    import torch

    from lm_core.diffusion.ddim import sample

    states, estimates = [start], []

    def on_step(step: int, denoised: "torch.Tensor", x: "torch.Tensor") -> None:
        estimates.append(denoised)
        states.append(x)

    sample(network_for(params, data, device).at(params.steps, params.label), start, params.steps, on_step)
    return torch.stack(states), torch.stack(estimates)


def _run_network(params: MosaicParams, data: ImageData, start: "torch.Tensor", device: "torch.device") -> dict:
    """Sample the network from the same noise; returns the network_… fields of the result."""
    states, estimates = (table[:, 0].cpu().numpy() for table in network_states(params, data, start, device))
    return {"network_trajectory": states, "network_denoised": estimates, "network_image": states[-1]}


def noise_of(params: MosaicParams) -> "torch.Tensor":
    """Return the noise of some parameters' seed, [1, C, H, W]."""
    return starting_noise(params, load_dataset(params.dataset), None)


def network_image(params: MosaicParams, start: "torch.Tensor", device: "torch.device") -> np.ndarray:
    """Return only the image of the network, [C, H, W]."""
    return network_states(params, load_dataset(params.dataset), start, device)[0][-1, 0].cpu().numpy()


def machine_image(
    params: MosaicParams, start: "torch.Tensor", device: str, data: ImageData | None = None
) -> np.ndarray:
    """Return only the image of a machine, [C, H, W], over the training images of `engine_for`."""
    from lm_core.diffusion.ddim import sample
    from lm_core.diffusion.schedule import alpha_bar, step_times

    engine = engine_for(params, device, data)
    levels, sizes = alpha_bar(step_times(params.steps)), params.patch_sizes or ()
    image = sample(lambda x, step: engine.denoise(x, float(levels[step]), sizes[step]).mean, start, params.steps)
    return image[0].cpu().numpy()


class _StepBook:
    """Collects the steps of a running machine and writes them up as a result."""

    def __init__(
        self,
        params: MosaicParams,
        data: ImageData,
        library: ImageData,
        start: "torch.Tensor",
        levels: np.ndarray,
        network: dict,
        images: int,
    ) -> None:
        self.params, self.levels, self.network, self.images = params, levels, network, images
        self.data, self.library = data, library
        self.states, self.denoised = [start], []

    def result(
        self, ideal: np.ndarray | None = None, classmates: ImageData | None = None, seconds: float = 0.0
    ) -> MosaicResult:
        """Return the steps taken so far; scores and nearest images only with what they need."""
        import torch

        def table(name: str, dtype: type) -> np.ndarray:
            return torch.cat([getattr(one, name) for one in self.denoised]).cpu().numpy().astype(dtype)

        trajectory = torch.cat(self.states).cpu().numpy()
        known = all(one.bound is not None for one in self.denoised)
        rows = table("top_image", np.int32)
        used = np.unique(rows[rows >= 0])
        images, ids = {"machine": trajectory[-1]}, self.data.ids[used]
        scores = {}
        if self.network and ideal is not None:
            images["network"] = self.network["network_image"]
            predictions = {"machine": trajectory[-1], "ideal": ideal}
            scores = {who: asdict(agreement(image, images["network"])) for who, image in predictions.items()}
        found = {who: nearest(image[None], classmates)[0] for who, image in images.items()} if classmates else {}
        if found:
            ids = np.union1d(ids, [int(one["id"]) for one in found.values()])
        order = np.argsort(self.library.ids)
        return MosaicResult(
            params=self.params,
            noise=trajectory[0],
            trajectory=trajectory,
            denoised=table("mean", np.float32),
            alpha_bar=self.levels,
            patch_sizes=np.array(self.params.patch_sizes, dtype=np.int32),
            image=trajectory[-1],
            top_image=np.where(rows < 0, -1, self.data.ids[rows]).astype(np.int32),
            top_y=table("top_y", np.int16),
            top_x=table("top_x", np.int16),
            top_weight=table("top_weight", np.float32),
            effective_samples=table("effective_samples", np.float32),
            error_bound=table("bound", np.float32) if known else None,
            error_deviation=table("deviation", np.float32) if known else None,
            images_used=self.images,
            source_ids=ids,
            source_images=self.library.images[order[np.searchsorted(self.library.ids, ids, sorter=order)]],
            **self.network,
            ideal_image=ideal,
            scores=scores,
            nearest=found,
            provenance=provenance(self.params) | {"data_sha256": self.library.sha256},
            seconds=seconds,
        )


def nearest(images: np.ndarray, data: ImageData) -> list[dict[str, float]]:
    """Find the training image nearest to each image.

    Args:
        images: [n, C, H, W] in [−1, 1].

    Returns:
        per image the id in the training set, and distance, the root mean square difference per pixel and channel.
    """
    asked = images.reshape(len(images), -1).astype(np.float32)
    best, where = np.full(len(images), np.inf), np.zeros(len(images), int)
    for first in range(0, len(data.images), 8192):
        part = data.images[first : first + 8192].reshape(-1, asked.shape[1]).astype(np.float32) / 127.5 - 1
        square = (
            np.square(part).sum(1) - 2 * asked @ part.T
        )  # the images' own squares don't matter for which is nearest
        closer = square.min(1) < best
        where[closer] = first + square.argmin(1)[closer]
        best = np.minimum(best, square.min(1))
    exact = images - (data.images[where].astype(np.float64) / 127.5 - 1)
    distance = np.sqrt(np.square(exact).mean((1, 2, 3)))
    return [{"id": int(data.ids[at]), "distance": float(d)} for at, d in zip(where, distance, strict=True)]


def provenance(params: MosaicParams) -> dict[str, str]:
    """Name everything an image depends on beside its parameters: the hashes of data and network."""
    facts = {"data_sha256": load_dataset(params.dataset).sha256}
    if params.network:
        path = network_path(params.dataset, params.network)
        files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
        digests = "".join(_sha256(file, file.stat().st_mtime_ns) for file in files)
        facts["network_sha256"] = digests if len(files) == 1 else hashlib.sha256(digests.encode()).hexdigest()
    return facts


# -- many seeds -------------------------------------------------------------------------------------------------------


def compare(
    params: MosaicParams,
    seeds: list[int],
    *,
    network_steps: int | None = None,
    device: str = "auto",
    on_progress: Callable[[float, str], None] = lambda share, message: None,
) -> dict[str, Any]:
    """Measure over many seeds how well a machine, and the ideal one, predict a network from the same noise.

    Args:
        params: its seed is not used; without a class, a conditional network gets class seed modulo classes.
        network_steps: the network's DDIM steps, the machine's if None.

    Returns:
        per_seed [{seed, label, r, r2, R2, ideal: {…}}], median {r, r2, R2}, ideal (the same medians for the ideal
        score machine), seconds.
    """
    from lm_core.diffusion.ddim import sample

    if not params.network:
        raise ParameterError("network is missing; name the network to compare with.")
    if not seeds:
        raise ParameterError("seeds is empty; give at least one, for example 0-9.")
    began, per_seed = time.monotonic(), []
    chosen = choose_device(device)
    for count, seed in enumerate(seeds):
        one = resolve(params.with_(seed=seed))
        data = load_dataset(one.dataset).take(one.images, one.label)
        start = starting_noise(one, data, None).to(chosen)
        network = network_for(one, data, chosen)
        steps = network_steps or one.steps
        outcome = sample(network.at(steps, one.label), start, steps)[0].cpu().numpy()
        machine = agreement(machine_image(one, start, str(chosen)), outcome)
        ideal = agreement(machine_image(one.with_(machine="is"), start, str(chosen)), outcome)
        per_seed.append({"seed": seed, "label": one.label, **asdict(machine), "ideal": asdict(ideal)})
        on_progress((count + 1) / len(seeds), f"seed {seed}: r = {machine.r:.3f}, ideal score {ideal.r:.3f}")
    names = ("r", "r2", "R2")
    return {
        "params": params.as_dict() | {"seed": None, "network_steps": network_steps or params.steps},
        "per_seed": per_seed,
        "median": {name: float(np.median([row[name] for row in per_seed])) for name in names},
        "ideal": {name: float(np.median([row["ideal"][name] for row in per_seed])) for name in names},
        "seconds": round(time.monotonic() - began, 2),
    }
