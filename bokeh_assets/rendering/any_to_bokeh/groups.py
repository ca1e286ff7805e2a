"""How a shot is cut into the groups of frames that the network sees, and put together again.

A group is 8 frames; the next starts 4 later. Where two overlap, the result goes over from the older to the newer
along a half cosine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

GROUP = 8
STEP = 4


def fade() -> Tensor:
    """Share of the older group in the 4 frames of an overlap: (1 + cos(pi j / 4)) / 2."""
    return torch.tensor([(1 + math.cos(math.pi * j / STEP)) / 2 for j in range(STEP)])


class Group(NamedTuple, Generic[T]):
    """8 frames, of which the first `real` are the shot's and the rest fill up."""

    frames: list[T]
    real: int
    first: bool
    last: bool


def groups(frames: Iterable[T], tail: str, filler: T | None = None) -> Iterator[Group[T]]:
    """The groups of a shot, as soon as their frames are there.

    Args:
        frames: of one shot, at least one.
        tail: what fills up a last group that is short: "mirror", "repeat", or "fill" with `filler`.

    Yields:
        For n frames max(1, ceil((n - 4) / 4)) groups; all but the last have 8 real frames.
    """
    source = iter(frames)
    held: list[T] = []
    first = True
    ahead = next(source, None)
    while ahead is not None:
        while ahead is not None and len(held) < GROUP:
            held.append(ahead)
            ahead = next(source, None)
        yield Group(_filled(held, tail, filler), len(held), first, ahead is None)
        held, first = held[STEP:], False


def _filled(held: list[T], tail: str, filler: T | None) -> list[T]:
    real = len(held)
    missing = GROUP - real
    if not missing:
        return list(held)
    if tail == "fill":
        if filler is None:
            raise ValueError("tail 'fill' needs a filler")
        return held + [filler] * missing
    if tail == "repeat" or real == 1:
        return held + [held[-1]] * missing
    period = 2 * (real - 1)
    return [held[min(i % period, period - i % period)] for i in range(GROUP)]
