"""Source to frames to video again: count, times, size, sound and colours are those of the source."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest

from bokeh_assets.errors import InputError
from bokeh_assets.media.decode import decode
from bokeh_assets.media.encode import EncodeReport, encode
from bokeh_assets.media.extract import FramesReport, extract_frames
from bokeh_assets.media.frames import FrameFolder
from bokeh_assets.media.presentation import read_presentation
from bokeh_assets.media.probe import VideoInfo, probe
from bokeh_assets.media.timing import read_timing
from bokeh_assets_tests.media.clips import audio_packets, audio_times, card, make_clip, moving

TURNED = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)


@dataclass
class Trip:
    source: Path
    result: Path
    frames: FramesReport
    encoded: EncodeReport
    info: VideoInfo


def trip(source: Path, **options: Any) -> Trip:
    folder = source.parent / "frames"
    frames = extract_frames(source, folder)
    timing, _ = read_timing(folder / "frames.parquet")
    result = source.parent / "result.mp4"
    encoded = encode(FrameFolder(folder), result, timing=timing, source=source, **options)
    return Trip(source, result, frames, encoded, probe(result))


def times(path: Path) -> list[Fraction]:
    base = probe(path).time_base
    return [f.pts * base for f in decode(path)]


def total(path: Path) -> float:
    return sum(f.duration for f in decode(path))


def check(made: Trip, *, exact_start: bool = True) -> None:
    """What must hold for every source."""
    before, after = times(made.source), times(made.result)
    assert made.frames.count == made.encoded.frames == len(before) == len(after)
    start = Fraction(0) if exact_start else before[0] - after[0]
    assert [t - start for t in before] == after
    assert total(made.result) == pytest.approx(total(made.source), abs=1e-6)
    # What players and ffprobe read: the length of the track, without decoding.
    shown = read_presentation(made.result)
    assert len(shown.seconds) == len(before)
    assert shown.end == pytest.approx(made.frames.duration, abs=1e-6)
    assert made.info.duration == pytest.approx(made.frames.duration, abs=1e-4)
    source = probe(made.source)
    assert (made.info.width, made.info.height) == (source.width, source.height)
    assert (made.info.coded_width, made.info.coded_height) == (source.width, source.height)
    assert made.info.rotation == 0 and made.info.sample_aspect_ratio == 1
    assert not made.info.colour.assumed and not made.info.colour.full_range


def test_an_ordinary_clip(tmp_path: Path) -> None:
    made = trip(make_clip(tmp_path / "clip.mp4", ticks=range(40), picture=moving, tags=(1, 1, 1, 1), title="A walk"))
    check(made)
    assert made.info.codec == "h264" and made.info.pix_fmt == "yuv420p" and made.info.title == "A walk"
    assert made.info.colour.matrix == made.info.colour.primaries == made.info.colour.transfer == "bt709"
    assert not made.encoded.audio and not made.encoded.notes
    both = zip(decode(made.source), decode(made.result), strict=True)
    errors = [np.abs(a.image.astype(int) - b.image).mean() for a, b in both]
    assert max(errors) < 5
    with av.open(str(made.result)) as file:
        assert file.streams.video[0].codec_context.profile == "High"
    data = made.result.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "faststart: the index comes first"
    assert b"colr" in data and b"nclx" in data


VARYING = {
    "phone": [0, 33, 67, 100, 133, 166, 200, 234, 267, 300, 333],
    "screen": [0, 400, 500, 1700, 1733, 2000, 2010, 2020, 9000],
    "late": [500, 533, 566, 700],
    "slow first": [0, 5000, 5033, 5066, 5100, 5133, 5166, 5200, 5233],
}


@pytest.mark.parametrize("name", VARYING)
def test_varying_frame_rate(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / "clip.mkv", ticks=VARYING[name], base=Fraction(1, 1000), last=250, picture=moving)
    check(trip(clip))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_varying_frame_rate_in_mp4_with_a_long_last_frame(tmp_path: Path, codec: str) -> None:
    clip = make_clip(
        tmp_path / "clip.mp4",
        ticks=[0, 1000, 3000, 3500, 9000],
        base=Fraction(1, 12_800),
        last=7000,
        codec=codec,
        options={"bf": "0"},
    )
    made = trip(clip)
    check(made)
    assert made.frames.duration == pytest.approx(16_000 / 12_800)
    assert any("variable" in note for note in made.encoded.notes)


def test_ntsc_rate_is_not_rounded(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", ticks=range(0, 30 * 1001, 1001), base=Fraction(1, 30_000), picture=moving)
    made = trip(clip)
    check(made)
    assert made.frames.fps == pytest.approx(30_000 / 1001, rel=1e-6)


@pytest.mark.parametrize("size", [(95, 64), (96, 63), (33, 35)])
def test_odd_sizes_stay_what_they_are(tmp_path: Path, size: tuple[int, int]) -> None:
    made = trip(make_clip(tmp_path / "clip.mkv", size=size, codec="ffv1", picture=moving, tags=(1, 1, 1, 1)))
    check(made)
    assert made.info.pix_fmt == "yuv444p" and any("odd size" in note for note in made.encoded.notes)


def test_portrait_from_a_phone(tmp_path: Path) -> None:
    made = trip(make_clip(tmp_path / "clip.mp4", display=TURNED, audio="aac", tags=(1, 1, 1, 1)))
    check(made)
    assert (made.info.width, made.info.height) == (64, 96)
    image = next(decode(made.result)).image
    assert np.abs(image[10, 54].astype(int) - card(96, 64)[10, 10]).max() < 12  # red has gone to the top right
    assert audio_packets(made.result) == audio_packets(made.source)


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "tags"),
    [
        ("yuv444p", "libx264", (1, 1, 1, 1)),
        ("yuv422p10le", "libx264", (1, 1, 1, 1)),
        ("yuv420p10le", "libx265", (1, 1, 1, 1)),
        ("yuv420p", "libx264", (1, 1, 1, 2)),
        ("yuv420p", "libx264", (6, 6, 6, 1)),
        ("yuv420p", "libx264", (5, 1, 5, 1)),
        ("yuv420p10le", "libx265", (9, 14, 9, 1)),
        ("bgr0", "ffv1", None),
    ],
)
def test_formats_and_colour_tags(
    tmp_path: Path, pix_fmt: str, codec: str, tags: tuple[int, int, int, int] | None
) -> None:
    made = trip(make_clip(tmp_path / "clip.mkv", pix_fmt=pix_fmt, codec=codec, tags=tags))
    check(made)
    source = probe(made.source).colour
    if tags:
        kept = made.info.colour
        assert (kept.primaries, kept.transfer, kept.matrix) == (source.primaries, source.transfer, source.matrix)
    else:
        assert made.info.colour.matrix == "bt709"
    before, after = (next(decode(p)).image[10, 20].astype(int) for p in (made.source, made.result))
    assert np.abs(before - after).max() <= 6


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_becomes_tagged_sdr(tmp_path: Path, transfer: int) -> None:
    made = trip(make_clip(tmp_path / "clip.mkv", pix_fmt="yuv420p10le", codec="libx265", tags=(9, transfer, 9, 1)))
    check(made)
    colour = made.info.colour
    assert (colour.primaries, colour.transfer, colour.matrix) == ("bt709", "bt709", "bt709")
    assert any("tone-mapped" in note for note in made.frames.notes)


def test_square_pixels(tmp_path: Path) -> None:
    made = trip(make_clip(tmp_path / "clip.mp4", sar=Fraction(4, 3), tags=(6, 6, 6, 1)))
    check(made)
    assert made.info.width == 128


def test_one_single_frame(tmp_path: Path) -> None:
    made = trip(make_clip(tmp_path / "clip.mp4", ticks=[0], tags=(1, 1, 1, 1)))
    check(made)
    assert made.frames.count == 1 and made.frames.duration == pytest.approx(1 / 24)


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("aac", "mp4"), ("libmp3lame", "mp4"), ("ac3", "mkv"), ("libopus", "mkv"), ("flac", "mkv"), ("alac", "mov")],
)
def test_sound_is_copied_bit_by_bit_and_stays_in_place(tmp_path: Path, codec: str, suffix: str) -> None:
    clip = make_clip(tmp_path / f"clip.{suffix}", ticks=range(30), audio=codec, audio_seconds=1.25)
    made = trip(clip)
    check(made)
    assert audio_packets(made.result) == audio_packets(clip)
    assert "copied" in made.encoded.audio[0]
    assert audio_times(made.result) == pytest.approx(audio_times(clip), abs=1.1e-3)


def test_sound_that_begins_late_still_does(tmp_path: Path) -> None:
    made = trip(make_clip(tmp_path / "clip.mp4", ticks=range(40), audio="aac", audio_from=0.5))
    check(made)
    assert audio_packets(made.result) == audio_packets(made.source)
    assert audio_times(made.result) == pytest.approx(audio_times(made.source), abs=1e-3)
    assert audio_times(made.result)[0] > 0.4


def test_a_clock_that_starts_anywhere_keeps_picture_and_sound_together(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts", ticks=range(10, 40), audio="aac", audio_from=0.1, picture=moving)
    made = trip(clip)
    check(made, exact_start=False)

    def gap(path: Path) -> float:
        return float(times(path)[0]) - audio_times(path)[0]

    assert gap(made.result) == pytest.approx(gap(clip), abs=1e-3)
    assert "aac copied" in made.encoded.audio[0]


def test_a_negative_start_is_moved_to_zero_with_the_sound(tmp_path: Path) -> None:
    asis = {"avoid_negative_ts": "disabled"}
    clip = make_clip(tmp_path / "clip.ts", ticks=range(-5, 25), base=Fraction(1, 25), muxer=asis, picture=moving)
    made = trip(clip)
    check(made, exact_start=False)
    assert times(made.result)[0] == 0


def test_sound_that_mp4_does_not_take_becomes_aac_and_is_told(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mov", ticks=range(30), audio="pcm_s16le", audio_seconds=1.25)
    made = trip(clip)
    check(made)
    assert probe(made.result).audio[0].codec == "aac"
    assert "pcm_s16le encoded as aac" in made.encoded.audio[0]
    assert audio_times(made.result)[1] == pytest.approx(1.25, abs=0.03)
    loud = _samples(made.result)
    assert np.abs(loud - _samples(clip)[: len(loud)]).max() < 0.08


def _samples(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        resampler = av.AudioResampler("fltp", "stereo", 48_000)
        blocks = [b.to_ndarray()[0] for f in file.decode(audio=0) for b in resampler.resample(f)]
    return np.concatenate(blocks)[4800:48_000]


def test_two_tracks_with_languages(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "one.mp4", ticks=range(30), audio="aac")
    two = tmp_path / "two.mkv"
    with av.open(str(clip)) as a, av.open(str(clip)) as b, av.open(str(two), "w") as out:
        streams = [out.add_stream_from_template(a.streams.audio[0]), out.add_stream_from_template(a.streams.audio[0])]
        picture = out.add_stream_from_template(a.streams.video[0])
        for stream, language in zip(streams, ("deu", "fra"), strict=True):
            stream.metadata["language"] = language
        for packet in a.demux():
            if packet.dts is not None:
                packet.stream = picture if packet.stream.type == "video" else streams[0]
                out.mux(packet)
        for sound in b.demux(b.streams.audio[0]):
            if sound.dts is not None:
                sound.stream = streams[1]
                out.mux(sound)
    made = trip(two)
    assert [a.language for a in made.info.audio] == ["deu", "fra"]
    assert len(made.encoded.audio) == 2


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_codecs_and_same_bytes_twice(tmp_path: Path, codec: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", ticks=range(20), picture=moving, audio="aac", tags=(1, 1, 1, 1))
    made = trip(clip, codec=codec)
    check(made)
    assert made.info.codec == codec
    first = made.result.read_bytes()
    timing, _ = read_timing(tmp_path / "frames" / "frames.parquet")
    encode(FrameFolder(tmp_path / "frames"), made.result, timing=timing, source=clip, codec=codec)
    assert made.result.read_bytes() == first


def test_same_bytes_whatever_lay_in_memory(tmp_path: Path) -> None:
    # x264's AVX-512 code once read beyond the picture; see x264_params.
    frames = [
        moving(480, 270, i) + np.random.default_rng(i).integers(0, 30, (270, 480, 3), np.uint8) for i in range(12)
    ]
    timing = pd.DataFrame({"seconds": np.arange(12) / 25, "duration": 0.04})
    files = set()
    for seed in range(4):
        dirt = [np.random.default_rng(seed).integers(0, 255, 40_000 * k, np.uint8) for k in range(1, 30)]
        del dirt
        files.add(encode(frames, tmp_path / "out.mp4", timing=timing).path.read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_odd_sizes_in_other_codecs(tmp_path: Path, codec: str) -> None:
    clip = make_clip(tmp_path / "clip.mkv", size=(95, 71), codec="ffv1", picture=moving, tags=(1, 1, 1, 1))
    check(trip(clip, codec=codec))


def test_frames_and_times_must_agree_in_number(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    extract_frames(clip, tmp_path / "frames")
    frames = list(FrameFolder(tmp_path / "frames"))
    timing, _ = read_timing(tmp_path / "frames" / "frames.parquet")
    with pytest.raises(InputError, match="7 frames, but the timing lists 8"):
        encode(iter(frames[:7]), tmp_path / "out.mp4", timing=timing)
    with pytest.raises(InputError, match="more frames than the 8"):
        encode(iter([*frames, frames[0]]), tmp_path / "out.mp4", timing=timing)
    with pytest.raises(InputError, match="0 frames"):
        encode(iter([]), tmp_path / "out.mp4", timing=timing)
    with pytest.raises(InputError, match="frame 3"):
        encode(iter([*frames[:3], frames[3][2:], *frames[4:]]), tmp_path / "out.mp4", timing=timing)
    with pytest.raises(InputError, match="vp8 is not one of h264"):
        encode(frames, tmp_path / "out.mp4", timing=timing, codec="vp8")
    with pytest.raises(InputError, match="quality 99"):
        encode(frames, tmp_path / "out.mp4", timing=timing, quality=99)


def test_without_a_source_seconds_count(tmp_path: Path) -> None:
    timing = pd.DataFrame({"index": range(5), "pts": 0, "seconds": np.arange(5) / 25, "duration": 0.04, "shot": 0})
    seen: list[int] = []
    frames = (moving(64, 48, i) for i in range(5))
    report = encode(frames, tmp_path / "out.mp4", timing=timing, progress=seen.append)
    assert report.frames == 5 and seen == [1, 2, 3, 4, 5]
    assert [f.seconds for f in decode(report.path)] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16], abs=1e-5)
    assert probe(report.path).colour.matrix == "bt709"


def test_better_quality_is_closer_and_larger(tmp_path: Path) -> None:
    frames = [np.random.default_rng(i).integers(0, 255, (64, 96, 3), dtype=np.uint8) for i in range(4)]
    timing = pd.DataFrame({"seconds": np.arange(4) / 25, "duration": 0.04})
    sizes = [encode(frames, tmp_path / f"{q}.mp4", timing=timing, quality=q).bytes for q in (10, 30)]
    assert sizes[0] > 1.5 * sizes[1]


def test_extraction_writes_the_table_and_tells_the_facts(tmp_path: Path) -> None:
    other = lambda w, h, i: card(w, h, i) if i < 12 else moving(w, h, i)  # noqa: E731
    clip = make_clip(tmp_path / "clip.mp4", size=(160, 96), ticks=range(24), picture=other, audio="aac")
    seen: list[int] = []
    report = extract_frames(clip, tmp_path / "frames", progress=seen.append)
    assert seen == list(range(1, 25))
    names = sorted(p.name for p in (tmp_path / "frames").glob("*.png"))
    assert names == [f"{i:05d}.png" for i in range(24)]
    timing, facts = read_timing(tmp_path / "frames" / "frames.parquet")
    assert list(timing.columns) == ["index", "pts", "seconds", "duration", "shot"]
    assert timing["index"].tolist() == list(range(24))
    assert timing["shot"].tolist() == [0] * 12 + [1] * 12 and report.shots == 2
    assert facts["sha256"] == report.sha256 and facts["audio"][0]["codec"] == "aac"
    assert timing.attrs["time_base"] == facts["time_base"]
    assert report.fps == pytest.approx(24) and report.duration == pytest.approx(1.0)
    first = next(decode(clip)).image
    assert (FrameFolder(tmp_path / "frames")[0] == first).all()
    with pytest.raises(InputError, match="holds numbered pictures"):
        extract_frames(clip, tmp_path / "frames")
    jpg = extract_frames(clip, tmp_path / "jpg", format="jpg")
    assert jpg.count == 24 and np.abs(FrameFolder(tmp_path / "jpg")[0].astype(int) - first).mean() < 3
    with pytest.raises(InputError, match="png or jpg"):
        extract_frames(clip, tmp_path / "tif", format="tif")


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from bokeh_assets.media import extract

    def full(path: Path, _: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(extract, "write_picture", full)
    with pytest.raises(InputError, match="no space left"):
        extract_frames(make_clip(tmp_path / "clip.mp4"), tmp_path / "frames")
    if Path("/dev/full").exists():
        timing = pd.DataFrame({"seconds": [0.0], "duration": [0.04]})
        (tmp_path / "out.mp4").symlink_to("/dev/full")
        with pytest.raises((InputError, OSError)):
            encode([card(64, 48)], tmp_path / "out.mp4", timing=timing)


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_timing(tmp_path / "frames.parquet")
    (tmp_path / "frames.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match="not a table"):
        read_timing(tmp_path / "frames.parquet")


_MEMORY = """
import resource, sys
from pathlib import Path
from bokeh_assets.media.encode import encode
from bokeh_assets.media.extract import extract_frames
from bokeh_assets.media.frames import FrameFolder
from bokeh_assets.media.timing import read_timing
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
extract_frames(source, folder, format="jpg")
timing, _ = read_timing(folder / "frames.parquet")
encode(FrameFolder(folder), folder / "out.mp4", timing=timing, source=source)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    peaks = []
    for count in (100, 1000):
        clip = make_clip(tmp_path / f"{count}.mp4", size=(320, 192), ticks=range(count), picture=moving, audio="aac",
                         audio_seconds=count / 24, options={"preset": "ultrafast"})  # fmt: skip
        command = [sys.executable, "-c", _MEMORY, str(clip), str(tmp_path / f"frames{count}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.strip()) * (1 if sys.platform == "darwin" else 1024))
    frame = 320 * 192 * 3
    assert peaks[1] - peaks[0] < 100 * frame, "900 more frames must not cost the memory of 100"


def test_real_footage(shared: Path, tmp_path: Path) -> None:
    source = tmp_path / "rollercoaster.mp4"
    source.symlink_to(shared / "media" / "rollercoaster.mp4")
    made = trip(source)
    check(made)
    assert made.frames.count == 70 and made.frames.shots == 1
    for before, after in zip(decode(source), decode(made.result), strict=True):
        error = np.mean((before.image.astype(float) - after.image) ** 2)
        assert 10 * np.log10(255**2 / error) > 33


def test_a_picture_shown_for_an_hour_on_a_fine_clock_keeps_its_time(tmp_path: Path) -> None:
    ticks, base = (0, 1, 3_600_000_001, 3_600_040_001), Fraction(1, 1_000_000)
    frames = [card(96, 64, i) for i in range(4)]
    seconds = [float(tick * base) for tick in ticks]
    table = pd.DataFrame({"pts": ticks, "seconds": seconds, "duration": [1e-6, 3600.0, 0.04, 0.04]})
    table.attrs["time_base"] = str(base)
    report = encode(iter(frames), tmp_path / "out.mp4", timing=table)
    shown = read_presentation(tmp_path / "out.mp4")
    assert any("so long" in note for note in report.notes)
    np.testing.assert_allclose(shown.seconds, seconds, atol=1e-5)
