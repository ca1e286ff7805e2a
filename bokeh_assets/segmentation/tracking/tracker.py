"""Follow one object from frame to frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.segmentation.tracking.colours import LocalColours, Palette
from bokeh_assets.segmentation.tracking.flow import FlowEstimator, Motion
from bokeh_assets.segmentation.tracking.labels import solve

LOST = 0.08
"""An object with less than this share of its usual area is out of the picture."""


class Tracker:
    """One object's state: its last matte, and what it and its surroundings look like.

    Frames may be given in either order of time. All pictures have working size.

    Args:
        palette: colours of the clip.
        picture: uint8 RGB (H, W, 3), the frame the object is known on.
        matte: float32 (H, W), the object there, 0..1.
    """

    def __init__(self, palette: Palette, picture: NDArray[np.uint8], matte: NDArray[np.float32]) -> None:
        height, width = matte.shape
        self._palette = palette
        self._flow = FlowEstimator()
        reach = 0.02 * max(height, width) / 8 * 1.0 + 1.0
        self._subject = LocalColours(palette, height, width, reach)
        self._rest = LocalColours(palette, height, width, reach)
        index = palette.index(picture)
        self._subject.learn(index, matte, 1.0)
        self._rest.learn(index, 1 - matte, 1.0)
        self._grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        self.matte = matte
        self._area = float(matte.sum())
        self._anchor_subject, self._anchor_rest = self._subject.total, self._rest.total

    def step(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The object's matte, float32 (H, W), in the next frame."""
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        motion = self._flow.between(self._grey, grey)
        prior = motion.warp(self.matte)
        self._follow(motion, prior)
        index = self._palette.index(picture)
        evidence = self._evidence(index)
        unary, active = self._combine(motion, prior, evidence)
        matte = solve(picture, unary, active)
        matte = _keep_supported(matte, prior)
        self._learn(index, matte)
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

    def _evidence(self, index: NDArray[np.int32]) -> NDArray[np.float32]:
        """Log odds of the subject from colour: what is seen around here, then what was seen anywhere."""
        subject, rest = self._subject.density(index), self._rest.density(index)
        subject = subject + 0.02 * self._anchor_subject[index] + 1e-5
        rest = rest + 0.02 * self._anchor_rest[index] + 1e-5
        return np.clip(np.log(subject / rest), -4, 4).astype(np.float32)

    def _combine(
        self, motion: Motion, prior: NDArray[np.float32], evidence: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        speed = float(np.median(np.linalg.norm(motion.back[prior > 0.5], axis=1))) if (prior > 0.5).any() else 0.0
        reach = 5.0 + min(0.5 * speed, 8.0)
        signed = _signed_distance(prior > 0.5)
        place = np.clip(signed / 2.0, -3, 3)
        weight = 0.25 + 0.75 * motion.trust
        unary = weight * place * 1.2 + evidence
        active = np.abs(signed) < reach
        active |= (motion.trust < 0.5) & (np.abs(signed) < 3 * reach)
        sure = np.where(signed > 0, 8.0, -8.0)
        return np.where(active, unary, sure).astype(np.float32), active

    def _learn(self, index: NDArray[np.int32], matte: NDArray[np.float32]) -> None:
        signed = _signed_distance(matte > 0.5)
        self._subject.learn(index, matte * (signed > 0.5), 0.1)
        self._rest.learn(index, (1 - matte) * (signed < -1), 0.2)


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance to the mask's rim in pixels, positive inside; (H, W) float32."""
    inside = mask.astype(np.uint8)
    return cv2.distanceTransform(inside, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)


def _keep_supported(matte: NDArray[np.float32], prior: NDArray[np.float32]) -> NDArray[np.float32]:
    """Drop pieces that the moved matte of the last frame does not reach."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats((matte > 0.5).astype(np.uint8), connectivity=8)
    if count <= 2:
        return matte
    support = np.bincount(parts.ravel(), prior.ravel(), count)
    keep = support > 0.25 * stats[:, cv2.CC_STAT_AREA]
    keep[0] = False
    biggest = 1 + int(np.argmax(support[1:]))
    keep[biggest] = True
    near = cv2.dilate(keep[parts].astype(np.uint8), np.ones((3, 3), np.uint8))
    return matte * near
