"""Keys, paths, atomic writes and the record of what was made."""

import os
from pathlib import Path

import pytest

from bokeh_assets.atomic import TEMPORARY, new_file, new_folder
from bokeh_assets.errors import InputError
from bokeh_assets.partitions import check_key, fingerprint, key_for
from bokeh_assets.store import VideoStore, check_space


@pytest.mark.parametrize(
    "key", ["", ".", "..", "../x", "a/b", "a\\b", "/etc", "a..b", "A", "é", "a\n", "a b", "-a", "x" * 101, "a\0b"]
)
def test_a_key_that_may_not_name_a_folder_is_refused(key: str, tmp_path: Path):
    with pytest.raises(InputError, match="partition key"):
        VideoStore(tmp_path).video(key)


@pytest.mark.parametrize("key", ["a", "bedroom-0011aaff", "a.b_c-d", "0" * 100])
def test_a_plain_key_is_accepted(key: str):
    assert check_key(key) == key


@pytest.mark.parametrize(
    "name", ["My Film (final).MP4", "été à la plage.mov", "..mp4", "日本語.mp4", "-- x --.mkv", "a" * 250 + ".mp4"]
)
def test_any_file_name_gives_a_valid_key(name: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(b"bytes")
    key = check_key(key_for(path))
    assert key.endswith(fingerprint(path)[:8])


def test_the_fingerprint_sees_start_middle_end_and_size(tmp_path: Path):
    path, size = tmp_path / "a", 8 << 20
    prints = set()
    for place in (None, 0, size // 2, size - 1):
        data = bytearray(size)
        if place is not None:
            data[place] = 1
        path.write_bytes(data)
        prints.add(fingerprint(path))
    path.write_bytes(bytes(size + 1))
    prints.add(fingerprint(path))
    assert len(prints) == 5


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(TEMPORARY)]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "deep" / "a.txt"
    with pytest.raises(RuntimeError), new_file(target) as path:
        path.write_text("half")
        raise RuntimeError
    assert not target.exists() and not leftovers(tmp_path)
    with new_file(target) as path:
        path.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and not leftovers(tmp_path)


def test_a_folder_replaces_the_one_before_only_when_it_is_whole(tmp_path: Path):
    target = tmp_path / "frames"
    with new_folder(target) as folder:
        (folder / "old.png").write_bytes(b"1")
    with pytest.raises(RuntimeError), new_folder(target) as folder:
        (folder / "new.png").write_bytes(b"2")
        raise RuntimeError
    assert os.listdir(target) == ["old.png"] and not leftovers(tmp_path)
    with new_folder(target) as folder:
        (folder / "new.png").write_bytes(b"2")
    assert os.listdir(target) == ["new.png"] and not leftovers(tmp_path)


def test_the_source_is_a_copy_and_is_kept_only_if_the_work_on_it_succeeds(tmp_path: Path):
    upload = tmp_path / "in" / "film.mp4"
    upload.parent.mkdir()
    upload.write_bytes(b"film")
    video = VideoStore(tmp_path / "data").register(upload)
    with pytest.raises(RuntimeError), video.adopting() as copy:
        assert copy.read_bytes() == b"film" and copy != upload
        raise RuntimeError
    assert video.source is None
    with video.adopting():
        pass
    upload.write_bytes(b"changed by its owner")
    assert video.source is not None and video.source.read_bytes() == b"film"


def test_a_partition_nobody_uploaded_says_so(tmp_path: Path):
    with pytest.raises(InputError, match="no upload belongs"), VideoStore(tmp_path).video("typed-in").adopting():
        pass


def test_an_upload_that_is_gone_is_named(tmp_path: Path):
    upload = tmp_path / "film.mp4"
    upload.write_bytes(b"film")
    video = VideoStore(tmp_path / "data").register(upload)
    upload.unlink()
    with pytest.raises(InputError, match=r"film\.mp4.*gone"), video.adopting():
        pass


def test_what_is_not_made_is_named(tmp_path: Path):
    video = VideoStore(tmp_path).video("a")
    video.record("frames", {"version": "1", "frames": 2})
    with pytest.raises(InputError, match="not there whole"):
        video.need("frames")
    video.frames_table.touch()
    video.frames.mkdir()
    for name in ("00000.png", "00001.png"):
        (video.frames / name).touch()
    assert video.need("frames") == {"frames": {"version": "1", "frames": 2}}
    with pytest.raises(InputError, match="masks has not been made"):
        video.need("frames", "masks")
    video.unmake("frames")
    assert video.made("frames") is None


def test_too_little_space_is_said_before_the_work(tmp_path: Path):
    check_space(tmp_path, 1, "a test")
    with pytest.raises(InputError, match="make room"):
        check_space(tmp_path, 1 << 60, "a test")


def test_an_upload_replaced_before_its_turn_is_taken_as_it_is_and_known_by_what_was_taken(tmp_path: Path):
    upload = tmp_path / "film.mp4"
    upload.write_bytes(b"first")
    store = VideoStore(tmp_path / "data")
    video = store.register(upload)
    upload.write_bytes(b"second")
    with video.adopting() as copy:
        assert copy.read_bytes() == b"second"
    assert video.upload_is(fingerprint(upload))
    upload.unlink()
    with video.adopting() as again:
        assert again == video.source


def test_bytes_registered_while_others_were_adopted_are_not_missed(tmp_path: Path):
    upload = tmp_path / "film.mp4"
    upload.write_bytes(b"first")
    store = VideoStore(tmp_path / "data")
    video = store.register(upload)
    with video.adopting() as copy:
        assert copy.read_bytes() == b"first"
        upload.write_bytes(b"repaired")
        store.register(upload, video.key)
    with video.adopting() as copy:
        assert copy.read_bytes() == b"repaired"
    assert video.source is not None and video.source.read_bytes() == b"repaired"
