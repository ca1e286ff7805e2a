"""When a finished video shows each of its frames, read without decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bokeh_assets.errors import InputError
from bokeh_assets.media.container import open_video


@dataclass(frozen=True)
class Presentation:
    """Times in seconds, counted from the first frame."""

    seconds: tuple[float, ...]
    """Start of every frame, rising."""
    end: float
    """End of the last frame."""


def read_presentation(path: Path) -> Presentation:
    """The timestamps of the packets of the video stream.

    Raises:
        InputError: the file is missing, no video, or without timestamps.
    """
    with open_video(path) as (container, stream):
        packets = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.pts is not None and not p.is_discard]
        unit = float(stream.time_base or 1)
    if not packets:
        raise InputError(f"{path} has no timestamps; make the video again")
    packets.sort()
    first, (last, length) = packets[0][0], packets[-1]
    return Presentation(tuple((pts - first) * unit for pts, _ in packets), (last + length - first) * unit)
