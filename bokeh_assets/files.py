"""Opening files that others may have put there."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from bokeh_assets.errors import InputError


def open_regular(path: Path, *, links: bool = True, inside: Path | None = None) -> BinaryIO:
    """Open a file to read, if it is a plain file; never waits, as opening a pipe or a device would.

    What is checked is the open file itself, so that swapping it for something else meanwhile gains nothing.

    Args:
        path: the file.
        links: follow it if it is a symbolic link.
        inside: refuse a file that does not lie in this folder, whatever links led to it.

    Raises:
        InputError: missing, not permitted, a folder, pipe, socket or device, a link although `links` is False,
            outside of `inside`.
    """
    no_link = 0 if links else os.O_NOFOLLOW
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | no_link)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist; check the name") from None
    except ValueError:
        raise InputError(f"{path} is no name a file can have (it holds a zero byte); check the name") from None
    except OSError as error:
        if not links and error.errno in (errno.ELOOP, errno.EMLINK):  # Linux and macOS; FreeBSD
            raise InputError(f"{path} is a symbolic link, which is not followed here; put the file there") from None
        raise InputError(f"{path} cannot be opened ({error.strerror}); check its name and permissions") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path} is a folder; give a file")
        if not stat.S_ISREG(mode):
            raise InputError(f"{path} is a pipe, socket or device, not a file; give a file")
        if inside is not None and not _place(descriptor, path).is_relative_to(inside.resolve()):
            raise InputError(f"{path} lies outside the folder {inside}; put the file itself there")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_small(path: Path, most: int, *, links: bool = True, inside: Path | None = None) -> bytes:
    """The bytes of a plain file (see `open_regular`) of at most `most` bytes.

    Raises:
        InputError: as `open_regular`, or it is larger.
    """
    with open_regular(path, links=links, inside=inside) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise InputError(f"{path} is larger than {most // 1024} KiB, the most that is read; make it smaller")
    return data


def is_regular(path: Path, *, links: bool = True) -> bool:
    """Whether a plain file lies there; False for whatever cannot be, such as names that are too long."""
    try:
        mode = (os.stat if links else os.lstat)(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode)


def _place(descriptor: int, path: Path) -> Path:
    """Where an open file really lies."""
    if sys.platform == "linux":
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    return Path(path).resolve()
