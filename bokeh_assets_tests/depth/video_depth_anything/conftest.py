"""The seeded models that these tests run."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bokeh_assets.depth.video_depth_anything.model import VideoDepthAnything


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.fixture(scope="session")
def golden_model(seed_weights: ModuleType) -> VideoDepthAnything:
    """vits with the weights of the golden vectors (seed 5)."""
    with torch.no_grad():
        model = seed_weights.fill(VideoDepthAnything("vits"), 5)
        model.head.scratch.output_conv2[2].bias.fill_(2.0)
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def golden_video(seed_weights: ModuleType) -> NDArray[np.uint8]:
    return seed_weights.video(75, 48, 64, seed=9)


@pytest.fixture(scope="session")
def model() -> VideoDepthAnything:
    """vits with weights that need no file: the constructor's own, made reproducible and positive."""
    torch.manual_seed(3)
    made = VideoDepthAnything("vits")
    with torch.no_grad():
        made.pretrained.cls_token.normal_(0, 0.2)
        made.pretrained.pos_embed.normal_(0, 0.2)
        dict(made.named_parameters())["head.scratch.output_conv2.2.bias"].fill_(1.0)
    return made.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def video() -> NDArray[np.uint8]:
    return moving_picture(75, seed=1)


def moving_picture(count: int, seed: int) -> NDArray[np.uint8]:
    """uint8 (count, 48, 64, 3): noise that drifts under a moving square."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    frames = np.stack([np.roll(ground, number, axis=1) for number in range(count)])
    for number, frame in enumerate(frames):
        left = 5 + number % 40
        frame[12:36, left : left + 16] = 40 * seed
    return frames
