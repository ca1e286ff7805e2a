"""From light to the 8-bit picture: grain put back, dither, and what was sharp stays bit for bit."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from bokeh_assets.rendering.thin_lens.colour import encode

SAME = 0.3  # of 255: nearer than this to the input, the input is the answer


@lru_cache(maxsize=4)
def threshold(height: int, width: int, device: torch.device) -> Tensor:
    """Interleaved gradient noise 0..1 (Jimenez, SIGGRAPH 2014): fixed per pixel, so it neither flickers nor needs a
    seed."""
    x = torch.arange(width, device=device, dtype=torch.float64)
    y = torch.arange(height, device=device, dtype=torch.float64)[:, None]
    return (52.9829189 * ((0.06711056 * x + 0.00583715 * y) % 1.0) % 1.0).float()


def finish(light: Tensor, frame: Tensor, grain: float) -> Tensor:
    """uint8 (H, W, 3) from linear light (3, H, W).

    Args:
        frame: the sharp input, uint8 (H, W, 3).
        grain: share of the input's finest detail (what a 3x3 average removes, at most 6 of 255) that comes back
            where the picture was blurred; 0 leaves the blur clean.
    """
    value = encode(light)
    source = frame.permute(2, 0, 1).float()
    change = (value - source).abs().amax(dim=0, keepdim=True)
    if grain > 0:
        fine = source - torch.nn.functional.avg_pool2d(source[None], 3, 1, 1, count_include_pad=False)[0]
        # Edges are no grain: what stands out far is left out.
        fine = torch.where(fine.abs() < 6, fine, torch.zeros_like(fine))
        value = value + grain * fine * (change / 4).clamp(0, 1)
    dithered = (value + threshold(frame.shape[0], frame.shape[1], frame.device)).floor()
    result = torch.where(change < SAME, source, dithered)
    return result.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
