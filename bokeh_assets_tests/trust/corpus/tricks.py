"""Files that name other files or addresses, and files that are larger inside than outside."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame

from bokeh_assets_tests.media.clips import card, make_clip
from bokeh_assets_tests.trust.corpus.case import FRAMES, SIZE, Case, clip, patched, write

CANARY = "canary.mp4"
"""A good video beside the tricks, which none of them may reach."""
ADDRESS = Path("address.txt")
"""Beside the tricks: host and port of a listener that nobody may call."""


def playlists() -> list[Case]:
    """Texts and films that FFmpeg would follow elsewhere, under names an inbox takes."""
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n{key}#EXTINF:1,\n{where}\n#EXT-X-ENDLIST\n"
    key = '#EXT-X-KEY:METHOD=AES-128,URI="{where}"\n'
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{where}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>"
    )
    svg = (
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'width="96" height="64"><image width="96" height="64" xlink:href="{where}"/></svg>'
    )
    entity = '<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "{where}">]><svg width="9" height="9">&x;</svg>'
    texts = {
        "hls": hls.replace("{key}", ""),
        "hls_key": hls.replace("{key}", key),
        "hls_master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{where}\n",
        "hls_subfile": hls.replace("{key}", "").replace("{where}", "subfile,,start,0,end,9,,:{where}"),
        "hls_concat": hls.replace("{key}", "").replace("{where}", "concat:{where}|{where}"),
        "dash": dash,
        "concat": "ffconcat version 1.0\nfile '{where}'\nduration 1\n",
        "concat_plain": "file {where}\n",
        "svg": svg,
        "svg_entity": entity,
        "asx": '<asx version="3.0"><entry><ref href="{where}"/></entry></asx>',
        "smil": '<smil><body><video src="{where}"/></body></smil>',
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
        "srt": "1\n00:00:00,000 --> 00:00:01,000\n<img src='{where}'>\n",
        "ass": "[Script Info]\nScriptType: v4.00+\nVideo File: {where}\n[Events]\n",
        "webvtt": "WEBVTT\n\n00:00.000 --> 00:01.000\n<c src='{where}'>x</c>\n",
        "ffmetadata": ";FFMETADATA1\ntitle={where}\n",
        "pls": "[playlist]\nFile1={where}\nNumberOfEntries=1\n",
        "reference": "SMIL text: RTSPtextRTSP://{host}:{port}/x\nrtsptext\n",
    }
    cases = []
    for kind, text in texts.items():
        for goal in ("file", "net"):
            if goal == "net" and kind in ("srt", "ass", "webvtt", "ffmetadata", "pls", "smil", "svg_entity"):
                continue
            suffix = "m3u8.mp4" if kind.startswith("hls") else "mp4"
            cases.append(Case(f"{kind}_{goal}.{suffix}", "playlist", _text(text, goal)))
    cases += [
        Case("reference_movie.mov", "playlist", _reference_movie),
        Case("external_data.mov", "playlist", _external_data, range(FRAMES + 1), shows=False, short="extract"),
        Case("attached_list.mkv", "playlist", _attached_list, FRAMES, short="extract"),
        Case("frame_%03d.mp4", "playlist", lambda p: p.write_bytes(clip()), FRAMES),
        Case("concat:canary.mp4|canary.mp4", "playlist", lambda p: p.write_bytes(clip()), FRAMES),
        Case("pipe:0.mp4", "playlist", lambda p: p.write_bytes(clip()), FRAMES),
    ]
    return cases


def _text(text: str, goal: str) -> Any:
    def make(path: Path) -> None:
        host, port = (path.parent / ADDRESS).read_text().split()
        where = str(path.parent / CANARY) if goal == "file" else f"http://{host}:{port}/x.ts"
        path.write_text(text.replace("{where}", where).replace("{host}", host).replace("{port}", port))

    return make


def box(kind: bytes, *inside: bytes) -> bytes:
    """One box of an mp4 file."""
    data = b"".join(inside)
    return struct.pack(">I", len(data) + 8) + kind + data


def _reference_movie(path: Path) -> None:
    target = f"file://{path.parent / CANARY}".encode() + b"\0"
    reference = box(b"rdrf", bytes(4) + b"url " + struct.pack(">I", len(target)) + target)
    path.write_bytes(box(b"ftyp", b"qt  \0\0\2\0qt  ") + box(b"moov", box(b"rmra", box(b"rmda", reference))))


def _external_data(path: Path) -> None:
    """The samples of a film, said to lie in another file."""
    data = clip("mov")
    at = data.index(b"dref")
    old = struct.unpack(">I", data[at - 4 : at])[0]
    target = f"file://{path.parent / CANARY}".encode() + b"\0"
    new = box(b"dref", bytes(4), struct.pack(">I", 1), box(b"url ", bytes(4), target))
    out = bytearray(data[: at - 4] + new + data[at - 4 + old :])
    place = len(out)
    for kind in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        place = out.rindex(kind, 0, place)
        size = struct.unpack(">I", out[place - 4 : place])[0]
        out[place - 4 : place] = struct.pack(">I", size + len(new) - old)
    path.write_bytes(out)


def _attached_list(path: Path) -> None:
    """A film that carries a playlist as an attachment."""
    make_clip(path, size=SIZE, ticks=range(FRAMES))
    with av.open(str(path)) as source, av.open(str(path) + ".out", "w", format="matroska") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        where = str(path.parent / CANARY)
        out.add_attachment("list.m3u8", "application/vnd.apple.mpegurl", f"#EXTM3U\n{where}\n".encode())
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    Path(str(path) + ".out").replace(path)


def bombs(*, long: bool) -> list[Case]:
    """Headers that claim the world, and little that stands for much."""
    huge = struct.pack(">HH", 65535, 65535)
    raw = clip("avi", codec="rawvideo", pix_fmt="yuv420p")
    wide = struct.pack("<II", 65535, 65535)
    strf = raw.index(b"strf") + 12
    gif = bytearray(clip("gif"))
    gif[6:10] = b"\xff\xff\xff\xff"
    count = 108_000 if long else 500
    stss = clip("mp4")
    cases = [
        Case("huge.avi", "bomb", write(raw[:strf] + wide + raw[strf + 8 :])),
        Case("huge.gif", "bomb", write(bytes(gif))),
        Case("huge.y4m.mp4", "bomb", write(b"YUV4MPEG2 W65535 H65535 F25:1 Ip C420\nFRAME\n" + bytes(1000))),
        Case("large.y4m.mp4", "bomb", write(b"YUV4MPEG2 W16000 H16000 F25:1 Ip C420\nFRAME\n" + bytes(1000))),
        Case("huge_png.apng.mp4", "bomb", write(_png_bomb(65535, 65535))),
        Case("large_png.apng.mp4", "bomb", write(_png_bomb(30_000, 30_000))),
        Case("huge_jpeg.mov", "bomb", write(_every(clip("mov"), b"\xff\xc0", 5, huge)), range(9), shows=False),
        Case(
            "huge_sample_entry.mp4",
            "bomb",
            write(patched(clip(), [(b"avc1\0\0\0\0\0\0\0\1", 28, huge)])),
            range(9),
            shows=False,
        ),
        Case(
            "webp_bomb.mp4",
            "bomb",
            write(b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X\x0a\0\0\0\2\0\0\0" + b"\xff" * 6),
        ),
        Case("million_fps.mp4", "bomb", lambda p: _micro(p), FRAMES),
        Case("million_fps.mkv", "bomb", lambda p: _rate(p, Fraction(1_000_000)), FRAMES),
        Case("hours_of_one_frame.mp4", "bomb", lambda p: _repeated(p, count), count, shows=False),
        Case(
            "one_frame_for_hours.mp4",
            "bomb",
            lambda p: make_clip(p, size=SIZE, ticks=(0, 10**6, 2 * 10**6), last=24),
            3,
        ),
        Case(
            "wide_pixels.mp4",
            "bomb",
            lambda p: make_clip(p, size=SIZE, ticks=range(8), sar=Fraction(65535, 1)),
            range(9),
            shows=False,
        ),
        Case("two_billion_samples.mp4", "bomb", write(patched(stss, [(b"stsz", 12, b"\x7f\xff\xff\xff")])), range(9)),
        Case(
            "two_billion_steps.mp4",
            "bomb",
            write(patched(stss, [(b"stts", 12, b"\x7f\xff\xff\xff")])),
            range(9),
            shows=False,
        ),
        Case("two_billion_chunks.mp4", "bomb", write(patched(stss, [(b"stco", 8, b"\x7f\xff\xff\xff")])), range(9)),
        Case("two_billion_entries.mp4", "bomb", write(patched(stss, [(b"stsd", 8, b"\x7f\xff\xff\xff")])), range(9)),
        Case("packed_header.mov", "bomb", write(_packed_header(200))),
        Case("nested.mp4", "bomb", write(_nested(5_000))),
        Case("nested.mkv", "bomb", write(clip("mkv")[:60] + b"\x10\x43\xa7\x70\x01" * 20_000)),
        Case("huge_palette.gif", "bomb", lambda p: p.write_bytes(_palettes(2_000)), range(2_001), shows=False),
        Case("packed_track.mkv", "bomb", write(_packed_track()), range(9), shows=False),
    ]
    return cases


def _every(data: bytes, mark: bytes, offset: int, new: bytes) -> bytes:
    out, at = bytearray(data), data.find(mark)
    while at >= 0:
        out[at + offset : at + offset + len(new)] = new
        at = out.find(mark, at + len(mark))
    return bytes(out)


def _png_bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    animation = chunk(b"acTL", struct.pack(">II", 1, 0))
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 25, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(64 << 20), 9))
    return b"\x89PNG\r\n\x1a\n" + head + animation + control + data + chunk(b"IEND", b"")


def _micro(path: Path) -> None:
    """Eight frames within eight microseconds."""
    make_clip(path, size=SIZE, ticks=range(FRAMES), base=Fraction(1, 10**6), muxer={"movie_timescale": "1000000"})


def _rate(path: Path, rate: Fraction) -> None:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=rate, options={"crf": "4"})
        stream.codec_context.width, stream.codec_context.height = SIZE
        stream.codec_context.pix_fmt = "yuv420p"
        stream.codec_context.time_base = 1 / rate
        for index in range(FRAMES):
            frame = VideoFrame.from_ndarray(card(*SIZE, index), "rgb24").reformat(format="yuv420p", dst_colorspace=1)
            frame.pts, frame.time_base = index * 1000, Fraction(1, 1_000_000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def _repeated(path: Path, count: int) -> None:
    """One coded picture, said again and again."""
    small = path.with_suffix(".one.mkv")
    make_clip(small, size=(16, 16), ticks=(0,))
    with av.open(str(small)) as source, av.open(str(path), "w", format="mp4") as out:
        (packet,) = [p for p in source.demux(source.streams.video[0]) if p.size]
        stream = out.add_stream_from_template(source.streams.video[0])
        data, base = bytes(packet), Fraction(1, 30)
        for index in range(count):
            again = av.Packet(data)
            again.pts = again.dts = index
            again.time_base, again.stream, again.is_keyframe, again.duration = base, stream, True, 1
            out.mux(again)
    small.unlink()


def _packed_header(megabytes: int) -> bytes:
    """A QuickTime header that is small only as long as it is compressed."""
    data = zlib.compress(bytes(megabytes << 20), 9)
    packed = box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", struct.pack(">I", megabytes << 20), data))
    return box(b"ftyp", b"qt  \0\0\2\0qt  ") + box(b"moov", packed)


def _nested(depth: int) -> bytes:
    inside = b""
    for _ in range(depth):
        inside = box(b"moov" if len(inside) % 3 else b"trak", inside)
    return box(b"ftyp", b"isom\0\0\2\0isom") + inside


def _palettes(count: int) -> bytes:
    table = np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes()
    picture = b",\0\0\0\0\x60\0\x40\0\x87" + table + b"\x08\x02\x4c\x01\0"
    return b"GIF89a\x60\0\x40\0\xf7\0\0" + table + picture * count + b";"


def _packed_track() -> bytes:
    """A Matroska track whose packets are said to be zlib streams and are bombs."""
    bomb = zlib.compress(bytes(100 << 20), 9)
    data = clip("mkv", codec="mjpeg", pix_fmt="yuvj420p")
    entry = data.index(b"\xae", data.index(b"\x16\x54\xae\x6b") + 5)
    encoding = bytes.fromhex("6d8092 6240 8f 5031 81 00 5032 81 01 5033 81 00 5034 84 4254 81 00".replace(" ", ""))
    # The size of the track entry follows its identifier as an 8-byte number in what FFmpeg writes.
    size = int.from_bytes(data[entry + 2 : entry + 9], "big") if data[entry + 1] == 1 else 0
    if not size:
        return data[: entry + 1] + encoding + data[entry + 1 :] + bomb
    head = data[: entry + 1] + b"\x01" + (size + len(encoding)).to_bytes(7, "big")
    return head + data[entry + 9 : entry + 9 + size] + encoding + data[entry + 9 + size :] + bomb
