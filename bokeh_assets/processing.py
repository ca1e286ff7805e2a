"""One video through the whole graph, in this process: what `bokeh-assets run` does.

It is the same Dagster graph, recorded in the same instance as the UI's, so everything made here is seen there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from bokeh_assets import versions, workers
from bokeh_assets.claims import claimed
from bokeh_assets.errors import InputError, one_line
from bokeh_assets.home import prepare_home
from bokeh_assets.partitions import videos
from bokeh_assets.resources import ProgressResource, RunSettings, StoreResource
from bokeh_assets.settings import adopt_settings, merged_settings
from bokeh_assets.store import VideoFolder, VideoStore, storage_trouble


def process(
    path: Path,
    overrides: Mapping[str, Any],
    settings_file: Path | None,
    *,
    device: str = "auto",
    bars: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Makes the bokeh video of one file; what is up to date is not made again.

    Args:
        path: the video.
        overrides: settings that win over `settings_file`; both are kept as the video's settings.
        settings_file: a settings file to use for this video from now on.
        device: auto, cuda, cuda:1 or cpu.
        bars: progress bars on standard error.
        say: takes one line at a time about what is being done.

    Returns:
        Where the bokeh video is.

    Raises:
        InputError: in one line, what was wrong and what to do about it.
    """
    from bokeh_assets.media.confined import probe

    store = VideoStore()
    probe(path)  # a file that is no video leaves no trace in the store
    if settings_file is not None and not settings_file.is_file():
        raise InputError(f"{settings_file}: no such settings file")
    try:
        return _process(store, path, overrides, settings_file, device, bars, say)
    except OSError as error:
        trouble = storage_trouble(error, store.root)
        if trouble is None:
            raise
        raise InputError(trouble) from error
    except (SQLAlchemyError, _NoRecords) as error:
        why = " ".join(str(getattr(error, "orig", None) or error).split())
        raise InputError(
            f"{store.dagster_home}: Dagster's records cannot be kept there ({why}); make room or set it right, and "
            "run again"
        ) from error


def _process(
    store: VideoStore,
    path: Path,
    overrides: Mapping[str, Any],
    settings_file: Path | None,
    device: str,
    bars: bool,
    say: Callable[[str], None],
) -> Path:
    prepare_home(store)
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    with dg.DagsterInstance.get() as instance:
        for run in workers.live_runs(instance):  # which lays to rest those that were killed
            if workers.executed_here(run):  # and this process ended without being able to say so
                workers.bury(instance, run)
        workers.free_slots(instance)
        video = store.register(path)
        say(one_line(f"{path}: video {video.key}"))
        with claimed(video, say, instance):
            if settings_file is not None or overrides:
                adopt_settings(settings_file or video.settings, video.folder, overrides)
            stale = versions.out_of_date(video, merged_settings(video.settings, {}), device)
            if stale != list(versions.READS):
                kept = [asset for asset in versions.READS if asset not in stale]
                say(f"up to date: {', '.join(kept)}")
            if stale:
                _materialize(instance, store, video, stale, device, bars)
    for line in _told(video):
        say(line)
    return video.bokeh


def _materialize(
    instance: dg.DagsterInstance, store: VideoStore, video: VideoFolder, assets: list[str], device: str, bars: bool
) -> None:
    from bokeh_assets.assets import ALL

    if not instance.has_dynamic_partition(videos.name or "", video.key):
        instance.add_dynamic_partitions(videos.name or "", [video.key])
    _stop_without_records(instance)
    result = dg.materialize(
        ALL,
        selection=dg.AssetSelection.assets(*assets),
        partition_key=video.key,
        instance=instance,
        resources={
            "store": StoreResource(data_dir=str(store.root)),
            "run": RunSettings(device=device),
            "progress": ProgressResource(bars=bars),
        },
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        tags={"video": video.key, **workers.tag(None)},
        raise_on_error=False,
    )
    if not result.success:
        raise InputError(_why(result) or f"{video.key}: the run {result.run_id} failed; see it in the UI")


class _NoRecords(BaseException):
    """Dagster could not write down what happened. No `Exception`: Dagster would catch one, and wait for ever."""


def _stop_without_records(instance: dg.DagsterInstance) -> None:
    """Has a run of this process stop where its events cannot be stored, as on a full disk."""

    def guard(place: Any, name: str) -> None:
        original = getattr(place, name)

        def guarded(*words: Any, **options: Any) -> Any:
            try:
                return original(*words, **options)
            except SQLAlchemyError as error:
                raise _NoRecords(str(getattr(error, "orig", None) or error)) from error

        setattr(place, name, guarded)

    guard(instance.event_log_storage, "store_event")
    guard(instance.event_log_storage, "claim_concurrency_slot")
    guard(instance.run_storage, "handle_run_event")


def _why(result: dg.ExecuteInProcessResult) -> str:
    """The first failure in one line: the user's error as it was raised, anything else with its type."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.description:
                return data.user_failure_data.description
            error = data.error.cause if data.error and data.error.cause else data.error
            if error is not None:
                return f"{event.step_key}: {' '.join(error.message.split())}"
    for event in result.all_events:
        if event.is_job_failure and event.job_failure_data.error is not None:
            return " ".join(event.job_failure_data.error.message.split())
    return ""


def _told(video: VideoFolder) -> list[str]:
    """What a user should know of a finished video: the engines and the notes."""
    lines = []
    for asset in versions.READS:
        record = video.made(asset) or video.cleaned(asset) or {}
        if "engine" in record:
            lines.append(f"{asset}: {record['engine']} on {record['device']} ({record['engine chosen because']})")
        lines += [f"{asset}: {note}" for note in record.get("notes", ())]
    return lines
