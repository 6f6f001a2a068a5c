"""What values are while a module is interpreted, and the sizes that symbols stand for.

A plain tensor of f32, f64, f16, bf16, i1, i32 or i64 is an array of that dtype. A plain tensor of a format with 8 bits
or fewer is a uint8 array of codes, one a byte, or of packed bytes where its type says so. A scaled tensor is a
`ScaledValue`. In wide mode f32 is carried as float64, so that sums of exactly representable products are exact in any
order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from xdsl.ir import Attribute

from breccia.errors import BrecciaError, ShapeError
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.types import ScaledType, TensorType, component_types, format_of

Array = np.ndarray[Any, np.dtype[Any]]
Nudge = Callable[[Array, int], Array]
"""From the sum of absolute products and their number to an error to add: how validation measures sensitivity."""


class InterpreterError(BrecciaError, RuntimeError):
    """The module has no meaning on these arguments: sizes do not fit, or tiles that differ in elements meet."""


@dataclass(frozen=True, eq=False)
class ScaledValue:
    """A scaled tensor, always unpacked and in logical order, whatever its layout.

    codes: uint8, one a byte. scales: storage arrays, outermost first (f32, f16, bf16, else uint8 codes).
    """

    codes: Array
    scales: tuple[Array, ...]
    zero_point: Array | None = None
    offset: Array | None = None

    @property
    def components(self) -> list[Array]:
        """Codes, scales outermost first, zero point, offset: the order of `component_types`."""
        extra = [x for x in (self.zero_point, self.offset) if x is not None]
        return [self.codes, *self.scales, *extra]


Value = Array | ScaledValue


def scaled_value(type_: ScaledType, components: Sequence[Array]) -> ScaledValue:
    """Logical components, in the order of `component_types`, as one value."""
    named = {name: c for (name, _), c in zip(component_types(type_), components, strict=True)}
    scales = tuple(named[f"scale{i}"] for i in range(len(type_.recipe.levels)))
    return ScaledValue(named["elements"], scales, named.get("zero_point"), named.get("offset"))


@dataclass(frozen=True)
class Mode:
    """How ops compute, and what their sizes are.

    sizes: values of symbols and, in a tiled kernel, of grid dimensions. lookup: reads a kernel's tables.
    wide: f32 is carried as float64. nudge: see `Nudge`.
    """

    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    wide: bool = False
    lookup: Callable[[int, int], int] | None = None
    nudge: Nudge | None = None

    @property
    def real(self) -> type[np.floating[Any]]:
        """The dtype that carries f32."""
        return np.float64 if self.wide else np.float32

    def size(self, dim: Dim) -> int:
        """The value of a size or an index."""
        return int(dims.evaluate(dim, self.sizes, self.lookup))

    def shape(self, shape: Sequence[Dim]) -> tuple[int, ...]:
        return tuple(self.size(d) for d in shape)


_PLAIN: dict[str, Any] = {
    "f64": np.float64, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i1": np.bool_, "i32": np.int32, "i64": np.int64,
}  # fmt: skip


def array_dtype(dtype: Attribute, wide: bool = False) -> np.dtype[Any]:
    """The NumPy dtype of arrays of an IR dtype; uint8 for codes."""
    if str(dtype) == "f32":
        return np.dtype(np.float64 if wide else np.float32)
    return np.dtype(_PLAIN.get(str(dtype), np.uint8))


def is_code(dtype: Attribute) -> bool:
    """True for formats of 8 bits or fewer, which are carried as codes."""
    fmt = format_of(dtype)
    return fmt is not None and fmt.bits <= 8


def carried(value: Value, type_: Attribute, what: str, mode: Mode) -> Value:
    """An argument as the interpreter carries it, after a check of kind, dtype and shape against its type."""
    if isinstance(type_, ScaledType):
        if not isinstance(value, ScaledValue):
            raise InterpreterError(f"{what} is a {type(value).__name__}; {type_} needs a ScaledValue")
        parts = component_types(type_)
        if len(parts) != len(value.components):
            names = ", ".join(name for name, _ in parts)
            raise InterpreterError(f"{what} has {len(value.components)} components; {type_} has {names}")
        pairs = zip(value.components, parts, strict=True)
        return scaled_value(type_, [_array(c, t, f"{what} ({name})", mode) for c, (name, t) in pairs])
    if not isinstance(type_, TensorType):
        raise InterpreterError(f"{what} has type {type_}, which holds no value")
    if isinstance(value, ScaledValue):
        raise InterpreterError(f"{what} is a ScaledValue; {type_} needs an array")
    return _array(value, type_, what, mode)


def _array(value: Any, type_: TensorType, what: str, mode: Mode) -> Array:
    array, wanted = np.asarray(value), array_dtype(type_.dtype)
    if is_code(type_.dtype) and array.dtype.itemsize == 1 and array.dtype != np.bool_:
        array = array.view(np.uint8)
    if array.dtype != wanted and not (mode.wide and array.dtype == np.float64 and str(type_.dtype) == "f32"):
        raise InterpreterError(f"{what} is an array of {array.dtype}; {type_} needs {wanted}")
    if array.shape != mode.shape(type_.shape):
        raise InterpreterError(f"{what} has shape {array.shape}; {type_} needs {mode.shape(type_.shape)}")
    return array.astype(array_dtype(type_.dtype, mode.wide), copy=False)


def value_shape(value: Value) -> tuple[int, ...]:
    """The logical shape of a value."""
    return np.shape(value.codes if isinstance(value, ScaledValue) else value)


def bind_symbols(types: Sequence[Attribute], shapes: Sequence[tuple[int, ...]], names: Sequence[str]) -> dict[str, int]:
    """What every symbol stands for, from the arguments' shapes; raises InterpreterError where shapes contradict types.

    Plain symbols are solved first, then products and sums with constants; everything else is only checked.
    """
    pairs: list[tuple[Dim, int, str]] = []
    for type_, shape, name in zip(types, shapes, names, strict=True):
        if not isinstance(type_, TensorType | ScaledType):
            raise InterpreterError(f"{name} has type {type_}, which holds no value")
        if len(shape) != type_.rank:
            raise InterpreterError(f"{name} has shape {shape}; {type_} has {type_.rank} axes")
        pairs += [
            (d, n, f"{name}, axis {i} of {type_}") for i, (d, n) in enumerate(zip(type_.shape, shape, strict=True))
        ]
    env: dict[str, int] = {}
    for dim, size, _ in sorted(pairs, key=lambda p: not isinstance(p[0], dims.Sym)):
        _solve(dim, size, env)
    for dim, size, where in pairs:
        try:
            value = dims.evaluate(dim, env)
        except ShapeError as error:
            raise InterpreterError(f"{where}: {error}") from None
        if value != size:
            known = ", ".join(f"{k} = {v}" for k, v in sorted(env.items()))
            raise InterpreterError(
                f"{where} has size {size}, but {dims.show(dim)} is {value}" + (f" ({known})" if known else "")
            )
    return env


def _solve(dim: Dim, size: int, env: dict[str, int]) -> None:
    if isinstance(dim, dims.Sym):
        env.setdefault(dim.name, size)
    elif isinstance(dim, dims.Op) and isinstance(dim.right, int):
        if dim.kind == "mul" and dim.right and size % dim.right == 0:
            _solve(dim.left, size // dim.right, env)
        elif dim.kind in ("add", "sub"):
            _solve(dim.left, size - dim.right if dim.kind == "add" else size + dim.right, env)
