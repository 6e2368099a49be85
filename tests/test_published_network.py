"""A network published by others: found where the user has downloaded it, never fetched, offered for its data set."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from lm_core import artifacts, doctor, run
from lm_core.errors import AssetError, ParameterError
from lm_core.params import NETWORKS, MosaicParams
from lm_core.score.curves import published_curve
from pages.components.mosaic_controls import network_label

NAME = "ddpm-cifar10-32"


@pytest.fixture(scope="module")
def tiny_ddpm():
    """A diffusers UNet with attention and normalisation, as small as they come."""
    import torch
    from diffusers.models.unets.unet_2d import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An `LM_DATA` folder and a Hugging Face cache, both empty."""
    data, home = tmp_path / "data", tmp_path / "huggingface"
    data.mkdir()
    monkeypatch.setenv("LM_DATA", str(data))
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return data, home / "hub" / "models--google--ddpm-cifar10-32"


def write_cifar(path):
    """Write a CIFAR-10 of four images, in the form of JPEG files in a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train/cat/0.jpg", "train/dog/0.jpg", "test/cat/0.jpg", "test/dog/0.jpg"):
            jpeg = io.BytesIO()
            Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (32, 32, 3), np.uint8)).save(jpeg, "jpeg")
            archive.writestr(name, jpeg.getvalue())


def test_absent_it_is_not_offered_and_the_error_says_how_to_get_it(folders):
    assert NAME in NETWORKS and NAME not in run.shipped_networks("cifar10")
    with pytest.raises(AssetError, match=r"hf download google/ddpm-cifar10-32.*LM_DATA"):
        run.network_path("cifar10", NAME)
    state = doctor.examine_published("cifar10", NAME)
    assert not state["present"] and "hf download" in state["remedy"]


def test_it_is_found_in_a_folder_of_lm_data_and_computes(folders, tiny_ddpm):
    data, _ = folders
    tiny_ddpm.save_pretrained(data / NAME)
    write_cifar(data / "cifar10-jpeg.zip")
    assert run.shipped_networks("cifar10")[-1] == NAME and run.network_path("cifar10", NAME) == data / NAME
    state = doctor.examine_published("cifar10", NAME)
    assert state["present"] and state["remedy"] is None and "UNet2DModel" in state["detail"]
    result = run.mosaic(MosaicParams(dataset="cifar10", network=NAME, images=2, steps=2))
    assert result.network_image is not None and np.isfinite(result.network_image).all()
    assert result.params.label is None, "it is not conditioned on a class"
    assert len(result.provenance["network_sha256"]) == 64 and set(result.scores) == {"machine", "ideal"}


def test_it_is_found_where_lm_data_names_the_folder_itself(folders, tiny_ddpm, monkeypatch):
    tiny_ddpm.save_pretrained(folders[0] / NAME)
    monkeypatch.setenv("LM_DATA", str(folders[0] / NAME))
    assert run.network_path("cifar10", NAME) == folders[0] / NAME


def test_of_the_hugging_face_cache_the_main_branch_comes_first(folders, tiny_ddpm):
    for snapshot in ("aaa", "bbb"):
        tiny_ddpm.save_pretrained(folders[1] / "snapshots" / snapshot)
    assert run.network_path("cifar10", NAME).name == "aaa"
    (folders[1] / "refs").mkdir()
    (folders[1] / "refs" / "main").write_text("bbb")
    assert run.network_path("cifar10", NAME).name == "bbb"


def test_pickled_weights_alone_are_not_read_and_the_error_tells_how_to_convert_them(folders, tiny_ddpm, monkeypatch):
    folder = folders[1] / "snapshots" / "aaa"
    tiny_ddpm.save_pretrained(folder, safe_serialization=False)
    assert (folder / "diffusion_pytorch_model.bin").is_file()
    assert NAME not in run.shipped_networks("cifar10")
    with pytest.raises(AssetError, match=r"only a \.bin file.*python -c") as caught:
        run.network_path("cifar10", NAME)
    assert doctor.examine_published("cifar10", NAME)["remedy"] == str(caught.value)
    monkeypatch.chdir(folders[0])
    exec(str(caught.value).split('python -c "')[1].split('"`')[0], {})  # what the error says to run
    assert run.network_path("cifar10", NAME) == folders[0] / NAME


def test_it_is_for_cifar10_only(folders, tiny_ddpm):
    tiny_ddpm.save_pretrained(folders[0] / NAME)
    assert NAME not in run.shipped_networks("emoji")
    with pytest.raises(ParameterError, match="for emoji choose one of those shipped"):
        run.network_path("emoji", NAME)


def test_a_damaged_configuration_is_told_by_doctor(folders, tiny_ddpm):
    tiny_ddpm.save_pretrained(folders[0] / NAME)
    (folders[0] / NAME / "config.json").write_text("{")
    state = doctor.examine_published("cifar10", NAME)
    assert state["present"] and "can't be read" in state["detail"] and state["remedy"]


def test_its_window_is_that_of_the_published_cifar_unet():
    assert published_curve("cifar10", NAME, 20) == published_curve("cifar10", "unet", 20)


def test_the_patch_mosaic_offers_it_where_it_is(folders, tiny_ddpm):
    data, _ = folders
    tiny_ddpm.save_pretrained(data / NAME)
    write_cifar(data / "cifar10-jpeg.zip")
    artifacts.forget_datasets()
    app = AppTest.from_file(str(Path(__file__).parents[1] / "app.py"), default_timeout=60)
    app.switch_page("pages/patch_mosaic.py")
    app.query_params["machine"] = "Ideal score (IS)"
    app.run().selectbox(key="dataset").set_value("cifar10").run()
    assert NETWORKS[NAME] in app.selectbox(key="network").options
    app.selectbox(key="network").set_value(NAME).run()
    assert not app.exception
    assert app.selectbox(key="network").value == NAME
    assert network_label(NAME, {}) == NETWORKS[NAME]
