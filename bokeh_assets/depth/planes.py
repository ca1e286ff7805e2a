"""Disparity without a network: the scene alone, from its layout and from how it shifts as the camera moves.

Per shot, the camera is followed and divided into stretches in which one picture, the anchor, covers what is seen. From
the frames of a stretch a plate is made (their median, so that what moves drops out), the scene's layout is read from
the plate and corrected by parallax, and the map is carried to every frame of the stretch by the camera's motion. So a
camera that stands still gets one and the same map, and a subject that moves leaves no trace in it: it is put in from
its matte afterwards (`standing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bokeh_assets.depth.base import Progress
from bokeh_assets.depth.camera import WIDTH as CAMERA_WIDTH
from bokeh_assets.depth.camera import Homography, Stretch, at_size, follow_camera, small_grey
from bokeh_assets.depth.parallax import corrected_by_parallax
from bokeh_assets.depth.scene import scene_disparity
from bokeh_assets.depth.smoothing import smooth_along_edges
from bokeh_assets.errors import InputError
from bokeh_assets.media.frames import Frames, spooled

_SAMPLES = 9  # frames of which a plate is the median
_MAP_WIDTH = 640  # maps are made at most this wide and enlarged
_KEEP = 0.5  # share of the map before that the next stretch takes over where both see
_STEADY = 0.75  # share of the frame before that a frame takes over where the camera moves


class PlanesEstimator:
    """The weight-free depth engine. See `DepthEstimator`."""

    name = "planes"

    def estimate(
        self,
        frames: Iterable[NDArray[np.uint8]],
        shots: Sequence[int],
        *,
        progress: Progress | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """One disparity map per frame, in order.

        Reads each frame twice and holds a dozen of them at most.

        Args:
            frames: uint8 RGB pictures (H, W, 3), all of one size; anything but a sequence is spooled to disk.
            shots: number of the shot of every frame, rising by one at each cut; one per frame.
            progress: called with the number of frames done.

        Yields:
            float32 disparity (H, W), 0 (farthest) to 1 (nearest), one scale per shot.

        Raises:
            InputError: there are not as many shot numbers as frames.
        """
        with spooled(frames) as pictures:
            if len(pictures) != len(shots):
                raise InputError(
                    f"there are {len(pictures)} frames but {len(shots)} shot numbers: make the frames again"
                )
            done = 0
            for _, group in groupby(range(len(shots)), key=lambda i: shots[i]):
                numbers = list(group)
                for disparity in _estimate_shot(pictures, numbers[0], numbers[-1] + 1):
                    done += 1
                    if progress:
                        progress(done)
                    yield disparity


def _estimate_shot(frames: Frames, first: int, stop: int) -> Iterator[NDArray[np.float32]]:
    height, width = frames[first].shape[:2]
    stretches = follow_camera((small_grey(frames[i]) for i in range(first, stop)), first)
    here = _map_of(frames, stretches[0], None, None)
    before: NDArray[np.float32] | None = None
    for stretch, following in zip(stretches, [*stretches[1:], None], strict=True):
        after = None if following is None else _map_of(frames, following, stretch, here)
        moves = stretch.moves() or len(stretches) > 1
        ready: NDArray[np.float32] | None = None
        for offset, to_anchor in enumerate(stretch.to_anchor):
            if not moves:
                ready = _enlarged(here, width, height) if ready is None else ready
                yield ready.copy()
                continue
            share = offset / len(stretch.to_anchor)
            now = _carried(here, to_anchor)
            if after is not None and stretch.next_anchor is not None and share > 0:
                to_next = (np.linalg.inv(stretch.next_anchor) @ to_anchor).astype(np.float64)
                blend = share * share * (3 - 2 * share)
                # Where only one of the two anchors saw the place, it alone counts.
                this = (1 - blend) * (_coverage(now.shape, to_anchor) + 1e-3)
                that = blend * (_coverage(now.shape, to_next) + 1e-3)
                now = (this * now + that * _carried(after, to_next)) / (this + that)
            index = stretch.first + offset
            now = _fitted(now, frames[index])
            if before is not None:
                step = _from_last(stretch, offset, stretches)
                now = _STEADY * _carried(before, step) + (1 - _STEADY) * now
            before = now
            yield _enlarged(now, width, height)
        if after is not None:
            here = after


def _views(frames: Frames, stretch: Stretch, earlier: Stretch | None) -> list[NDArray[np.uint8]]:
    """Frames of this stretch and the one before, in the pixels of its anchor; the anchor fills what they miss."""
    sources: dict[int, Homography] = {stretch.first + i: h for i, h in enumerate(stretch.to_anchor)}
    if earlier is not None and earlier.next_anchor is not None:
        onward = np.linalg.inv(earlier.next_anchor)
        sources |= {earlier.first + i: onward @ h for i, h in enumerate(earlier.to_anchor)}
    numbers = sorted(sources)
    picked = np.unique(np.linspace(0, len(numbers) - 1, _SAMPLES).round().astype(int))
    anchor = _reduced(frames[stretch.first])
    views = []
    for number in (numbers[int(i)] for i in picked):
        if number == stretch.first:
            views.append(anchor)
            continue
        back = np.linalg.inv(sources[number]).astype(np.float64)
        view = _carried(_reduced(frames[number]), back)
        seen = _carried(np.full(anchor.shape[:2], 255, np.uint8), back, beyond=cv2.BORDER_CONSTANT)
        views.append(np.where(seen[..., None] == 255, view, anchor))
    return views


def _map_of(
    frames: Frames, stretch: Stretch, earlier: Stretch | None, previous: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Disparity of a stretch's scene in the pixels of its anchor, float32 (h, w <= _MAP_WIDTH)."""
    views = _views(frames, stretch, earlier)
    plate = np.median(views, axis=0).astype(np.uint8)
    rough = scene_disparity(plate)
    if stretch.moves() or earlier is not None:
        rough = corrected_by_parallax(rough, plate, views)
    size = (plate.shape[1], plate.shape[0])
    out = cv2.resize(rough, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    out = smooth_along_edges(out, plate, strength=30.0, sigma=5.0)
    if previous is not None and earlier is not None and earlier.next_anchor is not None:
        keep = _KEEP * _coverage(out.shape, earlier.next_anchor)
        known = _carried(previous, earlier.next_anchor)
        out = (1 - keep) * _on_scale_of(known, out, keep) + keep * known
    return np.clip(out, 0, 1).astype(np.float32)


def _on_scale_of(
    known: NDArray[np.float32], own: NDArray[np.float32], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`own` scaled to agree with `known` where both saw the scene: one scale in all of a shot, 0 stays 0."""
    if float(weight.sum()) < 0.05 * weight.size * _KEEP:
        return own
    gain = float((weight * own * known).sum()) / max(float((weight * own * own).sum()), 1e-6)
    return own * np.float32(np.clip(gain, 0.7, 1.4))


def _from_last(stretch: Stretch, offset: int, stretches: Sequence[Stretch]) -> Homography:
    """Motion from a frame to the frame before it."""
    if offset > 0:
        return np.linalg.inv(stretch.to_anchor[offset - 1]) @ stretch.to_anchor[offset]
    earlier = next(s for s in stretches if s.last == stretch.first - 1)
    assert earlier.next_anchor is not None
    return np.linalg.inv(earlier.to_anchor[-1]) @ earlier.next_anchor


def _carried(picture: NDArray[Any], to_source: Homography, beyond: int = cv2.BORDER_REPLICATE) -> NDArray[Any]:
    """The picture seen by a camera whose pixels `to_source` maps into it, at the picture's own scale."""
    height, width = picture.shape[:2]
    if np.array_equal(to_source, np.eye(3)):
        return picture
    return cv2.warpPerspective(
        picture,
        at_size(to_source, width / CAMERA_WIDTH),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=beyond,
    )


def _coverage(shape: tuple[int, ...], to_source: Homography) -> NDArray[np.float32]:
    """How well a picture carried by `to_source` covers this one: 1 inside, falling to 0 at its rim. (H, W)."""
    height, width = shape
    # It is smooth, so a coarse grid will do.
    y, x = np.mgrid[0 : height - 1 : 36j, 0 : width - 1 : 64j]
    points = np.stack([x, y], axis=2).reshape(-1, 1, 2)
    there = cv2.perspectiveTransform(points, at_size(to_source, width / CAMERA_WIDTH)).reshape(36, 64, 2)
    depth = np.minimum(there, np.array([width - 1, height - 1]) - there).min(axis=2)
    inside = np.clip(depth / (0.05 * width), 0, 1).astype(np.float32)
    return cv2.resize(inside, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def _fitted(disparity: NDArray[np.float32], frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The map with its steps drawn to this frame's own outlines, which parallax shifts against the anchor's."""
    return smooth_along_edges(disparity, _reduced(frame), strength=12.0, sigma=6.0)


def _reduced(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    if width <= _MAP_WIDTH:
        return frame
    size = (_MAP_WIDTH, round(height * _MAP_WIDTH / width))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _enlarged(disparity: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    if disparity.shape == (height, width):
        return disparity
    return cv2.resize(disparity, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
