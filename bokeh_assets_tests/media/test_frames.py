"""Frame folders: integer names, numeric order, one size, clear errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bokeh_assets.errors import InputError
from bokeh_assets.media.frames import FrameFolder, Frames, MapFolder, spooled, write_picture


def pictures(count: int = 3, size: tuple[int, int] = (21, 34)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def test_png_gives_back_every_bit_in_numeric_order(tmp_path: Path) -> None:
    frames = pictures(11)
    for i in (10, *range(10)):
        write_picture(tmp_path / f"{i}.png", frames[i])
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "frames.parquet").write_bytes(b"x")
    (tmp_path / "12_zf_0.5.png").write_bytes(b"x")
    folder = FrameFolder(tmp_path)
    assert isinstance(folder, Frames)
    assert len(folder) == 11 and folder.size == (34, 21)
    assert all((a == b).all() for a, b in zip(folder, frames, strict=True))
    assert (folder[-1] == frames[10]).all()
    with pytest.raises(IndexError):
        folder[11]


def test_jpg_comes_close(tmp_path: Path) -> None:
    smooth = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 48, axis=0).repeat(3, axis=2)
    write_picture(tmp_path / "00000.jpg", smooth)
    assert np.abs(FrameFolder(tmp_path)[0].astype(int) - smooth).max() <= 4


def test_folder_errors_name_the_thing(tmp_path: Path) -> None:
    frames = pictures(3)
    with pytest.raises(InputError, match="not a folder"):
        FrameFolder(tmp_path / "absent")
    with pytest.raises(InputError, match="no numbered picture"):
        FrameFolder(tmp_path)
    write_picture(tmp_path / "00000.png", frames[0])
    write_picture(tmp_path / "00002.png", frames[2])
    with pytest.raises(InputError, match="00001 is missing"):
        FrameFolder(tmp_path)
    write_picture(tmp_path / "00001.png", frames[1][:-2])
    with pytest.raises(InputError, match=r"00001\.png is 34x19"):
        FrameFolder(tmp_path)[1]
    (tmp_path / "00001.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"00001\.png is not a readable"):
        FrameFolder(tmp_path)[1]
    write_picture(tmp_path / "2.jpg", frames[0])
    with pytest.raises(InputError, match="same frame"):
        FrameFolder(tmp_path)


@pytest.mark.parametrize("name", ["{:05d}.png", "{:05d}_zf_0.53367.png", "{:05d}_zf_0.5_k_16.png"])
def test_maps_are_read_as_0_to_1_whatever_follows_the_number(tmp_path: Path, name: str) -> None:
    grey = pictures()[..., 0]
    for i in range(3):
        write_picture(tmp_path / name.format(i), grey[i])
    maps = MapFolder(tmp_path)
    assert len(maps) == 3 and maps[1].dtype == np.float32
    np.testing.assert_array_equal(maps[1], grey[1].astype(np.float32) / 255)
    np.testing.assert_array_equal(maps.raw(2), grey[2])


def test_a_colour_picture_is_no_map(tmp_path: Path) -> None:
    write_picture(tmp_path / "0.png", pictures()[0])
    with pytest.raises(InputError, match="colour picture"):
        MapFolder(tmp_path)


def test_writing_refuses_what_is_no_picture_and_tells_failures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        write_picture(tmp_path / "0.png", np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"\.png or \.jpg"):
        write_picture(tmp_path / "0.gif", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(OSError):
        write_picture(tmp_path / "absent" / "0.png", np.zeros((4, 4, 3), np.uint8))


def test_a_generator_is_spooled_and_a_sequence_passed_through() -> None:
    frames = pictures(5)
    with spooled(frame for frame in frames) as held:
        assert len(held) == 5
        assert (held[3] == frames[3]).all() and (held[-1] == frames[4]).all()
        assert all((a == b).all() for a, b in zip(held, frames, strict=True))
        with pytest.raises(IndexError):
            held[5]
    as_list = list(frames)
    with spooled(as_list) as held:
        assert held is as_list


def test_spooling_refuses_a_change_of_size() -> None:
    with pytest.raises(ValueError, match="frame 1"), spooled(iter([pictures()[0], pictures()[0][1:]])):
        pass
