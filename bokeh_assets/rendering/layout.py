"""Any-to-bokeh's layout: a CSV that names folders, and disparity maps that carry the focus in their names.

    aif_folder,disp_folder,k
    ../frames,disp,16                          one blur strength for all frames, or
    ../frames,disp,change                      one per frame, in the names of the maps

The maps are `00000_zf_0.53367.png`, or `00000_zf_0.53367_k_16.png` where k is `change`: `zf` is the disparity of the
focus plane, larger nearer. Frames and maps are paired by their order in number. Two further columns are ours, and any
loader that picks its columns by name passes over them: `matte_folder` (subject mattes) and `cuts` (the frames with
which a new shot begins, separated by blanks).

Any-to-bokeh's own loader opens folders as they stand, which is from the working folder: run it inside the folder of
a CSV with relative paths, or write absolute ones (`absolute=True`).
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bokeh_assets.errors import InputError
from bokeh_assets.files import open_regular
from bokeh_assets.media.frames import FrameFolder, MapFolder, write_picture

MAX_K = 64.0
"""Strongest blur a CSV may ask for."""

_COLUMNS = ("aif_folder", "disp_folder", "k")
_FOCUS = re.compile(r"zf_(?P<zf>[^_]+)(?:_k_(?P<k>[^_]+))?$")


@dataclass(frozen=True)
class RenderRow:
    """One video of a CSV, checked and ready to render."""

    name: str
    """Name of the folder of its frames."""
    frames: FrameFolder
    disparity: MapFolder
    focus: pd.DataFrame
    """One row per frame: `frame`, `zf`, `k`, `shot`."""
    mattes: MapFolder | None


def write_layout(
    folder: Path,
    disparity: Iterable[Path | NDArray[np.float32]],
    frames_folder: Path,
    focus: pd.DataFrame,
    *,
    mattes_folder: Path | None = None,
    home: Path | None = None,
    absolute: bool = False,
) -> Path:
    """Write `folder/disp/` and `folder/render.csv` for one video.

    Args:
        folder: where to write; made if missing, and its `disp` must not exist yet.
        disparity: one 8-bit PNG per frame, which is hard-linked (or copied, across file systems); or one
            float32 map (H, W) in 0..1 per frame, which is written as 8-bit PNG.
        frames_folder: the numbered pictures.
        focus: one row per frame with `zf` and `k`, and optionally `shot`.
        mattes_folder: the numbered subject mattes, if the renderer shall have them.
        home: where `folder` will lie once it is renamed, if that is elsewhere; paths are relative to it.
        absolute: write absolute paths.

    Returns:
        Path of the CSV.

    Raises:
        InputError: the numbers of maps and of focus rows differ, or a value is out of range.
    """
    home = (home or folder).resolve()
    zf, k = focus["zf"].to_numpy(float), focus["k"].to_numpy(float)
    if not (np.isfinite(zf).all() and ((zf >= 0) & (zf <= 1)).all()):
        raise InputError("the focus track leaves 0..1: make focus_track again")
    if not (np.isfinite(k).all() and ((k >= 0) & (k <= MAX_K)).all()):
        raise InputError(f"the blur strength leaves 0..{MAX_K:g}: make focus_track again")
    strengths = [_trimmed(value) for value in k]
    fixed = len(set(strengths)) == 1

    disp = folder / "disp"
    disp.mkdir(parents=True)
    count = 0
    for index, item in enumerate(disparity):
        if index < len(focus):
            tail = "" if fixed else f"_k_{strengths[index]}"
            _put(item, disp / f"{index:05d}_zf_{zf[index]:.5f}{tail}.png")
        count += 1
    if count != len(focus) or count == 0:
        raise InputError(
            f"there are {count} disparity maps and {len(focus)} focus rows: each frame needs one of both; "
            "make depth_maps and focus_track again"
        )

    def shown(path: Path) -> str:
        return str(path.resolve()) if absolute else Path(os.path.relpath(path.resolve(), home)).as_posix()

    row = {"aif_folder": shown(frames_folder), "disp_folder": str(home / "disp") if absolute else "disp"}
    row["k"] = strengths[0] if fixed else "change"
    if mattes_folder is not None:
        row["matte_folder"] = shown(mattes_folder)
    if "shot" in focus and focus["shot"].nunique() > 1:
        shot = focus["shot"].to_numpy()
        row["cuts"] = " ".join(str(i) for i in np.flatnonzero(np.diff(shot)) + 1)
    table = folder / "render.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerow(row)
    return table


def read_csv(path: Path) -> list[RenderRow]:
    """Read any CSV of this format, one row per video.

    Folders may be absolute, relative to the CSV, or relative to the working folder, looked for in this order. Where
    k is a number it holds for all frames, whatever the names of the maps say.

    Raises:
        InputError: the CSV, a folder, a column, a name or a value is missing or wrong, or counts or sizes differ.
    """
    path = Path(path)
    rows = [_read_row(path, line, values) for line, values in _lines(path)]
    if not rows:
        raise InputError(f"{path} lists no video: add a row below {','.join(_COLUMNS)}")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and values of every row that is not blank."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            missing = [name for name in _COLUMNS if name not in columns]
            if missing:
                raise InputError(f"{path} has no column {missing[0]}: its first line must be {','.join(_COLUMNS)}")
            reader.fieldnames = columns
            for values in reader:
                yield reader.line_num, {key: (value or "").strip() for key, value in values.items() if key}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the path of a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV text ({error}): write it as UTF-8 with commas") from error


def _read_row(path: Path, line: int, values: dict[str, str]) -> RenderRow:
    where = f"{path}, line {line}"
    frames_folder = _find(path, where, "aif_folder", values["aif_folder"])
    frames = FrameFolder(frames_folder)
    disparity = MapFolder(_find(path, where, "disp_folder", values["disp_folder"]))
    _check_pair(where, frames, "disparity maps", disparity)
    focus = _focus(where, disparity, values["k"])
    focus["shot"] = _shots(where, values.get("cuts", ""), len(frames))
    mattes = None
    if values.get("matte_folder"):
        mattes = MapFolder(_find(path, where, "matte_folder", values["matte_folder"]))
        _check_pair(where, frames, "mattes", mattes)
    return RenderRow(frames_folder.resolve().name, frames, disparity, focus, mattes)


def _find(path: Path, where: str, column: str, text: str) -> Path:
    if not text:
        raise InputError(f"{where}: {column} is empty: give a folder")
    # The CSV's own folder first: a folder of the same name where the command happens to run is not meant.
    with suppress(OSError, ValueError):  # no name that a folder can have
        for folder in (path.parent / text, Path(text)):
            if folder.is_dir():
                return folder
    raise InputError(
        f"{where}: {column} {text} is no folder: give it absolute, relative to {path.parent} or to the working folder"
    )


def _check_pair(where: str, frames: FrameFolder, what: str, maps: MapFolder) -> None:
    if len(maps) != len(frames):
        raise InputError(
            f"{where}: {frames.path} holds {len(frames)} frames but {maps.path} {len(maps)} {what}: "
            "each frame needs exactly one"
        )
    if maps.size != frames.size:
        raise InputError(
            f"{where}: the frames are {frames.size[0]}x{frames.size[1]} but the {what} in {maps.path} "
            f"{maps.size[0]}x{maps.size[1]}: make both of one size"
        )


def _focus(where: str, disparity: MapFolder, k: str) -> pd.DataFrame:
    """Focus and blur strength of every frame, from the names of the maps and the column k."""
    fixed = None if k == "change" else _strength(k)
    if k != "change" and fixed is None:
        raise InputError(f"{where}: k {k or '(empty)'} is neither `change` nor a number from 0 to {MAX_K:g}")
    planes, strengths = [], []
    for index in range(len(disparity)):
        file = disparity.file(index)
        match = _FOCUS.search(file.stem)
        plane = _finite(match["zf"]) if match else None
        if match is None or plane is None or not 0 <= plane <= 1:
            raise InputError(
                f"{file} does not say where the focus lies: name it like {file.name.split('_')[0].split('.')[0]}"
                f"_zf_0.53367{file.suffix}, with a disparity from 0 to 1"
            )
        strength = fixed if fixed is not None else _strength(match["k"] or "")
        if strength is None:
            raise InputError(
                f"{file} does not say how strong the blur is though k is `change`: name it like "
                f"{file.stem[: match.start()]}zf_{match['zf']}_k_16{file.suffix}, with k from 0 to {MAX_K:g}"
            )
        planes.append(plane)
        strengths.append(strength)
    return pd.DataFrame({"frame": np.arange(len(planes), dtype=np.int64), "zf": planes, "k": strengths})


def _shots(where: str, cuts: str, count: int) -> NDArray[np.int64]:
    shots = np.zeros(count, dtype=np.int64)
    for word in cuts.split():
        if not (word.isascii() and word.isdigit() and len(word) < 10 and 0 < int(word) < count):
            raise InputError(f"{where}: cut {word} is no frame between 1 and {count - 1}: correct the column cuts")
        shots[int(word) :] += 1
    return shots


def _put(item: Path | NDArray[np.float32], target: Path) -> None:
    if not isinstance(item, Path):
        write_picture(target, np.rint(np.clip(item, 0.0, 1.0) * 255).astype(np.uint8))
        return
    if item.suffix.lower() != ".png":
        raise InputError(f"{item} is no PNG: disparity maps are 8-bit grey PNG files")
    try:
        os.link(item, target)
    except OSError:  # another file system, or one without hard links; a real fault shows in the copy too
        shutil.copyfile(item, target)


def _trimmed(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _strength(text: str) -> float | None:
    value = _finite(text)
    return value if value is not None and 0 <= value <= MAX_K else None
