"""Canonical forms of views and of taking scaled tensors apart. Each rule gives values for an op's results, or None."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xdsl.ir import Operation, SSAValue
from xdsl.utils.exceptions import VerifyException

from breccia.ir.attributes import IntsAttr
from breccia.ir.base import BrecciaOp
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import (
    AssembleOp,
    BinaryOp,
    BroadcastOp,
    ConcatOp,
    ConvertLayoutOp,
    FullOp,
    PartsOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    TransposeOp,
)
from breccia.ir.rewriting import insert_before
from breccia.ir.types import DimsAttr, TensorType

Values = Sequence[SSAValue] | None


def built(anchor: Operation, op: BrecciaOp) -> list[SSAValue]:
    """The results of `op`, inserted before `anchor`."""
    insert_before(anchor, op)
    return list(op.results)


def transpose(op: TransposeOp) -> Values:
    """Two permutations are one; the identity is none."""
    inner, order = op.args[0].owner, op.data("order")
    if isinstance(inner, TransposeOp):
        first = inner.data("order")
        composed = TransposeOp.make(inner.args[0], order=IntsAttr(tuple(first[i] for i in order)))
        return built(op, composed) if composed.out.type == op.out.type else None
    return [op.args[0]] if order == tuple(range(len(order))) and op.args[0].type == op.out.type else None


def reshape(op: ReshapeOp) -> Values:
    """Two reshapes are one where the recipe allows it; one to the same shape is none."""
    if op.args[0].type == op.out.type:
        return [op.args[0]]
    inner = op.args[0].owner
    if not isinstance(inner, ReshapeOp):
        return None
    try:
        once = ReshapeOp.make(inner.args[0], shape=op.properties["shape"])
    except VerifyException:
        return None
    return built(op, once) if once.out.type == op.out.type else None


def same_type(op: BroadcastOp | SliceOp | ConvertLayoutOp) -> Values:
    """A broadcast to the same shape, a slice of everything, a conversion to the same layout."""
    return [op.args[0]] if op.args[0].type == op.out.type else None


def whole_slice(op: SliceOp) -> Values:
    (start,), (stop,) = op.data("start"), op.data("stop")
    source: Any = op.args[0].type
    whole = start == 0 and stop == source.shape[op.data("axis")]
    return [op.args[0]] if whole and source == op.out.type else None


def broadcast(op: BroadcastOp) -> Values:
    inner = op.args[0].owner
    if not isinstance(inner, BroadcastOp):
        return None
    return built(op, BroadcastOp.make(inner.args[0], shape=op.properties["shape"]))


def concat(op: ConcatOp) -> Values:
    return [op.args[0]] if len(op.args) == 1 and op.args[0].type == op.out.type else None


def implied_broadcast(op: BinaryOp | SelectOp) -> Values:
    """Elementwise ops broadcast by themselves, so a broadcast before one goes where the result's shape stays."""
    sources = [a.owner.args[0] if isinstance(a.owner, BroadcastOp) else a for a in op.args]
    for kept in range(len(sources) + 1):  # keep one of the broadcasts where all of them decide the shape
        trial = [op.args[i] if i == kept - 1 else s for i, s in enumerate(sources)]
        if all(t is a for t, a in zip(trial, op.args, strict=True)):
            continue
        if type(op).infer([t.type for t in trial], op.properties) == [op.out.type]:
            return built(op, type(op).make(*trial, **op.properties))
    return None


def parts(op: PartsOp) -> Values:
    """Parts of what was just assembled."""
    inner = op.args[0].owner
    if isinstance(inner, AssembleOp) and [a.type for a in inner.args] == [o.type for o in op.outs]:
        return list(inner.args)
    return None


def assemble(op: AssembleOp) -> Values:
    """All parts of one tensor, put together again."""
    inner = op.args[0].owner
    if isinstance(inner, PartsOp) and list(op.args) == list(inner.outs) and inner.args[0].type == op.out.type:
        return [inner.args[0]]
    return None


def convert_layout(op: ConvertLayoutOp) -> Values:
    """Of two conversions, the last one decides."""
    inner = op.args[0].owner
    if isinstance(inner, ConvertLayoutOp):
        return built(op, ConvertLayoutOp.make(inner.args[0], layout=op.properties["layout"]))
    return None


def view_of_constant(op: TransposeOp | ReshapeOp | BroadcastOp | SliceOp) -> Values:
    """Views of a constant are a constant."""
    inner = op.args[0].owner
    if not isinstance(inner, FullOp) or not isinstance(op.out.type, TensorType):
        return None
    shape = DimsAttr(op.out.type.shape)
    return built(op, FullOp.make(value=inner.properties["value"], shape=shape, dtype=inner.properties["dtype"]))


def kernel(op: KernelOp) -> Values:
    """A result that is just an operand is that operand, outside as well."""
    if op.is_tiled:
        return None
    args: list[SSAValue] = list(op.body.block.args)
    for out, value in zip(op.outs, op.terminator(op.body).args, strict=True):
        if out.uses and value in args:
            out.replace_all_uses_with(op.args[args.index(value)])
    return None


VIEW_RULES: Mapping[type[Operation], Sequence[Callable[[Any], Values]]] = {
    TransposeOp: (transpose, view_of_constant),
    ReshapeOp: (reshape, view_of_constant),
    BroadcastOp: (same_type, broadcast, view_of_constant),
    SliceOp: (whole_slice, view_of_constant),
    ConcatOp: (concat,),
    BinaryOp: (implied_broadcast,),
    SelectOp: (implied_broadcast,),
    PartsOp: (parts,),
    AssembleOp: (assemble,),
    ConvertLayoutOp: (same_type, convert_layout),
    KernelOp: (kernel,),
}
