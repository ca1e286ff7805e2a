"""From a picture to the network's input: the sizes, the resizing, the normalisation."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bokeh_assets.depth.video_depth_anything.encoder import PATCH

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
WIDEST = 1.78  # wider pictures (or narrower ones, turned) get a smaller short side, to bound the cost


def network_size(height: int, width: int, input_size: int = 518) -> tuple[int, int]:
    """Rows and columns of the network's input for a picture: multiples of 14, the short side about `input_size`.

    The aspect changes by up to half a patch. Small pictures are enlarged.
    """
    ratio = max(height, width) / min(height, width)
    if ratio > WIDEST:
        input_size = round(int(input_size * 1.777 / ratio) / PATCH) * PATCH
    scale = max(input_size / height, input_size / width)

    def side(length: int) -> int:
        patches = length * scale / PATCH
        return PATCH * (round(patches) if round(patches) * PATCH >= input_size else math.ceil(patches))

    return side(height), side(width)


def prepare(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """uint8 RGB (H, W, 3) -> normalised float32 (3, rows, columns), on the CPU.

    Bicubic without antialiasing or clipping, as the model was trained.
    """
    picture = frame.astype(np.float32) / np.float32(255)
    resized = cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    # float64 here, float32 after: the order of roundings of the reference.
    return np.ascontiguousarray(((resized - MEAN) / STD).astype(np.float32).transpose(2, 0, 1))


def prepare_on_device(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """The same as `prepare` for uint8 (N, H, W, 3) on any device -> float32 (N, 3, rows, columns).

    Equal to `prepare` up to float32 rounding of the sums: bicubic resizing is a linear map of the rows and one
    of the columns, so it is two products with small matrices whose entries are the coefficients OpenCV uses.
    """
    n, height, width, _ = frames.shape
    down = cubic_matrix(height, size[0], frames.device)
    across = cubic_matrix(width, size[1], frames.device)
    resized = frames.new_empty((n, 3, *size), dtype=torch.float32)
    for slot, frame in enumerate(frames):
        # One frame at a time: the float copy of a 4K frame takes 100 MB.
        picture = frame.permute(2, 0, 1).to(torch.float32).div_(255)
        resized[slot] = torch.matmul(down, torch.matmul(picture, across.T))
    mean, std = _normalisation(frames.device)
    for slot in range(n):
        resized[slot] = (resized[slot] - mean) / std
    return resized


@lru_cache(maxsize=8)
def _normalisation(device: torch.device) -> Tensor:
    return torch.tensor([MEAN, STD], dtype=torch.float64, device=device).view(2, 3, 1, 1)


@lru_cache(maxsize=8)
def cubic_matrix(source: int, target: int, device: torch.device) -> Tensor:
    """The (target, source) matrix of OpenCV's INTER_CUBIC in one direction: a = -0.75, border repeated."""
    # Rounded to float32 where OpenCV's plain code does; its vector code rounds a little otherwise (4e-5 in a weight).
    place = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(place)
    t = (place - first).astype(np.float32)
    a = np.float32(-0.75)
    one = np.float32(1)
    taps = [
        ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * (one - t) - (a + 3)) * (one - t) * (one - t) + 1,
    ]
    taps.append(one - taps[0] - taps[1] - taps[2])
    matrix = np.zeros((target, source), np.float32)
    for offset, weight in enumerate(taps, start=-1):
        index = np.clip(first.astype(np.int64) + offset, 0, source - 1)
        np.add.at(matrix, (np.arange(target), index), weight)
    return torch.from_numpy(matrix).to(device)
