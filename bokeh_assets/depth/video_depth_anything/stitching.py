"""Joining the maps of overlapping windows into one video, in order and with a bounded memory.

Every window after the first sees some frames that earlier windows have mapped. A scale and a shift fitted on
these bring it to the same footing; eight more frames that both windows cover are blended.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bokeh_assets.depth.video_depth_anything.windows import BLEND, CONTEXT, FIRST_BLENDED, WINDOW

Fit = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(maps, reference), both (K, H, W) -> scale and shift, scalars on the maps' device."""


def least_squares(maps: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift with the least sum of (scale * maps + shift - reference)^2; (1, 0) if `maps` is constant.

    The reference implementation sums in float32; here it is float64, which differs from it by rounding only.
    """
    p, r = maps.double().flatten(), reference.double().flatten()
    centred = p - p.mean()
    spread = (centred * centred).sum()
    # Relative to the size of the numbers, as a constant map leaves nothing but rounding.
    flat = spread <= 1e-12 * (p * p).sum()
    scale = torch.where(flat, torch.ones_like(spread), (centred * r).sum() / torch.where(flat, 1.0, spread))
    shift = torch.where(flat, torch.zeros_like(spread), r.mean() - scale * p.mean())
    return scale.float(), shift.float()


def robust_fit(maps: Tensor, reference: Tensor, rounds: int = 6) -> tuple[Tensor, Tensor]:
    """Scale and shift that a minority of bad pixels or frames cannot spoil, and that never turn depth around.

    Iteratively reweighted least squares in float64 with Cauchy weights (Holland and Welsch, 1977), on every
    fourth pixel of large maps. The first map (the shot's anchor) counts as much as all others together, which
    holds back drift over many windows. Where the fit says nothing sensible (scale outside 0.1 to 10), the ratio
    of the medians takes its place, held within the same bounds.
    """
    stride = 4 if maps.shape[-1] * maps.shape[-2] > 128 * 128 else 1
    p = maps[:, ::stride, ::stride].double().flatten(1)
    r = reference[:, ::stride, ::stride].double().flatten(1)
    prior = torch.ones_like(p)
    if len(p) > 1:
        prior[0] = len(p) - 1
    weight = prior
    one = torch.ones((), dtype=torch.float64, device=p.device)
    for _ in range(rounds):
        total = weight.sum()
        mean_p, mean_r = (weight * p).sum() / total, (weight * r).sum() / total
        spread = (weight * (p - mean_p) ** 2).sum()
        scale = (weight * (p - mean_p) * (r - mean_r)).sum() / torch.where(spread > 0, spread, one)
        shift = mean_r - scale * mean_p
        residual = (scale * p + shift - r).abs()
        width = 2.385 * 1.4826 * residual.median() + 1e-9 * r.abs().max() + 1e-30
        weight = prior / (1 + (residual / width) ** 2)
    median_p, median_r = p.median(), r.median()
    ratio = torch.where(median_p > 0, median_r / torch.where(median_p > 0, median_p, one), one).clamp(0.1, 10.0)
    sane = (scale > 0.1) & (scale < 10.0) & torch.isfinite(shift)
    scale = torch.where(sane, scale, ratio)
    shift = torch.where(sane, shift, median_r - ratio * median_p)
    return scale.float(), shift.float()


def identity_fit(maps: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """For metric models: metres need no scale."""
    return torch.ones((), device=maps.device), torch.zeros((), device=maps.device)


def blend(old: Tensor, new: Tensor) -> Tensor:
    """Cross-fade of (K, H, W), K up to 8: the first map is all old, the eighth all new."""
    weight = torch.linspace(0, 1, BLEND, device=old.device)[: len(old)].view(-1, 1, 1)
    return old * (1 - weight) + new * weight


class Stitcher:
    """Takes the maps of one window after another, gives those that are final.

    Args:
        fit: how a window is brought to the footing of the last.
        keys: the slots of the first window whose frames become slots 0.. of the second, and on which it is
            fitted (all of them or the leading ones).

    Attributes:
        last_fit: scale and shift of the newest window, None before the second.
    """

    def __init__(self, fit: Fit, keys: tuple[int, ...]) -> None:
        self._fit = fit
        self._keys = keys
        self._reference: Tensor | None = None
        self._held: Tensor | None = None
        self.last_fit: tuple[Tensor, Tensor] | None = None

    def add(self, maps: Tensor, last: bool) -> Tensor:
        """The maps that are final after this window.

        Args:
            maps: float32 (K, H, W), the window's slots 0..K-1; K is 32, or less where the video ends: at least 25
                if another window follows.
            last: whether no window follows, so that nothing is held back.
        """
        if self._reference is None:
            fresh = maps
        else:
            assert self._held is not None
            scale, shift = self.last_fit = self._fit(maps[: len(self._reference)], self._reference)
            aligned = (maps * scale + shift).clamp_(min=0)
            new = aligned[FIRST_BLENDED:CONTEXT]
            fresh = torch.cat([blend(self._held[: len(new)], new), aligned[CONTEXT:]])
            maps = aligned
        if last:
            return fresh
        slots = list(self._keys)
        anchor = maps[slots[0]] if self._reference is None else self._reference[0]
        self._reference = torch.stack([anchor, *(maps[slot] for slot in slots[1:])])
        # Copied, or the view would keep the whole window alive.
        held = len(maps) - (WINDOW - BLEND)
        self._held = fresh[-held:].clone()
        return fresh[:-held]
