"""Reading frames ahead of the network, in a bounded measure."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bokeh_assets.media.frames import FrameFolder, Frames

Picture = NDArray[np.uint8]

THREADS = 8


class FrameSpan:
    """Some consecutive frames of a video, as frames of their own."""

    def __init__(self, frames: Frames, span: range) -> None:
        self.frames = frames
        self.span = span

    def __len__(self) -> int:
        return len(self.span)

    def __getitem__(self, index: int, /) -> Picture:
        return self.frames[self.span[index]]

    def __iter__(self) -> Iterator[Picture]:
        return (self.frames[index] for index in self.span)


def read_ahead(frames: Iterable[Picture], depth: int = 24) -> Generator[Picture, None, None]:
    """The same frames in the same order, up to `depth` of them read before they are asked for.

    The pictures of a folder are decoded by several threads, anything else is read by one. An error of the source
    is raised where its frame would have come. Closing the generator ends the threads.
    """
    whole = frames.frames if isinstance(frames, FrameSpan) else frames
    if isinstance(whole, FrameFolder) and isinstance(frames, FrameFolder | FrameSpan):
        return _decode_ahead(frames, depth)
    return _iterate_ahead(frames, depth)


def _decode_ahead(frames: FrameFolder | FrameSpan, depth: int) -> Generator[Picture, None, None]:
    waiting: deque[Future[Picture]] = deque()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="read-frames") as pool:
        try:
            for index in range(len(frames)):
                waiting.append(pool.submit(frames.__getitem__, index))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _iterate_ahead(frames: Iterable[Picture], depth: int) -> Generator[Picture, None, None]:
    box: queue.Queue[tuple[Picture | None, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: tuple[Picture | None, BaseException | None]) -> None:
        while not stop.is_set():
            try:
                return box.put(item, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for frame in frames:
                put((frame, None))
                if stop.is_set():
                    return
            put((None, None))
        except BaseException as error:  # handed to the reader's thread, whatever it is
            put((None, error))

    thread = threading.Thread(target=read, name="read-frames", daemon=True)
    thread.start()
    try:
        while True:
            frame, error = box.get()
            if error is not None:
                raise error
            if frame is None:
                return
            yield frame
    finally:
        stop.set()
        thread.join()
