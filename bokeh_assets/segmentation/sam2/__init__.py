"""SAM 2.1 as a segmenter: any length of video in constant memory, prompts on any frame.

The networks come from the package `sam2`; what surrounds them (feeding frames, keeping memories, tracking in both
directions, mattes) is our own. Masks equal those of `sam2`'s own video predictor.

    model.py      the networks, built from the package's configurations and loaded strictly
    pictures.py   frames to network input, on the device
    encoder.py    image features ahead of time, in batches, on a stream of their own
    attention.py  a frame's features looking at memories
    tracker.py    one object's step from frame to frame, and what it remembers
    mattes.py     logits to soft mattes, small holes filled
    segmenter.py  the whole
"""

from bokeh_assets.segmentation.sam2.model import MODELS, state_shapes
from bokeh_assets.segmentation.sam2.segmenter import Sam2Segmenter

__all__ = ["MODELS", "Sam2Segmenter", "state_shapes"]
