"""Arrays to the codes of any format: by table where one is faster, else by the definition in `bit_encode`."""

from __future__ import annotations

from typing import Any

from breccia.arrays import Array, Primitives, Words, namespace
from breccia.errors import RecipeError
from breccia.formats import Format
from breccia.numerics import tables
from breccia.numerics.bit_encode import bit_encode
from breccia.numerics.rounding import random_bits
from breccia.recipes import Overflow, Rounding


def encode(
    x: Any,
    fmt: Format,
    rounding: Rounding = "rne",
    overflow: Overflow = "saturate",
    seed: Any = None,
    index: Words | None = None,
    tame: bool = False,
) -> Array:
    """The codes of `x` in `fmt`: unsigned bit patterns (uint8, uint16 or uint32) of the same shape.

    x: array of any real dtype, taken to float32 first (`Primitives.as_float32`).
    overflow: `saturate` writes the largest finite value for what is too large, infinity included; `nan` writes what the
        format has for it: its infinity, else its NaN, else the largest value. NaN becomes NaN, or code 0 where the
        format has none (`quantize` then gives the block a NaN scale). Integers always saturate.
    seed, index: for stochastic rounding: a 64-bit key, a Python integer, an integer array of one entry, or its
        (high, low) words, and the (high, low) words of each element's flat index in the whole tensor, by default in x.
    tame: a promise that no entry is NaN, or larger than the largest finite element by more than a few roundings.

    Raises RecipeError for stochastic rounding without a seed, UnsupportedError for formats wider than float32.

    >>> from breccia import formats
    >>> encode([0.5, 5.0, -700.0], formats.float4_e2m1fn).tolist()
    [1, 6, 15]
    """
    xp = namespace(x)
    x = xp.as_float32(x)
    if not xp.shape(x):
        return xp.reshape(encode(xp.reshape(x, (1,)), fmt, rounding, overflow, seed, index), ())
    if rounding == "stochastic":
        return bit_encode(xp, x, fmt, rounding, overflow, _random(xp, x, seed, index))
    if xp.TABLES and fmt.bits <= 8 and fmt.kind != "codebook":
        return tables.encode(xp, x, fmt, rounding, overflow)
    codes = xp.native_encode(x, fmt, rounding, overflow, tame)
    return bit_encode(xp, x, fmt, rounding, overflow, None) if codes is None else codes


def _random(xp: Primitives, x: Array, seed: Any, index: Words | None) -> Array:
    if seed is None:
        raise RecipeError("stochastic rounding needs a seed: pass seed=<integer>; the same seed gives the same codes")
    if index is None:
        shape = xp.shape(x)
        index = xp.flat_index(shape, 0, row_major_strides(shape), x)
    return random_bits(xp, seed if isinstance(seed, tuple) else xp.seed_words(seed, x), index)


def row_major_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements between neighbours along each axis of a row-major array.

    >>> row_major_strides((2, 3, 4))
    (12, 4, 1)
    """
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
