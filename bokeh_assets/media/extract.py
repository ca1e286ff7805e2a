"""A video file into a folder of frames with their times and shots, in one pass."""

from __future__ import annotations

import errno
import hashlib
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
        InputError: the source cannot be used (see `decode`), the folder holds frames already, or the disk is full.
    """
    if format not in ("png", "jpg"):
        raise InputError(f"frames are written as png or jpg, not {format}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(file.stem.isdigit() for file in folder.iterdir()):
        raise InputError(f"{folder} holds numbered pictures already; give an empty folder")
    rows: list[tuple[int, float, float]] = []
    numbers: list[int] = []
    detector = ShotDetector()
    waiting: deque[Future[None]] = deque()
    with decode(source, progress=progress) as frames, ThreadPoolExecutor(_WRITERS) as pool:
        try:
            for index, frame in enumerate(frames):
                waiting.append(pool.submit(write_picture, folder / f"{index:05d}.{format}", frame.image))
                numbers += detector.push(frame.image)
                rows.append((frame.pts, frame.seconds, frame.duration))
                if len(waiting) > _IN_FLIGHT:
                    waiting.popleft().result()
            numbers += detector.finish()
            while waiting:
                waiting.popleft().result()
            info, warnings = frames.info, frames.warnings
            sha256 = file_sha256(source)
            table = [(i, *row, shot) for i, (row, shot) in enumerate(zip(rows, numbers, strict=True))]
            write_timing(folder / TIMING, table, _facts(info, sha256, rows[0][0], warnings))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise InputError(f"{folder}: no space left after {len(rows)} frames; free some or use jpg") from error
            raise
    duration = rows[-1][1] + rows[-1][2]
    return FramesReport(
        folder=folder,
        count=len(rows),
        width=info.width,
        height=info.height,
        fps=len(rows) / duration if duration > 0 else info.fps,
        duration=duration,
        shots=numbers[-1] + 1,
        sha256=sha256,
        info=info,
        notes=info.notes(),
        warnings=list(warnings),
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _facts(info: VideoInfo, sha256: str, start_pts: int, warnings: list[str]) -> dict[str, Any]:
    return {
        "name": info.path.name,
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
