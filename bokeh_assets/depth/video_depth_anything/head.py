"""DPT head (Ranftl et al., arXiv:2103.13413) with attention over time.

It works in three parts, so that what depends on one frame alone is done once per frame, however many windows
the frame is seen in:

    pyramid   one frame      encoder features -> `Pyramid`
    mix       one window     the deep half, where the motion modules look across frames
    finish    one frame      up to the depth map

Attribute names give the official state-dict keys under `head.`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bokeh_assets.depth.video_depth_anything.encoder import PATCH
from bokeh_assets.depth.video_depth_anything.motion import MotionModule


class Pyramid(NamedTuple):
    """What the head knows of N frames before it looks across time; p, q are rows and columns of patches.

    Attributes:
        skip1: (N, features, 4p, 4q), ready to be added in the last fusion.
        skip2: (N, features, 2p, 2q), likewise one fusion earlier.
        layer3: (N, channels[2], p, q).
        layer4: (N, channels[3], ceil(p/2), ceil(q/2)).
    """

    skip1: Tensor
    skip2: Tensor
    layer3: Tensor
    layer4: Tensor

    def select(self, slots: Sequence[int]) -> Pyramid:
        """The frames in these places, copied."""
        # Slices rather than an index tensor, whose way to the GPU would wait for it.
        return Pyramid(*(torch.cat([part[slot : slot + 1] for slot in slots]) for part in self))

    @staticmethod
    def join(parts: Sequence[Pyramid]) -> Pyramid:
        """All frames of several pyramids, in order."""
        if len(parts) == 1:
            return parts[0]
        return Pyramid(*(torch.cat(same) for same in zip(*parts, strict=True)))

    @property
    def frames(self) -> int:
        return len(self.skip1)


class TemporalDPTHead(nn.Module):
    """From the encoder's four taps to one map per frame.

    Args:
        width: channels of the encoder's tokens.
        features: channels of the fusion stages.
        channels: channels of the four layers before fusion.
    """

    def __init__(self, width: int, features: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.projects = nn.ModuleList(nn.Conv2d(width, c, 1) for c in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, 4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, 2, 1),
            ]
        )
        self.motion_modules = nn.ModuleList(MotionModule(c) for c in (channels[2], channels[3], features, features))
        self.scratch = Scratch(features, channels)

    def pyramid(self, taps: Sequence[Tensor], rows: int, columns: int) -> Pyramid:
        """The part before any look across time.

        Args:
            taps: four (N, rows * columns, width) from the encoder.
        """
        layers = []
        for tap, project, resize in zip(taps, self.projects, self.resize_layers, strict=True):
            # A 1x1 convolution is a linear map of the tokens; the picture it gives is channels-last in memory.
            assert isinstance(project, nn.Conv2d)
            x = F.linear(tap, project.weight.flatten(1), project.bias)
            layers.append(resize(x.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)))
        s = self.scratch
        return Pyramid(
            skip1=s.refinenet1.resConfUnit1(s.layer1_rn(layers[0])),
            skip2=s.refinenet2.resConfUnit1(s.layer2_rn(layers[1])),
            layer3=layers[2],
            layer4=layers[3],
        )

    def mix(self, layer3: Tensor, layer4: Tensor, size: tuple[int, int], tokens_at_once: int = 32768) -> Tensor:
        """The look across time.

        Args:
            layer3, layer4: of the T frames of one window, as in `Pyramid`.
            size: (2p, 2q), the size of `Pyramid.skip2`.
            tokens_at_once: see `MotionModule`.

        Returns:
            (T, features, 2p, 2q).
        """
        s, motion = self.scratch, self.motion_modules
        deep3 = s.layer3_rn(motion[0](layer3, tokens_at_once))
        deep4 = s.layer4_rn(motion[1](layer4, tokens_at_once))
        path4 = motion[2](s.refinenet4(deep4, deep3.shape[-2:]), tokens_at_once)
        path3 = s.refinenet3(path4 + s.refinenet3.resConfUnit1(deep3), size)
        return motion[3](path3, tokens_at_once)

    def finish(self, path3: Tensor, skip2: Tensor, skip1: Tensor) -> Tensor:
        """The rest, frame by frame: (N, features, 2p, 2q) and the two skips -> float32 (N, 14p, 14q), >= 0."""
        s = self.scratch
        path2 = s.refinenet2(path3 + skip2, skip1.shape[-2:])
        rows, columns = skip1.shape[-2] // 4, skip1.shape[-1] // 4
        path1 = s.refinenet1(path2 + skip1, (8 * rows, 8 * columns))
        x = resize_bilinear(s.output_conv1(path1), (PATCH * rows, PATCH * columns))
        x = F.relu_(s.output_conv2[0](x))
        # The last sum is in float32 whatever the precision: half has too few steps for a smooth depth map.
        last = s.output_conv2[2]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        x = F.conv2d(x.float(), last.weight.float(), last.bias.float())
        return F.relu_(x).squeeze(1)


class Scratch(nn.Module):
    """The fusion stages (the name is the checkpoints')."""

    def __init__(self, features: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.layer1_rn = nn.Conv2d(channels[0], features, 3, 1, 1, bias=False)
        self.layer2_rn = nn.Conv2d(channels[1], features, 3, 1, 1, bias=False)
        self.layer3_rn = nn.Conv2d(channels[2], features, 3, 1, 1, bias=False)
        self.layer4_rn = nn.Conv2d(channels[3], features, 3, 1, 1, bias=False)
        self.refinenet1 = Fusion(features)
        self.refinenet2 = Fusion(features)
        self.refinenet3 = Fusion(features)
        self.refinenet4 = Fusion(features)  # its resConfUnit1 is in the checkpoints but has nothing to read
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, 1, 1)
        self.output_conv2 = nn.ModuleList([nn.Conv2d(features // 2, 32, 3, 1, 1), nn.Identity(), nn.Conv2d(32, 1, 1)])


class Fusion(nn.Module):
    """Refine and enlarge. The caller adds `resConfUnit1(skip)` to the input, as it knows when the skip is ready."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        # The 1x1 convolution and the bilinear enlargement commute (the weights of each pixel sum to one):
        # done in this order it costs a quarter.
        return resize_bilinear(self.out_conv(self.resConfUnit2(x)), size)


class ResidualUnit(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, 1, 1)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu_(self.conv1(F.relu(x))))


def resize_bilinear(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, corner pixels kept in the corners: the only resizing that the head knows."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
