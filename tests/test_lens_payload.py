"""What the lens is sent: packed losslessly where it must be, closely where it may, small, and ready for JSON."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from lm_core.mosaic import segment, stitch
from pages.components.lens.payload import LOG2_UNIT, WEIGHT_UNIT, lens_payload, noisy_range, pack, unpack
from tests.browser.lens_app import CASES, sample_result


@pytest.fixture(scope="module")
def result():
    return sample_result()


@pytest.fixture(scope="module")
def payload(result):
    return lens_payload(result, factor=4.0)


def atlas_of(payload: dict) -> np.ndarray:
    """Cut the atlas into its thumbnails: uint8 [M, C, H, W]."""
    sources, height, width = payload["sources"], payload["height"], payload["width"]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources["png"]))))
    sheet = sheet[..., None] if sheet.ndim == 2 else sheet
    corners = [divmod(i, sources["columns"]) for i in range(sources["pictured"])]
    tiles = [sheet[r * height : (r + 1) * height, c * width : (c + 1) * width] for r, c in corners]
    return np.stack(tiles).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_packing_is_lossless(dtype):
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (3, 4, 5), dtype=dtype, endpoint=True)
    np.testing.assert_array_equal(unpack(json.loads(json.dumps(pack(array)))), array)
    np.testing.assert_array_equal(unpack(pack(array[:, ::2].T)), array[:, ::2].T)


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_result_is_strict_json(case):
    payload = lens_payload(sample_result(case), factor=3.0, partial=case in ("partial", "waiting"))
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload


def test_estimates_are_within_half_a_grey_level(result, payload):
    for name, images in (("machine_images", result.denoised), ("network", result.network_denoised)):
        shown = unpack(payload[name]["denoised"]) / 127.5 - 1
        np.testing.assert_allclose(shown, np.clip(images, -1, 1), atol=0.5 / 127.5 + 1e-6)


def test_noisy_states_are_in_their_own_range(result, payload):
    limits = np.array(payload["noisy_range"])[:, None, None, None]
    shown = (unpack(payload["machine_images"]["noisy"]) / 127.5 - 1) * limits
    expected = np.clip(result.trajectory[:-1], -limits, limits)
    assert (np.abs(shown - expected) <= limits * 0.5 / 127.5 + 1e-6).all()
    assert noisy_range(np.array([0.0, 1.0])).tolist() == [3.0, 1.0]


def test_candidates_keep_their_image_place_and_weight(result, payload):
    top = {name: unpack(table) for name, table in payload["top"].items()}
    ids = np.array(payload["sources"]["ids"])
    np.testing.assert_array_equal(ids[top["index"]], result.top_image)
    np.testing.assert_array_equal(top["y"], result.top_y)
    np.testing.assert_array_equal(top["x"], result.top_x)
    percent = top["weight"] / WEIGHT_UNIT * 100
    np.testing.assert_allclose(percent, 100 * result.top_weight, atol=0.001)


def test_absent_candidates_point_past_the_sources(result):
    image = result.top_image.copy()
    image[..., 5:] = -1
    gaps = dataclasses.replace(result, top_image=image, top_y=np.where(image < 0, -1, result.top_y))
    payload = lens_payload(gaps)
    index = unpack(payload["top"]["index"])
    assert (index[..., 5:] == len(payload["sources"]["ids"])).all()
    assert (index[..., :5] < len(payload["sources"]["ids"])).all()


def test_effective_sources_are_a_tenth_of_a_percent_close_over_all_magnitudes(result):
    magnitudes = np.geomspace(1, 1e9, result.effective_samples.size, dtype=np.float32)
    wide = dataclasses.replace(result, effective_samples=magnitudes.reshape(result.effective_samples.shape))
    shown = 2.0 ** (unpack(lens_payload(wide)["effective_log2"]) / LOG2_UNIT)
    np.testing.assert_allclose(shown, wide.effective_samples, rtol=1e-3)


def test_the_atlas_holds_the_sources_in_their_order(result, payload):
    place = np.searchsorted(result.source_ids, payload["sources"]["ids"])
    np.testing.assert_array_equal(atlas_of(payload), result.source_images[place])


def test_the_heaviest_sources_get_the_pictures(result):
    payload = lens_payload(result, max_pictures=4)
    ids = payload["sources"]["ids"]
    most = [result.top_weight[result.top_image == i].max() for i in ids]
    assert most == sorted(most, reverse=True)
    assert sorted(ids) == sorted(result.source_ids)
    assert payload["sources"]["pictured"] == len(atlas_of(payload)) == 4


@pytest.mark.parametrize("case", ["grey", "colour", "circular"])
def test_mosaics_are_those_of_the_core(case):
    result = sample_result(case)
    payload = lens_payload(result, factor=4.0)
    assert [mosaic["factor"] for mosaic in payload["mosaics"]] == [1.0, 4.0]
    for mosaic in payload["mosaics"]:
        label, choice, stitched = (unpack(mosaic[name]) for name in ("label", "choice", "stitched"))
        for step in range(result.steps):
            tiles = segment(result, step, mosaic["factor"])
            np.testing.assert_array_equal(label[step], tiles.label)
            np.testing.assert_array_equal(choice[step], tiles.choice)
            np.testing.assert_array_equal(stitched[step], stitch(result, step, tiles))
            assert mosaic["tiles"][step] == tiles.count
            assert mosaic["area"][step] == pytest.approx(tiles.mean_area, abs=1e-6)
            np.testing.assert_array_equal(unpack(payload["muted"])[step], tiles.muted)


def test_factor_one_sends_the_exact_mosaic_alone(result):
    assert [mosaic["factor"] for mosaic in lens_payload(result)["mosaics"]] == [1.0]


def test_the_id_tells_contents_apart(result, payload):
    assert lens_payload(result, factor=4.0) == payload
    assert lens_payload(result, factor=5.0)["id"] != payload["id"]
    assert lens_payload(dataclasses.replace(result, denoised=result.denoised * 0.9), 4.0)["id"] != payload["id"]


def test_times_run_from_one_to_the_last_step(payload):
    assert payload["t"] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_a_run_in_progress_needs_no_tables():
    payload = lens_payload(sample_result("partial"), partial=True)
    assert (payload["done"], payload["steps"], payload["partial"]) == (3, 6, True)
    assert not {"top", "mosaics", "sources", "muted"} & set(payload)
    assert "when it is done" in payload["network"]["note"]
    waiting = lens_payload(sample_result("waiting"), partial=True)
    assert (waiting["done"], waiting["steps"]) == (0, 6)


def test_tables_that_are_none_count_as_missing(result):
    names = ("top_image", "top_y", "top_x", "top_weight", "effective_samples", "source_ids", "source_images")
    bare = dataclasses.replace(result, **dict.fromkeys(names))
    assert "top" not in lens_payload(bare, partial=True)


def test_without_a_network_a_sentence_stands_in_its_place(result):
    assert "No network is chosen" in lens_payload(sample_result("alone"))["network"]["note"]
    lost = dataclasses.replace(result, network_image=None, network_denoised=None, network_trajectory=None)
    network = lens_payload(lost)["network"]
    assert "no trained network" in network["note"]
    assert "denoised" not in network


def test_a_network_with_other_steps_shows_its_finished_image(result):
    other = dataclasses.replace(result, network_denoised=None, network_trajectory=None)
    network = lens_payload(other)["network"]
    assert unpack(network["final"]).shape == (1, 16, 16)
    assert "denoised" not in network


def test_a_correlation_that_is_not_defined_is_null(payload):
    assert payload["scores"]["ideal"]["R2"] is None
    assert payload["scores"]["machine"]["r"] == pytest.approx(0.904)


def test_no_path_of_this_machine_is_sent(result):
    private = result.params.with_(dataset="/home/someone/pictures", network="/home/someone/net")
    payload = lens_payload(dataclasses.replace(result, params=private))
    assert "someone" not in json.dumps(payload)
    assert payload["title"].startswith("pictures · ")
    assert payload["network"]["name"] == "net"


def test_mnist_sized_payload_stays_small():
    """20 steps of 32×32 from 1,000 images with noisy weights: a hard case for compression."""
    result, rng = sample_result(size=32, steps=20), np.random.default_rng(1)
    shape = result.top_image.shape
    weight = -np.sort(-rng.dirichlet(np.full(9, 0.5), shape[:3])[..., :8], axis=-1)
    blobs = rng.integers(0, 256, (1000, 1, 32, 32), dtype=np.uint8) * (rng.random((1000, 1, 32, 32)) < 0.15)
    hard = dataclasses.replace(
        result,
        top_image=rng.integers(0, 1000, shape, dtype=np.int32),
        top_y=rng.integers(0, 32, shape, dtype=np.int16),
        top_x=rng.integers(0, 32, shape, dtype=np.int16),
        top_weight=weight.astype(np.float32),
        source_ids=np.arange(1000),
        source_images=blobs.astype(np.uint8),
    )
    assert len(json.dumps(lens_payload(hard, factor=4.0))) < 2_500_000


def test_large_colour_images_from_many_sources_get_wider_indices():
    result = sample_result("colour", size=64, steps=1)
    shape, count = result.top_image.shape, 70_000
    many = dataclasses.replace(
        result,
        top_image=np.random.default_rng(2).integers(0, count, shape, dtype=np.int32),
        source_ids=np.arange(count),
        source_images=np.broadcast_to(np.uint8(9), (count, 3, 64, 64)),
    )
    payload = lens_payload(many, max_pictures=10)
    assert payload["top"]["index"]["dtype"] == "u4"
    ids = np.array(payload["sources"]["ids"])
    np.testing.assert_array_equal(ids[unpack(payload["top"]["index"])], many.top_image)


def test_the_modules_join_into_one_without_imports():
    from pages.components.lens import MODULES, _script

    script = _script()
    assert not re.search(r"^\s*(import|export (?!default))", script, re.MULTILINE)
    assert script.count("export default") == 1
    names = re.findall(r"^(?:async )?(?:function|const|class) (\w+)", script, re.MULTILINE)
    assert len(names) == len(set(names)) > 50, f"two of {MODULES} use one name"


def test_the_lens_asks_nothing_of_the_network():
    from pages.components.lens import FOLDER, _script

    sources = [_script(), *((FOLDER / name).read_text("utf-8") for name in ("lens.css", "lens.html"))]
    assert not any(re.search(r"https?://|//cdn|@import|fetch\(|innerHTML|XMLHttp|WebSocket", text) for text in sources)


def test_a_place_from_a_url_or_a_browser_is_checked():
    from pages.components.lens import Place

    assert Place.parse({"pin": [3, 4], "step": 2, "view": "mosaic"}) == Place((3, 4), 2, "mosaic")
    for nonsense in (
        None,
        [],
        "x",
        {"pin": "12"},
        {"pin": [1, "2"]},
        {"pin": [-1, 2]},
        {"pin": [True, 1]},
        {"step": -3},
    ):
        assert Place.parse(nonsense) == Place()
    assert Place.parse({"view": "<script>"}) == Place()
