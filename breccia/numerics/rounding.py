"""Rounding of significands on integers, and the counter-based random numbers of stochastic rounding."""

from __future__ import annotations

from breccia.arrays import Array, Primitives
from breccia.recipes import Rounding


def shift_round(xp: Primitives, significand: Array, shift: Array, rounding: Rounding, random: Array | None) -> Array:
    """`significand / 2**shift` rounded to an integer: uint32 in, uint32 out; significands below 2**24, any shift.

    `stochastic` rounds up with probability remainder / 2**shift, exact to 2**-31; `random` holds 32 uniform bits.
    """
    far = xp.where(shift > 31, shift - 31, 0)
    shift = xp.convert(xp.minimum(shift, 31), "uint32")
    if rounding == "stochastic":
        # Past 31 places the probability is below 2**-7: keep 31 places and drop the significand's lowest bits.
        significand = significand >> xp.convert(xp.minimum(far, 31), "uint32")
    kept = significand >> shift
    rest = significand - (kept << shift)
    if rounding == "stochastic":
        # At shift 0 nothing remains to round, so shifting by 31 instead of 32 places changes nothing.
        up = rest > (random >> xp.minimum(32 - shift, 31)) if random is not None else None
        return kept + xp.convert(up & (shift > 0), "uint32")
    twice, whole = rest << 1, xp.convert(shift * 0 + 1, "uint32") << shift
    if rounding == "ties_away":
        up = twice >= whole
    elif rounding == "ties_zero":
        up = twice > whole
    else:
        up = (twice > whole) | ((twice == whole) & ((kept & 1) == 1))
    return kept + xp.convert(up & (shift > 0), "uint32")


def random_bits(xp: Primitives, seed: int, index: Array) -> Array:
    """32 uniform bits for each element, decided by `seed` (64 bits) and its flat index in the whole tensor (uint64).

    A keyed integer hash, so that the result does not depend on tiling, order or threads. The finalizer is the 32-bit
    one with constants 0x7feb352d and 0x846ca68b found by Wellons' hash prospector (public domain), applied three times.
    """
    low = xp.convert(index & 0xFFFFFFFF, "uint32")
    high = xp.convert(index >> 32, "uint32")
    keys = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    state = _mix(high ^ _constant(xp, keys[1], high)) + _constant(xp, 0x9E3779B9, high)
    state = _mix(state ^ _constant(xp, keys[0], high))
    return _mix(_mix(low ^ state) + (state ^ _constant(xp, 0x85EBCA6B, high)))


def _constant(xp: Primitives, value: int, like: Array) -> Array:
    return xp.full((1,) * len(xp.shape(like)), value, "uint32")


def _mix(x: Array) -> Array:
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)
