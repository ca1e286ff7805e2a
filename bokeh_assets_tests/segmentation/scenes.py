"""Made scenes whose mattes are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 240, 160
RED, BLUE = (200, 70, 50), (50, 80, 190)


def texture(seed: int, colour: tuple[int, int, int], contrast: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Smooth random pattern around a colour, uint8 (H, W, 3); `size` is width and height."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=(size[1], size[0], 3)).astype(np.float32), (0, 0), 2.0)
    return np.clip(np.array(colour) + contrast * noise / noise.std(), 0, 255).astype(np.uint8)


class Thing:
    """A textured ellipse with a head, on a path: `path(t)` is its centre in pixels."""

    def __init__(self, seed: int, colour: tuple[int, int, int], path: Callable[[int], tuple[float, float]]) -> None:
        self.path = path
        self.picture = texture(seed, colour, 18, (64, 64))
        mask = np.zeros((64, 64), np.uint8)
        cv2.ellipse(mask, (32, 38), (17, 22), 0, 0, 360, 255, -1)
        cv2.circle(mask, (32, 14), 10, 255, -1)
        self.mask = mask

    def on(self, frame: NDArray[np.uint8], t: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The frame with the thing in it, and where the thing is."""
        x, y = self.path(t)
        move = np.array([[1, 0, x - 32], [0, 1, y - 32]], np.float32)
        size = frame.shape[1], frame.shape[0]
        alpha = cv2.warpAffine(self.mask, move, size).astype(np.float32)[..., None] / 255
        picture = cv2.warpAffine(self.picture, move, size, borderMode=cv2.BORDER_REPLICATE)
        mixed = np.rint(frame + alpha * (picture - frame.astype(np.float32))).astype(np.uint8)
        return mixed, np.asarray(alpha[..., 0]) > 0.5


class Scene:
    """A clip made when asked for, as `Frames`: a textured wall, a camera path, things on it.

    `truth(t, subject)` is what is seen of the things numbered in `subject`, all by default.
    """

    def __init__(self, things: list[Thing], length: int, camera: float = 0.0) -> None:
        self.things, self.length, self.camera = things, length, camera
        self._wall = texture(1, (140, 150, 130), 25, (WIDTH + 400, HEIGHT))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, t: int, /) -> NDArray[np.uint8]:
        return self._make(t)[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[t] for t in range(self.length))

    def truth(self, t: int, subject: list[int] | None = None) -> NDArray[np.bool_]:
        """bool (H, W)."""
        masks = self._make(t)[1]
        return np.logical_or.reduce([masks[i] for i in (subject if subject is not None else range(len(masks)))])

    def box(self, t: int, thing: int = 0, margin: int = 4) -> tuple[float, float, float, float]:
        """Around the thing, x0, y0, x1, y1."""
        ys, xs = np.where(self.truth(t, [thing]))
        return xs.min() - margin, ys.min() - margin, xs.max() + 1 + margin, ys.max() + 1 + margin

    def _make(self, t: int) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
        if not 0 <= t < self.length:
            raise IndexError(t)
        shift = np.array([[1, 0, -self.camera * t], [0, 1, 0]], np.float32)
        frame = cv2.warpAffine(self._wall, shift, (WIDTH, HEIGHT)).astype(np.uint8)
        masks: list[NDArray[np.bool_]] = []
        for thing in self.things:
            frame, mask = thing.on(frame, t)
            masks = [m & ~mask for m in masks] + [mask]
        noise = np.random.default_rng(1000 + t).normal(0, 1.5, frame.shape)
        return np.clip(frame + noise, 0, 255).astype(np.uint8), masks


def iou(matte: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of matte > 0.5; 1 where both are empty."""
    found: NDArray[np.bool_] = matte > 0.5
    either = int((found | truth).sum())
    return 1.0 if either == 0 else int((found & truth).sum()) / either
