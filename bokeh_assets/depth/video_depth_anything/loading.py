"""A checkpoint file -> the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from bokeh_assets.depth.video_depth_anything.model import VARIANTS, VideoDepthAnything, state_shapes
from bokeh_assets.errors import InputError


def load_video_depth_anything(
    path: Path,
    device: torch.device | str = "cpu",
    *,
    precision: torch.dtype = torch.float32,
    metric: bool | None = None,
) -> VideoDepthAnything:
    """The model of an official checkpoint, ready to infer.

    Which encoder it is follows from the tensors. Nothing in the file is executed.

    Args:
        path: `video_depth_anything_{vits,vitb,vitl}.pth` or `metric_video_depth_anything_….pth`.
        device: where the model shall be.
        precision: of the weights.
        metric: whether the weights are of a metric model; None tells it by the file's name, which begins with
            "metric" (nothing else tells them apart).

    Raises:
        InputError: no such file, one that is damaged, or one with other tensors than the official ones.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; get it with `bokeh-assets checkpoints download`")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged or no PyTorch checkpoint ({reason}); download it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path} holds no plain state dict; give an official Video-Depth-Anything checkpoint")

    token = state.get("pretrained.cls_token")
    encoder = next((name for name, v in VARIANTS.items() if token is not None and token.shape[-1] == v.width), None)
    if encoder is None or not any(key.startswith("head.motion_modules.") for key in state):
        raise InputError(f"{path} is a checkpoint of another model; give an official Video-Depth-Anything one")
    if metric is None:
        metric = path.name.startswith("metric")
    wanted = state_shapes(encoder)
    found = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        raise InputError(
            f"{path} is no official {encoder} checkpoint: {len(wrong)} tensors are missing, unknown or of another "
            f"shape, the first is {wrong[0]}; download it again"
        )
    with torch.device("meta"):
        model = VideoDepthAnything(encoder, metric=metric)
    model.load_state_dict(state, assign=True)
    return model.to(device=device, dtype=precision).requires_grad_(False).eval()
