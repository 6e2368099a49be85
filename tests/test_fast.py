"""The fast engine against the exact one in float64: what it leaves out, what it says about its error, when it stops."""

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from lm_core.artifacts import load_dataset
from lm_core.diffusion.schedule import alpha_bar
from lm_core.errors import ParameterError
from lm_core.score import lanes, sliding
from lm_core.score.fast import FastEngine
from lm_core.score.lanes import KERNEL, LANES, any_above, exp2, highest, load, store, total
from lm_core.score.machines import Denoised, ExactEngine
from tests import oracle

pytestmark = pytest.mark.usefixtures("single_threaded_torch")

PATCH_MACHINES = ("ls", "els", "bbels")
KINDS = ("random", "sparse", "equal", "constant", "one bright pixel", "equal but for a bit", "near ties", "two tones")
LEVELS = (1e-4, 0.02, 0.3, 0.7, 0.97, 0.9999)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return load_dataset("mnist").images


def pictures(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Images [N, C, H, W] that a comparison may stumble over; near ties and two tones are float32, the rest uint8."""
    rng, one = np.random.default_rng(seed), somewhere(shape, seed)
    bytes_ = rng.integers(0, 256, shape).astype(np.uint8)
    equal = np.repeat(bytes_[:1], len(bytes_), axis=0)
    if kind == "sparse":
        bytes_[rng.uniform(size=shape) < 0.8] = 0
    elif kind == "equal":
        return equal
    elif kind == "constant":
        return np.full(shape, bytes_.flat[0])
    elif kind == "one bright pixel":
        bytes_[:] = 0
        bytes_[one] = 255
    elif kind == "equal but for a bit":
        equal[one] ^= 1
        return equal
    elif kind == "near ties":
        return (equal / 128 - 1 + 1e-6 * rng.normal(size=shape)).astype(np.float32)
    elif kind == "two tones":
        return np.broadcast_to(rng.choice([-1, 1], (len(bytes_), 1, 1, 1)), shape).astype(np.float32)
    return bytes_


def somewhere(shape: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """The place of one number in an array of that shape."""
    return tuple(int(np.random.default_rng(seed + axis).integers(side)) for axis, side in enumerate(shape))


def scaled(images: np.ndarray) -> np.ndarray:
    return images / 127.5 - 1 if images.dtype == np.uint8 else images.astype(np.float64)


def noised(clean: np.ndarray, level: float, seed: int = 1) -> torch.Tensor:
    """√ᾱ x₀ + √β η of clean images [B, C, H, W], in float32 as a run has it."""
    eta = np.random.default_rng(seed).normal(size=clean.shape)
    return torch.from_numpy((level**0.5 * clean + (1 - level) ** 0.5 * eta).astype(np.float32))


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def exact(images: np.ndarray, machine: str, x: torch.Tensor, level: float, patch_size: int) -> Denoised:
    return ExactEngine(images, machine, dtype=torch.float64).denoise(x.double(), level, patch_size)


def distance(got: Denoised, wanted: Denoised) -> torch.Tensor:
    """How far apart two means are at every pixel, the worst channel's: float64 [B, H, W]."""
    return (got.mean.double() - wanted.mean.double()).abs().amax(1)


def error_of(result: Denoised) -> tuple[torch.Tensor, torch.Tensor]:
    """The bound and the standard error of a fast result, float64 [B, H, W]."""
    assert result.bound is not None and result.deviation is not None
    return result.bound.double(), result.deviation.double()


def assert_same(got: Denoised, wanted: Denoised, ranks: int = 7) -> None:
    """Mean, effective samples and weights agree; so do the heaviest candidates where no other weighs the same."""
    bound = error_of(got)[0]
    assert (distance(got, wanted) <= bound + 1e-5).all()
    torch.testing.assert_close(got.effective_samples.double(), wanted.effective_samples, rtol=1e-3, atol=0)
    torch.testing.assert_close(got.top_weight.double(), wanted.top_weight, rtol=0, atol=1e-3)
    gaps = -wanted.top_weight.diff(dim=-1)
    above = torch.cat([torch.full_like(gaps[..., :1], torch.inf), gaps], dim=-1)[..., :ranks]
    distinct = (above > 1e-4) & (gaps[..., :ranks] > 1e-4)
    for name in ("top_image", "top_y", "top_x"):
        assert torch.equal(getattr(got, name)[..., :ranks][distinct], getattr(wanted, name)[..., :ranks][distinct])


@pytest.mark.parametrize("machine", PATCH_MACHINES)
@pytest.mark.parametrize("shape", [(45, 1, 9, 12), (33, 3, 7, 6), (20, 1, 1, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("patch_size", [1, 3, 5, 9, 15])
def test_with_nothing_left_out_it_is_the_exact_posterior(machine, shape, dtype, patch_size):
    images = pictures("sparse", shape)
    if dtype == np.float32:
        images = scaled(images).astype(np.float32)
    engine = FastEngine(images, machine, tolerance=0, threads=2)
    for level in (0.02, 0.6, 0.97):
        x = noised(scaled(images[:2]), level)
        got = engine.denoise(x, level, patch_size)
        assert_same(got, exact(images, machine, x, level, patch_size))
        assert not error_of(got)[1].any()


@pytest.mark.parametrize("machine", PATCH_MACHINES)
def test_every_candidate_shown_has_the_weight_that_a_plain_loop_gives_it(machine):
    """Windows that are background throughout included: with their number, and named after real images."""
    images = pictures("sparse", (34, 1, 5, 6))
    images[:, :, :3, :] = 0
    images[5:] = 0
    engine = FastEngine(images, machine, tolerance=0, threads=2)
    for patch_size, level in ((3, 0.9), (5, 0.02)):
        x = noised(scaled(images[:1]), level)
        got = engine.denoise(x, level, patch_size)
        wanted = oracle.denoise(scaled(images), machine, x[0].numpy(), level, patch_size)
        np.testing.assert_allclose(got.effective_samples[0], wanted["effective"], rtol=1e-3)
        for (row, col), weights in wanted["weights"].items():
            tables = (got.top_image, got.top_y, got.top_x)
            names = [tuple(int(table[0, row, col, k]) for table in tables) for k in range(8)]
            assert len(set(names)) == 8 and weights.keys() >= set(names)
            shown = got.top_weight[0, row, col].numpy()
            np.testing.assert_allclose(shown, [weights[name] for name in names], atol=1e-5)
            np.testing.assert_allclose(shown, sorted(weights.values(), reverse=True)[:8], atol=1e-5)


@pytest.mark.parametrize("machine", PATCH_MACHINES)
@pytest.mark.parametrize("count", [1, 31, 33])
def test_where_all_is_background_all_candidates_weigh_the_same(machine, count):
    images = np.full((count, 1, 6, 5), 7, np.uint8)
    got = FastEngine(images, machine, tolerance=0, threads=2).denoise(noise(1, 1, 6, 5), 0.5, 3)
    torch.testing.assert_close(got.mean, torch.full_like(got.mean, 7 / 127.5 - 1))
    for row in range(6):
        for col in range(5):
            places = oracle.candidates(machine, row, col, (6, 5), 3)
            many = len(places) * count
            assert float(got.effective_samples[0, row, col]) == pytest.approx(many, rel=1e-5)
            tables = (got.top_image, got.top_y, got.top_x)
            names = [tuple(int(table[0, row, col, k]) for table in tables) for k in range(8)]
            known = [name for name in names if name != (-1, -1, -1)]
            assert len(set(known)) == len(known) == min(8, many)
            assert all(0 <= image < count and place in places for image, *rest in known for place in [tuple(rest)])
            weights = [1 / many] * len(known) + [0] * (8 - len(known))
            np.testing.assert_allclose(got.top_weight[0, row, col], weights, rtol=1e-5)


@st.composite
def questions(draw, queries: tuple[str, ...]):
    """Training images of a kind, a query of a kind, and the rest of what is asked."""
    kind, query = draw(st.sampled_from(KINDS)), draw(st.sampled_from(queries))
    sides = draw(st.tuples(st.integers(1, 11), st.integers(1, 11)))
    shape = (draw(st.integers(1, 80)), draw(st.sampled_from((1, 3))), *sides)
    seed, level = draw(st.integers(0, 2**16)), draw(st.sampled_from(LEVELS))
    images = pictures(kind, shape, seed)
    clean = scaled(images[seed % len(images)])[None]
    x = {
        "noised": noised(clean, level, seed),
        "clean": torch.from_numpy((level**0.5 * clean).astype(np.float32)),
        "noise": noise(*clean.shape, seed=seed),
        "huge": 1e3 * noise(*clean.shape, seed=seed),
        "one huge pixel": noise(*clean.shape, seed=seed),
        "grey": torch.full(clean.shape, seed / 2**15 - 1),
    }[query]
    if query == "one huge pixel":
        x.view(-1)[seed % x.numel()] = 1e3
    patch_size = draw(st.sampled_from((1, 3, 5, 9, 15, 31)))
    return images, x, level, patch_size, draw(st.sampled_from(PATCH_MACHINES)), draw(st.sampled_from((0, 0.004, 0.1)))


def assert_certified(images, x, level, patch_size, machine, tolerance, wanted: Denoised | None = None) -> Denoised:
    """Where no standard error is given, the float64 mean lies within the bound; and no weight is out of bounds."""
    got = FastEngine(images, machine, tolerance=tolerance, threads=1).denoise(x, level, patch_size)
    bound, deviation = error_of(got)
    off = distance(got, wanted or exact(images, machine, x, level, patch_size))
    assert (off <= bound + 1e-6)[deviation == 0].all(), (off - bound)[deviation == 0].max()
    assert bound.isfinite().all() and deviation.isfinite().all()
    assert (got.top_weight >= 0).all() and (got.top_weight.sum(-1) <= 1 + 1e-5).all()
    assert (got.effective_samples >= 1 - 1e-5).all()
    return got


@given(asked=questions(("noised", "clean")))
@settings(max_examples=120, deadline=None, derandomize=True, report_multiple_bugs=False)
def test_the_bound_holds_for_noised_images(asked):
    assert_certified(*asked)


@given(asked=questions(("noise", "huge", "one huge pixel", "grey")))
@settings(max_examples=120, deadline=None, derandomize=True, report_multiple_bugs=False)
def test_the_bound_holds_far_from_every_image(asked):
    assert_certified(*asked)


@pytest.mark.parametrize("dark", [-0.25, -1.0])
def test_a_posterior_far_from_every_image_is_a_number(dark):
    """Two bright candidates for a dark pixel, none of them background: which is in the first pixel alone."""
    images = np.array([[-1, 1], [-1, 1]], np.float32).reshape(2, 1, 1, 2)
    got = FastEngine(images, "ls", tolerance=0, threads=1).denoise(torch.full((1, 1, 1, 2), dark), 0.999, 1)
    torch.testing.assert_close(got.mean[0, 0, 0], torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(got.effective_samples, torch.full((1, 1, 2), 2.0))


@pytest.mark.parametrize("patch_size", [5, 15])
def test_the_bound_counts_the_rounding_of_the_images_squares(patch_size):
    """A query of nothing but the centre value among images that are anything but: only their squares decide."""
    rng = np.random.default_rng(0)
    images = np.repeat(rng.choice([-1.0, 1.0], (1, 3, 10, 10)), 40, axis=0) + 1e-6 * rng.normal(size=(40, 3, 10, 10))
    images = images.astype(np.float32)
    level = 0.9999
    x = torch.full((1, 3, 10, 10), level**0.5 * FastEngine(images, "ls").zero)
    assert_certified(images, x, level, patch_size, "ls", 0)


@pytest.mark.parametrize("machine, patch_size", [("bbels", 15), ("bbels", 25), ("ls", 7)])
def test_the_bound_holds_for_digits_and_keeps_to_the_tolerance(digits, machine, patch_size):
    """Over too few images for a subset of them to be enough: all that is left out is known."""
    images = digits[:240]
    for level, seed in ((0.02, 0), (0.5, 1), (0.95, 2)):
        x = noised(scaled(digits[seed + 1000 : seed + 1001]), level, seed)
        wanted, rounding = exact(images, machine, x, level, patch_size), torch.tensor(2.0)
        for tolerance in (0, 0.004, 0.1):
            got = assert_certified(images, x, level, patch_size, machine, tolerance, wanted)
            bound, deviation = error_of(got)
            rounding = rounding if tolerance else bound
            assert (bound <= rounding + tolerance / 2 + 1e-6).all() and not deviation.any()


def test_the_bound_holds_for_pieces_of_digits_anywhere(digits):
    images = np.ascontiguousarray(digits[:240, :, 10:22, 9:22])
    for patch_size, level in ((3, 0.1), (3, 0.9), (7, 0.5)):
        x = noised(scaled(digits[1000:1001, :, 10:22, 9:22]), level)
        wanted = exact(images, "els", x, level, patch_size)
        for tolerance in (0, 0.004, 0.1):
            assert_certified(images, x, level, patch_size, "els", tolerance, wanted)


def test_the_standard_error_is_the_size_of_the_error(digits):
    """Over random subsets of digits, where many candidates share the weight: the interior of the image."""
    images, level, patch_size, margin = digits[:1600], float(alpha_bar(0.9)), 15, 7
    x = noised(scaled(digits[5000:5001]), level)
    inside = (slice(None), slice(margin, -margin), slice(margin, -margin))
    whole = FastEngine(images, "bbels", tolerance=0, threads=2).denoise(x, level, patch_size)
    assert whole.effective_samples[inside].min() > 1000
    ratios = []
    for seed in range(20):
        engine = FastEngine(images, "bbels", tolerance=0.05, threads=1, seed=seed)
        got = engine.denoise(x, level, patch_size, images=640)
        deviation = error_of(got)[1]
        assert (deviation[inside] > 0).all()
        ratios.append((distance(got, whole) / deviation)[inside].square())
    assert 0.4 < float(torch.cat(ratios).mean().sqrt()) < 2.5


@pytest.mark.parametrize("tolerance", [0.004, 0.05])
def test_what_is_called_enough_is_within_the_tolerance(digits, tolerance):
    """Twice the standard error of a pixel that stopped, and half the tolerance for what was left out."""
    images, stopped = digits[:1600], 0
    for level in (0.02, 0.3):
        x = noised(scaled(digits[5000:5001]), level)
        bound, deviation = error_of(FastEngine(images, "bbels", tolerance=tolerance, threads=1).denoise(x, level, 15))
        assert (2 * deviation <= tolerance + 1e-6).all() and (bound <= tolerance / 2 + 1e-3).all()
        stopped += int((deviation > 0).sum())
    assert stopped > 100


@pytest.mark.parametrize("machine", PATCH_MACHINES)
@pytest.mark.parametrize("patch_size", [3, 5])
def test_pixels_that_ask_on_are_certified_after_others_stopped(machine, patch_size):
    """Faint images on the left, which many share, and loud ones on the right, which one image fits."""
    rng = np.random.default_rng(patch_size)
    images = rng.integers(118, 138, (700, 1, 10, 14)).astype(np.uint8)
    images[..., 7:] = rng.integers(0, 256, (700, 1, 10, 7))
    x = noised(scaled(images[:1]), 0.97)
    got = FastEngine(images, machine, tolerance=0.02, threads=1).denoise(x, 0.97, patch_size)
    wanted = exact(images, machine, x, 0.97, patch_size)
    bound, deviation = error_of(got)
    asked_on = deviation == 0
    assert 0 < asked_on.sum() < asked_on.numel() and (2 * deviation <= 0.02).all()
    assert (distance(got, wanted) <= bound + 1e-6)[asked_on].all()
    assert (distance(got, wanted) <= bound + 8 * deviation + 1e-6).all()
    same = (got.effective_samples / wanted.effective_samples).log().abs()
    assert same[asked_on].max() < 0.02


@pytest.mark.parametrize("machine, patch_size", [("ls", 7), ("bbels", 25)])
def test_the_bound_holds_where_a_subset_of_digits_was_of_one_mind(digits, machine, patch_size):
    images = digits[:600]
    x = noised(scaled(digits[1000:1001]), 0.02, 0)
    assert_certified(images, x, 0.02, patch_size, machine, 0.004)


def test_one_image_in_2000_that_decides_everything_is_not_overlooked_for_certain():
    images = np.zeros((2000, 1, 4, 4), np.uint8)
    images[0] = 255
    for seed in range(4):
        x = noised(scaled(images[:1]), 0.9)
        got = FastEngine(images, "ls", tolerance=0.004, threads=1, seed=seed).denoise(x, 0.9, 3)
        bound, deviation = error_of(got)
        off = distance(got, exact(images, "ls", x, 0.9, 3))
        assert (off <= bound + 1e-6)[deviation == 0].all()


@pytest.mark.parametrize("threads, used", [(2, 32), (2, 64), (16, 320)])
def test_a_look_at_some_images_says_that_it_is_one(digits, threads, used):
    """However many threads share it: a first look of 320 images is a single batch of sixteen threads."""
    images = digits[:1280]
    x = noised(scaled(digits[5000:5001]), 0.05)
    whole = FastEngine(images, "bbels", tolerance=0).denoise(x, 0.05, 15)
    got = FastEngine(images, "bbels", threads=threads).denoise(x, 0.05, 15, images=used)
    bound, deviation = error_of(got)
    assert float((bound + 2 * deviation).mean()) > float(distance(got, whole).mean()) / 2


@pytest.mark.parametrize("machine", PATCH_MACHINES)
def test_threads_and_seed_do_not_change_the_result(digits, machine):
    images = np.ascontiguousarray(digits[:600, :, 11:21, 11:21])
    for tolerance, level in ((0, 0.5), (0.02, 0.1)):
        x = noised(scaled(digits[3000:3001, :, 11:21, 11:21]), level)
        plain = FastEngine(images, machine, tolerance=tolerance, threads=1).denoise(x, level, 5)
        for threads, seed in ((2, 0), (3, 0), (1, 7), (2, 8)):
            other = FastEngine(images, machine, tolerance=tolerance, threads=threads, seed=seed).denoise(x, level, 5)
            allowed = sum(bound + 6 * deviation for bound, deviation in (error_of(plain), error_of(other)))
            assert (distance(plain, other) <= allowed + 1e-5).all()
            if not tolerance:
                torch.testing.assert_close(other.effective_samples, plain.effective_samples, rtol=1e-3, atol=0)


@pytest.mark.parametrize("machine", PATCH_MACHINES)
def test_the_same_seed_and_threads_give_the_same_image(machine):
    images, x = pictures("sparse", (100, 1, 9, 9)), noise(1, 1, 9, 9)
    first, second = (FastEngine(images, machine, tolerance=0, threads=2).denoise(x, 0.5, 5) for _ in range(2))
    torch.testing.assert_close(first.mean, second.mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(first.top_weight, second.top_weight, atol=1e-6, rtol=0)


def test_a_cancelled_run_ends_soon_and_leaves_the_engine_in_order(digits):
    images, x = digits[:2000], noised(scaled(digits[5000:5001]), 0.5)
    engine, asked = FastEngine(images, "bbels", tolerance=0, threads=2), []

    def stop(share: float) -> None:
        asked.append(time.perf_counter())
        if asked[-1] - asked[0] > 0.1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.denoise(x, 0.5, 3, stop)
    assert time.perf_counter() - asked[0] < 2
    shares = []
    got = engine.denoise(x, 0.5, 3, shares.append, images=64)
    assert shares[-1] == 1 and shares == sorted(shares)
    again = FastEngine(images, "bbels", tolerance=0, threads=2).denoise(x, 0.5, 3, images=64)
    torch.testing.assert_close(got.mean, again.mean, atol=1e-6, rtol=0)


@pytest.mark.parametrize("machine", PATCH_MACHINES)
@pytest.mark.parametrize("asked, used", [(1, 32), (32, 32), (40, 64), (128, 128)])
def test_a_run_over_some_images_is_the_posterior_of_those_alone(machine, asked, used):
    images = pictures("sparse", (128, 1, 8, 7))
    engine, x, shares = FastEngine(images, machine, tolerance=0, threads=2), noise(1, 1, 8, 7), []
    got = engine.denoise(x, 0.6, 3, shares.append, images=asked)
    chosen = engine.order[:used]
    wanted = exact(images[chosen], machine, x, 0.6, 3)
    assert (distance(got, wanted) <= error_of(got)[0] + 1e-5).all() and shares[-1] == 1
    torch.testing.assert_close(got.top_weight.double(), wanted.top_weight, rtol=0, atol=1e-3)
    assert set(got.top_image.unique().tolist()) <= {-1, *chosen.tolist()}
    first = wanted.top_weight[..., 0] > wanted.top_weight[..., 1] + 1e-4
    assert torch.equal(got.top_image[..., 0][first], torch.from_numpy(chosen)[wanted.top_image[..., 0]][first])
    torch.testing.assert_close(got.effective_samples.double(), wanted.effective_samples, rtol=1e-3, atol=0)


def test_more_images_than_there_are_is_all_of_them():
    images, x = pictures("sparse", (40, 1, 5, 5)), noise(1, 1, 5, 5)
    engine = FastEngine(images, "ls", tolerance=0)
    assert torch.equal(engine.denoise(x, 0.5, 3, images=100).mean, engine.denoise(x, 0.5, 3).mean)


def test_early_passes_end_with_all_images():
    assert FastEngine(pictures("random", (50, 1, 2, 2)), "ls").passes == (50,)
    assert FastEngine(pictures("random", (1000, 1, 2, 2)), "ls").passes == (320, 1000)
    assert FastEngine(pictures("random", (20_000, 1, 2, 2)), "ls").passes == (320, 3200, 20_000)


@pytest.mark.parametrize("machine", ["is", "es"])
def test_whole_image_machines_are_the_exact_engine(machine):
    images, x = pictures("sparse", (40, 1, 6, 5)), noise(2, 1, 6, 5)
    fast, plain = FastEngine(images, machine, threads=2), ExactEngine(images, machine)
    for count in (None, 10):
        got, wanted = fast.denoise(x, 0.5, 3, images=count), plain.denoise(x, 0.5, 3, images=count)
        for name in ("mean", "effective_samples", "top_image", "top_y", "top_x", "top_weight"):
            assert torch.equal(getattr(got, name), getattr(wanted, name))


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 4},
        {"patch_size": 0},
        {"patch_size": -3},
        {"alpha_bar": 1.0},
        {"alpha_bar": 0.0},
        {"x": torch.full((1, 1, 6, 6), torch.nan)},
        {"x": torch.full((1, 1, 6, 6), torch.inf)},
        {"x": torch.zeros(1, 3, 6, 6)},
        {"x": torch.zeros(1, 6, 6)},
    ],
)
@pytest.mark.parametrize("machine", ["is", "els", "bbels"])
def test_bad_input_is_refused_in_the_exact_engines_words(machine, change):
    arguments, images = (
        {"x": torch.zeros(1, 1, 6, 6), "alpha_bar": 0.5, "patch_size": 3} | change,
        pictures("random", (3, 1, 6, 6)),
    )
    said = []
    for engine in (ExactEngine(images, machine), FastEngine(images, machine)):
        with pytest.raises(ParameterError) as refusal:
            engine.denoise(**arguments)
        said.append(str(refusal.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "images, machine",
    [
        (np.zeros((2, 1, 6, 6), np.uint8), "magic"),
        (np.zeros((0, 1, 6, 6), np.uint8), "els"),
        (np.zeros((6, 6), np.uint8), "els"),
        (np.full((1, 1, 6, 6), np.nan, np.float32), "els"),
    ],
)
def test_bad_training_images_are_refused_in_the_exact_engines_words(images, machine):
    said = []
    for engine in (ExactEngine, FastEngine):
        with pytest.raises(ParameterError) as refusal:
            engine(images, machine)
        said.append(str(refusal.value))
    assert said[0] == said[1]


UNCACHED = {key: value for key, value in KERNEL.items() if key != "cache"}


@njit(**UNCACHED)
def powers_of_two(x, result):
    store(result, 0, exp2(load(x, 0)))


@njit(**UNCACHED)
def reductions(x, value, result):
    result[0], result[1] = highest(load(x, 0)), total(load(x, 0))
    result[2] = 1 if any_above(load(x, 0), value) else 0


def test_exp2_of_lanes_is_numpys():
    result = np.empty(LANES, np.float32)
    grid = np.concatenate([np.linspace(-60, 60, 100 * LANES), np.arange(-60, 60, 120 / LANES)]).astype(np.float32)
    for x in np.concatenate([grid, np.nextafter(np.round(grid), np.float32(-100))]).clip(-60, 60).reshape(-1, LANES):
        powers_of_two(x, result)
        np.testing.assert_allclose(result, np.exp2(x.astype(np.float64)), rtol=1e-6)
    powers_of_two(np.full(LANES, -3e38, np.float32), result)
    np.testing.assert_allclose(result, 2.0**-60, rtol=1e-6)


def test_reductions_of_lanes_are_numpys():
    rng, result = np.random.default_rng(0), np.empty(3, np.float32)
    for _ in range(200):
        x = (rng.normal(size=LANES) * 10 ** rng.uniform(-3, 3)).astype(np.float32)
        for value in (x.max(), np.nextafter(x.max(), np.float32(-np.inf)), x.min(), np.float32(rng.normal())):
            reductions(x, value, result)
            assert result[0] == x.max() and result[2] == (x > value).any()
            np.testing.assert_allclose(result[1], x.sum(dtype=np.float64), atol=1e-6 * np.abs(x).sum())


def test_stored_kernels_are_renewed_when_the_vectors_they_are_made_of_change():
    digest = hashlib.sha256(Path(lanes.__file__).read_bytes()).hexdigest()[:16]
    assert digest == sliding.LANES_DIGEST, f'put LANES_DIGEST = "{digest}" into sliding.py'
