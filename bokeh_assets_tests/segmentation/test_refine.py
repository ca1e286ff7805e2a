"""Refined edges are never worse than the plain matte, on pictures whose true coverage is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from bokeh_assets.segmentation.refine import LIGHT, refined
from bokeh_assets.segmentation.sam2.mattes import soft_matte

HEIGHT, WIDTH = 270, 480
CONTRAST = {"plain": 0.01, "hair": 0.03, "soft": 0.02, "texture": 0.2, "alike": 0.05, "fine": 0.15}
"""Variation of either side's colours, by kind of scene."""


def coverage(rng: np.random.Generator, kind: str) -> np.ndarray:
    """A wavy outline, four times finer than the picture before it is averaged."""
    canvas = np.zeros((4 * HEIGHT, 4 * WIDTH), np.uint8)
    middle = np.array([4 * WIDTH, 4 * HEIGHT]) * rng.uniform(0.4, 0.6, 2)
    phases = rng.uniform(0, 6, 3)
    points = []
    for turn in np.linspace(0, 2 * np.pi, 240, endpoint=False):
        waves = 0.15 * np.sin(3 * turn + phases[0]) + 0.2 * np.sin(5 * turn + phases[1])
        radius = 1.1 * HEIGHT * (1 + waves + 0.05 * np.sin(17 * turn + phases[2]))
        points.append(middle + radius * np.array([np.cos(turn), np.sin(turn)]))
    cv2.fillPoly(canvas, [np.array(points, np.int32)], 255)
    for turn in rng.uniform(0, 2 * np.pi, 60) if kind == "hair" else ():
        way = np.array([np.cos(turn), np.sin(turn)])
        start = middle + HEIGHT * way
        end = start + 0.64 * HEIGHT * (way + rng.normal(0, 0.3, 2))
        cv2.line(canvas, start.astype(int).tolist(), end.astype(int).tolist(), 255, int(rng.integers(2, 6)))
    alpha = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return np.asarray(cv2.GaussianBlur(alpha, (0, 0), 2) if kind == "soft" else alpha)


def texture(rng: np.random.Generator, base: np.ndarray, contrast: float, size: float) -> np.ndarray:
    noise = rng.normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), size) if size else noise
    return np.clip(base + contrast * noise / noise.std(), 0, 1)


def scene(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame, the subject's true coverage, and the matte that a network of 256 cells across would give."""
    rng = np.random.default_rng(seed)
    alpha = coverage(rng, kind)
    front, back = rng.uniform(0.1, 0.9, (2, 3))
    if kind == "alike":
        back = front + rng.normal(0, 0.03, 3)
    size = 0 if kind == "fine" else rng.uniform(1, 6)
    sides = [texture(rng, colour, CONTRAST[kind], size) for colour in (front, back)]
    first, second = (np.interp(side, np.arange(256) / 255, LIGHT) for side in sides)
    light = alpha[..., None] * first + (1 - alpha[..., None]) * second
    picture = 255 * np.interp(light, LIGHT, np.arange(256) / 255) + rng.normal(0, 1, light.shape)
    cells = cv2.resize(cv2.GaussianBlur(alpha, (0, 0), 1), (256, 256), interpolation=cv2.INTER_AREA)
    logits = torch.from_numpy((cells - 0.5) * 20)[None, None]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), alpha, soft_matte(logits, HEIGHT, WIDTH).numpy()


def error(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(((found - true) ** 2).mean()))


@pytest.mark.parametrize(("kind", "gain"), [
    ("plain", 0.6), ("soft", 0.85), ("hair", 0.99), ("texture", 0.98), ("fine", 0.99), ("alike", 0.99),
])  # fmt: skip
def test_edges_get_better_where_colours_tell_and_never_worse(kind: str, gain: float) -> None:
    ratios = []
    for seed in range(100, 110):
        frame, true, plain = scene(seed, kind)
        ratios.append(error(refined(frame, plain), true) / error(plain, true))
    assert max(ratios) <= 1
    assert np.mean(ratios) < gain


def test_an_empty_a_full_and_a_flat_matte_stay_as_they_are() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    for value in (0.0, 0.5, 1.0):
        matte = np.full((90, 160), value, np.float32)
        assert np.array_equal(refined(frame, matte), matte)


def test_far_from_the_outline_nothing_changes() -> None:
    frame, _, plain = scene(0, "plain")
    distance = cv2.distanceTransform(1 - ((plain > 0.04) & (plain < 0.96)).astype(np.uint8), cv2.DIST_L2, 3)
    found = refined(frame, plain)
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    assert np.array_equal(found[distance > 8], plain[distance > 8])
    assert not np.array_equal(found, plain)
