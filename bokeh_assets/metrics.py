"""How good a rendered video is, in numbers that can be compared.

Edge preservation, its smoothness over time and the relative motion error are those of
"Any-to-Bokeh" (arXiv:2505.21593).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.errors import InputError


def vepi(result: NDArray[np.uint8], source: NDArray[np.uint8], matte: NDArray[np.float32]) -> float:
    """Edge preservation in the subject: 1 where its edges are as they were, towards 0 the more they are lost.

    The correlation of Sobel magnitudes of both pictures within the matte dilated by 5x5 (any-to-bokeh's VEPI).

    Args:
        result: uint8 RGB (H, W, 3).
        source: uint8 RGB (H, W, 3).
        matte: float32 (H, W), more than 0.5 is subject.

    Returns:
        Correlation in -1..1; 1 where the subject is empty or has no edges at all.
    """
    inside = cv2.dilate((matte > 0.5).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if not inside.any():
        return 1.0
    a, b = (_edges(picture)[inside].astype(np.float64) for picture in (result, source))
    if a.std() < 1e-9 or b.std() < 1e-9:
        return 1.0 if np.allclose(a, b) else 0.0
    return float(np.corrcoef(a, b)[0, 1])


def smoothness(scores: Sequence[float]) -> float:
    """How evenly a score per frame, such as VEPI, runs: one less the deviation of its steps from frame to frame.

    Returns:
        1 where it never changes or changes steadily, and for fewer than three frames.
    """
    steps = np.diff(np.asarray(scores, dtype=np.float64))
    return 1.0 - float(steps.std()) if len(steps) > 1 else 1.0


def motion_error(results: Iterable[NDArray[np.uint8]], truths: Iterable[NDArray[np.uint8]]) -> float:
    """RM: how far changes from frame to frame are from the true ones, mean |dresult - dtruth|, 0..2 of full scale.

    Args:
        results, truths: uint8 (H, W, 3) each; only two frames of each are held.

    Returns:
        0 where everything moves as it should, and for a single frame.

    Raises:
        InputError: one of the two is longer.
    """
    total, steps = 0.0, 0
    before: NDArray[np.float32] | None = None
    for i, (result, truth) in enumerate(_together(results, truths)):
        if result.shape != truth.shape:
            raise InputError(f"frame {i} is {result.shape}, the true one {truth.shape}; compare pictures of one size")
        error = result.astype(np.float32) - truth
        if before is not None:
            total += float(np.abs(error - before).mean(dtype=np.float64)) / 255
            steps += 1
        before = error
    return total / max(steps, 1)


def flicker(
    results: Iterable[NDArray[np.uint8]], sources: Iterable[NDArray[np.uint8]], still: float = 2 / 255
) -> float:
    """Flicker where nothing moves: mean change from frame to frame of the result where the source stands still.

    Args:
        results, sources: uint8 (H, W, 3) each; only two frames of each are held.
        still: a place stands still where all of its 3x3 neighbourhood in the source changes by no more, 0..1.

    Returns:
        0..1 of full scale; 0 where no place of any frame stands still.

    Raises:
        InputError: one of the two is longer, or sizes differ.
    """
    total, count = 0.0, 0
    before: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    for i, (result, source) in enumerate(_together(results, sources)):
        if result.shape != source.shape:
            raise InputError(f"frame {i} is {result.shape}, its source {source.shape}; compare pictures of one size")
        now = (result.astype(np.float32), source.astype(np.float32))
        if before is not None:
            moved = np.abs(now[1] - before[1]).max(axis=2) > still * 255 + 1e-3
            quiet = cv2.dilate(moved.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
            changes = np.abs(now[0] - before[0])[quiet]
            total += float(changes.sum(dtype=np.float64)) / 255
            count += changes.size
        before = now
    return total / max(count, 1)


def _together(
    a: Iterable[NDArray[np.uint8]], b: Iterable[NDArray[np.uint8]]
) -> Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    try:
        yield from zip(a, b, strict=True)
    except ValueError as error:
        raise InputError("the two videos have different numbers of frames; compare whole videos") from error


def _edges(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
