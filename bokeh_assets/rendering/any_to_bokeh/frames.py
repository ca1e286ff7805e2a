"""What goes in: frames, disparity and focus, walked together and checked on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bokeh_assets.errors import InputError

MAX_K = 32.0
"""The strongest blur the network was trained for."""


class Shown(NamedTuple):
    """One frame of the source with what is asked for it."""

    frame: NDArray[np.uint8]
    disparity: NDArray[np.float32]
    zf: float
    k: float
    shot: int


def checked_focus(focus: pd.DataFrame) -> pd.DataFrame:
    """`focus` with the columns zf, k and shot as numbers, one row for each frame in order.

    Raises:
        InputError: a column is missing, frames are missing or double, or a value is out of range.
    """
    for column in ("frame", "zf", "k"):
        if column not in focus:
            raise InputError(f"focus has no column {column!r}; it needs frame, zf and k")
    rows = focus.sort_values("frame").reset_index(drop=True)
    wrong = np.flatnonzero(rows["frame"].to_numpy() != np.arange(len(rows)))
    if len(wrong):
        raise InputError(f"focus has no single row for frame {wrong[0]}; it needs one row for each frame from 0")
    for column, top in (("zf", 1.0), ("k", MAX_K)):
        values = rows[column].to_numpy(dtype=float)
        bad = np.flatnonzero(~((values >= 0) & (values <= top)))
        if len(bad):
            raise InputError(
                f"focus has {column} = {values[bad[0]]:g} at frame {bad[0]}; any_to_bokeh takes 0 to {top:g}"
            )
    if "shot" not in rows:
        rows["shot"] = 0
    return rows


def paired_up(
    frames: Iterable[NDArray[np.uint8]], disparity: Iterable[NDArray[np.float32]], focus: pd.DataFrame
) -> Iterator[Shown]:
    """Frames, disparity and focus together.

    Raises:
        InputError: one of the three ends before the others, or an array is not what it should be.
    """
    zf, k, shot = (focus[c].tolist() for c in ("zf", "k", "shot"))
    maps = iter(disparity)
    count, size = 0, None
    for frame in frames:
        if count == len(zf):
            raise InputError(f"focus has {count} rows, but there are more frames; make it anew for this video")
        depth = next(maps, None)
        if depth is None:
            raise InputError(f"there is no disparity for frame {count}; make depth anew for this video")
        frame, depth = np.asarray(frame), np.ascontiguousarray(depth, dtype=np.float32)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or depth.ndim != 2:
            raise InputError(
                f"frame {count} is {frame.dtype} {frame.shape} and its disparity {depth.shape}; "
                "wanted are uint8 (H, W, 3) and (H, W)"
            )
        size = size or frame.shape
        if frame.shape != size:
            raise InputError(f"frame {count} is {frame.shape[1]}x{frame.shape[0]}, the first {size[1]}x{size[0]}")
        if not np.isfinite(depth).all():
            raise InputError(f"the disparity of frame {count} is not finite; make depth anew for this video")
        yield Shown(np.ascontiguousarray(frame), depth, zf[count], k[count], shot[count])
        count += 1
    if count < len(zf):
        raise InputError(f"focus has {len(zf)} rows, but there are {count} frames; make it anew for this video")
    if next(maps, None) is not None:
        raise InputError(f"there is more disparity than the {count} frames; make depth anew for this video")
