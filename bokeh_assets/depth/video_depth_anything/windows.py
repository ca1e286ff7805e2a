"""Cutting a video into the overlapping windows of 32 frames that the network sees at once.

A window has 32 slots. The first window of a video (or shot) holds its first 32 frames. Every later one starts 22
frames on: slots 10.. hold 22 new frames, slots 0..9 hold frames that the previous window has seen (`KEYFRAMES`),
so that scale and content carry over:

    slot of the window      0       1    2 .. 9   10 .. 31
    slot of the previous    0      12   24 .. 31  (new)

Slot 0 is thus the same frame throughout, the anchor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW = 32
CONTEXT = 10
STEP = WINDOW - CONTEXT
KEYFRAMES = (0, 12, *range(24, 32))
FIRST_BLENDED = 2  # slots 2..9 are frames that follow one another, the last eight of the previous window
BLEND = CONTEXT - FIRST_BLENDED


@dataclass(frozen=True)
class Window:
    """One window of a video.

    Attributes:
        fresh: the frames that no earlier window held, at most 32 in the first and 22 in later ones.
        padding: how many copies of the last frame fill the slots after them.
        wanted: slots 0..wanted-1 hold frames of the video whose maps are of use (the rest is padding).
        first: whether it opens the video, and so has no slots taken over from a previous window.
        last: whether no window follows.
    """

    fresh: list[NDArray[np.uint8]]
    padding: int
    wanted: int
    first: bool
    last: bool


def cut_into_windows(frames: Iterable[NDArray[np.uint8]], *, pad: bool) -> Iterator[Window]:
    """The windows of one video or shot, reading one frame ahead at most.

    Args:
        frames: the frames in order.
        pad: fill windows up with copies of the last frame, and lay them as the reference implementation does:
            also one over frames that are mapped already, where the video ends 25 to 32 frames after a window's
            start (their blend changes). Without it, windows are as short as the frames left.
    """
    source = _Ahead(frames)
    start = count = 0
    while not (start == 0 and source.ended):
        room = WINDOW if start == 0 else STEP
        fresh = source.take(room)
        count += len(fresh)
        # The reference lays a window at every multiple of 22; one that begins at the last frame or the one
        # before it maps nothing that is kept (slots 0 and 1 only serve the fit).
        last = source.ended and (not pad or count <= start + STEP + FIRST_BLENDED)
        yield Window(
            fresh=fresh,
            padding=room - len(fresh) if pad else 0,
            wanted=min(WINDOW, count - start),
            first=start == 0,
            last=last,
        )
        if last:
            return
        start += STEP


def find_anchor(fresh: list[NDArray[np.uint8]]) -> int:
    """The first frame worth holding on to: not (nearly) black, white or flat as against its neighbours.

    A fade-in or a flash on the first frame would otherwise spoil the scale of the whole shot: the anchor is part
    of every window. Contrast is the standard deviation of the green channel, on every fourth pixel; the first
    frame with at least half the median contrast is taken.
    """
    contrast = np.array([frame[::4, ::4, 1].std() for frame in fresh])
    return int(np.argmax(contrast >= 0.5 * np.median(contrast)))


class _Ahead:
    """An iterator that knows whether it has ended."""

    def __init__(self, frames: Iterable[NDArray[np.uint8]]) -> None:
        self._source = iter(frames)
        self._next = next(self._source, None)

    @property
    def ended(self) -> bool:
        return self._next is None

    def take(self, count: int) -> list[NDArray[np.uint8]]:
        taken: list[NDArray[np.uint8]] = []
        while self._next is not None and len(taken) < count:
            taken.append(self._next)
            self._next = next(self._source, None)
        return taken
