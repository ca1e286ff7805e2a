"""From one picture and its depth to a scene: what is in front, and what stands hidden behind it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

STEP = 2.5  # planes between two neighbours from which they belong to different things
SEEDS = 5  # pixels from an edge within which the far side tells what goes on behind the near one


@dataclass(frozen=True)
class Scene:
    """Two surfaces per pixel: the one seen, and where an edge is close the one it hides.

    Attributes:
        front: linear light of the seen surface, (3, H, W).
        alpha: its coverage, (H, W).
        front_place: its position on the circle-of-confusion axis, in planes, (H, W).
        back: linear light of what is behind, (3, H, W).
        back_weight: 1 where there is something known to be behind, else 0, (H, W).
        back_place: as `front_place`.
    """

    front: Tensor
    alpha: Tensor
    front_place: Tensor
    back: Tensor
    back_weight: Tensor
    back_place: Tensor


def widest(picture: Tensor, reach: int) -> Tensor:
    """Largest value within `reach` pixels, (H, W)."""
    size = 2 * reach + 1
    rows = F.max_pool2d(picture[None, None], (1, size), 1, (0, reach))
    return F.max_pool2d(rows, (size, 1), 1, (reach, 0))[0, 0]


def push_pull(values: Tensor, weight: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Fill what has no weight from what has, smoothly, over up to 2**levels pixels.

    Averages are pushed up a pyramid and pulled down where finer levels know nothing (Gortler et al., The
    Lumigraph, 1996).

    Args:
        values: (C, H, W).
        weight: (H, W), 0..1.

    Returns:
        The filled values (C, H, W) and whether anything reached the pixel, (H, W) 0..1.
    """
    stack = []
    layer = torch.cat([values * weight, weight[None]])[None]
    for _ in range(levels):
        stack.append(layer)
        if min(layer.shape[-2:]) < 2:
            break
        pooled = F.avg_pool2d(layer, 2, ceil_mode=True, count_include_pad=False)
        # A coarse cell counts as known as soon as a quarter of it is.
        layer = pooled * (pooled[:, -1:] * 4).clamp_max(1) / pooled[:, -1:].clamp_min(1e-8)
    for finer in reversed(stack):
        coarse = F.interpolate(layer, finer.shape[-2:], mode="bilinear", align_corners=False)
        layer = finer + (1 - finer[:, -1:]) * coarse
    known = layer[0, -1]
    return layer[0, :-1] / known.clamp_min(1e-6), known


def split(light: Tensor, place: Tensor, reach: float) -> Scene:
    """Two surfaces per pixel from one picture.

    Args:
        light: linear light, (3, H, W).
        place: position on the axis in planes, (H, W).
        reach: largest radius of blur in the picture, in pixels: how far behind an edge anything can be seen.
    """
    beside = widest(place, 1) - place > STEP
    far_side = (widest(place, SEEDS) - place > STEP) & ~beside
    weight = far_side.float() + 1e-3 * beside.float()
    if not bool(far_side.any() | beside.any()):
        none = torch.zeros_like(place)
        return Scene(light, none + 1, place, light, none, place)
    levels = max(3, int(reach).bit_length() + 1)
    filled, known = push_pull(torch.cat([light, place[None]]), weight, levels)
    hidden = (known > 1e-6) & (place - filled[3] > STEP)
    return Scene(light, torch.ones_like(place), place, filled[:3], hidden.float(), filled[3])
