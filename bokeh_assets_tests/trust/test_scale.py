"""Thousands of uploads: none missed, none made twice, ticks short, the cursor small."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bokeh_assets_tests.trust.scale import daemon_ticks, fast_folder, storm


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fast_folder()) as path:
        yield Path(path)


@pytest.mark.parametrize(
    "uploads", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])], ids=str
)
def test_no_upload_is_missed_or_doubled_whatever_happens_between_ticks(uploads: int, folder: Path):
    report = storm(folder / "data", uploads)
    print(report.table())
    assert report.uploads >= uploads and report.missed == [] and report.doubled == []
    assert report.worst_tick < 5
    assert report.cursor_bytes == 16
    assert report.memory_bytes < 250 * report.uploads


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tick_of_the_real_daemon_over_ten_thousand_files_stays_short(folder: Path):
    results = daemon_ticks(folder / "data", 10_000, 5)
    print(results)
    assert all(runs >= 2 for _, runs in results)
    assert sorted(seconds for seconds, _ in results)[-2] < 5, "the first loads what it needs"
