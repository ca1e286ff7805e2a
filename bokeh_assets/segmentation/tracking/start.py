"""The first matte: from what the user pointed at to the object, on one frame."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.segmentation.prompts import Prompt
from bokeh_assets.segmentation.tracking.colours import LocalColours, Palette
from bokeh_assets.segmentation.tracking.labels import solve
from bokeh_assets.segmentation.tracking.plate import Survey


def start_matte(
    picture: NDArray[np.uint8],
    palette: Palette,
    prompts: Sequence[Prompt],
    scale: tuple[float, float],
    size: tuple[int, int],
    known: NDArray[np.float32] | None = None,
    around: Survey | None = None,
) -> NDArray[np.float32]:
    """The object the prompts of one frame describe.

    Args:
        picture: uint8 RGB (H, W, 3) at working size.
        palette: colours of the clip.
        prompts: all hints for one object on this frame.
        scale: working pixels per source pixel, x and y.
        size: width and height of the source.
        known: float32 (H, W), where tracking saw the object; points correct it instead of starting afresh.
        around: what the frames around this one tell.

    Returns:
        float32 (H, W) matte, 0..1.
    """
    height, width = picture.shape[:2]
    masks = [p for p in prompts if p.mask is not None]
    points = [
        (x * scale[0], y * scale[1], label)
        for p in prompts
        for (x, y), label in zip(p.points or (), p.point_labels, strict=True)
    ]
    boxes = [p.box for p in prompts if p.box is not None]
    if masks:
        whole = np.zeros(size[::-1], np.float32)
        for prompt in masks:
            whole = np.maximum(whole, prompt.load_mask(*size).astype(np.float32))
        matte = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
        return _corrected(picture, matte, points) if points else matte
    if boxes:
        clipped = [_inside(box, scale, width, height) for box in boxes]
        return _from_box(picture, palette, clipped, points, around)
    if known is not None and known.max() > 0.5:
        return _corrected(picture, known, points)
    return _from_points(picture, points)


def _inside(
    box: tuple[float, float, float, float], scale: tuple[float, float], width: int, height: int
) -> tuple[int, int, int, int]:
    x0, y0 = int(np.floor(box[0] * scale[0])), int(np.floor(box[1] * scale[1]))
    x1, y1 = int(np.ceil(box[2] * scale[0])), int(np.ceil(box[3] * scale[1]))
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)


def _cut(picture: NDArray[np.uint8], labels: NDArray[np.uint8], rounds: int) -> NDArray[np.uint8]:
    """GrabCut (Rother et al., SIGGRAPH 2004) from and to OpenCV's four labels."""
    possible = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if possible.sum() < 12 or (~possible).sum() < 12:
        return labels
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(picture[..., ::-1]), labels, None, *models, rounds, cv2.GC_INIT_WITH_MASK)
    return labels


def _claims(picture: NDArray[np.uint8], points: Sequence[tuple[float, float, int]]) -> NDArray[np.int8]:
    """What the points say: 1 subject, -1 not, 0 nothing; int8 (H, W).

    A point speaks for the connected patch of its colour around it, as far as no point of the other kind is more
    alike.
    """
    height, width = picture.shape[:2]
    claims = np.zeros((height, width), np.int8)
    lab = cv2.cvtColor(cv2.GaussianBlur(picture, (0, 0), 1.5), cv2.COLOR_RGB2LAB).astype(np.float32)
    y, x = np.mgrid[0:height, 0:width]
    reach = 0.12 * max(height, width)
    away = np.full((2, height, width), np.inf, np.float32)
    for px, py, label in points:
        colour = np.linalg.norm(lab - lab[int(py), int(px)], axis=2)
        distance = np.hypot(x - px, y - py)
        like = ((colour < 18) & (distance < reach)).astype(np.uint8)
        _, parts = cv2.connectedComponents(like, connectivity=4)
        patch = parts == parts[int(py), int(px)]
        away[label] = np.minimum(away[label], np.where(patch, colour + 10 * distance / reach, np.inf))
    claims[away[1] < away[0]] = 1
    claims[away[0] < away[1]] = -1
    radius = max(2, round(0.008 * max(height, width)))
    for px, py, label in points:
        claims[np.hypot(x - px, y - py) <= radius] = 1 if label else -1
    return claims


def _draw(labels: NDArray[np.uint8], claims: NDArray[np.int8]) -> None:
    labels[claims > 0] = cv2.GC_FGD
    labels[claims < 0] = cv2.GC_BGD


def _from_box(
    picture: NDArray[np.uint8],
    palette: Palette,
    boxes: Sequence[tuple[int, int, int, int]],
    points: Sequence[tuple[float, float, int]],
    around: Survey | None,
) -> NDArray[np.float32]:
    labels = np.full(picture.shape[:2], cv2.GC_BGD, np.uint8)
    x0, y0, x1, y1 = (np.array(boxes)[:, i] for i in range(4))
    for left, top, right, bottom in boxes:
        labels[top:bottom, left:right] = cv2.GC_PR_FGD
    # The surroundings of the box tell more about what lies behind the object than the far end of the picture.
    margin = 0.35 * max((x1 - x0).max(), (y1 - y0).max()) + 4
    window = np.s_[
        max(int(y0.min() - margin), 0) : int(y1.max() + margin), max(int(x0.min() - margin), 0) : int(x1.max() + margin)
    ]
    claims = _claims(picture, points)
    _draw(labels, claims)
    part = np.ascontiguousarray(labels[window])
    if (part == cv2.GC_BGD).sum() < 12:  # the box fills the picture: its rim is the surroundings
        part[0], part[-1], part[:, 0], part[:, -1] = (cv2.GC_BGD,) * 4
    first = _cut(picture[window], part.copy(), 5)
    if around is not None:
        first = _with_change(palette, picture[window], part, first, around.change[window])
    labels[window] = first
    return _soft(picture, labels, claims)


def _with_change(
    palette: Palette,
    picture: NDArray[np.uint8],
    given: NDArray[np.uint8],
    first: NDArray[np.uint8],
    change: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """Settle again, knowing what moves, if the first cut says that the object does.

    What stays put while the object moves is not the object, however alike its colours.
    """
    found = np.isin(first, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if not found.any() or (change[found] > 0.5).mean() < 0.3:
        return first
    height, width = change.shape
    index = palette.index(picture)
    inside = given != cv2.GC_BGD
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    filled = cv2.GaussianBlur(cv2.morphologyEx(change, cv2.MORPH_CLOSE, kernel), (0, 0), 1.5)
    moving = np.clip(10 * (filled - 0.5), -2.5, 3)
    subject = np.where(inside, 1 / (1 + np.exp(-2 * moving)), 0).astype(np.float32)
    for _ in range(4):
        front, back = LocalColours(palette, height, width, 3.0), LocalColours(palette, height, width, 3.0)
        front.learn(index, subject, 1.0)
        back.learn(index, 1 - subject, 1.0)
        near = np.log((front.density(index) + 0.01) / (back.density(index) + 0.01))
        unary = np.clip(near, -2.5, 2.5) + moving + np.where(found, 0.4, -0.4)
        unary = np.where(given == cv2.GC_FGD, 8, np.where(inside, unary, -8)).astype(np.float32)
        subject = solve(picture, unary, given == cv2.GC_PR_FGD)
    return np.where(subject > 0.5, np.where(given == cv2.GC_FGD, given, cv2.GC_PR_FGD), cv2.GC_BGD).astype(np.uint8)


def _from_points(picture: NDArray[np.uint8], points: Sequence[tuple[float, float, int]]) -> NDArray[np.float32]:
    """Grow from the points along small colour steps, then cut."""
    height, width = picture.shape[:2]
    labels = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    labels[0], labels[:, 0], labels[:, -1] = (cv2.GC_BGD,) * 3
    smooth = cv2.bilateralFilter(picture, 7, 30, 5)
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).astype(np.float32)
    y, x = np.mgrid[0:height, 0:width]
    score = np.full((height, width), -np.inf, np.float32)
    for px, py, label in points:
        if not label:
            continue
        seed = np.zeros((height + 2, width + 2), np.uint8)
        cv2.floodFill(smooth, seed, (int(px), int(py)), (0, 0, 0), (4,) * 3, (4,) * 3, 4 | cv2.FLOODFILL_MASK_ONLY)
        grown = seed[1:-1, 1:-1] > 0
        if 0 < grown.sum() < 0.4 * grown.size:
            labels[grown] = cv2.GC_PR_FGD
        colour = np.sqrt(((lab - lab[int(py), int(px)]) ** 2).sum(axis=2))
        distance = np.hypot(x - px, y - py) / (0.12 * max(height, width))
        score = np.maximum(score, -colour / 12 - distance)
    labels[score > -1.2] = cv2.GC_PR_FGD
    claims = _claims(picture, points)
    _draw(labels, claims)
    return _soft(picture, _cut(picture, labels, 4), claims)


def _soft(picture: NDArray[np.uint8], labels: NDArray[np.uint8], claims: NDArray[np.int8]) -> NDArray[np.float32]:
    """Tidy GrabCut's labels: no crumbs, no pinholes, a rim settled by the solver; the points' say stands."""
    subject = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(subject, connectivity=8)
    if count > 2:
        areas = stats[1:, cv2.CC_STAT_AREA]
        keep = np.concatenate([[False], areas > 0.15 * areas.max()])
        keep[np.unique(parts[claims > 0])] = True
        keep[0] = False
        subject = keep[parts].astype(np.uint8)
    inside = cv2.distanceTransform(subject, cv2.DIST_L2, 3)
    outside = cv2.distanceTransform(1 - subject, cv2.DIST_L2, 3)
    signed = (inside - outside).astype(np.float32)
    unary = np.where(claims != 0, 8.0 * claims, 1.5 * np.clip(signed, -5, 5)).astype(np.float32)
    return solve(picture, unary, (np.abs(signed) < 4) & (claims == 0), sweeps=6)


def _corrected(
    picture: NDArray[np.uint8], matte: NDArray[np.float32], points: Sequence[tuple[float, float, int]]
) -> NDArray[np.float32]:
    """A known matte with the points' say: each point may turn the region of its colour around it."""
    known = (matte > 0.5).astype(np.uint8)
    wrong = [point for point in points if known[int(point[1]), int(point[0])] != bool(point[2])]
    claims = _claims(picture, points)
    labels = np.where(known, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    inside = cv2.erode(known, np.ones((5, 5), np.uint8)) > 0
    outside = cv2.dilate(known, np.ones((15, 15), np.uint8)) == 0
    y, x = np.mgrid[0 : matte.shape[0], 0 : matte.shape[1]]
    free = np.zeros(matte.shape, bool)
    for px, py, _ in wrong:
        free |= np.hypot(x - px, y - py) < 0.15 * max(matte.shape)
    labels[inside & ~free] = cv2.GC_FGD
    labels[outside & ~free] = cv2.GC_BGD
    _draw(labels, claims)
    return _soft(picture, _cut(picture, labels, 2), claims)
