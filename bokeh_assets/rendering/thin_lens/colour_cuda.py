"""`colour.decode` with `axis.Axis.place`, and `finish.finish`, for GPUs: one launch each."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from bokeh_assets.rendering.thin_lens.axis import Axis
from bokeh_assets.rendering.thin_lens.colour import KNEE, TABLE
from bokeh_assets.rendering.thin_lens.finish import SAME

SPAN = 512  # pixels per program


@lru_cache(maxsize=8)
def _table(device: torch.device) -> Tensor:
    return torch.from_numpy(TABLE).to(device)


@lru_cache(maxsize=64)
def _planes(planes: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(planes, dtype=torch.float32).to(device)


@triton.jit(do_not_specialize=["count"])
def _prepare_kernel(
    frame, depth, table, planes, light, place, size, count, zf, scale, highlights, KNEE: tl.constexpr,
    STEPS: tl.constexpr, BRIGHT: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    inside = at < size
    red, green = tl.load(frame + 3 * at, inside, 0).to(tl.int32), tl.load(frame + 3 * at + 1, inside, 0).to(tl.int32)
    blue = tl.load(frame + 3 * at + 2, inside, 0).to(tl.int32)
    times = tl.full((SPAN,), 1.0, tl.float32)
    if BRIGHT:
        brightest = tl.div_rn(
            tl.maximum(tl.maximum(red, green), blue).to(tl.float32), tl.full((SPAN,), 255.0, tl.float32)
        )
        knee = tl.minimum(tl.maximum((brightest - KNEE) / (1 - KNEE), 0.0), 1.0)
        times = tl.exp2(highlights * knee * knee * (3 - 2 * knee))
    tl.store(light + at, tl.load(table + red) * times, inside)
    tl.store(light + size + at, tl.load(table + green) * times, inside)
    tl.store(light + 2 * size + at, tl.load(table + blue) * times, inside)
    blur = (tl.load(depth + at, inside, 0.0) - zf) * scale
    # The last plane that is not in front of it, by halving; the last but one at most.
    below = tl.zeros((SPAN,), tl.int32)
    for step in tl.static_range(STEPS):
        ahead = below + (1 << (STEPS - 1 - step))
        there = ahead <= count - 2
        passed = there & (tl.load(planes + tl.where(there, ahead, 0)) <= blur)
        below = tl.where(passed, ahead, below)
    low = tl.load(planes + below)
    # Divisions rounded as torch rounds them: edges are where places differ by so much, and a bit decides.
    share = tl.div_rn(blur - low, tl.load(planes + below + 1) - low)
    tl.store(place + at, below.to(tl.float32) + tl.minimum(tl.maximum(share, 0.0), 1.0), inside)


def prepare_cuda(
    frame: Tensor, depth: Tensor, axis: Axis, zf: float, scale: float, highlights: float
) -> tuple[Tensor, Tensor]:
    """Linear light (3, H, W) of a uint8 (H, W, 3) picture, and the place on the axis, (H, W), of its disparity."""
    height, width = depth.shape
    light = torch.empty((3, height, width), dtype=torch.float32, device=frame.device)
    place = torch.empty((height, width), dtype=torch.float32, device=frame.device)
    planes = tuple(axis.planes.tolist())
    steps = (len(planes) - 1).bit_length()
    grid = (-(-height * width // SPAN),)
    _prepare_kernel[grid](
        frame.contiguous(), depth.contiguous(), _table(frame.device), _planes(planes, frame.device), light, place,
        height * width, len(planes), float(zf), float(scale), float(highlights), KNEE, steps, highlights > 0, SPAN,
    )  # fmt: skip
    return light, place


@triton.jit
def _encoded(light):
    light = tl.minimum(tl.maximum(light, 0.0), 1.0)
    curve = 1.055 * 255 * tl.exp2(tl.log2(tl.maximum(light, 0.0031308)) * (1 / 2.4)) - 0.055 * 255
    return tl.where(light <= 0.0031308, light * (12.92 * 255), curve)


@triton.jit
def _result(value, source, fine, change, noise, grain, SAME: tl.constexpr, GRAIN: tl.constexpr):
    if GRAIN:
        value += grain * fine * tl.minimum(change / 4, 1.0)
    value = tl.where(change < SAME, source, tl.floor(value + noise))
    return tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.uint8)


@triton.jit
def _finish_kernel(
    light, frame, result, height, width, grain, SAME: tl.constexpr, GRAIN: tl.constexpr, SPAN: tl.constexpr
):
    at = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    size = height * width
    inside = at < size
    y, x = at // width, at % width
    # Interleaved gradient noise, see `finish.threshold`: in double precision, as there.
    noise = 0.06711056 * x.to(tl.float64) + 0.00583715 * y.to(tl.float64)
    noise = 52.9829189 * (noise - tl.floor(noise))
    noise = (noise - tl.floor(noise)).to(tl.float32)
    red, green = _encoded(tl.load(light + at, inside, 0.0)), _encoded(tl.load(light + size + at, inside, 0.0))
    blue = _encoded(tl.load(light + 2 * size + at, inside, 0.0))
    source_r = tl.load(frame + 3 * at, inside, 0).to(tl.float32)
    source_g = tl.load(frame + 3 * at + 1, inside, 0).to(tl.float32)
    source_b = tl.load(frame + 3 * at + 2, inside, 0).to(tl.float32)
    change = tl.maximum(tl.maximum(tl.abs(red - source_r), tl.abs(green - source_g)), tl.abs(blue - source_b))
    zero = tl.zeros((SPAN,), tl.float32)
    fine_r, fine_g, fine_b, count = zero, zero, zero, zero
    if GRAIN:
        for n in tl.static_range(9):
            v, u = y + n // 3 - 1, x + n % 3 - 1
            there = inside & (v >= 0) & (v < height) & (u >= 0) & (u < width)
            p = 3 * (v * width + u)
            fine_r += tl.load(frame + p, there, 0).to(tl.float32)
            fine_g += tl.load(frame + p + 1, there, 0).to(tl.float32)
            fine_b += tl.load(frame + p + 2, there, 0).to(tl.float32)
            count += there.to(tl.float32)
        count = tl.maximum(count, 1.0)
        fine_r = source_r - tl.div_rn(fine_r, count)
        fine_g = source_g - tl.div_rn(fine_g, count)
        fine_b = source_b - tl.div_rn(fine_b, count)
        # Edges are no grain: what stands out far is left out.
        fine_r = tl.where(tl.abs(fine_r) < 6, fine_r, 0.0)
        fine_g = tl.where(tl.abs(fine_g) < 6, fine_g, 0.0)
        fine_b = tl.where(tl.abs(fine_b) < 6, fine_b, 0.0)
    tl.store(result + 3 * at, _result(red, source_r, fine_r, change, noise, grain, SAME, GRAIN), inside)
    tl.store(result + 3 * at + 1, _result(green, source_g, fine_g, change, noise, grain, SAME, GRAIN), inside)
    tl.store(result + 3 * at + 2, _result(blue, source_b, fine_b, change, noise, grain, SAME, GRAIN), inside)


def finish_cuda(light: Tensor, frame: Tensor, grain: float) -> Tensor:
    """See `finish.finish`."""
    height, width = frame.shape[:2]
    result = torch.empty((height, width, 3), dtype=torch.uint8, device=frame.device)
    grid = (-(-height * width // SPAN),)
    _finish_kernel[grid](
        light.contiguous(), frame.contiguous(), result, height, width, float(grain), SAME, grain > 0, SPAN
    )  # fmt: skip
    return result
