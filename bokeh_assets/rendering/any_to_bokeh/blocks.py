"""The layers of Stable Video Diffusion, computed in one memory layout.

The parameters, their names and their sizes are those of the stock modules of `diffusers`; each class here takes a
stock module apart and computes the same numbers with fewer passes over memory:

* pictures are (N, C, H, W) in channels-last memory throughout, tokens the same memory read as (N, H*W, C), so that
  going from one to the other moves nothing;
* a (3, 1, 1) convolution over time is a (3, 1) convolution over the plane (frames, pixels), again without a copy;
* attention to a context of a single token is that token's value, whatever the query, so only the value and output
  projections are kept;
* query, key and value come from one matrix product.

N is groups * frames throughout, frames varying fastest.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bokeh_assets.rendering.any_to_bokeh.norms import group_norm, norm_in_parts


def over_time(x: Tensor, frames: int) -> Tensor:
    """(B*F, C, H, W) as planes (B, C, F, H*W) in channels-last memory; no copy if `x` is channels-last."""
    n, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(n // frames, frames, height * width, channels).permute(0, 3, 1, 2)


def time_weight(conv: nn.Conv3d) -> Tensor:
    """Weight (O, I, 3, 1, 1) of a convolution over time as (O, I, 3, 1)."""
    return conv.weight.squeeze(-1)


PICTURES = 8
"""Pictures that a convolution in float32 is given at once on CUDA: of 16 with 1920 channels or more, 18x32 in size,
cuDNN 9.19 makes numbers that are off by more than half (torch 2.11, Hopper; half precision is right)."""


def convolved(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """`conv(x)`, right on every device."""
    if x.dtype != torch.float32 or not x.is_cuda or len(x) <= PICTURES:
        result: Tensor = conv(x)
        return result
    return torch.cat([conv(part) for part in x.split(PICTURES)])


class SpatialResidual(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, added to the input; as `diffusers.models.resnet.ResnetBlock2D`."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.norm1, self.conv1 = stock.norm1, stock.conv1
        self.norm2, self.conv2 = stock.norm2, stock.conv2
        self.time_emb_proj = stock.time_emb_proj
        self.conv_shortcut = stock.conv_shortcut

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """`x` (N, C, H, W), `time` (N, E) the activated time embedding or None -> (N, C', H, W)."""
        h = convolved(group_norm(x, self.norm1, silu=True), self.conv1)
        if time is not None:
            h = h + self.time_emb_proj(time)[:, :, None, None]
        h = convolved(group_norm(h, self.norm2, silu=True), self.conv2)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class SpaceTimeResidual(nn.Module):
    """A spatial residual block, then one over time, blended; as `SpatioTemporalResBlock`."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.spatial_res_block = SpatialResidual(stock.spatial_res_block)
        self.temporal_res_block = stock.temporal_res_block
        self.time_mixer = stock.time_mixer

    def time_share(self, dtype: torch.dtype) -> Tensor:
        """Share of the block over time in the result, a tensor of one number."""
        spatial = torch.sigmoid(self.time_mixer.mix_factor.float())
        return (spatial if self.time_mixer.switch_spatial_to_temporal_mix else 1 - spatial).to(dtype)

    def forward(self, x: Tensor, time: Tensor | None, frames: int) -> Tensor:
        """`x` (B*F, C, H, W), `time` (B*F, E) or None, `frames` F -> (B*F, C', H, W)."""
        return self.over_time(self.spatial_res_block(x, time), time, frames)

    def over_time(self, x: Tensor, time: Tensor | None, frames: int) -> Tensor:
        """The second half of `forward`, of the first half's result."""
        n, channels, height, width = x.shape
        block = self.temporal_res_block
        h = over_time(x, frames)
        h = group_norm(h, block.norm1, silu=True)
        h = F.conv2d(h, time_weight(block.conv1), block.conv1.bias, padding=(1, 0))
        if time is not None:
            shift = block.time_emb_proj(time).view(n // frames, frames, channels)
            h = h + shift.permute(0, 2, 1)[..., None]
        h = group_norm(h, block.norm2, silu=True)
        h = F.conv2d(h, time_weight(block.conv2), block.conv2.bias, padding=(1, 0))
        h = h.permute(0, 2, 3, 1).reshape(n, height, width, channels).permute(0, 3, 1, 2)
        return x + self.time_share(x.dtype) * h

    def over_time_sliced(self, x: Tensor, frames: int, pixels: int) -> Tensor:
        """`over_time` of one group without a time embedding, in place, `pixels` positions at a time.

        Positions meet only in the statistics of the norms, which are summed up beforehand. Beyond `x` it needs one
        tensor of its size.
        """
        block, share = self.temporal_res_block, self.time_share(x.dtype)
        plane = over_time(x, frames)  # the memory of `x`, which is channels-last
        middle = torch.empty_like(plane)
        parts = [slice(at, at + pixels) for at in range(0, plane.shape[3], pixels)]
        scale, shift = norm_in_parts(plane, block.norm1, parts)
        for part in parts:
            h = F.silu(plane[..., part] * scale + shift)
            middle[..., part] = F.conv2d(h, time_weight(block.conv1), block.conv1.bias, padding=(1, 0))
        scale, shift = norm_in_parts(middle, block.norm2, parts)
        for part in parts:
            h = F.silu(middle[..., part] * scale + shift)
            plane[..., part] += share * F.conv2d(h, time_weight(block.conv2), block.conv2.bias, padding=(1, 0))
        n, channels, height, width = x.shape
        return plane.permute(0, 2, 3, 1).reshape(n, height, width, channels).permute(0, 3, 1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a GELU gate between them; as `diffusers.models.attention.FeedForward` (geglu)."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.net = stock.net

    def gated(self, x: Tensor) -> Tensor:
        """The activations between the two layers."""
        value, gate = self.net[0].proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.gated(x))


class SelfAttention(nn.Module):
    """Multi-head attention among tokens; the keys of `diffusers.models.attention_processor.Attention`.

    `fuse` joins the three input projections into one; weights are loaded before it, by their stock names.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.heads = stock.heads
        self.to_q, self.to_k, self.to_v, self.to_out = stock.to_q, stock.to_k, stock.to_v, stock.to_out
        self.to_qkv: nn.Linear | None = None

    @torch.no_grad()
    def fuse(self) -> None:
        if self.to_qkv is not None:
            return
        parts = [self.to_q, self.to_k, self.to_v]
        joined = nn.Linear(self.to_q.in_features, 3 * self.to_q.out_features, parts[0].bias is not None, device="meta")
        joined.weight = nn.Parameter(torch.cat([p.weight for p in parts]), requires_grad=False)
        if parts[0].bias is not None:
            joined.bias = nn.Parameter(torch.cat([p.bias for p in parts]), requires_grad=False)
        self.to_qkv = joined
        del self.to_q, self.to_k, self.to_v

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (..., C)."""
        if self.to_qkv is None:
            return self.to_q(x), self.to_k(x), self.to_v(x)
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """Attention inside each picture: (N, tokens, C) -> (N, tokens, C)."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.project(x))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](out.transpose(1, 2).flatten(2))

    def across_frames(self, x: Tensor, frames: int) -> Tensor:
        """Attention of each position to itself in the group's other frames: (B*F, tokens, C) -> the same."""
        n, tokens, channels = x.shape
        parts = [t.view(n // frames, frames, tokens, self.heads, -1) for t in self.project(x)]
        # Group by group: with two, 92160 rows of attention at the finest level pass CUDA's limit of 65535 blocks.
        groups = [_rows_attend(*(t[g].permute(1, 2, 0, 3) for t in parts)) for g in range(n // frames)]
        out = torch.cat([g.permute(2, 0, 1, 3).reshape(frames, tokens, channels) for g in groups])
        return self.to_out[0](out)


def _rows_attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of many short sequences, (rows, heads, frames, width) each."""
    if q.is_cuda:
        # For 8 frames the fastest kernel that there is, which PyTorch would not choose.
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, False)[0]
    return F.scaled_dot_product_attention(q, k, v)


class TokenAttention(nn.Module):
    """Attention to a context of one token: its value, whatever the query."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.to_v, self.to_out = stock.to_v, stock.to_out

    def forward(self, context: Tensor) -> Tensor:
        """(..., context width) -> (..., C), to be added to every token."""
        return self.to_out[0](self.to_v(context))


class PictureAttention(nn.Module):
    """The VAE's attention: one head as wide as the picture's channels, with its own norm and residual.

    No flash kernel takes a head of 512, so the scores are formed picture by picture, in float32.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.group_norm = stock.group_norm
        self.to_q, self.to_k, self.to_v, self.to_out = stock.to_q, stock.to_k, stock.to_v, stock.to_out

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        n, channels, height, width = x.shape
        tokens = group_norm(x, self.group_norm).permute(0, 2, 3, 1).reshape(n, height * width, channels)
        q, k, v = self.to_q(tokens) * channels**-0.5, self.to_k(tokens), self.to_v(tokens)
        out = torch.stack([self._attend(q[i], k[i], v[i]) for i in range(n)])
        out = self.to_out[0](out).view(n, height, width, channels).permute(0, 3, 1, 2)
        return x + out

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        half = q.is_cuda and q.dtype != torch.float32
        scores = torch.mm(q, k.t(), out_dtype=torch.float32) if half else q @ k.t()
        return torch.softmax(scores, dim=-1).to(v.dtype) @ v
