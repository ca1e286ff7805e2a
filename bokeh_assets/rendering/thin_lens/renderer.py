"""The thin-lens renderer: engine and contract."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bokeh_assets.devices import pick_device
from bokeh_assets.errors import InputError
from bokeh_assets.rendering.base import Progress, radius_per_disparity
from bokeh_assets.rendering.lens import Lens
from bokeh_assets.rendering.thin_lens.accumulate import photograph
from bokeh_assets.rendering.thin_lens.axis import axis_for
from bokeh_assets.rendering.thin_lens.colour import decode, encode
from bokeh_assets.rendering.thin_lens.planes_cpu import photograph_cpu
from bokeh_assets.rendering.thin_lens.scene import split

IN_FOCUS = 0.25  # pixels of radius under which nothing of a picture is out of focus


class ThinLensRenderer:
    """Photographs a sharp video with a thin lens, at any resolution, on the CPU or a GPU; needs no weights.

    Args:
        lens: aperture and glass.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        InputError: the device is not there.
    """

    name = "thin_lens"

    def __init__(self, lens: Lens | None = None, device: str = "auto") -> None:
        self.lens = lens or Lens()
        self.device = pick_device(device)

    def render(
        self,
        frames: Iterable[NDArray[np.uint8]],
        disparity: Iterable[NDArray[np.float32]],
        mattes: Iterable[NDArray[np.float32]] | None,
        focus: pd.DataFrame,
        *,
        progress: Progress | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """See `bokeh_assets.rendering.base.Renderer`."""
        rows = focus.sort_values("frame")
        depths = iter(disparity)
        subjects = iter(mattes) if mattes is not None else None
        settings = zip(rows["zf"].to_numpy(float), rows["k"].to_numpy(float), strict=True)
        for index, frame in enumerate(frames):
            depth = next(depths, None)
            subject = next(subjects, None) if subjects is not None else None
            zf, k = next(settings, (None, None))
            if depth is None or zf is None or k is None or (subjects is not None and subject is None):
                raise InputError(f"frame {index} has no disparity, matte or focus; give one of each per frame")
            yield self.picture(frame, depth, subject, zf, k)
            if progress is not None:
                progress(index + 1)

    def picture(
        self,
        frame: NDArray[np.uint8],
        depth: NDArray[np.float32],
        matte: NDArray[np.float32] | None,
        zf: float,
        k: float,
    ) -> NDArray[np.uint8]:
        """One frame, uint8 (H, W, 3), through the lens."""
        if depth.shape != frame.shape[:2]:
            raise InputError(f"disparity is {depth.shape}, the frame {frame.shape[:2]}; both must be of one size")
        scale = radius_per_disparity(k, frame.shape[1])
        nearest, farthest = scale * (float(depth.max()) - zf), scale * (float(depth.min()) - zf)
        reach = max(abs(nearest), abs(farthest))
        if reach < IN_FOCUS:
            return frame
        axis = axis_for(nearest, farthest)
        sharp = torch.from_numpy(np.ascontiguousarray(frame)).to(self.device)
        coc = (torch.from_numpy(np.ascontiguousarray(depth)).to(self.device).float() - zf) * scale
        subject = None if matte is None else torch.from_numpy(np.ascontiguousarray(matte)).to(self.device).float()
        scene = split(decode(sharp, self.lens.highlights), axis.place(coc), reach, subject)
        light = photograph_cpu(scene, axis) if self.device.type == "cpu" else photograph(scene, axis)
        return encode(light).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
