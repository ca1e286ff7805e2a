"""Depth and matte that do not flicker.

Estimated depth trembles from frame to frame, and what trembles is the size of every blur. Each value is averaged
with the same pixel some frames before and after, weighted by how much the picture there has stayed as it was: in a
static part noise averages out, where something moves the frame's own value stands. The window looks both ways, so
nothing lags, and it never crosses a cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

SHRINK = 4  # change of the picture is judged on averages of this many pixels squared
MOVED = 4.0  # change of such an average, of 255, at which another frame's word counts 1/e
JUMPED = 0.12  # change of the value itself, likewise
Frame = TypeVar("Frame")


@dataclass(frozen=True)
class Shot:
    """One frame of the window: picture, values to steady, settings that ride along."""

    frame: NDArray[np.uint8]
    small: NDArray[np.float32]
    depth: NDArray[np.float32]
    matte: NDArray[np.float32] | None
    number: int
    zf: float
    k: float


def shrunk(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The picture in averages of `SHRINK` pixels squared."""
    height, width = frame.shape[:2]
    size = (max(1, width // SHRINK), max(1, height // SHRINK))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float32)


@njit(nogil=True, fastmath=True, cache=True)
def _gather(weight, total, own, other, sums):
    """Adds another frame's depth to the sums, by how much picture and depth are as here, which `weight` becomes."""
    scale = np.float32(1 / JUMPED)
    for y in range(weight.shape[0]):
        for x in range(weight.shape[1]):
            share = weight[y, x]
            if share < np.float32(1e-3):
                weight[y, x] = 0
                continue
            jump = (other[y, x] - own[y, x]) * scale
            # In a still part depth is often the same: no need for the exponential.
            if jump != 0:
                share *= np.exp(-jump * jump)
            weight[y, x] = share
            total[y, x] += share
            sums[y, x] += share * other[y, x]


def steadied(middle: Shot, others: Iterable[Shot]) -> Shot:
    """The middle frame with depth and matte averaged over time where the picture stands still."""
    height, width = middle.depth.shape
    total = np.ones((height, width), np.float32)
    depth = middle.depth.astype(np.float32, copy=True)
    matte = None if middle.matte is None else middle.matte.astype(np.float32, copy=True)
    for other in others:
        if other.number != middle.number:
            continue
        change = np.abs(other.small - middle.small).max(axis=2)
        # What moves near by has moved here too: its outline may be finer than the averages.
        change = cv2.dilate(change, np.ones((3, 3), np.uint8))
        same = np.exp(-((change / MOVED) ** 2))
        weight = cv2.resize(same, (width, height), interpolation=cv2.INTER_LINEAR)
        _gather(weight, total, middle.depth, other.depth, depth)
        if matte is not None and other.matte is not None:
            matte += weight * other.matte
    depth /= total
    if matte is not None:
        matte /= total
    return Shot(middle.frame, middle.small, depth, matte, middle.number, middle.zf, middle.k)


def windows(shots: Iterable[Frame], reach: int) -> Iterator[tuple[Frame, list[Frame]]]:
    """Every frame with those up to `reach` before and after; holds 2 * reach + 1 of them."""
    window: deque[Frame] = deque()
    middle = 0
    for shot in shots:
        window.append(shot)
        if len(window) > middle + reach:
            yield window[middle], [s for i, s in enumerate(window) if i != middle]
            middle += 1
            if middle > reach:
                window.popleft()
                middle -= 1
    while middle < len(window):
        yield window[middle], [s for i, s in enumerate(window) if i != middle]
        middle += 1


def steady(shots: Iterable[Shot], reach: int) -> Iterator[Shot]:
    """Every frame, steadied over `reach` frames before and after."""
    for middle, others in windows(shots, reach):
        yield steadied(middle, others)
