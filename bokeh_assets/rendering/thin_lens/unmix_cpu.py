"""`unmix._round` for the CPU: pixel by pixel instead of all windows at once."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, fastmath=True, cache=True)
def _side(moments, mixed, ridge, variance, floor, unsure, colour, spread):
    """Colour (against the mixed one's) and covariance of one side at the pixel, from weighted sums."""
    total = moments[0]
    least = floor * (1 + unsure / (total + 1e-6))
    if total <= 1e-9:
        colour[:], spread[:] = 0, 0
        spread[0] = spread[3] = spread[5] = least
        return
    v, u = moments[4] / total, moments[5] / total
    sxx = moments[6] / total - v * v + ridge
    sxy = moments[7] / total - v * u
    syy = moments[8] / total - u * u + ridge
    across = 1 / (sxx * syy - sxy * sxy)
    lean_v, lean_u = (v * syy - u * sxy) * across, (u * sxx - v * sxy) * across
    k = 0
    for c in range(3):
        mean = moments[1 + c] / total
        for d in range(c, 3):
            spread[k] = variance * (moments[15 + k] / total - mean * moments[1 + d] / total)
            if c == d:
                spread[k] += least
            k += 1
        # The fitted plane at the pixel itself.
        slope_v, slope_u = moments[9 + c] / total - mean * v, moments[12 + c] / total - mean * u
        colour[c] = max(mean - slope_v * lean_v - slope_u * lean_u, -mixed[c])


@njit(nogil=True, fastmath=True, cache=True)
def _tell(moments, weight, red, green, blue, v, u):
    moments[0] += weight
    moments[1] += weight * red
    moments[2] += weight * green
    moments[3] += weight * blue
    moments[4] += weight * v
    moments[5] += weight * u
    moments[6] += weight * v * v
    moments[7] += weight * v * u
    moments[8] += weight * u * u
    moments[9] += weight * red * v
    moments[10] += weight * green * v
    moments[11] += weight * blue * v
    moments[12] += weight * red * u
    moments[13] += weight * green * u
    moments[14] += weight * blue * u
    moments[15] += weight * red * red
    moments[16] += weight * red * green
    moments[17] += weight * red * blue
    moments[18] += weight * green * green
    moments[19] += weight * green * blue
    moments[20] += weight * blue * blue


@njit(nogil=True, fastmath=True, cache=True)
def unmix_cpu(
    light,
    place,
    number,
    rows,
    columns,
    told,
    matte,
    step,
    window,
    spread_of,
    ridge,
    variance,
    floor,
    unsure,
    outline,
    doubt,
    matte_doubt,
    candidates,
    pure,
):
    """(n, 10) as `told`, with the coverage for the first weight; see `unmix`."""
    height, width = place.shape
    result = np.empty_like(told)
    weights = np.empty((2 * window + 1, 2 * window + 1))
    for v in range(-window, window + 1):
        for u in range(-window, window + 1):
            weights[v + window, u + window] = np.exp(-(v * v + u * u) / (2 * spread_of * spread_of))
    shares = np.empty((5, 5))
    for v in range(-2, 3):
        for u in range(-2, 3):
            shares[v + 2, u + 2] = np.exp(-(v * v + u * u) / (2 * outline * outline))
    front, back = np.empty(21), np.empty(21)
    fore, rear, fore_spread, rear_spread = np.empty(3), np.empty(3), np.empty(6), np.empty(6)
    mixed, miss, pull = np.empty(3), np.empty(3), np.empty(3)
    fronts, backs, both = np.empty(3), np.empty(3), np.empty(6)
    tried, score = np.empty(candidates), np.empty(candidates)
    pulls = np.empty((candidates, 3))
    for i in range(len(rows)):
        y, x = rows[i], columns[i]
        own = place[y, x]
        high, low, above, below = own, own, np.float32(1e9), np.float32(-1e9)
        for v in range(max(0, y - 1), min(height, y + 2)):
            for u in range(max(0, x - 1), min(width, x + 2)):
                z = place[v, u]
                high, low = max(high, z), min(low, z)
                if own - z > step:
                    below = max(below, z)
                if z - own > step:
                    above = min(above, z)
        is_front = own - low > high - own
        # The other of the two surfaces is the next one behind, or in front.
        if is_front:
            front_place, back_place = own, below if below > -1e8 else low
        else:
            front_place, back_place = above if above < 1e8 else high, own
        middle = np.float32(0.5) * (front_place + back_place)
        tolerance = min(np.float32(0.5) * (front_place - back_place), np.float32(step))
        # First guess of the coverage: the share of nearer pixels around.
        nearer, around = 0.0, 0.0
        for v in range(max(0, y - 2), min(height, y + 3)):
            for u in range(max(0, x - 2), min(width, x + 3)):
                share = shares[v - y + 2, u - x + 2]
                around += share
                if place[v, u] > middle:
                    nearer += share
        guess = nearer / around
        # What every pixel around tells of either side.
        front[:], back[:] = 0, 0
        fore_subject, rear_subject = 0.0, 0.0
        for c in range(3):
            mixed[c] = light[c, y, x]
        for v in range(max(0, y - window), min(height, y + window + 1)):
            for u in range(max(0, x - window), min(width, x + window + 1)):
                if v == y and u == x:
                    continue
                weight = weights[v - y + window, u - x + window]
                j = number[v, u]
                if j < 0:
                    z = place[v, u]
                    red, green, blue = light[0, v, u] - mixed[0], light[1, v, u] - mixed[1], light[2, v, u] - mixed[2]
                    if abs(z - front_place) < tolerance:
                        _tell(front, weight, red, green, blue, v - y, u - x)
                        if matte.size:
                            fore_subject += weight * matte[v, u]
                    elif abs(z - back_place) < tolerance:
                        _tell(back, weight, red, green, blue, v - y, u - x)
                        if matte.size:
                            rear_subject += weight * matte[v, u]
                    continue
                for part in range(0, 10, 5):
                    w = weight * told[j, part + 4]
                    if w <= 0:
                        continue
                    z = told[j, part + 3]
                    red, green, blue = (
                        told[j, part] - mixed[0],
                        told[j, part + 1] - mixed[1],
                        told[j, part + 2] - mixed[2],
                    )
                    if abs(z - front_place) < tolerance:
                        _tell(front, w, red, green, blue, v - y, u - x)
                        fore_subject += w * 0.5
                    elif abs(z - back_place) < tolerance:
                        _tell(back, w, red, green, blue, v - y, u - x)
                        rear_subject += w * 0.5
        _side(front, mixed, ridge, variance, floor, unsure, fore, fore_spread)
        _side(back, mixed, ridge, variance, floor, unsure, rear, rear_spread)
        tells = False
        given = 0.0
        if matte.size and front[0] > 1e-9 and back[0] > 1e-9:
            fore_subject, rear_subject = fore_subject / front[0], rear_subject / back[0]
            contrast = fore_subject - rear_subject
            if abs(contrast) > 0.5:
                tells = True
                given = min(max((matte[y, x] - rear_subject) / contrast, 0.0), 1.0)
        best = -1e30
        for j in range(candidates):
            t = j / (candidates - 1.0)
            if tells:
                a = t
                prior = -((a - given) ** 2) / (2 * matte_doubt * matte_doubt)
            else:
                a = 0.5 + 0.5 * t if is_front else 0.5 * t
                prior = -((a - guess) ** 2) / (2 * doubt * doubt)
                if a == 0 or a == 1:
                    prior += np.log(pure)
            b = 1 - a
            for k in range(6):
                both[k] = a * a * fore_spread[k] + b * b * rear_spread[k]
            for c in range(3):
                miss[c] = -(a * fore[c] + b * rear[c])
            # As `unmix._solve`.
            second, third = both[1] / both[0], both[2] / both[0]
            two = both[3] - second * both[1]
            fourth = (both[4] - third * both[1]) / two
            three = both[5] - third * both[2] - fourth * fourth * two
            p = miss[0]
            q = miss[1] - second * p
            r = miss[2] - third * p - fourth * q
            misfit = p * p / both[0] + q * q / two + r * r / three + np.log(both[0] * two * three)
            pull[2] = r / three
            pull[1] = q / two - fourth * pull[2]
            pull[0] = p / both[0] - second * pull[1] - third * pull[2]
            tried[j] = a
            score[j] = prior - 0.5 * misfit
            best = max(best, score[j])
            pulls[j, :] = pull
        alpha, total = 0.0, 0.0
        fronts[:], backs[:] = 0, 0
        for j in range(candidates):
            share = np.exp(score[j] - best)
            if share < 1e-7:
                continue
            a = tried[j]
            pull[:] = pulls[j]
            b = 1 - a
            total += share
            alpha += share * a
            for c in range(3):
                k, m, n = (0, 1, 2) if c == 0 else ((1, 3, 4) if c == 1 else (2, 4, 5))
                more = fore_spread[k] * pull[0] + fore_spread[m] * pull[1] + fore_spread[n] * pull[2]
                fronts[c] += share * a * (fore[c] + a * more)
                more = rear_spread[k] * pull[0] + rear_spread[m] * pull[1] + rear_spread[n] * pull[2]
                backs[c] += share * b * (rear[c] + b * more)
        alpha /= total
        for c in range(3):
            top = max(mixed[c], 1.0)
            colour = mixed[c] + (fronts[c] / total + 1e-3 * fore[c]) / (alpha + 1e-3)
            result[i, c] = min(max(colour, 0.0), top)
            colour = mixed[c] + (backs[c] / total + 1e-3 * rear[c]) / (1 - alpha + 1e-3)
            result[i, 5 + c] = min(max(colour, 0.0), top)
        result[i, 3], result[i, 8] = front_place, back_place
        result[i, 4] = result[i, 9] = alpha
    return result
