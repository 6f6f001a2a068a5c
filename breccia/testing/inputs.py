"""Arguments of every kind for a function of the IR: random, exact, and the values where encoders go wrong.

normal     normally distributed, blocks of different magnitude
exact      few significant bits and power-of-two scales, so that no order of summation rounds in float64
ties       midpoints between neighbours of short formats
subnormal  subnormal and tiny values
zeros      zeros of both signs, whole blocks of them
nan, inf   normal values with some NaN, or infinities
max        normal values with some of the largest finite ones
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, SSAValue

from breccia.formats import Format
from breccia.ir import dims
from breccia.ir.attributes import IntsAttr
from breccia.ir.dims import Dim
from breccia.ir.interpreter import CONSTANTS_KEY, PREPARE
from breccia.ir.interpreter.values import Array, Mode, Value, array_dtype, scaled_value
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import GroupedMatmulOp
from breccia.ir.rewriting import functions
from breccia.ir.types import ScaledType, TensorType, component_types

Kind = Literal["normal", "exact", "ties", "subnormal", "zeros", "nan", "inf", "max"]
KINDS: tuple[Kind, ...] = ("normal", "exact", "ties", "subnormal", "zeros", "nan", "inf", "max")

Generator = np.random.Generator


def make_arguments(func: FuncOp, sizes: Mapping[str, int], kind: Kind, rng: Generator) -> list[Value]:
    """One value for each argument of `func`, of the shapes that its types have under `sizes`.

    Arguments that are offsets or tables of kernels get values in range: rising offsets from 0 to the number of rows,
    indices below the number of blocks.
    """
    tables = table_roles(func)
    mode = Mode(sizes)
    out: list[Value] = []
    for i, type_ in enumerate(call_types(func)):
        role = tables.get(i)
        if role is not None and isinstance(type_, TensorType):
            out.append(_table(mode.shape(type_.shape), role, mode, rng))
        else:
            out.append(make_value(type_, sizes, kind, rng))
    return out


def call_types(func: FuncOp) -> list[Attribute]:
    """The types of what a caller passes: for constants, what `@prepare` takes where the module has one."""
    types = [a.type for a in func.body.block.args]
    module, constants = func.parent_op(), func.attributes.get(CONSTANTS_KEY)
    if not isinstance(module, ModuleOp) or not isinstance(constants, IntsAttr):
        return types
    for other in functions(module):
        if other.sym_name.data == PREPARE and other is not func:
            for position, arg in zip(constants.data, other.body.block.args, strict=True):
                types[position] = arg.type
            made = len(other.function_type.outputs) - len(constants.data)  # further arguments are not the caller's
            types = types[: len(types) - made]
    return types


def make_value(type_: Attribute, sizes: Mapping[str, int], kind: Kind, rng: Generator) -> Value:
    """A value of `type_`: an array, or a `ScaledValue`."""
    mode = Mode(sizes)
    if isinstance(type_, ScaledType):
        parts = [_component(name, t, mode.shape(t.shape), kind, rng) for name, t in component_types(type_)]
        return scaled_value(type_, parts)
    if not isinstance(type_, TensorType):
        raise TypeError(f"arguments of type {type_} hold no value")
    return _plain(type_, mode.shape(type_.shape), kind, rng)


def _plain(type_: TensorType, shape: tuple[int, ...], kind: Kind, rng: Generator) -> Array:
    dtype, fmt = array_dtype(type_.dtype), type_.format
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if fmt is None:
        return np.asarray(rng.integers(0, 100, shape), dtype)
    if fmt.bits <= 8:
        return codes(fmt, shape, kind, rng)
    with np.errstate(all="ignore"):
        return floats(shape, kind, rng, fmt).astype(dtype)


def _component(name: str, type_: TensorType, shape: tuple[int, ...], kind: Kind, rng: Generator) -> Array:
    fmt = type_.format
    assert fmt is not None, "components of scaled tensors have formats"
    if fmt.bits <= 8 and name.startswith("scale") and kind not in ("nan", "inf"):
        found = _choices(fmt, kind)
        return rng.choice(found[[fmt.decode_code(int(c)) > 0 for c in found]], shape).astype(np.uint8)
    if fmt.bits <= 8:
        return codes(fmt, shape, kind, rng)
    if name.startswith("scale"):
        powers = 2.0 ** rng.integers(-3, 4, shape)
        values = powers if kind == "exact" else powers * rng.uniform(1, 2, shape)
        special: dict[str, float] = {"nan": np.nan, "zeros": 0.0, "max": fmt.max}
        if kind in special:
            values = np.where(rng.random(shape) < 0.1, special[kind], values)
    else:
        values = floats(shape, kind, rng, fmt)
    return np.asarray(values).astype(array_dtype(type_.dtype))


# -- floats ------------------------------------------------------------------------------------------------------------


def floats(shape: tuple[int, ...], kind: Kind, rng: Generator, fmt: Format) -> Array:
    """Float64 values of a kind, in the range of `fmt`."""
    return np.asarray(_FLOATS[kind](shape, rng, fmt), np.float64)


def _normal(shape: tuple[int, ...], rng: Generator, _: Format) -> Array:
    spread = 2.0 ** rng.integers(-3, 4, (*shape[:-1], 1) if shape else ())
    return rng.standard_normal(shape) * spread


def _exact(shape: tuple[int, ...], rng: Generator, _: Format) -> Array:
    return rng.choice([-3.0, -2, -1.5, -1, -0.5, -0.25, 0.25, 0.5, 0.75, 1, 1.5, 2, 3], shape)


def _ties(shape: tuple[int, ...], rng: Generator, _: Format) -> Array:
    return rng.integers(-63, 64, shape) * 2.0 ** rng.integers(-5, 3, (*shape[:-1], 1) if shape else ())


def _subnormal(shape: tuple[int, ...], rng: Generator, fmt: Format) -> Array:
    return rng.integers(-(1 << fmt.mantissa_bits), 1 << fmt.mantissa_bits, shape) * fmt.smallest_positive


def _zeros(shape: tuple[int, ...], rng: Generator, fmt: Format) -> Array:
    signed = np.where(rng.random(shape) < 0.5, 0.0, -0.0)
    rows = rng.random((*shape[:-1], 1) if shape else ()) < 0.3
    return np.where(rows & (rng.random(shape) < 0.5), _normal(shape, rng, fmt), signed)


def _sprinkled(values: Callable[[Generator, Format], list[float]]) -> Callable[..., Array]:
    def make(shape: tuple[int, ...], rng: Generator, fmt: Format) -> Array:
        special = rng.choice(values(rng, fmt), shape)
        return np.where(rng.random(shape) < 0.02, special, _normal(shape, rng, fmt))

    return make


_FLOATS: dict[str, Callable[..., Array]] = {
    "normal": _normal,
    "exact": _exact,
    "ties": _ties,
    "subnormal": _subnormal,
    "zeros": _zeros,
    "nan": _sprinkled(lambda _, __: [np.nan]),
    "inf": _sprinkled(lambda _, __: [np.inf, -np.inf]),
    "max": _sprinkled(lambda _, fmt: [fmt.max, -fmt.max]),
}


# -- codes -------------------------------------------------------------------------------------------------------------


def codes(fmt: Format, shape: tuple[int, ...], kind: Kind, rng: Generator) -> Array:
    """Codes of a format of at most 8 bits that suit a kind; every code where a kind asks for nothing special."""
    return rng.choice(_choices(fmt, kind), shape).astype(np.uint8)


@cache
def _choices(fmt: Format, kind: Kind) -> Array:
    every = np.arange(1 << fmt.bits)
    values = np.array([fmt.decode_code(int(c)) for c in every])
    finite = every[np.isfinite(values)]
    if fmt.is_power_of_two:
        near = every[(values >= 2.0**-6) & (values <= 2.0**6)]
        special = {"nan": fmt.nan_code, "max": fmt.max_code}.get(kind)
        return near if special is None else np.append(near, special)
    if kind == "exact" and fmt.kind == "float":
        size = np.abs(values)
        return every[(size <= 16) & ((size >= 0.125) | (values == 0)) & np.isfinite(values)]
    if kind == "nan" and fmt.nan_code is not None:
        return np.append(finite, fmt.nan_code)
    if kind == "inf" and fmt.infinity_code is not None:
        return np.append(finite, fmt.infinity_code)
    if kind == "zeros":
        zeros = every[values == 0]
        return np.append(np.repeat(zeros, 8 * (1 << fmt.bits) // max(1, len(zeros))), finite) if len(zeros) else finite
    return finite


# -- tables ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableRole:
    """What an integer argument is read for: rising `offsets` or `counts` up to `limit`, or an `index` below `limit`."""

    kind: Literal["offsets", "counts", "index"]
    limit: Dim


@dataclass
class _Roles:
    found: dict[int, TableRole] = field(default_factory=dict[int, TableRole])

    def note(self, value: SSAValue, args: Mapping[SSAValue, int], role: TableRole) -> None:
        if value in args:
            self.found[args[value]] = role


def table_roles(func: FuncOp) -> dict[int, TableRole]:
    """Arguments whose values are sizes or indices rather than data, by position."""
    roles = _Roles()
    args: dict[SSAValue, int] = {a: i for i, a in enumerate(func.body.block.args)}
    for op in func.body.block.ops:
        if isinstance(op, GroupedMatmulOp):
            _grouped(op, args, roles)
        elif isinstance(op, KernelOp) and op.is_tiled:
            _windows(op, args, roles)
        elif isinstance(op, KernelOp):
            inner: dict[SSAValue, int] = {
                b: args[a] for a, b in zip(op.args, op.body.block.args, strict=True) if a in args
            }
            for part in op.body.block.ops:
                if isinstance(part, GroupedMatmulOp):
                    _grouped(part, inner, roles)
    return roles.found


def _grouped(op: GroupedMatmulOp, args: Mapping[SSAValue, int], roles: _Roles) -> None:
    x: Any = op.args[0].type
    role = TableRole("offsets", x.shape[0]) if op.each is None else TableRole("counts", op.data("each")[0])
    roles.note(op.args[2], args, role)


def _windows(op: KernelOp, args: Mapping[SSAValue, int], roles: _Roles) -> None:
    tiles = op.tiles
    windowed = [(a.type, w) for a, w in zip(op.args, tiles.inputs, strict=True) if w is not None]
    windowed += [(o.type, w) for o, w in zip(op.outs, tiles.outputs, strict=True)]
    for type_, window in windowed:
        assert isinstance(type_, TensorType), "tiled kernels take plain components"
        for axis, (index, block) in enumerate(zip(window.index, window.block, strict=True)):
            blocks = dims.ceildiv(type_.shape[axis], 1 if block is None else block)
            for part in dims.walk(index):
                if isinstance(part, dims.Lookup):
                    roles.note(op.args[part.operand], args, TableRole("index", blocks))
        if window.segment is not None:
            base, rows = window.segment.base, type_.shape[window.segment.axis]
            for part in (*dims.walk(base), *dims.walk(window.segment.limit)):
                if isinstance(part, dims.Lookup):
                    roles.note(
                        op.args[part.operand], args, _segment_role(op, part, rows, counted=not dims.has_lookup(base))
                    )


def _segment_role(op: KernelOp, part: dims.Lookup, rows: Dim, *, counted: bool) -> TableRole:
    """What a table says of segments. counted: how many of their rows, which begin wherever the table is not asked."""
    if not counted:
        return TableRole("offsets", rows)
    table: Any = op.args[part.operand].type
    return TableRole("counts", dims.floordiv(rows, table.shape[0]))


def _table(shape: tuple[int, ...], role: TableRole, mode: Mode, rng: Generator) -> Array:
    limit = mode.size(role.limit)
    if role.kind == "counts":
        return rng.integers(0, limit + 1, shape).astype(np.int32)
    if role.kind == "index":
        return rng.integers(0, max(1, limit), shape).astype(np.int32)
    inner = np.sort(rng.integers(0, limit + 1, max(0, shape[0] - 2)))
    return np.array([0, *inner, limit][: shape[0]], np.int32)
