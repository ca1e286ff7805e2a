"""The networks of SAM 2.1, built from the configurations that the package `sam2` carries."""

from __future__ import annotations

from pathlib import Path

import torch
from sam2.build_sam import build_sam2
from sam2.modeling.sam2_base import SAM2Base

from bokeh_assets.checkpoints import load_weights
from bokeh_assets.errors import InputError

MODELS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
"""Sizes, and what the package calls them."""

IMAGE_SIZE = 1024


def build(model: str, image_size: int = IMAGE_SIZE) -> SAM2Base:
    """One size with untrained weights, on the CPU, for inference.

    Args:
        image_size: side of the square the network sees, a multiple of 32. The official weights are trained for
            1024; less is for tests.

    Raises:
        InputError: there is no such size.
    """
    if model not in MODELS:
        raise InputError(f"unknown SAM 2.1 model {model!r}; known are {', '.join(MODELS)}")
    overrides = ["++model.binarize_mask_from_pts_for_mem_enc=true"]  # as in the package's video predictor
    if image_size != IMAGE_SIZE:
        grid = image_size // 16
        overrides += [
            f"++model.image_size={image_size}",
            f"++model.memory_attention.layer.self_attention.feat_sizes=[{grid},{grid}]",
            f"++model.memory_attention.layer.cross_attention.feat_sizes=[{grid},{grid}]",
        ]
    config = f"configs/sam2.1/sam2.1_hiera_{MODELS[model]}.yaml"
    network: SAM2Base = build_sam2(config, ckpt_path=None, device="cpu", hydra_overrides_extra=overrides)
    return network.requires_grad_(False)


def state_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the official checkpoint of a size."""
    return {key: tuple(value.shape) for key, value in build(model).state_dict().items()}


def load(model: str, checkpoint: Path, device: torch.device, image_size: int = IMAGE_SIZE) -> SAM2Base:
    """One size with the weights of a checkpoint file, strictly.

    Raises:
        InputError: the file is missing, broken, hostile, or of another model.
    """
    network = build(model, image_size)
    weights = load_weights(checkpoint)
    expected = network.state_dict()
    wrong = sorted(set(weights) ^ set(expected)) or [
        key for key, value in weights.items() if value.shape != expected[key].shape
    ]
    if wrong:
        raise InputError(
            f"{checkpoint} does not hold the weights of sam2.1_hiera_{model} ({wrong[0]} differs); "
            f"run: bokeh-assets checkpoints download sam2.1_hiera_{model}"
        )
    network.load_state_dict(weights)
    return network.to(device)


def halve(network: SAM2Base) -> None:
    """Stores the weights of matrix products and convolutions as bfloat16, in place.

    Under autocast these are rounded to bfloat16 at every use; rounding them once gives the same numbers and saves
    reading them twice a frame. All else (norms, embeddings, positions) stays float32.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.to(torch.bfloat16)
