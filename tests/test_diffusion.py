"""Schedule, DDIM, networks, training and weights on disk."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lm_core.artifacts import ImageData
from lm_core.diffusion.ddim import ddim_step, sample, starting_noise
from lm_core.diffusion.denoisers import DiffusersNetwork, VelocityNetwork, open_network
from lm_core.diffusion.networks import NetworkConfig, build_network, count_parameters, parse_network
from lm_core.diffusion.schedule import alpha_bar, step_times
from lm_core.diffusion.train import TrainConfig, denoising_loss, train_network
from lm_core.diffusion.weights import load_network, read_metadata, save_network
from lm_core.errors import AssetError, ParameterError

CPU = torch.device("cpu")


def test_schedule_has_the_published_values():
    np.testing.assert_allclose(alpha_bar([0, 0.5, 0.95]), [1, 0.506, 0.0081], atol=5e-4)
    np.testing.assert_allclose(step_times(4), [1, 0.75, 0.5, 0.25, 0])


def test_ddim_of_a_gaussian_keeps_its_closed_form():
    """Data N(0, s²): the posterior mean is linear, so the exact flow maps noise z to s·z as steps grow."""
    scale, errors = 0.5, []
    for steps in (50, 100, 200):
        levels = alpha_bar(step_times(steps))

        def denoise(x, step, levels=levels):
            level = float(levels[step])
            return x * level**0.5 * scale**2 / (level * scale**2 + 1 - level)

        start = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        errors.append(abs(float(sample(denoise, start, steps)) - scale))
    assert errors[-1] < 0.01
    order = np.log2(errors[0] / errors[1])
    assert 0.7 < order < 1.3  # DDIM is a first-order method


def test_ddim_step_equals_diffusers_scheduler():
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    levels = alpha_bar(step_times(10))[::-1][1:]  # ᾱ at t = .1 … 1
    ratios = levels / np.concatenate([[1.0], levels[:-1]])
    scheduler = DDIMScheduler(
        num_train_timesteps=10, trained_betas=1 - ratios, set_alpha_to_one=True, clip_sample=False
    )
    scheduler.set_timesteps(10)
    x, denoised = torch.randn(2, 1, 1, 4, 4).unbind()
    for step, timestep in enumerate(scheduler.timesteps):
        level, following = float(levels[9 - step]), float(levels[8 - step]) if step < 9 else 1.0
        eps = (x - level**0.5 * denoised) / (1 - level) ** 0.5
        wanted = scheduler.step(eps, timestep, x).prev_sample
        torch.testing.assert_close(ddim_step(x, denoised, level, following), wanted, atol=1e-4, rtol=1e-4)


def test_starting_noise_depends_on_the_seed_alone():
    assert torch.equal(starting_noise(5, (1, 4, 4)), starting_noise(5, (1, 4, 4)))
    assert not torch.equal(starting_noise(5, (1, 4, 4)), starting_noise(6, (1, 4, 4)))


@pytest.mark.parametrize("family", ["unet", "resnet"])
@pytest.mark.parametrize("channels, classes", [(1, 0), (3, 4)])
def test_networks_keep_the_shape_and_use_their_class(family, channels, classes):
    network = build_network(NetworkConfig(family, channels=channels, width=8, classes=classes))
    x, t = torch.randn(2, channels, 32, 32), torch.tensor([0.2, 0.9])
    labels = torch.tensor([0, 3]) if classes else None
    assert network(x, t, labels).shape == x.shape
    if classes:
        assert not torch.equal(network(x, t, labels), network(x, t, torch.tensor([1, 3])))


@pytest.mark.parametrize("family, width, millions", [("resnet", 256, 4.0), ("unet", 64, 2.0)])
def test_paper_size_networks_have_about_the_papers_number_of_parameters(family, width, millions):
    count = count_parameters(build_network(NetworkConfig(family, width=width))) / 1e6
    assert count == pytest.approx(millions, rel=0.12)


def test_circular_resnet_is_equivariant_and_zero_padded_one_is_not():
    x, t = torch.randn(1, 1, 16, 16), torch.tensor([0.5])
    for padding, equivariant in (("circular", True), ("zeros", False)):
        network = build_network(NetworkConfig("resnet", width=8, padding=padding))
        shifted = network(torch.roll(x, (3, 5), (2, 3)), t)
        assert torch.allclose(shifted, torch.roll(network(x, t), (3, 5), (2, 3)), atol=1e-5) is equivariant


def test_resnet_sees_seventeen_pixels():
    network = build_network(NetworkConfig("resnet", width=8))
    x = torch.randn(1, 1, 40, 40, requires_grad=True)
    network(x, torch.tensor([0.5]))[0, 0, 20, 20].backward()
    seen = x.grad[0, 0].abs().nonzero()
    assert (seen.min(0).values == 12).all() and (seen.max(0).values == 28).all()


def test_unet_refuses_sides_it_cannot_halve_twice():
    with pytest.raises(ParameterError, match="divisible by 4"):
        build_network(NetworkConfig(width=8))(torch.randn(1, 1, 30, 30), torch.tensor([0.5]))


def stripes(count: int = 64) -> ImageData:
    images = np.zeros((count, 1, 16, 16), np.uint8)
    images[:, :, ::2] = 255
    ids = np.arange(count)
    return ImageData("stripes", images, ids % 2, ids, ("a", "b"), "0" * 64)


def test_training_learns_and_its_file_says_what_made_it(tmp_path):
    out, losses = tmp_path / "net.safetensors", []
    train_network(
        stripes(),
        NetworkConfig("resnet", width=8, classes=2),
        TrainConfig(minutes=0.08, batch=16),
        out,
        device=CPU,
        command="test",
        on_progress=lambda state, eta: losses.append(state.loss),
        report_seconds=0.2,
    )
    data = torch.tensor(stripes().images).float() / 127.5 - 1
    trained = load_network(out, CPU)[0]
    fresh = build_network(NetworkConfig("resnet", width=8, classes=2))
    labels = torch.tensor(stripes().labels)
    with torch.no_grad():
        loss = {
            name: float(denoising_loss(net, data, labels, torch.Generator().manual_seed(0)))
            for name, net in (("trained", trained), ("fresh", fresh))
        }
    assert losses and loss["trained"] < 0.9 * loss["fresh"]
    facts = read_metadata(out)
    assert facts["command"] == "test" and facts["data_sha256"] == "0" * 64 and facts["steps"] > 10
    assert {"parameters", "loss", "minutes", "train"} <= set(facts)
    network, config, _ = load_network(out, CPU)
    assert config.classes == 2
    denoise = VelocityNetwork(network, 1, 2, facts).at(20, label=1)
    assert denoise(torch.randn(1, 1, 16, 16), 10).isfinite().all()
    assert not list(tmp_path.glob("*.checkpoint.pt"))


def test_an_interrupted_training_resumes_where_it_was(tmp_path):
    from lm_core.diffusion import train

    config, budget = NetworkConfig("resnet", width=4), TrainConfig(minutes=0.02, batch=4)
    facts = {"network": config.as_dict(), "data": "stripes", "data_sha256": "0" * 64, "batch": 4}
    state = train.start(config, budget, CPU)
    state.step, state.seconds, state.loss = 500, 0.5, 0.25
    path = tmp_path / "net.checkpoint.pt"
    train.save_checkpoint(state, path, facts)
    resumed = train_network(stripes(), config, budget, tmp_path / "net.safetensors", device=CPU)
    assert resumed.step > 500 and 0.5 < resumed.seconds < 5
    train.save_checkpoint(state, path, facts | {"data": "other"})
    with pytest.raises(ParameterError, match="another network, data set"):
        train_network(stripes(), config, budget, tmp_path / "net.safetensors", device=CPU)


def test_conditional_network_asks_for_its_class():
    network = VelocityNetwork(build_network(NetworkConfig(width=8, classes=3)), 1, 3, {})
    for label in (None, 3, -1):
        with pytest.raises(ParameterError, match="class from 0 to 2"):
            network.at(20, label)


def saved_network(path, **changes):
    config = NetworkConfig("resnet", width=4)
    save_network(path, build_network(config), config, {"steps": 1})
    tensors = load_file(path)
    metadata = {"network": config.as_dict() | changes}
    return tensors, {"lm_core": json.dumps(metadata)}


def test_damaged_and_wrong_shaped_weights_are_refused_in_a_sentence(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(AssetError, match="no network file"):
        load_network(path, CPU)
    tensors, metadata = saved_network(path, width=8)
    save_file(tensors, path, metadata)
    with pytest.raises(AssetError, match="don't fit the network"):
        load_network(path, CPU)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(AssetError, match=r"net\.safetensors"):
        load_network(path, CPU)
    path.write_bytes(b"nonsense")
    with pytest.raises(AssetError, match="damaged"):
        open_network(path, CPU)


@pytest.fixture(scope="module")
def diffusers_folder(tmp_path_factory):
    from diffusers.models.unets.unet_2d import UNet2DModel

    folder = tmp_path_factory.mktemp("unet2d")
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    model.save_pretrained(folder)
    return folder, model


def test_diffusers_folder_is_asked_at_the_nearest_noise_level(diffusers_folder):
    folder, model = diffusers_folder
    network = open_network(folder, CPU)
    assert isinstance(network, DiffusersNetwork) and network.channels == 1
    x = torch.randn(1, 1, 16, 16)
    level = float(alpha_bar(0.5))
    timestep = int((network.levels - level).abs().argmin())
    assert float(network.levels[timestep]) == pytest.approx(level, abs=0.01)
    with torch.no_grad():
        eps = model.eval()(x, timestep).sample
    near = float(network.levels[timestep])
    wanted = (x - (1 - near) ** 0.5 * eps) / near**0.5
    torch.testing.assert_close(network.at(20)(x, 10), wanted, atol=1e-4, rtol=1e-4)


def test_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(AssetError, match="not a diffusers UNet2DModel"):
        open_network(tmp_path, CPU)


def test_the_standard_unet_sees_the_whole_image_and_the_plain_one_does_not():
    """Group normalisation's mean and variance are the image's, so a far corner reaches every pixel."""
    torch.manual_seed(0)
    for name, reaches in (("unet", False), ("unet-standard", True)):
        network = build_network(NetworkConfig(**parse_network(name), channels=1, width=8)).eval()
        x = torch.randn(1, 1, 64, 64)
        changed = x.clone()
        changed[..., -4:, -4:] += 3
        with torch.no_grad():
            difference = network(changed, torch.tensor([0.5])) - network(x, torch.tensor([0.5]))
        assert bool(difference[..., :4, :4].abs().max() > 1e-6) == reaches, name


@pytest.mark.parametrize("name", ["resnet-standard", "unet-odd", "vit"])
def test_an_unknown_network_is_refused(name):
    with pytest.raises(ParameterError, match=r"unet"):
        NetworkConfig(**parse_network(name))
