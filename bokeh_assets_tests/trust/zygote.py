"""Sudden death, many times over: a process that has imported everything forks runs and kills them.

`python -m bokeh_assets_tests.trust.zygote FOLDER KILLS SEED` prints one JSON line per kill and per comparison. A run
is either `bokeh-assets run` in one process, or a real run worker whose steps are processes of their own (Dagster's
multiprocess executor, which forks here instead of importing everything anew). It is killed after a random time, or
right before or after a random one of its file operations. What a killed run left is what the next one starts from.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

ORDER = ("frames", "masks", "depth_maps", "focus_track", "render_csv", "bokeh_video")
PATIENCE = 60.0


def listing(video: Path) -> dict[str, str]:
    """Every file of a video but locks, with a hash of its bytes."""
    return {
        str(path.relative_to(video)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(video.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".claim")
    }


class Stage:
    """Where a run is at this moment, in memory that it shares with whoever kills it."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 256)

    def set(self, asset: str | None = None, phase: str | None = None) -> None:
        now = self.now
        text = f"{asset or now[0]} {phase or now[1]}".encode().ljust(128)
        self._shared[:128] = text

    @property
    def now(self) -> tuple[str, str]:
        words = bytes(self._shared[:128]).decode().strip("\0 ").split()
        return (words[0], words[1]) if len(words) == 2 else ("none", "starting")

    def arm(self, point: int) -> None:
        """Lets the run kill itself at its file operation of this number; 0: never."""
        self._shared[128:136] = point.to_bytes(8, "little")
        self._shared[136:144] = bytes(8)

    def pass_point(self) -> None:
        armed = int.from_bytes(self._shared[128:136], "little")
        passed = int.from_bytes(self._shared[136:144], "little") + 1
        self._shared[136:144] = passed.to_bytes(8, "little")
        if passed == armed:
            os.kill(os.getpid(), signal.SIGKILL)


def watch(stage: Stage, root: Path) -> None:
    """Has every file operation on the store say what it is, and offer itself as a moment to die."""
    from bokeh_assets import atomic
    from bokeh_assets.assets import making

    def wrap(place: Any, name: str, phase: str, by_path: bool = True) -> None:
        original = getattr(place, name)

        def watched(*words: Any, **options: Any) -> Any:
            if by_path and not str(words[0]).startswith(str(root)):
                return original(*words, **options)
            before = stage.now[1]
            stage.set(phase=phase)
            stage.pass_point()
            try:
                return original(*words, **options)
            finally:
                stage.pass_point()
                stage.set(phase=before)

        setattr(place, name, watched)

    for name, phase in (
        ("replace", "publishing"),
        ("rename", "publishing"),
        ("unlink", "removing"),
        ("mkdir", "begin"),
    ):
        wrap(os, name, phase)
    wrap(shutil, "rmtree", "removing")
    wrap(atomic, "_flush", "flushing")
    wrap(atomic, "_flush_entry", "flushing")

    begin, finish = making.Making.__init__, making.Making.finish

    def begun(self: Any, asset: str, *words: Any) -> None:
        stage.set(asset, "work")
        begin(self, asset, *words)

    def finished(self: Any, *words: Any, **options: Any) -> Any:
        stage.set(phase="recording")
        try:
            return finish(self, *words, **options)
        finally:
            stage.set(phase="dagster")

    making.Making.__init__ = begun  # type: ignore[method-assign, assignment]
    making.Making.finish = finished  # type: ignore[method-assign]


def load() -> None:
    """Imports and compiles all that a run needs, without starting a thread (a fork would lose it)."""
    os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    import cv2
    import numpy as np
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    import dagster._core.storage.legacy_storage
    import dagster._core.storage.local_compute_log_manager
    import dagster._core.storage.root
    import dagster._core.storage.sqlite_storage  # noqa: F401

    import bokeh_assets.assets.watching
    import bokeh_assets.definitions
    import bokeh_assets.housekeeping
    import bokeh_assets.media.confined
    import bokeh_assets.previews
    import bokeh_assets.processing  # noqa: F401
    from bokeh_assets.depth.planes import PlanesEstimator
    from bokeh_assets.depth.standing import stand_subjects, standing_levels
    from bokeh_assets.rendering.thin_lens import renderer  # noqa: F401
    from bokeh_assets.segmentation import classical  # noqa: F401

    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(4)]
    maps = list(PlanesEstimator().estimate(frames, [0] * 4))
    mattes = [(np.indices((48, 64))[1] > 40).astype(np.float32)] * 4
    levels = standing_levels(maps, mattes, [0.0, 0.1, 0.2, 0.3], [0] * 4)
    list(stand_subjects(maps, mattes, levels.tolist()))


def remember_probe(clip: Path) -> None:
    """Spares every run the confined process that only looks at the clip; the ones that decode and encode stay."""
    from bokeh_assets.media import confined

    original, size = confined.probe, clip.stat().st_size
    known = original(clip)

    def probe(path: Path, *words: Any, **options: Any) -> Any:
        if Path(path).name == "bokeh.mp4" or Path(path).stat().st_size != size:
            return original(path, *words, **options)
        return dataclasses.replace(known, path=Path(path))

    confined.probe = probe


class Zygote:
    """Forks, kills, re-runs and compares."""

    def __init__(self, root: Path, seed: int, tell: Callable[[dict[str, Any]], None]):
        self.root, self.tell = root, tell
        self.rng = random.Random(seed)
        self.stage = Stage()
        self.clip = root / "clip.mp4"
        self.data = root / "data"
        os.environ.update(BOKEH_DATA_DIR=str(self.data), DAGSTER_HOME=str(self.data / "dagster"))
        os.environ["BOKEH_CHECKPOINTS_DIR"] = str(root / "no checkpoints")
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become our children
        self.costs = dict.fromkeys(ORDER, 0.4)
        self.reference: dict[str, str] = {}
        self.kills = 0

    @property
    def video(self) -> Path | None:
        return next((path for path in self.data.glob("videos/*-*") if not path.name.startswith(".")), None)

    def fork(self, work: Callable[[], None]) -> int:
        """Process id of a child that does `work` and ends; 0 of its exit status says it went well."""
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            with (self.root / "errors.txt").open("a") as file:
                traceback.print_exc(file=file)
        finally:
            os._exit(status)

    def done(self, work: Callable[[], None]) -> None:
        """Does something in a child, which has to go well."""
        _, status = os.waitpid(self.fork(work), 0)
        assert status == 0, (self.root / "errors.txt").read_text()[-3000:]

    # Runs ---------------------------------------------------------------------------------------------------

    def alone(self) -> None:
        """What `bokeh-assets run` does."""
        from bokeh_assets.processing import process

        process(self.clip, {}, None, say=lambda line: None)

    def worker(self) -> None:
        """What the server's run worker does: each step in a process of its own."""
        import dagster as dg
        from dagster._core.definitions.reconstruct import ReconstructableRepository
        from dagster._core.executor.multiprocess import MultiprocessExecutor

        from bokeh_assets import versions, workers
        from bokeh_assets.home import prepare_home
        from bokeh_assets.settings import merged_settings
        from bokeh_assets.store import VideoStore

        init = MultiprocessExecutor.__init__

        def forking(self: Any, *words: Any, **options: Any) -> None:
            init(self, *words, **{**options, "start_method": "fork", "max_concurrent": 2})

        MultiprocessExecutor.__init__ = forking  # type: ignore[method-assign]
        store = VideoStore()
        prepare_home(store)
        video = store.register(self.clip)
        assets = versions.out_of_date(video, merged_settings(video.settings, {})) or ["bokeh_video"]
        if self.rng.random() < 0.2:
            assets = list(versions.READS)  # over what is finished already
        job = ReconstructableRepository.for_module("bokeh_assets.definitions", "defs", os.getcwd())
        with dg.DagsterInstance.get() as instance:
            instance.add_dynamic_partitions("videos", [video.key])
            result = dg.execute_job(
                job.get_reconstructable_job("process_upload"),
                instance,
                run_config={
                    "execution": {"config": {"multiprocess": {"retries": {"disabled": {}}}}},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                tags={"dagster/partition": video.key, **workers.tag(None)},
                asset_selection=[dg.AssetKey(name) for name in assets],
            )
            why = [str(event.step_failure_data.error)[:3000] for event in result.all_events if event.is_step_failure]
        assert result.success, why or [event.message for event in result.all_events][-3:]

    # Kills --------------------------------------------------------------------------------------------------

    def attempt(self, target: str, moment: str) -> bool:
        """One run, killed or not; whether it was killed."""
        self.stage.set("none", "starting")
        left = 0.1 + sum(cost for asset, cost in self.costs.items() if not self.made(asset))
        self.stage.arm(self.rng.randint(1, 90) if moment == "operation" else 0)
        delay = self.rng.uniform(0, left) if moment == "time" else PATIENCE
        begun = self.rng.random() < 0.2  # else the time counts from the first asset on
        deadline = time.monotonic() + (delay if begun else PATIENCE)
        child = self.fork(self.alone if target == "run" else self.worker)
        killed, where = False, ("none", "starting")
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            if not begun and self.stage.now[0] != "none":
                begun, deadline = True, time.monotonic() + delay
            if time.monotonic() >= deadline:
                victim = child if target != "step" else next(steps(child), 0)
                if victim:
                    where = self.stage.now
                    with suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                        killed = True
                    break
            time.sleep(0.002)
        if not ended:
            end = time.monotonic() + PATIENCE
            while not ended and time.monotonic() < end:
                ended, status = os.waitpid(child, os.WNOHANG)
                time.sleep(0.002)
            assert ended, "a run worker whose step was killed did not end"
        if moment == "operation":
            where = self.stage.now
            killed = status != 0
        if not killed:
            assert status == 0, (self.root / "errors.txt").read_text()[-3000:]
        orphans = self.orphans()
        if killed:
            self.kills += 1
            self.tell({"kill": target, "moment": moment, "asset": where[0], "phase": where[1], "orphans": orphans})
        return killed

    def made(self, asset: str) -> bool:
        video = self.video
        return video is not None and (video / "made" / f"{asset}.json").is_file()

    def orphans(self) -> int:
        """Processes that outlive the run; one that was still starting ends when it comes to work."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            living = list(steps(os.getpid()))
            if not living:
                return 0
            time.sleep(0.01)
        for pid in living:
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                self.tell({"orphan": words[:300], "at": self.stage.now})
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(living)

    # Comparisons --------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """The undisturbed run, and how long each of its assets takes."""
        from bokeh_assets.media.samples import make_sample

        if not self.clip.exists():

            def clip() -> None:
                make_sample(self.clip, seconds=4 / 24, size=(64, 48))

            self.done(clip)
        self.stage.arm(0)
        remember_probe(self.clip)
        start = time.monotonic()
        self.done(self.alone)
        whole = (time.monotonic() - start) * 0.7  # the rest passes before the first asset
        assert self.video is not None
        self.reference = listing(self.video)
        self.costs = dict.fromkeys(ORDER, whole / len(ORDER))
        self.forget()

    def forget(self) -> None:
        """Empties the store; Dagster's history stays, as it would."""
        for name in ("videos", "fingerprints"):
            shutil.rmtree(self.data / name, ignore_errors=True)

    def verify(self) -> None:
        """Re-runs to the end, cleans, and compares the whole video with the undisturbed run."""
        self.stage.arm(0)
        self.done(self.alone if self.rng.random() < 0.9 else self.worker)
        self.done(self.clean)
        video = self.video
        assert video is not None
        found = listing(video)
        unequal = sorted(name for name in {*found, *self.reference} if found.get(name) != self.reference.get(name))
        report = json.loads((self.root / "state.json").read_text())
        self.tell({"compared": len(found), "unequal": unequal, **report})

    def clean(self) -> None:
        """`bokeh-assets clean`, then what is left that should not be."""
        import dagster as dg

        from bokeh_assets.housekeeping import clean
        from bokeh_assets.store import VideoStore
        from bokeh_assets.workers import live_runs

        clean(VideoStore(), say=lambda line: None)
        temporary = [str(path) for path in self.data.rglob(".tmp-*")]
        with dg.DagsterInstance.get() as instance:
            storage = instance.event_log_storage
            pools = [storage.get_concurrency_info(pool) for pool in storage.get_concurrency_keys()]
            slots = sum(len(pool.claimed_slots) + len(pool.pending_steps) for pool in pools)
            live = len(live_runs(instance))
        (self.root / "state.json").write_text(json.dumps({"temporary": temporary, "slots": slots, "live": live}))

    def go(self, kills: int) -> None:
        """Kills that many runs, in rounds of a few kills on one store and a comparison."""
        self.measure()
        while self.kills < kills:
            for _ in range(min(self.rng.randint(4, 9), kills - self.kills)):
                target = self.rng.choices(("run", "worker", "step"), (70, 15, 15))[0]
                moment = "operation" if target == "run" and self.rng.random() < 0.6 else "time"
                if not self.attempt(target, moment):
                    break
            self.verify()
            self.forget()


def steps(parent: int) -> Iterator[int]:
    """Living processes whose parent this is, other than Python's own helpers."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, IndexError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) != parent or fields[0] in "ZX":
                    continue
                if b"resource_tracker" not in (folder / "cmdline").read_bytes():
                    yield int(folder.name)


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)

    def tell(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)

    started = time.monotonic()
    load()
    zygote = Zygote(folder, seed, tell)
    watch(zygote.stage, zygote.data)
    threads = len(os.listdir("/proc/self/task"))
    tell({"loaded": round(time.monotonic() - started, 1), "threads": threads})
    zygote.go(kills)


if __name__ == "__main__":
    main()
