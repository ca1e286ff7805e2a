"""The sensor that processes new uploads: look at the inbox, decide, ask for runs.

What to do is decided by `decide`, a pure function of what lies in the inbox and of the cursor. A file is taken
once two ticks in a row have seen it unchanged, so one that is still being copied waits; its modification time is
not trusted for that, because `mv` and `cp -p` bring old ones.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from bokeh_assets.errors import InputError
from bokeh_assets.jobs import process_upload
from bokeh_assets.partitions import fingerprint, key_for, videos
from bokeh_assets.resources import StoreResource
from bokeh_assets.store import VideoStore

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"}
    | {".wmv", ".flv", ".3gp", ".ogv", ".mxf"}
)
"""File names a video may end in; anything else in the inbox is left alone."""

MOST = 50
"""Run requests per tick at most: a tick may take 60 seconds, and every new file is read a little."""

SETTLE_NS = 2_000_000_000


class Stamp(NamedTuple):
    """What a file looked like: size in bytes, modification time in nanoseconds."""

    size: int
    mtime_ns: int


class Seen(NamedTuple):
    """What the cursor remembers of one file."""

    size: int
    mtime_ns: int
    key: str
    """Partition it was taken as; empty while it waits."""


@dataclass(frozen=True)
class Decision:
    """What one tick does."""

    ready: list[str]
    """Names to take now."""
    waiting: list[str]
    """Names seen for the first time, changed since, or over this tick's limit."""
    cursor: dict[str, Seen]
    """What to remember, before the names in `ready` are taken."""


def decide(listing: Mapping[str, Stamp], cursor: Mapping[str, Seen], now_ns: int) -> Decision:
    """Which files of the inbox to take now.

    Taken: files that look as they did at the tick before, were not touched in the last two seconds, and were not
    taken as they are; the longest-waiting names first come, `MOST` at a time. Files gone from the inbox are
    forgotten, so the cursor is never larger than the inbox.
    """
    ready: list[str] = []
    waiting: list[str] = []
    remembered: dict[str, Seen] = {}
    for name, stamp in sorted(listing.items()):
        before = cursor.get(name)
        if before is None or (before.size, before.mtime_ns) != stamp:
            # A replaced file keeps its old key for now: a broken upload is healed under the same partition.
            remembered[name] = Seen(*stamp, key=f"?{before.key.lstrip('?')}" if before else "?")
            waiting.append(name)
            continue
        remembered[name] = before
        if not before.key.startswith("?"):
            continue
        if len(ready) < MOST and not 0 <= now_ns - stamp.mtime_ns < SETTLE_NS:
            ready.append(name)
        else:
            waiting.append(name)
    return Decision(ready, waiting, remembered)


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
                listing[entry.name] = Stamp(status.st_size, status.st_mtime_ns)
    return listing


def take(store: VideoStore, name: str, old_key: str, known: set[str]) -> tuple[str, bool]:
    """Registers an upload; returns its partition key and whether it needs a run.

    The same bytes under the same name are the same video and need nothing. Other bytes are another video, except
    where the file before them was broken and never became one: then they take its place.
    """
    path = store.uploads / name
    if old_key and old_key in known:
        old = store.video(old_key)
        if old.source is None and not old.upload_is(fingerprint(path)):
            store.register(path, old_key)
            return old_key, True
    key = key_for(path)
    if key in known:
        return key, False
    store.register(path, key)
    return key, True


@dg.sensor(
    job=process_upload,
    minimum_interval_seconds=int(os.environ.get("BOKEH_SENSOR_SECONDS", "15")),
    description="Takes new files of the uploads folder as videos and runs the whole graph on each. "
    "Files still being copied wait; the same bytes again do nothing.",
)
def new_uploads(context: dg.SensorEvaluationContext, store: StoreResource) -> dg.SensorResult:
    """Looks at the uploads folder; see `decide` for the rules."""
    videos_store = store.open()
    videos_store.uploads.mkdir(parents=True, exist_ok=True)
    cursor = {name: Seen(*seen) for name, seen in json.loads(context.cursor or "{}").items()}
    decision = decide(list_inbox(videos_store.uploads), cursor, time.time_ns())

    known = set(context.instance.get_dynamic_partitions(videos.name or ""))
    requests, events, new_keys = [], [], []
    remembered = dict(decision.cursor)
    for name in decision.ready:
        seen = remembered[name]
        try:
            key, needs_run = take(videos_store, name, seen.key.lstrip("?"), known)
        except (OSError, InputError) as error:
            context.log.warning(f"{name}: left for the next tick: {error}")
            continue
        remembered[name] = seen._replace(key=key)
        if not needs_run:
            context.log.info(f"{name}: the same bytes were taken before, as {key}")
            continue
        if key not in known:
            known.add(key)
            new_keys.append(key)
        run_key = f"{key}:{seen.size}:{seen.mtime_ns}"
        requests.append(dg.RunRequest(run_key=run_key, partition_key=key, tags={"video": key}))
        path = dg.MetadataValue.path(videos_store.uploads / name)
        events.append(
            dg.AssetMaterialization("upload", partition=key, metadata={"path": path, "megabytes": seen.size / 1e6})
        )

    text = json.dumps(remembered, separators=(",", ":"))
    if not requests:
        idle = f"nothing new in {videos_store.uploads}; {len(decision.waiting)} files are waiting"
        return dg.SensorResult(skip_reason=idle, cursor=text)
    return dg.SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[videos.build_add_request(new_keys)] if new_keys else [],
        asset_events=events,
        cursor=text,
    )
