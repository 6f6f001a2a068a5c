"""Triton's interpreter made right where it is known to be wrong, so that tests on the CPU say something of a GPU.

Its float casts truncate or drop carries, its dot multiplies the bit patterns of bfloat16, `dot_scaled` takes every
scale for E8M0, and it knows no PTX. Each of these is replaced by what ml_dtypes and NumPy compute; casts to FP8
saturate as `cvt.satfinite` does, and NaN becomes the code that hardware writes. Call `patch()` after
TRITON_INTERPRET=1 is set.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from tests.targets.triton import ptx


def needed() -> pytest.MarkDecorator:
    """The mark of tests for the interpreter, which is patched here; they are skipped where Triton runs without it."""
    import triton

    patch()
    return pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="Triton was imported without its interpreter")


@cache
def patch() -> None:
    """Replace the wrong parts of triton.runtime.interpreter; a second call does nothing."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    native = _native(tl)
    original_convert = interpreter._convert_float

    def convert(data, source, target, rounding):
        if source not in native or target not in native:
            return original_convert(data, source, target, rounding)
        values = np.ascontiguousarray(data).view(native[source])
        word = np.dtype(f"uint{target.primitive_bitwidth}")
        return _cast(values, np.dtype(native[target]), saturate=target.primitive_bitwidth == 8).view(word)

    def cast(self, source, target):
        old, new = source.dtype.scalar, target.scalar
        if old in native and new in native:
            words = convert(source.data, old, new, None)
            return interpreter.TensorHandle(words.view(interpreter._get_np_dtype(target)), new)
        return interpreter.TensorHandle(source.data.astype(interpreter._get_np_dtype(target)), new)

    def wide(handle):
        dtype = handle.dtype.scalar
        if dtype in native:
            return np.ascontiguousarray(handle.data).view(native[dtype]).astype(np.float32)
        return handle.data

    def dot(self, a, b, d, *options):
        left, right, start = wide(a), wide(b), wide(d)
        if start.dtype.kind == "i":
            left, right = left.astype(start.dtype), right.astype(start.dtype)
        product = np.matmul(left, right, dtype=start.dtype) + start
        return interpreter.TensorHandle(product.astype(d.data.dtype), d.dtype.scalar)

    def inline_asm(self, text, constraints, values, types, is_pure, pack):
        dtype = types[0].scalar
        found = ptx.elementwise(
            text, constraints, [np.asarray(v.data) for v in values], np.dtype(interpreter._get_np_dtype(dtype)), pack
        )
        return SimpleNamespace(get_result=lambda i: interpreter.TensorHandle(found, dtype))

    interpreter._convert_float = convert
    builder.create_inline_asm = inline_asm
    builder.cast_impl = cast
    builder.create_dot = dot
    _patch_scales(interpreter, native)
    if not hasattr(getattr(interpreter, "_interpreter", None), "fma_fp32"):
        builder.create_fma = lambda self, x, y, z: interpreter.TensorHandle(
            fused(*np.broadcast_arrays(x.data, y.data, z.data)), z.dtype.scalar
        )


def _native(tl):
    return {
        tl.float16: np.float16,
        tl.float32: np.float32,
        tl.float64: np.float64,
        tl.bfloat16: ml_dtypes.bfloat16,
        tl.float8e4nv: ml_dtypes.float8_e4m3fn,
        tl.float8e5: ml_dtypes.float8_e5m2,
        tl.float8e4b8: ml_dtypes.float8_e4m3fnuz,
        tl.float8e5b16: ml_dtypes.float8_e5m2fnuz,
    }


def _cast(values: np.ndarray, dtype: np.dtype, saturate: bool) -> np.ndarray:
    """One rounding to nearest even; to FP8 without infinity, and with the NaN code that `cvt` writes."""
    with np.errstate(all="ignore"):
        if not saturate or values.dtype.itemsize == 1:
            return values.astype(dtype)
        largest = float(ml_dtypes.finfo(dtype).max)
        wide = values.astype(np.float32)
        codes = np.where(np.isnan(wide), 0, np.clip(wide, -largest, largest)).astype(dtype).view(np.uint8)
        nan = 0x80 if "fnuz" in dtype.name else 0x7F
        return np.where(np.isnan(wide), np.uint8(nan), codes).view(dtype)


def _patch_scales(interpreter, native) -> None:
    """Scales of `dot_scaled` that are typed as FP8 are decoded as such; Triton 3.6 has no such function to replace."""
    original = getattr(interpreter, "_dot_scaled_scale_to_f32", None)
    if original is None:
        return

    def scale(handle, compute):
        dtype = handle.dtype.scalar
        if dtype in native and dtype.primitive_bitwidth == 8:
            return np.ascontiguousarray(handle.data).view(native[dtype]).astype(np.float32)
        return original(handle, compute)

    interpreter._dot_scaled_scale_to_f32 = scale


def fused(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x * y + z rounded once, for versions whose interpreter rounds twice.

    The product of two float32 is exact in float64; the sum is rounded to odd there, so that the last rounding is right.
    """
    if x.dtype != np.float32:
        return (x.astype(np.float64) * y + z).astype(z.dtype)
    with np.errstate(all="ignore"):
        product, addend = x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)
        total = product + addend
        back = total - product
        error = (product - (total - back)) + (addend - back)
        even = (total.view(np.int64) & 1) == 0
        step = np.where((error > 0) == (total > 0), 1, -1)
        odd = (total.view(np.int64) + step).view(np.float64)
        inexact = np.isfinite(total) & (error != 0) & even
        return np.where(inexact, odd, total).astype(np.float32)
