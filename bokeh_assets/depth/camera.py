"""How the camera moves: every frame of a shot registered to an anchor frame by a homography."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Homography = NDArray[np.float64]
"""(3, 3); maps pixels (x, y, 1) of a frame to pixels of its anchor, at the size that was registered."""

WIDTH = 480
"""Width in pixels at which frames are registered."""

_STILL = 0.2  # pixels; below it the camera stands still
_REACH = 0.18  # share of the picture's diagonal the picture may move before a new anchor is set
_FEATURES = 400


@dataclass
class Stretch:
    """Consecutive frames that are registered to one anchor, which is the first of them."""

    first: int
    to_anchor: list[Homography] = field(default_factory=list)
    """One per frame of the stretch; the first is the identity."""
    next_anchor: Homography | None = None
    """Maps the next stretch's anchor to this one's; None in the last stretch of a shot."""

    @property
    def last(self) -> int:
        return self.first + len(self.to_anchor) - 1

    def moves(self) -> bool:
        """Whether the camera moves at all."""
        return any(not np.array_equal(h, np.eye(3)) for h in self.to_anchor)


def small_grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture in grey at `WIDTH`."""
    height = max(16, round(picture.shape[0] * WIDTH / picture.shape[1]))
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (WIDTH, height), interpolation=cv2.INTER_AREA).astype(np.uint8)


def follow_camera(pictures: Iterable[NDArray[np.uint8]], first: int) -> list[Stretch]:
    """Register the frames of one shot.

    Args:
        pictures: uint8 grey (H, WIDTH), see `small_grey`; one is held at a time.
        first: number of the first frame.
    """
    stretches = [Stretch(first)]
    anchor = previous = None
    corners: NDArray[np.float32] | None = None
    guess = np.eye(3)
    for picture in pictures:
        if anchor is None or previous is None:
            anchor, corners = picture, _corners(picture)
            stretches[-1].to_anchor.append(np.eye(3))
        else:
            found = _register(anchor, picture, corners, guess)
            if found is None or _shift(found, picture.shape) > _REACH:
                # The frame before becomes the anchor; what moved between the two is at most one frame's motion.
                step = _register(previous, picture, _corners(previous), np.eye(3))
                if len(stretches[-1].to_anchor) > 1:
                    stretches[-1].next_anchor = stretches[-1].to_anchor.pop()
                    stretches.append(Stretch(stretches[-1].last + 1, [np.eye(3)]))
                    anchor, corners = previous, _corners(previous)
                found = np.eye(3) if step is None else step
            stretches[-1].to_anchor.append(found)
            guess = found
        previous = picture
    last = stretches[-1]
    if len(last.to_anchor) > 1 and last.moves():
        # So that what comes into view towards the end is seen by an anchor too.
        last.next_anchor = last.to_anchor.pop()
        stretches.append(Stretch(last.last + 1, [np.eye(3)]))
    return stretches


def at_size(homography: Homography, scale: float) -> Homography:
    """The same motion in a picture `scale` times as large."""
    grow = np.diag([scale, scale, 1.0])
    return grow @ homography @ np.linalg.inv(grow)


def _corners(picture: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    found = cv2.goodFeaturesToTrack(picture, _FEATURES, 0.005, 7)
    return None if found is None else found.reshape(-1, 1, 2).astype(np.float32)


def _register(
    anchor: NDArray[np.uint8], picture: NDArray[np.uint8], corners: NDArray[np.float32] | None, guess: Homography
) -> Homography | None:
    """Motion from picture to anchor; None where it cannot be told."""
    if corners is None or len(corners) < 12:
        return np.eye(3)  # nothing to see, so nothing moves visibly
    start = cv2.perspectiveTransform(corners, np.linalg.inv(guess)).astype(np.float32)
    ahead, ok, _ = cv2.calcOpticalFlowPyrLK(
        anchor, picture, corners, start.copy(), winSize=(15, 15), maxLevel=3, flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(
        picture, anchor, ahead, corners.copy(), winSize=(15, 15), maxLevel=3, flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    good = (ok.ravel() == 1) & (ok_back.ravel() == 1) & (np.linalg.norm(back - corners, axis=2).ravel() < 0.7)
    here, there = ahead[good].reshape(-1, 2), corners[good].reshape(-1, 2)
    if len(here) < max(12, 0.2 * len(corners)):
        return None
    if (np.linalg.norm(here - there, axis=1) < _STILL).mean() > 0.4:
        return np.eye(3)  # most of the picture stands exactly still: what moves is in front of a fixed camera
    spread = np.ptp(here, axis=0) / np.array([picture.shape[1], picture.shape[0]])
    if len(here) >= 40 and spread.min() > 0.5:
        model, inside = cv2.findHomography(here, there, cv2.USAC_MAGSAC, 1.0, maxIters=2000, confidence=0.999)
        if model is not None and inside.mean() > 0.4 and _plausible(model, picture.shape):
            return _settled(model, picture.shape)
    model, inside = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=1.5)
    if model is None or inside.mean() < 0.25:
        return None
    return _settled(np.vstack([model, [0, 0, 1]]), picture.shape)


def _moved_corners(model: Homography, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    height, width = shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    return corners, cv2.perspectiveTransform(corners[:, None], model)[:, 0].astype(np.float64)


def _settled(model: Homography, shape: tuple[int, ...]) -> Homography:
    corners, moved = _moved_corners(model, shape)
    return np.eye(3) if np.linalg.norm(moved - corners, axis=1).max() < _STILL else model / model[2, 2]


def _shift(model: Homography, shape: tuple[int, ...]) -> float:
    corners, moved = _moved_corners(model, shape)
    return float(np.linalg.norm(moved - corners, axis=1).max() / np.hypot(shape[0], shape[1]))


def _plausible(model: Homography, shape: tuple[int, ...]) -> bool:
    _, moved = _moved_corners(model, shape)
    share = cv2.contourArea(moved.astype(np.float32), oriented=True) / (shape[0] * shape[1])
    return bool(cv2.isContourConvex(moved.astype(np.float32)) and 0.4 < share < 2.5)
