"""What a video file is, before anything is made of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from bokeh_assets.errors import InputError
from bokeh_assets.media.colour import Colour, colour_of, has_alpha
from bokeh_assets.media.container import MAX_PIXELS, open_video, refuse_encrypted, too_large, without_frames

# Ratios beyond this are damage, not anamorphic lenses.
_WIDEST_PIXEL = 8


@dataclass(frozen=True)
class AudioInfo:
    """One sound track."""

    index: int
    codec: str
    rate: int
    channels: int
    language: str | None


@dataclass(frozen=True)
class VideoInfo:
    """Facts of a video file.

    `width` and `height` are those of the frames that `decode` yields: upright, square pixels. `coded_width` and
    `coded_height` are as stored. `rotation` is by how many degrees clockwise the stored picture is turned to stand
    upright (0, 90, 180, 270), after being flipped left to right if `mirrored`. `fps` is an average; `frames` and
    `duration` (seconds) are what the container claims, None where it claims nothing.
    """

    path: Path
    container: str
    codec: str
    width: int
    height: int
    coded_width: int
    coded_height: int
    rotation: int
    mirrored: bool
    sample_aspect_ratio: Fraction
    pix_fmt: str
    bit_depth: int
    alpha: bool
    interlaced: bool
    colour: Colour
    hdr_peak: float | None
    time_base: Fraction
    fps: float
    frames: int | None
    duration: float | None
    audio: tuple[AudioInfo, ...]
    title: str | None

    @property
    def hdr(self) -> str | None:
        """`"pq"`, `"hlg"` or None."""
        return self.colour.hdr

    def notes(self) -> list[str]:
        """What was done to the picture or had to be assumed, one plain line each."""
        lines = []
        if self.rotation or self.mirrored:
            lines.append(f"turned {self.rotation} degrees clockwise" + (" and mirrored" if self.mirrored else ""))
        if self.sample_aspect_ratio != 1:
            side = "width" if self.sample_aspect_ratio > 1 else "height"
            lines.append(f"pixels of ratio {self.sample_aspect_ratio} made square by enlarging the stored {side}")
        if self.hdr:
            peak = "" if self.hdr == "hlg" else f", peak {self.hdr_peak or 1000:.0f} nits"
            lines.append(f"{self.hdr.upper()} HDR tone-mapped to SDR, white at 203 nits{peak}")
        if self.colour.assumed:
            value = {"range": "full" if self.colour.full_range else "limited"}
            said = ", ".join(f"{k} {value.get(k) or getattr(self.colour, k)}" for k in self.colour.assumed)
            lines.append(f"colours not tagged, assumed: {said}")
        if self.bit_depth > 8 and not self.hdr:
            lines.append(f"{self.bit_depth} bits per sample reduced to 8")
        if self.alpha:
            lines.append("transparency laid over black")
        if self.interlaced:
            lines.append("interlaced; the two fields were left woven")
        return lines


def probe(path: Path) -> VideoInfo:
    """Read the facts of a video; its first frame is decoded to be sure of them.

    Raises:
        InputError: the file is missing, is no video, has no video stream or not a single frame can be decoded.
    """
    with open_video(path) as (container, stream):
        for frame in decoded(Path(path), container, stream):
            return describe(Path(path), container, stream, frame)
        raise without_frames(path, stream)


def decoded(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames of a stream as FFmpeg gives them, passing over damaged packets."""
    with suppress(av.FFmpegError):
        for packet in container.demux(stream):
            refuse_encrypted(packet, path)
            with suppress(av.FFmpegError):
                yield from packet.decode()


def describe(path: Path, container: InputContainer, stream: VideoStream, frame: VideoFrame) -> VideoInfo:
    """The facts, from an open file and its first decoded frame."""
    colour = colour_of(frame, lines=frame.height)
    if colour.matrix in ("ictcp", "ycgco"):
        raise InputError(f"{path} uses {colour.matrix} colours, which are not read; convert it to BT.709 first")
    mirrored, rotation = orientation(frame)
    ratio = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, _WIDEST_PIXEL) <= ratio <= _WIDEST_PIXEL:
        ratio = Fraction(1)
    width, height = square_size(frame.width, frame.height, ratio)
    if rotation in (90, 270):
        width, height = height, width
    if width * height > MAX_PIXELS:
        raise too_large(path, width, height)
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    duration = None
    if stream.duration and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    elif container.duration:
        duration = container.duration / av.time_base
    frames = stream.frames or (round(duration * rate) if duration and rate else None)
    return VideoInfo(
        path=path,
        container=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        width=width,
        height=height,
        coded_width=frame.width,
        coded_height=frame.height,
        rotation=rotation,
        mirrored=mirrored,
        sample_aspect_ratio=ratio,
        pix_fmt=frame.format.name,
        bit_depth=max(c.bits for c in frame.format.components),
        alpha=has_alpha(frame),
        interlaced=frame.interlaced_frame,
        colour=colour,
        hdr_peak=_peak(frame) if colour.hdr == "pq" else None,
        time_base=stream.time_base or Fraction(1, 1000),
        fps=float(rate or 25),
        frames=frames,
        duration=duration,
        audio=tuple(
            AudioInfo(
                s.index,
                s.codec_context.codec.canonical_name,
                s.codec_context.sample_rate,
                s.codec_context.channels,
                s.language,
            )
            for s in container.streams.audio
            if s.codec_context is not None
        ),
        title=container.metadata.get("title") or None,
    )


def square_size(width: int, height: int, ratio: Fraction) -> tuple[int, int]:
    """Size with square pixels: the side whose pixels are longer is enlarged, so nothing is lost.

    A side that was even stays even.
    """
    if ratio > 1:
        return _like(width, width * ratio), height
    if ratio < 1:
        return width, _like(height, height / ratio)
    return width, height


def _like(side: int, length: Fraction) -> int:
    return round(length) if side % 2 else 2 * round(length / 2)


def orientation(frame: VideoFrame) -> tuple[bool, int]:
    """(mirrored, degrees clockwise) of the display matrix: first mirror left to right, then turn.

    Matrices that are not quarter turns are rounded to the nearest.
    """
    matrix = _side_data(frame, SideData.DISPLAYMATRIX)
    if matrix is None:
        return False, 0
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if not any((a, b, c, d)):
        return False, 0
    # Points go (x, y) -> (a x + c y, b x + d y), y down. A negative determinant mirrors; undo that first.
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    if abs(a) >= abs(b):
        return mirrored, 0 if a > 0 else 180
    return mirrored, 90 if b > 0 else 270


def _peak(frame: VideoFrame) -> float | None:
    """Brightest level in nits: MaxCLL, else the mastering display's, else None."""
    content = _side_data(frame, SideData.CONTENT_LIGHT_LEVEL)
    if content is not None and (brightest := struct.unpack("=I", content[:4])[0]):
        return float(min(max(brightest, 203), 10000))
    mastering = _side_data(frame, SideData.MASTERING_DISPLAY_METADATA)
    if mastering is None:
        return None
    # AVMasteringDisplayMetadata: 3x2 primaries, white point, min and max luminance (all rationals), two flags.
    numbers = struct.unpack("=22i", mastering[:88])
    stated = numbers[21] and numbers[19]
    return float(min(max(numbers[18] / numbers[19], 203), 10000)) if stated else None


def _side_data(frame: VideoFrame, kind: SideData) -> bytes | None:
    held: Any = frame.side_data
    return bytes(held[kind]) if kind in [data.type for data in held] else None
