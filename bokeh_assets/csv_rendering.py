"""Renders a CSV in any-to-bokeh's format without Dagster: what `bokeh-assets render` does."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bokeh_assets.atomic import new_file, new_folder
from bokeh_assets.engines import pick_renderer
from bokeh_assets.errors import InputError
from bokeh_assets.media.confined import encode
from bokeh_assets.media.frames import write_picture
from bokeh_assets.media.timing import read_timing
from bokeh_assets.rendering.layout import RenderRow, read_csv
from bokeh_assets.resources import ProgressResource
from bokeh_assets.settings import parse_settings

DEFAULT_FPS = 24.0


def render_csv_file(
    csv: Path,
    out: Path,
    renderer: str,
    *,
    frames: bool = False,
    fps: float | None = None,
    device: str = "auto",
    bars: bool = False,
    say: Callable[[str], None] = print,
) -> Iterator[Path]:
    """Renders every row of a CSV to `<out>/<name of aif_folder>.mp4`, and yields each finished path.

    Timing and sound are the source's where the frames lie in a store; otherwise frames follow each other at
    `fps` (24 unless given).

    Args:
        frames: also write `<out>/<name>/00000.png`, … exactly as rendered.

    Raises:
        InputError: the CSV or what it names cannot be used, or a result would replace what is none.
    """
    rows = read_csv(csv)
    names = [_name(row) for row in rows]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(f"{csv}: two rows would be written to {out / doubled[0]}.mp4; rename one of their folders")
    for name, row in zip(names, rows, strict=True):
        _check_targets(out / f"{name}.mp4", out / name if frames else None, rows, row)
    choice = pick_renderer(parse_settings({"renderer": renderer}, "--renderer"), device)
    say(f"renderer: {choice.name} on {choice.device} ({choice.why})")
    for name, row in zip(names, rows, strict=True):
        timing, source, how = _timing(row, fps)
        say(f"{name}: {len(row.frames)} frames, {how}")
        target = out / f"{name}.mp4"
        with ProgressResource(bars=bars).track(say, name, len(row.frames)) as tell:
            rendered = choice.build().render(row.frames, row.disparity, row.mattes, row.focus, progress=tell)
            with new_file(target) as path:
                if frames:
                    with new_folder(out / name) as folder:
                        encode(_kept(rendered, folder), path, timing=timing, source=source)
                else:
                    encode(rendered, path, timing=timing, source=source)
        yield target


def _check_targets(video: Path, folder: Path | None, rows: list[RenderRow], row: RenderRow) -> None:
    """Nothing that is not a result of before may be replaced: the pictures rendered from least of all."""
    if video.is_symlink() or (video.exists() and not video.is_file()):
        raise InputError(f"{video} is no plain file and is not written over; give another --out")
    if folder is None or not os.path.lexists(folder):
        return
    read = [maps.path.resolve() for r in rows for maps in (r.frames, r.disparity, r.mattes) if maps is not None]
    place = folder.resolve()
    if any(place == path or path.is_relative_to(place) or place.is_relative_to(path) for path in read):
        raise InputError(f"{folder} is what {row.frames.path} is rendered from; give another --out")
    ours = re.compile(r"\d{5,}\.png")
    if folder.is_symlink() or not folder.is_dir() or not all(ours.fullmatch(name) for name in os.listdir(folder)):
        raise InputError(f"{folder} is no folder of rendered frames and is not replaced; give another --out")


def _name(row: RenderRow) -> str:
    # In a store every folder of frames is called "frames"; the video's own folder tells them apart.
    path = row.frames.path.resolve()
    return path.parent.name if row.name == "frames" and (path.parent / "frames.parquet").is_file() else row.name


def _timing(row: RenderRow, fps: float | None) -> tuple[pd.DataFrame, Path | None, str]:
    home = row.frames.path.resolve().parent
    if fps is None and (home / "frames.parquet").is_file():
        table, _ = read_timing(home / "frames.parquet")
        if len(table) == len(row.frames):
            source = next(iter(sorted(home.glob("source.*"))), None)
            return table, source, "timing and sound of its source"
    rate = fps or DEFAULT_FPS
    index = np.arange(len(row.frames))
    table = pd.DataFrame(
        {"index": index, "pts": index, "seconds": index / rate, "duration": 1 / rate, "shot": row.focus["shot"]}
    )
    return table, None, f"{rate:g} frames per second" + ("" if fps else " (--fps changes that)")


def _kept(rendered: Iterable[NDArray[np.uint8]], folder: Path) -> Iterator[NDArray[np.uint8]]:
    for i, picture in enumerate(rendered):
        write_picture(folder / f"{i:05d}.png", picture)
        yield picture
