"""Frames of a video file, in order, as they are meant to be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from bokeh_assets.media.colour import RgbConverter
from bokeh_assets.media.container import open_video, refuse_encrypted, without_frames
from bokeh_assets.media.hdr import ToneMapper
from bokeh_assets.media.probe import VideoInfo, describe, square_size
from bokeh_assets.media.timing import Clock

# Containers round, and their claims are loose: less than this is no loss.
_END_SLACK = 0.25

Progress = Callable[[int], None]
"""Called with the number of frames finished so far."""


@dataclass(frozen=True)
class DecodedFrame:
    """One frame: uint8 RGB (H, W, 3), upright, square pixels.

    `pts` is in ticks of the source's time base, as stored. `seconds` counts from the first frame; the frame is shown
    during [seconds, seconds + duration).
    """

    image: NDArray[np.uint8]
    pts: int
    seconds: float
    duration: float


class Decoding(Iterator[DecodedFrame]):
    """Iterator over the frames of a file. Close it, or use it in a `with` block, if it is not read to the end.

    Attributes:
        info: facts of the file.
        warnings: what went wrong and was survived; complete once the last frame has been taken.
    """

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        self.path = Path(path)
        self.warnings: list[str] = []
        self._progress = progress
        self._source = open_video(self.path)
        self._container, self._stream = self._source.__enter__()
        self._open = True
        try:
            # All cores decode; the result does not depend on their number.
            self._stream.thread_type = "AUTO"
            self._packets = _Packets(self.path, self._container, self._stream)
            frames = iter(self._packets)
            first = next(frames, None)
            if first is None:
                raise without_frames(self.path, self._stream)
            self.info: VideoInfo = describe(self.path, self._container, self._stream, first)
            self._results = self._run(first, frames)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Decoding:
        return self

    def __next__(self) -> DecodedFrame:
        return next(self._results)

    def __enter__(self) -> Decoding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._open:
            self._open = False
            self._source.__exit__(None, None, None)

    def _run(self, first: VideoFrame, rest: Iterator[VideoFrame]) -> Iterator[DecodedFrame]:
        info, base = self.info, self.info.time_base
        clock = Clock(base, self._stream.average_rate or self._stream.guessed_rate)
        picture = _Picture(info)
        start = clock(first.pts, first.dts)
        frame, pts, count = first, start, 0
        for upcoming in rest:
            due = clock(upcoming.pts, upcoming.dts)
            yield DecodedFrame(picture(frame), pts, float((pts - start) * base), float((due - pts) * base))
            count += 1
            if self._progress:
                self._progress(count)
            frame, pts = upcoming, due
        duration = self._last_duration(frame, pts, clock.steady)
        yield DecodedFrame(picture(frame), pts, float((pts - start) * base), duration)
        if self._progress:
            self._progress(count + 1)
        self.warnings += self._packets.warnings()
        end, claimed = float(pts * base) + duration, _claimed_end(self._container, self._stream)
        if claimed is not None and claimed - end > max(_END_SLACK, 4 * duration) and not self.warnings:
            self.warnings.append(
                f"the picture ends at {end:.2f} s of {claimed:.2f} s; the file is cut short or damaged"
            )
        if clock.repaired:
            self.warnings.append(f"{clock.repaired} timestamps were missing or did not rise and were repaired")
        if picture.resized:
            self.warnings.append(
                f"the picture changes size in {picture.resized} frames; they were scaled to the first frame's"
            )
        self.close()

    def _last_duration(self, frame: VideoFrame, pts: int, steady: bool) -> float:
        """Seconds the last frame is shown.

        Its packet says so; but where frames are reordered and of varying length mp4 files it under another frame, and
        the end of the stream says it. That end is not believed when far off (trimmed or truncated files).
        """
        stream, base = self._stream, self.info.time_base
        own = frame.duration or round(1 / (self.info.fps * base)) or 1
        misfiled = stream.codec_context.has_b_frames and not steady
        if misfiled and stream.duration and stream.start_time is not None and not self._packets.cut_short:
            end = stream.start_time + stream.duration
            if own / 4 <= end - pts <= own * 4:
                own = end - pts
        return float(own * base)


def _claimed_end(container: InputContainer, stream: VideoStream) -> float | None:
    """When the picture should end by what the container says of it alone, in seconds of its clock."""
    base, start = stream.time_base, stream.start_time or 0
    if stream.duration and base:
        return float((start + stream.duration) * base)
    tag = stream.metadata.get("DURATION", "")  # Matroska
    with suppress(ValueError):
        hours, minutes, seconds = (float(part) for part in tag.split(":"))
        return 3600 * hours + 60 * minutes + seconds
    alone = len(container.streams) == 1 and container.duration
    return container.duration / av.time_base if alone and container.duration else None


def decode(path: Path, *, progress: Progress | None = None) -> Decoding:
    """Decode a video from its start, one frame at a time, in the order of showing.

    Rotation and mirroring are applied; pixels that are not square are made so by enlarging; matrix and range of the
    colours are those of the file (see `colour_of` for untagged ones); PQ and HLG are tone-mapped to SDR (see `hdr`).
    Frames keep their own times. A frame of another size than the first is scaled to it. Damaged packets are skipped
    and a truncated file ends early: what is whole is yielded, and `warnings` tells the rest as far as FFmpeg lets it be
    known (a gap that a demuxer passes over in silence shows only in the times).

    Args:
        path: the file.
        progress: called with the number of frames yielded.

    Raises:
        InputError: at once, if the file cannot be used at all (see `probe`).
    """
    return Decoding(path, progress)


class _Packets:
    """Decode packet by packet, counting what is damaged."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._read = self._bad = self._concealed = 0
        self._error: str | None = None
        # An edit list may drop frames from the index that the header still counts.
        indexed = len(stream.index_entries)
        self._expected = min(stream.frames, indexed) if indexed else stream.frames

    def __iter__(self) -> Iterator[VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                self._error = error.strerror or "unreadable"
                break
            refuse_encrypted(packet, self._path)
            self._read += packet.size > 0
            self._bad += packet.is_corrupt
            yield from self._decode(packet)
        yield from self._decode(None)

    def _decode(self, packet: av.Packet | None) -> Iterator[VideoFrame]:
        try:
            frames = self._stream.decode(packet)
        except av.EOFError:
            return
        except av.FFmpegError:
            self._bad += 1
            return
        for frame in frames:
            self._concealed += frame.is_corrupt
            yield frame

    @property
    def cut_short(self) -> bool:
        """Did the file end before its own index says?"""
        return self._error is not None or self._read < self._expected

    def warnings(self) -> list[str]:
        lines = []
        if self._error is not None:
            lines.append(f"reading stopped early ({self._error}); the file is truncated or damaged")
        elif self.cut_short:
            lines.append(f"the file is truncated: {self._read} of its {self._expected} frames are there")
        if self._bad:
            lines.append(f"{self._bad} damaged packets were skipped")
        if self._concealed:
            lines.append(f"at least {self._concealed} frames are damaged; the decoder guessed what is missing")
        return lines


class _Picture:
    """From a decoded frame to the upright picture."""

    def __init__(self, info: VideoInfo) -> None:
        self._info = info
        self._convert = RgbConverter()
        self._tone = ToneMapper(info.hdr, info.hdr_peak, wide=info.colour.primaries == "bt2020") if info.hdr else None
        self._size = square_size(info.coded_width, info.coded_height, info.sample_aspect_ratio)
        self.resized = 0

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        info = self._info
        self.resized += (frame.width, frame.height) != (info.coded_width, info.coded_height)
        picture: Any = self._convert(frame, info.colour, self._size, deep=self._tone is not None)
        if self._tone is not None:
            picture = self._tone(picture)
        if info.mirrored:
            picture = cv2.flip(picture, 1)
        if info.rotation:
            turns = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
            picture = cv2.rotate(picture, turns[info.rotation])
        return np.ascontiguousarray(picture)
