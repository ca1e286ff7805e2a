"""`unmix._round` for GPUs: a thread per mixed pixel, which goes over its window keeping sums, as on the CPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SPAN = 128  # pixels per program


@triton.jit
def _tell(total, r, g, b, weight, red, green, blue):
    return total + weight, r + weight * red, g + weight * green, b + weight * blue


@triton.jit
def _colour(mean, by_v, by_u, v, u, lean_v, lean_u, mixed, known):
    """Of one side at the pixel, against the mixed one's: the fitted plane there."""
    colour = mean - (by_v - mean * v) * lean_v - (by_u - mean * u) * lean_u
    return tl.where(known, tl.maximum(colour, -mixed), 0.0)


@triton.jit
def _solved(f0, f1, f2, f3, f4, f5, r0, r1, r2, r3, r4, r5, a, b, miss_r, miss_g, miss_b):
    """As `unmix._solve`, for a covariance mixed of two."""
    c0, c1, c2 = a * a * f0 + b * b * r0, a * a * f1 + b * b * r1, a * a * f2 + b * b * r2
    c3, c4, c5 = a * a * f3 + b * b * r3, a * a * f4 + b * b * r4, a * a * f5 + b * b * r5
    second, third = c1 / c0, c2 / c0
    two = c3 - second * c1
    fourth = (c4 - third * c1) / two
    three = c5 - third * c2 - fourth * fourth * two
    q = miss_g - second * miss_r
    r = miss_b - third * miss_r - fourth * q
    misfit = miss_r * miss_r / c0 + q * q / two + r * r / three + tl.log(c0 * two * three)
    z = r / three
    y = q / two - fourth * z
    return miss_r / c0 - second * y - third * z, y, z, misfit


@triton.jit
def _unmix_kernel(
    light, place, number, rows, columns, told, matte, result, count, height, width,
    step: tl.constexpr, window: tl.constexpr, spread: tl.constexpr, ridge: tl.constexpr, variance: tl.constexpr,
    floor: tl.constexpr, unsure: tl.constexpr, outline: tl.constexpr, doubt: tl.constexpr,
    matte_doubt: tl.constexpr, candidates: tl.constexpr, pure: tl.constexpr, MATTE: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    there = lane < count
    y, x = tl.load(rows + lane, there, 0).to(tl.int32), tl.load(columns + lane, there, 0).to(tl.int32)
    at = y * width + x
    size = height * width
    own = tl.load(place + at)
    high, low = own, own
    above, below = tl.full((SPAN,), 1e9, tl.float32), tl.full((SPAN,), -1e9, tl.float32)
    for n in tl.static_range(9):
        v, u = y + (n // 3 - 1), x + (n % 3 - 1)
        inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
        z = tl.where(inside, tl.load(place + v * width + u, inside, 0.0), own)
        high, low = tl.maximum(high, z), tl.minimum(low, z)
        below = tl.where(own - z > step, tl.maximum(below, z), below)
        above = tl.where(z - own > step, tl.minimum(above, z), above)
    is_front = own - low > high - own
    # The other of the two surfaces is the next one behind, or in front.
    front_place = tl.where(is_front, own, tl.where(above < 1e8, above, high))
    back_place = tl.where(is_front, tl.where(below > -1e8, below, low), own)
    middle = 0.5 * (front_place + back_place)
    tolerance = tl.minimum(0.5 * (front_place - back_place), step)
    zero = tl.zeros((SPAN,), tl.float32)
    # First guess of the coverage: the share of nearer pixels around.
    nearer, around = zero, zero
    for n in range(25):
        dv, du = n // 5 - 2, n % 5 - 2
        inside = (y + dv >= 0) & (y + dv < height) & (x + du >= 0) & (x + du < width)
        share = tl.where(inside, tl.exp(-(dv * dv + du * du) * (1.0 / (2 * outline * outline)) + zero), 0.0)
        around += share
        nearer += tl.where(tl.load(place + (y + dv) * width + x + du, inside, 0.0) > middle, share, 0.0)
    guess = nearer / around
    mixed_r, mixed_g, mixed_b = tl.load(light + at), tl.load(light + size + at), tl.load(light + 2 * size + at)

    # What every pixel around tells of either side: weighted sums of 1, colour, offset and their products.
    f_1, f_r, f_g, f_b, f_v, f_vr, f_vg, f_vb, f_u, f_ur, f_ug, f_ub = (
        zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    )  # fmt: skip
    f_vv, f_vu, f_uu, f_rr, f_rg, f_rb, f_gg, f_gb, f_bb = zero, zero, zero, zero, zero, zero, zero, zero, zero
    b_1, b_r, b_g, b_b, b_v, b_vr, b_vg, b_vb, b_u, b_ur, b_ug, b_ub = (
        zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    )  # fmt: skip
    b_vv, b_vu, b_uu, b_rr, b_rg, b_rb, b_gg, b_gb, b_bb = zero, zero, zero, zero, zero, zero, zero, zero, zero
    f_subject, b_subject = zero, zero
    side: tl.constexpr = 2 * window + 1
    for n in range(side * side):
        dv, du = n // side - window, n % side - window
        inside = there & (y + dv >= 0) & (y + dv < height) & (x + du >= 0) & (x + du < width) & ((dv != 0) | (du != 0))
        q = at + dv * width + du
        weight = tl.exp(-(dv * dv + du * du) * (1.0 / (2 * spread * spread)) + zero)
        j = tl.load(number + q, inside, -1)
        clean, known = inside & (j < 0), inside & (j >= 0)
        subject = zero + 0.5
        if MATTE:
            subject = tl.where(clean, tl.load(matte + q, clean, 0.0), 0.5)
        for part in tl.static_range(2):
            entry = told + j * 10 + part * 5
            red, green, blue = (
                tl.load(entry, known, 0.0), tl.load(entry + 1, known, 0.0), tl.load(entry + 2, known, 0.0)
            )  # fmt: skip
            z, w = tl.load(entry + 3, known, 0.0), tl.load(entry + 4, known, 0.0)
            if part == 0:
                red = tl.where(clean, tl.load(light + q, clean, 0.0), red)
                green = tl.where(clean, tl.load(light + size + q, clean, 0.0), green)
                blue = tl.where(clean, tl.load(light + 2 * size + q, clean, 0.0), blue)
                z = tl.where(clean, tl.load(place + q, clean, 0.0), z)
                w = tl.where(clean, 1.0, w)
            w *= weight
            red, green, blue = red - mixed_r, green - mixed_g, blue - mixed_b
            to_front = tl.abs(z - front_place) < tolerance
            to_back = (tl.abs(z - back_place) < tolerance) & (to_front == 0)
            w_front, w_back = tl.where(to_front, w, 0.0), tl.where(to_back, w, 0.0)
            f_subject += w_front * subject
            b_subject += w_back * subject
            f_1, f_r, f_g, f_b = _tell(f_1, f_r, f_g, f_b, w_front, red, green, blue)
            f_v, f_vr, f_vg, f_vb = _tell(f_v, f_vr, f_vg, f_vb, w_front * dv, red, green, blue)
            f_u, f_ur, f_ug, f_ub = _tell(f_u, f_ur, f_ug, f_ub, w_front * du, red, green, blue)
            f_vv, f_vu, f_uu = f_vv + w_front * (dv * dv), f_vu + w_front * (dv * du), f_uu + w_front * (du * du)
            f_rr, f_rg, f_rb = f_rr + w_front * red * red, f_rg + w_front * red * green, f_rb + w_front * red * blue
            f_gg, f_gb = f_gg + w_front * green * green, f_gb + w_front * green * blue
            f_bb += w_front * blue * blue
            b_1, b_r, b_g, b_b = _tell(b_1, b_r, b_g, b_b, w_back, red, green, blue)
            b_v, b_vr, b_vg, b_vb = _tell(b_v, b_vr, b_vg, b_vb, w_back * dv, red, green, blue)
            b_u, b_ur, b_ug, b_ub = _tell(b_u, b_ur, b_ug, b_ub, w_back * du, red, green, blue)
            b_vv, b_vu, b_uu = b_vv + w_back * (dv * dv), b_vu + w_back * (dv * du), b_uu + w_back * (du * du)
            b_rr, b_rg, b_rb = b_rr + w_back * red * red, b_rg + w_back * red * green, b_rb + w_back * red * blue
            b_gg, b_gb = b_gg + w_back * green * green, b_gb + w_back * green * blue
            b_bb += w_back * blue * blue

    # Colour and covariance of the front.
    told_front, told_back = f_1 > 1e-9, b_1 > 1e-9
    per = tl.where(told_front, 1 / tl.maximum(f_1, 1e-9), 0.0)
    least = floor * (1 + unsure / (f_1 + 1e-6))
    v, u, r, g, b = f_v * per, f_u * per, f_r * per, f_g * per, f_b * per
    sxx, sxy, syy = f_vv * per - v * v + ridge, f_vu * per - v * u, f_uu * per - u * u + ridge
    lean_v, lean_u = (v * syy - u * sxy) / (sxx * syy - sxy * sxy), (u * sxx - v * sxy) / (sxx * syy - sxy * sxy)
    fore_r = _colour(r, f_vr * per, f_ur * per, v, u, lean_v, lean_u, mixed_r, told_front)
    fore_g = _colour(g, f_vg * per, f_ug * per, v, u, lean_v, lean_u, mixed_g, told_front)
    fore_b = _colour(b, f_vb * per, f_ub * per, v, u, lean_v, lean_u, mixed_b, told_front)
    f0, f1, f2 = (
        variance * (f_rr * per - r * r) + least,
        variance * (f_rg * per - r * g),
        variance * (f_rb * per - r * b),
    )
    f3, f4 = variance * (f_gg * per - g * g) + least, variance * (f_gb * per - g * b)
    f5 = variance * (f_bb * per - b * b) + least
    # And of the back.
    per = tl.where(told_back, 1 / tl.maximum(b_1, 1e-9), 0.0)
    least = floor * (1 + unsure / (b_1 + 1e-6))
    v, u, r, g, b = b_v * per, b_u * per, b_r * per, b_g * per, b_b * per
    sxx, sxy, syy = b_vv * per - v * v + ridge, b_vu * per - v * u, b_uu * per - u * u + ridge
    lean_v, lean_u = (v * syy - u * sxy) / (sxx * syy - sxy * sxy), (u * sxx - v * sxy) / (sxx * syy - sxy * sxy)
    rear_r = _colour(r, b_vr * per, b_ur * per, v, u, lean_v, lean_u, mixed_r, told_back)
    rear_g = _colour(g, b_vg * per, b_ug * per, v, u, lean_v, lean_u, mixed_g, told_back)
    rear_b = _colour(b, b_vb * per, b_ub * per, v, u, lean_v, lean_u, mixed_b, told_back)
    r0, r1, r2 = (
        variance * (b_rr * per - r * r) + least,
        variance * (b_rg * per - r * g),
        variance * (b_rb * per - r * b),
    )
    r3, r4 = variance * (b_gg * per - g * g) + least, variance * (b_gb * per - g * b)
    r5 = variance * (b_bb * per - b * b) + least

    tells = told_front & told_back
    given = zero
    if MATTE:
        f_subject, b_subject = f_subject / tl.maximum(f_1, 1e-9), b_subject / tl.maximum(b_1, 1e-9)
        contrast = f_subject - b_subject
        tells &= tl.abs(contrast) > 0.5
        given = (tl.load(matte + at) - b_subject) / tl.where(tells, contrast, 1.0)
        given = tl.minimum(tl.maximum(given, 0.0), 1.0)
    # Candidates weighed by their likelihood; the sums are kept relative to the best so far.
    best = tl.full((SPAN,), -1e30, tl.float32)
    total, alpha = zero, zero
    fronts_r, fronts_g, fronts_b, backs_r, backs_g, backs_b = zero, zero, zero, zero, zero, zero
    for n in range(candidates):
        t = n * (1.0 / (candidates - 1))
        if n == candidates - 1:
            t = 1.0
        af = tl.where(is_front, 0.5 + 0.5 * t, 0.5 * t)
        prior = -(af - guess) * (af - guess) * (1 / (2 * doubt * doubt))
        prior += tl.where((af == 0) | (af == 1), pure, 0.0)
        if MATTE:
            nearby = -(t - given) * (t - given) * (1 / (2 * matte_doubt * matte_doubt))
            af, prior = tl.where(tells, t + zero, af), tl.where(tells, nearby, prior)
        ab = 1 - af
        miss_r, miss_g = -(af * fore_r + ab * rear_r), -(af * fore_g + ab * rear_g)
        miss_b = -(af * fore_b + ab * rear_b)
        p_r, p_g, p_b, misfit = _solved(
            f0, f1, f2, f3, f4, f5, r0, r1, r2, r3, r4, r5, af, ab, miss_r, miss_g, miss_b
        )  # fmt: skip
        score = prior - 0.5 * misfit
        better = tl.maximum(best, score)
        kept, share = tl.exp(best - better), tl.exp(score - better)
        best = better
        total, alpha = total * kept + share, alpha * kept + share * af
        to_front, to_back = share * af, share * ab
        fronts_r = fronts_r * kept + to_front * (fore_r + af * (f0 * p_r + f1 * p_g + f2 * p_b))
        fronts_g = fronts_g * kept + to_front * (fore_g + af * (f1 * p_r + f3 * p_g + f4 * p_b))
        fronts_b = fronts_b * kept + to_front * (fore_b + af * (f2 * p_r + f4 * p_g + f5 * p_b))
        backs_r = backs_r * kept + to_back * (rear_r + ab * (r0 * p_r + r1 * p_g + r2 * p_b))
        backs_g = backs_g * kept + to_back * (rear_g + ab * (r1 * p_r + r3 * p_g + r4 * p_b))
        backs_b = backs_b * kept + to_back * (rear_b + ab * (r2 * p_r + r4 * p_g + r5 * p_b))
    alpha /= total
    top_r, top_g, top_b = tl.maximum(mixed_r, 1.0), tl.maximum(mixed_g, 1.0), tl.maximum(mixed_b, 1.0)
    over, under = 1 / (alpha + 1e-3), 1 / (1 - alpha + 1e-3)
    red = mixed_r + (fronts_r / total + 1e-3 * fore_r) * over
    green = mixed_g + (fronts_g / total + 1e-3 * fore_g) * over
    blue = mixed_b + (fronts_b / total + 1e-3 * fore_b) * over
    entry = result + lane * 10
    tl.store(entry, tl.minimum(tl.maximum(red, 0.0), top_r), there)
    tl.store(entry + 1, tl.minimum(tl.maximum(green, 0.0), top_g), there)
    tl.store(entry + 2, tl.minimum(tl.maximum(blue, 0.0), top_b), there)
    tl.store(entry + 3, front_place, there)
    tl.store(entry + 4, alpha, there)
    red = mixed_r + (backs_r / total + 1e-3 * rear_r) * under
    green = mixed_g + (backs_g / total + 1e-3 * rear_g) * under
    blue = mixed_b + (backs_b / total + 1e-3 * rear_b) * under
    tl.store(entry + 5, tl.minimum(tl.maximum(red, 0.0), top_r), there)
    tl.store(entry + 6, tl.minimum(tl.maximum(green, 0.0), top_g), there)
    tl.store(entry + 7, tl.minimum(tl.maximum(blue, 0.0), top_b), there)
    tl.store(entry + 8, back_place, there)
    tl.store(entry + 9, alpha, there)


def unmix_cuda(
    light: Tensor,
    place: Tensor,
    number: Tensor,
    rows: Tensor,
    columns: Tensor,
    told: Tensor,
    matte: Tensor | None,
    *constants: float,
) -> Tensor:
    """(n, 10) as `told`, with the coverage for the first weight; see `unmix`. The constants are those of
    `unmix_cpu.unmix_cpu`, `PURE` as its logarithm."""
    result = torch.empty_like(told)
    height, width = place.shape
    subject = place if matte is None else matte.contiguous()
    _unmix_kernel[(-(-len(rows) // SPAN),)](
        light.contiguous(), place.contiguous(), number, rows, columns, told.contiguous(), subject, result, len(rows),
        height, width, *constants, matte is not None, SPAN,
    )  # fmt: skip
    return result
