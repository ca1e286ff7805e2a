"""The network that turns the latents of a sharp picture and of its circle of confusion into the blurred latent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from bokeh_assets.rendering.any_to_bokeh.blocks import SpaceTimeResidual
from bokeh_assets.rendering.any_to_bokeh.fuser import Conditioning, Fuser, SpaceTimeTransformer, k_embedding, sinusoid
from bokeh_assets.rendering.any_to_bokeh.norms import group_norm

TIMESTEP = 1.0
"""The network was distilled to one step and is always told this time."""
ADDED_IDS = (6.0, 127.0, 0.0)
"""Frame rate less one, motion bucket, strength of the noise on the picture: what the released pipeline says."""


class BokehUNet(nn.Module):
    """Stable Video Diffusion's UNet with a fuser in each spatial transformer.

    `official` lists every key and shape of the released checkpoint. Some of them reach no output (the object branch,
    whose mask is always empty; the fuser's second feed forward; queries and keys of attention to a single token):
    they are checked when weights are loaded and never kept.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        with torch.device("meta"):
            stock = UNetSpatioTemporalConditionModel.from_config(dict(config))
            self.official = {key: tuple(t.shape) for key, t in stock.state_dict().items()}
            self._take_apart(stock)
        self.official |= {key: tuple(t.shape) for key, t in self.state_dict().items()}
        del self.conv_in_mpi
        self.graph: Callable[..., Tensor] | None = None
        """Replays `denoise`, if set; see `speed.Graphed`."""
        for module in self.modules():
            if isinstance(module, Fuser):
                module.drop_dead()

    def _take_apart(self, stock: Any) -> None:
        width = stock.config.block_out_channels[0]
        self.add_width = stock.config.addition_time_embed_dim
        self.context_width = stock.config.cross_attention_dim
        self.conv_in = stock.conv_in
        self.conv_in_mpi = nn.Conv2d(4, width, 3, padding=1)
        self.time_embedding, self.add_embedding = stock.time_embedding, stock.add_embedding
        self.down_blocks, self.mid_block, self.up_blocks = stock.down_blocks, stock.mid_block, stock.up_blocks
        self.conv_norm_out, self.conv_out = stock.conv_norm_out, stock.conv_out
        for block in [*self.down_blocks, self.mid_block, *self.up_blocks]:
            block.resnets = nn.ModuleList(SpaceTimeResidual(r) for r in block.resnets)
            if hasattr(block, "attentions"):
                block.attentions = nn.ModuleList(SpaceTimeTransformer(a, width) for a in block.attentions)

    def forward(self, sample: Tensor, context: Tensor, k: Tensor, *, half_k: bool = True) -> Tensor:
        """The blurred latents.

        Args:
            sample: (B, F, 8, h, w) scaled latents: of the picture (4), of the circle of confusion (4).
            context: (B*F, context width) CLIP embedding of each frame.
            k: (B, F) blur strengths.
            half_k: see `k_embedding`.

        Returns:
            (B, F, 4, h, w) scaled latents.
        """
        groups, frames = sample.shape[:2]
        embedded = k_embedding(k.float(), half=half_k).reshape(groups * frames, -1).to(sample)
        run = self.graph or self.denoise
        return run(sample, context, embedded, self.time(sample))

    def denoise(self, sample: Tensor, context: Tensor, k: Tensor, time: Tensor) -> Tensor:
        """`forward` with `k` embedded and `time` from the method of that name; nothing here waits for the host."""
        groups, frames = sample.shape[:2]
        cond = Conditioning(context, k, frames)
        time = F.silu(time).expand(groups * frames, -1)
        x = self.conv_in(sample.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        skips = [x]
        for block in self.down_blocks:
            for i, resnet in enumerate(block.resnets):
                x = resnet(x, time, frames)
                if hasattr(block, "attentions"):
                    x = block.attentions[i](x, cond)
                skips.append(x)
            if block.downsamplers is not None:
                x = block.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block.resnets[0](x, time, frames)
        for attention, resnet in zip(self.mid_block.attentions, self.mid_block.resnets[1:], strict=True):
            x = resnet(attention(x, cond), time, frames)
        for block in self.up_blocks:
            for i, resnet in enumerate(block.resnets):
                x = resnet(torch.cat([x, skips.pop()], dim=1), time, frames)
                if hasattr(block, "attentions"):
                    x = block.attentions[i](x, cond)
            if block.upsamplers is not None:
                x = block.upsamplers[0](x)
        x = self.conv_out(group_norm(x, self.conv_norm_out, silu=True))
        return x.unflatten(0, (groups, frames))

    def time(self, like: Tensor) -> Tensor:
        """(1, E): what the network is told about time, the same in every call."""
        width = self.time_embedding.linear_1.in_features
        step = sinusoid(torch.full((1,), TIMESTEP, device=like.device), width)
        added = sinusoid(torch.tensor(ADDED_IDS, device=like.device), self.add_width).flatten()[None]
        return self.time_embedding(step.to(like.dtype)) + self.add_embedding(added.to(like.dtype))
