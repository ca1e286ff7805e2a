"""The sensor that processes new uploads: look at the inbox, decide, ask for runs.

What to do is decided by `bokeh_assets.inbox.decide`; here are the folder, the files and Dagster.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import dagster as dg

from bokeh_assets.errors import InputError, one_line
from bokeh_assets.inbox import ASKED, TAKEN, Memory, Seen, Stamp, decide
from bokeh_assets.jobs import process_upload
from bokeh_assets.partitions import fingerprint, videos
from bokeh_assets.resources import StoreResource
from bokeh_assets.store import VideoStore

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"}
    | {".wmv", ".flv", ".3gp", ".ogv", ".mxf"}
)
"""File names a video may end in; anything else in the inbox is left alone."""

FEW, MOST = 3, 50
"""Run requests of a tick: at first, and at most."""

RUN_SECONDS = 1.5
"""Time a tick may spend on making runs. Dagster makes them before the tick ends, each with some seventy commits on
SQLite: 0.1 s on a good disk, 2 s on a busy one."""

QUEUE = 50
"""Runs of this sensor that may be queued: the rest of a large arrival waits in the inbox, not in the database."""

SECONDS = 1.5
"""Time a tick may spend on looking into files; the rest has its turn at the next tick. Dagster allows 60."""


def stamp_of(status: os.stat_result) -> Stamp:
    """What a file looks like now."""
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def list_inbox(folder: Path) -> dict[str, Stamp]:
    """The video files lying in `folder` by name; links, pipes, devices and hidden files are left alone.

    Raises:
        OSError: the folder cannot be read. An unreadable inbox is never taken for an empty one.
    """
    listing = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in SUFFIXES:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                listing[entry.name] = stamp_of(status)
    return listing


def strangers(folder: Path) -> list[str]:
    """Names in `folder` that would be taken, were they plain files; printable."""
    with os.scandir(folder) as entries:
        found = [e.name for e in entries if not e.name.startswith(".") and not e.is_file(follow_symlinks=False)]
    return sorted(one_line(name) for name in found if Path(name).suffix.lower() in SUFFIXES)


def take(store: VideoStore, name: str, seen: Seen, dagster: Known) -> tuple[str, bool]:
    """Registers an upload; returns its partition key and whether it needs a run.

    The same bytes are the same video and need nothing (see `VideoStore.key_of`). Other bytes are another video,
    except where the file before them was broken and never became one: then they take its place.

    Raises:
        InputError: the file changed while it was looked at, or its settings file is wrong.
        OSError: it cannot be read.
    """
    path = store.uploads / name
    print_of_file = fingerprint(path)
    if stamp_of(path.lstat()) != seen.stamp:
        raise InputError("it changed while it was looked at")
    if seen.key in dagster.keys:
        old = store.video(seen.key)
        if old.source is None and not old.upload_is(print_of_file):
            store.register(path, seen.key, print_of_file)
            return seen.key, True
    video = store.register(path, store.key_of(path, print_of_file), print_of_file)
    if video.key not in dagster.keys:
        return video.key, True
    started = video.source is not None or (video.folder / "made").exists()
    return video.key, not started and dagster.run({"dagster/partition": video.key}) is None


class Known:
    """What Dagster has: partitions and runs."""

    def __init__(self, instance: dg.DagsterInstance):
        self._instance = instance

    @cached_property
    def keys(self) -> set[str]:
        """All partition keys."""
        return set(self._instance.get_dynamic_partitions(videos.name or ""))

    def queued(self) -> int:
        """How many runs of the sensor wait for their turn; `QUEUE` where there are that many or more."""
        waiting = dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED],
            tags={"dagster/sensor_name": new_uploads.name},
        )
        return len(self._instance.get_run_ids(waiting, limit=QUEUE))

    def run(self, tags: Mapping[str, str]) -> dg.RunRecord | None:
        """The newest run with these tags, in whatever state."""
        return next(iter(self._instance.get_run_records(dg.RunsFilter(tags=dict(tags)), limit=1)), None)


def batch(created: Sequence[float]) -> int:
    """How many runs to ask for in a tick, from when (seconds) Dagster made those of the tick before."""
    if len(created) < 2:
        return FEW
    each = (max(created) - min(created)) / (len(created) - 1)
    return max(2, min(MOST, int(RUN_SECONDS / max(each, 1e-3))))


@dg.sensor(
    job=process_upload,
    minimum_interval_seconds=int(os.environ.get("BOKEH_SENSOR_SECONDS", "15")),
    description="Takes new files of the uploads folder as videos and runs the whole graph on each. "
    "Files still being copied wait; the same bytes again do nothing.",
)
def new_uploads(context: dg.SensorEvaluationContext, store: StoreResource) -> dg.SensorResult:
    """Looks at the uploads folder; see `decide` for the rules.

    A run that was asked for is looked for at the next tick and asked for again where it is missing: between this
    function and the daemon's database lies a network call, and either end may die. The run key keeps that from
    ever making two.
    """
    start = time.monotonic()
    videos_store = store.open()
    videos_store.uploads.mkdir(parents=True, exist_ok=True)
    memory = Memory(videos_store.root / "sensor", context.cursor)
    decision = decide(list_inbox(videos_store.uploads), memory.load(), time.time_ns())
    seen, dagster = decision.seen, Known(context.instance)
    requests: list[dg.RunRequest] = []
    events: list[dg.AssetMaterialization] = []
    new_keys: list[str] = []
    familiar: list[str] = []
    failures: list[str] = []

    created = []
    for name in decision.asked:
        run = dagster.run({"dagster/run_key": seen[name].run_key()})
        if run is not None:
            created.append(run.create_timestamp.timestamp())
            seen[name] = seen[name]._replace(state=TAKEN)

    again = [name for name in decision.asked if seen[name].state == ASKED]
    left = [*again, *decision.ready]
    room = min(batch(created), QUEUE - dagster.queued()) if left else 0
    while left and len(requests) < room and time.monotonic() - start < SECONDS:
        name = left.pop(0)
        try:
            key, needs_run = (seen[name].key, True) if name in again else take(videos_store, name, seen[name], dagster)
        except (OSError, ValueError) as error:
            if not seen[name].tries:  # it is tried again at every tick, and told once
                context.log.warning(one_line(f"{name} is not taken: {error}"))
            failures.append(name)
            seen[name] = seen[name]._replace(tries=seen[name].tries + 1)
            continue
        seen[name] = seen[name]._replace(key=key, state=ASKED if needs_run else TAKEN)
        if not needs_run:
            familiar.append(f"{name} as {key}")
            continue
        if key not in dagster.keys:
            dagster.keys.add(key)
            new_keys.append(key)
        requests.append(dg.RunRequest(run_key=seen[name].run_key(), partition_key=key, tags={"video": key}))
        path = dg.MetadataValue.path(one_line(str(videos_store.uploads / name)))
        megabytes = seen[name].stamp.size / 1e6
        events.append(dg.AssetMaterialization("upload", partition=key, metadata={"path": path, "megabytes": megabytes}))

    if familiar:
        some = one_line(", ".join(familiar[:3]))
        context.log.info(f"{len(familiar)} files hold bytes that were taken before: {some}")
    memory.save(seen)
    if not requests:
        idle = f"nothing new in {videos_store.uploads}; {len(left) + len(decision.waiting)} files are waiting"
        idle += f", {len(failures)} are not taken, such as {one_line(failures[0])}" if failures else ""
        others = strangers(videos_store.uploads)
        idle += f"; {len(others)} links, folders, pipes or devices are left alone: {others[0]}" if others else ""
        return dg.SensorResult(skip_reason=idle, cursor=memory.cursor)
    return dg.SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[videos.build_add_request(new_keys)] if new_keys else [],
        asset_events=events,
        cursor=memory.cursor,
    )
