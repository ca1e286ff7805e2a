"""Speed, memory and precision of any-to-bokeh at full size on one GPU, with random weights.

    python benchmarks/any_to_bokeh_gpu.py --out results.json

Draws weights of the released sizes on the GPU (scaled so that activations stay of order one), renders synthetic
video at 576x1024, and reports for paired and single groups, eager and compiled: frames a second, peak memory, and
the relative L2 error, per frame, of latents and pixels against the same networks in float32 (without TF32).
"""

from __future__ import annotations

import argparse
import json
import math
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from bokeh_assets.rendering.any_to_bokeh import clip
from bokeh_assets.rendering.any_to_bokeh.loading import fill
from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh, place_buffers
from bokeh_assets.rendering.any_to_bokeh.unet import BokehUNet
from bokeh_assets.rendering.any_to_bokeh.vae import BokehVAE

HEIGHT, WIDTH = 576, 1024
UNET = {"block_out_channels": (320, 640, 1280, 1280), "num_attention_heads": (5, 10, 20, 20)}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "force_upcast": True,
}
CLIP = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
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


def network(make: Callable[[], nn.Module], device: torch.device, dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):
        module = make()
    shapes = {key: p.shape for key, p in module.named_parameters()}
    fill(module, ((key, drawn(key, shape, device)) for key, shape in shapes.items()), device=device, dtype=dtype)
    place_buffers(module, device)
    return module


def model(device: torch.device, dtype: torch.dtype, **options: Any) -> AnyToBokeh:
    unet = network(lambda: BokehUNet(UNET), device, dtype)
    vae = network(lambda: BokehVAE(VAE), device, dtype)
    encoder = network(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP)), device, dtype)
    return AnyToBokeh(unet, vae, encoder, device=device, **options)  # type: ignore[arg-type]


def scene(count: int) -> tuple[list[np.ndarray], list[np.ndarray], pd.DataFrame]:
    """Moving gradients with a disc, its disparity, focus on the disc."""
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j].astype(np.float32)
    frames, maps = [], []
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 0.05, (HEIGHT, WIDTH, 1)).astype(np.float32)
    for f in range(count):
        t = f / 24
        base = np.stack([0.5 + 0.5 * np.sin(6 * x + 3 * t), 0.5 + 0.5 * np.cos(5 * y - 2 * t), (x + y) / 2], -1)
        disc = (x - 0.5 - 0.3 * np.sin(t)) ** 2 + (y - 0.5) ** 2 < 0.04
        picture = np.where(disc[..., None], np.float32([0.9, 0.3, 0.1]), base) + grain
        frames.append((picture.clip(0, 1) * 255).astype(np.uint8))
        maps.append(np.where(disc, np.float32(0.8), 0.5 * y).astype(np.float32))
    focus = pd.DataFrame({"frame": range(count), "zf": 0.8, "k": 16.0})
    return frames, maps, focus


def render(made: AnyToBokeh, count: int, pairing: str) -> Iterator[np.ndarray]:
    frames, maps, focus = SCENE
    return made.render(frames[:count], maps[:count], focus[:count], pairing=pairing, output="network")


def recorded(made: AnyToBokeh, pairing: str, count: int = 16) -> tuple[list[Tensor], list[Tensor]]:
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
        for _ in render(made, count, pairing):
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
        "clip": lambda: [clip.embed(made.image_encoder, pictures[i : i + 4]) for i in (0, 4)],
        "vae encode (8 pictures, 8 blurs)": encode,
        "unet paired": lambda: made.unet(latents, context, k),
        "unet single, twice": lambda: [
            made.unet(latents[i : i + 1], context[8 * i : 8 * i + 8], k[:1]) for i in (0, 1)
        ],
        "vae decode (8)": lambda: made.vae.decode(latents[0, :, :4], one),
    }


def measured(made: AnyToBokeh, reference: dict[str, Any], count: int) -> dict[str, Any]:
    """fps (median of two), peak memory and errors for both pairings."""
    out: dict[str, Any] = {}
    for pairing in ("single", "paired"):
        begun = time.perf_counter()
        error = errors(recorded(made, pairing), reference[pairing])
        first = time.perf_counter() - begun
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(2):
            begun = time.perf_counter()
            shown = sum(1 for _ in render(made, count, pairing))
            times.append(time.perf_counter() - begun)
            assert shown == count
        peak = torch.cuda.max_memory_allocated() / 2**30
        reserved = torch.cuda.max_memory_reserved() / 2**30
        out[pairing] = {
            "fps": count / min(times),
            "peak_gib": peak,
            "reserved_gib": reserved,
            "error": error,
            "first_run_s": first,
        }
        print(pairing, out[pairing], flush=True)
    return out


def attention_backends(device: torch.device) -> dict[str, float]:
    """Milliseconds of the largest attention of a group with each kernel, and of the one over time."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    found = {}
    attend = nn.functional.scaled_dot_product_attention
    spatial = torch.randn(3, 8, 5, 9216, 64, device=device, dtype=torch.float16)
    rows = torch.randn(3, 9216, 5, 8, 64, device=device, dtype=torch.float16)
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        for which, qkv in (("spatial", spatial), ("time", rows)):
            if name == "MATH" and which == "spatial":
                continue
            try:
                with sdpa_kernel(getattr(SDPBackend, name)):
                    found[f"{which} {name}"] = 1000 * seconds(partial(attend, *qkv))
            except RuntimeError as error:
                print(which, name, str(error)[:200])
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


@torch.no_grad()
def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--frames", type=int, default=60)
    arguments.add_argument("--profile", action="store_true", help="list the costliest kernels of each stage")
    options = arguments.parse_args()
    device = torch.device("cuda")
    global SCENE
    SCENE = scene(options.frames)
    started = time.perf_counter()
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}

    def save(note: str) -> None:
        results["seconds"] = time.perf_counter() - started
        options.out.write_text(json.dumps(results, indent=1))
        print(f"[{results['seconds']:.0f} s] {note}", flush=True)

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    exact = model(device, torch.float32)
    reference = {pairing: recorded(exact, pairing) for pairing in ("single", "paired")}
    largest = max(float(t.abs().max()) for part in reference["single"] for t in part)
    results["largest_output"] = largest
    del exact
    torch.cuda.empty_cache()
    save("float32 reference")

    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    results["attention_ms"] = attention_backends(device)
    print(results["attention_ms"])
    made = model(device, torch.float16)
    results["weights_gib"] = torch.cuda.memory_allocated() / 2**30
    counted = {}
    for name, run in stages(made).items():
        with FlopCounterMode(display=False) as counter:
            run()
        counted[name] = counter.get_total_flops()
    results["flops"] = counted
    results["stages_eager_s"] = {name: seconds(run) for name, run in stages(made).items()}
    print({k: round(v, 4) for k, v in results["stages_eager_s"].items()})
    results["eager float16"] = measured(made, reference, options.frames)
    save("eager")

    made.compile()
    for name, run in stages(made).items():
        run()
        torch.cuda.synchronize()
        save(f"compiled {name}")
    results["stages_compiled_s"] = {name: seconds(run) for name, run in stages(made).items()}
    print({k: round(v, 4) for k, v in results["stages_compiled_s"].items()})
    results["compiled float16"] = measured(made, reference, options.frames)
    save("compiled")
    if options.profile:
        for name, run in stages(made).items():
            profile(run, name)
    made.record_graphs()
    results["compiled float16, CUDA graphs"] = measured(made, reference, options.frames)
    save("graphs")

    print(f"\n{results['device']}, torch {results['torch']}, 576x1024, {options.frames} frames")
    print(f"{'stage, 8 new frames':34} {'TFLOP':>7} {'eager ms':>9} {'compiled':>9} {'TFLOP/s':>8} {'of chip':>8}")
    for name, flops in counted.items():
        eager, compiled = results["stages_eager_s"][name], results["stages_compiled_s"][name]
        rate = flops / compiled
        print(
            f"{name:34} {flops / 1e12:7.1f} {eager * 1e3:9.1f} {compiled * 1e3:9.1f} {rate / 1e12:8.0f} "
            f"{rate / CEILING:8.0%}"
        )
    print(f"{'run':42} {'fps':>6} {'GiB':>6} {'reserved':>8} {'err latents':>12} {'err pixels':>11}")
    for name in ("eager float16", "compiled float16", "compiled float16, CUDA graphs"):
        for pairing, row in results[name].items():
            print(
                f"{name + ', ' + pairing:42} {row['fps']:6.2f} {row['peak_gib']:6.1f} {row['reserved_gib']:8.1f} "
                f"{row['error']['latents']:12.2e} {row['error']['pixels']:11.2e}"
            )


if __name__ == "__main__":
    main()
