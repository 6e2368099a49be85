"""From top-k tables to tiles: segmentation, coherent attribution, stitching."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core.mosaic import MUTED_ABOVE, connected_components, continue_neighbours, segment, stitch
from lm_core.params import MosaicParams
from lm_core.results import MosaicResult

SIZE = 8


def make_result(image, weight=None, *, dy=0, dx=0, effective=2.0, sources=None) -> MosaicResult:
    """A one-step result from [H, W, K] candidate tables; offsets are source − pixel, modulo the image."""
    image = np.asarray(image, dtype=np.int32)
    height, width, k = image.shape
    weight = np.broadcast_to(0.5 ** np.arange(1, k + 1) if weight is None else weight, image.shape)
    y = (np.arange(height)[:, None, None] + np.broadcast_to(dy, image.shape)) % height
    x = (np.arange(width)[None, :, None] + np.broadcast_to(dx, image.shape)) % width
    ids = np.unique(image[image >= 0])
    if sources is None:
        sources = np.random.default_rng(0).integers(0, 256, (len(ids), 1, height, width), dtype=np.uint8)
    flat = np.zeros((1, height, width), dtype=np.float32)
    return MosaicResult(
        params=MosaicParams(steps=1),
        noise=flat,
        trajectory=np.stack([flat, flat]),
        denoised=flat[None],
        alpha_bar=np.array([0.1, 1.0]),
        patch_sizes=np.array([3]),
        image=flat,
        top_image=image[None],
        top_y=np.where(image < 0, -1, y)[None].astype(np.int16),
        top_x=np.where(image < 0, -1, x)[None].astype(np.int16),
        top_weight=np.asarray(weight, dtype=np.float32)[None],
        effective_samples=np.broadcast_to(np.float32(effective), (1, height, width)),
        source_ids=ids,
        source_images=sources,
    )


def flood_fill(values: np.ndarray) -> np.ndarray:
    """Number the 4-connected regions pixel by pixel, in reading order."""
    label = np.full(values.shape, -1)
    count = 0
    for start in np.ndindex(values.shape):
        if label[start] >= 0:
            continue
        stack = [start]
        while stack:
            y, x = stack.pop()
            inside = 0 <= y < values.shape[0] and 0 <= x < values.shape[1]
            if not inside or label[y, x] >= 0 or values[y, x] != values[start]:
                continue
            label[y, x] = count
            stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        count += 1
    return label


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_components_equal_a_flood_fill(height, width, colours, seed):
    values = np.random.default_rng(seed).integers(0, colours, (height, width))
    np.testing.assert_array_equal(connected_components(values), flood_fill(values))


def test_a_spiral_is_one_component():
    spiral = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
    assert len(np.unique(connected_components(spiral)[spiral == 1])) == 1


def test_exact_attribution_takes_the_heaviest_candidate():
    image = np.random.default_rng(1).integers(0, 5, (SIZE, SIZE, 3))
    tiles = segment(make_result(image), 0)
    assert not tiles.choice.any()
    np.testing.assert_array_equal(tiles.image, image[..., 0])


def test_a_tile_is_one_image_at_one_offset_and_ends_where_either_changes():
    image = np.repeat([[4] * 4 + [9] * 4], SIZE, axis=0)[..., None]
    dy = np.where(np.arange(SIZE) < 4, 0, 2)[:, None, None]
    tiles = segment(make_result(image, [1.0], dy=dy), 0)
    assert (tiles.count, tiles.mean_area) == (4, 16.0)
    np.testing.assert_array_equal(tiles.label, flood_fill(image[..., 0] * 10 + dy[..., 0]))


def test_an_offset_around_the_border_continues_the_tile():
    """A circular machine's source wraps: pixel 7 copies column 1, which is still two to the right."""
    tiles = segment(make_result(np.full((SIZE, SIZE, 1), 3), [1.0], dx=2), 0)
    assert tiles.count == 1


def test_muted_pixels_count_for_no_tile():
    effective = np.full((SIZE, SIZE), 3.0)
    effective[:2] = MUTED_ABOVE + 1
    tiles = segment(make_result(np.full((SIZE, SIZE, 1), 3), [1.0], effective=effective), 0)
    np.testing.assert_array_equal(tiles.muted, effective > MUTED_ABOVE)
    assert (tiles.count, tiles.mean_area) == (1, (SIZE - 2) * SIZE)
    assert not set(tiles.label[tiles.muted]) & set(tiles.label[~tiles.muted])


def test_an_image_without_a_single_source_has_no_tiles():
    tiles = segment(make_result(np.full((SIZE, SIZE, 1), 3), [1.0], effective=1e6), 0)
    assert (tiles.count, tiles.mean_area) == (0, 0.0)


def confetti() -> np.ndarray:
    """Every pixel's heaviest candidate is another image; image 100 is everyone's second."""
    image = np.arange(SIZE * SIZE).reshape(SIZE, SIZE, 1)
    return np.concatenate([image, np.full_like(image, 100)], axis=2)


def test_coherent_attribution_finds_the_source_that_neighbours_share():
    weight = np.array([0.4, 0.3])
    assert segment(make_result(confetti(), weight), 0).count == SIZE * SIZE
    tiles = segment(make_result(confetti(), weight), 0, factor=1.5)
    assert tiles.count == 1
    assert (tiles.image == 100).all()


def test_coherent_attribution_stays_within_the_factor():
    weight = np.array([0.4, 0.3])
    assert segment(make_result(confetti(), weight), 0, factor=1.2).count == SIZE * SIZE
    random = np.random.default_rng(2)
    image, weights = random.integers(0, 3, (SIZE, SIZE, 4)), -np.sort(-random.random((SIZE, SIZE, 4)), axis=2)
    tiles = segment(make_result(image, weights), 0, factor=2.0)
    chosen = np.take_along_axis(weights, tiles.choice[..., None], axis=2)[..., 0]
    assert (chosen * 2.0 >= weights[..., 0] - 1e-6).all()


@pytest.mark.parametrize("factor", [1.5, 3.0, 10.0])
def test_coherent_attribution_joins_more_neighbours_than_exact(factor):
    random = np.random.default_rng(5)
    joined = np.zeros(2, dtype=int)
    for _ in range(10):
        image, weights = random.integers(0, 4, (SIZE, SIZE, 4)), -np.sort(-random.random((SIZE, SIZE, 4)), axis=2)
        for which, chosen in enumerate(segment(make_result(image, weights), 0, f).image for f in (1.0, factor)):
            joined[which] += (chosen[1:] == chosen[:-1]).sum() + (chosen[:, 1:] == chosen[:, :-1]).sum()
    assert joined[1] > 1.2 * joined[0]


def test_without_agreement_the_heavier_candidate_stays():
    source = np.arange(SIZE * SIZE * 3).reshape(SIZE, SIZE, 3)
    assert not continue_neighbours(source, np.ones(source.shape, dtype=bool)).any()


def test_missing_candidates_are_never_chosen():
    image = np.full((SIZE, SIZE, 3), -1)
    image[..., 0] = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    tiles = segment(make_result(image, [1.0, 0.0, 0.0]), 0, factor=1e9)
    assert (tiles.image >= 0).all()


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_stitching_pastes_the_chosen_sources_own_pixels(factor):
    random = np.random.default_rng(3)
    image = random.choice([2, 5, 11], (SIZE, SIZE, 3))
    dy, dx = random.integers(-2, 3, (2, SIZE, SIZE, 3))
    sources = random.integers(0, 256, (3, 3, SIZE, SIZE), dtype=np.uint8)
    result = dataclasses.replace(make_result(image, dy=dy, dx=dx), source_images=sources)
    tiles = segment(result, 0, factor)
    stitched = stitch(result, 0, tiles)
    assert stitched.shape == (3, SIZE, SIZE)
    assert stitched.dtype == np.uint8
    for y, x in np.ndindex(SIZE, SIZE):
        k = tiles.choice[y, x]
        place = {2: 0, 5: 1, 11: 2}[image[y, x, k]]
        source = sources[place, :, (y + dy[y, x, k]) % SIZE, (x + dx[y, x, k]) % SIZE]
        np.testing.assert_array_equal(stitched[:, y, x], source)


def test_segmenting_changes_nothing():
    image = np.random.default_rng(4).integers(0, 4, (SIZE, SIZE, 3))
    result = make_result(image)
    segment(result, 0, factor=5.0)
    np.testing.assert_array_equal(result.top_image[0], image)
