"""SAM 2's own video predictor on tensors, as the reference, and seeded weights for both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sam2 import sam2_video_predictor
from sam2.build_sam import build_sam2_video_predictor

from bokeh_assets.segmentation.prompts import Prompt, by_object
from bokeh_assets.segmentation.sam2 import MODELS
from bokeh_assets.segmentation.sam2.model import IMAGE_SIZE, build

Frame = NDArray[np.uint8]


def seeded_checkpoint(path: Path, model: str, seed: int = 0) -> Path:
    """Writes random weights that make a lively network: nothing is zero, logits spread, objects are there."""
    generator = torch.Generator().manual_seed(seed)
    state = build(model, 256).state_dict()
    for key, value in state.items():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim >= 2 and "embed" not in key and "token" not in key:
            fan_in = value[0].numel()
            state[key] = noise * (1.0 / fan_in) ** 0.5
        elif "norm" in key and key.endswith("weight"):
            state[key] = 1 + 0.1 * noise
        elif key.endswith("gamma"):
            state[key] = 0.3 + 0.1 * noise
        elif value.ndim >= 2:
            state[key] = 0.3 * noise
        else:
            state[key] = 0.1 * noise
    # The last layers: an object that is there, masks with room around zero.
    for key in ("sam_mask_decoder.pred_obj_score_head.layers.2.bias",):
        state[key] = torch.full_like(state[key], 2.0)
    for i in range(4):
        key = f"sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.2.weight"
        state[key] = state[key] * 6
    torch.save({"model": state}, path)
    return path


def moving_square(count: int, height: int = 72, width: int = 128, seed: int = 0) -> list[Frame]:
    """A bright textured square that crosses a textured background."""
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 120, (height, width, 3)).astype(np.uint8)
    texture = rng.integers(130, 255, (24, 24, 3)).astype(np.uint8)
    frames = []
    for i in range(count):
        frame = background.copy()
        x, y = 20 + 3 * i % (width - 50), 20 + i % 20
        frame[y : y + 24, x : x + 24] = texture
        frames.append(frame)
    return frames


def network_input(frames: Sequence[Frame], size: int) -> torch.Tensor:
    """What upstream's frame loader makes of pictures, without the JPEG in between."""
    pictures = [np.array(Image.fromarray(f).resize((size, size))) / 255.0 for f in frames]
    images = torch.stack([torch.from_numpy(p).permute(2, 0, 1).float() for p in pictures])
    images -= torch.tensor((0.485, 0.456, 0.406))[:, None, None]
    images /= torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    return images


class Upstream:
    """The predictor of the package, fed with pictures instead of a folder of JPEGs."""

    def __init__(self, checkpoint: Path, model: str, image_size: int = IMAGE_SIZE, device: str = "cpu") -> None:
        grid = image_size // 16
        self._size = image_size
        self.predictor = build_sam2_video_predictor(
            f"configs/sam2.1/sam2.1_hiera_{MODELS[model]}.yaml",
            str(checkpoint),
            device=device,
            hydra_overrides_extra=[
                f"++model.image_size={image_size}",
                f"++model.memory_attention.layer.self_attention.feat_sizes=[{grid},{grid}]",
                f"++model.memory_attention.layer.cross_attention.feat_sizes=[{grid},{grid}]",
            ],
        )

    def masks(self, frames: Sequence[Frame], prompts: Sequence[Prompt]) -> NDArray[np.bool_]:
        """`logits > 0` of every frame, forward from the first prompt and then backward, the union of objects.

        Each object in a session of its own, since upstream starts all of a session's objects at one frame.
        """
        height, width = frames[0].shape[:2]
        result = np.zeros((len(frames), height, width), bool)
        original = sam2_video_predictor.load_video_frames
        images = network_input(frames, self._size)
        sam2_video_predictor.load_video_frames = lambda **_: (images, height, width)
        try:
            for number, group in by_object(prompts).items():
                state = self.predictor.init_state("")
                for prompt in group:
                    if prompt.mask is not None:
                        mask = prompt.load_mask(width, height)
                        self.predictor.add_new_mask(state, prompt.frame, number, mask)
                    else:
                        self.predictor.add_new_points_or_box(
                            state,
                            prompt.frame,
                            number,
                            points=np.array(prompt.points, np.float32) if prompt.points else None,
                            labels=np.array(prompt.point_labels, np.int32) if prompt.points else None,
                            box=np.array(prompt.box, np.float32) if prompt.box else None,
                        )
                passes = (False, True) if min(p.frame for p in group) > 0 else (False,)
                for reverse in passes:
                    for t, _, logits in self.predictor.propagate_in_video(state, reverse=reverse):
                        result[t] |= (logits[0, 0] > 0).cpu().numpy()
        finally:
            sam2_video_predictor.load_video_frames = original
        return result
