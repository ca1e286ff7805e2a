"""One object from frame to frame: what the network remembers of it, and how it looks at that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor

from bokeh_assets.devices import stream_for
from bokeh_assets.segmentation.sam2.attention import MemoryReader, cuts, read_plainly
from bokeh_assets.segmentation.sam2.mattes import fill_holes


class Features(NamedTuple):
    """Image features of one frame: (1, 32, 4g, 4g), (1, 64, 2g, 2g) and (1, 256, g, g) for a grid of side g."""

    fine: Tensor
    middle: Tensor
    top: Tensor


class Seen(NamedTuple):
    """What is kept of one frame of one object."""

    logits: Tensor | None
    """float32 (1, 1, 4g, 4g); kept where the frame was prompted."""
    memory: Tensor
    """bfloat16 (1, g², 64), as in the package's predictor."""
    pointer: Tensor
    """(1, 256)."""


@dataclass
class Memories:
    """What one object's tracking looks back at, and no more: constant memory however long the video.

    Attributes:
        prompted: by frame, kept for ever.
        passed: by frame, the last of those tracked in the present direction.
    """

    prompted: dict[int, Seen] = field(default_factory=dict)
    passed: dict[int, Seen] = field(default_factory=dict)

    def keep(self, frame: int, seen: Seen, reach: int) -> None:
        """Adds a tracked frame and drops those further than `reach` frames from it."""
        self.passed[frame] = seen
        for other in [t for t in self.passed if abs(t - frame) > reach]:
            del self.passed[other]


class Tracker:
    """SAM 2's step for single objects on features computed elsewhere.

    Args:
        network: the model, on its device.
        position: (1, 256, g, g), the image encoder's positions of the top features.
        frame_count: of the video; only matters below `max_obj_ptrs_in_encoder`.
        graphs: record the step as a CUDA graph; in half precision, where memories of any number fit one.
        splits: see `MemoryReader`.
        hole_area: holes of prompted frames to fill before they are remembered, see `fill_holes`.
    """

    def __init__(
        self,
        network: SAM2Base,
        position: Tensor,
        frame_count: int,
        *,
        graphs: bool = False,
        splits: int = 4,
        hole_area: int = 0,
    ) -> None:
        self._net = network
        self._grid = network.image_size // network.backbone_stride
        self._position = position.flatten(2).transpose(1, 2)
        self._read: Callable[..., Tensor] = partial(read_plainly, network.memory_attention)
        if position.is_cuda:
            self._read = MemoryReader(network.memory_attention, self._grid, splits)
        self._splits = splits
        self.pointer_reach = min(frame_count, network.max_obj_ptrs_in_encoder) - 1
        self._frames_back = network.num_maskmem - 1
        self._frame_count = frame_count
        self._graphs = graphs
        self._hole_area = hole_area
        self._recorded: dict[int, _Recorded] = {}
        device = position.device
        # Without a prompt the decoder gets one empty point; the same at every frame.
        nowhere = torch.zeros(1, 1, 2, device=device), -torch.ones(1, 1, dtype=torch.int32, device=device)
        self._sparse, dense = network.sam_prompt_encoder(points=nowhere, boxes=None, masks=None)
        self._dense = dense.contiguous()
        self._image_place = network.sam_prompt_encoder.get_dense_pe()
        sample = torch.zeros(1, network.mem_dim, self._grid, self._grid, device=device)
        place = network.memory_encoder.position_encoding(sample).flatten(2).transpose(1, 2)
        # By age: the prompted frames share the last entry, the frame just before has the first.
        self._memory_place = place + network.maskmem_tpos_enc.view(-1, 1, network.mem_dim)

    def prompt(
        self, features: Features, points: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None
    ) -> Seen:
        """Segments a prompted frame, without looking at any other.

        Args:
            points: (1, P, 2) in network pixels and (1, P) labels, a box as its corners labelled 2 and 3, first.
            mask: float32 (1, 1, S, S) of 0 and 1, S the network's image size.
        """
        maps = list(features)
        out = self._net.track_step(
            frame_idx=0,
            is_init_cond_frame=True,
            current_vision_feats=[x.flatten(2).permute(2, 0, 1) for x in maps],
            current_vision_pos_embeds=[],
            feat_sizes=[x.shape[-2:] for x in maps],
            point_inputs=None if points is None else {"point_coords": points[0], "point_labels": points[1]},
            mask_inputs=mask,
            output_dict={},
            num_frames=self._frame_count,
            run_mem_encoder=False,
        )
        logits = fill_holes(out["pred_masks"].float(), self._hole_area)
        memory = self._remember(features.top, logits, out["object_score_logits"] > 0, binary=True)
        return Seen(logits, memory, out["obj_ptr"])

    def track(self, features: Features, memories: Memories, frame: int, *, backward: bool = False) -> Seen:
        """Segments a frame by what is remembered, and remembers it in turn (`memories` is not changed)."""
        step = 1 if backward else -1
        places: list[int] = []
        remembered: list[Tensor] = []
        for seen in memories.prompted.values():
            remembered.append(seen.memory)
            places.append(self._frames_back)
        for back in range(self._frames_back, 0, -1):
            earlier = memories.passed.get(frame + step * back)
            if earlier is not None:
                remembered.append(earlier.memory)
                places.append(back - 1)
        pointers: list[Tensor] = []
        ages: list[float] = []
        for t, seen in memories.prompted.items():
            if (frame - t) * step <= 0:  # prompts still to come have no say here
                pointers.append(seen.pointer)
                ages.append(abs(frame - t))
        for back in range(1, self.pointer_reach + 1):
            earlier = memories.passed.get(frame + step * back)
            if earlier is not None:
                pointers.append(earlier.pointer)
                ages.append(back)
        if not (self._graphs and torch.is_autocast_enabled("cuda")):
            place = torch.cat([self._memory_place[i : i + 1] for i in places], dim=1)
            age = torch.tensor(ages, device=place.device)
            memory = torch.cat(remembered, dim=1)
            return Seen(*self._step(features, memory, place, torch.stack(pointers, dim=1), age))
        prompted = len(memories.prompted)
        if prompted not in self._recorded:
            room = prompted + self._frames_back, prompted + self.pointer_reach
            self._recorded[prompted] = _Recorded(self._step, features, remembered[0], pointers[0], *room, self._splits)
        return self._recorded[prompted](features, remembered, [self._memory_place[i] for i in places], pointers, ages)

    def _step(
        self,
        features: Features,
        memory: Tensor,
        place: Tensor,
        pointers: Tensor,
        ages: Tensor,
        parts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, new memory and new pointer; nothing here waits for the GPU, so that it can be recorded.

        Args:
            memory, place: (1, F·g², 64).
            pointers: (1, P, 256); ages: float32 (P,), frames to each.
            parts: what of pointers and memory counts, see `MemoryReader`.
        """
        net, grid = self._net, self._grid
        count, width = pointers.shape[1], net.mem_dim
        tokens = pointers.shape[2] // width  # a pointer is cut into tokens of the memories' width
        memory = torch.cat([pointers.reshape(1, count * tokens, width), memory.to(pointers.dtype)], dim=1)
        age_code = net.obj_ptr_tpos_proj(get_1d_sine_pe(ages / self.pointer_reach, dim=pointers.shape[2]))
        place = torch.cat([age_code.repeat_interleave(tokens, dim=0)[None].to(place.dtype), place], dim=1)
        top = features.top.flatten(2).transpose(1, 2)
        given = () if parts is None else (parts,)
        seen = self._read(top, self._position, memory, place, count * tokens, *given)
        seen = seen.transpose(1, 2).reshape(1, -1, grid, grid)

        several = net.multimask_output_in_sam and net.multimask_output_for_tracking and net.multimask_min_pt_num == 0
        masks, quality, outputs, score = net.sam_mask_decoder(
            image_embeddings=seen,
            image_pe=self._image_place,
            sparse_prompt_embeddings=self._sparse,
            dense_prompt_embeddings=self._dense,
            multimask_output=several,
            repeat_image=False,
            high_res_features=[features.fine, features.middle],
        )
        there = score > 0
        best = quality.argmax(dim=1)
        logits = masks.gather(1, best.view(1, 1, 1, 1).expand(1, 1, *masks.shape[2:])).float()
        logits = torch.where(there[:, :, None, None], logits, NO_OBJ_SCORE)
        if outputs.shape[1] > 1:
            outputs = outputs.gather(1, best.view(1, 1, 1).expand(1, 1, outputs.shape[2]))
        pointer = net.obj_ptr_proj(outputs[:, 0])
        present = there.float()
        pointer = present * pointer + (1 - present) * net.no_obj_ptr
        return logits, self._remember(features.top, logits, there, binary=False), pointer

    def _remember(self, top: Tensor, logits: Tensor, there: Tensor, *, binary: bool) -> Tensor:
        """The memory (1, g², 64) of a frame and the mask found on it."""
        net = self._net
        mask = F.interpolate(logits, (net.image_size, net.image_size), mode="bilinear", align_corners=False)
        mask = (mask > 0).float() if binary else torch.sigmoid(mask)
        mask = mask * net.sigmoid_scale_for_mem_enc + net.sigmoid_bias_for_mem_enc
        memory = net.memory_encoder(top, mask, skip_mask_sigmoid=True)["vision_features"]
        memory = memory + (1 - there.float())[..., None, None] * net.no_obj_embed_spatial[..., None, None]
        result: Tensor = memory.to(torch.bfloat16).flatten(2).transpose(1, 2)
        return result


class _Recorded:
    """The step as a CUDA graph, with the tensors it reads and writes.

    There is room for `frames` memories and `count` pointers; those there are lie side by side, pointers at the end
    of their room and memories at the start of theirs, and attention is told where they begin and end.
    """

    def __init__(
        self,
        step: Callable[..., tuple[Tensor, ...]],
        features: Features,
        memory: Tensor,
        pointer: Tensor,
        frames: int,
        count: int,
        splits: int,
    ) -> None:
        _, self._area, width = memory.shape
        device = memory.device
        self._features = Features(*(x.clone() for x in features))
        self._memory = torch.zeros(1, frames * self._area, width, dtype=memory.dtype, device=device)
        self._place = torch.zeros(1, frames * self._area, width, device=device)
        self._pointers = torch.zeros(1, count, pointer.shape[1], dtype=pointer.dtype, device=device)
        self._ages = torch.ones(count, device=device)
        self._head, self._tokens = count * (pointer.shape[1] // width), pointer.shape[1] // width
        self._splits = splits
        self._parts = cuts(0, self._head + frames * self._area, splits).to(device)
        self._known: dict[str, list[float]] = {}
        arguments = (self._features, self._memory, self._place, self._pointers, self._ages, self._parts)
        main = torch.cuda.current_stream()
        side = stream_for("sam2 tracking", device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            step(*arguments)
        main.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
            self._out = step(*arguments)

    def __call__(
        self,
        features: Features,
        remembered: list[Tensor],
        places: list[Tensor],
        pointers: list[Tensor],
        ages: list[float],
    ) -> Seen:
        frames, count = len(remembered) * self._area, len(pointers)
        room = self._pointers.shape[1]
        for held, new in zip(self._features, features, strict=True):
            held.copy_(new)
        torch.cat(remembered, dim=1, out=self._memory[:, :frames])
        torch.stack(pointers, dim=1, out=self._pointers[:, room - count :])
        if self._news("places", [float(x.data_ptr()) for x in places]):
            torch.cat(places, dim=0, out=self._place[0, :frames])
        for i, age in self._news("ages", [1.0] * (room - count) + ages):
            # In a long run only the prompts' ages change: one tiny fill each, no transfer.
            self._ages[i].fill_(age)
        used = cuts(self._head - count * self._tokens, self._head + frames, self._splits)
        for i, edge in self._news("parts", used.tolist()):
            self._parts[i].fill_(edge)
        self._graph.replay()
        logits, memory, pointer = (x.clone() for x in self._out)
        return Seen(logits, memory, pointer)

    def _news(self, what: str, values: list[float]) -> list[tuple[int, float]]:
        """Those of `values`, with their numbers, that are not as at the last call."""
        before = self._known.get(what, [])
        self._known[what] = values
        return [(i, x) for i, x in enumerate(values) if i >= len(before) or before[i] != x]
