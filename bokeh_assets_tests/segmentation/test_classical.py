"""The weight-free segmenter on made scenes with known mattes."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bokeh_assets.errors import InputError
from bokeh_assets.segmentation.classical import ClassicalSegmenter, choose_subject
from bokeh_assets.segmentation.prompts import Prompt
from bokeh_assets_tests.segmentation.scenes import BLUE, HEIGHT, RED, WIDTH, Scene, Thing, iou

LENGTH = 24


def swinging(t: int) -> tuple[float, float]:
    return 60 + 4.0 * t, 85 + 14 * math.sin(t / 3)


def standing(t: int) -> tuple[float, float]:
    return 185.0, 85.0


def mattes(scene: Scene, prompts: list[Prompt]) -> list[NDArray[np.float32]]:
    return list(ClassicalSegmenter().segment(scene, prompts))


def scores(scene: Scene, prompts: list[Prompt], subject: list[int] | None = None) -> list[float]:
    return [iou(matte, scene.truth(t, subject)) for t, matte in enumerate(mattes(scene, prompts))]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene([Thing(2, RED, swinging)], LENGTH)


def test_a_box_on_the_first_frame_is_followed_to_the_last(scene: Scene) -> None:
    assert min(scores(scene, [Prompt(box=scene.box(0))])) > 0.85


def test_a_box_on_the_last_frame_is_followed_to_the_first(scene: Scene) -> None:
    last = LENGTH - 1
    assert min(scores(scene, [Prompt(frame=last, box=scene.box(last))])) > 0.85


def test_a_box_in_the_middle_is_followed_both_ways_under_a_moving_camera() -> None:
    scene = Scene([Thing(2, RED, swinging)], LENGTH, camera=1.7)
    assert min(scores(scene, [Prompt(frame=11, box=scene.box(11))])) > 0.85


def test_one_point_finds_the_thing(scene: Scene) -> None:
    assert min(scores(scene, [Prompt(points=(swinging(0),))])) > 0.8


def test_a_box_may_stick_out_of_the_picture(scene: Scene) -> None:
    x0, _, x1, y1 = scene.box(0)
    assert min(scores(scene, [Prompt(box=(x0, -30, x1, y1))])) > 0.85


def test_a_mask_is_taken_as_it_is(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "first.png"
    cv2.imwrite(str(file), scene.truth(0).astype(np.uint8) * 255)
    found = scores(scene, [Prompt(mask=file)])
    assert found[0] > 0.9 and min(found) > 0.85


def test_a_negative_point_takes_a_thing_out_of_the_box() -> None:
    near = Scene([Thing(2, RED, lambda t: (80, 85)), Thing(3, BLUE, lambda t: (128, 85))], 6)
    box = (near.box(0, 0)[0], near.box(0, 0)[1], near.box(0, 1)[2], near.box(0, 1)[3])
    both = scores(near, [Prompt(box=box)], [0])
    points = ((80.0, 85.0), (128.0, 85.0), (128.0, 66.0), (128.0, 105.0))
    one = scores(near, [Prompt(box=box, points=points, labels=(1, 0, 0, 0))], [0])
    assert both[0] < 0.6 and min(one) > 0.8


def test_a_point_on_a_later_frame_corrects_what_was_tracked() -> None:
    pair = Scene([Thing(2, RED, lambda t: (80, 85)), Thing(3, BLUE, lambda t: (128, 85))], 16)
    box = (pair.box(0, 0)[0], pair.box(0, 0)[1], pair.box(0, 1)[2], pair.box(0, 1)[3])
    points = ((128.0, 85.0), (128.0, 66.0), (128.0, 105.0))
    found = scores(pair, [Prompt(box=box), Prompt(frame=12, points=points, labels=(0, 0, 0))], [0])
    assert found[0] < 0.6 and min(found[12:]) > 0.8


def test_several_prompts_of_one_object_agree_between_them(scene: Scene) -> None:
    prompts = [Prompt(frame=t, box=scene.box(t), object=0) for t in (3, 20)]
    assert min(scores(scene, prompts)) > 0.85


def test_two_objects_make_one_subject_and_a_third_stays_out() -> None:
    things = [
        Thing(2, RED, lambda t: (50 + t, 85)),
        Thing(3, BLUE, lambda t: (190 - t, 80)),
        Thing(4, (60, 150, 60), lambda t: (120, 90)),
    ]
    scene = Scene(things, 12)
    prompts = [Prompt(box=scene.box(0, 0)), Prompt(frame=5, object=1, box=scene.box(5, 1))]
    assert min(scores(scene, prompts, [0, 1])) > 0.8


def test_another_thing_passing_close_by_is_not_swallowed() -> None:
    crossing = Scene([Thing(3, BLUE, lambda t: (210 - 7.0 * t, 85)), Thing(2, RED, lambda t: (110, 85))], LENGTH)
    found = scores(crossing, [Prompt(box=crossing.box(0, 1))], [1])
    assert min(found) > 0.75 and found[-1] > 0.85


def test_the_matte_is_empty_while_the_subject_is_out_and_it_is_found_again() -> None:
    def away(t: int) -> tuple[float, float]:
        return 180 + 10 * t if t < 15 else 180 + 10 * (30 - t), 85

    scene = Scene([Thing(2, RED, away)], 31)
    found = mattes(scene, [Prompt(box=scene.box(0))])
    gone = [t for t in range(31) if not scene.truth(t).any()]
    assert len(gone) > 8
    assert all(found[t].max() == 0 for t in gone)
    assert iou(found[30], scene.truth(30)) > 0.8
    assert iou(found[3], scene.truth(3)) > 0.8


def test_the_rim_of_a_standing_thing_does_not_flicker() -> None:
    still = Scene([Thing(2, RED, lambda t: (100, 85))], 12)
    found = mattes(still, [Prompt(box=still.box(0))])
    steps = [float(np.abs(b - a).sum()) for a, b in itertools.pairwise(found)]
    outline = cv2.Canny(still.truth(0).astype(np.uint8) * 255, 50, 150).astype(bool).sum()
    # Camera noise changes every frame; the matte's change per pixel of outline must stay far below one pixel.
    assert max(steps) / outline < 0.15


def test_mattes_are_float32_of_the_frames_size_and_the_same_each_time(scene: Scene) -> None:
    prompt = [Prompt(box=scene.box(0))]
    first, second = mattes(scene, prompt), mattes(scene, prompt)
    assert all(m.dtype == np.float32 and m.shape == (HEIGHT, WIDTH) for m in first)
    assert all(m.min() >= 0 and m.max() <= 1 for m in first)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_iterator_gives_the_same_mattes_as_a_sequence(scene: Scene) -> None:
    prompt = [Prompt(frame=10, box=scene.box(10))]
    done: list[int] = []
    spooled = list(ClassicalSegmenter().segment(iter(scene), prompt, progress=done.append))
    assert all(np.array_equal(a, b) for a, b in zip(spooled, mattes(scene, prompt), strict=True))
    assert done == list(range(1, LENGTH + 1))


def test_without_a_prompt_the_moving_thing_is_chosen() -> None:
    scene = Scene([Thing(3, BLUE, standing), Thing(2, RED, swinging)], LENGTH)
    prompt, reason = choose_subject(scene)
    assert "moving" in reason and prompt.box is not None
    assert min(scores(scene, [], [1])) > 0.75


def test_without_motion_the_thing_that_stands_out_is_chosen() -> None:
    still = Scene([Thing(2, RED, lambda t: (125, 85))], 5)
    prompt, reason = choose_subject(still)
    assert "stands out" in reason and prompt.box is not None
    assert min(scores(still, [])) > 0.75


def test_one_frame_and_one_plain_colour_do_not_fail() -> None:
    plain = [np.full((40, 64, 3), 90, np.uint8)]
    (matte,) = ClassicalSegmenter().segment(plain, [])
    assert matte.shape == (40, 64)
    assert list(ClassicalSegmenter().segment([], [])) == []


def test_a_prompt_outside_is_refused_before_any_work(scene: Scene) -> None:
    with pytest.raises(InputError, match="frame 99"):
        next(ClassicalSegmenter().segment(scene, [Prompt(frame=99, box=(1, 1, 9, 9))]))
    with pytest.raises(InputError, match="outside"):
        next(ClassicalSegmenter().segment(scene, [Prompt(points=((WIDTH + 1, 5),))]))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length() -> None:
    def peak(length: int) -> int:
        scene = Scene([Thing(2, RED, lambda t: (120 + 40 * math.sin(t / 6), 85))], length)
        tracemalloc.start()
        for _ in ClassicalSegmenter(working_size=120).segment(
            scene, [Prompt(frame=length - 1, box=scene.box(length - 1))]
        ):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(70)
    # 100 further mattes of 240x160 floats alone would be 15 MB.
    assert peak(170) - peak(70) < 1.5e6
