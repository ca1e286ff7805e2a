"""Real little video files with every oddity that cameras and editors make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

RED, GREEN, BLUE, GREY = (200, 40, 30), (30, 180, 60), (40, 60, 210), (128, 128, 128)


def card(width: int, height: int, index: int = 0) -> NDArray[np.uint8]:
    """Four flat quarters, red green / blue grey, so that every turn and flip looks different; they dim with time."""
    picture = np.zeros((height, width, 3), np.uint8)
    middle, half = height // 2, width // 2
    picture[:middle, :half], picture[:middle, half:] = RED, GREEN
    picture[middle:, :half], picture[middle:, half:] = BLUE, GREY
    return (picture * (1 - 0.02 * (index % 20))).astype(np.uint8)


def moving(width: int, height: int, index: int) -> NDArray[np.uint8]:
    """Smooth texture that moves 2 pixels a frame: something an encoder has to work on."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x += 2 * index
    waves = [np.sin(x / 7 + y / 11), np.sin(x / 13 - y / 9 + 1), np.sin(x / 5 + y / 17 + 2)]
    return np.stack([(127 + 90 * wave).astype(np.uint8) for wave in waves], axis=-1)


def make_clip(
    path: Path,
    *,
    size: tuple[int, int] = (96, 64),
    ticks: Sequence[int] = tuple(range(0, 8)),
    base: Fraction = Fraction(1, 24),
    last: int | None = None,
    picture: Callable[[int, int, int], NDArray[np.uint8]] = card,
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    format: str | None = None,
    tags: tuple[int, int, int, int] | None = None,
    sar: Fraction | None = None,
    display: Sequence[int] | None = None,
    audio: str | None = None,
    audio_from: float = 0.0,
    audio_seconds: float = 1.0,
    audio_rate: int = 48_000,
    title: str | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Write a clip whose frames `picture(width, height, index)` are shown at `ticks` of `base`.

    tags: H.273 numbers (primaries, transfer, matrix) and range (1 limited, 2 full); None leaves them untagged and the
    samples are BT.709 limited. `display` is FFmpeg's 3x3 display matrix.
    """
    width, height = size
    matrix, full = (tags[2], tags[3]) if tags else (1, 1)
    scaler = VideoReformatter()
    with av.open(str(path), "w", format=format, options=muxer or {}) as file:
        stream: Any = file.add_stream(codec, rate=Fraction(24), options=options or _lossless(codec))
        context = stream.codec_context
        context.width, context.height, context.pix_fmt, context.time_base = width, height, pix_fmt, base
        stream.time_base = base
        context.thread_count = 1
        if sar:
            context.sample_aspect_ratio = sar
        if tags:
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = tags
        if display:
            stream.set_display_matrix(display)
        if title:
            file.metadata["title"] = title
        sound: Any = None
        if audio:
            sound = file.add_stream(audio, rate=audio_rate)
            sound.codec_context.layout = "stereo"
        steps = [b - a for a, b in pairwise(ticks)]
        lengths = dict(zip(ticks, [*steps, last or (steps[-1] if steps else 1)], strict=True))

        def write(packets: list[av.Packet]) -> None:
            for packet in packets:
                packet.duration = lengths[packet.pts or 0]
                file.mux(packet)

        for index, tick in enumerate(ticks):
            rgb = VideoFrame.from_ndarray(np.ascontiguousarray(picture(width, height, index)), "rgb24")
            # 5 and 6 are one matrix to swscale, 9 is BT.2020's; grey has none.
            frame = scaler.reformat(
                rgb,
                format=pix_fmt,
                dst_colorspace=5 if matrix in (5, 6) else matrix,
                src_color_range=2,
                dst_color_range=full,
                interpolation=0x40000 | 0x2000 | 4,
            )
            if tags:
                frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = tags
            frame.pts, frame.time_base = tick, base
            write(stream.encode(frame))
        write(stream.encode(None))
        if sound is not None:
            for block in tone(audio_seconds, audio_rate, audio_from):
                file.mux(sound.encode(block))
            file.mux(sound.encode(None))
    return path


def tone(seconds: float, rate: int, start: float = 0.0) -> list[AudioFrame]:
    """A stereo chord in blocks of 1024 samples."""
    count, frames = round(seconds * rate), []
    for begin in range(0, count, 1024):
        time = np.arange(begin, min(begin + 1024, count)) / rate
        wave = np.stack([np.sin(2 * np.pi * f * time) for f in (440.0, 660.0)]).astype(np.float32) * 0.4
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(wave), format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = begin + round(start * rate)
        frames.append(frame)
    return frames


def audio_packets(path: Path) -> list[bytes]:
    """Payloads of the first sound track."""
    with av.open(str(path)) as file:
        return [bytes(p) for p in file.demux(file.streams.audio[0]) if p.size]


def audio_times(path: Path) -> tuple[float, float]:
    """(start, end) of the first sound track as packets say, in seconds."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        packets = [p for p in file.demux(stream) if p.size and p.pts is not None]
        base = float(stream.time_base or 1)
        return float(packets[0].pts or 0) * base, float((packets[-1].pts or 0) + (packets[-1].duration or 0)) * base


def _lossless(codec: str) -> dict[str, str]:
    return {
        "libx264": {"crf": "4", "preset": "veryfast"},
        "libx265": {"x265-params": "lossless=1:log-level=error"},
    }.get(codec, {})
