"""The engine behind `depth_maps`: Video-Depth-Anything as a `DepthEstimator`."""

from __future__ import annotations

import itertools
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
from bokeh_assets.depth.video_depth_anything.runner import Picture, resolve_precision, to_device, to_host
from bokeh_assets.depth.video_depth_anything.upsampling import upsample_to_pictures
from bokeh_assets.devices import pick_device
from bokeh_assets.errors import InputError
from bokeh_assets.media.frames import spooled

log = logging.getLogger(__name__)

NEAREST_METRES = 0.05  # what is nearer counts as this near, so that a depth of 0 stays a number
LOW, HIGH = 0.01, 0.99  # share of the pixels of one frame beyond its own limits
ODD_FRAMES = 0.02  # share of the frames of a shot, at either end, that do not set its limits
PIXELS_AT_ONCE = 1 << 22  # pixels of pictures whose maps are made at a time: eight of 960x540, one of 4K


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
        """Maps (K, H, W) of one shot, some at a time, on the model's device."""
        device = self.model.device
        with tempfile.TemporaryFile(dir=self._spool_folder, prefix="bokeh_depth_") as file:
            spool = _MapSpool(file)
            limits = _Limits()
            for stored in to_host(map(spool.packed, self._first_pass(frames, limits))):
                spool.write(stored)
            low, high = limits.settle()
            spool.rewind()
            height, width, _ = frames[0].shape
            at_once = max(1, PIXELS_AT_ONCE // (height * width))
            ahead = read_ahead(frames)
            try:
                while part := list(itertools.islice(ahead, at_once)):
                    maps = spool.unpacked(to_device(spool.read(len(part)), device))
                    yield upsample_to_pictures(normalised(maps, low, high), to_device(np.stack(part), device))
            finally:
                ahead.close()

    def _first_pass(self, frames: FrameSpan, limits: _Limits) -> Iterator[torch.Tensor]:
        """Disparity without a scale, larger nearer, at the network's size: (K, rows, columns) at a time."""
        for raw in infer_network_maps(self.model, frames, self._input_size, self._precision, note=self._take_note):
            near = 1 / raw.clamp(min=NEAREST_METRES) if self.model.metric else raw
            limits.add(near)
            yield near

    def _take_note(self, line: str) -> None:
        log.warning(line)
        self.notes.append(line)


def normalised(disparity: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """`low` to 0, `high` to 1, clipped; 0.5 everywhere if there is nothing between them."""
    if high - low <= 1e-6 * abs(high):
        return torch.full_like(disparity, 0.5)
    return ((disparity - low) / (high - low)).clamp(0, 1)


class _Limits:
    """Robust limits of a shot, from two numbers per frame.

    Each frame gives the values that all but 1 % of its pixels exceed or stay under. The shot's limits are the
    extremes of these over its frames, but for 2 % of the frames at either end: what is seen for a while is within
    the scale, a few odd frames do not stretch it.
    """

    def __init__(self) -> None:
        self._found: list[torch.Tensor] = []

    def add(self, maps: torch.Tensor) -> None:
        """(K, rows, columns); does not wait for a GPU."""
        # A fixed subset of the pixels: a few thousand tell these quantiles to well under 1 % of the range.
        step = max(1, round((maps[0].numel() / 30000) ** 0.5))
        shares = torch.tensor([LOW, HIGH], dtype=maps.dtype, device=maps.device)
        self._found.append(torch.quantile(maps[:, ::step, ::step].flatten(1), shares, dim=1))

    def settle(self) -> tuple[float, float]:
        lows, highs = torch.cat(self._found, dim=1).cpu().numpy()
        low = np.quantile(lows, ODD_FRAMES, method="lower")
        high = np.quantile(highs, 1 - ODD_FRAMES, method="higher")
        return float(low), float(high)


class _MapSpool:
    """Maps in a file, as float16: differences from the least value of the first window, in units of its range.

    So 11 bits, where 8 are needed, tell differences of depth also in a shot that has no far ground. A first window
    that is flat does no harm, as float16 keeps its 11 bits over nine orders of magnitude.

    Packing and unpacking are done where the maps are, which on a GPU halves what is copied.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._shape: tuple[int, ...] = ()
        self._least = self._unit = torch.empty(0)

    def packed(self, maps: torch.Tensor) -> torch.Tensor:
        if not self._shape:
            self._shape = tuple(maps.shape[1:])
            self._least, largest = torch.aminmax(maps)
            self._unit = torch.maximum(largest - self._least, 1e-3 * largest).clamp(min=1e-12)
        bound = torch.finfo(torch.float16).max
        return ((maps - self._least) / self._unit).clamp(-bound, bound).half()

    def unpacked(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.float() * self._unit + self._least

    def write(self, stored: NDArray[np.float16]) -> None:
        self._file.write(stored.data)

    def rewind(self) -> None:
        self._file.flush()
        self._file.seek(0)

    def read(self, count: int) -> NDArray[np.float16]:
        """The next maps (count, rows, columns)."""
        stored = np.empty((count, *self._shape), np.float16)
        if self._file.readinto(stored.data) != stored.nbytes:  # type: ignore[attr-defined]
            raise OSError("the temporary file of depth maps was cut short")
        return stored


def _spans(shots: Sequence[int]) -> Iterator[range]:
    """Frame numbers of one shot after another."""
    start = 0
    for end in range(1, len(shots) + 1):
        if end == len(shots) or shots[end] != shots[start]:
            yield range(start, end)
            start = end
