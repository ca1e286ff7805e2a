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


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")


def _flush(path: Path) -> None:
    """Forces what was written to `path` onto the disk, so that a rename never outruns its data."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if path.is_dir() and hasattr(libc := ctypes.CDLL(None), "syncfs"):
            libc.syncfs(descriptor)  # one call for a folder of thousands of pictures
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_entry(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
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
    """Deletes a file or folder, if it is there, so that a half-deleted folder never bears its name."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    doomed = _temporary(path)
    os.rename(path, doomed)
    shutil.rmtree(doomed)
