"""Rounding of significands on integers, and the counter-based random numbers of stochastic rounding."""

from __future__ import annotations

from breccia.arrays import Array, Primitives, Words
from breccia.errors import RecipeError
from breccia.recipes import Rounding


def shift_round(xp: Primitives, significand: Array, shift: Array, rounding: Rounding, random: Array | None) -> Array:
    """`significand / 2**shift` rounded to an integer: uint32 in, uint32 out; significands below 2**24, any shift.

    `stochastic` rounds up with probability remainder / 2**shift, exact to 2**-31; `random` holds 32 uniform bits.
    """
    if rounding == "stochastic":
        return _stochastic(xp, significand, shift, random)
    # Past 25 places nothing but 0 is left, and 1 << 30 is positive as a signed word too.
    shift = xp.convert(xp.minimum(shift, 30), "uint32")
    kept = significand >> shift
    rest = significand - (kept << shift)
    twice, whole = rest << 1, xp.convert(shift * 0 + 1, "uint32") << shift
    if rounding == "ties_away":
        up = twice >= whole
    elif rounding == "ties_zero":
        up = twice > whole
    else:
        up = (twice > whole) | ((twice == whole) & ((kept & 1) == 1))
    return kept + xp.convert(up & (shift > 0), "uint32")


def _stochastic(xp: Primitives, significand: Array, shift: Array, random: Array | None) -> Array:
    if random is None:
        raise RecipeError("stochastic rounding needs random bits; pass a seed")
    # Past 31 places the probability is below 2**-7: keep 31 places and drop the significand's lowest bits.
    far = xp.where(shift > 31, shift - 31, 0)
    significand = significand >> xp.convert(xp.minimum(far, 31), "uint32")
    shift = xp.convert(xp.minimum(shift, 31), "uint32")
    kept = significand >> shift
    rest = significand - (kept << shift)
    # The top `shift` random bits, in two steps, as no shift may be 32 places. At shift 0 nothing remains to round.
    up = rest > (xp.shift_right(random, 1) >> (31 - shift))
    return kept + xp.convert(up & (shift > 0), "uint32")


def random_bits(xp: Primitives, seed: Words, index: Words) -> Array:
    """32 uniform bits for each element, decided by `seed` (64 bits) and its flat index in the whole tensor.

    A keyed integer hash, so that the result does not depend on tiling, order or threads. The finalizer is the 32-bit
    one with constants 0x7feb352d and 0x846ca68b found by Wellons' hash prospector (public domain), applied three times.
    """
    high, low = index
    key_high, key_low = seed
    state = _mix(xp, high ^ key_high) + _constant(xp, 0x9E3779B9, high)
    state = _mix(xp, state ^ key_low)
    return _mix(xp, _mix(xp, low ^ state) + (state ^ _constant(xp, 0x85EBCA6B, high)))


def _constant(xp: Primitives, value: int, like: Array) -> Array:
    return xp.full((1,) * len(xp.shape(like)), value, "uint32", like)


def _mix(xp: Primitives, x: Array) -> Array:
    x = x ^ xp.shift_right(x, 16)
    x = x * 0x7FEB352D
    x = x ^ xp.shift_right(x, 15)
    x = x * _constant(xp, 0x846CA68B, x)
    return x ^ xp.shift_right(x, 16)
