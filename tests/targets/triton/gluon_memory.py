"""Memory, pointers, descriptors and barriers of the interpreter of emitted Gluon, `tests.targets.triton.gluon`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from tests.targets.triton import ptx
from tests.targets.triton.interpreter import _cast, fused

DTYPES = {
    "u8": np.uint8, "i8": np.int8, "i1": np.bool_, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32, "fp64": np.float64,
    "fp8e4nv": ml_dtypes.float8_e4m3fn, "fp8e5": ml_dtypes.float8_e5m2,
}  # fmt: skip
"""What pointers point to."""
NAMED = {
    "int1": np.bool_, "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64, "uint8": np.uint8,
    "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64, "float16": np.float16, "float32": np.float32,
    "float64": np.float64, "bfloat16": ml_dtypes.bfloat16, "float8e4nv": ml_dtypes.float8_e4m3fn,
    "float8e5": ml_dtypes.float8_e5m2,
}  # fmt: skip
"""Dtypes by the names that emitted text has for them."""
POISON = 255
"""Bytes of it are NaN in every format of floats here."""


class MisuseError(Exception):
    """The text does what a GPU would not notice, or notice too late."""


class DeadlockError(MisuseError):
    """Every part of a program waits."""


class Stopped(BaseException):
    """Ends a part whose program failed elsewhere."""


# -- values ------------------------------------------------------------------------------------------------------------


class Tensor(np.ndarray):
    """An array as Triton computes with it: float32 stays float32."""

    type: Any = SimpleNamespace(layout="layout")

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        narrow = array.astype(np.float32) if array.dtype == np.float64 else array
        return narrow.view(Tensor)

    def to(self, dtype: Any, bitcast: bool = False) -> Tensor:
        plain, dtype = np.asarray(self), np.dtype(dtype)
        return tensor(plain.view(dtype) if bitcast else _cast(plain, dtype, _is_float8(dtype)))


def _is_float8(dtype: np.dtype) -> bool:
    return dtype.name.startswith("float8")


def tensor(value: Any) -> Tensor:
    """Numbers and arrays as Tensor; integers of Python are int32 where they fit."""
    if isinstance(value, int) and not isinstance(value, bool):
        return np.asarray(value, np.int32 if -(2**31) <= value < 2**31 else np.int64).view(Tensor)
    if isinstance(value, float):
        return np.asarray(value, np.float32).view(Tensor)
    return np.asarray(value).view(Tensor)


def poisoned(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array whose every byte is POISON."""
    dtype = np.dtype(dtype)
    return np.full((*shape, dtype.itemsize), POISON, np.uint8).view(dtype).reshape(shape)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    if isinstance(a, int | float) and isinstance(b, int | float):
        a = tensor(a)
    return tensor(np.where(np.asarray(condition), *(np.asarray(v) if isinstance(v, Tensor) else v for v in (a, b))))


def reduction(function: Any) -> Callable[..., Tensor]:
    return lambda x, axis=None, keep_dims=False: tensor(function(np.asarray(x), axis=axis, keepdims=keep_dims))


def reduced(x: Tensor, axis: int, combine: Any, keep_dims: bool = False) -> Tensor:
    parts = np.split(np.asarray(x), x.shape[axis], axis)
    found = reduce(combine, map(tensor, parts))
    return found if keep_dims else tensor(np.squeeze(found, axis))


def clamped(propagating: Any, other: Any) -> Callable[..., Tensor]:
    def function(a: Any, b: Any, propagate_nan: bool = False) -> Tensor:
        return tensor((propagating if propagate_nan else other)(a, b))

    return function


def fma(x: Any, y: Any, z: Any) -> Tensor:
    return tensor(fused(*np.broadcast_arrays(*(np.asarray(v, np.float32) for v in (x, y, z)))))


def _prefetched(pointers: Pointer) -> Tensor:
    """What is asked for has to be there, though a GPU does not mind."""
    pointers.load()
    return tensor(0)


INSTRUCTIONS: dict[str, Callable[..., Tensor]] = {
    "fma.rn.f32 $0, $1, $2, $3;": fma,
    "add.rn.f32 $0, $1, $2;": lambda a, b: a + b,
    "mov.b32 $0, 0;": lambda _: tensor(0),
    "prefetch.global.L2 [$1]; mov.b32 $0, 0;": _prefetched,
}
"""What inline assembly means."""


def inline(text: str, constraints: str, args: Sequence[Any], dtype: Any, is_pure: bool, pack: int) -> Tensor:
    if text in INSTRUCTIONS:
        return INSTRUCTIONS[text](*args).to(dtype)
    return tensor(ptx.elementwise(text, constraints, [np.asarray(a) for a in args], np.dtype(dtype), pack))


class Pointer:
    """Places in a tensor. Only elements of the tensor may be read and written: neither its end, nor gaps."""

    def __init__(self, flat: np.ndarray, valid: np.ndarray, offsets: Any = 0) -> None:
        self.flat, self.valid, self.offsets = flat, valid, offsets

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.flat, self.valid, self.offsets + offset)

    def _places(self, mask: Any) -> tuple[np.ndarray, Any]:
        """Offsets, and which of them are used."""
        offsets = np.asarray(self.offsets)
        used = np.broadcast_to(np.asarray(True if mask is None else mask), offsets.shape)
        places = offsets[used]
        outside = places[(places < 0) | (places >= len(self.flat))]
        if outside.size or not self.valid[places].all():
            raise MisuseError(f"touches places outside the tensor: {outside[:4] if outside.size else 'between rows'}")
        return offsets, used

    def load(self, mask: Any = None, other: Any = None, **_: Any) -> Tensor:
        offsets, used = self._places(mask)
        found = poisoned(offsets.shape, self.flat.dtype)
        if other is not None:
            found[...] = other
        found[used] = self.flat[offsets[used]]
        return tensor(found)

    def store(self, value: Any, mask: Any = None, **_: Any) -> None:
        offsets, used = self._places(mask)
        self.flat[offsets[used]] = np.broadcast_to(tensor(value).to(self.flat.dtype), offsets.shape)[used]


class Descriptor:
    """A matrix that boxes are moved from and to."""

    def __init__(self, matrix: np.ndarray, box: tuple[int, int]) -> None:
        self.matrix, self.box, self.dtype, self.layout = matrix, box, matrix.dtype, box

    def overlap(self, place: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part of a box at `place` that lies in the matrix: in the matrix, and in the box."""
        spans = [
            (max(p, 0), max(min(p + size, end), p, 0))
            for p, size, end in zip(place, self.box, self.matrix.shape, strict=True)
        ]
        inside = tuple(slice(min(a - p, s), b - p) for (a, b), p, s in zip(spans, place, self.box, strict=True))
        return tuple(slice(*span) for span in spans), inside


# -- shared memory -----------------------------------------------------------------------------------------------------


class Memory:
    """Shared memory, or a view of it. `written` is told of views that are stored to."""

    def __init__(self, array: np.ndarray, written: Callable[[np.ndarray], None]) -> None:
        self.array, self.written = array, written

    def index(self, i: int) -> Memory:
        return self._view(self.array[_inside(i, len(self.array))])

    def slice(self, start: int, length: int, dim: int = 0) -> Memory:
        _inside(start, self.array.shape[dim] - length + 1)
        return self._view(np.moveaxis(np.moveaxis(self.array, dim, 0)[start : start + length], 0, dim))

    def permute(self, order: tuple[int, ...]) -> Memory:
        return self._view(self.array.transpose(order))

    def _view(self, array: np.ndarray) -> Memory:
        return Memory(array, self.written)

    def store(self, value: Tensor) -> None:
        if value.shape != self.array.shape or value.dtype != self.array.dtype:
            raise MisuseError(f"{value.dtype}{value.shape} stored to {self.array.dtype}{self.array.shape}")
        self.array[...] = value
        self.written(self.array)

    def load(self, layout: Any = None) -> Tensor:
        return tensor(self.array.copy())


def _inside(i: int, size: int) -> int:
    if not 0 <= i < size:
        raise MisuseError(f"place {i} of shared memory with {size} places")
    return int(i)


class Barrier:
    """Counts arrivals and bytes; when none are left its phase is over, and it begins anew."""

    def __init__(self) -> None:
        self.count = self.pending = self.bytes = self.over = 0

    def arrived(self, arrivals: int = 0, bytes: int = 0) -> None:
        if not self.count or arrivals > self.pending:
            raise MisuseError(f"{arrivals} arrivals at a barrier where {self.pending} are left, of {self.count}")
        self.pending -= arrivals
        self.bytes += bytes
        if not self.pending and not self.bytes:
            self.over, self.pending = self.over + 1, self.count

    def passes(self, phase: int) -> bool:
        if not self.count:
            raise MisuseError("a barrier that was not initialized")
        return self.over & 1 != phase


class Barriers(list[Barrier]):
    """What is allocated as barriers."""

    def index(self, i: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self[_inside(i, len(self))]


# -- programs ----------------------------------------------------------------------------------------------------------
