"""From one picture and its depth to a scene: what is in front, and what stands hidden behind it.

At an edge a pixel is a mixture of what is near and what is far; `unmix` takes it apart, so that what is blurred is
never a colour of both. Farther behind an edge the far side is continued from what is seen of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bokeh_assets.rendering.thin_lens.fill_cpu import push_pull_cpu
from bokeh_assets.rendering.thin_lens.paths_cuda import triton_works
from bokeh_assets.rendering.thin_lens.unmix import unmix

STEP = 1.2  # planes between two neighbours from which they belong to different things
SEEDS = 5  # pixels from an edge within which a side tells how it goes on
SMOOTH = 1.0  # planes within the same distance up to which depth is one slope without edges
COLOUR_NOISE = 0.02  # squared distance of two colours (linear light) at which their vote counts half
BAND = 1  # pixels beside an edge that may be mixtures


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
    if picture.device.type == "cpu":  # many times faster than pooling, and the same
        return torch.from_numpy(cv2.dilate(picture.contiguous().numpy(), np.ones((size, size), np.uint8)))
    if triton_works(picture.device):
        from bokeh_assets.rendering.thin_lens.fill_cuda import widest_cuda

        return widest_cuda(picture, reach)
    rows = F.max_pool2d(picture[None, None], (1, size), 1, (0, reach))
    return F.max_pool2d(rows, (size, 1), 1, (reach, 0))[0, 0]


def mean(picture: Tensor, reach: int) -> Tensor:
    """Average over the square of `reach` pixels around, (H, W)."""
    size = 2 * reach + 1
    if picture.device.type == "cpu":
        blurred = cv2.blur(picture.contiguous().numpy(), (size, size), borderType=cv2.BORDER_REPLICATE)
        return torch.from_numpy(blurred)
    return F.avg_pool2d(F.pad(picture[None, None], (reach,) * 4, mode="replicate"), size, 1)[0, 0]


def push_pull(values: Tensor, weight: Tensor, levels: int, reference: bool = False) -> tuple[Tensor, Tensor]:
    """Fill what has no weight from what has, smoothly, over up to 2**levels pixels.

    Averages are pushed up a pyramid and pulled down where finer levels know nothing (Gortler et al., The
    Lumigraph, 1996).

    Args:
        values: (C, H, W).
        weight: (H, W), 0..1.
        reference: the path of GPUs on the CPU too.

    Returns:
        The filled values (C, H, W) and whether anything reached the pixel, (H, W) 0..1.
    """
    if triton_works(values.device) and not reference:
        from bokeh_assets.rendering.thin_lens.fill_cuda import push_pull_cuda

        return push_pull_cuda(values, weight, levels)
    premultiplied = torch.cat([values * weight, weight[None]])
    if values.device.type == "cpu" and not reference:
        filled = torch.from_numpy(push_pull_cpu(premultiplied.numpy(), levels))
        return filled[:-1] / filled[-1].clamp_min(1e-6), filled[-1]
    stack, layer = [], premultiplied[None]
    for _ in range(levels):
        stack.append(layer)
        pooled = F.avg_pool2d(layer, 2, ceil_mode=True, count_include_pad=False)
        # A coarse cell counts as known as soon as a quarter of it is.
        layer = pooled * ((pooled[:, -1:] * 4).clamp_max(1) / pooled[:, -1:].clamp_min(1e-8))
        if min(stack[-1].shape[-2:]) < 2:
            break
    for finer in reversed(stack):
        coarse = F.interpolate(layer, finer.shape[-2:], mode="bilinear", align_corners=False)
        layer = finer + (1 - finer[:, -1:]) * coarse
    known = layer[0, -1]
    return layer[0, :-1] / known.clamp_min(1e-6), known


def sharpen(place: Tensor) -> Tensor:
    """Estimated depth ramps from thing to thing over some pixels, as if there were something between; it snaps here
    to the nearer of the two ends."""
    for _ in range(2):
        low, high = -widest(-place, 3), widest(place, 3)
        between = (widest(place, 1) - place > 0.5) & (place + widest(-place, 1) > 0.5) & (high - low > STEP)
        place = torch.where(between, torch.where(place - low > high - place, high, low), place)
    return place


def align(light: Tensor, place: Tensor, matte: Tensor, reach: int) -> Tensor:
    """Depth moved to the subject's outline: within `reach` pixels of it every pixel gets the depth of the subject or
    that of the rest: where matte and depth disagree, colour has a say. All three may be some pixels off, seldom
    all the same way."""
    inside = (matte > 0.5).float()
    ring = (widest(inside, reach) > 0) & (widest(1 - inside, reach) > 0)
    if not bool(ring.any()):
        return place
    core = torch.where(ring, 1e-3, 1.0)
    told = torch.cat([light, place[None]])
    subject, _ = push_pull(told, core * inside, 6)
    rest, _ = push_pull(told, core * (1 - inside), 6)
    line, gap = subject[:3] - rest[:3], subject[3] - rest[3]
    length = (line * line).sum(0)
    colour = (((light - rest[:3]) * line).sum(0) / length.clamp_min(1e-6)).clamp(0, 1) - 0.5
    depth = (place - rest[3]) / torch.where(gap.abs() > STEP, gap, 1.0)
    votes = (matte - 0.5) + (depth.clamp(0, 1) - 0.5) + 1.5 * colour * length / (length + COLOUR_NOISE)
    # Where matte and depth agree there is nothing to vote on; elsewhere neighbours vote too, or outlines fray.
    deeper = depth > 0.5
    subjects = torch.where((inside > 0) == deeper, deeper, mean(votes.clamp(-0.5, 0.5), reach // 2) > 0)
    # A third thing that stands there keeps its own, and so does what is right already.
    known = ring & (gap.abs() > STEP) & (depth > -0.3) & (depth < 1.3)
    own = torch.where(subjects, subject[3], rest[3])
    return torch.where(known & ((place - own).abs() > STEP / 2), own, place)


def split(light: Tensor, place: Tensor, reach: float, matte: Tensor | None = None) -> Scene:
    """Two surfaces per pixel from one picture.

    Args:
        light: linear light, (3, H, W).
        place: position on the axis in planes, (H, W).
        reach: largest radius of blur in the picture, in pixels: how far behind an edge anything can be seen.
        matte: the subject's coverage 0..1, (H, W).
    """
    if matte is not None:
        place = align(light, place, matte, max(2, place.shape[1] // 480))
    place = sharpen(place)
    low, high = -widest(-place, SEEDS), widest(place, SEEDS)
    # 8-bit depth climbs a slope in stairs, and every stair would leave a gap in the blur.
    place = torch.where(high - low < SMOOTH, mean(place, 2), place)
    beside = (widest(place, BAND) - place > STEP) | (place + widest(-place, BAND) > STEP)
    far_side = high - place > STEP
    if not bool(far_side.any()):
        none = torch.zeros_like(place)
        return Scene(light, none + 1, place, light, none, place)
    levels = max(3, int(reach).bit_length() + 1)
    behind, known = push_pull(torch.cat([light, place[None]]), far_side * torch.where(beside, 1e-3, 1.0), levels)
    hidden = ((known > 1e-6) & (place - behind[3] > STEP)) | beside
    mixed = unmix(light, place, beside, STEP, matte)
    at = beside.nonzero(as_tuple=True)
    front, back, alpha = light.clone(), behind[:3].clone(), torch.ones_like(place)
    near_place, far_place = place.clone(), behind[3].clone()
    alpha[at], near_place[at], far_place[at] = mixed.alpha, mixed.front_place, mixed.back_place
    front[:, at[0], at[1]], back[:, at[0], at[1]] = mixed.front, mixed.back
    # On one plane they could not be told apart.
    far_place = torch.minimum(far_place, near_place - 2).clamp_min(0)
    return Scene(front, alpha, near_place, back, hidden.float(), far_place)
