"""The thin-lens renderer keeps its contract."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bokeh_assets.errors import InputError
from bokeh_assets.rendering.thin_lens import ThinLensRenderer


def focus(zf: float, k: float, frames: int = 1) -> pd.DataFrame:
    return pd.DataFrame({"frame": range(frames), "zf": zf, "k": k})


def noise(height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def one(frame: np.ndarray, depth: np.ndarray, zf: float, k: float) -> np.ndarray:
    renderer = ThinLensRenderer(device="cpu")
    return next(renderer.render([frame], [depth.astype(np.float32)], None, focus(zf, k)))


def test_without_blur_the_input_comes_back_bit_for_bit() -> None:
    frame = noise()
    depth = np.random.default_rng(2).random(frame.shape[:2])
    assert np.array_equal(one(frame, depth, 0.3, 0), frame)


def test_in_focus_the_input_comes_back_bit_for_bit() -> None:
    frame = noise()
    assert np.array_equal(one(frame, np.full(frame.shape[:2], 0.4), 0.4, 64), frame)


def test_a_point_becomes_a_disc_of_the_contracts_radius() -> None:
    frame = np.zeros((101, 256, 3), np.uint8)
    frame[50, 128] = 255
    light = one(frame, np.full((101, 256), 0.5), 0.1, 80)[:, :, 0] > 0
    assert np.sqrt(light.sum() / np.pi) == pytest.approx(80 * 256 / 1024 * 0.4, rel=0.1)


def test_a_sharp_subject_keeps_its_colour_to_the_edge() -> None:
    frame = np.full((80, 120, 3), (250, 20, 20), np.uint8)
    frame[:, :60] = (20, 20, 250)
    depth = np.zeros((80, 120))
    depth[:, :60] = 1
    out = one(frame, depth, 1.0, 80)
    assert np.abs(out[:, :60].astype(int) - frame[:, :60]).max() <= 1


def test_a_blurred_foreground_spreads_over_what_is_behind() -> None:
    frame = np.full((80, 120, 3), 10, np.uint8)
    frame[:, :60] = 250
    depth = np.zeros((80, 120))
    depth[:, :60] = 1
    out = one(frame, depth, 0.0, 80)[40, :, 0].astype(int)
    assert out[64] > 60 and out[56] < 245
    assert (np.diff(out[45:75]) <= 1).all()


def test_a_frame_without_disparity_is_refused() -> None:
    with pytest.raises(InputError, match="frame 1"):
        list(
            ThinLensRenderer(device="cpu").render([noise()] * 2, [np.zeros((60, 90), np.float32)], None, focus(0, 8, 2))
        )
