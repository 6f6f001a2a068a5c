"""What emitted kernels do to tiles besides `jax.numpy`: this module is their `tiles`.

All of it is traced into the kernel. Numerics is `breccia.numerics`, over the primitives that TPUs' compiler takes.
"""

# The library's annotations are partial, and some of what it exports is not in them.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import tpu as pltpu

from breccia import formats, numerics, recipes
from breccia.arrays import namespace, within
from breccia.recipes import Recipe

Array = Any
recipe = recipes.spelled

PRIMITIVES = "jax_tiles"
_PACKED = {"packed4": formats.uint4, "packed6": formats.float6_e2m3fn}
_TYPED = {"float8_e4m3fn": jnp.float8_e4m3fn, "float8_e5m2": jnp.float8_e5m2, "int8": jnp.int8}
"""Formats that products take as they are."""


# -- windows -----------------------------------------------------------------------------------------------------------


def cut(x: Array, axis: int, start: Any, size: int) -> Array:
    """`size` entries of a block from `start` on, along one of its last two axes.

    Blocks are whole native tiles, which are turned so that the window comes first: only words of 32 bits turn.
    """
    narrow = x.dtype
    wide = x if narrow.itemsize == 4 else x.astype(jnp.float32 if narrow == jnp.bfloat16 else jnp.int32)
    if not (isinstance(start, int) and start == 0):
        whole = x.shape[axis]
        wide = pltpu.roll(wide, (whole - start) % whole, x.ndim + axis)
    return lax.slice_in_dim(wide, 0, size, axis=x.ndim + axis).astype(narrow)


def put(block: Array, x: Array, *places: tuple[int, Any]) -> Array:
    """`block` with `x` in it: each place is an axis along which `x` is shorter, and where it begins there."""
    narrow = block.dtype
    wide = jnp.float32 if narrow in (jnp.bfloat16, jnp.float32) else jnp.int32
    new, inside = x.astype(wide), jnp.full(block.shape, True)
    for axis, start in places:
        axis, size, whole = block.ndim + axis, x.shape[axis], block.shape[axis]
        place_ = lax.broadcasted_iota(jnp.int32, block.shape, axis)
        inside = inside & (place_ >= start) & (place_ < start + size)
        if size != 1:
            rest = [whole - size if i == axis else n for i, n in enumerate(new.shape)]
            new = jnp.concatenate([new, jnp.zeros(rest, wide)], axis) if whole > size else new
            new = new if isinstance(start, int) and start == 0 else pltpu.roll(new, start, axis)
    return jnp.where(inside, new, block.astype(wide)).astype(narrow)


def inside(x: Array, axis: int, begin: Any, end: Any) -> Array:
    """Which entries of a tile lie from `begin` to `end` on an axis."""
    place_ = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return (place_ >= begin) & (place_ < end)


def mask(x: Array, axis: int, valid: Any, value: Any) -> Array:
    """A tile with `value` from entry `valid` of an axis on."""
    return jnp.where(lax.broadcasted_iota(jnp.int32, x.shape, axis) < valid, x, jnp.asarray(value, x.dtype))


def iota(shape: tuple[int, ...], axis: int) -> Array:
    """0, 1, ... along an axis, as int32."""
    return lax.broadcasted_iota(jnp.int32, shape, axis)


def expand(x: Array, axis: int, by: int, to: int) -> Array:
    """Every entry of an axis `by` times, cut off at `to` elements."""
    with within(PRIMITIVES):
        ratio = tuple(by if i == axis else 1 for i in range(x.ndim))
        return namespace(x).expand(x, ratio, tuple(to if i == axis else n for i, n in enumerate(x.shape)))


# -- codes -------------------------------------------------------------------------------------------------------------


def decode(codes: Array, fmt: str) -> Array:
    """float32 values of codes, one each."""
    with within(PRIMITIVES):
        return numerics.decode(codes, formats.find(fmt))


def encode(x: Array, fmt: str) -> Array:
    """Codes of values, rounded to nearest even and saturated; float16 has its infinity."""
    with within(PRIMITIVES):
        return numerics.encode(x, formats.find(fmt), overflow="nan" if fmt == "float16" else "saturate")


def unpack(packed: Array, order: str, size: int) -> Array:
    """Codes, one a byte, from packed bytes."""
    with within(PRIMITIVES):
        return numerics.unpack(packed, _PACKED[order], size)


def pack(codes: Array, order: str) -> Array:
    """Packed bytes from codes, one a byte."""
    with within(PRIMITIVES):
        return numerics.pack(codes, _PACKED[order], checked=True)


def quantize(
    x: Array, recipe: Recipe, *, given: tuple[Array, ...] = (), seed: Any = None, origin: tuple[Any, ...] = (),
    extent: tuple[int, ...] = (),
) -> tuple[Array, ...]:  # fmt: skip
    """Components of a tile by `recipe`: elements, scales that are not given, zero point, offset."""
    with within(PRIMITIVES):
        return numerics.quantize_tile(x, recipe, given, seed, origin, extent)


def level_scales(amax: Array, recipe: Recipe, level: int) -> Array:
    """Stored scales of a level from the amax of its blocks, in its shape."""
    with within(PRIMITIVES):
        return numerics.level_scales(amax, recipe, level)


def to_integers(x: Array) -> Array:
    """float32 to the nearest int32, ties to even; saturates, and NaN becomes 0."""
    whole = jnp.round(x)
    inside_ = jnp.where(whole == whole, jnp.clip(whole, -2147483648.0, 2147483520.0), 0.0).astype(jnp.int32)
    return jnp.where(whole > 2147483520.0, 2147483647, inside_)


def history_update(history: Array, amax: Array) -> Array:
    """The history one step on: the oldest entry (first) leaves, `amax` enters last."""
    return jnp.concatenate((history[1:], amax.reshape((1,))))


def amax_from_history(history: Array, rule: str) -> Array:
    """The largest, or the most recent (last), amax; shape (1,)."""
    return history[-1:] if rule == "most_recent" else jnp.max(history, 0, keepdims=True)


# -- products ----------------------------------------------------------------------------------------------------------


def operand(codes: Array, fmt: str) -> Array:
    """Codes in the narrowest dtype that products take and that has all their values.

    4-bit floats are multiplied as FP8 and 4-bit integers as int8, which no TPU multiplies slower.
    """
    if fmt in _TYPED:
        return lax.bitcast_convert_type(codes, _TYPED[fmt])
    format_ = formats.find(fmt)
    wide = codes.astype(jnp.int32)
    if format_.kind == "int" and format_.signed and not format_.fraction_bits:
        half = 1 << (format_.bits - 1)
        return ((wide ^ half) - half).astype(jnp.int8)
    if fmt == "float4_e2m1fn":
        return decode(codes, fmt).astype(jnp.float8_e4m3fn)
    return decode(codes, fmt)


def dot(a: Array, b: Array, form: str) -> Array:
    """The float32 product of two tiles; `nt` is a [m, k] times b [n, k]."""
    dimensions = (((1 if form[0] == "n" else 0,), (0 if form[1] == "n" else 1,)), ((), ()))
    if a.dtype == jnp.int8 and b.dtype == jnp.int8:
        return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.int32).astype(jnp.float32)
    if a.dtype != b.dtype and not (
        a.dtype.itemsize == 1 and b.dtype.itemsize == 1 and jnp.int8 not in (a.dtype, b.dtype)
    ):
        common = jnp.float32 if jnp.float32 in (a.dtype, b.dtype) else jnp.bfloat16
        a, b = a.astype(common), b.astype(common)
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


# -- functions ---------------------------------------------------------------------------------------------------------


def erf(x: Array) -> Array:
    """The error function."""
    return lax.erf(x)


def gelu(x: Array) -> Array:
    """The Gaussian error linear unit, by erf."""
    return np.float32(0.5) * x * (1 + lax.erf(x * np.float32(0.7071067811865476)))


def gelu_tanh(x: Array) -> Array:
    """The Gaussian error linear unit, by tanh."""
    inner = np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (1 + jnp.tanh(inner))
