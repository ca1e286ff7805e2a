"""Nearness from parallax: what still moves after the camera's motion is taken out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.depth.smoothing import smooth_along_edges

_LEAST = 0.8  # pixels of parallax at the map's width below which it says nothing
_SHARE = 0.5  # how much of the map parallax decides where it is sure


def corrected_by_parallax(
    disparity: NDArray[np.float32], plate: NDArray[np.uint8], views: Sequence[NDArray[np.uint8]]
) -> NDArray[np.float32]:
    """A scene's disparity, raised where the picture shifts against its dominant plane.

    After the homography of that plane is taken out, the rest of the motion is proportional to the disparity
    relative to the plane (plane and parallax: Irani and Anandan, 1996). The median over the views leaves out what
    moves by itself.

    Args:
        disparity: float32 (h, w), from the scene's layout.
        plate: uint8 RGB, median of the views.
        views: uint8 RGB, the frames registered to the plate.

    Returns:
        float32 (h, w).
    """
    height, width = disparity.shape

    def grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.uint8)

    still = grey(plate)
    flow_of = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    shifts, sizes = [], []
    for view in views:
        flow = flow_of.calc(still, grey(view), None)
        shift = np.linalg.norm(flow, axis=2)
        shifts.append(shift)
        sizes.append(float(np.quantile(shift, 0.95)))
    largest = max(sizes)
    if largest < _LEAST:
        return disparity
    # Only views that are well away from the plate tell parallax from noise.
    telling = [shift / size for shift, size in zip(shifts, sizes, strict=True) if size > max(_LEAST, 0.3 * largest)]
    near = np.clip(np.median(telling, axis=0), 0, 1).astype(np.float32)

    gradient = np.abs(cv2.Sobel(still, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(still, cv2.CV_32F, 0, 1))
    texture = np.clip(cv2.blur(gradient, (7, 7)) / 60, 0, 1).astype(np.float32)
    guide = cv2.resize(plate, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    near = smooth_along_edges(near, guide, strength=60.0, sigma=10.0, confidence=texture + np.float32(1e-3))
    trust = _SHARE * smooth_along_edges(texture, guide, strength=20.0, sigma=10.0) * min(1.0, largest / (3 * _LEAST))
    if np.corrcoef(near.ravel(), disparity.ravel())[0, 1] < -0.3:
        near = 1 - near  # the camera followed the near plane, so the far one shifts
    least, most = np.quantile(disparity, (0.05, 0.95))
    return ((1 - trust) * disparity + trust * (least + (most - least) * near)).astype(np.float32)
