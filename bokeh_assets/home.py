"""The Dagster home: where runs, partitions and the sensor's memory are kept."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from bokeh_assets.atomic import new_file
from bokeh_assets.store import VideoStore

DAGSTER_YAML = """\
# Written by bokeh-assets on first use; yours to change.
telemetry: {enabled: false}
nux: {enabled: false}
concurrency:
  runs:
    max_concurrent_runs: 2
    tag_concurrency_limits:   # runs of one video wait for each other
      - {key: dagster/partition, value: {applyLimitPerUniqueValue: true}, limit: 1}
  pools:
    granularity: op
    default_limit: 1          # one step at a time on the GPU (pool cuda); raise it with the number of GPUs
run_monitoring:
  enabled: true
  poll_interval_seconds: 30
  free_slots_after_run_end_seconds: 30
run_retries: {enabled: true, max_retries: 1, retry_on_asset_or_op_failure: false}
retention:
  sensor: {purge_after_days: {skipped: 1, success: 30, failure: -1}}
"""


def prepare_home(store: VideoStore) -> Path:
    """Makes the Dagster home usable and points this process and its children at it.

    Writes `dagster.yaml` where there is none, and sets DAGSTER_HOME and BOKEH_DATA_DIR to absolute paths.
    """
    home = store.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        with new_file(home / "dagster.yaml") as path:
            path.write_text(DAGSTER_YAML)
    store.uploads.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["BOKEH_DATA_DIR"] = str(store.root)
    _make_databases(home)
    return home


def _make_databases(home: Path) -> None:
    """Has Dagster make its databases, one process at a time: two that make them at once spoil them for good."""
    ready = home / ".ready"
    if ready.exists():
        return
    with (home / ".making").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if ready.exists():
            return
        import dagster as dg

        with dg.DagsterInstance.get() as instance:
            instance.get_runs(limit=1)
            instance.get_dynamic_partitions("videos")
            instance.all_instigator_state()
        ready.touch()
