"""Speed and memory of the thin-lens renderer on the CPU and on a GPU, and that both give one picture.

    python benchmarks/lens_speed.py [--device cuda] [--threads N] [--out FILE]

The scene is generated: a floor, two cut-outs and lamps, noise for texture. The peer is the method of published
layered renderers, one FFT disc blur of the whole picture per pixel of radius, re-made in torch on the same device.
Times are medians of whole frames, 8-bit picture in to 8-bit picture out, the copies to and from the GPU included;
"resident" leaves those copies out. "cpu" is processor time: what a frame costs where others compute too. One picture
runs in one CPU thread; a video has as many in work as there are threads.
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
import torch

from bokeh_assets.rendering.thin_lens.aperture import kernel
from bokeh_assets.rendering.thin_lens.colour import decode, encode
from bokeh_assets.rendering.thin_lens.picture import photograph_frame

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
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    spent = time.process_time()
    row["ms"] = median_ms(copied, device, repeats)
    spent = (time.process_time() - spent) / (repeats + 1)
    if device == "cuda":
        row["resident_ms"] = median_ms(ours, device, repeats)
        row["memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    else:
        row["cpu_ms"] = 1000 * spent
        row["process_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if k == 32:  # hundreds of transforms of the whole picture: once is telling
        row["fft_per_bin_ms"] = median_ms(peer, device, 3 if device == "cuda" else 1)
    if device == "cuda" and frame.shape[0] < 2000 and k in (16, 64):
        other = photograph_frame(torch.from_numpy(frame), torch.from_numpy(depth), None, 0.6, k)
        row["largest_difference"] = float((ours().cpu().int() - other.int()).abs().max())
    return {name: round(value, 2) for name, value in row.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import numba

    torch.set_num_threads(options.threads)
    numba.set_num_threads(min(options.threads, numba.get_num_threads()))
    device = options.device
    repeats = options.repeats or (10 if device == "cuda" else 3)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{options.threads} CPU threads"
    rows: list[dict[str, float | str]] = []
    for size, (height, width) in SIZES.items():
        if size == ("3840x2160" if device == "cpu" else "1024x1024"):
            continue
        scene = picture(height, width)
        for k in (8, 16, 32, 64):
            row = measure(*scene, k, device, repeats)
            rows.append({"size": size, "k": k, **row})
            print(json.dumps(rows[-1]), flush=True)
    worst = max(float(row.get("largest_difference", 0)) for row in rows)
    if options.out:
        options.out.write_text(json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=1))
    if worst > 1:
        raise SystemExit(f"CPU and GPU differ by {worst} of 255")


if __name__ == "__main__":
    main()
