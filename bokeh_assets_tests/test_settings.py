"""Settings: what is refused and how it is said, and who wins."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from bokeh_assets.errors import InputError
from bokeh_assets.settings import VideoSettings, adopt_settings, merged_settings, parse_settings, read_settings
from bokeh_assets.store import VideoStore
from bokeh_assets.versions import READS, out_of_date, shaping, version

DESIGN_EXAMPLE = """
subject:
  - {frame: 0, box: [300, 0, 500, 400]}
  - {frame: 40, points: [[410, 200], [60, 90]], labels: [1, 0]}
focus: {keyframes: [{time: 0, at: subject}, {time: 2.5, at: 0.2, ease: smooth}]}
blur: {keyframes: [{time: 0, k: 0}, {time: 3, k: 24}]}
segmenter: auto
depth: auto
renderer: auto
lens: {blades: 6, rotation: 0, anamorphic: 1.0, cat_eye: 0.0, chromatic: 0.0, highlights: 0.0}
frames: {format: jpg}
output: {codec: h264, quality: 18}
"""


def test_the_documented_example_is_understood():
    settings = parse_settings(yaml.safe_load(DESIGN_EXAMPLE), "example")
    assert settings.subject[1].point_labels == (1, 0)
    assert settings.lens.blades == 6 and settings.frames.format == "jpg"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"focuss": 1}, "unknown setting 'focuss'; did you mean 'focus'"),
        ({"lens": {"blade": 5}}, "'lens.blade'; did you mean 'blades'"),
        ({"focus": 2}, "focus 2 is not understood"),
        ({"blur": -1}, "blur -1 is not understood"),
        ({"blur": float("nan")}, "blur nan is not understood"),
        ({"segmenter": "sam"}, "segmenter"),
        ({"subject": [{"frame": 0}]}, "needs a box, points or a mask"),
        ({"subject": [{"box": [5, 5, 5, 9]}]}, "is empty"),
        ({"subject": [{"points": [[1, 2]], "labels": [1, 0]}]}, "2 labels for 1 points"),
        ({"output": {"quality": 99}}, "output.quality"),
        (["focus"], "`name: value`"),
    ],
)
def test_a_mistake_is_said_in_one_line_that_names_it(data: object, said: str):
    with pytest.raises(InputError) as error:
        parse_settings(data, "film.yaml")
    assert said in str(error.value) and "film.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path):
    path = tmp_path / "film.yaml"
    path.write_text("focus: [1, 2")
    with pytest.raises(InputError, match="not valid YAML"):
        read_settings(path)


def test_the_run_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path):
    path = tmp_path / "settings.yaml"
    path.write_text("blur: 8\nlens: {blades: 6, cat_eye: 0.5}\n")
    assert merged_settings(tmp_path / "none.yaml", {}) == VideoSettings()
    merged = merged_settings(path, {"blur": 24, "lens": {"blades": 9}})
    assert merged.blur.keyframes[0].k == 24
    assert (merged.lens.blades, merged.lens.cat_eye) == (9, 0.5)


def test_a_mask_is_kept_with_the_video(tmp_path: Path):
    mask = tmp_path / "look" / "first.png"
    mask.parent.mkdir()
    cv2.imwrite(str(mask), np.full((4, 6), 255, np.uint8))
    (tmp_path / "look" / "look.yaml").write_text("subject: [{frame: 0, mask: first.png}]")
    adopt_settings(tmp_path / "look" / "look.yaml", tmp_path / "video")
    mask.unlink()
    (prompt,) = merged_settings(tmp_path / "video" / "settings.yaml", {}).subject
    assert prompt.load_mask(6, 4).all()


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd"])
def test_a_settings_file_cannot_reach_outside_its_folder(path: str, tmp_path: Path):
    file = tmp_path / "look.yaml"
    file.write_text(f"subject: [{{mask: {path}}}]")
    with pytest.raises(InputError, match="outside"):
        read_settings(file)
    with pytest.raises(InputError, match="outside"):
        merged_settings(tmp_path / "none.yaml", {"subject": [{"mask": path}]})


def make_all(video, settings: VideoSettings) -> None:
    """Records every asset as made, with outputs that hold nothing."""
    for folder in (video.frames, video.masks, video.disparity, video.render / "disp"):
        folder.mkdir(parents=True)
    for file in (video.frames_table, video.focus, video.render_csv, video.bokeh):
        file.touch()
    made: dict[str, str] = {}
    for asset, reads in READS.items():
        inputs = {name: made[name] for name in reads} or {"source": "0" * 64}
        made[asset] = version(asset, shaping(asset, settings, "cpu"), inputs)
        video.record(asset, {"version": made[asset], "inputs": inputs})


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, []),
        ({"focus": 0.3}, ["focus_track", "render_csv", "bokeh_video"]),
        ({"blur": 4}, ["focus_track", "render_csv", "bokeh_video"]),
        ({"lens": {"blades": 5}}, ["bokeh_video"]),
        ({"output": {"quality": 30}}, ["bokeh_video"]),
        ({"subject": [{"box": [0, 0, 9, 9]}]}, ["masks", "focus_track", "render_csv", "bokeh_video"]),
        ({"refine_edges": True}, ["masks", "focus_track", "render_csv", "bokeh_video"]),
        ({"frames": {"format": "jpg"}}, list(READS)),
    ],
)
def test_only_what_a_setting_shapes_is_made_again(change: dict, again: list[str], tmp_path: Path):
    video = VideoStore(tmp_path).video("film")
    make_all(video, VideoSettings())
    assert out_of_date(video, parse_settings(change, "test"), "cpu") == again


def test_nothing_is_up_to_date_that_is_not_recorded_as_whole(tmp_path: Path):
    video = VideoStore(tmp_path).video("film")
    assert out_of_date(video, VideoSettings(), "cpu") == list(READS)
    make_all(video, VideoSettings())
    video.unmake("depth_maps")
    assert out_of_date(video, VideoSettings(), "cpu") == ["depth_maps", "focus_track", "render_csv", "bokeh_video"]
