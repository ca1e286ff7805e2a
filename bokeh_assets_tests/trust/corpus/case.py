"""A hostile file, and clips to make one of."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bokeh_assets_tests.media.clips import make_clip

SIZE = (96, 64)
FRAMES = 8

Make = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """One file.

    frames: how many frames it has: exactly so many must come out, of which the first is checked. A range: as many
        as could be saved; none is allowed if it begins with 0, and means a clear error. Every frame that comes out
        of a clip of ours must be right. None: it must be refused.
    says: words of the error it must be refused with, where the reason matters.
    shows: whether the pictures are those of the clip (`card`), rather than only of equal size.
    """

    name: str
    kind: str
    make: Make
    frames: int | range | None = None
    says: str = ""
    shows: bool = True
    short: Literal["probe", "extract", "skip"] = "probe"
    """What the short run does with it: probe, extract, or skip it (there are others like it)."""

    def __str__(self) -> str:
        return self.name


@functools.cache
def _clip(format: str, items: tuple[tuple[str, Any], ...]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip.{format}"
        make_clip(path, **{"size": SIZE, "ticks": range(FRAMES), **dict(items)})
        return path.read_bytes()


CODECS: dict[str, dict[str, Any]] = {
    "mp4": {},
    "mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mkv": {},
    "ts": {},
    "avi": {"codec": "mpeg4"},
    "webm": {"codec": "libvpx"},
    "flv": {},
    "mpg": {"codec": "mpeg2video"},
    "ogv": {"codec": "libvpx"},
    "wmv": {"codec": "wmv2"},
    "gif": {"codec": "gif", "pix_fmt": "rgb8"},
}


def clip(format: str = "mp4", **how: Any) -> bytes:
    """The bytes of a good clip of eight cards, 96x64 (see `make_clip`)."""
    return _clip(format, tuple({**CODECS.get(format, {}), **how}.items()))


def write(data: bytes) -> Make:
    """Makes a file of these bytes."""
    return lambda path: path.write_bytes(data)


def patched(data: bytes, changes: Sequence[tuple[bytes, int, bytes]]) -> bytes:
    """`data` with bytes overwritten: (mark, offset behind its start, new bytes), at the first place of the mark."""
    out = bytearray(data)
    for mark, offset, new in changes:
        at = out.index(mark) + offset
        out[at : at + len(new)] = new
    return bytes(out)
