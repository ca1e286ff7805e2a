"""Nearness from parallax: what still moves after the camera's motion is taken out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.depth.smoothing import smooth_along_edges

_WIDTH = 80  # pixels at which parallax is fitted
_NOISE = 0.6  # pixels of parallax, at a scene's width, that flow cannot tell from nothing
_MOST = 0.25  # disparity by which parallax raises or lowers the map at most
_ROUNDS = 12


def corrected_by_parallax(
    disparity: NDArray[np.float32], plate: NDArray[np.uint8], views: Sequence[NDArray[np.uint8]]
) -> NDArray[np.float32]:
    """A scene's disparity, raised and lowered where the picture shifts against its dominant plane.

    Once the homography of that plane is taken out, what is left of the motion of a rigid scene is, at a pixel x and
    in view k, `near(x) * (t_k + z_k * (x - centre))`: the nearness relative to the plane times the camera's step
    sideways and forward (plane and parallax: Irani and Anandan, ECCV 1996). Both factors are fitted to all views at
    once; what moves by itself does not fit and is left alone. For the sign see `_nearer_side`.

    Args:
        disparity: float32 (h, w), from the scene's layout.
        plate: uint8 RGB, median of the views.
        views: uint8 RGB, the frames registered to the plate.

    Returns:
        float32 (h, w), 0..1.
    """
    height, width = disparity.shape
    guide = cv2.resize(plate, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    flows, weights = _residual_motion(guide, views)
    largest = max(float(np.quantile(np.linalg.norm(f, axis=2)[w > 0.2], 0.9)) if (w > 0.2).any() else 0.0
                  for f, w in zip(flows, weights, strict=True))  # fmt: skip
    if largest < _NOISE:
        return disparity
    size = (_WIDTH, max(8, round(height * _WIDTH / width)))
    motion = np.stack([_pooled(f, w, size) for f, w in zip(flows, weights, strict=True)])
    weight = np.stack([cv2.resize(w, size, interpolation=cv2.INTER_AREA) for w in weights])
    near, fits = _factored(motion, weight.astype(np.float32))

    layout = cv2.resize(disparity, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    evidence = _nearer_side(near, layout, fits)
    if abs(evidence) < 0.1:
        return disparity
    near *= np.sign(evidence)
    near[near < 0] *= 0.4  # reflections and mismatches seem far more often than near
    big, sure = (cv2.resize(a.astype(np.float32), (width, height)) for a in (near, fits))
    near_all = smooth_along_edges(
        big.astype(np.float32), guide, strength=80.0, sigma=5.0, confidence=sure.astype(np.float32) + np.float32(0.02)
    )
    trust = smooth_along_edges(sure.astype(np.float32), guide, strength=80.0, sigma=5.0)
    return np.clip(disparity + _MOST * trust * near_all, 0, 1).astype(np.float32)


def _residual_motion(
    guide: NDArray[np.uint8], views: Sequence[NDArray[np.uint8]]
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Flow from the plate to every view (h, w, 2) in pixels, and how far it can be trusted (h, w), 0..1."""
    height, width = guide.shape[:2]
    still = cv2.cvtColor(guide, cv2.COLOR_RGB2GRAY)
    gradient = np.abs(cv2.Sobel(still, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(still, cv2.CV_32F, 0, 1))
    texture = np.clip(cv2.blur(gradient, (5, 5)) / 80, 0, 1)
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=2).astype(np.float32)
    nothing = np.zeros((height, width, 2), np.float32)
    flows, weights = [], []
    for view in views:
        grey = cv2.cvtColor(cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        there = engine.calc(still, grey, nothing.copy())
        back = engine.calc(grey, still, nothing.copy())
        to_x, to_y = (grid + there)[..., 0], (grid + there)[..., 1]
        returned = there + cv2.remap(back, to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        alike = cv2.remap(grey, to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        length = np.linalg.norm(there, axis=2)
        sure = texture * np.exp(-((np.linalg.norm(returned, axis=2) / 0.8) ** 2))
        sure *= np.exp(-((cv2.absdiff(alike, still).astype(np.float32) / 20) ** 2)) * (length < 0.05 * width)
        flows.append(there.astype(np.float32))
        weights.append(sure.astype(np.float32))
    return flows, weights


def _pooled(flow: NDArray[np.float32], weight: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Weighted mean of the flow in cells, (h, w, 2)."""
    share = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(flow * weight[..., None], size, interpolation=cv2.INTER_AREA)
    return (total / np.maximum(share, 1e-4)[..., None]).astype(np.float32)


def _factored(
    motion: NDArray[np.float32], weight: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split motion (k, h, w, 2) into nearness (h, w), about -1..1, and how well it explains it (h, w), 0..1."""
    count, height, width = weight.shape
    y, x = np.mgrid[:height, :width]
    away = np.stack([(x - width / 2) / width, (y - height / 2) / width], axis=-1).reshape(-1, 2)
    flow, share = motion.reshape(count, -1, 2).astype(np.float64), weight.reshape(count, -1).astype(np.float64)

    rows = np.concatenate([flow[..., 0] * np.sqrt(share), flow[..., 1] * np.sqrt(share)])
    near = np.linalg.svd(rows, full_matrices=False)[2][0] / np.sqrt(share.mean(axis=0) + 1e-3)
    robust = share
    step = np.zeros_like(flow)
    for _ in range(_ROUNDS):
        for k in range(count):
            basis = np.stack([np.stack([near, 0 * near], 1), np.stack([0 * near, near], 1), near[:, None] * away])
            columns = (basis * np.sqrt(robust[k])[None, :, None]).reshape(3, -1)
            target = (flow[k] * np.sqrt(robust[k])[:, None]).ravel()
            ridge = 1e-6 * np.trace(columns @ columns.T) + 1e-9
            solved = np.linalg.solve(columns @ columns.T + ridge * np.eye(3), columns @ target)
            step[k] = solved[:2] + solved[2] * away
        down = (robust[..., None] * step**2).sum(axis=(0, 2))
        near = (robust[..., None] * step * flow).sum(axis=(0, 2)) / (down + 0.05 * down.mean() + 1e-9)
        left = np.linalg.norm(flow - near[None, :, None] * step, axis=2)
        robust = share / np.maximum(1.0, left / (0.5 * _NOISE))  # Huber

    moved = (share * np.linalg.norm(flow, axis=2) ** 2).sum(axis=0)
    unexplained = (share * left**2).sum(axis=0)
    seen = share.sum(axis=0)
    rest = np.sqrt(unexplained / np.maximum(seen, 1e-6))
    fits = np.clip(1 - unexplained / np.maximum(moved, 1e-9), 0, 1) ** 2 / (1 + (rest / _NOISE) ** 2)
    fits *= np.clip(seen / (0.3 * count), 0, 1)
    # What does not move at all tells as much: it lies in the plane.
    quiet = np.exp(-moved / np.maximum(seen, 1e-6) / _NOISE**2) * np.clip(seen / (0.3 * count), 0, 1)
    scale = np.quantile(np.abs(near[fits > 0.2]), 0.95) if (fits > 0.2).sum() > 20 else np.inf
    # Parallax that is hardly above noise is scaled down with it.
    size = np.quantile(np.linalg.norm(near[None, :, None] * step, axis=2).max(axis=0), 0.95)
    near = np.clip(near / scale, -1, 1) * np.clip((size - _NOISE) / (2 * _NOISE), 0, 1)
    return near.reshape(height, width), np.maximum(fits, quiet).reshape(height, width)


def _nearer_side(near: NDArray[np.float64], layout: NDArray[np.float32], weight: NDArray[np.float64]) -> float:
    """Evidence for the sign of `near`, about -1..1.

    Motion alone cannot tell near from far. Two things do: the scene's layout, and that most of a picture is backdrop,
    from which the few things in front of it stand out.
    """
    share = weight / max(float(weight.sum()), 1e-9)
    a, b = near - (share * near).sum(), layout - (share * layout).sum()
    spread, other = np.sqrt((share * a * a).sum()), np.sqrt((share * b * b).sum())
    correlation = float((share * a * b).sum() / max(spread * other, 1e-9))
    skew = float((share * a**3).sum() / max(spread**3, 1e-9))
    return 0.7 * correlation + 0.3 * float(np.tanh(skew))
