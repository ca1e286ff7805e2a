"""CLIP's image encoder with its projection, which comes from Stable Video Diffusion XT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bokeh_assets.rendering.any_to_bokeh.loading import load, read_config


def build_image_encoder(config: Mapping[str, Any]) -> tuple[nn.Module, dict[str, tuple[int, ...]]]:
    """The encoder on the meta device, and the shape by key of its checkpoint."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.device("meta"):
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
    state = encoder.state_dict()
    return encoder, {key: tuple(t.shape) for key, t in state.items() if "position_ids" not in key}


def load_image_encoder(folder: Path, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The encoder with its weights, strictly loaded.

    Raises:
        InputError: see `loading.load`.
    """
    encoder, official = build_image_encoder(read_config(folder))
    load(encoder, folder, official, device=device, dtype=dtype)
    place_buffers(encoder, device)
    return encoder


def place_buffers(encoder: nn.Module, device: torch.device) -> None:
    """Makes CLIP's table of positions, the one buffer that no checkpoint holds, after building on "meta"."""
    for module in encoder.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and name == "position_ids":
                module._buffers[name] = torch.arange(buffer.shape[-1], device=device)[None]
