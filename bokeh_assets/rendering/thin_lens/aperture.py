"""What a point out of focus looks like."""

from __future__ import annotations

import math

import numpy as np

OVERSAMPLING = 8  # sub-rows per pixel row when the aperture's edge is drawn


def half_chords(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Left and right ends of the disc on fine rows, in pixels from the middle; NaN-free, empty rows are 0 wide."""
    rows = math.ceil(radius + 0.5)
    y = (np.arange((2 * rows + 1) * OVERSAMPLING) + 0.5) / OVERSAMPLING - rows - 0.5
    half = np.sqrt(np.maximum(radius * radius - y * y, 0))
    return -half, half


def kernel(radius: float) -> np.ndarray:
    """The aperture as seen at `radius` pixels of defocus: float32 (2n + 1, 2n + 1), sum 1.

    Pixels on the rim count by the share of their area inside.
    """
    if radius < 0.25:
        return np.ones((1, 1), np.float32)
    left, right = half_chords(radius)
    n = math.ceil(radius + 0.5)
    edges = np.arange(2 * n + 1) - n
    cover = np.minimum(right[:, None], edges + 0.5) - np.maximum(left[:, None], edges - 0.5)
    fine = np.clip(cover, 0, 1)
    picture = fine.reshape(2 * n + 1, OVERSAMPLING, 2 * n + 1).mean(axis=1)
    return (picture / picture.sum()).astype(np.float32)
