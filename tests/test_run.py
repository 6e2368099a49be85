"""What pages and the command line ask for: mosaics, comparisons, the shelf of results, and clear refusals."""

import errno
import json
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lm_core import artifacts, run, shelf
from lm_core.__main__ import main, parse_seeds
from lm_core.errors import AssetError, JobCancelled, ParameterError
from lm_core.params import MosaicParams, parse_patch_sizes
from lm_core.results import MosaicResult, agreement

MNIST_UNET = str(artifacts.asset_path("networks", "mnist-unet.safetensors"))
SMALL = MosaicParams(images=12, steps=4, patch_sizes=(9, 7, 5, 3))


@pytest.fixture(scope="module")
def small() -> MosaicResult:
    return run.mosaic(SMALL)


def test_mosaic_has_the_shapes_it_promises(small):
    steps, k = 4, 8
    assert small.trajectory.shape == (steps + 1, 1, 32, 32) and small.denoised.shape == (steps, 1, 32, 32)
    assert small.alpha_bar.shape == (steps + 1,) and small.alpha_bar[-1] == 1
    assert small.patch_sizes.tolist() == [9, 7, 5, 3]
    for table in (small.top_image, small.top_y, small.top_x, small.top_weight):
        assert table.shape == (steps, 32, 32, k)
    assert small.effective_samples.shape == (steps, 32, 32)
    np.testing.assert_array_equal(small.trajectory[0], small.noise)
    np.testing.assert_array_equal(small.image, small.denoised[-1])
    assert small.network_image is not None and small.network_image.shape == (1, 32, 32)
    assert set(small.scores) == {"machine", "ideal"} and set(small.nearest) == {"machine", "network"}


def test_provenance_explains_the_image():
    """Where eight candidates hold nearly all the weight, their centres' weighted mean is the estimate."""
    images = artifacts.load_dataset("mnist").images
    small = run.mosaic(SMALL.with_(network=None, steps=20, patch_sizes=(5,) * 20))
    step = small.steps - 1
    centres = images[small.top_image[step], 0, small.top_y[step], small.top_x[step]] / 127.5 - 1
    weight = small.top_weight[step]
    whole = weight.sum(-1) > 0.999
    assert whole.mean() > 0.05
    explained = (weight * centres).sum(-1) / weight.sum(-1)
    np.testing.assert_allclose(explained[whole], small.denoised[step, 0][whole], atol=5e-3)
    assert set(small.source_ids) >= set(np.unique(small.top_image[small.top_image >= 0]))


def test_same_seed_same_image_and_given_noise_is_used(small):
    again = run.mosaic(SMALL.with_(network=None), noise=small.noise)
    np.testing.assert_allclose(again.image, small.image, atol=1e-5)
    assert again.network_image is None and not again.scores


def test_ids_index_the_training_sets_own_order_when_a_class_is_chosen():
    result = run.mosaic(MosaicParams("fashion-mnist", label=3, network=None, images=5, steps=1))
    data = artifacts.load_dataset("fashion-mnist")
    assert (data.labels[result.source_ids] == 3).all()
    np.testing.assert_array_equal(data.images[result.source_ids], result.source_images)


def test_result_survives_saving(small, tmp_path):
    small.save(tmp_path / "one.npz")
    again = MosaicResult.load(tmp_path / "one.npz")
    assert again.params == small.params and again.scores == small.scores
    np.testing.assert_array_equal(again.top_image, small.top_image)
    np.testing.assert_array_equal(again.image, small.image)


def assert_alike(again: MosaicResult, whole: MosaicResult) -> None:
    """Compare a result that was kept compactly with what it was, within the error that `save` states."""
    for item in fields(whole):
        was, found = getattr(whole, item.name), getattr(again, item.name)
        if not isinstance(was, np.ndarray):
            assert found == was, item.name
            continue
        assert found.dtype == was.dtype and found.shape == was.shape, item.name
        if was.dtype.kind == "i" or item.name in ("noise", "alpha_bar", "source_images"):
            np.testing.assert_array_equal(found, was)
        elif item.name == "effective_samples":
            np.testing.assert_allclose(found, was, rtol=2**-12)
        else:
            inside = np.abs(was) <= 1
            np.testing.assert_allclose(found[inside], was[inside], atol=5e-4 if "trajectory" in item.name else 2.5e-4)
            np.testing.assert_allclose(found, was, atol=5e-4)


def test_compact_file_is_alike_and_smaller(small, tmp_path):
    large = small.effective_samples * 1e6  # beyond float16
    for number, result in enumerate((small, replace(small, effective_samples=large))):
        paths = [tmp_path / f"{number}-{name}.npz" for name in ("whole", "compact")]
        for path, compact in zip(paths, (False, True), strict=True):
            result.save(path, compact=compact)
        assert_alike(MosaicResult.load(paths[1]), result)
        assert paths[1].stat().st_size < 0.7 * paths[0].stat().st_size


def test_compact_file_keeps_a_machine_alone_and_the_fast_engines_bound(tmp_path):
    result = run.mosaic(SMALL.with_(network=None, engine="fast"))
    result.save(tmp_path / "one.npz", compact=True)
    again = MosaicResult.load(tmp_path / "one.npz")
    assert again.network_image is None and again.error == result.error and again.certified == result.certified
    assert_alike(again, result)


def test_damaged_compact_file_is_refused(small, tmp_path):
    path = tmp_path / "one.npz"
    small.save(path, compact=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(AssetError, match=r"one\.npz is damaged"):
        MosaicResult.load(path)


def test_progress_is_reported_and_may_cancel():
    shares, partials = [], []

    def watch(share, message, partial):
        shares.append(share)
        if partial is not None:
            partials.append(partial.steps)
        if len(partials) == 2:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        run.mosaic(SMALL, on_progress=watch)
    assert shares == sorted(shares) and partials == [1, 2]


def test_compare_reports_each_seed_and_medians():
    facts = run.compare(SMALL, [0, 1])
    assert [row["seed"] for row in facts["per_seed"]] == [0, 1]
    assert facts["median"]["r"] == pytest.approx(np.mean([row["r"] for row in facts["per_seed"]]))
    assert {"r", "r2", "R2"} == set(facts["median"]) == set(facts["ideal"])


def test_compare_uses_the_same_start_and_machine_as_mosaic(small):
    facts = run.compare(SMALL, [0])
    assert facts["median"]["r"] == pytest.approx(small.scores["machine"]["r"], abs=1e-4)


def test_agreement_is_what_its_names_say():
    a, b = np.random.default_rng(0).normal(size=(2, 1, 8, 8))
    figures = asdict(agreement(a, b))
    assert figures["r"] == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert figures["r2"] == pytest.approx(figures["r"] ** 2)
    assert figures["R2"] == pytest.approx(1 - ((a - b) ** 2).sum() / ((b - b.mean()) ** 2).sum())
    assert pytest.approx(1) == agreement(b, b).R2
    assert np.isnan(agreement(np.ones(4), b.ravel()[:4]).r)


def test_network_stored_in_half_the_size_paints_the_same_image(tmp_path):
    from lm_core.diffusion.weights import load_network, save_network

    network, config, facts = load_network(Path(MNIST_UNET), torch.device("cpu"))
    half = tmp_path / "half.safetensors"
    save_network(half, network, config, facts, dtype=torch.float16)
    again, _, stored = load_network(half, torch.device("cpu"))
    assert half.stat().st_size < 0.51 * Path(MNIST_UNET).stat().st_size and stored["stored"] == "float16"
    assert all(tensor.dtype == torch.float32 for tensor in again.state_dict().values())
    before, after = (run.mosaic(SMALL.with_(network=path, images=2)) for path in (MNIST_UNET, str(half)))
    assert before.network_image is not None and after.network_image is not None
    np.testing.assert_allclose(after.network_image, before.network_image, atol=0.01)
    save_network(tmp_path / "whole.safetensors", again, config, stored)
    assert "stored" not in load_network(tmp_path / "whole.safetensors", torch.device("cpu"))[2]


def test_every_shipped_network_is_verified_and_described():
    for name, entry in artifacts.manifest()["networks"].items():
        dataset = next(one for one in artifacts.DATASETS if name.startswith(f"{one}-"))
        network = name.removeprefix(f"{dataset}-")
        assert run.network_path(dataset, network).exists()
        assert {"command", "loss", "steps", "data_sha256", "parameters"} <= set(entry)
        if dataset != "cifar10":  # the user's own files, and not the copy it was trained on
            assert entry["data_sha256"] == artifacts.load_dataset(dataset).sha256


# -- the shelf --------------------------------------------------------------------------------------------------------


def test_result_is_kept_and_found_again(small):
    assert shelf.keep(small) == ""
    found = shelf.find(SMALL)
    assert found is not None and found.params == small.params
    assert shelf.find(SMALL.with_(seed=77)) is None


def test_damaged_kept_result_counts_as_none(small):
    shelf.keep(small)
    path = shelf.kept_path(small.params)
    path.write_bytes(path.read_bytes()[:200])
    assert shelf.find(SMALL) is None and not path.exists()


def test_full_disk_loses_nothing_but_the_copy(small, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert "could not be kept" in shelf.keep(small)


def test_every_preset_loads_and_is_what_it_says():
    for preset in shelf.presets():
        result = preset.load()
        assert result.params == run.resolve(preset.params)
        assert shelf.find(preset.params) is not None
        assert result.provenance == run.provenance(result.params), f"make preset {preset.name} again"


def test_presets_are_stored_compactly():
    for preset in shelf.presets():
        with np.load(artifacts.asset_path(preset.file)) as file:
            assert "trajectory" not in file.files and file["denoised"].dtype == np.float16
    assert sum(artifacts.asset_path(preset.file).stat().st_size for preset in shelf.presets()) < 4.5e6


def test_presets_cover_the_six_lessons():
    assert len(shelf.presets()) == 6


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, said",
    [
        ({"machine": "magic"}, "choose one of bbels"),
        ({"engine": "slow"}, "engine is 'slow'"),
        ({"dataset": ""}, "dataset is empty"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
        ({"images": 0}, "images is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"patch_sizes": (4,)}, "patch size is 4"),
        ({"patch_sizes": (0,)}, "patch size is 0"),
        ({"patch_sizes": (3, 3)}, "2 entries"),
        ({"label": -1}, "label is -1"),
    ],
)
def test_parameters_outside_their_range_are_refused(change, said):
    with pytest.raises(ParameterError, match=said):
        MosaicParams(**change)


def test_patch_sizes_are_read_from_text():
    assert parse_patch_sizes("5", 3) == (5, 5, 5)
    assert parse_patch_sizes("7,5,3", 3) == (7, 5, 3)
    with pytest.raises(ParameterError, match="odd numbers with commas"):
        parse_patch_sizes("7;5", 2)


@pytest.mark.parametrize(
    "params, error, said",
    [
        (MosaicParams(dataset="nowhere"), ParameterError, "nowhere"),
        (MosaicParams(images=70_000), ParameterError, "60,000"),
        (MosaicParams(network="nothing"), ParameterError, "choose one of those shipped"),
        (MosaicParams(dataset="fashion-mnist", label=10, network=None), ParameterError, "classes 0 to 9"),
        (
            MosaicParams(dataset="emoji", network=MNIST_UNET, images=5),
            AssetError,
            "channels",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused(params, error, said):
    with pytest.raises(error, match=said):
        run.mosaic(params)


@pytest.mark.parametrize(
    "noise, said",
    [
        (np.zeros((3, 32, 32)), "shape"),
        (np.full((1, 32, 32), np.inf), "not finite"),
        (np.full((1, 32, 32), "x"), "numbers"),
    ],
)
def test_noise_that_makes_no_sense_is_refused(noise, said):
    with pytest.raises(ParameterError, match=said):
        run.mosaic(SMALL, noise=noise)


def test_corrupt_network_file_is_refused(monkeypatch, tmp_path):
    entry = artifacts.manifest()["networks"]["mnist-unet"] | {"sha256": "0" * 64}
    manifest = artifacts.manifest() | {"networks": {"mnist-unet": entry}}
    monkeypatch.setattr(run, "manifest", lambda: manifest)
    with pytest.raises(AssetError, match="restore it from the repository"):
        run.network_path("mnist", "unet")


# -- the command line -------------------------------------------------------------------------------------------------


def test_command_line_writes_a_mosaic_that_any_program_can_read(tmp_path, capsys):
    noise = tmp_path / "noise.npy"
    np.save(noise, np.random.default_rng(0).normal(size=(1, 32, 32)))
    out = tmp_path / "R.npz"
    options = ["mosaic", "--images", "8", "--steps", "3", "--patch-sizes", "7,5,3", "--network", "unet", "--json"]
    assert main([*options, "--noise", str(noise), "--out", str(out)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["params"]["patch_sizes"] == [7, 5, 3] and "r" in facts["scores"]["machine"]
    with np.load(out) as arrays:
        np.testing.assert_allclose(arrays["noise"], np.load(noise), atol=1e-6)
        assert arrays["denoised"].dtype == arrays["top_weight"].dtype == np.float32
        names = "trajectory denoised alpha_bar patch_sizes image top_image top_y top_x top_weight effective_samples"
        assert set(names.split()) | {"network_image"} <= set(arrays.files)


def test_command_line_compares(capsys):
    options = ["compare", "--images", "8", "--steps", "3", "--seeds", "0,2", "--network-steps", "4", "--json"]
    assert main(options) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"per_seed", "median", "ideal", "seconds"} <= set(facts) and len(facts["per_seed"]) == 2


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["mosaic", "--dataset", "nowhere", "--out", "x.npz"], "nowhere"),
        (["mosaic", "--machine", "magic", "--out", "x.npz"], "magic"),
        (["mosaic", "--patch-sizes", "4", "--out", "x.npz"], "patch size is 4"),
        (["mosaic", "--images", "0", "--out", "x.npz"], "images is 0"),
        (["mosaic", "--noise", "missing.npy", "--out", "x.npz"], "noise can't be read"),
        (["mosaic", "--images", "5", "--steps", "1", "--out", "tests"], "a folder"),
        (["mosaic", "--device", "cuda:9", "--out", "x.npz"], "cuda:9"),
        (["compare", "--seeds", "one"], "seeds are 'one'"),
        (["train", "--minutes", "0", "--out", "x.safetensors"], "minutes"),
        (["train", "--network", "transformer", "--out", "x.safetensors"], "network is"),
        (["bench", "nothing"], "benchmark"),
        (["dance"], "dance"),
        (["mosaic"], "--out"),
    ],
)
def test_bad_input_ends_with_status_two_and_one_line(arguments, said, capsys):
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "%" not in line]
    assert len(lines) == 1 and said in lines[0] and "Traceback" not in lines[0]


def test_doctor_reports_as_json_from_a_fresh_process():
    done = subprocess.run(
        [sys.executable, "-m", "lm_core", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)


def test_seeds_are_read_as_numbers_and_ranges():
    assert parse_seeds("0-3,7") == [0, 1, 2, 3, 7]
