"""Any-to-bokeh's CSV and folders: what is written loads by its own rules, and whatever it ships is read."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bokeh_assets.errors import InputError
from bokeh_assets.media.frames import write_picture
from bokeh_assets.rendering.layout import read_csv, write_layout

RNG = np.random.default_rng(0)


def make_frames(folder: Path, count: int = 3, size: tuple[int, int] = (6, 8), suffix: str = ".png") -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        write_picture(folder / f"{i:05d}{suffix}", RNG.integers(0, 256, (*size, 3), np.uint8))
    return folder


def make_maps(folder: Path, names: list[str], size: tuple[int, int] = (6, 8)) -> list[Path]:
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        write_picture(folder / name, np.full(size, 40 + i, np.uint8))
    return [folder / name for name in names]


def focus_table(k: list[float], zf: list[float] | None = None, shot: list[int] | None = None) -> pd.DataFrame:
    return pd.DataFrame({"frame": range(len(k)), "zf": zf or [0.5] * len(k), "k": k, "shot": shot or [0] * len(k)})


def load_as_upstream(csv_path: Path) -> list[tuple[list[str], list[str], list[float], list[float]]]:
    """The rules of any-to-bokeh's data set: columns by name, sorted by leading number, values from the names."""
    table = pd.read_csv(csv_path)

    def number(name: str) -> int:
        return int(name.split("_")[0].split(".")[0])

    videos = []
    for aif, disp, k in zip(table["aif_folder"], table["disp_folder"], table["k"], strict=True):
        frames, maps = sorted(os.listdir(aif), key=number), sorted(os.listdir(disp), key=number)
        if k == "change":
            strengths = [float(name.split("_k_")[1].replace(".png", "")) for name in maps]
            planes = [float(name.split("zf_")[1].split("_k_")[0]) for name in maps]
        else:
            strengths = [float(k)] * len(maps)
            planes = [float(name.split("zf_")[1].replace(".png", "")) for name in maps]
        videos.append((frames, maps, planes, strengths))
    return videos


@pytest.mark.parametrize(
    ("zf", "k"),
    [
        ([0.5, 0.5, 0.5], [16.0, 16.0, 16.0]),
        ([0.5, 0.5, 0.5], [0.0, 7.5, 24.0]),
        ([0.9, 0.533671, 0.1], [16.0, 16.0, 16.0]),
    ],
    ids=["fixed", "changing k", "changing focus"],
)
def test_what_is_written_loads_by_upstreams_rules_and_by_ours(tmp_path, monkeypatch, zf, k):
    frames = make_frames(tmp_path / "frames")
    maps = make_maps(tmp_path / "disparity", [f"{i:05d}.png" for i in range(3)])
    table = write_layout(tmp_path / "render", maps, frames, focus_table(k, zf))
    monkeypatch.chdir(tmp_path / "render")
    [(aif, disp, planes, strengths)] = load_as_upstream(table)
    assert aif == ["00000.png", "00001.png", "00002.png"] and len(disp) == 3
    assert planes == pytest.approx(zf, abs=5e-6) and strengths == k

    monkeypatch.chdir(tmp_path)
    [row] = read_csv(table)
    assert row.focus["zf"].tolist() == planes and row.focus["k"].tolist() == k
    assert row.name == "frames" and row.mattes is None
    assert [int(m[0, 0] * 255 + 0.5) for m in row.disparity] == [40, 41, 42]


def test_names_carry_five_decimals_and_k_only_where_it_changes(tmp_path):
    frames = make_frames(tmp_path / "frames", 2)
    maps = make_maps(tmp_path / "disparity", ["00000.png", "00001.png"])
    still = write_layout(tmp_path / "a", maps, frames, focus_table([16, 16], [0.533671, 1]))
    moving = write_layout(tmp_path / "b", maps, frames, focus_table([16, 7.5], [0.533671, 1]))
    assert sorted(os.listdir(tmp_path / "a/disp")) == ["00000_zf_0.53367.png", "00001_zf_1.00000.png"]
    assert sorted(os.listdir(tmp_path / "b/disp")) == ["00000_zf_0.53367_k_16.png", "00001_zf_1.00000_k_7.5.png"]
    assert still.read_text() == "aif_folder,disp_folder,k\n../frames,disp,16\n"
    assert moving.read_text() == "aif_folder,disp_folder,k\n../frames,disp,change\n"


def test_files_are_linked_and_arrays_written_as_eight_bit(tmp_path):
    frames = make_frames(tmp_path / "frames", 2)
    maps = make_maps(tmp_path / "disparity", ["00000.png", "00001.png"])
    write_layout(tmp_path / "linked", maps, frames, focus_table([16, 16]))
    assert (tmp_path / "linked/disp/00001_zf_0.50000.png").samefile(maps[1])

    arrays = [np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8) for _ in range(2)]
    table = write_layout(tmp_path / "made", iter(arrays), frames, focus_table([16, 16]))
    assert np.abs(read_csv(table)[0].disparity[1] - arrays[1]).max() <= 0.5 / 255 + 1e-6


def test_maps_are_copied_where_links_are_refused(tmp_path, monkeypatch):
    frames = make_frames(tmp_path / "frames", 1)
    maps = make_maps(tmp_path / "disparity", ["00000.png"])

    def refuse(*_):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    write_layout(tmp_path / "render", maps, frames, focus_table([16]))
    copy = tmp_path / "render/disp/00000_zf_0.50000.png"
    assert copy.read_bytes() == maps[0].read_bytes() and not copy.samefile(maps[0])


def test_mattes_and_cuts_come_back(tmp_path):
    frames = make_frames(tmp_path / "frames", 4)
    maps = make_maps(tmp_path / "disparity", [f"{i:05d}.png" for i in range(4)])
    make_maps(tmp_path / "masks", [f"{i:05d}.png" for i in range(4)])
    table = write_layout(
        tmp_path / "render", maps, frames, focus_table([8] * 4, shot=[0, 0, 1, 2]), mattes_folder=tmp_path / "masks"
    )
    [row] = read_csv(table)
    assert row.focus["shot"].tolist() == [0, 0, 1, 2]
    assert row.mattes is not None and len(row.mattes) == 4


def test_paths_are_relative_to_where_the_folder_will_lie(tmp_path):
    frames = make_frames(tmp_path / "video/frames", 1)
    maps = make_maps(tmp_path / "video/disparity", ["00000.png"])
    home = tmp_path / "video/render"
    write_layout(tmp_path / "video/unfinished/render", maps, frames, focus_table([8]), home=home)
    (tmp_path / "video/unfinished/render").rename(home)
    assert len(read_csv(home / "render.csv")) == 1


@pytest.mark.parametrize("kind", ["absolute", "working folder", "beside the CSV"])
def test_paths_may_be_absolute_or_relative(tmp_path, monkeypatch, kind):
    make_frames(tmp_path / "data/videos/clip", 2, suffix=".jpg")
    make_maps(tmp_path / "data/disp/clip", ["0_zf_0.917647.png", "1_zf_0.5.png"])
    base = {"absolute": f"{tmp_path}/data/", "working folder": "data/", "beside the CSV": ""}[kind]
    table = tmp_path / ("data/demo.csv" if kind == "beside the CSV" else "csv/demo.csv")
    table.parent.mkdir(exist_ok=True)
    table.write_text(f"aif_folder,disp_folder,k\n{base}videos/clip,{base}disp/clip,16\n")
    monkeypatch.chdir(tmp_path)
    [row] = read_csv(table)
    assert row.name == "clip" and row.focus["zf"].tolist() == [0.917647, 0.5]


def test_unpadded_numbers_are_sorted_as_numbers(tmp_path):
    make_frames(tmp_path / "f", 11)
    make_maps(tmp_path / "d", [f"{i}_zf_{i / 100}.png" for i in range(11)])
    (tmp_path / "d/.DS_Store").write_bytes(b"stray")
    (tmp_path / "a.csv").write_text("aif_folder,disp_folder,k\nf,d,4.5\n")
    [row] = read_csv(tmp_path / "a.csv")
    assert row.focus["zf"].tolist() == [i / 100 for i in range(11)] and set(row.focus["k"]) == {4.5}


def test_jpeg_maps_are_read_though_upstream_cannot(tmp_path):
    make_frames(tmp_path / "f", 1)
    make_maps(tmp_path / "d", ["00000_zf_0.25_k_3.jpg"])
    (tmp_path / "a.csv").write_text("aif_folder,disp_folder,k\nf,d,change\n")
    assert read_csv(tmp_path / "a.csv")[0].focus[["zf", "k"]].to_numpy().tolist() == [[0.25, 3.0]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("aif_folder,disp_folder\nf,d\n", "no column k"),
        ("aif_folder,disp_folder,k\n", "lists no video"),
        ("aif_folder,disp_folder,k\nnowhere,d,16\n", "line 2: aif_folder nowhere is no folder"),
        ("aif_folder,disp_folder,k\nf,nowhere,16\n", "disp_folder nowhere is no folder"),
        ("aif_folder,disp_folder,k\nf,,16\n", "disp_folder is empty"),
        ("aif_folder,disp_folder,k\nf,d\n", r"k \(empty\) is neither"),
        ("aif_folder,disp_folder,k\nf,d,-1\n", "k -1 is neither"),
        ("aif_folder,disp_folder,k\nf,d,nan\n", "k nan is neither"),
        ("aif_folder,disp_folder,k\nf,d,65\n", "k 65 is neither"),
        ("aif_folder,disp_folder,k\nf,d,change\n", "00000_zf_0.50000_k_16.png"),
        ("aif_folder,disp_folder,k\nf,plain,16\n", r"plain.00000.png does not say where the focus lies.*_zf_0.53367"),
        ("aif_folder,disp_folder,k\nf,beyond,16\n", "does not say where the focus lies"),
        ("aif_folder,disp_folder,k\nf,short,16\n", "2 frames but .*short 1 disparity maps"),
        ("aif_folder,disp_folder,k\nf,small,16\n", "frames are 8x6 but the disparity maps in .*small 4x4"),
        ("aif_folder,disp_folder,k,matte_folder\nf,d,16,short\n", "1 mattes"),
        ("aif_folder,disp_folder,k,cuts\nf,d,16,2\n", "cut 2 is no frame"),
    ],
)
def test_every_fault_is_named_with_its_remedy(tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    make_frames(tmp_path / "f", 2)
    make_maps(tmp_path / "d", ["00000_zf_0.50000.png", "00001_zf_0.50000.png"])
    make_maps(tmp_path / "plain", ["00000.png", "00001.png"])
    make_maps(tmp_path / "beyond", ["00000_zf_1.5.png", "00001_zf_0.5.png"])
    make_maps(tmp_path / "short", ["00000_zf_0.5.png"])
    make_maps(tmp_path / "small", ["00000_zf_0.5.png", "00001_zf_0.5.png"], (4, 4))
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        read_csv(tmp_path / "a.csv")
    assert "\n" not in str(caught.value)


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv does not exist"):
        read_csv(tmp_path / "none.csv")


def test_writing_refuses_unequal_counts_and_values_out_of_range(tmp_path):
    frames = make_frames(tmp_path / "frames", 2)
    maps = make_maps(tmp_path / "disparity", ["00000.png", "00001.png"])
    with pytest.raises(InputError, match="2 disparity maps and 3 focus rows"):
        write_layout(tmp_path / "a", maps, frames, focus_table([1, 2, 3]))
    with pytest.raises(InputError, match="1 disparity maps and 2 focus rows"):
        write_layout(tmp_path / "b", maps[:1], frames, focus_table([1, 2]))
    with pytest.raises(InputError, match="focus track leaves"):
        write_layout(tmp_path / "c", maps, frames, focus_table([1, 2], [0.5, 1.2]))
    with pytest.raises(InputError, match="blur strength leaves"):
        write_layout(tmp_path / "d", maps, frames, focus_table([1, float("nan")]))


def test_the_demo_clip_of_any_to_bokeh_is_read(shared, tmp_path):
    clip = shared / "media" / "breakdance"
    (tmp_path / "a.csv").write_text(
        f"aif_folder,disp_folder,k,matte_folder\n{clip}/frames,{clip}/disp,16,{clip}/masks\n"
    )
    [row] = read_csv(tmp_path / "a.csv")
    assert len(row.frames) == len(row.focus) == 20 and row.focus["zf"][0] == 0.53367
    assert row.disparity[0].shape == (1080, 1920)
