"""`steady.steadied` for GPUs: every frame is uploaded once and stays while its neighbours need it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from bokeh_assets.rendering.thin_lens.steady import JUMPED, MOVED, Shot

SPAN = 512  # pixels per program


@dataclass(frozen=True)
class Lifted:
    """A `Shot` on the device.

    Attributes:
        source: the frame as it came.
        frame, small, depth, matte: see `Shot`.
    """

    source: NDArray[np.uint8]
    frame: Tensor
    small: Tensor
    depth: Tensor
    matte: Tensor | None
    number: int
    zf: float
    k: float

    def keep(self) -> None:
        """Tell the allocator that the queue in hand reads what another one has made."""
        if self.frame.is_cuda:
            queue = torch.cuda.current_stream(self.frame.device)
            for tensor in (self.frame, self.small, self.depth, self.matte):
                if tensor is not None:
                    tensor.record_stream(queue)


def lift(shot: Shot, device: torch.device) -> Lifted:
    """The frame on the device; it is there when this returns."""
    frame = torch.from_numpy(np.ascontiguousarray(shot.frame)).to(device)
    small, depth, matte = (
        None if part is None else torch.from_numpy(np.ascontiguousarray(part, np.float32)).to(device)
        for part in (shot.small, shot.depth, shot.matte)
    )
    assert small is not None and depth is not None
    return Lifted(shot.frame, frame, small, depth, matte, shot.number, shot.zf, shot.k)


@triton.jit
def _same_kernel(one, other, same, height, width, MOVED: tl.constexpr, SPAN: tl.constexpr):
    """How much two shrunk pictures are one, 0..1, judged by the greatest change next to each pixel."""
    at = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    inside = at < height * width
    y, x = at // width, at % width
    most = tl.zeros((SPAN,), tl.float32)
    for n in tl.static_range(9):
        v, u = y + (n // 3 - 1), x + (n % 3 - 1)
        there = inside & (v >= 0) & (v < height) & (u >= 0) & (u < width)
        p = 3 * (v * width + u)
        for channel in tl.static_range(3):
            change = tl.load(one + p + channel, there, 0.0) - tl.load(other + p + channel, there, 0.0)
            most = tl.maximum(most, tl.abs(change))
    tl.store(same + at, tl.exp(-(most / MOVED) * (most / MOVED)), inside)


@triton.jit(do_not_specialize=["height", "width", "rows", "columns"])
def _gather_kernel(
    same, own, other, other_matte, total, depth, matte, height, width, rows, columns,
    JUMPED: tl.constexpr, MATTE: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Adds another frame's depth and matte to the sums, by how much picture and depth are as here."""
    at = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    inside = at < height * width
    y, x = at // width, at % width
    v = (y.to(tl.float32) + 0.5) * tl.div_rn(rows.to(tl.float32), height.to(tl.float32)) - 0.5
    u = (x.to(tl.float32) + 0.5) * tl.div_rn(columns.to(tl.float32), width.to(tl.float32)) - 0.5
    v = tl.minimum(tl.maximum(v, 0.0), (rows - 1).to(tl.float32))
    u = tl.minimum(tl.maximum(u, 0.0), (columns - 1).to(tl.float32))
    i, j = v.to(tl.int32), u.to(tl.int32)
    a, b = v - i.to(tl.float32), u - j.to(tl.float32)
    above, below = i * columns, tl.minimum(i + 1, rows - 1) * columns
    right = tl.minimum(j + 1, columns - 1)
    upper = tl.load(same + above + j) * (1 - b) + tl.load(same + above + right) * b
    share = upper * (1 - a) + (tl.load(same + below + j) * (1 - b) + tl.load(same + below + right) * b) * a
    told = tl.load(other + at, inside, 0.0)
    jump = (told - tl.load(own + at, inside, 0.0)) * (1 / JUMPED)
    share = tl.where(share < 1e-3, 0.0, share * tl.exp(-jump * jump))
    tl.store(total + at, tl.load(total + at, inside, 0.0) + share, inside)
    tl.store(depth + at, tl.load(depth + at, inside, 0.0) + share * told, inside)
    if MATTE:
        tl.store(
            matte + at,
            tl.load(matte + at, inside, 0.0) + share * tl.load(other_matte + at, inside, 0.0),
            inside,
        )


def steadied_cuda(middle: Lifted, others: Iterable[Lifted]) -> tuple[Tensor, Tensor | None]:
    """Depth and matte of the middle frame averaged over time where the picture stands still."""
    (rows, columns), (height, width) = middle.small.shape[:2], middle.depth.shape
    depth, total = middle.depth.clone(), torch.ones_like(middle.depth)
    matte = None if middle.matte is None else middle.matte.clone()
    same = torch.empty((rows, columns), dtype=torch.float32, device=depth.device)
    for other in others:
        if other.number != middle.number:
            continue
        other.keep()
        _same_kernel[(-(-rows * columns // SPAN),)](middle.small, other.small, same, rows, columns, MOVED, SPAN)
        both = matte is not None and other.matte is not None
        _gather_kernel[(-(-height * width // SPAN),)](
            same, middle.depth, other.depth, other.matte if both else depth, total, depth, matte if both else depth,
            height, width, rows, columns, JUMPED, both, SPAN,
        )  # fmt: skip
    return depth / total, None if matte is None else matte / total
