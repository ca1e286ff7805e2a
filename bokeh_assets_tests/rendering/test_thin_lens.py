"""The thin-lens renderer keeps its contract."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch

from bokeh_assets.errors import InputError
from bokeh_assets.rendering.lens import Lens
from bokeh_assets.rendering.thin_lens import ThinLensRenderer
from bokeh_assets.rendering.thin_lens.aperture import Aperture, kernel
from bokeh_assets.rendering.thin_lens.colour import linear_to_srgb
from bokeh_assets.rendering.thin_lens.picture import photograph_frame
from bokeh_assets.rendering.thin_lens.scene import STEP, widest
from bokeh_assets.rendering.thin_lens.steady import Shot, shrunk, steady
from bokeh_assets.rendering.thin_lens.truth import make_scene
from bokeh_assets.rendering.thin_lens.unmix import unmix


def focus(zf: float, k: float, frames: int = 1) -> pd.DataFrame:
    return pd.DataFrame({"frame": range(frames), "zf": zf, "k": k})


def noise(height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def one(frame: np.ndarray, depth: np.ndarray, zf: float, k: float) -> np.ndarray:
    renderer = ThinLensRenderer(device="cpu")
    return next(renderer.render([frame], [depth.astype(np.float32)], None, focus(zf, k)))


def test_without_blur_the_input_comes_back_bit_for_bit() -> None:
    frame = noise()
    depth = np.random.default_rng(2).random(frame.shape[:2])
    assert np.array_equal(one(frame, depth, 0.3, 0), frame)


def test_in_focus_the_input_comes_back_bit_for_bit() -> None:
    frame = noise()
    assert np.array_equal(one(frame, np.full(frame.shape[:2], 0.4), 0.4, 64), frame)


def test_a_point_becomes_a_disc_of_the_contracts_radius() -> None:
    frame = np.zeros((101, 256, 3), np.uint8)
    frame[50, 128] = 255
    light = one(frame, np.full((101, 256), 0.5), 0.1, 80)[:, :, 0] > 0
    assert np.sqrt(light.sum() / np.pi) == pytest.approx(80 * 256 / 1024 * 0.4, rel=0.1)


def test_a_sharp_subject_keeps_its_colour_to_the_edge() -> None:
    frame = np.full((80, 120, 3), (250, 20, 20), np.uint8)
    frame[:, :60] = (20, 20, 250)
    depth = np.zeros((80, 120))
    depth[:, :60] = 1
    out = one(frame, depth, 1.0, 80)
    assert np.abs(out[:, :60].astype(int) - frame[:, :60]).max() <= 1


def test_a_blurred_foreground_spreads_over_what_is_behind() -> None:
    frame = np.full((80, 120, 3), 10, np.uint8)
    frame[:, :60] = 250
    depth = np.zeros((80, 120))
    depth[:, :60] = 1
    out = one(frame, depth, 0.0, 80)[40, :, 0].astype(int)
    assert out[64] > 60 and out[56] < 245
    assert (np.diff(out[45:75]) <= 1).all()


def test_a_frame_without_disparity_is_refused() -> None:
    with pytest.raises(InputError, match="frame 1"):
        list(
            ThinLensRenderer(device="cpu").render([noise()] * 2, [np.zeros((60, 90), np.float32)], None, focus(0, 8, 2))
        )


@pytest.mark.parametrize(
    "lens",
    [
        Lens(),
        Lens(blades=6, rotation=10),
        Lens(anamorphic=1.6),
        Lens(cat_eye=0.8),
        Lens(chromatic=0.05),
        Lens(highlights=3),
    ],
    ids=["round", "blades", "anamorphic", "cat-eye", "chromatic", "highlights"],
)
def test_the_processors_path_and_the_gpus_give_one_picture(lens: Lens) -> None:
    scene = make_scene("lamps", 3, (77, 123))
    frame, depth = torch.from_numpy(scene.frame()), torch.from_numpy(scene.disparity() / np.float32(255))
    fast = photograph_frame(frame, depth, None, 0.5, 140, lens)
    reference = photograph_frame(frame, depth, None, 0.5, 140, lens, reference=True)
    assert int((fast.int() - reference.int()).abs().max()) <= 1
    if lens != Lens():
        plain = photograph_frame(frame, depth, None, 0.5, 140, Lens())
        assert int((fast.int() - plain.int()).abs().max()) > 1


@pytest.mark.parametrize("kind", ["layers", "slanted", "smooth"])
def test_it_is_close_to_an_exact_photograph(kind: str) -> None:
    scene = make_scene(kind, 5, (96, 160))
    exact = linear_to_srgb(scene.photograph(0.5, 8.0, 256))
    depth = (scene.disparity() / 255).astype(np.float32)
    out = ThinLensRenderer(device="cpu").picture(scene.frame(), depth, None, 0.5, 8.0 * 1024 / 160) / 255
    sharp = scene.frame() / 255
    error, before = np.mean((out - exact) ** 2), np.mean((sharp - exact) ** 2)
    assert -10 * np.log10(error) > 31
    assert error < before / 4


def test_the_truth_agrees_with_itself() -> None:
    scene = make_scene("lamps", 1, (64, 96))
    first, second = (linear_to_srgb(scene.photograph(0.9, 10.0, 512, turn)) for turn in (0.0, 1.0))
    assert -10 * np.log10(np.mean((first - second) ** 2)) > 62


def test_every_aperture_keeps_its_light_and_its_area() -> None:
    for aperture in (Aperture(), Aperture(5, 20), Aperture(anamorphic=2.0)):
        shape = kernel(12.0, aperture)
        assert shape.sum() == pytest.approx(1, abs=1e-5)
        assert 1 / shape.max() == pytest.approx(np.pi * 144, rel=0.02)


def test_trembling_depth_is_steadied_where_nothing_moves_but_not_across_a_cut() -> None:
    rng = np.random.default_rng(0)
    frame = noise(64, 96)
    depths = [(0.5 + rng.normal(0, 0.02, frame.shape[:2])).astype(np.float32) for _ in range(9)]
    shots = [Shot(frame, shrunk(frame), d, None, int(i > 5), 0.0, 8.0) for i, d in enumerate(depths)]
    out = list(steady(iter(shots), 2))
    assert [s.number for s in out] == [s.number for s in shots]
    assert np.std(out[2].depth) < 0.6 * np.std(depths[2])
    alone = list(steady(iter(shots[6:]), 2))
    assert all(np.array_equal(a.depth, b.depth) for a, b in zip(out[6:], alone, strict=True))


def test_moving_depth_is_left_alone() -> None:
    frames = [np.roll(noise(64, 96), 9 * i, axis=1) for i in range(5)]
    depths = [np.full((64, 96), 0.3 + 0.02 * i, np.float32) for i in range(5)]
    shots = [Shot(f, shrunk(f), d, None, 0, 0.0, 8.0) for f, d in zip(frames, depths, strict=True)]
    out = list(steady(iter(shots), 2))
    assert max(np.abs(o.depth - d).max() for o, d in zip(out, depths, strict=True)) < 1e-3


def test_a_slope_over_a_hidden_background_shows_no_contours() -> None:
    """Where depth passes from plane to plane nothing of what is behind may shine through."""
    frame = np.full((120, 200, 3), (20, 200, 20), np.uint8)
    depth = np.full((120, 200), 0.05)
    frame[10:110, 20:180] = (200, 60, 60)
    depth[10:110, 20:180] = np.rint(np.linspace(0.45, 0.65, 160) * 255) / 255
    out = one(frame, depth, 0.5, 200)[30:90, 45:155].astype(int)
    assert np.abs(out - (200, 60, 60)).max() <= 4


def test_frames_rendered_side_by_side_come_in_order_and_as_if_alone() -> None:
    scene = make_scene("layers", 2, (64, 96))
    frames = [np.roll(scene.frame(), 5 * i, axis=1) for i in range(7)]
    depths = [np.roll((scene.disparity() / 255).astype(np.float32), 5 * i, axis=1) for i in range(7)]
    renderer = ThinLensRenderer(device="cpu", steady=0)
    taken = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal taken
        for frame in frames:
            taken += 1
            yield frame

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = renderer.render(counted(), depths, None, focus(0.5, 150, 7))
        first = next(together)
        assert taken <= 4  # looks ahead no farther than it has workers
        assert torch.get_num_threads() == 2  # the workers' own setting stays theirs
        pictures = [first, *together]
    finally:
        torch.set_num_threads(before)
    alone = [renderer.picture(f, d, None, 0.5, 150) for f, d in zip(frames, depths, strict=True)]
    assert all(np.array_equal(a, b) for a, b in zip(pictures, alone, strict=True))


def edges() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Light and place of a scene with strands, and which pixels may be mixed."""
    scene = make_scene("lamps", 4, (80, 120))
    light = torch.from_numpy(np.ascontiguousarray(scene.centre_view().transpose(2, 0, 1)))
    place = torch.from_numpy(scene.disparity().astype(np.float32) / 10)
    return light, place, (widest(place, 1) - place > STEP) | (place + widest(-place, 1) > STEP)


@pytest.mark.parametrize("with_matte", [False, True])
def test_mixed_pixels_are_taken_apart_alike_on_both_paths(with_matte: bool) -> None:
    light, place, beside = edges()
    matte = (place > 3).float() if with_matte else None
    fast, reference = (unmix(light, place, beside, STEP, matte, reference) for reference in (False, True))
    for name in ("alpha", "front", "front_place", "back", "back_place"):
        assert float((getattr(fast, name) - getattr(reference, name)).abs().max()) < 1e-3


def test_mixed_pixels_are_taken_apart_into_what_they_were_mixed_of() -> None:
    near, far = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.7])
    light = far[:, None, None].repeat(1, 20, 20)
    light[:, :, 10:] = near[:, None, None]
    light[:, :, 9] = (0.3 * near + 0.7 * far)[:, None]
    place = torch.zeros(20, 20)
    place[:, 10:] = 8
    beside = torch.zeros(20, 20, dtype=torch.bool)
    beside[:, 9:11] = True
    mixed = unmix(light, place, beside, STEP)
    alpha = mixed.alpha.reshape(20, 2)
    assert torch.allclose(alpha, torch.tensor([0.3, 1.0]).expand(20, 2), atol=0.05)
    colours = alpha.flatten() * mixed.front + (1 - alpha.flatten()) * mixed.back
    assert torch.allclose(colours, light[:, beside], atol=5e-3)
    assert torch.allclose(mixed.front, near[:, None].expand(3, 40), atol=0.05)
    assert (mixed.front_place == 8).all() and (mixed.back_place == 0).all()


def test_surfaces_close_behind_each_other_do_not_mix() -> None:
    """Little blur, and little of it between near and far: still the near side hides the far one."""
    frame = np.full((60, 90, 3), (20, 20, 220), np.uint8)
    frame[:, :45] = (230, 30, 20)
    depth = np.full((60, 90), 0.4)
    depth[:, :45] = 0.6
    for zf, k in ((0.6, 120), (0.4, 120), (0.6, 90)):
        out = one(frame, depth, zf, k).astype(int)
        assert np.abs(out[:, :38] - frame[:, :38]).max() <= 1 and np.abs(out[:, 52:] - frame[:, 52:]).max() <= 1


def test_a_mask_drawn_too_small_leaves_no_sharp_line_in_a_blurred_subject() -> None:
    """Depth ramps over some pixels and the mask misses the subject's outermost two: colour tells the outline."""
    frame = np.full((120, 1000, 3), (40, 50, 40), np.uint8)
    frame[:, :500] = (240, 230, 220)
    ramp = np.clip((503.0 - np.arange(1000)) / 6, 0, 1)
    depth = np.tile((0.1 + 0.7 * ramp).astype(np.float32), (120, 1))
    matte = np.zeros((120, 1000), np.float32)
    matte[:, :498] = 1
    out = ThinLensRenderer(device="cpu").picture(frame, depth, matte, 0.1, 30)[60, :, 1].astype(int)
    assert (np.diff(out[470:530]) <= 1).all() and out[505] > 100
