"""Prompts: what the user says about where the subject is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bokeh_assets.errors import InputError

Pixel = tuple[float, float]
"""x, y in pixels of the upright source frame; the top left corner of the picture is 0, 0."""


class Prompt(BaseModel):
    """One hint on one frame: a box, points, a box with points, or a mask."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frame: int = Field(default=0, ge=0, description="Frame the hint is on, counted from 0")
    object: int | None = Field(
        default=None,
        ge=0,
        description="Several objects make up one subject; hints with one number describe one object. "
        "Left out: a second box or mask on the same frame is another object, all else is object 0",
    )
    box: tuple[float, float, float, float] | None = Field(default=None, description="x0, y0, x1, y1 in pixels")
    points: tuple[Pixel, ...] | None = Field(default=None, description="x, y pairs in pixels")
    labels: tuple[Literal[0, 1], ...] | None = Field(
        default=None, description="One per point: 1 is subject (the default), 0 is not"
    )
    mask: Path | None = Field(default=None, description="A picture of the frame's size; brighter than 127 is subject")

    @model_validator(mode="after")
    def _one_kind(self) -> Prompt:
        if self.mask is not None and (self.box is not None or self.points is not None):
            raise ValueError("a prompt is a mask, or a box and points, not both")
        if self.mask is None and self.box is None and not self.points:
            raise ValueError("a prompt needs a box, points or a mask")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"box {list(self.box)} is empty: give x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        if self.labels is not None and len(self.labels) != len(self.points or ()):
            raise ValueError(f"{len(self.labels)} labels for {len(self.points or ())} points")
        return self

    @property
    def point_labels(self) -> tuple[int, ...]:
        """One label per point, 1 where the user gave none."""
        return self.labels if self.labels is not None else (1,) * len(self.points or ())

    def check(self, frame_count: int, width: int, height: int) -> None:
        """Raises InputError when the prompt is not on a frame of the video or lies outside its picture.

        A box may stick out (it is clipped by the engines) as long as part of it is inside.
        """
        if self.frame >= frame_count:
            raise InputError(
                f"subject prompt on frame {self.frame}: the video has {frame_count} frames (0 to {frame_count - 1})"
            )
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
                raise InputError(f"subject box {list(self.box)} lies outside the {width}x{height} picture")
        for x, y in self.points or ():
            if not (0 <= x < width and 0 <= y < height):
                raise InputError(f"subject point {[x, y]} lies outside the {width}x{height} picture")

    def load_mask(self, width: int, height: int) -> NDArray[np.bool_]:
        """The mask picture as bool (height, width).

        Raises:
            InputError: it cannot be read or has another size than the frames.
        """
        import cv2

        assert self.mask is not None
        data = cv2.imread(str(self.mask), cv2.IMREAD_GRAYSCALE) if self.mask.is_file() else None
        if data is None:
            raise InputError(f"subject mask {self.mask} cannot be read as a picture")
        if data.shape != (height, width):
            raise InputError(
                f"subject mask {self.mask} is {data.shape[1]}x{data.shape[0]}, the frames are {width}x{height}"
            )
        return data > 127


def by_object(prompts: Sequence[Prompt]) -> dict[int, list[Prompt]]:
    """The prompts of each object, objects in order of first mention, prompts sorted by frame.

    A prompt without a number belongs to object 0, unless it is a further box or mask on a frame where an
    unnumbered box or mask was given before: then it is an object of its own.
    """
    objects: dict[int, list[Prompt]] = {}
    whole: dict[int, int] = {}  # frame -> unnumbered boxes and masks so far
    for prompt in prompts:
        number = prompt.object
        if number is None:
            number = 0
            if prompt.box is not None or prompt.mask is not None:
                number = whole.get(prompt.frame, 0)
                whole[prompt.frame] = number + 1
        objects.setdefault(number, []).append(prompt)
    return {number: sorted(group, key=lambda p: p.frame) for number, group in objects.items()}
