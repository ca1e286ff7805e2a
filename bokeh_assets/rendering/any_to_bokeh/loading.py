"""From a folder with a checkpoint to a network on a device, and nothing loaded that does not fit exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bokeh_assets.errors import InputError
from bokeh_assets.rendering.any_to_bokeh.blocks import SelfAttention

WEIGHT_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
    "pytorch_model.fp16.bin",
)
"""What diffusers and transformers call a file of weights, the best first."""

IGNORED = ("vision_model.embeddings.position_ids",)
"""A table of 0, 1, 2, ... which older checkpoints carry along."""


def checkpoint_folder(folder: Path | str, part: str) -> Path:
    """The folder that holds config.json: `folder` itself or its subfolder `part`.

    Raises:
        InputError: there is none.
    """
    folder = Path(folder)
    for candidate in (folder / part, folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise InputError(
        f"no {part} checkpoint in {folder}: neither {part}/config.json nor config.json is there; "
        "see `bokeh-assets checkpoints list` for what to download and where to put it"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder.

    Raises:
        InputError: it is no JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); download the checkpoint again") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a JSON object; download the checkpoint again")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a checkpoint folder: one, or the shards that an index lists.

    Raises:
        InputError: there is none, or a shard is missing.
    """
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return [folder / name]
        stem, kind = name.rsplit(".", 1)
        index = folder / f"{stem}.{kind}.index.json"
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            outside = [n for n in names if Path(n).name != n]
            if outside:
                raise InputError(f"{index} names {outside[0]!r}, a file elsewhere; download the checkpoint again")
            missing = [n for n in names if not (folder / n).is_file()]
            if missing:
                raise InputError(f"{folder} lacks {missing[0]}, which {index.name} lists; download it again")
            return [folder / n for n in names]
    raise InputError(f"no weights in {folder}: none of {', '.join(WEIGHT_NAMES)}; download the checkpoint again")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Mapping[str, tuple[int, ...]], Callable[[str], Tensor]]]:
    """Shapes by key, and a reader of one tensor, without reading a safetensors file whole."""
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                yield {key: tuple(file.get_slice(key).get_shape()) for key in list(file.keys())}, file.get_tensor
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            yield {key: tuple(t.shape) for key, t in state.items()}, state.__getitem__
    except InputError:
        raise
    except Exception as error:  # each format has its own errors for a file cut short
        raise InputError(f"{path} cannot be read as weights ({error}); download it again") from error


def verify(folder: Path, official: Mapping[str, tuple[int, ...]]) -> None:
    """Checks keys, shapes and that every tensor holds floating point numbers.

    Args:
        folder: a checkpoint folder.
        official: shape by key of the network that its config.json describes.

    Raises:
        InputError: something is missing, too much or of another shape.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        with _opened(path) as (shapes, _):
            found |= shapes
    compare(found, official, folder)


def compare(found: Mapping[str, tuple[int, ...]], official: Mapping[str, tuple[int, ...]], source: Any) -> None:
    """Raises InputError, naming up to three keys, unless `found` is `official`."""
    extra = [key for key in found if key not in official and key not in IGNORED]
    missing = [key for key in official if key not in found]
    wrong = [key for key, shape in official.items() if key in found and found[key] != shape]
    for keys, what in ((missing, "lack"), (extra, "have unknown"), (wrong, "have other shapes for")):
        if keys:
            named = ", ".join(f"{key} {list(found.get(key, official.get(key, ())))}" for key in keys[:3])
            raise InputError(
                f"the weights in {source} do not fit: they {what} {len(keys)} key(s), such as {named}; "
                "is it the right checkpoint, and is its config.json the one that came with it?"
            )


def load(
    module: nn.Module,
    folder: Path,
    official: Mapping[str, tuple[int, ...]],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Fills a module made on the meta device from a checkpoint folder, strictly, tensor by tensor.

    Raises:
        InputError: see `verify`.
    """
    files = weight_files(folder)
    verify(folder, official)
    live = set(module.state_dict())

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for path in files:
            with _opened(path) as (shapes, read):
                for key in shapes:
                    if key in live:
                        yield key, read(key)

    fill(module, tensors(), device=device, dtype=dtype)


def fill(module: nn.Module, tensors: Iterable[tuple[str, Tensor]], *, device: torch.device, dtype: torch.dtype) -> None:
    """Puts `tensors` into a module made on the meta device, then lays it out for speed.

    Memory beyond the module itself is that of one tensor.

    Raises:
        InputError: a tensor is not of floating point, not finite, or some parameter got none.
    """
    owners = {
        f"{name}.{key}" if name else key: (sub, key) for name, sub in module.named_modules() for key in sub._parameters
    }
    for key, tensor in tensors:
        if not tensor.is_floating_point():
            raise InputError(f"weight {key} is of {tensor.dtype}, not floating point; download the checkpoint again")
        owner, name = owners[key]
        placed = tensor.to(device=device, dtype=dtype, copy=True)
        if placed.ndim == 4:
            placed = placed.contiguous(memory_format=torch.channels_last)
        elif placed.ndim == 5:
            placed = placed.contiguous(memory_format=torch.channels_last_3d)
        owner._parameters[name] = nn.Parameter(placed, requires_grad=False)
    left = [key for key, p in module.named_parameters() if p.is_meta]
    if left:
        raise InputError(f"{len(left)} weights were not given, such as {left[0]}")
    for sub in module.modules():
        if isinstance(sub, SelfAttention):
            sub.fuse()
    module.eval()


def count(official: Mapping[str, tuple[int, ...]]) -> int:
    """Number of parameters."""
    return sum(math.prod(shape) for shape in official.values())


# The released sizes; what is not named here is the default of the stock networks.
OFFICIAL_CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {"num_attention_heads": (5, 10, 20, 20)},
    "vae": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    | {"down_block_types": ("DownEncoderBlock2D",) * 4},
    "image_encoder": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 1024,
        "hidden_act": "gelu",
    },
}


def official_shapes(part: str, folder: Path | None = None) -> dict[str, tuple[int, ...]]:
    """See `any_to_bokeh.state_shapes`."""
    # Here, because those modules import this one.
    from bokeh_assets.rendering.any_to_bokeh.image_encoder import build_image_encoder
    from bokeh_assets.rendering.any_to_bokeh.unet import BokehUNet
    from bokeh_assets.rendering.any_to_bokeh.vae import BokehVAE

    if part not in OFFICIAL_CONFIGS:
        raise InputError(f"any_to_bokeh has no part {part!r}; its parts are {', '.join(OFFICIAL_CONFIGS)}")
    config = OFFICIAL_CONFIGS[part] if folder is None else read_config(folder)
    try:
        if part == "image_encoder":
            return build_image_encoder(config)[1]
        return dict((BokehUNet(config) if part == "unet" else BokehVAE(config)).official)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{folder}/config.json describes no {part} of any-to-bokeh: {error}") from error
