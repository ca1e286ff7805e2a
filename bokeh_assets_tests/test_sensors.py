"""The sensor's decision, rule by rule, and ticks against a real inbox."""

import json
import os
import shutil
from pathlib import Path

import dagster as dg
import pytest

from bokeh_assets import sensors
from bokeh_assets.inbox import ASKED, TAKEN, WAITING, Memory, Seen, Stamp, decide
from bokeh_assets.partitions import key_for, videos
from bokeh_assets.resources import StoreResource
from bokeh_assets.sensors import FEW, MOST, batch, list_inbox, new_uploads
from bokeh_assets.store import VideoStore

SECOND = 10**9
NOW = 1_000_000_000 * SECOND
LATER = NOW + 15 * SECOND
OLD = NOW - 3600 * SECOND


def test_a_file_seen_for_the_first_time_waits_however_old_its_date_is():
    decision = decide({"a.mp4": Stamp(10, OLD)}, {}, NOW)
    assert decision.ready == [] and decision.waiting == ["a.mp4"]


def test_a_file_that_looks_as_before_is_taken():
    first = decide({"a.mp4": Stamp(10, OLD)}, {}, NOW)
    assert decide({"a.mp4": Stamp(10, OLD)}, first.seen, LATER).ready == ["a.mp4"]


def test_two_looks_right_after_each_other_are_not_enough():
    first = decide({"a.mp4": Stamp(10, OLD)}, {}, NOW)
    assert decide({"a.mp4": Stamp(10, OLD)}, first.seen, NOW + SECOND).ready == []


def test_a_file_that_grew_since_the_last_tick_waits():
    first = decide({"a.mp4": Stamp(10, OLD)}, {}, NOW)
    second = decide({"a.mp4": Stamp(20, OLD)}, first.seen, LATER)
    assert second.ready == []
    assert decide({"a.mp4": Stamp(20, OLD)}, second.seen, LATER + 15 * SECOND).ready == ["a.mp4"]


def test_a_file_touched_just_now_waits():
    seen = {"a.mp4": Seen(Stamp(10, NOW - SECOND), since=OLD)}
    assert decide({"a.mp4": Stamp(10, NOW - SECOND)}, seen, NOW).ready == []


@pytest.mark.parametrize("future", ["date", "clock"])
def test_a_date_in_the_future_or_a_clock_set_back_does_not_make_a_file_wait_for_ever(future: str):
    ahead = NOW + 10**15
    stamp = Stamp(10, ahead if future == "date" else OLD)
    seen = {"a.mp4": Seen(stamp, since=ahead if future == "clock" else OLD)}
    assert decide({"a.mp4": stamp}, seen, NOW).ready == ["a.mp4"]


def test_a_file_taken_before_is_left_alone_and_one_asked_for_is_made_sure_of():
    stamp = Stamp(10, OLD)
    seen = {"a.mp4": Seen(stamp, TAKEN, "a-12345678", OLD), "b.mp4": Seen(stamp, ASKED, "b-12345678", OLD)}
    decision = decide({"a.mp4": stamp, "b.mp4": stamp}, seen, NOW)
    assert decision.ready == [] and decision.asked == ["b.mp4"]


@pytest.mark.parametrize("other", [Stamp(11, OLD, 5), Stamp(10, OLD + 1, 5), Stamp(10, OLD, 6)])
def test_a_replaced_file_waits_and_remembers_the_partition_it_was(other: Stamp):
    seen = {"a.mp4": Seen(Stamp(10, OLD, 5), TAKEN, "a-12345678", OLD)}
    decision = decide({"a.mp4": other}, seen, NOW)
    assert decision.ready == [] and decision.seen["a.mp4"] == Seen(other, WAITING, "a-12345678", NOW)


def test_files_that_are_gone_are_forgotten():
    assert decide({}, {"a.mp4": Seen(Stamp(10, OLD), TAKEN, "a-12345678")}, NOW).seen == {}


def test_those_that_failed_least_and_waited_longest_come_first():
    stamp = Stamp(10, OLD)
    seen = {
        "a.mp4": Seen(stamp, since=OLD, tries=3),
        "b.mp4": Seen(stamp, since=OLD + 2),
        "c.mp4": Seen(stamp, since=OLD + 1),
    }
    assert decide(dict.fromkeys(seen, stamp), seen, NOW).ready == ["c.mp4", "b.mp4", "a.mp4"]


def test_what_was_seen_is_kept_outside_the_cursor(tmp_path: Path):
    seen = {f"film {i}.mp4": Seen(Stamp(i, OLD, 7), ASKED, f"film-{i}", NOW, 2) for i in range(1000)}
    memory = Memory(tmp_path, None)
    assert memory.load() == {}
    memory.save(seen)
    assert len(memory.cursor) == 16
    assert Memory(tmp_path, memory.cursor).load() == seen
    assert Memory(tmp_path, None).cursor != memory.cursor


@pytest.mark.parametrize("cursor", ["", "{}", "../../etc/passwd", "0123456789abcdef/", "0123456789ABCDEF"])
def test_a_cursor_that_is_not_ours_names_no_file(cursor: str, tmp_path: Path):
    memory = Memory(tmp_path, cursor)
    assert memory.cursor != cursor and memory.load() == {}


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', '{"a": [[1, 2, 3]', "\\x00"])
def test_a_spoiled_memory_is_a_lost_one(content: str, tmp_path: Path):
    memory = Memory(tmp_path, "0123456789abcdef")
    (tmp_path / "0123456789abcdef.json").write_text(content)
    assert memory.load() == {}
    memory.save({"a": Seen(Stamp(1, 2, 3))})
    assert Memory(tmp_path, memory.cursor).load() == {"a": Seen(Stamp(1, 2, 3))}


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


class Ticks:
    """Runs the sensor over a store's inbox as the daemon does: cursor, partitions and runs carried on."""

    def __init__(self, data: Path, instance: dg.DagsterInstance):
        self.data = data
        self.instance = instance
        self.cursor: str | None = None
        self.status = dg.DagsterRunStatus.SUCCESS

    def look(self) -> dg.SensorResult:
        """What the sensor says, with nothing done about it: a daemon that dies right then."""
        store = StoreResource(data_dir=str(self.data))
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, resources={"store": store})
        result = new_uploads(context)
        assert isinstance(result, dg.SensorResult)
        return result

    def __call__(self) -> list[dg.RunRequest]:
        """One tick; returns the requests that became runs."""
        result = self.look()
        self.cursor = result.cursor
        for request in result.dynamic_partitions_requests or []:
            assert isinstance(request, dg.AddDynamicPartitionsRequest)
            self.instance.add_dynamic_partitions(videos.name or "", list(request.partition_keys))
        return [request for request in result.run_requests or [] if self.start(request)]

    def start(self, request: dg.RunRequest) -> bool:
        """Makes a run of a request, unless there is one of its run key: Dagster's own rule."""
        assert request.partition_key and request.run_key
        if self.instance.get_run_ids(dg.RunsFilter(tags={"dagster/run_key": request.run_key})):
            return False
        own = {"dagster/run_key": request.run_key, "dagster/sensor_name": "new_uploads"}
        tags = {**request.tags, **own, "dagster/partition": request.partition_key}
        self.instance.add_run(dg.DagsterRun("process_upload", tags=tags, status=self.status))
        return True

    def upload(self, name: str, data: bytes, mtime: float = 1e9) -> Path:
        """A file in the inbox with an old date, as `cp -p` and `rsync -t` leave it."""
        path = self.data / "uploads" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (mtime, mtime))
        return path


@pytest.fixture
def tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(2_000_000_000 * SECOND, 3_000_000_000 * SECOND, 15 * SECOND))
    monkeypatch.setattr(sensors.time, "time_ns", lambda: next(clock))
    monkeypatch.setattr(sensors, "batch", lambda created: MOST)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Ticks(tmp_path, instance)


def test_one_upload_makes_one_run_for_its_partition(tmp_path: Path, tick: Ticks):
    tick.upload("My film.mp4", b"bytes")
    assert tick() == []
    (request,) = tick()
    assert request.partition_key and request.partition_key.startswith("my-film-")
    assert tick() == [] and tick() == []
    note = json.loads((tmp_path / "videos" / request.partition_key / "upload.json").read_text())
    assert note["path"] == str(tmp_path / "uploads" / "My film.mp4")


def test_the_same_bytes_dropped_again_do_nothing(tick: Ticks):
    tick.upload("film.mp4", b"bytes")
    tick()
    assert len(tick()) == 1
    tick.upload("film.mp4", b"bytes", mtime=1.1e9)
    assert tick() == [] and tick() == [] and tick() == []


def test_other_bytes_under_the_same_name_are_another_video_even_of_one_size_and_date(tmp_path: Path, tick: Ticks):
    tick.upload("film.mp4", b"bytes")
    tick()
    (first,) = tick()
    (tmp_path / "videos" / str(first.partition_key) / "source.mp4").write_bytes(b"adopted")
    tick.upload("film.mp4", b"BYTES")
    tick()
    (second,) = tick()
    assert second.partition_key != first.partition_key


def test_a_repaired_file_heals_the_partition_its_broken_one_left_and_stays_it(tick: Ticks):
    tick.upload("film.mp4", b"broken")
    tick()
    (first,) = tick()
    path = tick.upload("film.mp4", b"whole and well")
    tick()
    (second,) = tick()
    assert second.partition_key == first.partition_key and second.run_key != first.run_key
    os.utime(path, (1.2e9, 1.2e9))
    assert tick() == [] and tick() == [], "touched: the same video still"
    tick.cursor = None
    assert tick() == [] and tick() == [], "looked at anew: the same video still"


def test_a_renamed_upload_stays_the_video_it_is(tmp_path: Path, tick: Ticks):
    path = tick.upload("film.mp4", b"bytes")
    tick()
    (request,) = tick()
    path.rename(tmp_path / "uploads" / "better name.mp4")
    assert [tick(), tick(), tick()] == [[], [], []]
    video = VideoStore(tmp_path).video(str(request.partition_key))
    assert video.uploaded_from().name == "better name.mp4", "what was not read yet is read from where it is now"
    assert tick.instance.get_dynamic_partitions("videos") == [request.partition_key]


def test_a_copy_beside_the_first_is_a_video_of_its_own_so_that_a_clip_can_have_two_looks(tick: Ticks):
    tick.upload("film.mp4", b"bytes")
    tick.upload("film at night.mp4", b"bytes")
    tick()
    assert len({request.partition_key for request in tick()}) == 2
    tick.cursor = None
    assert [tick(), tick()] == [[], []]


def test_two_videos_whose_fingerprints_begin_alike_are_both_taken(tick: Ticks, monkeypatch: pytest.MonkeyPatch):
    prints = {b"one": "a" * 8 + "1" * 56, b"two": "a" * 8 + "2" * 56}
    monkeypatch.setattr(sensors, "fingerprint", lambda path: prints[path.read_bytes()])
    tick.upload("日本.mp4", b"one")
    tick.upload("大阪.mp4", b"two")
    tick()
    assert {request.partition_key for request in tick()} == {"video-aaaaaaaa", "video-aaaaaaaa11111111"}
    assert tick() == []


def test_a_request_that_never_became_a_run_is_made_again(tick: Ticks):
    tick.upload("film.mp4", b"bytes")
    tick()
    lost = tick.look()  # and the daemon dies, before or after it added the partition
    assert lost.run_requests
    tick.instance.add_dynamic_partitions("videos", [str(lost.run_requests[0].partition_key)])
    (request,) = tick()
    assert request.run_key == lost.run_requests[0].run_key
    assert tick() == []


@pytest.mark.parametrize("lost", ["cursor", "memory", "both"])
def test_a_lost_cursor_or_memory_loses_and_doubles_nothing(lost: str, tmp_path: Path, tick: Ticks):
    for i in range(5):
        tick.upload(f"{i}.mp4", bytes([i]))
    tick()
    assert len(tick()) == 5
    tick.upload("5.mp4", b"new")
    if lost in ("cursor", "both"):
        tick.cursor = None
    if lost in ("memory", "both"):
        shutil.rmtree(tmp_path / "sensor")
    assert len([*tick(), *tick(), *tick()]) == 1


def test_a_fresh_home_on_an_old_store_runs_everything_once(tmp_path: Path, tick: Ticks):
    tick.upload("film.mp4", b"bytes")
    tick()
    tick()
    with dg.DagsterInstance.ephemeral() as instance:
        other = Ticks(tmp_path, instance)
        assert [len(other()), len(other()), len(other())] == [0, 1, 0]
    assert [tick(), tick()] == [[], []], "two homes do not disturb each other"


def test_a_partition_deleted_by_hand_stays_deleted_until_the_file_is_dropped_again(tick: Ticks):
    tick.upload("film.mp4", b"bytes")
    tick()
    (request,) = tick()
    tick()
    tick.instance.delete_dynamic_partition("videos", str(request.partition_key))
    assert [tick(), tick()] == [[], []]
    tick.upload("film.mp4", b"bytes")
    assert [len(tick()), len(tick()), len(tick())] == [0, 1, 0]


def test_no_more_than_the_limit_are_asked_for_in_one_tick_and_none_is_lost(tick: Ticks):
    for i in range(2 * MOST + 7):
        tick.upload(f"{i:04d}.mp4", b"%d" % i)
    assert [len(tick()) for _ in range(5)] == [0, MOST, MOST, 7, 0]
    assert len(tick.instance.get_dynamic_partitions("videos")) == 2 * MOST + 7


@pytest.mark.parametrize(
    ("seconds", "runs"),
    [([], FEW), ([5.0], FEW), ([5.0, 5.1, 5.2], 14), ([5.0, 5.0], MOST), ([5.0, 9.0], 2), ([7.0, 5.0, 6.0], 2)],
)
def test_as_many_runs_are_asked_for_as_dagster_can_make_in_time(seconds: list[float], runs: int):
    assert batch(seconds) == runs


def test_a_full_queue_keeps_the_rest_in_the_inbox(tick: Ticks, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sensors, "QUEUE", MOST + 3)
    tick.status = dg.DagsterRunStatus.NOT_STARTED
    for i in range(2 * MOST):
        tick.upload(f"{i:04d}.mp4", b"%d" % i)
    assert [len(tick()) for _ in range(4)] == [0, MOST, 3, 0]
    for run in tick.instance.get_runs():
        tick.instance.report_run_failed(run)
    assert [len(tick()), len(tick())] == [MOST - 3, 0]


def test_files_that_cannot_be_taken_do_not_hold_up_the_others(tmp_path: Path, tick: Ticks):
    for i in range(MOST + 5):
        tick.upload(f"a {i}.mp4", b"%d" % i)
        (tmp_path / "uploads" / f"a {i}.yaml").write_text("focuss: 1\n")
    tick.upload("z.mp4", b"well")
    tick()
    taken = [request.partition_key for _ in range(5) for request in tick()]
    assert taken == [key_for(tmp_path / "uploads" / "z.mp4")]
    for i in range(MOST + 5):
        (tmp_path / "uploads" / f"a {i}.yaml").write_text("focus: 1\n")
    assert sum(len(tick()) for _ in range(9)) == MOST + 5


def test_a_file_that_changes_while_it_is_looked_at_waits(tick: Ticks, monkeypatch: pytest.MonkeyPatch):
    path = tick.upload("film.mp4", b"half")
    tick()
    original = sensors.fingerprint

    def growing(looked_at: Path) -> str:
        found = original(looked_at)
        path.write_bytes(b"half and the rest")
        return found

    monkeypatch.setattr(sensors, "fingerprint", growing)
    assert tick() == []
    monkeypatch.setattr(sensors, "fingerprint", original)
    os.utime(path, (1e9, 1e9))
    assert [len(tick()), len(tick())] == [0, 1]


def test_a_slow_disk_does_not_make_a_tick_long(tick: Ticks, monkeypatch: pytest.MonkeyPatch):
    for i in range(20):
        tick.upload(f"{i}.mp4", b"%d" % i)
    tick()
    moments = iter(range(10_000))
    monkeypatch.setattr(sensors.time, "monotonic", lambda: float(next(moments)))  # a second for every file
    monkeypatch.setattr(sensors, "SECONDS", 7.5)
    assert len(tick()) == 7
    assert len(tick()) == 7


def test_a_settings_file_beside_the_upload_becomes_the_videos_own(tmp_path: Path, tick: Ticks):
    tick.upload("film.mp4", b"bytes")
    (tmp_path / "uploads" / "film.yaml").write_text("blur: 24\n")
    tick()
    (request,) = tick()
    assert "blur: 24" in (tmp_path / "videos" / str(request.partition_key) / "settings.yaml").read_text()
