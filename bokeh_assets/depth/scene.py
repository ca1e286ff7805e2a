"""The likely depth of a scene from one picture of it: sky, ground, and what stands on the ground.

A pinhole camera sees a level ground with a disparity linear in the row, and an upright surface with the disparity of
the ground it stands on; sky is at zero. What is sky and where the ground ends are read from the picture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.depth.smoothing import smooth_along_edges

WIDTH = 320
"""Width in pixels at which a scene is read."""

_FOOT = (0.28, 0.4)  # disparity where the ground ends, least and most: the far end of a room is never the near one


def scene_disparity(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Disparity of a scene, float32 (h, WIDTH), 0 (sky) to 1 (ground at the lower rim of the picture).

    Args:
        picture: uint8 RGB (H, W, 3), ideally without anything that moves.
    """
    height = max(16, round(picture.shape[0] * WIDTH / picture.shape[1]))
    small = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    calm = cv2.bilateralFilter(small, 7, 40, 5).astype(np.uint8)
    lab = cv2.cvtColor(calm.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float32)
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]

    sky = sky_likelihood(lab, calm)
    ground = _ground_likelihood(lab, calm) * (1 - sky)
    contact = _contact_line(ground, calm)
    foreground = slice(int(0.93 * height), None)
    has_ground = ground[foreground].mean() > 0.35 and sky[foreground].mean() < 0.3

    if not has_ground:  # sky all round, as for a tower seen from below: what is not sky stands in front of it
        values = (1 - sky) * (0.45 + 0.2 * rows)
        return smooth_along_edges(values.astype(np.float32), calm, strength=60.0, sigma=6.0)

    far_end = float(np.quantile(contact, 0.25)) / height
    horizon = _horizon(small)
    foot = float(np.clip((far_end - horizon) / max(1 - horizon, 0.05), *_FOOT))
    slope = (1 - foot) / max(1 - far_end, 0.05)

    wall = foot * (0.5 + 0.5 * np.minimum(rows / max(far_end, 0.05), 1.0))
    floor = np.maximum(foot + slope * (rows - far_end), wall)
    is_floor = (ground > 0.5) & (np.arange(height)[:, None] >= contact[None, :] - 0.05 * height)
    # Upright things have the disparity of the ground below them. They are known best where they stand; higher
    # up the wall behind may show.
    stands_at = np.where(is_floor, np.arange(height)[:, None], height)
    stands_at = np.minimum.accumulate(stands_at[::-1], axis=0)[::-1]
    gap = (stands_at - np.arange(height)[:, None]) / height
    same_thing = np.exp(-gap / 0.18)
    standing = np.clip(foot + slope * (stands_at / height - far_end), foot, 1.0)
    upright = same_thing * standing + (1 - same_thing) * wall
    values = np.where(is_floor, floor, upright)
    confidence = np.where(is_floor, 1.0, 0.1 + 0.6 * np.exp(-gap / 0.1))
    values, confidence = values * (1 - sky), np.maximum(confidence, sky)
    out = smooth_along_edges(
        np.clip(values, 0, 1).astype(np.float32),
        calm,
        strength=150.0,
        sigma=4.5,
        confidence=confidence.astype(np.float32),
    )
    return np.clip(out, 0, 1)


def sky_likelihood(lab: NDArray[np.float32], picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How likely each pixel is sky: smooth, blue, and like what lies at the top of the picture. (H, W), 0..1."""
    height = lab.shape[0]
    lightness = lab[..., 0]
    rough = cv2.blur(np.abs(cv2.Laplacian(lightness, cv2.CV_32F)), (5, 5))
    blue = np.clip((-lab[..., 2] - 6) / 10, 0, 1) * (lightness > 30)
    seed = (blue > 0.5) & (rough < 2.0)
    if seed[: height // 3].mean() < 0.2:
        return np.zeros(lab.shape[:2], np.float32)
    samples = lab[: height // 2][seed[: height // 2]]
    middle = np.median(samples, axis=0)
    # Skies grade towards the horizon in lightness more than in hue.
    scale = np.maximum(2.5 * np.median(np.abs(samples - middle), axis=0), (14, 6, 9))
    alike = np.exp(-0.5 * (((lab - middle) / scale) ** 2).sum(axis=2))
    sky = np.clip(alike * 2, 0, 1)
    # What is white and grey amid sky is cloud.
    around = cv2.blur(sky, (61, 61), borderType=cv2.BORDER_REPLICATE)
    pale = np.clip((lightness - 65) / 10, 0, 1) * np.clip((30 - np.hypot(lab[..., 1], lab[..., 2])) / 8, 0, 1)
    sky = np.maximum(sky, pale * np.clip(3 * around - 0.5, 0, 1))
    return np.clip(smooth_along_edges(sky.astype(np.float32), picture, strength=20.0, sigma=7.0), 0, 1)


def _ground_likelihood(lab: NDArray[np.float32], picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How likely each pixel is ground: low in the picture, and coloured like its lower rim. (H, W), 0..1."""
    height, width = lab.shape[:2]
    bins = np.stack(
        [
            np.clip(lab[..., 0] / 100 * 12, 0, 11),
            np.clip((lab[..., 1] + 40) / 80 * 10, 0, 9),
            np.clip((lab[..., 2] + 40) / 80 * 10, 0, 9),
        ],
        axis=2,
    ).astype(int)
    rows = np.linspace(0, 1, height)[:, None] * np.ones((1, width))

    def histogram(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = np.zeros((12, 10, 10))
        np.add.at(counts, tuple(bins.reshape(-1, 3).T), weight.ravel())
        blurred = cv2.GaussianBlur(counts.reshape(12, 100), (1, 3), 0.8).reshape(12, 10, 10).astype(np.float64)
        return blurred / max(float(blurred.sum()), 1e-9)

    low = histogram(np.clip((rows - 0.88) / 0.1, 0, 1))
    high = histogram(np.clip((0.6 - rows) / 0.1, 0, 1))
    where = tuple(np.moveaxis(bins, 2, 0))
    # A colour seen in neither is more likely a thing on the ground than the ground.
    odds = np.clip(np.log((low[where] + 2e-4) / (high[where] + 1e-3)), -3, 3) + 12 * (rows - 0.75)
    likely = 1 / (1 + np.exp(-odds))
    return np.clip(smooth_along_edges(likely.astype(np.float32), picture, strength=30.0, sigma=6.0), 0, 1)


def _contact_line(ground: NDArray[np.float32], picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Row in every column at which the ground ends, by dynamic programming. (W,), pixels."""
    height, width = ground.shape
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    edge = np.clip(np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3)) / 60, 0, 1)
    log_odds = np.log((ground + 0.02) / (1.02 - ground))
    total = np.cumsum(log_odds, axis=0)
    cost = 2 * total - total[-1:] - 4.0 * edge  # ground above the line and none below it both cost
    best = np.empty((height, width))
    steps = 1.2
    best[:, 0] = cost[:, 0]
    for x in range(1, width):
        best[:, x] = cost[:, x] + _lower_envelope(best[:, x - 1], steps)
    line = np.empty(width)
    line[-1] = y = int(np.argmin(best[:, -1]))
    for x in range(width - 2, -1, -1):
        y = int(np.argmin(best[:, x] + steps * np.abs(np.arange(height) - y)))
        line[x] = y
    return np.clip(cv2.GaussianBlur(line[None], (0, 0), 2.0)[0], 0.25 * height, 0.97 * height)


def _lower_envelope(cost: NDArray[np.float64], slope: float) -> NDArray[np.float64]:
    """Least cost over all rows, a move by one row costing `slope`: Felzenszwalb and Huttenlocher, 2012, section 3."""
    ramp = slope * np.arange(len(cost))
    down = np.minimum.accumulate(cost - ramp) + ramp
    up = (np.minimum.accumulate((cost + ramp)[::-1]))[::-1] - ramp
    return np.minimum(down, up)


def _horizon(picture: NDArray[np.uint8]) -> float:
    """Height of the horizon as a share of the picture's height, from where receding lines meet; 0.4 if none do."""
    height, width = picture.shape[:2]
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    found = cv2.createLineSegmentDetector().detect(grey)[0]
    if found is None:
        return 0.4
    lines = found.reshape(-1, 4).astype(np.float64)
    dx, dy = lines[:, 2] - lines[:, 0], lines[:, 3] - lines[:, 1]
    length, angle = np.hypot(dx, dy), np.abs(np.degrees(np.arctan2(dy, dx)))
    angle = np.minimum(angle, 180 - angle)
    slanted = (length > width / 16) & (angle > 8) & (angle < 70)
    lines, length = lines[slanted], length[slanted]
    if len(lines) < 4:
        return 0.4
    order = np.argsort(-length)[:40]
    lines, length = lines[order], length[order]
    equations = np.cross(np.c_[lines[:, :2], np.ones(len(lines))], np.c_[lines[:, 2:], np.ones(len(lines))])
    a, b = np.triu_indices(len(lines), 1)
    meets = np.cross(equations[a], equations[b])
    direction = equations[:, :2] / np.linalg.norm(equations[:, :2], axis=1, keepdims=True)
    crossing = np.abs(direction[a, 0] * direction[b, 1] - direction[a, 1] * direction[b, 0])
    usable = (np.abs(meets[:, 2]) > 1e-9) & (crossing > 0.2)
    if usable.sum() < 6:
        return 0.4
    points = meets[usable, :2] / meets[usable, 2:]
    weight = (length[a] * length[b] * crossing)[usable]
    inside = (np.abs(points[:, 0] / width - 0.5) < 1.5) & (np.abs(points[:, 1] / height - 0.45) < 0.45)
    if weight[inside].sum() < 0.4 * weight.sum():
        return 0.4
    level, weight = points[inside, 1] / height, weight[inside]
    order = np.argsort(level)
    share = np.cumsum(weight[order]) / weight.sum()
    quartiles = level[order][np.searchsorted(share, (0.25, 0.5, 0.75))]
    trust = np.clip(1 - (quartiles[2] - quartiles[0]) / 0.4, 0, 1)
    return float(trust * quartiles[1] + (1 - trust) * 0.4)
