"""The autoencoder between pictures and latents, with the sharp picture's features handed to the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

from bokeh_assets.rendering.any_to_bokeh.blocks import PictureAttention, SpaceTimeResidual, SpatialResidual
from bokeh_assets.rendering.any_to_bokeh.norms import group_norm

Features = tuple[Tensor, ...]
"""The picture, from which the finest features are made again by one convolution (they would take most of the
memory), and what the encoder saw before each further down block: (N, C, H / 2^i, W / 2^i)."""

AT_ONCE = 4 * 576 * 1024
"""Pixels of as many frames go through a spatial block of the decoder together."""

SLICE = 1 << 16
"""Positions that a sliced block over time works on together."""


class Posterior(NamedTuple):
    """Where in latent space the pictures lie, unscaled: (N, 4, H/8, W/8) each."""

    mean: Tensor
    std: Tensor


class BokehVAE(nn.Module):
    """`AutoencoderKLTemporalDecoder` whose decoder adds, before each up block, a 1x1 convolution of what the
    encoder saw of the same frame at that size.

    `official` lists every key and shape of the released checkpoint.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        with torch.device("meta"):
            stock = AutoencoderKLTemporalDecoder.from_config(dict(config))
            widths = list(stock.config.block_out_channels)
            self.scaling_factor: float = stock.config.scaling_factor
            self.encoder, self.decoder, self.quant_conv = stock.encoder, stock.decoder, stock.quant_conv
            # Entering up block i: the widest at first, then what the block before it made.
            entering = [widths[-1], *reversed(widths[1:])]
            for i, (seen, into) in enumerate(zip(reversed([widths[0], *widths[:-1]]), entering, strict=True), start=1):
                setattr(self.decoder, f"skip_conv_{i}", nn.Conv2d(seen, into, 1, bias=False))
            self._take_apart()
        self.sliced = False
        """Decode in slices: the same numbers in half the memory, more slowly."""
        self.official = {key: tuple(t.shape) for key, t in self.state_dict().items()}

    def _take_apart(self) -> None:
        for block in [*self.encoder.down_blocks, self.encoder.mid_block]:
            block.resnets = nn.ModuleList(SpatialResidual(r) for r in block.resnets)
        for block in [self.decoder.mid_block, *self.decoder.up_blocks]:
            block.resnets = nn.ModuleList(SpaceTimeResidual(r) for r in block.resnets)
        for block in (self.encoder.mid_block, self.decoder.mid_block):
            block.attentions = nn.ModuleList(PictureAttention(a) for a in block.attentions)

    def encode(self, x: Tensor, *, keep: bool = False) -> tuple[Posterior, Features]:
        """Latents of pictures, each on its own.

        Args:
            x: (N, 3, H, W), -1 to 1.
            keep: also hand back the features that `decode` wants; else they are empty.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        seen = [x] if keep else []
        x = self.encoder.conv_in(x)
        for i, block in enumerate(self.encoder.down_blocks):
            if keep and i:
                seen.append(x)
            for resnet in block.resnets:
                x = resnet(x)
            if block.downsamplers is not None:
                x = block.downsamplers[0](x)
        middle = self.encoder.mid_block
        x = middle.resnets[1](middle.attentions[0](middle.resnets[0](x)))
        x = self.encoder.conv_out(group_norm(x, self.encoder.conv_norm_out, silu=True))
        mean, logvar = self.quant_conv(x).chunk(2, dim=1)
        return Posterior(mean, torch.exp(0.5 * logvar.float().clamp(-30, 20)).to(mean)), tuple(seen)

    def decode(self, z: Tensor, features: Sequence[Features]) -> Tensor:
        """Pictures of the latents of successive frames.

        Args:
            z: (F, 4, h, w), unscaled; the frames share one convolution over time.
            features: for each of the F frames its own, (1, C, H / 2^i, W / 2^i).

        Returns:
            (F, 3, H, W), about -1 to 1.
        """
        decoder, frames = self.decoder, z.shape[0]
        if len(features) != frames:
            raise ValueError(f"decode needs the features of each of its {frames} frames, got {len(features)}")
        x = decoder.conv_in(z.contiguous(memory_format=torch.channels_last))
        middle = decoder.mid_block
        x = middle.resnets[0](x, None, frames)
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            x = resnet(attention(x), None, frames)
        upsampler = None
        for i, block in enumerate(decoder.up_blocks):
            for j, resnet in enumerate(block.resnets):
                x = self._spatial(x, resnet, i, upsampler, features) if j == 0 else self._spatial(x, resnet)
                x = self._over_time(x, resnet)
            upsampler = None if block.upsamplers is None else block.upsamplers[0]
        height, width = x.shape[2:]
        x = torch.cat([self._out(part) for part in x.split(self._frames_at_once(height * width))])
        over_time = decoder.time_conv_out(x.transpose(0, 1)[None])
        return over_time[0].transpose(0, 1)

    def _frames_at_once(self, pixels: int) -> int:
        return 1 if self.sliced else max(1, AT_ONCE // pixels)

    def _spatial(
        self,
        x: Tensor,
        resnet: SpaceTimeResidual,
        level: int | None = None,
        upsampler: nn.Module | None = None,
        features: Sequence[Features] = (),
    ) -> Tensor:
        """A block's spatial half; before the first block of a level, the upsampling and what the encoder saw.

        A few frames at a time, because here the tensors are the largest of all.
        """
        pixels = x.shape[2] * x.shape[3] * (1 if upsampler is None else 4)
        step = self._frames_at_once(pixels)
        done = []
        for at in range(0, len(x), step):
            part = x[at : at + step]
            if upsampler is not None:
                part = upsampler(part)
            if level is not None:
                part = part + torch.cat([self._skip(level, seen, part) for seen in features[at : at + step]])
            done.append(resnet.spatial_res_block(part))
        joined = done[0] if len(done) == 1 else torch.cat(done)
        return joined.contiguous(memory_format=torch.channels_last)

    def _skip(self, level: int, seen: Features, like: Tensor) -> Tensor:
        """What up block `level` adds of a frame."""
        finer = len(self.decoder.up_blocks) - 1 - level
        kept = seen[finer].to(like.device)
        if finer == 0:
            entrance = self.encoder.conv_in
            kept = entrance(kept.to(entrance.weight))
        return getattr(self.decoder, f"skip_conv_{level + 1}")(kept.to(like))

    def _over_time(self, x: Tensor, resnet: SpaceTimeResidual) -> Tensor:
        if self.sliced:
            return resnet.over_time_sliced(x, len(x), SLICE)
        return resnet.over_time(x, None, len(x))

    def _out(self, x: Tensor) -> Tensor:
        return self.decoder.conv_out(group_norm(x, self.decoder.conv_norm_out, silu=True))
