"""From 8-bit picture to light and back.

Light adds up, code values do not: every blur here is of linear light. Frames of video are taken to be
sRGB-like (IEC 61966-2-1), which is how displays show them; the true curve with its linear toe is used, not a
power of 2.2.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

KNEE = 0.9  # sRGB value from which a highlight counts as clipped, softly up to 1


def srgb_to_linear(value: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values 0..1 (IEC 61966-2-1)."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: np.ndarray) -> np.ndarray:
    """sRGB values of linear light, which is clipped to 0..1."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


TABLE = srgb_to_linear(np.arange(256) / 255).astype(np.float32)
"""Linear light of every 8-bit value."""


def decode(frame: torch.Tensor, highlights: float = 0.0) -> torch.Tensor:
    """Linear light, float32 (3, H, W), of a uint8 (H, W, 3) picture.

    Args:
        frame: uint8 (H, W, 3).
        highlights: stops by which clipped light is brightened. Where the brightest channel passes `KNEE`, all
            three are raised by one factor, so that the hue stays; everything darker is untouched.
    """
    if frame.device.type == "cpu":
        light = torch.from_numpy(np.stack([cv2.LUT(part, TABLE) for part in cv2.split(frame.numpy())]))
    else:
        light = torch.from_numpy(TABLE).to(frame.device)[frame.permute(2, 0, 1).int()]
    if highlights > 0:
        brightest = frame.amax(dim=2).float() / 255
        knee = ((brightest - KNEE) / (1 - KNEE)).clamp(0, 1)
        light = light * torch.exp2(highlights * knee * knee * (3 - 2 * knee))
    return light.contiguous()


def encode(light: torch.Tensor) -> torch.Tensor:
    """sRGB values 0..255, float32 and not yet rounded, of linear light; clipped at white."""
    light = light.clamp(0, 1)
    toe = light * (12.92 * 255)
    curve = 1.055 * 255 * light.clamp_min(0.0031308).pow(1 / 2.4) - 0.055 * 255
    return torch.where(light <= 0.0031308, toe, curve)
