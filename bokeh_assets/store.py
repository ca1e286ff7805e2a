"""VideoStore: where everything of one video lies. No other module builds these paths."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bokeh_assets.atomic import new_file, remove
from bokeh_assets.errors import InputError, one_line
from bokeh_assets.files import is_regular, open_regular
from bokeh_assets.partitions import check_key, fingerprint, key_for

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
_FICLONE = 0x40049409  # of linux/fs.h: share the blocks of another file


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
        self.claim = folder / ".claim"

    @property
    def source(self) -> Path | None:
        """Our own copy of the upload, once frames could be made of it."""
        return next((p for p in sorted(self.folder.glob("source.*")) if p.is_file()), None)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while one asset of the video is made; a second run waits here instead of mixing its output."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not self._holds(file):
                    continue  # the folder was cleaned away while we waited
                yield
                return

    @contextmanager
    def try_lock(self) -> Iterator[bool]:
        """The same lock where nobody has it; whether it could be had is handed to the block."""
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = self._holds(file)
            except BlockingIOError:
                free = False
            yield free

    def _holds(self, file: IO[str]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), (self.folder / ".lock").stat())
        except FileNotFoundError:
            return False

    # What was made, and from what -------------------------------------------------------------------------

    def made(self, asset: str) -> dict[str, Any] | None:
        """The record of the finished output of `asset`: its version, engine, settings; None where unfinished."""
        return _record(self.folder / "made" / f"{asset}.json")

    def cleaned(self, asset: str) -> dict[str, Any] | None:
        """The record of an output that was finished and then cleaned away, and can be made again as it was."""
        return _record(self.folder / "made" / f"{asset}.cleaned.json") if self.made(asset) is None else None

    def unmake(self, asset: str) -> None:
        """Forgets that `asset` was finished: the last thing to do before its output is replaced."""
        remove(self.folder / "made" / f"{asset}.json")

    def note_cleaned(self, asset: str) -> None:
        """Turns the record of `asset` into one of an output that was cleaned away; before it is deleted."""
        path = self.folder / "made" / f"{asset}.json"
        with new_file(path.with_name(f"{asset}.cleaned.json")) as cleaned:
            cleaned.write_bytes(path.read_bytes())
        self.unmake(asset)

    def record(self, asset: str, facts: dict[str, Any]) -> None:
        """Notes that the output of `asset` stands whole, and what it was made from."""
        with new_file(self.folder / "made" / f"{asset}.json") as path:
            path.write_text(json.dumps(facts, indent=1, sort_keys=True, default=str))
        remove(self.folder / "made" / f"{asset}.cleaned.json")

    def stands(self, asset: str, record: dict[str, Any]) -> bool:
        """Whether the output of a record is still there, with all its pictures: disks fail and people tidy up."""
        files = {"frames": self.frames_table, "focus_track": self.focus, "render_csv": self.render_csv}
        folders = {
            "frames": self.frames,
            "masks": self.masks,
            "depth_maps": self.disparity,
            "render_csv": self.render / "disp",
        }
        file, folder = {**files, "bokeh_video": self.bokeh}.get(asset), folders.get(asset)
        if file is not None and not file.is_file():
            return False
        try:
            return folder is None or len(os.listdir(folder)) >= record.get("frames", 0)
        except FileNotFoundError:
            return False

    def need(self, *assets: str) -> dict[str, dict[str, Any]]:
        """The records of the assets an output is made from.

        Raises:
            InputError: one of them has not been made.
        """
        records = {}
        for asset in assets:
            record = self.made(asset)
            if record is None and self.cleaned(asset) is not None:
                raise InputError(f"{self.key}: {asset} was cleaned away to save room; materialize it again first")
            if record is None:
                raise InputError(f"{self.key}: {asset} has not been made; materialize it first")
            if not self.stands(asset, record):
                raise InputError(f"{self.key}: {asset} was made and is not there whole; materialize it again")
            records[asset] = record
        return records

    # The upload -------------------------------------------------------------------------------------------

    def note(self) -> dict[str, str]:
        """The `path` and `fingerprint` of the upload this video was registered from; empty where there is none."""
        try:
            note = json.loads(self.upload.read_text(encoding="utf-8"))
            return {"path": str(note["path"]), "fingerprint": str(note["fingerprint"])}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError):
            return {}  # not ours; registering writes it anew

    def write_note(self, path: str, print_of_file: str) -> None:
        """Notes which file this video comes from."""
        with new_file(self.upload) as file:
            file.write_text(json.dumps({"path": path, "fingerprint": print_of_file}), encoding="utf-8")

    def uploaded_from(self) -> Path:
        """The user's file this video was registered from.

        Raises:
            InputError: nobody registered one (a key typed into the UI, say), or the file is gone.
        """
        note = self.note()
        if not note:
            raise InputError(
                f"{self.key}: no upload belongs to this partition; drop a video into the uploads folder or use "
                "`bokeh-assets run VIDEO`"
            )
        path = Path(note["path"])
        if not is_regular(path):
            raise InputError(f"{path}: the upload of {self.key} is gone; put it back and run again")
        return path

    def upload_is(self, print_of_file: str) -> bool:
        """Whether the registered upload had this `fingerprint`."""
        return self.note().get("fingerprint") == print_of_file

    @contextmanager
    def adopting(self) -> Iterator[Path]:
        """A private copy of the upload to make frames from; it becomes `source` if the block succeeds.

        A source adopted before is used as it is, unless the upload was registered anew, with other bytes, while the
        first was being adopted. A file that turns out broken is never adopted, so a repaired file under the same
        name heals the partition.
        """
        note = self.note()
        if self.source is not None and (not note or fingerprint(self.source) == note["fingerprint"]):
            yield self.source
            return
        upload = self.uploaded_from()
        suffix = upload.suffix.lower() if _SUFFIX.fullmatch(upload.suffix) else ".video"
        with new_file(self.folder / f"source{suffix}") as copy:
            copy_file(upload, copy)
            copied = fingerprint(copy)
            try:
                yield copy
            except InputError as error:  # name the user's file, not the copy that is about to go
                raise InputError(str(error).replace(str(copy), one_line(str(upload)))) from error
            if copied != note["fingerprint"] and self.note() == note:
                self.write_note(note["path"], copied)  # replaced before its turn came: say what was taken


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

    def key_of(self, path: Path, print_of_file: str) -> str:
        """The key of the video that a file of this fingerprint is, known or new.

        The same bytes are the same video under the same name, and under another name if the file of the first is
        gone: a renamed upload. A copy beside the first is a video of its own, so that one clip can have two looks.
        """
        for key in self._keys_with(print_of_file):
            before = Path(self.video(key).note()["path"])
            if before == path.absolute() or not before.is_file():
                return key
        for digits in (8, 16):  # more, should two videos of one name share the first
            key = key_for(path, print_of_file, digits)
            if self.video(key).note().get("fingerprint", print_of_file) == print_of_file:
                break
        return key

    def _keys_with(self, print_of_file: str) -> list[str]:
        """Videos registered with these bytes."""
        try:
            keys = (self.root / "fingerprints" / print_of_file).read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return []
        return [key for key in keys if self.video(key).upload_is(print_of_file)]

    def register(self, path: Path, key: str | None = None, print_of_file: str | None = None) -> VideoFolder:
        """Notes which file a video comes from; key and fingerprint are worked out unless given.

        A settings file of the same name beside the upload becomes the video's settings, unless it has some. A
        symbolic link is followed here and never again, and not at all in the uploads folder, where others may have
        put it: it could make us read what they may not.

        Raises:
            InputError: there is no such file, or it is no plain file.
        """
        links, beside = path.absolute().parent != self.uploads, path.with_suffix(".yaml")
        open_regular(path, links=links).close()
        path = path.resolve() if links else path
        print_of_file = print_of_file or fingerprint(path)
        video = self.video(key or self.key_of(path, print_of_file))
        note = video.note()
        if note.get("fingerprint") != print_of_file or not Path(note["path"]).is_file():
            video.write_note(str(path.absolute()), print_of_file)
        keys = self._keys_with(print_of_file)
        if video.key not in keys:
            with new_file(self.root / "fingerprints" / print_of_file) as file:
                file.write_text("\n".join([*keys, video.key]), encoding="utf-8")
        if os.path.lexists(beside) and not video.settings.exists():
            from bokeh_assets.settings import adopt_settings

            adopt_settings(beside, video.folder, links=links)
        return video


def copy_file(source: Path, target: Path) -> None:
    """Copies bytes, sharing blocks where the filesystem can (reflink), never as a link to the user's file.

    Raises:
        InputError: the source is no plain file, a link, or larger than what the disk has room for.
    """
    with open_regular(source, links=False) as file, target.open("wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, file.fileno())
        except OSError:  # another file system, or one that cannot
            check_space(target.parent, os.fstat(file.fileno()).st_size, f"a copy of {source}")
            shutil.copyfileobj(file, copy, 1 << 20)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raises InputError where the filesystem of `folder` has fewer than `needed` bytes free for `what`."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: {what} needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; make room or "
            "set BOKEH_DATA_DIR to another disk"
        )


def storage_trouble(error: OSError, root: Path) -> str | None:
    """One line on what is wrong with the disk and what to do, where an error is about that; else None."""
    where = error.filename if isinstance(error.filename, str | os.PathLike) else None
    place = os.fspath(where) if where is not None else str(root)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}: the disk is full; make room or set BOKEH_DATA_DIR to another disk"
    if error.errno == errno.EROFS:
        return f"{place}: the disk is read-only; make it writable or set BOKEH_DATA_DIR to another disk"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{place}: permission denied; give the user that runs this the right to read and write there"
    if error.errno in (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO):
        return f"{place}: the disk fails ({os.strerror(error.errno)}); check it, then run again"
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and Path(place).is_relative_to(root):
        return f"{place}: it vanished while it was needed; materialize what it belongs to again"
    return None


def _record(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # a damaged record vouches for nothing
        return None
    return facts if isinstance(facts, dict) else None
