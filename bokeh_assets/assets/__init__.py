"""The assets, in the order in which a video passes through them."""

from bokeh_assets.assets.bokeh_video import bokeh_video
from bokeh_assets.assets.depth_maps import depth_maps
from bokeh_assets.assets.focus_track import focus_track
from bokeh_assets.assets.frames import frames
from bokeh_assets.assets.masks import masks
from bokeh_assets.assets.render_csv import render_csv
from bokeh_assets.assets.upload import upload

ALL = [upload, frames, masks, depth_maps, focus_track, render_csv, bokeh_video]

__all__ = ["ALL", "bokeh_video", "depth_maps", "focus_track", "frames", "masks", "render_csv", "upload"]
