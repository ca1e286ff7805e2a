"""Which way to go from which prompt: one object's mattes for the whole clip, in order, in constant memory."""

from __future__ import annotations

import itertools
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from bokeh_assets.media.frames import Frames
from bokeh_assets.segmentation.prompts import Prompt
from bokeh_assets.segmentation.tracking.colours import Palette
from bokeh_assets.segmentation.tracking.plate import survey
from bokeh_assets.segmentation.tracking.start import start_matte
from bokeh_assets.segmentation.tracking.tracker import Tracker

CROSSFADE = 4
"""Frames over which the answer passes from one prompt's tracking to the next one's."""

LOOK_AHEAD = 16
"""Frames tracked ahead and back before the first matte of a box or points is settled."""


class MatteSpool:
    """Mattes on disk in an unnamed temporary file, 8 bit and compressed; read back in any order."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="bokeh_mattes_")  # noqa: SIM115 (closed by __exit__)
        self._places: dict[int, tuple[int, int, tuple[int, ...]]] = {}

    def __enter__(self) -> MatteSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, index: int, matte: NDArray[np.float32]) -> None:
        """Keep the matte (H, W), 0..1, of frame `index`."""
        data = zlib.compress(np.round(matte * 255).astype(np.uint8).tobytes(), 1)
        place = self._file.seek(0, 2)
        self._file.write(data)
        self._places[index] = place, len(data), matte.shape

    def read(self, index: int) -> NDArray[np.float32]:
        """The matte of frame `index` to 8 bits."""
        place, length, shape = self._places[index]
        self._file.seek(place)
        data = zlib.decompress(self._file.read(length))
        return np.frombuffer(data, np.uint8).reshape(shape).astype(np.float32) / np.float32(255)


def follow(
    frames: Frames, palette: Palette, prompts: Sequence[Prompt], size: tuple[int, int]
) -> Iterator[NDArray[np.float32]]:
    """One object's mattes (h, w), one per frame.

    Before the first prompted frame it is followed backward, after the last one forward; between two it is followed
    from both, and the nearer one counts.

    Args:
        frames: pictures at working size.
        palette: colours of the clip.
        prompts: hints for this object, sorted by frame.
        size: width and height of the source, in which the prompts are given.
    """
    height, width = frames[0].shape[:2]
    scale = width / size[0], height / size[1]

    def start(at: int, known: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        here = [p for p in prompts if p.frame == at]
        matte = start_matte(frames[at], palette, here, scale, size, known, survey(frames, at))
        exact = known is not None or any(p.mask is not None for p in here)
        return matte if exact else _reconsidered(frames, palette, at, matte)

    stops = sorted({p.frame for p in prompts})
    matte = start(stops[0])
    with MatteSpool() as backward:
        _spool(frames, palette, matte, range(stops[0], -1, -1), backward)
        for i in range(stops[0]):
            yield backward.read(i)
    for here, there in itertools.pairwise(stops):
        with MatteSpool() as forward, MatteSpool() as backward:
            known = _spool(frames, palette, matte, range(here, there + 1), forward)
            after = start(there, known)
            middle = (here + there) / 2
            turn = max(here, int(middle - CROSSFADE / 2))
            _spool(frames, palette, after, range(there, turn - 1, -1), backward)
            for i in range(here, there):
                share = float(np.clip(0.5 + (i - middle) / CROSSFADE, 0, 1)) if i >= turn else 0.0
                mixed = forward.read(i) * np.float32(1 - share)
                yield mixed + backward.read(i) * np.float32(share) if share > 0 else mixed
            matte = after
    yield matte
    tracker = Tracker(frames, palette, stops[-1], matte)
    for i in range(stops[-1] + 1, len(frames)):
        yield tracker.step(i)


def _reconsidered(frames: Frames, palette: Palette, at: int, matte: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first matte after a look ahead and back.

    What lay behind the object shows once it has moved, so the way back to the prompted frame knows more than the
    first cut did. Where the two hardly agree, tracking was at fault, and the first cut stands.
    """
    ahead = min(len(frames) - 1, at + LOOK_AHEAD)
    turn = ahead if ahead - at >= at - max(0, at - LOOK_AHEAD) else max(0, at - LOOK_AHEAD)
    if turn == at:
        return matte
    step = 1 if turn > at else -1
    tracker = Tracker(frames, palette, at, matte)
    for i in (*range(at + step, turn + step, step), *range(turn - step, at - step, -step)):
        tracker.step(i)
    first, again = matte > 0.5, tracker.matte > 0.5
    both, either = float((first & again).sum()), float((first | again).sum())
    return tracker.matte if both > 0.6 * either else matte


def _spool(
    frames: Frames, palette: Palette, matte: NDArray[np.float32], order: range, spool: MatteSpool
) -> NDArray[np.float32]:
    """Track along `order`, from `matte` on its first frame; the last matte."""
    spool.write(order[0], matte)
    if len(order) == 1:
        return matte
    tracker = Tracker(frames, palette, order[0], matte)
    for i in order[1:]:
        matte = tracker.step(i)
        spool.write(i, matte)
    return matte
