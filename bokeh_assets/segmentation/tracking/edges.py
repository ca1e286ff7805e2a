"""From the working matte to the full picture: a soft rim that follows the picture's own edges."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def refine(picture: NDArray[np.uint8], coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    """The matte at the picture's size.

    In a thin band around the rim each pixel is explained as a mix of the mean subject and mean background colour
    nearby, alpha = (I - B)·(F - B) / |F - B|^2, and that is believed as far as the two colours differ more than
    each varies; elsewhere the coarse matte stands. The rim errs outwards by a pixel, which a renderer forgives
    more than a cut subject.

    Args:
        picture: uint8 RGB (H, W, 3) at full size.
        coarse: float32 (h, w) matte at working size.

    Returns:
        float32 (H, W), 0..1.
    """
    height, width = picture.shape[:2]
    result = np.zeros((height, width), np.float32)
    if coarse.max() < 0.5:
        return result
    factor = max(width / coarse.shape[1], 1.0)
    ys, xs = np.where(coarse > 0.05)
    pad = 12
    y0, y1 = max(int((ys.min() - pad) * height / coarse.shape[0]), 0), int((ys.max() + pad) * height / coarse.shape[0])
    x0, x1 = max(int((xs.min() - pad) * width / coarse.shape[1]), 0), int((xs.max() + pad) * width / coarse.shape[1])
    box = np.s_[y0:y1, x0:x1]
    matte = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[box]
    matte = cv2.GaussianBlur(matte, (0, 0), 0.6 * factor)
    inside = (matte > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)
    band = 1.5 * factor + 1.0
    smooth = np.clip(0.5 + depth / (1.6 * factor), 0, 1)  # the plain soft rim where colours cannot tell
    colours = picture[box].astype(np.float32) / np.float32(255)
    side = 2 * round(5 * factor) + 1
    front, front_spread, front_seen = _local(colours, (depth > band).astype(np.float32), side)
    back, back_spread, back_seen = _local(colours, (depth < -band).astype(np.float32), side)
    apart = front - back
    length = _dot(apart, apart)
    mixed = np.clip(_dot(colours - back, apart) / (length + 1e-4), 0, 1)
    trust = length / (length + 2.0 * (front_spread + back_spread) + 0.002)
    trust = trust**2 * np.minimum(1, 10 * front_seen) * np.minimum(1, 10 * back_seen)
    trust *= np.clip(1.5 - np.abs(depth) / band, 0, 1)
    alpha = smooth + trust * (mixed - smooth)
    alpha = np.where(depth > 1.5 * band, 1, np.where(depth < -1.5 * band, 0, alpha)).astype(np.float32)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    result[box] = np.clip(cv2.dilate(cv2.GaussianBlur(alpha, (3, 3), 0), cross), 0, 1)
    return result


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.einsum("hwc,hwc->hw", a, b))


def _local(
    colours: NDArray[np.float32], weight: NDArray[np.float32], side: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Mean colour (H, W, 3), its variance summed over channels (H, W) and the share of known pixels around."""
    seen = cv2.boxFilter(weight, -1, (side, side))
    total = cv2.boxFilter(colours * weight[..., None], -1, (side, side))
    square = cv2.boxFilter(_dot(colours, colours) * weight, -1, (side, side))
    mean = total / (seen[..., None] + 1e-4)
    spread = np.maximum(square / (seen + 1e-4) - _dot(mean, mean), 0)
    return mean, spread, seen
