"""Compute the transpose of a product, where the schedule says `operands = swapped`: the second operand comes first.

Contract: exact. Every sum is of the same products in the same order. Matrix instructions take the first operand out of
registers, and have more rows than columns: so a weight that is decoded and meets few rows of an activation is best
their first operand. Windows stay as they are; `finish` begins with the transposition back.

    init { %acc = full 0.0 [16, 64] : f32  yield %acc }
    step (%acc, %x, %w, %s) { .. %p = dot nt %x, %v  %t = transpose %s [1, 0]  %q = binary mul %p, %t
                              %r = binary add %acc, %q  yield %r }
    finish (%acc) { ..
    // becomes
    init { %acc = full 0.0 [64, 16] : f32  yield %acc }
    step (%acc, %x, %w, %s) { .. %p = dot nt %v, %x  %q = binary mul %p, %s  %r = binary add %acc, %q  yield %r }
    finish (%acc) { %t = transpose %acc [1, 0] ..
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Block, Operation, Region, SSAValue

from breccia.ir.attributes import IntsAttr
from breccia.ir.base import BrecciaOp
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import BinaryOp, ConvertOp, FullOp, SelectOp, TransposeOp, UnaryOp, YieldOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import erase_dead, kernels, replace_op, with_location
from breccia.ir.tile_ops import DotOp
from breccia.ir.types import DimsAttr, TensorType
from breccia.passes._sharing import cone
from breccia.passes._walked import shape

SWAPPED = "swapped"
"""What `operands` says where this pass is to swap them."""
_ELEMENTWISE = (UnaryOp, BinaryOp, SelectOp, ConvertOp)
_TURN = IntsAttr((1, 0))


@dataclass(frozen=True)
class SwapOperands(BrecciaPass):
    """Kernels whose schedule does not ask for it stay as they are, and so do steps that are more than one product of
    matrices, with elementwise ops on what it gives.
    """

    name: ClassVar[str] = "swap-operands"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        for kernel in [k for k in kernels(module) if _asks(k) and _fits(k)]:
            _swap(kernel)


def _asks(kernel: KernelOp) -> bool:
    return kernel.is_tiled and bool(kernel.step.blocks) and kernel.entries.get("operands") == SWAPPED


def _fits(kernel: KernelOp) -> bool:
    block = kernel.step.block
    dots = [op for op in block.ops if isinstance(op, DotOp)]
    start = KernelOp.terminator(kernel.init).args
    if len(dots) != 1 or len(start) != 1 or not isinstance(start[0].owner, FullOp):
        return False
    if any(len(shape(v)) != 2 for v in (*dots[0].args, start[0])):
        return False
    turned: set[SSAValue] = {block.args[0], dots[0].out}
    for op in block.ops:
        if op is dots[0]:
            if turned & set(op.operands):
                return False
        elif not isinstance(op, YieldOp) and turned & set(op.operands):
            if not isinstance(op, _ELEMENTWISE) or any(len(shape(v)) not in (0, 2) for v in op.operands):
                return False
            turned |= set(op.results)
    return KernelOp.terminator(kernel.step).args[0] in turned


def _swap(kernel: KernelOp) -> None:
    new = KernelOp.make(
        kernel.kernel_name, list(kernel.args), [o.type for o in kernel.outs], tiling=kernel.tiles,
        init=_started(kernel.init), step=_stepped(kernel.step), finish=_finished(kernel.finish),
        schedule=kernel.schedule,
    )  # fmt: skip
    new.attributes.update(kernel.attributes)
    replace_op(kernel, new, list(new.outs))


def _turned_type(value: SSAValue) -> TensorType:
    assert isinstance(value.type, TensorType), "regions of tiled kernels hold plain tensors"
    return TensorType(DimsAttr(value.type.shape[::-1]), value.type.dtype)


def _started(init: Region) -> Region:
    region = init.clone()
    (value,) = KernelOp.terminator(region).args
    full = value.owner
    assert isinstance(full, FullOp), "what sums start from was checked"
    new = FullOp.make(**{**full.properties, "shape": DimsAttr(_turned_type(value).shape)})
    replace_op(full, new)
    return region


def _stepped(step: Region) -> Region:
    """The step with the product, and all that is made of it, turned."""
    old = step.block
    block = Block(arg_types=[_turned_type(old.args[0]), *(a.type for a in old.args[1:])])
    plain: dict[SSAValue, SSAValue] = dict(zip(old.args[1:], block.args[1:], strict=True))
    turned: dict[SSAValue, SSAValue] = {old.args[0]: block.args[0]}
    made: dict[SSAValue, SSAValue] = {}
    """What meets the product, turned for it."""
    for before, after in zip(old.args, block.args, strict=True):
        after.name_hint, after.location = before.name_hint, before.location

    def turn(value: SSAValue, user: Operation) -> SSAValue:
        if value in turned or value in made:
            return turned[value] if value in turned else made[value]
        owner = value.owner
        if isinstance(owner, TransposeOp):
            return plain[owner.args[0]]
        if len(shape(value)) < 2:
            return plain[value]
        if isinstance(owner, _ELEMENTWISE) and any(isinstance(op, TransposeOp) for op in cone(value)):
            op: BrecciaOp = type(owner).make(*(turn(v, owner) for v in owner.args), **owner.properties)
        else:
            op = TransposeOp.make(plain[value], order=_TURN)
        block.add_op(with_location(op, user))
        op.out.name_hint = value.name_hint
        made[value] = op.out
        return op.out

    for op in old.ops:
        if isinstance(op, YieldOp):
            new: Operation = YieldOp.make(turned[op.args[0]])
        elif isinstance(op, DotOp):
            form = op.data("form")
            # A second operand that lies as rows of n is a first one that lies as rows.
            swapped = ("n" if form[1] == "t" else "t") + ("t" if form[0] == "n" else "n")
            new = DotOp.make(plain[op.args[1]], plain[op.args[0]], form=StringAttr(swapped))
            turned[op.out] = new.out
        elif set(op.operands) & set(turned):
            assert isinstance(op, BrecciaOp), "what is made of the product was checked"
            new = type(op).make(*(turn(v, op) for v in op.args), **op.properties)
            turned[op.out] = new.out
        else:
            new = op.clone(value_mapper=dict(plain))
            plain.update(zip(op.results, new.results, strict=True))
        new.attributes.update(op.attributes)
        for before, after in zip(op.results, new.results, strict=True):
            after.name_hint = before.name_hint
        block.add_op(with_location(new, op))
    erase_dead(block)
    return Region(block)


def _finished(finish: Region) -> Region:
    """`finish`, which turns the sums back first."""
    region = finish.clone()
    block = region.block
    sums = block.args[0]
    added = block.insert_arg(_turned_type(sums), 0)
    added.name_hint, added.location = sums.name_hint, sums.location
    back = TransposeOp.make(added, order=_TURN)
    first = block.first_op
    assert first is not None, "every region of a kernel ends in breccia.yield"
    block.insert_op_before(with_location(back, first), first)
    sums.replace_all_uses_with(back.out)
    block.erase_arg(sums)
    return region
