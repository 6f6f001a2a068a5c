"""JAX's functions in NumPy's spelling: those of `jax.numpy`, and a few more."""

# The library's annotations are partial, and some of what it exports is not in them.
# pyright: reportAttributeAccessIssue=false, reportUntypedFunctionDecorator=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from breccia.errors import UnsupportedError

Array = Any


class Functions:
    """`jax.numpy` with dtypes by name."""

    @property
    def wide(self) -> bool:
        """Whether there are 64-bit integers."""
        return bool(jax.config.jax_enable_x64)

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    def sigmoid(self, x: Array) -> Array:
        return jax.nn.sigmoid(x)

    def full(self, shape: tuple[int, ...], value: Any, dtype: str) -> Array:
        return jnp.full(shape, value, _present(dtype, value))

    def arange(self, start: int, stop: int, dtype: str) -> Array:
        return jnp.arange(start, stop, dtype=_present(dtype, stop))

    def store(self, target: Array, index: Any, value: Array) -> Array:
        """`target` with `value` at `index`."""
        return target.at[index].set(value)

    def sum(self, x: Array, axes: tuple[int, ...]) -> Array:
        return jnp.sum(x, axes, keepdims=True, dtype=x.dtype)

    def max(self, x: Array, axes: tuple[int, ...]) -> Array:
        return jnp.max(x, axes, keepdims=True)

    def min(self, x: Array, axes: tuple[int, ...]) -> Array:
        return jnp.min(x, axes, keepdims=True)


def _present(dtype: str, value: Any) -> Any:
    """The dtype, or the one of 32 bits where JAX runs without 64 and the value fits."""
    if dtype == "int64" and not jax.config.jax_enable_x64:
        if abs(int(value)) > np.iinfo(np.int32).max:
            raise UnsupportedError(f"JAX has no int64 for {value} unless jax_enable_x64 is set")
        return jnp.int32
    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise UnsupportedError("JAX has no float64 unless jax_enable_x64 is set; use float32")
    return jnp.dtype(dtype)


def with_backward(function: Callable[..., Any], other: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """`function` of arrays, whose reverse-mode gradient is that of the function which `other` gives when asked."""

    @jax.custom_vjp
    def call(*parts: Array) -> Any:
        return function(*parts)

    def forward(*parts: Array) -> Any:
        return function(*parts), parts

    def backward(parts: tuple[Array, ...], gradients: Any) -> Any:
        return jax.vjp(other(), *parts)[1](gradients)

    call.defvjp(forward, backward)
    return call


def shapes_of(tree: Any) -> Any:
    """A tree with mere shapes for its arrays, so that it holds no memory and no traced values."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, jax.Array) else x, tree)


@lru_cache(maxsize=1)
def _functions() -> Functions:
    return Functions()


def functions(x: Array) -> Functions:  # noqa: ARG001 - JAX places what it makes where it is used
    """The functions for arrays like `x`."""
    return _functions()
