"""`scene.push_pull` for the CPU: one pass down and one up per level instead of a handful."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, fastmath=True, cache=True)
def push(fine, coarse):
    """Averages of four, the last channel being the weight; a cell a quarter known counts as known."""
    channels, height, width = fine.shape
    for i in range(coarse.shape[1]):
        for j in range(coarse.shape[2]):
            y1, x1 = min(2 * i + 2, height), min(2 * j + 2, width)
            share = np.float32(1.0 / ((y1 - 2 * i) * (x1 - 2 * j)))
            weight = np.float32(0)
            for y in range(2 * i, y1):
                for x in range(2 * j, x1):
                    weight += fine[channels - 1, y, x]
            weight *= share
            if weight <= 0:
                for channel in range(channels):
                    coarse[channel, i, j] = 0
                continue
            factor = share * min(4 * weight, np.float32(1)) / max(weight, np.float32(1e-8))
            for channel in range(channels):
                total = np.float32(0)
                for y in range(2 * i, y1):
                    for x in range(2 * j, x1):
                        total += fine[channel, y, x]
                coarse[channel, i, j] = total * factor


@njit(nogil=True, fastmath=True, cache=True)
def pull(fine, coarse):
    """Adds to `fine`, in place, what it does not know, read bilinearly from `coarse`."""
    channels, height, width = fine.shape
    rows, columns = coarse.shape[1:]
    down, across = np.float32(rows / height), np.float32(columns / width)
    half, zero, one = np.float32(0.5), np.float32(0), np.float32(1)
    for y in range(height):
        v = min(max((y + half) * down - half, zero), np.float32(rows - 1))
        i = int(v)
        a = v - i
        i1 = min(i + 1, rows - 1)
        for x in range(width):
            missing = one - fine[channels - 1, y, x]
            if missing <= 0:
                continue
            u = min(max((x + half) * across - half, zero), np.float32(columns - 1))
            j = int(u)
            b = u - j
            j1 = min(j + 1, columns - 1)
            p, q = (one - a) * (one - b) * missing, (one - a) * b * missing
            r, s = a * (one - b) * missing, a * b * missing
            if (
                coarse[channels - 1, i, j]
                + coarse[channels - 1, i, j1]
                + coarse[channels - 1, i1, j]
                + coarse[channels - 1, i1, j1]
                <= 0
            ):
                continue
            for channel in range(channels):
                fine[channel, y, x] += (
                    p * coarse[channel, i, j]
                    + q * coarse[channel, i, j1]
                    + r * coarse[channel, i1, j]
                    + s * coarse[channel, i1, j1]
                )


def push_pull_cpu(layer: np.ndarray, levels: int) -> np.ndarray:
    """(C + 1, H, W) premultiplied values and weight, filled in place and handed back."""
    stack = [layer]
    for _ in range(levels):
        fine = stack[-1]
        coarse = np.empty((fine.shape[0], -(-fine.shape[1] // 2), -(-fine.shape[2] // 2)), np.float32)
        push(fine, coarse)
        stack.append(coarse)
        if min(fine.shape[1:]) < 2:
            break
    for fine, coarse in zip(stack[-2::-1], stack[:0:-1], strict=True):
        pull(fine, coarse)
    return layer
