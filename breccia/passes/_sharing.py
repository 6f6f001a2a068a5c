"""Gives each side of a product values of its own, so that one value can be cut along k there and along n elsewhere."""

from __future__ import annotations

from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from breccia.ir.kernel import KernelOp
from breccia.ir.ops import GroupedMatmulOp, MatmulOp


def cone(*values: SSAValue, above: SSAValue | None = None) -> set[Operation]:
    """Every op that `values` depend on, besides those that they do through `above` alone."""
    found: set[Operation] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        op = value.owner
        if value is not above and isinstance(op, Operation) and op not in found:
            found.add(op)
            pending += op.operands
    return found


def separate_sides(kernel: KernelOp) -> dict[BlockArgument, SSAValue]:
    """Clone what a side of the product shares with the rest of the body; the operand behind each body argument."""
    body = kernel.body.block
    sources: dict[BlockArgument, SSAValue] = dict(zip(body.args, kernel.args, strict=True))
    products = [op for op in body.ops if isinstance(op, MatmulOp | GroupedMatmulOp)]
    for op in products[:1]:
        for side in (0, 1):
            ops = cone(op.args[side])
            if _is_shared(op, side, ops):
                op.operands[side] = _cloned(op, op.args[side], body, sources)
    return sources


def _is_shared(matmul: Operation, side: int, ops: set[Operation]) -> bool:
    values = {matmul.operands[side], *(v for op in ops for v in (*op.operands, *op.results))}
    return any(
        use.operation not in ops and not (use.operation is matmul and use.index == side)
        for value in values
        for use in value.uses
    )


def _cloned(matmul: Operation, root: SSAValue, body: Block, sources: dict[BlockArgument, SSAValue]) -> SSAValue:
    ops = cone(root)
    mapping: dict[SSAValue, SSAValue] = {}
    for value in {root, *(v for op in ops for v in op.operands)}:
        if isinstance(value, BlockArgument):
            twin = body.insert_arg(value.type, len(body.args))
            twin.name_hint = value.name_hint
            sources[twin] = sources[value]
            mapping[value] = twin
    for op in [o for o in body.ops if o in ops]:
        body.insert_op_before(op.clone(mapping), matmul)
    return mapping[root]
