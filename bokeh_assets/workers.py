"""Who is at work: processes told apart for certain, and runs whose process is gone laid to rest.

Dagster's own launcher cannot say whether a run's process still lives, so a run whose process was killed together
with its server stays "started" for ever, keeps its pool slot and blocks its video. Every run of ours therefore
carries the identity of its process, and whoever finds that process gone marks the run as failed.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

TAG = "bokeh/worker"
"""Run tag that holds the identity of the process in which a run is executed."""

_SETTLED = 5.0
"""Seconds after which a run's tags name the server that started it, not that of the run it repeats."""

_FORGOTTEN = 300.0
"""Seconds after which a run that was made and never queued has lost whoever made it."""


def identity(pid: int | None = None) -> str:
    """A name of a process that no other process will ever bear: host, boot, pid namespace, pid and start time."""
    pid = pid or os.getpid()
    return f"{_machine()}|{pid}|{_started(pid) or 0}"


def alive(worker: str) -> bool | None:
    """Whether the process of this identity still runs; None where that cannot be known from here.

    A process of this host's earlier boot is gone; one of another host or container cannot be seen.
    """
    parts = worker.split("|")
    if len(parts) != 5 or not parts[3].isdigit():
        return None
    host, boot, space, pid, started = parts
    here = _machine().split("|")
    if host != here[0] or (boot == here[1] and space != here[2]):
        return None
    if boot != here[1]:
        return False
    return _started(int(pid)) == int(started)


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        boot = space = "?"
    return f"{socket.gethostname()}|{boot}|{space}".replace("\n", "")


def _started(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (0 where the system does not tell); None: no such process."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else int(fields[19])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0


def live_runs(instance: dg.DagsterInstance, queued: bool = True) -> list[dg.DagsterRun]:
    """Runs that are queued, starting, started or canceling, after those whose process is gone were laid to rest.

    Without the `queued` ones this takes the same time whatever waits: a large backfill queues thousands at once.
    """
    import dagster as dg

    left_out = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
    if not queued:
        left_out.add(dg.DagsterRunStatus.QUEUED)
    going = dg.RunsFilter(statuses=[status for status in dg.DagsterRunStatus if status not in left_out])
    living = []
    for record in instance.get_run_records(going):
        if _gone(record):
            bury(instance, record.dagster_run)
        else:
            living.append(record.dagster_run)
    return living


def bury(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Marks a run whose process is gone as failed; its pool slots are given back by `free_slots`."""
    current = instance.get_run_by_id(run.run_id)
    if current is not None and not current.is_finished:
        why = "The process of this run was killed; what it had finished is kept. Run again."
        instance.report_run_failed(current, why)


def free_slots(instance: dg.DagsterInstance) -> None:
    """Gives back every pool slot and place in the queue for one that is held by a run which has ended."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    holders: set[str] = set()
    for pool in storage.get_concurrency_keys():
        info = storage.get_concurrency_info(pool)
        holders |= info.active_run_ids | info.pending_run_ids | info.assigned_run_ids
    for run_id in holders:
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)


def tag(parent_run_id: str | None) -> dict[str, str]:
    """The run tag that says that this process executes a run (a re-execution of `parent_run_id`, or of none).

    Re-executions are made with the tags of their parent: one that names another parent is an inherited one.
    """
    return {TAG: f"{identity()}|{parent_run_id or ''}"}


def executed_here(run: dg.DagsterRun) -> bool:
    """Whether this very process executes a run, or did until it ended."""
    worker, _, parent = run.tags.get(TAG, "").rpartition("|")
    return worker == identity() and parent == (run.parent_run_id or "")


def _gone(record: dg.RunRecord) -> bool:
    import dagster as dg

    run = record.dagster_run
    worker, _, parent = run.tags.get(TAG, "").rpartition("|")
    if worker and parent == (run.parent_run_id or ""):
        return alive(worker) is False
    # Killed before it could say who it is: its fate is that of the server that started it.
    unchanged = time.time() - record.update_timestamp.timestamp()
    if run.status == dg.DagsterRunStatus.NOT_STARTED:  # whoever made it goes on to queue it at once
        return unchanged > _FORGOTTEN
    if run.status == dg.DagsterRunStatus.QUEUED:
        return False
    address = run.tags.get(".dagster/grpc_info")
    path = json.loads(address).get("socket") if address else None
    if path is None or unchanged < _SETTLED:
        return False
    with socket.socket(socket.AF_UNIX) as knock:
        try:
            knock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False
    return False


def end_with_parent(ask_every: float = 1.0) -> None:
    """Ends this process soon after the process that started it is gone, so that nothing works on unattended.

    By asking, not by a signal from Linux: that one comes when the parent's *thread* ends, and a server starts
    runs from threads.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ask_every)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
