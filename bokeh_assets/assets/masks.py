"""masks: a soft matte of the subject for every frame."""

import tempfile
from pathlib import Path

import dagster as dg
import numpy as np

from bokeh_assets import checks
from bokeh_assets.assets.frames import frames
from bokeh_assets.assets.making import CUDA, GROUP, making, tracked
from bokeh_assets.atomic import new_folder
from bokeh_assets.engines import pick_segmenter
from bokeh_assets.partitions import videos
from bokeh_assets.resources import ProgressResource, RunSettings, StoreResource
from bokeh_assets.versions import CODE_VERSION


@dg.asset(
    partitions_def=videos,
    group_name=GROUP,
    deps=[frames],
    kinds={"pytorch", "cuda", "png"},
    code_version=CODE_VERSION["masks"],
    check_specs=checks.MASKS,
    **CUDA,
)
def masks(
    context: dg.AssetExecutionContext, store: StoreResource, run: RunSettings, progress: ProgressResource
) -> dg.MaterializeResult:
    """An 8-bit matte of the subject per frame: 255 is subject, 0 is not, edges are in between.

    The subject is what the settings prompt for; without a prompt one is chosen and shown. Made by SAM 2.1 where
    its checkpoint is, else by the classical segmenter.
    """
    from bokeh_assets.media.confined import plain_masks
    from bokeh_assets.media.frames import FrameFolder, write_picture
    from bokeh_assets.media.timing import read_timing
    from bokeh_assets.previews import Filmstrip, tinted
    from bokeh_assets.segmentation.classical import choose_subject
    from bokeh_assets.segmentation.refine import refined

    with making("masks", context, store, run) as step, tempfile.TemporaryDirectory(prefix="bokeh-masks-") as scratch:
        video = step.video
        pictures = FrameFolder(video.frames)
        notes = []
        prompts = step.settings.subject
        if not prompts:
            chosen, reason = choose_subject(pictures)
            prompts = (chosen,)
            notes.append(f"no subject was given: {reason} (frame {chosen.frame}, box {chosen.box})")
        for prompt in prompts:
            prompt.check(len(pictures), *pictures.size)
        # The engines get pictures that were decoded in confinement: others may have uploaded them.
        masked = [prompt for prompt in prompts if prompt.mask is not None]
        plain = iter(plain_masks([prompt.mask for prompt in masked if prompt.mask], Path(scratch)))
        prompts = tuple(p.model_copy(update={"mask": next(plain)}) if p.mask is not None else p for p in prompts)

        engine = pick_segmenter(step.settings, step.device)
        statistics = checks.MaskStatistics()
        strip = Filmstrip(len(pictures), extra=[prompt.frame for prompt in prompts][:4])
        with new_folder(video.masks) as folder, tracked(context, progress, len(pictures)) as tell:
            for i, matte in enumerate(engine.build().segment(pictures, prompts, progress=tell)):
                if step.settings.refine_edges:
                    matte = refined(pictures[i], matte)
                write_picture(folder / f"{i:05d}.png", np.rint(matte * 255).astype(np.uint8))
                statistics.add(matte)
                if strip.wants(i):
                    strip.add(i, tinted(pictures[i], matte))
            video.unmake("masks")

        if statistics.empty:
            notes.append(f"the subject is not in the picture in frames {checks.ranges(statistics.empty)}")
        shots = read_timing(video.frames_table)[0]["shot"].to_list()
        return step.finish(
            {
                **strip.metadata(),
                "subject area": round(float(np.mean(statistics.area)), 4),
                "frames without subject": len(statistics.empty),
                "path": dg.MetadataValue.path(video.masks),
            },
            frames=len(statistics.area),
            engine=engine,
            checks=statistics.results(shots, len(pictures)),
            notes=notes,
        )
