"""Runs the lens's Triton kernels in Triton's interpreter, where there is no GPU, against what they stand for.

    TRITON_INTERPRET=1 python -m bokeh_assets_tests.rendering.interpreted

Not a test module: the variable must be set before Triton is imported, so `test_thin_lens_cuda` starts it apart.
"""

from __future__ import annotations

import numpy as np
import torch

from bokeh_assets.rendering.thin_lens import scene as scenes
from bokeh_assets.rendering.thin_lens import unmix as unmixing
from bokeh_assets.rendering.thin_lens.accumulate import photograph
from bokeh_assets.rendering.thin_lens.aperture import Aperture
from bokeh_assets.rendering.thin_lens.axis import axis_for
from bokeh_assets.rendering.thin_lens.colour import decode
from bokeh_assets.rendering.thin_lens.colour_cuda import finish_cuda, prepare_cuda
from bokeh_assets.rendering.thin_lens.fill_cuda import push_pull_cuda, widest_cuda
from bokeh_assets.rendering.thin_lens.finish import finish
from bokeh_assets.rendering.thin_lens.planes_cuda import photograph_cuda, plan
from bokeh_assets.rendering.thin_lens.steady import Shot, shrunk, steadied
from bokeh_assets.rendering.thin_lens.steady_cuda import lift, steadied_cuda
from bokeh_assets.rendering.thin_lens.unmix_cuda import unmix_cuda


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().max())


def light_and_place() -> None:
    frame, depth = torch.randint(0, 256, (37, 61, 3), dtype=torch.uint8), torch.rand(37, 61)
    for zf, scale, highlights in ((0.3, 40.0, 0.0), (0.0, 10.0, 2.0), (0.9, 2.0, 0.0)):
        axis = axis_for(scale * (1 - zf), -scale * zf)
        light, place = prepare_cuda(frame, depth, axis, zf, scale, highlights)
        assert far(light, decode(frame, highlights)) < 1e-5
        assert torch.equal(place, axis.place((depth - zf) * scale))


def finishing() -> None:
    frame = torch.randint(0, 256, (37, 61, 3), dtype=torch.uint8)
    light = decode(frame) * (torch.rand(37, 61) * 0.5 + 0.7).clamp_max(1)
    for grain in (0.0, 0.7):
        assert far(finish_cuda(light, frame, grain), finish(light, frame, grain)) <= 1


def filling() -> None:
    for size in ((37, 61), (3, 50)):
        values, weight = torch.rand(4, *size), (torch.rand(size) > 0.8).float()
        weight[:20, :20] = 0
        for reach in (1, 5):
            assert torch.equal(widest_cuda(values[0], reach), scenes.widest(values[0], reach))
        for levels in (3, 7):
            filled, known = push_pull_cuda(values, weight, levels)
            expected, reached = scenes.push_pull(values, weight, levels, reference=True)
            assert far(known, reached) < 1e-5 and far(filled * (reached > 1e-5), expected * (reached > 1e-5)) < 1e-4


def mixed_pixels() -> None:
    place = torch.full((14, 20), 3.0)
    place[4:9, 5:13], place[7:12, 10:16] = 9.0, 14.0
    place += 0.2 * torch.rand(14, 20)
    light, matte = torch.rand(3, 14, 20), torch.nn.functional.avg_pool2d((place > 8).float()[None], 3, 1, 1)[0]
    beside = (scenes.widest(place, 1) - place > 1.2) | (place + scenes.widest(-place, 1) > 1.2)
    rows, columns = beside.nonzero(as_tuple=True)
    number = torch.full(place.shape, -1, dtype=torch.int32)
    number[rows, columns] = torch.arange(len(rows), dtype=torch.int32)
    own, here, none = light[:, rows, columns].T, place[rows, columns][:, None], torch.zeros(len(rows), 1)
    told = torch.cat([own, here, none + unmixing.UNSURE, own, here, none], 1)
    names = ["WINDOW", "SPREAD", "RIDGE", "VARIANCE", "FLOOR", "UNSURE", "OUTLINE", "GUESS", "MATTE", "CANDIDATES"]
    constants = [1.2, *(getattr(unmixing, name) for name in names), float(np.log(unmixing.PURE))]
    for subject in (None, matte):
        expected = unmixing._round(light, place, number, rows, columns, told, subject, 1.2)
        assert far(unmix_cuda(light, place, number, rows, columns, told, subject, *constants), expected) < 2e-3


def planes() -> None:
    # A floor, a nearer thing and a strand; planes at full size and a shrunk one.
    height, width = 34, 26
    coc = torch.linspace(-9.5, 1, height)[:, None].repeat(1, width)
    coc[6:20, 12:20], coc[:, 3] = 2.0, -1.0
    axis = axis_for(2.0, -9.5)
    light, place = torch.rand(3, height, width), axis.place(coc)
    scene = scenes.split(light, place, 9.5)
    aperture = Aperture(blades=5, rotation=20, scale=0.4)
    plan.cache_clear()
    assert far(photograph_cuda(scene, axis, aperture), photograph(scene, axis, aperture)) < 2e-3


def over_time() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (37, 51, 3)).astype(np.uint8)
    shots = []
    for i in range(4):
        frame = first.copy()
        frame[:, :25] = np.clip(frame[:, :25].astype(int) + rng.integers(-4 * i, 4 * i + 1, (37, 25, 3)), 0, 255)
        depth = rng.normal(0.5, 0.05, (37, 51)).astype(np.float32)
        matte = rng.random((37, 51)).astype(np.float32)
        shots.append(Shot(frame, shrunk(frame), depth, matte, int(i == 3), 0.0, 8.0))
    lifted = [lift(shot, torch.device("cpu")) for shot in shots]
    depths, mattes = steadied_cuda(lifted[1], [lifted[0], *lifted[2:]])
    expected = steadied(shots[1], [shots[0], *shots[2:]])
    assert mattes is not None and expected.matte is not None
    assert np.abs(depths.numpy() - expected.depth).max() < 1e-5 < np.abs(expected.depth - shots[1].depth).max()
    assert np.abs(mattes.numpy() - expected.matte).max() < 1e-5


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for check in (light_and_place, finishing, filling, mixed_pixels, over_time, planes):
        check()
        print(check.__name__, "ok", flush=True)
