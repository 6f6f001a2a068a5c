"""Derivatives of reductions and views. Views of scaled tensors have the rules of plain ones, on decoded values."""

from __future__ import annotations

from xdsl.dialects.builtin import IntAttr, StringAttr
from xdsl.ir import SSAValue

from breccia.autodiff.backward import Backward, gradient_type, shape_of
from breccia.ir import dims
from breccia.ir.attributes import IntsAttr
from breccia.ir.dims import Dim
from breccia.ir.ops import BroadcastOp, ConcatOp, ReduceOp, ReshapeOp, SliceOp, TransposeOp
from breccia.ir.types import DimsAttr


def reduce(b: Backward, op: ReduceOp, g: SSAValue) -> None:
    """Of a sum, to every element; of an extremum, evenly to the elements that are equal to it."""
    x, fn = op.args[0], op.data("fn")

    def spread(value: SSAValue) -> SSAValue:
        return b.emit(BroadcastOp, value, shape=DimsAttr(shape_of(x)))

    def to_extrema() -> SSAValue:
        values = b.save(x)
        size = b.unary("abs", values) if fn == "amax" else values
        one, zero = b.number(1.0, g), b.number(0.0, g)
        found = b.binary("eq", size, b.save(op.out))
        count = b.emit(ReduceOp, b.where(found, one, zero), fn=StringAttr("sum"), axes=op.properties["axes"])
        share = b.where(found, b.binary("div", g, count), zero)
        return b.mul(share, b.sign(values)) if fn == "amax" else share

    b.add(x, (lambda: spread(g)) if fn == "sum" else to_extrema)


def broadcast(b: Backward, op: BroadcastOp, g: SSAValue) -> None:
    """Sums over the axes that were spread; `add` does it."""
    b.add(op.args[0], lambda: g)


def transpose(b: Backward, op: TransposeOp, g: SSAValue) -> None:
    """The inverse permutation."""
    order = op.data("order")
    inverse = tuple(order.index(i) for i in range(len(order)))
    b.add(op.args[0], lambda: b.emit(TransposeOp, g, order=IntsAttr(inverse)))


def reshape(b: Backward, op: ReshapeOp, g: SSAValue) -> None:
    """The shape of before."""
    b.add(op.args[0], lambda: b.emit(ReshapeOp, g, shape=DimsAttr(shape_of(op.args[0]))))


def slice(b: Backward, op: SliceOp, g: SSAValue) -> None:
    """Zeros before and after."""
    axis, (start,), (stop,) = op.data("axis"), op.data("start"), op.data("stop")
    shape = shape_of(op.args[0])

    def zeros(size: Dim) -> list[SSAValue]:
        padding = tuple(size if i == axis else d for i, d in enumerate(shape))
        return [] if size == 0 else [b.full(0.0, padding, gradient_type(op.args[0].type).dtype)]

    def padded() -> SSAValue:
        pieces = [*zeros(start), g, *zeros(dims.sub(shape[axis], stop))]
        return g if len(pieces) == 1 else b.emit(ConcatOp, *pieces, axis=IntAttr(axis))

    b.add(op.args[0], padded)


def concat(b: Backward, op: ConcatOp, g: SSAValue) -> None:
    """To every operand its slice."""
    axis, start = op.data("axis"), 0
    for operand in op.args:
        stop = dims.add(start, shape_of(operand)[axis])

        def piece(start: Dim = start, stop: Dim = stop) -> SSAValue:
            return b.emit(SliceOp, g, axis=IntAttr(axis), start=DimsAttr((start,)), stop=DimsAttr((stop,)))

        b.add(operand, piece)
        start = stop
