"""Puts every op that computes into a kernel: one launch each. Contract: exact.

Ops move unchanged. A gemm kernel holds one product with the conversions that only it reads and the elementwise ops and
quantizations that follow it; a rowwise kernel holds what works on the same rows; a reduction of all axes stands alone.
`_grouping.py` decides; constants and widening conversions are repeated in every kernel that reads them.

    %h = breccia.matmul %a, %w                %y = breccia.kernel "gemm_0" in (%a, %w, %r) out (..) body (%a, %w, %r) {
    %f = breccia.convert %r : f32        ->     %h = matmul %a, %w
    %s = breccia.binary add %h, %f              %f = convert %r : f32
    %y = breccia.convert %s : bf16              %s = binary add %h, %f   %y = convert %s : bf16   yield %y }
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, Region, SSAValue

from breccia.ir.kernel import KernelOp
from breccia.ir.ops import YieldOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import erase_dead, functions
from breccia.passes._grouping import PRODUCTS, Grouping, Node
from breccia.passes.fuse_sibling_quantize import GROUP


@dataclass(frozen=True)
class Partition(BrecciaPass):
    """Invariants: kernels are convex; between them only views are left; kernel names are unique in the module."""

    name: ClassVar[str] = "partition"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        numbers: Counter[str] = Counter()
        for function in functions(module):
            _partition(function.body.block, numbers)


def _partition(block: Block, numbers: Counter[str]) -> None:
    erase_dead(block)  # a dead reader would make a kernel yield what nobody needs
    grouping = Grouping(block)
    last = block.last_op
    assert last is not None, "a function ends in a return"
    for node in grouping.nodes():
        if node.kind == "view":
            (op,) = node.ops
            op.detach()
            block.insert_op_before(op, last)
            continue
        name = f"{node.kind}_{numbers[node.kind]}"
        numbers[node.kind] += 1
        _Builder(grouping, node).build(name, last)
    for op in sorted(grouping.repeated, key=grouping.position.__getitem__, reverse=True):
        op.detach()
        op.erase()


class _Builder:
    """Moves the ops of one node into a kernel."""

    def __init__(self, grouping: Grouping, node: Node) -> None:
        self.grouping = grouping
        self.node = node
        self.body = Block()
        self.inside: dict[SSAValue, SSAValue] = {}
        """What stands inside for a value from outside: an argument of the body, or the result of a repeated op."""
        self.operands: list[SSAValue] = []

    def build(self, name: str, before: Operation) -> None:
        results = self._results()
        anchor = next((op for op in self.node.ops if isinstance(op, PRODUCTS)), self.node.ops[-1])
        block = before.parent_block()
        assert block is not None, "the function has a body"
        for op in self.node.ops:
            op.detach()
            for i, operand in enumerate(op.operands):
                if not self._is_own(operand):
                    op.operands[i] = self._from_outside(operand)
            op.attributes.pop(GROUP, None)
            self.body.add_op(op)
        kernel = KernelOp.make(name, self.operands, [r.type for r in results], body=Region(self.body))
        kernel.location = anchor.location
        for out, result in zip(kernel.outs, results, strict=True):
            out.name_hint = result.name_hint
            result.replace_uses_with_if(out, lambda use: use.operation.parent_block() is not self.body)
        terminator = YieldOp.make(*results)
        terminator.location = self.node.ops[-1].location
        self.body.add_op(terminator)
        block.insert_op_before(kernel, before)

    def _is_own(self, value: SSAValue) -> bool:
        return isinstance(value.owner, Operation) and self.grouping.node_of(value.owner) is self.node

    def _results(self) -> list[SSAValue]:
        """Values that anything outside reads, directly or through a repeated op."""
        node_of, users = self.grouping.node_of, self.grouping.users
        found: list[SSAValue] = []
        for op in self.node.ops:
            if any(node_of(user) is not self.node for user in users(op)):
                found += [r for r in op.results if self._leaves(r)]
        return found

    def _leaves(self, value: SSAValue) -> bool:
        for use in value.uses:
            user = use.operation
            readers = self.grouping.users(user) if user in self.grouping.repeated else (user,)
            if any(self.grouping.node_of(reader) is not self.node for reader in readers):
                return True
        return False

    def _from_outside(self, value: SSAValue) -> SSAValue:
        if value in self.inside:
            return self.inside[value]
        source = value.owner
        if isinstance(source, Operation) and source in self.grouping.repeated:
            copy = source.clone()
            for i, operand in enumerate(source.operands):
                copy.operands[i] = operand if self._is_own(operand) else self._from_outside(operand)
            self.body.add_op(copy)
            self.inside[value] = copy.results[0]
            return copy.results[0]
        argument = self.body.insert_arg(value.type, len(self.body.args))
        argument.name_hint = value.name_hint
        self.operands.append(value)
        self.inside[value] = argument
        return argument
