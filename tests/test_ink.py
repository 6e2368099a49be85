"""Runs of ink in the rows of a garment: closed cases."""

import numpy as np

from lm_core import ink


def picture(row: str, rows: int = 8) -> np.ndarray:
    return np.array([[255 if mark == "#" else 0 for mark in row]] * rows, np.uint8)[None]


def test_separate_stretches_are_counted():
    for row, count in (
        ("..........", 0),
        ("##########", 1),
        (".##....##.", 2),
        ("##.##.##..", 3),
        ("#..##..#..", 1),
        ("#.#.#.#.#.", 0),
        ("........##", 1),
    ):
        assert ink.runs(picture(row), (0, 8)).tolist() == [count], row


def test_the_median_row_of_the_band_decides():
    image = np.concatenate([picture(".##....##.", 5), picture("##########", 4)], axis=1)
    assert ink.runs(image, (0, 9)).tolist() == [2]
    assert ink.runs(image, (4, 9)).tolist() == [1]


def test_shares_add_up():
    shares = ink.shares(np.array([2, 2, 1, 3]))
    assert shares == {1: 0.25, 2: 0.5, 3: 0.25}
