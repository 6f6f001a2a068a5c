"""Which formats hold which values exactly, judged from formats alone: significant bits and exponent range."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import isfinite, prod

from breccia import formats
from breccia.formats import Format

_MANY = 1 << 16
"""Above this many pairs, only bounds of products are kept."""


@dataclass(frozen=True)
class Numbers:
    """What is known of a set of finite values, each `odd * 2**e` with an odd integer.

    odd: all odd parts, or None where only `bits` is known; bits: of the longest odd part; low: every value is a
    multiple of 2**low, and one is of no larger power; largest: the largest magnitude.
    """

    odd: frozenset[int] | None
    bits: int
    low: int
    largest: float


def _collected(values: Iterable[float]) -> Numbers:
    odd: set[int] = set()
    low, largest = 0, 0.0
    exponents: list[int] = []
    for value in values:
        if value == 0 or not isfinite(value):
            continue
        numerator, denominator = abs(value).as_integer_ratio()
        zeros = (numerator & -numerator).bit_length() - 1
        odd.add(numerator >> zeros)
        exponents.append(zeros - (denominator.bit_length() - 1))
        largest = max(largest, abs(value))
    low = min(exponents, default=0)
    return Numbers(frozenset(odd), max((o.bit_length() for o in odd), default=0), low, largest)


@cache
def numbers(fmt: Format) -> Numbers:
    """The values of a format: all of them up to 8 bits, bounds for wider floats."""
    if fmt.bits <= 8:
        return _collected(fmt.decode_code(code) for code in range(1 << fmt.bits))
    if fmt.kind != "float":
        return Numbers(None, fmt.bits - fmt.signed, -fmt.fraction_bits, float(fmt.max))
    return Numbers(None, fmt.mantissa_bits + 1, 1 - fmt.bias - fmt.mantissa_bits, fmt.max)


@cache
def differences(element: Format, zero: Format) -> Numbers:
    """The values of `element - zero point`; both are integer formats."""
    spans = [range(int(f.min), int(f.max) + 1) for f in (element, zero)]
    if prod(len(s) for s in spans) > _MANY:
        widest = max(spans[0][-1] - spans[1][0], spans[1][-1] - spans[0][0])
        return Numbers(None, widest.bit_length(), 0, float(widest))
    return _collected(float(e - z) for e in spans[0] for z in spans[1])


@cache
def products(a: Numbers, b: Numbers) -> Numbers:
    """The exact products of two sets of values."""
    low, largest = a.low + b.low, a.largest * b.largest
    if a.odd is not None and b.odd is not None and len(a.odd) * len(b.odd) <= _MANY:
        odd = frozenset(x * y for x in a.odd for y in b.odd)
        return Numbers(odd, max((o.bit_length() for o in odd), default=0), low, largest)
    longest = [max(n.odd, default=0) if n.odd is not None else (1 << n.bits) - 1 for n in (a, b)]
    return Numbers(None, prod(longest).bit_length(), low, largest)


def fits(values: Numbers, dtype: Format, floor: int = -149) -> bool:
    """True where decoding gives the same in `dtype` as in float32: no value loses a bit, and none overflows earlier.

    A decoded value is float32 by definition, so float32 and wider always fit. Values below 2**floor may lose bits.
    """
    if dtype in (formats.float32, formats.float64):
        return True
    room = numbers(dtype)
    overflows_with_float32 = dtype.emax >= formats.float32.emax
    in_range = overflows_with_float32 or values.largest <= dtype.max
    low = max(values.low, floor - values.bits + 1)
    return values.bits <= room.bits and low >= room.low and in_range


def contains(wide: Format, narrow: Format) -> bool:
    """True where every value of `narrow`, with its infinities and NaN, is a value of `wide`.

    >>> contains(formats.float32, formats.bfloat16), contains(formats.float16, formats.bfloat16)
    (True, False)
    """
    if wide == narrow:
        return True
    if wide.kind != "float" or wide.bits <= 8:
        return False
    inner, outer = numbers(narrow), numbers(wide)
    special = (wide.has_nan or not narrow.has_nan) and (wide.infinity or not narrow.infinity)
    return special and inner.bits <= outer.bits and inner.low >= outer.low and inner.largest <= outer.largest


def survives(narrow: Format, wide: Format) -> bool:
    """True where converting from `narrow` to `wide` and back gives every code again.

    Formats of 8 bits and fewer are carried as codes, so one with two codes for NaN does not survive.
    """
    if narrow.bits > 8:
        return contains(wide, narrow)
    one_nan = narrow.nan in ("none", "negative_zero")
    return one_nan and narrow.kind != "codebook" and contains(wide, narrow)
