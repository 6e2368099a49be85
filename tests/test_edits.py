"""Edited training sets and noises: what they select, what they refuse, and how far a change of noise can spread."""

import io

import numpy as np
import pytest
from PIL import Image

from lm_core import run, run_edits
from lm_core.artifacts import load_dataset
from lm_core.edits import (
    MAX_ADDED,
    MAX_UPLOAD_BYTES,
    NoiseEdit,
    Picture,
    TrainingEdit,
    distance_to,
    radius_holding,
    reach,
    read_upload,
    top_sources,
    uses_added,
)
from lm_core.errors import LabError, ParameterError
from lm_core.params import MosaicParams

SHAPE = (1, 32, 32)
BLACK = Picture.of("black", np.zeros(SHAPE, np.uint8))
WHITE = Picture.of("white", np.full(SHAPE, 255, np.uint8))


def square(y: int, x: int, size: int = 4) -> np.ndarray:
    mask = np.zeros((32, 32), bool)
    mask[y : y + size, x : x + size] = True
    return mask


# -- training sets ----------------------------------------------------------------------------------------------------


def test_an_edit_of_nothing_is_the_first_images():
    data, plain = TrainingEdit("mnist", images=20).apply(), load_dataset("mnist").take(20)
    np.testing.assert_array_equal(data.images, plain.images)
    np.testing.assert_array_equal(data.ids, plain.ids)
    assert data.sha256 != plain.sha256
    assert not TrainingEdit("mnist").edits_of(MosaicParams())
    assert TrainingEdit("mnist", label=3).edits_of(MosaicParams())


def test_removed_images_are_gone_and_the_others_keep_their_ids():
    data = TrainingEdit("mnist", images=6, removed=(1, 4, 4)).apply()
    assert data.ids.tolist() == [0, 2, 3, 5]
    np.testing.assert_array_equal(data.images[1], load_dataset("mnist").images[2])


def test_a_class_is_taken_alone():
    data = TrainingEdit("fashion-mnist", images=30, label=1).apply()
    assert set(data.labels.tolist()) == {1}
    assert len(data.images) == 30


def test_more_images_than_a_class_has_are_all_of_them():
    full = load_dataset("emoji")
    data = TrainingEdit("emoji", images=10**6, label=8).apply()
    assert len(data.images) == int((full.labels == 8).sum())
    assert len(data.names) == len(data.images)


def test_added_images_come_last_with_ids_of_their_own():
    edit = TrainingEdit("mnist", only=(), added=(BLACK, WHITE))
    data = edit.apply()
    assert data.ids.tolist() == [60_000, 60_001]
    assert data.images[1].min() == 255
    assert TrainingEdit.first_added(load_dataset("mnist")) == 60_000


def test_two_images_of_the_set_alone():
    assert TrainingEdit("mnist", only=(7, 3)).apply().ids.tolist() == [3, 7]


def test_the_key_tells_every_edit_apart():
    plain = TrainingEdit("mnist")
    others = [
        plain.with_(removed=(1,)),
        plain.with_(only=(1, 2)),
        plain.with_(label=3),
        plain.with_(added=(BLACK,)),
        plain.with_(added=(WHITE,)),
    ]
    assert len({one.key() for one in [plain, *others]}) == 6
    assert plain.key() == TrainingEdit("mnist").key()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TrainingEdit("mnist", images=2, removed=(0,)).apply(), "needs two"),
        (lambda: TrainingEdit("mnist", only=(60_000, 1)).apply(), "isn't in mnist"),
        (lambda: TrainingEdit("mnist", removed=(-1,)), "whole number"),
        (lambda: TrainingEdit("emoji", added=(BLACK,)).apply(), "needs"),
        (lambda: TrainingEdit("mnist", added=(BLACK,) * (MAX_ADDED + 1)), "at most 16"),
        (lambda: TrainingEdit("mnist", label=11).apply(), "classes 0 to 9"),
        (lambda: Picture("x", b"123", SHAPE), "1,024"),
        (lambda: Picture.of("x", np.zeros(SHAPE)), "uint8"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(make, says):
    with pytest.raises(ParameterError, match=says):
        make()


def test_a_picture_turns_grey_and_colour():
    colour = Picture.of("c", np.stack([np.full((2, 2), value, np.uint8) for value in (0, 90, 180)]))
    assert colour.with_channels(1).array.tolist() == [[[90, 90], [90, 90]]]
    assert colour.with_channels(1).with_channels(3).shape == (3, 2, 2)


def test_black_and_white_alone_give_a_mosaic_of_black_and_white():
    edit = TrainingEdit("mnist", only=(), added=(BLACK, WHITE))
    result = run_edits.edited(MosaicParams(seed=1, steps=10), edit)
    assert np.allclose(np.abs(result.image), 1, atol=0.02)
    assert result.source_ids.tolist() == [60_000, 60_001]
    assert uses_added(result, 60_000).all()
    assert result.images_used == 2


def test_a_removed_source_is_used_no_more():
    params = MosaicParams(seed=2, steps=5, engine="fast")
    before = run_edits.edited(params, TrainingEdit("mnist", images=40))
    source, weight = top_sources(before, 16, 16)[0]
    assert 0 < weight <= 1
    after = run_edits.edited(params, TrainingEdit("mnist", images=40, removed=(source,)))
    assert source in before.top_image
    assert source not in after.top_image
    assert after.images_used == 39


def test_the_network_keeps_its_image_whatever_the_machine_is_given():
    params = MosaicParams(network="unet", seed=2, steps=5, engine="fast")
    before = run_edits.edited(params, TrainingEdit("mnist", images=20))
    after = run_edits.edited(params, TrainingEdit("mnist", images=20, label=3))
    np.testing.assert_array_equal(before.network_image, after.network_image)
    assert not np.array_equal(before.image, after.image)


# -- uploads ----------------------------------------------------------------------------------------------------------


def file_of(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def test_an_upload_is_cut_to_its_middle_resized_and_turned_grey():
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = (0, 90, 180)
    picture = read_upload("wide.png", file_of(wide), 1)
    assert picture.shape == SHAPE
    inside = (0, slice(4, -4), slice(4, -4))  # resizing looks a little beyond the cut
    assert np.unique(picture.array[inside]).tolist() == [90]
    assert np.unique(read_upload("wide.png", file_of(wide), 1, invert=True).array[inside]).tolist() == [165]
    assert read_upload("wide.jpg", file_of(wide, "JPEG"), 3).array[2, 16, 16] > 170


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("big.png", b"\x89PNG\r\n\x1a\n" + bytes(MAX_UPLOAD_BYTES), "may have 5"),
        ("text.png", b"hello", "no PNG or JPEG"),
        ("film.gif", file_of(np.zeros((4, 4), np.uint8), "GIF"), "no PNG or JPEG"),
        ("torn.png", file_of(np.zeros((64, 64), np.uint8))[:60], "torn.png"),
        ("bomb.png", file_of(np.zeros((8000, 6000), np.uint8)), "40 million"),
    ],
)
def test_an_upload_that_cannot_be_used_is_refused_in_a_sentence(name, content, says):
    with pytest.raises(LabError, match=says):
        read_upload(name, content, 1)


# -- noise ------------------------------------------------------------------------------------------------------------


def test_only_the_region_is_repainted():
    noise, region = run_edits.noise_of(MosaicParams(seed=4)), square(3, 5)
    for brush in ("fresh", "zero", "seed"):
        new = NoiseEdit.of(region, brush, 9).apply(noise, run_edits.noise_of(MosaicParams(seed=9)))
        np.testing.assert_array_equal(new[:, ~region], noise[:, ~region])
        assert (new[:, region] != noise[:, region]).all()


def test_the_brushes_paint_what_they_say():
    noise, other, region = (
        run_edits.noise_of(MosaicParams(seed=4)),
        run_edits.noise_of(MosaicParams(seed=9)),
        square(0, 0, 32),
    )
    np.testing.assert_array_equal(NoiseEdit.of(region, "seed", 9).apply(noise, other), other)
    assert not NoiseEdit.of(region, "zero").apply(noise).any()
    fresh = NoiseEdit.of(region, "fresh", 3).apply(noise)
    assert abs(fresh.mean()) < 0.1
    assert abs(fresh.std() - 1) < 0.1
    np.testing.assert_array_equal(fresh, NoiseEdit.of(region, "fresh", 3).apply(noise))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: NoiseEdit.of(np.zeros((32, 32))), "no pixel"),
        (lambda: NoiseEdit.of(square(0, 0), "blue"), "choose one of fresh"),
        (lambda: NoiseEdit.of(square(0, 0), seed=-1), "seed"),
        (lambda: NoiseEdit(b"\1", (2, 2)), "takes 4"),
        (lambda: NoiseEdit.of(square(0, 0)).apply(np.zeros((1, 8, 8))), "of shape"),
        (lambda: NoiseEdit.of(square(0, 0), "seed").apply(np.zeros((1, 32, 32))), "missing"),
    ],
)
def test_a_noise_edit_that_makes_no_sense_is_refused(make, says):
    with pytest.raises(ParameterError, match=says):
        make()


def test_distance_counts_as_square_windows_reach():
    distance = distance_to(square(10, 10, 2))
    assert distance[10, 11] == 0
    assert distance[9, 9] == distance[9, 10] == 1
    assert distance[0, 31] == 20


def test_the_radius_holds_its_share():
    distance = distance_to(square(16, 16, 1))
    table = np.zeros((3, 32, 32))
    table[0, 16, 16] = 1
    table[1, 16, 16], table[1, 16, 20] = 0.8, 0.2
    assert radius_holding(table, distance, 0.9).tolist() == [0, 4, 0]
    assert radius_holding(table, distance, 0.8).tolist() == [0, 0, 0]


def test_reach_sums_half_windows_up_to_the_edge():
    assert reach(np.array([5, 3, 33]), 12).tolist() == [2, 3, 12]


def test_a_change_of_noise_stays_within_the_machines_reach():
    params = MosaicParams(network=None, images=30, steps=4, seed=3, patch_sizes=(5, 3, 3, 3))
    found = run_edits.influence(params, NoiseEdit.of(square(14, 14)))
    distance = distance_to(found.region)
    for step in range(4):
        assert found.estimates["machine"][step][distance > found.reach[step]].max() < 1e-5
    assert found.estimates["machine"][0][distance <= found.reach[0]].max() > 0.01
    assert found.state_radius["machine"][0] <= found.state_radius["machine"].max() <= found.reach[-1]
    assert "network" not in found.states


def test_the_change_of_the_starting_noise_is_the_edit_itself():
    params, region = MosaicParams(network="unet", images=20, steps=3, seed=3, engine="fast"), square(8, 20)
    before = run.mosaic(params)
    found = run_edits.influence(params, NoiseEdit.of(region, "zero"), before=before)
    assert found.before is before
    for who in ("machine", "network"):
        np.testing.assert_allclose(found.states[who][0], np.abs(before.noise).mean(0) * region, atol=1e-6)
        assert found.state_radius[who].shape == (4,)
        assert found.estimate_radius[who].shape == (3,)
