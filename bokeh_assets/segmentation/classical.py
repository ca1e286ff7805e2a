"""The weight-free segmenter: cut the subject out where it was pointed at, then follow it both ways in time.

The prompted frame is cut with GrabCut; the matte is carried along dense optical flow and settled on every frame by
local colour models in a band around its rim (in the manner of Bai et al., Video SnapCut, SIGGRAPH 2009), at a
working size of 480 pixels on the longer side; the rim is refined on the full picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.media.frames import Frames, spooled
from bokeh_assets.segmentation.base import Progress
from bokeh_assets.segmentation.prompts import Prompt, by_object
from bokeh_assets.segmentation.tracking.choice import choose_subject
from bokeh_assets.segmentation.tracking.colours import Palette
from bokeh_assets.segmentation.tracking.edges import refine
from bokeh_assets.segmentation.tracking.passes import follow

__all__ = ["ClassicalSegmenter", "choose_subject"]


class ClassicalSegmenter:
    """Follows a subject without any learned weights; see `segmentation.base.Segmenter`.

    Args:
        working_size: longer side in pixels of the pictures it tracks on.
    """

    name = "classical"

    def __init__(self, *, working_size: int = 480) -> None:
        self.working_size = working_size

    def segment(
        self,
        frames: Iterable[NDArray[np.uint8]],
        prompts: Sequence[Prompt] = (),
        *,
        progress: Progress | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """One float32 matte (H, W), 0..1, per frame. See `segmentation.base.Segmenter`.

        Raises:
            InputError: a prompt lies outside the video or the picture, or its mask cannot be used.
        """
        with spooled(frames) as clip:
            if len(clip) == 0:
                return
            height, width = clip[0].shape[:2]
            for prompt in prompts:
                prompt.check(len(clip), width, height)
            chosen = list(prompts) or [choose_subject(clip)[0]]
            small = WorkingFrames(clip, self.working_size)
            palette = Palette(small[i] for i in np.unique(np.linspace(0, len(clip) - 1, 16).astype(int)))
            objects = [follow(small, palette, group, (width, height)) for group in by_object(chosen).values()]
            for done, mattes in enumerate(zip(*objects, strict=True), start=1):
                coarse = mattes[0] if len(mattes) == 1 else np.maximum.reduce(mattes)
                yield refine(clip[done - 1], coarse)
                if progress is not None:
                    progress(done)


KEPT = 64
"""Working pictures kept in memory: as many as a survey of the surroundings looks at."""


class WorkingFrames:
    """Frames at working size, made when asked for; the last few are kept."""

    def __init__(self, frames: Frames, longer_side: int) -> None:
        self._frames = frames
        height, width = frames[0].shape[:2]
        factor = min(1.0, longer_side / max(height, width))
        self.size = max(8, round(width * factor)), max(8, round(height * factor))
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        if index not in self._kept:
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[index] = cv2.resize(self._frames[index], self.size, interpolation=cv2.INTER_AREA)
        return self._kept[index]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[i] for i in range(len(self)))
