"""float32 bit patterns, made without floating-point arithmetic, so that no flush mode of the host can touch them."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import inf

MAGNITUDE = 0x7FFFFFFF
INFINITY = 0x7F800000
NAN = 0x7FC00000
LARGEST = 0x7F7FFFFF
FRACTION = 0x007FFFFF
HIDDEN = 0x00800000
SIGN = 0x80000000


def float32_bits(value: float | Fraction) -> int:
    """The bits of `value` rounded to float32, to nearest even.

    >>> hex(float32_bits(1.5))
    '0x3fc00000'
    """
    if value != value:
        return NAN
    if value in (inf, -inf):
        return INFINITY if value > 0 else INFINITY | SIGN
    negative = value < 0 or (value == 0 and str(value).startswith("-"))
    return _magnitude_bits(abs(Fraction(value))) | (SIGN if negative else 0)


@lru_cache(maxsize=1024)
def _magnitude_bits(exact: Fraction) -> int:
    exponent = -126
    while exact >= Fraction(2) ** (exponent + 1):
        exponent += 1
    bits = ((exponent + 126) << 23) + round(exact / Fraction(2) ** (exponent - 23))
    return min(bits, INFINITY)
