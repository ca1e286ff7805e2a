"""depth_maps: how near everything is, in every frame."""

import dagster as dg
import numpy as np

from bokeh_assets import checks
from bokeh_assets.assets.frames import frames
from bokeh_assets.assets.making import CUDA, GROUP, making, tracked
from bokeh_assets.atomic import new_folder
from bokeh_assets.engines import pick_depth
from bokeh_assets.partitions import videos
from bokeh_assets.resources import ProgressResource, RunSettings, StoreResource
from bokeh_assets.versions import CODE_VERSION


@dg.asset(
    partitions_def=videos,
    group_name=GROUP,
    deps=[frames],
    kinds={"pytorch", "cuda", "png"},
    code_version=CODE_VERSION["depth_maps"],
    check_specs=checks.DEPTH_MAPS,
    **CUDA,
)
def depth_maps(
    context: dg.AssetExecutionContext, store: StoreResource, run: RunSettings, progress: ProgressResource
) -> dg.MaterializeResult:
    """An 8-bit disparity map per frame: 255 is nearest, one scale per shot.

    Made by Video-Depth-Anything where its checkpoint is, else by `planes`, which sees the scene alone: there the
    subject is stood into the scene when `render_csv` is made.
    """
    from bokeh_assets.media.frames import FrameFolder, write_picture
    from bokeh_assets.media.timing import read_timing
    from bokeh_assets.previews import Filmstrip, coloured

    with making("depth_maps", context, store, run) as step:
        video = step.video
        pictures = FrameFolder(video.frames)
        shots = read_timing(video.frames_table)[0]["shot"].to_list()
        engine = pick_depth(step.settings, step.device)
        strip = Filmstrip(len(pictures))
        spread: list[float] = []
        with new_folder(video.disparity) as folder, tracked(context, progress, len(pictures)) as tell:
            for i, disparity in enumerate(engine.build().estimate(pictures, shots, progress=tell)):
                write_picture(folder / f"{i:05d}.png", np.rint(disparity * 255).astype(np.uint8))
                low, high = np.percentile(disparity[::8, ::8], (5, 95))
                spread.append(float(high - low))
                if strip.wants(i):
                    strip.add(i, coloured(disparity))
            video.unmake("depth_maps")
        return step.finish(
            {
                **strip.metadata(),
                "disparity spread": round(float(np.median(spread)), 4),
                "shots": max(shots) + 1,
                "path": dg.MetadataValue.path(video.disparity),
            },
            frames=len(spread),
            engine=engine,
            checks=[
                checks.count_matches("one_map_per_frame", len(spread), len(pictures)),
                checks.disparity_not_flat(spread),
            ],
        )
