"""Blur every plane and put one in front of the other, on GPUs: what `accumulate` does, only where there is something
to do, in a handful of launches and without waiting for the GPU.

Three things are decided on the GPU per block of the picture: which planes hold something there, which blur into it,
and what they hold. Planes of wide blur are shrunk and blurred small; one kernel then goes from near to far for every
tile, blurs the planes of narrow blur on the way and stacks all of them in registers. Those of narrow blur take the
memory, so the picture is done in bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bokeh_assets.rendering.thin_lens.accumulate import GAP, ROUND, kernel_for
from bokeh_assets.rendering.thin_lens.aperture import Aperture
from bokeh_assets.rendering.thin_lens.axis import Axis
from bokeh_assets.rendering.thin_lens.kernels_cuda import (
    active_kernel,
    content_kernel,
    soft_kernel,
    stack_kernel,
    wanted_kernel,
)
from bokeh_assets.rendering.thin_lens.scene import Scene

BLOCK = 32  # side of the squares in which work is skipped
TALL, WIDE = 8, 32  # tile of the stacking kernel, inside a block
TILE = 16  # side of the tiles in which shrunk planes are blurred
PORTION = 4  # taps are taken so many at a time
BAND_BYTES = 128 << 20  # of unblurred planes at full size held at a time


@dataclass(frozen=True)
class Level:
    """Planes shrunk alike.

    Attributes:
        factor: by how much.
        members: their numbers, int32 on the device.
        count: how many there are.
        pixels: of all of them together; of a band, at full size.
    """

    factor: int
    members: Tensor
    count: int
    pixels: int


@dataclass(frozen=True)
class Plan:
    """All that follows from axis, aperture and size, on the device.

    Attributes:
        table: int64 (planes, 8): factor, rows, columns, start in the level's content, start in the buffer of blurred
            planes, first and last tap, reach of the taps in pixels of the plane. Planes at full size are `band` rows
            tall in their buffer.
        taps: int64 (2, taps): weight (float32) in the upper half; in the lower the shift, counted in pixels along
            the plane's rows for the first, in 16 bits down and 16 right for the second.
        rings: int32 (words, (2 blocks + 1)^2), see `wanted_kernel`.
        blocks: how many blocks away a blur is felt.
        reach: of the taps of planes at full size, in pixels.
        band: rows of the picture done at a time.
        soft: pixels of all shrunk planes.
    """

    planes: int
    levels: tuple[Level, ...]
    table: Tensor
    taps: Tensor
    rings: Tensor
    blocks: int
    reach: int
    band: int
    soft: int

    def keep(self) -> None:
        """Tell the allocator that the queue in hand reads what another may have made."""
        if self.table.is_cuda:
            queue = torch.cuda.current_stream(self.table.device)
            for tensor in (self.table, self.taps, self.rings, *(level.members for level in self.levels)):
                tensor.record_stream(queue)


@lru_cache(maxsize=8192)
def taps(radius: float, aperture: Aperture) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Shifts and weights of a blur, their reach, and by how much the plane is shrunk before."""
    shape, factor = kernel_for(radius, aperture)
    n = shape.shape[0] // 2
    shape = shape[::-1, ::-1]  # correlation with the flipped kernel is the convolution
    at, weights = np.argwhere(shape > 0) - n, shape[shape > 0]
    spare = -len(at) % PORTION
    at = np.concatenate([at, np.zeros((spare, 2), at.dtype)])
    return at, np.concatenate([weights, np.zeros(spare)]).astype(np.float32), n, factor


def packed(weights: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Weights and shifts as int64, weights above."""
    return weights.view(np.int32).astype(np.int64) << 32 | (shifts.astype(np.int64) & 0xFFFFFFFF)


@lru_cache(maxsize=256)
def plan(planes: tuple[float, ...], aperture: Aperture, height: int, width: int, device: torch.device) -> Plan:
    """What `photograph_cuda` has to know; made once per axis and aperture."""
    made = [taps(abs(radius), aperture) for radius in planes]
    starts = dict.fromkeys((abs(radius) for radius in planes), 0)
    along, apart, total = [], [], 0
    for radius in starts:
        at, weight, _, factor = taps(radius, aperture)
        along.append(packed(weight, at[:, 0] * -(-width // factor) + at[:, 1]))
        apart.append(packed(weight, (at[:, 0] << 16) + (at[:, 1] & 0xFFFF)))
        starts[radius] = total
        total += len(at)
    full = [number for number, (*_, factor) in enumerate(made) if factor == 1]
    reach = max((made[number][2] for number in full), default=0)
    most = max(BLOCK, BAND_BYTES // (8 * width * max(1, len(full))) // BLOCK * BLOCK - 2 * halo(reach))
    band = min(-(-height // BLOCK) * BLOCK, most)
    tall = min(height, band + 2 * halo(reach))
    table = np.zeros((len(planes), 8), np.int64)
    far = np.zeros(len(planes), int)
    soft = 0
    pixels: dict[int, int] = {}
    for number, (at, _, n, factor) in enumerate(made):
        rows, columns = -(-height // factor), -(-width // factor)
        start = starts[abs(planes[number])]
        table[number] = factor, rows, columns, pixels.setdefault(factor, 0), soft, start, start + len(at), n
        # Growing from a smaller plane reaches one of its pixels farther.
        far[number] = -(-(n if factor == 1 else (n + 1) * factor) // BLOCK)
        pixels[factor] += (tall if factor == 1 else rows) * columns
        soft += 0 if factor == 1 else rows * columns
    blocks = int(far.max())
    away = np.arange(-blocks, blocks + 1)
    distance = np.maximum(np.abs(away[:, None]), np.abs(away[None])).ravel()
    bits = far[:, None] >= distance[None]
    bits = np.concatenate([bits, np.zeros((-len(bits) % 32, bits.shape[1]), bool)])
    rings = np.packbits(bits.reshape(-1, 32, bits.shape[1]), axis=1, bitorder="little")
    words = np.ascontiguousarray(rings.transpose(0, 2, 1)).view("<i4")[..., 0]

    def there(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    levels = []
    for factor in sorted({made_factor for *_, made_factor in made}):
        members = [number for number, (*_, own) in enumerate(made) if own == factor]
        levels.append(Level(factor, there(np.array(members, np.int32)), len(members), pixels[factor]))
    listed = np.concatenate([*along, *apart])
    return Plan(len(planes), tuple(levels), there(table), there(listed), there(words), blocks, reach, band, soft)


def halo(reach: int) -> int:
    """Rows that taps of this reach need beyond a band, in whole blocks."""
    return -(-reach // BLOCK) * BLOCK


def photograph_cuda(scene: Scene, axis: Axis, aperture: Aperture = ROUND) -> Tensor:
    """As `accumulate.photograph`, for scenes on a GPU."""
    parts = [t.contiguous() for t in (scene.front, scene.alpha, scene.front_place)]
    parts += [t.contiguous() for t in (scene.back, scene.back_weight, scene.back_place)]
    front, alpha, front_place, _, back_weight, back_place = parts
    device = alpha.device
    height, width = alpha.shape
    does = plan(tuple(axis.planes.tolist()), aperture, height, width, device)
    does.keep()
    down, across = -(-height // BLOCK), -(-width // BLOCK)
    words = does.rings.shape[0]
    active = torch.empty((words, down, across), dtype=torch.int32, device=device)
    wanted = torch.empty_like(active)
    active_kernel[(across, down)](
        front_place, alpha, back_place, back_weight, active, height, width, down, across, words, BLOCK
    )
    span = 128
    wanted_kernel[(-(-down * across // span), words)](active, does.rings, wanted, down, across, does.blocks, span)
    taps_there = (does.taps, does.taps.numel() // 2)
    soft = torch.zeros(does.soft, dtype=torch.int64, device=device)

    def content(level: Level, first: int, count: int, top: int) -> Tensor:
        """The level's planes before the blur, from a row of blocks on."""
        # Blocks in which nothing stands stay zero.
        made = torch.zeros(level.pixels, dtype=torch.int64, device=device)
        side = max(BLOCK, level.factor)
        content_kernel[(-(-width // side), count, level.count)](
            *parts, active, does.table, level.members, made, height, width, down, across, first, top,
            level.factor, side // level.factor, side // BLOCK, BLOCK,
        )  # fmt: skip
        return made

    for level in does.levels[1:]:
        covers = TILE * level.factor
        soft_kernel[(-(-width // covers), -(-height // covers), level.count)](
            content(level, 0, -(-height // max(BLOCK, level.factor)), 0), soft, wanted, does.table, level.members,
            *taps_there, down, across, BLOCK, TILE, covers // BLOCK,
        )  # fmt: skip
    light = torch.empty_like(front)
    for first in range(0, height, does.band):
        top = max(0, first - halo(does.reach))
        end = min(height, first + does.band)
        bottom = min(height, end + halo(does.reach))
        sharp = content(does.levels[0], top // BLOCK, -(-(bottom - top) // BLOCK), top)
        stack_kernel[(-(-width // WIDE), -(-(end - first) // TALL))](
            sharp, soft, wanted, does.table, *taps_there, light, height, width, down, across,
            does.planes, first, top, GAP, BLOCK, TALL, WIDE,
        )  # fmt: skip
        del sharp
    return light
