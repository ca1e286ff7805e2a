"""Local colour models: which colours belong to the subject here, which to the rest."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

CELL = 8
"""Side of a cell of the models' lattice, in working pixels."""


class Palette:
    """A few colours that stand for all colours of a clip.

    Args:
        pictures: uint8 RGB (H, W, 3) samples of the clip.
        size: number of colours.
    """

    def __init__(self, pictures: Iterable[NDArray[np.uint8]], size: int = 96) -> None:
        samples = [_lab(picture[1::4, 1::4]).reshape(-1, 3) for picture in pictures]
        pixels = np.concatenate(samples)
        pixels = pixels[:: max(1, len(pixels) // 24000)]
        cv2.setRNGSeed(0)
        criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 12, 0.5)
        size = min(size, len(pixels))
        _, _, centres = cv2.kmeans(pixels, size, None, criteria, 1, cv2.KMEANS_PP_CENTERS)
        levels = np.arange(2, 256, 4, dtype=np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(64, -1, 3)
        lab = _lab(cube).reshape(-1, 3)
        square = (centres**2).sum(axis=1)
        nearest = [np.argmin(square - 2 * part @ centres.T, axis=1) for part in np.array_split(lab, 16)]
        self._table = np.concatenate(nearest).astype(np.int32)
        distance = ((centres[:, None] - centres[None]) ** 2).sum(axis=2)
        mix = np.exp(-distance / (2 * 5.0**2))
        self.mix = (mix / mix.sum(axis=1, keepdims=True)).astype(np.float32)
        self.size = size

    def index(self, picture: NDArray[np.uint8]) -> NDArray[np.int32]:
        """The nearest colour's number for each pixel of uint8 RGB (H, W, 3)."""
        rgb = picture.astype(np.int32) >> 2
        return self._table[(rgb[..., 0] << 12) | (rgb[..., 1] << 6) | rgb[..., 2]]


def _lab(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    lab[..., 0] *= 0.6  # shading changes lightness more than it changes hue
    return lab


class LocalColours:
    """How much of each palette colour was seen around each place, over the last frames.

    A lattice of cells covers the picture; it is moved along with what it describes, so that a colour is
    expected where the thing that wore it has gone.
    """

    def __init__(self, palette: Palette, height: int, width: int, reach: float) -> None:
        self._palette = palette
        self._rows, self._columns = -(-height // CELL), -(-width // CELL)
        self._mass = np.zeros((palette.size, self._rows, self._columns), np.float32)
        self._spread: NDArray[np.float32] | None = None
        self._reach = reach
        y, x = np.mgrid[0:height, 0:width]
        self._cell = (y // CELL) * self._columns + x // CELL
        self._rest = np.zeros(2, np.float64)  # part of the motion smaller than a cell, x and y

    def move(self, dx: float, dy: float) -> None:
        """Shift the model by whole cells once the described thing has moved that far."""
        self._rest += (dx, dy)
        columns, rows = (int(v) for v in np.round(self._rest / CELL))
        if columns == 0 and rows == 0:
            return
        self._rest -= np.array([columns, rows]) * CELL
        moved = np.zeros_like(self._mass)
        h, w = self._rows, self._columns
        moved[:, max(rows, 0) : h + min(rows, 0), max(columns, 0) : w + min(columns, 0)] = self._mass[
            :, max(-rows, 0) : h + min(-rows, 0), max(-columns, 0) : w + min(-columns, 0)
        ]
        self._mass = moved

    def learn(self, index: NDArray[np.int32], weight: NDArray[np.float32], rate: float) -> None:
        """Blend in a frame: `index` palette numbers, `weight` 0..1 how much each pixel counts."""
        place = index * (self._rows * self._columns) + self._cell
        amount = np.bincount(place.ravel(), weight.ravel(), self._mass.size) / (CELL * CELL)
        seen = amount.astype(np.float32).reshape(self._mass.shape)
        # A cell forgets only as much as it sees: what is hidden now is remembered.
        visible = np.minimum(seen.sum(axis=0), 1.0) * rate if rate < 1 else np.ones(seen.shape[1:])
        self._mass += visible.astype(np.float32) * (seen - self._mass)

    def density(self, index: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 (H, W): amount of each pixel's colour around its place."""
        flat = self._palette.mix @ self._mass.reshape(self._palette.size, -1)
        maps = flat.reshape(self._mass.shape)
        blurred = np.stack([cv2.GaussianBlur(m, (0, 0), self._reach, borderType=cv2.BORDER_REPLICATE) for m in maps])
        return blurred.reshape(-1)[index * (self._rows * self._columns) + self._cell]

    @property
    def total(self) -> NDArray[np.float32]:
        """Amount of each palette colour over the whole picture, in cells."""
        return self._palette.mix @ self._mass.sum(axis=(1, 2))
