"""Where a model runs: one rule for every engine."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from bokeh_assets.errors import InputError

if TYPE_CHECKING:
    import torch


def pick_device(name: str = "auto") -> torch.device:
    """The torch device for `name`: "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: a CUDA device was asked for and none is there, or torch knows no such device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r} is unknown; use auto, cuda, cuda:1 or cpu") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r} was asked for, but torch sees no NVIDIA GPU here; use auto or cpu")
    return device


@functools.cache
def stream_for(purpose: str, device: torch.device) -> torch.cuda.Stream:
    """The CUDA stream on which work of one purpose is done: the same at every call, another for every purpose.

    PyTorch has 32 streams and hands them out in turn, so that the 33rd asked for is the first again. cuBLAS keeps one
    workspace for each stream, in recorded graphs too: two graphs that run side by side but were recorded on what
    turns out to be one stream write into one workspace.
    """
    import torch

    return torch.cuda.Stream(device)
