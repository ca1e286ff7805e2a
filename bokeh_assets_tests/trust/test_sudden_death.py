"""Runs, steps, daemons and servers are killed at any moment; nothing is lost and nothing is left behind."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from bokeh_assets import atomic
from bokeh_assets.atomic import new_file, new_folder, remove
from bokeh_assets.store import VideoStore
from bokeh_assets_tests.trust.kills import Real, Tally, forked

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc")


@linux
def test_a_few_killed_runs_lose_nothing(tmp_path: Path):
    seed, tally = random.randrange(1 << 30), Tally()
    print(f"seed {seed}")
    forked(tmp_path, 20, seed, tally)
    print(tally.table())
    assert tally.total == 20 and tally.compared >= 2
    tally.check()


@linux
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_three_hundred_killed_processes_lose_nothing(tmp_path: Path):
    seed, tally = random.randrange(1 << 30), Tally()
    print(f"seed {seed}")
    forked(tmp_path, 284, seed, tally)
    print(tally.table())
    Real(tmp_path, seed, tally).go(20, 600)
    print(tally.table())
    tally.check()
    assert tally.total >= 300
    assert {target for target, _ in tally.kills} == {"run", "worker", "step", "daemon", "dev", "dagster dev", "all"}


# The order of things, which a power cut tests ----------------------------------------------------------------


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every flush, rename and deletion, in order, with the name it was done to."""
    seen: list[tuple[str, str]] = []

    def note(place: Any, name: str, what: str) -> None:
        original = getattr(place, name)

        def noted(*words: Any, **options: Any) -> Any:
            target = words[0]
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
            seen.append((what, Path(path).name))
            return original(*words, **options)

        monkeypatch.setattr(place, name, noted)

    note(os, "fsync", "flush")
    note(os, "replace", "publish")
    note(os, "rename", "publish")
    note(os, "unlink", "delete")

    class Libc:
        """The C library, whose `syncfs` says that it was called."""

        def syncfs(self, descriptor: int) -> int:
            seen.append(("flush", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
            return 0

    monkeypatch.setattr(atomic, "_LIBC", Libc())
    return seen


@linux
def test_a_file_is_flushed_before_the_rename_that_publishes_it(order: list[tuple[str, str]], tmp_path: Path):
    with new_file(tmp_path / "deep" / "a.txt") as path:
        path.write_text("whole")
    assert order[:4] == [("flush", tmp_path.name), ("flush", path.name), ("publish", path.name), ("flush", "deep")]


@linux
def test_a_folder_is_flushed_before_the_rename_that_publishes_it(order: list[tuple[str, str]], tmp_path: Path):
    with new_folder(tmp_path / "frames") as folder:
        (folder / "00000.png").write_bytes(b"1")
    assert order == [("flush", folder.name), ("publish", folder.name), ("flush", tmp_path.name)]


@linux
def test_without_syncfs_every_file_of_a_folder_is_flushed(
    order: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(atomic, "_LIBC", None)
    with new_folder(tmp_path / "frames") as folder:
        (folder / "00000.png").write_bytes(b"1")
    assert order[:2] == [("flush", "00000.png"), ("flush", folder.name)] and order[2][0] == "publish"


@linux
def test_a_record_is_gone_from_the_disk_before_its_output_is_replaced(order: list[tuple[str, str]], tmp_path: Path):
    video = VideoStore(tmp_path).video("a")
    with new_folder(video.masks):
        pass
    video.record("masks", {"version": "1"})
    del order[:]
    with new_folder(video.masks):
        video.unmake("masks")
    video.record("masks", {"version": "2"})
    names = [(what, name.split("-")[-1]) for what, name in order]
    gone = names.index(("delete", "masks.json"))
    assert names[gone + 1] == ("flush", "made")
    replaced = names.index(("publish", "masks"))
    assert gone < names.index(("flush", "masks")) < replaced
    assert replaced < names.index(("flush", "a")) < names.index(("publish", "masks.json"))


@linux
def test_a_write_that_fails_late_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Libc:
        def syncfs(self, descriptor: int) -> int:
            ctypes.set_errno(28)  # ENOSPC
            return -1

    monkeypatch.setattr(atomic, "_LIBC", Libc())
    with pytest.raises(OSError, match="No space left"), new_folder(tmp_path / "frames"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_half_deleted_folder_never_bears_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "frames"
    folder.mkdir()

    def dies(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.shutil, "rmtree", dies)
    with pytest.raises(KeyboardInterrupt):
        remove(folder)
    assert not folder.exists()
