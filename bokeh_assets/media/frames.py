"""Frames on disk and in memory: the one shape in which every engine takes pictures.

An engine takes any `Frames`: something with a length whose items are uint8 HxWx3 RGB arrays. A list of arrays is
one, a `FrameFolder` is one, and `spooled` makes one of a generator. Nothing here holds a whole video.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.errors import InputError
from bokeh_assets.files import open_regular

Picture = NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg")
JPEG_QUALITY = 95

# Differences to the row above, run lengths only: half the time of OpenCV's choice of filters, and no larger.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # not in older OpenCV
    _PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


@runtime_checkable
class Frames(Protocol):
    """Pictures of one video in order, reachable by number: uint8 arrays HxWx3, RGB, all of one size."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Picture: ...

    def __iter__(self) -> Iterator[Picture]: ...


class FrameFolder:
    """Read the pictures of a folder by number: `00000.png`, `00001.png`, … (or `.jpg`).

    Every picture is read when asked for; nothing is kept. Names are integers and are sorted as such; other files
    (`.DS_Store`, `frames.parquet`) are passed over. A negative index counts from the end.

    Raises:
        InputError: the folder is missing or holds no numbered picture; numbers are missing or doubled; a picture
            cannot be read or has another size than the first.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._files = _numbered(self.path, re.compile(r"(\d+)"))
        first = _read(self._files[0], cv2.IMREAD_COLOR_RGB)
        self.size: tuple[int, int] = (first.shape[1], first.shape[0])
        """Width and height in pixels."""

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int, /) -> Picture:
        picture = _read(self._files[index], cv2.IMREAD_COLOR_RGB)
        _check_size(self._files[index], picture, self.size)
        return picture

    def __iter__(self) -> Iterator[Picture]:
        return (self[i] for i in range(len(self)))

    def file(self, index: int) -> Path:
        """Path of the picture with this number."""
        return self._files[index]


class MapFolder:
    """Read a folder of 8-bit mattes or disparity maps by number, as float32 HxW in 0..1.

    The number is the name up to its first `_` or `.`, so both `00000.png` and `00000_zf_0.53367.png` serve.
    Colour pictures are taken as grey only if they are grey. Errors are those of `FrameFolder`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._files = _numbered(self.path, re.compile(r"(\d+)(?:[_.].*)?"))
        first = self.raw(0)
        self.size: tuple[int, int] = (first.shape[1], first.shape[0])
        """Width and height in pixels."""

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int, /) -> NDArray[np.float32]:
        picture = self.raw(index)
        _check_size(self._files[index], picture, self.size)
        return picture.astype(np.float32) / np.float32(255)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self[i] for i in range(len(self)))

    def raw(self, index: int) -> Picture:
        """The map as it is stored: uint8 HxW."""
        picture = _read(self._files[index], cv2.IMREAD_UNCHANGED)
        if picture.ndim == 3:
            colours = picture[..., :3]
            if (colours != colours[..., :1]).any():
                raise InputError(f"{self._files[index]} is a colour picture; a map has one channel")
            picture = np.ascontiguousarray(colours[..., 0])
        return picture

    def file(self, index: int) -> Path:
        """Path of the map with this number."""
        return self._files[index]


def write_picture(path: Path, array: NDArray[Any]) -> None:
    """Write uint8 HxWx3 (RGB) or HxW (grey) as `.png` (lossless, fast compression) or `.jpg` (quality 95, 4:4:4).

    Raises:
        ValueError: the array is no such picture, or the suffix is neither.
        OSError: the file cannot be written (no space, no folder, no right).
    """
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"a picture is uint8 HxWx3 or HxW, not {array.dtype} {array.shape}")
    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        options = _PNG
    elif suffix in SUFFIXES:
        options = [
            *(cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
        ]
    else:
        raise ValueError(f"{path}: pictures are written as .png or .jpg")
    bgr = array if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(suffix, bgr, options)
    if not done:
        raise OSError(f"{path}: the picture could not be encoded")
    # Python's own writing reports a full disk; cv2.imwrite only says False, or nothing.
    Path(path).write_bytes(data.data)


@contextmanager
def spooled(frames: Iterable[Picture], *, folder: Path | None = None) -> Iterator[Frames]:
    """Give random access to any iterable of pictures for the length of a `with` block.

    What has a length and an index already is passed through. Anything else is read once into an unnamed temporary
    file (in `folder`, or where temporary files lie), which is gone when the block ends.
    """
    if hasattr(frames, "__len__") and hasattr(frames, "__getitem__"):
        yield frames  # type: ignore[misc]
        return
    with tempfile.TemporaryFile(dir=folder, prefix="bokeh_frames_") as file:
        count, shape = 0, None
        for picture in frames:
            if shape is None:
                shape = picture.shape
            if picture.shape != shape or picture.dtype != np.uint8:
                raise ValueError(f"frame {count} is {picture.dtype} {picture.shape}, the first was uint8 {shape}")
            file.write(np.ascontiguousarray(picture).data)
            count += 1
        file.flush()
        yield _Spool(file, count, shape or (0, 0, 3))


class _Spool(Sequence[Picture]):
    def __init__(self, file: Any, count: int, shape: tuple[int, ...]) -> None:
        self._file, self._count, self._shape = file, count, shape

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any, /) -> Any:
        number = index + self._count if index < 0 else index
        if not 0 <= number < self._count:
            raise IndexError(f"frame {index} of {self._count}")
        picture = np.empty(self._shape, np.uint8)
        self._file.seek(number * picture.nbytes)
        self._file.readinto(picture.data)
        return picture


def _numbered(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the numbered pictures")
    files: dict[int, Path] = {}
    for file in folder.iterdir():
        match = pattern.fullmatch(file.stem)
        if match is None or file.suffix.lower() not in SUFFIXES:
            continue
        number = int(match[1])
        if number in files:
            raise InputError(f"{folder}: {files[number].name} and {file.name} are the same frame; remove one")
        files[number] = file
    if not files:
        raise InputError(f"{folder} holds no numbered picture such as 00000.png")
    start = min(files)
    for number in range(start, start + len(files)):
        if number not in files:
            raise InputError(f"{folder}: picture {number:05d} is missing; the numbers must have no gaps")
    return [files[number] for number in sorted(files)]


def _read(file: Path, flags: int) -> Picture:
    try:
        with open_regular(file) as opened:
            data = np.frombuffer(opened.read(), np.uint8)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); write it again") from error
    try:
        picture = cv2.imdecode(data, flags) if data.size else None
    except cv2.error as error:  # a header that claims too much, say
        raise InputError(f"{file} is not a readable picture ({error.err}); write it again") from None
    if picture is None:
        raise InputError(f"{file} is not a readable picture; write it again")
    if picture.dtype != np.uint8:
        raise InputError(f"{file} has 16 bits per sample; 8 are expected")
    return picture


def _check_size(file: Path, picture: Picture, size: tuple[int, int]) -> None:
    if (picture.shape[1], picture.shape[0]) != size:
        raise InputError(
            f"{file} is {picture.shape[1]}x{picture.shape[0]}, the first picture is {size[0]}x{size[1]}; "
            "all must be of one size"
        )
