"""Pictures for the Dagster UI: filmstrips and curves, small enough for the event log.

Dagster 1.13 draws Markdown in place only if it is shorter than 1,000 characters; anything longer waits behind
"[Show Markdown]". So every output shows three tiny glances at once, and the whole strip at a click.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import dagster as dg
import numpy as np
from numpy.typing import NDArray

LIMIT = 22_000
"""Bytes of AVIF at most: Dagster keeps every preview of every run, three times over."""

DRAWN_IN_PLACE = 999
"""Characters of Markdown at most that the UI draws without a click."""

Picture = NDArray[np.uint8]


class Filmstrip:
    """Keeps thumbnails of some frames, spread over the video, as they pass by.

    Args:
        total: frames of the video.
        count: thumbnails at most.
        extra: further frames that must be shown (prompted ones, say).
    """

    def __init__(self, total: int, count: int = 12, extra: Sequence[int] = ()):
        spread = np.linspace(0, max(total - 1, 0), min(count, max(total, 1))).round().astype(int)
        self.frames = sorted({*spread.tolist(), *extra})
        self._thumbnails: dict[int, Picture] = {}
        self._glances: dict[int, Picture] = {}

    def wants(self, frame: int) -> bool:
        """Whether a picture of this frame should be handed in."""
        return frame in self.frames

    def add(self, frame: int, picture: Picture, caption: str = "") -> None:
        """Keeps a small copy of `picture` (H, W, 3 RGB, or H, W grey)."""
        if picture.ndim == 2:
            picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
        self._glances[frame] = _shrunk(picture, 224)
        small = _shrunk(picture, 240)
        label = f"{frame} {caption}".strip()
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(small, label, (5, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, thickness, cv2.LINE_AA)
        self._thumbnails[frame] = small

    def picture(self, columns: int = 4) -> Picture:
        """All thumbnails in rows, in order of their frames."""
        tiles = [self._thumbnails[frame] for frame in sorted(self._thumbnails)]
        columns = min(columns, len(tiles))
        blank = np.zeros_like(tiles[0])
        rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
        rows[-1] += [blank] * (columns - len(rows[-1]))
        return np.vstack([np.hstack(row) for row in rows])

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """A glance at the start, the middle and the end, drawn in place, and the whole strip at a click."""
        if not self._thumbnails:
            return {"preview": dg.MetadataValue.md("no frame to show")}
        frames = sorted(self._glances)
        places = {"start": frames[0], "middle": frames[len(frames) // 2], "end": frames[-1]}
        glances = {name: glance(self._glances[frame], f"frame {frame}") for name, frame in places.items()}
        return {**glances, "preview": inline(self.picture(), "filmstrip")}


def _shrunk(picture: Picture, longest: int) -> Picture:
    scale = longest / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def glance(picture: Picture, alt: str) -> dg.MetadataValue:
    """Markdown that shows an RGB picture so small that the UI draws it in place: the largest AVIF that fits."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    for longest in (224, 192, 160, 128, 96, 64, 32):
        for quality in (34, 26, 18):
            data = cv2.imencode(".avif", _shrunk(bgr, longest), [cv2.IMWRITE_AVIF_QUALITY, quality])[1].tobytes()
            text = f"![{alt}](data:image/avif;base64,{base64.b64encode(data).decode()})"
            if len(text) <= DRAWN_IN_PLACE:
                return dg.MetadataValue.md(text)
    return dg.MetadataValue.md(alt)


def sparkline(values: NDArray[np.float64], top: float, length: int = 60) -> str:
    """A curve as a line of text, from nothing to `top`."""
    picked = values[np.linspace(0, len(values) - 1, min(length, len(values))).round().astype(int)]
    levels = np.clip(picked / max(top, 1e-9) * 8, 0, 7).astype(int)
    return "".join("▁▂▃▄▅▆▇█"[level] for level in levels)


def inline(picture: Picture, alt: str) -> dg.MetadataValue:
    """Markdown that shows an RGB picture, compressed until it is small enough for the event log."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    for quality in (60, 50, 42, 34, 26, 18, 10):
        data = cv2.imencode(".avif", bgr, [cv2.IMWRITE_AVIF_QUALITY, quality])[1].tobytes()
        if len(data) <= LIMIT:
            break
    return dg.MetadataValue.md(f"![{alt}](data:image/avif;base64,{base64.b64encode(data).decode()})")


def tinted(frame: Picture, matte: NDArray[np.float32]) -> Picture:
    """The frame with the subject in colour and all else grey and dark, its outline drawn."""
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.float32) * 0.45
    shown = (frame * matte[..., None] + grey * (1 - matte[..., None])).astype(np.uint8)
    outline, _ = cv2.findContours((matte > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, outline, -1, (255, 190, 0), max(1, frame.shape[1] // 320))
    return shown


def coloured(disparity: NDArray[np.float32]) -> Picture:
    """Disparity 0..1 as colours: dark is far, bright is near."""
    bgr = cv2.applyColorMap((disparity * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def curves(seconds: NDArray[np.float64], lines: dict[str, tuple[NDArray[np.float64], float]]) -> dg.MetadataValue:
    """A chart over time; `lines` maps a name to its values and to the value at the top of the chart."""
    width, height, left, bottom = 720, 220, 46, 26
    chart = np.full((height, width, 3), 255, np.uint8)
    span = max(float(seconds[-1] - seconds[0]), 1e-9)
    x = left + (seconds - seconds[0]) / span * (width - left - 12)
    font = cv2.FONT_HERSHEY_SIMPLEX
    for share in (0.0, 0.5, 1.0):
        y = round(height - bottom - share * (height - bottom - 24))
        cv2.line(chart, (left, y), (width - 12, y), (222, 222, 222), 1)
        where = round(left + share * (width - left - 12))
        label = f"{seconds[0] + share * span:.1f} s"
        cv2.putText(chart, label, (min(where, width - 52), height - 8), font, 0.38, (90, 90, 90), 1, cv2.LINE_AA)
    colours = ((31, 90, 180), (205, 100, 20), (40, 140, 70))
    for number, (name, (values, top)) in enumerate(lines.items()):
        line = height - bottom - np.clip(values / max(top, 1e-9), 0, 1) * (height - bottom - 24)
        points = np.stack([x, line], 1).round().astype(np.int32)
        cv2.polylines(chart, [points.reshape(-1, 1, 2)], False, colours[number % 3], 2, cv2.LINE_AA)
        text = f"{name} (top = {top:g})"
        cv2.putText(chart, text, (left + 220 * number, 14), font, 0.42, colours[number % 3], 1, cv2.LINE_AA)
    return inline(chart, " and ".join(lines))
