"""Asset checks: what is looked at in every output, and what it must hold.

The checks run inside the asset, on the frames as they pass by, so nothing is read twice. `blocking` ones stop the
run where going on makes no sense; the others are shown and let it go on.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import dagster as dg
import numpy as np
import pandas as pd
from numpy.typing import NDArray

FRAMES = (dg.AssetCheckSpec("every_frame_in_order", asset="frames", blocking=True),)
MASKS = (
    dg.AssetCheckSpec("one_mask_per_frame", asset="masks", blocking=True),
    dg.AssetCheckSpec("subject_visible", asset="masks"),
    dg.AssetCheckSpec("masks_steady", asset="masks"),
)
DEPTH_MAPS = (
    dg.AssetCheckSpec("one_map_per_frame", asset="depth_maps", blocking=True),
    dg.AssetCheckSpec("disparity_not_flat", asset="depth_maps"),
)
FOCUS_TRACK = (dg.AssetCheckSpec("focus_steady", asset="focus_track"),)
RENDER_CSV = (dg.AssetCheckSpec("layout_loads", asset="render_csv", blocking=True),)
BOKEH_VIDEO = (
    dg.AssetCheckSpec("timing_kept", asset="bokeh_video"),
    dg.AssetCheckSpec("audio_kept", asset="bokeh_video"),
    dg.AssetCheckSpec("subject_sharp", asset="bokeh_video"),
)

SHARP = 0.85
"""Least VEPI (correlation of edges in the subject, before and after) of a subject that is in focus."""


def _result(name: str, passed: bool, *, warn: bool = False, **metadata: object) -> dg.AssetCheckResult:
    severity = dg.AssetCheckSeverity.WARN if warn else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(check_name=name, passed=bool(passed), severity=severity, metadata=metadata)  # type: ignore[arg-type]


def count_matches(name: str, made: int, frames: int) -> dg.AssetCheckResult:
    """Whether there are as many outputs as frames."""
    return _result(name, made == frames, made=made, frames=frames)


def every_frame_in_order(table: pd.DataFrame, pictures: int) -> dg.AssetCheckResult:
    """Whether the pictures agree with their table and time only goes forward."""
    rising = bool((np.diff(table["pts"].to_numpy()) > 0).all())
    passed = pictures == len(table) > 0 and rising
    return _result("every_frame_in_order", passed, pictures=pictures, rows=len(table), time_rises=rising)


class MaskStatistics:
    """Looks at mattes as they pass by: area, and agreement with the frame before, at a small size."""

    def __init__(self) -> None:
        self.area: list[float] = []
        """Share of the picture that is subject, one per frame."""
        self._change: list[float] = []
        self._before: NDArray[np.float32] | None = None

    def add(self, matte: NDArray[np.float32]) -> None:
        """Takes the next matte (H, W), 0..1."""
        small = cv2.resize(matte, (160, 90), interpolation=cv2.INTER_AREA)
        self.area.append(float(small.mean()))
        if self._before is not None:
            union = float(np.maximum(small, self._before).sum())
            overlap = float(np.minimum(small, self._before).sum())
            self._change.append(1 - overlap / union if union > 1 else 0.0)
        self._before = small

    @property
    def empty(self) -> list[int]:
        """Frames in which there is no subject."""
        return [frame for frame, area in enumerate(self.area) if area < 1e-5]

    def results(self, shots: Sequence[int], frames: int) -> list[dg.AssetCheckResult]:
        """The checks of `MASKS`, given the shot of every frame."""
        change = np.array(self._change)
        within = np.diff(np.asarray(shots[: len(self.area)])) == 0
        seen = np.array(self.area) >= 1e-5
        both = seen[1:] & seen[:-1]
        jumps = np.flatnonzero((change > 0.6) & within & both) + 1
        area = np.array(self.area)
        # A flicker is an area that swings away and straight back: second differences that a motion does not have.
        swing = (
            np.abs(area[2:] - 2 * area[1:-1] + area[:-2]) / np.maximum(area[1:-1], 1e-3) if len(area) > 2 else area[:0]
        )
        flicker = float(np.median(swing)) if len(swing) else 0.0
        return [
            count_matches("one_mask_per_frame", len(self.area), frames),
            _result(
                "subject_visible",
                bool(seen.any()),
                frames_with_subject=int(seen.sum()),
                frames_without=len(self.empty),
                hidden_in=ranges(self.empty),
            ),
            _result(
                "masks_steady",
                len(jumps) == 0 and flicker < 0.1,
                warn=True,
                jumps_at=ranges(jumps.tolist()),
                flicker=round(flicker, 4),
            ),
        ]


def ranges(frames: Sequence[int]) -> str:
    """Frame numbers as people write them: "3, 7-12, 40"; "none" for no frames."""
    parts: list[str] = []
    start = previous = None
    for frame in [*frames, None]:
        if previous is not None and frame is not None and frame == previous + 1:
            previous = frame
            continue
        if start is not None:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = frame
    return ", ".join(parts) or "none"


def disparity_not_flat(spread: Sequence[float]) -> dg.AssetCheckResult:
    """Whether the maps show depth; `spread` is each map's 95th less its 5th percentile."""
    median = float(np.median(spread)) if len(spread) else 0.0
    return _result("disparity_not_flat", median > 0.05, warn=True, median_spread=round(median, 4))


def focus_steady(focus: pd.DataFrame) -> dg.AssetCheckResult:
    """Whether the focus plane moves without trembling: the median second difference stays small."""
    zf, shot = focus["zf"].to_numpy(), focus["shot"].to_numpy()
    inside = (np.diff(shot, 2) == 0) if len(shot) > 2 else np.zeros(0, bool)
    tremble = float(np.median(np.abs(np.diff(zf, 2))[inside])) if inside.any() else 0.0
    return _result("focus_steady", tremble < 0.01, warn=True, median_tremble=round(tremble, 5))


def layout_loads(pairs: int, frames: int, csv: str) -> dg.AssetCheckResult:
    """Whether the CSV could be read back with one disparity map and one focus per frame."""
    return _result("layout_loads", pairs == frames, pairs=pairs, frames=frames, csv=csv)


def timing_kept(
    made: Sequence[float], wanted: Sequence[float], made_end: float, wanted_end: float
) -> dg.AssetCheckResult:
    """Whether the result has the source's frames at the source's times (seconds), to half a millisecond."""
    same = len(made) == len(wanted)
    worst = float(np.max(np.abs(np.subtract(made, wanted)))) if same and len(made) else float("inf")
    passed = same and worst <= 5e-4 and abs(made_end - wanted_end) <= 1e-3
    return _result(
        "timing_kept",
        passed,
        frames=len(made),
        frames_of_source=len(wanted),
        worst_timestamp_error_ms=round(min(worst, 1e9) * 1000, 4),
        duration=round(made_end, 4),
        duration_of_source=round(wanted_end, 4),
    )


def audio_kept(streams: int, streams_of_source: int, note: str) -> dg.AssetCheckResult:
    """Whether the result has the sound of the source."""
    return _result("audio_kept", streams == streams_of_source, streams=streams, of_source=streams_of_source, audio=note)


def subject_sharp(vepi: Sequence[float], focused: bool) -> dg.AssetCheckResult:
    """Whether the subject is as sharp as it was; only asked where the focus is on it."""
    if not focused or not len(vepi):
        return _result("subject_sharp", True, asked="no: the focus is not on a visible subject")
    median = float(np.median(vepi))
    return _result("subject_sharp", median >= SHARP, warn=True, asked="yes", vepi=round(median, 4), least=SHARP)
