"""Smoothing over time, at fixed and at varying frame rates."""

import numpy as np

from bokeh_assets.steady import local_line, windows

TIMES = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.08, 80))


def test_a_ramp_at_any_frame_rate_comes_back_as_it_is():
    assert np.allclose(local_line(0.2 * TIMES - 0.1, TIMES, 0.3), 0.2 * TIMES - 0.1)


def test_a_peak_stays_where_it_is_and_in_range():
    times = np.arange(61) / 30
    peak = np.exp(-(((times - 1) / 0.3) ** 2))
    out = local_line(peak, times, 0.1)
    assert np.argmax(out) == 30 and np.allclose(out, out[::-1]) and out.min() >= peak.min() and out.max() <= peak.max()


def test_one_value_alone_is_kept():
    assert local_line(np.array([0.4]), np.array([3.0]), 0.2).tolist() == [0.4]


def test_windows_hold_the_times_within_reach():
    for time, around in zip(TIMES, windows(TIMES, 0.1), strict=True):
        assert np.array_equal(TIMES[around], TIMES[np.abs(TIMES - time) <= 0.1 + 1e-9])
