"""Full, read-only, denied and failing disks: one clear line, nothing half-written, nothing finished lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bokeh_assets.media.samples import make_sample
from bokeh_assets_tests.trust.disk import (
    STAGES,
    SmallDisk,
    finished,
    only_video,
    outputs,
    run,
    small_disk,
    unfinished,
    when_writing,
    without_roots_rights,
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=0.25, size=(64, 48))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store on a disk of its own, with Dagster's home on another."""
    monkeypatch.setenv("BOKEH_DATA_DIR", str(tmp_path / "disk" / "data"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BOKEH_CHECKPOINTS_DIR", str(tmp_path / "none"))
    return tmp_path / "disk" / "data"


def one_line(error: str, *words: str) -> None:
    assert error and "\n" not in error and "Traceback" not in error, error
    assert any(word in error for word in words), error


def test_a_disk_that_fills_at_any_stage_loses_nothing_and_heals(clip: Path, data: Path):
    with small_disk(data.parent) as disk:
        kept: dict[str, str] = {}
        for name, asset in STAGES.items():
            with when_writing(name, lambda name=name: disk.fill(2 if name in ("frames", "masks", "disparity") else 0)):  # type: ignore[misc]
                error = run(clip)
            print(f"{name:14} {error}")
            one_line(error, "make room", "free some", "disk is full")
            assert asset not in finished(data) and not unfinished(data)
            now = outputs(data)
            assert {path: now.get(path) for path in kept} == kept, "what was finished is intact"
            kept = {path: digest for path, digest in now.items() if path not in ("settings.yaml",)}
            disk.make_room()
        assert run(clip) == "" and not unfinished(data)
        healed = outputs(data)
        shutil.rmtree(data / "videos")
        assert run(clip) == "" and outputs(data) == healed, "as on a disk that never filled"


@pytest.mark.slow
def test_a_full_disk_while_making_again_leaves_the_old_result_whole(clip: Path, data: Path):
    with small_disk(data.parent) as disk:
        assert run(clip) == ""
        before, made = outputs(data), finished(data)
        (only_video(data) / "settings.yaml").write_text("blur: 3\n")
        with when_writing("focus.parquet", disk.fill):
            one_line(run(clip), "disk is full", "make room")
        now = outputs(data)
        assert finished(data) == made and {name: now[name] for name in before} == before
        disk.make_room()
        assert run(clip) == "" and outputs(data)["bokeh.mp4"] != before["bokeh.mp4"]
        (only_video(data) / "settings.yaml").unlink()
        assert run(clip) == "" and outputs(data) == before


def test_the_estimate_comes_before_the_work(clip: Path, data: Path):
    with small_disk(data.parent) as disk:
        disk.fill(30)
        error = run(clip)
        one_line(error, "needs about")
        assert not (only_video(data) / "frames").exists() and not unfinished(data)


@pytest.mark.slow
def test_a_disk_that_is_full_for_dagster_is_said_and_heals(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BOKEH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BOKEH_CHECKPOINTS_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "disk" / "home"))
    with small_disk(tmp_path / "disk") as disk:
        disk.fill()  # before there is a home
        one_line(run(clip), "make room")
        disk.make_room()
        with when_writing("masks", disk.fill):
            one_line(run(clip), "make room")
        disk.make_room()
        assert run(clip) == ""
        assert not unfinished(tmp_path / "data")


@pytest.mark.slow
@pytest.mark.parametrize("made", [False, True])
def test_a_read_only_store_is_said(clip: Path, data: Path, made: bool):
    with small_disk(data.parent) as disk:
        data.mkdir()
        if made:
            assert run(clip) == ""
            (only_video(data) / "settings.yaml").write_text("blur: 3\n")
            before = outputs(data)
        disk.read_only(True)
        try:
            one_line(run(clip), "read-only")
            assert not made or outputs(data) == before
        finally:
            disk.read_only(False)
        assert run(clip) == ""


@pytest.mark.parametrize("lost", ["frames", "masks", "disparity", "focus.parquet", "bokeh.mp4"])
@pytest.mark.slow
def test_an_output_that_vanished_is_made_again(clip: Path, data: Path, lost: str):
    assert run(clip) == ""
    before = outputs(data)
    gone = only_video(data) / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert run(clip) == "" and outputs(data) == before


@pytest.mark.slow
def test_frames_that_vanish_under_a_running_step_are_named_and_made_again(clip: Path, data: Path):
    with when_writing("masks", lambda: shutil.rmtree(only_video(data) / "frames")):
        error = run(clip)
    one_line(error, "frames")
    assert "masks" not in finished(data) and not unfinished(data)
    assert run(clip) == "" and "bokeh_video" in finished(data)


@pytest.mark.slow
def test_one_picture_that_vanished_is_noticed(clip: Path, data: Path):
    assert run(clip) == ""
    before = outputs(data)
    (only_video(data) / "masks" / "00002.png").unlink()
    (only_video(data) / "settings.yaml").write_text("blur: 3\n")
    assert run(clip) == "" and set(outputs(data)) - {"settings.yaml"} == set(before)
    assert outputs(data)["masks/00002.png"] == before["masks/00002.png"]


@pytest.mark.slow
def test_an_upload_that_vanishes_is_named_and_heals_when_it_is_back(clip: Path, data: Path, tmp_path: Path):
    upload = tmp_path / "upload.mp4"
    shutil.copyfile(clip, upload)
    with when_writing("source.mp4", upload.unlink):
        one_line(run(upload), "upload.mp4")
    assert not unfinished(data) and not finished(data)
    one_line(run(upload), "upload.mp4")
    shutil.copyfile(clip, upload)
    assert run(upload) == ""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root's rights away, which takes root")
@pytest.mark.parametrize("denied", ["data", "videos", "upload"])
def test_a_denied_permission_is_one_line(clip: Path, data: Path, tmp_path: Path, denied: str):
    upload = tmp_path / "upload.mp4"
    shutil.copyfile(clip, upload)
    (data / "videos").mkdir(parents=True)
    place = {"data": data, "videos": data / "videos", "upload": upload}[denied]
    place.chmod(0o000)
    try:
        result = without_roots_rights(["run", str(upload)], {})
    finally:
        place.chmod(0o755)
    assert result.returncode != 0 and len(result.stderr.strip().splitlines()) == 1, result.stderr
    one_line(result.stderr.strip(), "ermission", "not readable")
    assert str(place) in result.stderr


def test_a_small_disk_can_be_filled_and_emptied(tmp_path: Path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        disk.fill(2)
        (disk.path / "a").write_bytes(bytes(8192))
        with pytest.raises(OSError):
            (disk.path / "b").write_bytes(b"1")
        disk.make_room()
        (disk.path / "b").write_bytes(b"1")
        assert isinstance(disk, SmallDisk)
