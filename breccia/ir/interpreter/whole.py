"""The meaning of every op on whole tensors: one small function each, `(op, values, mode) -> results`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from xdsl.ir import Block, Operation, SSAValue

from breccia import numerics
from breccia.ir import array_ops, scaled_ops
from breccia.ir.base import BrecciaOp
from breccia.ir.interpreter import arithmetic, scaled
from breccia.ir.interpreter.values import Array, InterpreterError, Mode, ScaledValue, Value, array_dtype
from breccia.ir.types import ScaledType, TensorType
from breccia.numerics.elementwise import BINARY, UNARY

Meaning = Callable[[Any, list[Any], Mode], list[Any]]


def _full(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    shape, dtype = mode.shape(op.shape.data), op.dtype
    number = np.full(shape, op.value.data, np.float64)
    source = np.float32 if str(dtype) != "f64" else np.float64
    if np.dtype(array_dtype(dtype)).kind in "ib":
        return [np.full(shape, int(op.value.data), array_dtype(dtype))]
    if array_dtype(dtype) == np.uint8:
        return [arithmetic.convert(number.astype(np.float32), _f32(), dtype, mode)]
    return [number.astype(source).astype(array_dtype(dtype, mode.wide))]


def _f32() -> Any:
    from breccia.formats import float32
    from breccia.ir.types import dtype_of

    return dtype_of(float32)


def _iota(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    shape, axis = mode.shape(op.shape.data), op.axis.data
    positions = mode.size(op.start.data[0]) + np.arange(shape[axis])
    column = positions.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return [np.broadcast_to(column, shape).astype(array_dtype(op.dtype, mode.wide))]


def _unary(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [UNARY[op.fn.data](np, np.ascontiguousarray(values[0]).reshape(values[0].shape))]


def _binary(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [BINARY[op.fn.data](np, *values)]


def _select(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [np.where(*values)]


def _convert(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [arithmetic.convert(values[0], op.args[0].type.dtype, op.dtype, mode)]


def _reduce(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [arithmetic.reduce(op.fn.data, values[0], op.axes.data, mode)]


def _broadcast(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [np.broadcast_to(values[0], mode.shape(op.shape.data))]


def _transpose(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    order = op.order.data
    if isinstance(values[0], ScaledValue):
        return [scaled.map_components(op.out.type, values[0], lambda c, _: np.transpose(c, order))]
    return [np.transpose(values[0], order)]


def _reshape(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    (x,), out = values, op.out.type
    shapes = [mode.shape(t.shape) for _, t in scaled.as_types(out)]
    if isinstance(x, ScaledValue):
        return [scaled.scaled_value(out, [c.reshape(s) for c, s in zip(x.components, shapes, strict=True)])]
    return [x.reshape(_checked_size(x.shape, shapes[0]))]


def _checked_size(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...]:
    if np.prod(old, dtype=int) != np.prod(new, dtype=int):
        raise InterpreterError(f"reshape: {old} and {new} hold different numbers of elements")
    return new


def _slice(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    (x,), axis = values, op.axis.data
    start, stop = mode.size(op.start.data[0]), mode.size(op.stop.data[0])
    size = np.shape(x.codes if isinstance(x, ScaledValue) else x)[axis]
    if not 0 <= start <= stop <= size:
        raise InterpreterError(f"slice: {start} to {stop} is out of range on axis {axis}, which has {size} elements")
    if isinstance(x, ScaledValue):
        source = op.args[0].type
        return [scaled.map_components(source, x, lambda c, b: scaled.slice_component(c, b[axis], axis, start, stop))]
    return [scaled.slice_component(x, 1, axis, start, stop)]


def _concat(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    axis = op.axis.data
    if not isinstance(values[0], ScaledValue):
        return [np.concatenate(values, axis=axis)]
    columns = zip(*(v.components for v in values), strict=True)
    return [scaled.scaled_value(op.out.type, [np.concatenate(c, axis=axis) for c in columns])]


def _quantize(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    recipe = scaled.with_policy(op.recipe.data, op.policy.data, values[0].ndim)
    return [scaled.quantize(values[0], recipe, given_levels(op), values[1:], mode)]


def given_levels(op: Any) -> Sequence[int]:
    """The levels whose scales are operands of a `quantize` or `encode`."""
    return op.given.data if op.given is not None else ()


def _dequantize(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [scaled.dequantize(values[0], op.args[0].type.recipe, mode)]


def _scales(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [scaled.scales(values[0], op.args[0].type.recipe, mode)]


def operand(value: Value, type_: Any, compute: Any, place: Any, mode: Mode) -> Array:
    """A side of a matmul as numbers.

    What enters the product is held in `compute`, where that is set: the elements, with the scales placed at `operand`;
    all other scales multiply what is held.
    """
    if not isinstance(value, ScaledValue):
        return arithmetic.rounded(arithmetic.real(value, type_.dtype, mode), compute, mode)
    late = [i for i, p in enumerate(place.data) if p != "operand"] if place is not None else []
    if compute is None or not late:
        return arithmetic.rounded(scaled.dequantize(value, type_.recipe, mode), compute, mode)
    bare = scaled.dequantize(scaled.without_scales(value, type_.recipe, late), type_.recipe, mode)
    held = arithmetic.rounded(bare, compute, mode)
    return scaled.scaled_by(held, value, type_.recipe, late, mode)


def _sides(op: Any, values: list[Any], mode: Mode) -> tuple[Array, Array]:
    places = (op.place_a, op.place_b)
    x, y = (operand(v, o.type, op.compute, p, mode) for v, o, p in zip(values[:2], op.args[:2], places, strict=True))
    return x, y


def _matmul(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    a, b = _sides(op, values, mode)
    return [arithmetic.product(a, b, mode)]


def _grouped_matmul(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    x, w = _sides(op, values, mode)
    out = np.zeros((x.shape[0], w.shape[2]), mode.real)
    if op.each is not None:
        room, counts = mode.size(op.each.data[0]), [int(c) for c in values[2]]
        if any(not 0 <= count <= room for count in counts):
            raise InterpreterError(f"grouped_matmul: counts {counts} must be 0 to {room}, which is the room of a group")
        for e, count in enumerate(counts):
            start = e * room
            out[start : start + count] = arithmetic.product(x[start : start + count], w[e], mode)
        return [out]
    offsets = [int(o) for o in values[2]]
    if offsets != sorted(offsets) or offsets[0] < 0 or offsets[-1] > x.shape[0]:
        raise InterpreterError(f"grouped_matmul: offsets {offsets} must rise from 0 or more to at most {x.shape[0]}")
    for e, (start, stop) in enumerate(pairwise(offsets)):
        out[start:stop] = arithmetic.product(x[start:stop], w[e], mode)
    return [out]


def _assemble(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [scaled.assemble(op.type, values, mode)]


def _parts(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return list(scaled.parts(op.args[0].type, values[0]))


def _convert_layout(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [values[0]]


def _scale_from_amax(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [scaled.scale_from_amax(values[0], op.recipe.data, op.policy.data, op.level.data, mode)]


def _history_update(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    updated = numerics.update_history(values[0].astype(np.float32), values[1].astype(np.float32).reshape(()))
    return [updated.astype(mode.real)]


def _amax_from_history(op: Any, values: list[Any], mode: Mode) -> list[Any]:
    return [np.max(values[0], axis=0, keepdims=True) if op.rule.data == "max" else values[0][-1:]]


MEANING: dict[type[Operation], Meaning] = {
    array_ops.FullOp: _full,
    array_ops.IotaOp: _iota,
    array_ops.UnaryOp: _unary,
    array_ops.BinaryOp: _binary,
    array_ops.SelectOp: _select,
    array_ops.ConvertOp: _convert,
    array_ops.ReduceOp: _reduce,
    array_ops.BroadcastOp: _broadcast,
    array_ops.TransposeOp: _transpose,
    array_ops.ReshapeOp: _reshape,
    array_ops.SliceOp: _slice,
    array_ops.ConcatOp: _concat,
    scaled_ops.QuantizeOp: _quantize,
    scaled_ops.DequantizeOp: _dequantize,
    scaled_ops.ScalesOp: _scales,
    scaled_ops.MatmulOp: _matmul,
    scaled_ops.GroupedMatmulOp: _grouped_matmul,
    scaled_ops.AssembleOp: _assemble,
    scaled_ops.PartsOp: _parts,
    scaled_ops.ConvertLayoutOp: _convert_layout,
    scaled_ops.ScaleFromAmaxOp: _scale_from_amax,
    scaled_ops.HistoryUpdateOp: _history_update,
    scaled_ops.AmaxFromHistoryOp: _amax_from_history,
}
"""What each op does to arrays. Tiles are arrays too: `tiled` adds what happens at their edges."""


def run_block(
    block: Block, arguments: Sequence[Value], run_op: Callable[[Operation, list[Value]], list[Value]]
) -> list[Value]:
    """The operands of the block's terminator, after running its ops in order."""
    env: dict[SSAValue, Value] = dict(zip(block.args, arguments, strict=True))
    for op in block.ops:
        values = [env[o] for o in op.operands]
        if op is block.last_op:
            return values
        env.update(zip(op.results, run_op(op, values), strict=True))
    return []


def run_whole(op: Operation, values: list[Value], mode: Mode) -> list[Value]:
    """One op on whole tensors; raises InterpreterError naming an op that has no meaning there."""
    meaning = MEANING.get(type(op))
    if meaning is None:
        raise InterpreterError(f"{op.name} has no meaning on whole tensors; it belongs inside a tiled kernel")
    results = meaning(op, values, mode)
    if isinstance(op, BrecciaOp):
        for value, result in zip(results, op.outs, strict=True):
            _check_result(op, value, result.type, mode)
    return results


def _check_result(op: BrecciaOp, value: Any, type_: Any, mode: Mode) -> None:
    """Symbolic types can promise what a call does not keep: sizes are compared with what came out."""
    shape = np.shape(value.codes if isinstance(value, ScaledValue) else value)
    if isinstance(type_, TensorType | ScaledType) and shape != mode.shape(type_.shape):
        raise InterpreterError(f"{op.name} gave shape {shape}; {type_} is {mode.shape(type_.shape)} in this call")
