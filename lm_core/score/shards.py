"""The exact posterior sharded over machines: Ray actors hold a part of the training images each, their states merge.

`split`, `Shard`, `merge` and `traffic` are plain Python and know nothing of Ray; `ShardedEngine` starts one actor per
shard, waits for them and redoes what a dead one owed. Ray is an optional extra (`pip install ray`), imported when an
engine is made. What it does not do: GPUs, or images that the machine which asks can't hold.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_core.errors import AssetError, JobCancelled, ParameterError, ResourceError
from lm_core.score.candidates import TOP_K
from lm_core.score.machines import CHUNK_BYTES, Denoised, ExactEngine, OnChunk, _quiet
from lm_core.score.posterior import StreamingPosterior

MAX_RESTARTS = 3  # of one shard, for one noisy image
LOOK_SECONDS = 0.1  # between two looks at whether a shard is done, or the user has cancelled

# What `traffic` takes for granted, measured on the 2-core reference machine (2026-11-22).
EXACT_SECONDS_PER_1000_IMAGES = 27.7  # the exact engine: one MNIST image, 20 steps, bbELS, published UNet curve
CALL_SECONDS = 0.05  # asking an actor and having its answer, Ray on one machine that was busy: 40 ms at the least
MERGE_BYTES_PER_SECOND = 4e7  # 3 ms for a state of MNIST, mostly its top-k
GIGABIT = 125e6  # bytes a second


# -- without Ray ------------------------------------------------------------------------------------------------------


def split(count: int, shards: int) -> list[range]:
    """Cut the numbers 0 … count − 1 into consecutive parts whose lengths differ by at most one."""
    edges = [count * place // shards for place in range(shards + 1)]
    return [range(first, last) for first, last in pairwise(edges)]


class Shard:
    """The exact engine over a part of the training images, in a form that can be asked from elsewhere.

    It works for the newest run only: an older one, or one that was stopped, ends at its next chunk.
    """

    def __init__(
        self, images: np.ndarray, machine: str, first: int, centre: float, dtype: torch.dtype, chunk_bytes: int
    ) -> None:
        """Keep the images from number `first` on; machine, dtype and chunk_bytes are `ExactEngine`'s.

        Args:
            centre: the whole engine's, so that logits and values of all shards are relative to the same.
        """
        self.engine = ExactEngine(images, machine, dtype=dtype, chunk_bytes=chunk_bytes, first=first, centre=centre)
        self.newest, self.share = -1, 0.0

    def posteriors(
        self, run: int, x: np.ndarray, alpha_bar: float, patch_size: int, images: int
    ) -> list[StreamingPosterior]:
        """Return the states over the first `images` images of this shard; their candidates are numbered globally.

        Args:
            run: a number larger than any earlier run's.
            x, alpha_bar, patch_size: as `ExactEngine.denoise`.

        Raises:
            JobCancelled: a newer run came, or `stop`.
        """
        self.newest, self.share = max(self.newest, run), 0.0

        def on_chunk(share: float) -> None:
            if run != self.newest:
                raise JobCancelled("a newer run came, or the run was stopped.")
            self.share = share

        question = self.engine.ask(torch.tensor(x), alpha_bar, patch_size)
        return self.engine.posteriors(question, on_chunk, images)

    def look(self) -> float:
        """Return the share of the present run that is done."""
        return self.share

    def stop(self, run: int) -> None:
        """End a run."""
        self.newest = max(self.newest, run + 1)


def merge(parts: Sequence[Sequence[StreamingPosterior]]) -> list[StreamingPosterior]:
    """Merge the states of several shards, group by group, in the order given.

    With m = max(m₁, m₂): Z = Z₁e^(m₁−m) + Z₂e^(m₂−m), the squares and numerators likewise, and the K best of both
    top-K: what one run over both shards' candidates gives, up to the rounding of sums in float64.
    """
    merged = []
    for states in zip(*parts, strict=True):
        (rows, values), top_k = states[0].numerator.shape, states[0].top_logit.shape[1]
        total = StreamingPosterior.empty(rows, values, top_k, states[0].peak.device, states[0].peak.dtype)
        for state in states:
            total.merge(state)
        merged.append(total)
    return merged


@dataclass(frozen=True)
class Traffic:
    """What sharding costs and gains on paper; bytes are of the payload; Ray's framing adds 6 % for MNIST.

    Attributes:
        sent, received: bytes per step over the asking machine's network card, over all shards.
        seconds: of the whole image; alone: of one machine without Ray.
        speed_up: alone / seconds.
    """

    shards: int
    sent: int
    received: int
    seconds: float
    alone: float
    speed_up: float


def state_bytes(shape: tuple[int, int, int], machine: str = "bbels", *, batch: int = 1, dtype_bytes: int = 4) -> int:
    """Return the size of one shard's answer: R rows of d + 8 + 8 + 8V + K(d + 8) bytes, d those of a logit.

    That is the largest logit, Σe, Σe², the numerator of V values, and K logits with their numbers. A patch machine has
    a row per pixel, R = B·H·W with V = C, whatever the patch size; is has R = B and es R = B·H·W with V = C·H·W.
    """
    channels, height, width = shape
    pixels = height * width
    rows = batch if machine == "is" else batch * pixels
    values = channels * pixels if machine in ("is", "es") else channels
    return rows * (dtype_bytes + 16 + 8 * values + TOP_K * (dtype_bytes + 8))


def traffic(
    shape: tuple[int, int, int],
    shards: int,
    *,
    machine: str = "bbels",
    steps: int = 20,
    batch: int = 1,
    images: int = 60_000,
    seconds_per_1000_images: float = EXACT_SECONDS_PER_1000_IMAGES,
    bytes_per_second: float = GIGABIT,
) -> Traffic:
    """Estimate one sampling run over N actors, each on a machine like the one that `seconds_per_1000_images` is of.

        seconds(N) = alone/N + steps · (call + N · (sent + received)/network + N · received/merging)

    with alone = images/1000 · seconds_per_1000_images and the bytes per actor: sent is the noisy image in float32,
    received is `state_bytes`. The slowest shard is taken to be no slower than the mean one.
    """
    sent, received = 4 * batch * int(np.prod(shape)), state_bytes(shape, machine, batch=batch)
    alone = images / 1000 * seconds_per_1000_images
    step = CALL_SECONDS + shards * ((sent + received) / bytes_per_second + received / MERGE_BYTES_PER_SECOND)
    seconds = alone / shards + steps * step
    return Traffic(shards, shards * sent, shards * received, seconds, alone, alone / seconds)


# -- with Ray ---------------------------------------------------------------------------------------------------------


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise AssetError(
            "The sharded engine needs Ray, which is not installed here; run `pip install ray`, or use the exact engine."
        ) from error
    return ray


class ShardedEngine:
    """The exact engine over Ray actors, a part of the training images on each: same call, same result to rounding.

    It joins the Ray that is running (call `ray.init(address=…)` before, or set RAY_ADDRESS) or starts one on this
    machine; on others lm_core must be importable. The images are sent once; each noisy image goes to every actor and a
    state comes back (see `traffic`). Memory here: all images, to be able to redo a shard, and one state per shard.
    A context manager: `close` ends the actors and leaves Ray running.

    Attributes:
        passes: as every engine's: one, over all images.
        restarts: how many actors have been replaced so far.
    """

    def __init__(
        self,
        images: np.ndarray,
        machine: str,
        *,
        shards: int = 2,
        cpus: int = 1,
        dtype: torch.dtype = torch.float32,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """Start the actors and send them their images.

        Args:
            images, machine, dtype, chunk_bytes: as `ExactEngine`.
            shards: how many actors, from 1 to the number of images.
            cpus: cores that Ray keeps for each, and threads that it computes with.

        Raises:
            AssetError: Ray is not installed.
            ParameterError: as `ExactEngine`, or more shards than there are images or than Ray has cores for.
        """
        self.exact = ExactEngine(images, machine, dtype=dtype, chunk_bytes=chunk_bytes)
        count = len(self.exact.images)
        if not 1 <= shards <= count:
            raise ParameterError(f"shards is {shards}; choose from 1 to {count}, the number of training images.")
        self.ray = ray = _import_ray()
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
            ray.init(include_dashboard=False, log_to_driver=False)
        cores = int(ray.cluster_resources().get("CPU", 0))
        if shards * cpus > cores:
            raise ParameterError(
                f"{shards} shards of {cpus} cores need {shards * cpus}, but Ray has {cores}; "
                "choose fewer shards or add machines."
            )
        self.passes, self.restarts, self.run, self.cpus = (count,), 0, 0, cpus
        self.parts = split(count, shards)
        self.actors = [self._start(part) for part in self.parts]

    def _start(self, part: range) -> Any:
        """Start an actor with its part of the images."""
        options = {"num_cpus": self.cpus, "max_restarts": 0, "max_concurrency": 4, "scheduling_strategy": "SPREAD"}
        images, exact = self.exact.images[part.start : part.stop].numpy(), self.exact
        return (
            self.ray.remote(Shard)
            .options(**options)
            .remote(images, exact.machine, part.start, exact.centre, exact.dtype, exact.chunk_bytes)
        )

    def __enter__(self) -> "ShardedEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors; Ray goes on."""
        for actor in self.actors:
            self.ray.kill(actor)
        self.actors = []

    def denoise(
        self, x: Tensor, alpha_bar: float, patch_size: int, on_chunk: OnChunk = _quiet, images: int | None = None
    ) -> Denoised:
        """Return the posterior mean of the clean image given a noisy one.

        Args, errors: as `ExactEngine.denoise`; on_chunk is also called at the start and while waiting.

        Raises:
            ResourceError: a shard's actors have died four times in a row.
        """
        question = self.exact.ask(x, alpha_bar, patch_size)
        count = self.passes[-1] if images is None else min(images, self.passes[-1])
        self.run += 1
        try:
            parts = self._collect((x.cpu().numpy(), alpha_bar, patch_size), count, on_chunk)
        except BaseException:
            for actor in self.actors:
                actor.stop.remote(self.run)
            raise
        return self.exact.assemble(question, merge(parts))

    def _collect(self, asked: tuple, count: int, on_chunk: OnChunk) -> list[list[StreamingPosterior]]:
        """Ask the shards that hold the first `count` images and return their states in order; redo what is lost."""
        errors = self.ray.exceptions
        lost = (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError, errors.OutOfMemoryError)
        todo = {
            place: min(count, part.stop) - part.start for place, part in enumerate(self.parts) if part.start < count
        }
        jobs = {self._ask(place, asked, todo[place]): place for place in todo}
        share, states, deaths = dict.fromkeys(todo, 0.0), {}, Counter()
        while jobs:
            on_chunk(sum(share[place] * todo[place] for place in todo) / count)
            for job in self.ray.wait(list(jobs), num_returns=len(jobs), timeout=LOOK_SECONDS)[0]:
                place = jobs.pop(job)
                try:
                    states[place], share[place] = self.ray.get(job), 1.0
                except lost as error:
                    deaths[place] += 1
                    self._replace(place, deaths[place], error)
                    share[place], jobs[self._ask(place, asked, todo[place])] = 0.0, place
            share |= self._look(list(jobs.values()))
        on_chunk(1.0)
        return [states[place] for place in sorted(states)]

    def _ask(self, place: int, asked: tuple, images: int) -> Any:
        return self.actors[place].posteriors.remote(self.run, *asked, images)

    def _look(self, places: list[int]) -> dict[int, float]:
        """Return how far the shards are that say so at once."""
        looks = {self.actors[place].look.remote(): place for place in places}
        if not looks:
            return {}
        known = {}
        for look in self.ray.wait(list(looks), num_returns=len(looks), timeout=LOOK_SECONDS)[0]:
            try:
                known[looks[look]] = self.ray.get(look)
            except self.ray.exceptions.RayError:
                continue  # it is dead, as its job is about to say
        return known

    def _replace(self, place: int, deaths: int, error: Exception) -> None:
        """Start a shard's actor anew.

        Raises:
            ResourceError: it has died too often.
        """
        part = self.parts[place]
        if deaths > MAX_RESTARTS:
            raise ResourceError(
                f"The actor that holds training images {part.start} to {part.stop - 1} died {deaths} times, perhaps "
                "for want of memory; use more shards or fewer images, or see Ray's logs."
            ) from error
        self.ray.kill(self.actors[place])
        self.restarts += 1
        self.actors[place] = self._start(part)
