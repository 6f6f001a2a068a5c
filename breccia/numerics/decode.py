"""Codes of any format to float32, exactly."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np

from breccia.arrays import Array, Primitives, namespace
from breccia.errors import DTypeError, FormatError, UnsupportedError
from breccia.formats import Format
from breccia.numerics.bits import NAN, float32_bits


def decode(codes: Any, fmt: Format) -> Array:
    """The float32 values of `codes`, same shape.

    codes: unsigned bit patterns (uint8 up to 8 bits, uint16 for 16, uint32 for 32), or, for float32, float16 and
    bfloat16,
        an array of that dtype itself. E8M0's code 0 is 2**-127 and its code 255 is NaN.

    Raises FormatError for a code that the format does not have (a high nibble that is not zero), DTypeError for a dtype
    that holds no codes.

    >>> from breccia import formats
    >>> import numpy as np
    >>> decode(np.array([7, 9], np.uint8), formats.float4_e2m1fn).tolist()
    [6.0, -0.5]
    """
    xp = namespace(codes)
    name = xp.dtype_name(codes)
    if fmt.bits > 32:
        raise UnsupportedError(f"cannot decode {fmt.name} into float32; use float32 or narrower")
    if fmt.bits > 8 and fmt.kind == "float":
        return _wide(xp, codes, fmt, name)
    if name != "uint8":
        raise DTypeError(f"codes of {fmt.name} are uint8, not {name}; take the bits with .view(np.uint8)")
    if fmt.bits < 8 and xp.surely_any(codes >= (1 << fmt.bits)):
        raise FormatError(
            f"a code is outside {fmt.name}, whose codes are 0 to {(1 << fmt.bits) - 1}; mask with & first"
        )
    return _looked_up(xp, codes, fmt)


def _looked_up(xp: Primitives, codes: Array, fmt: Format) -> Array:
    """By a table, where the library has no way of its own."""
    found = xp.native_decode(codes, fmt)
    return xp.take(table(fmt), codes) if found is None else found


@lru_cache(maxsize=128)
def table(fmt: Format) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 values of every byte (or, of a wide format, every 16-bit pattern); NaN where a byte is no code."""
    bits = code_bits(fmt) if fmt.bits <= 8 else _code_bits_16(fmt)
    padded = (*bits, *(NAN for _ in range(256 - len(bits))))
    values = np.array(padded, np.uint32).view(np.float32)
    values.setflags(write=False)
    return values


def _wide(xp: Primitives, codes: Array, fmt: Format, name: str) -> Array:
    if name == fmt.name:
        return xp.as_float32(codes)
    if name not in (fmt.name, f"uint{fmt.bits}"):
        raise DTypeError(f"codes of {fmt.name} are {fmt.name} or uint{fmt.bits}, not {name}")
    if fmt.bits == 32:
        return xp.bitcast(codes, "float32")
    codes = xp.convert(codes, "uint32")
    if fmt.exponent_bits == 8:
        return xp.bitcast(codes << 16, "float32")
    return _looked_up(xp, codes, fmt)


@lru_cache(maxsize=64)
def element_range(fmt: Format) -> tuple[float, float]:
    """The smallest and the largest finite value of a format of at most 8 bits.

    >>> from breccia import formats
    >>> element_range(formats.int4)
    (-8.0, 7.0)
    """
    values = [float(fmt.decode_code(code)) for code in range(1 << fmt.bits)]
    finite = [v for v in values if v - v == 0]
    return min(finite), max(finite)


@lru_cache(maxsize=64)
def code_bits(fmt: Format) -> tuple[int, ...]:
    """float32 bits of every code of a format of at most 8 bits."""
    return tuple(float32_bits(fmt.decode_code(code)) for code in range(1 << fmt.bits))


@lru_cache(maxsize=4)
def _code_bits_16(fmt: Format) -> tuple[int, ...]:
    values = [fmt.decode_code(code) for code in range(1 << 15)]
    # Every value is a float32, so that no rounding is needed and struct's conversion is exact.
    positive = [NAN if v != v else struct.unpack("<I", struct.pack("<f", v))[0] for v in values]
    return (*positive, *(b | 0x80000000 for b in positive))
