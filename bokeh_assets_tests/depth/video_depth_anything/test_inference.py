"""Whole videos: the reference's numbers in exact mode, and the promises of the better one."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bokeh_assets.depth.video_depth_anything import runner
from bokeh_assets.depth.video_depth_anything.inference import enlarged, infer_network_maps, infer_video_depth
from bokeh_assets.depth.video_depth_anything.model import VideoDepthAnything
from bokeh_assets.depth.video_depth_anything.preprocess import network_size, prepare, prepare_on_device
from bokeh_assets.depth.video_depth_anything.stitching import Stitcher, blend, least_squares, robust_fit
from bokeh_assets.depth.video_depth_anything.windows import KEYFRAMES, cut_into_windows, find_anchor
from bokeh_assets.errors import InputError
from bokeh_assets_tests.depth.video_depth_anything.conftest import moving_picture

CLOSE = 1e-4
Video = NDArray[np.uint8]


def test_network_sizes(golden: Path) -> None:
    for row in json.loads((golden / "vda_resize_table.json").read_text()):
        assert network_size(row["h"], row["w"]) == (row["net_h"], row["net_w"])


def test_network_input_is_the_reference_s(golden: Path, golden_video: Video) -> None:
    expected = np.load(golden / "vda_vits_seed5_infer.npz")
    np.testing.assert_allclose(prepare(golden_video[0], (70, 98)), expected["net_input_window0_frame0"], atol=1e-6)
    in_slots = (0, 12, 24, 31, 32, 49)  # the frames in slots 0, 1, 2, 9, 10, 31 of window 1 of 50 frames
    inputs = np.stack([prepare(golden_video[number], (70, 98)) for number in in_slots])
    np.testing.assert_allclose(inputs, expected["net_input_window1_frames"], atol=1e-6)


@pytest.mark.parametrize("height,width", [(540, 960), (300, 200), (48, 64)])
def test_preprocessing_by_matrices_is_opencv_s(height: int, width: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = network_size(height, width, 126)
    ours = prepare_on_device(torch.from_numpy(frame)[None], size)[0].numpy()
    cv2.setUseOptimized(False)  # OpenCV's plain code, which follows its formula
    try:
        np.testing.assert_allclose(ours, prepare(frame, size), atol=2e-5)
    finally:
        cv2.setUseOptimized(True)
    # Its vector code departs from its own plain code by more than ours does (worst case, pure noise).
    np.testing.assert_allclose(ours, prepare(frame, size), atol=1e-3)


@pytest.mark.parametrize("count", [5, 22, 40, 50, 75])
def test_exact_mode_gives_the_reference_numbers(
    count: int, golden: Path, golden_model: VideoDepthAnything, golden_video: Video
) -> None:
    expected = np.load(golden / "vda_vits_seed5_infer.npz")[f"depth_n{count}"]
    maps = np.stack(list(infer_video_depth(golden_model, iter(golden_video[:count]), 70)))
    np.testing.assert_allclose(maps, expected, atol=CLOSE)


def test_metric_models_are_not_rescaled(
    golden: Path, golden_model: VideoDepthAnything, golden_video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = np.load(golden / "vda_vits_seed5_infer.npz")["depth_metric_flag_n50"]
    monkeypatch.setattr(golden_model, "metric", True)
    maps = np.stack(list(infer_video_depth(golden_model, golden_video[:50], 70)))
    np.testing.assert_allclose(maps, expected, atol=CLOSE)


def test_wide_video(golden: Path, golden_model: VideoDepthAnything, seed_weights: ModuleType) -> None:
    expected = np.load(golden / "vda_vits_seed5_infer.npz")["depth_wide_40x92_n12"]
    maps = np.stack(list(infer_video_depth(golden_model, seed_weights.video(12, 40, 92, seed=10), 70)))
    np.testing.assert_allclose(maps, expected, atol=CLOSE)


def test_stitching_of_the_reference_s_windows(golden: Path) -> None:
    expected = np.load(golden / "vda_vits_seed5_infer.npz")
    stitcher = Stitcher(least_squares, KEYFRAMES[:2])
    final, fits = [], []
    for number, raw in enumerate(expected["raw_windows_n50"]):
        maps = enlarged(torch.from_numpy(raw), (48, 64))
        final.append(stitcher.add(maps[: min(32, 50 - 22 * number)], last=number == 2))
        if stitcher.last_fit is not None:
            fits.append([float(value) for value in stitcher.last_fit])
    np.testing.assert_allclose(torch.cat(final).numpy(), expected["depth_n50"], atol=CLOSE)
    np.testing.assert_allclose(fits, expected["scale_shift_n50"], atol=CLOSE)


def test_least_squares_and_blend(golden: Path) -> None:
    expected = {key: torch.from_numpy(value) for key, value in np.load(golden / "vda_align_util.npz").items()}
    scale, shift = least_squares(expected["pred"], expected["target"])
    np.testing.assert_allclose([scale, shift], expected["scale_shift"], atol=CLOSE)
    constant = least_squares(torch.full((2, 9, 9), 0.3), expected["target"][:2, :9, :9])
    assert [float(value) for value in constant] == expected["const_scale_shift"].tolist()
    np.testing.assert_allclose(blend(expected["pre"], expected["post"]), expected["interp"], atol=1e-6)


def test_robust_fit_finds_the_line_among_spoiled_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(10, 30, 40, generator=generator) + 1
    reference = 0.7 * maps + 0.2
    reference[3:6] = torch.rand(3, 30, 40, generator=generator) * 9  # a flash, or a frame that was mapped badly
    scale, shift = robust_fit(maps, reference)
    assert abs(float(scale) - 0.7) < 2e-3 and abs(float(shift) - 0.2) < 4e-3
    plain_scale, _ = least_squares(maps, reference)
    assert abs(float(plain_scale) - 0.7) > 0.02


def test_robust_fit_never_turns_depth_around() -> None:
    ramp = torch.linspace(1, 2, 100).view(1, 10, 10).expand(10, -1, -1)
    scale, shift = robust_fit(ramp, 3 - ramp)
    assert float(scale) > 0 and np.isfinite(float(shift))
    flat = robust_fit(torch.ones(10, 10, 10), torch.full((10, 10, 10), 2.0))
    assert float(flat[0]) == pytest.approx(2.0) and float(flat[1]) == pytest.approx(0.0, abs=1e-6)


def test_output_begins_after_the_first_window(model: VideoDepthAnything) -> None:
    asked = 0

    def endless() -> Iterator[Video]:
        nonlocal asked
        while True:
            asked += 1
            yield np.full((48, 64, 3), asked % 256, np.uint8)

    maps = infer_video_depth(model, endless(), 56)
    first = next(maps)
    maps.close()  # type: ignore[attr-defined]
    assert first.shape == (48, 64) and first.dtype == np.float32
    assert asked <= 32 + 1 + 26  # a window, the frame after it, what the reader keeps ready


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("count", [1, 24, 31, 32, 33, 54, 55])
def test_one_map_per_frame(exact: bool, count: int, model: VideoDepthAnything, video: Video) -> None:
    maps = list(infer_video_depth(model, video[:count], 28, exact=exact))
    assert len(maps) == count
    assert all(each.shape == (48, 64) and np.isfinite(each).all() and each.min() >= 0 for each in maps)


def test_no_frames_no_maps(model: VideoDepthAnything) -> None:
    assert list(infer_video_depth(model, [], 28)) == []


def test_second_scene_is_as_if_alone(model: VideoDepthAnything, video: Video) -> None:
    other = moving_picture(37, seed=5)
    spliced = np.concatenate([video[:40], other])
    together = list(infer_video_depth(model, spliced, 56, exact=False, shots=[0] * 40 + [1] * 37))
    alone = list(infer_video_depth(model, other, 56, exact=False))
    np.testing.assert_array_equal(np.stack(together[40:]), np.stack(alone))
    unaware = list(infer_video_depth(model, spliced, 56))
    assert np.abs(np.stack(unaware[40:]) - np.stack(alone)).mean() > 1e-4


def test_anchor_is_the_first_frame_with_contrast(video: Video) -> None:
    assert find_anchor(list(video[:32])) == 0
    faded = [np.zeros_like(video[0]), video[1] // 16, *video[2:32]]
    assert find_anchor(faded) == 2
    assert find_anchor([np.full_like(video[0], 9)] * 3) == 0


def test_windows_of_the_reference() -> None:
    frames = [np.full((2, 2, 3), number, np.uint8) for number in range(50)]
    laid = list(cut_into_windows(frames, pad=True))
    assert [(len(w.fresh), w.padding, w.wanted) for w in laid] == [(32, 0, 32), (18, 4, 28), (0, 22, 6)]
    short = list(cut_into_windows(frames, pad=False))
    assert [(len(w.fresh), w.padding, w.wanted) for w in short] == [(32, 0, 32), (18, 0, 28)]
    assert [w.last for w in short] == [False, True]


def test_memory_that_runs_short_makes_smaller_batches_and_says_so(
    model: VideoDepthAnything, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = np.stack(list(infer_video_depth(model, video[:40], 28)))
    pyramid, depth = VideoDepthAnything.pyramid, VideoDepthAnything.depth

    def small_pyramid(self, pictures):
        if len(pictures) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pyramid(self, pictures)

    def small_depth(self, window, slots, step, tokens_at_once):
        if step > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return depth(self, window, slots, step, tokens_at_once)

    monkeypatch.setattr(VideoDepthAnything, "pyramid", small_pyramid)
    monkeypatch.setattr(VideoDepthAnything, "depth", small_depth)
    notes: list[str] = []
    maps = np.stack(list(infer_video_depth(model, video[:40], 28, note=notes.append)))
    np.testing.assert_allclose(maps, usual, atol=1e-5)
    assert len(notes) == 3 and "1/8" in notes[-1]


def test_a_gpu_too_small_is_an_error_with_a_remedy(
    model: VideoDepthAnything, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self, pictures):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(VideoDepthAnything, "pyramid", never)
    with pytest.raises(InputError, match="smaller input_size"):
        next(infer_video_depth(model, video, 28, note=lambda line: None))


def test_wrong_use_is_named(model: VideoDepthAnything, video: Video) -> None:
    with pytest.raises(InputError, match="exact"):
        infer_video_depth(model, video, shots=[0] * 75)
    with pytest.raises(InputError, match="shots names 3 frames"):
        list(infer_video_depth(model, video[:5], 28, exact=False, shots=[0] * 3))
    with pytest.raises(InputError, match="shots names 7 frames, but there are 5"):
        list(infer_video_depth(model, video[:5], 28, exact=False, shots=[0] * 7))
    with pytest.raises(InputError, match="frame 1 is 32x48"):
        list(infer_video_depth(model, [video[0], video[1][:, :32]], 28))
    with pytest.raises(InputError, match="frame 0 is float64"):
        list(infer_video_depth(model, [video[0] / 255], 28))
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        list(infer_video_depth(model, video, 28, precision="fp16"))
    with pytest.raises(InputError, match="'fp8'"):
        runner.resolve_precision("fp8", torch.device("cpu"))


def test_an_error_of_the_source_comes_through(model: VideoDepthAnything, video: Video) -> None:
    def broken() -> Iterator[Video]:
        yield from video[:10]
        raise InputError("frame 10 cannot be read")

    with pytest.raises(InputError, match="frame 10"):
        list(infer_video_depth(model, broken(), 28))


def test_bf16_is_near_float32(model: VideoDepthAnything, video: Video) -> None:
    exact = np.stack(list(infer_video_depth(model, video[:8], 28)))
    rounded = np.stack(list(infer_video_depth(model, video[:8], 28, "bf16")))
    assert 0 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.05
    assert model.dtype == torch.float32  # the caller's model is left as it was


def test_network_maps_are_the_same_at_their_own_size(model: VideoDepthAnything, video: Video) -> None:
    maps = torch.cat(list(infer_network_maps(model, video[:34], 56))).numpy()
    assert maps.shape == (34, *network_size(48, 64, 56))
    full = np.stack(list(infer_video_depth(model, video[:34], 56, exact=False)))
    np.testing.assert_allclose(enlarged(torch.from_numpy(maps), (48, 64)).numpy(), full, atol=1e-6)


@pytest.mark.slow
def test_three_thousand_frames_in_flat_memory(model: VideoDepthAnything, video: Video) -> None:
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()

    def frames() -> Iterator[Video]:
        for number in range(3000):
            yield video[number % 75]

    resident, traced = [], []
    tracemalloc.start()
    for number, each in enumerate(infer_video_depth(model, frames(), 28)):
        assert np.isfinite(each).all()
        if number in (500, 2900):
            resident.append(process.memory_info().rss)
            traced.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert number == 2999
    assert resident[1] - resident[0] < 40e6
    assert traced[1] - traced[0] < 2e6
