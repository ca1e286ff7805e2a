"""Jobs: what a sensor or a person starts as one thing."""

import dagster as dg

process_upload = dg.define_asset_job(
    "process_upload",
    selection=dg.AssetSelection.assets("frames", "masks", "depth_maps", "focus_track", "render_csv", "bokeh_video"),
    description="The whole graph for one video: from the upload to its bokeh video.",
    tags={"dagster/max_runtime": str(24 * 3600)},
)
