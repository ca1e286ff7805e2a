"""Whole videos: frames in, raw maps out, in order, with a memory that does not depend on the length."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bokeh_assets.depth.video_depth_anything.head import Pyramid
from bokeh_assets.depth.video_depth_anything.model import VideoDepthAnything
from bokeh_assets.depth.video_depth_anything.prefetch import read_ahead
from bokeh_assets.depth.video_depth_anything.preprocess import network_size
from bokeh_assets.depth.video_depth_anything.runner import Note, Picture, WindowRunner, resolve_precision, to_host
from bokeh_assets.depth.video_depth_anything.stitching import Stitcher, identity_fit, least_squares, robust_fit
from bokeh_assets.depth.video_depth_anything.windows import (
    FIRST_BLENDED,
    KEYFRAMES,
    cut_into_windows,
    find_anchor,
)
from bokeh_assets.errors import InputError

log = logging.getLogger(__name__)


def infer_video_depth(
    model: VideoDepthAnything,
    frames: Iterable[Picture],
    input_size: int = 518,
    precision: str = "auto",
    exact: bool = True,
    shots: Sequence[int] | None = None,
    *,
    note: Note = log.warning,
) -> Iterator[NDArray[np.float32]]:
    """Raw output of the model for every frame, in order, as soon as it is final.

    With `exact` the windows, key frames, stitching and tail padding are those of the reference implementation
    (run.py of Video-Depth-Anything), and so are the numbers, up to rounding. Without it they are better:

    * windows begin anew at every cut, so that no scene lends its scale to another;
    * scale and shift are fitted on ten frames instead of two, robustly, and guarded;
    * the anchor of a shot is its first frame with contrast, not a black or flashed one;
    * nothing is padded: the last window is as short as the frames left;
    * the fit is done at the network's size, and maps are enlarged after it.

    Frames are read in a thread of their own, up to one window ahead. On a GPU the maps of a window are handed out
    while the next one is computed. Memory, on the host and on the GPU, is that of a window or two.

    Args:
        model: on the device where it shall run. Where its weights are of another precision than asked for, a
            converted copy is made for this run.
        frames: uint8 RGB pictures (H, W, 3), all of one size.
        input_size: short side of the network's input in pixels; the models were trained at 518.
        precision: "fp32", "fp16" (CUDA only), "bf16"; "auto" is fp16 on CUDA and fp32 on the CPU.
        exact: see above.
        shots: number of the shot of every frame, rising at each cut; None is one shot. Not with `exact`.
        note: is told, in one line, when the GPU's memory ran short and smaller batches are used.

    Yields:
        float32 (H, W) per frame, >= 0: inverse depth of unknown scale (larger is nearer), or metres if the model
        is metric.

    Raises:
        InputError: frames that differ in size or are no RGB pictures; a number of shots other than that of
            frames; a precision that does not exist or not here; a GPU too small even for one frame at a time.
    """
    if exact and shots is not None:
        raise InputError("exact follows the reference, which knows no shots; give exact=False or no shots")
    batches = _final_maps(model, frames, input_size, precision, exact, shots, note, enlarge=True)
    return to_host(batches)


def infer_network_maps(
    model: VideoDepthAnything,
    frames: Iterable[Picture],
    input_size: int = 518,
    precision: str = "auto",
    shots: Sequence[int] | None = None,
    *,
    note: Note = log.warning,
) -> Iterator[Tensor]:
    """What `infer_video_depth(exact=False)` gives, left at the network's size and on the model's device.

    Yields:
        float32 (K, rows, columns), a window's worth of maps at a time. Never waits for the GPU.
    """
    return _final_maps(model, frames, input_size, precision, False, shots, note, enlarge=False)


def _final_maps(
    model: VideoDepthAnything,
    frames: Iterable[Picture],
    input_size: int,
    precision: str,
    exact: bool,
    shots: Sequence[int] | None,
    note: Note,
    enlarge: bool,
) -> Iterator[Tensor]:
    """Maps on the model's device, a window's worth at a time. Never waits for the GPU."""
    runner = WindowRunner(model, resolve_precision(precision, model.device), note)
    ahead = read_ahead(frames)
    try:
        for shot in _split_into_shots(_checked(ahead), shots):
            yield from _maps_of_shot(runner, shot, input_size, exact, enlarge)
    finally:
        ahead.close()


def _maps_of_shot(
    runner: WindowRunner, frames: Iterable[Picture], input_size: int, exact: bool, enlarge: bool
) -> Iterator[Tensor]:
    fit = identity_fit if runner.model.metric else least_squares if exact else robust_fit
    keys = KEYFRAMES
    taken_over: Pyramid | None = None
    stitcher: Stitcher | None = None
    for window in cut_into_windows(frames, pad=exact):
        if stitcher is None:
            source = (window.fresh[0].shape[0], window.fresh[0].shape[1])
            size = network_size(*source, input_size)
            anchor = 0 if exact else find_anchor(window.fresh)
            keys = (anchor, *KEYFRAMES[1:])
            stitcher = Stitcher(fit, keys[:FIRST_BLENDED] if exact else keys)
        pyramid = runner.window(window, taken_over, size)
        taken_over = None if window.last else pyramid.select(keys)
        keys = KEYFRAMES
        maps = runner.depth(pyramid, window.wanted)
        del pyramid
        if exact:
            maps = enlarged(maps, source)
        final = stitcher.add(maps, window.last)
        yield enlarged(final, source) if enlarge and not exact else final


def enlarged(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """(K, h, w) -> (K, *size), bilinear, corner pixels kept in the corners."""
    if maps.shape[-2:] == tuple(size):
        return maps
    with torch.inference_mode():
        return F.interpolate(maps.unsqueeze(1), size=tuple(size), mode="bilinear", align_corners=True).squeeze(1)


def _split_into_shots(frames: Iterable[Picture], shots: Sequence[int] | None) -> Iterator[Iterator[Picture]]:
    """The frames of one shot after another; each must be used up before the next is asked for."""
    if shots is None:
        yield iter(frames)
        return
    for _, group in itertools.groupby(_numbered(frames, shots), key=lambda pair: pair[0]):
        yield (frame for _, frame in group)


def _numbered(frames: Iterable[Picture], shots: Sequence[int]) -> Iterator[tuple[int, Picture]]:
    count = 0
    for frame in frames:
        if count == len(shots):
            raise InputError(f"shots names {len(shots)} frames, but there are more; give one number per frame")
        yield shots[count], frame
        count += 1
    if count < len(shots):
        raise InputError(f"shots names {len(shots)} frames, but there are {count}; give one number per frame")


def _checked(frames: Iterable[Picture]) -> Iterator[Picture]:
    shape: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise InputError(f"frame {number} is {frame.dtype} {frame.shape}; frames are uint8 RGB (H, W, 3)")
        if shape is None:
            shape = frame.shape
        if frame.shape != shape:
            raise InputError(
                f"frame {number} is {frame.shape[1]}x{frame.shape[0]}, the first is {shape[1]}x{shape[0]}; "
                "all must be of one size"
            )
        yield frame
