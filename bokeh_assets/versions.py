"""What an output was made from, as one short version, so that only what changed is made again.

The version of an asset is a hash of its code version, of the settings and the engine that shape it, and of the
versions of the assets it reads. It is Dagster's data version, stands in the record beside the output, and lets
`bokeh-assets run` skip what is up to date.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bokeh_assets import engines

if TYPE_CHECKING:
    from bokeh_assets.settings import VideoSettings
    from bokeh_assets.store import VideoFolder

READS: dict[str, tuple[str, ...]] = {
    "frames": (),
    "masks": ("frames",),
    "depth_maps": ("frames",),
    "focus_track": ("frames", "masks", "depth_maps"),
    "render_csv": ("frames", "masks", "depth_maps", "focus_track"),
    "bokeh_video": ("frames", "render_csv"),
}
"""Every asset in the order of making, with the assets it reads."""

CODE_VERSION = dict.fromkeys(READS, "1")
"""Raised by one when the code of an asset makes other outputs from the same inputs."""


def shaping(asset: str, settings: VideoSettings, device: str = "auto") -> dict[str, Any]:
    """The part of the settings that shapes the output of `asset`, with `auto` resolved to an engine.

    Raises:
        InputError: an engine named outright cannot run here.
    """
    plain = settings.model_dump(mode="json")
    if asset == "frames":
        return {"frames": plain["frames"]}
    if asset == "masks":
        engine = engines.pick_segmenter(settings, device).name
        return {"subject": plain["subject"], "engine": engine, "refine_edges": plain["refine_edges"]}
    if asset == "depth_maps":
        return {"engine": engines.pick_depth(settings, device).name}
    if asset == "focus_track":
        return {"focus": plain["focus"], "blur": plain["blur"]}
    if asset == "render_csv":
        return {}
    if asset == "bokeh_video":
        engine = engines.pick_renderer(settings, device).name
        return {"engine": engine, "lens": plain["lens"], "output": plain["output"]}
    raise KeyError(asset)


def version(asset: str, shape: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """16 hex digits that change when the code version, the shaping settings or an input's version change."""
    told = json.dumps([asset, CODE_VERSION[asset], shape, sorted(inputs.items())], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def out_of_date(video: VideoFolder, settings: VideoSettings, device: str = "auto") -> list[str]:
    """The assets of a video that must be made (again) for these settings, in order of making.

    What was cleaned away is made again only where something that must be made reads it.
    """
    current: dict[str, str] = {}
    for asset, reads in READS.items():
        made = video.made(asset)
        if made is not None and not video.stands(asset, made):
            continue
        made = made or video.cleaned(asset)
        if made is None or not all(name in current for name in reads):
            continue
        inputs = {name: current[name] for name in reads} or {"source": made["inputs"]["source"]}
        if made["version"] == version(asset, shaping(asset, settings, device), inputs):
            current[asset] = made["version"]
    stale = {asset for asset in READS if asset not in current}
    for asset in reversed(READS):
        if asset in stale:
            stale.update(name for name in READS[asset] if video.made(name) is None)
    return [asset for asset in READS if asset in stale]
