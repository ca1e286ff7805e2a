"""Makes the pictures of docs/lens.md: one generated night scene, one option at a time.

python benchmarks/lens_pictures.py [--out docs/lens]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from lens_peers import mask_and_gaussian

from bokeh_assets.rendering.lens import Lens
from bokeh_assets.rendering.thin_lens.colour import linear_to_srgb, srgb_to_linear
from bokeh_assets.rendering.thin_lens.renderer import ThinLensRenderer
from bokeh_assets.rendering.thin_lens.truth import make_scene

OPTIONS = {
    "round": Lens(),
    "blades": Lens(blades=6),
    "rotation": Lens(blades=6, rotation=30),
    "anamorphic": Lens(anamorphic=1.9),
    "cat_eye": Lens(cat_eye=0.9),
    "chromatic": Lens(chromatic=0.08),
    "highlights": Lens(highlights=3.5),
}


def night() -> tuple[np.ndarray, np.ndarray]:
    """Lamps far away, uint8 (H, W, 3), and their disparity."""
    rng = np.random.default_rng(4)
    height, width = 270, 480
    frame = np.full((height, width, 3), (16, 18, 30), np.uint8)
    for _ in range(34):
        at = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        cv2.circle(frame, at, 3, tuple(int(v) for v in rng.choice([255, 225, 170], 3)), -1, cv2.LINE_AA)
    return frame, np.zeros((height, width), np.float32)


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/lens"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    frame, depth = night()
    for name, lens in OPTIONS.items():
        picture = ThinLensRenderer(lens, device="cpu").picture(frame, depth, None, 0.5, 60.0)
        cv2.imwrite(str(out / f"{name}.jpg"), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    # Sharp, the usual way, ours and the exact photograph, the near object out of focus.
    scene = make_scene("lamps", 2)
    frame, depth = scene.frame(), (scene.disparity() / 255).astype(np.float32)
    k = 48
    radius = k * frame.shape[1] / 1024
    usual = linear_to_srgb(mask_and_gaussian(srgb_to_linear(frame / 255), (depth - 0.1) * radius)) * 255
    ours = ThinLensRenderer(device="cpu").picture(frame, depth, None, 0.1, k)
    exact = linear_to_srgb(scene.photograph(0.1, radius)) * 255
    rows = [np.hstack([frame, usual.astype(np.uint8)]), np.hstack([ours, exact.astype(np.uint8)])]
    cv2.imwrite(str(out / "compare.jpg"), np.vstack(rows)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 86])


if __name__ == "__main__":
    main()
