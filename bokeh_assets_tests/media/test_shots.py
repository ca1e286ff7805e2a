"""Cuts are found where they are, and nowhere else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bokeh_assets.media.decode import decode
from bokeh_assets.media.shots import LOOK_AHEAD, ShotDetector, shots

Picture = NDArray[np.uint8]
BLACK = np.zeros((180, 320, 3), np.uint8)


def cuts(frames: list[Picture]) -> list[int]:
    numbers = list(shots(frames))
    assert len(numbers) == len(frames) and numbers[0] == 0
    assert all(b - a in (0, 1) for a, b in pairwise(numbers))
    return [i for i, (a, b) in enumerate(pairwise(numbers), start=1) if b != a]


def scene(seed: int, count: int, *, speed: float = 2.0) -> list[Picture]:
    """A camera moving over a picture of coloured patches."""
    random = np.random.default_rng(seed)
    large = np.full((400, 900, 3), random.integers(40, 200, 3), np.uint8)
    for _ in range(160):
        centre = (int(random.integers(900)), int(random.integers(400)))
        colour = tuple(int(c) for c in random.integers(20, 255, 3))
        cv2.circle(large, centre, int(random.integers(6, 48)), colour, -1, cv2.LINE_AA)
    place = [int(20 + speed * i) % 560 for i in range(count)]
    return [np.ascontiguousarray(large[60 + x // 9 : 240 + x // 9, x : x + 320]) for x in place]


def faded(frames: list[Picture], out: bool) -> list[Picture]:
    gains = np.linspace(0, 1, len(frames) + 2)[1:-1]
    return [(f * g).astype(np.uint8) for f, g in zip(frames, gains[::-1] if out else gains, strict=True)]


def flash(frame: Picture, strength: float = 3.0) -> Picture:
    return np.clip(frame * strength + 60, 0, 255).astype(np.uint8)


def test_hard_cuts() -> None:
    assert cuts(scene(1, 30) + scene(2, 25) + scene(3, 4) + scene(4, 20)) == [30, 55, 59]


def test_a_cut_at_the_very_end_and_a_short_clip() -> None:
    assert cuts(scene(1, 30) + scene(2, 1)) == [30]
    assert cuts(scene(1, 1)) == [] and cuts(scene(1, 2)) == []
    assert list(shots([])) == []


@pytest.mark.parametrize("length", [3, 6, 12, 24])
def test_a_fade_through_black_is_one_new_shot(length: int) -> None:
    first, second = scene(1, 20 + length), scene(2, 20 + length)
    frames = first[:20] + faded(first[20:], out=True) + [BLACK] * 3
    start = len(frames)
    frames += faded(second[:length], out=False) + second[length:]
    found = cuts(frames)
    assert len(found) == 1 and start <= found[0] <= start + max(2, length // 4)


def test_black_between_hard_cuts_belongs_to_the_shot_before() -> None:
    assert cuts(scene(1, 20) + [BLACK] * 12 + scene(2, 20)) == [32]


def test_black_at_the_start_or_end_is_no_cut() -> None:
    frames = scene(1, 30)
    assert cuts([BLACK] * 9 + faded(frames[:8], out=False) + frames[8:]) == []
    assert cuts(frames + [BLACK] * 9) == []


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("strength", [1.8, 3.0, 20.0])
def test_photographic_flashes_are_no_cuts(length: int, strength: float) -> None:
    frames = scene(1, 60)
    for start in (15, 24, 45):
        frames[start : start + length] = [flash(f, strength) for f in frames[start : start + length]]
    assert cuts(frames) == []


def test_a_dropped_black_frame_is_no_cut() -> None:
    frames = scene(1, 40)
    frames[20] = BLACK
    assert cuts(frames) == []


def test_light_switched_on_is_no_cut() -> None:
    frames = scene(1, 40)
    assert cuts([(f * 0.45).astype(np.uint8) for f in frames[:20]] + frames[20:]) == []


@pytest.mark.parametrize("speed", [0.0, 6.0, 15.0, 35.0])
def test_pans_are_no_cuts_however_fast(speed: float) -> None:
    frames = scene(1, 15, speed=0)
    moved = scene(1, 15, speed=speed)
    assert cuts(frames + moved) == []


def test_a_shaking_camera_is_no_cut() -> None:
    still = np.pad(scene(1, 1)[0], ((40, 40), (40, 40), (0, 0)), mode="reflect")
    shaken = []
    for i in range(60):
        dx, dy = int(20 * np.sin(1.7 * i)), int(16 * np.cos(2.3 * i))
        shaken.append(np.ascontiguousarray(still[40 + dy : 220 + dy, 40 + dx : 360 + dx]))
    assert cuts(shaken) == []


def test_a_cut_between_dark_scenes() -> None:
    assert cuts([f // 6 for f in scene(1, 20) + scene(2, 20)]) == [20]


def test_answers_lag_by_no_more_than_the_look_ahead() -> None:
    detector, decided = ShotDetector(), 0
    for index, frame in enumerate(scene(1, 30)):
        decided += len(detector.push(frame))
        assert decided >= index + 1 - LOOK_AHEAD
    assert decided + len(detector.finish()) == 30


def test_real_footage_spliced(shared: Path) -> None:
    bed = [f.image[::2, ::2] for f in decode(shared / "media" / "bedroom.mp4")]
    coaster = [f.image[::2, ::2] for f in decode(shared / "media" / "rollercoaster.mp4")]
    assert cuts(bed) == [] and cuts(coaster) == []  # jumps, a fast ride
    assert cuts(bed[::3]) == [] and cuts(coaster[::2]) == []  # the same at low frame rates
    assert cuts(bed[:40] + coaster[:30] + bed[90:120]) == [40, 70]
    lit = [flash(f) if i in (20, 21, 50) else f for i, f in enumerate(bed[:80])]
    assert cuts(lit) == []
    fade = (
        bed[:30]
        + faded(bed[30:42], out=True)
        + [np.zeros_like(bed[0])] * 2
        + faded(coaster[:12], out=False)
        + coaster[12:]
    )
    assert len(cuts(fade)) == 1
