"""The thin-lens renderer and its peers against exact photographs.

    python benchmarks/lens_truth.py [--scenes 24] [--views 512] [--cache DIR] [--out FILE] [--only ours] [--first 24]

24 scenes (six kinds, four seeds, k = 12, 24, 36, 48), each focused near, in the middle and far. Every method gets
the 8-bit centre view and the 8-bit disparity, nothing else ("+ matte": the subject's true matte as well). Figures
are sRGB PSNR (dB) and SSIM of the 8-bit result against the photograph.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from lens_peers import PEERS, oracle

from bokeh_assets.rendering.base import radius_per_disparity
from bokeh_assets.rendering.thin_lens.colour import linear_to_srgb, srgb_to_linear
from bokeh_assets.rendering.thin_lens.renderer import ThinLensRenderer
from bokeh_assets.rendering.thin_lens.truth import KINDS, Scene, make_scene

FOCUS = {"near": 0.9, "middle": 0.5, "far": 0.1}
STRENGTHS = (12, 24, 36, 48)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of two pictures 0..1, in dB."""
    return float(-10 * np.log10(np.mean((a - b) ** 2) + 1e-12))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004: Gaussian window of sigma 1.5, mean over channels."""

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, (11, 11), 1.5)

    a, b = a.astype(np.float64), b.astype(np.float64)
    ma, mb = mean(a), mean(b)
    va, vb, both = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    return float(np.mean((2 * ma * mb + 1e-4) * (2 * both + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))))


def photograph(scene: Scene, name: str, zf: float, radius: float, views: int, cache: Path | None) -> np.ndarray:
    """The exact picture, from the cache where it is there."""
    file = cache / f"{name}_{views}.npy" if cache else None
    if file and file.exists():
        return np.load(file)
    light = scene.photograph(zf, radius, views)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, light)
    return light


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first scene; from 24 on others than the table's"
    )
    parser.add_argument("--views", type=int, default=512)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="only methods whose name contains this")
    options = parser.parse_args()
    renderer = ThinLensRenderer(device="cpu")
    figures: dict[str, list[tuple[str, str, float, float]]] = defaultdict(list)
    doubt = []
    for number in range(options.first, options.first + options.scenes):
        kind, seed = KINDS[number % len(KINDS)], number // len(KINDS)
        k = STRENGTHS[(seed + number) % len(STRENGTHS)]
        scene = make_scene(kind, seed)
        frame, depth = scene.frame(), scene.disparity().astype(np.float32) / np.float32(255)
        light = srgb_to_linear(frame / 255).astype(np.float32)
        radius = radius_per_disparity(k, frame.shape[1])
        for focus, zf in FOCUS.items():
            exact = photograph(scene, f"{kind}_{seed}_{k}_{focus}", zf, radius, options.views, options.cache)
            truth = linear_to_srgb(exact)
            coc = ((depth - zf) * radius).astype(np.float32)
            methods: dict[str, Callable[[], np.ndarray]] = {
                name: partial(peer, light, coc) for name, peer in PEERS.items()
            }
            methods["oracle"] = partial(oracle, scene, zf, radius)
            methods["oracle within the picture"] = partial(oracle, scene, zf, radius, beyond=False)
            methods["ours"] = partial(renderer.picture, frame, depth, None, zf, k)
            methods["ours + matte"] = partial(renderer.picture, frame, depth, scene.matte(), zf, k)
            for name, method in methods.items():
                if options.only not in name:
                    continue
                result = method()
                value = result / 255 if result.dtype == np.uint8 else np.rint(linear_to_srgb(result) * 255) / 255
                figures[name].append((kind, focus, psnr(value, truth), ssim(value, truth)))
            if number < len(KINDS) and focus == "middle" and not options.only:
                other = scene.photograph(zf, radius, options.views, turn=1.0)
                doubt.append(psnr(linear_to_srgb(other), truth))
    for name, rows in figures.items():
        kinds = {kind: np.mean([r[2] for r in rows if r[0] == kind]) for kind in KINDS}
        focuses = {f: np.mean([r[2] for r in rows if r[1] == f]) for f in FOCUS}
        values = [r[2] for r in rows]
        print(
            f"| {name:24s} | {np.mean(values):.1f} | {min(values):.1f} | {np.mean([r[3] for r in rows]):.4f} | "
            + " | ".join(f"{v:.1f}" for v in (*focuses.values(), *kinds.values()))
            + " |"
        )
    if doubt:
        print(f"truth against itself with the views turned: at least {min(doubt):.1f} dB")
    if options.out:
        options.out.write_text(json.dumps({"figures": figures, "truth_db": doubt}, indent=1))


if __name__ == "__main__":
    main()
