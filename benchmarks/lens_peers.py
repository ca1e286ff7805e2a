"""The usual ways to blur by depth, written small: what the thin-lens renderer is measured against.

All take the linear light of the sharp picture (H, W, 3) and the signed circle of confusion in pixels (H, W;
positive in front of the focus plane) and return linear light.
"""

from __future__ import annotations

from dataclasses import fields

import cv2
import numpy as np
import torch
from numba import njit, prange

from bokeh_assets.rendering.thin_lens.accumulate import blur
from bokeh_assets.rendering.thin_lens.axis import axis_for
from bokeh_assets.rendering.thin_lens.colour import linear_to_srgb, srgb_to_linear
from bokeh_assets.rendering.thin_lens.scene import push_pull
from bokeh_assets.rendering.thin_lens.truth import Scene, Surface


def mask_and_gaussian(light: np.ndarray, coc: np.ndarray) -> np.ndarray:
    """What web and call tools do: one Gaussian of the sRGB picture, the part in focus pasted over it."""
    srgb = linear_to_srgb(light).astype(np.float32)
    blurred_part = np.abs(coc) > 1.5
    sigma = float(np.abs(coc)[blurred_part].mean()) / 2 if blurred_part.any() else 0.5
    mask = cv2.GaussianBlur((~blurred_part).astype(np.float32), (0, 0), 1.0)[..., None]
    return srgb_to_linear(srgb * mask + cv2.GaussianBlur(srgb, (0, 0), sigma) * (1 - mask))


@njit(parallel=True, fastmath=True, cache=True)
def _pixelwise(light, coc, mode):
    """mode 0: gather with the target's radius; 1: scatter; 2: scatter, farther sources clamped to the target."""
    height, width, _ = light.shape
    largest = 0.0
    for y in range(height):
        for x in range(width):
            largest = max(largest, abs(coc[y, x]))
    picture = np.zeros_like(light)
    for y in prange(height):
        for x in range(width):
            own = abs(coc[y, x])
            reach = int(np.ceil(own if mode == 0 else largest)) + 1
            red, green, blue, total = 0.0, 0.0, 0.0, 0.0
            for v in range(max(0, y - reach), min(height, y + reach + 1)):
                for u in range(max(0, x - reach), min(width, x + reach + 1)):
                    radius = own
                    if mode > 0:
                        radius = abs(coc[v, u])
                        if mode == 2 and coc[v, u] < coc[y, x]:
                            radius = min(radius, own)
                    distance = np.sqrt(np.float32((v - y) ** 2 + (u - x) ** 2))
                    weight = min(max(radius + 0.5 - distance, 0.0), 1.0)
                    if weight > 0:
                        weight /= max(np.pi * radius * radius, 1.0)
                        red += weight * light[v, u, 0]
                        green += weight * light[v, u, 1]
                        blue += weight * light[v, u, 2]
                        total += weight
            picture[y, x, 0] = red / max(total, 1e-9)
            picture[y, x, 1] = green / max(total, 1e-9)
            picture[y, x, 2] = blue / max(total, 1e-9)
    return picture


def gather(light: np.ndarray, coc: np.ndarray) -> np.ndarray:
    """Every pixel averages its own disc."""
    return _pixelwise(light, coc, 0)


def scatter(light: np.ndarray, coc: np.ndarray) -> np.ndarray:
    """Every pixel spreads over its disc, in no order, normalised (as BokehMe's classical renderer)."""
    return _pixelwise(light, coc, 1)


def scatter_clamped(light: np.ndarray, coc: np.ndarray) -> np.ndarray:
    """As `scatter`, but what is farther never spreads wider over a pixel than that pixel's own disc."""
    return _pixelwise(light, coc, 2)


def hard_layers(light: np.ndarray, coc: np.ndarray) -> np.ndarray:
    """One layer per pixel and radius, hidden parts filled by push-pull, laid over each other far to near."""
    places = np.rint(coc)
    picture = torch.from_numpy(np.ascontiguousarray(light.transpose(2, 0, 1)))
    result = torch.zeros(4, *coc.shape)
    for place in np.unique(places):
        here = torch.from_numpy((places == place).astype(np.float32))
        known = torch.from_numpy((places <= place).astype(np.float32))
        filled, _ = push_pull(torch.cat([picture * here, here[None]]), known, 8)
        layer = blur(filled, abs(float(place)))
        result = layer + result * (1 - layer[3:])
    return (result[:3] / result[3:].clamp_min(1e-6)).numpy().transpose(1, 2, 0)


def oracle(scene: Scene, zf: float, radius: float, beyond: bool = True) -> np.ndarray:
    """The bound: true surfaces with their hidden parts, each blurred alone and laid over the farther ones.

    It knows everything but which parts of two defocused surfaces are seen through the same part of the aperture.

    Args:
        beyond: it also knows what is outside the picture; otherwise surfaces go on there as their outermost pixels.
    """
    surfaces = scene.surfaces
    if not beyond:
        surfaces = tuple(Surface(*(getattr(s, f.name)[scene.inside] for f in fields(Surface))) for s in surfaces)
    result = torch.zeros(4, *surfaces[0].alpha.shape)
    for surface in surfaces:
        coc = torch.from_numpy(((surface.disparity - zf) * radius).astype(np.float32))
        axis = axis_for(float(coc.max()), float(coc.min()))
        place = axis.place(coc)
        content = np.dstack([surface.colour * surface.alpha[..., None], surface.alpha]).transpose(2, 0, 1)
        content = np.concatenate([content, np.ones_like(content[:1])])
        tensor = torch.from_numpy(np.ascontiguousarray(content))
        sheet = torch.zeros_like(tensor)
        for index, plane in enumerate(axis.planes):
            share = (1 - (place - index).abs()).clamp_min(0)
            if bool(share.any()):
                sheet += blur(tensor * share, abs(float(plane)))
        sheet = sheet[:4] / sheet[4:].clamp_min(1e-6)
        result = sheet + result * (1 - sheet[3:])
    light = (result[:3] / result[3:].clamp_min(1e-6)).numpy().transpose(1, 2, 0)
    return light[scene.inside] if beyond else light


PEERS = {
    "mask + Gaussian, sRGB": mask_and_gaussian,
    "gather": gather,
    "scatter": scatter,
    "scatter, leak clamp": scatter_clamped,
    "hard layers, push-pull": hard_layers,
}
