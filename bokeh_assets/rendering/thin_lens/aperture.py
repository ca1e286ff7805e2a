"""What a point out of focus looks like."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

OVERSAMPLING = 8  # rows per pixel row when the aperture's edge is drawn


@dataclass(frozen=True)
class Aperture:
    """A convex opening, of the area of the round one whatever its shape.

    Attributes:
        blades: 0 for a disc, else the corners of the polygon.
        rotation: of the blades, in degrees, counter-clockwise as seen.
        anamorphic: height over width.
        scale: of the radius, for one colour of light.
        cut: (x, y) by which a second opening, as large, is shifted over the first, in radii: what the barrel of
            the lens leaves of it away from the middle of the picture.
    """

    blades: int = 0
    rotation: float = 0.0
    anamorphic: float = 1.0
    scale: float = 1.0
    cut: tuple[float, float] = (0.0, 0.0)

    def reach(self, radius: float) -> int:
        """Pixels from the middle that the opening can touch."""
        corner = 1.0
        if self.blades:
            corner = math.sqrt(2 * math.pi / (self.blades * math.sin(2 * math.pi / self.blades)))
        stretch = max(math.sqrt(self.anamorphic), 1 / math.sqrt(self.anamorphic))
        return math.ceil(radius * self.scale * corner * stretch + 0.5)

    def chords(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Left and right end of the opening of radius 1 on rows `y`; left > right where there is none."""
        if self.blades:
            step = 2 * math.pi / self.blades
            # Circumradius for the area of the unit disc; its edges lie `inner` away from the middle.
            inner = math.sqrt(2 * math.pi / (self.blades * math.sin(step))) * math.cos(step / 2)
            left, right = np.full_like(y, -9.0), np.full_like(y, 9.0)
            for blade in range(self.blades):
                angle = math.radians(self.rotation) + blade * step
                across, along = math.cos(angle), -math.sin(angle)
                room = inner - along * y
                if across > 1e-9:
                    right = np.minimum(right, room / across)
                elif across < -1e-9:
                    left = np.maximum(left, room / across)
                else:
                    right = np.where(room < 0, left - 1, right)
        else:
            half = np.sqrt(np.maximum(1 - y * y, 0))
            left, right = np.where(y * y < 1, -half, 1.0), np.where(y * y < 1, half, -1.0)
        if self.cut != (0.0, 0.0):
            v = y - self.cut[1]
            half = np.sqrt(np.maximum(1 - v * v, 0))
            left = np.where(v * v < 1, np.maximum(left, self.cut[0] - half), 1.0)
            right = np.where(v * v < 1, np.minimum(right, self.cut[0] + half), -1.0)
        return left, right


@lru_cache(maxsize=512)
def kernel(radius: float, aperture: Aperture = Aperture()) -> np.ndarray:
    """The aperture as seen at `radius` pixels of defocus: float32 (2n + 1, 2n + 1), sum 1.

    Pixels on the rim count by the share of their area inside.
    """
    if radius * aperture.scale < 0.25:
        return np.ones((1, 1), np.float32)
    n = aperture.reach(radius)
    y = (np.arange((2 * n + 1) * OVERSAMPLING) + 0.5) / OVERSAMPLING - n - 0.5
    tall = radius * aperture.scale * math.sqrt(aperture.anamorphic)
    wide = radius * aperture.scale / math.sqrt(aperture.anamorphic)
    left, right = aperture.chords(y / tall)
    middles = np.arange(2 * n + 1) - n
    cover = np.minimum(right[:, None] * wide, middles + 0.5) - np.maximum(left[:, None] * wide, middles - 0.5)
    picture = np.clip(cover, 0, 1).reshape(2 * n + 1, OVERSAMPLING, 2 * n + 1).mean(axis=1)
    if picture.sum() < 1e-3:
        return np.ones((1, 1), np.float32)
    return (picture / picture.sum()).astype(np.float32)
