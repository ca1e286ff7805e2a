"""What lies behind: the scene without the subject, and what changes around a frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from bokeh_assets.media.frames import Frames
from bokeh_assets.segmentation.tracking.flow import FlowEstimator

NOISE = 6.0
"""Colour difference, in levels of 255, that noise and compression make between equal pixels."""

OFFSETS = (3, 6, 10, 15, 21, 28, 36)
"""Distances in frames at which `survey` looks, before and after."""

_LIKENESS = np.exp(-(np.arange(256, dtype=np.float32) ** 2) / (2 * NOISE**2))


class Plate:
    """The surroundings as they were last seen at each place, kept in the camera's present view.

    Args:
        height, width: size of the working pictures.
    """

    def __init__(self, height: int, width: int) -> None:
        self._colour = np.zeros((height, width, 3), np.float32)
        self._sure = np.zeros((height, width), np.float32)
        self._pending = np.eye(3, dtype=np.float32)  # camera motion not yet applied, new to old

    def move(self, camera: NDArray[np.float32]) -> None:
        """Follow the camera; `camera` is the affine motion (2, 3) from the new frame to the old."""
        self._pending = self._pending @ np.vstack([camera, [0, 0, 1]]).astype(np.float32)
        height, width = self._sure.shape
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float32)
        if np.abs(corners @ self._pending[:2].T - corners[:, :2]).max() < 0.4:
            return  # every warp blurs; wait until it matters
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        matrix = self._pending[:2]
        self._colour = cv2.warpAffine(
            self._colour, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        self._sure = cv2.warpAffine(self._sure, matrix, (width, height), flags=flags)
        self._pending = np.eye(3, dtype=np.float32)

    def learn(self, picture: NDArray[np.uint8], surely_rest: NDArray[np.bool_]) -> None:
        """Take over uint8 RGB (H, W, 3) where it surely is not the subject."""
        rate = np.where(self._sure > 0.5, 0.2, 1.0) * surely_rest
        self._colour += rate[..., None].astype(np.float32) * (picture - self._colour)
        self._sure += (surely_rest & (self._sure < 1)) * np.float32(0.5)
        np.minimum(self._sure, 1, out=self._sure)

    def learn_hidden(self, found: Survey) -> None:
        """Take over what a survey saw where nothing is known yet."""
        new = (self._sure < 0.25) & (found.sure > 0.7)
        self._colour[new] = found.behind[new]
        self._sure[new] = 0.5

    def evidence(self, picture: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How well each pixel agrees with the plate, 0..1, and how sure the plate is there, 0..1."""
        return _LIKENESS[_difference(picture, np.rint(self._colour).astype(np.uint8))], self._sure


def _difference(picture: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Largest channel's distance to the range of colours within a pixel around, uint8 (H, W).

    The range instead of the colour itself forgives half a pixel of misregistration on any edge.
    """
    kernel = np.ones((3, 3), np.uint8)
    over = cv2.subtract(picture, cv2.dilate(reference, kernel))
    under = cv2.subtract(cv2.erode(reference, kernel), picture)
    red, green, blue = cv2.split(cv2.max(over, under))
    return cv2.max(cv2.max(red, green), blue)


@dataclass(frozen=True)
class Survey:
    """What the frames around one frame tell about it, once the camera's motion is taken out.

    Attributes:
        change: float32 (H, W), the share of those frames that look different at each place. Near 1: something
            that is elsewhere in most of them. 0: it stays where the scene stays.
        behind: float32 (H, W, 3), the colour that the differing frames agree on: what shows when it is gone.
        sure: float32 (H, W), 0..1, how well they agree.
    """

    change: NDArray[np.float32]
    behind: NDArray[np.float32]
    sure: NDArray[np.float32]


def survey(frames: Frames, at: int) -> Survey:
    """Compare frame `at` with the ones around it."""
    flow = FlowEstimator()
    picture = frames[at]
    height, width = picture.shape[:2]
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    others = [at + sign * offset for offset in OFFSETS for sign in (1, -1) if 0 <= at + sign * offset < len(frames)]
    seen, changed = np.full((height, width), 1e-6, np.float32), np.zeros((height, width), np.float32)
    views, changes = [], []
    for index in others:
        other = frames[index]
        camera = flow.camera(cv2.cvtColor(other, cv2.COLOR_RGB2GRAY), grey)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        view = cv2.warpAffine(other, camera, (width, height), flags=flags)
        inside = cv2.warpAffine(np.full((height, width), 255, np.uint8), camera, (width, height), flags=flags) > 250
        differs = (_difference(picture, view) > 2 * NOISE) & inside
        if differs.sum() > 0.5 * inside.sum() or inside.mean() < 0.4:
            continue  # another shot, or the camera went too far
        views.append(view)
        changes.append(differs)
        # Near in time counts more: far off, other things may have come where now the scene is seen.
        seen += inside * np.float32(1 / abs(index - at))
        changed += differs * np.float32(1 / abs(index - at))
    if not views:
        nothing = np.zeros((height, width), np.float32)
        return Survey(nothing, picture.astype(np.float32), nothing)
    stack = np.stack(changes)
    behind = picture.astype(np.float32)
    sure = np.zeros((height, width), np.float32)
    _agree(np.stack(views), stack, behind, sure)
    return Survey(changed / seen, behind, sure)


@njit(cache=True)
def _agree(views, differs, behind, sure):
    """Where three views or more differ from the picture: their median and the share of them close to it."""
    count, height, width = differs.shape
    values = np.empty(count, np.float32)
    for y in range(height):
        for x in range(width):
            n = 0
            for i in range(count):
                n += differs[i, y, x]
            if n < 3:
                continue
            for channel in range(3):
                k = 0
                for i in range(count):
                    if differs[i, y, x]:
                        values[k] = views[i, y, x, channel]
                        k += 1
                behind[y, x, channel] = np.median(values[:n])
            near = 0
            for i in range(count):
                if differs[i, y, x]:
                    worst = 0.0
                    for channel in range(3):
                        worst = max(worst, abs(views[i, y, x, channel] - behind[y, x, channel]))
                    near += worst < 2 * NOISE
            sure[y, x] = near / n
