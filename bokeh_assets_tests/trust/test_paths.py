"""Every way a key or a path comes in: nothing is written outside the store, nothing read outside the named inputs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from click.testing import CliRunner

from bokeh_assets.assets import frames as frames_asset
from bokeh_assets.cli import main
from bokeh_assets.csv_rendering import render_csv_file
from bokeh_assets.errors import InputError, one_line
from bokeh_assets.files import is_regular, open_regular, read_small
from bokeh_assets.media.frames import write_picture
from bokeh_assets.partitions import check_key
from bokeh_assets.rendering.layout import read_csv
from bokeh_assets.resources import ProgressResource, RunSettings, StoreResource
from bokeh_assets.settings import adopt_settings, merged_settings, read_settings
from bokeh_assets.store import VideoStore
from bokeh_assets_tests.trust.corpus import files

KEYS = [
    *("..", ".", "../x", "a/../../x", "/etc", "a/b", "a\\b", "", " ", "a b", "A", "ä", "a\n", "a\0", "\ufeffa", "-rf"),
    *("~", "$HOME", "%2e%2e", "a..b", "．．", "a" * 101, "\u202ea", "a\x1b[2J", ".hidden", "a:b", "*"),
]

PATHS = [
    *("../secret.png", "/etc/passwd", "prompts/../../secret.png", "prompts/../../../../etc/passwd", "link.png"),
    *("linked/secret.png", "a\0b.png", "loop.png", "x" * 5000, "file:///etc/passwd", "~/secret.png", ".."),
]


@pytest.mark.parametrize("key", KEYS)
def test_no_such_key_names_a_folder(key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        VideoStore(tmp_path).video(key)
    assert len(str(raised.value).splitlines()) == 1 and str(raised.value).isprintable()
    with pytest.raises(InputError):
        check_key(key)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["../x", "/etc", "a/../../x", "A", "a..b"])
def test_a_key_typed_into_the_ui_fails_clearly_and_touches_nothing(key: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert "is not valid" in _refusal(key, VideoStore(data))
    assert not data.exists() or not any(data.iterdir())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with settings in it, and a secret picture beside it."""
    folder = tmp_path / "home"
    (folder / "prompts").mkdir(parents=True)
    for path in (tmp_path / "secret.png", folder / "mask.png"):
        write_picture(path, np.full((4, 4), 255, np.uint8))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to("loop.png")
    return folder


@pytest.mark.parametrize("path", PATHS)
def test_a_mask_in_a_settings_file_stays_in_its_folder(path: str, home: Path, tmp_path: Path) -> None:
    import json

    (home / "settings.yaml").write_text(f"subject:\n  - mask: {json.dumps(path)}\n")
    video = tmp_path / "video"
    with pytest.raises(InputError) as raised:
        adopt_settings(home / "settings.yaml", video)
    assert len(str(raised.value).splitlines()) == 1
    assert not list(video.rglob("*.png"))


@pytest.mark.parametrize("path", PATHS)
def test_a_mask_in_run_config_stays_in_the_folder_of_the_video(path: str, home: Path) -> None:
    overrides = {"subject": [{"mask": path}]}
    try:
        settings = merged_settings(home / "settings.yaml", overrides)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:  # a name inside the folder, under which nothing lies
        (prompt,) = settings.subject
        assert prompt.mask is not None and prompt.mask.is_relative_to(home.resolve()) and not is_regular(prompt.mask)


def test_a_mask_swapped_for_a_link_after_the_check_is_not_read(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="outside"):
        open_regular(home / "link.png", inside=home)
    with pytest.raises(InputError, match="outside"):
        open_regular(home / "linked" / "secret.png", inside=home)
    assert read_small(home / "mask.png", 10_000, inside=home)
    with pytest.raises(InputError, match="larger than"):
        read_small(home / "mask.png", 10)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1]\nblur: *a\n",
        "[" * 20_000,
        "{" * 20_000,
        "blur: !!python/object/apply:os.system ['echo taken > taken']\n",
        "blur: 1" + "0" * 10_000,
        "blur: 2001-99-99\n",
        "blur: .nan\n",
        "subject: [{frame: 1e400, box: [0, 0, 1, 1]}]\n",
        "? [a]\n: b\n",
        "\ufeff\0",
        "blur: 3\n" * 40_000,
        "subject: [" + "{mask: mask.png}," * 200 + "]\n",
        "subject: [{frame: 0, box: [.nan, 0, .inf, 1]}]\n",
    ],
)
def test_a_hostile_settings_file_is_one_clear_error(text: str, home: Path) -> None:
    path = home / "settings.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"settings\.yaml") as raised:
        adopt_settings(path, home / "video")
    assert len(str(raised.value).splitlines()) == 1 and len(str(raised.value)) < 1000
    assert not Path("taken").exists()


def test_settings_that_are_no_text_are_one_clear_error(home: Path) -> None:
    (home / "settings.yaml").write_bytes(b"\xff\xfe\0blur")
    with pytest.raises(InputError, match="not valid YAML"):
        read_settings(home / "settings.yaml")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A CSV with frames and maps of two frames."""
    for i in range(2):
        for folder, name in (("clip", f"{i:05d}.png"), ("disp", f"{i:05d}_zf_0.5.png")):
            (tmp_path / folder).mkdir(exist_ok=True)
            picture = np.full((16, 16, 3) if folder == "clip" else (16, 16), 90, np.uint8)
            write_picture(tmp_path / folder / name, picture)
    table = tmp_path / "render.csv"
    table.write_text("aif_folder,disp_folder,k\nclip,disp,8\n")
    return table


@pytest.mark.parametrize(
    "folder", ["../..", "/etc", "clip\0", "x" * 5000, "render.csv", "file:///etc", "clip/00000.png"]
)
def test_a_csv_that_names_no_folder_of_pictures_is_refused(folder: str, layout: Path) -> None:
    layout.write_text(f"aif_folder,disp_folder,k\n{folder},disp,8\n")
    with pytest.raises(InputError) as raised:
        read_csv(layout)
    assert len(str(raised.value).splitlines()) == 1


def test_a_csv_or_a_picture_that_is_a_pipe_is_not_waited_for(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "clip" / "00000.png").unlink()
    os.mkfifo(tmp_path / "clip" / "00000.png")
    with pytest.raises(InputError, match="pipe"):
        read_csv(layout)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match="pipe"):
        read_csv(tmp_path / "pipe.csv")


def test_a_picture_bomb_in_a_folder_is_one_clear_error(layout: Path, tmp_path: Path) -> None:
    from bokeh_assets_tests.trust.corpus.tricks import _png_bomb

    (tmp_path / "clip" / "00000.png").write_bytes(_png_bomb(65535, 65535))
    with pytest.raises(InputError, match=r"00000\.png"):
        read_csv(layout)


@pytest.mark.parametrize("cuts", ["9" * 5000, "-1", "0", "2", "x", "１"])
def test_cuts_are_numbers_of_frames(cuts: str, layout: Path) -> None:
    layout.write_text(f"aif_folder,disp_folder,k,cuts\nclip,disp,8,{cuts}\n")
    with pytest.raises(InputError, match="cut"):
        read_csv(layout)


def test_rendering_never_replaces_what_it_renders_from(layout: Path, tmp_path: Path) -> None:
    before = sorted((tmp_path / "clip").iterdir())
    with pytest.raises(InputError, match="give another --out"):
        list(render_csv_file(layout, tmp_path, "thin_lens", frames=True))
    assert sorted((tmp_path / "clip").iterdir()) == before


@pytest.mark.parametrize("there", ["letter.txt", "00000.jpg", "folder"])
def test_rendering_replaces_no_folder_that_is_not_its_own(there: str, layout: Path, tmp_path: Path) -> None:
    precious = tmp_path / "out" / "clip" / there
    precious.mkdir(parents=True) if there == "folder" else precious.parent.mkdir(parents=True)
    if there != "folder":
        precious.write_text("dear")
    with pytest.raises(InputError, match="is not replaced"):
        list(render_csv_file(layout, tmp_path / "out", "thin_lens", frames=True))
    assert precious.exists()


def test_rendering_does_not_write_through_a_link(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "clip.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    with pytest.raises(InputError, match="no plain file"):
        list(render_csv_file(layout, tmp_path / "out", "thin_lens"))
    assert not (tmp_path / "elsewhere.mp4").exists()


@pytest.mark.parametrize("name", ["a\nb.mp4", "\x1b[2J.mp4", "\u202egpj.mp4", "\udcff.mp4", "a\u2028b.mp4"])
def test_the_command_line_prints_one_harmless_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOKEH_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / name).write_bytes(b"no video")
    result = CliRunner().invoke(main, ["run", str(tmp_path / name)])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("bokeh-assets: ") and line.isprintable()


def test_printable_text_stays_as_it_is() -> None:
    for text in ("plain", "Größe 映画", "\U0001f468\u200d\U0001f469", "שלום"):
        assert one_line(text) == text
    assert one_line("a\nb\x1b[2J\u202e\udcff") == "a\\nb\\x1b[2J\\u202e\\udcff"


def test_a_broken_upload_is_one_line_that_names_the_users_file(tmp_path: Path) -> None:
    """Though it is a copy in the store that is decoded, and in another process."""
    upload = tmp_path / "data" / "uploads" / "broken.mp4"
    upload.parent.mkdir(parents=True)
    upload.write_bytes(bytes(4096))
    store = VideoStore(tmp_path / "data")
    video = store.register(upload)
    told = _refusal(video.key, store)
    assert told.startswith(f"{upload} is not a video") and len(told.splitlines()) == 1
    assert video.source is None and video.made("frames") is None
    assert not list(video.folder.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("name", "says"), [("hours_of_one_frame.mp4", "the work on 500 frames needs"), ("bare.h264.mp4", "more than")]
)
def test_room_is_asked_for_before_and_while_frames_are_written(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film that says how long it is is refused at once; one that does not, before it fills the disk."""
    (case,) = [case for case in files() if case.name == name]
    case.make(tmp_path / name)
    store = VideoStore(tmp_path / "data")
    video = store.register(tmp_path / name)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=6_000_000))
    told = _refusal(video.key, store)
    assert says in told and "make room" in told
    assert not video.frames.exists() and video.source is None and not list(video.folder.glob(".tmp-*"))


def _refusal(key: str, store: VideoStore) -> str:
    """What the frames asset says when it refuses."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("videos", [key])
        resources = {
            "store": StoreResource(data_dir=str(store.root)),
            "run": RunSettings(),
            "progress": ProgressResource(),
        }
        result = dg.materialize(
            [frames_asset], partition_key=key, instance=instance, raise_on_error=False, resources=resources
        )
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    told = failure.step_failure_data.user_failure_data
    assert told is not None and told.description is not None
    return told.description
