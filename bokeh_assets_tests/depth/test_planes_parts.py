"""The parts of the weight-free depth: smoothing along edges, the camera's motion, parallax."""

import cv2
import numpy as np
import pytest

from bokeh_assets.depth.camera import WIDTH, follow_camera, small_grey
from bokeh_assets.depth.parallax import corrected_by_parallax
from bokeh_assets.depth.smoothing import smooth_along_edges
from bokeh_assets_tests.depth.synthetic import texture

RNG = np.random.default_rng(0)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.clip(128 + texture(height, width, seed), 0, 255).astype(np.uint8).repeat(3, axis=2)


def test_smoothing_solves_the_least_squares_problem_of_a_line():
    values = RNG.random((1, 9)).astype(np.float32)
    guide = RNG.integers(100, 130, (1, 9, 3), np.uint8)
    out = values.astype(np.float64)
    bond = np.exp(-cv2.absdiff(guide[:, 1:], guide[:, :-1]).max(axis=2)[0].astype(float) / 10.0)
    for step in range(3):
        matrix = np.eye(9)
        for i, weight in enumerate(1.5 * 4 ** (2 - step) / 63 * 20.0 * bond):
            matrix[i : i + 2, i : i + 2] += weight * np.array([[1, -1], [-1, 1]])
        out = np.linalg.solve(matrix, out[0])[None]
    assert np.allclose(smooth_along_edges(values, guide, strength=20.0, sigma=10.0), out, atol=1e-5)


def test_noise_goes_and_the_step_of_the_picture_stays():
    guide = np.zeros((40, 60, 3), np.uint8)
    guide[:, 30:] = 200
    step = np.where(guide[..., 0] > 0, 0.8, 0.2).astype(np.float32)
    out = smooth_along_edges(step + RNG.normal(0, 0.1, step.shape).astype(np.float32), guide, strength=200.0, sigma=8.0)
    assert np.abs(out - step).max() < 0.05


def test_places_without_confidence_take_over_their_surroundings():
    guide = np.full((20, 20, 3), 90, np.uint8)
    values, sure = np.full((20, 20), 0.7, np.float32), np.ones((20, 20), np.float32)
    values[5:15, 5:15], sure[5:15, 5:15] = 0, 0
    out = smooth_along_edges(values, guide, strength=300.0, sigma=8.0, confidence=sure)
    assert np.allclose(out, 0.7, atol=1e-3)


def test_the_camera_is_followed_to_a_fraction_of_a_pixel():
    big = picture(400, 700)
    greys = []
    for i in range(12):
        turn = cv2.getRotationMatrix2D((350, 200), 0.3 * i, 1 + 0.004 * i) + np.array([[0, 0, -3.0 * i], [0, 0, 0]])
        greys.append(small_grey(cv2.warpAffine(big, turn, (700, 400)).astype(np.uint8)[65:335, 110:590]))
    [stretch, end] = follow_camera(iter(greys), 100)
    assert (stretch.first, stretch.last, end.first, end.last) == (100, 110, 111, 111)
    turn = np.vstack(
        [cv2.getRotationMatrix2D((350, 200), 0.3 * 9, 1.036) + np.array([[0, 0, -27.0], [0, 0, 0]]), [0, 0, 1]]
    )
    shift = np.array([[1, 0, -110.0], [0, 1, -65.0], [0, 0, 1]])
    truth = shift @ np.linalg.inv(turn) @ np.linalg.inv(shift)
    corners = np.array([[[0.0, 0]], [[480, 0]], [[480, 270]], [[0, 270]], [[240, 135]]])
    error = cv2.perspectiveTransform(corners, stretch.to_anchor[9]) - cv2.perspectiveTransform(corners, truth)
    assert np.linalg.norm(error, axis=2).max() < 0.5


def test_a_still_camera_is_exactly_still_though_a_third_of_the_picture_moves():
    scene, mover = small_grey(picture(270, WIDTH)), small_grey(picture(270, WIDTH, 7))
    greys = []
    for i in range(8):
        grey = scene.copy()
        grey[40:230, 20 + 10 * i : 220 + 10 * i] = mover[40:230, 100:300]
        greys.append(grey)
    [stretch] = follow_camera(iter(greys), 0)
    assert not stretch.moves() and len(stretch.to_anchor) == 8


def test_a_long_pan_gets_new_anchors_and_keeps_every_frame_once():
    wide = picture(270, 1400)
    stretches = follow_camera((small_grey(wide[:, 10 * i : 10 * i + 480]) for i in range(80)), 0)
    assert len(stretches) > 3
    numbers = [s.first + i for s in stretches for i in range(len(s.to_anchor))]
    assert numbers == list(range(80))
    travelled = sum(s.next_anchor[0, 2] for s in stretches if s.next_anchor is not None)
    assert travelled == pytest.approx(790, abs=8)


def test_pictures_without_any_feature_count_as_still():
    [stretch] = follow_camera(iter([np.full((270, 480), 90, np.uint8)] * 3), 0)
    assert not stretch.moves() and len(stretch.to_anchor) == 3


def layered_views(steps: list[float]) -> list[np.ndarray]:
    """A far wall that stays, and a near block that shifts sideways by the given pixels."""
    wall, block = picture(180, 320, 1), picture(180, 320, 2)
    shape = np.zeros((180, 320), np.float32)
    shape[70:150, 110:200] = 1
    views = []
    for step in steps:
        move = np.array([[1, 0, step], [0, 1, 0]], np.float32)
        cover = cv2.warpAffine(shape, move, (320, 180))[..., None]
        views.append((cover * cv2.warpAffine(block, move, (320, 180)) + (1 - cover) * wall).astype(np.uint8))
    return views


@pytest.mark.parametrize("direction", [1, -1])
def test_what_shifts_more_than_the_wall_is_nearer(direction):
    views = layered_views([direction * s for s in (-4, -3, -2, -1, 0, 1, 2, 3, 4)])
    layout = np.full((180, 320), 0.3, np.float32)
    layout[120:, :] += np.linspace(0, 0.6, 60, dtype=np.float32)[:, None]
    out = corrected_by_parallax(layout, views[4], views)
    raised = out - layout
    assert np.median(raised[80:140, 120:190]) > 0.1
    assert np.abs(np.median(raised[20:60])) < 0.03


def test_without_parallax_the_layout_is_given_back():
    views = layered_views([0.0] * 5)
    layout = np.full((180, 320), 0.3, np.float32)
    assert np.array_equal(corrected_by_parallax(layout, views[0], views), layout)


def test_what_moves_by_itself_is_no_parallax():
    wall, mover = picture(180, 320, 1), picture(180, 320, 2)
    views = []
    for x, y in RNG.integers(0, 80, (9, 2)):
        view = wall.copy()
        view[40 + y : 80 + y, 80 + x : 140 + x] = mover[40:80, 80:140]
        views.append(view)
    layout = np.repeat(np.linspace(0.2, 0.9, 180, dtype=np.float32)[:, None] ** 2, 320, axis=1)
    plate = np.median(views, axis=0).astype(np.uint8)
    assert np.quantile(np.abs(corrected_by_parallax(layout, plate, views) - layout), 0.95) < 0.05
