"""What every renderer is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Progress = Callable[[int], None]
"""Called with the number of frames finished so far."""


def radius_per_disparity(k: float, width: int) -> float:
    """Radius in pixels of the circle of confusion, per unit of disparity away from the focus plane.

    The blur strength `k` is the radius at a picture width of 1024, so that one k gives one look at every
    resolution: radius = k * (width / 1024) * |d - zf|.
    """
    return k * width / 1024


class Renderer(Protocol):
    """Photographs a sharp video again with a wide aperture."""

    name: str

    @property
    def how(self) -> str:
        """What was chosen on this machine beside the engine (precision, kernels), for the record; after rendering."""
        ...

    def render(
        self,
        frames: Iterable[NDArray[np.uint8]],
        disparity: Iterable[NDArray[np.float32]],
        mattes: Iterable[NDArray[np.float32]] | None,
        focus: pd.DataFrame,
        *,
        progress: Progress | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """One picture per frame, in order and of the frames' size.

        Args:
            frames: uint8 RGB (H, W, 3), sharp everywhere.
            disparity: float32 (H, W), 0 (farthest) to 1 (nearest).
            mattes: float32 (H, W) subject mattes 0..1 that refine the subject's outline, or None.
            focus: one row per frame with the columns `frame` (from 0), `zf` (disparity of the focus plane,
                0..1), `k` (blur strength, see `radius_per_disparity`) and optionally `shot`: nothing is
                carried over from one shot to the next.
            progress: called with the number of frames done.

        Yields:
            uint8 RGB (H, W, 3). Where k is 0 the input, bit for bit.
        """
        ...
