"""Frames to network input: the resizing that SAM 2 does with Pillow, to the last bit, on any device."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BITS = 22  # Pillow's fixed point


class Line:
    """Pillow's bicubic resizing of one axis, in its own integer arithmetic.

    The filter is the cubic convolution kernel with a = -0.5 (Keys 1981), stretched by the scale when shrinking, cut at
    the border and normalized; weights are rounded to 22 binary places and sums to 8-bit values.
    """

    def __init__(self, source: int, target: int, device: torch.device) -> None:
        scale = source / target
        stretch = max(scale, 1.0)
        reach = 2.0 * stretch
        taps = math.ceil(reach) * 2 + 1
        places = torch.zeros(taps, target, dtype=torch.int64)
        weights = torch.zeros(taps, target, dtype=torch.int32)
        for i in range(target):
            centre = (i + 0.5) * scale
            first = max(int(centre - reach + 0.5), 0)
            last = min(int(centre + reach + 0.5), source)
            values = [_cubic((j - centre + 0.5) / stretch) for j in range(first, last)]
            total = sum(values)
            for tap, value in enumerate(values):
                places[tap, i] = first + tap
                weights[tap, i] = int(math.copysign(0.5, value) + value / total * (1 << BITS))
        used = int((weights != 0).any(dim=1).nonzero().max()) + 1
        self._places = places[:used].to(device)
        self._weights = weights[:used].to(device)

    def __call__(self, x: Tensor, axis: int) -> Tensor:
        """int32 values 0..255 with `axis` (negative) brought to the target length."""
        shape = (-1,) + (1,) * (-axis - 1)
        total = torch.full((), 1 << (BITS - 1), dtype=torch.int32, device=x.device)
        for places, weights in zip(self._places, self._weights, strict=True):
            total = total + x.index_select(axis, places) * weights.view(shape)
        return (total >> BITS).clamp_(0, 255)


def _cubic(x: float, a: float = -0.5) -> float:
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0


class Resizer:
    """Brings frames of one size to the network's square, in range and layout.

    Equal to `PIL.Image.resize((size, size))` (its default, bicubic, across and then down), divided by 255 and
    normalized with ImageNet's mean and deviation.
    """

    def __init__(self, height: int, width: int, size: int, device: torch.device) -> None:
        self._size, self._device = size, device
        self._across = Line(width, size, device) if width != size else None
        self._down = Line(height, size, device) if height != size else None
        self._mean = torch.tensor(MEAN, device=device)[:, None, None]
        self._std = torch.tensor(STD, device=device)[:, None, None]

    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) to float32 (N, 3, size, size)."""
        if self._device.type == "cpu":
            pictures = [np.asarray(Image.fromarray(f.numpy()).resize((self._size, self._size))) for f in frames]
            x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        else:
            x = self.resized(frames)
        return (x.float() / 255.0 - self._mean) / self._std

    def resized(self, frames: Tensor) -> Tensor:
        """The resizing without Pillow: int32 (N, 3, size, size), 0..255."""
        x = frames.permute(0, 3, 1, 2).int()
        if self._across is not None:
            x = self._across(x, -1)
        if self._down is not None:
            x = self._down(x, -2)
        return x
