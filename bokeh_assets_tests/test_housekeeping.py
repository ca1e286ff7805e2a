"""`bokeh-assets clean`: what goes, what stays, when it refuses, and that everything can be made again."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from bokeh_assets import versions, workers
from bokeh_assets.cli import main
from bokeh_assets.home import prepare_home
from bokeh_assets.media.samples import make_sample
from bokeh_assets.partitions import videos
from bokeh_assets.store import VideoFolder, VideoStore

DAY = 24 * 3600


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def listing(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pictures(video: VideoFolder) -> dict[str, str]:
    """Everything between source and result, and the result, with hashes."""
    names = ("frames", "masks", "disparity", "render", "focus.parquet", "frames.parquet", "bokeh.mp4")
    return {name: value for name, value in listing(video.folder).items() if name.startswith(names)}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VideoStore:
    monkeypatch.setenv("BOKEH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BOKEH_CHECKPOINTS_DIR", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "data" / "dagster"))
    store = VideoStore()
    prepare_home(store)
    return store


def pretend_made(store: VideoStore, name: str, *, known: bool = True) -> VideoFolder:
    """A video that looks made, and was run and then deleted from Dagster unless it is `known` still."""
    upload = store.uploads / f"{name}.mp4"
    upload.write_bytes(name.encode() * 1000)
    video = store.register(upload)
    shutil.copyfile(upload, video.folder / "source.mp4")
    for folder in (video.frames, video.masks, video.disparity, video.render):
        folder.mkdir()
        (folder / "00000.png").write_bytes(b"x" * 5000)
    video.settings.write_text("blur: 4\n")
    for path in (video.focus, video.frames_table, video.bokeh):
        path.write_bytes(b"y" * 5000)
    with dg.DagsterInstance.get() as instance:
        instance.create_run_for_job(
            empty_job, tags={"dagster/partition": video.key}, status=dg.DagsterRunStatus.SUCCESS
        )
        if known:
            instance.add_dynamic_partitions(videos.name or "", [video.key])
    return video


@dg.job
def empty_job() -> None:
    """A job for runs that only have to be in the books."""


def test_unfinished_things_go_and_all_else_stays(store: VideoStore):
    video = pretend_made(store, "film")
    before = listing(store.root)
    for place in (video.folder, video.folder / "made", store.videos, store.root / "fingerprints"):
        place.mkdir(exist_ok=True)
        (place / ".tmp-0123abcd-a").write_bytes(b"half" * 2000)
        (place / ".tmp-0123abcd-b").mkdir()
        (place / ".tmp-0123abcd-b" / "00000.png").write_bytes(b"half")
    with_waste = listing(store.root)

    told = call("clean", "--dry-run")
    assert told.exit_code == 0 and "8 things" in told.output and "would be freed" in told.output
    assert {name for name in listing(store.root) if "dagster/" not in name} >= {
        name for name in with_waste if "dagster/" not in name
    }
    done = call("clean")
    assert [line.split("(")[0] for line in done.output.splitlines()[:-1]] == [
        line.split("(")[0] for line in told.output.splitlines()[:-1]
    ], "the same list is printed"

    def ours(found: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in found.items() if not name.startswith("dagster/") and ".lock" not in name}

    assert ours(listing(store.root)) == ours(before)


def test_outputs_of_a_deleted_partition_go_but_never_an_upload(store: VideoStore):
    kept = pretend_made(store, "kept")
    deleted = pretend_made(store, "deleted", known=False)
    orphaned = pretend_made(store, "orphaned", known=False)
    (store.uploads / "orphaned.mp4").unlink()  # our copy is all there is of it
    outside = store.register(orphaned.folder / "source.mp4", key="inside-another")

    assert call("clean").exit_code == 0
    assert kept.bokeh.is_file() and kept.frames.is_dir()
    assert not deleted.folder.exists() and (store.uploads / "deleted.mp4").is_file()
    assert not orphaned.bokeh.exists() and not orphaned.frames.exists() and not orphaned.render.exists()
    assert orphaned.source is not None and orphaned.settings.is_file()
    assert outside.upload.is_file()


def test_a_folder_that_this_dagster_never_knew_stays_and_is_named(store: VideoStore, tmp_path: Path):
    video = pretend_made(store, "film", known=False)
    os.environ["DAGSTER_HOME"] = str(tmp_path / "another home")  # the mistake; the fixture sets it right again
    told = call("clean")
    assert told.exit_code == 0 and video.key in told.output and "never made anything" in told.output
    assert video.bokeh.is_file()


def test_a_registered_upload_inside_the_store_protects_its_folder(store: VideoStore):
    first = pretend_made(store, "first", known=False)
    store.register(first.bokeh, key="made-from-a-result")
    call("clean")
    assert first.bokeh.is_file()


@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTED", "CANCELING"])
def test_a_live_run_is_a_refusal(store: VideoStore, status: str):
    video = pretend_made(store, "film")
    leftover = video.folder / ".tmp-0123abcd-frames"
    leftover.mkdir()
    with dg.DagsterInstance.get() as instance:
        tags = {"dagster/partition": video.key, **workers.tag(None)}
        run = instance.create_run_for_job(empty_job, tags=tags, status=dg.DagsterRunStatus(status))
    for words in (["clean"], ["clean", "--dry-run"]):
        refused = call(*words)
        assert refused.exit_code == 1 and len(refused.stderr.strip().splitlines()) == 1
        assert run.run_id in refused.stderr and video.key in refused.stderr and status in refused.stderr
    assert leftover.is_dir()


def test_a_run_whose_process_is_gone_is_no_hindrance_and_gives_its_slot_back(store: VideoStore):
    video = pretend_made(store, "film")
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    worker = workers.identity(gone)
    os.waitpid(gone, 0)
    with dg.DagsterInstance.get() as instance:
        tags = {"dagster/partition": video.key, workers.TAG: f"{worker}|"}
        run = instance.create_run_for_job(empty_job, tags=tags, status=dg.DagsterRunStatus.STARTED)
        instance.event_log_storage.initialize_concurrency_limit_to_default("cuda")
        assert instance.event_log_storage.claim_concurrency_slot("cuda", run.run_id, "masks").is_claimed
    assert call("clean").exit_code == 0
    with dg.DagsterInstance.get() as instance:
        found = instance.get_run_by_id(run.run_id)
        assert found is not None and found.status == dg.DagsterRunStatus.FAILURE
        assert not instance.event_log_storage.get_concurrency_info("cuda").claimed_slots


def test_a_held_lock_is_a_refusal(store: VideoStore):
    video = pretend_made(store, "film", known=False)
    with video.lock():
        refused = call("clean")
    assert refused.exit_code == 1 and video.key in refused.stderr
    assert video.bokeh.is_file()


def test_intermediates_go_when_asked_for_and_come_back_to_the_byte(store: VideoStore, tmp_path: Path):
    clip = tmp_path / "clip.mp4"
    make_sample(clip, seconds=0.25, size=(96, 64))
    assert call("run", clip).exit_code == 0
    (folder,) = store.videos.iterdir()
    video = store.video(folder.name)
    before = pictures(video)

    young = call("clean", "--intermediates-older-than", "1")
    assert "0 things" in young.output and pictures(video) == before
    for record in (video.folder / "made").iterdir():
        os.utime(record, (time.time() - 3 * DAY,) * 2)
    dry = call("clean", "--intermediates-older-than", "2", "--dry-run")
    assert "4 things" in dry.output and "masks, made 3 days ago" in dry.output and pictures(video) == before
    assert call("clean", "--intermediates-older-than", "2").exit_code == 0
    assert set(pictures(video)) == {"frames.parquet", "focus.parquet", "bokeh.mp4"}

    assert [asset for asset in versions.READS if video.made(asset) is None] == [
        "frames", "masks", "depth_maps", "render_csv",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=f"{video.key}: frames was cleaned away.*materialize it again"):
        video.need("frames")
    again = call("run", clip)
    assert again.exit_code == 0 and "up to date: frames, masks" in again.output, "the result is there: nothing to do"
    assert set(pictures(video)) == {"frames.parquet", "focus.parquet", "bokeh.mp4"}

    clip.unlink()  # only our own copy of the source is needed
    shutil.copyfile(video.source or clip, clip)
    assert call("run", clip, "--k", "5").exit_code == 0
    weaker = pictures(video)
    assert {name: value for name, value in weaker.items() if name.startswith(("frames", "masks", "disparity"))} == {
        name: value for name, value in before.items() if name.startswith(("frames", "masks", "disparity"))
    }
    assert weaker["bokeh.mp4"] != before["bokeh.mp4"]
    assert call("run", clip, "--k", "16").exit_code == 0
    assert pictures(video) == before


def test_intermediates_that_could_not_be_made_again_stay_and_say_why(store: VideoStore):
    video = pretend_made(store, "film")
    for asset in versions.READS:
        video.record(asset, {"version": "of older settings", "inputs": {"source": "0"}})
    told = call("clean", "--intermediates-older-than", "0")
    assert f"kept  {video.key}" in told.output and "run it first" in told.output and video.frames.is_dir()
    (video.folder / "source.mp4").unlink()
    assert "its source is gone" in call("clean", "--intermediates-older-than", "0").output and video.frames.is_dir()
