"""One run at a time makes one video: a run claims the video, and no other run makes anything of it until then.

The video's lock alone keeps single outputs whole. The claim keeps two runs with different settings from taking turns,
which would mix the masks of one with the focus of the other. A claim dies with the process that made it.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bokeh_assets import workers
from bokeh_assets.atomic import new_file
from bokeh_assets.errors import InputError
from bokeh_assets.store import VideoFolder

if TYPE_CHECKING:
    import dagster as dg


def claim(video: VideoFolder, run_id: str, instance: dg.DagsterInstance | None) -> None:
    """Claims the video for a run; to be called while its lock is held.

    Raises:
        InputError: a run that still lives holds it.
    """
    worker = _worker()
    held = _read(video)
    if held.get("run") != run_id and held.get("worker") != worker and _living(held, instance):
        raise InputError(
            f"{video.key}: run {held['run'] or 'of bokeh-assets run'} is making this video at this moment; "
            "let it end or cancel it, then run again"
        )
    _write(video, run_id, worker)


@contextmanager
def claimed(video: VideoFolder, say: Callable[[str], None], instance: dg.DagsterInstance | None) -> Iterator[None]:
    """Holds the claim for this process through a block; waits, and says so, while another run has it."""
    told = False
    while True:
        with video.lock():
            held = _read(video)
            if held.get("worker") == _worker() or not _living(held, instance):
                _write(video, "", _worker())
                break
        if not told:
            say(f"{video.key}: waiting for run {held['run'] or 'of another bokeh-assets run'} to end")
            told = True
        time.sleep(1)
    try:
        yield
    finally:
        if _read(video).get("worker") == _worker():
            video.claim.unlink(missing_ok=True)


def holder(video: VideoFolder, instance: dg.DagsterInstance | None) -> str | None:
    """The run that is making this video now, or None."""
    held = _read(video)
    return (held["run"] or "of bokeh-assets run") if _living(held, instance) else None


def _worker() -> str:
    """The process that stands for the run: that of the step, or the one that started it for this step alone."""
    parent = multiprocessing.parent_process()
    return workers.identity(parent.pid if parent is not None else None)


def _living(held: dict[str, str], instance: dg.DagsterInstance | None) -> bool:
    if not held:
        return False
    life = workers.alive(held["worker"])
    if life is False:
        return False
    run = instance.get_run_by_id(held["run"]) if instance is not None and held["run"] else None
    if run is None:  # not of this home: the process decides, and one that cannot be seen counts as gone
        return life is True
    return not run.is_finished


def _read(video: VideoFolder) -> dict[str, str]:
    try:
        held = json.loads(video.claim.read_text())
        return {"run": str(held["run"]), "worker": str(held["worker"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _write(video: VideoFolder, run_id: str, worker: str) -> None:
    with new_file(video.claim) as path:
        path.write_text(json.dumps({"run": run_id, "worker": worker}))
