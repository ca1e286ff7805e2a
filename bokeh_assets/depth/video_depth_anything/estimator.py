"""The engine behind `depth_maps`: Video-Depth-Anything as a `DepthEstimator`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray

from bokeh_assets.depth.base import Progress
from bokeh_assets.depth.video_depth_anything.inference import infer_network_maps
from bokeh_assets.depth.video_depth_anything.loading import load_video_depth_anything
from bokeh_assets.depth.video_depth_anything.model import VideoDepthAnything
from bokeh_assets.depth.video_depth_anything.prefetch import FrameSpan, read_ahead
from bokeh_assets.depth.video_depth_anything.runner import Picture, resolve_precision, to_host
from bokeh_assets.depth.video_depth_anything.upsampling import upsample_to_picture
from bokeh_assets.devices import pick_device
from bokeh_assets.errors import InputError
from bokeh_assets.media.frames import spooled

log = logging.getLogger(__name__)

NEAREST_METRES = 0.05  # what is nearer counts as this near, so that a depth of 0 stays a number
LOW, HIGH = 0.01, 0.99  # share of the pixels of one frame beyond its own limits
ODD_FRAMES = 0.02  # share of the frames of a shot, at either end, that do not set its limits


class VideoDepthAnythingEstimator:
    """Disparity in 0..1, one scale per shot, from Video-Depth-Anything.

    Two passes over each shot: the first runs the network and spools its maps to a temporary file (float16, at
    the network's size, 1 MB per frame of 16:9 video; gone when the shot is done) and collects the limits; the
    second reads them back, brings them to 0..1 and up to the picture's size along the picture's edges. So the
    limits of a shot are known before its first map is given.

    Args:
        checkpoint: an official checkpoint, see `load_video_depth_anything`; or a model, used as it is.
        device: "auto", "cpu", "cuda", ….
        precision: see `infer_video_depth`.
        input_size: short side of the network's input, pixels; the models were trained at 518.
        metric: see `load_video_depth_anything`.
        spool_folder: where the temporary file lies; default where temporary files lie.

    Attributes:
        name: "video_depth_anything_vits" and the like, with "metric_" before it for metric models.
        notes: what the user should know of the last run, one line each (memory that ran short).

    Raises:
        InputError: as `load_video_depth_anything` and `pick_device`.
    """

    def __init__(
        self,
        checkpoint: Path | VideoDepthAnything,
        device: str = "auto",
        *,
        precision: str = "auto",
        input_size: int = 518,
        metric: bool | None = None,
        spool_folder: Path | None = None,
    ) -> None:
        place = pick_device(device)
        dtype = resolve_precision(precision, place)
        if isinstance(checkpoint, VideoDepthAnything):
            self.model = checkpoint.to(place)
        else:
            self.model = load_video_depth_anything(checkpoint, place, precision=dtype, metric=metric)
        self.name = f"{'metric_' if self.model.metric else ''}video_depth_anything_{self.model.encoder}"
        self.notes: list[str] = []
        self._precision = precision
        self._input_size = input_size
        self._spool_folder = spool_folder

    def estimate(
        self, frames: Iterable[Picture], shots: Sequence[int], *, progress: Progress | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """See `DepthEstimator.estimate`."""
        self.notes = []
        done = 0
        with spooled(frames, folder=self._spool_folder) as video:
            if len(shots) != len(video):
                raise InputError(f"shots names {len(shots)} frames, but there are {len(video)}; give one per frame")
            for span in _spans(shots):
                for disparity in to_host(self._shot(FrameSpan(video, span))):
                    done += 1
                    if progress is not None:
                        progress(done)
                    yield disparity

    def _shot(self, frames: FrameSpan) -> Iterator[torch.Tensor]:
        """Maps (1, H, W) of one shot, on the model's device."""
        device = self.model.device
        with tempfile.TemporaryFile(dir=self._spool_folder, prefix="bokeh_depth_") as file:
            spool = _MapSpool(file)
            limits = _Limits()
            for raw in infer_network_maps(self.model, frames, self._input_size, self._precision, note=self._take_note):
                near = np.reciprocal(np.maximum(raw, np.float32(NEAREST_METRES))) if self.model.metric else raw
                limits.add(near)
                spool.write(near)
            low, high = limits.settle()
            ahead = read_ahead(frames)
            try:
                for raw, frame in zip(spool.read(), ahead, strict=True):
                    disparity = torch.from_numpy(normalised(raw, low, high)).to(device)
                    yield upsample_to_picture(disparity, torch.from_numpy(frame).to(device)).unsqueeze(0)
            finally:
                ahead.close()

    def _take_note(self, line: str) -> None:
        log.warning(line)
        self.notes.append(line)


def normalised(disparity: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """`low` to 0, `high` to 1, clipped; 0.5 everywhere if there is nothing between them."""
    if high - low <= 1e-6 * abs(high):
        return np.full_like(disparity, 0.5)
    return np.clip((disparity - np.float32(low)) / np.float32(high - low), 0, 1)


class _Limits:
    """Robust limits of a shot, from two numbers per frame.

    Each frame gives the values that all but 1 % of its pixels exceed or stay under. The shot's limits are the
    extremes of these over its frames, but for 2 % of the frames at either end: what is seen for a while is within
    the scale, a few odd frames do not stretch it.
    """

    def __init__(self) -> None:
        self._low: list[float] = []
        self._high: list[float] = []

    def add(self, disparity: NDArray[np.float32]) -> None:
        # A fixed subset of the pixels: a few thousand tell these quantiles to well under 1 % of the range.
        step = max(1, round((disparity.size / 30000) ** 0.5))
        low, high = np.quantile(disparity[::step, ::step], (LOW, HIGH))
        self._low.append(float(low))
        self._high.append(float(high))

    def settle(self) -> tuple[float, float]:
        low = np.quantile(self._low, ODD_FRAMES, method="lower")
        high = np.quantile(self._high, 1 - ODD_FRAMES, method="higher")
        return float(low), float(high)


class _MapSpool:
    """Maps in a file, as float16 multiples of the first map's largest value (11 bits each, where 8 are needed)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._shape: tuple[int, ...] = ()
        self._unit = np.float32(0)
        self._count = 0

    def write(self, values: NDArray[np.float32]) -> None:
        if not self._unit:
            self._shape = values.shape
            self._unit = max(values.max(), np.float32(1e-12))
        largest = np.finfo(np.float16).max
        self._file.write(np.clip(values / self._unit, -largest, largest).astype(np.float16).tobytes())
        self._count += 1

    def read(self) -> Iterator[NDArray[np.float32]]:
        self._file.flush()
        self._file.seek(0)
        stored = np.empty(self._shape, np.float16)
        for _ in range(self._count):
            if self._file.readinto(stored.data) != stored.nbytes:  # type: ignore[attr-defined]
                raise OSError("the temporary file of depth maps was cut short")
            yield stored.astype(np.float32) * self._unit


def _spans(shots: Sequence[int]) -> Iterator[range]:
    """Frame numbers of one shot after another."""
    start = 0
    for end in range(1, len(shots) + 1):
        if end == len(shots) or shots[end] != shots[start]:
            yield range(start, end)
            start = end
