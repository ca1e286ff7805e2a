"""Between a source's size and the network's: how a picture is fitted in, and brought back."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bokeh_assets.errors import InputError

MULTIPLE = 64
"""The network's sides are multiples of this: 8 for the latents, 8 for the UNet's own levels."""


class Fit(NamedTuple):
    """Where the source lies on the network's canvas."""

    source: tuple[int, int]
    """Height and width of the source."""
    canvas: tuple[int, int]
    """Height and width of the network's picture."""
    box: tuple[int, int, int, int]
    """Top, left, height and width of the source's picture on the canvas."""
    k_scale: float
    """What the source's blur strength is multiplied by to become the network's."""


def plan_fit(source: tuple[int, int], height: int, width: int, fit: str) -> Fit:
    """How a source of the size `source` (height, width) is fitted into the network's `height` and `width`.

    "letterbox" keeps the aspect, centres the picture and turns the canvas upright for an upright source;
    "stretch" fills the canvas, as the released pipeline does.

    Raises:
        InputError: a side is no multiple of 64, or `fit` is unknown.
    """
    if height % MULTIPLE or width % MULTIPLE or height <= 0 or width <= 0:
        raise InputError(f"any_to_bokeh works at multiples of {MULTIPLE} pixels, not {width}x{height}; try 1024x576")
    if fit == "stretch":
        return Fit(source, (height, width), (0, 0, height, width), 1.0)
    if fit != "letterbox":
        raise InputError(f"fit {fit!r} is unknown; use letterbox or stretch")
    if (source[0] > source[1]) != (height > width):
        height, width = width, height
    scale = min(height / source[0], width / source[1])
    h, w = max(1, min(height, round(source[0] * scale))), max(1, min(width, round(source[1] * scale)))
    # k is the blur's radius at a picture width of 1024 pixels, whatever the canvas around the picture.
    return Fit(source, (height, width), ((height - h) // 2, (width - w) // 2, h, w), w / 1024)


def to_canvas(x: Tensor, fit: Fit) -> Tensor:
    """Resizes (C, H, W) into its box, antialiased, and mirrors it out to the edges: (C, height, width)."""
    top, left, h, w = fit.box
    x = F.interpolate(x[None], size=(h, w), mode="bilinear", align_corners=False, antialias=True)[0]
    for axis, before, size, total in ((1, top, h, fit.canvas[0]), (2, left, w, fit.canvas[1])):
        if size != total:
            x = x.index_select(axis, mirrored(total, before, size, x.device))
    return x


def mirrored(total: int, before: int, size: int, device: torch.device) -> Tensor:
    """Indices into `size` items that put them `before` places into `total`, mirrored at the ends without repeats."""
    at = torch.arange(total, device=device) - before
    period = max(2 * (size - 1), 1)
    at = at.remainder(period)
    return torch.minimum(at, period - at).clamp(max=size - 1)


def from_canvas(x: Tensor, fit: Fit) -> Tensor:
    """The box of (C, height, width) at the source's size, 0 to 1: (C, H, W)."""
    top, left, h, w = fit.box
    x = x[None, :, top : top + h, left : left + w]
    if (h, w) == fit.source:
        return x[0]
    shrinking = fit.source[0] < h or fit.source[1] < w
    x = F.interpolate(x, size=fit.source, mode="bicubic", align_corners=False, antialias=shrinking)
    return x[0].clamp(0, 1)


def keep_sharp(blurred: Tensor, source: Tensor, radius: Tensor, fit: Fit) -> Tensor:
    """Gives the result of the network the source's own detail back where the source is in focus.

    Where the circle of confusion has a radius of less than a pixel a lens shows no blur, and the source's pixel is
    the answer, bit for bit. From there the share of the source falls smoothly to nothing at the radius that the
    network's own, coarser, pixels still resolve.

    Args:
        blurred: (3, H, W), 0 to 1, the network's result at the source's size.
        source: (3, H, W), 0 to 1.
        radius: (H, W), radius of the circle of confusion in source pixels.
    """
    coarser = max(fit.source[0] / fit.box[2], fit.source[1] / fit.box[3], 1.0)
    far = 1 + 2 * coarser
    t = ((radius - 1) / (far - 1)).clamp(0, 1)
    share = 1 - t * t * (3 - 2 * t)
    return torch.lerp(blurred, source, share)
