"""Frames back into a video file: the source's times, sound, size and colour tags."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import cv2
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from bokeh_assets.errors import InputError
from bokeh_assets.media.audio import AudioCarrier, audio_start
from bokeh_assets.media.colour import MATRICES, PRIMARIES, SCALING, SDR, SWS_MATRIX, TRANSFERS, Colour
from bokeh_assets.media.container import open_video
from bokeh_assets.media.probe import probe

if TYPE_CHECKING:
    import pandas as pd

# The number of threads changes what x264 writes; a fixed one keeps results the same on every machine.
_THREADS = 8
_CPU_AVX2 = 11  # OpenCV's number for it (cv::CpuFeatures)
_LONGEST_STEP = (1 << 31) - 1
_WITHOUT_SOURCE = Fraction(1, 90_000)
# Clocks of these containers start anywhere; those of the others start where the film does.
_FLOATING_CLOCK = ("mpegts", "mpeg", "vob", "rtp")


@dataclass(frozen=True)
class Codec:
    """How a codec is asked for."""

    encoder: str
    tag: str
    options: dict[str, str]


def x264_params() -> str:
    """Parameters with which x264 writes the same bytes every time and on every processor.

    Its AVX-512 code reads what lies beside the picture (measured with x264 core 165: ten runs, ten files, and one file
    with AVX2), and it takes other shortcuts on other processors unless told not to.
    """
    has_avx2 = cv2.checkHardwareSupport(_CPU_AVX2)
    return "cpu-independent=1" + (":asm=avx2" if has_avx2 else "")


CODECS = {
    "h264": Codec("libx264", "avc1", {"preset": "medium", "x264-params": x264_params()}),
    "hevc": Codec("libx265", "hvc1", {"preset": "medium", "x265-params": "log-level=error:pools=2:frame-threads=1"}),
    "av1": Codec("libsvtav1", "av01", {"preset": "6", "svtav1-params": "lp=2"}),
}


@dataclass(frozen=True)
class EncodeReport:
    """What `encode` wrote. `duration` in seconds; `audio` has a line per sound track; `notes` what is unusual."""

    path: Path
    codec: str
    width: int
    height: int
    frames: int
    duration: float
    bytes: int
    pix_fmt: str
    colour: Colour
    audio: tuple[str, ...]
    notes: tuple[str, ...]


def encode(
    frames: Iterable[NDArray[np.uint8]],
    out: Path,
    *,
    timing: pd.DataFrame,
    source: Path | None = None,
    codec: str = "h264",
    quality: int = 18,
    progress: Callable[[int], None] | None = None,
) -> EncodeReport:
    """Encode frames as an mp4 that starts playing before it is loaded whole (faststart).

    Timestamps are those of `timing`, tick for tick, the last frame's duration included. SDR sources keep their colour
    tags (untagged ones get the tags that were assumed), tone-mapped ones become BT.709; the range is limited. Sound is
    carried over (see `AudioCarrier`) in its place relative to the picture. H.264 in 4:2:0 has even sides only; an odd
    size is written as 4:4:4, so that every reader shows exactly the source's size. The same input gives the same
    bytes.

    Args:
        frames: uint8 RGB (H, W, 3), all of one size, one per row of `timing`.
        out: the file, written in place: write beside the final name and rename.
        timing: the table of `frames.parquet` as `read_timing` gives it (pts, seconds, duration are used; ticks are
            those of `attrs["time_base"]`, else of the source; with neither, `seconds` count).
        source: the video the frames came from, for sound, colour tags and title. None: silent BT.709.
        codec: `"h264"`, `"hevc"` or `"av1"`.
        quality: constant rate factor, smaller is better; 18 looks like the frames.
        progress: called with the number of frames encoded.

    Raises:
        InputError: unknown codec or quality; frames and timing differ in number or the frames in size; the source
            cannot be used; the disk is full.
    """
    if codec not in CODECS:
        raise InputError(f"codec {codec} is not one of {', '.join(CODECS)}")
    if not 0 <= quality <= 63 or (quality > 51 and codec != "av1"):
        raise InputError(f"quality {quality} is out of range; give 0 (largest file) to 51")
    if not len(timing):
        raise InputError("no frames to encode: the timing table is empty")
    pictures = _counted(frames, len(timing), progress)
    first = next(pictures)
    try:
        with ExitStack() as files:
            opened = files.enter_context(open_video(source)) if source is not None else None
            base = timing.attrs.get("time_base") or (opened[1].time_base if opened else None)
            clock = _ticks(timing, Fraction(base) if base else None)
            options = {"movflags": "+faststart", "fflags": "+bitexact", "movie_timescale": _film_clock(clock[2])}
            result = files.enter_context(av.open(str(out), "w", format="mp4", options=options))
            job = _Job(result, first, codec, quality, clock, source, opened)
            if base and clock[2].denominator < Fraction(base).denominator:
                job.notes.append(f"a picture is shown so long that mp4 only keeps times to 1/{clock[2].denominator} s")
            return job.run(first, pictures, Path(out))
    except av.FFmpegError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(f"{out}: no space left; free some and run again") from error
        raise


class _Job:
    """One encode: the streams, the clock, and what is to be said of it."""

    def __init__(
        self,
        result: OutputContainer,
        first: NDArray[np.uint8],
        codec: str,
        quality: int,
        clock: tuple[list[int], int, Fraction],
        source: Path | None,
        opened: tuple[InputContainer, VideoStream] | None,
    ) -> None:
        self._result, self._codec = result, codec
        self._height, self._width = first.shape[:2]
        self._colour = _colour(source)
        self.notes: list[str] = []
        self._ticks, self._length, self._base = clock
        origin = _origin(opened[0] if opened else None, self._ticks[0] * self._base)
        self._shift = round(origin / self._base)
        self._origin = origin
        self._stream = self._add_video(codec, quality)
        self._audio = AudioCarrier(opened[0], result, origin) if opened else None
        if opened and opened[0].metadata.get("title"):
            result.metadata["title"] = opened[0].metadata["title"]
        self._scaler = VideoReformatter()
        self._held: av.Packet | None = None
        self._first_dts: int | None = None

    def _add_video(self, codec: str, quality: int) -> VideoStream:
        chosen = CODECS[codec]
        if codec == "av1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only; it prints its settings otherwise
        odd = self._width % 2 or self._height % 2
        count = len(self._ticks)
        rate = Fraction(count, 1) / (self._length * self._base)
        options = {"crf": str(quality), **chosen.options}
        if not _steady([*self._ticks, self._ticks[0] + self._length]):
            # mp4 files durations in decoding order. Without reordering they are those of the frames themselves.
            self.notes.append("variable frame rate: encoded without B-frames to keep every duration exact")
            options |= {"h264": {"bf": "0"}, "hevc": {"bf": "0"}}.get(codec, {})
        rate = rate.limit_denominator(1_000_000)
        stream = cast(VideoStream, self._result.add_stream(chosen.encoder, rate=rate, options=options))
        context = stream.codec_context
        context.width, context.height = self._width, self._height
        # AV1 crops to the pixel by itself.
        context.pix_fmt = "yuv444p" if odd and codec != "av1" else "yuv420p"
        if context.pix_fmt == "yuv444p":
            self.notes.append(
                "odd size: written as 4:4:4, since 4:2:0 has even sides only; some devices cannot play it"
            )
        context.time_base = self._base
        stream.time_base = self._base
        context.codec_tag = chosen.tag
        context.thread_count = _THREADS
        context.sample_aspect_ratio = Fraction(1)
        colour = self._colour
        context.color_primaries = _number(PRIMARIES, colour.primaries)
        context.color_trc = _number(TRANSFERS, colour.transfer)
        context.colorspace = _number(MATRICES, colour.matrix)
        context.color_range = int(ColorRange.MPEG)
        return stream

    def run(self, first: NDArray[np.uint8], rest: Iterator[NDArray[np.uint8]], out: Path) -> EncodeReport:
        count = 0
        for picture, tick in zip(_chain(first, rest), self._ticks, strict=False):
            if picture.shape != first.shape or picture.dtype != np.uint8:
                raise InputError(f"frame {count} is {picture.dtype} {picture.shape}, the first is {first.shape}")
            if self._audio:
                self._audio.advance(tick * self._base)
            self._write(self._stream.encode(self._frame(picture, tick)))
            count += 1
        # Exhausts the frames, which raises if there are more than times.
        for _ in rest:
            pass
        self._write(self._stream.encode(None))
        self._finish_video()
        if self._audio:
            self._audio.advance(None)
        self._result.close()
        return EncodeReport(
            path=out,
            codec=self._codec,
            width=self._width,
            height=self._height,
            frames=count,
            duration=float(self._length * self._base),
            bytes=out.stat().st_size,
            pix_fmt=self._stream.codec_context.pix_fmt or "",
            colour=self._colour,
            audio=tuple(self._audio.reports) if self._audio else (),
            notes=tuple(self.notes),
        )

    def _frame(self, picture: NDArray[np.uint8], tick: int) -> VideoFrame:
        frame = self._scaler.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24"),
            format=self._stream.codec_context.pix_fmt,
            dst_colorspace=SWS_MATRIX[self._colour.matrix],
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=SCALING,
            threads=1,
        )
        frame.color_primaries = self._stream.codec_context.color_primaries
        frame.color_trc = self._stream.codec_context.color_trc
        frame.colorspace = self._stream.codec_context.colorspace
        frame.pts, frame.time_base = tick - self._shift, self._base
        return frame

    def _write(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            if self._first_dts is None:
                self._first_dts = packet.dts
            if self._held is not None:
                self._result.mux(self._held)
            self._held = packet

    def _finish_video(self) -> None:
        # The track is as long as its decoding times say plus the last packet: that one takes up what remains.
        packet = self._held
        assert packet is not None and packet.dts is not None and self._first_dts is not None
        packet.duration = max(1, self._length - (packet.dts - self._first_dts))
        self._result.mux(packet)


def _counted(
    frames: Iterable[NDArray[np.uint8]], expected: int, progress: Callable[[int], None] | None
) -> Iterator[NDArray[np.uint8]]:
    count = 0
    for frame in frames:
        if count == expected:
            raise InputError(f"more frames than the {expected} that the timing lists; make frames and render again")
        yield frame
        count += 1
        if progress:
            progress(count)
    if count < expected:
        raise InputError(f"{count} frames, but the timing lists {expected}; make frames and render again")


def _chain(first: NDArray[np.uint8], rest: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    yield first
    yield from rest


def _ticks(timing: pd.DataFrame, base: Fraction | None) -> tuple[list[int], int, Fraction]:
    """(pts of each frame, length of all in ticks, time base 1/n)."""
    if base is None:
        unit = _WITHOUT_SOURCE
        ticks = [round(Fraction(s) / unit) for s in timing["seconds"].tolist()]
    else:
        unit = Fraction(1, base.denominator)
        ticks = [int(p) * base.numerator for p in timing["pts"].tolist()]
    if any(b <= a for a, b in pairwise(ticks)):
        raise InputError("the timestamps of the frames do not rise; make the frames again")
    last = max(1, round(Fraction(float(timing["duration"].iloc[-1])) / unit))
    longest = max([last, *(b - a for a, b in pairwise(ticks))])
    if longest * max(Fraction(1), 20_000 * unit) > _LONGEST_STEP:
        # mp4 counts the ticks of one picture in 31 bits: coarser ticks, then.
        coarse = Fraction(1, int(_LONGEST_STEP / (longest * unit)))
        rounded = [round(tick * unit / coarse) for tick in ticks]
        ticks = list(accumulate(rounded, lambda before, tick: max(before + 1, tick)))
        last, unit = max(1, round(last * unit / coarse)), coarse
    return ticks, ticks[-1] - ticks[0] + last, unit


def _film_clock(base: Fraction) -> str:
    """Ticks a second for the lengths of tracks: as fine as the picture's, or mp4 rounds them to milliseconds."""
    ticks = base.denominator
    while ticks < 10_000:
        ticks *= 2
    return str(ticks if ticks < 1 << 31 else 90_000)


def _steady(ticks: list[int]) -> bool:
    """Is it a constant frame rate, to the tick?"""
    return len(set(np.diff(ticks).tolist())) == 1


def _origin(source: InputContainer | None, video: Fraction) -> Fraction:
    """Seconds of the source that become 0 in the result.

    0 where the source's clock begins at its film's beginning, so that timestamps stay as they are; sound before 0 is
    the encoder's run-in and stays there. Otherwise the earlier of picture and sound.
    """
    if source is not None and any(name in source.format.name.split(",") for name in _FLOATING_CLOCK):
        sound = audio_start(source)
        return video if sound is None else min(video, sound)
    return min(video, Fraction(0))


def _colour(source: Path | None) -> Colour:
    if source is None:
        return SDR
    colour = probe(source).colour
    if colour.hdr or colour.matrix not in SWS_MATRIX:
        return SDR
    matrix = "bt2020nc" if colour.matrix == "bt2020c" else colour.matrix
    return replace(colour, matrix=matrix, full_range=False)


def _number(names: dict[int, str], name: str) -> int:
    return next(number for number, known in names.items() if known == name)
