"""Looks at rendered frames on their way into the encoder, for the preview and the sharpness check."""

from collections.abc import Iterable, Iterator

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from bokeh_assets import checks
from bokeh_assets.metrics import vepi
from bokeh_assets.previews import Filmstrip
from bokeh_assets.rendering.layout import RenderRow


class Watcher:
    """Passes frames through, keeping a before-and-after strip and how sharp the subject stayed."""

    def __init__(self, row: RenderRow):
        self.strip = Filmstrip(len(row.frames))
        self._row = row
        self._vepi: list[float] = []
        self._focused = False

    def watch(self, rendered: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """The same frames, looked at."""
        for i, picture in enumerate(rendered):
            if self.strip.wants(i):
                self._look(i, picture)
            yield picture

    def _look(self, i: int, picture: NDArray[np.uint8]) -> None:
        source = self._row.frames[i]
        # Left half as it was, right half as it is: the blur can be judged at a glance.
        half = source.shape[1] // 2
        split = picture.copy()
        split[:, :half] = source[:, :half]
        split[:, max(half - 1, 0) : half + 1] = 255
        self.strip.add(i, split, "before | after")
        if self._row.mattes is None:
            return
        matte = self._row.mattes[i]
        subject = matte > 0.9
        if subject.mean() < 1e-3:
            return
        zf, k = (float(self._row.focus[column].iloc[i]) for column in ("zf", "k"))
        radius = k * source.shape[1] / 1024 * abs(float(np.median(self._row.disparity[i][subject])) - zf)
        if radius <= 1:
            self._focused = True
            self._vepi.append(vepi(picture, source, matte))

    @property
    def sharpness(self) -> float:
        """Median VEPI of the subject where it is in focus; 0 where it never is."""
        return round(float(np.median(self._vepi)), 4) if self._vepi else 0.0

    def subject_sharp(self) -> dg.AssetCheckResult:
        """The check of that name."""
        return checks.subject_sharp(self._vepi, self._focused)
