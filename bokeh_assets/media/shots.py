"""Cuts between shots, found while the frames go by.

Own measure rather than PySceneDetect's: its content score compares pixels in place, so fast pans and jumping subjects
look like cuts, a flash makes two, and it knows no motion. Here every block of a thumbnail looks for itself in the
frame before, within a wide search range; what a cut shows is found nowhere. A few frames of look-ahead tell a cut
(the new picture stays) from a flash or a dropped-in frame (the old picture comes back).

Rules: a hard cut begins a shot at its first frame; a fade through black begins one at the first frame that is no
longer black; black at the very start does not. Dissolves are not cuts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

LOOK_AHEAD = 8
"""Frames that the answer lags behind the pictures."""

_LONG_SIDE = 96
_BLOCK = 12
_SEARCH = 14
"""Pixels of the thumbnail that a block may have moved: 15 % of the long side, per frame."""
_USUAL_CONTRAST = 50.0
"""Standard deviation of the levels of an ordinary daylight picture."""


@dataclass
class _Thumb:
    colour: NDArray[np.uint8]
    blocks: list[tuple[int, int]]
    contrast: float
    black: bool


class ShotDetector:
    """Feed frames, get shot numbers.

    `push` takes a frame and returns the numbers of those frames that are decided now, in order; `finish` returns the
    rest. Together they give one number per frame, from 0, rising by one at each cut. Memory: `LOOK_AHEAD` thumbnails.

    Args:
        threshold: how badly a picture must fit the one before (mean error of 8-bit RGB levels after
            motion compensation) to be a new shot.
        ratio: how much worse than its neighbours in time.
    """

    def __init__(self, threshold: float = 20.0, ratio: float = 2.2) -> None:
        self._threshold, self._ratio = threshold, ratio
        self._thumbs: deque[_Thumb] = deque()
        self._misfits: deque[float] = deque()
        self._past: deque[float] = deque(maxlen=LOOK_AHEAD)
        self._previous: _Thumb | None = None
        self._seen_light = False
        self._shot = 0
        self._passing = False

    def push(self, frame: NDArray[np.uint8]) -> list[int]:
        """Take the next frame (uint8 HxWx3, RGB, any size); numbers of the frames decided by it."""
        thumb = _thumb(frame)
        before = self._thumbs[-1] if self._thumbs else self._previous
        self._misfits.append(0.0 if before is None else misfit(before, thumb))
        self._thumbs.append(thumb)
        return [self._decide()] if len(self._thumbs) > LOOK_AHEAD else []

    def finish(self) -> list[int]:
        """Numbers of the frames still undecided."""
        return [self._decide() for _ in range(len(self._thumbs))]

    def _decide(self) -> int:
        thumb, score = self._thumbs.popleft(), self._misfits.popleft()
        previous = self._previous
        if self._passing and previous is not None:
            score = misfit(previous, thumb)
        self._passing = False
        if previous is not None and (thumb.black or self._stands_out(thumb, previous, score)):
            self._passing = self._returns(previous, score)
        if previous is None or thumb.black or self._passing:
            cut = False
        elif previous.black:
            cut = self._seen_light
        else:
            cut = self._stands_out(thumb, previous, score) and not _relit(previous, thumb, self._limit(thumb, previous))
        if cut:
            self._shot += 1
        # What only passes (a flash) is not what the next frames are compared with.
        if not self._passing:
            self._previous = thumb
        self._seen_light |= not thumb.black
        self._past.append(score)
        return self._shot

    def _limit(self, thumb: _Thumb, other: _Thumb) -> float:
        # A dark or foggy picture differs from the next by fewer levels.
        contrast = max(thumb.contrast, other.contrast) / _USUAL_CONTRAST
        return self._threshold * min(max(contrast, 0.3), 1.0)

    def _stands_out(self, thumb: _Thumb, previous: _Thumb, score: float) -> bool:
        usual = float(np.median([*self._past, *self._misfits] or [0.0]))
        return score >= self._limit(thumb, previous) and score >= self._ratio * usual

    def _returns(self, previous: _Thumb, score: float) -> bool:
        """Does the picture from before come back within the look-ahead?"""
        if previous.black:
            return False
        # Motion goes on meanwhile, so it will not fit as well as it did; but dim pictures always fit a little.
        limit = min(0.6 * score, 0.5 * previous.contrast)
        return any(misfit(previous, later) < limit for later in self._thumbs if not later.black)


def shots(frames: Iterable[NDArray[np.uint8]]) -> Iterator[int]:
    """Shot number of each frame, in order (see `ShotDetector`)."""
    detector = ShotDetector()
    for frame in frames:
        yield from detector.push(frame)
    yield from detector.finish()


def misfit(before: _Thumb, after: _Thumb) -> float:
    """How badly `after` can be built of blocks of `before`: mean absolute error, in 8-bit levels, robust to motion."""
    if np.array_equal(before.colour, after.colour):
        return 0.0
    height, width = after.colour.shape[:2]
    s = _SEARCH
    wide = cv2.copyMakeBorder(before.colour, s, s, s, s, cv2.BORDER_REPLICATE)
    errors = []
    for top, left in after.blocks:
        bottom, right = min(top + _BLOCK, height), min(left + _BLOCK, width)
        block = after.colour[top:bottom, left:right]
        area = wide[top : bottom + 2 * _SEARCH, left : right + 2 * _SEARCH]
        squares = cv2.matchTemplate(area, block, cv2.TM_SQDIFF)
        errors.append(np.sqrt(max(0.0, float(squares.min())) / block.size))
    return float(np.mean(errors))


def _thumb(frame: NDArray[np.uint8]) -> _Thumb:
    height, width = frame.shape[:2]
    scale = _LONG_SIDE / max(height, width)
    size = (max(_BLOCK, round(width * scale)), max(_BLOCK, round(height * scale)))
    colour = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    corners = [(y, x) for y in range(0, size[1] - _BLOCK // 2, _BLOCK) for x in range(0, size[0] - _BLOCK // 2, _BLOCK)]
    black = bool(np.percentile(colour.max(axis=2), 98) < 26)
    return _Thumb(np.asarray(colour, dtype=np.uint8), corners, float(colour.std()), black)


def _relit(before: _Thumb, after: _Thumb, limit: float) -> bool:
    """Is it the same picture under other light: a lamp switched on, a fast fade?"""
    gain = (float(after.colour.mean()) + 1) / (float(before.colour.mean()) + 1)
    lit = np.asarray(cv2.convertScaleAbs(before.colour, alpha=gain), dtype=np.uint8)
    return misfit(replace(before, colour=lit), after) < limit
