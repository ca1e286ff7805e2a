"""The subject stands on its feet in the scene: level, steady, and with a clean edge."""

import numpy as np
import pytest

from bokeh_assets.depth.standing import stand_subject, stand_subjects, standing_levels
from bokeh_assets.errors import InputError

HEIGHT, WIDTH = 100, 80
SCENE = np.repeat(np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None], WIDTH, axis=1)
EMPTY = np.zeros((HEIGHT, WIDTH), np.float32)


def person(bottom: int, tall: int = 40) -> np.ndarray:
    matte = EMPTY.copy()
    matte[max(bottom - tall, 0) : bottom, 30:45] = 1
    return matte


def levels(mattes, shots=None, scenes=None):
    count = len(mattes)
    scenes = scenes or [SCENE] * count
    return standing_levels(iter(scenes), iter(mattes), [i / 30 for i in range(count)], shots or [0] * count)


def test_the_subject_has_the_disparity_of_the_ground_at_its_feet():
    assert levels([person(80)] * 5) == pytest.approx([0.79] * 5, abs=0.02)


def test_walking_nearer_raises_the_level_evenly():
    found = levels([person(60 + i // 2) for i in range(60)])
    assert (np.diff(found) > -1e-9).all() and found[-1] - found[0] > 0.15
    assert np.abs(np.diff(found, 2)).max() < 0.003


def test_a_jump_does_not_move_the_subject_back():
    jump = [80 - round(25 * np.sin(np.pi * i / 12)) if 0 <= i < 12 else 80 for i in range(-20, 40)]
    found = levels([person(bottom) for bottom in jump])
    assert np.abs(found - 0.79).max() < 0.02


def test_it_is_never_behind_the_scene_at_its_place():
    scene = SCENE.copy()
    scene[45:70] = 0.95
    found = levels([person(80)] * 4, scenes=[scene] * 4)
    assert (found >= 0.95 - 1e-6).all()
    assert (stand_subject(scene, person(80), 0.2) >= scene).all()


def test_levels_stop_at_cuts_and_are_absent_without_a_subject():
    found = levels([person(60)] * 10 + [person(95)] * 10 + [EMPTY] * 2, [0] * 10 + [1] * 10 + [2] * 2)
    assert np.ptp(found[:10]) < 1e-9 and np.ptp(found[10:20]) < 1e-9 and found[15] - found[5] > 0.3
    assert np.isnan(found[20:]).all()


def test_maps_hold_the_level_inside_and_the_scene_outside():
    [out] = stand_subjects([SCENE], [person(80)], [0.8])
    assert out.dtype == np.float32
    assert np.allclose(out[45:75, 32:43], 0.8)
    away = np.ones(out.shape, bool)
    away[38:82, 28:47] = False
    assert np.array_equal(out[away], SCENE[away])


def test_a_soft_matte_gives_an_edge_of_two_pixels_at_most():
    ramp = np.clip((np.arange(WIDTH) - 30) / 16, 0, 1).astype(np.float32)
    matte = np.repeat(ramp[None], HEIGHT, axis=0)
    row = stand_subject(np.full_like(matte, 0.1), matte, 0.9)[50]
    assert ((row > 0.1001) & (row < 0.8999)).sum() <= 2
    assert row[40] == pytest.approx(0.9) and row[35] == pytest.approx(0.1)  # the edge is where the matte is 1/2


def test_a_hard_matte_keeps_its_outline():
    out = stand_subject(np.zeros_like(SCENE), person(80), 1.0)
    assert np.array_equal(out > 0.5, person(80) > 0.5)


def test_an_empty_matte_gives_the_scene_back():
    assert np.array_equal(stand_subject(SCENE, EMPTY, float("nan")), SCENE)


def test_unequal_inputs_are_named():
    with pytest.raises(InputError, match="only 1 mattes"):
        standing_levels([SCENE] * 2, [EMPTY], [0, 1], [0, 0])
    with pytest.raises(InputError, match="frame 0: the disparity is 80x100 but the matte is 3x2"):
        standing_levels([SCENE], [np.zeros((2, 3), np.float32)], [0], [0])
