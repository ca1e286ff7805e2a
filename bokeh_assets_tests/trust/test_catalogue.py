"""A large catalogue through the real server: a backfill counted, its pages timed, its history made small again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from bokeh_assets.media.samples import make_sample
from bokeh_assets.partitions import videos
from bokeh_assets.store import VideoStore
from bokeh_assets_tests.serving import Server, browser, screenshot, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

WHOLE_GRAPH = ["frames", "masks", "depth_maps", "focus_track", "render_csv", "bokeh_video"]
PARTITIONS = 10_000
MATERIALIZED = 500
VIDEOS = int(os.environ.get("BOKEH_BACKFILL_VIDEOS", "5"))
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    with serving(data) as running:
        home = dg.DagsterInstance.from_config(str(data / "dagster"))
        with home as instance:
            for start in range(0, PARTITIONS, 500):
                keys = [f"catalogue-{i:08x}" for i in range(start, start + 500)]
                instance.add_dynamic_partitions(videos.name or "", keys)
            for i in range(MATERIALIZED):
                made = dg.AssetMaterialization("upload", partition=f"catalogue-{i:08x}")
                instance.report_runless_asset_event(made)
        yield running


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_pages_of_ten_thousand_partitions_load(server: Server, tmp_path: Path):
    start = time.monotonic()
    answer = server.ask(
        "{ assetNodes { assetKey { path } partitionKeysByDimension { partitionKeys } assetPartitionStatuses {"
        " ... on DefaultPartitionStatuses { unmaterializedPartitions materializedPartitions } } } }"
    )
    seconds = time.monotonic() - start
    for node in answer["assetNodes"]:
        assert len(node["partitionKeysByDimension"][0]["partitionKeys"]) >= PARTITIONS
        states = node["assetPartitionStatuses"]
        assert len(states["unmaterializedPartitions"]) + len(states["materializedPartitions"]) >= PARTITIONS
    upload = next(node for node in answer["assetNodes"] if node["assetKey"]["path"] == ["upload"])
    assert len(upload["assetPartitionStatuses"]["materializedPartitions"]) == MATERIALIZED
    print(f"every partition of every asset, with its state: {seconds:.2f} s")
    assert seconds < 10
    if browser() is None:
        pytest.skip("no headless Chromium here to look at the pages")
    start = time.monotonic()
    page = screenshot(f"{server.url}/assets/bokeh_video?view=partitions", tmp_path / "partitions.png")
    print(f"the partitions page, drawn twice: {time.monotonic() - start:.1f} s")
    assert "catalogue-0000" in page
    keep = os.environ.get("BOKEH_KEEP_SCREENSHOTS")
    if keep:
        shutil.copytree(tmp_path, keep, dirs_exist_ok=True)


def test_a_backfill_makes_every_video_once_and_its_history_can_be_forgotten(server: Server, data: Path, tmp_path: Path):
    store, home = VideoStore(data), data / "dagster"
    make_sample(tmp_path / "base.mp4", seconds=0.25, size=(96, 54))
    content, keys = (tmp_path / "base.mp4").read_bytes(), []
    for i in range(VIDEOS):
        path = tmp_path / f"tiny {i:04d}.mp4"
        path.write_bytes(content + i.to_bytes(8, "big"))
        keys.append(store.register(path).key)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions(videos.name or "", keys)
    empty, start = size(home), time.monotonic()
    server.materialize(keys, WHOLE_GRAPH)

    def ended() -> bool:
        runs = server.runs()
        return len(runs) >= VIDEOS and all(run["status"] in ENDED for run in runs)

    server.wait(ended, 150 * VIDEOS, "the backfill")
    each = (time.monotonic() - start) / VIDEOS
    grown = (size(home) - empty) / VIDEOS
    print(f"{VIDEOS} videos, {each:.1f} s each: 1,000 would take {each * 1000 / 3600:.1f} h; {grown / 1e3:.0f} kB each")

    made = Counter(run["status"] for run in server.runs())
    assert made == {"SUCCESS": VIDEOS}, "one run each, none missed, none twice"
    assert all(len(server.runs(key)) == 1 for key in keys)
    assert all(store.video(key).bokeh.is_file() for key in keys)
    assert grown < 1_000_000

    server.materialize(keys[:1], ["bokeh_video"])
    server.wait(lambda: len(server.runs()) == VIDEOS + 1, 60, "another run")
    server.wait(ended, 300, "another run to end")


def test_the_history_can_be_forgotten(data: Path, server: Server):
    home, kept = data / "dagster", data.parent / "kept"
    shutil.copytree(home, kept / "dagster")  # the server goes on; forgetting asks for a home at rest
    before = size(kept)
    environment = {**os.environ, "BOKEH_DATA_DIR": str(kept)}
    environment.pop("DAGSTER_HOME", None)
    words = [sys.executable, "-m", "bokeh_assets.retention", "--older-than", "0"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert size(kept) < 0.6 * before
    with dg.DagsterInstance.from_config(str(kept / "dagster")) as instance:
        assert len(instance.get_materialized_partitions(dg.AssetKey("bokeh_video"))) == VIDEOS
