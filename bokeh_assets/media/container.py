"""Opening a file as a video, and nothing but a video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from bokeh_assets.errors import InputError

# Demuxers of self-contained video files. Playlists (hls, dash, concat), image sequences, capture devices and
# scripts are absent on purpose: such a file could name other files or addresses and make us read them.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,nut,ivf,obu,av1,gif,apng,"
    "h264,hevc,vvc,m4v,mjpeg,rm,dv,wtv,vob,gxf,yuv4mpegpipe,webp"
)
KINDS = "mp4, mov, mkv, webm, avi, mpg, ts, …"


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and find its moving picture (cover art is none).

    Raises:
        InputError: missing file, a folder, no right to read, not a video, no video stream, no decoder for it.
    """
    path = Path(path)
    container = _open(path)
    try:
        yield container, _video_stream(container, path)
    finally:
        container.close()


def _open(path: Path) -> InputContainer:
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a video file ({KINDS})")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the name") from None
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}); check its permissions") from None
    if empty:
        raise InputError(f"{path} is empty; copy the video again")
    # `file:` keeps a name with a colon from being read as an address.
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        return av.open(f"file:{path.absolute()}", mode="r", container_options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError, OSError) as error:
        raise InputError(f"{path} is not a video that can be read ({_reason(error)}); give a whole {KINDS}") from error


def _reason(error: Exception) -> str:
    log = getattr(error, "log", None)
    text = log[2] if log else getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).rstrip(".")


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    streams = list(container.streams.video)
    if not streams:
        other = "only sound" if container.streams.audio else "no picture"
        raise InputError(f"{path} holds {other}, no video stream; give a file with a moving picture ({KINDS})")
    moving = [s for s in streams if not s.disposition & (Disposition.attached_pic | Disposition.still_image)]
    if not moving:
        raise InputError(f"{path} holds only cover art, no video stream; give a file with a moving picture")
    known = [s for s in moving if getattr(s, "codec_context", None) is not None]
    if not known:
        raise InputError(f"{path}: there is no decoder for its video codec; convert it to H.264 first")
    chosen = [s for s in known if s.disposition & Disposition.default]
    return (chosen or known)[0]
