"""Brings quantizations of one value together, so that one kernel reads it once. Contract: exact.

The later `quantize` moves next to the first one, and both carry the same `breccia.group`: `partition` then puts them in
one kernel with several results. A quantization of the transposed value becomes the transpose of a quantization whose
blocks are transposed ("rowwise and columnwise"), unless rounding is stochastic and so depends on positions.

    %q = breccia.quantize %x policy #p to #row      %q = breccia.quantize %x policy #p to #row {breccia.group = "q"}
    %y = breccia.matmul %q, %w                 ->   %c = breccia.quantize %x policy #p to #col {breccia.group = "q"}
    %t = breccia.transpose %x [1, 0]                %y = breccia.matmul %q, %w
    %r = breccia.quantize %t policy #p to #row      %r = breccia.transpose %c [1, 0]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Block, Operation, SSAValue

from breccia.ir.attributes import IntsAttr
from breccia.ir.ops import QuantizeOp, TransposeOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import functions, replace_op
from breccia.ir.types import RecipeAttr, ScaledType

GROUP = "breccia.group"
"""Attribute of ops that `partition` puts into one kernel where that is legal."""


@dataclass(frozen=True)
class FuseSiblingQuantize(BrecciaPass):
    """Invariant: every quantization keeps its policy; only where it stands, and the order of its axes, changes."""

    name: ClassVar[str] = "fuse-sibling-quantize"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        number = 0
        for function in functions(module):
            block = function.body.block
            for op in list(block.ops):
                if isinstance(op, QuantizeOp):
                    _through_transpose(op)
            for siblings in _siblings(block):
                for op in siblings:
                    op.attributes[GROUP] = StringAttr(f"quantize{number}")
                _bring_together(siblings)
                number += 1


def _through_transpose(op: QuantizeOp) -> None:
    """quantize(transpose x) as transpose(quantize x), where x itself is quantized too."""
    turned = op.args[0].owner
    if not isinstance(turned, TransposeOp) or len(op.args) > 1:
        return
    x = turned.args[0]
    if not any(isinstance(use.operation, QuantizeOp) and use.index == 0 for use in x.uses):
        return
    order = turned.data("order")
    inverse = tuple(order.index(i) for i in range(len(order)))
    type_ = op.out.type
    assert isinstance(type_, ScaledType), "quantize gives a scaled tensor"
    straight = QuantizeOp.make(x, policy=op.policy, recipe=RecipeAttr(type_.recipe.permuted(inverse)))
    back = TransposeOp.make(straight, order=IntsAttr(order))
    if back.out.type == type_:
        replace_op(op, [straight, back])
        if not turned.out.uses:
            turned.detach()
            turned.erase()


def _siblings(block: Block) -> list[list[QuantizeOp]]:
    """Quantizations of one value, where the later ones could stand next to the first one."""
    place = {op: i for i, op in enumerate(block.ops)}
    by_value: dict[SSAValue, list[QuantizeOp]] = {}
    for op in block.ops:
        if isinstance(op, QuantizeOp):
            group = by_value.setdefault(op.args[0], [])
            if not group or all(_ready(a, place, place[group[0]]) for a in op.args):
                group.append(op)
    return [group for group in by_value.values() if len(group) > 1]


def _ready(value: SSAValue, place: dict[Operation, int], position: int) -> bool:
    return not isinstance(value.owner, Operation) or place[value.owner] < position


def _bring_together(siblings: list[QuantizeOp]) -> None:
    block = siblings[0].parent_block()
    assert block is not None, "ops stand in a function"
    last: Operation = siblings[0]
    for op in siblings[1:]:
        if last.next_op is not op:
            op.detach()
            block.insert_op_after(op, last)
        last = op
