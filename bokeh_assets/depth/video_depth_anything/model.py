"""The whole network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bokeh_assets.depth.video_depth_anything.encoder import PATCH, DinoV2
from bokeh_assets.depth.video_depth_anything.head import Pyramid, TemporalDPTHead
from bokeh_assets.errors import InputError


@dataclass(frozen=True)
class Variant:
    """Sizes of one encoder and its head; see `DinoV2` and `TemporalDPTHead`."""

    width: int
    depth: int
    heads: int
    taps: tuple[int, int, int, int]
    features: int
    channels: tuple[int, int, int, int]


VARIANTS = {
    "vits": Variant(384, 12, 6, (2, 5, 8, 11), 64, (48, 96, 192, 384)),
    "vitb": Variant(768, 12, 12, (2, 5, 8, 11), 128, (96, 192, 384, 768)),
    "vitl": Variant(1024, 24, 16, (4, 11, 17, 23), 256, (256, 512, 1024, 1024)),
}


class VideoDepthAnything(nn.Module):
    """Video-Depth-Anything, with exactly the official state-dict keys.

    Args:
        encoder: "vits", "vitb" or "vitl".
        metric: whether the weights are of a metric model, whose output is depth in metres. The network is the
            same; windows are joined differently and the output means something else.

    Raises:
        InputError: no such encoder.
    """

    def __init__(self, encoder: str = "vits", *, metric: bool = False) -> None:
        super().__init__()
        if encoder not in VARIANTS:
            raise InputError(f"no Video-Depth-Anything encoder {encoder!r}; there are {', '.join(VARIANTS)}")
        v = VARIANTS[encoder]
        self.encoder = encoder
        self.metric = metric
        self.pretrained = DinoV2(v.width, v.depth, v.heads, v.taps)
        self.head = TemporalDPTHead(v.width, v.features, v.channels)

    @property
    def device(self) -> torch.device:
        return self.pretrained.cls_token.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pretrained.cls_token.dtype

    def pyramid(self, pictures: Tensor) -> Pyramid:
        """Everything that depends on one frame alone: (N, 3, H, W), normalised -> `Pyramid` of N frames."""
        rows, columns = pictures.shape[-2] // PATCH, pictures.shape[-1] // PATCH
        return self.head.pyramid(self.pretrained(pictures.to(self.dtype)), rows, columns)

    def depth(self, window: Pyramid, slots: range | None = None, step: int = 4, tokens_at_once: int = 32768) -> Tensor:
        """Maps of one window.

        Args:
            window: the window's frames, 1 to 32, in the order of time.
            slots: the frames whose maps are wanted (all count in the attention over time); default all.
            step: how many frames are finished at a time; memory only.
            tokens_at_once: see `MotionModule`; memory only.

        Returns:
            float32 (len(slots), H, W), >= 0: inverse depth of unknown scale, or metres if `metric`.
        """
        slots = range(window.frames) if slots is None else slots
        size = (window.skip2.shape[-2], window.skip2.shape[-1])
        path3 = self.head.mix(window.layer3, window.layer4, size, tokens_at_once)
        maps = []
        for start in range(0, len(slots), step):
            part = slots[start : start + step]
            here = slice(part.start, part.stop, part.step)
            maps.append(self.head.finish(path3[here], window.skip2[here], window.skip1[here]))
        return torch.cat(maps)

    def forward(self, clips: Tensor) -> Tensor:
        """Maps of whole windows at once, as in training: (B, T, 3, H, W), T <= 32 -> float32 (B, T, H, W)."""
        return torch.stack([self.depth(self.pyramid(clip)) for clip in clips])


def state_shapes(encoder: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an official checkpoint, relative or metric; takes no memory.

    Raises:
        InputError: no such encoder.
    """
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in VideoDepthAnything(encoder).state_dict().items()}
