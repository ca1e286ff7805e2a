"""The weight-free depth: near below, far above, steady, and blind to what moves."""

import tracemalloc
import weakref
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr

from bokeh_assets.depth.planes import PlanesEstimator
from bokeh_assets.errors import InputError
from bokeh_assets.media.frames import FrameFolder, MapFolder
from bokeh_assets_tests.depth.synthetic import room, texture, with_box


def estimate(frames, shots=None, **options):
    return list(PlanesEstimator().estimate(frames, shots if shots is not None else [0] * len(frames), **options))


def test_a_room_recedes_from_the_floor_at_the_bottom_to_the_wall():
    [disparity] = estimate([room()])
    rows = np.median(disparity, axis=1)
    assert disparity.dtype == np.float32 and disparity.shape == (180, 320)
    assert rows[-3:].min() > 0.9 and rows[:60].max() < 0.35
    assert (np.diff(rows) > -0.01).all()
    # The floor is a plane: its disparity is linear in the row; the wall's is nearly constant.
    floor = rows[130:176]
    assert np.abs(np.diff(floor, 5) / 5).max() < 0.05 and 0.3 < floor[-1] - floor[0] < 0.8
    assert rows[100] - rows[10] < 0.2


def test_what_stands_on_the_floor_has_the_floors_disparity_at_its_foot():
    [disparity] = estimate([with_box(room(), 140, 120, 40)])
    [empty] = estimate([room()])
    inside = disparity[130:155, 148:172]
    assert np.ptp(inside) < 0.5 * np.ptp(empty[130:155, 148:172])  # it stands upright, the floor does not
    assert disparity[130, 160] > empty[130, 160] + 0.05  # its top is as near as its foot, nearly


def test_sky_is_farthest_and_a_tower_stands_out_of_it():
    picture = np.empty((180, 320, 3), np.uint8)
    picture[:] = (70, 130, 215)
    picture[:, 140:180] = (60, 40, 30)
    [disparity] = estimate([picture])
    assert disparity[:, :120].max() < 0.05 and disparity[:, 150:170].min() > 0.3


def test_a_still_camera_gets_one_map_whatever_moves():
    scene = room()
    frames = [with_box(scene, 10 + 18 * i, 60 + 5 * (i % 3)) for i in range(15)]
    maps = estimate(frames)
    assert all(np.array_equal(maps[0], m) for m in maps[1:])
    assert np.abs(maps[0] - estimate([scene])[0]).max() < 0.03


def test_the_map_follows_a_pan_without_flicker():
    wide = room(180, 800)
    wide = np.clip(wide + texture(180, 800, 5, 15.0), 0, 255).astype(np.uint8)
    steps = [4 * i for i in range(60)]
    maps = estimate([wide[:, s : s + 320] for s in steps])
    for before, after in pairwise(maps):
        assert np.abs(before[:, 8:-4] - after[:, 4:-8]).mean() < 0.01
    first, last = maps[0][:, 250:310], maps[50][:, 50:110]  # the same place in the world
    assert np.abs(first - last).mean() < 0.05


def test_shots_know_nothing_of_each_other():
    a, b = [room(seed=1)] * 3, [room(seed=2, contact=0.5)] * 2
    together = estimate([*a, *b], [0, 0, 0, 1, 1])
    for one, two in zip(together, [*estimate(a), *estimate(b)], strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("size", [(64, 48), (49, 33), (16, 200), (200, 16), (541, 961)])
@pytest.mark.parametrize("kind", ["noise", "grey", "black"])
def test_any_size_and_any_picture_gives_finite_disparity(size, kind):
    picture = np.zeros((*size, 3), np.uint8)
    if kind == "grey":
        picture[:] = 128
    elif kind == "noise":
        picture[:] = np.random.default_rng(0).integers(0, 256, picture.shape)
    for disparity in estimate([picture] * 2):
        assert disparity.shape == size and np.isfinite(disparity).all()
        assert disparity.min() >= 0 and disparity.max() <= 1


def test_a_generator_serves_as_well_and_progress_counts():
    scene = room()
    seen: list[int] = []
    maps = list(PlanesEstimator().estimate((scene for _ in range(3)), [0, 0, 0], progress=seen.append))
    assert len(maps) == 3 and seen == [1, 2, 3]


def test_shots_must_be_given_for_every_frame():
    with pytest.raises(InputError, match="2 frames but 3 shot numbers"):
        estimate([room()] * 2, [0, 0, 0])


class Counting(Sequence[np.ndarray]):
    """A video made on the fly that knows how many of its frames are alive."""

    def __init__(self, count: int) -> None:
        self.length, self.alive, self.most = count, 0, 0
        self.wide = np.clip(room(90, 160 + 2 * count) + texture(90, 160 + 2 * count, 3, 15.0), 0, 255).astype(np.uint8)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index):
        frame = self.wide[:, 2 * index : 2 * index + 160].copy()
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(frame, self._gone)
        return frame

    def _gone(self) -> None:
        self.alive -= 1


def test_memory_does_not_grow_with_length():
    peaks = []
    for count in (30, 90):
        video = Counting(count)
        tracemalloc.start()
        for _ in PlanesEstimator().estimate(video, [0] * count):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert video.most <= 12
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.slow
def test_it_ranks_a_real_scene_like_video_depth_anything(shared):
    clip = shared / "media" / "breakdance"
    frames, truth, mattes = FrameFolder(clip / "frames"), MapFolder(clip / "disp"), MapFolder(clip / "masks")
    ranks = []
    for index, disparity in enumerate(PlanesEstimator().estimate(frames, [0] * len(frames))):
        scene = mattes[index][::8, ::8] < 0.5
        ranks.append(spearmanr(disparity[::8, ::8][scene], truth[index][::8, ::8][scene])[0])
    assert min(ranks) > 0.65


@pytest.mark.slow
def test_a_real_hand_held_shot_does_not_flicker(shared):
    video = cv2.VideoCapture(str(shared / "media" / "bedroom.mp4"))
    frames = [frame[..., ::-1].copy() for frame in (video.read()[1] for _ in range(60))]
    maps = estimate(frames)
    change = [float(np.abs(b - a).mean()) for a, b in pairwise(maps)]
    assert max(change) < 1 / 255
    assert all(m[-20:].mean() > 0.8 and m[:200].mean() < 0.3 for m in maps)
