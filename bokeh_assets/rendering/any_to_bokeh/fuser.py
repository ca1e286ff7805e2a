"""What any-to-bokeh adds to Stable Video Diffusion's spatial transformers: the blur strength.

Formulas: "Any-to-Bokeh: Arbitrary-Subject Video Refocusing with Video Diffusion Model", arXiv:2505.21593, and the
behaviour of the released network.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from diffusers.models.attention import FeedForward as StockFeedForward
from diffusers.models.attention_processor import Attention as StockAttention
from torch import Tensor, nn

from bokeh_assets.rendering.any_to_bokeh.blocks import FeedForward, SelfAttention, TokenAttention
from bokeh_assets.rendering.any_to_bokeh.norms import group_norm

K_WIDTH = 32
"""Numbers that stand for one blur strength."""


def k_embedding(k: Tensor, *, half: bool = True) -> Tensor:
    """The blur strengths as the network is told them: sines and cosines of 16 frequencies 100^(i/15), interleaved.

    Args:
        k: float (...), 0 to 32.
        half: round after every step as float16 arithmetic does. At k = 32 the result is up to 1.5 away from the
            exact one, and it is what the released pipeline feeds its network. False gives the exact numbers.

    Returns:
        float32 (..., 32): sin f0 k, cos f0 k, sin f1 k, ...
    """
    dtype = torch.float16 if half else torch.float32
    count = K_WIDTH // 2
    at = torch.arange(count, dtype=torch.float32)
    if half:
        # What `linspace` gives in float16: whole steps from the nearer end, the step itself rounded.
        step = torch.tensor(1 / (count - 1)).to(dtype).float()
        from_start, from_end = (step * at).to(dtype), (1 - (step * (count - 1 - at)).to(dtype).float()).to(dtype)
        exponents = torch.where(at < count // 2, from_start, from_end)
    else:
        exponents = torch.linspace(0, 1, count)
    # Each operation in float32 and then rounded: what a device with float16 arithmetic does too.
    frequencies = (100.0 ** exponents.float()).to(dtype)
    angles = (k.detach().cpu().to(dtype).float()[..., None] * frequencies.float()).to(dtype).float()
    pairs = torch.stack([angles.sin().to(dtype), angles.cos().to(dtype)], dim=-1)
    return pairs.flatten(-2).float().to(k.device)


class Conditioning(NamedTuple):
    """What the transformers are told besides the pictures: B groups of F frames."""

    context: Tensor
    """(B*F, context width): the CLIP embedding of each frame."""
    k: Tensor
    """(B*F, 32): `k_embedding` of each frame."""
    frames: int
    """F."""


class Fuser(nn.Module):
    """Adds the blur strength to every token, then attends and feeds forward with it.

    `linear` and `ff_k` exist in the checkpoints and reach nothing; `drop_dead` lets go of them.
    """

    def __init__(self, width: int, heads: int, object_width: int) -> None:
        super().__init__()
        self.linear: nn.Module | None = nn.Linear(object_width, width)
        self.mpi_attn = SelfAttention(StockAttention(width, heads=heads, dim_head=width // heads))
        self.ff = FeedForward(StockFeedForward(width, activation_fn="geglu"))
        self.ff_k: nn.Module | None = FeedForward(StockFeedForward(width, activation_fn="geglu"))
        self.k_encoder = nn.Linear(K_WIDTH, width)
        self.norm1, self.norm2, self.norm_k = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.alpha_attn = nn.Parameter(torch.zeros(()))
        self.alpha_dense = nn.Parameter(torch.zeros(()))

    def drop_dead(self) -> None:
        self.linear = self.ff_k = None

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """`x` (N, tokens, C), `k` (N, 32) -> (N, tokens, C)."""
        x = x + self.k_encoder(k)[:, None]
        x = x + torch.tanh(self.alpha_attn) * self.mpi_attn(self.norm1(x))
        # ff(a) + ff(b) shares its second layer: the sum is taken before it, and its bias counts twice.
        gated = self.ff.gated(self.norm2(x)) + self.ff.gated(self.norm_k(x))
        dense = self.ff.net[2](gated) + self.ff.net[2].bias
        return x + torch.tanh(self.alpha_dense) * dense


class SpatialBlock(nn.Module):
    """Attention inside a frame, the fuser, the frame's CLIP token, feed forward."""

    def __init__(self, stock: Any, object_width: int) -> None:
        super().__init__()
        self.norm1, self.attn1 = stock.norm1, SelfAttention(stock.attn1)
        self.attn2 = TokenAttention(stock.attn2)
        self.norm3, self.ff = stock.norm3, FeedForward(stock.ff)
        self.fuser = Fuser(stock.attn1.to_q.in_features, stock.attn1.heads, object_width)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = self.fuser(x, cond.k)
        x = x + self.attn2(cond.context)[:, None]
        return x + self.ff(self.norm3(x))


class TimeBlock(nn.Module):
    """Attention of each position to itself in the other frames; as `TemporalBasicTransformerBlock`."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.norm_in, self.ff_in = stock.norm_in, FeedForward(stock.ff_in)
        self.norm1, self.attn1 = stock.norm1, SelfAttention(stock.attn1)
        self.attn2 = TokenAttention(stock.attn2)
        self.norm3, self.ff = stock.norm3, FeedForward(stock.ff)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        """`x` (B*F, tokens, C) -> the same."""
        x = x + self.ff_in(self.norm_in(x))
        x = x + self.attn1.across_frames(self.norm1(x), cond.frames)
        x = self._first_frame(x, cond)
        return x + self.ff(self.norm3(x))

    def _first_frame(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Adds the CLIP token of a group's first frame.

        With B groups in one call, row r of the B*tokens rows gets the token of group r mod B, whichever group it
        lies in: the released network leaks one group's token into the other so, and pairs are computed like it.
        """
        n, tokens, channels = x.shape
        groups = n // cond.frames
        first = self.attn2(cond.context.view(groups, cond.frames, -1)[:, 0])
        if groups == 1:
            return x + first[:, None]
        owner = torch.arange(groups * tokens, device=x.device) % groups
        rows = first[owner].view(groups, 1, tokens, channels)
        return (x.view(groups, cond.frames, tokens, channels) + rows).view(n, tokens, channels)


class SpaceTimeTransformer(nn.Module):
    """A spatial and a temporal transformer block, blended; as `TransformerSpatioTemporalModel`, with the fuser."""

    def __init__(self, stock: Any, object_width: int) -> None:
        super().__init__()
        self.norm, self.proj_in, self.proj_out = stock.norm, stock.proj_in, stock.proj_out
        self.transformer_blocks = nn.ModuleList(SpatialBlock(b, object_width) for b in stock.transformer_blocks)
        self.temporal_transformer_blocks = nn.ModuleList(TimeBlock(b) for b in stock.temporal_transformer_blocks)
        self.time_pos_embed = stock.time_pos_embed
        self.time_mixer = stock.time_mixer

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        """`x` (B*F, C, H, W) -> the same."""
        n, channels, height, width = x.shape
        tokens = group_norm(x, self.norm).permute(0, 2, 3, 1).reshape(n, height * width, channels)
        tokens = self.proj_in(tokens)
        places = torch.arange(cond.frames, device=x.device).repeat(n // cond.frames)
        place = self.time_pos_embed(sinusoid(places, channels).to(x.dtype))[:, None]
        spatial = torch.sigmoid(self.time_mixer.mix_factor.float()).to(x.dtype)
        for block, time_block in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            tokens = block(tokens, cond)
            tokens = spatial * tokens + (1 - spatial) * time_block(tokens + place, cond)
        tokens = self.proj_out(tokens)
        return x + tokens.view(n, height, width, channels).permute(0, 3, 1, 2)


def sinusoid(values: Tensor, width: int) -> Tensor:
    """Float32 (..., width): cosines, then sines, of `values` times 10000^(-i/(width/2)), i from 0.

    Vaswani et al., "Attention is all you need", 2017, section 3.5, in the order Stable Video Diffusion has it.
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32, device=values.device) * (-math.log(10000.0) / half))
    angles = values.float()[..., None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
