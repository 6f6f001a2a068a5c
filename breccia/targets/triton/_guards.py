"""Kernels that leave most tiles as another kernel made them: see `breccia.passes.sink_guards`.

    finish (%acc, %lost, %quick) { .. %s = select %lost, %exact, %quick  yield %s }

Such a kernel writes into the other one's result, and a program computes a tile only where a flag of it is set. Where
none is set at all, which is the rule, programs end after they have read the flags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.ir import BlockArgument, SSAValue

from breccia.ir import dims
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import ConvertOp, SelectOp
from breccia.passes.sink_guards import KEPT


@dataclass(frozen=True)
class Guard:
    """flags: operands that say of rows and columns whether they are computed. kept: for each result, the operand that
    it is otherwise.
    """

    flags: tuple[int, ...]
    kept: tuple[int, ...]


def guard_of(kernel: KernelOp) -> Guard | None:
    """What guards a tiled kernel; None for most."""
    said = kernel.entries
    if KEPT not in said or len(kernel.tiles.dims("parallel")) > 2:
        return None
    flags: set[int] = set()
    kept: list[int] = []
    for value, window in zip(KernelOp.terminator(kernel.finish).args, kernel.tiles.outputs, strict=True):
        found = _chosen(kernel, value)
        if found is None or kernel.tiles.inputs[found[1]] != window or not _own(kernel, found[1]):
            return None
        flags |= set(found[0])
        kept.append(found[1])
    if len(set(kept)) < len(kept) or not all(_lies_flat(kernel, i) for i in flags):
        return None
    return Guard(tuple(sorted(flags)), tuple(kept))


def _chosen(kernel: KernelOp, value: SSAValue) -> tuple[list[int], int] | None:
    """(operands that are flags, the operand that stays where none is set) of one result."""
    flags: list[int] = []
    while not isinstance(value, BlockArgument):
        op = value.owner
        if isinstance(op, ConvertOp):
            value = op.args[0]
        elif isinstance(op, SelectOp):
            flag = _operand(kernel, op.args[0])
            if flag is None:
                return None
            flags.append(flag)
            value = op.args[2]
        else:
            return None
    kept = _operand(kernel, value)
    return None if kept is None or not flags else (flags, kept)


def _operand(kernel: KernelOp, value: SSAValue) -> int | None:
    carried = len(kernel.finish.block.args) - len(kernel.tiles.finish_uses)
    if not isinstance(value, BlockArgument) or value.index < carried:
        return None
    return kernel.tiles.finish_uses[value.index - carried]


def _own(kernel: KernelOp, operand: int) -> bool:
    """True for a result of another kernel that nothing else reads, so that it may be overwritten."""
    value = kernel.args[operand]
    return isinstance(value.owner, KernelOp) and value.has_one_use()


def _lies_flat(kernel: KernelOp, operand: int) -> bool:
    """True for flags that differ along one axis only, in tiles from its start on."""
    window = kernel.tiles.inputs[operand]
    assert window is not None, "regions use operands that have windows"
    long = [i for i, size in enumerate(kernel.args[operand].type.shape) if size != 1]  # type: ignore[attr-defined]
    return len(long) <= 1 and window.segment is None and all(not dims.has_lookup(i) for i in window.index)


def flags_of(kernel: KernelOp, guard: Guard) -> Sequence[tuple[BlockArgument, int]]:
    """The arguments of `finish` that are flags, with the numbers of their operands."""
    pairs = ((argument, _operand(kernel, argument)) for argument in kernel.finish.block.args)
    return [(argument, i) for argument, i in pairs if i is not None and i in guard.flags]
