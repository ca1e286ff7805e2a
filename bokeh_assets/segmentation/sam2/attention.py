"""A frame's features looking at what is remembered: SAM 2's memory attention.

The weights are those of `sam2.modeling.memory_attention.MemoryAttention`; the arithmetic is arranged anew so that it
keeps a large GPU busy with a batch of one and needs no complex numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sam2.modeling.memory_attention import MemoryAttention
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor


class MemoryReader:
    """Memory attention over one object's memories.

    Args:
        module: the network's memory attention (single-headed, as in every SAM 2.1 configuration).
        grid: side of the square feature grid.
        splits: into how many parts the keys are cut on CUDA. One head of one image is too few blocks of queries
            for a GPU of a hundred multiprocessors; parts are attended at once and joined by their weights, as in
            flash decoding (Dao et al. 2023).
    """

    def __init__(self, module: MemoryAttention, grid: int, splits: int = 4) -> None:
        self._layers = list(module.layers)
        self._norm = module.norm
        device = module.norm.weight.device
        self._self = [_Rotary(layer.self_attn, grid, device, splits) for layer in self._layers]
        self._cross = [_Rotary(layer.cross_attn_image, grid, device, splits) for layer in self._layers]

    def __call__(
        self, features: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor, tail: int
    ) -> Tensor:
        """Features that know what was seen before.

        Args:
            features: (1, N, C) of the frame, N = grid².
            position: (1, N, C) their place.
            memory: (1, F·N + tail, c): F remembered frames, then pointer tokens, which have no place.
            memory_position: added to the memories to make keys.
            tail: how many tokens at the end are pointers.

        Returns:
            (1, N, C).
        """
        keys = memory + memory_position
        x = features + 0.1 * position
        for layer, own, cross in zip(self._layers, self._self, self._cross, strict=True):
            y = layer.norm1(x)
            x = x + own(y, y, y, 0)
            x = x + cross(layer.norm2(x), keys, memory, tail)
            x = x + layer.linear2(F.relu(layer.linear1(layer.norm3(x))))
        result: Tensor = self._norm(x)
        return result


def read_plainly(
    module: MemoryAttention, features: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor, tail: int
) -> Tensor:
    """`MemoryReader` by the package's own arithmetic, to the last bit; as fast on a CPU."""
    result: Tensor = module(
        curr=features.transpose(0, 1),
        curr_pos=position.transpose(0, 1),
        memory=memory.transpose(0, 1),
        memory_pos=memory_position.transpose(0, 1),
        num_obj_ptr_tokens=tail,
    )
    return result.transpose(0, 1)


class _Rotary:
    """Attention with rotary positions on a square grid (Heo et al. 2024, axial), half of the channels for each axis.

    Channels 2i and 2i+1 turn together. Queries and keys are projected with their rows reordered so that partners lie
    half the channels apart, which leaves every product of query and key as it was.
    """

    def __init__(self, module: RoPEAttention, grid: int, device: torch.device, splits: int) -> None:
        if module.num_heads != 1:
            raise ValueError("memory attention of SAM 2.1 has one head")
        channels = module.internal_dim
        order = torch.cat([torch.arange(0, channels, 2), torch.arange(1, channels, 2)]).to(device)
        self._query = module.q_proj.weight[order], module.q_proj.bias[order]
        self._key = module.k_proj.weight[order], module.k_proj.bias[order]
        self._value, self._out = module.v_proj, module.out_proj
        self._splits = splits
        theta: float = module.compute_cis.keywords["theta"]
        rates = theta ** -(torch.arange(0, channels, 4, dtype=torch.float32)[: channels // 4] / channels)
        places = torch.arange(grid * grid, dtype=torch.float32)
        angles = torch.cat([torch.outer(places % grid, rates), torch.outer(places // grid, rates)], dim=1).to(device)
        self._cos = torch.cat([angles.cos(), angles.cos()], dim=1)
        self._sin = torch.cat([-angles.sin(), angles.sin()], dim=1)

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, tail: int) -> Tensor:
        q = self._turned(F.linear(queries, *self._query), 0)
        k = self._turned(F.linear(keys, *self._key), tail)
        v = self._value(values)
        result: Tensor = self._out(attend(q, k, v, self._splits))
        return result

    def _turned(self, x: Tensor, tail: int) -> Tensor:
        """(1, F·N + tail, C) with all but the tail turned by their place."""
        _, tokens, channels = x.shape
        body = x[:, : tokens - tail].reshape(-1, len(self._cos), channels)
        partner = body.roll(channels // 2, dims=2)
        turned = torch.addcmul(body * self._cos, partner, self._sin).to(x.dtype).view(1, -1, channels)
        return torch.cat([turned, x[:, tokens - tail :]], dim=1) if tail else turned


def attend(q: Tensor, k: Tensor, v: Tensor, splits: int) -> Tensor:
    """Softmax attention of (1, N, C) queries over (1, M, C) keys and values, scaled by 1/√C."""
    many = q.is_cuda and q.dtype in (torch.bfloat16, torch.float16)
    if not many or splits == 1 or k.shape[1] % splits:
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    queries = q[:, None].expand(splits, 1, -1, -1)
    parts = (x.reshape(splits, 1, -1, x.shape[-1]) for x in (k, v))
    out, log_sum, *_ = torch.ops.aten._scaled_dot_product_flash_attention(queries, *parts)
    share = log_sum.softmax(dim=0)[..., None]
    return (out * share).sum(dim=0).to(q.dtype)
