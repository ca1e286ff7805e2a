"""Tone mapping: known points of the standards, and whole files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bokeh_assets.media import hdr
from bokeh_assets.media.decode import decode
from bokeh_assets.media.probe import probe
from bokeh_assets_tests.media.clips import make_clip


def test_pq_at_points_of_the_standard() -> None:
    # BT.2408 table 1: 203 nits is 58 % PQ, 1000 nits 75 %; BT.2100: 10000 nits is 100 %.
    assert hdr.nits_to_pq(203.0) == pytest.approx(0.58, abs=0.005)
    assert hdr.nits_to_pq(1000.0) == pytest.approx(0.7518, abs=0.0005)
    assert hdr.nits_to_pq(10000.0) == pytest.approx(1.0)
    levels = np.linspace(0, 1, 101)
    np.testing.assert_allclose(hdr.nits_to_pq(hdr.pq_to_nits(levels)), levels, atol=1e-6)


def test_hlg_at_points_of_the_standard() -> None:
    scene = hdr.hlg_to_scene(np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(scene, [0, 1 / 12, 1], atol=1e-6)
    # BT.2408 table 1: 75 % HLG is 203 nits on a 1000-nit display.
    assert 1000 * hdr.hlg_to_scene(np.array([0.75]))[0] ** 1.2 == pytest.approx(203, abs=1)


def test_the_curve_keeps_shadows_and_lands_on_white() -> None:
    nits = np.linspace(0, 1000, 2001)
    mapped = hdr.roll_off(nits, 1000)
    assert mapped[0] == pytest.approx(0, abs=1e-6) and mapped[-1] == pytest.approx(203, rel=1e-6)
    assert (np.diff(mapped) > 0).all()
    below = nits < 50
    np.testing.assert_allclose(mapped[below], nits[below], atol=1e-6)
    # No kink at the knee: the slope never jumps.
    assert np.abs(np.diff(mapped, 2)).max() < 0.01
    np.testing.assert_allclose(hdr.roll_off(np.array([50.0, 203.0]), 203), [50, 203])


@pytest.mark.parametrize("kind", ["pq", "hlg"])
def test_grey_stays_grey_and_hue_survives(kind: str) -> None:
    mapper = hdr.ToneMapper(kind)
    ramp = np.repeat(np.linspace(0, 65535, 256).astype(np.uint16)[None, :, None], 3, axis=2)
    grey = mapper(ramp)[0].astype(int)
    assert (grey.max(axis=1) - grey.min(axis=1)).max() <= 1
    assert (np.diff(grey[:, 0]) >= 0).all() and grey[0, 0] == 0 and grey[-1, 0] == 255
    # The same colour ten times as bright keeps its proportions where nothing clips.
    linear = np.array([0.30, 0.20, 0.15])
    dim, bright = (mapper(_signal(kind, linear * scale)[None, None])[0, 0] for scale in (20 / 203, 3.0))
    ratio = [_linear(p)[0] / _linear(p)[2] for p in (dim, bright)]
    assert ratio[0] == pytest.approx(ratio[1], rel=0.08)


def _signal(kind: str, light: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Display light (1 is 203 nits) as a signal of 16 bits."""
    nits = light * 203
    if kind == "pq":
        return np.rint(hdr.nits_to_pq(nits) * 65535).astype(np.uint16)
    luma = float(nits @ np.array([0.2627, 0.6780, 0.0593])) / 1000
    scene = nits / 1000 / luma ** (0.2 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)
    return np.rint(np.clip(signal, 0, 1) * 65535).astype(np.uint16)


def _linear(pixel: NDArray[np.uint8]) -> NDArray[np.float64]:
    level = pixel.astype(float) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize(("transfer", "kind"), [(16, "pq"), (18, "hlg")])
def test_a_file_is_mapped_and_says_so(tmp_path: Path, transfer: int, kind: str) -> None:
    def steps(width: int, height: int, _: int) -> NDArray[np.uint8]:
        # 8-bit levels of the signal itself: black, dim, about reference white, peak.
        levels = np.repeat(np.array([0, 90, 148 if kind == "pq" else 191, 255], np.uint8), width // 4)
        return np.repeat(np.repeat(levels[None, :, None], height, axis=0), 3, axis=2)

    clip = make_clip(
        tmp_path / "clip.mkv", picture=steps, pix_fmt="yuv444p10le", tags=(9, transfer, 9, 1), ticks=range(2)
    )
    info = probe(clip)
    assert info.hdr == kind and info.bit_depth == 10
    assert any("tone-mapped" in note and kind.upper() in note for note in info.notes())
    image = next(decode(clip)).image
    black, dim, white, peak = (image[30, 12 + 24 * i].astype(int).mean() for i in range(4))
    assert black <= 1 and 20 < dim < white < peak == 255
    assert 190 < white < 245  # reference white is bright and leaves room for highlights
