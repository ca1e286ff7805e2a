"""Which subject, where the user named none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.errors import InputError
from bokeh_assets.media.frames import Frames
from bokeh_assets.segmentation.prompts import Prompt
from bokeh_assets.segmentation.tracking.plate import survey

LOOKS = 9
"""Places in the clip that are looked at."""


def choose_subject(frames: Frames) -> tuple[Prompt, str]:
    """The subject a viewer would most likely mean, as a box, and why.

    In this order: the largest face near the middle that is seen at several places of the clip (with the body below
    it), the largest thing that moves against the camera's own motion, the thing that stands out most from the
    picture's rim.

    Args:
        frames: random access to the clip.

    Returns:
        A box prompt in pixels of the frames, and a short reason such as "face on frame 12".

    Raises:
        InputError: there are no frames.
    """
    if len(frames) == 0:
        raise InputError("no subject can be chosen: the video has no frames")
    looks = np.unique(np.linspace(0, len(frames) - 1, LOOKS).round().astype(int)).tolist()
    return _face(frames, looks) or _moving(frames, looks) or _salient(frames, looks)


def _prompt(frame: int, box: Sequence[float], width: int, height: int) -> Prompt:
    x0, y0, x1, y1 = box
    clipped = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    return Prompt(
        frame=frame, box=(round(clipped[0], 1), round(clipped[1], 1), round(clipped[2], 1), round(clipped[3], 1))
    )


def _small(picture: NDArray[np.uint8], longer_side: int) -> tuple[NDArray[np.uint8], float]:
    factor = min(1.0, longer_side / max(picture.shape[:2]))
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), factor


def _face(frames: Frames, looks: Sequence[int]) -> tuple[Prompt, str] | None:
    folder = Path(cv2.__file__).parent / "data"
    finder = cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_alt2.xml"))
    best: tuple[float, int, tuple[float, float, float]] | None = None
    frames_with_face = 0
    for index in looks:
        picture, factor = _small(frames[index], 640)
        grey = cv2.equalizeHist(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
        found = finder.detectMultiScale(grey, 1.15, 7, minSize=(28, 28))
        frames_with_face += len(found) > 0
        for x, y, w, _ in found:
            offset = abs((x + w / 2) / picture.shape[1] - 0.5)
            score = float(w * (1 - offset))
            if best is None or score > best[0]:
                best = score, index, (x / factor, y / factor, w / factor)
    # One lone find is more often a pattern on a wall than a person.
    if best is None or frames_with_face < min(3, len(looks)):
        return None
    height, width = frames[0].shape[:2]
    _, index, (x, y, w) = best
    return _prompt(index, (x - 1.1 * w, y - 0.5 * w, x + 2.1 * w, y + 7.0 * w), width, height), f"face on frame {index}"


class _Small:
    """The frames at the size they are looked at, as `Frames`."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        return _small(self._frames[index], 320)[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[i] for i in range(len(self)))


def _moving(frames: Frames, looks: Sequence[int]) -> tuple[Prompt, str] | None:
    best: tuple[float, int, Sequence[int]] | None = None
    small = _Small(frames)
    for index in looks:
        change = cv2.GaussianBlur(survey(small, index).change, (0, 0), 1.0)
        height, width = change.shape
        moving = (change > 0.55).astype(np.uint8)
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        moving = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        count, _, stats, centres = cv2.connectedComponentsWithStats(moving, connectivity=8)
        for part in range(1, count):
            left, top, w, h, area = (int(v) for v in stats[part])
            share = area / moving.size
            if not 0.004 < share < 0.5:
                continue
            centre = 1 - abs(centres[part][0] / width - 0.5) - 0.5 * abs(centres[part][1] / height - 0.5)
            # Two things that touch make a large box with much between them, a thing cut off by the picture's
            # side is half a subject: a look at another frame shows either better.
            whole = 0.6 if left == 0 or left + w == width else 1.0
            score = float(np.sqrt(share) * centre * whole * area / (w * h))
            if best is None or score > best[0]:
                best = score, index, (left, top, w, h)
    if best is None:
        return None
    _, index, (left, top, w, h) = best
    factor = small[index].shape[1] / frames[index].shape[1]
    margin = 0.06 * max(w, h) + 2
    box = [v / factor for v in (left - margin, top - margin, left + w + margin, top + h + margin)]
    height, width = frames[index].shape[:2]
    return _prompt(index, box, width, height), f"largest moving object, frame {index}"


def _salient(frames: Frames, looks: Sequence[int]) -> tuple[Prompt, str]:
    """Mahalanobis distance from the colours of the picture's rim, weighted towards the middle."""
    index = looks[len(looks) // 2]
    picture, factor = _small(frames[index], 320)
    lab = cv2.cvtColor(cv2.GaussianBlur(picture, (0, 0), 2), cv2.COLOR_RGB2LAB).astype(np.float32)
    height, width = lab.shape[:2]
    edge = max(2, min(height, width) // 12)
    odd = np.full((height, width), np.inf, np.float32)
    for rim in (lab[:edge], lab[-edge:], lab[:, :edge], lab[:, -edge:]):
        colours = rim.reshape(-1, 3)
        spread = np.cov(colours.T) + 9.0 * np.eye(3)
        away = lab - colours.mean(axis=0)
        odd = np.minimum(odd, np.einsum("hwi,ij,hwj->hw", away, np.linalg.inv(spread), away).astype(np.float32))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    score = np.sqrt(odd) * np.exp(-(x**2 + y**2) / 0.7)
    level, _ = cv2.threshold((255 * score / max(float(score.max()), 1e-6)).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)
    mask = (255 * score / max(float(score.max()), 1e-6) > level).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    frame_height, frame_width = frames[0].shape[:2]
    if count > 1 and score.max() > 1.0:
        totals = np.bincount(parts.ravel(), score.ravel(), count)
        totals[0] = 0
        left, top, w, h, _ = stats[int(np.argmax(totals))]
        margin = 0.06 * max(w, h) + 2
        box = [v / factor for v in (left - margin, top - margin, left + w + margin, top + h + margin)]
        reason = f"object that stands out near the middle, frame {index}"
    else:
        box = [0.3 * frame_width, 0.2 * frame_height, 0.7 * frame_width, 0.95 * frame_height]
        reason = f"middle of the picture, nothing stands out, frame {index}"
    return _prompt(index, box, frame_width, frame_height), reason
