"""What emitted code calls besides its array namespace, on PyTorch, JAX and MLX: `runtime` without NumPy.

Nothing here writes into an array that somebody else holds, waits for a device, or needs a dtype of 64 bits, so that
emitted code runs inside `jax.jit`, `torch.compile` and `mx.compile`, and can be differentiated by the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from breccia import formats, numerics
from breccia.arrays import Array, namespace
from breccia.numerics import elementwise
from breccia.recipes import Recipe
from breccia.targets.numpy import runtime

Spread = tuple[Array, tuple[int | None, ...]]

divide, erf, gelu, gelu_tanh = elementwise.divide, elementwise.erf, elementwise.gelu, elementwise.gelu_tanh
relu = elementwise.relu
at, quiet, recipe = runtime.at, runtime.quiet, runtime.recipe

_NAMES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i1": "bool", "i32": "int32",
    "i64": "int64",
}  # fmt: skip
_LARGEST = {"int32": 2147483520.0, "int64": 9.223371487098962e18}
"""The largest float32 that an integer dtype holds."""


def sigmoid(xp: Any, x: Array) -> Array:
    """1 / (1 + exp(-x)) by the library's own function, whose gradient does not overflow."""
    return xp.sigmoid(x)


def silu(xp: Any, x: Array) -> Array:
    """X * sigmoid(x)."""
    return x * xp.sigmoid(x)


def full(xp: Any, shape: tuple[int, ...], value: Any, dtype: str) -> Array:
    """An array of one value."""
    return xp.full(shape, value, _NAMES.get(dtype, "uint8"))


def empty(xp: Any, shape: tuple[int, ...], dtype: str) -> Array:
    """An array that is stored into before it is read."""
    return full(xp, shape, 0, dtype)


def store(xp: Any, target: Array, index: Any, value: Array, combine: str | None = None) -> Array:
    """`target` with `value` at `index`, added to or the larger of what is there if `combine` says so."""
    if combine is not None:
        there = target[index]
        value = there + value if combine == "add" else xp.maximum(there, value)
    return xp.store(target, index, value)


def iota(xp: Any, start: int, size: int, axis: int, rank: int, dtype: str) -> Array:
    """`start`, `start + 1`, ... along `axis`; the other axes have size 1."""
    values = xp.arange(start, start + size, _NAMES[dtype])
    return values.reshape((1,) * axis + (size,) + (1,) * (rank - axis - 1))


def convert(xp: Any, x: Array, dtype: str) -> Array:
    """`x` in a float or integer dtype, rounded once to nearest even; to an integer it saturates, and NaN becomes 0."""
    primitives = namespace(x)
    name = primitives.dtype_name(x)
    if dtype == "i1":
        return x != 0
    if dtype in ("i32", "i64"):
        return _integers(xp, x, dtype, name)
    if name in ("bfloat16", "float16") and dtype == "f32":
        return primitives.as_float32(x)
    if name == "float64" and dtype in ("f16", "bf16"):
        x = primitives.convert(x, "float32")
    return primitives.convert(x, _NAMES[dtype])


def _integers(xp: Any, x: Array, dtype: str, source: str) -> Array:
    primitives = namespace(x)
    target = _NAMES[dtype] if xp.wide else "int32"
    largest = int(np.iinfo(target).max)
    if not source.startswith(("float", "bfloat")):
        if source == "int64" and target == "int32":
            x = primitives.minimum(primitives.maximum(x, -largest - 1), largest)
        return primitives.convert(x, target)
    limit = _LARGEST[target]
    whole = xp.round(primitives.convert(x, "float32"))
    inside = primitives.where(whole == whole, primitives.minimum(primitives.maximum(whole, -limit), limit), 0.0)
    made = primitives.where(whole > limit, largest, primitives.convert(inside, target))
    return primitives.where(whole < -limit, -largest - 1, made)


def expand(xp: Any, x: Array, axis: int, by: int, to: int) -> Array:
    """Every entry of an axis `by` times, cut off at `to` elements."""
    if x.shape[axis] == 1:
        return xp.broadcast_to(x, (*x.shape[:axis], to, *x.shape[axis + 1 :]))
    ratio = tuple(by if i == axis else 1 for i in range(len(x.shape)))
    wanted = tuple(to if i == axis else n for i, n in enumerate(x.shape))
    return namespace(x).expand(x, ratio, wanted)


def stop_gradient(_xp: Any, x: Array) -> Array:
    """`x` as a constant to differentiation."""
    return namespace(x).stop_gradient(x)


def straight_through(_xp: Any, x: Array, value: Array) -> Array:
    """`value`, whose gradient goes to `x`."""
    return namespace(value).straight_through(x, value)


# -- sums and maxima ---------------------------------------------------------------------------------------------------


def sum(xp: Any, x: Array, axes: tuple[int, ...]) -> Array:
    """The sum over `axes`, which stay with size 1, in the dtype of x."""
    return xp.sum(x, axes)


def amax(xp: Any, x: Array, axes: tuple[int, ...]) -> Array:
    """The largest |x|; 0 of nothing, NaN where there is NaN."""
    return max(xp, xp.abs(x), axes) if _has_entries(x, axes) else _of_nothing(xp, x, axes, 0)


def max(xp: Any, x: Array, axes: tuple[int, ...]) -> Array:
    """The largest entry, NaN where there is NaN; the smallest number of the dtype of nothing."""
    return xp.max(x, axes) if _has_entries(x, axes) else _of_nothing(xp, x, axes, _bounds(x)[0])


def min(xp: Any, x: Array, axes: tuple[int, ...]) -> Array:
    """The smallest entry, NaN where there is NaN; the largest number of the dtype of nothing."""
    return xp.min(x, axes) if _has_entries(x, axes) else _of_nothing(xp, x, axes, _bounds(x)[1])


def _has_entries(x: Array, axes: tuple[int, ...]) -> bool:
    return all(x.shape[axis] for axis in axes)


def _bounds(x: Array) -> tuple[float, float]:
    name = namespace(x).dtype_name(x)
    if name.startswith("int"):
        return np.iinfo(name).min, np.iinfo(name).max
    return (False, True) if name.startswith("bool") else (-float("inf"), float("inf"))


def _of_nothing(xp: Any, x: Array, axes: tuple[int, ...], value: float) -> Array:
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return xp.full(shape, value, namespace(x).dtype_name(x))


# -- codes -------------------------------------------------------------------------------------------------------------


def decode(xp: Any, codes: Array, fmt: str, size: int | None = None) -> Array:
    """float32 values of codes, one a byte; with `size`, of packed bytes that hold `size` codes along the last axis."""
    return dequantize(xp, codes, fmt, size=size)


def dequantize(
    xp: Any, codes: Array, fmt: str, scales: Sequence[Spread] = (), zero: Spread | None = None, size: int | None = None
) -> Array:
    """`((E(e) - zero) * scales[0]) * scales[1] ...`, rounded to float32 after each step."""
    format_ = formats.find(fmt)
    if size is not None:
        codes = numerics.unpack(codes, format_, size)
    primitives = namespace(codes)
    x = numerics.decode(codes, format_)
    if zero is not None:
        x = x - _over(xp, zero, tuple(x.shape))
    for scale in scales:
        x = primitives.multiply(x, _over(xp, scale, tuple(x.shape)))
    return x


def weight_product(
    xp: Any, x: Array, codes: Array, fmt: str, scale: Array, scale_fmt: str, block: int, offset: Array | None = None,
    size: int | None = None,
) -> Array:  # fmt: skip
    """`x` times the transpose of a decoded weight, by the library's own product where it has one for such a weight."""
    native = getattr(xp, "weight_product", None)
    made = None if native is None else native(x, codes, fmt, scale, scale_fmt, block, offset)
    if made is not None:
        return made
    grid = decode(xp, scale, scale_fmt) if formats.find(scale_fmt).bits <= 8 else namespace(scale).as_float32(scale)
    values = dequantize(xp, codes, fmt, ((grid, (1, block)),), size=size)
    if offset is not None:
        values = values + expand(xp, offset, 1, block, values.shape[1])
    return xp.matmul(x, values.T)


def _over(xp: Any, spread: Spread, shape: tuple[int, ...]) -> Array:
    grid, block = spread
    for axis, width in enumerate(block):
        if width is not None and width > 1:
            grid = expand(xp, grid, axis, width, shape[axis])
    return grid


def encode(xp: Any, x: Array, fmt: str) -> Array:  # noqa: ARG001
    """Codes of values, rounded to nearest even and saturated."""
    return numerics.encode(x, formats.find(fmt))


def unpack(_xp: Any, packed: Array, order: str, size: int) -> Array:
    """Codes, one a byte, from packed bytes."""
    return runtime.unpack(_xp, packed, order, size)


def pack(_xp: Any, codes: Array, order: str) -> Array:
    """Packed bytes from codes, one a byte."""
    return runtime.pack(_xp, codes, order)


def quantize(
    _xp: Any,
    x: Array,
    recipe: Recipe,
    given: tuple[Array, ...] = (),
    seed: Array | None = None,
    origin: tuple[int, ...] = (),
    extent: tuple[int, ...] = (),
) -> tuple[Array, ...]:
    """Components of `x` by `recipe`: elements, scales that are not given, zero point, offset."""
    return numerics.quantize_tile(x, recipe, given, seed, origin, extent)


def scale_from_amax(_xp: Any, amax: Array, recipe: Recipe, level: int) -> Array:
    """Stored scales of a level from the amax of its blocks, in its shape."""
    return runtime.scale_from_amax(_xp, amax, recipe, level)


def history_update(xp: Any, history: Array, amax: Array) -> Array:
    """The history one step on: the oldest entry (first) leaves, `amax` enters last."""
    return xp.concatenate((history[1:], amax.reshape((1,))), 0)


def amax_from_history(xp: Any, history: Array, rule: str) -> Array:
    """The largest, or the most recent (last), amax; shape (1,)."""
    return history[-1:] if rule == "most_recent" else max(xp, history, (0,))
