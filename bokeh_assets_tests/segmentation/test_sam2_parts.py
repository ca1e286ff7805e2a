"""The parts of our SAM 2.1: pictures in, attention, mattes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from bokeh_assets.segmentation.sam2.attention import MemoryReader, read_plainly
from bokeh_assets.segmentation.sam2.mattes import fill_holes, soft_matte
from bokeh_assets.segmentation.sam2.model import build, halve
from bokeh_assets.segmentation.sam2.pictures import Resizer


@pytest.mark.parametrize(("height", "width", "size"), [(54, 96, 128), (270, 480, 128), (37, 300, 128), (128, 50, 128)])
def test_pictures_are_resized_as_by_pillow_to_the_last_bit(height: int, width: int, size: int) -> None:
    frame = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame[::2, ::3] = 255  # overshoots must be cut as there
    resizer = Resizer(height, width, size, torch.device("cpu"))
    expected = np.asarray(Image.fromarray(frame).resize((size, size)))
    found = resizer.resized(torch.from_numpy(frame)[None])[0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, expected)


def test_pictures_are_normalized_as_upstream_does() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3).contiguous()
    found = Resizer(16, 16, 16, torch.device("cpu"))(values)[0, 1].flatten()
    expected = ((torch.arange(256).double() / 255).float() - 0.456) / 0.224
    assert torch.allclose(found, expected, atol=1e-6)


def test_our_memory_attention_is_the_packages() -> None:
    torch.manual_seed(0)
    module = build("tiny", 128).memory_attention
    features, position = torch.randn(1, 64, 256), torch.randn(1, 64, 256)
    memory, place = torch.randn(1, 3 * 64 + 20, 64), torch.randn(1, 3 * 64 + 20, 64)
    expected = read_plainly(module, features, position, memory, place, 20)
    found = MemoryReader(module, 8)(features, position, memory, place, 20)
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_halved_weights_give_what_autocast_gives() -> None:
    torch.manual_seed(0)
    network = build("tiny", 64)
    picture = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        expected = network.forward_image(picture)["backbone_fpn"]
    halve(network)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        found = network.forward_image(picture)["backbone_fpn"]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def blobs(seed: int, size: int = 64, smooth: float = 2.0) -> torch.Tensor:
    noise = np.random.default_rng(seed).standard_normal((size, size))
    return torch.from_numpy(ndimage.gaussian_filter(noise, smooth) * 40).float()[None, None]


@pytest.mark.parametrize("size", [(270, 480), (135, 61), (64, 64)])
def test_a_matte_is_soft_and_its_half_line_is_upstreams_mask(size: tuple[int, int]) -> None:
    for seed in range(4):
        logits = blobs(seed)
        matte = soft_matte(logits, *size)
        mask = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0] > 0
        assert torch.equal(matte > 0.5, mask)
        assert ((matte > 0.1) & (matte < 0.9)).float().mean() > 0.05


def test_a_matte_has_no_staircase() -> None:
    # A disc on a grid of 64 cells, wanted at 512; its edge blurred over a cell, as a lens and a network do.
    y, x = np.mgrid[:512, :512]
    truth = 1 / (1 + np.exp(-(152 - np.hypot(x - 250, y - 262)) / 2))
    yy, xx = np.mgrid[:64, :64] * 8.0 + 3.5
    logits = torch.from_numpy((152 - np.hypot(xx - 250, yy - 262)) / 2).float()[None, None]
    soft = soft_matte(logits, 512, 512).numpy()
    nearest = F.interpolate((logits > 0).float(), (512, 512), mode="nearest")[0, 0].numpy()
    assert np.abs(soft - truth).max() < 0.08
    assert np.abs(soft - truth).sum() < 0.1 * np.abs(nearest - truth).sum()
    assert np.abs(np.diff(soft, axis=0)).max() < 0.2 and np.abs(np.diff(soft, axis=1)).max() < 0.2


def test_several_objects_make_one_subject() -> None:
    both = soft_matte(torch.cat([blobs(0), blobs(1)]), 100, 120)
    assert torch.equal(both, torch.maximum(soft_matte(blobs(0), 100, 120), soft_matte(blobs(1), 100, 120)))


@pytest.mark.parametrize("area", [1, 3, 8, 20])
def test_holes_are_the_small_components_of_the_background(area: int) -> None:
    for seed in range(6):
        logits = torch.cat([blobs(seed, 64, 0.7) + 4, blobs(seed + 50, 64, 0.5) + 9])
        expected = logits.clone()
        for k in range(2):
            labels, _ = ndimage.label((logits[k, 0] <= 0).numpy(), np.ones((3, 3)))
            sizes = np.bincount(labels.ravel())
            hole = (labels > 0) & (sizes[labels] <= area)
            assert hole.any()
            expected[k, 0][torch.from_numpy(hole)] = 0.1
        assert torch.equal(fill_holes(logits, area), expected)
    assert fill_holes(logits, 0) is logits
