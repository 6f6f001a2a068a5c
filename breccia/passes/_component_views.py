"""Reshapes, slices and concatenations of scaled tensors, done on each stored component."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import IntAttr
from xdsl.ir import Operation, SSAValue

from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.base import BrecciaOp
from breccia.ir.dims import Dim
from breccia.ir.ops import ConcatOp, ReshapeOp, SliceOp
from breccia.ir.storage import PACKING, storage_types
from breccia.ir.types import DimsAttr, LayoutAttr, ScaledType
from breccia.passes._axes import component_block

COMPONENT_VIEWS = (ReshapeOp, SliceOp, ConcatOp)


def view_components(op: Operation, parts: Sequence[Sequence[SSAValue]], out: ScaledType) -> list[BrecciaOp]:
    """For each component, the op that does to it what `op` does to the scaled tensor; `parts` by operand."""
    source = op.operands[0].type
    assert isinstance(source, ScaledType), "views of scaled tensors take scaled tensors"
    views: list[BrecciaOp] = []
    for i, (name, stored) in enumerate(storage_types(out)):
        column = [p[i] for p in parts]
        order = source.layout.order(name) if isinstance(source.layout, LayoutAttr) else "row_major"
        if isinstance(op, ReshapeOp):
            _refuse_reordered(op, order, source)
            view: BrecciaOp = ReshapeOp.make(column[0], shape=DimsAttr(stored.shape))
        elif isinstance(op, SliceOp):
            view = _slice(op, source, name, order, column[0])
        else:
            assert isinstance(op, ConcatOp), "these three are the views of components"
            view = _concat(op, source, name, order, column)
        if view.out.type != stored:
            raise _unsupported(op, source, f"its {name} would be {view.out.type} instead of {stored}")
        views.append(view)
    return views


def _slice(op: SliceOp, source: ScaledType, name: str, order: str, part: SSAValue) -> BrecciaOp:
    axis = op.axis.data  # type: ignore[attr-defined]
    (start,), (stop,) = op.start.data, op.stop.data  # type: ignore[attr-defined]
    g = component_block(source, name)[axis]
    if g is None:
        return ReshapeOp.make(part, shape=part.type.dims)  # type: ignore[attr-defined]  # one scale for all
    place = _stored_axis(op, source, order, axis)
    size = source.shape[axis]
    low, high = (_border(op, source, name, order, axis, b, size, g) for b in (start, stop))
    return SliceOp.make(part, axis=IntAttr(place), start=DimsAttr((low,)), stop=DimsAttr((high,)))


def _border(op: Operation, source: ScaledType, name: str, order: str, axis: int, at: Dim, size: Dim, g: int) -> Dim:
    """Where element `at` of the tensor lies in a component; blocks end there, or the axis does."""
    packed = order in PACKING and axis == source.rank - 1
    unit = g * PACKING[order][1] if packed else g
    if unit != 1 and at != size and (not isinstance(at, int) or at % unit):
        raise _unsupported(op, source, f"{dims.show(at)} lies inside a stored unit of {unit} elements of its {name}")
    entry = dims.ceildiv(at, g)
    return dims.mul(dims.ceildiv(entry, PACKING[order][1]), PACKING[order][2]) if packed else entry


def _concat(op: ConcatOp, source: ScaledType, name: str, order: str, parts: Sequence[SSAValue]) -> BrecciaOp:
    axis = op.axis.data  # type: ignore[attr-defined]
    g = component_block(source, name)[axis]
    for value in list(op.args)[:-1]:
        t = value.type
        assert isinstance(t, ScaledType), "concat takes scaled tensors together"
        assert g is not None, "the verifier admits no scales that span the axis"
        size = t.shape[axis]
        _border(op, t, name, order, axis, size, 0 if order in PACKING and axis == t.rank - 1 else size, g)
    return ConcatOp.make(*parts, axis=IntAttr(_stored_axis(op, source, order, axis)))


def _stored_axis(op: Operation, source: ScaledType, order: str, axis: int) -> int:
    if order == "mn_major" and axis >= source.rank - 2:
        return 2 * source.rank - 3 - axis
    if order.startswith("swizzle") and axis >= source.rank - 2:
        raise _unsupported(op, source, f"its scales are stored as {order}")
    return axis


def _refuse_reordered(op: Operation, order: str, source: ScaledType) -> None:
    if order not in ("row_major", *PACKING):
        raise _unsupported(op, source, f"its components are stored as {order}")


def _unsupported(op: Operation, source: ScaledType, why: str) -> UnsupportedError:
    word = op.name.removeprefix("breccia.")
    return UnsupportedError(
        f"{word} of {source} is not supported, since {why}; dequantize before the {word} and quantize after it"
    )
