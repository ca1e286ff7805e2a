"""The thin-lens renderer: engine and contract."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from threading import Barrier, local
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bokeh_assets.devices import pick_device
from bokeh_assets.errors import InputError
from bokeh_assets.rendering.base import Progress, radius_per_disparity
from bokeh_assets.rendering.lens import Lens
from bokeh_assets.rendering.thin_lens.paths_cuda import path_of, triton_works
from bokeh_assets.rendering.thin_lens.picture import photograph_frame
from bokeh_assets.rendering.thin_lens.steady import Shot, shrunk, steadied, windows

Window: TypeAlias = tuple[Any, list[Any]]  # a frame and those around it: all `Shot`, or all `Lifted` on a GPU
IN_FLIGHT = 4  # frames rendered at a time at most: each holds some 350 bytes per pixel
IN_FLIGHT_GPU = 2  # one is computed while others are copied


class ThinLensRenderer:
    """Photographs a sharp video with a thin lens, at any resolution, on the CPU or a GPU; needs no weights.

    Args:
        lens: aperture and glass.
        device: "auto", "cpu", "cuda" or "cuda:N".
        grain: share of the source's grain put back where it was blurred away, 0..1.
        steady: frames before and after over which depth and matte are averaged where the picture stands still; 0
            takes them as they are.

    Raises:
        InputError: the device is not there.
    """

    name = "thin_lens"

    def __init__(self, lens: Lens | None = None, device: str = "auto", *, grain: float = 0.0, steady: int = 2) -> None:
        self.lens = lens or Lens()
        self.grain = grain
        self.steady = steady
        self.device = pick_device(device)
        self._queues = local()

    @property
    def how(self) -> str:
        """See `Renderer.how`."""
        return path_of(self.device)

    def render(
        self,
        frames: Iterable[NDArray[np.uint8]],
        disparity: Iterable[NDArray[np.float32]],
        mattes: Iterable[NDArray[np.float32]] | None,
        focus: pd.DataFrame,
        *,
        progress: Progress | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """See `bokeh_assets.rendering.base.Renderer`."""
        shots: Iterable[Any] = self._shots(frames, disparity, mattes, focus)
        if triton_works(self.device):
            from bokeh_assets.rendering.thin_lens.steady_cuda import lift

            shots = (lift(shot, self.device) for shot in shots)
        for index, picture in enumerate(self._pictures(windows(shots, self.steady))):
            yield picture
            if progress is not None:
                progress(index + 1)

    def _pictures(self, frames: Iterable[Window]) -> Iterator[NDArray[np.uint8]]:
        """In order; on the CPU as many at a time as there are threads, because whole frames side by side lose
        nothing to waiting for each other; on a GPU a few, so that copies and computing overlap."""
        if self.device.type == "cpu":
            workers = min(torch.get_num_threads(), IN_FLIGHT)
        else:
            workers = IN_FLIGHT_GPU
            # The first frame alone: it compiles what is then there for all.
            frames = iter(frames)
            for window in islice(frames, 1):
                yield self._photograph(window)
        if workers == 1:
            for window in frames:
                yield self._photograph(window)
            return
        waiting: deque[Future[NDArray[np.uint8]]] = deque()
        # Inside a frame torch's threads would only wait for each other. The setting holds for a thread that makes
        # it and for threads yet to come, so it is taken back as soon as all workers have made it.
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(workers, "lens", initializer=torch.set_num_threads, initargs=(1,))
        try:
            ready = Barrier(workers + 1)
            for _ in range(workers):
                pool.submit(ready.wait)
            ready.wait()
            torch.set_num_threads(threads)
            for window in frames:
                waiting.append(pool.submit(self._photograph, window))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Whoever stops listening waits for the frames begun, not for those in line.
            pool.shutdown(cancel_futures=True)

    def _photograph(self, window: Window) -> NDArray[np.uint8]:
        """One frame, steadied by those around it, through the lens."""
        middle, others = window
        if isinstance(middle, Shot):
            shot = steadied(middle, others) if others else middle
            with self._queue():
                return self.picture(shot.frame, shot.depth, shot.matte, shot.zf, shot.k)
        from bokeh_assets.rendering.thin_lens.steady_cuda import steadied_cuda

        if radius_per_disparity(middle.k, middle.source.shape[1]) == 0:
            return middle.source
        with self._queue():
            middle.keep()
            depth, matte = steadied_cuda(middle, others) if others else (middle.depth, middle.matte)
            picture = photograph_frame(middle.frame, depth, matte, middle.zf, middle.k, self.lens, self.grain)
            return picture.cpu().numpy()

    def _queue(self) -> AbstractContextManager[Any]:
        """A queue of the GPU's for every thread, so that none waits for what another has begun."""
        if self.device.type == "cpu":
            return nullcontext()
        queue = getattr(self._queues, "queue", None)
        if queue is None:
            queue = self._queues.queue = torch.cuda.Stream(self.device)
        return torch.cuda.stream(queue)

    def _shots(
        self,
        frames: Iterable[NDArray[np.uint8]],
        disparity: Iterable[NDArray[np.float32]],
        mattes: Iterable[NDArray[np.float32]] | None,
        focus: pd.DataFrame,
    ) -> Iterator[Shot]:
        """Frame by frame all that belongs to it."""
        rows = focus.sort_values("frame")
        numbers = rows["shot"].to_numpy(int) if "shot" in rows else np.zeros(len(rows), int)
        settings = zip(numbers, rows["zf"].to_numpy(float), rows["k"].to_numpy(float), strict=True)
        depths = iter(disparity)
        subjects = None if mattes is None else iter(mattes)
        for index, frame in enumerate(frames):
            depth, setting = next(depths, None), next(settings, None)
            subject = None if subjects is None else next(subjects, None)
            if depth is None or setting is None or (subjects is not None and subject is None):
                raise InputError(f"frame {index} has no disparity, matte or focus; give one of each per frame")
            if depth.shape != frame.shape[:2]:
                raise InputError(
                    f"frame {index}: the disparity is {depth.shape}, the frame {frame.shape[:2]}; make them one size"
                )
            if subject is not None and subject.shape != frame.shape[:2]:
                raise InputError(
                    f"frame {index}: the matte is {subject.shape}, the frame {frame.shape[:2]}; make them one size"
                )
            yield Shot(frame, shrunk(frame), depth, subject, *setting)

    def picture(
        self,
        frame: NDArray[np.uint8],
        depth: NDArray[np.float32],
        matte: NDArray[np.float32] | None,
        zf: float,
        k: float,
    ) -> NDArray[np.uint8]:
        """One frame, uint8 (H, W, 3), through the lens."""
        if radius_per_disparity(k, frame.shape[1]) == 0:
            return frame
        tensors = [
            None if part is None else torch.from_numpy(np.ascontiguousarray(part)).to(self.device)
            for part in (frame, depth, matte)
        ]
        sharp, near, subject = tensors
        assert sharp is not None and near is not None
        subject = None if subject is None else subject.float()
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            result = photograph_frame(sharp, near.float(), subject, zf, k, self.lens, self.grain)
            return result.cpu().numpy()
