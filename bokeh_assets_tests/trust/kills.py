"""Kills steps, run workers, the daemon and the whole `bokeh-assets dev`, and shows that nothing is lost.

One command: `python -m bokeh_assets_tests.trust.kills [--forked 260] [--real 40] [--seed N]`. Most kills fall on
runs forked from a process that has imported everything (`zygote`), the rest on a real `bokeh-assets dev`. What the
next run makes of what a killed one left is compared, byte for byte, with an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bokeh_assets_tests.serving import REPOSITORY, SELECTOR, Server, serving
from bokeh_assets_tests.trust.zygote import ORDER, listing

ENDED = ("SUCCESS", "FAILURE", "CANCELED")

QUICK_HOME = """\
telemetry: {enabled: false}
concurrency:
  runs:
    max_concurrent_runs: 3
    tag_concurrency_limits:
      - {key: dagster/partition, value: {applyLimitPerUniqueValue: true}, limit: 1}
  pools: {granularity: op, default_limit: 1}
run_monitoring: {enabled: true, poll_interval_seconds: 5, free_slots_after_run_end_seconds: 5}
run_retries: {enabled: true, max_retries: 1, retry_on_asset_or_op_failure: false}
"""
"""The home of `bokeh_assets.home`, with shorter waits."""


@dataclass
class Tally:
    """What was killed, and what came of it."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    equal: int = 0
    unequal: list[str] = field(default_factory=list)
    orphans: int = 0
    temporary: list[str] = field(default_factory=list)
    slots: int = 0
    live: int = 0

    @property
    def total(self) -> int:
        return sum(self.kills.values())

    def take(self, line: dict[str, Any]) -> None:
        """One line of a zygote or of `real`."""
        if "kill" in line:
            self.kills[line["kill"], line["asset"]] += 1
            self.phases[line["phase"]] += 1
            self.orphans += line["orphans"]
        elif "compared" in line:
            self.compared += 1
            self.equal += not line["unequal"]
            self.unequal += line["unequal"]
            self.temporary += line["temporary"]
            self.slots += line["slots"]
            self.live += line["live"]

    def table(self) -> str:
        """Kills by target and asset, then what must all be nothing."""
        targets = sorted({target for target, _ in self.kills})
        places = [place for place in (*ORDER, "none") if any(self.kills[target, place] for target in targets)]
        rows = [["killed", *places, "all"]]
        for target in targets:
            counts = [self.kills[target, place] for place in places]
            rows.append([target, *map(str, counts), str(sum(counts))])
        sums = [sum(self.kills[target, place] for target in targets) for place in places]
        rows.append(["all", *map(str, sums), str(self.total)])
        wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, wide, strict=True)) for row in rows]
        lines.append("at: " + ", ".join(f"{phase} {count}" for phase, count in self.phases.most_common()))
        lines.append(
            f"killed {self.total}, compared {self.compared}, equal {self.equal}, "
            f"lost {self.compared - self.equal}, orphans {self.orphans}, "
            f"temporary files after clean {len(self.temporary)}, slots taken {self.slots}, runs left alive {self.live}"
        )
        return "\n".join(lines)

    def check(self) -> None:
        """Raises AssertionError where anything was lost or left behind."""
        assert not self.unequal, self.unequal
        assert not self.temporary, self.temporary
        assert (self.orphans, self.slots, self.live) == (0, 0, 0), self.table()


def forked(folder: Path, kills: int, seed: int, tally: Tally, zygotes: int = 2) -> None:
    """Kills forked runs, in two stores side by side."""
    running = []
    for number in range(zygotes):
        share = kills // zygotes + (number < kills % zygotes)
        words = [sys.executable, "-m", "bokeh_assets_tests.trust.zygote"]
        words += [str(folder / f"zygote{number}"), str(share), str(seed + number)]
        out = (folder / f"zygote{number}.out").open("w+")
        running.append((subprocess.Popen(words, cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT), out))
    for process, out in running:
        status = process.wait()
        out.seek(0)
        text = out.read()
        out.close()
        assert status == 0, text[-4000:]
        for line in text.splitlines():
            if line.startswith("{"):
                tally.take(json.loads(line))


# A real server --------------------------------------------------------------------------------------------


class Real:
    """A `bokeh-assets dev` with a few tiny videos in work, of which anything may be killed."""

    def __init__(self, folder: Path, seed: int, tally: Tally, videos: int = 3):
        from bokeh_assets.media.samples import make_sample

        self.data = folder / "real"
        self.home = self.data / "dagster"
        self.rng, self.tally = random.Random(seed), tally
        self.clips = [folder / f"real{number}.mp4" for number in range(videos)]
        for number, clip in enumerate(self.clips):
            make_sample(clip, seconds=(4 + number) / 24, size=(64, 48))
        self.home.mkdir(parents=True)
        (self.home / "dagster.yaml").write_text(QUICK_HOME)
        self.environment = {
            **os.environ,
            **{"BOKEH_DATA_DIR": str(self.data), "DAGSTER_HOME": str(self.home), "OMP_NUM_THREADS": "1"},
            "BOKEH_CHECKPOINTS_DIR": str(folder / "no checkpoints"),
        }

    def call(self, *words: object) -> str:
        """One `bokeh-assets` command, which has to succeed."""
        command = [sys.executable, "-m", "bokeh_assets.cli", *map(str, words)]
        done = subprocess.run(command, env=self.environment, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def undisturbed(self) -> dict[str, dict[str, str]]:
        """The files of every video as they should be; the store is emptied again."""
        self.call("run", *self.clips)
        found = {path.name: listing(path) for path in (self.data / "videos").iterdir()}
        assert len(found) == len(self.clips) and all("bokeh.mp4" in files for files in found.values())
        for video in found:
            for path in (self.data / "videos" / video).iterdir():
                if path.name != "upload.json":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found

    def go(self, kills: int, seconds: float) -> None:
        """Kills that many processes, or fewer where the time is over, and compares every video then."""
        wanted = self.undisturbed()
        keys = sorted(wanted)
        end = time.monotonic() + seconds
        servers = self.rng.sample(range(2, max(kills, 8)), 5)  # which of the kills take the server down
        kinds = iter(("daemon", "dev", "all", "dagster dev", "daemon"))
        server: Server | None = None
        done = 0
        with ExitStack() as stack:
            while done < kills and time.monotonic() < end:
                if server is None:
                    server = stack.enter_context(serving(self.data, None, **self.extra()))
                self.keep_busy(server, keys)
                target = next(kinds) if done in servers else self.rng.choice(("step", "step", "worker"))
                done += self.kill(target, keys)
                if target not in ("step", "worker"):
                    self.tally.orphans += self.outlive(20)
                    stack.close()
                    server = None
            if server is None:
                server = stack.enter_context(serving(self.data, None, **self.extra()))
            self.finish(server, keys)
        self.tally.orphans += self.outlive(20)
        self.call("clean")
        self.compare(wanted)

    def extra(self) -> dict[str, str]:
        return {name: self.environment[name] for name in ("DAGSTER_HOME", "BOKEH_CHECKPOINTS_DIR", "OMP_NUM_THREADS")}

    def keep_busy(self, server: Server, keys: list[str]) -> None:
        for key in keys:
            runs = server.runs(key)
            if not runs or all(run["status"] in ENDED for run in runs):
                self.launch(server, key)

    def launch(self, server: Server, key: str) -> None:
        server.ask(
            "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename"
            " ... on PythonError { message } ... on RunConfigValidationInvalid { errors { message } } } }",
            p={
                "selector": {**SELECTOR, "jobName": "process_upload"},
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": key}]},
                "mode": "default",
            },
        )

    def kill(self, target: str, keys: list[str]) -> int:
        """Kills one process once there is one of that kind, after a random while; how many were killed."""
        end = time.monotonic() + 40
        time.sleep(self.rng.uniform(0, 2.5))
        while time.monotonic() < end:
            found = self.processes(target)
            if found:
                victim = self.rng.choice(found)
                below = descendants(victim) if target in ("step", "worker") else []
                asset = self.asset_now(keys)
                with suppress(ProcessLookupError):
                    if target == "all":
                        os.killpg(victim, signal.SIGKILL)
                        os.kill(self.note()["keeper"], signal.SIGKILL)
                    else:
                        os.kill(victim, signal.SIGKILL)
                    lost = len([pid for pid in below if not gone(pid, 20)])
                    self.tally.take({"kill": target, "asset": asset, "phase": "real process", "orphans": lost})
                    return 1
            time.sleep(0.1)
        return 0

    def asset_now(self, keys: list[str]) -> str:
        """The asset that the youngest step works on, as far as the store tells."""
        half = [path for key in keys for path in (self.data / "videos" / key).glob(".tmp-*")]
        names = {"frames": "frames", "source": "frames", "masks": "masks", "disparity": "depth_maps"}
        names |= {"focus": "focus_track", "render": "render_csv", "bokeh": "bokeh_video"}
        for path in half:
            for name, asset in names.items():
                if path.name.split("-", 2)[-1].startswith(name):
                    return asset
        for key in self.rng.sample(keys, len(keys)):
            made = {path.stem for path in (self.data / "videos" / key / "made").glob("*.json")}
            missing = [asset for asset in ORDER if asset not in made]
            if missing:
                return missing[0]
        return "none"

    def note(self) -> dict[str, Any]:
        return json.loads((self.home / ".dev").read_text())

    def processes(self, target: str) -> list[int]:
        """Living processes of one kind."""
        note = self.note()
        if target in ("dagster dev", "all"):
            return [note["session"]]
        if target == "dev":
            return [note["keeper"]]
        lines = {pid: words for pid, words in commands() if session(pid) == note["session"]}
        if target == "daemon":
            return [pid for pid, words in lines.items() if "dagster._daemon" in words]
        spawned = {pid for pid, words in lines.items() if "spawn_main" in words}
        steps = [pid for pid in spawned if parent(pid) in spawned]
        return steps if target == "step" else [pid for pid in spawned if pid not in steps]

    def outlive(self, seconds: float) -> int:
        """Processes of this store that are still there after so many seconds."""
        end = time.monotonic() + seconds
        while True:
            found = [pid for pid, _ in commands() if self.ours(pid)]
            if not found or time.monotonic() > end:
                return len(found)
            time.sleep(0.2)

    def ours(self, pid: int) -> bool:
        with suppress(OSError):
            return pid != os.getpid() and f"DAGSTER_HOME={self.home}".encode() in Path(
                f"/proc/{pid}/environ"
            ).read_bytes().split(b"\0")
        return False

    def finish(self, server: Server, keys: list[str]) -> None:
        """Lets what runs end, then makes every video, once more where a killed run's retry was the last."""
        for key in keys:
            runs = server.runs(key)
            if all(run["status"] in ENDED for run in runs):
                self.launch(server, key)
        server.wait(lambda: all(run["status"] in ENDED for run in server.runs()), 300, "the runs")
        for key in keys:
            if server.runs(key)[0]["status"] != "SUCCESS":
                self.launch(server, key)
        server.wait(lambda: all(run["status"] in ENDED for run in server.runs()), 300, "the last runs")
        for key in keys:
            assert server.runs(key)[0]["status"] == "SUCCESS", server.log.read_text()[-3000:]

    def compare(self, wanted: dict[str, dict[str, str]]) -> None:
        import dagster as dg

        from bokeh_assets.workers import live_runs

        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            storage = instance.event_log_storage
            pools = [storage.get_concurrency_info(pool) for pool in storage.get_concurrency_keys()]
            slots = sum(len(pool.claimed_slots) + len(pool.pending_steps) for pool in pools)
            live = len(live_runs(instance))
        temporary = [str(path) for path in self.data.rglob(".tmp-*")]
        for key, files in wanted.items():
            found = listing(self.data / "videos" / key)
            unequal = [f"{key}/{name}" for name in {*files, *found} if files.get(name) != found.get(name)]
            self.tally.take(
                {"compared": len(found), "unequal": unequal, "temporary": temporary, "slots": slots, "live": live}
            )
            temporary, slots, live = [], 0, 0


def commands() -> Iterator[tuple[int, str]]:
    """Every living process with its command line."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words:
                    yield int(folder.name), words


def stat(pid: int, number: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[number])
    return -1


def parent(pid: int) -> int:
    return stat(pid, 1)


def session(pid: int) -> int:
    return stat(pid, 3)


def descendants(pid: int) -> list[int]:
    """All processes below one, but Dagster's log tails, which end by themselves."""
    children: dict[int, list[int]] = {}
    for other, words in commands():
        if "watch_orphans" not in words and "tail" not in words:
            children.setdefault(parent(other), []).append(other)
    found, rest = [], [pid]
    while rest:
        below = children.get(rest.pop(), [])
        found += below
        rest += below
    return found


def gone(pid: int, seconds: float) -> bool:
    """Whether a process ends within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--forked", type=int, default=262)
    options.add_argument("--real", type=int, default=40)
    options.add_argument("--seconds", type=float, default=600, help="at most, for the real ones")
    options.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    chosen = options.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    tally, started = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bokeh_kills_") as name:
        if chosen.forked:
            forked(Path(name), chosen.forked, chosen.seed, tally)
            print(f"{tally.table()}\n{time.monotonic() - started:.0f} s", flush=True)
        if chosen.real:
            Real(Path(name), chosen.seed, tally).go(chosen.real, chosen.seconds)
    print(f"{tally.table()}\n{time.monotonic() - started:.0f} s")
    tally.check()


if __name__ == "__main__":
    main()
