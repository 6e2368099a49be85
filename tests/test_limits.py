"""Where the theory stops: attention weights, borders, local consistency, each against what must be true."""

import json
import threading

import numpy as np
import pytest
import torch

from lm_core import artifacts, run, run_limits
from lm_core.diffusion.attention import attention_maps, watch_attention
from lm_core.diffusion.networks import NetworkConfig, build_network
from lm_core.diffusion.weights import save_network
from lm_core.errors import AssetError, JobCancelled, ParameterError
from lm_core.params import MosaicParams
from lm_core.score.consistency import check_consistency
from lm_core.score.fast import FastEngine
from lm_core.score.machines import ExactEngine

CONFIG = NetworkConfig(family="unet", channels=3, width=8, classes=10, attention=True)
SMALL = MosaicParams(images=12, steps=4, engine="fast")


def attention_unet(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    network = build_network(CONFIG).eval()
    for layer in network.modules():
        if hasattr(layer, "answer"):
            torch.nn.init.normal_(layer.answer.weight, std=0.2)
    return network


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "attention.safetensors"
    save_network(path, attention_unet(), CONFIG, {})
    return str(path)


# -- attention --------------------------------------------------------------------------------------------------------


def test_every_attention_layer_is_watched_and_its_rows_sum_to_one():
    x, t, label = torch.randn(2, 3, 32, 32), torch.tensor([0.3, 0.8]), torch.tensor([1, 7])
    maps = attention_maps(attention_unet(), x, t, label)
    assert list(maps) == ["1 · 16×16", "2 · 8×8", "3 · 16×16"]
    assert [tuple(table.shape) for table in maps.values()] == [(2, 4, 256, 256), (2, 4, 64, 64), (2, 4, 256, 256)]
    for table in maps.values():
        torch.testing.assert_close(table.sum(3), torch.ones(table.shape[:3]))


def test_the_weights_explain_the_layers_output():
    """weights @ values, mixed by `answer`, is what the layer adds."""
    network = attention_unet()
    layer, seen = network.look_middle, {}
    hook = layer.register_forward_hook(lambda _, inputs, output: seen.update(h=inputs[0], out=output))
    maps = attention_maps(network, torch.randn(1, 3, 32, 32), torch.tensor([0.5]), torch.tensor([2]))
    hook.remove()
    h, values = seen["h"], layer.heads(seen["h"])[2]
    mixed = (maps["2 · 8×8"] @ values).transpose(2, 3).reshape(h.shape)
    torch.testing.assert_close(h + layer.answer(mixed), seen["out"], atol=1e-4, rtol=1e-4)


def test_hooks_are_removed_even_after_an_error():
    network = attention_unet()
    with pytest.raises(RuntimeError, match="mine"), watch_attention(network):
        raise RuntimeError("mine")
    assert all(not layer._forward_pre_hooks for layer in network.modules())


def test_watching_changes_nothing():
    network, x, t, label = attention_unet(), torch.randn(1, 3, 32, 32), torch.tensor([0.5]), torch.tensor([2])
    with torch.no_grad():
        alone = network(x, t, label)
        with watch_attention(network):
            watched = network(x, t, label)
    assert torch.equal(alone, watched)


def test_what_another_thread_asks_is_not_collected():
    network, x, t = attention_unet(), torch.randn(1, 3, 32, 32), torch.tensor([0.5])
    with watch_attention(network) as maps:
        other = threading.Thread(target=network, args=(x, t, torch.tensor([7])))
        other.start()
        other.join()
        assert not maps
        with torch.no_grad():
            network(x, t, torch.tensor([2]))
    assert list(maps) == ["1 · 16×16", "2 · 8×8", "3 · 16×16"]


def test_a_network_without_attention_is_refused():
    plain = build_network(NetworkConfig(channels=3, width=8))
    with pytest.raises(ParameterError, match="no self-attention"):
        attention_maps(plain, torch.randn(1, 3, 32, 32), torch.tensor([0.5]))


def test_a_diffusers_unet_is_watched_too():
    from diffusers.models.unets.unet_2d import UNet2DModel

    network = UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    attention = next(layer for name, layer in network.named_modules() if name == "mid_block.attentions.0")
    seen = {}
    attention.register_forward_hook(lambda _, inputs, output: seen.update(h=inputs[0], out=output))
    with torch.no_grad(), watch_attention(network) as maps:
        network(torch.randn(1, 3, 16, 16), 500)
        assert len(maps) == 4 and all(name.endswith("8×8") for name in maps)
        h = seen["h"]
        table = next(
            table for table in maps.values() if torch.allclose(_through(attention, h, table), seen["out"], atol=1e-4)
        )
    assert table.shape[2:] == (64, 64)


def _through(attention, h, weights):
    """The layer's output if its attention weights are these."""
    rows = attention.group_norm(h.flatten(2)).transpose(1, 2)
    values = attention.to_v(rows).unflatten(2, (attention.heads, -1)).transpose(1, 2)
    mixed = attention.to_out[0]((weights @ values).transpose(1, 2).flatten(2))
    return (mixed.transpose(1, 2).reshape(h.shape) + h) / attention.rescale_output_factor


def test_a_run_needs_the_weights_alone_and_its_steps_can_be_looked_into(weights_file):
    heard = []
    made = run_limits.attention_run(weights_file, 13, steps=4, on_progress=lambda *said: heard.append(said))
    assert made.label == 3  # CIFAR-10 isn't there: conftest has forgotten LM_DATA
    assert made.states.shape == (5, 3, 32, 32) and made.estimates.shape == (4, 3, 32, 32)
    np.testing.assert_array_equal(made.states[-1], made.estimates[-1])
    assert [share for share, _, _ in heard] == sorted(share for share, _, _ in heard)
    maps = run_limits.attention_at(made, 2)
    assert {name: table.shape for name, table in maps.items()}["2 · 8×8"] == (4, 64, 64)
    with pytest.raises(ParameterError, match="step"):
        run_limits.attention_at(made, 4)
    with pytest.raises(AssetError, match="CIFAR-10 isn't on this machine"):
        run_limits.attention_theory(made)
    with pytest.raises(ParameterError, match="network is"):
        run_limits.attention_run("no-such-network", 0)


def test_attention_beyond_a_window_is_counted():
    even = np.full((2, 64, 64), 1 / 64)
    looked, expected = run_limits.beyond_window(even, 9)
    assert looked == pytest.approx(expected) and 0.5 < expected < 1
    assert run_limits.beyond_window(np.eye(64)[None], 3)[0] == 0
    assert run_limits.beyond_window(even, 63) == (0, 0)
    assert run_limits.beyond_window(np.eye(64)[None, ::-1], 3)[0] > 0.9  # everyone looks at the opposite place


# -- borders ----------------------------------------------------------------------------------------------------------


def test_place_explains_all_of_equal_images_and_little_of_rolled_ones():
    source = np.random.default_rng(0)
    one = (source.random((16, 16)) > 0.7).astype(np.uint8) * 255
    same = np.stack([one] * 50)
    rolled = np.stack([np.roll(one, source.integers(0, 16, 2), (0, 1)) for _ in same])
    assert run_limits.explained_by_place(same) == pytest.approx(1)
    assert run_limits.explained_by_place(rolled) < 0.06
    assert run_limits.explained_by_chance(same) == pytest.approx(1 / 50, abs=0.02)
    assert np.isnan(run_limits.explained_by_place(np.zeros((3, 8, 8))))


def test_ink_near_the_border_is_a_share_of_all_ink():
    tiles = np.full((2, 32, 32), 200, np.uint8)
    tiles[1] = 0
    share = run_limits.ring_share(tiles, 4)
    assert share[0] == pytest.approx(1 - 24**2 / 32**2) and np.isnan(share[1])


def test_borders_makes_networks_first_and_scores_both_pairs():
    partials = []

    def watch(share, message, partial):
        if partial is not None:
            partials.append(partial)

    pairs = {"resnet": "bbels", "unet": "ls"}  # the same code for any two pairs
    made = run_limits.borders(3, images=12, steps=3, pairs=pairs, on_progress=watch)
    assert set(made.images) == {"resnet", "unet", "bbels", "ls"} and set(made.r) == {"resnet", "unet"}
    assert set(partials[-1].images) >= {"resnet", "unet"} and "ls" not in partials[-1].images
    params = run.resolve(MosaicParams(seed=3, images=12, steps=3, engine="fast", network="resnet"))
    np.testing.assert_allclose(made.images["bbels"], run.mosaic(params).image, atol=1e-6)


# -- local consistency ------------------------------------------------------------------------------------------------


def nearest_by_hand(images: np.ndarray, x: np.ndarray, radius: int) -> np.ndarray:
    """Centre of each pixel's nearest patch at the same place (LS), float64, zeros outside."""
    pad = ((0, 0), (0, 0), (radius, radius), (radius, radius))
    library, query = np.pad(images / 127.5 - 1, pad), np.pad(x[None].astype(float), pad)
    size, result = 2 * radius + 1, np.empty(x.shape)
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            window = (slice(None), slice(None), slice(row, row + size), slice(column, column + size))
            distance = np.square(library[window] - query[window]).sum((1, 2, 3))
            result[:, row, column] = images[distance.argmin(), :, row, column] / 127.5 - 1
    return result


@pytest.mark.parametrize("kind", ["exact", "fast"])
def test_the_nearest_patch_is_the_one_found_by_hand(kind):
    images = artifacts.load_dataset("mnist").images[:30, :, :, :]
    engine = ExactEngine(images, "ls") if kind == "exact" else FastEngine(images, "ls")
    source = np.random.default_rng(1)
    x = (images[3] / 127.5 - 1 + 0.3 * source.standard_normal((1, 32, 32))).astype(np.float32)
    checked = check_consistency(engine, images, torch.from_numpy(x)[None], 3)
    expected = nearest_by_hand(images, x, 1)
    agree = np.abs(checked.nearest[0].numpy() - expected) < 1e-4
    assert agree.mean() > 0.999  # two patches may be equally near within float32


@pytest.mark.parametrize("machine", ["ls", "els", "bbels"])
def test_a_training_image_satisfies_the_theorem(machine):
    images = artifacts.load_dataset("mnist").images[:12]
    x = torch.from_numpy(images[4:5] / np.float32(127.5) - 1)
    checked = check_consistency(ExactEngine(images, machine), images, x, 5)
    assert checked.share(1 / 127.5).tolist() == [0.0]


def test_a_spoilt_pixel_violates_it():
    images = artifacts.load_dataset("mnist").images[:12]
    x = torch.from_numpy(images[4:5] / np.float32(127.5) - 1)
    x[0, 0, 0, 0] = 0.5  # the corner is black in every digit, and bbELS allows only corners there
    checked = check_consistency(ExactEngine(images, "bbels"), images, x, 5)
    assert checked.difference[0, 0, 0] == pytest.approx(1.5) and checked.share(0.1)[0] >= 1 / 1024


def test_consistency_counts_every_seed_and_number_of_steps_and_is_json():
    heard = []
    facts = run_limits.consistency(
        SMALL, [2, 4], [0, 7], library=20, on_progress=lambda share, message, partial: heard.append((share, partial))
    )
    facts = json.loads(json.dumps(facts))
    assert [row["seed"] for row in facts["per_seed"]] == [0, 7]
    for row in facts["per_seed"]:
        for who in ("machine", "network", "network-library"):
            for steps in ("2", "4"):
                table = list(row["shares"][who][steps].values())
                assert table == sorted(table, reverse=True) and 0 <= table[-1] <= table[0] <= 1
                assert row["inked"][who][steps]["1"] >= row["shares"][who][steps]["1"]
    picture = facts["pictures"]["4"]["machine"]
    wrong = run_limits.unpack(picture["difference"])[0] > 4 * 2
    assert wrong.mean() == pytest.approx(facts["per_seed"][0]["shares"]["machine"]["4"]["2"], abs=1e-4)
    assert run_limits.unpack(picture["image"]).shape == (1, 32, 32)
    shares = [share for share, _ in heard]
    assert shares == sorted(shares) and shares[-1] == 1
    first = next(partial for _, partial in heard if partial is not None)
    assert len(first["per_seed"]) == 1 and set(first["pictures"]) == {"2"}  # a snapshot, not the growing thing
    assert {"data_sha256", "network_sha256"} <= set(facts["provenance"])


def test_consistency_may_be_cancelled_and_refuses_what_it_cannot_do():
    def stop(share, message, partial):
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        run_limits.consistency(SMALL, [2], [0], on_progress=stop)
    with pytest.raises(ParameterError, match="network is missing"):
        run_limits.consistency(SMALL.with_(network=None), [2], [0])
    with pytest.raises(ParameterError, match="theorem"):
        run_limits.consistency(SMALL.with_(machine="is"), [2], [0])
    with pytest.raises(ParameterError, match="empty"):
        run_limits.consistency(SMALL, [], [0])


def test_a_damaged_picture_is_said():
    with pytest.raises(AssetError, match="damaged"):
        run_limits.unpack("abc")


def test_the_shipped_check_says_that_steps_bring_the_machine_closer_but_not_the_network():
    facts = json.loads(artifacts.asset_path("results", "consistency-mnist-unet.json").read_text("utf-8"))
    assert facts["command"].startswith("python -m lm_core limits") and len(facts["per_seed"]) == 5
    share = {
        who: [np.median([row["shares"][who][str(steps)]["2"] for row in facts["per_seed"]]) for steps in facts["steps"]]
        for who in ("machine", "network-library")
    }
    assert share["machine"][-1] < 0.7 * share["machine"][0]
    assert share["network-library"][-1] > 1.5 * share["machine"][-1]
