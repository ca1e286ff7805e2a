"""Mixed pixels taken apart: how much of each is the near side, and what colour either side has there.

A pixel at an edge of depth is I = a F + (1 - a) B. Around it both sides are seen clean, which tells what F and B are
likely to be: a mean (of a plane fitted to the colours around) and a covariance each. For every coverage a of a row of
candidates the likeliest F and B that mix to I follow in closed form (Chuang et al., A Bayesian approach to digital
matting, 2001); candidates are then averaged by their likelihood, so that where colours do not tell no side is taken.
A second round also learns from what the first one found in mixed pixels: strands have no clean ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bokeh_assets.rendering.thin_lens.paths_cuda import triton_works
from bokeh_assets.rendering.thin_lens.unmix_cpu import unmix_cpu

ROUNDS = 2
WINDOW = 3  # pixels around a mixed one that are asked
SPREAD = 1.2  # their weight falls like a Gaussian of so many pixels
UNSURE = 0.03  # weight of a mixed pixel among clean ones before anything is known of it
RIDGE = 0.5  # squared pixels; holds the fitted plane level where few pixels carry it
VARIANCE = 0.5  # of the colours seen around, the share to expect at the pixel: near ones are more alike
FLOOR = 1e-4  # least variance of a colour (linear light squared)
OUTLINE = 0.7  # Gaussian, in pixels, that makes a first guess of coverage from the hard outline of depth
GUESS = 0.25  # standard deviation of that guess
MATTE = 0.3  # standard deviation of a coverage that the matte tells: masks are a pixel or two off
CANDIDATES = 10  # coverages tried, over 0..1 or the half that depth leaves
PURE = 4.5  # times as likely as any other is that the pixel is not mixed at all
CHUNK = 1 << 14  # pixels at a time


@dataclass(frozen=True)
class Mixed:
    """What n mixed pixels are made of.

    Attributes:
        alpha: coverage of the near side 0..1, (n,).
        front: its colour, linear light (3, n).
        front_place: its position on the axis, in planes, (n,).
        back: colour of the far side, (3, n).
        back_place: as `front_place`.
    """

    alpha: Tensor
    front: Tensor
    front_place: Tensor
    back: Tensor
    back_place: Tensor


def unmix(
    light: Tensor, place: Tensor, beside: Tensor, step: float, matte: Tensor | None = None, reference: bool = False
) -> Mixed:
    """Take apart the pixels marked in `beside`, in the order of `beside.nonzero()`.

    Args:
        light: linear light, (3, H, W).
        place: position on the axis in planes, (H, W).
        beside: which pixels may be mixtures, bool (H, W): at least one neighbour differs by more than `step`.
        step: planes between two things.
        matte: the subject's coverage 0..1, (H, W), or None.
        reference: the path of GPUs on the CPU too.
    """
    rows, columns = beside.nonzero(as_tuple=True)
    number = torch.full(place.shape, -1, dtype=torch.int32, device=place.device)
    number[rows, columns] = torch.arange(len(rows), dtype=torch.int32, device=place.device)
    # What is known of the mixed pixels themselves, (n, 10): of either side the colour, place and weight.
    none = torch.zeros(len(rows), 1, device=place.device)
    own, here = light[:, rows, columns].T, place[rows, columns][:, None]
    told = torch.cat([own, here, none + UNSURE, own, here, none], 1)
    for _ in range(ROUNDS):
        if place.device.type == "cpu" and not reference:
            subject = np.zeros((0, 0), np.float32) if matte is None else matte.contiguous().numpy()
            arguments: list[Any] = [t.contiguous().numpy() for t in (light, place, number, rows, columns, told)]
            arguments += [subject, step, WINDOW, SPREAD, RIDGE, VARIANCE, FLOOR, UNSURE]
            arguments += [OUTLINE, GUESS, MATTE, CANDIDATES, PURE]
            told = torch.from_numpy(unmix_cpu(*arguments))
        elif triton_works(place.device) and not reference:
            from bokeh_assets.rendering.thin_lens.unmix_cuda import unmix_cuda

            known = (step, WINDOW, SPREAD, RIDGE, VARIANCE, FLOOR, UNSURE, OUTLINE, GUESS, MATTE, CANDIDATES)
            told = unmix_cuda(light, place, number, rows, columns, told, matte, *known, float(np.log(PURE)))
        else:
            parts = zip(rows.split(CHUNK), columns.split(CHUNK), strict=True)
            told = torch.cat([_round(light, place, number, y, x, told, matte, step) for y, x in parts])
        alpha = told[:, 4].clone()
        # A side counts by the square of its share: what is divided by a small one is uncertain.
        told[:, 4], told[:, 9] = alpha**2, (1 - alpha) ** 2
    return Mixed(alpha, told[:, :3].T, told[:, 3], told[:, 5:8].T, told[:, 8])


def _around(place: Tensor, rows: Tensor, columns: Tensor, reach: int) -> tuple[Tensor, ...]:
    """Indices of the square around each pixel (n, m), whether they are in the picture, offsets (m,)."""
    line = torch.arange(-reach, reach + 1, device=place.device)
    down, across = (t.flatten() for t in torch.meshgrid(line, line, indexing="ij"))
    y, x = rows[:, None] + down, columns[:, None] + across
    inside = (y >= 0) & (y < place.shape[0]) & (x >= 0) & (x < place.shape[1])
    y, x = y.clamp(0, place.shape[0] - 1), x.clamp(0, place.shape[1] - 1)
    return y, x, inside, down.float(), across.float()


def _round(
    light: Tensor,
    place: Tensor,
    number: Tensor,
    rows: Tensor,
    columns: Tensor,
    told: Tensor,
    matte: Tensor | None,
    step: float,
) -> Tensor:
    """One round over some pixels: (n, 10) as `told`, with the coverage for the first weight."""
    own = place[rows, columns]
    y, x, inside, _, _ = _around(place, rows, columns, 1)
    near = torch.where(inside, place[y, x], own[:, None])
    is_front = own - near.amin(1) > near.amax(1) - own
    # The other of the two surfaces is the next one behind, or in front.
    below = torch.where(own[:, None] - near > step, near, -torch.inf).amax(1)
    above = torch.where(near - own[:, None] > step, near, torch.inf).amin(1)
    other = torch.where(is_front, below, above)
    other = torch.where(other.isinf(), torch.where(is_front, near.amin(1), near.amax(1)), other)
    front_place, back_place = torch.where(is_front, own, other), torch.where(is_front, other, own)
    middle = 0.5 * (front_place + back_place)
    tolerance = (0.5 * (front_place - back_place)).clamp_max(step)

    # First guess of the coverage: the share of nearer pixels around.
    y, x, inside, down, across = _around(place, rows, columns, 2)
    weight = torch.exp(-(down * down + across * across) / (2 * OUTLINE * OUTLINE)) * inside
    guess = (weight * (place[y, x] > middle[:, None])).sum(1) / weight.sum(1)

    mixed = light[:, rows, columns].T
    y, x, inside, down, across = _around(place, rows, columns, WINDOW)
    distance = down * down + across * across
    weight = torch.exp(-distance / (2 * SPREAD * SPREAD)) * inside * (distance > 0)
    index = number[y, x].long()
    clean = (index < 0)[..., None]
    seen = torch.cat([light[:, y, x].permute(1, 2, 0), place[y, x][..., None], torch.ones_like(weight)[..., None]], 2)
    blank = torch.zeros_like(seen)
    first = torch.where(clean, seen, told[index.clamp_min(0), :5])
    second = torch.where(clean, blank, told[index.clamp_min(0), 5:])
    # What every pixel around tells of either side: colour against the mixed one's, offset, matte.
    offsets = [down.expand_as(weight)[..., None], across.expand_as(weight)[..., None]]
    subject = torch.zeros_like(weight) if matte is None else torch.where(clean[..., 0], matte[y, x], 0.5)
    sides = []
    for target, rival in ((front_place, None), (back_place, front_place)):
        entries, weights = [], []
        for part in (first, second):
            fits = (part[..., 3] - target[:, None]).abs() < tolerance[:, None]
            if rival is not None:
                fits &= (part[..., 3] - rival[:, None]).abs() >= tolerance[:, None]
            weights.append(weight * part[..., 4] * fits)
            entries.append(torch.cat([part[..., :3] - mixed[:, None], *offsets, subject[..., None]], 2))
        share, entry = torch.cat(weights, 1), torch.cat(entries, 1)
        total = share.sum(1)
        share = share / total.clamp_min(1e-9)[:, None]
        mean = torch.einsum("nm,nmc->nc", share, entry)
        moment = torch.einsum("nm,nmc,nmd->ncd", share, entry[..., :5], entry[..., :5])
        spread = moment - mean[:, :5, None] * mean[:, None, :5]
        sxx, sxy, syy = spread[:, 3, 3] + RIDGE, spread[:, 3, 4], spread[:, 4, 4] + RIDGE
        v, u = mean[:, 3], mean[:, 4]
        # The fitted plane at the pixel itself.
        lean = torch.stack([v * syy - u * sxy, u * sxx - v * sxy], 1) / (sxx * syy - sxy * sxy)[:, None]
        colour = mean[:, :3] - torch.einsum("ncd,nd->nc", spread[:, :3, 3:], lean)
        colour = torch.maximum(colour, -mixed)
        floor = FLOOR * (1 + UNSURE / (total + 1e-6))
        known = (total > 1e-9)[:, None]
        around = VARIANCE * spread[:, :3, :3] * known[..., None] + floor[:, None, None] * torch.eye(3).to(mixed)
        sides.append((torch.where(known, colour, 0), around, mean[:, 5], total > 1e-9))
    (fore, fore_spread, fore_subject, fore_known), (rear, rear_spread, rear_subject, rear_known) = sides

    t = torch.linspace(0, 1, CANDIDATES, device=place.device)
    tried = torch.where(is_front[:, None], 0.5 + 0.5 * t, 0.5 * t)
    prior = -((tried - guess[:, None]) ** 2) / (2 * GUESS * GUESS)
    prior = prior + np.log(PURE) * ((tried == 0) | (tried == 1))
    if matte is not None:
        contrast = fore_subject - rear_subject
        tells = (contrast.abs() > 0.5) & fore_known & rear_known
        given = ((matte[rows, columns] - rear_subject) / torch.where(tells, contrast, 1.0)).clamp(0, 1)[:, None]
        tried = torch.where(tells[:, None], t, tried)
        prior = torch.where(tells[:, None], -((t - given) ** 2) / (2 * MATTE * MATTE), prior)
    a, b = tried[..., None], 1 - tried[..., None]
    both = (a * a)[..., None] * fore_spread[:, None] + (b * b)[..., None] * rear_spread[:, None]
    miss = -(a * fore[:, None] + b * rear[:, None])
    pull, misfit = _solve(both, miss)
    score = prior - 0.5 * misfit
    share = torch.softmax(score, 1)[..., None]
    alpha = (share * a).sum(1)
    fronts = (share * a * (fore[:, None] + a * torch.einsum("ncd,nad->nac", fore_spread, pull))).sum(1)
    backs = (share * b * (rear[:, None] + b * torch.einsum("ncd,nad->nac", rear_spread, pull))).sum(1)
    top = mixed.clamp_min(1)
    front = torch.minimum((mixed + (fronts + 1e-3 * fore) / (alpha + 1e-3)).clamp_min(0), top)
    back = torch.minimum((mixed + (backs + 1e-3 * rear) / (1 - alpha + 1e-3)).clamp_min(0), top)
    return torch.cat([front, front_place[:, None], alpha, back, back_place[:, None], alpha], 1)


def _solve(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """M^-1 r for symmetric positive matrices (..., 3, 3) and vectors (..., 3), and r' M^-1 r + log det M.

    Factors L D L' keep their digits in float32, where cofactors lose them.
    """
    one, second, third = matrix[..., 0, 0], matrix[..., 0, 1] / matrix[..., 0, 0], matrix[..., 0, 2] / matrix[..., 0, 0]
    two = matrix[..., 1, 1] - second * matrix[..., 0, 1]
    fourth = (matrix[..., 1, 2] - third * matrix[..., 0, 1]) / two
    three = matrix[..., 2, 2] - third * matrix[..., 0, 2] - fourth * fourth * two
    x = right[..., 0]
    y = right[..., 1] - second * x
    z = right[..., 2] - third * x - fourth * y
    misfit = x * x / one + y * y / two + z * z / three + torch.log(one * two * three)
    z = z / three
    y = y / two - fourth * z
    return torch.stack([x / one - second * y - third * z, y, z], -1), misfit
