"""An inbox others write to: odd names, links, pipes and devices never stop the sensor, and lead nowhere."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from bokeh_assets import sensors
from bokeh_assets.errors import InputError
from bokeh_assets.files import open_regular
from bokeh_assets.media import confined
from bokeh_assets.partitions import check_key, fingerprint
from bokeh_assets.store import VideoStore
from bokeh_assets_tests.media.clips import make_clip
from bokeh_assets_tests.test_sensors import Ticks
from bokeh_assets_tests.trust.corpus.names import NAMES, PASSED_OVER, fill

SECOND = 10**9


@pytest.fixture
def tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    clock = iter(range(2_000_000_000 * SECOND, 3_000_000_000 * SECOND, 15 * SECOND))
    monkeypatch.setattr(sensors.time, "time_ns", lambda: next(clock))
    monkeypatch.setattr(sensors, "batch", lambda created: sensors.MOST)
    monkeypatch.setattr(sensors, "SECONDS", 60.0)  # on a busy machine too, all within few ticks
    data = tmp_path / "data"
    (data / "uploads").mkdir(parents=True)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Ticks(data, instance)


def everything_in(folder: Path) -> set[str]:
    return {os.path.join(where, name) for where, folders, names in os.walk(folder) for name in (*folders, *names)}


def test_every_good_file_is_taken_whatever_its_name_and_nothing_else(tmp_path: Path, tick: Ticks) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inbox = tick.data / "uploads"
    names, oddities = fill(inbox, outside)
    before = everything_in(tmp_path) - everything_in(tick.data)
    requests, slowest = [], 0.0
    for _ in range(6):
        start = time.monotonic()
        requests += tick()
        slowest = max(slowest, time.monotonic() - start)
    store = VideoStore(tick.data)
    taken = {store.video(str(request.partition_key)).note()["path"] for request in requests}
    assert taken == {os.path.join(inbox, os.fsdecode(name)) for name in names}
    assert len(requests) == len(names) == len(NAMES)
    for request in requests:
        assert check_key(str(request.partition_key)) == request.partition_key
    assert slowest < 30, "a tick may take 60 seconds, and a pipe must not hold it up"
    assert everything_in(tmp_path) - everything_in(tick.data) == before, "nothing was written outside the store"
    reason = str(tick.look().skip_reason)
    assert f"{len(oddities)} links, folders, pipes or devices are left alone: dangling.mp4" in reason, "and it is said"
    left = {oddity.name for oddity in oddities} | {os.fsdecode(name) for name in PASSED_OVER.values()}
    assert left <= set(os.listdir(inbox)), "and what was passed over lies where it lay"


def test_a_home_on_disk_keeps_what_the_sensor_says_of_odd_names(tick: Ticks, tmp_path: Path) -> None:
    fill(tick.data / "uploads", tmp_path)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        real = Ticks(tick.data, instance)
        requests = [request for _ in range(4) for request in real()]
        assert len(requests) == len(instance.get_dynamic_partitions("videos")) == len(NAMES)
        for event in real.look().asset_events or []:
            instance.report_runless_asset_event(event)


@pytest.mark.parametrize("name", list(NAMES))
def test_a_good_film_is_read_under_every_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(NAMES[name])
    make_clip(path, ticks=range(2), format="matroska")
    store = VideoStore(tmp_path / "data")
    video = store.register(path)
    with video.adopting() as source:
        assert source.parent == video.folder and len(os.fsencode(source.name)) <= 255
        assert confined.probe(source).frames == 2
    assert video.source is not None and video.source.parent == video.folder
    json.dumps(video.note())
    with pytest.raises(InputError) as raised:
        open_regular(path.with_name("x" + path.name[:100] + ".mp4"))
    assert str(raised.value).isprintable() or not path.name.isprintable()
    assert len(str(raised.value).splitlines()) == 1
    str(raised.value).encode()


def test_a_refused_settings_file_is_told_once_and_the_others_are_taken(
    tick: Ticks, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("good.mp4", "bad\n1.mp4", "bad 2.mp4", "bad 3.mp4", "bad 4.mp4", "bad 5.mp4"):
        tick.upload(name, name.encode())
    inbox = tick.data / "uploads"
    (inbox / "bad\n1.yaml").write_text("blur: [")
    (inbox / "bad 2.yaml").symlink_to("/etc/passwd")
    os.mkfifo(inbox / "bad 3.yaml")
    (inbox / "bad 4.yaml").write_text("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n")
    (inbox / "bad 5.yaml").write_text("blur: 1" + "0" * 5000)
    requests = [request for _ in range(4) for request in tick()]
    assert [str(r.partition_key)[:5] for r in requests] == ["good-"]
    told = [line.partition("WARNING - ")[2] for line in capfd.readouterr().err.splitlines() if "is not taken" in line]
    for number, says in (("1", "not valid YAML"), ("2", "symbolic link"), ("3", "pipe"), ("4", "aliases"), ("5", "")):
        (line,) = [line for line in told if re.match(rf"bad.*{number}\.mp4 is not taken", line)]
        assert says in line and line.isprintable()
    (inbox / "bad\n1.yaml").write_text("blur: 3")
    assert len([*tick(), *tick()]) == 1, "mended: taken"


def test_an_upload_swapped_for_a_link_or_a_pipe_is_not_followed(tmp_path: Path, tick: Ticks) -> None:
    secret = make_clip(tmp_path / "secret.mp4")
    path = tick.upload("film.mp4", make_clip(tmp_path / "film.mp4", ticks=range(2)).read_bytes())
    tick()
    (request,) = tick()
    video = VideoStore(tick.data).video(str(request.partition_key))
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(InputError, match="symbolic link"), video.adopting():
        pass
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is gone"), video.adopting():
        pass
    assert video.source is None and not list(video.folder.glob(".tmp-*"))
    with pytest.raises(InputError, match="symbolic link"):
        path.unlink()
        path.symlink_to(secret)
        fingerprint(path)


def test_a_link_the_user_names_is_followed_to_the_file_itself(tmp_path: Path) -> None:
    real = make_clip(tmp_path / "real.mp4")
    (tmp_path / "link.mp4").symlink_to(real)
    store = VideoStore(tmp_path / "data")
    video = store.register(tmp_path / "link.mp4")
    assert video.note()["path"] == str(real)
    with video.adopting() as source:
        assert source.read_bytes() == real.read_bytes() and not source.is_symlink()


def test_opening_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = threading.Event()

    def attempt() -> None:
        with pytest.raises(InputError, match="pipe"):
            open_regular(tmp_path / "pipe")
        done.set()

    threading.Thread(target=attempt, daemon=True).start()
    assert done.wait(5)


def test_a_sparse_giant_is_refused_for_want_of_room_before_it_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "giant.mp4"
    with path.open("wb") as file:
        file.truncate(1 << 43)
    video = VideoStore(tmp_path / "data").register(path)
    with pytest.raises(InputError, match=r"8796\.1 GB"), video.adopting():
        pass
    assert not list(video.folder.glob(".tmp-*"))
