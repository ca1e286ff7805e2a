"""Edge-aware smoothing: values spread inside a surface of the picture and stop at its outline."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_ITERATIONS = 3


def smooth_along_edges(
    values: NDArray[np.float32],
    guide: NDArray[np.uint8],
    *,
    strength: float,
    sigma: float,
    confidence: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Smooth a map so that its steps lie where the picture's are.

    Weighted least squares, solved line by line: Min et al., "Fast Global Image Smoothing Based on Weighted Least
    Squares", IEEE TIP 2014, equations 5 to 13. Linear in the number of pixels, whatever the strength.

    Args:
        values: float32 (H, W).
        guide: uint8 picture (H, W, 3).
        strength: how far values spread (lambda); the reach is about its square root, in pixels.
        sigma: difference in any colour channel (0..255) at which spreading falls to 1/e.
        confidence: float32 (H, W), how much each value counts; where it is 0 the surroundings are taken over.

    Returns:
        float32 (H, W), within the range of `values`.
    """
    bond = np.exp(-np.arange(256) / sigma).astype(np.float32)
    across = bond[_steps(guide[:, 1:], guide[:, :-1])]
    down = bond[np.ascontiguousarray(_steps(guide[1:], guide[:-1]).T)]
    if confidence is None:
        return _solve(values, across, down, strength)
    share = _solve(confidence, across, down, strength)
    total = _solve(values * confidence, across, down, strength)
    return (total / np.maximum(share, 1e-6)).astype(np.float32)


def _steps(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Largest difference in any channel, (H, W)."""
    return (np.maximum(a, b) - np.minimum(a, b)).max(axis=2)


def _solve(
    values: NDArray[np.float32], across: NDArray[np.float32], down: NDArray[np.float32], strength: float
) -> NDArray[np.float32]:
    out = values.astype(np.float32, copy=True)
    for step in range(_ITERATIONS):
        part = np.float32(1.5 * 4 ** (_ITERATIONS - 1 - step) / (4**_ITERATIONS - 1) * strength)
        _solve_rows(out, across, part)
        turned = np.ascontiguousarray(out.T)
        _solve_rows(turned, down, part)
        out = np.ascontiguousarray(turned.T)
    return out


@numba.njit(nogil=True)
def _solve_rows(values, weights, strength):
    """Solve (1 + strength * L) u = f for every row in place; L is the Laplacian of the chain with these weights."""
    height, width = values.shape
    rest = np.empty(width, np.float32)
    for y in range(height):
        left = np.float32(0)
        for x in range(width):
            right = strength * weights[y, x] if x < width - 1 else np.float32(0)
            main = np.float32(1) + left + right
            if x == 0:
                rest[x] = right / main
                values[y, x] = values[y, x] / main
            else:
                pivot = main - left * rest[x - 1]
                rest[x] = right / pivot
                values[y, x] = (values[y, x] + left * values[y, x - 1]) / pivot
            left = right
        for x in range(width - 2, -1, -1):
            values[y, x] += rest[x] * values[y, x + 1]
