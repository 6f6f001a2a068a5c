"""MLX's functions in NumPy's spelling: those of `mlx.core`, and a few more."""

# The library's annotations are partial, and some of what it exports is not in them.
# pyright: reportAttributeAccessIssue=false, reportUntypedFunctionDecorator=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx

from breccia.arrays.mlx import _DTYPES

Array = Any


_E8M0_NAN = 255
_PRODUCTS = {
    ("float4_e2m1fn", "float8_e8m0fnu", 32, False): ("mxfp4", 4),
    ("float8_e4m3fn", "float8_e8m0fnu", 32, False): ("mxfp8", 8),
    ("float4_e2m1fn", "float8_e4m3fn", 16, False): ("nvfp4", 4),
    **{(f"uint{bits}", "float32", group, True): ("affine", bits) for bits in (4, 8) for group in (32, 64, 128)},
}
"""(element, scale, block along k, whether there is an offset) to (mode of MLX, bits): weights that MLX decodes to the
same values, but for an E8M0 scale of NaN."""


class Functions:
    """`mlx.core` with dtypes by name."""

    wide = True

    def __getattr__(self, name: str) -> Any:
        return getattr(mx, name)

    def full(self, shape: tuple[int, ...], value: Any, dtype: str) -> Array:
        return mx.full(shape, mx.array(value, _DTYPES[dtype]))

    def arange(self, start: int, stop: int, dtype: str) -> Array:
        return mx.arange(start, stop).astype(_DTYPES[dtype])

    def store(self, target: Array, index: Any, value: Array) -> Array:
        """`target` with `value` at `index`; MLX makes a new array of it."""
        target[index] = value
        return target

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        return mx.concatenate(list(arrays), axis)

    def weight_product(
        self, x: Array, codes: Array, fmt: str, scale: Array, scale_fmt: str, block: int, offset: Array | None
    ) -> Array | None:
        """`x` times the transpose of a quantized weight by `mx.quantized_matmul`; None where MLX has no such format.

        The bytes of the weight are MLX's own, seen as words. MLX takes an E8M0 scale of NaN for infinity, so that rows
        with one are made NaN after it.
        """
        mode, bits = _PRODUCTS.get((fmt, scale_fmt, block, offset is not None), ("", 0))
        if not mode or not x.shape[0] or codes.shape[-1] % 4 or codes.shape[-1] * 8 // bits != scale.shape[-1] * block:
            return None
        words = codes.view(mx.uint32)
        if mode == "affine":
            return mx.quantized_matmul(x, words, scale, offset, group_size=block, bits=bits)
        y = mx.quantized_matmul(x, words, scale, group_size=block, bits=bits, mode=mode)
        if scale_fmt != "float8_e8m0fnu":
            return y
        return mx.where(mx.max(scale, -1) == _E8M0_NAN, mx.array(float("nan"), y.dtype), y)

    def sum(self, x: Array, axes: tuple[int, ...]) -> Array:
        return mx.sum(x, axes, keepdims=True)

    def max(self, x: Array, axes: tuple[int, ...]) -> Array:
        return mx.max(x, axes, keepdims=True)

    def min(self, x: Array, axes: tuple[int, ...]) -> Array:
        return mx.min(x, axes, keepdims=True)


@lru_cache(maxsize=1)
def _functions() -> Functions:
    return Functions()


def functions(x: Array) -> Functions:  # noqa: ARG001 - memory is unified
    """The functions for arrays like `x`."""
    return _functions()
