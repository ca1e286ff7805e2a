"""`bokeh-assets dev`: Dagster's server and daemon, one of them per home, and none that outlives its keeper.

`dagster dev` by itself leaves its webserver, daemon, code servers and runs at work when it is killed. Here it runs in
a session of its own, which is emptied when it ends, however it ends. Where this process itself is killed, Linux stops
`dagster dev` and a watcher ends what is left; where all are killed at once, the next `bokeh-assets dev` does.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from bokeh_assets.errors import InputError
from bokeh_assets.home import prepare_home
from bokeh_assets.store import VideoStore

LOOK_EVERY = 20.0
"""Seconds between looks for runs whose process is gone, which Dagster's own launcher does not notice."""

GRACE = 4.0
"""Seconds that a server gets to stop by itself once its keeper was killed."""

PATIENCE = 15.0
"""Seconds that runs get to stop in good order."""


def serve(store: VideoStore, host: str, port: int, *, say: Callable[[str], None] = print) -> int:
    """Serves until it is stopped; returns the exit status.

    Raises:
        InputError: another `bokeh-assets dev` serves this home.
    """
    home = prepare_home(store)
    url = f"http://{host}:{port}"
    with _watched(home) as watcher, _only_one(home, url) as note:
        _end_leftovers(home, note)
        _bury()
        say(f"Dagster UI:   {url}")
        say(f"uploads:      {store.uploads}  (turn the sensor new_uploads on under Automation)")
        say(f"dagster home: {home}")
        sys.stdout.flush()
        return _keep(host, port, home, note, url, watcher)


@contextmanager
def _only_one(home: Path, url: str) -> Iterator[IO[str]]:
    """The home's lock, held; the file says who has it."""
    with (home / ".dev").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _read(file)
            raise InputError(
                f"{home} is served already, at {who.get('url', 'some address')} by process {who.get('keeper', '?')}; "
                "use that, or stop it first"
            ) from None
        yield file


@contextmanager
def _watched(home: Path) -> Iterator[Callable[[int], None]]:
    """A small process that empties a session as soon as this process is gone; it is told which through the pipe."""
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.setsid()
            os.close(tell)
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(nothing, stream)
            words = b""
            while more := os.read(hear, 64):  # ends when no process has the other end any more
                words += more
            if words:
                _empty(int(words), home, grace=GRACE)
        os._exit(0)
    os.close(hear)
    try:

        def watch(session: int) -> None:
            os.write(tell, str(session).encode())

        yield watch
    finally:
        os.close(tell)
        os.waitpid(child, 0)


def _read(file: IO[str]) -> dict[str, object]:
    file.seek(0)
    try:
        return dict(json.loads(file.read()))
    except (ValueError, TypeError):
        return {}


def _write(file: IO[str], **facts: object) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(facts))
    file.flush()


def _keep(host: str, port: int, home: Path, note: IO[str], url: str, watcher: Callable[[int], None]) -> int:
    command = [sys.executable, "-m", "dagster", "dev", "-m", "bokeh_assets.definitions", "-h", host, "-p", str(port)]
    keeper = os.getpid()

    def bind() -> None:
        # dagster dev keeps an inherited "ignore", and would then not hear that it shall stop.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)  # PR_SET_PDEATHSIG
            if os.getppid() != keeper:
                os._exit(1)

    process = subprocess.Popen(command, start_new_session=True, preexec_fn=bind)
    watcher(process.pid)
    _write(note, keeper=keeper, session=process.pid, url=url)
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        if not asked:
            asked = True
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        while True:
            try:
                status = process.wait(LOOK_EVERY)
                break
            except subprocess.TimeoutExpired:
                _bury()
    finally:
        _empty(process.pid, home)
        _bury()
        _write(note)
    return 0 if asked else status or 1


def _bury() -> None:
    """Marks runs as failed whose process is gone, so that they hold neither their video nor a pool slot."""
    import dagster as dg

    from bokeh_assets.workers import free_slots, live_runs

    # A busy or full disk is no reason to take the server down; the next look will do it.
    with suppress(Exception), dg.DagsterInstance.get() as instance:
        live_runs(instance, queued=False)
        free_slots(instance)


def _end_leftovers(home: Path, note: IO[str]) -> None:
    """Ends what an earlier `bokeh-assets dev` of this home left behind when it was killed."""
    session = _read(note).get("session")
    if isinstance(session, int):
        _empty(session, home)


def _empty(session: int, home: Path, grace: float = 0.0) -> None:
    """Ends every process of a session that works on this home: left in peace for a while, then asked, then killed."""
    start = time.monotonic()
    told: set[int] = set()
    while members := _members(session, home):
        passed = time.monotonic() - start
        if passed < grace:
            time.sleep(0.1)
            continue
        kill = passed > grace + PATIENCE
        for pid in members:
            if kill or pid not in told:
                told.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        time.sleep(0.1)


def _members(session: int, home: Path) -> list[int]:
    """Processes of a session whose DAGSTER_HOME is `home`; where there is no /proc, its process group counts."""
    if not Path("/proc/self/environ").exists():
        with suppress(ProcessLookupError):
            os.killpg(session, signal.SIGKILL)
        return []
    members = []
    mark = f"DAGSTER_HOME={home}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] in "ZX" or int(fields[3]) != session:
                continue
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                members.append(int(folder.name))
    return members
