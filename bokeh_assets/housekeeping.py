"""`bokeh-assets clean`: removes what is of no use any more, and never a user's upload.

Three kinds of things go: unfinished outputs of processes that were killed; the outputs of videos whose partition
was deleted; and, where asked for, the pictures between source and result of finished videos, which the kept source,
settings and records make again to the byte.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from bokeh_assets import versions, workers
from bokeh_assets.atomic import leftovers, remove
from bokeh_assets.checkpoints import checkpoint_dir
from bokeh_assets.claims import holder
from bokeh_assets.errors import InputError
from bokeh_assets.home import prepare_home
from bokeh_assets.partitions import check_key, fingerprint, videos
from bokeh_assets.settings import merged_settings
from bokeh_assets.store import VideoFolder, VideoStore

DAY = 24 * 3600.0
LATELY = 600.0


@dataclass(frozen=True)
class Waste:
    """One thing to remove."""

    path: Path
    bytes: int
    """What removing it frees; a file with another name elsewhere frees nothing."""
    why: str
    video: str = ""
    asset: str = ""
    """The asset that counts as cleaned away from then on."""


@dataclass(frozen=True)
class Plan:
    """What a cleaning removes, and what it leaves alone although one might expect it to go."""

    waste: tuple[Waste, ...]
    left: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes freed by all of it."""
        return sum(thing.bytes for thing in self.waste)


def clean(
    store: VideoStore,
    *,
    intermediates_older_than: float | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> Plan:
    """Removes leftovers, outputs of deleted partitions and, where asked for, old intermediates.

    Args:
        store: the store to clean.
        intermediates_older_than: days since they were made after which frames, masks, disparity and render pictures
            of finished, up-to-date videos go. None: they stay.
        dry_run: say what would be removed and remove nothing.
        say: takes one line at a time.

    Returns:
        What was (or would be) removed.

    Raises:
        InputError: a run is not finished, or something is being made; nothing was removed then.
    """
    if not store.root.is_dir():
        raise InputError(f"{store.root}: there is no store; set BOKEH_DATA_DIR to where it is")
    prepare_home(store)
    with dg.DagsterInstance.get() as instance:
        _refuse_while_working(store, instance)
        plan = Plan(*map(tuple, _plan(store, instance, intermediates_older_than)))  # type: ignore[arg-type]
        for thing in plan.waste:
            say(f"{size(thing.bytes):>10}  {_shown(thing.path, store.root)}  ({thing.why})")
            if not dry_run:
                with _at_rest(store, thing.path, instance):
                    _remove(thing, store, instance)
        if not dry_run:
            workers.free_slots(instance)
    for note in plan.left:
        say(f"      kept  {note}")
    say(f"{size(plan.bytes):>10}  {'would be freed' if dry_run else 'freed'}, {len(plan.waste)} things")
    return plan


def size(count: int) -> str:
    """A number of bytes as people read it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


# Nothing may be at work -----------------------------------------------------------------------------------


def _refuse_while_working(store: VideoStore, instance: dg.DagsterInstance) -> None:
    runs = workers.live_runs(instance)
    if runs:
        run = runs[0]
        video = run.tags.get("dagster/partition") or run.tags.get("video") or "?"
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        raise InputError(
            f"run {run.run_id} of {video} is {run.status.value}{more}; let it end or cancel it, then clean again"
        )
    for folder in _folders(store):
        with _at_rest(store, folder.folder, instance):
            pass


@contextmanager
def _at_rest(store: VideoStore, path: Path, instance: dg.DagsterInstance) -> Iterator[None]:
    """Holds the lock of the video that `path` belongs to, if it does, so that a run that starts now waits."""
    inside = path.relative_to(store.videos).parts if path.is_relative_to(store.videos) else ()
    try:
        video = store.video(inside[0]) if inside else None
    except InputError:  # an unfinished folder beside the videos
        video = None
    if video is None:
        yield
        return
    with video.try_lock() as free:
        run = holder(video, instance)
        if not free or run:
            what = f"run {run} is making" if run else "something is made of"
            raise InputError(f"{video.key}: {what} this video; let it end, then clean again")
        yield


def _folders(store: VideoStore) -> Iterator[VideoFolder]:
    for folder in sorted(store.videos.iterdir()) if store.videos.is_dir() else ():
        if folder.is_dir() and not folder.is_symlink():
            with suppress(InputError):
                yield store.video(check_key(folder.name))


# What goes ------------------------------------------------------------------------------------------------


def _plan(store: VideoStore, instance: dg.DagsterInstance, days: float | None) -> tuple[Iterable[Waste], Iterable[str]]:
    waste: list[Waste] = []
    left: list[str] = []
    known = set(instance.get_dynamic_partitions(videos.name or ""))
    folders = list(_folders(store))
    uploads = {path for video in folders if (path := _upload(video)) is not None}
    counted: set[tuple[int, int]] = set()

    def add(path: Path, why: str, video: str = "", asset: str = "") -> None:
        if any(upload.is_relative_to(path.resolve()) for upload in uploads):
            left.append(f"{_shown(path, store.root)}: a video was uploaded from there")
        else:
            waste.append(Waste(path, _frees(path, counted), why, video, asset))

    for path in _unfinished(store, folders):
        add(path, "unfinished")
    for video in folders:
        if video.key not in known:
            if _was_known(instance, video.key):
                for path, why in _outputs_of_deleted(video):
                    add(path, why)
            else:
                left.append(f"{_shown(video.folder, store.root)}: {store.dagster_home} never made anything of it")
        elif days is not None:
            for path, asset, age in _old_intermediates(video, days, left):
                add(path, f"{asset}, made {age:.0f} days ago", video.key, asset)
    return waste, left


def _unfinished(store: VideoStore, folders: Iterable[VideoFolder]) -> Iterator[Path]:
    """What killed processes left under their temporary names, wherever ours write."""
    places = [store.root, store.root / "fingerprints", store.videos, store.dagster_home]
    for video in folders:
        places += [video.folder, video.folder / "made", video.prompts]
    for place in places:
        yield from leftovers(place)
    # Nothing locks these two: what was touched lately may be in the making.
    for path in (*leftovers(store.root / "demo"), *sorted(checkpoint_dir().glob(".unpacking-*"))):
        if time.time() - path.stat().st_mtime > LATELY:
            yield path


def _was_known(instance: dg.DagsterInstance, key: str) -> bool:
    """Whether this Dagster ever ran the partition: one that it never knew belongs to another home."""
    return bool(instance.get_runs(dg.RunsFilter(tags={"dagster/partition": key}), limit=1))


def _outputs_of_deleted(video: VideoFolder) -> Iterator[tuple[Path, str]]:
    upload = _upload(video)
    if upload is not None and upload.is_file() and video.upload_is(fingerprint(upload)):
        yield video.folder, "its partition was deleted; the upload itself stays"
        return
    # Our copy may be all that is left of the upload.
    for path in (video.bokeh, video.render, video.focus, video.disparity, video.masks):
        if path.exists():
            yield path, "its partition was deleted"
    if video.source is not None:
        for path in (video.frames, video.frames_table):
            if path.exists():
                yield path, "its partition was deleted"


_FOLDERS = {"frames": "frames", "masks": "masks", "depth_maps": "disparity", "render_csv": "render"}


def _old_intermediates(video: VideoFolder, days: float, left: list[str]) -> Iterator[tuple[Path, str, float]]:
    now = time.time()
    old = []
    for asset, name in _FOLDERS.items():
        record = video.folder / "made" / f"{asset}.json"
        path = video.folder / name
        if record.is_file() and path.is_dir() and (age := (now - record.stat().st_mtime) / DAY) >= days:
            old.append((path, asset, age))
    if not old:
        return
    why = _not_reproducible(video)
    if why:
        left.append(f"{video.key}: {why}")
        return
    yield from old


def _not_reproducible(video: VideoFolder) -> str:
    """Why the intermediates of a video could not be made again as they are; empty if they can."""
    if video.source is None:
        return "its source is gone, so its pictures could not be made again"
    if video.made("bokeh_video") is None or not video.bokeh.is_file():
        return "its bokeh video is not finished"
    try:
        stale = versions.out_of_date(video, merged_settings(video.settings, {}))
    except InputError as error:
        return str(error)
    if stale:
        return f"{', '.join(stale)} would not be made again as they are; run it first"
    return ""


def _upload(video: VideoFolder) -> Path | None:
    path = video.note().get("path")
    return Path(path).resolve() if path else None


def _frees(path: Path, counted: set[tuple[int, int]]) -> int:
    """Bytes on the disk that only `path` (and what was `counted` before) holds."""
    total = 0
    names: dict[tuple[int, int], list[int]] = {}
    for file in [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]:
        status = file.lstat()
        names.setdefault((status.st_dev, status.st_ino), []).append(status.st_blocks * 512)
    for file_id, sizes in names.items():
        if file_id not in counted:
            counted.add(file_id)
            total += sizes[0]
    return total


def _remove(thing: Waste, store: VideoStore, instance: dg.DagsterInstance) -> None:
    if thing.asset:
        store.video(thing.video).note_cleaned(thing.asset)
        note = dg.AssetObservation(
            thing.asset,
            partition=thing.video,
            metadata={"cleaned away": f"{size(thing.bytes)}; materialize it again to have it back"},
        )
        instance.report_runless_asset_event(note)
    remove(thing.path)


def _shown(path: Path, root: Path) -> str:
    return os.fspath(path.relative_to(root) if path.is_relative_to(root) else path)
