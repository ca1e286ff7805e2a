"""The weight-free segmenter on real footage."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bokeh_assets.media.frames import FrameFolder
from bokeh_assets.segmentation.classical import ClassicalSegmenter, choose_subject
from bokeh_assets.segmentation.prompts import Prompt
from bokeh_assets_tests.segmentation.scenes import iou

BOX = (500.0, 0.0, 960.0, 1020.0)


def bedroom(shared: Path, count: int) -> list[NDArray[np.uint8]]:
    with av.open(str(shared / "media" / "bedroom.mp4")) as container:
        decoded = container.decode(video=0)
        return [np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in itertools.islice(decoded, count)]


def breakdance(shared: Path) -> list[NDArray[np.bool_]]:
    files = sorted((shared / "media" / "breakdance" / "masks").glob("*.png"))
    return [np.greater(np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)), 127) for file in files]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mean", "least"), [("mask", 0.72, 0.58), ("box", 0.68, 0.58)])
def test_the_dancer_is_followed_through_twenty_frames(shared: Path, kind: str, mean: float, least: float) -> None:
    folder = shared / "media" / "breakdance"
    prompt = Prompt(mask=folder / "masks" / "00000.png") if kind == "mask" else Prompt(box=BOX)
    mattes = ClassicalSegmenter().segment(FrameFolder(folder / "frames"), [prompt])
    found = [iou(matte, truth) for matte, truth in zip(mattes, breakdance(shared), strict=True)]
    assert np.mean(found) > mean and min(found) > least


@pytest.mark.slow
def test_the_girl_is_followed_and_the_boy_is_not(shared: Path) -> None:
    frames = bedroom(shared, 200)
    areas, boy = [], []
    for t, matte in enumerate(ClassicalSegmenter().segment(frames, [Prompt(frame=0, box=(300, 0, 500, 400))])):
        areas.append(float(matte.mean()))
        if t >= 140:  # the boy is at the left by now, and she with both hands right of x = 170
            boy.append(float(matte[:, :170].sum()))
        # The blue of her skirt is hers alone; nearly all of it has to be in the matte.
        hsv = cv2.cvtColor(frames[t], cv2.COLOR_RGB2HSV)[60:480, 100:560].astype(int)
        skirt = (abs(hsv[..., 0] - 110) < 7) & (hsv[..., 1] > 80) & (hsv[..., 2] > 90)
        skirt = cv2.morphologyEx(skirt.astype(np.uint8), cv2.MORPH_OPEN, np.ones((9, 9), np.uint8)) > 0
        if skirt.sum() > 1500:
            assert (matte[60:480, 100:560][skirt] > 0.5).mean() > 0.9, t
    assert max(boy) < 50
    assert min(areas) > 0.04 and max(areas) < 0.14
    steps = np.abs(np.diff(areas)) / np.array(areas[1:])
    assert steps.max() < 0.3


@pytest.mark.slow
def test_a_child_is_chosen_in_the_bedroom(shared: Path) -> None:
    prompt, reason = choose_subject(bedroom(shared, 60))
    assert prompt.box is not None and reason
    x0, _, x1, _ = prompt.box
    assert 150 < (x0 + x1) / 2 < 520
