"""Sentences on hostile files: accepted and right, refused in one line, or lost."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bokeh_assets.errors import InputError
from bokeh_assets.media import confined
from bokeh_assets.media.frames import FrameFolder
from bokeh_assets.media.timing import read_timing
from bokeh_assets_tests.media.clips import card, make_clip
from bokeh_assets_tests.trust.corpus.case import SIZE, Case
from bokeh_assets_tests.trust.corpus.tricks import ADDRESS, CANARY

LIMITS = confined.Limits(memory=2 << 30, seconds=40, seconds_per_frame=1, patience=60)
"""Tighter than a user's; nothing of the corpus may need more."""


@dataclass
class Verdict:
    """What became of one file. `fault` says what is wrong with that; empty: nothing."""

    case: Case
    frames: int | None = None
    error: str = ""
    fault: str = ""
    seconds: float = 0.0


def judge(case: Case, path: Path, work: Path, *, extract: bool) -> Verdict:
    """Probe or extract one file, and see whether that ended as it may."""
    verdict, start = Verdict(case), time.monotonic()
    folder = work / f"{path.name[:40]}.frames"
    try:
        if extract:
            verdict.frames = confined.extract_frames(path, folder, limits=LIMITS).count
        else:
            confined.probe(path, limits=LIMITS)
    except InputError as error:
        verdict.error = str(error)
    except Exception as error:
        verdict.fault = f"raised {type(error).__name__}: {error}"
    verdict.seconds = time.monotonic() - start
    verdict.fault = verdict.fault or _fault(case, path, verdict, folder, extract)
    shutil.rmtree(folder, ignore_errors=True)
    return verdict


def _fault(case: Case, path: Path, verdict: Verdict, folder: Path, extract: bool) -> str:
    if verdict.error:
        if isinstance(case.frames, int) or (isinstance(case.frames, range) and 0 not in case.frames):
            return f"refused though it is good: {verdict.error}"
        if len(verdict.error.splitlines()) != 1 or not verdict.error.isprintable():
            return f"the error is not one printable line: {verdict.error!r}"
        if path.name.isprintable() and path.name not in verdict.error:
            return f"the error does not name the file: {verdict.error}"
        if case.says not in verdict.error:
            return f"the error does not say {case.says!r}: {verdict.error}"
        if any(word in verdict.error for word in ("crashed", "no progress", "killed")):
            return f"the decoder was lost over it: {verdict.error}"
        return ""
    if case.frames is None:
        return "accepted, and should not be"
    return _wrong_frames(case, verdict, folder) if extract else ""


def render(case: Case, path: Path, work: Path) -> str:
    """Take what comes out of a file back into a video with its sound and times; returns what is wrong with that."""
    folder, video = work / "frames", work / "video.mp4"
    try:
        confined.extract_frames(path, folder, limits=LIMITS)
    except InputError:
        return ""  # `judge` looks into that
    table, _ = read_timing(folder / "frames.parquet")
    try:
        confined.encode(FrameFolder(folder), video, timing=table, source=path, limits=LIMITS)
    except InputError as error:
        return f"its frames came out, and cannot be put into a video: {error}"
    shown = confined.read_presentation(video, limits=LIMITS).seconds
    if len(shown) != len(table) or float(np.abs(np.subtract(shown, table["seconds"].to_numpy())).max()) > 1e-3:
        return f"the video shows its {len(shown)} frames at {shown[:5]}, not at {table['seconds'].tolist()[:5]}"
    return ""


def _wrong_frames(case: Case, verdict: Verdict, folder: Path) -> str:
    expected = range(case.frames, case.frames + 1) if isinstance(case.frames, int) else case.frames
    assert expected is not None
    if verdict.frames not in expected:
        return f"{verdict.frames} frames, not {expected}"
    table, _ = read_timing(folder / "frames.parquet")
    pictures = FrameFolder(folder)
    if not len(table) == len(pictures) == verdict.frames:
        return f"{len(pictures)} pictures and {len(table)} rows for {verdict.frames} frames"
    seconds = table["seconds"].to_numpy()
    if seconds[0] != 0 or (np.diff(seconds) <= 0).any() or not (table["duration"].to_numpy() > 0).all():
        return f"the times do not rise from 0: {seconds[:9]}"
    if case.shows:
        if pictures.size != SIZE:
            return f"the frames are {pictures.size}"
        off = float(np.abs(pictures[0].astype(int) - card(*SIZE).astype(int)).mean())
        if off > 9:
            return f"the first frame is wrong by {off:.1f} levels"
    else:
        pictures[len(pictures) - 1]
    return ""


@dataclass
class Trap:
    """A folder with a canary file and a listener, both of which must never hear of anybody."""

    folder: Path
    calls: list[str] = field(default_factory=list)
    sprung: bool = False
    _watch: int = -1

    def opened(self) -> bool:
        """Whether anybody opened the canary since the last question."""
        try:
            return len(os.read(self._watch, 4096)) >= struct.calcsize("iIII")
        except BlockingIOError:
            return False


@contextmanager
def trap(folder: Path) -> Iterator[Trap]:
    """Set the trap: `canary.mp4` watched by inotify, and a TCP listener whose address is in `address.txt`."""
    make_clip(folder / CANARY, size=SIZE, ticks=range(8))
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    in_open = 0x20
    assert libc.inotify_add_watch(watch, os.fsencode(folder / CANARY), in_open) >= 0
    set_trap = Trap(folder, _watch=watch)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        (folder / ADDRESS).write_text(f"{host} {port}")

        def listen() -> None:
            while True:
                try:
                    connection, who = server.accept()
                except OSError:
                    return
                set_trap.calls.append(str(who))
                connection.close()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield set_trap
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    os.close(watch)


def judge_all(cases: Iterable[Case], work: Path, *, everything: bool, workers: int = 2) -> tuple[list[Verdict], Trap]:
    """Make every file in one folder with a trap, and judge each; whoever springs the trap is found out afterwards."""
    inbox = work / "files"
    inbox.mkdir(parents=True)
    with trap(inbox) as snare, ThreadPoolExecutor(workers) as pool:
        waiting = []
        snare.opened()
        for case in cases:
            if case.short == "skip" and not everything:
                continue
            path = inbox / case.name
            case.make(path)
            extract = everything or case.short == "extract"
            waiting.append(pool.submit(judge, case, path, work / "out", extract=extract))
        verdicts = [verdict.result() for verdict in waiting]
        snare.sprung = snare.opened()
    return verdicts, snare


def peak_of_children() -> int:
    """Bytes of memory the largest child process so far has had at once; never less than what this process had when
    it started one, which is what Linux counts for the child before it begins its own program."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
