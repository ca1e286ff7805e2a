"""Opening a file as a video, and nothing but a video."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from bokeh_assets.errors import InputError
from bokeh_assets.files import open_regular

# Demuxers of self-contained video files. Playlists (hls, dash, concat), image sequences, capture devices and
# scripts are absent on purpose: such a file could name other files or addresses and make us read them.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,nut,ivf,obu,av1,gif,apng,"
    "h264,hevc,vvc,m4v,mjpeg,rm,dv,wtv,vob,gxf,yuv4mpegpipe,webp"
)
MAX_PIXELS = 1 << 26
"""Pixels of a picture that are decoded at most: 8192x8192, twice 8K."""
MAX_STREAMS = 100
"""Tracks a file may have."""
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
    with open_regular(path) as file:
        if not file.read(1):
            raise InputError(f"{path} is empty; copy the video again")
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file", "max_streams": str(MAX_STREAMS)}
    try:
        # `file:` keeps a name with a colon from being read as an address.
        return av.open(
            f"file:{path.absolute()}",
            mode="r",
            container_options=options,
            metadata_errors="replace",
        )
    except (av.FFmpegError, ValueError, OSError) as error:
        raise InputError(f"{path} is not a video that can be read ({_reason(error)}); give a whole {KINDS}") from error


def without_frames(path: Path, stream: VideoStream) -> InputError:
    """Why not a single frame came out."""
    context = stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        return too_large(path, context.width, context.height)
    if not context.width * context.height:  # FFmpeg drops sizes near 2^14 x 2^14 and above
        return InputError(f"{path} names no picture size that can be (none, or far too large); export the video again")
    return InputError(f"{path} holds no frame that can be decoded; export the video again")


def too_large(path: Path, width: int, height: int) -> InputError:
    """The error for a picture of more than `MAX_PIXELS`."""
    return InputError(f"{path} is {width}x{height} pixels large; {MAX_PIXELS:,} are the most, scale it down first")


def refuse_encrypted(packet: av.Packet, path: Path) -> None:
    """Raises InputError for a packet that FFmpeg would decode into noise for want of a key."""
    if packet.has_sidedata("encryption_info"):
        raise InputError(f"{path} is encrypted; give a copy without copy protection")


def _reason(error: Exception) -> str:
    known = {errno.EINVAL: "its format is not one that is read", errno.ENOMEM: "it asks for too much memory"}
    if getattr(error, "errno", None) in known:
        return known[error.errno]  # type: ignore[attr-defined]
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
    chosen = ([s for s in known if s.disposition & Disposition.default] or known)[0]
    chosen.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return chosen
