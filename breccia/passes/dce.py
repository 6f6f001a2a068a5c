"""Dead code elimination: what no result depends on goes. Contract: exact.

Every op of the dialect is pure, so an op without a used result goes; a kernel loses results that nobody uses, operands
that it does not read or is given twice, and results that it yields twice.

    %a = breccia.unary exp %x                       %y = breccia.unary neg %x
    %y = breccia.unary neg %x                 ->    func.return %y
    func.return %y
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue

from breccia.ir.kernel import KernelOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import erase_dead, functions, with_location


@dataclass(frozen=True)
class DeadCodeElimination(BrecciaPass):
    """Invariant: function signatures stay; only bodies of functions and kernels shrink."""

    name: ClassVar[str] = "dce"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        for function in functions(module):
            _sweep(function.body.block)


def _sweep(block: Block) -> None:
    """One walk from the end: users come after what they use, so each op is seen once its users are final."""
    for op in reversed(list(block.ops)):
        if op.results and not any(r.uses for r in op.results):
            op.detach()
            op.erase()
        elif isinstance(op, KernelOp):
            shrink(op)


def shrink(kernel: KernelOp) -> None:
    """Drop what a kernel computes, takes and gives in vain; it is replaced where its interface changes."""
    if kernel.is_tiled:  # its windows and region uses are tied to operands; tile leaves nothing dead
        for _, region in kernel.named_regions():
            erase_dead(region.block)
        return
    body = kernel.body.block
    yielded = kernel.terminator(kernel.body)
    kept = _kept_results(kernel, yielded.args)
    if len(kept) < len(kernel.outs):
        yielded.operands = [yielded.args[i] for i in kept]
    erase_dead(body)
    operands = _kept_operands(kernel, body)
    if len(kept) == len(kernel.outs) and len(operands) == len(kernel.args):
        return
    results = [kernel.outs[i] for i in kept]
    values = [kernel.args[i] for i in operands]
    new = KernelOp.make(
        kernel.kernel_name, values, [r.type for r in results], body=kernel.detach_region(kernel.body),
        schedule=kernel.schedule,
    )  # fmt: skip
    new.attributes.update(kernel.attributes)
    with_location(new, kernel)
    block = kernel.parent_block()
    assert block is not None, "the kernel stands in a function"
    block.insert_op_before(new, kernel)
    for result, out in zip(results, new.outs, strict=True):
        out.name_hint = result.name_hint
        result.replace_all_uses_with(out)
    kernel.detach()
    kernel.erase()


def _kept_results(kernel: KernelOp, yielded: Sequence[SSAValue]) -> list[int]:
    """Results in use; one that repeats what another one yields hands its uses over."""
    first: dict[SSAValue, int] = {}
    for i, (out, value) in enumerate(zip(kernel.outs, yielded, strict=True)):
        if not out.uses:
            continue
        if value in first:
            out.replace_all_uses_with(kernel.outs[first[value]])
        else:
            first[value] = i
    return list(first.values())


def _kept_operands(kernel: KernelOp, body: Block) -> list[int]:
    """Operands that are read. Drops the other region arguments."""
    first: dict[SSAValue, int] = {}
    kept: list[int] = []
    for i, (operand, arg) in enumerate(zip(kernel.args, list(body.args), strict=True)):
        if arg.uses and operand in first:
            arg.replace_all_uses_with(body.args[first[operand]])
        if not arg.uses:
            body.erase_arg(arg)
            continue
        first[operand] = len(kept)
        kept.append(i)
    return kept
