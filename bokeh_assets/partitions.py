"""The `videos` partitions: one key per video, made from its name and its bytes, checked in one place."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path

import dagster as dg

from bokeh_assets.errors import InputError
from bokeh_assets.files import open_regular

videos = dg.DynamicPartitionsDefinition(name="videos")

_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_SAMPLE = 1 << 20


def check_key(key: str) -> str:
    """`key` itself, if it may name a folder of the store.

    Keys come from file names, from the command line and from whoever adds a partition in the UI, and become
    folder names, so every way in passes here.

    Raises:
        InputError: it is anything but 1 to 100 of a-z 0-9 . _ - starting with a letter or digit, or has "..".
    """
    if not _KEY.fullmatch(key) or ".." in key:
        raise InputError(
            f"partition key {key!r} is not valid: use 1 to 100 of a-z 0-9 . _ - beginning with a letter or "
            "digit and without '..' (drop the file into the uploads folder to get a good one)"
        )
    return key


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) of the size of a file and of 1 MiB at its start, middle and end.

    Cheap enough for a sensor tick over large files; the full hash is taken once, when frames are made.

    Raises:
        InputError: it is no plain file, or a link.
    """
    with open_regular(path, links=False) as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        for start in sorted({0, max(0, size // 2 - _SAMPLE // 2), max(0, size - _SAMPLE)}):
            file.seek(start)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def key_for(path: Path, print_of_file: str | None = None, digits: int = 8) -> str:
    """Partition key of a video file: a slug of its name, then the first hex digits of its fingerprint."""
    plain = unicodedata.normalize("NFKD", path.stem).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:80].strip("-") or "video"
    return check_key(f"{slug}-{(print_of_file or fingerprint(path))[:digits]}")
