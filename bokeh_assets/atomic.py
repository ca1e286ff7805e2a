"""Outputs appear whole or not at all."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp-"
"""Every unfinished output's name starts with this; such a leftover may be deleted when nothing runs."""

_LIBC = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None


def leftovers(folder: Path) -> list[Path]:
    """Unfinished outputs lying directly in `folder`: of work that goes on, or of a process that was killed."""
    return sorted(folder.glob(f"{TEMPORARY}*"))


def _temporary(path: Path) -> Path:
    _make_folder(path.parent)
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")


def _make_folder(folder: Path) -> None:
    """Makes a folder and those above it, each of which a power cut may take no longer once this returns."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush_entry(folder.parent)


def _flush(path: Path) -> None:
    """Forces what was written to `path` onto the disk, so that a rename never outruns its data."""
    if not path.is_dir():
        _flush_entry(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if _LIBC is not None and hasattr(_LIBC, "syncfs"):
            # One call for a folder of thousands of pictures. It is what tells of a write that failed late.
            if _LIBC.syncfs(descriptor):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(path))
        else:
            for file in path.rglob("*"):
                _flush_entry(file)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_entry(path: Path) -> None:
    """Flushes one file, or the names in one folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path with the suffix of `path`, which becomes `path` when the block ends without an error."""
    temporary = _temporary(path)
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush_entry(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty temporary folder, which becomes `path` (replacing it) when the block ends without an error."""
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        _flush(temporary)
        remove(path)
        os.rename(temporary, path)
        _flush_entry(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove(path: Path) -> None:
    """Deletes a file or folder, if it is there, so that a half-deleted folder never bears its name.

    The deletion of a file is on the disk when this returns: what comes after it never outruns it.
    """
    if not path.is_dir() or path.is_symlink():
        if path.is_symlink() or path.exists():
            path.unlink(missing_ok=True)
            _flush_entry(path.parent)
        return
    doomed = _temporary(path)
    os.rename(path, doomed)
    shutil.rmtree(doomed)
