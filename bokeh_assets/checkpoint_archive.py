"""any-to-bokeh's weights come as one archive: fetch it, or take the one put there by hand, and unpack it."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from bokeh_assets.downloads import Progress, fetch
from bokeh_assets.errors import InputError

ARCHIVE = "any_to_bokeh.archive"
BY_HAND = ("any_to_bokeh.zip", "any_to_bokeh.tar", "any_to_bokeh.tar.gz", "any_to_bokeh.tgz")


def install(url: str, folder: Path, parts: Mapping[str, str], *, page: str, progress: Progress | None = None) -> None:
    """Unpacks every part of the archive under `folder`.

    Args:
        url: where the archive is; not asked for where one of `BY_HAND` lies in `folder`.
        parts: target folder under `folder` by name of the archive's folder that holds its `config.json`.
        page: where a person can download the archive by hand.

    Raises:
        InputError: it cannot be fetched, is no archive, lacks a part, or wants to write outside.
    """
    by_hand = [folder / name for name in BY_HAND if (folder / name).is_file()]
    if by_hand:
        archive = by_hand[0]
    else:
        archive = folder / ARCHIVE
        steps = f"Download it by hand from {page}, put it into {folder} as {BY_HAND[0]}, and run the same command again"
        if not archive.is_file():
            fetch(url, archive, sizes=(1 << 20, None), help_text=steps, progress=progress)
    unpack(archive, folder, parts)
    if not by_hand:
        archive.unlink()
        archive.with_name(archive.name + ".json").unlink(missing_ok=True)


def unpack(archive: Path, folder: Path, parts: Mapping[str, str]) -> None:
    """Unpacks the parts of a zip or tar archive; see `install`. Each target folder appears whole or not at all."""
    with _opened(archive) as members:
        names = list(members.names)
        for name in names:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                raise InputError(f"{archive} holds the path {name!r}, which leads outside; it was not unpacked")
        for target, source in parts.items():
            configs = [n for n in names if PurePosixPath(n).parts[-2:] == (source, "config.json")]
            if not configs:
                raise InputError(f"{archive} has no folder {source!r} with a config.json in it; is it any-to-bokeh's?")
            root = min(configs, key=len).removesuffix("config.json")
            destination = folder / target
            destination.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
                new = Path(scratch) / "new"
                for name in names:
                    inside = name.removeprefix(root)
                    if name.startswith(root) and inside and "/" not in inside:
                        new.mkdir(exist_ok=True)
                        with members.open(name) as reader, (new / inside).open("wb") as writer:
                            shutil.copyfileobj(reader, writer, 1 << 20)
                if destination.exists():
                    shutil.rmtree(destination)
                os.replace(new, destination)


class _Members:
    """Regular files of an archive: links and devices are left out."""

    def __init__(self, archive: zipfile.ZipFile | tarfile.TarFile) -> None:
        self._archive = archive
        if isinstance(archive, zipfile.ZipFile):
            self.names = [m.filename for m in archive.infolist() if not m.is_dir()]
        else:
            self.names = [m.name for m in archive.getmembers() if m.isfile()]

    def open(self, name: str) -> IO[bytes]:
        if isinstance(self._archive, zipfile.ZipFile):
            return self._archive.open(name)
        reader = self._archive.extractfile(name)
        assert reader is not None
        return reader


@contextmanager
def _opened(path: Path) -> Iterator[_Members]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as zipped:
            yield _Members(zipped)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as tarred:
            yield _Members(tarred)
    else:
        raise InputError(f"{path} is neither a zip nor a tar archive; delete it and download it again")
