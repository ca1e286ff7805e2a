"""The graph with the research models: seeded weights in the official files' places, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bokeh_assets.checkpoints import CHECKPOINTS
from bokeh_assets.media.frames import MapFolder
from bokeh_assets.media.samples import make_sample
from bokeh_assets.processing import process
from bokeh_assets_tests.segmentation.sam2_upstream import seeded_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_graph_runs_sam2_and_video_depth_anything_where_their_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from bokeh_assets.depth.video_depth_anything import VideoDepthAnything

    monkeypatch.setenv("BOKEH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BOKEH_CHECKPOINTS_DIR", str(tmp_path / "checkpoints"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    (tmp_path / "checkpoints").mkdir()
    seeded_checkpoint(tmp_path / "checkpoints" / CHECKPOINTS["sam2.1_hiera_tiny"].path, "tiny")
    torch.manual_seed(0)
    vits = tmp_path / "checkpoints" / CHECKPOINTS["video_depth_anything_vits"].path
    torch.save(VideoDepthAnything("vits").state_dict(), vits)
    clip = make_sample(tmp_path / "clip.mp4", seconds=0.25, size=(160, 90))

    told: list[str] = []
    result = process(clip, {"subject": [{"box": [40, 10, 90, 85]}]}, None, device="cpu", say=told.append)

    assert any(line.startswith("masks: sam2.1_hiera_tiny on cpu") for line in told), told
    assert any(line.startswith("depth_maps: vits on cpu") for line in told), told
    assert not any("stood upright" in line for line in told), "a model's depth has the subject in it"
    made = json.loads((result.parent / "made" / "masks.json").read_text())
    assert made["licence"] == "Apache-2.0" and made["checkpoint"].endswith("sam2.1_hiera_tiny.pt")
    assert len(MapFolder(result.parent / "masks")) == len(MapFolder(result.parent / "render" / "disp")) == 6
    disparity, linked = (result.parent / "disparity" / "00000.png"), next((result.parent / "render" / "disp").iterdir())
    assert linked.stat().st_nlink == 2 and disparity.stat().st_nlink == 2, "the maps are hard links"
