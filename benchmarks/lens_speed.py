"""Speed and memory of the thin-lens renderer on the CPU and on a GPU, and that both give one picture.

    python benchmarks/lens_speed.py [--device cuda] [--threads N] [--out FILE] [--stages]

The scene is generated: a floor, two cut-outs and lamps, noise for texture. The peer is the method of published
layered renderers, one FFT disc blur of the whole picture per pixel of radius, re-made in torch on the same device.
Times are medians of whole frames, 8-bit picture in to 8-bit picture out, the copies to and from the GPU included;
"resident" leaves those copies out; "video" is the renderer's time per frame, in which copies and computing overlap,
without steadying over time. "cpu" is processor time: what a frame costs where others compute too. One picture runs in
one CPU thread; a video has as many in work as there are threads. On a GPU the pictures are first compared with those of
the CPU, for every kind of aperture and sizes that divide by nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from bokeh_assets.rendering.lens import Lens
from bokeh_assets.rendering.thin_lens import ThinLensRenderer
from bokeh_assets.rendering.thin_lens.aperture import kernel
from bokeh_assets.rendering.thin_lens.axis import axis_for
from bokeh_assets.rendering.thin_lens.colour import decode, encode
from bokeh_assets.rendering.thin_lens.paths_cuda import path_of
from bokeh_assets.rendering.thin_lens.picture import photograph_frame, through_lens
from bokeh_assets.rendering.thin_lens.scene import split
from bokeh_assets.rendering.thin_lens.truth import make_scene

VIDEO = 40  # frames of a video that is timed
CHECKS: dict[str, tuple[tuple[int, int], float, Lens, bool, float]] = {
    "round": ((270, 480), 40, Lens(), False, 0.0),
    "odd size": ((77, 123), 140, Lens(), False, 0.0),
    "portrait, k 300": ((481, 271), 300, Lens(), False, 0.0),
    "k 3": ((270, 480), 3, Lens(), False, 0.0),
    "k 900": ((270, 480), 900, Lens(), False, 0.0),
    "matte, grain": ((270, 480), 40, Lens(), True, 0.7),
    "five blades": ((270, 481), 90, Lens(blades=5, rotation=10), False, 0.0),
    "anamorphic": ((270, 480), 90, Lens(anamorphic=1.8), True, 0.0),
    "cat-eye": ((270, 480), 64, Lens(cat_eye=0.8), False, 0.0),
    "chromatic": ((270, 480), 90, Lens(chromatic=0.04), False, 0.0),
    "highlights": ((270, 480), 64, Lens(highlights=3), False, 0.0),
}
SIZES = {"1024x1024": (1024, 1024), "1920x1080": (1080, 1920), "3840x2160": (2160, 3840)}


def picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame, uint8 (H, W, 3), and its disparity, float32 (H, W) in steps of 1/255."""
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 18, (height, width, 3))
    cloth = cv2.resize(
        rng.uniform(30, 220, (height // 40, width // 40, 3)), (width, height), interpolation=cv2.INTER_CUBIC
    )
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None].repeat(width, 1)
    depth = 0.1 + 0.8 * np.clip((rows - 0.4) / 0.6, 0, 1)
    for x, y, size, d in ((0.35, 0.5, 0.28, 0.6), (0.75, 0.7, 0.2, 0.95)):
        inside = np.zeros((height, width), np.uint8)
        cv2.circle(inside, (int(x * width), int(y * height)), int(size * height), 1, -1)
        depth[inside > 0] = d
        cloth[inside > 0] = cloth[inside > 0][:, ::-1]
    frame = np.clip(cloth + grain, 0, 255)
    for _ in range(60):
        cv2.circle(frame, (int(rng.integers(width)), int(rng.integers(height // 2))), 2, (255, 255, 255), -1)
    return frame.astype(np.uint8), (np.rint(depth * 255) / 255).astype(np.float32)


def fft_per_bin(frame: torch.Tensor, coc: torch.Tensor) -> torch.Tensor:
    """The peer: hard layers one pixel of radius apart, each blurred whole by FFT, over far to near, gamma exact."""
    light = decode(frame)
    places = coc.round()
    result = torch.zeros(4, *coc.shape, device=coc.device)
    for place in range(int(places.min()), int(places.max()) + 1):
        here = (places == place).float()
        layer = torch.cat([light * here, here[None]])
        if place:
            shape = torch.from_numpy(kernel(abs(place))).to(layer)
            n = shape.shape[0] // 2
            # A multiple of 64 is quick for every FFT library.
            size = [-(-(length + 2 * n) // 64) * 64 for length in coc.shape]
            spectrum = torch.fft.rfft2(layer, s=size) * torch.fft.rfft2(shape, s=size)
            layer = torch.fft.irfft2(spectrum, s=size)[:, n : n + coc.shape[0], n : n + coc.shape[1]]
        result = layer + result * (1 - layer[3:])
    return encode(result[:3] / result[3:].clamp_min(1e-6))


def median_ms(work: Callable[[], object], device: str, repeats: int) -> float:
    """Wall time of one call, in milliseconds, after a warm-up."""
    work()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def difference(one: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """Of two 8-bit pictures: the largest, and the share of values that differ at all and by more than 1."""
    apart = (one.cpu().int() - other.cpu().int()).abs()
    return {
        "largest": int(apart.max()),
        "share_differing": round(float((apart > 0).float().mean()), 5),
        "values_over_1": int((apart > 1).sum()),
    }


def check(device: str) -> dict[str, dict[str, float]]:
    """How far pictures of the device are from those of the CPU, for every kind of lens."""
    result = {}
    for number, (name, (size, k, lens, with_matte, grain)) in enumerate(CHECKS.items()):
        made = make_scene("lamps" if number % 2 else "layers", number, size)
        frame, depth = torch.from_numpy(made.frame()), torch.from_numpy(made.disparity()).float() / 255
        matte = torch.from_numpy(cv2.blur((depth > 0.6).float().numpy(), (3, 3))) if with_matte else None
        own = photograph_frame(frame, depth, matte, 0.5, k, lens, grain)
        there = None if matte is None else matte.to(device)
        result[name] = difference(own, photograph_frame(frame.to(device), depth.to(device), there, 0.5, k, lens, grain))
        print(json.dumps({"check": name, **result[name]}), flush=True)
    flat = photograph_frame(frame.to(device), torch.full_like(depth, 0.3).to(device), None, 0.5, 40)
    result["no edges"] = difference(flat, photograph_frame(frame, torch.full_like(depth, 0.3), None, 0.5, 40))
    return result


def stages(sharp: torch.Tensor, near: torch.Tensor, k: int, device: str) -> dict[str, float]:
    """Where the time of one frame goes."""
    scale = k * sharp.shape[1] / 1024
    nearest, farthest = scale * (float(near.max()) - 0.6), scale * (float(near.min()) - 0.6)
    axis, reach = axis_for(nearest, farthest), max(nearest, -farthest)
    light, place = decode(sharp), axis.place((near - 0.6) * scale)
    scene = split(light, place, reach)
    parts = {
        "split_ms": median_ms(lambda: split(light, place, reach), device, 10),
        "planes_ms": median_ms(lambda: through_lens(scene, axis, None, reach), device, 10),
    }
    for name, work in (
        ("split", lambda: split(light, place, reach)),
        ("planes", lambda: through_lens(scene, axis, None, reach)),
    ):
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        work()
        parts[name + "_mb"] = (torch.cuda.max_memory_allocated() - held) / 2**20
    return {**parts, "planes": len(axis.planes)}


def measure(frame: np.ndarray, depth: np.ndarray, k: int, device: str, repeats: int) -> dict[str, float]:
    """Figures of one size and strength."""
    sharp, near = torch.from_numpy(frame).to(device), torch.from_numpy(depth).to(device)

    def ours() -> torch.Tensor:
        return photograph_frame(sharp, near, None, 0.6, k)

    def copied() -> torch.Tensor:
        return photograph_frame(
            torch.from_numpy(frame).to(device), torch.from_numpy(depth).to(device), None, 0.6, k
        ).cpu()

    def peer() -> torch.Tensor:
        return fft_per_bin(sharp, (near - 0.6) * (k * frame.shape[1] / 1024))

    row = {}
    spent = time.process_time()
    row["ms"] = median_ms(copied, device, repeats)
    spent = (time.process_time() - spent) / (repeats + 1)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        row["resident_ms"] = median_ms(ours, device, repeats)
        row["memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        row["fft_per_bin_ms"] = median_ms(peer, device, 3)
        row["fft_per_bin_mb"] = torch.cuda.max_memory_allocated() / 2**20
        row["video_ms"] = video_ms(frame, depth, k, device, 0)
    else:
        row["cpu_ms"] = 1000 * spent
        row["process_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if k == 32:  # hundreds of transforms of the whole picture: once is telling
            row["fft_per_bin_ms"] = median_ms(peer, device, 1)
    if device == "cuda" and frame.shape[0] < 2000 and k in (8, 64):
        other = photograph_frame(torch.from_numpy(frame), torch.from_numpy(depth), None, 0.6, k)
        row.update(difference(ours(), other))
    return {name: round(value, 5 if name.startswith("share") else 2) for name, value in row.items()}


def video_ms(frame: np.ndarray, depth: np.ndarray, k: int, device: str, steady: int) -> float:
    """Time per frame of a video that is there in memory, the first frame left out."""
    focus = pd.DataFrame({"frame": range(VIDEO + 1), "zf": 0.6, "k": k})
    renderer = ThinLensRenderer(device=device, steady=steady)
    pictures = renderer.render([frame] * (VIDEO + 1), [depth] * (VIDEO + 1), None, focus)
    next(pictures)
    start = time.perf_counter()
    for _ in pictures:
        pass
    return 1000 * (time.perf_counter() - start) / VIDEO


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--stages", action="store_true", help="also where the time and memory of a GPU's frame goes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import numba

    torch.set_num_threads(options.threads)
    numba.set_num_threads(min(options.threads, numba.get_num_threads()))
    device = options.device
    repeats = options.repeats or (15 if device == "cuda" else 3)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{options.threads} CPU threads"
    report: dict[str, object] = {"device": name, "torch": torch.__version__, "path": path_of(torch.device(device))}
    rows: list[dict[str, float | str]] = []
    for size, (height, width) in SIZES.items():
        if size == ("3840x2160" if device == "cpu" else "1024x1024"):
            continue
        scene = picture(height, width)
        for k in (8, 16, 32, 64):
            row = measure(*scene, k, device, repeats)
            if options.stages and device == "cuda":
                sharp, near = (torch.from_numpy(part).to(device) for part in scene)
                parts = stages(sharp, near, k, device)
                row.update({part: round(value, 2) for part, value in parts.items()})
            rows.append({"size": size, "k": k, **row})
            print(json.dumps(rows[-1]), flush=True)
    report["rows"] = rows
    worst = max(float(row.get("largest", 0)) for row in rows)
    if device == "cuda":
        report["steadied_video_ms"] = round(video_ms(*picture(1080, 1920), 32, device, 2), 2)
        print("1920x1080, k 32, steadied over time:", report["steadied_video_ms"], "ms a frame", flush=True)
        report["checks"] = checks = check(device)
        worst = max(worst, *(row["largest"] for row in checks.values()))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))
    if worst > 1:
        raise SystemExit(f"CPU and GPU differ by {worst} of 255")


if __name__ == "__main__":
    main()
