"""Old runs are forgotten, and nothing that the UI shows."""

import os
from pathlib import Path

import dagster as dg
import pytest

from bokeh_assets import retention, workers
from bokeh_assets.errors import InputError
from bokeh_assets.retention import forget

videos = dg.DynamicPartitionsDefinition(name="videos")


@dg.asset(partitions_def=videos)
def picture() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"preview": dg.MetadataValue.md(os.urandom(100_000).hex())})


def test_superseded_runs_go_and_what_is_shown_stays(tmp_path: Path):
    said: list[str] = []
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.add_dynamic_partitions("videos", ["a", "b"])
        runs = [dg.materialize([picture], instance=instance, partition_key=key).run_id for key in ("a", "a", "b")]
        before = retention._bytes(tmp_path)
        forget(instance, tmp_path, 1, say=said.append)
        assert len(instance.get_run_ids()) == 3, "none is a day old"
        forget(instance, tmp_path, 0, dry_run=True, say=said.append)
        assert len(instance.get_run_ids()) == 3 and said[-1].endswith("1 superseded, 2 still shown")
        forget(instance, tmp_path, 0, say=said.append)
        assert set(instance.get_run_ids()) == {runs[1], runs[2]}
        for key, run in (("a", runs[1]), ("b", runs[2])):
            records = dg.AssetRecordsFilter(picture.key, asset_partitions=[key])
            (record,) = instance.fetch_materializations(records, limit=9).records
            assert record.run_id == run
            assert record.asset_materialization and "preview" in record.asset_materialization.metadata
        assert instance.get_materialized_partitions(picture.key) == {"a", "b"}
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert instance.all_logs(runs[2]) == [], "the detailed log is gone, and asking for it is no error"
        assert retention._bytes(tmp_path) < before / 2, said


def test_nothing_is_forgotten_while_a_run_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "live_runs", lambda instance: [dg.DagsterRun("job")])
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(InputError, match="not finished"):
        forget(instance, tmp_path, 0)
