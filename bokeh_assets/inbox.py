"""What the sensor knows of the uploads folder, and what it does next: no Dagster here.

What to do is decided by `decide`, a pure function of what lies in the inbox and of what was seen before. A file is
taken once two looks, some seconds apart, found it unchanged, so one that is still being copied waits; its
modification time is not trusted for that, because `mv`, `cp -p` and `rsync -t` bring old ones.

What was seen is kept in a file of the store, not in the sensor's cursor: Dagster stores the cursor again with every
tick, and a map of ten thousand files would be a megabyte each time. The cursor only names the file.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bokeh_assets.atomic import new_file

SETTLE_NS = 2_000_000_000
"""A file must have looked the same for this long, and not been written to for this long."""

WAITING, ASKED, TAKEN = "waiting", "asked", "taken"

_FORGET_AFTER = 30 * 86400
_TOKEN = re.compile(r"[0-9a-f]{16}")


class Stamp(NamedTuple):
    """What a file looked like. Any write, rename or replacement of it changes at least the last."""

    size: int
    mtime_ns: int
    ctime_ns: int = 0


class Seen(NamedTuple):
    """What is remembered of one file of the inbox."""

    stamp: Stamp
    state: str = WAITING
    """waiting: may still be growing, or its turn has not come; asked: a run was asked for, but whether Dagster has
    it is not known yet; taken: nothing is left to do."""
    key: str = ""
    """Partition it was taken as, or was when it looked otherwise."""
    since: int = 0
    """When it was first seen looking like this, nanoseconds."""
    tries: int = 0
    """How often taking it failed."""

    def run_key(self) -> str:
        """What Dagster tells this very upload from all others by: a run is never started twice for one."""
        return f"{self.key}:{self.stamp.size}:{self.stamp.mtime_ns}:{self.stamp.ctime_ns}"


@dataclass(frozen=True)
class Decision:
    """What one tick does."""

    ready: list[str]
    """Names to take now: those that failed least and have waited longest come first."""
    asked: list[str]
    """Names whose run was asked for at an earlier tick: make sure that it exists."""
    waiting: list[str]
    """Names seen for the first time, or changed since."""
    seen: dict[str, Seen]
    """What to remember, before anything is taken."""


def decide(listing: Mapping[str, Stamp], seen: Mapping[str, Seen], now_ns: int) -> Decision:
    """Which files of the inbox to take now; files gone from the inbox are forgotten."""
    ready: list[str] = []
    asked: list[str] = []
    waiting: list[str] = []
    remembered: dict[str, Seen] = {}
    for name, stamp in sorted(listing.items()):
        before = seen.get(name)
        if before is None or before.stamp != stamp:
            # A replaced file keeps its old key for now: a broken upload is healed under the same partition.
            remembered[name] = Seen(stamp, WAITING, before.key if before else "", now_ns)
            waiting.append(name)
            continue
        remembered[name] = before
        if before.state == ASKED:
            asked.append(name)
        elif before.state == WAITING:
            # A date in the future, or a clock set back, does not make a file wait for ever.
            fresh = any(0 <= now_ns - moment < SETTLE_NS for moment in (stamp.mtime_ns, before.since))
            (waiting if fresh else ready).append(name)
    ready.sort(key=lambda name: (remembered[name].tries, remembered[name].since, name))
    return Decision(ready, asked, waiting, remembered)


class Memory:
    """What was seen of the inbox, in one file of `folder` named by the sensor's cursor.

    A lost or reset cursor, or a lost file, means that nothing was seen: everything is looked at again, and what the
    store and Dagster know already is not made again.
    """

    def __init__(self, folder: Path, cursor: str | None):
        valid = cursor is not None and _TOKEN.fullmatch(cursor) is not None
        self.cursor: str = cursor if cursor is not None and valid else secrets.token_hex(8)
        self._path = folder / f"{self.cursor}.json"
        self._before: str | None = None

    def load(self) -> dict[str, Seen]:
        """What was seen, by name."""
        try:
            self._before = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        try:
            rows = json.loads(self._before)
            return {name: Seen(Stamp(*stamp), *rest) for name, (stamp, *rest) in rows.items()}
        except (ValueError, TypeError, AttributeError):
            return {}  # as if it were lost

    def save(self, seen: Mapping[str, Seen]) -> None:
        """Keeps what was seen, in one piece; nothing is written where nothing changed."""
        text = json.dumps(seen, separators=(",", ":"))
        if text == self._before:
            return
        if self._before is None:
            self._tidy()
        with new_file(self._path) as path:
            path.write_text(text, encoding="utf-8")

    def _tidy(self) -> None:
        """Drops what cursors reset long ago remembered."""
        for other in self._path.parent.glob("*.json"):
            if other != self._path and time.time() - other.stat().st_mtime > _FORGET_AFTER:
                other.unlink(missing_ok=True)
