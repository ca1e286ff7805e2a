"""Maps of the network's size -> maps of the picture's size whose edges lie where the picture's edges lie.

Joint bilateral upsampling (Kopf et al., SIGGRAPH 2007) where the depth jumps, plain bilinear where it does not.
Every value is a weighted mean of values nearby in the map: nothing outside their range can appear, and where the
depth is smooth the picture's texture cannot show in it at all. Where subject and ground share a colour, the outline
can fray by up to `RADIUS` map pixels; a larger radius sharpens blurrier maps, and frays more.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

RADIUS = 2  # map pixels looked at in each direction: the width over which the network blurs an edge
SPREAD = 1.5  # standard deviation of the weight of distance, map pixels
COLOUR = 0.15  # standard deviation of the weight of colour difference (Euclidean in RGB, each 0..1)
UNSURE = 0.015  # disparity range between neighbours at which a map pixel counts half: it lies on the blurred edge
SMOOTH, EDGE = 0.02, 0.06  # disparity range within the radius: below, bilinear; above, joint bilateral
FLOOR = 1e-4  # least weight of colour: where no colour nearby fits, distance decides

# Places worked on at once: enough that threads seldom wait for each other, and that a GPU is busy; 200 MB.
PLACES_AT_ONCE = 1 << 20


@torch.inference_mode()
def upsample_to_pictures(disparity: Tensor, pictures: Tensor) -> Tensor:
    """Maps that follow the edges of their pictures.

    Args:
        disparity: float32 (N, h, w), 0..1.
        pictures: uint8 (N, H, W, 3), RGB, on the same device.

    Returns:
        float32 (N, H, W), within the range of the values around each place in `disparity`.
    """
    size = (pictures.shape[1], pictures.shape[2])
    out = _resize(disparity, size)
    share = ((_resize(_local_range(disparity, 2 * RADIUS + 1), size) - SMOOTH) / (EDGE - SMOOTH)).clamp_(0, 1)
    places = share.view(-1).nonzero().squeeze(1)
    if len(places) == 0:
        return out
    colours = pictures.permute(0, 3, 1, 2).float().div_(255)
    guide = F.interpolate(colours, disparity.shape[1:], mode="bilinear", align_corners=False, antialias=True)
    sure = 1 / (1 + (_local_range(disparity, 3) / UNSURE) ** 2)
    table = torch.stack([*guide.unbind(1), disparity, sure])
    pixels, values, shares = pictures.reshape(-1, 3), out.view(-1), share.view(-1)
    for part in places.split(PLACES_AT_ONCE):
        here = pixels[part].T.float().div_(255)
        along = _joint_bilateral(table, part, here, size)
        values[part] = torch.lerp(values[part], along, shares[part])
    return out


def _joint_bilateral(table: Tensor, places: Tensor, here: Tensor, size: tuple[int, int]) -> Tensor:
    """The mean of the map around some places, weighted by distance, likeness of colour, and sureness.

    Args:
        table: (5, N, h, w): red, green, blue, disparity, sureness.
        places: (P,) numbers of pixels in (N, *size).
        here: (3, P) their colours.
    """
    rows, columns = table.shape[2:]
    number = places // (size[0] * size[1])
    down = _taps(places // size[1] % size[0], size[0], rows)
    across = _taps(places % size[1], size[1], columns)
    down = [(((number * rows + index) * columns).int(), weight) for index, weight in down]
    across = [(index.int(), weight) for index, weight in across]
    table = table.flatten(1)
    total = torch.zeros_like(here[0])
    weighted = torch.zeros_like(here[0])
    for row, near_row in down:
        for column, near_column in across:
            there = table.index_select(1, row + column)
            far = (there[:3] - here).square_().sum(0)
            weight = far.mul_(-0.5 / COLOUR**2).exp_().add_(FLOOR).mul_(near_row).mul_(near_column).mul_(there[4])
            total += weight
            weighted.addcmul_(weight, there[3])
    return weighted.div_(total)


def _taps(at: Tensor, length: int, short: int) -> list[tuple[Tensor, Tensor]]:
    """Indices of the 2 * RADIUS + 1 map pixels around pixels in one direction, and their weights by distance.

    Pixel centres lie on pixel centres; beyond the border its pixels repeat.
    """
    place = (at + 0.5) * (short / length) - 0.5
    middle = place.round().long()
    taps = [(middle + offset).clamp_(0, short - 1) for offset in range(-RADIUS, RADIUS + 1)]
    return [(tap, ((tap - place) ** 2).div_(-2 * SPREAD**2).exp_()) for tap in taps]


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w) -> (N, *size): bilinear, pixel centres on pixel centres; averages where it makes smaller."""
    smaller = size[0] < values.shape[1] or size[1] < values.shape[2]
    return F.interpolate(values[:, None], size, mode="bilinear", align_corners=False, antialias=smaller)[:, 0]


def _local_range(values: Tensor, window: int) -> Tensor:
    """Largest minus smallest value in the square window around every place of (N, h, w)."""
    both = F.max_pool2d(torch.stack([values, -values], 1), window, 1, window // 2)
    return both.sum(1)
