"""any-to-bokeh as a `Renderer`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bokeh_assets.devices import pick_device
from bokeh_assets.rendering.any_to_bokeh import require_extra
from bokeh_assets.rendering.base import Progress

if TYPE_CHECKING:
    from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh


class AnyToBokehRenderer:
    """Renders with the official checkpoints of any-to-bokeh.

    Args:
        unet, vae, image_encoder: folders in diffusers' layout: the released UNet and VAE, and the image encoder of
            Stable Video Diffusion XT.
        device: "auto", "cuda", "cuda:1", "cpu".
        dtype: float16, bfloat16 or float32; by default float16 on CUDA and float32 on the CPU.
        low_memory: for cards of 12 GB and less; the same pictures, more slowly.
        compile: spend a minute or two at the start to be faster from then on; worth it from some hundred frames.
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
        low_memory: bool = False,
        compile: bool = False,
        **options: Any,
    ) -> None:
        require_extra()
        pick_device(device)
        self._folders: dict[str, Any] = {"unet": unet, "vae": vae, "image_encoder": image_encoder}
        self._how: dict[str, Any] = {
            "device": device,
            "dtype": dtype,
            "low_memory": low_memory,
            "compile": compile,
        }
        self._options = options
        self._model: AnyToBokeh | None = None

    @property
    def model(self) -> AnyToBokeh:
        """The networks, loaded when first asked for."""
        if self._model is None:
            from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh

            self._model = AnyToBokeh.from_pretrained(**self._folders, **self._how)
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
        yield from self.model.render(frames, disparity, focus, progress=progress, **self._options)
