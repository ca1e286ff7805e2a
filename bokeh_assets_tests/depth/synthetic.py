"""Small scenes whose depth is known."""

import cv2
import numpy as np


def texture(height: int, width: int, seed: int, contrast: float = 40.0) -> np.ndarray:
    """Smooth noise around 0, float32 (height, width, 1)."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return (contrast * blurred / blurred.std())[..., None].astype(np.float32)


def room(height: int = 180, width: int = 320, contact: float = 0.65, seed: int = 0) -> np.ndarray:
    """A pale textured wall above a brown textured floor, uint8 (height, width, 3)."""
    picture = np.empty((height, width, 3), np.float32)
    edge = int(contact * height)
    picture[:edge] = (215, 205, 200)
    picture[edge:] = (120, 80, 50)
    return np.clip(picture + texture(height, width, seed, 12.0), 0, 255).astype(np.uint8)


def with_box(picture: np.ndarray, left: int, top: int, size: int = 30) -> np.ndarray:
    """The picture with a blue square in it."""
    out = picture.copy()
    out[top : top + size, left : left + size] = (30, 60, 200)
    return out
