"""Metrics on pictures whose scores are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bokeh_assets.errors import InputError
from bokeh_assets.metrics import flicker, motion_error, smoothness, vepi

GRAIN = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
WHOLE = np.ones((40, 60), np.float32)


def test_edges_that_stay_score_one_and_lost_ones_less():
    soft, softer = (np.asarray(cv2.GaussianBlur(GRAIN, (0, 0), s), np.uint8) for s in (0.6, 3))
    scores = [vepi(picture, GRAIN, WHOLE) for picture in (GRAIN, soft, softer)]
    assert scores[0] == pytest.approx(1) and scores[0] > scores[1] + 0.05 > scores[2] + 0.1


def test_only_the_subject_and_five_by_five_around_it_count():
    matte = np.zeros((40, 60), np.float32)
    matte[10:20, 10:20] = 1
    result = np.zeros_like(GRAIN)
    result[7:23, 7:23] = GRAIN[7:23, 7:23]  # two pixels around, one more for Sobel's reach
    assert vepi(result, GRAIN, matte) == pytest.approx(1)
    assert vepi(result, GRAIN, WHOLE) < 0.9
    assert vepi(GRAIN, GRAIN, np.zeros((40, 60), np.float32)) == 1.0


def test_a_flat_subject_scores_one_only_if_it_stays_flat():
    flat = np.full((40, 60, 3), 90, np.uint8)
    assert vepi(flat, flat, WHOLE) == 1.0
    assert vepi(GRAIN, flat, WHOLE) == 0.0


def test_smoothness_is_lost_by_jumps_not_by_drift():
    assert smoothness([0.5, 0.6, 0.7, 0.8]) == pytest.approx(1)
    assert smoothness([0.5, 0.7, 0.5, 0.7, 0.5]) == pytest.approx(0.8)
    assert smoothness([0.5]) == smoothness([]) == smoothness([0.1, 0.9]) == 1.0


def flat(*levels: int) -> list[np.ndarray]:
    return [np.full((8, 8, 3), level, np.uint8) for level in levels]


def test_motion_error_is_the_difference_of_changes():
    assert motion_error(flat(10, 20, 30), flat(110, 120, 130)) == 0
    assert motion_error(iter(flat(0, 51, 0)), iter(flat(0, 0, 0))) == pytest.approx(0.2)
    assert motion_error(flat(7), flat(9)) == 0


def test_flicker_counts_only_where_the_source_stands_still():
    assert flicker(iter(flat(0, 51)), iter(flat(9, 10))) == pytest.approx(0.2)
    assert flicker(flat(0, 51), flat(0, 200)) == 0
    source, result = flat(0, 0), flat(0, 51)
    source[1][:, 4:] = 200  # the right half moves, and the column beside it may not be judged
    result[1][:, 3:] = 255
    assert flicker(result, source) == pytest.approx(0.2)


@pytest.mark.parametrize("score", [motion_error, flicker])
def test_videos_of_other_lengths_or_sizes_are_refused(score):
    with pytest.raises(InputError, match="different numbers of frames"):
        score(flat(1, 2, 3), flat(1, 2))
    with pytest.raises(InputError, match="pictures of one size"):
        score([GRAIN], flat(1))
