"""Emitted source to a function on arrays of MLX, and what emitted source calls. Kernels run where there is Metal; any
machine with MLX builds them, and exports what MLX makes of them.
"""

# The library's annotations are partial, and some of what it exports is not in them.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx

from breccia.codegen.loading import function_of, module_of
from breccia.errors import UnsupportedError

THREADS = 128
"""Threads of a threadgroup, as kernels are written for."""
DTYPES = {
    "float": mx.float32, "bfloat16_t": mx.bfloat16, "float16_t": mx.float16, "bool": mx.bool_, "int32_t": mx.int32,
    "int64_t": mx.int64, "uint8_t": mx.uint8,
}  # fmt: skip
Array = Any


@dataclass(frozen=True)
class Kernel:
    """A kernel as MLX is told of it.

    body: the lines of the kernel, which MLX puts a head before; header: functions that it calls. inputs, types:
    parameters and their types in Metal; outputs, dtypes: the same for results. fill: what results hold at first; None
    for nothing. sizes: how many sizes come as one more input, `sizes`.
    """

    name: str
    inputs: tuple[str, ...]
    types: tuple[str, ...]
    outputs: tuple[str, ...]
    dtypes: tuple[str, ...]
    header: str
    body: str
    fill: float | None = None
    sizes: int = 0

    @cached_property
    def made(self) -> Any:
        """MLX's kernel. Its name tells it from others that are called the same: MLX keeps what it compiled by name."""
        names = [*self.inputs, *(["sizes"] if self.sizes else [])]
        digest = hashlib.sha256(f"{self.header}\0{self.body}".encode()).hexdigest()[:12]
        return mx.fast.metal_kernel(
            name=f"breccia_{self.name}_{digest}", input_names=names, output_names=list(self.outputs), source=self.body,
            header=self.header, ensure_row_contiguous=False,
        )  # fmt: skip

    def call(
        self, programs: int, arrays: Sequence[Array], shapes: Sequence[tuple[int, ...]], sizes: Sequence[int] = ()
    ) -> tuple[Array, ...]:
        """The results, of these shapes: one threadgroup for each program."""
        dtypes = [DTYPES[kind] for kind in self.dtypes]
        if programs == 0:
            return tuple(mx.full(s, mx.array(self.fill or 0, d)) for s, d in zip(shapes, dtypes, strict=True))
        given = [*arrays, *([mx.array(list(sizes), mx.int32)] if self.sizes else [])]
        options = {} if self.fill is None else {"init_value": self.fill}
        return tuple(
            self.made(
                inputs=given, grid=(programs * THREADS, 1, 1), threadgroup=(THREADS, 1, 1), output_shapes=list(shapes),
                output_dtypes=dtypes, **options,
            )
        )  # fmt: skip


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """Another shape, row-major."""
    return mx.reshape(x, shape)


def transpose(x: Array, order: tuple[int, ...]) -> Array:
    """Axes in another order; nothing is moved, as kernels take strides."""
    return mx.transpose(x, order)


def broadcast(x: Array, shape: tuple[int, ...]) -> Array:
    """Axes of size 1 repeated; nothing is moved."""
    return mx.broadcast_to(x, shape)


def concat(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays behind each other."""
    return mx.concatenate(list(arrays), axis)


def full(shape: tuple[int, ...], value: float, kind: str) -> Array:
    """An array of one value."""
    return mx.full(shape, mx.array(value, DTYPES[kind]))


def is_available() -> bool:
    """Whether MLX has a device that Metal runs on."""
    return bool(mx.metal.is_available())


def launch(source: str, entry: str, library: str = "mlx") -> Callable[..., Any]:  # noqa: ARG001 - MLX's alone
    """The function that `source` defines for the IR function `entry`, on arrays of MLX.

    Raises UnsupportedError without Metal, FormatError if there is no such function.
    """
    if not is_available():
        raise UnsupportedError(
            "metal: MLX has no Metal device here, so that kernels can be made and read but not run; compiled functions "
            "run as operations of MLX instead"
        )
    return loaded(source, entry)


def loaded(source: str, entry: str) -> Callable[..., Any]:
    """The function, whether it can be run here or not."""
    return function_of(module_of(source), entry)
