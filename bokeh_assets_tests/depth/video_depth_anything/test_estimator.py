"""Disparity per shot: its scale, its edges, its files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bokeh_assets.depth.video_depth_anything.estimator import VideoDepthAnythingEstimator, normalised
from bokeh_assets.depth.video_depth_anything.inference import infer_network_maps
from bokeh_assets.depth.video_depth_anything.loading import load_video_depth_anything
from bokeh_assets.depth.video_depth_anything.model import VideoDepthAnything
from bokeh_assets.depth.video_depth_anything.upsampling import upsample_to_picture
from bokeh_assets.errors import InputError
from bokeh_assets.media.frames import FrameFolder, write_picture
from bokeh_assets_tests.depth.video_depth_anything.conftest import moving_picture

Video = NDArray[np.uint8]


def estimated(model: VideoDepthAnything, frames, shots: list[int]) -> NDArray[np.float32]:
    return np.stack(list(VideoDepthAnythingEstimator(model, "cpu", input_size=56).estimate(frames, shots)))


def test_each_shot_fills_its_own_scale(model: VideoDepthAnything, video: Video) -> None:
    maps = estimated(model, video[:50], [0] * 35 + [1] * 15)
    assert maps.shape == (50, 48, 64) and maps.dtype == np.float32
    assert maps.min() >= 0 and maps.max() <= 1
    for shot in (maps[:35], maps[35:]):
        assert np.quantile(shot, 0.005) < 0.2 and np.quantile(shot, 0.995) > 0.8


def test_a_shot_does_not_depend_on_the_others(model: VideoDepthAnything, video: Video) -> None:
    other = moving_picture(12, seed=4)
    together = estimated(model, np.concatenate([video[:34], other]), [3] * 34 + [4] * 12)
    np.testing.assert_array_equal(together[34:], estimated(model, other, [0] * 12))


def test_any_iterable_and_a_folder_give_the_same(model: VideoDepthAnything, video: Video, tmp_path: Path) -> None:
    for number in range(20):
        write_picture(tmp_path / f"{number:05d}.png", video[number])
    shots = [0] * 9 + [1] * 11
    listed = estimated(model, list(video[:20]), shots)
    np.testing.assert_array_equal(estimated(model, iter(video[:20]), shots), listed)
    np.testing.assert_array_equal(estimated(model, FrameFolder(tmp_path), shots), listed)


def test_larger_is_nearer_for_metric_models_too(
    model: VideoDepthAnything, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "metric", True)
    raw = np.stack(list(infer_network_maps(model, video[:5], 56)))
    maps = estimated(model, video[:5], [0] * 5)
    depth = np.stack([cv2.resize(each, (64, 48), interpolation=cv2.INTER_AREA) for each in raw])
    assert np.corrcoef(maps.ravel(), depth.ravel())[0, 1] < -0.7
    assert VideoDepthAnythingEstimator(model, "cpu").name == "metric_video_depth_anything_vits"


def test_progress_and_shot_count(model: VideoDepthAnything, video: Video) -> None:
    estimator = VideoDepthAnythingEstimator(model, "cpu", input_size=28)
    seen: list[int] = []
    list(estimator.estimate(video[:6], [0] * 6, progress=seen.append))
    assert seen == [1, 2, 3, 4, 5, 6]
    with pytest.raises(InputError, match="shots names 5 frames, but there are 6"):
        list(estimator.estimate(video[:6], [0] * 5))


def test_a_flat_shot_is_in_the_middle() -> None:
    flat = np.full((4, 4), 3.0, np.float32)
    np.testing.assert_array_equal(normalised(flat, 3.0, 3.0), np.full((4, 4), 0.5, np.float32))
    scaled = normalised(np.array([[0, 2, 5, 9]], np.float32), 1.0, 5.0)
    np.testing.assert_allclose(scaled, np.array([[0, 0.25, 1, 1]]))


# Edges


def textured(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    """A colour with a texture of random grain and strength."""
    grain = cv2.GaussianBlur(rng.standard_normal((*size, 3)), (0, 0), rng.choice([1.0, 4.0, 12.0]))
    return rng.random(3) + rng.choice([0.03, 0.1, 0.2]) * grain / grain.std()


def layered_scene(seed: int, blur: float) -> tuple[Video, NDArray[np.float32], NDArray[np.float32]]:
    """Picture, true disparity, and the disparity as a network gives it: half the size and blurred."""
    rng = np.random.default_rng(seed)
    height, width = 270, 480
    y, x = np.mgrid[0:height, 0:width]
    picture, truth = textured(rng, (height, width)), 0.1 + 0.25 * y / height
    for _ in range(5):
        cx, cy, turn = rng.random() * width, rng.random() * height, rng.random() * 6.28
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        long, flat = rng.uniform(0.06, 0.22) * width, rng.uniform(0.1, 1.0)
        inside = u**2 + (v / flat) ** 2 < long**2 if rng.random() < 0.5 else (abs(u) < long) & (abs(v) < flat * long)
        picture = np.where(inside[..., None], textured(rng, (height, width)), picture)
        truth = np.where(inside, rng.uniform(0.3, 0.95) + 0.05 * (x - cx) / width, truth)
    picture = cv2.GaussianBlur(picture, (0, 0), 0.6) + 0.01 * rng.standard_normal(picture.shape)
    truth = truth.astype(np.float32)
    low = cv2.GaussianBlur(cv2.resize(truth, (width // 2, height // 2), interpolation=cv2.INTER_AREA), (0, 0), blur)
    return (picture.clip(0, 1) * 255).astype(np.uint8), truth, np.asarray(low, np.float32)


@pytest.mark.parametrize("blur", [0.5, 1.0, 1.5])
def test_edges_follow_the_picture_better_than_bilinear(blur: float) -> None:
    ours, plain, elsewhere, plain_elsewhere = [], [], [], []
    for seed in range(4):
        picture, truth, low = layered_scene(seed, blur)
        sharp = upsample_to_picture(torch.from_numpy(low), torch.from_numpy(picture)).numpy()
        smooth = cv2.resize(low, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
        near = cv2.dilate(truth, np.ones((13, 13))) - cv2.erode(truth, np.ones((13, 13))) > 0.05
        ours.append(np.abs(sharp - truth)[near].mean())
        plain.append(np.abs(smooth - truth)[near].mean())
        elsewhere.append(np.abs(sharp - truth)[~near].mean())
        plain_elsewhere.append(np.abs(smooth - truth)[~near].mean())
        assert ours[-1] < plain[-1]
    assert np.mean(ours) < 0.5 * np.mean(plain)
    assert np.mean(elsewhere) < np.mean(plain_elsewhere) + 1e-3


def test_texture_never_shows_in_smooth_depth() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    flat = upsample_to_picture(torch.full((60, 80), 0.4), noise)
    torch.testing.assert_close(flat, torch.full((120, 160), 0.4))
    ramp = torch.linspace(0, 0.2, 80).expand(60, -1).contiguous()
    up = upsample_to_picture(ramp, noise)
    torch.testing.assert_close(up, up[:1].expand_as(up))  # the same in every row, though no row of the noise is


def test_no_value_from_outside_the_map() -> None:
    rng = np.random.default_rng(1)
    low = torch.from_numpy((rng.random((30, 40)) > 0.5).astype(np.float32) * 0.6 + 0.2)
    up = upsample_to_picture(low, torch.from_numpy(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)))
    assert up.min() >= 0.2 - 1e-6 and up.max() <= 0.8 + 1e-6


# Checkpoints


def test_a_saved_checkpoint_loads(model: VideoDepthAnything, tmp_path: Path) -> None:
    for name, metric in (("video_depth_anything_vits.pth", False), ("metric_video_depth_anything_vits.pth", True)):
        torch.save(model.state_dict(), tmp_path / name)
        loaded = load_video_depth_anything(tmp_path / name)
        assert loaded.encoder == "vits" and loaded.metric is metric
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)
    assert load_video_depth_anything(tmp_path / "video_depth_anything_vits.pth", metric=True).metric


def test_damaged_and_foreign_files_are_named(model: VideoDepthAnything, tmp_path: Path) -> None:
    whole = tmp_path / "video_depth_anything_vits.pth"
    torch.save(model.state_dict(), whole)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[:1_000_000])
    with pytest.raises(InputError, match=r"cut\.pth is damaged"):
        load_video_depth_anything(cut)
    page = tmp_path / "page.pth"
    page.write_text("<html>404</html>")
    with pytest.raises(InputError, match=r"page\.pth is damaged or no PyTorch checkpoint"):
        load_video_depth_anything(page)
    with pytest.raises(InputError, match="no such checkpoint"):
        load_video_depth_anything(tmp_path / "absent.pth")

    foreign = tmp_path / "foreign.pth"
    torch.save({"conv.weight": torch.zeros(3)}, foreign)
    with pytest.raises(InputError, match="another model"):
        load_video_depth_anything(foreign)
    torch.save({"model": model.state_dict(), "step": 3}, foreign)
    with pytest.raises(InputError, match="plain state dict"):
        load_video_depth_anything(foreign)
    short = dict(model.state_dict())
    del short["head.scratch.layer1_rn.weight"]
    torch.save(short, foreign)
    with pytest.raises(InputError, match=r"1 tensors .* head\.scratch\.layer1_rn\.weight"):
        load_video_depth_anything(foreign)
