"""`scene.widest` and `scene.push_pull` for GPUs: one launch per pass or level, each of which reads and writes once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SPAN = 512  # pixels per program


@triton.jit
def _widest_kernel(picture, result, height, width, sign, REACH: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr):
    """Largest value within REACH pixels along rows, or else along columns, times `sign` before and after."""
    at = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    inside = at < height * width
    y, x = at // width, at % width
    most = tl.load(picture + at, inside, 0.0) * sign
    for step in tl.static_range(1, REACH + 1):
        if ROWS:
            before, after = y * width + tl.maximum(x - step, 0), y * width + tl.minimum(x + step, width - 1)
        else:
            before, after = tl.maximum(y - step, 0) * width + x, tl.minimum(y + step, height - 1) * width + x
        most = tl.maximum(most, tl.load(picture + before, inside, 0.0) * sign)
        most = tl.maximum(most, tl.load(picture + after, inside, 0.0) * sign)
    tl.store(result + at, most * sign, inside)


def widest_cuda(picture: Tensor, reach: int, sign: float = 1.0) -> Tensor:
    """Largest value within `reach` pixels, (H, W); the least with `sign` -1."""
    picture = picture.contiguous()
    height, width = picture.shape
    grid = (-(-height * width // SPAN),)
    along, result = torch.empty_like(picture), torch.empty_like(picture)
    _widest_kernel[grid](picture, along, height, width, sign, reach, True, SPAN)
    _widest_kernel[grid](along, result, height, width, sign, reach, False, SPAN)
    return result


@triton.jit
def _push_kernel(
    values, weight, coarse, height, width, rows, columns,
    CHANNELS: tl.constexpr, FIRST: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Averages of four, premultiplied, the weight being the last channel; a cell a quarter known counts as known.
    The FIRST level is read as values and weight."""
    at = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    inside = at < rows * columns
    y, x = 2 * (at // columns), 2 * (at % columns)
    right, below = inside & (x + 1 < width), inside & (y + 1 < height)
    both = right & below
    share = 1.0 / ((1 + (x + 1 < width).to(tl.float32)) * (1 + (y + 1 < height).to(tl.float32)))
    p = y * width + x
    w0, w1 = tl.load(weight + p, inside, 0.0), tl.load(weight + p + 1, right, 0.0)
    w2, w3 = tl.load(weight + p + width, below, 0.0), tl.load(weight + p + width + 1, both, 0.0)
    known = (w0 + w1 + w2 + w3) * share
    factor = tl.div_rn(tl.minimum(4 * known, 1.0), tl.maximum(known, 1e-8))
    if not FIRST:
        w0, w1, w2, w3 = 1.0, 1.0, 1.0, 1.0
    for channel in tl.static_range(CHANNELS):
        plane = values + channel * height * width + p
        v0, v1 = tl.load(plane, inside, 0.0), tl.load(plane + 1, right, 0.0)
        v2, v3 = tl.load(plane + width, below, 0.0), tl.load(plane + width + 1, both, 0.0)
        total = (v0 * w0 + v1 * w1 + v2 * w2 + v3 * w3) * share
        tl.store(coarse + channel * rows * columns + at, total * factor, inside)
    tl.store(coarse + CHANNELS * rows * columns + at, known * factor, inside)


@triton.jit(do_not_specialize=["height", "width", "rows", "columns"])
def _pull_kernel(
    values, weight, coarse, filled, height, width, rows, columns,
    CHANNELS: tl.constexpr, FIRST: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Adds what is not known, read bilinearly from the coarser level. The FIRST level is read as values and weight
    and written without its premultiplication."""
    at = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    inside = at < height * width
    y, x = at // width, at % width
    known = tl.load(weight + at, inside, 0.0)
    v = (y.to(tl.float32) + 0.5) * tl.div_rn(rows.to(tl.float32), height.to(tl.float32)) - 0.5
    u = (x.to(tl.float32) + 0.5) * tl.div_rn(columns.to(tl.float32), width.to(tl.float32)) - 0.5
    v, u = tl.maximum(v, 0.0), tl.maximum(u, 0.0)
    i, j = tl.minimum(v.to(tl.int32), rows - 1), tl.minimum(u.to(tl.int32), columns - 1)
    a, b = v - i.to(tl.float32), u - j.to(tl.float32)
    above, below = i * columns, tl.minimum(i + 1, rows - 1) * columns
    right = tl.minimum(j + 1, columns - 1)
    open_ = 1 - known
    p, q, r, s = open_ * (1 - a) * (1 - b), open_ * (1 - a) * b, open_ * a * (1 - b), open_ * a * b
    size, small = height * width, rows * columns
    plane = coarse + CHANNELS * small
    reached = known + p * tl.load(plane + above + j, inside, 0.0) + q * tl.load(plane + above + right, inside, 0.0)
    reached += r * tl.load(plane + below + j, inside, 0.0) + s * tl.load(plane + below + right, inside, 0.0)
    tl.store(filled + CHANNELS * size + at, reached, inside)
    times = tl.full(known.shape, 1.0, tl.float32)
    most = times
    if FIRST:
        times = known
        most = 1 / tl.maximum(reached, 1e-6)
    for channel in tl.static_range(CHANNELS):
        plane = coarse + channel * small
        value = tl.load(values + channel * size + at, inside, 0.0) * times
        value += p * tl.load(plane + above + j, inside, 0.0) + q * tl.load(plane + above + right, inside, 0.0)
        value += r * tl.load(plane + below + j, inside, 0.0) + s * tl.load(plane + below + right, inside, 0.0)
        tl.store(filled + channel * size + at, value * most, inside)


def push_pull_cuda(values: Tensor, weight: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """See `scene.push_pull`."""
    values, weight = values.contiguous(), weight.float().contiguous()
    channels, height, width = values.shape
    # Level by level: values and, apart or as the last channel, weight.
    stack = [(values, weight)]
    for level in range(levels):
        rows, columns = -(-height // 2), -(-width // 2)
        coarse = values.new_empty((channels + 1, rows, columns))
        grid = (-(-rows * columns // SPAN),)
        _push_kernel[grid](*stack[-1], coarse, height, width, rows, columns, channels, level == 0, SPAN)
        stack.append((coarse, coarse[channels]))
        if min(height, width) < 2:
            break
        height, width = rows, columns
    coarse = stack.pop()[0]
    while stack:
        fine, known = stack.pop()
        height, width = known.shape
        rows, columns = coarse.shape[1:]
        filled = values.new_empty((channels + 1, height, width))
        grid = (-(-height * width // SPAN),)
        _pull_kernel[grid](
            fine, known, coarse, filled, height, width, rows, columns, channels, not stack, SPAN
        )  # fmt: skip
        coarse = filled
    return coarse[:-1], coarse[-1]
