"""When a finished video shows each of its frames, read without decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bokeh_assets.media.container import open_video


@dataclass(frozen=True)
class Presentation:
    """Times in seconds, counted from the first frame."""

    seconds: tuple[float, ...]
    """Start of every frame, rising."""
    end: float
    """End of the last frame."""


def read_presentation(path: Path) -> Presentation:
    """The timestamps of the packets of the first video stream.

    Raises:
        InputError: the file is missing or no video.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        packets = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.pts is not None]
        unit = float(stream.time_base or 1)
    packets.sort()
    first, (last, length) = packets[0][0], packets[-1]
    return Presentation(tuple((pts - first) * unit for pts, _ in packets), (last + length - first) * unit)
