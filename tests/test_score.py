"""The score machines against a plain float64 loop, hand-derived mosaics and the theorems of Kamb & Ganguli (2025)."""

import numpy as np
import pytest
import torch

from lm_core.diffusion.ddim import ddim_step, sample, starting_noise
from lm_core.diffusion.schedule import alpha_bar, step_times
from lm_core.errors import ParameterError
from lm_core.score.curves import PUBLISHED, published_curve
from lm_core.score.machines import ExactEngine
from lm_core.score.posterior import StreamingPosterior
from tests import oracle

MACHINES = ("is", "es", "ls", "els", "bbels")
PATCH_MACHINES = ("ls", "els", "bbels")


def pictures(channels: int, height: int, width: int, count: int = 3, seed: int = 0) -> np.ndarray:
    """Random uint8 images with large areas of one background value, so that identical patches occur."""
    images = np.random.default_rng(seed).integers(0, 256, (count, channels, height, width)).astype(np.uint8)
    images[images < 90] = 0
    images[..., :2, :4] = 0
    return images


def scaled(images: np.ndarray) -> np.ndarray:
    return images / 127.5 - 1


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("shape", [(1, 6, 7), (3, 5, 6)])
@pytest.mark.parametrize("patch_size", [1, 3, 5, 15])
def test_machine_equals_a_plain_float64_loop_borders_included(machine, shape, patch_size):
    images, x = pictures(*shape), noise(*shape)
    for level in (0.02, 0.6, 0.97):
        wanted = oracle.denoise(scaled(images), machine, x, level, patch_size)
        engine = ExactEngine(images, machine, dtype=torch.float64, tile_logits=64, chunk_bytes=5000)
        got = engine.denoise(torch.from_numpy(x)[None], level, patch_size)
        np.testing.assert_allclose(got.mean[0], wanted["mean"], atol=1e-10)
        np.testing.assert_allclose(got.effective_samples[0], wanted["effective"], rtol=1e-8)
        for (row, col), weights in wanted["weights"].items():
            heaviest = sorted(weights.values(), reverse=True)[:8]
            shown = got.top_weight[0, row, col].numpy()
            np.testing.assert_allclose(shown[: len(heaviest)], heaviest, atol=1e-9)
            for k in range(len(heaviest)):
                name = tuple(int(table[0, row, col, k]) for table in (got.top_image, got.top_y, got.top_x))
                assert weights[name] == pytest.approx(shown[k], abs=1e-9)


@pytest.mark.parametrize("machine", MACHINES)
def test_float32_agrees_with_the_float64_oracle(machine):
    images, x = pictures(1, 16, 16, count=20), torch.from_numpy(noise(1, 1, 16, 16))
    for level in (0.02, 0.6, 0.99):
        fast = ExactEngine(images, machine).denoise(x, level, 5).mean
        exact = ExactEngine(images, machine, dtype=torch.float64).denoise(x, level, 5).mean
        torch.testing.assert_close(fast.double(), exact, atol=2e-4, rtol=0)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunk_size_order_and_threads_do_not_change_the_result(machine, dtype):
    images = pictures(1, 12, 12, count=40)
    x = torch.from_numpy(noise(2, 1, 12, 12))
    plain = ExactEngine(images, machine, dtype=dtype).denoise(x, 0.5, 5)
    chunked = ExactEngine(images, machine, dtype=dtype, chunk_bytes=20_000, tile_logits=3000).denoise(x, 0.5, 5)
    order = np.random.default_rng(3).permutation(40)
    shuffled = ExactEngine(images[order], machine, dtype=dtype).denoise(x, 0.5, 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        single = ExactEngine(images, machine, dtype=dtype).denoise(x, 0.5, 5)
    finally:
        torch.set_num_threads(threads)
    close = 1e-6 if dtype == torch.float64 else 1e-5  # a processor rounds a float32 product by its shape
    for other in (chunked, shuffled, single):
        torch.testing.assert_close(other.mean, plain.mean, atol=close, rtol=0)
        torch.testing.assert_close(other.top_weight, plain.top_weight, atol=close, rtol=0)
        torch.testing.assert_close(other.effective_samples, plain.effective_samples, atol=1e-3, rtol=1e-5)


def test_batch_equals_one_by_one():
    images, x = pictures(3, 10, 9, count=6), torch.from_numpy(noise(3, 3, 10, 9))
    for machine in MACHINES:
        engine = ExactEngine(images, machine, dtype=torch.float64)
        together = engine.denoise(x, 0.4, 3)
        for b in range(3):
            alone = engine.denoise(x[b : b + 1], 0.4, 3)
            torch.testing.assert_close(together.mean[b], alone.mean[0])
            assert torch.equal(together.top_image[b, ..., 0], alone.top_image[0, ..., 0])


@pytest.mark.parametrize("machine", ["ls", "bbels"])
def test_a_window_over_the_whole_image_gives_the_ideal_score(machine):
    images, x = pictures(1, 8, 8, count=10), torch.from_numpy(noise(1, 1, 8, 8))
    for level in (0.1, 0.7):
        ideal = ExactEngine(images, "is", dtype=torch.float64).denoise(x, level, 1)
        local = ExactEngine(images, machine, dtype=torch.float64).denoise(x, level, 15)
        torch.testing.assert_close(local.mean, ideal.mean)


def test_els_with_a_window_over_the_whole_image_is_es():
    images, x = pictures(1, 8, 6, count=5), torch.from_numpy(noise(1, 1, 8, 6))
    for level in (0.1, 0.7):
        es = ExactEngine(images, "es", dtype=torch.float64).denoise(x, level, 1)
        for size in (9, 15):
            els = ExactEngine(images, "els", dtype=torch.float64).denoise(x, level, size)
            torch.testing.assert_close(els.mean, es.mean)
            torch.testing.assert_close(els.effective_samples, es.effective_samples)


@pytest.mark.parametrize("machine", MACHINES)
def test_weights_are_shares_of_one(machine):
    images, x = pictures(1, 8, 8, count=1), torch.from_numpy(noise(1, 1, 8, 8))
    result = ExactEngine(images, machine, dtype=torch.float64).denoise(x, 0.5, 5)
    shares = result.top_weight.sum(-1)
    assert (result.top_weight >= 0).all() and (shares <= 1 + 1e-9).all()
    few = (result.top_image >= 0).sum(-1) < 8  # fewer than eight candidates: they are all there is
    torch.testing.assert_close(shares[few], torch.ones_like(shares[few]))
    assert (result.effective_samples >= 1 - 1e-9).all()


@pytest.mark.parametrize("machine", PATCH_MACHINES)
def test_without_noise_every_pixel_is_the_centre_of_its_nearest_allowed_patch(machine):
    images = pictures(1, 7, 7, count=4)
    x = noise(1, 7, 7) * 0.3
    level = 1 - 1e-7
    result = ExactEngine(images, machine, dtype=torch.float64).denoise(torch.from_numpy(x)[None], level, 3)
    training = scaled(images)
    for row in range(7):
        for col in range(7):
            query = oracle.window(x, row, col, 3, circular=machine == "els")
            best, centre = np.inf, 0.0
            for image in training:
                for y, c in oracle.candidates(machine, row, col, (7, 7), 3):
                    patch = oracle.window(image, y, c, 3, circular=machine == "els")
                    distance = ((query - level**0.5 * patch) ** 2).sum()
                    if distance < best:
                        best, centre = distance, image[0, y, c]
            assert float(result.mean[0, 0, row, col]) == pytest.approx(centre, abs=1e-6)


def black_and_white(side: int = 8) -> np.ndarray:
    return np.stack([np.zeros((1, side, side), np.uint8), np.full((1, side, side), 255, np.uint8)])


def test_two_image_world_is_memorised_by_the_ideal_score_and_mixed_pixel_by_pixel_by_local_ones():
    """One black and one white image: w(white) = σ(2√ᾱ Σ_Ω x / β) by hand, Ω the image (IS) or the window (ELS, LS)."""
    side, level = 8, 0.3
    x = noise(1, side, side)
    beta, images = 1 - level, black_and_white(side)

    def hand(total: np.ndarray) -> np.ndarray:
        return np.tanh(level**0.5 * total / beta)

    def result(machine: str, size: int) -> np.ndarray:
        engine = ExactEngine(images, machine, dtype=torch.float64)
        return engine.denoise(torch.from_numpy(x)[None], level, size).mean[0, 0].numpy()

    np.testing.assert_allclose(result("is", 3), np.full((side, side), hand(x.sum())), atol=1e-9)
    wrapped = sum(np.roll(x[0], (a, b), (0, 1)) for a in (-1, 0, 1) for b in (-1, 0, 1))
    np.testing.assert_allclose(result("els", 3), hand(wrapped), atol=1e-9)
    padded = np.pad(x[0], 1)
    clipped = sum(padded[1 + a : 1 + a + side, 1 + b : 1 + b + side] for a in (-1, 0, 1) for b in (-1, 0, 1))
    for machine in ("ls", "bbels"):
        np.testing.assert_allclose(result(machine, 3), hand(clipped), atol=1e-9)


def test_two_image_world_ends_in_a_mosaic_of_pure_black_and_white():
    """The ideal score ends in one of the two images; the local machine in a pattern of both, decided by the signs."""
    levels = alpha_bar(step_times(20))

    def image(machine: str) -> np.ndarray:
        engine = ExactEngine(black_and_white(), machine)
        return sample(
            lambda x, s: engine.denoise(x, float(levels[s]), 3).mean, starting_noise(0, (1, 1, 8, 8)), 20
        ).numpy()

    memorised, mosaic = image("is"), image("els")
    assert np.ptp(memorised) < 1e-5 and abs(memorised.mean()) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.abs(mosaic), 1, atol=1e-3)
    assert mosaic.min() < 0 < mosaic.max()


def test_a_finished_sample_is_locally_consistent():
    """Theorem: as t → 0 every pixel is the centre of the training patch nearest to the image's own window there."""
    images = pictures(1, 10, 10, count=6, seed=4)
    betas = np.geomspace(0.9999, 1e-24, 400).tolist()  # far below any noise that an image shows: the limit itself
    engine = ExactEngine(images, "els", dtype=torch.float64)
    x = starting_noise(3, (1, 1, 10, 10)).double()
    for beta, following in zip(betas, [*betas[1:], 0.0], strict=True):
        denoised = engine.denoise(x, min(1 - beta, 1 - 1e-16), 3).mean
        if beta > 1e-12:
            x = ddim_step(x, denoised, 1 - beta, 1 - following)
        else:  # the same step without cancellation
            x = denoised + (following / beta) ** 0.5 * (x - denoised)
    image = x[0].numpy()
    training = scaled(images)
    agree = 0
    for row in range(10):
        for col in range(10):
            query = oracle.window(image, row, col, 3, circular=True)
            patches = [
                (((query - oracle.window(one, y, c, 3, circular=True)) ** 2).sum(), one[0, y, c])
                for one in training
                for y, c in oracle.candidates("els", row, col, (10, 10), 3)
            ]
            agree += abs(min(patches)[1] - image[0, row, col]) < 1e-3
    assert agree == 100


def test_merging_two_halves_equals_one_pass():
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(5, 200, generator=generator, dtype=torch.float64)
    values = torch.randn(200, 3, generator=generator, dtype=torch.float64)

    def run(part: slice) -> StreamingPosterior:
        state = StreamingPosterior.empty(5, 3, 8, torch.device("cpu"), torch.float64)
        state.add(logits[None, :, part].clone(), values[None, part], torch.arange(200)[None, part])
        return state

    whole, first, second = run(slice(None)), run(slice(0, 90)), run(slice(90, None))
    first.merge(second)
    torch.testing.assert_close(first.mean, whole.mean)
    torch.testing.assert_close(first.effective_samples, whole.effective_samples)
    assert torch.equal(first.top_index, whole.top_index)


def test_the_whole_training_set_streams_through_little_memory():
    """60,000 images in chunks: what is held at once is bounded by the budgets, not by their number."""
    import psutil

    images = np.random.default_rng(0).integers(0, 255, (60_000, 1, 12, 12)).astype(np.uint8)
    process, engine = psutil.Process(), ExactEngine(images, "bbels")
    before, peak = process.memory_info().rss, [0]

    def watch(share: float) -> None:
        peak[0] = max(peak[0], process.memory_info().rss)
        if share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.denoise(torch.from_numpy(noise(1, 1, 12, 12)), 0.5, 7, watch)
    assert peak[0] - before < 1.5e9


@pytest.mark.parametrize(
    "change, said",
    [
        ({"patch_size": 4}, "patch size is 4"),
        ({"patch_size": 0}, "patch size is 0"),
        ({"alpha_bar": 1.0}, "alpha_bar is 1.0"),
        ({"x": torch.full((1, 1, 6, 6), torch.nan)}, "not finite"),
        ({"x": torch.zeros(1, 3, 6, 6)}, "shape"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(change, said):
    arguments = {"x": torch.zeros(1, 1, 6, 6), "alpha_bar": 0.5, "patch_size": 3} | change
    with pytest.raises(ParameterError, match=said):
        ExactEngine(pictures(1, 6, 6), "els").denoise(**arguments)


def test_engine_refuses_unknown_machines_and_empty_sets():
    with pytest.raises(ParameterError, match="choose one of is, es, ls, els, bbels"):
        ExactEngine(pictures(1, 6, 6), "magic")
    with pytest.raises(ParameterError, match="at least one"):
        ExactEngine(np.zeros((0, 1, 6, 6), np.uint8), "els")
    with pytest.raises(ParameterError, match="not finite"):
        ExactEngine(np.full((1, 1, 6, 6), np.nan), "els")


@pytest.mark.parametrize("key", PUBLISHED)
def test_published_curve_is_read_noisiest_first(key):
    assert published_curve(*key, 20) == PUBLISHED[key][::-1]


def test_published_curve_serves_any_number_of_steps():
    assert published_curve("mnist", "unet", 1) == (27,)
    assert len(published_curve("mnist", "unet", 150)) == 150
    assert published_curve("emoji", "unet", 20) == PUBLISHED["cifar10", "unet"][::-1]
    assert published_curve("mnist", None, 20) == PUBLISHED["mnist", "unet"][::-1]
