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
    """Memory attention over one object's memories, on CUDA.

    Args:
        module: the network's memory attention (single-headed, as in every SAM 2.1 configuration).
        grid: side of the square feature grid.
        splits: into how many parts the keys are cut where they are halves. One head of one image is too few blocks
            of queries for a GPU of a hundred multiprocessors; parts are attended at once and joined by their
            weights, as in flash decoding (Dao et al. 2023).
    """

    def __init__(self, module: MemoryAttention, grid: int, splits: int = 4) -> None:
        self._layers = list(module.layers)
        self._norm = module.norm
        device = module.norm.weight.device
        self._self = [_Rotary(layer.self_attn, grid, device) for layer in self._layers]
        self._cross = [_Rotary(layer.cross_attn_image, grid, device) for layer in self._layers]
        self.splits = splits
        self._queries = cuts(0, splits * grid * grid, splits).to(device)
        self._own = cuts(0, grid * grid, splits).to(device)

    def __call__(
        self,
        features: Tensor,
        position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        head: int,
        parts: Tensor | None = None,
    ) -> Tensor:
        """Features that know what was seen before.

        Args:
            features: (1, N, C) of the frame, N = grid².
            position: (1, N, C) their place.
            memory: (1, head + F·N, c): pointer tokens, which have no place, then F remembered frames.
            memory_position: added to the memories to make keys.
            head: how many tokens at the start are pointers.
            parts: `cuts` of the tokens that count, on the device; the others are not looked at. All where None.

        Returns:
            (1, N, C).
        """
        keys = memory + memory_position
        if parts is None:
            parts = cuts(0, memory.shape[1], self.splits).to(memory.device)
        x = features + 0.1 * position
        for layer, own, cross in zip(self._layers, self._self, self._cross, strict=True):
            y = layer.norm1(x)
            x = x + own(y, y, y, 0, self._queries, self._own)
            x = x + cross(layer.norm2(x), keys, memory, head, self._queries, parts)
            x = x + layer.linear2(F.relu(layer.linear1(layer.norm3(x))))
        result: Tensor = self._norm(x)
        return result


def read_plainly(
    module: MemoryAttention, features: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor, head: int
) -> Tensor:
    """`MemoryReader` by the package's own arithmetic, to the last bit; as fast on a CPU."""
    # The package has pointers last.
    memory, memory_position = (x.roll(-head, dims=1).transpose(0, 1) for x in (memory, memory_position))
    result: Tensor = module(
        curr=features.transpose(0, 1),
        curr_pos=position.transpose(0, 1),
        memory=memory,
        memory_pos=memory_position,
        num_obj_ptr_tokens=head,
    )
    return result.transpose(0, 1)


class _Rotary:
    """Attention with rotary positions on a square grid (Heo et al. 2024, axial), half of the channels for each axis.

    Channels 2i and 2i+1 turn together. Queries and keys are projected with their rows reordered so that partners lie
    half the channels apart, which leaves every product of query and key as it was.
    """

    def __init__(self, module: RoPEAttention, grid: int, device: torch.device) -> None:
        if module.num_heads != 1:
            raise ValueError("memory attention of SAM 2.1 has one head")
        channels = module.internal_dim
        order = torch.cat([torch.arange(0, channels, 2), torch.arange(1, channels, 2)]).to(device)
        self._query = module.q_proj.weight[order], module.q_proj.bias[order]
        self._key = module.k_proj.weight[order], module.k_proj.bias[order]
        self._value, self._out = module.v_proj, module.out_proj
        theta: float = module.compute_cis.keywords["theta"]
        rates = theta ** -(torch.arange(0, channels, 4, dtype=torch.float32)[: channels // 4] / channels)
        places = torch.arange(grid * grid, dtype=torch.float32)
        angles = torch.cat([torch.outer(places % grid, rates), torch.outer(places // grid, rates)], dim=1).to(device)
        self._cos = torch.cat([angles.cos(), angles.cos()], dim=1)
        self._sin = torch.cat([-angles.sin(), angles.sin()], dim=1)

    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, head: int, query_parts: Tensor, key_parts: Tensor
    ) -> Tensor:
        q = self._turned(F.linear(queries, *self._query), 0)
        k = self._turned(F.linear(keys, *self._key), head)
        v = self._value(values)
        result: Tensor = self._out(attend(q, k, v, query_parts, key_parts))
        return result

    def _turned(self, x: Tensor, head: int) -> Tensor:
        """(1, head + F·N, C) with all but the head turned by their place."""
        channels = x.shape[2]
        body = x[:, head:].reshape(-1, len(self._cos), channels)
        partner = body.roll(channels // 2, dims=2)
        turned = torch.addcmul(body * self._cos, partner, self._sin).to(x.dtype).view(1, -1, channels)
        return torch.cat([x[:, :head], turned], dim=1) if head else turned


def cuts(start: int, stop: int, parts: int) -> Tensor:
    """Where the parts of start..stop begin, and where the last ends: int32 (parts + 1,)."""
    return torch.linspace(start, stop, parts + 1, dtype=torch.float64).round().to(torch.int32)


def attend(q: Tensor, k: Tensor, v: Tensor, query_parts: Tensor, key_parts: Tensor) -> Tensor:
    """Softmax attention of (1, N, C) queries over (1, M, C) keys and values, scaled by 1/√C.

    On CUDA in half precision the keys are cut at `key_parts` (see `cuts`), the queries repeated for each part, and
    keys outside of all parts are not looked at. Elsewhere the cuts must cover all keys, and are not used.
    """
    if not q.is_cuda or q.dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    tokens, parts = q.shape[1], len(key_parts) - 1
    queries, keys, values = q.expand(parts, -1, -1).reshape(parts * tokens, 1, -1), k[0][:, None], v[0][:, None]
    out, log_sum, *_ = torch.ops.aten._flash_attention_forward(
        queries, keys, values, query_parts, key_parts, tokens, keys.shape[0], 0.0, False, False
    )
    share = log_sum.view(parts, tokens, 1).softmax(dim=0)
    return (out.view(parts, tokens, -1) * share).sum(dim=0, keepdim=True).to(q.dtype)
