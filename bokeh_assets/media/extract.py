"""A video file into a folder of frames with their times and shots, in one pass."""

from __future__ import annotations

import errno
import hashlib
from array import array
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bokeh_assets.errors import InputError
from bokeh_assets.media.decode import decode
from bokeh_assets.media.frames import write_picture
from bokeh_assets.media.probe import VideoInfo
from bokeh_assets.media.shots import ShotDetector
from bokeh_assets.media.timing import write_timing

TIMING = "frames.parquet"
MAX_FRAMES = 1_000_000
"""Frames of one video at most: nine hours at 30 a second."""
_WRITERS = 2
_IN_FLIGHT = 6


@dataclass(frozen=True)
class FramesReport:
    """What `extract_frames` made.

    `fps` is the mean over the whole clip, `duration` is in seconds, from the start of the first frame to the end of
    the last. `notes` tell what was done to the picture, `warnings` what was wrong with the file.
    """

    folder: Path
    count: int
    width: int
    height: int
    fps: float
    duration: float
    shots: int
    sha256: str
    info: VideoInfo
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def extract_frames(
    source: Path, folder: Path, *, format: str = "png", progress: Callable[[int], None] | None = None
) -> FramesReport:
    """Write every frame of a video as `00000.png`, `00001.png`, … and `frames.parquet` beside them.

    One pass and a few frames of memory, whatever the length. The parquet has a row per frame: index, pts (ticks of the
    source), seconds (from the first frame), duration (seconds), shot; its schema metadata hold facts of the source.

    Args:
        source: the video.
        folder: where to write; made if absent. Numbered pictures must not lie there already.
        format: `"png"` (lossless) or `"jpg"` (quality 95, about a fifth of the size).
        progress: called with the number of frames decoded.

    Raises:
        InputError: the source cannot be used (see `decode`), the folder holds frames already, the disk is full, or
            there are more than `MAX_FRAMES` frames.
    """
    if format not in ("png", "jpg"):
        raise InputError(f"frames are written as png or jpg, not {format}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(file.stem.isdigit() for file in folder.iterdir()):
        raise InputError(f"{folder} holds numbered pictures already; give an empty folder")
    # Twenty-eight bytes a frame.
    pts, seconds, lengths, numbers = array("q"), array("d"), array("d"), array("i")
    detector = ShotDetector()
    waiting: deque[Future[None]] = deque()
    with decode(source, progress=progress) as frames, ThreadPoolExecutor(_WRITERS) as pool:
        try:
            for index, frame in enumerate(frames):
                waiting.append(pool.submit(write_picture, folder / f"{index:05d}.{format}", frame.image))
                numbers.extend(detector.push(frame.image))
                pts.append(frame.pts)
                seconds.append(frame.seconds)
                lengths.append(frame.duration)
                if len(pts) > MAX_FRAMES:
                    raise InputError(f"{source} has more than {MAX_FRAMES:,} frames, the most; cut it into parts")
                if len(waiting) > _IN_FLIGHT:
                    waiting.popleft().result()
            numbers.extend(detector.finish())
            while waiting:
                waiting.popleft().result()
            info, warnings = frames.info, frames.warnings
            sha256 = file_sha256(source, lambda: progress(len(pts)) if progress else None)
            columns = (range(len(pts)), pts, seconds, lengths, numbers)
            write_timing(folder / TIMING, columns, _facts(info, sha256, pts[0], warnings))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise InputError(f"{folder}: no space left after {len(pts)} frames; free some or use jpg") from error
            raise
    duration = seconds[-1] + lengths[-1]
    return FramesReport(
        folder=folder,
        count=len(pts),
        width=info.width,
        height=info.height,
        fps=len(pts) / duration if duration > 0 else info.fps,
        duration=duration,
        shots=numbers[-1] + 1,
        sha256=sha256,
        info=info,
        notes=info.notes(),
        warnings=list(warnings),
    )


def file_sha256(path: Path, alive: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of a file, in hexadecimal; `alive` is called after every 256 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        blocks = 0
        while block := file.read(1 << 20):
            digest.update(block)
            blocks += 1
            if blocks % 256 == 0:
                alive()
    return digest.hexdigest()


def _facts(info: VideoInfo, sha256: str, start_pts: int, warnings: list[str]) -> dict[str, Any]:
    return {
        "sha256": sha256,
        "time_base": str(info.time_base),
        "start_pts": start_pts,
        "container": info.container,
        "codec": info.codec,
        "width": info.width,
        "height": info.height,
        "fps": info.fps,
        "rotation": info.rotation,
        "mirrored": info.mirrored,
        "pix_fmt": info.pix_fmt,
        "bit_depth": info.bit_depth,
        "hdr": info.hdr,
        "colour": asdict(info.colour),
        "audio": [asdict(track) for track in info.audio],
        "notes": info.notes(),
        "warnings": warnings,
    }
