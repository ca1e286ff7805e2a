"""Sources of every kind through the whole graph: the result has their frames, times, size and sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bokeh_assets.media.presentation import read_presentation
from bokeh_assets.media.probe import probe
from bokeh_assets.processing import process
from bokeh_assets_tests.media.clips import audio_packets, make_clip, moving

TURNED = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
"""FFmpeg's display matrix of a quarter turn."""

SOURCES: dict[str, dict[str, Any]] = {
    "audio": {"audio": "aac"},
    "variable frame rate": {"ticks": (0, 33, 70, 200, 210, 333), "base": Fraction(1, 1000), "last": 40},
    "rotated": {"display": TURNED},
    "odd size": {"size": (97, 63), "pix_fmt": "yuv444p"},
    "4:4:4": {"pix_fmt": "yuv444p"},
    "10 bit": {"pix_fmt": "yuv420p10le"},
    "one frame": {"ticks": (0,), "last": 1},
    "portrait": {"size": (64, 96)},
    "wide pixels": {"sar": Fraction(4, 3)},
    "hdr": {"pix_fmt": "yuv420p10le", "tags": (9, 16, 9, 1)},
}


@pytest.mark.parametrize("kind", SOURCES)
def test_the_result_has_the_frames_times_size_and_sound_of_its_source(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BOKEH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    source = make_clip(tmp_path / "source.mp4", picture=moving, **SOURCES[kind])
    told: list[str] = []
    result = process(source, {"subject": [{"box": [16, 12, 48, 44]}]}, None, say=told.append)

    before, after = probe(source), probe(result)
    assert (after.width, after.height) == (before.width, before.height)
    if kind == "rotated":
        assert (after.width, after.height) == (64, 96) and after.rotation == 0
    if kind == "wide pixels":
        assert (after.width, after.height) == (128, 64) and after.sample_aspect_ratio == 1
    if kind == "hdr":
        assert after.hdr is None and any("tone" in line for line in told), told
    assert read_presentation(result).seconds == pytest.approx(read_presentation(source).seconds, abs=1e-6)
    assert read_presentation(result).end == pytest.approx(read_presentation(source).end, abs=1e-3)
    assert len(after.audio) == len(before.audio) == (kind == "audio")
    if kind == "audio":
        assert audio_packets(result) == audio_packets(source)
