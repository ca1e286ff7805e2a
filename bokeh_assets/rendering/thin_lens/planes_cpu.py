"""Blur every plane and put one behind the other, on the CPU: what `accumulate` does, only where there is
something to do, and with sums that do not grow with the radius squared.

A row of an aperture is a run of equal weights with a soft end or two. Written as differences it has only a few
entries; applied to running sums along the picture's rows it gives the same blur (Crow, Summed-area tables, 1984,
in one dimension). So any aperture costs in proportion to its rim.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

from bokeh_assets.rendering.thin_lens.accumulate import GAP, ROUND, kernel_for
from bokeh_assets.rendering.thin_lens.aperture import Aperture
from bokeh_assets.rendering.thin_lens.axis import Axis
from bokeh_assets.rendering.thin_lens.scene import Scene

BLOCK = 32  # side of the squares in which work is skipped
CLOSED = 1e-4  # share of light still open under which nothing farther shows
DIRECT = 2.6  # radius under which the plain sum is shorter


def taps(shape: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """Offsets (rows, columns) and weights that apply the kernel, and whether they go with running sums."""
    # Correlation with the flipped kernel is the convolution.
    shape = shape[::-1, ::-1]
    if radius < DIRECT:
        at = np.argwhere(shape > 0)
        return at.astype(np.int64), shape[shape > 0].astype(np.float32), False
    steps = np.diff(np.pad(shape, ((0, 0), (1, 1))), axis=1)
    steps = np.where(np.abs(steps) < 1e-7, 0, steps)
    at = np.argwhere(steps != 0)
    return at.astype(np.int64), -steps[steps != 0].astype(np.float32), True


@njit(nogil=True, cache=True)
def _extent(places, weights, low, high):
    """Least and greatest place in every block, where the surface has weight."""
    height, width = places.shape
    for i in range(low.shape[0]):
        for y in range(i * BLOCK, min(height, (i + 1) * BLOCK)):
            for x in range(width):
                if weights[y, x] > 0:
                    j = x // BLOCK
                    low[i, j] = min(low[i, j], places[y, x])
                    high[i, j] = max(high[i, j], places[y, x])


@njit(nogil=True, fastmath=True, cache=True)
def _content(front, alpha, front_place, back, back_weight, back_place, index, factor, n, active, small):
    """One plane, shrunk by averaging, with a border of n that repeats its outermost pixels."""
    height, width = alpha.shape
    rows, columns = small.shape[1] - 2 * n, small.shape[2] - 2 * n
    share = np.float32(1.0 / (factor * factor))
    for i in range(rows):
        row = small[:, i + n]
        row[:, :] = 0
        for v in range(factor):
            y = min(i * factor + v, height - 1)
            band = active[y // BLOCK]
            for block in range(band.shape[0]):
                if not band[block]:
                    continue
                end = (block + 1) * BLOCK
                # What lies past the right border repeats the last column.
                for x in range(
                    block * BLOCK, min(end, columns * factor) if block + 1 < band.shape[0] else columns * factor
                ):
                    c = min(x, width - 1)
                    f = max(np.float32(0), np.float32(1) - abs(front_place[y, c] - index)) * alpha[y, c] * share
                    b = max(np.float32(0), np.float32(1) - abs(back_place[y, c] - index)) * back_weight[y, c] * share
                    if f + b > 0:
                        j = x // factor + n
                        row[0, j] += f * front[0, y, c] + b * back[0, y, c]
                        row[1, j] += f * front[1, y, c] + b * back[1, y, c]
                        row[2, j] += f * front[2, y, c] + b * back[2, y, c]
                        row[3, j] += f + b
        for channel in range(4):
            row[channel, :n] = row[channel, n]
            row[channel, n + columns :] = row[channel, n + columns - 1]
    for i in range(n):
        small[:, i] = small[:, n]
        small[:, n + rows + i] = small[:, n + rows - 1]


@njit(nogil=True, fastmath=True, cache=True)
def _running_sums(small, filled, sums):
    """Along rows; rows that hold nothing are left at the zeros they are."""
    for y in range(small.shape[1]):
        if not filled[y]:
            continue
        # Four sums side by side: one alone waits for every addition.
        red, green, blue, cover = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for x in range(small.shape[2]):
            red += small[0, y, x]
            green += small[1, y, x]
            blue += small[2, y, x]
            cover += small[3, y, x]
            sums[0, y, x + 1], sums[1, y, x + 1], sums[2, y, x + 1], sums[3, y, x + 1] = red, green, blue, cover


@njit(nogil=True, fastmath=True, cache=True)
def _apply(source, filled, at, weights, wanted, step, result):
    """Weighted sum of shifted rows, in the wanted blocks (of `step` pixels) of the result."""
    rows, columns = result.shape[1:]
    for i in range(rows):
        band = wanted[min(i // step, wanted.shape[0] - 1)]
        block = 0
        while block < band.shape[0]:
            if not band[block]:
                block += 1
                continue
            first = block
            while block < band.shape[0] and band[block]:
                block += 1
            # One more pixel on either side, for growing.
            x0, x1 = max(0, first * step - 1), min(columns, block * step + 1)
            if block == band.shape[0]:
                x1 = columns
            for channel in range(4):
                line = result[channel, i, x0:x1]
                line[:] = 0
                for tap in range(at.shape[0]):
                    if not filled[i + at[tap, 0]]:
                        continue
                    weight = weights[tap]
                    piece = source[channel, i + at[tap, 0], x0 + at[tap, 1] : x1 + at[tap, 1]]
                    for x in range(line.shape[0]):
                        line[x] += weight * piece[x]


@njit(nogil=True, fastmath=True, cache=True)
def _line(plane, y, factor, line, upright):
    """Row y of the plane at full size, grown bilinearly."""
    rows, columns = plane.shape[1:]
    width = line.shape[1]
    if factor == 1:
        line[:, :] = plane[:, y, :width]
        return
    half, zero, one = np.float32(0.5), np.float32(0), np.float32(1)
    scale = one / np.float32(factor)
    v = min(max((y + half) * scale - half, zero), np.float32(rows - 1))
    i = int(v)
    a = np.float32(v - i)
    i1 = min(i + 1, rows - 1)
    for channel in range(4):
        for j in range(columns):
            upright[channel, j] = plane[channel, i, j] * (one - a) + plane[channel, i1, j] * a
        row, grown = upright[channel], line[channel]
        # Between the middles of two small pixels lie `factor` large ones, at fixed shares.
        start = factor // 2
        for x in range(min(start, width)):
            grown[x] = row[0]
        for u in range(factor):
            b = np.float32((u + half) * scale)
            for j in range(columns - 1):
                x = start + j * factor + u
                if x < width:
                    grown[x] = row[j] * (one - b) + row[j + 1] * b
        for x in range(start + (columns - 1) * factor, width):
            grown[x] = row[columns - 1]


@njit(nogil=True, fastmath=True, cache=True)
def _add(plane, factor, wanted, total, through, surface, last, rest, gap):
    """`accumulate.Stack.add` for one plane, growing it bilinearly on the way; `rest` becomes the most that is still
    open anywhere in a block."""
    height, width = last.shape
    line = np.empty((4, width), np.float32)
    upright = np.empty((4, plane.shape[2]), np.float32)
    kept, share = np.empty((2, width), np.float32)
    one, zero, tiny, least = np.float32(1), np.float32(0), np.float32(1e-6), np.float32(1e-3)
    for y in range(height):
        here, open_ = wanted[y // BLOCK], rest[y // BLOCK]
        if not here.any():
            continue
        if y % BLOCK == 0:
            open_[here] = 0
        _line(plane, y, factor, line, upright)
        block = 0
        while block < here.shape[0]:
            if not here[block]:
                block += 1
                continue
            first = block
            while block < here.shape[0] and here[block]:
                block += 1
            x0, x1 = first * BLOCK, min(width, block * BLOCK)
            before, solid, open_before = last[y, x0:x1], surface[y, x0:x1], through[y, x0:x1]
            cover = line[3, x0:x1]
            # Loops that write one thing each: those the compiler turns into vector instructions.
            for x in range(x1 - x0):
                cover[x] = max(cover[x], zero)
            for x in range(x1 - x0):
                kept[x] = solid[x] * min(before[x] / max(gap * solid[x], tiny), one)
            for x in range(x1 - x0):
                room = one - kept[x]
                open_before[x] *= (one - solid[x]) / max(room, least) if room > least else one
            for x in range(x1 - x0):
                share[x] = open_before[x] * min(one, (one - kept[x]) / max(cover[x], tiny))
            for x in range(x1 - x0):
                solid[x] = kept[x] + min(cover[x], one - kept[x])
            for x in range(x1 - x0):
                before[x] = cover[x]
            for channel in range(3):
                light, new = total[channel, y, x0:x1], line[channel, x0:x1]
                for x in range(x1 - x0):
                    light[x] += max(new[x], zero) * share[x]
            for x in range(x1 - x0):
                cover[x] = open_before[x] * (one - solid[x])
            for number in range(first, block):
                most = open_[number]
                for x in range(number * BLOCK - x0, min((number + 1) * BLOCK - x0, x1 - x0)):
                    most = max(most, cover[x])
                open_[number] = most


@njit(nogil=True, fastmath=True, cache=True)
def _finish(total, through, surface):
    for y in range(surface.shape[0]):
        for channel in range(3):
            for x in range(surface.shape[1]):
                covered = np.float32(1) - through[y, x] * (np.float32(1) - surface[y, x])
                total[channel, y, x] /= max(covered, np.float32(1e-6))


@njit(nogil=True, cache=True)
def _empty(last, ended):
    """Nothing of a surface in the last plane, in blocks where it has ended."""
    for y in range(last.shape[0]):
        band = ended[y // BLOCK]
        for block in range(band.shape[0]):
            if band[block]:
                last[y, block * BLOCK : (block + 1) * BLOCK] = 0


def _grow(active: np.ndarray, reach: int) -> np.ndarray:
    """Blocks within `reach` pixels of active ones."""
    by = -(-reach // BLOCK)
    padded = np.pad(active, by)
    grown = np.zeros_like(active)
    for v in range(2 * by + 1):
        for u in range(2 * by + 1):
            grown |= padded[v : v + active.shape[0], u : u + active.shape[1]]
    return grown


def photograph_cpu(scene: Scene, axis: Axis, aperture: Aperture = ROUND) -> torch.Tensor:
    """As `accumulate.photograph`, for scenes on the CPU."""
    parts = [t.contiguous().numpy() for t in (scene.front, scene.alpha, scene.front_place)]
    parts += [t.contiguous().numpy() for t in (scene.back, scene.back_weight, scene.back_place)]
    height, width = scene.alpha.shape
    blocks = (-(-height // BLOCK), -(-width // BLOCK))
    low, high = np.full((2, *blocks), np.inf, np.float32), np.full((2, *blocks), -np.inf, np.float32)
    _extent(parts[2], parts[1], low[0], high[0])
    _extent(parts[5], parts[4], low[1], high[1])
    total = np.zeros((3, height, width), np.float32)
    surface, last = np.zeros((2, height, width), np.float32)
    through = np.ones((height, width), np.float32)
    rest, before = np.ones(blocks, np.float32), np.zeros(blocks, np.bool_)
    for index in range(int(np.ceil(high.max())), int(low.min()) - 1, -1):
        active: np.ndarray = np.any((low - 1 < index) & (high + 1 > index), axis=0)
        radius = abs(float(axis.planes[index]))
        shape, factor = kernel_for(radius, aperture)
        n = shape.shape[0] // 2
        # Growing from a smaller plane reaches one of its pixels farther.
        wanted = (_grow(active, (n + 1) * factor) if n else active) & (rest > CLOSED)
        _empty(last, before & ~wanted)
        before = wanted
        if not wanted.any():
            continue
        if n:
            active &= _grow(wanted, (n + 1) * factor)
        small = np.empty((4, -(-height // factor) + 2 * n, -(-width // factor) + 2 * n), np.float32)
        _content(
            parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], np.float32(index), factor, n, active, small
        )
        if n:
            at, weights, running = taps(shape, radius / factor)
            filled = small[3].any(axis=1)
            source = small
            if running:
                source = np.zeros((4, small.shape[1], small.shape[2] + 1), np.float32)
                _running_sums(small, filled, source)
            result = np.empty((4, small.shape[1] - 2 * n, small.shape[2] - 2 * n), np.float32)
            _apply(source, filled, at, weights, _grow(wanted, 1) if factor > 1 else wanted, BLOCK // factor, result)
            small = result
        _add(small, np.int64(factor), wanted, total, through, surface, last, rest, np.float32(GAP))
    _finish(total, through, surface)
    return torch.from_numpy(total)
