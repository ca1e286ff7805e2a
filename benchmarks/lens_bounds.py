"""What holds the thin-lens renderer back: one estimate at a time replaced by the truth.

    python benchmarks/lens_bounds.py [--scenes 5] [--first 0] [--cache DIR]

The scenes of `lens_truth.py` with edges of depth. Of the two surfaces per pixel that the renderer estimates, some
pixels are given their true colours, coverage and place; then planes are blurred and stacked as always. Figures are
the mean sRGB PSNR in dB before dither.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import torch
from lens_peers import oracle
from lens_truth import FOCUS, STRENGTHS, photograph, psnr

from bokeh_assets.rendering.base import radius_per_disparity
from bokeh_assets.rendering.thin_lens import truth
from bokeh_assets.rendering.thin_lens.axis import Axis, axis_for
from bokeh_assets.rendering.thin_lens.colour import decode, linear_to_srgb
from bokeh_assets.rendering.thin_lens.planes_cpu import photograph_cpu
from bokeh_assets.rendering.thin_lens.scene import STEP, Scene, split

SEEN = 0.02  # coverage from which a true surface is the front one


def true_scene(scene: truth.Scene, axis: Axis, zf: float, radius: float, beyond: bool = False) -> Scene:
    """The true surfaces as the renderer would hold them: the nearest at every pixel, and what is behind it.

    Args:
        beyond: with what is outside the picture, on the larger canvas.
    """
    where = (slice(None), slice(None)) if beyond else scene.inside
    far = scene.surfaces[0]
    colour, depth = far.colour[where].copy(), far.disparity[where].copy()
    front, front_depth, alpha = colour.copy(), depth.copy(), np.ones_like(depth)
    back, back_depth, weight = colour.copy(), depth.copy(), np.zeros_like(depth)
    for surface in scene.surfaces[1:]:
        cover, own, place = surface.alpha[where], surface.colour[where], surface.disparity[where]
        seen = cover > SEEN
        back[seen], back_depth[seen], weight[seen] = colour[seen], depth[seen], 1
        front[seen], front_depth[seen], alpha[seen] = own[seen], place[seen], cover[seen]
        colour = colour * (1 - cover[..., None]) + own * cover[..., None]
        depth = np.where(cover >= 0.5, place, depth)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    def placed(disparity: np.ndarray) -> torch.Tensor:
        return axis.place(tensor((disparity - zf) * radius))

    near, behind = placed(front_depth), placed(back_depth)
    return Scene(
        tensor(front.transpose(2, 0, 1)),
        tensor(alpha),
        near,
        tensor(back.transpose(2, 0, 1)),
        tensor(weight),
        torch.minimum(behind, near - 2).clamp_min(0),
    )


def mixed(ours: Scene, true: Scene, where: torch.Tensor) -> Scene:
    """Ours with the truth where `where` holds, bool (H, W)."""
    return Scene(*(torch.where(where, getattr(true, f.name), getattr(ours, f.name)) for f in fields(Scene)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    figures: dict[str, list[float]] = defaultdict(list)
    for number in range(options.first, options.first + options.scenes):
        kind, seed = truth.KINDS[number % len(truth.KINDS)], number // len(truth.KINDS)
        if kind == "smooth":
            continue
        k = STRENGTHS[(seed + number) % len(STRENGTHS)]
        scene = truth.make_scene(kind, seed)
        light, matte = decode(torch.from_numpy(scene.frame())), torch.from_numpy(scene.matte())
        depth = torch.from_numpy(scene.disparity().astype(np.float32) / np.float32(255))
        radius, m = radius_per_disparity(k, depth.shape[1]), scene.margin
        for focus, zf in FOCUS.items():
            exact = linear_to_srgb(photograph(scene, f"{kind}_{seed}_{k}_{focus}", zf, radius, 512, options.cache))

            def note(name: str, picture: torch.Tensor, exact: np.ndarray = exact) -> None:
                value = linear_to_srgb(picture.numpy().transpose(1, 2, 0))
                figures[name].append(psnr(np.rint(value * 255) / 255, exact))

            axis = axis_for(radius * (1 - zf), -radius * zf)
            place, reach = axis.place((depth - zf) * radius), radius * max(zf, 1 - zf)
            ours, true = split(light, place, reach), true_scene(scene, axis, zf, radius)
            whole = true_scene(scene, axis, zf, radius, beyond=True)
            low, high = (f(place.numpy(), np.ones((3, 3))) for f in (cv2.erode, cv2.dilate))
            edge = torch.from_numpy(high - low > STEP)
            wide = torch.from_numpy(cv2.dilate(edge.numpy().astype(np.uint8), np.ones((3, 3))) > 0)
            framed = Scene(*(getattr(whole, f.name).clone() for f in fields(Scene)))
            for f in fields(Scene):
                getattr(framed, f.name)[..., m:-m, m:-m] = getattr(ours, f.name)
            note("ours", photograph_cpu(ours, axis))
            note("+ the subject's true matte", photograph_cpu(split(light, place, reach, matte), axis))
            note("+ truth hidden deeper than 2 pixels from an edge", photograph_cpu(mixed(ours, true, ~wide), axis))
            note("+ truth outside the picture", photograph_cpu(framed, axis)[:, m:-m, m:-m])
            note("+ truth at edges (1 pixel)", photograph_cpu(mixed(ours, true, edge), axis))
            note("+ truth at edges (2 pixels)", photograph_cpu(mixed(ours, true, wide), axis))
            note("all true, inside the picture", photograph_cpu(true, axis))
            note("all true, outside too", photograph_cpu(whole, axis)[:, m:-m, m:-m])
            for name, beyond in (("oracle inside the picture", False), ("oracle", True)):
                bound = np.ascontiguousarray(oracle(scene, zf, radius, beyond).transpose(2, 0, 1))
                note(name, torch.from_numpy(bound))
    for name, values in figures.items():
        print(f"| {name} | {np.mean(values):.1f} | {min(values):.1f} |")


if __name__ == "__main__":
    main()
