"""Two measurements of a network's locality: the windows of a score machine that fit it best, and its own gradients.

Torch and the engines load on first use.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_core import run
from lm_core.artifacts import load_dataset, write_json
from lm_core.device import choose_device
from lm_core.errors import ParameterError
from lm_core.params import MosaicParams, require_int
from lm_core.progress import quiet
from lm_core.survey import result_file

if TYPE_CHECKING:
    import torch

    from lm_core.diffusion.denoisers import Network
    from lm_core.score.fast import FastEngine

SIZES = tuple(range(3, 32, 2))
ROWS = {"ls": 32, "bbels": 8, "els": 4}  # rows of pixels that are compared, of each sample and step, unless told
PIXELS = 16  # of each sample, at which the network is differentiated
TOGETHER = 2  # samples of a class that are computed together: more gained nothing clear, and they share their rows
FIELD_SHARE = 0.1  # of the whole time: about what the receptive field takes

Progress = Callable[[float, str, dict[str, Any] | None], None]


@dataclass(frozen=True)
class Trajectory:
    """A network's own way from noise to an image.

    Attributes:
        params: resolved: with the seed and its class.
        states, estimates: [S, C, H, W], the noisiest first: where it was, and what it took the clean image for there.
    """

    params: MosaicParams
    network: "Network"
    states: "torch.Tensor"
    estimates: "torch.Tensor"


def trajectories(params: MosaicParams, seeds: Sequence[int], device: str = "auto") -> list[Trajectory]:
    """Sample a network from each seed; without a class, a conditional one gets class seed modulo classes.

    Raises:
        ParameterError, AssetError: no network, no seeds, or a network for other images.
    """
    if not params.network:
        raise ParameterError("network is missing; name the network to calibrate for.")
    if not seeds:
        raise ParameterError("seeds is empty; give at least one, for example 1000-1009.")
    chosen, found = choose_device(device), []
    for seed in seeds:
        one = run.resolve(params.with_(seed=seed, patch_sizes=(3,)))
        data = load_dataset(one.dataset)
        states, estimates = run.network_states(one, data, run.noise_of(one).to(chosen), chosen)
        found.append(Trajectory(one, run.network_for(one, data, chosen), states[:-1, 0], estimates[:, 0]))
    return found


# -- the network's own receptive field --------------------------------------------------------------------------------


def receptive_field(
    params: MosaicParams,
    seeds: Sequence[int],
    *,
    pixels: int = PIXELS,
    device: str = "auto",
    on_progress: Progress = quiet,
) -> list[dict[str, float]]:
    """Measure how far around a pixel a network looks, at each noise level of its own trajectory.

    Args:
        pixels: how many of each sample, drawn at random with the sample's seed, the same at all steps.

    Returns:
        per step, the lowest noise first: t, and of the radius whose square window holds 90 % of
        |∂denoised(pixel)/∂x|, over all pixels and samples, radius (the median), low and high (the quartiles). Pixels;
        a radius compares with a window P = 2 · radius + 1.
    """
    return _field(trajectories(params, seeds, device), pixels, on_progress)


def _field(found: list[Trajectory], pixels: int, on_progress: Progress) -> list[dict[str, float]]:
    import torch

    from lm_core.diffusion.receptive import radii
    from lm_core.diffusion.schedule import step_times

    height, width = found[0].states.shape[-2:]
    require_int("pixels", pixels, 1, height * width)
    parts = []
    for done, one in enumerate(found):
        on_progress(done / len(found), f"receptive field, sample {done + 1} of {len(found)}", None)
        chosen = np.random.default_rng(one.params.seed).permutation(height * width)[:pixels]
        places = torch.from_numpy(np.stack([chosen // width, chosen % width], axis=1))
        parts.append(radii(one.network, one.states, one.params.label, places).numpy())
    radius = np.concatenate(parts, axis=1)[::-1]
    low, middle, high = np.percentile(radius, (25, 50, 75), axis=1)
    times = step_times(len(radius))[-2::-1]
    return [
        {"t": round(float(t), 6), "radius": float(m), "low": float(a), "high": float(b)}
        for t, m, a, b in zip(times, middle, low, high, strict=True)
    ]


# -- the windows that fit it best -------------------------------------------------------------------------------------


def calibrate(
    params: MosaicParams,
    seeds: Sequence[int],
    sizes: Sequence[int] = SIZES,
    *,
    rows: int | None = None,
    pixels: int = PIXELS,
    device: str = "auto",
    on_progress: Progress = quiet,
) -> dict[str, Any]:
    """Find the patch-size curve of a network, the window whose machine score is most like its own, and its gradients'.

    The machine is computed on the CPU, over all its training images.

    Args:
        params: its seed and patch sizes are not used; machine is ls, els or bbels.
        sizes: windows to try, odd, ascending, none larger than the image.
        rows: how many rows of pixels are compared, drawn anew for every step and two samples, the same for every size;
            all of them makes the cosines exact. None for what is quick with this machine (`ROWS`).
        pixels: of each sample, at which the network is differentiated; 0 leaves the receptive field out.
        device: of the network.
        on_progress: told the share done, a phrase and, after every step, a result of the steps so far (the lowest
            noise first); may raise to cancel.

    Returns:
        steps, each the lowest noise first, as published curves are: patch_sizes [step] (the median over samples of the
        best), cosine [step][size] (medians), error [step][size] (medians of the cosines' jackknife standard errors, 0
        if exact), receptive_field [step] (as the function of that name returns it); best [sample][step]; sizes,
        seeds, labels, images, machine, dataset, network, steps, rows, pixels, seconds.
    """
    from lm_core.score.calibration import best_sizes, check_sizes

    began, sizes = time.monotonic(), list(sizes)
    shape = load_dataset(params.dataset).images.shape[1:]
    check_sizes(sizes, params.machine, shape)
    rows = min(ROWS[params.machine], shape[1]) if rows is None else rows
    require_int("rows", rows, 1, shape[1])
    on_progress(0.0, "the network's trajectories", None)
    found = trajectories(params, seeds, device)
    field = _field(found, pixels, lambda share, say, _: on_progress(FIELD_SHARE * share, say, None)) if pixels else []
    facts: dict[str, Any] = {
        "dataset": params.dataset,
        "network": params.network,
        "machine": params.machine,
        "images": found[0].params.images,
        "steps": params.steps,
        "seeds": list(seeds),
        "labels": [one.params.label for one in found],
        "sizes": sizes,
        "rows": rows,
        "pixels": pixels,
        "receptive_field": field,
    }
    cosines = np.empty((params.steps, len(sizes), len(found)))  # the lowest noise first
    errors = np.empty_like(cosines)

    def result(done: int) -> dict[str, Any]:
        best = np.asarray(sizes)[cosines[:done].argmax(1)]
        return facts | {
            "patch_sizes": list(best_sizes(cosines[:done], sizes)),
            "cosine": np.median(cosines[:done], axis=2).round(7).tolist(),
            "error": np.median(errors[:done], axis=2).round(7).tolist(),
            "best": best.T.tolist(),
            "seconds": round(time.monotonic() - began, 1),
        }

    before = FIELD_SHARE if pixels else 0.0
    for step, done in _compare(found, sizes, rows, cosines, errors):
        share = before + (1 - before) * (step + done / len(found)) / params.steps
        say = f"noise level {step + 1} of {params.steps}, sample {done} of {len(found)}"
        on_progress(share, say, result(step + 1) if done == len(found) else None)
    return result(params.steps)


def _compare(
    found: list[Trajectory], sizes: list[int], rows: int, cosines: np.ndarray, errors: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Fill in cosines and errors [step][size][sample], the lowest noise first.

    Yields:
        the step, and how many of its samples are done.
    """
    from lm_core.diffusion.schedule import alpha_bar, step_times
    from lm_core.score.calibration import draw_rows, window_cosines

    steps, height = len(cosines), found[0].states.shape[-2]
    levels = alpha_bar(step_times(steps))[-2::-1]
    batches = _batches(found)

    def work(step: int, engine: "FastEngine", batch: list[int]) -> tuple[int, int]:
        x, estimates = (
            np.stack([getattr(found[i], name)[steps - 1 - step].cpu().numpy() for i in batch])
            for name in ("states", "estimates")
        )
        chosen = draw_rows(height, rows, np.random.default_rng((found[batch[0]].params.seed, step)))
        level = float(levels[step])
        cosines[step][:, batch], errors[step][:, batch] = window_cosines(engine, x, estimates, level, sizes, chosen)
        return step, len(batch)

    with ThreadPoolExecutor(batches[0][0].threads, thread_name_prefix="calibrate") as pool:
        jobs = [pool.submit(work, step, *batch) for step in range(steps) for batch in batches]
        try:
            done = 0
            for job in jobs:
                step, count = job.result()
                done += count
                yield step, done - step * len(found)
        finally:  # a cancelled calibration leaves no work behind
            pool.shutdown(cancel_futures=True)


def _batches(found: list[Trajectory]) -> "list[tuple[FastEngine, list[int]]]":
    """Return which samples are computed together, with their machine: those of one class, up to TOGETHER."""
    from lm_core.score.fast import FastEngine

    by_label: dict[int | None, list[int]] = {}
    for i, one in enumerate(found):
        by_label.setdefault(one.params.label, []).append(i)
    batches = []
    for label, members in by_label.items():
        params = found[members[0]].params
        engine = FastEngine(load_dataset(params.dataset).take(params.images, label).images, params.machine)
        batches += [(engine, members[i : i + TOGETHER]) for i in range(0, len(members), TOGETHER)]
    return batches


def write(facts: dict[str, Any], command: str) -> Path:
    """Write what `calibrate` found to where shipped results are, with the command that makes it anew."""
    path = result_file("calibration", facts["dataset"], facts["network"])
    write_json(path, facts | {"command": command})
    return path
