"""DINOv2 vision transformer (Oquab et al., arXiv:2304.07193), as far as a dense head needs it.

Attribute names give the official state-dict keys under `pretrained.`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 14
GRID = 37  # the position table was trained on 518x518 pixels, 37x37 patches


class DinoV2(nn.Module):
    """Vision transformer with patches of 14 pixels; gives the normalised outputs of four of its blocks.

    Args:
        width: channels of a token.
        depth: number of blocks.
        heads: attention heads of 64 channels.
        taps: the four blocks, counted from 0, whose outputs the head reads.
    """

    def __init__(self, width: int, depth: int, heads: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.taps = taps
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID * GRID + 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of the pre-training; never read
        self.patch_embed = PatchEmbed(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Features of every patch at the four taps.

        Args:
            pictures: (N, 3, H, W), normalised; H and W are multiples of 14.

        Returns:
            four tensors (N, H/14 * W/14, width), patches row by row, class token dropped.
        """
        height, width = pictures.shape[-2:]
        patches = self.patch_embed(pictures)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)
        x = x + self.positions(height // PATCH, width // PATCH)
        found = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.taps:
                found.append(self.norm(x)[:, 1:])
            if number == self.taps[-1]:
                break
        return found

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position table (1, 1 + rows * columns, width) for a grid of patches."""
        if rows == columns == GRID:
            return self.pos_embed
        first, table = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        table = table.float().reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2)
        # DINOv2's own resizing hands over factors with 0.1 patch added, and these factors (not the ratio of the
        # sizes) set where the table is sampled: part of the trained model's meaning.
        factors = ((rows + 0.1) / GRID, (columns + 0.1) / GRID)
        table = F.interpolate(table, scale_factor=factors, mode="bicubic", align_corners=False)
        assert table.shape[-2:] == (rows, columns)
        return torch.cat([first, table.flatten(2).transpose(1, 2).to(first.dtype)], 1)


class PatchEmbed(nn.Module):
    """One linear map of every 14x14 patch; the weights are kept in the shape of a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, H/14 * W/14, width)."""
        # A matrix product over unfolded patches: convolutions with 3 channels miss the matrix units.
        n, channels, height, width = pictures.shape
        rows, columns = height // PATCH, width // PATCH
        patches = pictures.reshape(n, channels, rows, PATCH, columns, PATCH).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.reshape(n, rows * columns, -1), self.proj.weight.flatten(1), self.proj.bias)


class Block(nn.Module):
    """x + scaled attention(norm x), then x + scaled MLP(norm x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.ls2 = LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcmul(x, self.attn(self.norm1(x)), self.ls1.gamma)
        return torch.addcmul(x, self.mlp(self.norm2(x)), self.ls2.gamma)


class LayerScale(nn.Module):
    """Holds the learned factor of a residual branch (Touvron et al., arXiv:2103.17239)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, length, width))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))
