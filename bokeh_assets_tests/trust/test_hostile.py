"""Every hostile file ends as accepted and right or as one clear line, and none reaches for anything else."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from bokeh_assets_tests.trust.corpus import files
from bokeh_assets_tests.trust.hostile import rows
from bokeh_assets_tests.trust.judging import LIMITS, Trap, Verdict, judge_all, render, trap

Judged = tuple[dict[str, Verdict], Trap]
SHORT = [case for case in files() if case.short != "skip"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    verdicts, snare = judge_all(SHORT, tmp_path_factory.mktemp("hostile"), everything=False)
    return {verdict.case.name: verdict for verdict in verdicts}, snare


@pytest.mark.parametrize("name", [case.name for case in SHORT])
def test_accepted_and_right_or_one_clear_error(name: str, judged: Judged) -> None:
    verdict = judged[0][name]
    assert not verdict.fault
    assert verdict.seconds < LIMITS.patience


def test_nothing_reached_for_another_file_or_address(judged: Judged) -> None:
    _, snare = judged
    assert not snare.sprung and not snare.calls


def test_the_corpus_is_large_and_of_every_kind(judged: Judged) -> None:
    table = rows(list(judged[0].values()), judged[1])
    assert sum(row.tried for row in table[:-1]) >= 120
    assert {row.kind for row in table} >= {
        *("truncated", "zero", "random", "wrong extension", "playlist", "bomb", "resolution", "keyframe"),
        *("timestamps", "no video", "encrypted", "pixels", "tracks", "tags"),
    }
    assert all(row.lost == 0 for row in table)


RENDERED = [
    *("wrapped.flv", "random.flv", "gap_of_days.mkv", "one_frame_for_hours.mp4", "million_fps.mkv"),
    *("fifty_tracks.mkv", "larger_later.mkv", "not_utf8_title.mkv", "control_title.mp4", "gray10le.nut.mp4"),
]


@pytest.mark.parametrize("name", RENDERED)
def test_what_was_accepted_can_be_rendered(name: str, tmp_path: Path) -> None:
    (case,) = [case for case in files() if case.name == name]
    case.make(tmp_path / name)
    assert not render(case, tmp_path / name, tmp_path)


@pytest.mark.parametrize("name", ["concat_file.mp4", "hls_file.m3u8.mp4", "hls_net.m3u8.mp4"])
def test_the_tricks_work_on_a_careless_reader(name: str, tmp_path: Path) -> None:
    """Or the trap would prove nothing."""
    (case,) = [case for case in files() if case.name == name]
    careless = {"safe": "0", "allowed_extensions": "ALL", "extension_picky": "0", "protocol_whitelist": "file,http,tcp"}
    with trap(tmp_path) as snare:
        path = tmp_path / name.removesuffix(".mp4")
        case.make(path)
        snare.opened()
        try:
            with av.open(str(path), container_options=careless) as file:
                next(file.decode(video=0), None)
        except (av.FFmpegError, OSError):
            pass
        assert snare.opened() or snare.calls


@pytest.mark.slow
def test_all_that_is_accepted_can_be_rendered(tmp_path: Path) -> None:
    faults = []
    for number, case in enumerate(files()):
        if case.frames is not None:
            folder = tmp_path / str(number)
            folder.mkdir()
            with trap(folder):
                case.make(folder / case.name)
                faults += [f"{case.name}: {fault}" for fault in [render(case, folder / case.name, folder)] if fault]
    assert faults == []


@pytest.mark.slow
def test_the_whole_corpus_extracted(tmp_path: Path) -> None:
    verdicts, snare = judge_all(files(long=True), tmp_path, everything=True)
    assert [f"{verdict.case.name}: {verdict.fault}" for verdict in verdicts if verdict.fault] == []
    assert not snare.sprung and not snare.calls
