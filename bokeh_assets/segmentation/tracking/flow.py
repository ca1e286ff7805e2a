"""Dense motion between two frames and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Motion:
    """Where each pixel of the new frame was in the old one.

    Attributes:
        back: float32 (H, W, 2), x and y offset in pixels from the new frame to the old.
        trust: float32 (H, W), 1 where going there and coming back ends at the start, falling to 0 where it
            does not (hidden, uncovered or blurred places).
        uncovered: bool (H, W), places no pixel of the old frame moved to: they were hidden before.
        camera: float32 (2, 3), the affine motion of the scene, new frame to old.
    """

    back: NDArray[np.float32]
    trust: NDArray[np.float32]
    uncovered: NDArray[np.bool_]
    camera: NDArray[np.float32]

    def warp(self, old: NDArray[np.float32]) -> NDArray[np.float32]:
        """`old` (H, W) seen from the new frame; 0 where the motion comes from outside the picture."""
        return sample(old, self.back)


def sample(image: NDArray[np.float32], offset: NDArray[np.float32]) -> NDArray[np.float32]:
    """`image` (H, W) read at each pixel's own place plus `offset` (H, W, 2), bilinear."""
    height, width = image.shape
    x = offset[..., 0] + np.arange(width, dtype=np.float32)
    y = offset[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0.0)


class FlowEstimator:
    """DIS optical flow (Kroeger et al., ECCV 2016) both ways between two grey frames."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._fast = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def between(self, old: NDArray[np.uint8], new: NDArray[np.uint8]) -> Motion:
        """Motion from grey uint8 (H, W) `old` to `new`."""
        back = self._dis.calc(new, old, None)
        forth = self._dis.calc(old, new, None)
        return Motion(back, _trust(back, forth), _uncovered(forth), _camera(back))

    def camera(self, old: NDArray[np.uint8], new: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Only the affine motion of the scene (2, 3), new frame to old."""
        return _camera(self._fast.calc(new, old, None))


def _uncovered(forth: NDArray[np.float32]) -> NDArray[np.bool_]:
    height, width = forth.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    to_x = np.clip(np.rint(x + forth[..., 0]).astype(np.int32), 0, width - 1)
    to_y = np.clip(np.rint(y + forth[..., 1]).astype(np.int32), 0, height - 1)
    reached = np.zeros((height, width), np.uint8)
    reached[to_y, to_x] = 1
    return cv2.morphologyEx(reached, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) == 0


def _trust(back: NDArray[np.float32], forth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Forward-backward consistency (Sundaram et al., ECCV 2010), as a soft weight instead of a test."""
    dx = sample(forth[..., 0], back) + back[..., 0]
    dy = sample(forth[..., 1], back) + back[..., 1]
    length = np.einsum("hwc,hwc->hw", back, back)
    return np.exp(-(dx * dx + dy * dy) / (1.0 + 0.05 * length)).astype(np.float32)


def _camera(back: NDArray[np.float32]) -> NDArray[np.float32]:
    """The affine motion most of the picture follows, fitted to a sparse lattice by RANSAC."""
    height, width = back.shape[:2]
    step = max(4, min(height, width) // 24)
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    new = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
    old = new + back[y, x].reshape(-1, 2)
    cv2.setRNGSeed(0)
    found, _ = cv2.estimateAffinePartial2D(new, old, ransacReprojThreshold=1.0)
    if found is None:
        shift = np.median(old - new, axis=0)
        found = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    return found.astype(np.float32)
