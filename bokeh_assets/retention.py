"""Keeps the history small: `python -m bokeh_assets.retention --older-than DAYS [--dry-run]`.

Dagster never forgets a run, and its SQLite keeps what deleting a run should free. Of runs older than some days this
removes all that is superseded, and of those whose output the UI still shows the detailed log, which is the most of
it: the asset pages lose nothing. What lies in the store is not touched.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg

from bokeh_assets import workers
from bokeh_assets.errors import InputError
from bokeh_assets.home import prepare_home
from bokeh_assets.store import VideoStore

DATABASES = ("history/runs/index.db", "history/runs.db", "schedules/schedules.db")
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_AT_ONCE = 500


def forget(
    instance: dg.DagsterInstance,
    home: Path,
    days: float,
    *,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Forgets runs that ended more than `days` days ago, and gives the room back to the disk.

    Args:
        instance: the Dagster whose runs they are.
        home: its DAGSTER_HOME; files that are not there (another storage than SQLite) are left to their database.
        days: the age from which a run is old.
        dry_run: say what would be done and do nothing.
        say: takes one line at a time.

    Raises:
        InputError: a run is not finished.
    """
    if workers.live_runs(instance):
        raise InputError("a run is not finished; wait for it or cancel it, then forget old runs")
    before = _bytes(home)
    old = dg.RunsFilter(statuses=_ENDED, updated_before=datetime.now(timezone.utc) - timedelta(days=days))
    runs = instance.get_run_ids(old)
    shown = set(_shown(instance))
    gone = [run for run in runs if run not in shown]
    say(f"{len(runs)} runs are older than {days:g} days: {len(gone)} superseded, {len(runs) - len(gone)} still shown")
    if dry_run:
        return
    for run in gone:
        instance.delete_run(run)
    for run in runs:
        for name in (f"{run}.db", f"{run}.db-wal", f"{run}.db-shm"):
            (home / "history" / "runs" / name).unlink(missing_ok=True)
        shutil.rmtree(home / "storage" / run, ignore_errors=True)
    for name in DATABASES:
        if (home / name).is_file():
            with closing(sqlite3.connect(home / name, timeout=60)) as database:
                database.execute("VACUUM")
    say(f"{home}: {before / 1e6:.1f} MB before, {_bytes(home) / 1e6:.1f} MB now")


def _shown(instance: dg.DagsterInstance) -> Iterator[str]:
    """Runs that made the newest materialization of some asset of some video."""
    for asset in instance.all_asset_keys():
        newest = instance.event_log_storage.get_latest_storage_id_by_partition(
            asset, dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        ids = sorted(newest.values())
        for start in range(0, len(ids), _AT_ONCE):
            records = dg.AssetRecordsFilter(asset, storage_ids=ids[start : start + _AT_ONCE])
            yield from (record.run_id for record in instance.fetch_materializations(records, limit=_AT_ONCE).records)


def _bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())


def main() -> None:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(description="Forget old runs. Stop `bokeh-assets dev` first.")
    parser.add_argument("--older-than", type=float, required=True, metavar="DAYS")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    home = prepare_home(VideoStore())
    try:
        with dg.DagsterInstance.get() as instance:
            forget(instance, home, options.older_than, dry_run=options.dry_run)
    except (InputError, sqlite3.OperationalError) as error:
        sys.exit(f"bokeh_assets.retention: {error}")


if __name__ == "__main__":
    main()
