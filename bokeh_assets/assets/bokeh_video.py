"""bokeh_video: the result."""

import dagster as dg

from bokeh_assets import checks
from bokeh_assets.assets.frames import frames
from bokeh_assets.assets.making import CUDA, GROUP, making, tracked
from bokeh_assets.assets.render_csv import render_csv
from bokeh_assets.atomic import new_file
from bokeh_assets.engines import pick_renderer
from bokeh_assets.partitions import videos
from bokeh_assets.resources import ProgressResource, RunSettings, StoreResource
from bokeh_assets.versions import CODE_VERSION


@dg.asset(
    partitions_def=videos,
    group_name=GROUP,
    deps=[frames, render_csv],
    kinds={"pytorch", "cuda", "mp4"},
    code_version=CODE_VERSION["bokeh_video"],
    check_specs=checks.BOKEH_VIDEO,
    **CUDA,
)
def bokeh_video(
    context: dg.AssetExecutionContext, store: StoreResource, run: RunSettings, progress: ProgressResource
) -> dg.MaterializeResult:
    """`bokeh.mp4`: the video with its background out of focus, and with the source's timing, size and sound.

    Rendered by any-to-bokeh where an NVIDIA GPU and its checkpoints are, else by the thin-lens renderer.
    """
    from bokeh_assets.assets.watching import Watcher
    from bokeh_assets.media.confined import encode, probe, read_presentation
    from bokeh_assets.media.timing import read_timing
    from bokeh_assets.rendering.layout import read_csv

    with making("bokeh_video", context, store, run) as step:
        video, settings = step.video, step.settings
        row = read_csv(video.render_csv)[0]
        table, _ = read_timing(video.frames_table)
        engine = pick_renderer(settings, step.device)
        watcher = Watcher(row)
        with new_file(video.bokeh) as path, tracked(context, progress, len(table)) as tell:
            renderer = engine.build()
            rendered = renderer.render(row.frames, row.disparity, row.mattes, row.focus, progress=tell)
            report = encode(
                watcher.watch(rendered),
                path,
                timing=table,
                source=video.source,
                codec=settings.output.codec,
                quality=settings.output.quality,
            )
            video.unmake("bokeh_video")

        made = read_presentation(video.bokeh)
        sound_track = "; ".join(report.audio) or "none"
        sound = len(probe(video.source).audio) if video.source else 0
        return step.finish(
            {
                **watcher.strip.metadata(),
                "sharpness of the subject": watcher.sharpness,
                "width": row.frames.size[0],
                "height": row.frames.size[1],
                "duration": round(made.end, 4),
                "megabytes": round(video.bokeh.stat().st_size / 1e6, 3),
                "audio": sound_track,
                "rendered with": renderer.how,
                "codec": settings.output.codec,
                "path": dg.MetadataValue.path(video.bokeh),
            },
            frames=len(made.seconds),
            engine=engine,
            checks=[
                checks.timing_kept(
                    made.seconds,
                    (table["seconds"] - table["seconds"].iloc[0]).to_list(),
                    made.end,
                    float(table["seconds"].iloc[-1] + table["duration"].iloc[-1] - table["seconds"].iloc[0]),
                ),
                checks.audio_kept(len(probe(video.bokeh).audio), sound, sound_track),
                watcher.subject_sharp(),
            ],
            notes=report.notes,
        )
