"""Logits of the network's mask grid to mattes of the frame's size."""

from __future__ import annotations

import torch
import torch.nn.functional as F

HALF = 0.5
JUST_ABOVE = 0.5 + 2.0**-12


def soft_matte(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Soft mattes whose 0.5 line is SAM 2's own mask.

    The matte is the sigmoid of the bicubically upsampled logits: smooth edges, no staircase of the 256-pixel grid.
    SAM 2's own mask is the sign of the bilinearly upsampled logits. The two lines differ by a fraction of a pixel,
    where the matte is close to 0.5 anyway; there it is held on the mask's side, so `matte > 0.5` is the mask exactly.

    Args:
        logits: float32 (K, 1, h, w), one per object.

    Returns:
        float32 (height, width), the union (maximum) of the objects.
    """
    size = (height, width)
    inside = F.interpolate(logits, size, mode="bilinear", align_corners=False) > 0
    matte = torch.sigmoid(F.interpolate(logits, size, mode="bicubic", align_corners=False))
    matte = torch.where(inside, matte.clamp(min=JUST_ABOVE), matte.clamp(max=HALF))
    return matte.amax(dim=(0, 1))


def fill_holes(logits: torch.Tensor, area: int) -> torch.Tensor:
    """Lifts background holes of at most `area` cells (8-connected) to just above zero, as SAM 2's predictor does.

    SAM 2 needs a compiled CUDA extension for it. Here every background cell takes the least number among the cells
    it can reach in `area` steps; a region of one number with no other number beside it is a whole component, and a
    component of `area` cells is always wholly reached.

    Args:
        logits: float32 (K, 1, h, w); area: 0 leaves all as it is.
    """
    if area <= 0:
        return logits
    count, _, height, width = logits.shape
    cells = height * width
    background = logits <= 0
    nowhere = float(cells)
    number = torch.arange(cells, device=logits.device, dtype=torch.float32).view(1, 1, height, width)
    label = torch.where(background, number, nowhere)
    for _ in range(area):
        label = torch.where(background, -F.max_pool2d(-label, 3, stride=1, padding=1), nowhere)
    # A neighbour with another number: the region goes on.
    beside = F.max_pool2d(torch.where(background, label, -1.0), 3, stride=1, padding=1)
    least = -F.max_pool2d(-label, 3, stride=1, padding=1)
    open_cells = background & ((beside != label) | (least != label))
    index = label.view(count, cells).long()
    sizes = torch.zeros(count, cells + 1, device=logits.device)
    sizes.scatter_add_(1, index, torch.ones_like(index, dtype=sizes.dtype))
    # An open cell makes its whole region too large.
    sizes.scatter_add_(1, index, open_cells.view(count, cells) * nowhere)
    hole = background & (sizes.gather(1, index).view_as(logits) <= area)
    return torch.where(hole, 0.1, logits)
