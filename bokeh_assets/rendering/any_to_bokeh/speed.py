"""Compiled blocks and recorded graphs: the same kernels with less between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bokeh_assets.devices import stream_for
from bokeh_assets.rendering.any_to_bokeh.blocks import SpaceTimeResidual, SpatialResidual
from bokeh_assets.rendering.any_to_bokeh.fuser import SpaceTimeTransformer


def compile_blocks(module: nn.Module, **options: Any) -> None:
    """Compiles transformers and each half of the residual blocks in place; those of one shape share the code."""
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 64)
    options = {"fullgraph": True, "dynamic": False} | options
    for sub in module.modules():
        if isinstance(sub, (SpatialResidual, SpaceTimeTransformer)):
            sub.compile(**options)
        elif isinstance(sub, SpaceTimeResidual):
            sub.over_time = torch.compile(sub.over_time, **options)  # type: ignore[method-assign]


class Graphed:
    """Records a function's CUDA kernels once for each shape of its arguments, and from then on replays them.

    Args:
        function: of CUDA tensors to a CUDA tensor; it may neither wait for the host nor depend on values.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self._recorded: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    def __call__(self, *arguments: Tensor) -> Tensor:
        key = tuple(a.shape for a in arguments)
        if key not in self._recorded:
            self._recorded[key] = self._record(arguments)
        graph, inputs, output = self._recorded[key]
        for held, given in zip(inputs, arguments, strict=True):
            held.copy_(given)
        graph.replay()
        return output.clone()

    def _record(self, arguments: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        inputs = [a.clone() for a in arguments]
        aside = stream_for("any_to_bokeh recording", inputs[0].device)
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), torch.no_grad():
            for _ in range(2):  # compiles, and lets libraries choose their kernels
                self.function(*inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=aside), torch.no_grad():
            output = self.function(*inputs)
        return graph, inputs, output
