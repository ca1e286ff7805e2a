"""What demuxers, decoders and clocks stumble over in files that are otherwise whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.audio.frame import AudioFrame
from av.stream import Disposition
from av.video.frame import VideoFrame

from bokeh_assets_tests.media.clips import card, make_clip, tone
from bokeh_assets_tests.trust.corpus.case import FRAMES, SIZE, Case, clip, write

_WRAP = 1 << 33
"""Where the clock of MPEG transport streams starts again."""


_SOUND = ("02", b"A_PCM/INT/LIT")


def streams(*, long: bool) -> list[Case]:
    """Every kind of this module."""
    return [
        *_resolutions(),
        *_keyframes(),
        *_timestamps(),
        *_no_video(),
        *_locked(),
        *_pixels(),
        *_tracks(long),
        *_tags(),
    ]


# Resolution and keyframes ---------------------------------------------------------------------------------------------


def _resolutions() -> list[Case]:
    def joined(path: Path, second: tuple[int, int]) -> None:
        path.write_bytes(clip("h264") + clip("h264", size=second))

    def stream_of(path: Path, format: str, second: tuple[int, int]) -> None:
        """Packets of two clips in one track of the first."""
        other, first = path.with_suffix(".b.mkv"), path.with_suffix(".a.mkv")
        how: dict[str, Any] = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "ticks": range(FRAMES)}
        make_clip(first, size=SIZE, **how)
        make_clip(other, size=second, **how)
        with av.open(str(path), "w", format=format) as out, av.open(str(first)) as a, av.open(str(other)) as b:
            track = out.add_stream_from_template(a.streams.video[0])
            for number, packet in enumerate(p for f in (a, b) for p in f.demux(f.streams.video[0]) if p.size):
                packet.stream, packet.time_base = track, Fraction(1, 24)
                packet.pts = packet.dts = number
                out.mux(packet)
        first.unlink()
        other.unlink()

    return [
        Case("larger_later.h264.mp4", "resolution", lambda p: joined(p, (320, 240)), 16),
        Case("smaller_later.h264.mp4", "resolution", lambda p: joined(p, (32, 32)), 16),
        Case("much_larger_later.avi", "resolution", lambda p: stream_of(p, "avi", (4096, 2160)), 16),
        Case("larger_later.mkv", "resolution", lambda p: stream_of(p, "matroska", (320, 240)), 16),
        Case("one_pixel_later.mkv", "resolution", lambda p: stream_of(p, "matroska", (2, 2)), 16),
    ]


def _keyframes() -> list[Case]:
    gop = {"options": (("g", "100"), ("bf", "0"), ("preset", "veryfast"))}

    def packets(path: Path, keep: Callable[[int], bool], format: str, mark: bool) -> None:
        whole = path.with_suffix(".whole.mkv")
        make_clip(whole, size=SIZE, ticks=range(24), options=dict(gop["options"]))
        with av.open(str(whole)) as source, av.open(str(path), "w", format=format) as out:
            track = out.add_stream_from_template(source.streams.video[0])
            for number, packet in enumerate(p for p in source.demux(source.streams.video[0]) if p.size):
                if keep(number):
                    packet.stream = track
                    packet.is_keyframe = packet.is_keyframe and mark
                    out.mux(packet)
        whole.unlink()

    # Without a picture to start from nothing right can come out: guesses are not taken for frames.
    return [
        Case(
            "no_keyframe.mkv",
            "keyframe",
            lambda p: packets(p, lambda n: n > 0, "matroska", True),
            range(24),
            shows=False,
        ),
        Case("no_keyframe.mp4", "keyframe", lambda p: packets(p, lambda n: n > 0, "mp4", True), range(24), shows=False),
        Case(
            "late_start.ts", "keyframe", lambda p: packets(p, lambda n: n > 5, "mpegts", True), range(24), shows=False
        ),
        Case("none_marked.mkv", "keyframe", lambda p: packets(p, lambda n: True, "matroska", False), 24),
        Case(
            "every_other.mkv",
            "keyframe",
            lambda p: packets(p, lambda n: n % 2 == 0, "matroska", True),
            range(25),
            shows=False,
        ),
    ]


# Time -----------------------------------------------------------------------------------------------------------------


def _timed(path: Path, format: str, stamps: Sequence[int | None], base: Fraction, codec: str = "mjpeg") -> None:
    """Packets with the timestamps as given, past the muxer's own order where it lets them pass."""
    whole = path.with_suffix(".whole.mkv")
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    make_clip(whole, size=SIZE, ticks=range(len(stamps)), codec=codec, pix_fmt=pix_fmt)
    options = {"avoid_negative_ts": "disabled", "fflags": "+bitexact"}
    with av.open(str(whole)) as source, av.open(str(path), "w", format=format, options=options) as out:
        track = out.add_stream_from_template(source.streams.video[0])
        track.time_base = base
        for stamp, packet in zip(stamps, (p for p in source.demux(source.streams.video[0]) if p.size), strict=True):
            packet.stream, packet.time_base = track, base
            packet.pts = packet.dts = stamp
            out.mux(packet)
    whole.unlink()


def _stamped(flv: bytes, stamps: Sequence[int]) -> bytes:
    """A Flash video with these milliseconds on its pictures."""
    out, at, left = bytearray(flv), 13, list(stamps)
    while at + 11 < len(out):
        if out[at] == 9 and left:
            stamp = left.pop(0) & 0xFFFFFFFF
            out[at + 4 : at + 8] = (stamp & 0xFFFFFF).to_bytes(3, "big") + bytes([stamp >> 24])
        at += 11 + int.from_bytes(out[at + 1 : at + 4], "big") + 4
    return bytes(out)


def _timestamps() -> list[Case]:
    step, tick, second = 3750, Fraction(1, 90_000), Fraction(1, 24)
    wrapped = [(_WRAP - 3 * step + n * step) for n in range(FRAMES)]

    def wrap(path: Path) -> None:
        _timed(path, "mpegts", [n % _WRAP if n < _WRAP else n for n in wrapped], tick, codec="mpeg2video")

    def bare(path: Path, codec: str, format: str) -> None:
        make_clip(path, size=SIZE, ticks=range(FRAMES), codec=codec, format=format)

    def flv(name: str, stamps: Sequence[int]) -> Case:
        return Case(
            f"{name}.flv", "timestamps", lambda p: p.write_bytes(_stamped(clip("flv", codec="flv"), stamps)), FRAMES
        )

    far = 1 << 52
    return [
        flv("from_below_zero", range(-400, 400, 100)),
        flv("back_and_forth", [0, 40, 80, 120, 40, 80, 120, 160]),
        flv("backwards", range(8000, 0, -1000)),
        flv("all_equal", [70] * 8),
        flv("wrapped", [(0xFFFFFF - 100 + 40 * n) & 0xFFFFFF for n in range(8)]),
        flv("wrapped_sign", [0x7FFFFFFF - 100 + 40 * n for n in range(8)]),
        flv("random", [7 * 10**8, 3, 2 * 10**9, 5, -(10**9), 17, 2**31 - 1, 0]),
        Case(
            "negative.mp4",
            "timestamps",
            lambda p: make_clip(p, size=SIZE, ticks=range(-4, 4)),
            range(4, 9),
            shows=False,
        ),
        Case("wrapped.ts", "timestamps", wrap, FRAMES),
        Case("far.nut.mp4", "timestamps", lambda p: _timed(p, "nut", [far + n for n in range(8)], second), FRAMES),
        Case(
            "gap_of_days.mkv",
            "timestamps",
            lambda p: _timed(p, "matroska", [0, 1, 2, 10**9, 10**9 + 40], Fraction(1, 1000)),
            5,
        ),
        Case("bare.h264.mp4", "timestamps", lambda p: bare(p, "libx264", "h264"), FRAMES),
        Case("bare.hevc.mp4", "timestamps", lambda p: bare(p, "libx265", "hevc"), FRAMES),
        Case("bare.m4v.mp4", "timestamps", lambda p: bare(p, "mpeg4", "m4v"), FRAMES),
        Case("bare.m2v.mpg", "timestamps", lambda p: bare(p, "mpeg2video", "mpeg2video"), FRAMES),
        Case(
            "bare.mjpeg.mp4",
            "timestamps",
            lambda p: p.write_bytes(clip("mjpeg", codec="mjpeg", pix_fmt="yuvj420p")),
            FRAMES,
        ),
    ]


# No video, locked video -----------------------------------------------------------------------------------------------


def _no_video() -> list[Case]:
    def sound(path: Path, format: str, codec: str, cover: bool) -> None:
        with av.open(str(path), "w", format=format) as file:
            stream: Any = file.add_stream(codec, rate=48_000)
            stream.codec_context.layout = "stereo"
            art: Any = None
            if cover:
                art = file.add_stream("mjpeg", rate=1)
                art.codec_context.width, art.codec_context.height, art.codec_context.pix_fmt = *SIZE, "yuvj420p"
                art.disposition = Disposition.attached_pic
            for block in tone(0.5, 48_000):
                file.mux(stream.encode(_fitting(block, stream)))
            file.mux(stream.encode(None))
            if cover:
                jpeg = np.asarray(cv2.imencode(".jpg", card(*SIZE))[1]).tobytes()
                packet = av.Packet(jpeg)
                packet.stream, packet.pts, packet.dts, packet.time_base = art, 0, 0, Fraction(1, 90_000)
                file.mux(packet)

    return [
        Case("sound.wav.mp4", "no video", lambda p: sound(p, "wav", "pcm_s16le", False)),
        Case("sound.mp4", "no video", lambda p: sound(p, "mp4", "aac", False), says="only sound"),
        Case("sound.mkv", "no video", lambda p: sound(p, "matroska", "flac", False), says="only sound"),
        Case("sound.ogv", "no video", lambda p: sound(p, "ogg", "libopus", False), says="only sound"),
        Case("sound.mp3.mp4", "no video", lambda p: sound(p, "mp3", "libmp3lame", False)),
        Case("cover.mp4", "no video", lambda p: sound(p, "mp4", "aac", True), says="cover art"),
        Case("cover.mp3.mp4", "no video", lambda p: sound(p, "mp3", "libmp3lame", True)),
        Case("subtitles.mkv", "no video", write(_matroska([("11", b"S_TEXT/UTF8")])), says="no video stream"),
    ]


def _fitting(block: AudioFrame, stream: Any) -> AudioFrame:
    from av.audio.resampler import AudioResampler

    context = stream.codec_context
    (fitted,) = AudioResampler(context.format.name, "stereo", 48_000).resample(block)
    return fitted


def _locked() -> list[Case]:
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}

    def scrambled(path: Path) -> None:
        """A transport stream whose packets say that they are scrambled, and are."""
        data, noise = bytearray(clip("ts")), random.Random(0)
        for at in range(0, len(data) - 187, 188):
            if (data[at + 1] & 0x1F, data[at + 2]) == (1, 0):  # the video's packets
                data[at + 3] |= 0xC0
                data[at + 12 : at + 188] = noise.randbytes(176)
        path.write_bytes(data)

    return [
        Case("locked.mp4", "encrypted", lambda p: make_clip(p, size=SIZE, ticks=range(8), muxer=key), says="encrypted"),
        Case(
            "locked_large.mp4",
            "encrypted",
            lambda p: make_clip(p, size=(640, 360), ticks=range(8), muxer=key),
            says="encrypted",
        ),
        Case("scrambled.ts", "encrypted", scrambled),
        Case("wholly_encrypted.mp4", "encrypted", write(random.Random(5).randbytes(50_000)), range(100), shows=False),
    ]


# Pixels, tracks, tags -------------------------------------------------------------------------------------------------


def _pixels() -> list[Case]:
    raw = "gray gray10le yuv410p yuv411p yuv440p yuv444p16le rgb24 bgr0 rgb565le gbrp12le gbrpf32le uyvy422 nv12"
    raw += " yuv420p10le yuva444p10le ya8 monow rgb8 rgb48le"
    cases = []
    for name in raw.split():
        shows = name not in ("gray", "gray10le", "ya8", "monow", "rgb8", "yuv410p", "yuv411p")
        cases.append(
            Case(
                f"{name}.nut.mp4",
                "pixels",
                partial(_raw, pix_fmt=name),
                FRAMES,
                shows=shows,
                short="extract" if name in ("gray", "gbrpf32le", "uyvy422", "monow", "yuva444p10le") else "probe",
            )
        )
    cases.append(Case("two_pixels.mkv", "pixels", lambda p: make_clip(p, size=(2, 2), ticks=range(8)), 8, shows=False))
    cases.append(
        Case(
            "one_line.mkv",
            "pixels",
            lambda p: make_clip(p, size=(4096, 2), ticks=range(8), codec="ffv1"),
            8,
            shows=False,
        )
    )
    return cases


def _raw(path: Path, pix_fmt: str) -> None:
    with av.open(str(path), "w", format="nut") as file:
        stream: Any = file.add_stream("rawvideo", rate=24)
        stream.codec_context.width, stream.codec_context.height = SIZE
        stream.codec_context.pix_fmt, stream.codec_context.time_base = pix_fmt, Fraction(1, 24)
        for index in range(FRAMES):
            frame = VideoFrame.from_ndarray(card(*SIZE, index), "rgb24").reformat(
                format=pix_fmt, dst_colorspace=5, src_color_range=2, dst_color_range=1
            )
            frame.pts, frame.time_base = index, Fraction(1, 24)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def _tracks(long: bool) -> list[Case]:
    def many(path: Path, format: str, count: int) -> None:
        with av.open(str(path), "w", format=format) as file:
            picture: Any = file.add_stream("mpeg4", rate=24)
            picture.codec_context.width, picture.codec_context.height = SIZE
            picture.codec_context.pix_fmt = "yuv420p"
            sounds: list[Any] = [file.add_stream("pcm_s16le", rate=8000) for _ in range(count)]
            for index in range(FRAMES):
                frame = VideoFrame.from_ndarray(card(*SIZE, index), "rgb24").reformat(
                    format="yuv420p", dst_colorspace=5
                )
                frame.pts, frame.time_base = index, Fraction(1, 24)
                file.mux(picture.encode(frame))
            file.mux(picture.encode(None))
            for sound in sounds[:3]:
                block = AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
                block.sample_rate, block.pts = 8000, 0
                file.mux(sound.encode(block))

    return [
        Case("fifty_tracks.mkv", "tracks", lambda p: many(p, "matroska", 50), FRAMES),
        Case("two_hundred_tracks.mkv", "tracks", lambda p: many(p, "matroska", 200), FRAMES),
        Case("hundreds_of_tracks.nut.mp4", "tracks", lambda p: many(p, "nut", 250)),
        Case("thousands_of_tracks.mkv", "tracks", write(_matroska([_SOUND] * 5000))),
        Case("hundred_thousand_tracks.mkv", "tracks", write(_matroska([_SOUND] * (100_000 if long else 30_000)))),
    ]


def _matroska(tracks: Sequence[tuple[str, bytes]]) -> bytes:
    """A Matroska file of tracks (type in hexadecimal, codec), with one packet for the first."""

    def element(name: str, data: bytes) -> bytes:
        return bytes.fromhex(name) + b"\x01" + len(data).to_bytes(7, "big") + data

    def track(number: int, kind: str, codec: bytes) -> bytes:
        name = number.to_bytes(4, "big")
        more = element("e1", element("9f", b"\1")) if kind == "02" else b""
        return element(
            "ae",
            element("d7", name)
            + element("73c5", name)
            + element("83", bytes.fromhex(kind))
            + element("86", codec)
            + more,
        )

    start = clip("mkv")
    head = start[: start.index(bytes.fromhex("18538067"))]
    listed = element("1654ae6b", b"".join(track(n + 1, *how) for n, how in enumerate(tracks)))
    cluster = element("1f43b675", element("e7", b"\0") + element("a3", b"\x81\0\0\x80Nothing to see"))
    return head + element("18538067", listed + cluster)


def _tags() -> list[Case]:
    def tagged(path: Path, title: str, count: int = 0) -> None:
        make_clip(path, size=SIZE, ticks=range(FRAMES), title=title)
        if count:
            whole = path.rename(path.with_suffix(".whole.mkv"))
            with av.open(str(whole)) as source, av.open(str(path), "w", format="matroska") as out:
                track = out.add_stream_from_template(source.streams.video[0])
                for number in range(count):
                    out.metadata[f"tag{number}"] = "x" * 50
                for packet in source.demux(source.streams.video[0]):
                    if packet.size:
                        packet.stream = track
                        out.mux(packet)
            whole.unlink()

    def not_utf8(path: Path) -> None:
        path.write_bytes(
            clip("mkv", title="TITLE_OF_THE_FILM").replace(b"TITLE_OF_THE_FILM", b"\xff\xfe\x80bad\xc3\x28\n\x1b[2J_")
        )

    control = "a\nb\r\x1b]0;owned\x07\x1b[2J\u202etxt.exe\u2028"
    return [
        Case("control_title.mkv", "tags", lambda p: tagged(p, control), FRAMES),
        Case("control_title.mp4", "tags", lambda p: tagged(p, control), FRAMES),
        Case("long_title.mkv", "tags", lambda p: tagged(p, "long " * 200_000), FRAMES),
        Case("not_utf8_title.mkv", "tags", not_utf8, FRAMES),
        Case("thousands_of_tags.mkv", "tags", lambda p: tagged(p, "x", 5_000), FRAMES),
    ]
