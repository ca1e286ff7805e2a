"""What runs are handed: the store, the run's own settings, and a place to say how far things are."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import Field

from bokeh_assets.store import VideoStore


class StoreResource(dg.ConfigurableResource):
    """Where videos and everything made of them lie."""

    data_dir: str = Field(default="", description="Root of the store; empty: BOKEH_DATA_DIR, else ./data")

    def open(self) -> VideoStore:
        """The store itself, a plain object."""
        return VideoStore(self.data_dir or None)


class RunSettings(dg.ConfigurableResource):
    """Settings for this run alone. They win over the settings.yaml of the video."""

    overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Any settings of settings.yaml, such as {focus: 0.4, blur: 24}; a name given here wins",
    )
    device: str = Field(default="auto", description="auto, cuda, cuda:1, … or cpu")


class ProgressResource(dg.ConfigurableResource):
    """Says how far an engine is: as bars on a terminal, else as a log line every 5 % or 10 seconds."""

    bars: bool = Field(default=False, description="Progress bars on standard error; for people at a terminal")

    @contextmanager
    def track(self, log: Callable[[str], None], what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A callback that takes the number of frames done."""
        if self.bars:
            from tqdm import tqdm

            with tqdm(total=total, desc=what, unit="frame", file=sys.stderr, leave=True) as bar:
                yield lambda done: bar.update(done - bar.n) and None
            return

        told_at, told_share = time.monotonic(), 0.0

        def tell(done: int) -> None:
            nonlocal told_at, told_share
            now, share = time.monotonic(), done / total if total else 0.0
            if now - told_at >= 10 or share - told_share >= 0.05 or (total and done >= total > 0):
                told_at, told_share = now, share
                log(f"{what}: {done}/{total} frames" if total else f"{what}: {done} frames")

        yield tell
