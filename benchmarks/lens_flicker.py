"""Flicker of a static scene whose disparity trembles by +-2 %, without and with filtering over time.

    python benchmarks/lens_flicker.py

Flicker is the mean over pixels of the standard deviation over 12 frames, in steps of 255, and its 99th percentile.
"""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd

from bokeh_assets.rendering.thin_lens.renderer import ThinLensRenderer
from bokeh_assets.rendering.thin_lens.truth import make_scene

FRAMES = 12


def main() -> None:
    """Measure and print."""
    scene = make_scene("ground", 0)
    frame, depth = scene.frame(), scene.disparity() / np.float32(255)
    rng = np.random.default_rng(0)
    focus = pd.DataFrame({"frame": range(FRAMES), "zf": 0.5, "k": 48.0})
    for kind, sigma in (("independent pixels", 0.0), ("patches of 20 pixels", 20.0)):
        noises = [rng.standard_normal(depth.shape) for _ in range(FRAMES)]
        if sigma:
            noises = [cv2.GaussianBlur(n, (0, 0), sigma / 2) for n in noises]
        trembling = [np.clip(depth + 0.02 * n / n.std(), 0, 1).astype(np.float32) for n in noises]
        for reach in (0, 2, 4):
            renderer = ThinLensRenderer(device="cpu", steady=reach)
            clip = np.stack(list(renderer.render([frame] * FRAMES, trembling, None, focus))).astype(np.float32)
            spread = clip.std(axis=0)
            print(f"| {kind} | {reach} | {spread.mean():.2f} | {np.percentile(spread, 99):.1f} |")


if __name__ == "__main__":
    main()
