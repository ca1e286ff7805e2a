"""The segmenter: prompts and frames in, one matte per frame out, in order."""

from __future__ import annotations

import itertools
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bokeh_assets.devices import pick_device
from bokeh_assets.errors import InputError
from bokeh_assets.media.frames import Frames, spooled
from bokeh_assets.segmentation.base import Progress
from bokeh_assets.segmentation.prompts import Prompt, by_object
from bokeh_assets.segmentation.sam2 import model as networks
from bokeh_assets.segmentation.sam2.encoder import Encoder, in_order
from bokeh_assets.segmentation.sam2.mattes import fill_holes, soft_matte
from bokeh_assets.segmentation.sam2.tracker import Features, Memories, Tracker

Frame = NDArray[np.uint8]
PEEK = 16  # shorter videos look back less far (SAM 2's rule), so their length must be known
BATCH = 4


@dataclass
class _Object:
    """One object of the subject: its prompts by frame and what is remembered of it."""

    prompts: Mapping[int, list[Prompt]]
    memories: Memories = field(default_factory=Memories)

    @property
    def start(self) -> int:
        return min(self.prompts)


class Sam2Segmenter:
    """SAM 2.1 by the package `sam2`'s networks.

    Memory does not grow with the video: frames are fetched as they are needed, and of frames passed only what the
    network can look back at is kept (the features of 6, pointers of 15, prompted frames for ever). Frames before
    an object's first prompt are tracked backward from it, as by `propagate_in_video(reverse=True)` after forward,
    and wait on disk for their turn.

    Objects are tracked independently, as by one predictor each; the subject is their union.

    Args:
        checkpoint: an official `sam2.1_hiera_*.pt`.
        model: tiny, small, base_plus or large.
        device: auto, cpu, cuda or cuda:N.
        precision: "half" is bfloat16 autocast (the default on CUDA, as upstream advises), "full" is float32.
        hole_area: fill holes of at most so many cells of the 256x256 mask grid. SAM 2's predictor does with 8 where
            its CUDA extension was compiled, and leaves holes where not; 0 leaves them.
        batch: frames encoded at once on CUDA.
        graphs: record the networks as CUDA graphs (default: on CUDA).
        splits: parts that memory attention is cut into on CUDA, see `attention.MemoryReader`.
        image_size: what the network sees; other than 1024 is for tests.

    Raises:
        InputError: no such model, a checkpoint that is missing or wrong, or no such device.
    """

    name: str

    def __init__(
        self,
        checkpoint: Path | str,
        model: str = "large",
        device: str = "auto",
        *,
        precision: Literal["auto", "half", "full"] = "auto",
        hole_area: int = 0,
        batch: int | None = None,
        graphs: bool | None = None,
        splits: int = 4,
        image_size: int = networks.IMAGE_SIZE,
    ) -> None:
        self.name = f"sam2.1_hiera_{model}"
        self.device = pick_device(device)
        cuda = self.device.type == "cuda"
        self._half = torch.bfloat16 if precision == "half" or (precision == "auto" and cuda) else None
        self._hole_area = hole_area
        self._batch = (batch or BATCH) if cuda else 1
        self._graphs = cuda if graphs is None else graphs and cuda
        self._splits = splits
        self.network = networks.load(model, Path(checkpoint), self.device, image_size)
        if self._half is not None:
            networks.halve(self.network)

    def segment(
        self, frames: Iterable[Frame], prompts: Sequence[Prompt], *, progress: Progress | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """One matte per frame, see `Segmenter.segment`. `matte > 0.5` is SAM 2's own mask.

        Frames are read once from any iterable where all prompts are on the first frame; otherwise they are spooled
        to disk unless they can be read by number.

        Raises:
            InputError: no prompt, or one outside of the video or the picture.
        """
        if not prompts:
            raise InputError("SAM 2.1 needs to be told the subject: give a box, points or a mask")
        with ExitStack() as stack:
            early = all(prompt.frame == 0 for prompt in prompts)
            if early and not hasattr(frames, "__getitem__"):
                source = iter(frames)
                first = list(itertools.islice(source, PEEK))
                known: Frames = first
                ordered: Iterable[tuple[int, Frame]] = enumerate(itertools.chain(first, source))
                count = len(first)
            else:
                known = stack.enter_context(spooled(frames))
                count = len(known)
                ordered = in_order(known, range(count))
            if count == 0:
                raise InputError("the video has no frames")
            height, width = known[0].shape[:2]
            for prompt in prompts:
                prompt.check(count, width, height)
            run = _Run(self.network, height, width, count, self._half, self._hole_area, self._batch, self._graphs,
                       self._splits)  # fmt: skip
            for done, matte in enumerate(run.mattes(known, ordered, _objects(prompts)), start=1):
                yield matte
                if progress is not None:
                    progress(done)


class _Run:
    """One video through the networks."""

    def __init__(
        self,
        net: networks.SAM2Base,
        height: int,
        width: int,
        count: int,
        half: torch.dtype | None,
        hole_area: int,
        batch: int,
        graphs: bool,
        splits: int,
    ) -> None:
        self._net, self._height, self._width, self._count = net, height, width, count
        self._hole_area = hole_area
        self._device = net.device
        self._half = half
        self._options = {"graphs": graphs, "splits": splits, "hole_area": hole_area}
        self._ahead = 2 * batch if self._device.type == "cuda" else 0
        with torch.inference_mode():
            self._encoder = Encoder(net, height, width, batch=batch, graphs=graphs, half=half)

    def mattes(
        self, known: Frames, ordered: Iterable[tuple[int, Frame]], objects: list[_Object]
    ) -> Iterator[NDArray[np.float32]]:
        # The modes are entered anew for every step: a generator must not leave them on in its caller.
        with torch.inference_mode(), self._autocast():
            tracker = self._prompted(known, objects)
            late = [o for o in objects if o.start > 0]
            for obj in late:
                self._look_forward(tracker, known, obj)
        with _LogitSpool(late) as spool:
            if late:
                with torch.inference_mode(), self._autocast():
                    self._track_back(tracker, known, late, spool)
            waiting: deque[_Download] = deque()
            for numbered in self._encoded(ordered):
                with torch.inference_mode(), self._autocast():
                    waiting.extend(self._forward(tracker, t, features, objects, spool) for t, features in numbered)
                while len(waiting) > self._ahead:
                    yield waiting.popleft().take()
            while waiting:
                yield waiting.popleft().take()

    def _encoded(self, frames: Iterable[tuple[int, Frame]]) -> Iterator[list[tuple[int, Features]]]:
        batches = self._encoder.run(frames)
        try:
            while True:
                with torch.inference_mode():
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch
        finally:
            batches.close()  # type: ignore[attr-defined]

    def _autocast(self) -> torch.autocast:
        # Weights are stored as halves already, so there is nothing to cache (and a graph must not hold the cache).
        return torch.autocast(self._device.type, dtype=self._half, enabled=self._half is not None, cache_enabled=False)

    def _prompted(self, known: Frames, objects: list[_Object]) -> Tracker:
        """Segments every prompted frame."""
        tracker: Tracker | None = None
        for t in sorted({t for obj in objects for t in obj.prompts}):
            features, position = self._encoder.one(known[t])
            if tracker is None:
                tracker = Tracker(self._net, position, self._count, **self._options)  # type: ignore[arg-type]
            for obj in objects:
                if t in obj.prompts:
                    points, mask = self._inputs(obj.prompts[t])
                    obj.memories.prompted[t] = tracker.prompt(features, points, mask)
        assert tracker is not None
        for obj in objects:
            # In the order they were given, as upstream's dictionaries are: sums of many terms depend on it.
            obj.memories.prompted = {t: obj.memories.prompted[t] for t in obj.prompts}
        return tracker

    def _look_forward(self, tracker: Tracker, known: Frames, obj: _Object) -> None:
        """Tracks the few frames after the first prompt that tracking backward will look at."""
        frames = range(obj.start + 1, min(obj.start + tracker.pointer_reach + 1, self._count))
        for batch in self._encoder.run(in_order(known, frames)):
            for t, features in batch:
                if t not in obj.prompts:
                    obj.memories.keep(t, tracker.track(features, obj.memories, t), tracker.pointer_reach)

    def _track_back(
        self,
        tracker: Tracker,
        known: Frames,
        late: list[_Object],
        spool: _LogitSpool,
    ) -> None:
        """From the last of the first prompts to frame 0, each object joining at its own; then forgets the way."""
        frames = range(max(obj.start for obj in late) - 1, -1, -1)
        for batch in self._encoder.run(in_order(known, frames)):
            for t, features in batch:
                for number, obj in enumerate(late):
                    if t < obj.start:
                        seen = tracker.track(features, obj.memories, t, backward=True)
                        obj.memories.keep(t, seen, tracker.pointer_reach)
                        assert seen.logits is not None
                        spool.write(number, t, seen.logits)
        for obj in late:
            obj.memories.passed.clear()

    def _forward(
        self, tracker: Tracker, t: int, features: Features, objects: list[_Object], spool: _LogitSpool
    ) -> _Download:
        logits = []
        for obj in objects:
            if t < obj.start:
                seen_logits = spool.read(obj, t).to(self._device)
            elif t in obj.prompts:
                kept = obj.memories.prompted[t].logits
                assert kept is not None
                seen_logits = kept
            else:
                seen = tracker.track(features, obj.memories, t)
                obj.memories.keep(t, seen._replace(logits=None), tracker.pointer_reach)
                assert seen.logits is not None
                seen_logits = seen.logits
            logits.append(seen_logits)
        filled = fill_holes(torch.cat(logits), self._hole_area)
        with torch.autocast(self._device.type, enabled=False):
            return _Download(soft_matte(filled, self._height, self._width))

    def _inputs(self, prompts: list[Prompt]) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
        """The prompts of one object on one frame as the network takes them."""
        size = self._net.image_size
        if prompts[0].mask is not None:
            mask = torch.from_numpy(prompts[0].load_mask(self._width, self._height))[None, None].float()
            mask = mask.to(self._device)
            if mask.shape[2:] != (size, size):
                mask = F.interpolate(mask, (size, size), mode="bilinear", align_corners=False, antialias=True)
                mask = (mask >= 0.5).float()
            return None, mask
        coordinates: list[tuple[float, float]] = []
        labels: list[int] = []
        for prompt in prompts:
            if prompt.box is not None:
                x0, y0, x1, y1 = prompt.box
                coordinates += [(max(x0, 0), max(y0, 0)), (min(x1, self._width), min(y1, self._height))]
                labels += [2, 3]
        for prompt in prompts:
            coordinates += prompt.points or ()
            labels += prompt.point_labels
        points = torch.tensor(coordinates, dtype=torch.float32)[None]
        points = points / torch.tensor([self._width, self._height], dtype=torch.float32) * size
        return (points.to(self._device), torch.tensor([labels], dtype=torch.int32, device=self._device)), None


def _objects(prompts: Sequence[Prompt]) -> list[_Object]:
    """Objects with their prompts by frame.

    Raises:
        InputError: one object has a mask and something else, or two boxes, on one frame.
    """
    objects = []
    for number, group in by_object(prompts).items():
        frames: dict[int, list[Prompt]] = {}
        for prompt in group:
            frames.setdefault(prompt.frame, []).append(prompt)
        for frame, together in frames.items():
            if len(together) > 1 and any(p.mask is not None for p in together):
                raise InputError(f"object {number} has a mask and more on frame {frame}; give the mask alone")
            if sum(p.box is not None for p in together) > 1:
                raise InputError(f"object {number} has two boxes on frame {frame}; give one, or two objects")
        objects.append(_Object(frames))
    return objects


class _LogitSpool:
    """Logits of the frames before each object's first prompt, on disk until their turn."""

    def __init__(self, objects: list[_Object]) -> None:
        self._objects = objects
        self._files: list[IO[bytes]] = []
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> _LogitSpool:
        self._files = [tempfile.TemporaryFile(prefix="bokeh_sam2_") for _ in self._objects]  # noqa: SIM115
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files:
            file.close()

    def write(self, number: int, frame: int, logits: Tensor) -> None:
        data = logits.cpu().numpy()
        self._shape = data.shape
        self._files[number].seek(frame * data.nbytes)
        self._files[number].write(data.data)

    def read(self, obj: _Object, frame: int) -> Tensor:
        data = np.empty(self._shape, np.float32)
        file = self._files[next(i for i, o in enumerate(self._objects) if o is obj)]
        file.seek(frame * data.nbytes)
        file.readinto(data.data)  # type: ignore[attr-defined]
        return torch.from_numpy(data)


class _Download:
    """A matte on its way from the device."""

    def __init__(self, matte: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        if matte.is_cuda:
            self._matte = torch.empty(matte.shape, dtype=matte.dtype, pin_memory=True)
            self._matte.copy_(matte, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()
        else:
            self._matte = matte

    def take(self) -> NDArray[np.float32]:
        if self._done is None:
            return self._matte.numpy()
        self._done.synchronize()
        return self._matte.numpy().copy()  # page-locked memory goes back to its pool
