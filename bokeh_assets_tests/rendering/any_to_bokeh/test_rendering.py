"""Videos of any length, shape and focus, on tiny random networks."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_array_equal

from bokeh_assets.errors import InputError
from bokeh_assets.metrics import vepi
from bokeh_assets.rendering.any_to_bokeh.geometry import keep_sharp, mirrored, plan_fit
from bokeh_assets.rendering.any_to_bokeh.groups import groups
from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh
from bokeh_assets.rendering.any_to_bokeh.vae import Posterior
from bokeh_assets_tests.rendering.any_to_bokeh.tiny import HEIGHT, WIDTH, depth, focus, video

SIZE: dict[str, Any] = {"height": HEIGHT, "width": WIDTH}


def rendered(model: AnyToBokeh, frames: list, maps: list, table: Any, **options: Any) -> np.ndarray:
    return np.stack(list(model.render(iter(frames), iter(maps), table, **(SIZE | {"output": "network"} | options))))


@pytest.fixture
def cheap(tiny, monkeypatch):
    """The tiny model with stand-ins for its networks: latents are the picture made small, and the decoder, once it has
    seen that each frame's latents come with that frame's features, gives the picture back slightly blurred.
    """

    def small(pictures: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(pictures, 8)[:, [0, 1, 2, 0]]

    def encode(pictures: torch.Tensor, blurs: torch.Tensor) -> Any:
        picture, blur = (Posterior(small(x), torch.zeros_like(small(x))) for x in (pictures, blurs))
        return picture, blur, (pictures,), torch.zeros(len(pictures), 48)

    def decode(latents: torch.Tensor, features: list) -> torch.Tensor:
        pictures = torch.cat([f[0] for f in features])
        torch.testing.assert_close(latents, small(pictures) * tiny.vae.scaling_factor)
        return F.avg_pool2d(pictures, 5, 1, 2, count_include_pad=False) / 2 + 0.5

    monkeypatch.setattr(tiny, "encode", encode)
    monkeypatch.setattr(tiny, "denoise", lambda latents, context, k: latents[:, :, :4])
    monkeypatch.setattr(tiny, "decode", decode)
    return tiny


@pytest.mark.parametrize("pairing", ["single", "paired"])
@pytest.mark.parametrize("tail", [None, "mirror", "repeat", "grey"])
def test_as_many_frames_come_out_as_went_in_and_in_order(cheap, pairing, tail):
    sources = video(30, HEIGHT, WIDTH)
    wanted = [cv2.blur(f, (5, 5), borderType=cv2.BORDER_REFLECT) for f in sources]
    for n in range(1, 31):
        found = rendered(cheap, sources[:n], depth(n, HEIGHT, WIDTH), focus(n), pairing=pairing, tail=tail)
        assert len(found) == n
        inner = np.abs(found.astype(int) - wanted[:n])[:, 2:-2, 2:-2]
        assert inner.max() <= 1


@pytest.mark.parametrize(
    ("n", "pairing"), [(1, "single"), (1, "paired"), (8, "paired"), (10, "single"), (10, "paired"), (14, "paired")]
)
def test_lengths_that_break_the_released_pipeline_or_end_anywhere(tiny, n, pairing):
    assert rendered(tiny, video(n), depth(n), focus(n), pairing=pairing).shape == (n, HEIGHT, WIDTH, 3)


def test_no_frame_at_all_gives_none(tiny):
    assert list(tiny.render([], [], focus(0), **SIZE)) == []


def test_a_shot_is_rendered_as_if_it_were_alone(tiny):
    frames, maps = video(9) + video(7, start=100), depth(9) + depth(7, start=100)
    spliced = rendered(tiny, frames, maps, focus(16, shot=[0] * 9 + [1] * 7), sample_posterior=True)
    assert_array_equal(spliced[9:], rendered(tiny, frames[9:], maps[9:], focus(7), sample_posterior=True))
    through = rendered(tiny, frames, maps, focus(16), sample_posterior=True)
    assert (through[9:] != spliced[9:]).any()


def test_the_same_seed_gives_the_same_frames_and_another_does_not(tiny):
    first, again, other = (
        rendered(tiny, video(4), depth(4), focus(4), sample_posterior=True, seed=seed) for seed in (1, 1, 2)
    )
    assert_array_equal(first, again)
    assert (first != other).any()


def test_a_single_group_does_not_depend_on_the_one_after(tiny):
    maps, table = depth(16), focus(16)
    changed = video(12) + [255 - f for f in video(4, start=12)]
    one, other = rendered(tiny, video(16), maps, table), rendered(tiny, changed, maps, table)
    assert_array_equal(one[:4], other[:4])
    assert (one[12:] != other[12:]).any()


@pytest.mark.parametrize(
    "table",
    [focus(6), focus(6, k=np.linspace(4, 20, 6)), focus(6, zf=np.linspace(0.1, 0.8, 6))],
    ids=["fixed", "changing k", "changing focus"],
)
def test_focus_and_blur_reach_each_frame(tiny, monkeypatch, table):
    told: list[torch.Tensor] = []
    blurs: list[torch.Tensor] = []
    denoise, encode = tiny.denoise, tiny.encode

    def hear_k(latents: torch.Tensor, context: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        told.append(k[0, :6])
        return denoise(latents, context, k)

    def hear_blur(pictures: torch.Tensor, blur: torch.Tensor) -> Any:
        blurs.extend(blur)
        return encode(pictures, blur)

    monkeypatch.setattr(tiny, "denoise", hear_k)
    monkeypatch.setattr(tiny, "encode", hear_blur)
    assert len(rendered(tiny, video(6), [np.full((72, 128), 0.5, np.float32)] * 6, table, fit="stretch")) == 6
    np.testing.assert_allclose(told[0], table["k"], rtol=1e-6)
    away = [float((b + 1).mean() / 2) for b in blurs]
    np.testing.assert_allclose(away, (0.5 - table["zf"]).abs(), atol=1e-5)


@pytest.mark.parametrize("size", [(72, 128), (128, 72), (50, 200), (90, 90), (37, 51)])
def test_any_aspect_comes_back_at_its_own_size(tiny, size):
    found = list(tiny.render(video(2, *size), depth(2, *size), focus(2), **SIZE))
    assert [f.shape for f in found] == [(*size, 3)] * 2


def test_letterboxing_keeps_the_aspect_and_turns_the_canvas():
    assert plan_fit((1080, 1920), 576, 1024, "letterbox")[1:] == ((576, 1024), (0, 0, 576, 1024), 1.0)
    upright = plan_fit((1920, 1080), 576, 1024, "letterbox")
    assert upright.canvas == (1024, 576) and upright.box == (0, 0, 1024, 576)
    old = plan_fit((480, 640), 576, 1024, "letterbox")
    assert old.box == (0, 128, 576, 768) and old.k_scale == 0.75
    assert plan_fit((480, 640), 576, 1024, "stretch").box == (0, 0, 576, 1024)


def test_what_surrounds_a_letterboxed_picture_is_mirrored():
    assert mirrored(9, 3, 4, torch.device("cpu")).tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1]
    assert mirrored(4, 2, 1, torch.device("cpu")).tolist() == [0, 0, 0, 0]


def test_groups_overlap_by_four_and_the_last_is_filled():
    def cut(n: int, tail: str) -> list[list[int]]:
        return [g.frames for g in groups(range(n), tail, -1)]

    assert cut(8, "mirror") == [list(range(8))]
    assert cut(15, "mirror")[-1] == [8, 9, 10, 11, 12, 13, 14, 13]
    assert cut(13, "repeat") == [list(range(8)), list(range(4, 12)), [8, 9, 10, 11, 12, 12, 12, 12]]
    assert cut(3, "mirror") == [[0, 1, 2, 1, 0, 1, 2, 1]]
    assert cut(1, "fill") == [[0] + [-1] * 7]
    assert all(len(cut(n, "mirror")) == max(1, -(-(n - 4) // 4)) for n in range(1, 40))


def test_without_blur_the_frames_come_back_bit_for_bit(tiny):
    k = [0, 16, 0]
    found = list(tiny.render(video(3), depth(3), focus(3, k=k), **SIZE))
    for i, (frame, source) in enumerate(zip(found, video(3), strict=True)):
        assert (frame == source).all() == (k[i] == 0)


def test_the_subject_keeps_the_detail_of_a_full_hd_source(cheap):
    """The network's picture brought up to 1920x1080 loses the subject's edges; the source's own pixels keep them."""
    height, width = 1080, 1920
    frames, maps = video(1, height, width), depth(1, height, width)
    (found,) = cheap.render(frames, maps, focus(1))
    assert found.shape == (height, width, 3)
    matte = (maps[0] == np.float32(0.8)).astype(np.float32)
    (small,) = cheap.render(frames, maps, focus(1), output="network")
    assert small.shape == (576, 1024, 3)
    enlarged = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    kept, lost = vepi(found, frames[0], matte), vepi(enlarged, frames[0], matte)
    assert kept > 0.95 and kept > lost + 0.3, (kept, lost)
    radius = 16 * width / 1024 * np.abs(maps[0] - 0.8)
    assert_array_equal(found[radius < 1], frames[0][radius < 1])
    assert np.abs(found.astype(int) - enlarged)[radius > 8].mean() < 2  # the network's picture, far from focus


def test_sharp_goes_over_into_blurred_without_a_seam():
    """White over black, with a circle of confusion that widens by a quarter of a pixel a column."""
    fit = plan_fit((90, 160), 576, 1024, "stretch")
    radius = torch.arange(40).expand(2, -1) / 4
    found = keep_sharp(torch.zeros(3, 2, 40), torch.ones(3, 2, 40), radius, fit)[0, 0]
    assert (found[:5] == 1).all() and (found[12:] == 0).all()
    steps = -found.diff()
    assert (steps >= 0).all() and steps.max() < 0.2


def test_memory_does_not_grow_with_length(cheap):
    """Frames are read only a group ahead of what is given out."""
    read = 0

    def counted(frames: list) -> Any:
        nonlocal read
        for frame in frames:
            read += 1
            yield frame

    ahead = []
    for given, _ in enumerate(cheap.render(counted(video(60)), depth(60), focus(60), **SIZE), start=1):
        ahead.append(read - given)
    assert read == 60 and max(ahead) <= 32


def test_progress_counts_frames(tiny):
    told: list[int] = []
    list(tiny.render(video(5), depth(5), focus(5), **SIZE, progress=told.append))
    assert told == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairing": "triple"}, "pairing 'triple' is unknown; use single or paired"),
        ({"fit": "crop"}, "fit 'crop' is unknown; use letterbox or stretch"),
        ({"tail": "black"}, "use mirror or repeat or grey"),
        ({"output": "file"}, "use source or network"),
        ({"height": 100}, "multiples of 64"),
    ],
)
def test_unknown_options_are_refused_before_the_first_frame(tiny, options, message):
    with pytest.raises(InputError, match=message):
        tiny.render(video(1), depth(1), focus(1), **(SIZE | options))


@pytest.mark.parametrize(
    ("frames", "maps", "table", "message"),
    [
        (video(3), depth(2), focus(3), "no disparity for frame 2"),
        (video(2), depth(3), focus(2), "more disparity than the 2 frames"),
        (video(3), depth(3), focus(2), "focus has 2 rows, but there are more frames"),
        (video(2), depth(2), focus(3), "focus has 3 rows, but there are 2 frames"),
        (video(1) + video(1, 64, 64), depth(2), focus(2), "frame 1 is 64x64, the first 128x72"),
        (video(1), [np.full((72, 128), np.nan, np.float32)], focus(1), "disparity of frame 0 is not finite"),
        (video(1), depth(1), focus(1, zf=1.5), "zf = 1.5 at frame 0"),
        (video(1), depth(1), focus(1, k=33), "k = 33 at frame 0; any_to_bokeh takes 0 to 32"),
        (video(1), depth(1), focus(1, k=np.nan), "k = nan"),
        (video(2), depth(2), focus(2).assign(frame=[0, 2]), "no single row for frame 1"),
        (video(1), depth(1), focus(1).drop(columns="k"), "no column 'k'"),
    ],
)
def test_what_does_not_fit_together_is_refused(tiny, frames, maps, table, message):
    with pytest.raises(InputError, match=message):
        list(tiny.render(frames, maps, table, **SIZE))
