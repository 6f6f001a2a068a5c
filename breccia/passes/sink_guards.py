"""Move the choice between a quick product and an exact one to the end of the exact one's kernel. Contract: exact.

`fold-exponents` chooses between two products, and what follows them has joined the kernel of the exact one. Here it is
repeated in the kernel of the quick one, and the choice comes last: where no row of a tile has lost anything, the exact
kernel leaves the quick one's result as it is, so that a target need not compute the tile.

    %f = breccia.kernel "gemm_0" in (%q, %r) .. body { %p = matmul %q, %r  yield %p }
    %y = breccia.kernel "gemm_1" in (%a, %w, %lost, %f) .. body { %e = matmul %a, %w  %s = select %lost, %e, %f
                                                                 %t = unary silu %s   yield %t }
    // ->
    %f = breccia.kernel "gemm_0" in (%q, %r) .. body { %p = matmul %q, %r  %t = unary silu %p  yield %t }
    %y = breccia.kernel "gemm_1" in (%a, %w, %lost, %f) .. body { %e = matmul %a, %w  %t = unary silu %e
                                                                 %s = select %lost, %t, %f  yield %s }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp, UnitAttr, f32
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue

from breccia.errors import PassError
from breccia.ir.attributes import ScheduleAttr
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import ConvertOp, MatmulOp, SelectOp, YieldOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import erase_dead, functions, insert_before, inserted, replace_op, with_location
from breccia.ir.types import TensorType, tensor
from breccia.passes._folding import GUARD
from breccia.passes._sharing import cone

KEPT = "keep"
"""Entry of a schedule: rows (and columns) that no flag is set for may be left as they are in the quick result."""


@dataclass(frozen=True)
class SinkGuards(BrecciaPass):
    """Invariant: afterwards every guard selects what its kernel yields; such kernels are scheduled to `keep = rows`."""

    name: ClassVar[str] = "sink-guards"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        for function in functions(module):
            for kernel in list(function.body.block.ops):
                if isinstance(kernel, KernelOp) and not kernel.is_tiled and (found := _guards(kernel)):
                    _sink(kernel, found)
            erase_dead(function.body.block)


def _guards(kernel: KernelOp) -> list[SelectOp]:
    """The selects between the two products, the innermost first."""
    if KEPT in kernel.entries:
        return []
    return [op for op in kernel.body.block.ops if isinstance(op, SelectOp) and GUARD in op.attributes]


def _sink(kernel: KernelOp, guards: Sequence[SelectOp]) -> None:
    body, first, last = kernel.body.block, guards[0], guards[-1]
    exact, quick = first.args[1], first.args[2]
    source = kernel.args[quick.index].owner if isinstance(quick, BlockArgument) else None
    if (
        not isinstance(quick, BlockArgument)
        or not isinstance(source, KernelOp)
        or not isinstance(exact.owner, MatmulOp)
    ):
        raise PassError(
            f"sink-guards: {kernel.kernel_name} chooses between {exact.name_hint} and {quick.name_hint}, which are not "
            "a product of its own and one of another kernel; run it right after partition"
        )
    yields = list(KernelOp.terminator(kernel.body).args)
    made = _quick(kernel, source, last, yields)
    insert_before(kernel, made)
    flags = [g.args[0] for g in guards]
    last.out.replace_all_uses_with(exact)
    for guard in reversed(guards):
        guard.detach()
        guard.erase()
    terminator = KernelOp.terminator(kernel.body)
    results: list[SSAValue] = []
    operands: list[SSAValue] = list(kernel.args)
    for value, out in zip(list(terminator.args), made.outs, strict=True):
        argument = body.insert_arg(out.type, len(body.args))
        argument.name_hint = out.name_hint
        operands.append(out)
        results.append(_chosen(terminator, flags, value, argument))
    replace_op(terminator, YieldOp.make(*results))
    _rebuilt(kernel, operands, quick)


def _chosen(before: Operation, flags: Sequence[SSAValue], exact: SSAValue, quick: SSAValue) -> SSAValue:
    """`exact` where a flag is set, else `quick`: chosen in f32, as elementwise ops are, and rounded as both are."""
    narrow = None if exact.type == _in_f32(exact) else exact.type
    wide, chosen = exact, quick
    if narrow is not None:
        rounds = isinstance(exact.owner, ConvertOp) and exact.owner.args[0].type == _in_f32(exact)
        wide = exact.owner.args[0] if rounds else inserted(before, ConvertOp.make(exact, dtype=f32))  # type: ignore[union-attr]
        chosen = inserted(before, ConvertOp.make(quick, dtype=f32))
    for flag in flags:
        chosen = inserted(before, SelectOp.make(flag, wide, chosen))
        chosen.owner.attributes[GUARD] = UnitAttr()  # type: ignore[union-attr]
    if narrow is not None:
        chosen = inserted(before, ConvertOp.make(chosen, dtype=narrow.dtype))  # type: ignore[attr-defined]
    chosen.name_hint = exact.name_hint
    return chosen


def _in_f32(value: SSAValue) -> Attribute:
    """The type of `value` in f32."""
    assert isinstance(value.type, TensorType), "products are plain tensors"
    return tensor(value.type.shape, f32)


def _quick(kernel: KernelOp, source: KernelOp, last: SelectOp, yields: Sequence[SSAValue]) -> KernelOp:
    """The quick product's kernel with what follows the choice in the exact one's."""
    block = Block(arg_types=[a.type for a in source.body.block.args])
    operands, mapped = list(source.args), dict[SSAValue, SSAValue]()
    for old, new in zip(source.body.block.args, block.args, strict=True):
        new.name_hint = old.name_hint
        mapped[old] = new
    for op in source.body.block.ops:
        if isinstance(op, YieldOp):
            mapped[last.out] = mapped[op.args[0]]
            break
        block.add_op(op.clone(mapped))
    needed = cone(*yields, above=last.out)
    for op in (op for op in kernel.body.block.ops if op in needed):
        for operand in op.operands:
            if operand not in mapped:
                assert isinstance(operand, BlockArgument), "what an op reads stands before it"
                argument = block.insert_arg(operand.type, len(block.args))
                argument.name_hint = operand.name_hint
                operands.append(kernel.args[operand.index])
                mapped[operand] = argument
        block.add_op(op.clone(mapped))
    block.add_op(with_location(YieldOp.make(*(mapped[v] for v in yields)), KernelOp.terminator(kernel.body)))
    made = KernelOp.make(source.kernel_name, operands, [v.type for v in yields], body=Region(block))
    made.attributes.update(source.attributes)
    for out, value in zip(made.outs, yields, strict=True):
        out.name_hint = f"{value.name_hint or 'product'}_quick"
    return with_location(made, source)


def _rebuilt(kernel: KernelOp, operands: Sequence[SSAValue], quick: BlockArgument) -> None:
    """The kernel with its new operands, and without the raw product of the quick one."""
    keep = [i for i in range(len(operands)) if i != quick.index]
    kernel.body.block.erase_arg(quick)
    region = Region()
    kernel.body.move_blocks(region)
    # Decoded by each tile that meets them: kernels that decode would run even where no tile is computed.
    schedule = ScheduleAttr((("decode", "tile"), (KEPT, "rows")))
    new = KernelOp.make(
        kernel.kernel_name, [operands[i] for i in keep], [o.type for o in kernel.outs], body=region, schedule=schedule
    )
    new.attributes.update(kernel.attributes)
    replace_op(kernel, new, list(new.outs))
