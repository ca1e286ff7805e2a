"""What every segmentation engine is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bokeh_assets.segmentation.prompts import Prompt

Progress = Callable[[int], None]
"""Called with the number of frames finished so far."""


class Segmenter(Protocol):
    """Follows one subject through a video."""

    name: str

    def segment(
        self,
        frames: Iterable[NDArray[np.uint8]],
        prompts: Sequence[Prompt],
        *,
        progress: Progress | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """One subject matte per frame, in order.

        Args:
            frames: uint8 RGB pictures (H, W, 3), all of one size. A random-access sequence (such as a
                `FrameFolder`) is read in place; any other iterable is spooled to disk where the engine must
                look back.
            prompts: where the subject is, in pixels of the frames. None given: the engine chooses.
            progress: called with the number of frames done.

        Yields:
            float32 mattes (H, W), 0 (not subject) to 1 (subject). All zero where the subject is out of the
            picture.

        Raises:
            InputError: a prompt lies outside the video or the picture.
        """
        ...
