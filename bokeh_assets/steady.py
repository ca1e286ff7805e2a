"""Smoothing of numbers over time, with zero phase and at any frame rate, fixed or not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def windows(times: NDArray[np.float64], reach: float) -> list[slice]:
    """For every time (seconds, rising), the slice of times at most `reach` away."""
    first = np.searchsorted(times, times - reach - 1e-9)
    last = np.searchsorted(times, times + reach + 1e-9)
    return [slice(int(a), int(b)) for a, b in zip(first, last, strict=True)]


def local_line(values: NDArray[np.float64], times: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian-weighted local linear regression: zero phase, and neither ramps nor ends are pulled in.

    Cleveland, "Robust Locally Weighted Regression", JASA 1979, with a Gaussian kernel of `sigma` seconds. The result
    keeps to the range of the values.
    """
    out = np.empty_like(values)
    for i, around in enumerate(windows(times, 3 * sigma)):
        offset = times[around] - times[i]
        weight = np.exp(-0.5 * (offset / sigma) ** 2)
        weight /= weight.sum()
        mean_t, mean_v = weight @ offset, weight @ values[around]
        variance = weight @ (offset - mean_t) ** 2
        slope = 0.0 if variance < 1e-12 else weight @ ((offset - mean_t) * (values[around] - mean_v)) / variance
        out[i] = mean_v - slope * mean_t
    return np.clip(out, values.min(), values.max())
