"""Encoding by table: exact because a value rounded to odd keeps all that a narrower rounding asks of it.

Rounding to odd drops bits and sets the last kept one if any dropped bit was set. Rounding the result again to at
most two bits fewer then equals rounding the original (Boldo and Melquiond, 2008). A key of sign, exponent and m + 2
mantissa bits therefore decides the code of a format with m mantissa bits; 16 bits, half a float32, suffice for m up
to 5. The table itself is filled by the integer encoder, once per format and policy.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from breccia.arrays import Array, Primitives
from breccia.formats import Format
from breccia.numerics.bit_encode import bit_encode
from breccia.recipes import Overflow, Rounding


def encode(xp: Primitives, x: Array, fmt: Format, rounding: Rounding, overflow: Overflow) -> Array:
    """`encode` of a float32 NumPy array for a format of at most 8 bits, by one gather for each element."""
    table = _table(xp, fmt, rounding, overflow)
    bits = np.ascontiguousarray(x).view(np.uint32)
    dropped = np.uint32(32 - key_bits(fmt))
    low = np.uint32((1 << int(dropped)) - 1)
    key = bits & low
    key += low  # carries into the last kept bit exactly if a dropped bit is set
    key |= bits
    key >>= dropped
    return table.take(key, mode="clip")


def key_bits(fmt: Format) -> int:
    """How many leading bits of a float32, the last one made sticky, decide the code."""
    mantissa = fmt.mantissa_bits if fmt.kind == "float" else fmt.bits - 1 - fmt.signed
    return max(16, 11 + mantissa)


@lru_cache(maxsize=256)
def _table(xp: Primitives, fmt: Format, rounding: Rounding, overflow: Overflow) -> Array:
    width = key_bits(fmt)
    keys = np.arange(1 << width, dtype=np.uint32) << np.uint32(32 - width)
    table = bit_encode(xp, keys.view(np.float32), fmt, rounding, overflow, None)
    table.setflags(write=False)
    return table
