"""focus_track: the focus plane and the blur strength of every frame."""

import dagster as dg

from bokeh_assets import checks
from bokeh_assets.assets.depth_maps import depth_maps
from bokeh_assets.assets.frames import frames
from bokeh_assets.assets.making import GROUP, making, tracked
from bokeh_assets.assets.masks import masks
from bokeh_assets.atomic import new_file
from bokeh_assets.partitions import videos
from bokeh_assets.resources import ProgressResource, RunSettings, StoreResource
from bokeh_assets.versions import CODE_VERSION


@dg.asset(
    partitions_def=videos,
    group_name=GROUP,
    deps=[frames, masks, depth_maps],
    kinds={"pandas", "parquet"},
    code_version=CODE_VERSION["focus_track"],
    check_specs=checks.FOCUS_TRACK,
)
def focus_track(
    context: dg.AssetExecutionContext, store: StoreResource, run: RunSettings, progress: ProgressResource
) -> dg.MaterializeResult:
    """One row per frame: `zf`, the disparity of the focus plane (0..1), and `k`, the blur strength.

    Follows the subject, stays on a fixed disparity, or moves by keyframes, as the settings say. Cheap: changing
    the focus or the blur makes this and what follows again, never masks or depth.
    """
    from bokeh_assets.focus import track_focus
    from bokeh_assets.media.frames import MapFolder
    from bokeh_assets.media.timing import read_timing
    from bokeh_assets.previews import curves, sparkline

    with making("focus_track", context, store, run) as step:
        video, settings = step.video, step.settings
        table, _ = read_timing(video.frames_table)
        shots = table["shot"].to_list()
        mattes = MapFolder(video.masks)
        disparity = step.rendered_disparity(table)
        with tracked(context, progress, len(table)) as tell:
            focus = track_focus(
                disparity, mattes, table["seconds"].to_list(), shots, settings.focus, settings.blur, progress=tell
            )
        with new_file(video.focus) as path:
            focus.to_parquet(path, index=False)
            video.unmake("focus_track")
        top = float(max(focus["k"].max(), 1.0))
        return step.finish(
            {
                "preview": curves(
                    table["seconds"].to_numpy(),
                    {"focus": (focus["zf"].to_numpy(), 1.0), "k": (focus["k"].to_numpy(), top)},
                ),
                "focus over time": sparkline(focus["zf"].to_numpy(), 1.0),
                "k over time": sparkline(focus["k"].to_numpy(), top),
                "mean focus": round(float(focus["zf"].mean()), 4),
                "mean k": round(float(focus["k"].mean()), 3),
                "path": dg.MetadataValue.path(video.focus),
            },
            frames=len(focus),
            checks=[checks.focus_steady(focus)],
            notes=focus.attrs.get("notes", ()),
        )
