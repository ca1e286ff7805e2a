"""Ten thousand uploads: the sensor against a real inbox, a real Dagster home and everything that may go wrong.

    python -m bokeh_assets_tests.trust.scale --uploads 10000

What the daemon does with a tick is done here as it does it (partitions added, a run recorded under its run key unless
there is one, the cursor kept), but for the making of the run itself, which Dagster takes 0.1 to 0.3 s for;
`daemon_ticks` measures that with Dagster's own machinery.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import dagster as dg

from bokeh_assets import inbox, sensors
from bokeh_assets.home import prepare_home
from bokeh_assets.partitions import videos
from bokeh_assets.resources import StoreResource
from bokeh_assets.store import VideoStore

SECOND = 10**9
OLD = 1_000_000_000
"""A modification time long past, as `cp -p` and `rsync -t` leave it."""


@dataclass
class Report:
    """What came of it."""

    uploads: int
    videos: int = 0
    missed: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    ticks: int = 0
    worst_tick: float = 0.0
    idle_tick: float = 0.0
    rescan_ticks: int = 0
    cursor_bytes: int = 0
    memory_bytes: int = 0

    def table(self) -> str:
        """One line per figure."""
        return "\n".join(
            [
                f"uploads {self.uploads}, videos they make {self.videos}",
                f"missed {len(self.missed)}, doubled {len(self.doubled)}",
                f"ticks {self.ticks}, worst {self.worst_tick:.2f} s, with nothing to do {self.idle_tick:.2f} s",
                f"ticks to look at everything again after a lost cursor {self.rescan_ticks}",
                f"cursor {self.cursor_bytes} bytes, memory beside it {self.memory_bytes} bytes",
            ]
        )


class Catalogue:
    """An inbox with people at it, and the sensor's ticks. `owed` counts the runs each content is owed."""

    def __init__(self, data: Path, seed: int = 0):
        self.store = VideoStore(data)
        self.store.uploads.mkdir(parents=True)
        self.home = data / "home"
        self.home.mkdir()
        self.instance = dg.DagsterInstance.local_temp(str(self.home))
        self.random = random.Random(seed)
        self.cursor: str | None = None
        self.now = 2_000_000_000 * SECOND
        self.owed: Counter[bytes] = Counter()
        self.ran: Counter[bytes] = Counter()
        self.report = Report(0)
        self._content: dict[str, bytes] = {}
        self._serial = 0

    # People -----------------------------------------------------------------------------------------------------

    def upload(self, name: str, *, owed: bool = True) -> None:
        """A new file of bytes never seen before, with an old date; it may replace another."""
        self._serial += 1
        content = b"upload %d" % self._serial
        self._write(name, content)
        self.owed[content] += owed
        self.report.uploads += 1

    def _write(self, name: str, content: bytes) -> None:
        path = self.store.uploads / name
        hidden = path.with_name(f".{name}")  # as rsync does it
        hidden.write_bytes(content)
        os.utime(hidden, (OLD, OLD))
        hidden.replace(path)
        self._content[name] = content

    def rename(self, name: str, to: str) -> None:
        """The same bytes under another name."""
        (self.store.uploads / name).rename(self.store.uploads / to)
        self._content[to] = self._content.pop(name)

    def copy(self, name: str, to: str) -> None:
        """The same bytes beside the first: a video of its own."""
        self._write(to, self._content[name])
        self.owed[self._content[name]] += 1
        self.report.uploads += 1

    def disturb(self, count: int) -> None:
        """Renames, replaces, copies and touches this many taken files each, and rewrites some with what they hold."""
        taken = [name for name, seen in self._memory().items() if seen.state == inbox.TAKEN]
        picked = self.random.sample(taken, min(len(taken), 5 * count))
        for i, name in enumerate(picked):
            new = f"other {self._serial} {i}.mp4"
            match i % 5:
                case 0:
                    self.rename(name, new)
                case 1:
                    self.upload(name)
                case 2:
                    self.copy(name, new)
                case 3:
                    os.utime(self.store.uploads / name, (OLD + 5, OLD + 5))
                case 4:
                    self._write(name, self._content[name])

    # Dagster ----------------------------------------------------------------------------------------------------

    def look(self) -> dg.SensorResult:
        """What the sensor answers at one tick, fifteen seconds after the last."""
        self.now += 15 * SECOND
        resources = {"store": StoreResource(data_dir=str(self.store.root))}
        start = time.monotonic()
        with mock.patch("time.time_ns", lambda: self.now):
            context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, resources=resources)
            result = sensors.new_uploads(context)
        assert isinstance(result, dg.SensorResult)
        self.report.ticks += 1
        self.report.worst_tick = max(self.report.worst_tick, time.monotonic() - start)
        return result

    def tick(self, dies: str = "") -> int:
        """One whole tick; returns how many runs it made. `dies` is when the daemon is killed: before, between, within.

        Before it kept anything; after it added the partitions; or after half of the runs.
        """
        result = self.look()
        if dies == "before":
            return 0
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(videos.name or "", list(request.partition_keys))
        if dies == "between":
            return 0
        requests = list(result.run_requests or [])
        made = sum(self._run(request) for request in (requests[: len(requests) // 2] if dies else requests))
        if not dies:
            assert result.cursor is not None
            self.cursor = result.cursor
            self.report.cursor_bytes = max(self.report.cursor_bytes, len(result.cursor))
        return made

    def _run(self, request: dg.RunRequest) -> bool:
        """Records a run under its run key, unless there is one, and lets it finish."""
        assert request.run_key and request.partition_key
        if self.instance.get_run_ids(dg.RunsFilter(tags={"dagster/run_key": request.run_key}), limit=1):
            return False
        tags = {
            **request.tags,
            "dagster/run_key": request.run_key,
            "dagster/partition": request.partition_key,
            "dagster/sensor_name": "new_uploads",
        }
        self.instance.add_run(dg.DagsterRun("process_upload", tags=tags, status=dg.DagsterRunStatus.SUCCESS))
        video = self.store.video(request.partition_key)
        content = video.uploaded_from().read_bytes()
        self.ran[content] += 1
        (video.folder / "source.mp4").write_bytes(content)
        return True

    def until_quiet(self, dying: float = 0.0) -> int:
        """Ticks until nothing is left to do; a share of them die somewhere. Returns their number."""
        before, quiet = self.report.ticks, 0
        while quiet < 3:
            dies = self.random.choice(["before", "between", "within"]) if self.random.random() < dying else ""
            made = self.tick(dies)
            waiting = any(seen.state != inbox.TAKEN for seen in self._memory().values())
            quiet = 0 if made or waiting or dies else quiet + 1
        return self.report.ticks - before

    def restart(self) -> None:
        """A new Dagster over the same home, and the sensor in a process that has never run it."""
        self.instance.dispose()
        self.instance = dg.DagsterInstance.local_temp(str(self.home))
        code = (
            "import dagster as dg, sys; from bokeh_assets.sensors import new_uploads; "
            "from bokeh_assets.resources import StoreResource; "
            "context = dg.build_sensor_context(instance=dg.DagsterInstance.local_temp(sys.argv[1]), "
            "cursor=sys.argv[2], resources={'store': StoreResource(data_dir=sys.argv[3])}); "
            "result = new_uploads(context); print(len(result.run_requests or []), result.cursor)"
        )
        words = [sys.executable, "-c", code, str(self.home), self.cursor or "", str(self.store.root)]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        assert said == ["0", self.cursor], f"a fresh process finds something to do where there is nothing: {said}"

    def _memory(self) -> dict[str, inbox.Seen]:
        return inbox.Memory(self.store.root / "sensor", self.cursor).load()

    def finish(self) -> Report:
        """Counts what was missed and doubled."""
        report = self.report
        report.videos = sum(self.owed.values())
        report.missed = sorted(str(content) for content in (self.owed - self.ran))
        report.doubled = sorted(str(content) for content in (self.ran - self.owed))
        start = time.monotonic()
        self.look()
        report.idle_tick = time.monotonic() - start
        report.memory_bytes = (self.store.root / "sensor" / f"{self.cursor}.json").stat().st_size
        return report


@contextmanager
def catalogue(data: Path) -> Iterator[Catalogue]:
    """A catalogue whose Dagster is put away at the end."""
    made = Catalogue(data)
    try:
        yield made
    finally:
        made.instance.dispose()


def storm(data: Path, uploads: int) -> Report:
    """A large arrival at once, then days of people and accidents; see `Report` for what is counted."""
    with catalogue(data) as made:
        for i in range(uploads):
            made.upload(f"arrival {i:05d}.mp4")
        for _ in range(3):
            made.tick()
        (made.store.uploads / "slow.mp4").write_bytes(b"half of a fi")  # stands while thousands are taken
        made.until_quiet(dying=0.1)
        made.owed[b"half of a fi"] += 1  # whoever stops that long has, to all appearance, finished
        for _ in range(3):
            made.disturb(max(1, uploads // 200))
            for i in range(20):
                made.upload(f"trickle {made.report.uploads} {i}.mp4")
            made.until_quiet(dying=0.3)
        made.restart()
        made.cursor = None
        made.report.rescan_ticks = made.until_quiet()
        return made.finish()


def daemon_ticks(data: Path, taken: int, ticks: int) -> list[tuple[float, int]]:
    """Seconds and runs of ticks through Dagster's own sensor daemon and code server, with `taken` files known.

    The inbox, the partitions and the runs of the `taken` files are there before; in every tick but the first new
    files wait. The worst that a tick of the real thing takes, but for what else the machine does.
    """
    from dagster._core.test_utils import create_test_daemon_workspace_context
    from dagster._core.workspace.load_target import ModuleTarget
    from dagster._daemon.sensor import execute_sensor_iteration

    target = ModuleTarget("bokeh_assets.definitions", None, None, "bokeh_assets.definitions")
    environment = {"BOKEH_DATA_DIR": str(data), "BOKEH_SENSOR_SECONDS": "1", "DAGSTER_HOME": ""}
    logger, results = logging.getLogger("scale"), []
    logger.setLevel(logging.ERROR)
    with mock.patch.dict(os.environ, environment):
        os.environ.pop("DAGSTER_HOME")
        store = VideoStore()
        prepare_home(store)
        cursor, now = "0123456789abcdef", time.time_ns()
        remembered = {}
        for i in range(taken + sensors.MOST * ticks):
            path = store.uploads / f"film {i:05d}.mp4"
            path.write_bytes(b"film %d" % i)
            os.utime(path, (OLD, OLD))
            state = inbox.TAKEN if i < taken else inbox.WAITING
            stamp = sensors.stamp_of(path.lstat())
            remembered[path.name] = inbox.Seen(stamp, state, f"film-{i:08x}" if i < taken else "", now - 60 * SECOND)
        inbox.Memory(store.root / "sensor", cursor).save(remembered)
        with dg.DagsterInstance.get() as instance:
            keys = [f"film-{i:08x}" for i in range(taken)]
            for start in range(0, taken, 500):
                instance.add_dynamic_partitions(videos.name or "", keys[start : start + 500])
            with create_test_daemon_workspace_context(target, instance) as workspace:
                location = workspace.create_request_context().get_code_location("bokeh_assets.definitions")
                sensor = location.get_repository("__repository__").get_sensor("new_uploads")
                state_now = instance.start_sensor(sensor)
                from dagster._core.scheduler.instigation import SensorInstigatorData

                instance.update_instigator_state(state_now.with_data(SensorInstigatorData(cursor=cursor)))
                for _ in range(ticks):
                    start_time = time.monotonic()
                    errors = [e for e in execute_sensor_iteration(workspace, logger, None, None, None) if e]
                    seconds = time.monotonic() - start_time
                    assert not errors, errors
                    (tick,) = instance.get_ticks(sensor.get_remote_origin_id(), sensor.selector_id, limit=1)
                    assert tick.cursor == cursor
                    results.append((seconds, len(tick.run_ids)))
                    time.sleep(1.1)
    return results


def fast_folder() -> str | None:
    """Where files cost no disk: flushing tens of thousands of notes would measure the disk and nothing else."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> None:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(description="Ten thousand uploads against the sensor.")
    parser.add_argument("--uploads", type=int, default=10_000)
    parser.add_argument("--ticks", type=int, default=5, help="ticks through Dagster's own daemon")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        start = time.monotonic()
        report = storm(Path(folder) / "data", options.uploads)
        print(report.table())
        print(f"simulated in {time.monotonic() - start:.0f} s")
        assert not report.missed and not report.doubled, json.dumps([report.missed[:9], report.doubled[:9]])
    with tempfile.TemporaryDirectory() as folder:
        for seconds, runs in daemon_ticks(Path(folder) / "data", options.uploads, options.ticks):
            print(f"a tick of the daemon: {seconds:.2f} s for {runs} runs")


if __name__ == "__main__":
    main()
