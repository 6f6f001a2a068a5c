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
