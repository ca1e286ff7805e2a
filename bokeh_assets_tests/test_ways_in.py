"""The ways in, each with the real thing: the UI's server, the sensor's daemon, a backfill, `dagster dev`, `dg dev`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bokeh_assets.media.presentation import read_presentation
from bokeh_assets.media.samples import make_sample
from bokeh_assets.store import VideoStore
from bokeh_assets_tests.serving import SELECTOR, Server, browser, screenshot, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

WHOLE_GRAPH = ["frames", "masks", "depth_maps", "focus_track", "render_csv", "bokeh_video"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five tiny videos of different lengths."""
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"clip {i}.mp4" for i in range(5)]
    for i, path in enumerate(paths):
        make_sample(path, seconds=0.25 + i / 24, size=(160, 90))
    return paths


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    with serving(data) as running:
        yield running


def add_partition(server: Server, key: str) -> None:
    answer = server.ask(
        "mutation($s: RepositorySelector!, $k: String!) { addDynamicPartition(repositorySelector: $s,"
        ' partitionsDefName: "videos", partitionKey: $k) { __typename } }',
        s=SELECTOR,
        k=key,
    )
    assert answer["addDynamicPartition"]["__typename"] == "AddDynamicPartitionSuccess", answer


def test_the_ui_materializes_one_partition_and_shows_it(server: Server, data: Path, clips: list[Path], tmp_path: Path):
    video = VideoStore(data).register(clips[0])
    add_partition(server, video.key)
    server.materialize([video.key], WHOLE_GRAPH)
    assert server.ended(video.key)["status"] == "SUCCESS", server.log.read_text()[-3000:]
    assert len(read_presentation(video.bokeh).seconds) == len(list(video.frames.iterdir()))

    shown = server.metadata("bokeh_video", video.key)
    assert "data:image/avif;base64," in shown["preview"] and shown["engine"] == "thin_lens"
    assert "Apache-2.0" in shown["licence"] and shown["path"] == str(video.bokeh)

    if browser() is None:
        pytest.skip("the run is proven; no headless Chromium here to look at the pages")
    lineage = screenshot(f"{server.url}/asset-groups/", tmp_path / "lineage.png")
    for asset in ("upload", *WHOLE_GRAPH):
        assert asset in lineage
    page = screenshot(f"{server.url}/assets/bokeh_video?partition={video.key}&view=partitions", tmp_path / "asset.png")
    assert "data:image/avif;base64," in page and "thin_lens" in page
    keep = os.environ.get("BOKEH_KEEP_SCREENSHOTS")
    if keep:
        shutil.copytree(tmp_path, keep, dirs_exist_ok=True)


def test_another_blur_makes_only_the_cheap_steps_and_the_render_and_the_ui_shows_the_rest_up_to_date(
    server: Server, data: Path, clips: list[Path]
):
    video = VideoStore(data).register(clips[0])
    before = {asset: video.made(asset) for asset in WHOLE_GRAPH}
    video.settings.write_text("blur: 4\n")
    server.materialize([video.key], ["focus_track", "render_csv", "bokeh_video"])
    server.wait(lambda: len(server.runs(video.key)) == 2, 60, "the second run")
    assert server.ended(video.key)["status"] == "SUCCESS"
    again = {asset for asset in WHOLE_GRAPH if video.made(asset) != before[asset]}
    assert again == {"focus_track", "render_csv", "bokeh_video"}

    nodes = server.ask("query($p: String) { assetNodes { assetKey { path } staleStatus(partition: $p) } }", p=video.key)
    stale = {node["assetKey"]["path"][-1]: node["staleStatus"] for node in nodes["assetNodes"]}
    assert {asset: stale[asset] for asset in WHOLE_GRAPH} == dict.fromkeys(WHOLE_GRAPH, "FRESH")


def test_the_sensor_waits_for_a_slow_copy_then_makes_its_bokeh_video(server: Server, data: Path, clips: list[Path]):
    uploads = data / "uploads"
    (uploads / "broken.mp4").write_bytes(os.urandom(20_000))
    server.ask(
        "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }",
        s={**SELECTOR, "sensorName": "new_uploads"},
    )
    content = clips[1].read_bytes()
    with (uploads / "slow.mp4").open("wb") as file:
        for i in range(14):  # longer than two ticks
            file.write(content[i * len(content) // 14 : (i + 1) * len(content) // 14])
            file.flush()
            assert not list((data / "videos").glob("slow-*")), "taken before it was whole"
            time.sleep(1)

    def keys(name: str) -> list[str]:
        return sorted(path.name for path in (data / "videos").glob(f"{name}-*"))

    server.wait(lambda: keys("slow"), 120, "the sensor to take the upload")
    (slow,) = keys("slow")
    assert server.ended(slow)["status"] == "SUCCESS", server.log.read_text()[-3000:]
    assert VideoStore(data).video(slow).bokeh.is_file()

    (broken,) = keys("broken")
    assert server.ended(broken)["status"] == "FAILURE"
    assert len(server.runs(broken)) == 1, "a broken file is not tried again"

    shutil.copyfile(clips[1], uploads / "slow.mp4")  # the same bytes again
    shutil.copyfile(clips[2], uploads / "broken.mp4")  # the broken one repaired
    server.wait(lambda: len(server.runs(broken)) == 2, 120, "the repaired upload")
    assert server.ended(broken)["status"] == "SUCCESS"
    assert len(server.runs(slow)) == 1 and keys("slow") == [slow]

    shutil.copyfile(clips[3], uploads / "slow.mp4")  # other bytes under the same name
    server.wait(lambda: len(keys("slow")) == 2, 120, "the other video")
    other = next(key for key in keys("slow") if key != slow)
    assert server.ended(other)["status"] == "SUCCESS"


def test_a_backfill_of_five_with_one_corrupt_finishes_four_and_then_the_fifth(
    server: Server, data: Path, clips: list[Path], tmp_path: Path
):
    store, videos = VideoStore(data), []
    for i, clip in enumerate(clips):
        path = tmp_path / f"catalogue {i}.mp4"
        path.write_bytes(b"not a video" * 1000 if i == 2 else clip.read_bytes())
        videos.append((path, store.register(path)))
        add_partition(server, videos[-1][1].key)
    keys = [video.key for _, video in videos]
    server.materialize(keys, WHOLE_GRAPH)
    ended = {key: server.ended(key, 600)["status"] for key in keys}
    assert [ended[key] for key in keys] == ["SUCCESS", "SUCCESS", "FAILURE", "SUCCESS", "SUCCESS"]

    path, corrupt = videos[2]
    assert not corrupt.bokeh.exists() and corrupt.source is None
    shutil.copyfile(clips[2], path)
    server.materialize([corrupt.key], WHOLE_GRAPH)
    server.wait(lambda: len(server.runs(corrupt.key)) == 2, 60, "the second run")
    assert server.ended(corrupt.key)["status"] == "SUCCESS"
    assert all(video.bokeh.is_file() for _, video in videos)


def dg_program() -> str | None:
    return shutil.which("dg", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


@pytest.mark.parametrize("program", ["dagster", "dg"])
def test_plain_dagster_serves_the_same_graph(program: str, tmp_path: Path):
    if program == "dg":
        found = dg_program()
        if found is None:
            pytest.skip("dagster-dg-cli is not installed")
        command = [found, "dev", "--port", "PORT"]
    else:
        command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-p", "PORT"]
    home = tmp_path / "home"
    home.mkdir()
    with serving(tmp_path / "data", command, DAGSTER_HOME=str(home)) as server:
        nodes = server.ask("{ assetNodes { assetKey { path } } }")["assetNodes"]
    assert {node["assetKey"]["path"][-1] for node in nodes} == {"upload", *WHOLE_GRAPH}


def test_stopping_the_server_leaves_no_process(tmp_path: Path):
    with serving(tmp_path / "data"):
        pass
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "data") not in listed
