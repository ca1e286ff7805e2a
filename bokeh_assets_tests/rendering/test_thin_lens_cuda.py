"""The lens on a GPU gives the pictures of the CPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from bokeh_assets.rendering.lens import Lens
from bokeh_assets.rendering.thin_lens import ThinLensRenderer
from bokeh_assets.rendering.thin_lens.paths_cuda import path_of
from bokeh_assets.rendering.thin_lens.picture import photograph_frame
from bokeh_assets.rendering.thin_lens.truth import make_scene

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no NVIDIA GPU here")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch came without Triton here")


@needs_triton
def test_the_kernels_do_in_the_interpreter_what_torch_does() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bokeh_assets_tests.rendering.interpreted"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("ok") == 6


def test_the_record_says_what_computes() -> None:
    assert path_of(torch.device("cpu")) == "numba"


@needs_gpu
@pytest.mark.parametrize(
    ("size", "k", "lens"),
    [
        ((77, 123), 140.0, Lens()),
        ((131, 77), 300.0, Lens()),
        ((270, 480), 3.0, Lens()),
        ((270, 480), 900.0, Lens()),
        ((270, 481), 90.0, Lens(blades=5, rotation=10)),
        ((270, 480), 90.0, Lens(anamorphic=1.8)),
        ((135, 240), 100.0, Lens(cat_eye=0.8)),
        ((270, 480), 90.0, Lens(chromatic=0.04)),
        ((270, 480), 64.0, Lens(highlights=3)),
    ],
    ids=["odd", "portrait", "k 3", "k 900", "blades", "anamorphic", "cat-eye", "chromatic", "highlights"],
)
def test_gpu_and_cpu_give_one_picture(size: tuple[int, int], k: float, lens: Lens) -> None:
    scene = make_scene("lamps", 3, size)
    frame, depth = torch.from_numpy(scene.frame()), torch.from_numpy(scene.disparity()).float() / 255
    matte = torch.nn.functional.avg_pool2d((depth > 0.6).float()[None], 3, 1, 1)[0]
    for subject in (None, matte):
        own = photograph_frame(frame, depth, subject, 0.5, k, lens, 0.5)
        there = None if subject is None else subject.cuda()
        other = photograph_frame(frame.cuda(), depth.cuda(), there, 0.5, k, lens, 0.5).cpu()
        assert int((own.int() - other.int()).abs().max()) <= 1
        assert not torch.equal(own, frame)


@needs_gpu
def test_gpu_and_cpu_give_one_video() -> None:
    scene = make_scene("layers", 2, (135, 240))
    rng = np.random.default_rng(0)
    frames = [np.roll(scene.frame(), 3 * (i // 3), axis=1) for i in range(9)]
    noise = [rng.normal(0, 0.01, (135, 240)) for _ in frames]
    still = scene.disparity() / 255
    depths: list[NDArray[np.float32]] = [
        (np.roll(still, 3 * (i // 3), axis=1) + part).clip(0, 1).astype(np.float32) for i, part in enumerate(noise)
    ]
    focus = pd.DataFrame({"frame": range(9), "zf": 0.5, "k": [100.0] * 8 + [0.0], "shot": [0] * 6 + [1] * 3})
    own, other = (
        list(ThinLensRenderer(device=device).render(frames, depths, None, focus)) for device in ("cpu", "cuda")
    )
    assert len(own) == len(other) == 9
    assert np.array_equal(other[8], frames[8])
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(own, other, strict=True)) <= 1
