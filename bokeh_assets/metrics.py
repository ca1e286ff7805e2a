"""How good a rendered video is, in numbers that can be compared."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


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


def _edges(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
