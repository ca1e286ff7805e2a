"""Which code a GPU runs: the Triton kernels where Triton works, else the same in torch."""

from __future__ import annotations

import logging
from functools import lru_cache

import torch

log = logging.getLogger(__name__)


@lru_cache(maxsize=16)
def triton_works(device: torch.device) -> bool:
    """Whether Triton kernels can be compiled for the device and run there: tried once. It needs the package, a C
    compiler and a GPU that it knows."""
    if device.type != "cuda":
        return False
    try:
        from bokeh_assets.rendering.thin_lens.fill_cuda import widest_cuda

        with torch.cuda.device(device):
            picture = torch.zeros((2, 2), device=device)
            picture[0, 1] = 1
            return bool(widest_cuda(picture, 1).min() == 1)
    except Exception as problem:
        # Whatever it is that Triton lacks, torch can do without: several times slower, the same picture.
        log.warning("the lens runs in torch on %s, several times slower: Triton does not work (%s)", device, problem)
        return False


def path_of(device: torch.device) -> str:
    """What computes the pictures on a device: "numba", "triton" or "torch"."""
    if device.type == "cpu":
        return "numba"
    return "triton" if triton_works(device) else "torch"
