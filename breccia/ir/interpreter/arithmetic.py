"""Conversions, sums and products of arrays: the meaning of `convert`, `reduce`, `matmul` and `dot`.

In f32 every sum runs in order of its index and rounds after each addition, so that it depends on neither memory layout
nor zeros appended to it; targets reassociate. In wide mode the order is left to BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from xdsl.ir import Attribute

from breccia import numerics
from breccia.ir.interpreter.values import Array, Mode, array_dtype
from breccia.ir.types import format_of


def convert(x: Array, source: Attribute, target: Attribute, mode: Mode) -> Array:
    """`x` of IR dtype `source` in `target`, rounded once to nearest even.

    To a format of 8 bits or fewer it saturates, and NaN becomes its NaN, or code 0. To an integer it saturates, and NaN
    becomes 0. f64 to a narrower float goes by way of f32.
    """
    if source == target:
        return x
    fmt_in, fmt_out = format_of(source), format_of(target)
    if fmt_in is not None and fmt_in.bits <= 8:
        x = numerics.decode(x, fmt_in).astype(mode.real)
    if fmt_out is not None and fmt_out.bits <= 8:
        return numerics.encode(x.astype(np.float32), fmt_out)
    name = str(target)
    if name == "i1":
        return x != 0
    if name in ("i32", "i64"):
        return to_integer(x, np.int32 if name == "i32" else np.int64)
    if name in ("f16", "bf16"):
        x = x.astype(np.float32)
    if name == "f32" and str(source) == "f64":
        x = x.astype(np.float32)
    return x.astype(array_dtype(target, mode.wide))


def to_integer(x: Array, dtype: type[np.signedinteger[Any]]) -> Array:
    """Floats to nearest even, integers as they are, both saturated to `dtype`; NaN becomes 0."""
    info = np.iinfo(dtype)
    if x.dtype.kind in "biu":
        return np.clip(x.astype(np.int64), info.min, info.max).astype(dtype)
    wide = np.rint(x.astype(np.float64))
    out = np.where((wide >= info.min) & (wide < float(info.max)), wide, 0).astype(dtype)
    return np.where(wide >= float(info.max), info.max, np.where(wide < info.min, info.min, out)).astype(dtype)


def real(x: Array, dtype: Attribute, mode: Mode) -> Array:
    """Floats or codes of IR dtype `dtype` as numbers that can be multiplied and added."""
    fmt = format_of(dtype)
    if fmt is not None and fmt.bits <= 8:
        return numerics.decode(x, fmt).astype(mode.real)
    return x.astype(mode.real)


def rounded(x: Array, dtype: Attribute | None, mode: Mode) -> Array:
    """`x` held in `dtype` (f16, bf16 or an element format) and read back; unchanged without one."""
    if dtype is None or str(dtype) in ("f32", "f64"):
        return x
    from breccia.formats import float32
    from breccia.ir.types import dtype_of

    return real(convert(x, dtype_of(float32), dtype, mode), dtype, mode)


def total(x: Array, axes: Sequence[int], mode: Mode) -> Array:
    """The sum over `axes`, which stay with size 1."""
    if x.dtype.kind != "f":
        return np.sum(x, axis=tuple(axes), keepdims=True, dtype=x.dtype)
    kept = [i for i in range(x.ndim) if i not in axes]
    count = prod(x.shape[i] for i in axes)
    flat = np.transpose(x, [*kept, *sorted(axes)]).reshape(*(x.shape[i] for i in kept), count)
    last = np.add.accumulate(flat, axis=-1)[..., -1:] if count else np.zeros((*flat.shape[:-1], 1), x.dtype)
    if mode.nudge is not None:
        last = last + mode.nudge(np.sum(np.abs(flat), axis=-1, keepdims=True), count)
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return last.reshape(shape).astype(x.dtype)


def product(a: Array, b: Array, mode: Mode) -> Array:
    """The matrix product over the last axis of `a` and the second to last of `b`; leading axes broadcast."""
    if mode.wide:
        out = np.matmul(a, b)
    else:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        out = np.zeros((*batch, a.shape[-2], b.shape[-1]), np.float32)
        for k in range(a.shape[-1]):
            out += a[..., :, k : k + 1] * b[..., k : k + 1, :]
    if mode.nudge is not None:
        out = (out + mode.nudge(np.matmul(np.abs(a), np.abs(b)), a.shape[-1])).astype(out.dtype)
    return out


def reduce(fn: str, x: Array, axes: Sequence[int], mode: Mode) -> Array:
    """`sum`, `max`, `min` or `amax` over `axes`, which stay with size 1. NaN wins; nothing gives the neutral value."""
    if fn == "sum":
        return total(x, axes, mode)
    if fn == "amax":
        return np.max(np.abs(x), axis=tuple(axes), keepdims=True, initial=0)
    if x.dtype.kind == "f":
        low, high = -np.inf, np.inf
    elif x.dtype == np.bool_:
        low, high = False, True
    else:
        low, high = np.iinfo(x.dtype).min, np.iinfo(x.dtype).max
    if fn == "max":
        return np.max(x, axis=tuple(axes), keepdims=True, initial=low)
    return np.min(x, axis=tuple(axes), keepdims=True, initial=high)
