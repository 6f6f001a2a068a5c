"""What emitted code calls besides its array namespace. `xp` comes first: the namespace that the arrays belong to.

Numerics is `breccia.numerics`; this file only brings the codes of tiles to it. Loads neither xDSL nor a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import ml_dtypes
import numpy as np

from breccia import formats, numerics, recipes
from breccia.numerics import elementwise
from breccia.recipes import Recipe
from breccia.targets.numpy import _decode

Array = Any
P = ParamSpec("P")
R = TypeVar("R")
Spread = tuple[Array, tuple[int | None, ...]]

divide, erf, gelu, gelu_tanh = elementwise.divide, elementwise.erf, elementwise.gelu, elementwise.gelu_tanh
relu, sigmoid, silu = elementwise.relu, elementwise.sigmoid, elementwise.silu

recipe = recipes.spelled

at = np.s_
"""`at[0:4, :]` is the index that `x[0:4, :]` uses."""

_NAMES = {"f64": "float64", "f32": "float32", "f16": "float16", "i1": "bool_", "i32": "int32", "i64": "int64"}
_PACKED = {"packed4": formats.uint4, "packed6": formats.float6_e2m3fn}


def quiet(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with IEEE results (infinity, NaN) instead of NumPy's warnings."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return call


# -- arrays ------------------------------------------------------------------------------------------------------------


def _dtype(xp: Any, name: str) -> Any:
    """The namespace's dtype of an IR dtype; bytes for codes."""
    if name == "bf16":
        return ml_dtypes.bfloat16 if xp is np else xp.bfloat16
    return getattr(xp, _NAMES.get(name, "uint8"))


def full(xp: Any, shape: tuple[int, ...], value: float, dtype: str) -> Array:
    """An array of one value."""
    return xp.full(shape, value, dtype=_dtype(xp, dtype))


def empty(xp: Any, shape: tuple[int, ...], dtype: str) -> Array:
    """An array that is stored into before it is read."""
    return xp.empty(shape, dtype=_dtype(xp, dtype))


def store(xp: Any, target: Array, index: Any, value: Array, combine: str | None = None) -> Array:
    """`target` with `value` at `index`, added to or the larger of what is there if `combine` says so."""
    if combine is not None:
        value = {"add": xp.add, "max": xp.maximum}[combine](target[index], value)
    target[index] = value
    return target


def iota(xp: Any, start: int, size: int, axis: int, rank: int, dtype: str) -> Array:
    """`start`, `start + 1`, ... along `axis`; the other axes have size 1."""
    values = xp.arange(start, start + size, dtype=_dtype(xp, dtype))
    return values.reshape((1,) * axis + (size,) + (1,) * (rank - axis - 1))


def convert(xp: Any, x: Array, dtype: str) -> Array:
    """`x` in a float or integer dtype, rounded once to nearest even; to an integer it saturates, and NaN becomes 0."""
    name = str(x.dtype).rpartition(".")[2]
    if dtype in ("i32", "i64"):
        return _integers(xp, x, dtype, name)
    if dtype == "i1":
        return x != 0
    if name == "float64" and dtype in ("f16", "bf16"):
        x = x.astype(_dtype(xp, "f32"))
    return x.astype(_dtype(xp, dtype))


def _integers(xp: Any, x: Array, dtype: str, source: str) -> Array:
    info = np.iinfo(_NAMES[dtype])
    if not source.startswith(("float", "bfloat")):
        return xp.clip(x.astype(xp.int64), info.min, info.max).astype(_dtype(xp, dtype))
    wide = xp.round(x.astype(xp.float64))
    inside = (wide >= info.min) & (wide < float(info.max))
    out = xp.where(inside, wide, 0.0).astype(_dtype(xp, dtype))
    return xp.where(wide >= float(info.max), info.max, xp.where(wide < info.min, info.min, out)).astype(
        _dtype(xp, dtype)
    )


def expand(xp: Any, x: Array, axis: int, by: int, to: int) -> Array:
    """Every entry of an axis `by` times, cut off at `to` elements."""
    if x.shape[axis] == 1:
        return xp.broadcast_to(x, (*x.shape[:axis], to, *x.shape[axis + 1 :]))
    return xp.repeat(x, by, axis=axis)[(slice(None),) * axis + (slice(to),)]


def stop_gradient(_xp: Any, x: Array) -> Array:
    """`x`: NumPy has no gradients."""
    return x


def straight_through(_xp: Any, _x: Array, value: Array) -> Array:
    """`value`: NumPy has no gradients."""
    return value


# -- sums and maxima ---------------------------------------------------------------------------------------------------


def sum(xp: Any, x: Array, axes: tuple[int, ...]) -> Array:
    """The sum over `axes`, which stay with size 1, in the dtype of x."""
    return xp.sum(x, axis=axes, keepdims=True, dtype=x.dtype)


def amax(xp: Any, x: Array, axes: tuple[int, ...]) -> Array:
    """The largest |x|; 0 of nothing, NaN where there is NaN."""
    return max(xp, xp.abs(x), axes) if _has_entries(x, axes) else _of_nothing(xp, x, axes, 0)


def max(xp: Any, x: Array, axes: tuple[int, ...]) -> Array:
    """The largest entry, NaN where there is NaN; the smallest number of the dtype of nothing."""
    if not _has_entries(x, axes):
        return _of_nothing(xp, x, axes, _bounds(x)[0])
    return xp.max(x, axis=axes, keepdims=True)


def min(xp: Any, x: Array, axes: tuple[int, ...]) -> Array:
    """The smallest entry, NaN where there is NaN; the largest number of the dtype of nothing."""
    if not _has_entries(x, axes):
        return _of_nothing(xp, x, axes, _bounds(x)[1])
    return xp.min(x, axis=axes, keepdims=True)


def _has_entries(x: Array, axes: tuple[int, ...]) -> bool:
    return all(x.shape[axis] for axis in axes)


def _bounds(x: Array) -> tuple[float, float]:
    name = str(x.dtype).rpartition(".")[2]
    if name.startswith("int"):
        return np.iinfo(name).min, np.iinfo(name).max
    return (False, True) if name.startswith("bool") else (-float("inf"), float("inf"))


def _of_nothing(xp: Any, x: Array, axes: tuple[int, ...], value: float) -> Array:
    return xp.full(tuple(1 if i in axes else n for i, n in enumerate(x.shape)), value, dtype=x.dtype)


# -- codes -------------------------------------------------------------------------------------------------------------


def decode(xp: Any, codes: Array, fmt: str, size: int | None = None) -> Array:
    """float32 values of codes, one a byte; with `size`, of packed bytes that hold `size` codes along the last axis."""
    return dequantize(xp, codes, fmt, size=size)


def dequantize(
    _xp: Any, codes: Array, fmt: str, scales: Sequence[Spread] = (), zero: Spread | None = None, size: int | None = None
) -> Array:
    """`((E(e) - zero) * scales[0]) * scales[1] ...`, rounded to float32 after each step.

    scales, zero: pairs of a float32 array with one entry for each block, and the block: its elements along each axis,
    None where one entry serves the axis.

    >>> codes, scale = np.array([[1, 7]], np.uint8), np.float32([[2.0]])
    >>> dequantize(np, codes, "float4_e2m1fn", ((scale, (1, 2)),)).tolist()
    [[1.0, 12.0]]
    """
    return _decode.dequantize(codes, formats.find(fmt), scales, zero, size)


def weight_product(
    xp: Any, x: Array, codes: Array, fmt: str, scale: Array, scale_fmt: str, block: int, offset: Array | None = None,
    size: int | None = None,
) -> Array:  # fmt: skip
    """`x` [m, k] times the transpose of a weight [n, k], decoded: blocks of `block` along k have a scale, as stored.

    offset: float32, of each block, added to what is decoded.
    """
    grid = decode(xp, scale, scale_fmt) if formats.find(scale_fmt).bits <= 8 else scale.astype(xp.float32)
    values = dequantize(xp, codes, fmt, ((grid, (1, block)),), size=size)
    if offset is not None:
        values = values + expand(xp, offset, 1, block, values.shape[1])
    return xp.matmul(x, values.T)


def encode(xp: Any, x: Array, fmt: str) -> Array:
    """Codes of values, rounded to nearest even and saturated."""
    return numerics.encode(x.astype(_dtype(xp, "f32")), formats.find(fmt))


def unpack(_xp: Any, packed: Array, order: str, size: int) -> Array:
    """Codes, one a byte, from packed bytes."""
    return numerics.unpack(packed, _PACKED[order], size)


def pack(_xp: Any, codes: Array, order: str) -> Array:
    """Packed bytes from codes, one a byte."""
    return numerics.pack(codes, _PACKED[order])


def quantize(
    _xp: Any,
    x: Array,
    recipe: Recipe,
    given: tuple[Array, ...] = (),
    seed: Array | None = None,
    origin: tuple[int, ...] = (),
    extent: tuple[int, ...] = (),
) -> tuple[Array, ...]:
    """Components of `x` by `recipe`: elements, scales that are not given, zero point, offset.

    origin, extent: where `x` begins in its tensor, and that tensor's shape; stochastic rounding belongs to elements.
    """
    return numerics.quantize_tile(x, recipe, given, None if seed is None else int(seed), origin, extent)


def scale_from_amax(_xp: Any, amax: Array, recipe: Recipe, level: int) -> Array:
    """Stored scales of a level from the amax of its blocks, in its shape."""
    return numerics.level_scales(amax, recipe, level)


def history_update(xp: Any, history: Array, amax: Array) -> Array:
    """The history one step on: the oldest entry (first) leaves, `amax` enters last."""
    return xp.concatenate((history[1:], amax.reshape((1,))))


def amax_from_history(xp: Any, history: Array, rule: str) -> Array:
    """The largest, or the most recent (last), amax; shape (1,)."""
    return history[-1:] if rule == "most_recent" else max(xp, history, (0,))
