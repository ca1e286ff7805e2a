"""Scenes photographed exactly: what a renderer is measured against.

A scene is a pile of surfaces with coverage. For every point (u, v) of a round aperture a pinhole view is taken,
in which a surface point of disparity d has moved by K * (d - zf) * (u, v) pixels, the surfaces are laid over each
other, and all views are averaged in linear light. That is the thin lens itself, not a model of it; the only
error is the finite number of views.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit, prange

from bokeh_assets.rendering.thin_lens.colour import linear_to_srgb, srgb_to_linear

FINE = 4  # outlines are drawn this many times finer and averaged


@dataclass(frozen=True)
class Surface:
    """One sheet of a scene, drawn on a canvas larger than the picture by `Photo.margin` on every side.

    Attributes:
        colour: linear light, float32 (H, W, 3), not multiplied by coverage.
        alpha: coverage 0..1, float32 (H, W).
        disparity: 0..1, float32 (H, W), smooth.
    """

    colour: np.ndarray
    alpha: np.ndarray
    disparity: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Surfaces from far to near.

    Attributes:
        kind: what the scene tests.
        size: height and width of the picture.
        margin: pixels by which surfaces are larger than the picture on every side.
        surfaces: from far to near; the farthest is opaque.
        subject: index of the surface a subject matte describes.
    """

    kind: str
    size: tuple[int, int]
    margin: int
    surfaces: tuple[Surface, ...]
    subject: int

    @property
    def inside(self) -> tuple[slice, slice]:
        """The picture's part of the canvas."""
        return tuple(slice(self.margin, self.margin + n) for n in self.size)  # type: ignore[return-value]

    def centre_view(self) -> np.ndarray:
        """Linear light of the sharp picture, (H, W, 3)."""
        light = np.zeros((*self.size, 3), np.float32)
        for surface in self.surfaces:
            alpha = surface.alpha[self.inside][..., None]
            light = light * (1 - alpha) + surface.colour[self.inside] * alpha
        return light

    def frame(self) -> np.ndarray:
        """The sharp picture as a video has it: uint8 sRGB (H, W, 3), clipped."""
        return np.rint(linear_to_srgb(self.centre_view()) * 255).astype(np.uint8)

    def disparity(self) -> np.ndarray:
        """What a perfect 8-bit disparity map holds, uint8 (H, W): the nearest surface that covers half the pixel."""
        depth = np.zeros(self.size, np.float32)
        for surface in self.surfaces:
            depth = np.where(surface.alpha[self.inside] >= 0.5, surface.disparity[self.inside], depth)
        return np.rint(depth * 255).astype(np.uint8)

    def matte(self) -> np.ndarray:
        """Visible coverage of the subject, float32 (H, W)."""
        matte = self.surfaces[self.subject].alpha[self.inside].copy()
        for nearer in self.surfaces[self.subject + 1 :]:
            matte *= 1 - nearer.alpha[self.inside]
        return matte

    def photograph(self, zf: float, radius: float, views: int = 512, turn: float = 0.0) -> np.ndarray:
        """The exact picture, linear light float32 (H, W, 3).

        Args:
            zf: disparity of the focus plane.
            radius: pixels of blur per unit of disparity; at most `margin`.
            views: pinhole views to average.
            turn: rotates the pattern of views, in radians: two turns show the error of either.
        """
        index = np.arange(views)
        angle = index * (np.pi * (3 - np.sqrt(5))) + turn
        distance = np.sqrt((index + 0.5) / views)
        aperture = np.stack([distance * np.cos(angle), distance * np.sin(angle)], 1).astype(np.float32)
        sheets = np.stack([np.dstack([s.colour * s.alpha[..., None], s.alpha]) for s in self.surfaces[::-1]])
        depths = np.stack([s.disparity for s in self.surfaces[::-1]])
        flat = np.array([float(np.ptp(s.disparity)) == 0 for s in self.surfaces[::-1]])
        shifts = ((depths - zf) * radius).astype(np.float32)
        return _views(sheets.astype(np.float32), shifts, flat, aperture, self.margin, *self.size)


@njit(parallel=True, fastmath=True, cache=True)
def _views(sheets, shifts, flat, aperture, margin, height, width):
    count, canvas_height, canvas_width, _ = sheets.shape
    picture = np.zeros((height, width, 3), np.float32)
    for y in prange(height):
        for x in range(width):
            red, green, blue = 0.0, 0.0, 0.0
            for view in range(aperture.shape[0]):
                u, v = aperture[view]
                through = 1.0
                for sheet in range(count):
                    # The point p seen here is where p + shift(p) * (u, v) lands on this pixel.
                    px, py = np.float32(x + margin), np.float32(y + margin)
                    for _ in range(1 if flat[sheet] else 8):
                        column = min(max(px, 0.0), canvas_width - 1.001)
                        row = min(max(py, 0.0), canvas_height - 1.001)
                        i, j = int(row), int(column)
                        a, b = row - i, column - j
                        shift = (shifts[sheet, i, j] * (1 - b) + shifts[sheet, i, j + 1] * b) * (1 - a) + (
                            shifts[sheet, i + 1, j] * (1 - b) + shifts[sheet, i + 1, j + 1] * b
                        ) * a
                        px = x + margin - shift * u
                        py = y + margin - shift * v
                    column = min(max(px, 0.0), canvas_width - 1.001)
                    row = min(max(py, 0.0), canvas_height - 1.001)
                    i, j = int(row), int(column)
                    a, b = row - i, column - j
                    w00, w01, w10, w11 = (1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b
                    s = sheets[sheet]
                    alpha = s[i, j, 3] * w00 + s[i, j + 1, 3] * w01 + s[i + 1, j, 3] * w10 + s[i + 1, j + 1, 3] * w11
                    if alpha > 0:
                        red += through * (
                            s[i, j, 0] * w00 + s[i, j + 1, 0] * w01 + s[i + 1, j, 0] * w10 + s[i + 1, j + 1, 0] * w11
                        )
                        green += through * (
                            s[i, j, 1] * w00 + s[i, j + 1, 1] * w01 + s[i + 1, j, 1] * w10 + s[i + 1, j + 1, 1] * w11
                        )
                        blue += through * (
                            s[i, j, 2] * w00 + s[i, j + 1, 2] * w01 + s[i + 1, j, 2] * w10 + s[i + 1, j + 1, 2] * w11
                        )
                        through *= 1 - alpha
                        if through < 1e-4:
                            break
            picture[y, x, 0] = red / aperture.shape[0]
            picture[y, x, 1] = green / aperture.shape[0]
            picture[y, x, 2] = blue / aperture.shape[0]
    return picture


def texture(rng: np.random.Generator, size: tuple[int, int], contrast: float = 0.5) -> np.ndarray:
    """Cloth-like colour with detail at every scale, linear light (H, W, 3)."""
    value = np.zeros((*size, 3), np.float32)
    for sigma, weight in ((1.0, 0.5), (3.0, 0.8), (9.0, 1.0), (30.0, 1.2)):
        noise = cv2.GaussianBlur(rng.standard_normal((*size, 3)).astype(np.float32), (0, 0), sigma)
        grey = noise.mean(axis=2, keepdims=True)
        value += weight * (0.6 * grey / grey.std() + 0.4 * noise / noise.std())
    base = rng.uniform(0.25, 0.75, 3)
    return srgb_to_linear(np.clip(base + contrast * 0.16 * value, 0.02, 0.98)).astype(np.float32)


def cut_out(rng: np.random.Generator, size: tuple[int, int], at: tuple[float, float], radius: float) -> np.ndarray:
    """Coverage of a wavy blob with hair-like strands, (H, W)."""
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    wave = 1 + sum(rng.uniform(0.02, 0.14) * np.cos(n * angle + rng.uniform(0, 6.3)) for n in range(2, 7))
    outline = np.stack([at[0] + radius * wave * np.cos(angle), at[1] + radius * wave * np.sin(angle)], 1)
    fine = np.zeros((size[0] * FINE, size[1] * FINE), np.uint8)
    cv2.fillPoly(fine, [np.rint(outline * FINE).astype(np.int32)], 255)
    for start in rng.choice(200, 24):
        heading = angle[start] + rng.uniform(-0.6, 0.6)
        bend = rng.uniform(-0.05, 0.05)
        steps = heading + bend * np.arange(12)
        path = outline[start] + np.cumsum(np.stack([np.cos(steps), np.sin(steps)], 1) * radius * 0.05, axis=0)
        cv2.polylines(fine, [np.rint(path * FINE).astype(np.int32)], False, 255, int(rng.integers(4, 8)))
    return cv2.resize(fine, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def wires(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Coverage of a few thin lines across the picture, (H, W)."""
    fine = np.zeros((size[0] * FINE, size[1] * FINE), np.uint8)
    for _ in range(5):
        x0, x1 = rng.uniform(0, fine.shape[1], 2).astype(int)
        cv2.line(fine, (int(x0), 0), (int(x1), fine.shape[0]), 255, int(rng.integers(5, 13)))
    return cv2.resize(fine, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


KINDS = ("layers", "lamps", "wires", "ground", "slanted", "smooth")


def make_scene(kind: str, seed: int, size: tuple[int, int] = (256, 448), margin: int = 32) -> Scene:
    """One of the suite's scenes.

    Args:
        kind: "layers" three sheets with hair-like strands; "lamps" the same with small lights at white in the far
            sheet; "wires" thin lines before two sheets; "ground" a receding floor with two cut-outs standing on
            it; "slanted" cut-outs whose disparity varies inside; "smooth" one continuous surface without edges.
        seed: draws everything.
    """
    rng = np.random.default_rng(seed * 100 + KINDS.index(kind))
    height, width = canvas = (size[0] + 2 * margin, size[1] + 2 * margin)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)

    def sheet(depth: float | np.ndarray, alpha: np.ndarray | None = None) -> Surface:
        disparity = np.broadcast_to(np.float32(depth), canvas).astype(np.float32)
        return Surface(texture(rng, canvas), np.ones(canvas, np.float32) if alpha is None else alpha, disparity)

    def blob(share: float) -> np.ndarray:
        at = (rng.uniform(0.25, 0.75) * width, rng.uniform(0.35, 0.7) * height)
        return cut_out(rng, canvas, at, share * size[0])

    far, middle, near = rng.uniform(0.04, 0.14), rng.uniform(0.42, 0.55), rng.uniform(0.85, 0.95)
    if kind == "smooth":
        relief = cv2.GaussianBlur(rng.standard_normal(canvas).astype(np.float32), (0, 0), 40)
        relief = 0.5 + 0.16 * relief / np.abs(relief).max() + 0.5 * (rows / height - 0.5)
        return Scene(kind, size, margin, (sheet(np.clip(relief, 0.02, 0.98)),), 0)
    if kind == "ground":
        ground = 0.08 + 0.85 * np.clip((rows - 0.35 * height) / (0.65 * height), 0, None)
        ground = cv2.GaussianBlur(np.clip(ground, 0, 1), (0, 0), 4)
        return Scene(kind, size, margin, (sheet(ground), sheet(0.45, blob(0.18)), sheet(near, blob(0.2))), 1)
    tilt = np.zeros(canvas, np.float32)
    if kind == "slanted":
        tilt = (rng.uniform(-0.2, 0.2) * (columns / width - 0.5) + 0.16 * (rows / height - 0.5)).astype(np.float32)
    surfaces = [sheet(far - tilt.min() * 0.3 + 0.3 * tilt), sheet(middle + tilt, blob(0.3))]
    surfaces.append(sheet(near - np.abs(tilt), wires(rng, canvas) if kind == "wires" else blob(0.24)))
    if kind == "lamps":
        lights = np.zeros(canvas, np.uint8)
        for _ in range(14):
            cv2.circle(
                lights, (int(rng.integers(0, width)), int(rng.integers(0, height))), int(rng.integers(1, 4)), 255, -1
            )
        glow = cv2.GaussianBlur(lights.astype(np.float32) / 255, (0, 0), 0.7)[..., None]
        surfaces[0] = Surface(surfaces[0].colour * (1 - glow) + glow, surfaces[0].alpha, surfaces[0].disparity)
    return Scene(kind, size, margin, tuple(surfaces), 1)
