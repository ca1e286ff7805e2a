"""Speed, memory and error of our Video-Depth-Anything on one NVIDIA GPU, against the plain way of running it.

    python benchmarks/vda_gpu.py --out vda_gpu.json [--encoders vits vitb vitl] [--profile]

Clip: 96 generated frames 960x540 (network 518x924). Weights: seeded random numbers of a sane scale, so speed,
memory and rounding are those of the official files; picture quality is not looked at.

Peer ("plain"): the same network run as the reference implementation does without xformers, on the same machine in
the same run: float16 autocast over float32 weights, attention matrices in full, 32 frames of preprocessing and of
the encoder in every window, one thing after another, the whole video in memory.
Ours: `infer_video_depth` in its exact mode (same windows and stitching), and `VideoDepthAnythingEstimator`, the
engine behind `depth_maps` (two passes, one scale per shot, edges that follow the picture; random weights make an
edge of nearly every pixel, which is the slowest case).

Reported for each: frames per second from uint8 frames in memory to float32 maps in memory at source size, after a
warm-up run; milliseconds of GPU time per frame inside the network (CUDA events); peak of allocated GPU memory,
weights included; relative error ||maps - maps in float32|| / ||maps in float32|| over the clip. Before that, that
the GPU gives the CPU's numbers: preprocessing, upsampling, and the whole estimator in float32.

--profile adds the times of the network's parts, of each attention kernel, and of the encoder compiled. On an H200
the last was 22 % (vits), 15 % (vitb) and 8 % (vitl) faster, after 14 to 21 s of compiling: left off. PyTorch's own
choice among the attention kernels was as fast as the best: left alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bokeh_assets.depth.video_depth_anything.estimator import VideoDepthAnythingEstimator
from bokeh_assets.depth.video_depth_anything.inference import infer_video_depth
from bokeh_assets.depth.video_depth_anything.model import VARIANTS, VideoDepthAnything
from bokeh_assets.depth.video_depth_anything.preprocess import network_size, prepare, prepare_on_device
from bokeh_assets.depth.video_depth_anything.upsampling import upsample_to_pictures

FRAMES, HEIGHT, WIDTH = 96, 540, 960
KEYFRAMES = [0, 12, *range(24, 32)]


def generated_clip(seed: int = 0) -> list[NDArray[np.uint8]]:
    """Textured discs that move over a textured ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    ground = rng.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    skins = rng.integers(0, 256, (5, 3), dtype=np.uint8)
    frames = []
    for number in range(FRAMES):
        frame = np.roll(ground, 3 * number, axis=1) // 2 + (y / 8).astype(np.uint8)[..., None]
        for disc, skin in enumerate(skins):
            cx = WIDTH * (0.5 + 0.4 * np.sin(0.05 * number + disc))
            cy = HEIGHT * (0.5 + 0.3 * np.cos(0.04 * number + 2 * disc))
            frame[(x - cx) ** 2 + (y - cy) ** 2 < (40 + 30 * disc) ** 2] = skin
        frames.append(frame)
    return frames


class TimedModel(VideoDepthAnything):
    """The model, with GPU time taken around every call into it."""

    def __init__(self, encoder: str) -> None:
        super().__init__(encoder)
        self.spans: list[tuple[Any, Any]] = []

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        yield
        end.record()
        self.spans.append((start, end))

    def pyramid(self, pictures: Tensor):
        with self._timed():
            return super().pyramid(pictures)

    def depth(self, *args, **kwargs):
        with self._timed():
            return super().depth(*args, **kwargs)

    def milliseconds(self) -> float:
        torch.cuda.synchronize()
        total = sum(start.elapsed_time(end) for start, end in self.spans)
        self.spans.clear()
        return total


@torch.no_grad()
def seeded_model(encoder: str, seed: int = 5) -> TimedModel:
    """Float32 model on the GPU: matrices scaled by their inputs, norms near one, layer scales near a half."""
    with torch.device("cuda"):
        model = TimedModel(encoder)
    generator = torch.Generator("cuda").manual_seed(seed)
    for key, value in model.state_dict().items():
        if key.endswith(".pe"):
            continue
        noise = torch.randn(value.shape, generator=generator, device="cuda")
        if key.endswith("gamma"):
            value.copy_(0.5 + 0.1 * noise)
        elif key.endswith(("pos_embed", "cls_token", "mask_token")):
            value.copy_(0.2 * noise)
        elif value.ndim >= 2:
            transposed = "resize_layers.0" in key or "resize_layers.1" in key
            value.copy_(noise / (value.shape[0] if transposed else value[0].numel()) ** 0.5)
        elif key.endswith("weight"):
            value.copy_(1 + 0.1 * noise)
        else:
            value.copy_(0.1 * noise)
    # Above zero everywhere, or the last ReLU hides errors.
    dict(model.named_parameters())["head.scratch.output_conv2.2.bias"].fill_(2.0)
    return model.requires_grad_(False).eval()


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with its matrix in memory."""
    return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), -1) @ v


@torch.no_grad()
def plain_video_depth(model: VideoDepthAnything, frames: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """The reference's way through a video, whole windows and one thing after another."""
    count = len(frames)
    size = network_size(HEIGHT, WIDTH)
    padded = frames + [frames[-1]] * ((22 - count % 22) % 22 + 10)
    raw: list[NDArray[np.float32]] = []
    before: Tensor | None = None
    for start in range(0, count, 22):
        window = torch.from_numpy(np.stack([prepare(frame, size) for frame in padded[start : start + 32]]))[None].cuda()
        if before is not None:
            window[:, :10] = before[:, KEYFRAMES]
        before = window
        with torch.autocast("cuda", torch.float16):
            maps = model(window)
        maps = F.interpolate(maps[0][:, None].float(), (HEIGHT, WIDTH), mode="bilinear", align_corners=True)
        raw.extend(maps[:, 0].cpu().numpy())
    out = list(raw[:32])
    reference = [raw[0], raw[12]]
    for start in range(32, len(raw), 32):
        ours, theirs = np.stack(raw[start : start + 2]), np.stack(reference)
        a = np.array([[(ours * ours).sum(), ours.sum()], [ours.sum(), ours.size]])
        scale, shift = np.linalg.solve(a, np.array([(ours * theirs).sum(), theirs.sum()]))
        aligned = [np.maximum(each * np.float32(scale) + np.float32(shift), 0) for each in raw[start + 2 : start + 32]]
        for slot in range(8):
            weight = np.float32(slot / 7)
            out[slot - 8] = (1 - weight) * out[slot - 8] + weight * aligned[slot]
        out.extend(aligned[8:])
        reference = [raw[0], aligned[10]]
    return np.stack(out[:count])


def measure(run, warm, model: TimedModel) -> tuple[dict[str, float], NDArray[np.float32]]:
    """Figures of `run()`, which gives the maps, after `warm()`."""
    warm()
    model.spans.clear()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    maps = run()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return {
        "fps": FRAMES / seconds,
        "network_ms": model.milliseconds() / FRAMES,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }, maps


def collected(maps: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
    # A new page of memory costs as much as the copy into it, so the place is made before the clock counts.
    out = collected.place  # type: ignore[attr-defined]
    for number, each in enumerate(maps):
        out[number] = each
    assert number == FRAMES - 1
    return out


collected.place = np.zeros((FRAMES, HEIGHT, WIDTH), np.float32)  # type: ignore[attr-defined]


def error(maps: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(maps - truth) / np.linalg.norm(truth))


def out_of_memory_check(model: VideoDepthAnything, frames: list[NDArray[np.uint8]]) -> dict[str, Any]:
    """The same clip with a GPU that seems to have little memory: the notes, and the greatest difference."""
    usual = np.stack(list(infer_video_depth(model, frames[:54])))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    notes: list[str] = []
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 0.9e9) / total)
    try:
        small = np.stack(list(infer_video_depth(model, frames[:54], note=notes.append)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {"notes": notes, "difference": error(small, usual)}


def preprocessing_check(frames: list[NDArray[np.uint8]]) -> dict[str, float]:
    size = network_size(HEIGHT, WIDTH)
    gpu = prepare_on_device(torch.from_numpy(np.stack(frames[:4])).cuda(), size).cpu().numpy()
    cpu = np.stack([prepare(frame, size) for frame in frames[:4]])
    return {"largest": float(np.abs(gpu - cpu).max()), "relative": error(gpu, cpu)}


def upsampling_check(frames: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Greatest difference between the devices, and milliseconds per frame where every pixel lies on an edge."""
    pictures = torch.from_numpy(np.stack(frames[:8]))
    maps = torch.rand(8, *network_size(HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0))
    cpu = upsample_to_pictures(maps[:2], pictures[:2])
    pictures, maps = pictures.cuda(), maps.cuda()
    gpu = upsample_to_pictures(maps, pictures)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    upsample_to_pictures(maps, pictures)
    end.record()
    torch.cuda.synchronize()
    return {"largest": float((gpu[:2].cpu() - cpu).abs().max()), "ms per frame": start.elapsed_time(end) / 8}


def estimator_check(model: TimedModel, frames: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Two shots in float32 with a small network input: maps of the GPU against those of the CPU."""
    on_cpu = VideoDepthAnything(model.encoder).requires_grad_(False)
    on_cpu.load_state_dict(model.state_dict())
    shots = [0] * 34 + [1] * 6
    gpu, cpu = (
        np.stack(list(VideoDepthAnythingEstimator(m, d, precision="fp32", input_size=140).estimate(frames[:40], shots)))
        for m, d in ((model, "cuda"), (on_cpu, "cpu"))
    )
    return {"largest": float(np.abs(gpu - cpu).max()), "mean": float(np.abs(gpu - cpu).mean())}


def profile_parts(model: VideoDepthAnything, folder: Path) -> dict[str, float]:
    """Milliseconds of the parts for one window (22 frames encoded, 32 mixed and finished), and variants of them."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    rows, columns = 37, 66
    x = torch.randn(22, 3, 14 * rows, 14 * columns, device="cuda")
    found: dict[str, float] = {}

    def clock(name: str, work) -> Any:
        for _ in range(2):
            result = work()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        marks[0].record()
        for mark in marks[1:]:
            work()
            mark.record()
        torch.cuda.synchronize()
        found[name] = float(np.median([a.elapsed_time(b) for a, b in itertools.pairwise(marks)]))
        print(f"    {name:42s} {found[name]:8.2f} ms", flush=True)
        return result

    with torch.inference_mode():
        half = x.to(model.dtype)
        taps = clock("encoder, 22 frames", lambda: model.pretrained(half))
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
            with sdpa_kernel(backend):
                clock(f"encoder, {backend.name}", lambda: model.pretrained(half))
        pyramid = clock("head per frame, 22 frames", lambda: model.head.pyramid(taps, rows, columns))
        window = type(pyramid)(*(torch.cat([part, part[:10]]) for part in pyramid))
        size = (2 * rows, 2 * columns)
        path3 = clock("mix, 32 frames", lambda: model.head.mix(window.layer3, window.layer4, size))
        for step in (2, 4, 8, 16):
            clock(
                f"finish, 32 frames by {step}",
                lambda step=step: [
                    model.head.finish(path3[i : i + step], window.skip2[i : i + step], window.skip1[i : i + step])
                    for i in range(0, 32, step)
                ],
            )
        clock(
            "preprocessing, 22 frames",
            lambda: prepare_on_device(torch.zeros(22, 540, 960, 3, dtype=torch.uint8, device="cuda"), (518, 924)),
        )
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            clock("head per frame, cudnn.benchmark", lambda: model.head.pyramid(taps, rows, columns))
            clock("mix, cudnn.benchmark", lambda: model.head.mix(window.layer3, window.layer4, size))
            clock(
                "finish by 8, cudnn.benchmark",
                lambda: [
                    model.head.finish(path3[i : i + 8], window.skip2[i : i + 8], window.skip1[i : i + 8])
                    for i in range(0, 32, 8)
                ],
            )
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            model.depth(model.pyramid(x).select([*range(22), *range(10)]), range(32), 8)
            torch.cuda.synchronize()
        table = profile.key_averages().table(sort_by="cuda_time_total", row_limit=45, max_name_column_width=110)
        (folder / f"profile_{model.encoder}.txt").write_text(table)
        start = time.perf_counter()
        compiled = torch.compile(model.pretrained, dynamic=False)
        compiled(half)
        torch.cuda.synchronize()
        found["encoder compiled, compile seconds"] = time.perf_counter() - start
        clock("encoder compiled, 22 frames", lambda: compiled(half))
        print(f"    {'compile seconds':42s} {found['encoder compiled, compile seconds']:8.1f}")
    return found


def bench_encoder(encoder: str, frames: list[NDArray[np.uint8]], profile_folder: Path | None) -> dict[str, Any]:
    began = time.perf_counter()
    results: dict[str, Any] = {}
    model = seeded_model(encoder)
    truth = collected(infer_video_depth(model, frames, precision="fp32")).copy()
    assert np.isfinite(truth).all() and truth.std() > 0
    print(
        f"{encoder}: float32 maps {truth.min():.3g} .. {truth.max():.3g}, {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    if encoder == "vits":
        results["estimator, GPU against CPU"] = estimator_check(model, frames)
        print("estimator in float32, GPU against CPU:", results["estimator, GPU against CPU"], flush=True)
    with mock.patch.object(F, "scaled_dot_product_attention", full_attention):
        results["plain"], maps = measure(
            lambda: plain_video_depth(model, frames), lambda: plain_video_depth(model, frames[:32]), model
        )
    results["plain"]["error"] = error(maps, truth)
    model.half()
    torch.cuda.empty_cache()

    def ours() -> NDArray[np.float32]:
        return collected(infer_video_depth(model, iter(frames)))

    results["ours"], maps = measure(ours, ours, model)
    results["ours"]["error"] = error(maps, truth)
    estimator = VideoDepthAnythingEstimator(model, "cuda")

    def estimated() -> NDArray[np.float32]:
        return collected(estimator.estimate(frames, [0] * FRAMES))

    results["estimator"], maps = measure(estimated, estimated, model)
    assert np.isfinite(maps).all() and maps.min() >= 0 and maps.max() <= 1
    if encoder == "vits":
        results["out of memory"] = out_of_memory_check(model, frames)
        print("out of memory:", results["out of memory"], flush=True)
    if profile_folder is not None:
        results["parts_ms"] = profile_parts(model, profile_folder)
    results["seconds"] = time.perf_counter() - began
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the figures")
    parser.add_argument("--encoders", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--profile", action="store_true", help="also time the parts and variants of them")
    options = parser.parse_args()
    began = time.perf_counter()
    frames = generated_clip()
    report: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "clip": f"{FRAMES} frames {WIDTH}x{HEIGHT}",
        "preprocessing, GPU against CPU": preprocessing_check(frames),
        "upsampling, GPU against CPU": upsampling_check(frames),
        "encoders": {},
    }
    for part in ("preprocessing", "upsampling"):
        print(f"{part}, GPU against CPU:", report[f"{part}, GPU against CPU"], flush=True)
    for encoder in options.encoders:
        report["encoders"][encoder] = bench_encoder(encoder, frames, options.out.parent if options.profile else None)
        torch.cuda.empty_cache()
        report["seconds"] = time.perf_counter() - began
        options.out.write_text(json.dumps(report, indent=1))

    print(f"\n{report['gpu']}, torch {report['torch']}, {report['clip']}, float16, {report['seconds']:.0f} s in all")
    print(f"{'encoder':8s} {'way':10s} {'fps':>8s} {'network ms':>11s} {'peak GB':>8s} {'error':>9s}")
    for encoder, results in report["encoders"].items():
        for way in ("plain", "ours", "estimator"):
            r = results[way]
            print(
                f"{encoder:8s} {way:10s} {r['fps']:8.1f} {r['network_ms']:11.2f} {r['peak_gb']:8.2f} "
                + (f"{r['error']:9.1e}" if "error" in r else f"{'-':>9s}")
            )


if __name__ == "__main__":
    main()
