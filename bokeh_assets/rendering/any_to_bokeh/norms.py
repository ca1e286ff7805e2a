"""Group normalisation of pictures in channels-last memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(x: Tensor, norm: nn.GroupNorm, silu: bool = False) -> Tensor:
    """`norm` applied to `x` (N, C, H, W), optionally followed by SiLU; statistics in float32.

    PyTorch's CUDA kernel first copies a channels-last picture to channels-first. Under `torch.compile` the formula
    is written out instead, which becomes one reading pass for the statistics and one pass for the rest.
    """
    if x.is_cuda and torch.compiler.is_compiling():
        return _written_out(x, norm, silu)
    y = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return F.silu(y) if silu else y


def _written_out(x: Tensor, norm: nn.GroupNorm, silu: bool) -> Tensor:
    n, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, height * width, channels).float()
    # Sums per channel first: memory is read in order, and only (N, C) numbers are left to be grouped.
    mean, square = rows.mean(1), (rows * rows).mean(1)
    per_group = channels // norm.num_groups
    mean = mean.view(n, norm.num_groups, per_group).mean(-1)
    square = square.view(n, norm.num_groups, per_group).mean(-1)
    inverse = torch.rsqrt((square - mean * mean).clamp_min(0) + norm.eps)
    scale = inverse.repeat_interleave(per_group, dim=1) * norm.weight.float()
    shift = norm.bias.float() - mean.repeat_interleave(per_group, dim=1) * scale
    y = rows * scale[:, None] + shift[:, None]
    y = (F.silu(y) if silu else y).to(x.dtype)
    return y.view(n, height, width, channels).permute(0, 3, 1, 2)


def norm_in_parts(x: Tensor, norm: nn.GroupNorm, parts: list[slice]) -> tuple[Tensor, Tensor]:
    """Scale and shift (N, C, 1, 1) that are `norm` on `x` (N, C, H, W), read in parts of its last dimension."""
    n, channels, height, width = x.shape
    mean = torch.zeros(n, channels, dtype=torch.float64, device=x.device)
    square = torch.zeros_like(mean)
    for part in parts:
        numbers = x[..., part].float()
        mean += numbers.sum((2, 3))
        square += (numbers * numbers).sum((2, 3))
    mean, square = (t.view(n, norm.num_groups, -1).mean(-1) / (height * width) for t in (mean, square))
    inverse = torch.rsqrt((square - mean * mean).clamp_min(0) + norm.eps)
    per_group = channels // norm.num_groups
    scale = inverse.repeat_interleave(per_group, dim=1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(per_group, dim=1) * scale
    return scale.to(x.dtype)[..., None, None], shift.to(x.dtype)[..., None, None]
