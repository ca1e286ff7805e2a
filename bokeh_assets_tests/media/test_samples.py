"""The sample clip: the same every time, playable, with something to blur and something to hear."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from bokeh_assets.errors import InputError
from bokeh_assets.media.decode import decode
from bokeh_assets.media.probe import probe
from bokeh_assets.media.sample_scene import EveningWalk
from bokeh_assets.media.samples import make_sample


def test_a_short_sample(tmp_path: Path) -> None:
    clip = make_sample(tmp_path / "a.mp4", seconds=0.5, size=(320, 180))
    info = probe(clip)
    assert (info.width, info.height, info.frames, info.codec) == (320, 180, 12, "h264")
    assert info.fps == 24 and info.duration == pytest.approx(0.5, abs=1e-3) and info.notes() == []
    frames = [f.image for f in decode(clip)]
    # Lamps to turn into discs, darkness around them, and motion.
    assert (frames[0].min(axis=2) > 200).sum() > 20 and np.median(frames[0]) < 110
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 2
    with av.open(str(clip)) as file:
        sound = np.concatenate([f.to_ndarray() for f in file.decode(audio=0)], axis=1)
    assert sound.shape[0] == 2 and 0.1 < np.abs(sound).max() < 1
    again = make_sample(tmp_path / "b.mp4", seconds=0.5, size=(320, 180))
    assert again.read_bytes() == clip.read_bytes()


def test_the_subject_is_in_the_picture_all_the_way() -> None:
    scene = EveningWalk(160, 90)
    for t in (0.0, 0.5, 1.0):
        frame = scene.frame(t).astype(int)
        coat = (frame[..., 0] > 150) & (frame[..., 1] > 100) & (frame[..., 2] < 90)
        columns = np.flatnonzero(coat[40:70].sum(axis=0) > 3)
        assert 8 < columns.size < 60 and columns.min() > 4 and columns.max() < 155


def test_odd_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="even"):
        make_sample(tmp_path / "a.mp4", size=(321, 180))
