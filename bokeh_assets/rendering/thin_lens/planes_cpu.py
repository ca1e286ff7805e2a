"""Blur every plane and put one in front of the other, on the CPU: what `accumulate` does, only where there is
something to do, and with sums that do not grow with the radius squared.

A row of an aperture is a run of equal weights with a soft end or two. Written as differences it has only a few
entries; applied to running sums along the picture's rows it gives the same blur (Crow, Summed-area tables, 1984,
in one dimension). So any aperture costs in proportion to its rim.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange

from bokeh_assets.rendering.thin_lens.accumulate import GAP, ROUND, kernel_for
from bokeh_assets.rendering.thin_lens.aperture import Aperture
from bokeh_assets.rendering.thin_lens.axis import Axis
from bokeh_assets.rendering.thin_lens.scene import Scene

BLOCK = 32  # side of the squares in which work is skipped
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


@njit(cache=True)
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


@njit(parallel=True, fastmath=True, cache=True)
def _content(front, alpha, front_place, back, back_weight, back_place, index, factor, n, active, small):
    """One plane, shrunk by averaging, with a border of n that repeats its outermost pixels."""
    height, width = alpha.shape
    rows, columns = small.shape[1] - 2 * n, small.shape[2] - 2 * n
    share = np.float32(1.0 / (factor * factor))
    for i in prange(rows):
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


@njit(parallel=True, fastmath=True, cache=True)
def _running_sums(small, sums):
    for y in prange(small.shape[1]):
        for channel in range(4):
            total = np.float32(0)
            sums[channel, y, 0] = 0
            for x in range(small.shape[2]):
                total += small[channel, y, x]
                sums[channel, y, x + 1] = total


@njit(parallel=True, fastmath=True, cache=True)
def _apply(source, at, weights, wanted, step, result):
    """Weighted sum of shifted rows, in the wanted blocks (of `step` pixels) of the result."""
    rows, columns = result.shape[1:]
    for i in prange(rows):
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
                    weight = weights[tap]
                    piece = source[channel, i + at[tap, 0], x0 + at[tap, 1] : x1 + at[tap, 1]]
                    for x in range(line.shape[0]):
                        line[x] += weight * piece[x]


@njit(parallel=True, fastmath=True, cache=True)
def _add(plane, factor, wanted, open_, base, surface, last, gap):
    """`accumulate.Stack.add` for one plane, growing it bilinearly on the way."""
    height, width = last.shape
    rows, columns = plane.shape[1:]
    one, zero = np.float32(1), np.float32(0)
    for y in prange(height):
        v = min(max((y + np.float32(0.5)) / factor - np.float32(0.5), zero), np.float32(rows - 1))
        i = int(v)
        a = v - i
        i1 = min(i + 1, rows - 1)
        for block in range(wanted.shape[1]):
            here = wanted[y // BLOCK, block]
            if not here and not open_[y // BLOCK, block]:
                continue
            for x in range(block * BLOCK, min(width, (block + 1) * BLOCK)):
                red, green, blue, cover = zero, zero, zero, zero
                if here:
                    if factor == 1:
                        red, green, blue, cover = plane[0, y, x], plane[1, y, x], plane[2, y, x], plane[3, y, x]
                    else:
                        u = min(max((x + np.float32(0.5)) / factor - np.float32(0.5), zero), np.float32(columns - 1))
                        j = int(u)
                        b = u - j
                        j1 = min(j + 1, columns - 1)
                        p, q, r, s = (one - a) * (one - b), (one - a) * b, a * (one - b), a * b
                        red = plane[0, i, j] * p + plane[0, i, j1] * q + plane[0, i1, j] * r + plane[0, i1, j1] * s
                        green = plane[1, i, j] * p + plane[1, i, j1] * q + plane[1, i1, j] * r + plane[1, i1, j1] * s
                        blue = plane[2, i, j] * p + plane[2, i, j1] * q + plane[2, i1, j] * r + plane[2, i1, j1] * s
                        cover = plane[3, i, j] * p + plane[3, i, j1] * q + plane[3, i1, j] * r + plane[3, i1, j1] * s
                    cover = max(cover, zero)
                ends = one - min(last[y, x] / max(gap * surface[3, y, x], np.float32(1e-6)), one)
                through = one - surface[3, y, x]
                share = min(max(one - cover, zero) / max(surface[3, y, x] * (one - ends), np.float32(1e-6)), one) * (
                    one - ends
                )
                over = one / max(cover, one)
                room = one - surface[3, y, x] * (one - ends)
                for channel in range(4):
                    value = red if channel == 0 else green if channel == 1 else blue if channel == 2 else cover
                    old = surface[channel, y, x]
                    if room > np.float32(1e-3):
                        base[channel, y, x] = (old * ends + base[channel, y, x] * through) / room
                    surface[channel, y, x] = old * share + max(value, zero) * over
                last[y, x] = cover


@njit(parallel=True, fastmath=True, cache=True)
def _finish(base, surface, light):
    for y in prange(light.shape[1]):
        for x in range(light.shape[2]):
            through = np.float32(1) - surface[3, y, x]
            total = max(surface[3, y, x] + base[3, y, x] * through, np.float32(1e-6))
            for channel in range(3):
                light[channel, y, x] = (surface[channel, y, x] + base[channel, y, x] * through) / total


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
    base, surface = np.zeros((2, 4, height, width), np.float32)
    last = np.zeros((height, width), np.float32)
    open_: np.ndarray = np.zeros(blocks, np.bool_)
    for index in range(int(low.min()), int(np.ceil(high.max())) + 1):
        active: np.ndarray = np.any((low - 1 < index) & (high + 1 > index), axis=0)
        if not active.any() and not open_.any():
            continue
        radius = abs(float(axis.planes[index]))
        shape, factor = kernel_for(radius, aperture)
        n = shape.shape[0] // 2
        small = np.empty((4, -(-height // factor) + 2 * n, -(-width // factor) + 2 * n), np.float32)
        _content(
            parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], np.float32(index), factor, n, active, small
        )
        wanted = active
        if n:
            # Growing from a smaller plane reaches one of its pixels farther.
            wanted = _grow(active, (n + 1) * factor)
            at, weights, running = taps(shape, radius / factor)
            source = small
            if running:
                source = np.empty((4, small.shape[1], small.shape[2] + 1), np.float32)
                _running_sums(small, source)
            result = np.empty((4, small.shape[1] - 2 * n, small.shape[2] - 2 * n), np.float32)
            _apply(source, at, weights, _grow(wanted, 1) if factor > 1 else wanted, BLOCK // factor, result)
            small = result
        _add(small, np.int64(factor), wanted, open_, base, surface, last, np.float32(GAP))
        open_ = wanted
    light = np.empty((3, height, width), np.float32)
    _finish(base, surface, light)
    return torch.from_numpy(light)
