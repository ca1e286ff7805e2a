"""upload: the user's own file, which we read and never change."""

import dagster as dg

from bokeh_assets.assets.making import GROUP
from bokeh_assets.partitions import videos

upload = dg.AssetSpec(
    "upload",
    partitions_def=videos,
    group_name=GROUP,
    kinds={"video"},
    description=(
        "The video a user dropped into the uploads folder or named on the command line. It is observed, never "
        "changed: `frames` makes the store's own copy. A `.yaml` of the same name beside it holds its settings."
    ),
)
