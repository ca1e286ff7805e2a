"""The drawn scene of the sample clip: an evening walk past lamps, all in focus, ready to be blurred.

World: x right, y up, z away, in metres; the camera stands at height 1.3 and glides sideways a little. Everything is
drawn at twice the size and averaged down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_CAMERA_HEIGHT = 1.3
_SUBJECT_Z = 4.6
_LAMPS = [(side * 3.4, 3.2, z) for z in (7.5, 11.5, 17.0, 25.0, 36.0) for side in (-1, 1)]
_WARM = (255, 196, 112)
_BULBS = ((255, 88, 70), (255, 202, 96), (96, 214, 128), (92, 168, 255), (255, 120, 210))

Point = tuple[float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Light:
    x: float
    y: float
    z: float
    radius: float
    colour: Colour


class EveningWalk:
    """The scene at a size. `frame(t)` draws it at a moment from 0 (begin) to 1 (end of the walk)."""

    def __init__(self, width: int, height: int, *, seed: int = 4) -> None:
        self._out = (width, height)
        self._w, self._h = 2 * width, 2 * height
        self._f = 0.98 * self._w
        self._horizon = round(0.44 * self._h)
        self._random = np.random.default_rng(seed)
        self._sky = self._draw_sky()
        self._paving = self._draw_paving()
        rows = np.arange(self._horizon, self._h, dtype=np.float32) - self._horizon + 0.75
        self._z = np.repeat((self._f * _CAMERA_HEIGHT / rows)[:, None], self._w, axis=1)
        columns = np.arange(self._w, dtype=np.float32) - self._w / 2
        self._x = columns[None, :] * self._z / self._f
        self._lights = [*self._lamp_lights(), *self._festoon(), *self._tree_lights()]
        self._trees = self._tree_leaves()

    def frame(self, t: float, step: float = 0.0) -> NDArray[np.uint8]:
        """uint8 RGB (height, width, 3). `step` is the phase of the walk, one per pace."""
        camera = 0.42 * (t - 0.5)
        canvas = np.empty((self._h, self._w, 3), dtype=np.uint8)
        canvas[: self._horizon] = self._shifted_sky(camera)
        canvas[self._horizon :] = self._ground(camera)
        self._draw_trees(canvas, camera)
        self._draw_posts(canvas, camera)
        self._glow(canvas, camera, t)
        self._draw_subject(canvas, camera, t, step)
        return np.asarray(cv2.resize(canvas, self._out, interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def matte(self, t: float, step: float = 0.0) -> NDArray[np.uint8]:
        """uint8 (height, width): the walker's own opacity in that frame, 255 is opaque."""
        canvas = np.zeros((self._h, self._w, 3), dtype=np.uint8)
        person, alpha, left, top = self._walker(0.42 * (t - 0.5), t, step)
        _lay(canvas, np.full_like(person, 255), alpha, left, top)
        return np.asarray(cv2.resize(canvas, self._out, interpolation=cv2.INTER_AREA)[..., 0], dtype=np.uint8)

    # --- the far world

    def _draw_sky(self) -> NDArray[np.uint8]:
        height, width = self._horizon, round(1.2 * self._w)
        down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        stops = np.array([0.0, 0.45, 0.8, 1.0])
        colours = np.array([[22, 30, 66], [62, 62, 112], [176, 104, 112], [244, 158, 96]], dtype=np.float32)
        sky = np.stack([np.interp(down[..., 0], stops, colours[:, c]) for c in range(3)], axis=-1)
        sky = np.repeat(sky, width, axis=1)
        clouds = np.zeros((height, width), np.float32)
        for octave in (1, 2, 4, 8):
            grain = self._random.standard_normal((2 + 3 * octave, 2 + 4 * octave)).astype(np.float32)
            clouds += cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC) / octave
        clouds = np.clip(clouds, 0, 2)[..., None] * np.float32(0.5) * (0.35 + down)
        sky += clouds * np.array([46, 30, 34], dtype=np.float32)
        picture = np.clip(sky, 0, 255).astype(np.uint8)
        unit = self._h / 720
        left = 0
        while left < width:
            wide = int(self._random.integers(28, 92) * unit)
            high = int(self._random.integers(36, 150) * unit)
            shade = int(self._random.integers(0, 18))
            tone = (34 + shade, 32 + shade, 54 + shade)
            cv2.rectangle(picture, (left, height - high), (left + wide, height), tone, -1)
            pitch = max(3, int(11 * unit))
            for y in range(height - high + pitch // 2, height - pitch, pitch):
                for x in range(left + pitch // 2, left + wide - pitch // 2, pitch):
                    if self._random.random() < 0.34:
                        light = (255, 214, 140) if self._random.random() < 0.8 else (178, 214, 255)
                        dim = 0.45 + 0.55 * self._random.random()
                        window = tuple(int(dim * c) for c in light)
                        cv2.rectangle(picture, (x, y), (x + pitch // 3, y + pitch // 2), window, -1)
            left += wide + int(self._random.integers(0, 6) * unit)
        return picture

    def _shifted_sky(self, camera: float) -> NDArray[np.uint8]:
        left = 0.1 * self._w + camera * self._f / 60
        shift = np.array([[1, 0, left], [0, 1, 0]], dtype=np.float32)
        size = (self._w, self._horizon)
        return np.asarray(cv2.warpAffine(self._sky, shift, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))

    def _draw_paving(self) -> NDArray[np.uint8]:
        """A square of 4 x 4 m of setts, 1024 pixels, that tiles."""
        side, rows, columns = 1024, 16, 8
        base = self._random.standard_normal((side, side)).astype(np.float32)
        grain: Any = cv2.GaussianBlur(base, (0, 0), 1.6, borderType=cv2.BORDER_REFLECT) * 26
        tile = np.empty((side, side, 3), np.float32)
        high, wide = side // rows, side // columns
        gap = np.zeros((side, side), np.float32)
        for row in range(rows):
            for column in range(columns):
                tone = 74 + 15 * self._random.standard_normal()
                warm = 4 * self._random.standard_normal()
                top, left = row * high, column * wide + (row % 2) * wide // 2
                block = np.arange(left, left + wide) % side
                tile[top : top + high, block] = (tone + 6 + warm, tone + warm / 2, tone + 10)
                gap[top : top + 5, block] = 1
                gap[top : top + high, block[:5]] = 1
        tile += grain[..., None]
        tile *= 1 - 0.55 * cv2.GaussianBlur(gap, (0, 0), 1.5)[..., None]
        return np.clip(tile, 0, 255).astype(np.uint8)

    def _ground(self, camera: float) -> NDArray[np.uint8]:
        scale = np.float32(1024 / 4)
        u = np.mod((self._x + camera) * scale, 1024).astype(np.float32)
        v = np.mod(self._z * scale, 1024).astype(np.float32)
        paving = cv2.remap(self._paving, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        far = np.clip((self._z[:, :1] - 5) / 22, 0, 1)[..., None]
        haze = np.array([150, 104, 96], dtype=np.float32)
        shine = np.float32(0.22) + np.float32(0.3) * far
        ground = paving * (1 - np.float32(0.8) * far) * (1 - shine) + haze * (shine * (0.6 + 0.4 * far))
        picture = np.clip(ground, 0, 255).astype(np.uint8)
        picture[: max(1, self._h // 240)] = (70, 58, 70)
        return picture

    # --- things that stand about

    def _tree_leaves(self) -> list[tuple[float, float, float, float, Colour]]:
        leaves = []
        for x, z in ((-6.4, 21.0), (6.6, 19.0), (-5.2, 13.5), (5.5, 12.0), (-4.9, 8.6), (5.0, 8.2)):
            for _ in range(70):
                angle, out = self._random.uniform(0, 2 * np.pi), np.sqrt(self._random.random())
                tone = int(self._random.integers(0, 26))
                place = (x + 1.5 * out * np.cos(angle), 3.5 + 1.25 * out * np.sin(angle), z)
                leaves.append((*place, self._random.uniform(0.16, 0.42), (16 + tone, 34 + tone, 34 + tone // 2)))
        return leaves

    def _tree_lights(self) -> list[_Light]:
        lights = []
        for x, z in ((-5.2, 13.5), (5.5, 12.0), (-4.9, 8.6), (5.0, 8.2)):
            for _ in range(20):
                angle, out = self._random.uniform(0, 2 * np.pi), np.sqrt(self._random.random())
                colour = _WARM if self._random.random() < 0.6 else _BULBS[int(self._random.integers(len(_BULBS)))]
                lights.append(_Light(x + 1.4 * out * np.cos(angle), 3.4 + 1.1 * out * np.sin(angle), z, 0.045, colour))
        return lights

    def _lamp_lights(self) -> list[_Light]:
        return [_Light(x, y, z, 0.15, _WARM) for x, y, z in _LAMPS]

    def _festoon(self) -> list[_Light]:
        """Strings of coloured bulbs hung across between opposite lamps."""
        lights = []
        for number, z in enumerate((9.5, 14.0, 21.0)):
            for i in range(15):
                s = i / 14
                colour = _BULBS[(i + number) % len(_BULBS)]
                lights.append(_Light(-3.4 + 6.8 * s, 3.5 - 2.2 * s * (1 - s), z, 0.075, colour))
        return lights

    def _project(self, x: float, y: float, z: float, camera: float) -> Point:
        return self._w / 2 + self._f * (x - camera) / z, self._horizon + self._f * (_CAMERA_HEIGHT - y) / z

    def _draw_trees(self, canvas: NDArray[np.uint8], camera: float) -> None:
        for x, z in ((-5.2, 13.5), (5.5, 12.0), (-4.9, 8.6), (5.0, 8.2)):
            foot, top = self._project(x, 0, z, camera), self._project(x, 3, z, camera)
            cv2.line(canvas, _pixel(foot), _pixel(top), (26, 22, 26), max(1, round(0.2 * self._f / z)), cv2.LINE_AA)
        for x, y, z, radius, colour in self._trees:
            centre = _pixel(self._project(x, y, z, camera))
            cv2.circle(canvas, centre, max(1, round(radius * self._f / z)), colour, -1, cv2.LINE_AA)

    def _draw_posts(self, canvas: NDArray[np.uint8], camera: float) -> None:
        for x, y, z in reversed(_LAMPS):
            foot, top = self._project(x, 0, z, camera), self._project(x, y - 0.1, z, camera)
            thick = max(1, round(0.09 * self._f / z))
            cv2.line(canvas, _pixel(foot), _pixel(top), (24, 26, 34), thick, cv2.LINE_AA)
            base = self._project(x, 0.35, z, camera)
            cv2.line(canvas, _pixel(foot), _pixel(base), (24, 26, 34), 2 * thick, cv2.LINE_AA)
        for z in (9.5, 14.0, 21.0):
            wire = [self._project(-3.4 + 6.8 * s, 3.58 - 2.2 * s * (1 - s), z, camera) for s in np.linspace(0, 1, 25)]
            cv2.polylines(canvas, [np.array(wire).round().astype(np.int32)], False, (30, 28, 36), 1, cv2.LINE_AA)

    def _glow(self, canvas: NDArray[np.uint8], camera: float, t: float) -> None:
        """Add the lights with their halo and their streak on the wet ground, then the lights themselves, clipped."""
        quarter = np.zeros((self._h // 4, self._w // 4, 3), np.float32)
        for number, light in enumerate(self._lights):
            x, y = self._project(light.x, light.y, light.z, camera)
            size = light.radius * self._f / light.z
            colour = np.array(light.colour, dtype=np.float32)
            twinkle = 1 + 0.12 * np.sin(7 * t + 2.4 * number)
            _add_blob(quarter, x / 4, y / 4, 1.6 * size / 4 + 1.2, 1.6 * size / 4 + 1.2, colour * 0.5 * twinkle)
            mirror = 2 * self._project(light.x, 0, light.z, camera)[1] - y
            foot = self._project(light.x, 0, light.z, camera)[1]
            if light.radius > 0.06:
                middle = (foot + min(mirror, self._h)) / 2
                reach = max(4.0, (min(mirror, self._h) - foot) / 2.2)
                _add_blob(quarter, x / 4, middle / 4, size / 4 + 1, reach / 4, colour * 0.2 * twinkle)
        halo = cv2.resize(quarter, (self._w, self._h), interpolation=cv2.INTER_LINEAR)
        canvas[:] = cv2.add(canvas, np.clip(halo, 0, 255).astype(np.uint8))
        for light in self._lights:
            centre = _pixel(self._project(light.x, light.y, light.z, camera))
            radius = max(2, round(light.radius * self._f / light.z))
            core: Colour = tuple(min(255, c + 70) for c in light.colour)  # type: ignore[assignment]
            cv2.circle(canvas, centre, radius, light.colour, -1, cv2.LINE_AA)
            cv2.circle(canvas, centre, max(1, round(0.7 * radius)), core, -1, cv2.LINE_AA)

    # --- the subject

    def _draw_subject(self, canvas: NDArray[np.uint8], camera: float, t: float, step: float) -> None:
        centre, feet = self._feet(camera, t)
        unit = self._f / _SUBJECT_Z
        person, alpha, left, top = self._walker(camera, t, step)
        shadow = canvas[round(feet - 0.1 * unit) : round(feet + 0.12 * unit)]
        spot = np.zeros(shadow.shape[:2], np.float32)
        middle = (round(centre), round(0.1 * unit))
        cv2.ellipse(spot, middle, (round(0.42 * unit), round(0.06 * unit)), 0, 0, 360, 1.0, -1, cv2.LINE_AA)
        soft: Any = cv2.GaussianBlur(spot, (0, 0), 0.03 * unit)
        shadow[:] = (shadow * (1 - 0.6 * soft[..., None])).astype(np.uint8)
        mirrored, through = person[::-1], alpha[::-1] * np.linspace(0.3, 0, len(alpha), dtype=np.float32)[:, None]
        _lay(canvas, mirrored, through, left, round(feet))
        _lay(canvas, person, alpha, left, top)

    def _feet(self, camera: float, t: float) -> Point:
        return self._project(-0.75 + 1.35 * t, 0, _SUBJECT_Z, camera)

    def _walker(self, camera: float, t: float, step: float) -> tuple[NDArray[np.uint8], NDArray[np.float32], int, int]:
        """Picture, opacity, and where their top left corner lies."""
        centre, feet = self._feet(camera, t)
        unit = self._f / _SUBJECT_Z
        bob = 0.018 * abs(np.sin(np.pi * step)) * unit
        width, height = round(1.5 * unit), round(2.25 * unit)
        person, alpha = Walker(width, height, unit).draw(step)
        return person, alpha, round(centre - width / 2), round(feet - height - bob)


class Walker:
    """Somebody in a yellow raincoat under a red umbrella, walking to the right. Units are metres above the feet."""

    def __init__(self, width: int, height: int, unit: float) -> None:
        self._size, self._unit = (width, height), unit

    def draw(self, step: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(uint8 RGB picture, float32 opacity 0..1) at a phase of the pace."""
        width, height = self._size
        picture, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        swing = 0.2 * np.sin(np.pi * step)
        sway = 0.012 * np.sin(np.pi * step)

        def place(x: float, y: float) -> tuple[int, int]:
            return round(width / 2 + (x + sway * y) * self._unit), round(height - 1 - y * self._unit)

        def polygon(points: list[Point], colour: Colour) -> None:
            corners = np.array([place(*p) for p in points], np.int32)
            cv2.fillPoly(picture, [corners], colour, cv2.LINE_AA)
            cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA)

        def oval(x: float, y: float, rx: float, ry: float, colour: Colour, arc: tuple[int, int] = (0, 360)) -> None:
            axes = (round(rx * self._unit), round(ry * self._unit))
            cv2.ellipse(picture, place(x, y), axes, 0, *arc, colour, -1, cv2.LINE_AA)
            cv2.ellipse(mask, place(x, y), axes, 0, *arc, 255, -1, cv2.LINE_AA)

        def limb(points: list[Point], thick: float, colour: Colour) -> None:
            line, size = [place(*p) for p in points], max(1, round(thick * self._unit))
            for a, b in pairwise(line):
                cv2.line(picture, a, b, colour, size, cv2.LINE_AA)
                cv2.line(mask, a, b, 255, size, cv2.LINE_AA)

        self._legs(limb, polygon, swing)
        # Coat: a bell with a lit and a shaded side, hem, seam and buttons.
        polygon([(-0.15, 1.3), (0.15, 1.3), (0.31, 0.5), (-0.31, 0.5)], (236, 178, 40))
        polygon([(-0.15, 1.3), (-0.05, 1.3), (-0.13, 0.5), (-0.31, 0.5)], (196, 136, 30))
        polygon([(0.09, 1.3), (0.15, 1.3), (0.31, 0.5), (0.2, 0.5)], (255, 212, 84))
        polygon([(-0.31, 0.5), (0.31, 0.5), (0.305, 0.53), (-0.305, 0.53)], (168, 112, 26))
        limb([(0.02, 1.28), (0.035, 0.54)], 0.008, (150, 100, 26))
        for y in (1.15, 1.0, 0.85, 0.7):
            oval(0.055, y, 0.014, 0.014, (92, 62, 24))
        # The arm behind swings, the other holds the stick.
        limb([(-0.14, 1.24), (-0.2 - 0.4 * swing, 0.98), (-0.17 - 0.8 * swing, 0.76)], 0.1, (206, 148, 34))
        oval(-0.17 - 0.8 * swing, 0.72, 0.045, 0.05, (226, 172, 140))
        limb([(0.16, 1.02), (0.16, 1.98)], 0.022, (84, 60, 44))
        # Hood, hair and a face in three-quarter view.
        oval(0.0, 1.47, 0.165, 0.19, (214, 156, 34))
        oval(0.02, 1.47, 0.14, 0.165, (120, 78, 22))
        oval(0.035, 1.46, 0.115, 0.14, (232, 180, 148))
        oval(0.02, 1.55, 0.115, 0.06, (66, 40, 30))
        oval(0.09, 1.45, 0.035, 0.03, (240, 164, 140))
        for x in (0.035, 0.105):
            oval(x, 1.48, 0.013, 0.02, (34, 26, 30))
        limb([(0.05, 1.395), (0.075, 1.385), (0.1, 1.398)], 0.012, (166, 82, 76))
        polygon([(-0.14, 1.34), (0.15, 1.34), (0.16, 1.26), (-0.15, 1.26)], (46, 92, 150))
        limb([(0.1, 1.24), (0.2, 1.08), (0.165, 1.2)], 0.1, (248, 196, 60))
        oval(0.165, 1.2, 0.045, 0.045, (232, 180, 148))
        self._umbrella(polygon, limb)
        soft: Any = cv2.GaussianBlur(mask, (0, 0), 0.6)
        return self._lit(picture), np.divide(soft, 255, dtype=np.float32)

    def _legs(self, limb: Callable[..., None], polygon: Callable[..., None], swing: float) -> None:
        for sign, trousers, boot in ((-1, (30, 38, 66), (120, 30, 34)), (1, (44, 54, 92), (176, 42, 46))):
            foot, lift = sign * swing, max(0.0, sign * swing) * 0.25
            limb([(sign * 0.05, 0.62), (foot * 0.6 + 0.03, 0.36 + lift), (foot, 0.16 + lift)], 0.13, trousers)
            limb([(foot, 0.28 + lift), (foot, 0.1 + lift)], 0.14, boot)
            sole = [(foot - 0.08, lift), (foot + 0.19, lift), (foot + 0.16, 0.09 + lift), (foot - 0.08, 0.12 + lift)]
            polygon(sole, boot)

    def _umbrella(self, polygon: Callable[..., None], limb: Callable[..., None]) -> None:
        x0, y0, wide, high, ribs = 0.12, 1.72, 0.6, 0.36, 7
        angles = np.linspace(np.pi, 0, ribs + 1)
        edge = [(x0 + wide * np.cos(a), y0) for a in angles]
        for i in range(ribs):
            shade = (176, 200, 222, 232, 240, 222, 204)[i]
            colour = (shade, round(shade * 0.18) + (14 if i % 2 else 0), round(shade * 0.2))
            left, right = edge[i], edge[i + 1]
            rise = np.linspace(0, np.pi / 2, 12)
            first = [(x0 + (left[0] - x0) * np.cos(r), y0 + high * np.sin(r)) for r in rise]
            second = [(x0 + (right[0] - x0) * np.cos(r), y0 + high * np.sin(r)) for r in rise[::-1]]
            hem = [(right[0] + (left[0] - right[0]) * s, y0 + 0.055 * np.sin(np.pi * s)) for s in np.linspace(0, 1, 8)]
            polygon([*first, *second, *hem], colour)
        limb([(x0, y0 + high), (x0, y0 + high + 0.07)], 0.022, (84, 60, 44))

    def _lit(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Light from the right and above, with a weave so that the figure is not flat."""
        width, height = self._size
        weave = np.random.default_rng(1).standard_normal((height, width)).astype(np.float32)
        weave = cv2.GaussianBlur(weave, (0, 0), 1.2) * 0.12
        across = np.linspace(0.8, 1.12, width, dtype=np.float32)[None, :]
        down = np.linspace(1.08, 0.82, height, dtype=np.float32)[:, None]
        return np.clip(picture * (across * down + weave)[..., None], 0, 255).astype(np.uint8)


def _pixel(point: Point) -> tuple[int, int]:
    return round(point[0]), round(point[1])


def _add_blob(
    canvas: NDArray[np.float32], x: float, y: float, rx: float, ry: float, colour: NDArray[np.float32]
) -> None:
    """Add a Gaussian spot to a canvas, clipped to its borders."""
    height, width = canvas.shape[:2]
    left, right = max(0, int(x - 3 * rx)), min(width, int(x + 3 * rx) + 2)
    top, bottom = max(0, int(y - 3 * ry)), min(height, int(y + 3 * ry) + 2)
    if left >= right or top >= bottom:
        return
    across = np.exp(-0.5 * ((np.arange(left, right, dtype=np.float32) - x) / rx) ** 2)
    down = np.exp(-0.5 * ((np.arange(top, bottom, dtype=np.float32) - y) / ry) ** 2)
    canvas[top:bottom, left:right] += (down[:, None] * across[None, :])[..., None] * colour


def _lay(
    canvas: NDArray[np.uint8], picture: NDArray[np.uint8], alpha: NDArray[np.float32], left: int, top: int
) -> None:
    """Lay a picture over the canvas at a place, clipped to its borders."""
    height, width = canvas.shape[:2]
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(width, left + picture.shape[1]), min(height, top + picture.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    under, opacity = canvas[y0:y1, x0:x1], alpha[part][..., None]
    canvas[y0:y1, x0:x1] = np.rint(under * (1 - opacity) + picture[part] * opacity).astype(np.uint8)
