"""The definition of encoding: float32 to the codes of any format by integer bit operations, one rounding."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np

from breccia.arrays import Array, Primitives
from breccia.errors import RecipeError, UnsupportedError
from breccia.formats import Format
from breccia.numerics import bits as f32
from breccia.numerics.rounding import shift_round
from breccia.recipes import Overflow, Rounding


def bit_encode(
    xp: Primitives, x: Array, fmt: Format, rounding: Rounding, overflow: Overflow, random: Array | None
) -> Array:
    """The definition: `encode` without tables. x is float32; the result is uint8, uint16 or uint32 by `fmt.bits`."""
    if fmt.bits > 32:
        raise UnsupportedError(f"cannot encode into {fmt.name}: values are float32; use float32 or narrower")
    bits = xp.bitcast(x, "uint32")
    if fmt.kind == "codebook":
        codes = _codebook(xp, x, bits, fmt, rounding, random)
    elif fmt.kind == "int":
        codes = _integer(xp, bits, fmt, rounding, random)
    elif fmt.is_power_of_two:
        codes = _power_of_two(xp, bits, fmt, rounding, overflow, random)
    else:
        codes = _float(xp, bits, fmt, rounding, overflow, random)
    return xp.convert(codes, "uint8" if fmt.bits <= 8 else "uint16" if fmt.bits <= 16 else "uint32")


def _float(
    xp: Primitives, bits: Array, fmt: Format, rounding: Rounding, overflow: Overflow, random: Array | None
) -> Array:
    magnitude = bits & f32.MAGNITUDE
    field = magnitude >> 23
    fraction = magnitude & f32.FRACTION
    significand = xp.where(field > 0, fraction | f32.HIDDEN, fraction)
    exponent = xp.maximum(field, 1)
    smallest = 128 - fmt.bias  # the exponent field that float32 uses for this format's smallest normal number
    missing = xp.where(exponent < smallest, smallest - exponent, 0)
    count = shift_round(xp, significand, missing + (23 - fmt.mantissa_bits), rounding, random)
    codes = ((xp.maximum(exponent, smallest) - smallest) << fmt.mantissa_bits) + count
    too_large = _overflow_code(fmt, overflow)
    codes = xp.where((codes > fmt.max_code) | (field == 255), too_large, codes)
    nan = (magnitude > f32.INFINITY) | ((codes == too_large) & (too_large == fmt.nan_code))
    signed = codes | (xp.shift_right(bits, 31) << (fmt.bits - 1))
    if not fmt.has_negative_zero:
        signed = xp.where(codes == 0, 0, signed)
    nan_code = 0 if fmt.nan_code is None else fmt.nan_code
    return xp.where(nan, nan_code, signed)


def _overflow_code(fmt: Format, overflow: Overflow) -> int:
    if overflow == "nan" and fmt.infinity_code is not None:
        return fmt.infinity_code
    if overflow == "nan" and fmt.nan_code is not None:
        return fmt.nan_code
    return fmt.max_code


def _power_of_two(
    xp: Primitives, bits: Array, fmt: Format, rounding: Rounding, overflow: Overflow, random: Array | None
) -> Array:
    """E8M0 has no zero and no sign: what is not positive becomes NaN; positive values below 2**-127 become 2**-127."""
    field, fraction = (bits & f32.MAGNITUDE) >> 23, bits & f32.FRACTION
    # 2**-127 is subnormal in float32; one place to the left it has the form of the normal numbers.
    significand = xp.where(field > 0, fraction | f32.HIDDEN, fraction << 1)
    count = shift_round(xp, significand, xp.where(field > 0, 23, 23), rounding, random)
    codes = xp.where(significand >= f32.HIDDEN, field + count - 1, 0)
    nan = 255 if fmt.nan_code is None else fmt.nan_code
    codes = xp.where((codes > fmt.max_code) | (field == 255), nan if overflow == "nan" else fmt.max_code, codes)
    invalid = (xp.shift_right(bits, 31) == 1) | (bits == 0) | ((bits & f32.MAGNITUDE) > f32.INFINITY)
    return xp.where(invalid, nan, codes)


def _integer(xp: Primitives, bits: Array, fmt: Format, rounding: Rounding, random: Array | None) -> Array:
    magnitude = bits & f32.MAGNITUDE
    field, fraction = magnitude >> 23, magnitude & f32.FRACTION
    significand = xp.where(field > 0, fraction | f32.HIDDEN, fraction)
    exponent = xp.maximum(field, 1)
    unit = 150 - fmt.fraction_bits  # at this exponent field the significand is the integer itself
    shift = xp.where(exponent < unit, unit - exponent, 0)
    count = shift_round(xp, significand, shift, rounding, random)
    count = xp.where(exponent > unit, f32.HIDDEN, count)
    positive = xp.minimum(count, fmt.max_code)
    negative = xp.minimum(count, (1 << (fmt.bits - 1)) if fmt.signed else 0)
    two_complement = ((1 << fmt.bits) - negative) & ((1 << fmt.bits) - 1)
    codes = xp.where(xp.shift_right(bits, 31) == 1, two_complement, positive)
    return xp.where(magnitude > f32.INFINITY, 0, codes)


def sortable(xp: Primitives, bits: Array) -> Array:
    """int32 keys that order as the float32 values do; -0 comes right before +0."""
    signed = xp.bitcast(bits, "int32")
    return signed ^ ((signed >> 31) & f32.MAGNITUDE)


def _sortable(bits: int) -> int:
    return bits if bits < f32.SIGN else -1 - (bits & f32.MAGNITUDE)


@lru_cache(maxsize=64)
def _thresholds(fmt: Format, rounding: Rounding) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(keys from which on the next entry is nearer, codes by ascending value) of a codebook."""
    order = sorted(range(len(fmt.codebook)), key=fmt.codebook.__getitem__)
    keys: list[int] = []
    for low, high in pairwise(order):
        middle = (Fraction(fmt.codebook[low]) + Fraction(fmt.codebook[high])) / 2
        up_on_tie = {"ties_away": middle > 0, "ties_zero": middle < 0}.get(rounding, high % 2 == 0)
        key = _sortable(f32.float32_bits(middle))
        value = _exact(key)
        if value < middle or (value == middle and not up_on_tie):
            key += 1
        keys.append(key)
    return tuple(keys), tuple(order)


def _exact(key: int) -> Fraction:
    bits = key if key >= 0 else -1 - key
    field, fraction = bits >> 23, bits & f32.FRACTION
    value = Fraction(fraction | (f32.HIDDEN if field else 0)) * Fraction(2) ** (max(field, 1) - 150)
    return value if key >= 0 else -value


def _codebook(xp: Primitives, x: Array, bits: Array, fmt: Format, rounding: Rounding, random: Array | None) -> Array:
    """Nearest entry; ties go to the even code. Stochastic: between the two neighbours, in proportion to the
    distance.
    """
    keys, order = _thresholds(fmt, "rne" if rounding == "stochastic" else rounding)
    if rounding == "stochastic":
        rank = _stochastic_rank(xp, x, fmt, random)
    else:
        rank = xp.searchsorted(np.array(keys, np.int32), sortable(xp, bits))
    codes = xp.take(np.array(order, np.uint8), rank)
    zero = min(range(len(fmt.codebook)), key=lambda code: abs(fmt.codebook[code]))
    return xp.where((bits & f32.MAGNITUDE) > f32.INFINITY, zero, codes)


def _stochastic_rank(xp: Primitives, x: Array, fmt: Format, random: Array | None) -> Array:
    """The rank of one of the two neighbours: of the upper one with probability (x - lower) / (upper - lower), rounded
    to float32.
    """
    if random is None:
        raise RecipeError("stochastic rounding needs random bits; pass a seed")
    values = np.sort(np.array(fmt.codebook, np.float32))
    keys = np.array([_sortable(f32.float32_bits(float(v))) for v in values], np.int32)
    key = sortable(xp, xp.bitcast(x, "uint32"))
    last = len(values) - 1
    below = xp.minimum(xp.maximum(xp.searchsorted(keys, key) - 1, 0), last - 1)
    inside = xp.where(key < int(keys[0]), float(values[0]), xp.where(key > int(keys[last]), float(values[last]), x))
    distance = xp.add(inside, -xp.take(values[:last], below))
    share = xp.divide(distance, xp.take(values[1:] - values[:last], below))
    draw = xp.convert(xp.shift_right(random, 8), "float32")
    up = draw < xp.multiply(share, xp.full((1,) * len(xp.shape(x)), 2.0**24, "float32", x))
    return below + xp.convert(up, xp.dtype_name(below))
