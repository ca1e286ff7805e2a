"""What a file is; and what is refused, in one clear line."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest

from bokeh_assets.errors import InputError
from bokeh_assets.media.probe import probe, square_size
from bokeh_assets_tests.media.clips import make_clip, tone


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        probe(path)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


def test_facts_of_an_ordinary_clip(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", size=(96, 64), tags=(1, 1, 1, 1), audio="aac", title="A walk")
    info = probe(clip)
    assert (info.width, info.height, info.codec, info.pix_fmt, info.bit_depth) == (96, 64, "h264", "yuv420p", 8)
    assert info.fps == pytest.approx(24) and info.frames == 8 and info.duration == pytest.approx(8 / 24, abs=1e-3)
    assert info.rotation == 0 and info.sample_aspect_ratio == 1 and info.hdr is None
    assert [(a.codec, a.rate, a.channels) for a in info.audio] == [("aac", 48000, 2)]
    assert info.title == "A walk" and info.notes() == []


def test_portrait_is_what_is_upright(tmp_path: Path) -> None:
    turned = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    info = probe(make_clip(tmp_path / "clip.mp4", size=(96, 64), display=turned))
    assert (info.width, info.height, info.coded_width, info.coded_height, info.rotation) == (64, 96, 96, 64, 90)
    assert any("turned 90 degrees clockwise" in note for note in info.notes())


def test_square_size_enlarges_and_keeps_even_sides_even() -> None:
    assert square_size(720, 576, Fraction(16, 15)) == (768, 576)
    assert square_size(1440, 1080, Fraction(4, 3)) == (1920, 1080)
    assert square_size(720, 480, Fraction(8, 9)) == (720, 540)
    assert square_size(704, 480, Fraction(10, 11)) == (704, 528)
    assert square_size(101, 55, Fraction(2, 1)) == (202, 55)


def test_missing_folder_empty_and_text(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "absent.mp4")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "is empty" in refusal(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("not a video\n" * 500)
    assert "not a video" in refusal(tmp_path / "text.mp4")


def test_sound_alone_and_cover_art_are_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=48000)
        for frame in tone(0.5, 48000):
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert "only sound" in refusal(tmp_path / "sound.m4a")
    with av.open(str(tmp_path / "song.mp3"), "w") as file:
        stream = file.add_stream("libmp3lame", rate=48000)
        cover = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        file.mux(cover.encode(av.VideoFrame(32, 32, "yuvj420p")))
        for frame in tone(0.5, 48000):
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    line = refusal(tmp_path / "song.mp3")
    assert "no video" in line or "not a video" in line


def test_cover_art_beside_no_picture_in_mp4(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=48000)
        cover = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        file.mux(cover.encode(av.VideoFrame(32, 32, "yuvj420p")))
        for frame in tone(0.5, 48000):
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert "cover art" in refusal(tmp_path / "song.mp4")


def test_a_video_stream_without_a_frame(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", options={"crf": "20"})
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as file:
        places = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    for pos, size in places:
        assert pos is not None
        data[pos + 8 : pos + size] = bytes(size - 8)
    clip.write_bytes(bytes(data))
    assert "no frame that can be decoded" in refusal(clip)


def test_mp4_without_its_index(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", ticks=range(40))
    clip.write_bytes(clip.read_bytes()[:-2000])
    assert "clip.mp4" in refusal(clip)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"),
        ("list.txt", "ffconcat version 1.0\nfile '{target}'\n"),
        ("list.mov", "ffconcat version 1.0\nfile '{target}'\n"),
        ("list.mpd", '<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet><Representation id="a">'
         "<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"),
    ],
)  # fmt: skip
def test_a_playlist_never_opens_another_file(tmp_path: Path, name: str, text: str) -> None:
    target = make_clip(tmp_path / "secret.ts")
    (tmp_path / name).write_text(text.format(target=target))
    refusal(tmp_path / name)


def test_an_mp4_never_follows_a_reference_to_another_file(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mov", codec="mpeg4", options={})
    data = clip.read_bytes()
    # A data reference that says "this file" (flags 1) turned into one that names another.
    place = data.index(b"url \x00\x00\x00\x01") + 4
    clip.write_bytes(data[:place] + b"\x00\x00\x00\x00" + data[place + 4 :])
    # Whatever FFmpeg makes of it, it reads this file or none.
    try:
        assert probe(clip).codec == "mpeg4"
    except InputError as error:
        assert "\n" not in str(error)


def test_a_name_like_an_address_is_a_file_name(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    odd = tmp_path / "concat:a|b %03d.mp4"
    clip.rename(odd)
    assert probe(odd).frames == 8


def test_the_package_loads_nothing_heavy() -> None:
    code = "import sys, bokeh_assets.media; print([m for m in ('av', 'cv2', 'torch', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
