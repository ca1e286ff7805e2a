"""Image features ahead of time: frames are fetched on a thread, encoded in batches on a CUDA stream of their own."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from bokeh_assets.devices import stream_for
from bokeh_assets.media.frames import FrameFolder, Frames
from bokeh_assets.segmentation.sam2.pictures import Resizer
from bokeh_assets.segmentation.sam2.tracker import Features

Frame = NDArray[np.uint8]
Numbered = tuple[int, Frame]
Raw = tuple[list[int], Tensor]
QUEUED = 3  # batches of raw frames waiting at most
READERS = 4  # threads that decode pictures of a folder


def in_order(frames: Frames, numbers: Iterable[int]) -> Iterator[Numbered]:
    """Frames by number; those of a folder are decoded by several threads, a few ahead."""
    if not isinstance(frames, FrameFolder):
        yield from ((t, frames[t]) for t in numbers)
        return
    with ThreadPoolExecutor(READERS, thread_name_prefix="sam2-reader") as pool:
        coming: deque[tuple[int, Future[Frame]]] = deque()
        try:
            for t in numbers:
                coming.append((t, pool.submit(frames.__getitem__, t)))
                if len(coming) > 2 * READERS:
                    number, future = coming.popleft()
                    yield number, future.result()
            while coming:
                number, future = coming.popleft()
                yield number, future.result()
        finally:
            for _, future in coming:
                future.cancel()


class Encoder:
    """Encodes numbered frames in their given order.

    Args:
        batch: frames encoded at once; 1 on the CPU.
        graphs: replay the encoder as one CUDA graph.
    """

    def __init__(
        self, network: SAM2Base, height: int, width: int, *, batch: int, graphs: bool, half: torch.dtype | None
    ) -> None:
        self._net = network
        self._device = network.device
        self._cuda = self._device.type == "cuda"
        self._batch = batch
        self._half = half
        self._resize = Resizer(height, width, network.image_size, self._device)
        self._size = height, width
        self._stream = stream_for("sam2 encoder", self._device) if self._cuda else None
        self._frames: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out: list[Tensor] = []
        if graphs and self._cuda:
            self._record()

    def one(self, frame: Frame) -> tuple[Features, Tensor]:
        """Features of a single frame, and the positions of its top features."""
        frames = torch.from_numpy(np.ascontiguousarray(frame))[None].to(self._device)
        maps, position = self._encode(frames)
        return Features(*maps), position

    def run(self, frames: Iterable[Numbered]) -> Iterator[list[tuple[int, Features]]]:
        """Batches of features; on CUDA the next batch is already on its way when one is handed out."""
        with _Fetched(frames, self._batch, self._size, pinned=self._cuda) as batches:
            if not self._cuda:
                for numbers, pictures in batches:
                    maps, _ = self._encode(pictures[: len(numbers)])
                    yield _split(numbers, maps)
                return
            assert self._stream is not None
            ahead: tuple[list[int], list[Tensor], torch.cuda.Event] | None = None
            for numbers, pictures in batches:
                following = self._launch(numbers, pictures)
                if ahead is not None:
                    yield self._received(*ahead)
                ahead = following
            if ahead is not None:
                yield self._received(*ahead)

    def _launch(self, numbers: list[int], pictures: Tensor) -> tuple[list[int], list[Tensor], torch.cuda.Event]:
        assert self._stream is not None
        main = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            if self._graph is not None:
                assert self._frames is not None
                self._frames.copy_(pictures, non_blocking=True)
                self._graph.replay()
                maps = [x.clone() for x in self._out]
            else:
                maps, _ = self._encode(pictures[: len(numbers)].to(self._device, non_blocking=True))
            for x in maps:
                x.record_stream(main)
            done = torch.cuda.Event()
            done.record(self._stream)
        return numbers, maps, done

    def _received(self, numbers: list[int], maps: list[Tensor], done: torch.cuda.Event) -> list[tuple[int, Features]]:
        torch.cuda.current_stream(self._device).wait_event(done)
        return _split(numbers, maps)

    def _encode(self, frames: Tensor) -> tuple[list[Tensor], Tensor]:
        with torch.autocast(self._device.type, dtype=self._half, enabled=self._half is not None, cache_enabled=False):
            out = self._net.forward_image(self._resize(frames))
        return out["backbone_fpn"], out["vision_pos_enc"][-1][:1]

    def _record(self) -> None:
        assert self._stream is not None
        self._frames = torch.zeros(self._batch, *self._size, 3, dtype=torch.uint8, device=self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._encode(self._frames)
        self._stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            self._out, _ = self._encode(self._frames)


def _split(numbers: list[int], maps: list[Tensor]) -> list[tuple[int, Features]]:
    return [(number, Features(*(x[i : i + 1] for x in maps))) for i, number in enumerate(numbers)]


class _Fetched:
    """Batches of frames gathered on a thread, in page-locked memory where they go to a GPU.

    Iterating gives numbers and a uint8 tensor (batch, H, W, 3), filled as far as there are numbers. An error of the
    source is raised where its batch would have come.
    """

    def __init__(self, frames: Iterable[Numbered], batch: int, size: tuple[int, int], *, pinned: bool) -> None:
        self._frames, self._batch, self._size, self._pinned = frames, batch, size, pinned
        self._queue: queue.Queue[Raw | BaseException | None] = queue.Queue(QUEUED)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sam2-frames", daemon=True)

    def __enter__(self) -> Iterator[Raw]:
        self._thread.start()
        return self._items()

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.05)

    def _items(self) -> Iterator[Raw]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _work(self) -> None:
        try:
            numbers: list[int] = []
            pictures = self._empty()
            for number, frame in self._frames:
                if self._stop.is_set():
                    return
                if frame.shape != (*self._size, 3):
                    height, width = self._size
                    raise ValueError(f"frame {number} has shape {frame.shape}, the first was {(height, width, 3)}")
                pictures[len(numbers)].numpy()[...] = frame
                numbers.append(number)
                if len(numbers) == self._batch:
                    self._queue.put((numbers, pictures))
                    numbers, pictures = [], self._empty()
            if numbers:
                self._queue.put((numbers, pictures))
            self._queue.put(None)
        except BaseException as error:  # handed to the consumer
            self._queue.put(error)

    def _empty(self) -> Tensor:
        # PyTorch keeps freed page-locked blocks and knows by events when a copy from them is done.
        return torch.empty(self._batch, *self._size, 3, dtype=torch.uint8, pin_memory=self._pinned)
