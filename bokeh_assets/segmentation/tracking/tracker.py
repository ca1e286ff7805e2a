"""Follow one object from frame to frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.media.frames import Frames
from bokeh_assets.segmentation.tracking.colours import LocalColours, Palette
from bokeh_assets.segmentation.tracking.flow import FlowEstimator, Motion
from bokeh_assets.segmentation.tracking.labels import solve
from bokeh_assets.segmentation.tracking.plate import Plate, Survey, survey

LOST = 0.08
"""An object with less than this share of its usual area is out of the picture."""

SURVEY = 6
"""Every so many frames the frames around are compared."""


class Tracker:
    """One object's state: its last matte, and what it and its surroundings look like.

    Frames may be given in either order of time. All pictures have working size.

    Args:
        frames: the clip.
        palette: its colours.
        at: number of the frame the object is known on.
        matte: float32 (H, W), the object there, 0..1.
    """

    def __init__(self, frames: Frames, palette: Palette, at: int, matte: NDArray[np.float32]) -> None:
        picture = frames[at]
        self._frames = frames
        self._steps = 0
        height, width = matte.shape
        self._palette = palette
        self._flow = FlowEstimator()
        reach = 0.02 * max(height, width) / 8 * 1.0 + 1.0
        self._subject = LocalColours(palette, height, width, reach)
        self._rest = LocalColours(palette, height, width, reach)
        index = palette.index(picture)
        self._subject.learn(index, matte, 1.0)
        self._rest.learn(index, 1 - matte, 1.0)
        self._plate = Plate(height, width)
        self._plate.learn(picture, _signed_distance(matte > 0.5) < -3)
        self._grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        self.matte = matte
        self._area = float(matte.sum())
        self._lone = _pieces(matte) == 1
        mine, others = self._subject.total, self._rest.total
        # Amounts, not shares: a colour that is rare in a large scene can still be commoner there than here.
        self._ever = np.clip(np.log((mine + 0.5) / (others + 0.5)), -2, 2).astype(np.float32)
        self._worn = mine / max(float(mine.sum()), 1e-6)
        ys, xs = np.where(matte > 0.5)
        self._extent = (int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1) if len(xs) else (1, 1)
        self._lost = len(xs) == 0

    def step(self, at: int) -> NDArray[np.float32]:
        """The object's matte, float32 (H, W), in frame `at`, a neighbour of the last one."""
        picture = self._frames[at]
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        motion = self._flow.between(self._grey, grey)
        prior = motion.warp(self.matte)
        self._follow(motion, prior)
        index = self._palette.index(picture)
        evidence = self._evidence(index) + self._against_plate(picture) + _own_motion(motion, prior)
        self._steps += 1
        if self._steps % SURVEY == 1:
            found = survey(self._frames, at)
            self._plate.learn_hidden(found)
            evidence = evidence + _from_survey(found, prior)
        unary, active = self._combine(motion, prior, evidence)
        matte = solve(picture, unary, active)
        matte = _keep_supported(matte, prior, self._lone)
        if self._lost:
            matte = self._found_again(picture, index)
        elif not self._plausible(matte, index):
            matte = np.zeros_like(matte)
        self._lost = not matte.any()
        self._learn(picture, index, matte)
        self._grey, self.matte = grey, matte
        return matte

    def _follow(self, motion: Motion, prior: NDArray[np.float32]) -> None:
        """Move the colour models with the object and with the camera."""
        inside = (prior > 0.5) & (motion.trust > 0.3)
        if inside.sum() > 20:
            dx, dy = -np.median(motion.back[inside], axis=0)
            self._subject.move(float(dx), float(dy))
        height, width = prior.shape
        centre = np.array([width / 2, height / 2, 1.0], np.float32)
        dx, dy = centre[:2] - motion.camera @ centre
        self._rest.move(float(dx), float(dy))
        self._plate.move(motion.camera)

    def _evidence(self, index: NDArray[np.int32]) -> NDArray[np.float32]:
        """Log odds of the subject from colour: what is seen around here, then what was seen anywhere."""
        subject, rest = self._subject.density(index) + 1e-3, self._rest.density(index) + 1e-3
        here = np.clip(np.log(subject / rest), -3, 3)
        return (here + 0.5 * self._ever[index]).astype(np.float32)

    def _plausible(self, matte: NDArray[np.float32], index: NDArray[np.int32]) -> bool:
        """Whether this is the object: enough of it, and in its colours."""
        area = float(matte.sum())
        if area < max(LOST * self._area, 12):
            return False
        worn = self._palette.mix @ np.bincount(index.ravel(), matte.ravel(), self._palette.size)
        return float(np.minimum(worn / worn.sum(), self._worn).sum()) > 0.3

    def _found_again(self, picture: NDArray[np.uint8], index: NDArray[np.int32]) -> NDArray[np.float32]:
        """The matte of an object that was out of sight, or zeros: a window of its size full of its colours."""
        unary = self._ever[index] + self._against_plate(picture) - 0.3
        width, height = (max(3, round(0.8 * side)) for side in self._extent)
        density = cv2.boxFilter((unary > 0).astype(np.float32), -1, (width, height), borderType=cv2.BORDER_CONSTANT)
        _, best, _, (x, y) = cv2.minMaxLoc(density)
        nothing = np.zeros(index.shape, np.float32)
        if best < 0.15:
            return nothing
        window = np.zeros(index.shape, bool)
        window[max(y - height, 0) : y + height, max(x - width, 0) : x + width] = True
        matte = solve(picture, np.where(window, unary, -8).astype(np.float32), window)
        count, parts, stats, _ = cv2.connectedComponentsWithStats((matte > 0.5).astype(np.uint8), connectivity=8)
        if count < 2:
            return nothing
        matte = matte * (parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))
        return matte if 0.2 * self._area < matte.sum() < 2 * self._area and self._plausible(matte, index) else nothing

    def _against_plate(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Log odds of the subject: what looks as it did before the subject came is the scene."""
        match, sure = self._plate.evidence(picture)
        return sure * (0.6 - 2.6 * match)

    def _combine(
        self, motion: Motion, prior: NDArray[np.float32], evidence: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        speed = float(np.median(np.linalg.norm(motion.back[prior > 0.5], axis=1))) if (prior > 0.5).any() else 0.0
        reach = 5.0 + min(0.5 * speed, 8.0)
        signed = _signed_distance(prior > 0.5)
        place = np.clip(signed / 2.0, -3, 3)
        weight = 0.25 + 0.75 * motion.trust
        unary = weight * place * 1.2 + evidence - 1.5 * motion.uncovered
        active = np.abs(signed) < reach
        active |= (motion.trust < 0.5) & (np.abs(signed) < 3 * reach)
        sure = np.where(signed > 0, 8.0, -8.0)
        return np.where(active, unary, sure).astype(np.float32), active

    def _learn(self, picture: NDArray[np.uint8], index: NDArray[np.int32], matte: NDArray[np.float32]) -> None:
        signed = _signed_distance(matte > 0.5)
        self._subject.learn(index, matte * (signed > 0.5), 0.1)
        self._rest.learn(index, (1 - matte) * (signed < -1), 0.2)
        self._plate.learn(picture, signed < -4)


def _own_motion(motion: Motion, prior: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log odds of the subject: while it moves as a whole, what stays with the scene is not part of it."""
    core = (prior > 0.5) & (motion.trust > 0.5)
    if core.sum() < 20:
        return np.zeros_like(prior)
    height, width = prior.shape
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    (a, b, c), (d, e, f) = motion.camera
    own_x = motion.back[..., 0] - ((a - 1) * x + b * y + c)
    own_y = motion.back[..., 1] - (d * x + (e - 1) * y + f)
    subject_x, subject_y = float(np.median(own_x[core])), float(np.median(own_y[core]))
    speed = float(np.hypot(subject_x, subject_y))
    weight = np.clip(speed - 1, 0, 2) * 0.5
    if weight == 0:
        return np.zeros_like(prior)
    with_scene, with_subject = np.hypot(own_x, own_y), np.hypot(own_x - subject_x, own_y - subject_y)
    return weight * motion.trust * np.clip((with_scene - with_subject) / speed, -1, 1)


def _from_survey(found: Survey, prior: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log odds of the subject: while it moves, what stays is not part of it."""
    subject = prior > 0.5
    if not subject.any():
        return np.zeros_like(prior)
    moving = float((found.change[subject] > 0.4).mean())
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    filled = cv2.GaussianBlur(cv2.morphologyEx(found.change, cv2.MORPH_CLOSE, kernel), (0, 0), 1.0)
    weight = np.clip((moving - 0.4) / 0.2, 0, 1)
    return (weight * np.clip(6 * (filled - 0.35), -2, 1)).astype(np.float32)


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance to the mask's rim in pixels, positive inside; (H, W) float32."""
    inside = mask.astype(np.uint8)
    return cv2.distanceTransform(inside, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)


def _pieces(matte: NDArray[np.float32]) -> int:
    """Number of pieces of at least a tenth of the object."""
    count, _, stats, _ = cv2.connectedComponentsWithStats((matte > 0.5).astype(np.uint8), connectivity=8)
    return int((stats[1:count, cv2.CC_STAT_AREA] > 0.1 * (matte > 0.5).sum()).sum())


def _keep_supported(matte: NDArray[np.float32], prior: NDArray[np.float32], lone: bool) -> NDArray[np.float32]:
    """Drop pieces that the moved matte of the last frame does not reach.

    Of an object that was one piece when it was pointed at (`lone`), pieces that part from it are dropped too; a
    hand that motion blur cuts off is near enough to stay.
    """
    count, parts, stats, _ = cv2.connectedComponentsWithStats((matte > 0.5).astype(np.uint8), connectivity=8)
    if count <= 2:
        return matte
    areas = stats[:, cv2.CC_STAT_AREA]
    support = np.bincount(parts.ravel(), prior.ravel(), count)
    keep = support > 0.25 * areas
    keep[0] = False
    biggest = 1 + int(np.argmax(support[1:]))
    keep[biggest] = True
    if lone:
        away = cv2.distanceTransform((parts != biggest).astype(np.uint8), cv2.DIST_L2, 3)
        limit = 0.12 * float(np.sqrt(areas[biggest])) + 2
        for part in range(1, count):
            keep[part] &= away[parts == part].min() <= limit
    near = cv2.dilate(keep[parts].astype(np.uint8), np.ones((3, 3), np.uint8))
    return matte * near
