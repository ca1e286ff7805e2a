"""The network is the official one: same keys, same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bokeh_assets.depth.video_depth_anything.model import VARIANTS, VideoDepthAnything, state_shapes
from bokeh_assets.errors import InputError

CLOSE = 1e-4


@pytest.mark.parametrize("encoder", VARIANTS)
def test_state_dict_is_that_of_the_official_checkpoint(encoder: str, golden: Path) -> None:
    rows = [line.split("\t") for line in (golden / f"keys/vda_{encoder}.tsv").read_text().splitlines()]
    assert {key: str(list(value)) for key, value in state_shapes(encoder).items()} == {
        key: shape for key, shape, _ in rows
    }


def test_unknown_encoder_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'vitg'.*vits, vitb, vitl"):
        VideoDepthAnything("vitg")
    with pytest.raises(InputError, match=r"'vitg'.*vits, vitb, vitl"):
        state_shapes("vitg")


def _recorded(module: nn.Module, store: dict[str, np.ndarray], name: str):
    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        store[f"tap_{name}_in"] = inputs[0].numpy()
        store[f"tap_{name}"] = output.numpy()

    return module.register_forward_hook(hook)


def test_every_stage_gives_the_reference_numbers(golden: Path, golden_model: VideoDepthAnything) -> None:
    expected = np.load(golden / "vda_vits_seed5_module.npz")
    seen: dict[str, np.ndarray] = {}
    head, encoder = golden_model.head, golden_model.pretrained
    stages = {f"mm{n}": module for n, module in enumerate(head.motion_modules)}
    stages |= {"patch_embed": encoder.patch_embed, "block0": encoder.blocks[0]}
    stages |= {"refinenet3": head.scratch.refinenet3, "refinenet4": head.scratch.refinenet4}
    hooks = [_recorded(module, seen, name) for name, module in stages.items()]
    x = torch.from_numpy(expected["x"])
    with torch.inference_mode():
        out = golden_model(x)
        taps = encoder(x[0])
    for hook in hooks:
        hook.remove()

    for key in [key for key in expected.files if key.startswith("tap_")]:
        value = seen[key]
        if expected[key].ndim == 5:  # the reference has (batch, channels, frames, h, w) here
            value = value.transpose(1, 0, 2, 3)[None]
        np.testing.assert_allclose(value, expected[key], atol=CLOSE, err_msg=key)
    np.testing.assert_allclose(np.stack(taps)[:, :2], expected["feat_patch"], atol=CLOSE)
    np.testing.assert_allclose(out.numpy(), expected["out"], atol=CLOSE)
    np.testing.assert_allclose(out[0, :, None].numpy(), expected["head_out"], atol=CLOSE)


def test_shorter_windows_give_the_reference_numbers(golden: Path, golden_model: VideoDepthAnything) -> None:
    expected = np.load(golden / "vda_vits_seed5_module.npz")
    with torch.inference_mode():
        out = golden_model(torch.from_numpy(expected["x"][:, :6]))
    np.testing.assert_allclose(out.numpy(), expected["out_first6"], atol=CLOSE)


def test_position_table_is_resized_as_in_training(golden: Path, golden_model: VideoDepthAnything) -> None:
    expected = np.load(golden / "vda_vits_seed5_module.npz")["pos_encoding_5x7"]
    np.testing.assert_allclose(golden_model.pretrained.positions(5, 7).numpy(), expected, atol=CLOSE)
    assert golden_model.pretrained.positions(37, 37) is golden_model.pretrained.pos_embed


def test_portions_do_not_change_the_result(model: VideoDepthAnything) -> None:
    x = torch.randn(7, 3, 56, 70, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pyramid = model.pyramid(x)
        whole = model.depth(pyramid, step=7)
        parts = model.depth(pyramid, step=2, tokens_at_once=40)
        some = model.depth(pyramid, range(3))
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(some, whole[:3], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["vitb", "vitl"])
def test_larger_models_run(encoder: str) -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        out = VideoDepthAnything(encoder)(torch.randn(1, 2, 3, 42, 56))
    assert out.shape == (1, 2, 42, 56) and torch.isfinite(out).all()
