"""A disk that fills, turns read-only, denies or loses things at a chosen moment, and what a run makes of it.

One command: `python -m pytest bokeh_assets_tests/trust/test_disk.py -s -m ""`.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bokeh_assets import atomic
from bokeh_assets.errors import InputError
from bokeh_assets.processing import process
from bokeh_assets_tests.serving import REPOSITORY
from bokeh_assets_tests.trust.zygote import listing

PAGE = 4096

STAGES = {
    "source.mp4": "frames",
    "frames": "frames",
    "disparity": "depth_maps",
    "masks": "masks",
    "focus.parquet": "focus_track",
    "render": "render_csv",
    "bokeh.mp4": "bokeh_video",
}
"""What is being written when the disk fills, and the asset it belongs to; in order."""


class SmallDisk:
    """A mounted tmpfs that can be filled and emptied."""

    def __init__(self, path: Path):
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, left: int = 0) -> None:
        """Takes up all room but `left` pages."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(PAGE))
            except OSError:
                pass
            size = os.fstat(file.fileno()).st_size // PAGE * PAGE
        os.truncate(self._ballast, max(0, size - left * PAGE))

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def read_only(self, yes: bool) -> None:
        subprocess.run(["mount", "-o", f"remount,{'ro' if yes else 'rw'}", str(self.path)], check=True)


@contextmanager
def small_disk(path: Path, size: str = "24m") -> Iterator[SmallDisk]:
    """A tmpfs of this size; skips the test where none may be mounted."""
    path.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small filesystem")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def when_writing(name: str, act: Callable[[], None]) -> Iterator[None]:
    """Does `act` once, at the moment at which the output of this name is begun."""
    original, done = atomic._temporary, False

    def temporary(path: Path) -> Path:
        nonlocal done
        result = original(path)
        if path.name == name and not done:
            done = True
            act()
        return result

    atomic._temporary = temporary
    try:
        yield
    finally:
        atomic._temporary = original
    assert done, f"{name} was never written"


def run(clip: Path) -> str:
    """`bokeh-assets run` in this process; the error it ends with, or nothing."""
    try:
        process(clip, {}, None, say=lambda line: None)
    except InputError as error:
        return str(error)
    return ""


def only_video(data: Path) -> Path:
    """The folder of the one video in a store."""
    (video,) = (path for path in (data / "videos").iterdir() if not path.name.startswith("."))
    return video


def outputs(data: Path) -> dict[str, str]:
    """Every file of the one video with a hash, but for the note of where it was uploaded from."""
    return {name: digest for name, digest in listing(only_video(data)).items() if name != "upload.json"}


def finished(data: Path) -> set[str]:
    """Assets that are recorded as made."""
    return {path.stem for path in (only_video(data) / "made").glob("*.json")}


def unfinished(data: Path) -> list[Path]:
    """What should not be left after an error."""
    return list(data.rglob(".tmp-*"))


def without_roots_rights(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs `bokeh-assets …` bound by permissions, as a user other than root is."""

    def drop() -> None:
        libc = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP

    command = [sys.executable, "-m", "bokeh_assets.cli", *words]
    return subprocess.run(
        command, env={**os.environ, **environment}, cwd=REPOSITORY, capture_output=True, text=True, preexec_fn=drop
    )
