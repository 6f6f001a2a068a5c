"""Sub-byte storage, canonical order: along the last axis, the first code in the lowest bits.

4 bits: two codes a byte. 6 bits: four codes in three bytes, a little-endian word of 24 bits. Other widths of at most
8 bits: one code a byte. A length that does not fill its last byte (or word) is padded with code 0.
"""

from __future__ import annotations

from breccia.arrays import Array, namespace
from breccia.errors import FormatError, ShapeError
from breccia.formats import Format


def packed_length(length: int, fmt: Format) -> int:
    """How many storage entries `length` codes take along the last axis.

    >>> from breccia import formats
    >>> packed_length(5, formats.float4_e2m1fn), packed_length(5, formats.float6_e2m3fn)
    (3, 6)
    """
    if fmt.bits == 4:
        return -(-length // 2)
    return -(-length // 4) * 3 if fmt.bits == 6 else length


def pack(codes: Array, fmt: Format, checked: bool = False) -> Array:
    """Codes (uint8, one each) to storage; raises FormatError for a code with bits above the format's.

    checked: such codes are known not to occur.

    >>> from breccia import formats
    >>> import numpy as np
    >>> pack(np.array([1, 7], np.uint8), formats.float4_e2m1fn).tolist()
    [113]
    """
    if fmt.bits not in (4, 6):
        return codes
    xp = namespace(codes)
    if not checked and xp.surely_any(codes >= (1 << fmt.bits)):
        raise FormatError(
            f"a code is outside {fmt.name}, whose codes are 0 to {(1 << fmt.bits) - 1}; mask with & first"
        )
    return xp.pack_nibbles(codes) if fmt.bits == 4 else xp.pack_sixes(codes)


def unpack(packed: Array, fmt: Format, length: int) -> Array:
    """Storage to codes (uint8, one each) with a last axis of `length`; raises ShapeError if `length` does not fit.

    >>> from breccia import formats
    >>> import numpy as np
    >>> unpack(np.array([113], np.uint8), formats.float4_e2m1fn, 2).tolist()
    [1, 7]
    """
    xp = namespace(packed)
    found = xp.shape(packed)[-1] if xp.shape(packed) else -1
    if found != packed_length(length, fmt):
        raise ShapeError(
            f"{length} codes of {fmt.name} take {packed_length(length, fmt)} bytes along the last axis, not {found}"
        )
    if fmt.bits not in (4, 6):
        return packed
    return xp.unpack_nibbles(packed, length) if fmt.bits == 4 else xp.unpack_sixes(packed, length)
