"""The networks against what the released ones compute on the same weights."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor, nn

from bokeh_assets.rendering.any_to_bokeh import state_shapes
from bokeh_assets.rendering.any_to_bokeh.clip import resize_for_clip
from bokeh_assets.rendering.any_to_bokeh.fuser import k_embedding
from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh
from bokeh_assets_tests.rendering.any_to_bokeh.tiny import tiny_model


class Golden(dict[str, Tensor]):
    def __init__(self, shared: Path, name: str) -> None:
        with np.load(shared / "golden" / f"{name}.npz") as file:
            super().__init__({key: torch.from_numpy(file[key]) for key in file.files})


def listen(modules: dict[str, nn.Module], run: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """(first input, output) of each module during `run`."""
    heard: dict[str, tuple[Tensor, Tensor]] = {}

    def ear(name: str) -> Callable[..., None]:
        def hear(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            heard.setdefault(name, (inputs[0], output))

        return hear

    handles = [module.register_forward_hook(ear(name)) for name, module in modules.items()]
    run()
    for handle in handles:
        handle.remove()
    return heard


@pytest.mark.parametrize(("half", "key"), [(True, "emb_fp16"), (False, "emb_fp32")])
def test_k_is_embedded_as_released(shared, half, key):
    golden = Golden(shared, "a2b_k_embedding")
    found = k_embedding(golden["k"], half=half)
    # Sine and cosine of another library differ in the last place: half of float16's unit at one, where it is rounded.
    assert_allclose(found, golden[key].float().view(-1, 32), atol=5e-4 if half else 1e-5)


def test_the_float16_embedding_is_far_from_the_exact_one():
    k = torch.tensor([32.0])
    assert 1.4 < (k_embedding(k) - k_embedding(k, half=False)).abs().max() < 1.6


@pytest.mark.parametrize(("index", "size"), [(0, (576, 1024)), (1, (64, 128)), (2, (300, 200))])
def test_pictures_are_resized_for_clip_as_released(shared, seed_weights, index, size):
    golden = Golden(shared, "a2b_clip_resize")
    found = resize_for_clip(seed_weights.pattern((1, 3, *size), 400 + index, -1, 1))
    assert_allclose(found[..., ::4, ::4], golden[f"out_{size[0]}x{size[1]}"], atol=1e-5)


@pytest.fixture(scope="module")
def unet_io(shared):
    return Golden(shared, "a2b_unet_tiny_io")


def denoise(model: AnyToBokeh, io: Golden, which: slice = slice(None), more: float = 0.0) -> Tensor:
    context = io["encoder_hidden_states"].view(2, 4, -1)[which].flatten(0, 1)
    return model.unet(io["sample"][which], context, io["input_k"][which] + more, half_k=False)


def test_two_groups_leak_as_released_and_one_does_not(golden_model, unet_io):
    assert_allclose(denoise(golden_model, unet_io), unet_io["out_B2"], atol=1e-4)
    first, second = denoise(golden_model, unet_io, slice(0, 1)), denoise(golden_model, unet_io, slice(1, 2))
    assert_allclose(first, unet_io["out_first_item_alone_B1"], atol=1e-4)
    assert_allclose(second, unet_io["out_second_item_alone_B1"], atol=1e-4)
    assert (first - unet_io["out_B2"][:1]).abs().max() > 1e-3


def test_k_reaches_the_result_as_released(golden_model, unet_io):
    assert_allclose(denoise(golden_model, unet_io, more=1.0), unet_io["out_k_plus_1"], atol=1e-4)


def test_every_stage_of_the_unet_is_as_released(golden_model, unet_io):
    unet = golden_model.unet
    attention = unet.down_blocks[0].attentions[0]
    places = {
        "conv_in": unet.conv_in,
        "st_down0_resnet0": unet.down_blocks[0].resnets[0],
        "st_down0_attn0": attention,
        "st_down0_spatial_block": attention.transformer_blocks[0],
        "fuser_down0": attention.transformer_blocks[0].fuser,
        "fuser_mid": unet.mid_block.attentions[0].transformer_blocks[0].fuser,
        "mid": unet.mid_block.resnets[-1],
        **{f"down_{i}": unet.down_blocks[i].downsamplers[0] for i in range(3)},
        "down_3": unet.down_blocks[3].resnets[-1],
        **{f"up_{i}": unet.up_blocks[i].upsamplers[0] for i in range(3)},
        "up_3": unet.up_blocks[3].attentions[-1],
    }
    heard = listen(places, lambda: denoise(golden_model, unet_io))
    for name, (given, output) in heard.items():
        assert_allclose(output, unet_io[f"tap_{name}"], atol=1e-4, err_msg=name)
        if f"tap_{name}_in" in unet_io:
            assert_allclose(given, unet_io[f"tap_{name}_in"], atol=1e-4, err_msg=name)
    assert heard.keys() == places.keys()
    time = unet_io["tap_time_emb"][:1] + unet_io["tap_add_emb"][:1]
    assert_allclose(unet.time(unet_io["sample"]), time, atol=1e-4)


@pytest.fixture(scope="module")
def vae_io(shared):
    return Golden(shared, "a2b_vae_tiny_io")


def each(features: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    return [tuple(f[i : i + 1] for f in features) for i in range(len(features[0]))]


def test_pictures_are_encoded_as_released(golden_model, vae_io):
    posterior, features = golden_model.vae.encode(vae_io["x"], keep=True)
    assert_allclose(posterior.mean, vae_io["mean"], atol=1e-4)
    assert_allclose(posterior.std, vae_io["std"], atol=1e-4)
    finest = golden_model.vae.encoder.conv_in(features[0])
    for i, found in enumerate((finest, *features[1:])):
        assert_allclose(found, vae_io[f"residual_{i}"], atol=1e-4)
    for i in range(4):
        alone, _ = golden_model.vae.encode(vae_io["x"][i : i + 1])
        assert_allclose(alone.mean, posterior.mean[i : i + 1], atol=1e-5)


@pytest.mark.parametrize("sliced", [False, True])
def test_latents_are_decoded_as_released(golden_model, vae_io, sliced, monkeypatch):
    vae = golden_model.vae
    monkeypatch.setattr(vae, "sliced", sliced)
    monkeypatch.setattr("bokeh_assets.rendering.any_to_bokeh.vae.SLICE", 37)
    _, features = vae.encode(vae_io["x"], keep=True)
    seen = each(features)
    assert_allclose(vae.decode(vae_io["z"], seen), vae_io["dec_all"], atol=1e-4)
    assert_allclose(vae.decode(vae_io["z"][2:], seen[2:]), vae_io["dec_second_half_chunk"], atol=1e-4)
    wrong = vae.decode(vae_io["z"][2:], seen[:2])
    assert_allclose(wrong, vae_io["dec_second_half_wrong_start"], atol=1e-4)
    assert (wrong - vae_io["dec_second_half_chunk"]).abs().max() > 1e-2


def test_every_stage_of_the_decoder_is_as_released(golden_model, vae_io):
    vae = golden_model.vae
    _, features = vae.encode(vae_io["x"], keep=True)
    up = vae.decoder.up_blocks
    places = {f"dec_up_{i}": up[i].upsamplers[0] for i in range(2)}
    heard = listen(
        places | {f"in_{i}": up[i].resnets[0].spatial_res_block for i in range(2)},
        lambda: vae.decode(vae_io["z"], each(features)),
    )
    for i in range(2):
        assert_allclose(heard[f"dec_up_{i}"][1], vae_io[f"tap_dec_up_{i}"], atol=1e-4)
        assert_allclose(heard[f"in_{i}"][0], vae_io[f"tap_dec_up_{i}_in"], atol=1e-4)


def test_a_frame_without_features_is_refused(tiny):
    with pytest.raises(ValueError, match="features of each of its 2 frames, got 0"):
        tiny.vae.decode(torch.zeros(2, 4, 8, 8), [])


@pytest.mark.parametrize(
    ("part", "table"),
    [
        ("unet", "any_to_bokeh_unet_full"),
        ("vae", "any_to_bokeh_vae_full"),
        ("image_encoder", "clip_vit_h14_image_encoder"),
    ],
)
def test_official_keys_and_shapes_are_known(shared, part, table):
    with open(shared / "golden" / "keys" / f"{table}.tsv") as file:
        official = {row[0]: tuple(json.loads(row[1])) for row in csv.reader(file, delimiter="\t")}
    assert state_shapes(part) == official


def test_dead_weights_are_not_kept(tiny):
    dead = {key for key in tiny.unet.official if ".ff_k." in key or ".fuser.linear." in key or "conv_in_mpi" in key}
    assert dead and not dead & set(tiny.unet.state_dict())


def seeded(module: nn.Module, official: dict[str, tuple[int, ...]], seed: int, rule: ModuleType) -> None:
    from bokeh_assets.rendering.any_to_bokeh.loading import fill

    wanted = set(module.state_dict())
    tensors = ((key, rule.seeded(key, shape, seed)) for key, shape in official.items() if key in wanted)
    fill(module, tensors, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.slow
def test_the_full_unet_is_as_released(shared, seed_weights):
    from bokeh_assets.rendering.any_to_bokeh.loading import OFFICIAL_CONFIGS
    from bokeh_assets.rendering.any_to_bokeh.unet import BokehUNet

    torch.set_num_threads(2)
    io = Golden(shared, "a2b_unet_full_seed1_io")
    unet = BokehUNet(OFFICIAL_CONFIGS["unet"])
    seeded(unet, unet.official, 1, seed_weights)
    found = unet(io["sample"], io["encoder_hidden_states"].flatten(0, 1), io["input_k"], half_k=False)
    assert_allclose(found, io["out"], atol=1e-3)


@pytest.mark.slow
def test_the_full_vae_is_as_released(shared, seed_weights):
    from bokeh_assets.rendering.any_to_bokeh.loading import OFFICIAL_CONFIGS
    from bokeh_assets.rendering.any_to_bokeh.vae import BokehVAE

    torch.set_num_threads(2)
    io = Golden(shared, "a2b_vae_full_seed2_io")
    vae = BokehVAE(OFFICIAL_CONFIGS["vae"])
    seeded(vae, vae.official, 2, seed_weights)
    posterior, features = vae.encode(io["x"], keep=True)
    assert_allclose(posterior.mean, io["mean"], atol=1e-3)
    assert_allclose(posterior.std, io["std"], atol=1e-3)
    assert_allclose(vae.decode(io["z"], each(features)), io["dec_all"], atol=1e-3)
    assert_allclose(vae.decode(io["z"][2:], each(features)[2:]), io["dec_second_half_chunk"], atol=1e-3)


def test_low_memory_gives_the_same_numbers(tiny):
    from bokeh_assets_tests.rendering.any_to_bokeh.tiny import HEIGHT, WIDTH, depth, focus, video

    frugal = tiny_model(low_memory=True)
    size: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "output": "network"}
    one = list(frugal.render(video(5), depth(5), focus(5), **size))
    other = list(tiny.render(video(5), depth(5), focus(5), **size))
    assert np.abs(np.stack(one).astype(int) - np.stack(other)).max() <= 1
    assert_array_equal(frugal.unet.conv_in.weight, tiny.unet.conv_in.weight)
