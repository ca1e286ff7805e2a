"""frames: the upload copied, decoded upright and numbered, with the time of every frame."""

import os

import dagster as dg

from bokeh_assets import checks
from bokeh_assets.assets.making import GROUP, making, tracked
from bokeh_assets.assets.upload import upload
from bokeh_assets.atomic import new_file, new_folder
from bokeh_assets.partitions import videos
from bokeh_assets.previews import Filmstrip
from bokeh_assets.resources import ProgressResource, RunSettings, StoreResource
from bokeh_assets.versions import CODE_VERSION


@dg.asset(
    partitions_def=videos,
    group_name=GROUP,
    deps=[upload],
    kinds={"ffmpeg", "png"},
    code_version=CODE_VERSION["frames"],
    check_specs=checks.FRAMES,
)
def frames(
    context: dg.AssetExecutionContext, store: StoreResource, run: RunSettings, progress: ProgressResource
) -> dg.MaterializeResult:
    """Every frame of the video as an upright, square-pixel RGB picture, with `frames.parquet` beside the folder.

    Timestamps are kept (variable frame rates too), rotation is resolved, HDR is tone-mapped with a note, and
    cuts are found. The full SHA-256 of the source is taken here.
    """
    from bokeh_assets.media.confined import extract_frames, probe
    from bokeh_assets.media.extract import TIMING
    from bokeh_assets.media.frames import FrameFolder
    from bokeh_assets.media.timing import read_timing

    with making("frames", context, store, run) as step:
        video, form = step.video, step.settings.frames.format
        with video.adopting() as source:
            info = probe(source)
            # What the file claims, as far as its size can hold it: a rate of 1000 often only means "it varies".
            claimed = info.frames or round((info.duration or 0) * info.fps)
            count = max(1, min(claimed, source.stat().st_size // 8))
            pixels = info.width * info.height
            # Frames, and what is made of them; no file takes less than a block, and there are four of each frame.
            per_frame = pixels * (2.2 if form == "png" else 0.6) + 0.6 * pixels + 4 * 4096
            step.need_space(count * per_frame, f"the work on {count} frames")
            with new_folder(video.frames) as folder, tracked(context, progress, count) as tell:

                def told(done: int) -> None:
                    tell(done)
                    if done > count:  # the file has more frames than it says
                        step.need_space(per_frame * max(done, 1000), f"the work on more than {done} frames")

                report = extract_frames(source, folder, format=form, progress=told)
                video.unmake("frames")
                # Beside the pictures, not among them: SAM 2's and any-to-bokeh's loaders read every file there.
                with new_file(video.frames_table) as path:
                    os.replace(folder / TIMING, path)

        pictures = FrameFolder(video.frames)
        strip = Filmstrip(len(pictures))
        for frame in strip.frames:
            strip.add(frame, pictures[frame])
        table, _ = read_timing(video.frames_table)
        return step.finish(
            {
                **strip.metadata(),
                "width": report.width,
                "height": report.height,
                "frames per second": round(report.fps, 4),
                "duration": round(report.duration, 4),
                "shots": report.shots,
                "audio": ", ".join(stream.codec for stream in report.info.audio) or "none",
                "codec": f"{report.info.codec} {report.info.pix_fmt}",
                "sha256": report.sha256,
                "path": dg.MetadataValue.path(video.frames),
                "source": dg.MetadataValue.path(video.source or source),
            },
            frames=len(pictures),
            source=report.sha256,
            checks=[checks.every_frame_in_order(table, len(pictures))],
            notes=[*report.notes, *report.warnings],
            kept={"sha256": report.sha256, "width": report.width, "height": report.height},
        )
