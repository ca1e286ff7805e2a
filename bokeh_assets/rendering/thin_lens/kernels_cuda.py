"""Triton kernels of `planes_cuda`: which planes a part of the picture needs, their content, blur and stacking.

Pictures are handed over in rows. A plane's pixel (colour times coverage, and coverage) travels as four half floats in
one 64-bit word, so that one load of a thread brings all of it; sums are made in single precision.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def _pack(red, green, blue, cover):
    """Four half floats in a word."""
    r = red.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int64) & 0xFFFF
    g = green.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int64) & 0xFFFF
    b = blue.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int64) & 0xFFFF
    c = cover.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int64) & 0xFFFF
    return r | (g << 16) | (b << 32) | (c << 48)


@triton.jit
def _half(word):
    return word.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _unpack(word):
    low, high = word.to(tl.int32), (word >> 32).to(tl.int32)
    return _half(low), _half(low >> 16), _half(high), _half(high >> 16)


@triton.jit
def _bits(place, weight, word):
    """The planes, as bits of one word of 32, between which a surface of some weight stands."""
    far = place.to(tl.int32)
    one = tl.full(far.shape, 1, tl.int32)
    none = tl.zeros(far.shape, tl.int32)
    near = far + 1
    bits = tl.where((far >> 5) == word, one << (far & 31), none)
    bits |= tl.where(((near >> 5) == word) & (place > far.to(tl.float32)), one << (near & 31), none)
    return tl.where(weight > 0, bits, none)


@triton.jit
def active_kernel(
    front_place, alpha, back_place, back_weight, active, height, width, down, across,
    WORDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The planes on which something stands, per block: `active`, int32 (words, down, across)."""
    i, j = tl.program_id(1), tl.program_id(0)
    lane = tl.arange(0, BLOCK * BLOCK)
    y, x = i * BLOCK + lane // BLOCK, j * BLOCK + lane % BLOCK
    inside = (y < height) & (x < width)
    at = y * width + x
    front, front_weight = tl.load(front_place + at, inside, 0.0), tl.load(alpha + at, inside, 0.0)
    back, weight = tl.load(back_place + at, inside, 0.0), tl.load(back_weight + at, inside, 0.0)
    for word in tl.static_range(WORDS):
        bits = _bits(front, front_weight, word) | _bits(back, weight, word)
        tl.store(active + (word * down + i) * across + j, tl.reduce(bits, 0, _either))


@triton.jit(do_not_specialize=["reach"])
def wanted_kernel(active, rings, wanted, down, across, reach, SPAN: tl.constexpr):
    """The planes that blur into a block, from those active within `reach` blocks. `rings`, int32
    (words, (2 reach + 1)^2): the planes that come from so far."""
    word = tl.program_id(1)
    lane = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    i, j = lane // across, lane % across
    side = 2 * reach + 1
    active += word * down * across
    rings += word * side * side
    found = tl.zeros((SPAN,), tl.int32)
    for n in range(side * side):
        v, u = i + (n // side - reach), j + (n % side - reach)
        inside = (v >= 0) & (v < down) & (u >= 0) & (u < across)
        found |= tl.load(active + v * across + u, inside, 0) & tl.load(rings + n)
    tl.store(wanted + word * down * across + lane, found, i < down)


@triton.jit
def content_kernel(
    front, alpha, front_place, back, back_weight, back_place, active, table, members, content,
    height, width, down, across, first, top,
    FACTOR: tl.constexpr, CELLS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What stands on one plane, shrunk by averaging: CELLS x CELLS pixels of a plane per program, as far as there
    is something in the block; the rest is left as it is. A cell wider than a block is summed up in PARTS x PARTS."""
    plane = tl.load(members + tl.program_id(2))
    row = table + plane * 8
    columns = tl.load(row + 2).to(tl.int32)
    rows = tl.load(row + 1).to(tl.int32)
    target = content + tl.load(row + 3)
    i, j = first + tl.program_id(1), tl.program_id(0)
    side: tl.constexpr = FACTOR // PARTS
    cell = tl.arange(0, CELLS * CELLS)
    v, u = i * CELLS + cell // CELLS, j * CELLS + cell % CELLS
    part = tl.arange(0, side * side)
    red = tl.zeros((CELLS * CELLS,), tl.float32)
    green = tl.zeros((CELLS * CELLS,), tl.float32)
    blue = tl.zeros((CELLS * CELLS,), tl.float32)
    cover = tl.zeros((CELLS * CELLS,), tl.float32)
    some = 0
    index = plane.to(tl.float32)
    size = height * width
    for piece in range(PARTS * PARTS):
        # The block, or past the border the last one.
        bi = tl.minimum(i * PARTS + piece // PARTS, down - 1)
        bj = tl.minimum(j * PARTS + piece % PARTS, across - 1)
        word = tl.load(active + ((plane >> 5) * down + bi) * across + bj)
        if ((word >> (plane & 31)) & 1) != 0:
            some = 1
            y = v[:, None] * FACTOR + (piece // PARTS) * side + (part // side)[None, :]
            x = u[:, None] * FACTOR + (piece % PARTS) * side + (part % side)[None, :]
            at = tl.minimum(y, height - 1) * width + tl.minimum(x, width - 1)
            f = tl.maximum(1 - tl.abs(tl.load(front_place + at) - index), 0.0) * tl.load(alpha + at)
            b = tl.maximum(1 - tl.abs(tl.load(back_place + at) - index), 0.0) * tl.load(back_weight + at)
            red += tl.sum(f * tl.load(front + at) + b * tl.load(back + at), 1)
            green += tl.sum(f * tl.load(front + size + at) + b * tl.load(back + size + at), 1)
            blue += tl.sum(f * tl.load(front + 2 * size + at) + b * tl.load(back + 2 * size + at), 1)
            cover += tl.sum(f + b, 1)
    if some != 0:
        share = 1.0 / (FACTOR * FACTOR)
        packed = _pack(red * share, green * share, blue * share, cover * share)
        tl.store(target + (v - top) * columns + u, packed, (v < rows) & (u < columns))


@triton.jit
def _weight(tap):
    return (tap >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _pixel(source, y, x, rows, columns, tap, EDGE: tl.constexpr):
    """The plane's pixel that a tap points at; at an EDGE the picture goes on as it ends."""
    shift = tap.to(tl.int32)
    if EDGE:
        i = tl.minimum(tl.maximum(y + (shift >> 16), 0), rows - 1)
        j = tl.minimum(tl.maximum(x + ((shift << 16) >> 16), 0), columns - 1)
        return tl.load(source + (i * columns + j))
    else:
        return tl.load(source + (y * columns + x) + shift)


@triton.jit
def _gather(source, y, x, rows, columns, taps, start, end, EDGE: tl.constexpr):
    """Weighted sum of shifted pixels."""
    zero = tl.zeros(y.shape, tl.float32)
    red, green, blue, cover = zero, zero, zero, zero
    for first in range(start, end, 4):
        # Four at a time, so that one load does not wait for the other.
        t0, t1 = tl.load(taps + first), tl.load(taps + first + 1)
        t2, t3 = tl.load(taps + first + 2), tl.load(taps + first + 3)
        p0 = _pixel(source, y, x, rows, columns, t0, EDGE)
        p1 = _pixel(source, y, x, rows, columns, t1, EDGE)
        p2 = _pixel(source, y, x, rows, columns, t2, EDGE)
        p3 = _pixel(source, y, x, rows, columns, t3, EDGE)
        w0, w1, w2, w3 = _weight(t0), _weight(t1), _weight(t2), _weight(t3)
        r0, g0, b0, c0 = _unpack(p0)
        r1, g1, b1, c1 = _unpack(p1)
        r2, g2, b2, c2 = _unpack(p2)
        r3, g3, b3, c3 = _unpack(p3)
        red += w0 * r0 + w1 * r1 + w2 * r2 + w3 * r3
        green += w0 * g0 + w1 * g1 + w2 * g2 + w3 * g3
        blue += w0 * b0 + w1 * b1 + w2 * b2 + w3 * b3
        cover += w0 * c0 + w1 * c1 + w2 * c2 + w3 * c3
    return red, green, blue, cover


@triton.jit
def _blurred(source, y, x, y0, x0, rows, columns, row, taps, total, TALL: tl.constexpr, WIDE: tl.constexpr):
    """A tile of a plane, blurred; far from the borders without looking for them."""
    start, end, n = tl.load(row + 5).to(tl.int32), tl.load(row + 6).to(tl.int32), tl.load(row + 7).to(tl.int32)
    if (y0 >= n) & (x0 >= n) & (y0 + TALL + n <= rows) & (x0 + WIDE + n <= columns):
        red, green, blue, cover = _gather(source, y, x, rows, columns, taps, start, end, False)
    else:
        red, green, blue, cover = _gather(source, y, x, rows, columns, taps + total, start, end, True)
    return red, green, blue, cover


@triton.jit(do_not_specialize=["total"])
def soft_kernel(
    content, soft, wanted, table, members, taps, total, down, across,
    BLOCK: tl.constexpr, TILE: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Blurs a shrunk plane, TILE x TILE of its pixels per program, where it is wanted; SPAN: blocks under a tile."""
    plane = tl.load(members + tl.program_id(2))
    row = table + plane * 8
    block = tl.arange(0, SPAN * SPAN)
    bi, bj = tl.program_id(1) * SPAN + block // SPAN, tl.program_id(0) * SPAN + block % SPAN
    words = tl.load(wanted + ((plane >> 5) * down + bi) * across + bj, (bi < down) & (bj < across), 0)
    if ((tl.reduce(words, 0, _either) >> (plane & 31)) & 1) != 0:
        rows, columns = tl.load(row + 1).to(tl.int32), tl.load(row + 2).to(tl.int32)
        source, target = content + tl.load(row + 3), soft + tl.load(row + 4)
        lane = tl.arange(0, TILE * TILE)
        y0, x0 = tl.program_id(1) * TILE, tl.program_id(0) * TILE
        y, x = y0 + lane // TILE, x0 + lane % TILE
        red, green, blue, cover = _blurred(source, y, x, y0, x0, rows, columns, row, taps, total, TILE, TILE)
        tl.store(target + y * columns + x, _pack(red, green, blue, cover), (y < rows) & (x < columns))


@triton.jit
def _grown(source, y, x, rows, columns, factor):
    """The shrunk plane at full size, bilinearly."""
    step = 1.0 / factor.to(tl.float32)
    v = tl.minimum(tl.maximum((y.to(tl.float32) + 0.5) * step - 0.5, 0.0), (rows - 1).to(tl.float32))
    u = tl.minimum(tl.maximum((x.to(tl.float32) + 0.5) * step - 0.5, 0.0), (columns - 1).to(tl.float32))
    i, j = v.to(tl.int32), u.to(tl.int32)
    a, b = v - i.to(tl.float32), u - j.to(tl.float32)
    above, below = i * columns, tl.minimum(i + 1, rows - 1) * columns
    right = tl.minimum(j + 1, columns - 1)
    r0, g0, b0, c0 = _unpack(tl.load(source + above + j))
    r1, g1, b1, c1 = _unpack(tl.load(source + above + right))
    r2, g2, b2, c2 = _unpack(tl.load(source + below + j))
    r3, g3, b3, c3 = _unpack(tl.load(source + below + right))
    p, q, r, s = (1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b
    return (
        p * r0 + q * r1 + r * r2 + s * r3,
        p * g0 + q * g1 + r * g2 + s * g3,
        p * b0 + q * b1 + r * b2 + s * b3,
        p * c0 + q * c1 + r * c2 + s * c3,
    )


@triton.jit(do_not_specialize=["planes", "total"])
def stack_kernel(
    sharp, soft, wanted, table, taps, total, light, height, width, down, across, planes, first, top, gap,
    BLOCK: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`accumulate.Stack` over all planes for a tile, in registers: planes blurred at full size are blurred here, from
    `sharp`, which begins with row `top` of the picture; shrunk ones come blurred, from `soft`. `first`: the first row
    to write."""
    y0, x0 = first + tl.program_id(1) * TALL, tl.program_id(0) * WIDE
    lane = tl.arange(0, TALL * WIDE)
    y, x = y0 + lane // WIDE, x0 + lane % WIDE
    block = (y0 // BLOCK) * across + x0 // BLOCK
    zero = tl.zeros((TALL * WIDE,), tl.float32)
    sum_r, sum_g, sum_b, sum_c = zero, zero, zero, zero
    through, surface, last = zero + 1, zero, zero
    for number in range(planes):
        plane = planes - 1 - number
        word = tl.load(wanted + (plane >> 5) * down * across + block)
        if ((word >> (plane & 31)) & 1) != 0:
            row = table + plane * 8
            factor, rows, columns = tl.load(row), tl.load(row + 1).to(tl.int32), tl.load(row + 2).to(tl.int32)
            if factor == 1:
                source = sharp + (tl.load(row + 3) - top * width)
                red, green, blue, cover = _blurred(source, y, x, y0, x0, rows, columns, row, taps, total, TALL, WIDE)
            else:
                red, green, blue, cover = _grown(soft + tl.load(row + 4), y, x, rows, columns, factor)
            kept = surface * tl.minimum(last / tl.maximum(gap * surface, 1e-6), 1.0)
            # What ends moves into `through`, in such measure that as much as before is still open.
            room = 1 - kept
            through = tl.where(room > 1e-3, through * (1 - surface) / tl.maximum(room, 1e-3), through)
            # More than full coverage: the nearer stays.
            added = tl.minimum(cover, room)
            share = through * added / tl.maximum(cover, 1e-6)
            sum_r += red * share
            sum_g += green * share
            sum_b += blue * share
            sum_c += cover * share
            surface = kept + added
            last = cover
        else:
            # Nothing on this plane: what is in hand ends before the next one that has something.
            last = zero
    most = 1 / tl.maximum(sum_c, 1e-6)
    at, size = y * width + x, height * width
    inside = (y < height) & (x < width)
    tl.store(light + at, sum_r * most, inside)
    tl.store(light + size + at, sum_g * most, inside)
    tl.store(light + 2 * size + at, sum_b * most, inside)
