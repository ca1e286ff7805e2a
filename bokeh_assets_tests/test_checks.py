"""Asset checks pass on what is right and fail on what is not; previews stay small."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import pandas as pd
import pytest

from bokeh_assets import checks
from bokeh_assets.previews import DRAWN_IN_PLACE, LIMIT, Filmstrip, sparkline


def mattes(areas: list[float], x: int = 0) -> checks.MaskStatistics:
    statistics = checks.MaskStatistics()
    for area in areas:
        matte = np.zeros((90, 160), np.float32)
        matte[:, x : x + round(area * 160)] = 1
        statistics.add(matte)
    return statistics


def outcome(statistics: checks.MaskStatistics, frames: int, shots: list[int] | None = None) -> dict[str, bool]:
    results = statistics.results(shots or [0] * frames, frames)
    return {result.check_name or "": result.passed for result in results}


def test_steady_masks_pass():
    assert outcome(mattes([0.3] * 10), 10) == {
        "one_mask_per_frame": True,
        "subject_visible": True,
        "masks_steady": True,
    }


def test_a_missing_mask_fails():
    assert not outcome(mattes([0.3] * 9), 10)["one_mask_per_frame"]


def test_masks_without_any_subject_fail_and_name_the_frames():
    statistics = mattes([0.0] * 4)
    assert not outcome(statistics, 4)["subject_visible"]
    assert checks.ranges(statistics.empty) == "0-3"


def test_a_hopping_mask_fails_but_not_across_a_cut():
    statistics = mattes([0.2] * 3)
    for _ in range(3):
        matte = np.zeros((90, 160), np.float32)
        matte[:, 100:130] = 1
        statistics.add(matte)
    assert not outcome(statistics, 6)["masks_steady"]
    assert outcome(statistics, 6, [0, 0, 0, 1, 1, 1])["masks_steady"]


def test_a_flickering_mask_fails():
    assert not outcome(mattes([0.3, 0.25] * 8), 16)["masks_steady"]


@pytest.mark.parametrize(
    ("frames", "text"), [([], "none"), ([3], "3"), ([3, 4, 5], "3-5"), ([0, 2, 3, 9], "0, 2-3, 9")]
)
def test_frame_numbers_are_written_as_people_do(frames: list[int], text: str):
    assert checks.ranges(frames) == text


def test_frames_out_of_order_or_missing_fail():
    table = pd.DataFrame({"pts": [0, 1, 2]})
    assert checks.every_frame_in_order(table, 3).passed
    assert not checks.every_frame_in_order(table, 2).passed
    assert not checks.every_frame_in_order(pd.DataFrame({"pts": [0, 2, 1]}), 3).passed


def test_timing_off_by_a_frame_or_a_millisecond_fails():
    times = [0.0, 0.04, 0.08]
    assert checks.timing_kept(times, times, 0.12, 0.12).passed
    assert not checks.timing_kept(times[:2], times, 0.12, 0.12).passed
    assert not checks.timing_kept([0.0, 0.041, 0.08], times, 0.12, 0.12).passed
    assert not checks.timing_kept(times, times, 0.13, 0.12).passed


def test_a_trembling_focus_and_flat_depth_and_a_soft_subject_fail():
    shot = np.zeros(20, int)
    assert checks.focus_steady(pd.DataFrame({"zf": np.linspace(0.2, 0.8, 20), "shot": shot})).passed
    assert not checks.focus_steady(pd.DataFrame({"zf": 0.5 + 0.02 * (-1.0) ** np.arange(20), "shot": shot})).passed
    assert checks.disparity_not_flat([0.4]).passed and not checks.disparity_not_flat([0.01]).passed
    assert checks.subject_sharp([0.95], True).passed and not checks.subject_sharp([0.5], True).passed
    assert checks.subject_sharp([], False).passed


def test_a_filmstrip_of_noise_is_small_enough_for_the_log_and_its_glances_for_the_page():
    noise = np.random.default_rng(0)
    strip = Filmstrip(500, extra=[7])
    for frame in strip.frames:
        strip.add(frame, noise.integers(0, 255, (540, 960, 3), dtype=np.uint8))
    shown = {name: str(value.value) for name, value in strip.metadata().items()}
    assert set(shown) == {"start", "middle", "end", "preview"} and 7 in strip.frames and len(strip.frames) <= 13
    assert all(len(shown[name]) <= DRAWN_IN_PLACE for name in ("start", "middle", "end"))
    data = base64.b64decode(shown["preview"].partition("base64,")[2].rstrip(")"))
    assert len(data) <= LIMIT
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None


def test_a_curve_as_text():
    assert sparkline(np.array([0.0, 0.5, 1.0]), 1.0) == "▁▅█"
