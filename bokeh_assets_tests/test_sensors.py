"""The sensor's decision, rule by rule, and one tick against a real inbox."""

import json
import os
from pathlib import Path

import dagster as dg
import pytest

from bokeh_assets.partitions import videos
from bokeh_assets.resources import StoreResource
from bokeh_assets.sensors import MOST, Seen, Stamp, decide, list_inbox, new_uploads

NOW = 1_000_000_000_000_000_000
OLD = NOW - 3600 * 10**9


def test_a_file_seen_for_the_first_time_waits_however_old_its_date_is():
    decision = decide({"a.mp4": Stamp(10, OLD)}, {}, NOW)
    assert decision.ready == [] and decision.waiting == ["a.mp4"]


def test_a_file_that_looks_as_before_is_taken():
    first = decide({"a.mp4": Stamp(10, OLD)}, {}, NOW)
    assert decide({"a.mp4": Stamp(10, OLD)}, first.cursor, NOW).ready == ["a.mp4"]


def test_a_file_that_grew_since_the_last_tick_waits():
    first = decide({"a.mp4": Stamp(10, OLD)}, {}, NOW)
    second = decide({"a.mp4": Stamp(20, OLD)}, first.cursor, NOW)
    assert second.ready == []
    assert decide({"a.mp4": Stamp(20, OLD)}, second.cursor, NOW).ready == ["a.mp4"]


def test_a_file_touched_just_now_waits():
    seen = {"a.mp4": Seen(10, NOW - 10**9, "?")}
    assert decide({"a.mp4": Stamp(10, NOW - 10**9)}, seen, NOW).ready == []


def test_a_file_dated_in_the_future_does_not_wait_for_ever():
    seen = {"a.mp4": Seen(10, NOW + 10**15, "?")}
    assert decide({"a.mp4": Stamp(10, NOW + 10**15)}, seen, NOW).ready == ["a.mp4"]


def test_a_file_taken_before_is_left_alone():
    seen = {"a.mp4": Seen(10, OLD, "a-12345678")}
    assert decide({"a.mp4": Stamp(10, OLD)}, seen, NOW).ready == []


def test_a_replaced_file_waits_and_remembers_the_partition_it_was():
    seen = {"a.mp4": Seen(10, OLD, "a-12345678")}
    decision = decide({"a.mp4": Stamp(11, OLD)}, seen, NOW)
    assert decision.ready == [] and decision.cursor["a.mp4"].key == "?a-12345678"


def test_the_cursor_forgets_files_that_are_gone():
    assert decide({}, {"a.mp4": Seen(10, OLD, "a-12345678")}, NOW).cursor == {}


def test_no_more_than_the_limit_are_taken_in_one_tick_and_none_is_lost():
    listing = {f"{i:04d}.mp4": Stamp(i, OLD) for i in range(3 * MOST + 7)}
    cursor, taken = decide(listing, {}, NOW).cursor, []
    for _ in range(4):
        decision = decide(listing, cursor, NOW)
        assert len(decision.ready) <= MOST
        taken += decision.ready
        cursor = {n: s._replace(key="done") if n in decision.ready else s for n, s in decision.cursor.items()}
    assert sorted(taken) == sorted(listing)


def test_only_plain_video_files_are_listed(tmp_path: Path):
    (tmp_path / "film.MP4").write_bytes(b"x")
    (tmp_path / "film.yaml").write_bytes(b"x")
    (tmp_path / ".hidden.mp4").write_bytes(b"x")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "film.MP4")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert list(list_inbox(tmp_path)) == ["film.MP4"]


def test_an_unreadable_inbox_is_an_error_and_never_empty(tmp_path: Path):
    with pytest.raises(OSError):
        list_inbox(tmp_path / "gone")


@pytest.fixture
def tick(tmp_path: Path):
    """Runs the sensor once over `tmp_path/uploads`, carrying cursor and partitions on."""
    with dg.DagsterInstance.ephemeral() as instance:
        state: dict[str, str | None] = {"cursor": None}

        def run() -> list[dg.RunRequest]:
            store = StoreResource(data_dir=str(tmp_path))
            context = dg.build_sensor_context(instance=instance, cursor=state["cursor"], resources={"store": store})
            result = new_uploads(context)
            assert isinstance(result, dg.SensorResult)
            state["cursor"] = result.cursor
            for request in result.dynamic_partitions_requests or []:
                assert isinstance(request, dg.AddDynamicPartitionsRequest)
                instance.add_dynamic_partitions(videos.name or "", list(request.partition_keys))
            return list(result.run_requests or [])

        yield run


def drop(folder: Path, name: str, data: bytes, mtime: float = 1e9) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    os.utime(folder / name, (mtime, mtime))


def test_one_upload_makes_one_run_for_its_partition(tmp_path: Path, tick):
    drop(tmp_path / "uploads", "My film.mp4", b"bytes")
    assert tick() == []
    (request,) = tick()
    assert request.partition_key and request.partition_key.startswith("my-film-")
    assert tick() == []
    note = json.loads((tmp_path / "videos" / request.partition_key / "upload.json").read_text())
    assert note["path"] == str(tmp_path / "uploads" / "My film.mp4")


def test_the_same_bytes_dropped_again_do_nothing(tmp_path: Path, tick):
    drop(tmp_path / "uploads", "film.mp4", b"bytes")
    tick()
    assert len(tick()) == 1
    drop(tmp_path / "uploads", "film.mp4", b"bytes", mtime=1.1e9)
    assert tick() == [] and tick() == [] and tick() == []


def test_other_bytes_under_the_same_name_are_another_video(tmp_path: Path, tick):
    drop(tmp_path / "uploads", "film.mp4", b"bytes")
    tick()
    (first,) = tick()
    (tmp_path / "videos" / str(first.partition_key) / "source.mp4").write_bytes(b"adopted")
    drop(tmp_path / "uploads", "film.mp4", b"other bytes")
    tick()
    (second,) = tick()
    assert second.partition_key != first.partition_key


def test_a_repaired_file_heals_the_partition_its_broken_one_left(tmp_path: Path, tick):
    drop(tmp_path / "uploads", "film.mp4", b"broken")
    tick()
    (first,) = tick()
    drop(tmp_path / "uploads", "film.mp4", b"whole and well")
    tick()
    (second,) = tick()
    assert second.partition_key == first.partition_key and second.run_key != first.run_key


def test_a_settings_file_beside_the_upload_becomes_the_videos_own(tmp_path: Path, tick):
    drop(tmp_path / "uploads", "film.mp4", b"bytes")
    (tmp_path / "uploads" / "film.yaml").write_text("blur: 24\n")
    tick()
    (request,) = tick()
    assert "blur: 24" in (tmp_path / "videos" / str(request.partition_key) / "settings.yaml").read_text()
