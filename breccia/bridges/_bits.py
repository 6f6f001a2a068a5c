"""Codes in streams of bits and in words, on NumPy: the packing orders that differ from canonical storage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from breccia.bridges._common import HostArray
from breccia.errors import FormatError


def unpack_stream(octets: HostArray, bits: int, length: int) -> HostArray:
    """Codes of `bits` bits, lying without gaps along the last axis, lowest bits first: (..., bytes) to (..., length).

    >>> unpack_stream(np.array([[0b10_001_000, 0b1]], np.uint8), 3, 3).tolist()
    [[0, 1, 6]]
    """
    if octets.shape[-1] * 8 < bits * length:
        raise FormatError(f"{length} codes of {bits} bits take {bits * length} bits; there are {8 * octets.shape[-1]}")
    octets = np.ascontiguousarray(octets)
    if bits == 8:
        return octets[..., :length]
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = octets[..., None] >> shifts & np.uint8((1 << bits) - 1)
        return codes.reshape(*octets.shape[:-1], -1)[..., :length]
    single = np.unpackbits(octets, axis=-1, bitorder="little", count=bits * length)
    weights = (1 << np.arange(bits)).astype(np.uint8)
    return (single.reshape(*octets.shape[:-1], length, bits) * weights).sum(-1, dtype=np.uint8)


def pack_stream(codes: HostArray, bits: int, multiple: int = 1) -> HostArray:
    """The inverse of `unpack_stream`: bytes, as many as fill whole groups of `multiple`, padded with 0."""
    length = codes.shape[-1]
    nbytes = -(-bits * length // (8 * multiple)) * multiple
    made: HostArray
    if bits == 8:
        made = codes
    elif 8 % bits == 0:
        per = 8 // bits
        padded = np.zeros((*codes.shape[:-1], -(-length // per) * per), np.uint8)
        padded[..., :length] = codes
        parts = padded.reshape(*codes.shape[:-1], -1, per)
        made = np.zeros(parts.shape[:-1], np.uint8)
        for i in range(per):
            made |= parts[..., i] << np.uint8(i * bits)
    else:
        single = np.unpackbits(codes[..., None], axis=-1, bitorder="little", count=bits)
        made = np.packbits(single.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")
    out = np.zeros((*codes.shape[:-1], nbytes), np.uint8)
    out[..., : made.shape[-1]] = made
    return out


def unpack_words(words: HostArray, bits: int, order: Sequence[int] | None = None) -> HostArray:
    """Codes in 32-bit words along the last axis: (..., words) to (..., words * 32 / bits).

    order: which column of a word its i-th lowest code is; None for the order of columns.
    """
    per = 32 // bits
    codes = unpack_stream(octets_of(words), bits, words.size // max(words[..., 0].size, 1) * per)
    if order is None:
        return codes
    grouped = codes.reshape(*words.shape, per)
    made = np.empty_like(grouped)
    made[..., list(order)] = grouped
    return made.reshape(codes.shape)


def pack_words(codes: HostArray, bits: int, order: Sequence[int] | None = None) -> HostArray:
    """The inverse of `unpack_words`, as int32; the last axis must fill whole words."""
    per = 32 // bits
    if order is not None:
        codes = codes.reshape(*codes.shape[:-1], -1, per)[..., list(order)].reshape(codes.shape)
    return pack_stream(np.ascontiguousarray(codes), bits, 4).view("<i4").astype(np.int32, copy=False)


def octets_of(x: HostArray) -> HostArray:
    """The bytes of an array along its last axis, little-endian."""
    x = np.ascontiguousarray(x.astype(x.dtype.newbyteorder("<"), copy=False))
    return x.view(np.uint8)  # of an array of one axis or more, its last axis longer
