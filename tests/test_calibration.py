"""Calibration: all windows in one pass against one at a time, the error of a sample of rows, and receptive fields."""

import copy
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lm_core import artifacts, run, run_calibrate
from lm_core.diffusion.denoisers import DiffusersNetwork, VelocityNetwork, open_network
from lm_core.diffusion.networks import NetworkConfig, build_network
from lm_core.diffusion.receptive import differentiable, distances, gradients, radii, radius_holding
from lm_core.diffusion.schedule import alpha_bar
from lm_core.errors import JobCancelled, ParameterError
from lm_core.params import MosaicParams
from lm_core.score import lanes, windows
from lm_core.score.calibration import best_sizes, draw_rows, window_cosines
from lm_core.score.fast import FastEngine
from lm_core.score.machines import ExactEngine

MACHINES = ("ls", "els", "bbels")
SMALL = MosaicParams(images=12, steps=4)


def pictures(channels: int, height: int, width: int, count: int, seed: int = 0) -> np.ndarray:
    """Random uint8 images with large areas of one background value, so that blank windows occur."""
    images = np.random.default_rng(seed).integers(0, 256, (count, channels, height, width)).astype(np.uint8)
    images[images < 90] = 0
    images[..., :4, :6] = 0
    return images


def noisy(images: np.ndarray, level: float, count: int, seed: int = 1) -> np.ndarray:
    clean = images[:count] / 127.5 - 1 if images.dtype == np.uint8 else images[:count]
    noise = np.random.default_rng(seed).normal(size=clean.shape)
    return (level**0.5 * clean + (1 - level) ** 0.5 * noise).astype(np.float32)


def one_window_at_a_time(images, machine, x, estimates, level, sizes) -> np.ndarray:
    """The reference: cosines [len(sizes), B] by the exact engine, which takes a pass over the images for each P."""
    engine = ExactEngine(images, machine)
    wanted = (level**0.5 * estimates - x).reshape(len(x), -1)
    found = []
    for size in sizes:
        mean = engine.denoise(torch.from_numpy(x), level, size).mean.numpy().astype(np.float64)
        score = (level**0.5 * mean - x).reshape(len(x), -1)
        found.append((score * wanted).sum(1) / np.linalg.norm(score, axis=1) / np.linalg.norm(wanted, axis=1))
    return np.array(found)


# -- the posterior means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("shape", [(1, 12, 10), (3, 9, 11)])
def test_means_of_every_size_equal_the_exact_engines(machine, shape):
    images, sizes, rows = pictures(*shape, 70), [1, 3, 5, 7, 9], [0, 1, 4, 7, 8]
    for data in (images, (images / 127.5 - 1).astype(np.float32)):
        for level in (1e-4, 0.05, 0.6, 0.99):
            x = noisy(data, level, 3)
            got = windows.means(FastEngine(data, machine), x, level, sizes, rows)
            assert got.shape == (3, shape[0], len(sizes), len(rows), shape[2])
            for place, size in enumerate(sizes):
                wanted = ExactEngine(data, machine).denoise(torch.from_numpy(x), level, size).mean
                np.testing.assert_allclose(got[:, :, place], wanted[:, :, rows], atol=1e-4)


def test_means_are_the_same_whatever_other_sizes_rows_and_images_are_asked_with_them():
    images = pictures(1, 12, 12, 40)
    engine, x = FastEngine(images, "bbels"), noisy(images, 0.5, 3)
    together = windows.means(engine, x, 0.5, [3, 7, 11], [2, 9])
    alone = windows.means(engine, x[1:2], 0.5, [7], [9])
    np.testing.assert_allclose(together[1:2, :, 1:2, 1:2], alone, atol=1e-6)


def test_images_of_nothing_but_background_leave_background():
    images = np.zeros((5, 1, 8, 8), np.uint8)
    for machine in MACHINES:
        got = windows.means(FastEngine(images, machine), noisy(images, 0.5, 1), 0.5, [3, 5], [0, 4])
        np.testing.assert_allclose(got, -1)


def test_stored_kernels_are_renewed_when_the_vectors_they_are_made_of_change():
    digest = hashlib.sha256(Path(lanes.__file__).read_bytes()).hexdigest()[:16]
    assert digest == windows.LANES_DIGEST, f'put LANES_DIGEST = "{digest}" into windows.py'


# -- cosines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
def test_one_pass_over_all_windows_equals_a_pass_for_each(machine):
    images = artifacts.load_dataset("mnist").images[:40]
    sizes = [3, 5, 9, 15, 31]
    for level in (0.001, 0.3, 0.9):
        x = noisy(images, level, 2)
        estimates = noisy(images, 0.8, 2, seed=5)
        wanted = one_window_at_a_time(images, machine, x, estimates, level, sizes)
        got, error = window_cosines(FastEngine(images, machine), x, estimates, level, sizes, range(32))
        np.testing.assert_allclose(got, wanted, atol=2e-5)
        assert (error == 0).all()


def test_some_rows_give_the_cosine_within_its_error():
    images = artifacts.load_dataset("mnist").images[:30]
    engine, x, sizes = FastEngine(images, "ls"), noisy(images, 0.3, 2), [3, 7]
    estimates = noisy(images, 0.9, 2, seed=5)
    whole, _ = window_cosines(engine, x, estimates, 0.3, sizes, range(32))
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        part, error = window_cosines(engine, x, estimates, 0.3, sizes, draw_rows(32, 8, rng))
        found.append((part - whole) / error)
    inside = (np.abs(found) < 2).mean()
    assert inside > 0.9, "stretches leave less to chance than the jackknife, which knows nothing of them, allows for"


def test_rows_come_from_every_part_of_the_image_and_all_of_them_are_all():
    rng = np.random.default_rng(0)
    assert draw_rows(32, 32, rng).tolist() == list(range(32))
    for _ in range(20):
        assert (draw_rows(32, 8, rng) // 4).tolist() == list(range(8))


def test_calibration_finds_the_window_of_a_machine_that_poses_as_a_network():
    images = artifacts.load_dataset("mnist").images[:20]
    sizes = [3, 5, 7, 9]
    x = np.random.default_rng(0).normal(size=(2, 1, 32, 32)).astype(np.float32)
    for hidden in (3, 7):
        found = []
        for level in (0.1, 0.5, 0.9):
            estimates = ExactEngine(images, "bbels").denoise(torch.from_numpy(x), level, hidden).mean.numpy()
            found.append(window_cosines(FastEngine(images, "bbels"), x, estimates, level, sizes, [3, 15, 20])[0])
        assert best_sizes(np.array(found), sizes) == (hidden,) * 3
        np.testing.assert_allclose(np.array(found)[:, sizes.index(hidden)], 1, atol=1e-6)


def test_the_lower_of_two_middle_windows_is_chosen():
    cosines = np.zeros((1, 3, 4))
    cosines[0, [0, 1, 2, 2], range(4)] = 1
    assert best_sizes(cosines, [3, 5, 7]) == (5,)


# -- calibrate --------------------------------------------------------------------------------------------------------


def test_calibrate_returns_a_curve_in_the_published_order_and_shows_it_growing():
    seen = []
    facts = run_calibrate.calibrate(
        SMALL, [5, 6, 7], [3, 9], pixels=2, on_progress=lambda share, say, partial: seen.append((share, partial))
    )
    assert len(facts["patch_sizes"]) == 4 and set(facts["patch_sizes"]) <= {3, 9}
    assert np.shape(facts["cosine"]) == np.shape(facts["error"]) == (4, 2) and np.shape(facts["best"]) == (3, 4)
    assert [round(entry["t"], 3) for entry in facts["receptive_field"]] == [0.25, 0.5, 0.75, 1.0]
    assert facts["patch_sizes"] == np.sort(facts["best"], axis=0)[1].tolist()
    assert (facts["images"], facts["machine"], facts["network"], facts["steps"]) == (12, "bbels", "unet", 4)
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[-1] == 1
    partials = [partial for _, partial in seen if partial]
    assert [len(partial["cosine"]) for partial in partials] == [1, 2, 3, 4]
    assert partials[1]["cosine"] == facts["cosine"][:2], "the lowest noise comes first"


def test_calibrate_compares_at_the_states_that_the_network_passes_through():
    facts = run_calibrate.calibrate(SMALL, [5], [3, 9], rows=32, pixels=0)
    (one,) = run_calibrate.trajectories(SMALL, [5])
    images = artifacts.load_dataset("mnist").images[:12]
    for step in (0, 3):  # index 0 is t = 1/4, the last state that the network is asked at
        x, estimate = one.states[3 - step][None].numpy(), one.estimates[3 - step][None].numpy()
        level = float(alpha_bar((step + 1) / 4))
        wanted = one_window_at_a_time(images, "bbels", x, estimate, level, [3, 9])
        np.testing.assert_allclose(facts["cosine"][step], wanted[:, 0], atol=2e-5)
    assert facts["receptive_field"] == [] and np.abs(facts["error"]).max() == 0


def test_a_class_conditional_network_is_compared_with_machines_of_each_samples_class():
    params = MosaicParams("fashion-mnist", images=5, steps=2)
    facts = run_calibrate.calibrate(params, [1, 2, 12], [3, 5], rows=2, pixels=0)
    assert facts["labels"] == [1, 2, 2] and facts["images"] == 5
    alone = run_calibrate.calibrate(params, [1], [3, 5], rows=2, pixels=0)
    assert alone["best"] == facts["best"][:1]


def test_calibration_can_be_cancelled():
    def stop(share, say, partial):
        if partial:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        run_calibrate.calibrate(SMALL, [5], [3], rows=2, pixels=0, on_progress=stop)


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({"machine": "is"}, {}, "no patch size; choose ls, els or bbels"),
        ({"network": None}, {}, "network is missing"),
        ({}, {"seeds": []}, "seeds is empty"),
        ({}, {"sizes": [3, 4]}, "odd numbers in ascending order, from 1 to 32"),
        ({}, {"sizes": [33]}, "from 1 to 32"),
        ({}, {"sizes": []}, "odd numbers"),
        ({}, {"rows": 33}, "rows is 33; choose a whole number from 1 to 32"),
        ({}, {"pixels": -1}, "pixels is -1"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_a_sentence(changes, arguments, words):
    with pytest.raises(ParameterError, match=words):
        run_calibrate.calibrate(SMALL.with_(**changes), **({"seeds": [0], "sizes": [3]} | arguments))


# -- the receptive field ----------------------------------------------------------------------------------------------


class OneConvolution(torch.nn.Module):
    def __init__(self, channels: int, padding_mode: str = "zeros") -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1, padding_mode=padding_mode)

    def forward(self, x, t, labels):
        return self.conv(x)


def some_pixels(count: int, side: int = 32) -> torch.Tensor:
    return torch.randint(side, (count, 2), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_a_single_convolution_looks_one_pixel_far(channels, padding):
    network = VelocityNetwork(OneConvolution(channels, padding), channels, 0, {})
    found = radii(network, torch.randn(3, channels, 16, 16), None, some_pixels(40, 16))
    assert found.shape == (3, 40) and found.max() <= 1


def test_a_resnet_looks_eight_pixels_far_at_most():
    torch.manual_seed(0)
    for padding in ("zeros", "circular"):
        config = NetworkConfig("resnet", 1, 8, padding)
        network = VelocityNetwork(build_network(config), 1, 0, {})
        pixels = some_pixels(6)
        found = radii(network, torch.randn(2, 1, 32, 32), None, pixels)
        assert found.min() >= 0 and found.max() <= 8
        apart = distances(pixels, 32, 32, circular=padding == "circular")
        gradient = gradients(differentiable(network, 2), torch.randn(1, 32, 32), 0, pixels)
        assert (gradient[apart > 8] == 0).all() and (gradient[apart == 8] > 0).any()


def test_gradients_are_those_of_the_estimate():
    torch.manual_seed(0)
    network = VelocityNetwork(build_network(NetworkConfig("resnet", 3, 8, classes=2)), 3, 2, {})
    x, denoise = torch.randn(3, 8, 8), network.at(4, 1)
    got = gradients(differentiable(network, 4, 1), x, 2, torch.tensor([[3, 5]]))[0]
    step = 1e-2
    for y, col in ((3, 5), (2, 4), (6, 1)):
        wanted = 0.0
        for channel in range(3):
            moved = torch.zeros_like(x)
            moved[channel, y, col] = step
            change = (denoise((x + moved)[None], 2) - denoise((x - moved)[None], 2))[0, :, 3, 5] / (2 * step)
            wanted += float(change.abs().sum())
        assert float(got[y, col]) == pytest.approx(wanted, rel=0.03, abs=1e-4)


def test_a_diffusers_network_has_a_receptive_field_too(tmp_path):
    from diffusers.models.unets.unet_2d import UNet2DModel

    UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    ).save_pretrained(tmp_path)
    network = DiffusersNetwork(tmp_path, torch.device("cpu"))
    found = radii(network, torch.randn(2, 3, 16, 16), None, some_pixels(3, 16))
    assert found.shape == (2, 3) and (found >= 0).all() and (found < 16).all()


def test_the_radius_is_the_smallest_that_holds_the_share():
    apart = distances(torch.tensor([[2, 2]]), 5, 5, circular=False)
    gradient = torch.zeros(1, 5, 5)
    gradient[0, 2, 2], gradient[0, 2, 3], gradient[0, 0, 0] = 80, 10, 10
    assert radius_holding(gradient, apart).tolist() == [1]
    gradient[0, 0, 0] = 11
    assert radius_holding(gradient, apart).tolist() == [2]
    assert radius_holding(gradient, apart, 0.5).tolist() == [0]
    around = distances(torch.tensor([[0, 4]]), 5, 5, circular=True)
    assert around[0, 4, 0] == 1 and around[0, 2, 2] == 2


def test_measuring_leaves_the_network_as_it_was():
    network = open_network(run.network_path("mnist", "unet"), torch.device("cpu"))
    before = copy.copy(network.__dict__)
    x = torch.randn(2, 1, 32, 32)
    wanted = network.at(2)(x, 0)
    radii(network, x, None, some_pixels(2))
    assert network.__dict__ == before and not wanted.requires_grad
    torch.testing.assert_close(network.at(2)(x, 0), wanted)


def test_receptive_field_reports_each_noise_level_with_its_quartiles():
    field = run_calibrate.receptive_field(SMALL, [0, 1], pixels=4)
    assert [entry["t"] for entry in field] == [0.25, 0.5, 0.75, 1.0]
    assert all(0 <= entry["low"] <= entry["radius"] <= entry["high"] < 32 for entry in field)
