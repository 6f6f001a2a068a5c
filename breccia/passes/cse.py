"""Common subexpressions: of two equal ops, the second one goes. Contract: exact.

Every op of the dialect is pure, so this covers `quantize` (its seed is an operand) and whole kernels.

    %a = breccia.quantize %x policy #p to #r        %a = breccia.quantize %x policy #p to #r
    %b = breccia.quantize %x policy #p to #r   ->   %y = breccia.matmul %a, %a
    %y = breccia.matmul %a, %b
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation
from xdsl.traits import IsTerminator, Pure

from breccia.ir.kernel import REGIONS, KernelOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import functions, replace_op


@dataclass(frozen=True)
class CommonSubexpressions(BrecciaPass):
    """Invariant: the op that stays is the first one, with its own location and name."""

    name: ClassVar[str] = "cse"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        for function in functions(module):
            _merge_equal(function.body.block)


def _merge_equal(block: Block) -> None:
    seen: dict[Hashable, list[Operation]] = {}
    for op in list(block.ops):
        if isinstance(op, KernelOp):
            for _, region in op.named_regions():
                _merge_equal(region.block)
        if not op.has_trait(Pure) or op.has_trait(IsTerminator):
            continue
        alike = seen.setdefault(_key(op), [])
        twin = next((other for other in alike if _same_regions(op, other)), None)
        if twin is None:
            alike.append(op)
        else:
            replace_op(op, [], list(twin.results))


def _key(op: Operation) -> Hashable:
    """Equal for ops that compute the same, their regions aside. A kernel's name and an op's attributes say nothing."""
    props = tuple((name, value) for name, value in sorted(op.properties.items()) if name != "sym_name")
    return op.name, tuple(op.operands), props, tuple(r.type for r in op.results)


def _same_regions(op: Operation, other: Operation) -> bool:
    if not isinstance(op, KernelOp):
        return True
    return all(getattr(op, name).is_structurally_equivalent(getattr(other, name)) for name in REGIONS)
