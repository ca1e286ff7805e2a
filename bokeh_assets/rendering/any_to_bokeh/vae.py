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
"""What the encoder saw of a picture before each of its down blocks, finest first: (N, C, H / 2^i, W / 2^i)."""


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
        x = self.encoder.conv_in(x.contiguous(memory_format=torch.channels_last))
        seen = []
        for block in self.encoder.down_blocks:
            if keep:
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
        for i, block in enumerate(decoder.up_blocks):
            skip = getattr(decoder, f"skip_conv_{i + 1}")
            level = len(decoder.up_blocks) - 1 - i
            for frame, seen in enumerate(features):
                x[frame : frame + 1] += skip(seen[level].to(x))
            for resnet in block.resnets:
                x = resnet(x, None, frames)
            if block.upsamplers is not None:
                x = block.upsamplers[0](x)
        x = decoder.conv_out(group_norm(x, decoder.conv_norm_out, silu=True))
        over_time = decoder.time_conv_out(x.transpose(0, 1)[None])
        return over_time[0].transpose(0, 1)
