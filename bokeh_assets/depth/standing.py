"""The subject put into a scene's disparity, upright where its feet are.

For depth that sees the scene alone (`planes`). Two passes, each holding one frame: `standing_levels` reduces every
frame to the disparity its subject stands at, and `stand_subjects` writes the maps.

    levels = standing_levels(disparity, mattes, seconds, shots)
    maps = stand_subjects(disparity, mattes, levels)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.depth.base import Progress
from bokeh_assets.errors import InputError
from bokeh_assets.steady import local_line, windows

_MIN_AREA = 1e-4  # share of the picture below which a matte is taken for noise
_FOOT = 0.04  # share of the subject's pixels, counted from below, that are its feet
_LANDING_SECONDS = 0.8  # how long off the ground still counts as standing where it was left
_SMOOTHING_SECONDS = 0.3
_OUTWARD = 0.5  # pixels by which the subject's layer reaches beyond its matte: a gap shows more than a surplus


def standing_levels(
    disparity: Iterable[NDArray[np.float32]],
    mattes: Iterable[NDArray[np.float32]],
    seconds: Sequence[float],
    shots: Sequence[int],
    *,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """The disparity at which the subject stands in every frame.

    That is the disparity of the scene at its feet; while it jumps, that of the ground it left and lands on; and never
    less than that of the scene behind it. Smoothed over time with zero phase, never across a cut.

    Args:
        disparity: float32 (H, W) maps of the scene, 0..1, one per frame.
        mattes: float32 (H, W), 0..1, one per frame; they may be empty.
        seconds: presentation time of every frame, rising.
        shots: number of the shot of every frame.
        progress: called with the number of frames done.

    Returns:
        float64, one per frame; NaN where the matte is empty.

    Raises:
        InputError: the inputs differ in their number of frames or in their size.
    """
    times, shot = np.asarray(seconds, np.float64), np.asarray(shots)
    feet, behind = np.full(len(times), np.nan), np.full(len(times), np.nan)
    for index, (scene, matte) in enumerate(_pairs(disparity, mattes, len(times))):
        feet[index], behind[index] = _touch(scene, matte)
        if progress:
            progress(index + 1)
    out = np.full(len(times), np.nan)
    for number in np.unique(shot):
        seen = (shot == number) & ~np.isnan(feet)
        if seen.any():
            when, low = times[seen], feet[seen]
            landed = np.array([np.quantile(low[around], 0.85) for around in windows(when, _LANDING_SECONDS)])
            covered = np.array([behind[seen][around].max() for around in windows(when, _SMOOTHING_SECONDS)])
            out[seen] = local_line(np.maximum(landed, covered), when, _SMOOTHING_SECONDS)
    return out


def stand_subjects(
    disparity: Iterable[NDArray[np.float32]], mattes: Iterable[NDArray[np.float32]], levels: Sequence[float]
) -> Iterator[NDArray[np.float32]]:
    """The scene's maps with the subject in them, one per frame; see `standing_levels` and `stand_subject`."""
    for (scene, matte), level in zip(_pairs(disparity, mattes, len(levels)), levels, strict=True):
        yield stand_subject(scene, matte, level)


def stand_subject(scene: NDArray[np.float32], matte: NDArray[np.float32], level: float) -> NDArray[np.float32]:
    """One map with the subject standing in it as a flat layer, its edge one pixel wide however soft the matte.

    A wide ramp between the two disparities would be a rim of half-blurred background: the halo of cheap bokeh.

    Args:
        scene: float32 (H, W), 0..1.
        matte: float32 (H, W), 0..1.
        level: disparity of the subject; NaN for none, which gives the scene back as it is.

    Returns:
        float32 (H, W), never less than `scene` where the subject is.
    """
    if np.isnan(level):
        return scene
    slope = np.hypot(cv2.Sobel(matte, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(matte, cv2.CV_32F, 0, 1, scale=0.125))
    # Distance in pixels to the line where the matte is one half; its coverage of a pixel is that plus one half.
    inside = np.clip((matte - 0.5) / np.maximum(slope, 1e-3) + 0.5 + _OUTWARD, 0, 1)
    inside[matte < 0.02] = 0
    return (scene + inside * np.maximum(np.float32(level) - scene, 0)).astype(np.float32)


def _touch(scene: NDArray[np.float32], matte: NDArray[np.float32]) -> tuple[float, float]:
    """Disparity of the scene at the subject's feet and (nearly the most) behind it; NaN without a subject."""
    inside = matte > 0.5
    rows = np.cumsum(inside.sum(axis=1)[::-1])[::-1]  # pixels of the subject in this row and below
    if rows[0] < max(1.0, _MIN_AREA * matte.size):
        return float("nan"), float("nan")
    top_of_feet = int(np.flatnonzero(rows >= _FOOT * rows[0])[-1])
    feet = scene[top_of_feet:][inside[top_of_feet:]]
    return float(np.quantile(feet, 0.75)), float(np.quantile(scene[inside], 0.9))


def _pairs(
    disparity: Iterable[NDArray[np.float32]], mattes: Iterable[NDArray[np.float32]], count: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    maps, cuts = iter(disparity), iter(mattes)
    for index in range(count):
        scene, matte = next(maps, None), next(cuts, None)
        if scene is None or matte is None:
            missing = "disparity maps" if scene is None else "mattes"
            raise InputError(f"there are {count} frames but only {index} {missing}: make the {missing} again")
        if scene.shape != matte.shape:
            raise InputError(
                f"frame {index}: the disparity is {scene.shape[1]}x{scene.shape[0]} but the matte is "
                f"{matte.shape[1]}x{matte.shape[0]}: make both from the same frames"
            )
        yield scene, matte
