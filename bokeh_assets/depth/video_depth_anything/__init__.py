"""Video-Depth-Anything: temporally stable depth of a video, from the official checkpoints.

Our own implementation of the model of Chen et al., "Video Depth Anything: Consistent Depth Estimation for
Super-Long Videos", CVPR 2025 (arXiv:2501.12375): a DINOv2 encoder and a DPT head with temporal attention over
windows of 32 frames.

    encoder.py, motion.py, head.py, model.py   the network, with exactly the official state-dict keys
    loading.py                                 a checkpoint file -> the model
    preprocess.py                              a frame -> the network's input
    windows.py, stitching.py                   32-frame windows, and joining their maps into one video
    inference.py                               `infer_video_depth`: frames in, raw maps out, streaming
    prefetch.py, runner.py                     reading ahead; batches, precision, GPU memory, transfers
    upsampling.py                              maps of the network's size -> maps whose edges follow the picture
    estimator.py                               `VideoDepthAnythingEstimator`: the engine behind `depth_maps`

The names below are imported on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "VideoDepthAnything": "model",
    "load_video_depth_anything": "loading",
    "infer_video_depth": "inference",
    "VideoDepthAnythingEstimator": "estimator",
    "state_shapes": "model",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
