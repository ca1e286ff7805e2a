"""Blur every plane and put one behind the other, in torch: the path of GPUs without Triton, and the reference of the
other two."""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F

from bokeh_assets.rendering.thin_lens.aperture import Aperture, kernel
from bokeh_assets.rendering.thin_lens.axis import Axis
from bokeh_assets.rendering.thin_lens.scene import Scene

FULL_SIZE = 8.0  # pixels of radius up to which a plane is blurred at full size
ROUND = Aperture()
GAP = 0.05  # share of a surface's coverage in its last plane under which it is taken to end there


def plane_content(scene: Scene, index: int) -> Tensor:
    """What stands on one plane: colour times coverage, and coverage, (4, H, W)."""
    front = (1 - (scene.front_place - index).abs()).clamp_min(0) * scene.alpha
    back = (1 - (scene.back_place - index).abs()).clamp_min(0) * scene.back_weight
    colour = scene.front * front + scene.back * back
    return torch.cat([colour, (front + back)[None]])


def kernel_for(radius: float, aperture: Aperture) -> tuple[np.ndarray, int]:
    """Kernel of a blur of `radius` pixels, and by how much the plane is shrunk before it is applied."""
    factor = 1
    while radius / factor > FULL_SIZE:
        factor *= 2
    # Shrinking and growing again blur a little too: take their variance off the disc's.
    return kernel(float(np.sqrt(max(radius * radius - (factor * factor - 1), 0))) / factor, aperture), factor


def blur(content: Tensor, radius: float, aperture: Aperture = ROUND) -> Tensor:
    """The plane (C, H, W) out of focus by `radius` pixels; the picture goes on beyond its borders."""
    height, width = content.shape[-2:]
    shape, factor = kernel_for(radius, aperture)
    n = shape.shape[0] // 2
    if n == 0:
        return content
    down, right = -height % factor, -width % factor
    small = F.pad(content[None], (0, right, 0, down), mode="replicate")
    if factor > 1:
        small = F.avg_pool2d(small, factor)
    small = F.pad(small, (n, n, n, n), mode="replicate")[0]
    rows, columns = small.shape[-2:]
    size = [next_fast_len(rows, real=True), next_fast_len(columns, real=True)]
    response = torch.fft.rfft2(torch.from_numpy(shape).to(small), s=size)
    small = torch.fft.irfft2(torch.fft.rfft2(small, s=size) * response, s=size)[:, 2 * n : rows, 2 * n : columns]
    if factor > 1:
        small = F.interpolate(small[None], scale_factor=factor, mode="bilinear", align_corners=False)[0]
    return small[:, :height, :width].clamp_min(0)


class Stack:
    """Planes laid under each other from near to far.

    Neighbouring planes hold parts of one surface: their coverages add, up to full coverage. Where a plane is empty
    a surface ends, and what comes farther off is seen through what that surface left open. Both are decided at
    every pixel, softly.
    """

    def __init__(self, like: Tensor) -> None:
        self.sum = torch.zeros_like(like)
        self.through = torch.ones_like(like[:1])  # what the surfaces that have ended let through
        self.surface = torch.zeros_like(like[:1])  # coverage of the surface in hand
        self.last = torch.zeros_like(like[:1])  # and its part in the last plane

    def add(self, plane: Tensor) -> None:
        """Lay a plane (4, H, W) behind all that is there."""
        coverage = plane[3:]
        kept = self.surface * (self.last / (GAP * self.surface).clamp_min(1e-6)).clamp_max(1)
        # What ends moves into `through`, in such measure that as much as before is still open.
        room = 1 - kept
        self.through = torch.where(room > 1e-3, self.through * (1 - self.surface) / room.clamp_min(1e-3), self.through)
        # More than full coverage: the nearer stays.
        added = torch.minimum(coverage, room)
        self.sum += plane * (self.through * added / coverage.clamp_min(1e-6))
        self.surface = kept + added
        self.last = coverage

    def light(self) -> Tensor:
        """Linear light (3, H, W), normalised by coverage."""
        return self.sum[:3] / self.sum[3:].clamp_min(1e-6)


def photograph(scene: Scene, axis: Axis, aperture: Aperture = ROUND) -> Tensor:
    """Linear light (3, H, W) of the scene through the lens."""
    low = int(torch.minimum(scene.front_place, scene.back_place).min())
    high = int(torch.ceil(torch.maximum(scene.front_place, scene.back_place).max()))
    stack: Stack | None = None
    for index in range(high, low - 1, -1):
        plane = blur(plane_content(scene, index), abs(float(axis.planes[index])), aperture)
        stack = Stack(plane) if stack is None else stack
        stack.add(plane)
    assert stack is not None
    return stack.light()
