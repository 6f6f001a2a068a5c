"""Emitted source to functions on JAX arrays, and what emitted source calls: this module is its `rt`.

A kernel is compiled for TPU where JAX's backend is one. Elsewhere Pallas interprets it: the same program, as operations
of XLA. `interpreting` chooses for a while, for tests and for compiling ahead of time.
"""

# The library's annotations are partial, and some of what it exports is not in them.
# pyright: reportAttributeAccessIssue=false, reportUntypedFunctionDecorator=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from breccia.codegen.loading import function_of, module_of

Array = Any
_DTYPES = {
    "f32": "float32", "bf16": "bfloat16", "f16": "float16", "i1": "bool_", "i32": "int32", "i64": "int32",
}  # fmt: skip
_INTERPRET: ContextVar[Any] = ContextVar("interpret", default=None)


@contextmanager
def interpreting(how: Any) -> Generator[None]:
    """Run kernels so inside: False compiles them for TPU, True interprets them, `pltpu.InterpretParams(...)` interprets
    them as a TPU would run them, with its checks; None is what the backend asks for.
    """
    token = _INTERPRET.set(how)
    try:
        yield
    finally:
        _INTERPRET.reset(token)


def backend() -> str:
    """What JAX computes on: tpu, gpu or cpu."""
    return jax.default_backend()


def interpreted() -> Any:
    """What `pallas_call` is told."""
    chosen = _INTERPRET.get()
    return backend() != "tpu" if chosen is None else chosen


# -- what emitted code calls -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Out:
    """A result: its shape, and its dtype as the IR spells it; codes of 8 bits and fewer are bytes."""

    shape: tuple[int, ...]
    dtype: str


def rounded(size: int, unit: int) -> int:
    """`size` rounded up to whole units.

    >>> rounded(5, 128), rounded(256, 128)
    (128, 256)
    """
    return -(-size // unit) * unit


def full(shape: tuple[int, ...], value: Any, dtype: str) -> Array:
    """An array of one value."""
    return jnp.full(shape, value, _DTYPES.get(dtype, "uint8"))


def pallas_call(
    kernel: Callable[..., None], *, name: str, grid: tuple[int, ...], semantics: tuple[str, ...],
    in_specs: Sequence[Any], out_specs: Sequence[Any], outs: Sequence[Out], scratch: Sequence[Any] = (),
    tables: int = 0,
) -> Callable[..., tuple[Array, ...]]:  # fmt: skip
    """`pl.pallas_call` for TPU. The first `tables` operands are read by index maps and stay in scalar memory.

    Arrays of fewer than two axes are rows of a matrix to the kernel; float16 is uint16. Where a result has no elements,
    nothing is launched.
    """

    def call(*operands: Array) -> tuple[Array, ...]:
        if any(0 in out.shape for out in outs):
            return tuple(full(out.shape, 0, out.dtype) for out in outs)
        given = [jnp.asarray(x, jnp.int32) for x in operands[:tables]] + [_stored(x) for x in operands[tables:]]
        spread = frozenset().union(*(getattr(jax.typeof(x), "vma", ()) for x in given))
        shapes = [_shape(out, spread) for out in outs]
        spec = pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=tables, grid=grid, in_specs=list(in_specs), out_specs=list(out_specs),
            scratch_shapes=list(scratch),
        )  # fmt: skip
        found = pl.pallas_call(
            kernel, out_shape=shapes, grid_spec=spec, interpret=interpreted(), name=name,
            compiler_params=pltpu.CompilerParams(dimension_semantics=semantics),
        )(*given)  # fmt: skip
        return tuple(_restored(x, out) for x, out in zip(found, outs, strict=True))

    return call


def _stored(x: Array) -> Array:
    x = lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.float16 else x
    return x.reshape((1,) * (2 - x.ndim) + x.shape) if x.ndim < 2 else x


def _shape(out: Out, spread: frozenset[Any]) -> Any:
    dtype = {"f16": "uint16"}.get(out.dtype, _DTYPES.get(out.dtype, "uint8"))
    shape = (1,) * (2 - len(out.shape)) + out.shape if len(out.shape) < 2 else out.shape
    return jax.ShapeDtypeStruct(shape, dtype, **({"vma": spread} if spread else {}))


def _restored(x: Array, out: Out) -> Array:
    x = lax.bitcast_convert_type(x, jnp.float16) if out.dtype == "f16" else x
    return x.reshape(out.shape)


def work_list(begin: Array, end: Array, rows: int, block: int) -> tuple[Array, Array]:
    """(groups, tiles): which group meets which tile of `block` rows, in the order of tiles, each tile once at least.

    begin, end: of the rows of each group, rising. The list is as long as it can get; its last entries repeat.

    >>> groups, tiles = work_list(jnp.array([0, 3, 3]), jnp.array([3, 3, 10]), 10, 4)
    >>> groups.tolist(), tiles.tolist()
    ([0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 2])
    """
    count, total = -(-rows // block), len(begin)
    starts = jnp.arange(count) * block
    first = jnp.minimum(jnp.searchsorted(end, starts, side="right"), total - 1)
    last = jnp.searchsorted(begin, jnp.minimum(starts + block, rows), side="left") - 1
    many = jnp.maximum(last - first + 1, 1)
    ends = jnp.cumsum(many)
    work = jnp.minimum(jnp.arange(count + total), ends[-1] - 1)
    tile = jnp.searchsorted(ends, work, side="right")
    group = jnp.minimum(first[tile] + work - (ends - many)[tile], total - 1)
    return group.astype(jnp.int32), tile.astype(jnp.int32)


# -- source to functions -----------------------------------------------------------------------------------------------


def launch(source: str, entry: str, library: str = "jax") -> Callable[..., Any]:  # noqa: ARG001 - `arrays` has one
    """The function that `source` defines for the IR function `entry`, under `jax.jit`.

    Raises FormatError if there is none. The same source is compiled once in a process.
    """
    return _jitted(function_of(module_of(source), entry))


@lru_cache(maxsize=256)
def _jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(how: Any, parts: tuple[Array, ...]) -> Any:
        with interpreting(how):
            return function(*parts)

    compiled = jax.jit(run, static_argnums=0)
    return lambda *parts: compiled(interpreted(), parts)
