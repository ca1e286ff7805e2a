"""The CLIP image encoder's view of a frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 224
"""CLIP's input is square, of this many pixels."""


def resize_for_clip(x: Tensor, side: int = SIDE) -> Tensor:
    """Antialiased bicubic resizing as Stable Video Diffusion does it; the aspect is not kept.

    A Gaussian of sigma (f - 1) / 2, f the factor of shrinking, cut after 2 sigma on either side, then bicubic
    interpolation with aligned corners.

    Args:
        x: float (N, 3, H, W).

    Returns:
        (N, 3, side, side).
    """
    for axis in (3, 2):
        x = _blur(x, (x.shape[axis] / side - 1) / 2, axis)
    return F.interpolate(x, size=(side, side), mode="bicubic", align_corners=True)


def _blur(x: Tensor, sigma: float, axis: int) -> Tensor:
    sigma = max(sigma, 0.001)
    taps = int(max(4 * sigma, 3))
    taps += 1 - taps % 2
    # float64 keeps the sum of the kernel at one; the widest kernels have some tens of taps.
    at = torch.arange(taps, dtype=torch.float64) - taps // 2
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(x)
    reach = taps // 2
    channels = x.shape[1]
    if axis == 3:
        x, weight = F.pad(x, (reach, reach, 0, 0), mode="reflect"), kernel[None, :]
    else:
        x, weight = F.pad(x, (0, 0, reach, reach), mode="reflect"), kernel[:, None]
    return F.conv2d(x, weight.expand(channels, 1, *weight.shape), groups=channels)


def embed(encoder: nn.Module, x: Tensor, *, normalise: bool = False) -> Tensor:
    """CLIP embeddings of pictures.

    Args:
        encoder: a `transformers.CLIPVisionModelWithProjection`.
        x: float32 (N, 3, H, W), -1 to 1.
        normalise: shift and scale by CLIP's mean and deviation. The released pipeline does not, though the
            network was trained with it.

    Returns:
        (N, width) in the encoder's dtype.
    """
    parameter = next(encoder.parameters())
    small = (resize_for_clip(x.float()) + 1) / 2
    if normalise:
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).to(small)[:, None, None]
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).to(small)[:, None, None]
        small = (small - mean) / std
    return encoder(small.to(parameter)).image_embeds
