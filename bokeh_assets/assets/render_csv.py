"""render_csv: all that a renderer needs, in any-to-bokeh's own layout."""

from collections.abc import Callable, Iterable, Iterator

import dagster as dg
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bokeh_assets import checks
from bokeh_assets.assets.depth_maps import depth_maps
from bokeh_assets.assets.focus_track import focus_track
from bokeh_assets.assets.frames import frames
from bokeh_assets.assets.making import GROUP, making, tracked
from bokeh_assets.assets.masks import masks
from bokeh_assets.atomic import new_folder
from bokeh_assets.partitions import videos
from bokeh_assets.resources import ProgressResource, RunSettings, StoreResource
from bokeh_assets.versions import CODE_VERSION


@dg.asset(
    partitions_def=videos,
    group_name=GROUP,
    deps=[frames, masks, depth_maps, focus_track],
    kinds={"csv", "png"},
    code_version=CODE_VERSION["render_csv"],
    check_specs=checks.RENDER_CSV,
)
def render_csv(
    context: dg.AssetExecutionContext, store: StoreResource, run: RunSettings, progress: ProgressResource
) -> dg.MaterializeResult:
    """`render/render.csv` (`aif_folder,disp_folder,k`) and the disparity exactly as it will be rendered.

    The maps are hard links where a model made the depth; where `planes` made it, the subject is stood upright
    into the scene here. The CSV alone reproduces the render, with `bokeh-assets render` or any-to-bokeh itself.
    """
    from bokeh_assets.media.frames import MapFolder
    from bokeh_assets.media.timing import read_timing
    from bokeh_assets.previews import Filmstrip, coloured
    from bokeh_assets.rendering.layout import read_csv, write_layout

    with making("render_csv", context, store, run) as step:
        video = step.video
        table, _ = read_timing(video.frames_table)
        focus = pd.read_parquet(video.focus)
        maps = MapFolder(video.disparity)
        linked = [maps.file(i) for i in range(len(maps))]
        with new_folder(video.render) as folder, tracked(context, progress, len(focus)) as tell:
            write_layout(
                folder,
                _counted(step.rendered_disparity(table), tell) if step.subject_must_be_stood else linked,
                video.frames,
                focus,
                mattes_folder=video.masks,
                home=video.render,
            )
            video.unmake("render_csv")
        row = read_csv(video.render_csv)[0]
        strip = Filmstrip(len(row.frames))
        for frame in strip.frames:
            zf, k = row.focus.loc[frame, ["zf", "k"]]
            strip.add(frame, coloured(row.disparity[frame]), f"zf {zf:.2f} k {k:g}")
        fixed = row.focus["k"].nunique() == 1
        return step.finish(
            {
                **strip.metadata(),
                "k": f"{row.focus['k'].iloc[0]:g}" if fixed else "change",
                "path": dg.MetadataValue.path(video.render_csv),
            },
            frames=len(row.disparity),
            checks=[checks.layout_loads(len(row.disparity), step.frame_count, video.render_csv.name)],
            notes=["the subject is stood upright into the scene from its matte"] * step.subject_must_be_stood,
        )


def _counted(maps: Iterable[NDArray[np.float32]], tell: Callable[[int], None]) -> Iterator[NDArray[np.float32]]:
    for done, disparity in enumerate(maps, start=1):
        yield disparity
        tell(done)
