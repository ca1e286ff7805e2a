"""`bokeh-assets run` and `render` as a user calls them: results, what is made again, and every error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bokeh_assets.cli import main
from bokeh_assets.media.frames import FrameFolder
from bokeh_assets.media.presentation import read_presentation
from bokeh_assets.media.probe import probe
from bokeh_assets.media.samples import make_sample
from bokeh_assets.store import VideoFolder, VideoStore


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def only_video(data: Path) -> VideoFolder:
    (folder,) = (data / "videos").iterdir()
    return VideoStore(data).video(folder.name)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOKEH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BOKEH_CHECKPOINTS_DIR", str(tmp_path / "checkpoints"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    make_sample(path, seconds=0.5, size=(192, 108))
    return path


def test_a_video_becomes_a_bokeh_video_and_a_change_makes_only_what_it_touches(clip: Path, data: Path):
    first = call("run", clip)
    assert first.exit_code == 0, first.output
    video = only_video(data)
    assert first.output.strip().endswith(str(video.bokeh))
    source, result = probe(clip), probe(video.bokeh)
    assert (result.width, result.height, len(result.audio)) == (source.width, source.height, len(source.audio))
    assert read_presentation(video.bokeh).seconds == pytest.approx(read_presentation(clip).seconds, abs=1e-6)
    assert "no subject was given" in first.output and "thin_lens" in first.output

    times = {path: path.stat().st_mtime_ns for path in (video.frames, video.masks, video.disparity, video.bokeh)}
    again = call("run", clip)
    assert again.exit_code == 0 and "up to date: frames, masks, depth_maps, focus_track" in again.output
    assert video.bokeh.stat().st_mtime_ns == times[video.bokeh]

    stronger = call("run", clip, "--k", "30")
    assert "up to date: frames, masks, depth_maps\n" in stronger.output
    assert video.bokeh.stat().st_mtime_ns != times[video.bokeh]
    assert all(path.stat().st_mtime_ns == times[path] for path in (video.frames, video.masks, video.disparity))
    assert "blur: 30" in video.settings.read_text()

    out = data.parent / "out"
    rendered = call("render", video.render_csv, "--out", out, "--frames")
    assert rendered.exit_code == 0, rendered.output
    assert (out / f"{video.key}.mp4").read_bytes() == video.bokeh.read_bytes(), "the CSV alone reproduces the render"
    assert len(FrameFolder(out / video.key)) == len(FrameFolder(video.frames))

    identity = call("run", clip, "--k", "0")
    assert identity.exit_code == 0, identity.output
    call("render", video.render_csv, "--out", out / "zero", "--frames")
    for made, frame in zip(FrameFolder(out / "zero" / video.key), FrameFolder(video.frames), strict=True):
        np.testing.assert_array_equal(made, frame)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "missing.mp4"], "missing.mp4"),
        (["run", "TEXT"], "text.mp4"),
        (["run", "EMPTY"], "empty.mp4"),
        (["run", "CLIP", "--speed", "3"], "--speed"),
        (["run", "CLIP", "--subject", "box:1,2,3"], "box:x0,y0,x1,y1"),
        (["run", "CLIP", "--subject", "box:900,900,950,950"], "outside the 192x108 picture"),
        (["run", "CLIP", "--subject", "point:5,5@99"], "frame 99"),
        (["run", "CLIP", "--subject", "mask:none.png"], "none.png"),
        (["run", "CLIP", "--settings", "none.yaml"], "none.yaml"),
        (["run", "CLIP", "--settings", "TYPO"], "did you mean 'focus'"),
        (["run", "CLIP", "--focus", "far"], "focus 'far' is not understood"),
        (["run", "CLIP", "--k", "-3"], "blur -3"),
        (["run", "CLIP", "--segmenter", "sam2.1_hiera_tiny"], "checkpoints download sam2.1_hiera_tiny"),
        (["run", "CLIP", "--depth", "vitl"], "--accept-license"),
        (["run", "CLIP", "--renderer", "any_to_bokeh"], "any_to_bokeh_unet"),
        (["run", "CLIP", "--device", "cuda"], "no NVIDIA GPU"),
        (["run", "CLIP", "--device", "gpu"], "device 'gpu' is unknown"),
        (["render", "none.csv", "--out", "out"], "none.csv"),
        (["checkpoints", "download", "sam3"], "sam3"),
    ],
)
def test_an_error_is_one_clear_line_and_leaves_nothing_half_made(
    words: list[str], said: str, clip: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch

    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has the GPU the test wants to miss")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "typo.yaml").write_text("focuss: 0.5\n")
    names = {"TEXT": "text.mp4", "EMPTY": "empty.mp4", "CLIP": str(clip), "TYPO": "typo.yaml"}
    result = call(*(names.get(word, word) for word in words))
    assert result.exit_code != 0
    assert said in result.stderr, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert not list(data.glob("videos/*/bokeh.mp4")) and not list(tmp_path.rglob(".tmp-*"))


def test_one_bad_video_does_not_stop_the_others(clip: Path, data: Path, tmp_path: Path):
    (tmp_path / "bad.mp4").write_bytes(b"bad")
    result = call("run", tmp_path / "bad.mp4", clip)
    assert result.exit_code == 1 and "bad.mp4" in result.stderr
    assert only_video(data).bokeh.is_file()


def test_a_full_disk_is_said_and_nothing_half_written_stays(clip: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small filesystem here")
    try:
        env = {**os.environ, "BOKEH_DATA_DIR": str(disk / "data")}
        env.pop("DAGSTER_HOME", None)
        env["DAGSTER_HOME"] = str(tmp_path / "home")
        words = [sys.executable, "-m", "bokeh_assets.cli", "run", str(clip)]
        result = subprocess.run(words, env=env, capture_output=True, text=True)
        assert result.returncode == 1
        assert "make room" in result.stderr and len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert not list(disk.rglob(".tmp-*")) and not list(disk.rglob("bokeh.mp4"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_doctor_and_the_list_of_checkpoints_say_what_is_missing(data: Path):
    told = call("doctor").output
    assert "segmenter: auto is classical" in told and "checkpoints download sam2.1_hiera_tiny" in told
    listed = call("checkpoints", "list").output
    assert "sam2.1_hiera_tiny" in listed and "missing" in listed and "non-commercial" in listed


def test_the_demo_ends_with_a_playable_video_and_prints_its_path(data: Path, monkeypatch: pytest.MonkeyPatch):
    samples, small = "bokeh_assets.media.samples", {"size": (192, 108)}
    monkeypatch.setattr(f"{samples}.make_sample.__kwdefaults__", {"seconds": 0.4, "fps": 24, **small})
    monkeypatch.setattr(f"{samples}.make_sample_mask.__kwdefaults__", small)
    result = call("demo")
    assert result.exit_code == 0, result.output
    assert probe(Path(result.output.strip().splitlines()[-1])).codec == "h264"
