"""Fetching one large file over HTTP so that it is whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bokeh_assets.errors import InputError

Progress = Callable[[int, "int | None"], None]
"""Called with bytes done and bytes in all (None where the server does not say)."""

CHUNK = 1 << 20
TRANSFER = 1 << 15  # bytes a broken transfer can lose at most
TIMEOUT = (15, 60)  # seconds to connect, seconds of silence
MAX_IDLE_ATTEMPTS = 4  # attempts in a row that bring nothing new


class _Interrupted(Exception):
    """The transfer broke off; what came so far is kept."""


@dataclass(frozen=True)
class Fetched:
    """What is remembered of a download, beside the file as `<file>.json`."""

    url: str
    size: int
    sha256: str

    def save(self, target: Path) -> None:
        _write_json(record_path(target), {"url": self.url, "size": self.size, "sha256": self.sha256})


def record_path(target: Path) -> Path:
    """Where the record of a downloaded file lies."""
    return target.with_name(target.name + ".json")


def recorded(target: Path) -> Fetched | None:
    """The record of a file downloaded before; None where there is none or it cannot be read."""
    data = _read_json(record_path(target))
    try:
        return Fetched(str(data["url"]), int(data["size"]), str(data["sha256"]))
    except (KeyError, TypeError, ValueError):
        return None


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def fetch(
    url: str,
    target: Path,
    *,
    sizes: tuple[int, int | None] = (1, None),
    headers: dict[str, str] | None = None,
    help_text: str = "",
    progress: Progress | None = None,
) -> Fetched:
    """Downloads `url` to `target`.

    What arrives is kept in `<target>.part`; a later call goes on where this one stopped, as long as the server
    still offers the same file. The finished file is checked and renamed, and its SHA-256 written beside it.

    Args:
        sizes: least and greatest plausible size in bytes; a login page or a foreign file falls outside.
        headers: sent to the host of `url` only (`requests` drops Authorization at a redirect to another host).
        help_text: appended to errors that a user must solve outside (licence pages, quotas).
        progress: see `Progress`.

    Raises:
        InputError: no network, the server refuses, the file has an impossible size or digest, no space.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        with _only_one(part):
            idle = 0
            while True:
                before = _size(part)
                try:
                    digest = _continue(url, part, sizes, headers or {}, help_text, progress)
                    break
                except _Interrupted as error:
                    idle = idle + 1 if _size(part) <= before else 0
                    if idle >= MAX_IDLE_ATTEMPTS:
                        raise InputError(
                            f"{target.name}: no answer from {_host(url)} ({error}); check the network and run the "
                            f"same command again, it goes on at {_size(part)} bytes"
                        ) from error
                    time.sleep(min(0.2 * 2**idle, 10))
            size = _size(part)
            _check_size(target.name, size, sizes, help_text, part)
            done = Fetched(url, size, digest)
            # Record first: a kill between the two leaves a record without a file, which means nothing.
            done.save(target)
            os.replace(part, target)
            _state_path(part).unlink(missing_ok=True)
            return done
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"{target.name}: no space left in {target.parent}; free some or set BOKEH_CHECKPOINTS_DIR"
            ) from error
        if isinstance(error, PermissionError):
            raise InputError(f"{target.name}: {target.parent} cannot be written to") from error
        raise


def _continue(
    url: str,
    part: Path,
    sizes: tuple[int, int | None],
    headers: dict[str, str],
    help_text: str,
    progress: Progress | None,
) -> str:
    """One request; returns the SHA-256 of the whole part once it is complete."""
    import requests

    name = part.name.removesuffix(".part")
    state = _read_json(_state_path(part))
    have = _size(part) if state.get("url") == url else 0
    ask = {"Accept-Encoding": "identity", **headers}
    if have:
        ask["Range"] = f"bytes={have}-"
        if state.get("etag"):
            ask["If-Range"] = state["etag"]
    try:
        with requests.get(url, headers=ask, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:
                # Nothing after `have`: either all is there or the file on the server has changed.
                whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
                if whole == str(have):
                    return _checked(part, name, state.get("sha256"))
                part.unlink()
                raise _Interrupted("the file changed on the server")
            if answer.status_code >= 500 or answer.status_code == 429:
                raise _Interrupted(f"HTTP {answer.status_code}")
            if answer.status_code >= 400:
                raise InputError(
                    f"{name}: {_host(url)} answered HTTP {answer.status_code} {answer.reason}. {help_text}".strip()
                )
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise InputError(f"{name}: {_host(url)} sent a web page instead of the file. {help_text}".strip())
            start, total = _range(answer.status_code, answer.headers, have)
            state = {"url": url, "etag": _strong_etag(answer.headers), "size": total, "sha256": _announced(answer)}
            if total is not None:
                _check_size(name, total, sizes, help_text, None)
                _check_space(part, total - start)
            _write_json(_state_path(part), state)
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                file.truncate()
                _copy(answer, file, start, total, progress)
            if total is not None and _size(part) < total:
                raise _Interrupted("the transfer broke off")
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        if isinstance(error.args[0] if error.args else None, OSError) and _is_no_space(error.args[0]):
            raise error.args[0] from error
        raise _Interrupted(type(error).__name__) from error
    return _checked(part, name, state["sha256"])


def _copy(answer: Any, file: IO[bytes], start: int, total: int | None, progress: Progress | None) -> None:
    done = start
    for block in answer.iter_content(TRANSFER):
        file.write(block)
        done += len(block)
        if progress is not None:
            progress(done, total)


def _checked(part: Path, name: str, announced: str | None) -> str:
    digest = sha256_of(part)
    if announced is not None and digest != announced:
        part.unlink()
        raise InputError(
            f"{name}: what arrived has SHA-256 {digest[:12]}…, the server announced {announced[:12]}…; it was "
            "thrown away, run the same command again"
        )
    return digest


def _range(status: int, headers: Any, have: int) -> tuple[int, int | None]:
    """Where the body starts in the file, and the size of the whole file."""
    if status == 206:
        span, _, whole = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = int(span.partition("-")[0] or -1)
        if start != have:
            raise _Interrupted(f"the server answered with another range than asked for ({span})")
        return have, int(whole) if whole.isdigit() else None
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _announced(answer: Any) -> str | None:
    """SHA-256 that Hugging Face states for large files, in its own answer before the redirect."""
    for step in (*answer.history, answer):
        tag = step.headers.get("X-Linked-Etag", "").strip('"').lower()
        if len(tag) == 64 and set(tag) <= set("0123456789abcdef"):
            return tag
    return None


def _strong_etag(headers: Any) -> str | None:
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else None


def _check_size(name: str, size: int, sizes: tuple[int, int | None], help_text: str, part: Path | None) -> None:
    least, most = sizes
    if size < least or (most is not None and size > most):
        if part is not None:
            part.unlink(missing_ok=True)
        wanted = f"{least} bytes or more" if most is None else f"{least} to {most} bytes"
        raise InputError(f"{name}: the server's file has {size} bytes, not {wanted}. {help_text}".strip())


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed} bytes needed, {free} free")


@contextmanager
def _only_one(part: Path) -> Iterator[None]:
    """Keeps a second process from writing to the same part."""
    try:
        import fcntl
    except ImportError:  # Windows: an open file cannot be replaced there, so the second process fails by itself
        yield
        return
    lock = part.with_name(part.name + ".lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{part.name.removesuffix('.part')}: another process is downloading it") from error
        yield
        lock.unlink(missing_ok=True)


def _is_no_space(error: object) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write_json(path: Path, data: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(temporary, path)
