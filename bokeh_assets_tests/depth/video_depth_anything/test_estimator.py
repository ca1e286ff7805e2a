"""Disparity per shot: its scale, its edges, its files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bokeh_assets.depth.video_depth_anything import upsampling
from bokeh_assets.depth.video_depth_anything.estimator import VideoDepthAnythingEstimator, normalised
from bokeh_assets.depth.video_depth_anything.inference import infer_network_maps
from bokeh_assets.depth.video_depth_anything.loading import load_video_depth_anything
from bokeh_assets.depth.video_depth_anything.model import VideoDepthAnything
from bokeh_assets.depth.video_depth_anything.upsampling import (
    COLOUR,
    FLOOR,
    RADIUS,
    SPREAD,
    UNSURE,
    upsample_to_pictures,
)
from bokeh_assets.errors import InputError
from bokeh_assets.media.frames import FrameFolder, MapFolder, write_picture
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
    raw = torch.cat(list(infer_network_maps(model, video[:5], 56))).numpy()
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
    assert torch.equal(normalised(torch.full((1, 4, 4), 3.0), 3.0, 3.0), torch.full((1, 4, 4), 0.5))
    scaled = normalised(torch.tensor([[0.0, 2.0, 5.0, 9.0]]), 1.0, 5.0)
    torch.testing.assert_close(scaled, torch.tensor([[0, 0.25, 1, 1]]))


def test_the_scale_is_that_of_its_description(model: VideoDepthAnything, video: Video) -> None:
    raw = torch.cat(list(infer_network_maps(model, video[:40], 56))).numpy()
    low = np.sort(np.quantile(raw, 0.01, axis=(1, 2)))[0]
    high = np.sort(np.quantile(raw, 0.99, axis=(1, 2)))[-1]  # 2 % of 40 frames is less than one
    expected = np.clip((raw - low) / (high - low), 0, 1)
    expected = upsample_to_pictures(torch.from_numpy(expected), torch.from_numpy(video[:40])).numpy()
    unlike = np.abs(estimated(model, video[:40], [0] * 40) - expected)
    assert unlike.max() < 1 / 255 and unlike.mean() < 2e-4  # what storing the maps in 16 bits costs


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


def upsampled(disparity: NDArray[np.float32], picture: Video) -> NDArray[np.float32]:
    return upsample_to_pictures(torch.from_numpy(disparity)[None], torch.from_numpy(picture)[None])[0].numpy()


@pytest.mark.parametrize("blur", [0.5, 1.0, 1.5])
def test_edges_follow_the_picture_better_than_bilinear(blur: float) -> None:
    ours, plain, elsewhere, plain_elsewhere = [], [], [], []
    for seed in range(4):
        picture, truth, low = layered_scene(seed, blur)
        sharp = upsampled(low, picture)
        smooth = cv2.resize(low, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
        near = cv2.dilate(truth, np.ones((13, 13))) - cv2.erode(truth, np.ones((13, 13))) > 0.05
        ours.append(np.abs(sharp - truth)[near].mean())
        plain.append(np.abs(smooth - truth)[near].mean())
        elsewhere.append(np.abs(sharp - truth)[~near].mean())
        plain_elsewhere.append(np.abs(smooth - truth)[~near].mean())
        assert ours[-1] < plain[-1]
    assert np.mean(ours) < 0.5 * np.mean(plain)
    assert np.mean(elsewhere) < np.mean(plain_elsewhere) + 1e-3


def test_outlines_on_real_footage_follow_the_subject_better_than_bilinear(shared: Path) -> None:
    """A real map at half and quarter size; the truth is the subject's matte, which comes from another model.

    Between the levels of the subject and of its surroundings, each averaged beyond 6 pixels of the outline, the
    map should jump where the matte does.
    """
    folder = shared / "media/breakdance"
    picture, truth = FrameFolder(folder / "frames")[10], MapFolder(folder / "disp")[10]
    inside = (MapFolder(folder / "masks").raw(10) > 127).astype(np.uint8)

    def level(where: NDArray[np.uint8]) -> NDArray[np.float32]:
        weight = cv2.blur(where.astype(np.float32), (61, 61))
        return np.where(weight > 0.1, cv2.blur(truth * where, (61, 61)) / np.maximum(weight, 0.1), np.nan)

    subject = level(cv2.erode(inside, np.ones((13, 13))))
    ground = level(1 - cv2.dilate(inside, np.ones((13, 13))))
    band = cv2.dilate(inside, np.ones((17, 17))) > cv2.erode(inside, np.ones((17, 17)))
    band &= np.abs(subject - ground) > 0.1  # false where a level is not known
    assert band.sum() > 20000
    for factor in (2, 4):
        low = cv2.resize(truth, (truth.shape[1] // factor, truth.shape[0] // factor), interpolation=cv2.INTER_AREA)

        def bleeding(full: NDArray[np.float32]) -> float:
            share = ((full - ground)[band] / (subject - ground)[band]).clip(0, 1)
            return float(np.abs(share - inside[band]).mean())

        smooth = cv2.resize(low, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
        assert bleeding(upsampled(low, picture)) < 0.92 * bleeding(np.asarray(smooth))


def test_texture_never_shows_in_smooth_depth() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    flat = upsampled(np.full((60, 80), 0.4, np.float32), noise)
    np.testing.assert_allclose(flat, 0.4, rtol=1e-5)
    ramp = np.tile(np.linspace(0, 0.2, 80, dtype=np.float32), (60, 1))
    up = upsampled(ramp, noise)
    np.testing.assert_allclose(up, np.tile(up[:1], (120, 1)), atol=1e-6)  # as no row of the noise is


def test_no_value_from_outside_the_map() -> None:
    rng = np.random.default_rng(1)
    low = (rng.random((30, 40)) > 0.5).astype(np.float32) * 0.6 + 0.2
    up = upsampled(low, rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    assert up.min() >= 0.2 - 1e-6 and up.max() <= 0.8 + 1e-6


def test_upsampling_is_the_written_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    low = rng.random((2, 12, 15), dtype=np.float32)
    pictures = rng.integers(0, 256, (2, 36, 30, 3), dtype=np.uint8)
    up = upsample_to_pictures(torch.from_numpy(low), torch.from_numpy(pictures)).numpy()
    small = F.interpolate(
        torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, (12, 15), mode="bilinear", antialias=True
    ).numpy()
    for number, y, x in [(0, 0, 0), (1, 0, 29), (0, 35, 11), (1, 17, 14), (1, 35, 29)]:
        at_y, at_x = (y + 0.5) / 3 - 0.5, (x + 0.5) / 2 - 0.5
        total = weighted = 0.0
        for dy in range(-RADIUS, RADIUS + 1):
            for dx in range(-RADIUS, RADIUS + 1):
                ty, tx = np.clip(round(at_y) + dy, 0, 11), np.clip(round(at_x) + dx, 0, 14)
                around = low[number, max(ty - 1, 0) : ty + 2, max(tx - 1, 0) : tx + 2]
                unlike = ((small[number, :, ty, tx] - pictures[number, y, x] / 255) ** 2).sum()
                weight = np.exp(-((ty - at_y) ** 2 + (tx - at_x) ** 2) / (2 * SPREAD**2))
                weight *= np.exp(-unlike / (2 * COLOUR**2)) + FLOOR
                weight /= 1 + (np.ptp(around) / UNSURE) ** 2
                total += weight
                weighted += weight * low[number, ty, tx]
        assert up[number, y, x] == pytest.approx(weighted / total, abs=1e-5)
    monkeypatch.setattr(upsampling, "PLACES_AT_ONCE", 100)
    np.testing.assert_array_equal(
        upsample_to_pictures(torch.from_numpy(low[1:]), torch.from_numpy(pictures[1:])).numpy()[0], up[1]
    )


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
