"""Maps of the network's size -> maps of the picture's size whose edges lie where the picture's edges lie.

Joint bilateral upsampling (Kopf et al., SIGGRAPH 2007) where the depth jumps, plain bilinear where it does not.
Every value is a weighted mean of values nearby in the map: nothing outside their range can appear, and where the
depth is smooth the picture's texture cannot show in it at all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

RADIUS = 3  # map pixels looked at in each direction: the width over which the network blurs an edge
SPREAD = 2.0  # standard deviation of the weight of distance, map pixels
COLOUR = 0.1  # standard deviation of the weight of colour difference (Euclidean in RGB, each 0..1)
UNSURE = 0.015  # disparity range between neighbours at which a map pixel counts half: it lies on the blurred edge
SMOOTH, EDGE = 0.02, 0.06  # disparity range within the radius: below, bilinear; above, joint bilateral
FLOOR = 1e-4  # least weight of colour: where no colour nearby fits, distance decides


def upsample_to_picture(disparity: Tensor, picture: Tensor) -> Tensor:
    """A map that follows the picture's edges.

    Args:
        disparity: float32 (h, w), 0..1.
        picture: uint8 (H, W, 3), RGB, on the same device.

    Returns:
        float32 (H, W), within the range of the values around each place in `disparity`.
    """
    rows, columns = disparity.shape
    height, width = picture.shape[:2]
    plain = _resize(disparity, (height, width))
    reach = 2 * RADIUS + 1
    jump = _local_range(disparity, reach)
    share = ((_resize(jump, (height, width)) - SMOOTH) / (EDGE - SMOOTH)).clamp_(0, 1).flatten()
    places = share.nonzero().squeeze(1)
    if len(places) == 0:
        return plain

    colours = picture.permute(2, 0, 1).float().div_(255)
    guide = F.interpolate(colours[None], size=(rows, columns), mode="bilinear", align_corners=False, antialias=True)[0]
    sure = 1 / (1 + (_local_range(disparity, 3) / UNSURE) ** 2)
    guide, low, sure = guide.flatten(1), disparity.flatten(), sure.flatten()
    here = colours.flatten(1)[:, places]
    # Where the pixels lie in the map, pixel centres on pixel centres.
    y = (places // width + 0.5) * (rows / height) - 0.5
    x = (places % width + 0.5) * (columns / width) - 0.5
    middle_y, middle_x = y.round().long(), x.round().long()
    total = torch.zeros_like(y)
    weighted = torch.zeros_like(y)
    for dy in range(-RADIUS, RADIUS + 1):
        tap_y = (middle_y + dy).clamp_(0, rows - 1)
        for dx in range(-RADIUS, RADIUS + 1):
            tap_x = (middle_x + dx).clamp_(0, columns - 1)
            tap = tap_y * columns + tap_x
            near = ((tap_y - y) ** 2 + (tap_x - x) ** 2).div_(-2 * SPREAD**2).exp_()
            alike = ((guide[:, tap] - here) ** 2).sum(0).div_(-2 * COLOUR**2).exp_().add_(FLOOR)
            weight = near.mul_(alike).mul_(sure[tap])
            total += weight
            weighted += weight * low[tap]
    out = plain.flatten()
    out[places] = torch.lerp(out[places], weighted / total, share[places])
    return out.view(height, width)


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with pixel centres on pixel centres; averages where it makes smaller."""
    smaller = size[0] < values.shape[0] or size[1] < values.shape[1]
    resized = F.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False, antialias=smaller)
    return resized[0, 0]


def _local_range(values: Tensor, window: int) -> Tensor:
    """Largest minus smallest value in the square window around every place."""
    both = torch.stack([values, -values])[None]
    high = F.max_pool2d(both, window, 1, window // 2)[0]
    return high[0] + high[1]
