"""The sharded posterior: exact merging without Ray; with Ray, two local actors, a killed one, and a cancelled run."""

import copy
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core.artifacts import load_dataset
from lm_core.diffusion.ddim import sample, starting_noise
from lm_core.diffusion.schedule import alpha_bar, step_times
from lm_core.errors import AssetError, JobCancelled, ParameterError, ResourceError
from lm_core.score import shards
from lm_core.score.candidates import Chunk
from lm_core.score.curves import published_curve
from lm_core.score.machines import CHUNK_BYTES, Denoised, ExactEngine
from lm_core.score.posterior import StreamingPosterior
from lm_core.score.shards import MAX_RESTARTS, Shard, ShardedEngine, merge, split, state_bytes, traffic

MACHINES = ("is", "es", "ls", "els", "bbels")
LEVELS = (0.03, 0.5, 0.97)
FLOAT32 = 1e-5  # between processes: a processor may round the same product by its shape; in float64 it is 1e-9


def pictures(count: int, channels: int = 1, side: int = 8, seed: int = 0) -> np.ndarray:
    """Random uint8 images with large areas of one background value, so that identical patches occur."""
    images = np.random.default_rng(seed).integers(0, 256, (count, channels, side, side)).astype(np.uint8)
    images[images < 90] = 0
    images[..., :2, :4] = 0
    return images


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


class InPieces(ExactEngine):
    """A single process that walks over given parts: its logits are the shards' to the last bit.

    In float32 the rounding of a matrix product depends on its shape, so the same logit differs a little with
    the chunk that it comes in; what is left of a difference from this engine is due to merging.
    """

    parts: list[range]

    def _chunks(self, count, on_chunk, size):
        for part in self.parts:
            yield Chunk(self._scale(self.images[part.start : part.stop]) - self.centre, part.start)


def in_parts(engine: ExactEngine, images: np.ndarray, parts: list[range], asked: tuple) -> Denoised:
    """Ask one shard per part, in this process, and assemble what they return."""
    states = []
    for part in parts:
        held = images[part.start : part.stop]
        shard = Shard(held, engine.machine, part.start, engine.centre, engine.dtype, CHUNK_BYTES)
        states.append(shard.posteriors(0, asked[0].numpy(), *asked[1:], images=len(part)))
    return engine.assemble(engine.ask(*asked), merge(states))


def assert_same(got: Denoised, wanted: Denoised, tolerance: float) -> None:
    """Compare everything; where weights tie, the order of the names is free."""
    torch.testing.assert_close(got.mean, wanted.mean, atol=tolerance, rtol=0)
    torch.testing.assert_close(got.top_weight, wanted.top_weight, atol=tolerance, rtol=0)
    close = {"atol": tolerance, "rtol": 10 * tolerance}
    torch.testing.assert_close(got.effective_samples, wanted.effective_samples, **close)
    gaps = wanted.top_weight[..., :-1] - wanted.top_weight[..., 1:]
    clear = torch.ones_like(wanted.top_weight, dtype=torch.bool)
    clear[..., 1:] &= gaps > 10 * tolerance
    clear[..., :-1] &= gaps > 10 * tolerance
    clear[..., -1] = False  # its rival is not in the table
    for name in ("top_image", "top_y", "top_x"):
        assert torch.equal(getattr(got, name)[clear], getattr(wanted, name)[clear])


@pytest.mark.parametrize("machine", MACHINES)
@given(
    count=st.integers(1, 14),
    cuts=st.sets(st.integers(1, 13), max_size=6),
    seed=st.integers(0, 1000),
    level=st.sampled_from(LEVELS),
    patch_size=st.sampled_from((1, 3, 5, 15)),
    channels=st.sampled_from((1, 3)),
)
@settings(deadline=None, max_examples=15, derandomize=True)
def test_any_split_merges_to_the_whole(machine, count, cuts, seed, level, patch_size, channels):
    images = pictures(count, channels, 6, seed)
    edges = [0, *sorted(cut for cut in cuts if cut < count), count]
    parts = [range(*pair) for pair in pairwise(edges)]
    asked = (noise(2, channels, 6, 6, seed=seed), level, patch_size)
    engine = ExactEngine(images, machine, dtype=torch.float64)
    assert_same(in_parts(engine, images, parts, asked), engine.denoise(*asked), 1e-9)
    engine = InPieces(images, machine)
    engine.parts = parts
    assert_same(in_parts(engine, images, parts, asked), engine.denoise(*asked), 1e-6)


@given(
    logits=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=30),
    cut=st.integers(0, 30),
)
@settings(deadline=None, max_examples=100, derandomize=True)
def test_states_merge_exactly_whatever_the_logits_and_empty_ones_change_nothing(logits, cut):
    table = torch.tensor(logits, dtype=torch.float64)
    values = torch.linspace(-1, 1, len(table), dtype=torch.float64)[:, None]

    def state(part: slice) -> StreamingPosterior:
        posterior = StreamingPosterior.empty(1, 1, 8, torch.device("cpu"), torch.float64)
        if len(table[part]):
            names = torch.arange(len(table))[None, part]
            posterior.add(table[None, None, part].clone(), values[None, part], names)
        return posterior

    (merged,), whole = merge([[state(slice(0, cut))], [state(slice(cut, None))]]), state(slice(None))
    torch.testing.assert_close(merged.mean, whole.mean, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(merged.effective_samples, whole.effective_samples)
    torch.testing.assert_close(merged.top_weight, whole.top_weight)
    empty = state(slice(0, 0))
    empty.merge(state(slice(0, 0)))
    assert empty.mass.item() == 0
    merged_again = merge([[empty], [copy.deepcopy(merged)], [empty]])[0]
    assert all(torch.equal(getattr(merged_again, f.name), getattr(merged, f.name)) for f in fields(merged))


@given(count=st.integers(1, 1000), shards=st.integers(1, 50))
def test_a_split_covers_every_image_once_evenly(count, shards):
    parts = split(count, shards)
    assert [place for part in parts for place in part] == list(range(count))
    lengths = [len(part) for part in parts]
    assert len(lengths) == shards and max(lengths) - min(lengths) <= 1


def test_a_shard_ends_a_run_that_is_no_longer_the_newest():
    images = pictures(6)
    shard = Shard(images, "bbels", 0, 0.0, torch.float32, 1)
    x = noise(1, 1, 8, 8).float().numpy()
    shard.stop(4)
    with pytest.raises(JobCancelled):
        shard.posteriors(4, x, 0.5, 3, 6)
    assert shard.posteriors(5, x, 0.5, 3, 6) and shard.look() == 1.0


# -- on paper ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_state_formula_counts_the_bytes_of_a_state(machine, channels):
    for batch, patch_size in ((1, 3), (2, 7)):
        engine = ExactEngine(pictures(2, channels), machine)
        states = engine.posteriors(engine.ask(noise(batch, channels, 8, 8), 0.5, patch_size))
        size = sum(getattr(state, field.name).nbytes for state in states for field in fields(state))
        assert size == state_bytes((channels, 8, 8), machine, batch=batch)


def test_the_speed_up_on_paper_is_near_the_number_of_actors_until_talk_costs():
    table = {count: traffic((1, 32, 32), count) for count in (1, 4, 16, 64, 4096)}
    assert table[1].alone == pytest.approx(1662)
    assert table[1].received == 1024 * 124 and table[64].sent == 64 * 4096
    for count in (1, 4, 16):
        assert 0.95 * count < table[count].speed_up <= count
    assert 40 < table[64].speed_up < 64
    assert table[4096].speed_up < table[64].speed_up  # all answers pass through one network card


# -- without Ray ------------------------------------------------------------------------------------------------------


def test_importing_shards_leaves_ray_out():
    code = "import sys, lm_core.score.shards; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_without_ray_the_engine_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AssetError, match="pip install ray"):
        ShardedEngine(pictures(4), "bbels")


@pytest.mark.parametrize("wanted", [0, 5])
def test_a_number_of_shards_that_makes_no_sense_is_refused(wanted):
    with pytest.raises(ParameterError, match=f"shards is {wanted}; choose from 1 to 4"):
        ShardedEngine(pictures(4), "bbels", shards=wanted)


# -- with Ray ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray():
    """A Ray of this machine alone: two cores, no dashboard, nothing reported to anybody."""
    ray = pytest.importorskip("ray", reason="ray is not installed; pip install -r tests/requirements.txt")
    folder = tempfile.mkdtemp(prefix="ray")  # Ray's sockets need a short path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 * 2**20,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        yield ray
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def long_run(ray):
    """An engine of two actors that work for seconds, in many chunks, and the single process' answer; in float64."""
    images, exact = pictures(1500, side=16), {"dtype": torch.float64}
    asked = (noise(1, 1, 16, 16), 0.5, 5)
    with ShardedEngine(images, "bbels", shards=2, chunk_bytes=200_000, **exact) as engine:
        yield engine, asked, ExactEngine(images, "bbels", **exact).denoise(*asked)


@pytest.mark.slow
def test_two_actors_equal_the_single_process(ray):
    for machine in ("es", "bbels"):  # whole images, and patches; all machines are merged above
        images = pictures(21, 3, 8)
        single = ExactEngine(images, machine, dtype=torch.float64)
        with ShardedEngine(images, machine, shards=2, dtype=torch.float64) as engine:
            assert engine.passes == (21,)
            for level in LEVELS:
                asked, shares = (noise(2, 3, 8, 8), level, 3), []
                assert_same(engine.denoise(*asked, shares.append), single.denoise(*asked), 1e-9)
                assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)
            for first in (4, 15):  # within the first shard, and beyond it
                assert_same(engine.denoise(*asked, images=first), single.denoise(*asked, images=first), 1e-9)
            assert engine.restarts == 0


@pytest.mark.slow
def test_two_actors_make_the_single_process_mosaic_of_mnist_in_float32(ray):
    images, steps = load_dataset("mnist").take(60).images, 20
    levels, sizes = alpha_bar(step_times(steps)), published_curve("mnist", "unet", steps)
    single = ExactEngine(images, "bbels")
    with ShardedEngine(images, "bbels", shards=2) as engine:

        def denoise(x: torch.Tensor, step: int) -> torch.Tensor:
            asked = (x, float(levels[step]), sizes[step])
            wanted = single.denoise(*asked)
            assert_same(engine.denoise(*asked), wanted, FLOAT32)
            return wanted.mean

        sample(denoise, starting_noise(0, (1, 1, 32, 32)), steps)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 0.2])
def test_a_killed_actors_shard_is_redone(ray, long_run, after):
    engine, asked, wanted = long_run
    killed, restarts = [], engine.restarts

    def kill_once(share: float) -> None:
        if not killed and share >= after:
            killed.append(share)
            ray.kill(engine.actors[1])

    assert_same(engine.denoise(*asked, kill_once), wanted, 1e-9)
    assert killed and killed[0] < 0.9 and engine.restarts == restarts + 1
    assert_same(engine.denoise(*asked), wanted, 1e-9)  # and the new actor serves on


@pytest.mark.slow
def test_an_actor_that_died_between_two_images_is_replaced(ray, long_run):
    engine, asked, wanted = long_run
    ray.kill(engine.actors[0])
    assert_same(engine.denoise(*asked), wanted, 1e-9)


@pytest.mark.slow
def test_a_cancelled_run_ends_at_once_and_the_engine_serves_on(ray, long_run):
    engine, asked, wanted = long_run
    raised: list[float] = []

    def cancel(share: float) -> None:
        if share > 0:
            raised.append(time.monotonic())
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled, match="enough"):
        engine.denoise(*asked, cancel)
    assert time.monotonic() - raised[0] < 0.5
    assert_same(engine.denoise(*asked), wanted, 1e-9)


@pytest.mark.slow
def test_a_shard_that_always_dies_ends_in_a_sentence(ray, monkeypatch):
    class Deadly(Shard):
        def posteriors(self, *asked, **more):
            import os

            os._exit(1)

    monkeypatch.setattr(shards, "Shard", Deadly)
    with ShardedEngine(pictures(4), "is", shards=1, cpus=0) as engine:  # another engine may hold both cores
        with pytest.raises(ResourceError, match=r"training images 0 to 3 died 4 times"):
            engine.denoise(noise(1, 1, 8, 8).float(), 0.5, 3)
        assert engine.restarts == MAX_RESTARTS


def test_more_shards_than_cores_are_refused(ray):
    with pytest.raises(ParameterError, match="3 shards of 1 cores need 3, but Ray has 2"):
        ShardedEngine(pictures(4), "bbels", shards=3)


def test_bad_input_is_refused_before_anything_is_sent(ray, long_run):
    engine, asked, _ = long_run
    for bad in ((asked[0], 1.5, 5), (asked[0], 0.5, 4), (asked[0][..., 1:], 0.5, 5)):
        with pytest.raises(ParameterError):
            engine.denoise(*bad)
