"""Truncated, empty, random and mislabelled files."""

from __future__ import annotations

import io
import random
import zipfile
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from bokeh_assets_tests.media.clips import card
from bokeh_assets_tests.trust.corpus.case import CODECS, FRAMES, SIZE, Case, clip, write

_MAGIC = {
    "mp4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
    "moov": b"\0\0\0\x08ftyp\0\1\0\0moov",
    "mkv": bytes.fromhex(
        "1a45dfa3a342868101 42f7810142f2810442f381084282886d6174726f736b61 42878104428581021853806701ffffffffffffff"
    ),
    "avi": b"RIFF\xff\xff\xff\x7fAVI LIST\xff\xff\0\0hdrlavih",
    "flv": b"FLV\1\5\0\0\0\x09\0\0\0\0",
    "ogv": b"OggS\0\2\0\0\0\0\0\0\0\0",
    "wmv": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    "mpg": b"\0\0\1\xba\x44\0\4\0\4\1\0\0\3\xf8\0\0\1\xe0",
    "gif": b"GIF89a\xff\xff\xff\xff\xf7\0\0",
    "nut": b"nut/multimedia container\0NM",
    "ivf": b"DKIF\0\0\x20\0VP80",
    "y4m": b"YUV4MPEG2 W96 H64 F25:1 Ip A1:1 C420\nFRAME\n",
    "webp": b"RIFF\xff\xff\xff\x7fWEBPVP8X",
    "h264": b"\0\0\0\1\x67\x42\0\x1e",
    "rm": b".RMF\0\0\0\x12\0\0",
    "mxf": bytes.fromhex("060e2b34020501010d01020101020400"),
}


def damaged() -> list[Case]:
    """Every kind of this module."""
    return [*_truncated(), *_zero(), *_random(), *_flipped(), *_mislabelled()]


def _truncated() -> list[Case]:
    cases = []
    for format in CODECS:
        how: dict[int, Literal["probe", "extract", "skip"]]
        how = {2: "skip", 15: "probe", 50: "extract", 85: "skip", 99: "probe"}
        for percent in how:

            def make(path: Path, format: str = format, percent: int = percent) -> None:
                data = clip(format)
                path.write_bytes(data[: max(1, len(data) * percent // 100)])

            # What is left of a picture may be guessed by the decoder; that is told as a warning.
            cases.append(
                Case(f"cut_{percent}.{format}", "truncated", make, range(FRAMES + 1), short=how[percent], shows=False)
            )

    def first(path: Path, share: float = 1.0, size: int | None = None, fast: bool = False) -> None:
        data = clip("mp4", muxer=(("movflags", "+faststart"),)) if fast else clip()
        path.write_bytes(data[: round(len(data) * share) if size is None else size])

    for percent in (30, 60, 80, 95):
        cases.append(
            Case(f"cut_fast_{percent}.mp4", "truncated", partial(first, share=percent / 100, fast=True), range(9))
        )
    for size in (1, 7, 8, 31, 36):
        cases.append(Case(f"first_{size}.mp4", "truncated", partial(first, size=size)))
    return cases


def _zero() -> list[Case]:
    def hole(path: Path) -> None:
        data = bytearray(clip("mkv"))
        data[len(data) // 2 : len(data) // 2 + 600] = bytes(600)
        path.write_bytes(data)

    return [
        Case("empty.mp4", "zero", write(b""), says="empty"),
        Case("one_zero.mp4", "zero", write(b"\0")),
        Case("zeros.mkv", "zero", write(bytes(4096))),
        Case("many_zeros.avi", "zero", write(bytes(1 << 20))),
        Case("hole.mkv", "zero", hole, range(9), shows=False),
        Case("zero_head.mp4", "zero", lambda p: p.write_bytes(bytes(64) + clip()[64:]), range(9)),
        Case("sparse.mp4", "zero", _sparse),
    ]


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 36)


def _random() -> list[Case]:
    cases = []
    for size in (100, 5_000, 300_000):
        data = random.Random(size).randbytes(size)
        cases.append(Case(f"noise_{size}.mp4", "random", write(data), range(100), shows=False))
    for format, magic in _MAGIC.items():
        data = magic + random.Random(format).randbytes(60_000)
        many = range(100_000)
        cases.append(Case(f"noise_behind_magic.{format}.mp4", "random", write(data), many, shows=False))
    packets = b"".join(b"\x47" + random.Random(i).randbytes(187) for i in range(400))
    cases.append(Case("noise_packets.ts", "random", write(packets), range(10_000), shows=False))
    return cases


def _flipped() -> list[Case]:
    cases = []
    for format in ("mp4", "mkv", "ts", "avi", "webm", "flv", "wmv", "ogv"):
        for seed in (1, 2, 3):

            def make(path: Path, format: str = format, seed: int = seed) -> None:
                draw = random.Random(seed)
                data = bytearray(clip(format))
                for _ in range(max(3, len(data) // 300)):
                    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
                path.write_bytes(data)

            cases.append(
                Case(
                    f"flips_{seed}.{format}",
                    "random",
                    make,
                    range(100_000),
                    shows=False,
                    short="extract" if seed == 1 else "skip",
                )
            )
    return cases


def _mislabelled() -> list[Case]:
    picture = cv2.cvtColor(card(*SIZE), cv2.COLOR_RGB2BGR)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("clip.mp4", clip())

    def mislabelled(path: Path, format: str) -> None:
        path.write_bytes(clip(format))

    good = [("mkv", "mp4"), ("mp4", "avi"), ("ts", "mov"), ("webm", "mp4"), ("avi", "ts"), ("flv", "mkv")]
    cases = [
        Case(f"really_{real}.{said}", "wrong extension", partial(mislabelled, format=real), FRAMES)
        for real, said in good
    ]
    other = {
        "png": np.asarray(cv2.imencode(".png", picture)[1]).tobytes(),
        "jpg": np.asarray(cv2.imencode(".jpg", picture)[1]).tobytes(),
        "zip": archive.getvalue(),
        "html": b"<!DOCTYPE html><html><video src='http://127.0.0.1/'></video></html>" * 20,
        "pdf": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n" * 30,
        "elf": b"\x7fELF\2\1\1" + bytes(500),
        "script": b"#!/bin/sh\necho taken over > /tmp/taken\n" * 20,
        "json": b'{"video": "file:///etc/passwd"}' * 30,
    }
    # A JPEG is a film of one frame to FFmpeg's own reader of bare JPEG streams; the picture is right.
    counts = {"jpg": range(2)}
    return cases + [
        Case(f"really_{kind}.mp4", "wrong extension", write(data), counts.get(kind)) for kind, data in other.items()
    ]
