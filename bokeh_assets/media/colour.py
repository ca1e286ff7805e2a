"""Colour tags: their names, what is assumed where a file states none, and pixels to RGB.

Numbers and names are those of ITU-T H.273 as FFmpeg spells them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

PRIMARIES = {1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020"}
PRIMARIES |= {10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "ebu3213"}
TRANSFERS = {1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100"}
TRANSFERS |= {10: "log316", 11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10"}
TRANSFERS |= {15: "bt2020-12", 16: "smpte2084", 17: "smpte428", 18: "arib-std-b67"}
MATRICES = {0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco", 9: "bt2020nc"}
MATRICES |= {10: "bt2020c", 14: "ictcp"}

# swscale has its own numbers for the matrices (SWS_CS_*).
SWS_MATRIX = {"bt709": 1, "fcc": 4, "bt470bg": 5, "smpte170m": 5, "smpte240m": 7, "bt2020nc": 9, "bt2020c": 9}

# Slower than swscale's default, but chroma is interpolated (not repeated) and rounding does not drift.
SCALING = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


@dataclass(frozen=True)
class Colour:
    """How the numbers of a picture are meant. `assumed` names the properties that the file does not state."""

    primaries: str
    transfer: str
    matrix: str
    full_range: bool
    assumed: tuple[str, ...] = ()

    @property
    def hdr(self) -> str | None:
        """`"pq"`, `"hlg"` or None."""
        return {"smpte2084": "pq", "arib-std-b67": "hlg"}.get(self.transfer)


SDR = Colour("bt709", "bt709", "bt709", full_range=False)


def colour_of(frame: VideoFrame, lines: int) -> Colour:
    """Read the tags of a decoded frame; fill in what is missing.

    A missing tag follows from those present; with none, pictures of 720 lines and more are BT.709 and smaller ones
    BT.601, as players take them. Untagged YCbCr is limited range, RGB is full.
    """
    primaries, transfer = PRIMARIES.get(int(frame.color_primaries)), TRANSFERS.get(int(frame.color_trc))
    matrix = MATRICES.get(int(frame.colorspace))
    name = frame.format.name
    rgb = frame.format.is_rgb or name == "pal8"
    grey = len(frame.format.components) == 1 and not rgb
    if rgb:
        matrix = "gbr"
    elif matrix == "gbr":
        matrix = None  # a contradiction: these are not RGB samples
    assumed = [k for k, v in (("primaries", primaries), ("transfer", transfer)) if v is None]
    if matrix is None and not grey:
        assumed.append("matrix")
    small = lines < 720
    if matrix is None:
        matrix = {"bt2020": "bt2020nc", "bt709": "bt709", "smpte432": "bt709", "bt470bg": "bt470bg"}.get(
            primaries or "", "smpte170m" if small else "bt709"
        )
    if primaries is None:
        by_matrix = {"bt709": "bt709", "bt470bg": "bt470bg", "smpte170m": "smpte170m", "bt2020nc": "bt2020"}
        primaries = by_matrix.get(matrix, "bt709")
    if transfer is None:
        transfer = "iec61966-2-1" if rgb else {"bt2020": "bt2020-10"}.get(primaries, "bt709")
    stated = int(frame.color_range)
    if stated in (int(ColorRange.MPEG), int(ColorRange.JPEG)):
        full = stated == int(ColorRange.JPEG)
    else:
        full = rgb or name.startswith("yuvj")
        if not full:
            assumed.append("range")
    return Colour(primaries, transfer, matrix, full or rgb, tuple(assumed))


class RgbConverter:
    """Turn decoded frames into RGB arrays of one size, with matrix and range given explicitly.

    Odd sizes, any chroma subsampling and bit depth; transparent pictures are laid over black.
    """

    def __init__(self) -> None:
        self._scaler = VideoReformatter()

    def __call__(self, frame: VideoFrame, colour: Colour, size: tuple[int, int], *, deep: bool) -> NDArray[np.generic]:
        """HxWx3 RGB, full range: uint8, or uint16 (0..65535) when `deep`."""
        alpha = has_alpha(frame)
        grey = len(frame.format.components) == 1 and frame.format.name != "pal8"
        if grey:
            return self._grey(frame, colour, size, deep)
        target = ("rgba64le" if deep else "rgba") if alpha else ("rgb48le" if deep else "rgb24")
        converted = self._scaler.reformat(
            frame,
            *size,
            target,
            src_colorspace=SWS_MATRIX.get(colour.matrix),
            src_color_range=ColorRange.JPEG if colour.full_range else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=SCALING,
            threads=1,
        )
        picture: Any = converted.to_ndarray()
        if not alpha:
            return picture
        top = np.iinfo(picture.dtype).max
        opacity = picture[..., 3:].astype(np.float32) / top
        return np.rint(picture[..., :3] * opacity).astype(picture.dtype)

    def _grey(self, frame: VideoFrame, colour: Colour, size: tuple[int, int], deep: bool) -> NDArray[np.generic]:
        # swscale takes grey for full range whatever the tags say, so the range is stretched here.
        wide = self._scaler.reformat(
            frame, *size, "gray16le", interpolation=SCALING, src_color_range=2, dst_color_range=2, threads=1
        )
        grey = wide.to_ndarray().astype(np.float32) / 65535
        if not colour.full_range:
            grey = (grey * 255 - 16) / 219
        top = 65535 if deep else 255
        levels = np.rint(np.clip(grey, 0, 1) * top).astype(np.uint16 if deep else np.uint8)
        return np.repeat(levels[..., None], 3, axis=2)


def has_alpha(frame: VideoFrame) -> bool:
    """Does the picture have transparency?"""
    name = frame.format.name
    return name.startswith(("yuva", "ya", "rgba", "bgra", "argb", "abgr", "gbrap", "pal8"))
