"""The one Definitions object: everything Dagster serves."""

import dagster as dg

from bokeh_assets.assets import ALL
from bokeh_assets.execution import attended_executor
from bokeh_assets.jobs import process_upload
from bokeh_assets.resources import ProgressResource, RunSettings, StoreResource
from bokeh_assets.sensors import new_uploads


def resources() -> dict[str, object]:
    """The resources as the UI, the daemon and the command line use them."""
    return {
        "store": StoreResource(),
        "run": RunSettings.configure_at_launch(),
        "progress": ProgressResource.configure_at_launch(),
    }


defs = dg.Definitions(
    assets=ALL, jobs=[process_upload], sensors=[new_uploads], resources=resources(), executor=attended_executor
)
