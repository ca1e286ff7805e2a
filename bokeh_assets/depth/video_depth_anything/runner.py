"""The network on windows: batches, precision, the GPU's memory and transfers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bokeh_assets.depth.video_depth_anything.head import Pyramid
from bokeh_assets.depth.video_depth_anything.model import VideoDepthAnything
from bokeh_assets.depth.video_depth_anything.preprocess import prepare, prepare_on_device
from bokeh_assets.depth.video_depth_anything.windows import Window
from bokeh_assets.errors import InputError

Picture = NDArray[np.uint8]
Note = Callable[[str], None]
Result = TypeVar("Result")

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Portions in work at a time: large enough to fill a GPU, small enough for 4 GB with vits and 12 GB with vitl.
ENCODED_AT_ONCE = 22
FINISHED_AT_ONCE = 8
TOKENS_AT_ONCE = 32768


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype for a precision's name on a device; "auto" is fp16 on CUDA and fp32 elsewhere.

    Raises:
        InputError: no such precision, or fp16 on a CPU, which has no fast half precision.
    """
    if precision == "auto":
        precision = "fp16" if device.type == "cuda" else "fp32"
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision!r}; there are auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 needs a GPU; use fp32 or bf16 on the CPU")
    return PRECISIONS[precision]


class WindowRunner:
    """Runs the network on windows; every frame goes through the encoder once.

    Where memory runs out, the portions in work at a time are halved, for good, and the work is done again.
    Results do not depend on the portions.

    The network is not compiled: on an H200 that takes 14 to 21 s and then saves 0.2 (vits) to 0.4 ms (vitl) per
    frame, so it would pay after some 50,000 frames. Nor is a kernel of attention chosen: PyTorch's own choice was
    never slower than any forced one (see `benchmarks/vda_gpu.py --profile`).

    Args:
        model: the network, on its device; a converted copy is made if its weights are not of `dtype`.
        dtype: of the weights and of the computation.
        note: is told, in one line, when memory ran out.
    """

    def __init__(self, model: VideoDepthAnything, dtype: torch.dtype, note: Note) -> None:
        if model.dtype != dtype:
            model = copy.deepcopy(model).to(dtype)
        if model.device.type == "cuda":
            model = model.to(memory_format=torch.channels_last)  # the order in memory that the matrix units want
        self.model = model
        self._note = note
        self._share = 1  # portions are 1/share of the usual ones
        self._staging = torch.empty(0)
        self._copied: torch.cuda.Event | None = None

    @torch.inference_mode()
    def window(self, window: Window, taken_over: Pyramid | None, size: tuple[int, int]) -> Pyramid:
        """Features of all slots of a window: those taken over, the fresh ones, the padding."""
        parts = [] if taken_over is None else [taken_over]
        frames = self._staged(window.fresh)
        done = 0
        while done < len(window.fresh):
            part = self._retried(partial(self._encode, frames, done, size))
            parts.append(part)
            done += part.frames
        if isinstance(frames, Tensor):
            self._copied = torch.cuda.Event()
            self._copied.record()
        if window.padding:
            last = parts[-1]
            parts.append(last.select([last.frames - 1] * window.padding))
        return Pyramid.join(parts)

    @torch.inference_mode()
    def depth(self, pyramid: Pyramid, wanted: int) -> Tensor:
        """Maps of the slots 0..wanted-1: float32 (wanted, rows, columns)."""
        return self._retried(
            lambda share: self.model.depth(
                pyramid, range(wanted), max(1, FINISHED_AT_ONCE // share), max(1, TOKENS_AT_ONCE // share)
            )
        )

    def _encode(self, frames: list[Picture] | Tensor, at: int, size: tuple[int, int], share: int) -> Pyramid:
        part = frames[at : at + max(1, ENCODED_AT_ONCE // share)]
        if isinstance(part, Tensor):
            pictures = prepare_on_device(part.to(self.model.device, non_blocking=True), size)
        else:
            pictures = torch.from_numpy(np.stack([prepare(frame, size) for frame in part])).to(self.model.device)
        return self.model.pyramid(pictures)

    def _staged(self, frames: list[Picture]) -> list[Picture] | Tensor:
        """On CUDA, the frames in page-locked memory, from which copies run beside the computation."""
        if self.model.device.type != "cuda" or not frames:
            return frames
        if self._copied is not None:
            self._copied.synchronize()  # the last window's copies have left the buffer
        if self._staging.shape[1:] != frames[0].shape or len(self._staging) < len(frames):
            self._staging = torch.empty((len(frames), *frames[0].shape), dtype=torch.uint8, pin_memory=True)
        for slot, frame in enumerate(frames):
            self._staging[slot].numpy()[...] = frame
        return self._staging[: len(frames)]

    def _retried(self, work: Callable[[int], Result]) -> Result:
        while True:
            try:
                with true_float32(self.model):
                    return work(self._share)
            except torch.OutOfMemoryError:
                if self._share >= TOKENS_AT_ONCE:
                    raise InputError(
                        f"the memory of {self.model.device} does not hold one frame at a time; use a smaller "
                        "input_size, the encoder vits, or the device cpu"
                    ) from None
            # Outside of the handler: until it ends, the error's traceback holds on to what filled the memory.
            self._share *= 2
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            self._note(f"memory of {self.model.device} ran out: going on with 1/{self._share} of the usual batches")


def true_float32(model: VideoDepthAnything) -> AbstractContextManager[object]:
    """Keeps cuDNN from rounding the factors of float32 convolutions to 10 bits (TF32), which it does unasked."""
    if model.device.type != "cuda" or model.dtype != torch.float32:
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False)


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """A copy on a device; to a GPU it is on its way when this returns, through page-locked memory."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(batches: Iterable[Tensor]) -> Iterator[NDArray[Any]]:
    """Maps one by one as arrays of their own, from batches of one dtype.

    From a GPU they are copied beside the computation: a batch is handed out once the next one is under way.
    """
    waiting: tuple[Tensor, torch.cuda.Event] | None = None
    buffers = [torch.empty(0), torch.empty(0)]
    for batch in batches:
        if batch.device.type != "cuda":
            yield from (each.numpy() for each in batch.unbind())
            continue
        if buffers[0].numel() < batch.numel():
            buffers[0] = torch.empty(batch.numel(), dtype=batch.dtype, pin_memory=True)
        target = buffers[0][: batch.numel()].view(batch.shape)
        target.copy_(batch, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        buffers.reverse()
        if waiting is not None:
            yield from _arrived(*waiting)
        waiting = target, event
    if waiting is not None:
        yield from _arrived(*waiting)


def _arrived(maps: Tensor, event: torch.cuda.Event) -> Iterator[NDArray[Any]]:
    event.synchronize()
    for each in maps:
        yield each.numpy().copy()
