"""Blocks and sub-byte storage on JAX, in the forms that XLA on CPU fuses without computing anything twice."""

from __future__ import annotations

from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from breccia.recipes import Block

Array = Any
_STEP = 32
"""How much of an axis is reduced at a time: XLA on CPU first writes the operand of a longer reduction to memory."""


def largest(x: Array, block: Block, empty: Any) -> Array:
    """The largest integer of every block; `empty`, in the dtype of x, is the smallest there is.

    In steps, which alternate between maxima of numbers and minima of their complements: XLA would join steps of one
    kind.
    """
    for axis in reversed(range(x.ndim)):
        size, width = x.shape[axis], block[axis]
        count, wide = (1, max(size, 1)) if width is None else (-(-size // width), width)
        lead, trail = x.shape[:axis], x.shape[axis + 1 :]
        rows, columns = prod(lead) * count, prod(trail)
        x = jnp.reshape(lengthened(x, axis, count * wide, empty), (rows, wide, columns))
        complement = False
        while wide > 1:
            step = max((n for n in range(8, _STEP + 1) if wide % n == 0), default=min(wide, _STEP))
            parts = -(-wide // step)
            x = lengthened(x, 1, parts * step, ~empty if complement else empty)
            x = jnp.reshape(x, (rows * parts, step, columns))
            x = ~(jnp.min(x, 1) if complement else jnp.max(x, 1))
            x, wide, complement = jnp.reshape(x, (rows, parts, columns)), parts, not complement
        x = jnp.reshape(~x if complement else x, (*lead, count, *trail))
    return x


def lengthened(x: Array, axis: int, size: int, value: Any) -> Array:
    """`x` with an axis filled up to `size`."""
    if x.shape[axis] == size:
        return x
    after = [(0, size - n if i == axis else 0) for i, n in enumerate(x.shape)]
    return jnp.pad(x, after, constant_values=value)


def expand(grid: Array, ratio: Block, shape: tuple[int, ...]) -> Array:
    """Repeat entry i of `grid` along each axis for `ratio` places, cut to `shape`; a ratio of None fills the axis."""
    for axis, (count, size) in enumerate(zip(ratio, shape, strict=True)):
        if count == 1 or (count is None and size == 1):
            continue
        if count is None:
            grid = jnp.broadcast_to(grid, (*grid.shape[:axis], size, *grid.shape[axis + 1 :]))
        else:
            grid = lax.slice_in_dim(jnp.repeat(grid, count, axis=axis), 0, size, axis=axis)
    return grid


# -- sub-byte storage --------------------------------------------------------------------------------------------------


def _words_of(codes: Array, dtype: str) -> Array:
    """As many codes as a word has bytes, the first in the lowest; the last word is filled up with code 0.

    Codes taken apart by strides instead would be computed once for each byte of a word by XLA.
    """
    count = jnp.dtype(dtype).itemsize
    length = -(-codes.shape[-1] // count)
    codes = lengthened(codes, codes.ndim - 1, length * count, np.uint8(0))
    return lax.bitcast_convert_type(codes.reshape(*codes.shape[:-1], length, count), jnp.dtype(dtype))


def pack_nibbles(codes: Array) -> Array:
    """Two codes a byte along the last axis, the first in the low nibble; an odd length is padded with code 0."""
    pairs = _words_of(codes, "uint16")
    return (pairs | (pairs >> 4)).astype(jnp.uint8)


def unpack_nibbles(packed: Array, length: int) -> Array:
    """Inverse of `pack_nibbles` for a last axis of `length` codes."""
    pairs = jnp.stack([packed & 15, packed >> 4], -1)
    return pairs.reshape(*packed.shape[:-1], 2 * packed.shape[-1])[..., :length]


def pack_sixes(codes: Array) -> Array:
    """Four codes in three bytes along the last axis: a little-endian word of 24 bits, the first code lowest."""
    words = _words_of(codes, "uint32")
    words = (words & 0x3F) | ((words >> 2) & 0xFC0) | ((words >> 4) & 0x3F000) | ((words >> 6) & 0xFC0000)
    triples = lax.bitcast_convert_type(words, jnp.uint8)[..., :3]
    return triples.reshape(*codes.shape[:-1], words.shape[-1] * 3)


def unpack_sixes(packed: Array, length: int) -> Array:
    """Inverse of `pack_sixes` for a last axis of `length` codes."""
    words = packed.shape[-1] // 3
    triples = packed.reshape(*packed.shape[:-1], words, 3)
    a, b, c = triples[..., 0], triples[..., 1], triples[..., 2]
    codes = jnp.stack([a & 63, (a >> 6) | ((b & 15) << 2), (b >> 4) | ((c & 3) << 4), c >> 2], -1)
    return codes.reshape(*packed.shape[:-1], words * 4)[..., :length]
