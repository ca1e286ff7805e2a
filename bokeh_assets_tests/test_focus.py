"""Focus and blur: what may be asked for, and what every frame gets."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from bokeh_assets.errors import InputError
from bokeh_assets.focus import BlurSpec, FocusSpec, subject_disparity, track_focus

FOCUS, BLUR = TypeAdapter(FocusSpec).validate_python, TypeAdapter(BlurSpec).validate_python
SHAPE = (40, 60)


def box(left: int = 20, size: int = 12) -> np.ndarray:
    matte = np.zeros(SHAPE, np.float32)
    matte[10 : 10 + size, left : left + size] = 1
    return matte


EMPTY = np.zeros(SHAPE, np.float32)


def run(levels, mattes=None, *, focus="subject", blur=16, fps=30.0, shots=None, background=0.1):
    """Track a box of the given disparities over a flat background."""
    mattes = [box()] * len(levels) if mattes is None else mattes
    maps = [np.where(box() > 0, np.float32(level), np.float32(background)) for level in levels]
    seconds = [i / fps for i in range(len(levels))]
    shots = shots if shots is not None else [0] * len(levels)
    return track_focus(iter(maps), iter(mattes), seconds, shots, FOCUS(focus), BLUR(blur))


@pytest.mark.parametrize("value", ["subject", 0.0, 0.25, 1])
def test_short_forms_of_focus_are_written_back_as_they_came(value):
    assert FOCUS(value).model_dump() == value
    assert FOCUS(FOCUS(value).model_dump()) == FOCUS(value)


def test_keyframes_survive_a_round_trip():
    spec = FOCUS({"keyframes": [{"time": 0, "at": "subject"}, {"time": 2.5, "at": 0.2, "ease": "linear"}]})
    assert FOCUS(spec.model_dump()) == spec and FocusSpec.model_validate_json(spec.model_dump_json()) == spec
    blur = BLUR({"keyframes": [{"time": 0, "k": 0}, {"time": 3, "k": 24, "ease": "hold"}]})
    assert BLUR(blur.model_dump()) == blur and BLUR(7.5).model_dump() == 7.5


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("subjekt", "`subject`, a disparity from 0"),
        (1.2, "`subject`, a disparity from 0"),
        (True, "not understood"),
        (None, "not understood"),
        (float("nan"), "not understood"),
        ({"keyframes": []}, "empty"),
        ({"keyframe": []}, "Extra inputs|Field required"),
        ({"keyframes": [{"time": 0, "at": 2}]}, "no disparity"),
        ({"keyframes": [{"time": 0, "at": "subjct"}]}, "'subjct' is no disparity: give `subject`"),
        ({"keyframes": [{"time": 0, "at": True}]}, "no disparity"),
        ({"keyframes": [{"time": -1, "at": 0.2}]}, "greater than or equal to 0"),
        ({"keyframes": [{"time": 0, "at": 0.2, "easing": "linear"}]}, "Extra inputs"),
        ({"keyframes": [{"time": 0, "at": 0.2, "ease": "slow"}]}, "linear"),
        ({"keyframes": [{"time": 2, "at": 0.2}, {"time": 1, "at": 0.3}]}, "sort keyframes"),
        ({"keyframes": [{"time": 2, "at": 0.2}, {"time": 2, "at": 0.3}]}, "each time once"),
    ],
)
def test_a_focus_that_makes_no_sense_is_refused(value, says):
    with pytest.raises(ValidationError, match=says):
        FOCUS(value)


@pytest.mark.parametrize("value", [-1, 65, float("inf"), float("nan"), "strong", False, {"keyframes": [{"time": 0}]}])
def test_a_blur_that_makes_no_sense_is_refused(value):
    with pytest.raises(ValidationError):
        BLUR(value)


def test_the_table_has_a_row_per_frame_with_plain_types():
    table = run([0.6] * 5)
    assert list(table.columns) == ["frame", "zf", "k", "subject", "shot"]
    assert [str(table[c].dtype) for c in table] == ["int64", "float64", "float64", "float64", "int64"]
    assert table["frame"].tolist() == [0, 1, 2, 3, 4]
    assert np.allclose(table["zf"], 0.6) and set(table["k"]) == {16.0} and table.attrs["notes"] == []


def test_fixed_focus_ignores_the_subject_but_still_reports_it():
    table = run([0.6] * 3, focus=0.25)
    assert set(table["zf"]) == {0.25} and np.allclose(table["subject"], 0.6)


def test_the_statistic_leaves_out_the_rim_and_a_minority_inside():
    disparity = np.where(box() > 0, np.float32(0.7), np.float32(0.1))
    disparity[14:17, 24:27] = 0.95
    wide = box(19, 13)  # a matte that is one pixel too wide
    assert subject_disparity(disparity, wide) == pytest.approx(0.7)
    assert np.isnan(subject_disparity(disparity, EMPTY))
    thin = np.zeros(SHAPE, np.float32)
    thin[10:20, 25] = 1
    assert subject_disparity(disparity, thin) == pytest.approx(0.7)


def test_a_subject_at_the_border_of_the_picture_loses_no_rim_there():
    matte = np.zeros((400, 600), np.float32)
    matte[:, :10] = 1
    disparity = np.zeros((400, 600), np.float32)
    disparity[:, :4] = 1
    # The rim on the right is 3 pixels wide (0.5 % of 600); columns 0 to 6 are left, 4 of them near.
    assert subject_disparity(disparity, matte) == 1


def test_jitter_is_smoothed_without_lag():
    rng = np.random.default_rng(1)
    clean = 0.3 + 0.4 * np.arange(120) / 119
    table = run(np.clip(clean + rng.normal(0, 0.02, 120), 0, 1))
    error = table["zf"].to_numpy() - clean
    assert np.abs(error).max() < 0.015  # ends included
    assert abs(error.mean()) < 0.004  # a lag of one frame would be 0.0034 on its own everywhere
    assert np.diff(table["zf"]).std() < 0.1 * table["subject"].diff().std()


def test_one_wild_frame_does_not_move_the_focus():
    levels = [0.5] * 40
    levels[20] = 1.0
    assert np.allclose(run(levels)["zf"], 0.5)


def test_gaps_are_bridged_within_a_shot_and_held_at_its_ends():
    levels = [0.4] * 30 + [0.6] * 30
    mattes = [EMPTY] * 5 + [box()] * 15 + [EMPTY] * 20 + [box()] * 15 + [EMPTY] * 5
    table = run(levels, mattes)
    zf = table["zf"].to_numpy()
    assert zf[0] == pytest.approx(0.4, abs=0.01) and zf[-1] == pytest.approx(0.6, abs=0.01)
    assert (np.diff(zf) > -1e-3).all() and 0.47 < zf[30] < 0.53
    assert table["subject"].isna().sum() == 30


def test_smoothing_stops_at_a_cut():
    table = run([0.2] * 30 + [0.8] * 30, shots=[0] * 30 + [1] * 30)
    assert np.allclose(table["zf"][:30], 0.2) and np.allclose(table["zf"][30:], 0.8)


def test_a_subject_that_never_shows_leaves_the_focus_on_the_lower_centre_and_says_so():
    maps = [np.full(SHAPE, 0.1, np.float32) for _ in range(4)]
    for m in maps:
        m[20:, 20:40] = 0.75
    table = track_focus(maps, [EMPTY] * 4, [0, 1, 2, 3], [0] * 4, FOCUS("subject"), BLUR(4))
    assert np.allclose(table["zf"], 0.75) and table["subject"].isna().all()
    assert table.attrs["notes"] == ["The subject is never visible: the focus lies on the lower centre of the picture."]


def test_a_shot_without_the_subject_is_noted_by_its_frames():
    table = run([0.6] * 6, [box()] * 3 + [EMPTY] * 3, shots=[0, 0, 0, 1, 1, 1])
    assert np.allclose(table["zf"][:3], 0.6)
    assert "shot 1 (frames 3 to 5)" in table.attrs["notes"][0]


def test_rack_focus_follows_smoothstep_in_disparity_and_holds_outside():
    spec = {"keyframes": [{"time": 0.5, "at": "subject"}, {"time": 1.5, "at": 0.2}]}
    table = run([0.6] * 61, focus=spec)
    at = dict(zip(np.arange(61), table["zf"], strict=True))
    assert at[0] == at[15] == pytest.approx(0.6) and at[45] == at[60] == pytest.approx(0.2)
    assert at[30] == pytest.approx(0.4) and at[22] == pytest.approx(0.6 - 0.4 * (3 - 2 * 7 / 30) * (7 / 30) ** 2)


def test_eases_are_linear_smooth_or_hold():
    def curve(ease):
        return run([0.5] * 31, blur={"keyframes": [{"time": 0, "k": 0}, {"time": 1, "k": 32, "ease": ease}]})["k"]

    assert np.allclose(curve("linear"), np.linspace(0, 32, 31))
    assert curve("smooth")[15] == pytest.approx(16) and curve("smooth")[3] < curve("linear")[3]
    assert set(curve("hold")[:30]) == {0.0} and curve("hold")[30] == 32


def test_keyframe_times_count_from_the_first_frame():
    maps = [np.full(SHAPE, 0.5, np.float32)] * 3
    spec = BLUR({"keyframes": [{"time": 0, "k": 0}, {"time": 2, "k": 10, "ease": "linear"}]})
    table = track_focus(maps, [box()] * 3, [10.0, 11.0, 12.0], [0] * 3, FOCUS(0.5), spec)
    assert table["k"].tolist() == [0.0, 5.0, 10.0]


def test_one_single_frame_works():
    assert run([0.6])["zf"].tolist() == pytest.approx([0.6])


def test_progress_counts_every_frame():
    seen: list[int] = []
    track_focus([EMPTY] * 3, [EMPTY] * 3, [0, 1, 2], [0] * 3, FOCUS(0.5), BLUR(1), progress=seen.append)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(("maps", "mattes", "says"), [(2, 3, "only 2 disparity maps"), (3, 4, "more mattes")])
def test_unequal_counts_are_named(maps, mattes, says):
    with pytest.raises(InputError, match=says):
        track_focus([EMPTY] * maps, [EMPTY] * mattes, [0, 1, 2], [0] * 3, FOCUS(0.5), BLUR(1))


def test_unequal_sizes_are_named():
    with pytest.raises(InputError, match="frame 0: the disparity is 60x40 but the matte is 4x4"):
        track_focus([EMPTY], [np.zeros((4, 4), np.float32)], [0], [0], FOCUS(0.5), BLUR(1))
