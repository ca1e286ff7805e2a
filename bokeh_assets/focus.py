"""Where the lens is focused, and how strongly it blurs, in every frame.

What a user writes (`FocusSpec`, `BlurSpec`) becomes one row per frame (`track_focus`). Both are curves over time in
the units the renderers take: disparity for the focus plane, k for the blur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer, model_validator

from bokeh_assets.errors import InputError
from bokeh_assets.steady import local_line, windows

Ease = Literal["linear", "smooth", "hold"]
"""How a keyframe is reached from the one before: evenly, by smoothstep, or by a jump at its time."""

Progress = Callable[[int], None]
"""Called with the number of frames finished so far."""

MAX_K = 64.0
"""Strongest blur that may be asked for."""

SMOOTHING_SECONDS = 0.2
"""Standard deviation of the smoothing of a tracked subject: jitter goes, a walk or a jump stays in focus."""

_MIN_AREA = 1e-4  # share of the picture below which a matte is taken for noise
_ERODE = 0.005  # share of the picture's width by which the matte's rim is left out


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    time: float = Field(ge=0, allow_inf_nan=False, description="Seconds from the start of the video")
    ease: Ease = Field("smooth", description="How this keyframe is reached from the one before")


class FocusKey(_Key):
    """The focus at one moment."""

    at: Literal["subject"] | float = Field(description="`subject`, or a disparity from 0 (far) to 1 (near)")

    @field_validator("at", mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        number = _number(value)
        if value != "subject" and (number is None or not 0 <= number <= 1):
            raise ValueError(f"focus {value!r} is no disparity: give `subject` or a number from 0 (far) to 1 (near)")
        return value if number is None else number


class BlurKey(_Key):
    """The blur strength at one moment."""

    k: float = Field(ge=0, le=MAX_K, allow_inf_nan=False, description="Blur strength, see radius_per_disparity")


class FocusSpec(BaseModel):
    """What is in focus: `subject`, a disparity 0..1, or `{keyframes: [{time, at, ease}]}`.

    The short forms are one keyframe at time 0, and are written back as they came.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    keyframes: tuple[FocusKey, ...]

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: Any) -> Any:
        if isinstance(value, dict | FocusSpec):
            return value
        if value == "subject":
            return {"keyframes": ({"time": 0.0, "at": "subject"},)}
        number = _number(value)
        if number is None or not 0 <= number <= 1:
            raise ValueError(
                f"focus {value!r} is not understood: give `subject`, a disparity from 0 (far) to 1 (near), "
                "or {keyframes: [{time: 0, at: subject}, ...]}"
            )
        return {"keyframes": ({"time": 0.0, "at": number},)}

    @model_validator(mode="after")
    def _check(self) -> FocusSpec:
        _check_times("focus", self.keyframes)
        return self

    @model_serializer
    def _to_short(self) -> Any:
        first = self.keyframes[0]
        if len(self.keyframes) == 1 and first.time == 0:
            return first.at
        return {"keyframes": [key.model_dump() for key in self.keyframes]}


class BlurSpec(BaseModel):
    """How strong the blur is: k, or `{keyframes: [{time, k, ease}]}`.

    A number is one keyframe at time 0, and is written back as it came.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    keyframes: tuple[BlurKey, ...]

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: Any) -> Any:
        if isinstance(value, dict | BlurSpec):
            return value
        number = _number(value)
        if number is None or not 0 <= number <= MAX_K:
            raise ValueError(
                f"blur {value!r} is not understood: give a strength from 0 (none) to {MAX_K:g}, "
                "or {keyframes: [{time: 0, k: 0}, {time: 3, k: 24}]}"
            )
        return {"keyframes": ({"time": 0.0, "k": number},)}

    @model_validator(mode="after")
    def _check(self) -> BlurSpec:
        _check_times("blur", self.keyframes)
        return self

    @model_serializer
    def _to_short(self) -> Any:
        first = self.keyframes[0]
        if len(self.keyframes) == 1 and first.time == 0:
            return first.k
        return {"keyframes": [key.model_dump() for key in self.keyframes]}


def track_focus(
    disparity: Iterable[NDArray[np.float32]],
    mattes: Iterable[NDArray[np.float32]],
    seconds: Sequence[float],
    shots: Sequence[int],
    focus: FocusSpec,
    blur: BlurSpec,
    *,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The focus plane and the blur strength of every frame.

    The subject's distance is the median disparity under the eroded matte. Where the subject is hidden it is
    interpolated between the frames around, and held at the ends of a shot; outliers are replaced, and the rest is
    smoothed with zero phase (`SMOOTHING_SECONDS`), never across a cut. In a shot that never shows the subject, the
    focus lies on the lower centre of the picture (the median disparity there over the shot), and a note says so.

    One frame is held at a time.

    Args:
        disparity: float32 (H, W), 0 (farthest) to 1 (nearest), one per frame; what will be rendered.
        mattes: float32 (H, W) subject mattes 0..1, one per frame; they may be empty.
        seconds: presentation time of every frame, rising.
        shots: number of the shot of every frame, rising by one at each cut.
        focus: what is in focus.
        blur: how strong the blur is.
        progress: called with the number of frames done.

    Returns:
        One row per frame with the columns `frame` (int, from 0), `zf` (0..1), `k`, `subject` (median disparity as
        measured, NaN where hidden) and `shot` (int). `attrs["notes"]` lists in words what was guessed.

    Raises:
        InputError: the inputs differ in their number of frames or in their size.
    """
    count = len(seconds)
    if len(shots) != count:
        raise InputError(f"there are {count} frame times but {len(shots)} shot numbers: make the frames again")
    subject, fallback = _measure(disparity, mattes, count, progress)
    times = np.asarray(seconds, dtype=np.float64)
    shot = np.asarray(shots, dtype=np.int64)

    tracked = np.empty(count)
    lost: list[int] = []
    for number in np.unique(shot):
        rows = shot == number
        if np.isnan(subject[rows]).all():
            tracked[rows] = np.median(fallback[rows])
            lost.append(int(number))
        else:
            tracked[rows] = _steady(subject[rows], times[rows])

    start = times[0] if count else 0.0
    zf = _curve(times - start, [(key.time, key.ease, key.at) for key in focus.keyframes], tracked)
    k = _curve(times - start, [(key.time, key.ease, key.k) for key in blur.keyframes], tracked)
    table = pd.DataFrame(
        {
            "frame": np.arange(count, dtype=np.int64),
            "zf": np.clip(zf, 0.0, 1.0),
            "k": np.clip(k, 0.0, MAX_K),
            "subject": subject,
            "shot": shot,
        }
    )
    table.attrs["notes"] = _notes(lost, shot) if any(key.at == "subject" for key in focus.keyframes) else []
    return table


def _measure(
    disparity: Iterable[NDArray[np.float32]],
    mattes: Iterable[NDArray[np.float32]],
    count: int,
    progress: Progress | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Disparity of the subject (NaN where hidden) and of the lower centre, per frame."""
    subject = np.full(count, np.nan)
    fallback = np.zeros(count)
    maps, cuts = iter(disparity), iter(mattes)
    for index in range(count):
        picture, matte = next(maps, None), next(cuts, None)
        if picture is None or matte is None:
            missing = "disparity maps" if picture is None else "mattes"
            raise InputError(f"there are {count} frames but only {index} {missing}: make the {missing} again")
        if picture.shape != matte.shape:
            raise InputError(
                f"frame {index}: the disparity is {picture.shape[1]}x{picture.shape[0]} but the matte is "
                f"{matte.shape[1]}x{matte.shape[0]}: make both from the same frames"
            )
        subject[index] = subject_disparity(picture, matte)
        height, width = picture.shape
        fallback[index] = np.median(picture[height // 2 :: 2, width // 3 : width - width // 3 : 2])
        if progress:
            progress(index + 1)
    for name, rest in (("disparity maps", maps), ("mattes", cuts)):
        if next(rest, None) is not None:
            raise InputError(f"there are {count} frames but more {name}: make the {name} again")
    return subject, fallback


def subject_disparity(disparity: NDArray[np.float32], matte: NDArray[np.float32]) -> float:
    """Median disparity under the matte, its rim left out; NaN where the matte shows nothing.

    Args:
        disparity: float32 (H, W).
        matte: float32 (H, W), 0..1.
    """
    inside = (matte > 0.5).astype(np.uint8)
    if inside.sum() < max(1.0, _MIN_AREA * inside.size):
        return float("nan")
    # Depth bleeds over outlines; thin subjects keep at least their core. Replicated rim: the picture's
    # border is no outline.
    depth = cv2.distanceTransform(np.pad(inside, 1, mode="edge"), cv2.DIST_L2, 3)[1:-1, 1:-1]
    margin = min(_ERODE * matte.shape[1], 0.5 * float(depth.max()))
    return float(np.median(disparity[(depth > margin) & (inside > 0)]))


def _steady(values: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaps filled, outliers replaced and jitter smoothed, within one shot that shows the subject somewhere."""
    seen = ~np.isnan(values)
    filled = np.interp(times, times[seen], values[seen])
    # Hampel: what lies far from the median around it is a slip of the matte or the depth, not a movement.
    calm = filled.copy()
    for i, around in enumerate(windows(times, SMOOTHING_SECONDS)):
        middle = np.median(filled[around])
        spread = 1.4826 * np.median(np.abs(filled[around] - middle))
        if abs(filled[i] - middle) > 3 * spread + 0.02:
            calm[i] = middle
    return local_line(calm, times, SMOOTHING_SECONDS)


def _curve(
    times: NDArray[np.float64], keys: Sequence[tuple[float, Ease, float | str]], tracked: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Keyframes (time, ease, value or `subject`) as a value per frame; held before the first and after the last."""
    levels = [tracked if isinstance(value, str) else np.full(len(times), float(value)) for _, _, value in keys]
    out = levels[0].copy()
    for before, after, (start, _, _), (end, ease, _) in zip(levels, levels[1:], keys, keys[1:], strict=False):
        share = np.clip((times - start) / (end - start), 0.0, 1.0)
        if ease == "smooth":
            share = share * share * (3 - 2 * share)
        elif ease == "hold":
            share = (share >= 1).astype(np.float64)
        out = np.where(times >= start, (1 - share) * before + share * after, out)
    return out


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _check_times(name: str, keys: Sequence[_Key]) -> None:
    if not keys:
        raise ValueError(f"{name}: the list of keyframes is empty: give at least one")
    for before, after in pairwise(keys):
        if after.time <= before.time:
            raise ValueError(
                f"{name}: the keyframe at {after.time:g} s stands after the one at {before.time:g} s: "
                "sort keyframes by time and give each time once"
            )


def _notes(lost: Sequence[int], shot: NDArray[np.int64]) -> list[str]:
    if not lost:
        return []
    rule = "the focus lies on the lower centre of the picture"
    if len(lost) == len(np.unique(shot)):
        return [f"The subject is never visible: {rule}."]
    notes = []
    for number in lost:
        rows = np.flatnonzero(shot == number)
        notes.append(f"The subject is not visible in shot {number} (frames {rows[0]} to {rows[-1]}): {rule} there.")
    return notes
