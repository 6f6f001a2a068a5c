"""IEEE float32 product and quotient on integers, for hosts that flush subnormal numbers to zero.

Some programs switch a thread to flush-to-zero (torch.set_flush_denormal, code linked with -ffast-math). Scales of
2**-127 are subnormal, so hardware arithmetic would then lose whole blocks. The routines here never touch floating
point.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_SMALLEST_NORMAL = np.array([0x00800000], np.uint32).view(np.float32)
_HALF = np.array([0.5], np.float32)
_SUBNORMAL = np.array([0x00400000], np.uint32).view(np.float32)
_TWO = np.array([2.0], np.float32)


def host_flushes() -> bool:
    """True where this thread flushes subnormal results to zero, or takes subnormal operands for zero."""
    with np.errstate(all="ignore"):
        flushed = (_SMALLEST_NORMAL * _HALF).view(np.uint32)[0] == 0
        return bool(flushed or (_SUBNORMAL * _TWO).view(np.uint32)[0] == 0)


def _significand(bits: Array) -> tuple[Array, Array]:
    """(24-bit significand with its top bit set, exponent) of finite non-zero magnitudes: value = significand *
    2**exponent.
    """
    exponent = (bits >> 23).astype(np.int64)
    fraction = (bits & 0x7FFFFF).astype(np.int64)
    # A conversion from integer is exact and normal, so its exponent field is the position of the top bit.
    top = (np.maximum(fraction, 1).astype(np.float32).view(np.uint32) >> 23).astype(np.int64) - 127
    shift = np.where(exponent == 0, 23 - top, 0)
    significand = np.where(exponent == 0, fraction << shift, fraction | 0x800000)
    return significand, np.maximum(exponent, 1) - 150 - shift


def _round(significand: Array, exponent: Array) -> Array:
    """Magnitude bits of significand * 2**exponent to nearest even; the significand has 26 to 62 bits, sticky bit
    included.
    """
    top = (significand >> 24).astype(np.float64).view(np.uint64) >> np.uint64(52)
    length = top.astype(np.int64) - 1023 + 25
    quantum = np.maximum(exponent + length - 24, -149)
    shift = np.clip(quantum - exponent, 1, 62)
    kept = significand >> shift
    rest = (significand - (kept << shift)) << 1
    whole = np.int64(1) << shift
    kept += (rest > whole) | ((rest == whole) & ((kept & 1) == 1))
    bits = ((quantum + 149) << 23) + kept
    return np.where(quantum + 150 > 254, 0x7F800000, np.minimum(bits, 0x7F800000))


def _parts(a: Array, b: Array) -> tuple[Array, Array, Array]:
    x, y = np.broadcast_arrays(np.asarray(a, np.float32), np.asarray(b, np.float32))
    x, y = np.ascontiguousarray(x).view(np.uint32), np.ascontiguousarray(y).view(np.uint32)
    return x & 0x7FFFFFFF, y & 0x7FFFFFFF, (x ^ y) & np.uint32(0x80000000)


def _join(bits: Array, sign: Array, shape: tuple[int, ...]) -> Array:
    return (bits.astype(np.uint32) | sign).view(np.float32).reshape(shape)


def multiply(a: Array, b: Array) -> Array:
    """float32 a * b, to nearest even."""
    shape = np.broadcast_shapes(np.shape(a), np.shape(b))
    x, y, sign = _parts(a, b)
    m, e = _significand(np.maximum(x, 1))
    n, f = _significand(np.maximum(y, 1))
    bits = _round((m * n) << 8, e + f - 8)
    bits = np.where((x == 0) | (y == 0), 0, bits)
    infinite = (x == 0x7F800000) | (y == 0x7F800000)
    bits = np.where(infinite, 0x7F800000, bits)
    nan = (x > 0x7F800000) | (y > 0x7F800000) | (infinite & ((x == 0) | (y == 0)))
    return _join(np.where(nan, 0x7FC00000, bits), np.where(nan, np.uint32(0), sign), shape)


def divide(a: Array, b: Array) -> Array:
    """float32 a / b, to nearest even."""
    shape = np.broadcast_shapes(np.shape(a), np.shape(b))
    x, y, sign = _parts(a, b)
    m, e = _significand(np.maximum(x, 1))
    n, f = _significand(np.maximum(y, 1))
    quotient, rest = (m << 32) // n, (m << 32) % n
    bits = _round((quotient << 1) | (rest != 0), e - f - 33)
    zero = ((x == 0) & (y != 0)) | ((y == 0x7F800000) & (x < 0x7F800000))
    infinite = ((x == 0x7F800000) & (y < 0x7F800000)) | ((y == 0) & (x != 0))
    bits = np.where(infinite, 0x7F800000, np.where(zero, 0, bits))
    nan = (x > 0x7F800000) | (y > 0x7F800000) | ((x == 0) & (y == 0)) | ((x == 0x7F800000) & (y == 0x7F800000))
    return _join(np.where(nan, 0x7FC00000, bits), np.where(nan, np.uint32(0), sign), shape)


def _double(bits: Array, sign: Array) -> Array:
    """Finite float32 as float64, exactly: no float64 here is subnormal."""
    significand, exponent = _significand(np.maximum(bits, 1))
    power = ((exponent + 1023) << 52).view(np.float64)
    magnitude = np.where(bits == 0, 0.0, significand.astype(np.float64) * power)
    return np.where(sign != 0, -magnitude, magnitude)


def add(a: Array, b: Array) -> Array:
    """float32 a + b, to nearest even. float64 has more than twice the bits, so rounding its sum again is harmless."""
    shape = np.broadcast_shapes(np.shape(a), np.shape(b))
    x, y = np.broadcast_arrays(np.asarray(a, np.float32), np.asarray(b, np.float32))
    p, q = np.ascontiguousarray(x).view(np.uint32), np.ascontiguousarray(y).view(np.uint32)
    special = ((p & 0x7F800000) == 0x7F800000) | ((q & 0x7F800000) == 0x7F800000)
    finite = np.where(special, np.uint32(0), p), np.where(special, np.uint32(0), q)
    total = _double(finite[0] & 0x7FFFFFFF, finite[0] >> 31) + _double(finite[1] & 0x7FFFFFFF, finite[1] >> 31)
    wide = total.view(np.uint64)
    exponent = ((wide >> np.uint64(52)) & np.uint64(2047)).astype(np.int64) - 1075
    significand = ((wide & np.uint64((1 << 52) - 1)) | np.uint64(1 << 52)).astype(np.int64)
    bits = np.where(total == 0, 0, _round(significand << 1, exponent - 1))
    sign = (wide >> np.uint64(32)).astype(np.uint32) & np.uint32(0x80000000)
    with np.errstate(all="ignore"):
        hard = np.add(x, y).reshape(p.shape)  # infinity and NaN do not depend on the flush mode
    return np.where(special, hard, _join(bits, sign, p.shape)).reshape(shape)
