"""VideoStore: where everything of one video lies. No other module builds these paths."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bokeh_assets.atomic import new_file, remove
from bokeh_assets.errors import InputError
from bokeh_assets.partitions import check_key, fingerprint, key_for


class VideoFolder:
    """The paths of one video; nothing is made or read by looking at them."""

    def __init__(self, folder: Path, key: str):
        self.key = key
        self.folder = folder
        self.upload = folder / "upload.json"
        self.settings = folder / "settings.yaml"
        self.prompts = folder / "prompts"
        self.frames = folder / "frames"
        self.frames_table = folder / "frames.parquet"
        self.masks = folder / "masks"
        self.disparity = folder / "disparity"
        self.focus = folder / "focus.parquet"
        self.render = folder / "render"
        self.render_csv = folder / "render" / "render.csv"
        self.bokeh = folder / "bokeh.mp4"

    @property
    def source(self) -> Path | None:
        """Our own copy of the upload, once frames could be made of it."""
        return next((p for p in sorted(self.folder.glob("source.*")) if p.is_file()), None)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while one asset of the video is made; a second run waits here instead of mixing its output."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # What was made, and from what -------------------------------------------------------------------------

    def made(self, asset: str) -> dict[str, Any] | None:
        """The record of the finished output of `asset`: its version, engine, settings; None where unfinished."""
        path = self.folder / "made" / f"{asset}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def unmake(self, asset: str) -> None:
        """Forgets that `asset` was finished: the first thing to do before its output is replaced."""
        remove(self.folder / "made" / f"{asset}.json")

    def record(self, asset: str, facts: dict[str, Any]) -> None:
        """Notes that the output of `asset` stands whole, and what it was made from."""
        with new_file(self.folder / "made" / f"{asset}.json") as path:
            path.write_text(json.dumps(facts, indent=1, sort_keys=True, default=str))

    def need(self, *assets: str) -> dict[str, dict[str, Any]]:
        """The records of the assets an output is made from.

        Raises:
            InputError: one of them has not been made.
        """
        records = {}
        for asset in assets:
            record = self.made(asset)
            if record is None:
                raise InputError(f"{self.key}: {asset} has not been made; materialize it first")
            records[asset] = record
        return records

    # The upload -------------------------------------------------------------------------------------------

    def uploaded_from(self) -> Path:
        """The user's file this video was registered from.

        Raises:
            InputError: nobody registered one (a key typed into the UI, say), or the file is gone.
        """
        if not self.upload.is_file():
            raise InputError(
                f"{self.key}: no upload belongs to this partition; drop a video into the uploads folder or use "
                "`bokeh-assets run VIDEO`"
            )
        path = Path(json.loads(self.upload.read_text())["path"])
        if not path.is_file():
            raise InputError(f"{path}: the upload of {self.key} is gone; put it back and run again")
        return path

    def upload_is(self, print_of_file: str) -> bool:
        """Whether the registered upload had this `fingerprint`."""
        return self.upload.is_file() and json.loads(self.upload.read_text())["fingerprint"] == print_of_file

    @contextmanager
    def adopting(self) -> Iterator[Path]:
        """A private copy of the upload to make frames from; it becomes `source` if the block succeeds.

        A source adopted before is used as it is. A file that turns out broken is never adopted, so a repaired
        file under the same name heals the partition.
        """
        if self.source is not None:
            yield self.source
            return
        upload = self.uploaded_from()
        suffix = upload.suffix.lower() if upload.suffix.isascii() and upload.suffix else ".video"
        with new_file(self.folder / f"source{suffix}") as copy:
            copy_file(upload, copy)
            yield copy


class VideoStore:
    """All videos under one root (`BOKEH_DATA_DIR`, default `./data`)."""

    def __init__(self, root: str | Path | None = None):
        self.root = Path(root or os.environ.get("BOKEH_DATA_DIR") or "data").absolute()
        self.uploads = self.root / "uploads"
        self.videos = self.root / "videos"

    @property
    def dagster_home(self) -> Path:
        """DAGSTER_HOME where the user set it, else a folder of the store."""
        return Path(os.environ.get("DAGSTER_HOME") or self.root / "dagster").absolute()

    def video(self, key: str) -> VideoFolder:
        """The folder of one video. Raises InputError for a key that may not name a folder."""
        return VideoFolder(self.videos / check_key(key), key)

    def register(self, path: Path, key: str | None = None) -> VideoFolder:
        """Notes which file a video comes from; `key` is worked out from name and bytes unless given.

        A settings file of the same name beside the upload becomes the video's settings, unless it has some.

        Raises:
            InputError: there is no such file.
        """
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        video = self.video(key or key_for(path))
        with new_file(video.upload) as file:
            file.write_text(json.dumps({"path": str(path.absolute()), "fingerprint": fingerprint(path)}))
        beside = path.with_suffix(".yaml")
        if beside.is_file() and not video.settings.exists():
            from bokeh_assets.settings import adopt_settings

            adopt_settings(beside, video.folder)
        return video


def copy_file(source: Path, target: Path) -> None:
    """Copies bytes, sharing blocks where the filesystem can (reflink), never as a link to the user's file."""
    cp = shutil.which("cp")
    if cp and subprocess.run([cp, "--reflink=always", "--", source, target], capture_output=True).returncode == 0:
        return
    shutil.copyfile(source, target)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raises InputError where the filesystem of `folder` has fewer than `needed` bytes free for `what`."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: {what} needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; make room or "
            "set BOKEH_DATA_DIR to another disk"
        )


def disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk or quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
