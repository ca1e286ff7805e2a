"""Whatever the file does, frames come out upright, square, in order, at their time and in the right colours."""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bokeh_assets.errors import InputError
from bokeh_assets.media.decode import DecodedFrame, decode
from bokeh_assets.media.probe import probe
from bokeh_assets_tests.media.clips import card, make_clip, moving

ONE = 1 << 16
# FFmpeg's display matrices: x' = a x + c y, y' = b x + d y with rows (a, b, 0), (c, d, 0).
TURNS = {
    "as is": ((ONE, 0, 0, ONE), lambda p: p),
    "90": ((0, ONE, -ONE, 0), lambda p: cv2.rotate(p, cv2.ROTATE_90_CLOCKWISE)),
    "180": ((-ONE, 0, 0, -ONE), lambda p: cv2.rotate(p, cv2.ROTATE_180)),
    "270": ((0, -ONE, ONE, 0), lambda p: cv2.rotate(p, cv2.ROTATE_90_COUNTERCLOCKWISE)),
    "mirrored": ((-ONE, 0, 0, ONE), lambda p: p[:, ::-1]),
    "upside down mirrored": ((ONE, 0, 0, -ONE), lambda p: p[::-1]),
    "transposed": ((0, ONE, ONE, 0), lambda p: p.transpose(1, 0, 2)),
    "anti-transposed": ((0, -ONE, -ONE, 0), lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
}


def everything(path: Path) -> tuple[list[DecodedFrame], list[str]]:
    decoding = decode(path)
    return list(decoding), decoding.warnings


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Largest error away from the seams of the test card, where chroma subsampling mixes the quarters."""
    assert a.shape == b.shape
    error = np.abs(a.astype(int) - b)
    height, width = a.shape[:2]
    y, x = np.abs(np.arange(height) - height / 2) > 5, np.abs(np.arange(width) - width / 2) > 5
    return float(error[np.ix_(y, x)].max())


@pytest.mark.parametrize("name", TURNS)
def test_rotation_and_mirroring_are_applied(tmp_path: Path, name: str) -> None:
    (a, b, c, d), turn = TURNS[name]
    display = None if name == "as is" else (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip = make_clip(tmp_path / "clip.mp4", display=display, tags=(1, 1, 1, 1))
    frames, _ = everything(clip)
    expected = np.ascontiguousarray(turn(card(96, 64)))
    assert difference(frames[0].image, expected) <= 6
    info = probe(clip)
    assert (info.width, info.height) == (expected.shape[1], expected.shape[0])


@pytest.mark.parametrize(("ratio", "size"), [(Fraction(4, 3), (128, 64)), (Fraction(2, 3), (96, 96))])
def test_pixels_are_made_square_by_enlarging(tmp_path: Path, ratio: Fraction, size: tuple[int, int]) -> None:
    clip = make_clip(tmp_path / "clip.mp4", sar=ratio, tags=(1, 1, 1, 1))
    frames, _ = everything(clip)
    assert (frames[0].image.shape[1], frames[0].image.shape[0]) == size
    assert difference(frames[0].image, card(*size)) <= 6
    assert any("square" in note for note in probe(clip).notes())


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("libx264", "yuv420p", "mp4"),
        ("libx264", "yuv422p", "mp4"),
        ("libx264", "yuv444p", "mp4"),
        ("libx264", "yuv420p10le", "mp4"),
        ("libx264", "yuv422p10le", "mkv"),
        ("libx265", "yuv444p10le", "mp4"),
        ("libx265", "yuv420p12le", "mkv"),
        ("ffv1", "yuv444p16le", "mkv"),
        ("ffv1", "bgr0", "mkv"),
        ("png", "rgb24", "mov"),
        ("libvpx-vp9", "yuv420p", "webm"),
        ("prores_ks", "yuv422p10le", "mov"),
    ],
)
def test_every_sample_format_gives_the_same_picture(tmp_path: Path, codec: str, pix_fmt: str, suffix: str) -> None:
    options = {"libvpx-vp9": {"lossless": "1", "cpu-used": "8"}, "prores_ks": {"profile": "3"}}.get(codec)
    tags = None if pix_fmt in ("bgr0", "rgb24") else (1, 1, 1, 1)
    clip = make_clip(tmp_path / f"clip.{suffix}", codec=codec, pix_fmt=pix_fmt, options=options, tags=tags)
    frames, warnings = everything(clip)
    assert len(frames) == 8 and not warnings
    # Lossless RGB is exact; the rest within the rounding of YCbCr and the codec.
    assert difference(frames[5].image, card(96, 64, 5)) <= (0 if tags is None else 6)


@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (1, 1, 1, 2), (6, 6, 6, 1), (5, 6, 5, 2), (9, 14, 9, 1)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p10le"])
def test_matrix_and_range_are_those_of_the_tags(tmp_path: Path, tags: tuple[int, int, int, int], pix_fmt: str) -> None:
    clip = make_clip(tmp_path / "clip.mkv", tags=tags, pix_fmt=pix_fmt)
    frames, _ = everything(clip)
    assert difference(frames[0].image, card(96, 64)) <= 6
    colour = probe(clip).colour
    assert not colour.assumed and colour.full_range == (tags[3] == 2)


@pytest.mark.parametrize(("lines", "matrix"), [(64, "smpte170m"), (720, "bt709")])
def test_untagged_is_709_from_720_lines_on(tmp_path: Path, lines: int, matrix: str) -> None:
    clip = make_clip(tmp_path / "clip.avi", size=(64, lines), codec="mpeg4", options={"qscale": "1"}, ticks=range(2))
    colour = probe(clip).colour
    assert colour.matrix == matrix and set(colour.assumed) == {"primaries", "transfer", "matrix", "range"}
    assert any("assumed" in note and matrix in note for note in probe(clip).notes())


@pytest.mark.parametrize("level", [1, 2])
def test_grey_keeps_its_range(tmp_path: Path, level: int) -> None:
    clip = make_clip(tmp_path / "clip.mkv", pix_fmt="gray", tags=(1, 1, 1, level), picture=_ramp)
    frames, _ = everything(clip)
    assert np.abs(frames[0].image.astype(int) - _ramp(96, 64, 0)).max() <= (20 if level == 1 else 6)
    # What the ends of the ramp say is the range, not the codec.
    assert frames[0].image[:, 0].max() <= 2 and frames[0].image[:, -1].min() >= 253


def _ramp(width: int, height: int, _: int) -> NDArray[np.uint8]:
    line = np.linspace(0, 255, width).astype(np.uint8)
    return np.repeat(np.repeat(line[None, :, None], height, axis=0), 3, axis=2)


def test_transparency_is_laid_over_black(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mov", codec="png", pix_fmt="rgba", picture=card)
    frames, _ = everything(clip)
    assert difference(frames[0].image, card(96, 64)) == 0  # opaque
    assert probe(clip).alpha


@pytest.mark.parametrize("size", [(95, 63), (33, 48), (64, 37), (17, 17)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = make_clip(tmp_path / "clip.mkv", size=size, codec="ffv1", tags=(1, 1, 1, 1))
    frames, _ = everything(clip)
    assert difference(frames[0].image, card(*size)) <= 6


def test_varying_frame_rate_keeps_every_time(tmp_path: Path) -> None:
    ticks = (0, 400, 500, 1700, 1733, 2000)
    clip = make_clip(tmp_path / "clip.mkv", ticks=ticks, base=Fraction(1, 1000), last=300)
    frames, warnings = everything(clip)
    assert [f.pts for f in frames] == list(ticks)
    assert [f.seconds for f in frames] == [t / 1000 for t in ticks]
    assert [f.duration for f in frames[:-1]] == pytest.approx([0.4, 0.1, 1.2, 0.033, 0.267])
    assert not warnings


def test_a_late_start_counts_from_the_first_frame(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", ticks=range(12, 20))
    frames, _ = everything(clip)
    assert frames[0].seconds == 0 and frames[0].pts * probe(clip).time_base == Fraction(1, 2)


def test_a_negative_start_is_kept(tmp_path: Path) -> None:
    asis = {"avoid_negative_ts": "disabled"}
    clip = make_clip(tmp_path / "clip.ts", ticks=range(-5, 5), base=Fraction(1, 25), muxer=asis)
    frames, warnings = everything(clip)
    assert len(frames) == 10 and frames[0].pts < 0 and not warnings
    assert [f.seconds for f in frames] == pytest.approx([i / 25 for i in range(10)])


def test_missing_timestamps_are_repaired(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.h264", ticks=range(20), picture=moving)
    frames, _ = everything(clip)
    seconds = [f.seconds for f in frames]
    assert len(frames) == 20 and all(b > a for a, b in pairwise(seconds))


def test_one_single_frame(tmp_path: Path) -> None:
    frames, warnings = everything(make_clip(tmp_path / "clip.mp4", ticks=[0]))
    assert len(frames) == 1 and frames[0].duration == pytest.approx(1 / 24) and not warnings


def test_a_truncated_file_gives_what_is_whole_and_says_so(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", ticks=range(60), picture=moving, options={"crf": "20", "g": "10"})
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    frames, warnings = everything(clip)
    assert 10 < len(frames) < 50
    assert difference(frames[9].image, moving(96, 64, 9)) < 60
    faststart = make_clip(tmp_path / "whole.mp4", ticks=range(60), picture=moving, options={"crf": "20", "g": "10"})
    data = _moov_first(faststart, tmp_path / "front.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    frames, warnings = everything(tmp_path / "cut.mp4")
    assert 10 < len(frames) < 50
    assert any("truncated" in line for line in warnings)


@pytest.mark.parametrize(("shown", "skipped", "count"), [(800, 0, 20), (800, 7, 20), (1667 - 7 * 42, 7, 33)])
def test_edit_lists_trim_without_a_warning(tmp_path: Path, shown: int, skipped: int, count: int) -> None:
    clip = make_clip(tmp_path / "clip.mp4", ticks=range(40), picture=moving, options={"g": "10"}, tags=(1, 1, 1, 1))
    data = bytearray(clip.read_bytes())
    place = data.index(b"elst") + 12
    _, media_time = struct.unpack(">Ii", data[place : place + 8])
    data[place : place + 8] = struct.pack(">Ii", shown, media_time + 512 * skipped)
    clip.write_bytes(bytes(data))
    frames, warnings = everything(clip)
    assert len(frames) == count and not warnings and frames[0].pts == 0
    assert difference(frames[0].image, moving(96, 64, skipped)) < 80
    assert np.abs(frames[0].image.astype(int) - moving(96, 64, skipped)).mean() < 6


def _moov_first(source: Path, path: Path) -> Path:
    import av

    with av.open(str(source)) as old, av.open(str(path), "w", options={"movflags": "+faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return path


def _damaged(clip: Path, length: int = 3000) -> Path:
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle : middle + length] = bytes(length)
    clip.write_bytes(bytes(data))
    return clip


@pytest.mark.parametrize(
    ("suffix", "told"), [("mp4", "damaged packets"), ("ts", "damaged packets"), ("mkv", "ends at")]
)
def test_damage_in_the_middle_is_survived_and_told(tmp_path: Path, suffix: str, told: str) -> None:
    options = {"crf": "10", "g": "10"}
    clip = make_clip(tmp_path / f"clip.{suffix}", ticks=range(40), options=options, picture=moving)
    frames, warnings = everything(_damaged(clip))
    assert 12 < len(frames) < 40
    assert any(told in line for line in warnings) or any("at least 1 frames are damaged" in line for line in warnings)


def test_a_change_of_size_is_scaled_to_the_first(tmp_path: Path) -> None:
    parts = [make_clip(tmp_path / f"{i}.ts", size=s, ticks=range(5), tags=(1, 1, 1, 1)) for i, s in _SIZES]
    clip = tmp_path / "clip.ts"
    clip.write_bytes(b"".join(p.read_bytes() for p in parts))
    frames, warnings = everything(clip)
    assert {f.image.shape for f in frames} == {(64, 96, 3)} and len(frames) == 10
    assert difference(frames[-1].image, card(96, 64, 4)) <= 8
    assert any("changes size" in line for line in warnings)
    seconds = [f.seconds for f in frames]
    assert all(b > a for a, b in pairwise(seconds))


_SIZES = [(0, (96, 64)), (1, (128, 80))]


def test_progress_and_early_close(tmp_path: Path) -> None:
    clip, seen = make_clip(tmp_path / "clip.mp4"), list[int]()
    list(decode(clip, progress=seen.append))
    assert seen == list(range(1, 9))
    with decode(clip) as frames:
        next(frames)
    with pytest.raises(InputError, match=r"clip\.mp4"):
        clip.unlink()
        decode(clip)
