"""Tiny networks, random and golden."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bokeh_assets.rendering.any_to_bokeh.image_encoder import build_image_encoder, place_buffers
from bokeh_assets.rendering.any_to_bokeh.loading import compare, fill
from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh
from bokeh_assets.rendering.any_to_bokeh.unet import BokehUNet
from bokeh_assets.rendering.any_to_bokeh.vae import BokehVAE
from bokeh_assets_tests.rendering.any_to_bokeh.tiny import CPU, tiny_model


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """Tiny tensors are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny() -> AnyToBokeh:
    return tiny_model()


@pytest.fixture(scope="session")
def golden_model(shared: Path) -> AnyToBokeh:
    """The golden vectors' own tiny networks."""
    from safetensors.torch import load_file

    def read(part: str) -> tuple[dict, dict[str, torch.Tensor]]:
        stem = shared / "golden" / f"a2b_{part}_tiny"
        return json.loads(Path(f"{stem}_config.json").read_text()), load_file(f"{stem}_weights.safetensors")

    config, unet_weights = read("unet")
    unet = BokehUNet(config)
    config, vae_weights = read("vae")
    vae = BokehVAE(config)
    config, clip_weights = read("clip")
    encoder, official = build_image_encoder(config)
    for module, shapes, weights in (
        (unet, unet.official, unet_weights),
        (vae, vae.official, vae_weights),
        (encoder, official, clip_weights),
    ):
        weights = {key: t for key, t in weights.items() if "position_ids" not in key}
        compare({key: tuple(t.shape) for key, t in weights.items()}, shapes, "the golden weights")
        live = set(module.state_dict())
        tensors = ((key, t) for key, t in weights.items() if key in live)
        fill(module, tensors, device=CPU, dtype=torch.float32)
    place_buffers(encoder, CPU)
    return AnyToBokeh(unet, vae, encoder, device=CPU)
