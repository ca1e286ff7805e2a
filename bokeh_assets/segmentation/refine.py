"""Edges of a matte by the colours beside them.

A network's matte is smooth at the size of its own grid and knows nothing of finer outlines. Beside an edge a pixel is
a mixture I = a F + (1 - a) B of the subject's light F and the background's B; where both are known well enough and
differ, a can be read off. Where they are not, which textures and like colours decide, the matte stays as it was: a
filter that always follows the picture lets texture into the matte and makes it worse.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

REACH = 1 / 200  # of the larger side: how far from its outline a matte on a grid of 256 may be wrong
SURE = 0.04  # this close to 0 and 1 a matte is sure of itself
DOUBT = 0.03, 0.15  # standard deviation of a matte's own error near its outline, where it is sure and where it is 0.5
CAUTION = 4  # texture goes on beyond the window it was read in: its spread counts so many times
NOISE = 0.01  # standard deviation of a pixel's light, 0..1


def refined(frame: NDArray[np.uint8], matte: NDArray[np.float32]) -> NDArray[np.float32]:
    """The matte with its outline moved to where the colours say it is, as far as they can say.

    Both estimates of a pixel, the matte's and the colours', are averaged by how much each is worth: the inverse of
    its variance, which for the colours follows from how much either side varies and how far apart the sides are.

    Args:
        frame: uint8 RGB (H, W, 3).
        matte: float32 (H, W), 0..1.

    Returns:
        float32 (H, W), 0..1; outside of a narrow band round the outline the matte as it was.
    """
    reach = max(2, round(REACH * max(matte.shape)))
    solid = (matte > 0.5).astype(np.uint8)
    near = np.ones((2 * reach + 1,) * 2, np.uint8)
    unsure = ((matte > SURE) & (matte < 1 - SURE)).astype(np.uint8)
    rim = cv2.morphologyEx(solid, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    band = cv2.dilate(rim | unsure, near) > 0
    if not band.any():
        return matte
    rows, columns = np.flatnonzero(band.any(1)), np.flatnonzero(band.any(0))
    margin = 4 * reach
    here = (
        slice(max(0, rows[0] - margin), rows[-1] + margin + 1),
        slice(max(0, columns[0] - margin), columns[-1] + margin + 1),
    )
    light = LIGHT[frame[here]]
    inside, outside = (_Side(light, (solid[here] == value) & ~band[here], 3 * reach) for value in (1, 0))
    line = inside.mean - outside.mean
    length = (line * line).sum(2)
    share = np.clip(((light - outside.mean) * line).sum(2) / np.maximum(length, 1e-6), 0, 1)
    beside = light - outside.mean - share[..., None] * line  # what no mixture of the two sides explains
    spread = share**2 * inside.spread + (1 - share) ** 2 * outside.spread + (beside * beside).sum(2) + NOISE**2
    least, most = DOUBT
    doubt = least + 4 * most * matte[here] * (1 - matte[here])
    worth = doubt**2 / (doubt**2 + CAUTION * spread / np.maximum(length, 1e-6))
    worth = worth * (inside.known & outside.known & band[here])
    result = matte.copy()
    result[here] += (worth * (share - matte[here])).astype(np.float32)
    return result


class _Side:
    """What one side of the outline looks like, read within `reach` pixels.

    Attributes:
        mean: (H, W, 3) light.
        spread: (H, W), variance of the light summed over the channels.
        known: (H, W), whether any of the side is within reach.
    """

    def __init__(self, light: NDArray[np.float32], where: NDArray[np.bool_], reach: int) -> None:
        window = (2 * reach + 1,) * 2
        weight = where.astype(np.float32)

        def summed(values: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.asarray(cv2.boxFilter(values, cv2.CV_32F, window, normalize=False), np.float32)

        count = summed(weight)
        self.known = count > 0.5
        count = np.maximum(count, 1)
        self.mean = summed(light * weight[..., None]) / count[..., None]
        square = summed((light * light).sum(2) * weight) / count
        self.spread = np.maximum(square - (self.mean * self.mean).sum(2), 0)


_levels = np.arange(256, dtype=np.float32) / 255
LIGHT: NDArray[np.float32] = np.where(_levels <= 0.04045, _levels / 12.92, ((_levels + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)
