"""What every depth engine is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[int], None]
"""Called with the number of frames finished so far."""


class DepthEstimator(Protocol):
    """Estimates the disparity of a video."""

    name: str

    def estimate(
        self,
        frames: Iterable[NDArray[np.uint8]],
        shots: Sequence[int],
        *,
        progress: Progress | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """One disparity map per frame, in order.

        Args:
            frames: uint8 RGB pictures (H, W, 3), all of one size. A random-access sequence (such as a
                `FrameFolder`) is read in place; any other iterable is spooled to disk where the engine must
                look back.
            shots: number of the shot of every frame, rising by one at each cut; one per frame.
            progress: called with the number of frames done.

        Yields:
            float32 disparity (H, W), 0 (farthest) to 1 (nearest), one scale per shot.
        """
        ...
