"""any-to-bokeh as a `Renderer`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bokeh_assets.devices import pick_device
from bokeh_assets.rendering.any_to_bokeh import require_extra
from bokeh_assets.rendering.base import Progress

if TYPE_CHECKING:
    from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh


COMPILE_FROM = 1000
"""Frames from which compiling is worth it: 90 s of it against 0.12 s saved a frame (H200, 16 cores)."""
ROOMY = 14e9
"""Bytes on a card that hold the networks and eight frames at 576x1024: 11.8e9 at the peak, and what CUDA takes."""


class AnyToBokehRenderer:
    """Renders with the official checkpoints of any-to-bokeh.

    Args:
        unet, vae, image_encoder: folders in diffusers' layout: the released UNet and VAE, and the image encoder of
            Stable Video Diffusion XT.
        device: "auto", "cuda", "cuda:1", "cpu".
        dtype: float16, bfloat16 or float32; by default float16 on CUDA and float32 on the CPU.
        low_memory: for cards of 12 GB and less; the same pictures, more slowly. None: where the card has no more.
        compile: spend a minute or two at the start to be three times as fast from then on. None: for videos of a
            thousand frames and more, where a C compiler is there.
        options: of `AnyToBokeh.render`, such as `pairing`, `height` or `seed`.

    Raises:
        InputError: the extra `any-to-bokeh` is not installed or the device is not there; and, when the first frame
            is asked for, a checkpoint is missing or does not fit.
    """

    name = "any_to_bokeh"

    def __init__(
        self,
        unet: Path | str,
        vae: Path | str,
        image_encoder: Path | str,
        *,
        device: str = "auto",
        dtype: str | None = None,
        low_memory: bool | None = None,
        compile: bool | None = None,
        **options: Any,
    ) -> None:
        require_extra()
        self._place = pick_device(device)
        self._folders: dict[str, Any] = {"unet": unet, "vae": vae, "image_encoder": image_encoder}
        self._dtype, self._low_memory, self._compile = dtype, low_memory, compile
        self._options = options
        self._model: AnyToBokeh | None = None

    @property
    def how(self) -> str:
        """What was chosen for speed and memory; see `Renderer.how`."""
        if self._model is None:
            return "not loaded"
        parts = [str(self._model.dtype).removeprefix("torch."), "compiled" if self._model.compiled else "eager"]
        return ", ".join(parts + ["weights in host memory"] * self._model.low_memory)

    def model(self, frames: int) -> AnyToBokeh:
        """The networks, loaded when first asked for, as is best for so many frames."""
        if self._model is None:
            from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh

            cuda = self._place.type == "cuda"
            low = self._low_memory
            if low is None:
                low = cuda and torch.cuda.get_device_properties(self._place).total_memory < ROOMY
            device = str(self._place)
            self._model = AnyToBokeh.from_pretrained(**self._folders, device=device, dtype=self._dtype, low_memory=low)
            compile = self._compile
            if compile is None:
                compile = cuda and not low and frames >= COMPILE_FROM and can_compile()
            if compile:
                self._model.compile()
        return self._model

    def render(
        self,
        frames: Iterable[NDArray[np.uint8]],
        disparity: Iterable[NDArray[np.float32]],
        mattes: Iterable[NDArray[np.float32]] | None,
        focus: pd.DataFrame,
        *,
        progress: Progress | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """See `Renderer.render`; the network finds outlines itself, so `mattes` are not read."""
        yield from self.model(len(focus)).render(frames, disparity, focus, progress=progress, **self._options)


def can_compile() -> bool:
    """Whether `torch.compile` finds what it needs for CUDA: Triton, and a C compiler for its launchers."""
    compiler = os.environ.get("CC") or "cc"
    return find_spec("triton") is not None and any(shutil.which(name) for name in (compiler, "gcc", "clang"))
