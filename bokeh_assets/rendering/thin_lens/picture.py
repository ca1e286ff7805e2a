"""One picture through the lens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bokeh_assets.rendering.thin_lens.accumulate import photograph
from bokeh_assets.rendering.thin_lens.aperture import Aperture
from bokeh_assets.rendering.thin_lens.axis import Axis, axis_for
from bokeh_assets.rendering.thin_lens.colour import decode
from bokeh_assets.rendering.thin_lens.finish import finish
from bokeh_assets.rendering.thin_lens.paths_cuda import triton_works
from bokeh_assets.rendering.thin_lens.planes_cpu import photograph_cpu
from bokeh_assets.rendering.thin_lens.scene import Scene, split

if TYPE_CHECKING:
    from bokeh_assets.rendering.lens import Lens

Method = Callable[[Scene, Axis, Aperture], Tensor]

IN_FOCUS = 0.25  # pixels of radius under which nothing of a picture is out of focus


GRID = 6  # cat-eye shapes across the picture's width, blended in between


def photograph_frame(
    frame: Tensor,
    depth: Tensor,
    matte: Tensor | None,
    zf: float,
    k: float,
    lens: Lens | None = None,
    grain: float = 0.0,
    reference: bool = False,
) -> Tensor:
    """One frame with depth of field, uint8 (H, W, 3), on the device of the frame.

    Args:
        frame: uint8 RGB (H, W, 3).
        depth: disparity 0..1, float32 (H, W).
        matte: subject 0..1, float32 (H, W), or None.
        zf: disparity of the focus plane.
        k: blur strength (radius in pixels at width 1024 per unit of disparity).
        lens: aperture and glass; an ideal round one where None.
        grain: share of the source's grain put back into what was blurred.
        reference: use the path of GPUs on the CPU too, and on GPUs the one without Triton.
    """
    scale = k * frame.shape[1] / 1024
    low, high = (float(v) for v in torch.stack(torch.aminmax(depth)).cpu())
    nearest, farthest = scale * (high - zf), scale * (low - zf)
    reach = max(abs(nearest), abs(farthest))
    if reach < IN_FOCUS:
        return frame
    axis = axis_for(nearest, farthest)
    highlights = lens.highlights if lens else 0.0
    if triton_works(frame.device) and not reference:
        from bokeh_assets.rendering.thin_lens.colour_cuda import finish_cuda, prepare_cuda

        light, place = prepare_cuda(frame, depth, axis, zf, scale, highlights)
        return finish_cuda(through_lens(split(light, place, reach, matte), axis, lens, reach), frame, grain)
    light = decode(frame, highlights)
    scene = split(light, axis.place((depth - zf) * scale), reach, matte)
    photo = through_lens(scene, axis, lens, reach, photograph if reference else None)
    return finish(photo, frame, grain)


def method_for(device: torch.device) -> Method:
    """What blurs and stacks fastest on a device."""
    if device.type == "cpu":
        return photograph_cpu
    if triton_works(device):
        from bokeh_assets.rendering.thin_lens.planes_cuda import photograph_cuda

        return photograph_cuda
    return photograph


def through_lens(scene: Scene, axis: Axis, lens: Lens | None, reach: float, method: Method | None = None) -> Tensor:
    """Linear light (3, H, W): the scene photographed once for every colour and shape of the aperture."""
    method = method or method_for(scene.alpha.device)
    if lens is None:
        return method(scene, axis, Aperture())
    aperture = Aperture(lens.blades, lens.rotation, lens.anamorphic)

    def shapes(part: Scene, cut: tuple[float, float]) -> Tensor:
        if lens.chromatic == 0:
            return method(part, axis, replace(aperture, cut=cut))
        # Red light is out of focus a little farther than green, blue a little less.
        scales = (1 + lens.chromatic, 1.0, 1 - lens.chromatic)
        photos = [method(part, axis, replace(aperture, cut=cut, scale=scale)) for scale in scales]
        return torch.stack([photo[channel] for channel, photo in enumerate(photos)])

    if lens.cat_eye == 0:
        return shapes(scene, (0.0, 0.0))
    height, width = scene.alpha.shape
    result = torch.zeros_like(scene.front)
    across, down = GRID, max(2, round(GRID * height / width))
    margin = 2 * aperture.reach(reach) + 16
    for row in range(down + 1):
        for column in range(across + 1):
            x, y = column * width / across, row * height / down
            share = hat(height, y, height / down, scene.alpha)[:, None] * hat(width, x, width / across, scene.alpha)
            # Shrunk planes must fall on the same grid in every part: parts start at multiples of 16.
            top, left = (
                max(0, int(at - step - margin) // 16 * 16) for at, step in ((y, height / down), (x, width / across))
            )
            bottom, right = int(y + height / down + margin) + 1, int(x + width / across + margin) + 1
            here = (slice(top, bottom), slice(left, right))
            part = Scene(*(getattr(scene, field.name)[(..., *here)] for field in fields(scene)))
            middle, corner = ((width - 1) / 2, (height - 1) / 2), math.hypot(width, height) / 2
            cut = tuple(round(-lens.cat_eye * (at - m) / corner, 4) for at, m in zip((x, y), middle, strict=True))
            result[(..., *here)] += share[here] * shapes(part, (cut[0], cut[1]))
    return result


def hat(length: int, middle: float, step: float, like: Tensor) -> Tensor:
    """Weights of one of several shapes along a side; over all of them they sum to 1."""
    at = torch.arange(length, device=like.device, dtype=like.dtype) + 0.5
    return (1 - (at - middle).abs() / step).clamp_min(0)
