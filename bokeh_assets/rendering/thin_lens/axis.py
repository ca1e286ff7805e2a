"""The circle-of-confusion axis: at which blurs the scene is sliced.

A picture point of signed circle of confusion c (pixels of radius; positive in front of the focus plane) is
shared between the two neighbouring planes by how near it is to each, so that nothing jumps from plane to plane.
Planes stand one pixel of radius apart near focus and in proportion to the radius farther out: there a pixel
more or less no longer shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

GROWTH = 0.14  # distance of neighbouring planes over their radius, far from focus


@dataclass(frozen=True)
class Axis:
    """Planes from far to near.

    Attributes:
        planes: signed radii in pixels, rising; one of them is 0.
    """

    planes: np.ndarray

    def place(self, coc: torch.Tensor) -> torch.Tensor:
        """Position on the axis, in planes (0 is the farthest), of signed circles of confusion in pixels."""
        planes = torch.from_numpy(self.planes).to(coc)
        below = torch.searchsorted(planes, coc.contiguous(), right=True).sub_(1).clamp_(0, max(len(planes) - 2, 0))
        if len(planes) == 1:
            return torch.zeros_like(coc)
        low = planes[below]
        return below + ((coc - low) / (planes[below + 1] - low)).clamp_(0, 1)


def side(reach: float) -> list[float]:
    """Radii from 0 until at least `reach` pixels."""
    radii = [0.0]
    while radii[-1] < reach:
        radii.append(radii[-1] + max(1.0, GROWTH * radii[-1]))
    return radii


def axis_for(nearest: float, farthest: float) -> Axis:
    """The planes that a scene between two signed circles of confusion (pixels) needs."""
    near, far = side(max(nearest, 0.0)), side(max(-farthest, 0.0))
    return Axis(np.array([-r for r in far[:0:-1]] + near, dtype=np.float32))
