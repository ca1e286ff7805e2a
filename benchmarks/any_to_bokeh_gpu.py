"""Speed, memory and precision of any-to-bokeh at full size on one GPU, with random weights.

    python benchmarks/any_to_bokeh_gpu.py --out results.json

Draws weights of the released sizes on the GPU (scaled so that activations stay of order one), renders synthetic
video at 576x1024, and reports for single and paired groups, eager and compiled: frames a second, peak memory, and
the relative L2 error, per frame, of latents and pixels against the same networks in float32 (without TF32) with the
same grouping. Then 1920x1080 and 1440x1080 end to end, real footage in any-to-bokeh's own layout where `--footage`
names a folder of it (`frames/*.jpg`, `disp/*_zf_<focus>.png`, `masks/*.png`), and the mode for small cards. What would
pass `--budget` seconds is left out, and said so. The JSON is written after each step.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bokeh_assets.metrics import vepi
from bokeh_assets.rendering.any_to_bokeh import clip
from bokeh_assets.rendering.any_to_bokeh.image_encoder import build_image_encoder
from bokeh_assets.rendering.any_to_bokeh.loading import OFFICIAL_CONFIGS, fill
from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh
from bokeh_assets.rendering.any_to_bokeh.unet import BokehUNet
from bokeh_assets.rendering.any_to_bokeh.vae import BokehVAE

HEIGHT, WIDTH = 576, 1024
Module = TypeVar("Module", bound=nn.Module)
Video = tuple[list[np.ndarray], list[np.ndarray], pd.DataFrame]
CEILING = 790e12
"""Dense bf16 matrix products measured on an H200, FLOP/s."""


def drawn(key: str, shape: torch.Size, device: torch.device) -> Tensor:
    """A random weight: matrices and kernels normal over the root of their fan-in, scales about 1, biases small."""
    generator = torch.Generator(device).manual_seed(zlib.crc32(key.encode()))
    noise = torch.randn(shape, generator=generator, device=device)
    last = key.rsplit(".", 1)[-1]
    if last == "mix_factor":
        return 0.5 * noise
    if last.startswith("alpha_"):
        return 0.5 + 0.25 * noise
    if noise.ndim >= 2:
        return noise / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * noise if last == "weight" else 0.1 * noise


def network(module: Module, home: torch.device, dtype: torch.dtype) -> Module:
    device = torch.device("cuda") if torch.cuda.is_available() else home
    shapes = {key: p.shape for key, p in module.named_parameters()}
    fill(module, ((key, drawn(key, shape, device)) for key, shape in shapes.items()), device=home, dtype=dtype)
    return module


def model(device: torch.device, dtype: torch.dtype, **options: Any) -> AnyToBokeh:
    """Full size, random weights; with `low_memory` they wait in host memory."""
    home = torch.device("cpu") if options.get("low_memory") else device
    unet = network(BokehUNet(OFFICIAL_CONFIGS["unet"]), home, dtype)
    vae = network(BokehVAE(OFFICIAL_CONFIGS["vae"]), home, dtype)
    encoder = network(build_image_encoder(OFFICIAL_CONFIGS["image_encoder"])[0], home, dtype)
    return AnyToBokeh(unet, vae, encoder, device=device, **options)


def scene(count: int, height: int, width: int) -> Video:
    """Moving gradients with grain and a disc, its disparity, focus on the disc."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    frames, maps = [], []
    grain = np.random.default_rng(0).normal(0, 0.05, (height, width, 1)).astype(np.float32)
    for t in np.arange(count, dtype=np.float32) / 24:
        base = np.stack([0.5 + 0.5 * np.sin(6 * x + 3 * t), 0.5 + 0.5 * np.cos(5 * y - 2 * t), (x + y) / 2], -1)
        disc = (x - 0.5 - 0.3 * np.sin(t)) ** 2 + (y - 0.5) ** 2 < 0.04
        picture = np.where(disc[..., None], np.array([0.9, 0.3, 0.1], np.float32), base) + grain
        frames.append((picture.clip(0, 1) * 255).astype(np.uint8))
        maps.append(np.where(disc, np.float32(0.8), 0.5 * y).astype(np.float32))
    return frames, maps, pd.DataFrame({"frame": range(count), "zf": 0.8, "k": 16.0})


def render(made: AnyToBokeh, video: Video, count: int, pairing: str) -> Iterator[np.ndarray]:
    frames, maps, focus = video
    options: dict[str, Any] = {"pairing": pairing, "output": "network", "height": HEIGHT, "width": WIDTH}
    return made.render(frames[:count], maps[:count], focus[:count], **options)


def recorded(made: AnyToBokeh, video: Video, pairing: str, count: int = 16) -> tuple[list[Tensor], list[Tensor]]:
    """Per frame in order of decoding: fused latents and decoded pixels (-1 to 1), on the host."""
    latents: list[Tensor] = []
    pixels: list[Tensor] = []
    inner = made.vae.decode

    def listening(z: Tensor, features: Any) -> Tensor:
        out = inner(z, features)
        latents.extend(z.float().cpu())
        pixels.extend(out.float().cpu())
        return out

    made.vae.decode = listening  # type: ignore[method-assign]
    try:
        for _ in render(made, video, count, pairing):
            pass
    finally:
        made.vae.decode = inner  # type: ignore[method-assign]
    return latents, pixels


def errors(found: tuple[list[Tensor], list[Tensor]], reference: tuple[list[Tensor], list[Tensor]]) -> dict[str, float]:
    """The worst frame's relative L2 error."""
    return {
        name: max(float((a - b).norm() / b.norm()) for a, b in zip(got, want, strict=True))
        for name, got, want in zip(("latents", "pixels"), found, reference, strict=True)
    }


def seconds(run: Callable[[], Any], repeat: int = 3) -> float:
    """Median device time of `run`."""
    times = []
    run()
    for _ in range(repeat):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return sorted(times)[len(times) // 2]


def stages(made: AnyToBokeh) -> dict[str, Callable[[], Any]]:
    """Each stage for 8 new frames; the UNet sees 16 frames for them."""
    device, dtype = made.device, made.dtype
    pictures = torch.rand(8, 3, HEIGHT, WIDTH, device=device) * 2 - 1
    half = pictures[:4].to(dtype)
    _, features = made.vae.encode(half, keep=True)
    one = [tuple(f[i % 4 : i % 4 + 1] for f in features) for i in range(8)]
    latents = torch.randn(2, 8, 8, HEIGHT // 8, WIDTH // 8, device=device, dtype=dtype)
    context = torch.randn(16, 1024, device=device, dtype=dtype)
    k = torch.full((2, 8), 16.0)

    def encode() -> None:
        for _ in range(2):
            made.vae.encode(half, keep=True)
            made.vae.encode(half)

    return {
        "clip": lambda: clip.embed(made.image_encoder, pictures),
        "vae encode (8 pictures, 8 blurs)": encode,
        "unet single, twice": lambda: [
            made.unet(latents[i : i + 1], context[8 * i : 8 * i + 8], k[:1]) for i in (0, 1)
        ],
        "unet paired": lambda: made.unet(latents, context, k),
        "vae decode (8)": lambda: made.vae.decode(latents[0, :, :4], one),
    }


def measured(made: AnyToBokeh, video: Video, pairing: str, reference: Any) -> dict[str, Any]:
    """Frames a second, peak memory and errors."""
    begun = time.perf_counter()
    error = errors(recorded(made, video, pairing), reference)
    first = time.perf_counter() - begun
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    count = len(video[0])
    begun = time.perf_counter()
    times = [time.perf_counter() - begun for _ in render(made, video, count, pairing)]
    assert len(times) == count
    out = {
        "fps": count / times[-1],
        # Without the first and the last eight frames, whose groups are fewer.
        "fps_within": (count - 16) / (times[-9] - times[7]),
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "error": error,
        "first_16_frames_s": first,
    }
    print(pairing, out, flush=True)
    return out


def end_to_end(made: AnyToBokeh, height: int, width: int, count: int) -> dict[str, Any]:
    """A video letterboxed in and brought back to its own size."""
    video = scene(count, height, width)
    frames, maps, focus = video
    torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    found = list(made.render(*video, height=HEIGHT, width=WIDTH))
    took = time.perf_counter() - begun
    assert [f.shape for f in found] == [(height, width, 3)] * count
    radius = 16 * width / 1024 * np.abs(maps[0] - 0.8)
    (small,) = made.render(frames[:1], maps[:1], focus[:1], fit="stretch", output="network", height=HEIGHT, width=WIDTH)
    enlarged = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    matte = (maps[0] == np.float32(0.8)).astype(np.float32)
    return {
        "frames": count,
        "fps": count / took,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "in focus equal to the source": bool((found[0][radius < 1] == frames[0][radius < 1]).all()),
        "vepi": vepi(found[0], frames[0], matte),
        "vepi of the network's picture enlarged": vepi(enlarged, frames[0], matte),
    }


def grey(path: Path) -> npt.NDArray[np.float32]:
    """A grey picture, 0..1."""
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)).astype(np.float32) / np.float32(255)


def real_footage(made: AnyToBokeh, folder: Path) -> dict[str, Any]:
    """A clip from disk to its own size again; the weights are random, so only the plumbing is looked at."""
    pictures, depths, masks = (sorted((folder / name).iterdir()) for name in ("frames", "disp", "masks"))
    frames = [np.ascontiguousarray(np.asarray(cv2.imread(str(path)))[..., ::-1]) for path in pictures]
    maps, mattes = ([grey(path) for path in paths] for paths in (depths, masks))
    zf = [float(path.stem.split("_zf_")[1]) for path in depths]
    focus = pd.DataFrame({"frame": range(len(frames)), "zf": zf, "k": 16.0})
    height, width = frames[0].shape[:2]
    torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    found = list(made.render(frames, maps, focus, height=HEIGHT, width=WIDTH))
    took = time.perf_counter() - begun
    assert [f.shape for f in found] == [f.shape for f in frames]
    sharp = [16 * width / 1024 * np.abs(d - z) < 1 for d, z in zip(maps, zf, strict=True)]
    options: dict[str, Any] = {"output": "network", "height": HEIGHT, "width": WIDTH, "fit": "stretch"}
    (small,) = made.render(frames[:1], maps[:1], focus[:1], **options)
    enlarged = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    return {
        "frames": len(frames),
        "size": [width, height],
        "fps": len(frames) / took,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "share in focus": float(np.mean(sharp)),
        "in focus equal to the source": all(
            bool((got[at] == frame[at]).all()) for got, frame, at in zip(found, frames, sharp, strict=True)
        ),
        "vepi": float(np.mean([vepi(g, f, m) for g, f, m in zip(found, frames, mattes, strict=True)])),
        "vepi of the network's picture enlarged": vepi(enlarged, frames[0], mattes[0]),
    }


def rows_of_attention(device: torch.device) -> dict[str, float]:
    """Relative error of attention over time of two groups at the finest level, 92160 sequences, by kernel."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    attend = nn.functional.scaled_dot_product_attention
    q, k, v = torch.randn(3, 2 * 9216, 5, 8, 64, device=device, dtype=torch.float16)
    exact = torch.softmax(q.float() @ k.float().transpose(-1, -2) / 8, dim=-1) @ v.float()
    found = {}
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
        try:
            with sdpa_kernel(getattr(SDPBackend, name)):
                found[name] = float((attend(q, k, v).float() - exact).norm() / exact.norm())
        except RuntimeError as error:
            print(name, str(error)[:200])
    return found


def profile(run: Callable[[], Any], label: str) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    run()
    with profiler(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        run()
        torch.cuda.synchronize()
    table = found.key_averages()
    rows = sorted(table, key=lambda e: -e.self_device_time_total)[:16]
    total = sum(e.self_device_time_total for e in table)
    print(f"--- {label}: {total / 1000:.1f} ms on the device")
    for e in rows:
        print(f"{e.self_device_time_total / 1000:9.2f} ms {e.count:5d}  {e.key[:110]}")


def table(results: dict[str, Any]) -> None:
    print(f"\n{results['device']}, torch {results['torch']}, {HEIGHT}x{WIDTH}, float16")
    print(
        "| stage, 8 new frames | TFLOP | eager ms | compiled ms | TFLOP/s | of 790 |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    compiled = results.get("stages_compiled_s", {})
    for name, flops in results.get("flops", {}).items():
        eager, fast = results["stages_eager_s"][name], compiled.get(name, math.nan)
        rate = flops / fast
        print(
            f"| {name} | {flops / 1e12:.1f} | {eager * 1e3:.0f} | {fast * 1e3:.0f} | {rate / 1e12:.0f} "
            f"| {rate / CEILING:.0%} |"
        )
    print(
        "\n| run | frames/s | within | peak GB | error latents | error pixels |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name, row in results["runs"].items():
        print(
            f"| {name} | {row['fps']:.1f} | {row['fps_within']:.1f} | {row['peak_bytes'] / 1e9:.1f} "
            f"| {row['error']['latents']:.1e} | {row['error']['pixels']:.1e} |"
        )
    for name in ("small card", "1920x1080", "1440x1080", "real footage"):
        print(name, results.get(name, "left out: no time"))


@torch.no_grad()
def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--frames", type=int, default=64, help="multiple of 8; eager runs take 40 at most")
    arguments.add_argument("--budget", type=float, default=225, help="seconds for everything")
    arguments.add_argument("--profile", action="store_true", help="list the costliest kernels of each stage")
    arguments.add_argument("--footage", type=Path, help="folder of a clip in any-to-bokeh's layout")
    options = arguments.parse_args()
    started = time.perf_counter()
    device = torch.device("cuda")
    video = scene(options.frames, HEIGHT, WIDTH)
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "runs": {}}

    def elapsed() -> float:
        return time.perf_counter() - started

    def save(note: str) -> None:
        results["seconds"] = elapsed()
        options.out.write_text(json.dumps(results, indent=1))
        print(f"[{elapsed():.0f} s] {note}", flush=True)

    try:
        steps(device, video, options, results, elapsed, save)
    finally:
        table(results)


def steps(
    device: torch.device,
    video: Video,
    options: argparse.Namespace,
    results: dict[str, Any],
    elapsed: Callable[[], float],
    save: Callable[[str], None],
) -> None:
    """Everything that is measured, written into `results`."""
    runs = results["runs"]
    short: Video = (video[0][:40], video[1][:40], video[2][:40])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    exact = model(device, torch.float32)
    reference = {pairing: recorded(exact, video, pairing) for pairing in ("single", "paired")}
    del exact
    gc.collect()
    torch.cuda.empty_cache()
    results["time_attention_error"] = rows_of_attention(device)
    print(results["time_attention_error"])
    save("float32 reference")

    torch.backends.cudnn.benchmark = True
    made = model(device, torch.float16)
    results["weights_bytes"] = torch.cuda.memory_allocated()
    results["flops"], results["stages_eager_s"] = {}, {}
    for name, run in stages(made).items():
        with FlopCounterMode(display=False) as counter:
            run()
        results["flops"][name] = counter.get_total_flops()
        results["stages_eager_s"][name] = seconds(run, repeat=1)
    save("eager stages")
    for pairing in ("single", "paired"):
        runs[f"eager, {pairing}"] = measured(made, short, pairing, reference[pairing])
        save(f"eager {pairing}")

    made.compile()
    compiled: dict[str, float] = {}
    results["stages_compiled_s"] = compiled
    compiling: dict[str, float] = {}
    later = "unet paired"
    for name, run in stages(made).items():
        if name != later:
            begun = time.perf_counter()
            run()
            torch.cuda.synchronize()
            compiling[name] = time.perf_counter() - begun
            compiled[name] = seconds(run)
            save(f"compiled {name}")
    runs["compiled, single"] = measured(made, video, "single", reference["single"])
    save("compiled single")
    results["1920x1080"] = end_to_end(made, 1080, 1920, 24)
    save("1920x1080")
    results["1440x1080"] = end_to_end(made, 1080, 1440, 8)
    save("1440x1080")
    if options.footage:
        results["real footage"] = real_footage(made, options.footage)
        save("real footage")
    if options.profile:
        for name, run in stages(made).items():
            if name != later:
                profile(run, name)
    if elapsed() + compiling["unet single, twice"] + 12 < options.budget:
        compiled[later] = seconds(stages(made)[later])
        save(f"compiled {later}")
        runs["compiled, paired"] = measured(made, video, "paired", reference["paired"])
        save("compiled paired")
    if elapsed() + 10 < options.budget:
        made.record_graphs()
        runs["compiled, single, CUDA graphs"] = measured(made, video, "single", reference["single"])
        save("CUDA graphs")
    del made
    gc.collect()
    torch.cuda.empty_cache()
    if elapsed() + 25 < options.budget:
        frugal = model(device, torch.float16, low_memory=True)
        torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        error = errors(recorded(frugal, video, "single"), reference["single"])
        took = time.perf_counter() - begun
        peak = torch.cuda.max_memory_allocated()
        results["small card"] = {"fps": 16 / took, "peak_bytes": peak, "error": error}
        save("small card")


if __name__ == "__main__":
    main()
