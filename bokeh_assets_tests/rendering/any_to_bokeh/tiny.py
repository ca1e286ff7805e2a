"""Networks of any-to-bokeh a thousand times smaller than the released ones, with random weights."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from bokeh_assets.rendering.any_to_bokeh.image_encoder import build_image_encoder, place_buffers
from bokeh_assets.rendering.any_to_bokeh.loading import fill
from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh
from bokeh_assets.rendering.any_to_bokeh.unet import BokehUNet
from bokeh_assets.rendering.any_to_bokeh.vae import BokehVAE

CPU = torch.device("cpu")
HEIGHT, WIDTH = 64, 128

CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": [32, 32, 64, 64],
        "layers_per_block": 1,
        "cross_attention_dim": 48,
        "num_attention_heads": [2, 2, 4, 4],
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 96,
    },
    "vae": {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "block_out_channels": [32, 32, 64, 64],
        "layers_per_block": 2,
    },
    "image_encoder": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 32,
        "image_size": 224,
        "projection_dim": 48,
        "hidden_act": "gelu",
    },
}


def drawn(key: str, shape: tuple[int, ...]) -> Tensor:
    """A weight that depends on its name alone and keeps activations of order one."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    last = key.rsplit(".", 1)[-1]
    if last == "mix_factor":
        return 0.5 * noise
    if last.startswith("alpha_"):
        return 0.5 + 0.25 * noise
    if noise.ndim >= 2:
        return noise / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * noise if last == "weight" else 0.1 * noise


def live(module: nn.Module, official: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Tensor]]:
    wanted = set(module.state_dict())
    return ((key, drawn(key, shape)) for key, shape in official.items() if key in wanted)


def tiny_model(**options: Any) -> AnyToBokeh:
    unet, vae = BokehUNet(CONFIGS["unet"]), BokehVAE(CONFIGS["vae"])
    encoder, official = build_image_encoder(CONFIGS["image_encoder"])
    for module, shapes in ((unet, unet.official), (vae, vae.official), (encoder, official)):
        fill(module, live(module, shapes), device=CPU, dtype=torch.float32)
    place_buffers(encoder, CPU)
    return AnyToBokeh(unet, vae, encoder, device=CPU, **options)


def write_checkpoints(folder: Path) -> dict[str, Path]:
    """Folders of the three parts in the layouts of the releases: unet/unet, vae, image_encoder."""
    official = build_image_encoder(CONFIGS["image_encoder"])[1]
    shapes = {
        "unet": BokehUNet(CONFIGS["unet"]).official,
        "vae": BokehVAE(CONFIGS["vae"]).official,
        "image_encoder": official,
    }
    inside = {"unet": "unet/unet", "vae": "vae", "image_encoder": "image_encoder"}
    names = {part: "diffusion_pytorch_model.safetensors" for part in shapes} | {"image_encoder": "model.safetensors"}
    for part, official in shapes.items():
        where = folder / inside[part]
        where.mkdir(parents=True)
        (where / "config.json").write_text(json.dumps(CONFIGS[part]))
        save_file({key: drawn(key, shape) for key, shape in official.items()}, where / names[part])
    return {part: folder / part for part in shapes}


def video(count: int, height: int = 72, width: int = 128, start: int = 0) -> list[NDArray[np.uint8]]:
    """Gradients and grain that move, with a disc that wanders."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    frames = []
    for t in (np.arange(count) + start) / 24:
        grain = np.random.default_rng(round(24 * t)).normal(0, 0.05, (height, width, 1))
        base = np.stack([0.5 + 0.5 * np.sin(6 * x + 3 * t), 0.5 + 0.5 * np.cos(5 * y - 2 * t), (x + y) / 2], -1)
        disc = (x - 0.5 - 0.3 * np.sin(t)) ** 2 + (y - 0.5) ** 2 < 0.04
        frames.append(((np.where(disc[..., None], [0.9, 0.3, 0.1], base) + grain).clip(0, 1) * 255).astype(np.uint8))
    return frames


def depth(count: int, height: int = 72, width: int = 128, start: int = 0) -> list[NDArray[np.float32]]:
    """Disparity of `video`."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    times = (np.arange(count) + start) / 24
    return [
        np.where((x - 0.5 - 0.3 * np.sin(t)) ** 2 + (y - 0.5) ** 2 < 0.04, 0.8, 0.5 * y).astype("f4") for t in times
    ]


def focus(count: int, zf: Any = 0.8, k: Any = 16.0, shot: Any = 0) -> pd.DataFrame:
    return pd.DataFrame({"frame": range(count), "zf": zf, "k": k, "shot": shot})
