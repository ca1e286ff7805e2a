"""How a run is executed: Dagster's default executor, in a process that says who it is and ends with its server."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster import multi_or_in_process_executor as default

from bokeh_assets import workers


class _Attended(dg.Executor):
    """Another executor, with the run's process noted in the run's tags."""

    def __init__(self, inner: dg.Executor):
        self._inner = inner

    @property
    def retries(self) -> Any:
        return self._inner.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._inner.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        run, instance = plan_context.dagster_run, plan_context.instance
        instance.add_run_tags(run.run_id, workers.tag(run.parent_run_id))
        # A run that was killed may hold the pool slot that this one would wait for.
        workers.live_runs(instance, queued=False)
        workers.free_slots(instance)
        yield from self._inner.execute(plan_context, execution_plan)


def _create(context: dg.InitExecutorContext) -> dg.Executor:
    # A run's own process is made by multiprocessing; any other process that executes runs has duties of its own.
    if multiprocessing.parent_process() is not None:
        workers.end_with_parent()
    assert default.executor_creation_fn is not None
    return _Attended(default.executor_creation_fn(context))


attended_executor = dg.ExecutorDefinition(
    name=default.name,
    config_schema=default.config_schema,  # type: ignore[arg-type]
    requirements=default.get_requirements,
    executor_creation_fn=_create,
    description=default.description,
)
