"""Surveys: rows that say what the images say, files that read back, medians that are medians."""

import json

import numpy as np
import pytest

from lm_core import artifacts, run, run_survey, survey
from lm_core.errors import AssetError, ParameterError
from lm_core.params import MosaicParams
from lm_core.results import agreement

FEW = 30  # training images


@pytest.fixture
def private(tmp_path, monkeypatch):
    """A cache and a results folder of the test's own."""
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        run_survey, "result_file", lambda kind, data, net, suffix="json": tmp_path / f"{kind}-{data}-{net}.{suffix}"
    )
    monkeypatch.setattr(survey, "result_file", run_survey.result_file)
    return tmp_path


def test_a_row_holds_the_agreement_of_the_images_it_names(private):
    params = run_survey.base_params("mnist", "unet", FEW, steps=4).with_(seed=5)
    row, images = run_survey.measure_seed(params, ["bbels", "is"], ["resnet"], network_steps=(4, 6))
    assert set(images) == {"network-4", "network-6", "bbels", "is", "resnet"}
    for steps in (4, 6):
        for who in ("bbels", "is"):
            expected = agreement(images[who], images[f"network-{steps}"])
            assert row["scores"][str(steps)][who]["R2"] == pytest.approx(expected.R2, abs=1e-5)
    assert row["scores"]["4"]["resnet"]["r"] == pytest.approx(
        agreement(images["resnet"], images["network-4"]).r, abs=1e-5
    )
    assert row["nearest"]["is"]["distance"] < 0.05 < row["nearest"]["network"]["distance"]


def test_a_finished_image_is_not_made_again(private, monkeypatch):
    params = run.resolve(run_survey.base_params("mnist", "unet", FEW, steps=2))
    first = run_survey.machine_image(params)
    monkeypatch.setattr(run, "machine_image", lambda *_: pytest.fail("made again"))
    np.testing.assert_array_equal(run_survey.machine_image(params), first)
    np.testing.assert_array_equal(run_survey.machine_image(params.with_(network=None)), first)
    with pytest.raises(BaseException, match="made again"):
        run_survey.machine_image(params.with_(images=FEW - 1))


def test_a_damaged_image_in_the_cache_is_made_again(private):
    params = run.resolve(run_survey.base_params("mnist", "unet", FEW, steps=2))
    first = run_survey.machine_image(params)
    (file,) = (private / "cache" / f"survey-{run_survey.IMAGES_VERSION}").glob("*.npy")
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_allclose(run_survey.machine_image(params), first, atol=1e-5)


def test_a_survey_reads_back_with_its_gallery(private):
    facts = run_survey.survey("mnist", "unet", [0, 3], FEW, command="as the test did")
    again = survey.load("mnist", "unet")
    assert again.facts == json.loads(json.dumps(facts)) and again.seeds == [0, 3]
    assert again.scores("bbels", 20).shape == (2,) and len(again.facts["test_nearest"]) == 2
    value, low, high = again.median("is", 150)
    assert low <= value <= high
    tiles = survey.tiles(again)
    assert list(tiles) == again.facts["columns"] and tiles["bbels"].shape == (2, 32, 32)
    params = run.resolve(run_survey.base_params("mnist", "unet", FEW).with_(seed=3))
    shown = survey.to_bytes(run_survey.machine_image(params)).astype(int)
    assert np.abs(tiles["bbels"][1].astype(int) - shown).mean() < 8
    more = run_survey.extend("mnist", "unet", [3], FEW)
    assert more[0]["scores"]["20"]["bbels"] == again.per_seed[1]["scores"]["20"]["bbels"]


def test_growth_keeps_what_an_earlier_command_measured(private):
    run_survey.growth("mnist", "unet", [0], FEW, by_images=(10, 20, 10**9), command="first")
    run_survey.growth("mnist", "unet", [0], FEW, by_steps=(2, 3), command="second")
    found = survey.read_result("growth", "mnist", "unet")
    assert found is not None
    assert [point["images"] for point in found["by_images"]] == [10, 20]
    assert [point["steps"] for point in found["by_steps"]] == [2, 3]
    assert found["runs"]["by_steps"]["command"] == "second" and found["runs"]["by_images"]["command"] == "first"
    assert all(len(point["r"]) == 1 for what in ("by_images", "by_steps") for point in found[what])


def test_machines_are_the_networks_own_and_those_asked_for():
    assert run_survey.machines_for("unet") == ["bbels", "ls", "is"]
    assert run_survey.machines_for("resnet-circular", ["es"]) == ["els", "ls", "es", "is"]
    with pytest.raises(ParameterError, match="also is magic"):
        run_survey.machines_for("unet", ["magic"])


def test_growth_by_training_takes_the_minutes_from_the_weights(private):
    weights = artifacts.asset_path("networks", "mnist-resnet.safetensors")
    found = run_survey.growth("mnist", "resnet", [0], FEW, snapshots=[weights])
    assert found["by_training"][0]["minutes"] > 1 and -1 <= found["by_training"][0]["r"][0] <= 1


def test_nearest_finds_what_a_loop_finds():
    data = artifacts.load_dataset("emoji").take(50)
    train = data.images.astype(np.float64) / 127.5 - 1
    asked = np.random.default_rng(0).uniform(-1, 1, (3, *data.images.shape[1:])).astype(np.float32)
    asked[0] = train[7]
    for image, found in zip(asked, run.nearest(asked, data), strict=True):
        distances = np.sqrt(((train - image) ** 2).mean((1, 2, 3)))
        assert found["id"] == data.ids[distances.argmin()]
        assert found["distance"] == pytest.approx(distances.min(), abs=1e-7)


def test_bootstrap_interval_holds_the_median_and_narrows_with_more_values():
    values = np.random.default_rng(1).normal(size=400)
    value, low, high = survey.bootstrap_median(values)
    assert low < value == np.median(values) < high
    few = survey.bootstrap_median(values[:20])
    assert high - low < few[2] - few[1]
    assert np.isnan(survey.bootstrap_median(np.array([np.nan]))).all()


@pytest.mark.parametrize("pair", survey.available(), ids="-".join)
def test_shipped_surveys_are_whole_and_of_the_shipped_network(pair):
    found = survey.load(*pair)
    machine = survey.own_machine(found.network)
    base = MosaicParams(found.dataset, None, machine, found.network)
    assert found.facts["provenance"]["network_sha256"] == artifacts.manifest()["networks"]["-".join(pair)]["sha256"]
    assert len(set(found.seeds)) == len(found.seeds) >= 100
    assert found.facts["patch_sizes"] == list(run.default_curve(base))
    for steps in run_survey.NETWORK_STEPS:
        for who in [*found.facts["machines"], *found.facts["others"]]:
            scores = found.scores(who, steps)
            assert np.isfinite(scores).all() and (np.abs(scores) <= 1).all()
            np.testing.assert_allclose(found.scores(who, steps, "r2"), scores**2, atol=5e-5)
    tiles = survey.tiles(found)
    assert set(tiles) == set(found.facts["columns"]) and len(tiles["network-20"]) == len(found.seeds)


def test_a_gallery_of_another_survey_is_refused(private):
    facts = run_survey.survey("mnist", "unet", [0], FEW)
    with pytest.raises(AssetError, match="isn't the gallery of its survey"):
        survey.tiles(survey.Survey(facts | {"columns": facts["columns"][:-1]}))


def test_growth_of_a_conditional_network_takes_the_class_of_the_shipped_one(private):
    weights = artifacts.asset_path("networks", "fashion-mnist-unet.safetensors")
    found = run_survey.growth("fashion-mnist", "unet", [3], FEW, by_images=(FEW,), snapshots=[weights])
    assert found["by_training"][0]["r"] == found["by_images"][0]["r"]


def test_others_are_conditioned_alike():
    assert run_survey.others_of("mnist", "resnet-circular") == ["unet", "resnet", "unet-standard"]
    assert "ddpm-cifar10-32" not in run_survey.others_of("cifar10", "unet")


def test_a_survey_that_is_not_there_says_which_command_makes_it(private):
    with pytest.raises(AssetError, match="python -m lm_core survey --dataset mnist --network nothing"):
        survey.load("mnist", "nothing")
    with pytest.raises(ParameterError, match="there are 0 seeds; give 1 to 511"):
        run_survey.survey("mnist", "unet", [], FEW)
    with pytest.raises(ParameterError, match="choose one of those shipped"):
        run_survey.survey("mnist", "some/file.safetensors", [0], FEW)
    survey.result_file("survey", "mnist", "unet").write_text("{")
    with pytest.raises(AssetError, match="damaged"):
        survey.load("mnist", "unet")
