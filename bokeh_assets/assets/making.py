"""What every asset does around its engine: settings, lock, clear failures, record, metadata."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

from bokeh_assets import versions
from bokeh_assets.atomic import leftovers, remove
from bokeh_assets.claims import claim
from bokeh_assets.engines import Choice
from bokeh_assets.errors import InputError
from bokeh_assets.resources import ProgressResource, RunSettings, StoreResource
from bokeh_assets.settings import merged_settings
from bokeh_assets.store import VideoFolder, check_space, storage_trouble

GROUP = "bokeh"

CUDA_OP_TAGS = {
    "dagster-celery/queue": "cuda",
    "dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}},
}

CUDA: dict[str, Any] = {
    "pool": "cuda",
    "op_tags": CUDA_OP_TAGS,
    # A card may be busy or a driver hiccup; bad input is not retried, see `making`.
    "retry_policy": dg.RetryPolicy(max_retries=1, delay=10),
}
"""Asset arguments of every step that uses a GPU where there is one."""


class Making:
    """One asset of one video in the making."""

    def __init__(self, asset: str, context: dg.AssetExecutionContext, store: StoreResource, run: RunSettings):
        self.asset = asset
        self.log = context.log
        self.store = store.open()
        self.video = self.store.video(context.partition_key)
        self.settings = merged_settings(self.video.settings, run.overrides)
        self.device = run.device
        self.inputs = self.video.need(*versions.READS[asset])
        self._started = time.monotonic()

    def need_space(self, bytes_needed: float, what: str) -> None:
        """Fails clearly before work begins that the disk has no room for."""
        check_space(self.video.folder, int(bytes_needed), what)

    @property
    def frame_count(self) -> int:
        """Frames of the video."""
        return self.inputs["frames"]["frames"]

    @property
    def subject_must_be_stood(self) -> bool:
        """Whether the depth engine saw the scene alone, so that the subject is still to be stood into it."""
        return self.inputs["depth_maps"]["engine"] == "planes"

    def rendered_disparity(self, table: pd.DataFrame) -> Iterable[NDArray[np.float32]]:
        """The disparity as it will be rendered, frame by frame: the subject is always in it.

        Args:
            table: the rows of `frames.parquet`.
        """
        from bokeh_assets.depth.standing import stand_subjects, standing_levels
        from bokeh_assets.media.frames import MapFolder

        maps = MapFolder(self.video.disparity)
        if not self.subject_must_be_stood:
            return maps
        mattes = MapFolder(self.video.masks)
        levels = standing_levels(maps, mattes, table["seconds"].to_list(), table["shot"].to_list())
        return stand_subjects(maps, mattes, levels.tolist())

    def finish(
        self,
        metadata: Mapping[str, Any],
        *,
        frames: int,
        engine: Choice | None = None,
        source: str | None = None,
        checks: Sequence[dg.AssetCheckResult] = (),
        notes: Sequence[str] = (),
        kept: Mapping[str, Any] | None = None,
    ) -> dg.MaterializeResult:
        """Records that the output stands whole, and tells Dagster.

        Args:
            metadata: what the UI shows of this output.
            frames: frames made.
            engine: what made it, where an engine was chosen.
            source: SHA-256 of the source, for the asset that has no other input.
            checks: results of the asset's checks.
            notes: what a user should know: assumptions, warnings.
            kept: facts later assets read from the record.
        """
        seconds = time.monotonic() - self._started
        inputs = {name: record["version"] for name, record in self.inputs.items()}
        if source is not None:
            inputs["source"] = source
        shape = versions.shaping(self.asset, self.settings, self.device)
        version = versions.version(self.asset, shape, inputs)
        facts: dict[str, Any] = {
            "frames": frames,
            "seconds": round(seconds, 2),
            "seconds per frame": round(seconds / max(frames, 1), 4),
            **(engine.facts() if engine else {}),
            "settings": dg.MetadataValue.json(self.settings.model_dump(mode="json")),
        }
        if notes:
            facts["notes"] = dg.MetadataValue.md("\n".join(f"- {note}" for note in notes))
        record = {"version": version, "inputs": inputs, "frames": frames, "notes": list(notes), "shape": shape}
        self.video.record(self.asset, {**record, **(engine.facts() if engine else {}), **(kept or {})})
        return dg.MaterializeResult(
            metadata={**metadata, **facts}, data_version=dg.DataVersion(version), check_results=list(checks)
        )


@contextmanager
def making(asset: str, context: dg.AssetExecutionContext, store: StoreResource, run: RunSettings) -> Iterator[Making]:
    """Everything around the making of one asset of one video.

    Holds the video's lock and the run's claim to the video, and turns what a user can mend into one clear failure
    that is not retried.
    """
    die_with_parent()
    try:
        video = store.open().video(context.partition_key)
        with video.lock():
            claim(video, context.run.run_id, context.instance)
            _sweep(video)
            yield Making(asset, context, store, run)
    except InputError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except OSError as error:
        trouble = storage_trouble(error, store.open().root)
        if trouble is None:
            raise
        raise dg.Failure(trouble, allow_retries=False) from error


def _sweep(video: VideoFolder) -> None:
    """Deletes unfinished outputs of a step that was killed, which would else take the room this one needs."""
    outputs = ("source", "frames", "masks", "disparity", "focus.parquet", "render", "bokeh")
    for path in leftovers(video.folder):
        if path.name.split("-", 2)[-1].startswith(outputs):
            remove(path)


@contextmanager
def tracked(
    context: dg.AssetExecutionContext, progress: ProgressResource, total: int | None
) -> Iterator[Callable[[int], None]]:
    """A progress callback for the step of `context`."""
    name = context.asset_key.to_user_string()
    with progress.track(context.log.info, name, total) as tell:
        yield tell


def die_with_parent() -> None:
    """Has Linux end this step's process with the run that started it, instead of leaving it on the GPU.

    Only in a process that Dagster's multiprocess executor made for one step; in-process runs are left alone.
    """
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and parent is not None:
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0)
        if not parent.is_alive():  # it died while this process was still starting: no signal will come
            os._exit(1)
