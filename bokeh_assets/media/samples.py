"""A small clip to try everything on: generated, so it belongs to nobody and needs no download."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from bokeh_assets.errors import InputError
from bokeh_assets.media.colour import SCALING
from bokeh_assets.media.encode import x264_params
from bokeh_assets.media.frames import write_picture
from bokeh_assets.media.sample_scene import EveningWalk

SAMPLE_RATE = 44_100
_X264 = {"crf": "14", "preset": "medium", "x264-params": x264_params()}
_PACES_PER_SECOND = 1.6
# Chords of a slow turn in D: root, third, fifth, octave, in semitones over 220 Hz.
_CHORDS = ((5, 9, 12, 17), (2, 5, 9, 14), (7, 10, 14, 19), (0, 4, 7, 12))


def make_sample(path: Path, *, seconds: float = 4.0, size: tuple[int, int] = (640, 360), fps: int = 24) -> Path:
    """Write the sample clip: somebody in a yellow raincoat walks past lamps in the evening; with sound.

    The same arguments give the same bytes. Takes a few seconds.

    Args:
        path: the mp4 to write.
        seconds: its length.
        size: width and height in pixels, both even.
        fps: frames per second.

    Returns:
        `path`.
    """
    width, height = size
    count = round(seconds * fps)
    if count < 1 or width < 16 or height < 16 or width % 2 or height % 2:
        raise InputError(f"a sample clip of {seconds} s at {width}x{height} cannot be made; give even sides from 16 on")
    scene, scaler = EveningWalk(width, height), VideoReformatter()
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as file:
        video = file.add_stream("libx264", rate=fps, options=_X264)
        context = video.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = Fraction(1, fps)
        context.thread_count = 4
        context.color_primaries = context.color_trc = context.colorspace = 1
        context.color_range = int(ColorRange.MPEG)
        audio = file.add_stream("aac", rate=SAMPLE_RATE)
        audio.codec_context.layout = "stereo"
        audio.bit_rate = 128_000
        sound = _sound(seconds)
        for number in range(count):
            t = number / max(1, count - 1)
            picture = VideoFrame.from_ndarray(scene.frame(t, _PACES_PER_SECOND * number / fps), "rgb24")
            frame = scaler.reformat(
                picture,
                format="yuv420p",
                dst_colorspace=1,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                interpolation=SCALING,
                threads=1,
            )
            frame.pts, frame.time_base = number, Fraction(1, fps)
            file.mux(video.encode(frame))
            begin, end = (round(n * SAMPLE_RATE / fps) for n in (number, number + 1))
            file.mux(audio.encode(_audio_frame(sound[:, begin:end], begin)))
        file.mux(video.encode(None))
        file.mux(audio.encode(None))
    return Path(path)


def make_sample_mask(path: Path, *, size: tuple[int, int] = (640, 360)) -> Path:
    """Write the walker's outline in the first frame of the clip of that size, as a mask prompt takes it."""
    write_picture(path, EveningWalk(*size).matte(0.0))
    return path


def _audio_frame(samples: NDArray[np.float32], begin: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, begin, Fraction(1, SAMPLE_RATE)
    return frame


def _sound(seconds: float) -> NDArray[np.float32]:
    """Plucked chords, one a second, and a footstep at each pace: float32 (2, samples), within -1..1."""
    count = round(seconds * SAMPLE_RATE)
    mix = np.zeros((2, count + 3 * SAMPLE_RATE), np.float32)
    for second in range(int(np.ceil(seconds))):
        for place, tone in enumerate(_CHORDS[second % len(_CHORDS)]):
            start = round((second + 0.25 * place) * SAMPLE_RATE)
            note = _pluck(220.0 * 2 ** (tone / 12))
            pan = 0.3 + 0.4 * place / 3
            mix[:, start : start + note.size] += np.array([[1 - pan], [pan]], np.float32) * note
    noise = np.random.default_rng(0)
    decay = np.exp(-np.arange(2000, dtype=np.float32) / 220)
    for pace in range(int(seconds * _PACES_PER_SECOND) + 1):
        tap = 0.08 * decay * np.convolve(noise.standard_normal(2000), np.ones(24) / 8, mode="same")
        start = round(pace / _PACES_PER_SECOND * SAMPLE_RATE)
        mix[:, start : start + tap.size] += tap.astype(np.float32)
    mix = mix[:, :count]
    fade = min(count, SAMPLE_RATE // 4)
    mix[:, count - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return (0.5 * mix / max(1e-6, float(np.abs(mix).max()))).astype(np.float32)


def _pluck(frequency: float) -> NDArray[np.float32]:
    time = np.arange(2 * SAMPLE_RATE, dtype=np.float32) / SAMPLE_RATE
    parts = [np.sin(2 * np.pi * frequency * k * time) * np.exp(-time * (1.6 + 1.4 * k)) / k**1.5 for k in range(1, 6)]
    attack = np.minimum(time / 0.006, 1)
    return (sum(parts) * attack).astype(np.float32)
