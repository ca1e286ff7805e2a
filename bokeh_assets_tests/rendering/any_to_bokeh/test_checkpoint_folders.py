"""Checkpoint folders: good ones render, others are refused with a reason; and the renderer on top of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from safetensors.torch import load_file, save_file

from bokeh_assets.errors import InputError
from bokeh_assets.rendering import any_to_bokeh
from bokeh_assets.rendering.any_to_bokeh import AnyToBokeh, AnyToBokehRenderer, state_shapes
from bokeh_assets.rendering.any_to_bokeh.renderer import can_compile
from bokeh_assets.rendering.base import Renderer
from bokeh_assets_tests.rendering.any_to_bokeh.tiny import HEIGHT, WIDTH, depth, focus, video, write_checkpoints

NAME = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def folders(good: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """A copy that may be spoilt."""
    for part, folder in good.items():
        shutil.copytree(folder, tmp_path / part)
    return {part: tmp_path / part for part in good}


def renderer(folders: dict[str, Path], **options: Any) -> AnyToBokehRenderer:
    given: dict[str, Any] = {**folders, "height": HEIGHT, "width": WIDTH, **options}
    return AnyToBokehRenderer(device="cpu", **given)


def test_the_renderer_keeps_what_renderers_promise(good):
    made: Renderer = renderer(good)
    assert made.name == "any_to_bokeh"
    told: list[int] = []
    k = [16, 0, 16, 16]
    table = focus(4, k=k, shot=[0, 0, 1, 1])
    found = list(made.render(iter(video(4)), iter(depth(4)), None, table, progress=told.append))
    assert [(f.dtype, f.shape) for f in found] == [(np.uint8, (72, 128, 3))] * 4
    assert told == [1, 2, 3, 4]
    assert made.how == "float32, eager"
    for frame, source, strength in zip(found, video(4), k, strict=True):
        assert (frame == source).all() == (strength == 0)
    mattes = [np.ones((72, 128), np.float32)] * 4
    assert_array_equal(list(made.render(video(4), depth(4), mattes, table)), found)
    assert_array_equal(list(made.render(video(4)[2:], depth(4)[2:], None, focus(2))), found[2:])


def test_compiling_and_small_cards_are_chosen_by_what_pays(good, monkeypatch):
    given: dict[str, Any] = {}
    monkeypatch.setattr(AnyToBokeh, "from_pretrained", lambda **g: given.update(g) or Loaded())
    for memory, frames, low, compiled in [(80e9, 999, 0, 0), (80e9, 1000, 0, 1), (12e9, 5000, 1, 0)]:
        card = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda place, card=card: card)
        made = renderer(good)
        made._place = torch.device("cuda")
        model = made.model(frames)
        assert (given["low_memory"], model.compiled) == (low, compiled and can_compile())
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not can_compile()


class Loaded:
    compiled = False

    def compile(self) -> None:
        self.compiled = True


def test_loaded_networks_equal_those_built_in_memory(good, tiny):
    loaded = AnyToBokeh.from_pretrained(**good, device="cpu")
    options: dict[str, Any] = {"height": HEIGHT, "width": WIDTH}
    one, other = (list(m.render(video(3), depth(3), focus(3), **options)) for m in (loaded, tiny))
    assert_array_equal(one, other)


def test_bfloat16_gives_nearly_the_same(good, tiny):
    half = AnyToBokeh.from_pretrained(**good, device="cpu", dtype="bfloat16")
    options: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "output": "network"}
    one, other = (np.stack(list(m.render(video(2), depth(2), focus(2), **options))) for m in (half, tiny))
    assert 0 < np.abs(one.astype(float) - other).mean() < 6


def test_the_folder_itself_or_its_subfolder_may_be_given(good):
    direct = good | {"unet": good["unet"] / "unet"}
    assert len(list(renderer(direct).render(video(1), depth(1), None, focus(1)))) == 1


def test_shards_and_pickled_weights_are_read(folders):
    where = folders["unet"] / "unet"
    state = load_file(where / NAME)
    (where / NAME).unlink()
    keys = sorted(state)
    shards = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for name, part in shards.items():
        save_file({key: state[key] for key in part}, where / name)
    index = {"weight_map": {key: name for name, part in shards.items() for key in part}}
    (where / f"{NAME}.index.json").write_text(json.dumps(index))
    vae = folders["vae"]
    torch.save(load_file(vae / NAME), vae / "diffusion_pytorch_model.bin")
    (vae / NAME).unlink()
    assert len(list(renderer(folders).render(video(1), depth(1), None, focus(1)))) == 1
    (where / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks b\.safetensors"):
        list(renderer(folders).render(video(1), depth(1), None, focus(1)))


def spoil(folders: dict[str, Path], how: str) -> None:
    vae = folders["vae"]
    if how == "absent":
        shutil.rmtree(vae)
    elif how == "no weights":
        (vae / NAME).unlink()
    elif how == "cut short":
        data = (vae / NAME).read_bytes()
        (vae / NAME).write_bytes(data[: len(data) // 2])
    elif how == "no JSON":
        (vae / "config.json").write_text("{")
    elif how == "a list":
        (vae / "config.json").write_text("[]")
    elif how == "another network":
        (vae / "config.json").write_text('{"block_out_channels": [32], "down_block_types": ["Nonsense"]}')
    else:
        state = load_file(vae / NAME)
        key = "decoder.skip_conv_1.weight"
        if how == "a key less":
            del state[key]
        elif how == "a key more":
            state["more"] = torch.zeros(1)
        elif how == "another shape":
            state[key] = torch.zeros(3)
        elif how == "integers":
            state[key] = state[key].int()
        save_file(state, vae / NAME)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("absent", "no vae checkpoint in .*vae"),
        ("no weights", "no weights in .*vae"),
        ("cut short", "cannot be read as weights"),
        ("no JSON", r"config\.json cannot be read"),
        ("a list", "not a JSON object"),
        ("another network", "describes no vae of any-to-bokeh"),
        ("a key less", r"lack 1 key\(s\), such as decoder\.skip_conv_1\.weight"),
        ("a key more", r"have unknown 1 key\(s\), such as more"),
        ("another shape", r"have other shapes for 1 key\(s\), such as decoder\.skip_conv_1\.weight \[3\]"),
        ("integers", r"skip_conv_1\.weight is of torch\.int32"),
    ],
)
def test_a_spoilt_checkpoint_is_refused(folders, how, message):
    spoil(folders, how)
    with pytest.raises(InputError, match=message):
        list(renderer(folders).render(video(1), depth(1), None, focus(1)))


def test_shapes_follow_the_folders_own_config(good):
    state = load_file(good["vae"] / NAME)
    assert state_shapes("vae", good["vae"]) == {key: tuple(t.shape) for key, t in state.items()}
    assert state_shapes("vae")["decoder.skip_conv_4.weight"] == (256, 128, 1, 1)
    with pytest.raises(InputError, match="no part 'text_encoder'"):
        state_shapes("text_encoder")


def test_a_missing_extra_is_named_with_its_remedy(good, monkeypatch):
    monkeypatch.setattr(any_to_bokeh, "find_spec", lambda name: None if name == "diffusers" else object())
    with pytest.raises(InputError, match=r"needs diffusers; install with: pip install 'bokeh_assets\[any-to-bokeh\]'"):
        renderer(good)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(good):
    with pytest.raises(InputError, match="cuda"):
        AnyToBokehRenderer(**good, device="cuda")


def test_an_unknown_dtype_is_refused(good):
    with pytest.raises(InputError, match="dtype int8 is not one of float16, bfloat16, float32"):
        AnyToBokeh.from_pretrained(**good, device="cpu", dtype="int8")
