"""Attention over time at every place of a feature map (the motion module of AnimateDiff, arXiv:2307.04725).

Attribute names give the official state-dict keys under `head.motion_modules.N.`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LONGEST = 32  # length of the position table, and so of a window
HEADS = 8


class MotionModule(nn.Module):
    """Mixes the frames of a window, separately at every place; adds the result to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer(channels)

    def forward(self, x: Tensor, tokens_at_once: int = 32768) -> Tensor:
        """(T, C, h, w) of one window -> the same shape.

        Args:
            x: features of up to 32 consecutive slots.
            tokens_at_once: how many tokens (places times frames) are in work at a time; memory only, every
                place is independent of the others.
        """
        return x + self.temporal_transformer(x, tokens_at_once)


class TemporalTransformer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(channels)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, tokens_at_once: int) -> Tensor:
        frames, channels, height, width = x.shape
        places = self.norm(x).permute(2, 3, 0, 1).reshape(height * width, frames, channels)
        out = torch.empty_like(places)
        step = max(1, tokens_at_once // frames)
        for start in range(0, len(places), step):
            y = self.proj_in(places[start : start + step])
            for block in self.transformer_blocks:
                y = block(y)
            out[start : start + step] = self.proj_out(y)
        return out.view(height, width, frames, channels).permute(2, 3, 0, 1)


class TemporalBlock(nn.Module):
    """Two attentions over time and a gated feed-forward, each on a normalised input and added back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(TemporalAttention(channels) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.ff = FeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(places, T, C) -> the same shape."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = x + attention(norm(x))
        return x + self.ff(self.ff_norm(x))


class TemporalAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.pos_encoder = SinePositions(channels)

    def forward(self, x: Tensor) -> Tensor:
        places, frames, channels = x.shape
        x = x + self.pos_encoder.pe[:, :frames]
        q, k, v = (
            part(x).view(places, frames, HEADS, channels // HEADS).transpose(1, 2)
            for part in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](mixed.transpose(1, 2).reshape(places, frames, channels))


class SinePositions(nn.Module):
    """The constant position table of Vaswani et al. (arXiv:1706.03762); official checkpoints carry it."""

    pe: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        place = torch.arange(LONGEST, dtype=torch.float32).unsqueeze(1)
        rate = torch.exp(torch.arange(0, channels, 2, dtype=torch.float32) * (-math.log(10000.0) / channels))
        table = torch.stack([torch.sin(place * rate), torch.cos(place * rate)], -1).flatten(1)
        self.register_buffer("pe", table.unsqueeze(0))


class FeedForward(nn.Module):
    """C -> 4C by a GELU-gated linear unit (Shazeer, arXiv:2002.05202) -> C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [GatedLinear(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class GatedLinear(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)
