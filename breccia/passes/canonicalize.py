"""Exact simplification: what undoes itself goes, and constants are computed. Contract: exact.

    %a = breccia.transpose %x [1, 0]                %e, %s = breccia.parts %q          (%q from assemble %e0, %s0)
    %b = breccia.transpose %a [1, 0]      ->        %e0, %s0
    %c = breccia.convert %b : f32  (bf16 -> f32)
    %d = breccia.convert %c : bf16        ->        %x
    %m = breccia.matmul (dequantize %q), %w  ->     breccia.matmul %q, %w       (dequantize gives f32: no rounding)

Never: dropping a rounding. dequantize(quantize x), quantize(dequantize q), convert to fewer bits and back, x + 0 (it
turns -0 into 0), x * 0 and x - x (NaN) all stay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from breccia.ir.kernel import KernelOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import erase_dead, functions, replace_op
from breccia.passes._fold_values import VALUE_RULES
from breccia.passes._fold_views import VIEW_RULES

Rule = Callable[[Any], Sequence[SSAValue] | None]
"""From an op to the values that stand for its results, or None. New ops are inserted before the op by the rule."""


@dataclass(frozen=True)
class Canonicalize(BrecciaPass):
    """Invariant: every rule is bit-exact for all values, NaN and -0 included."""

    name: ClassVar[str] = "canonicalize"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        rules: dict[type[Operation], tuple[Rule, ...]] = {}
        tables: tuple[Mapping[type[Operation], Sequence[Rule]], ...] = (VIEW_RULES, VALUE_RULES)
        for table in tables:
            for kind, found in table.items():
                rules[kind] = (*rules.get(kind, ()), *found)
        for function in functions(module):
            simplify(list(function.walk()), rules)
            for op in function.body.block.ops:
                for _, region in op.named_regions() if isinstance(op, KernelOp) else ():
                    erase_dead(region.block)
            erase_dead(function.body.block)


def simplify(ops: Sequence[Operation], rules: Mapping[type[Operation], Sequence[Rule]]) -> None:
    """Apply rules until none fires; users of a new value are looked at again."""
    pending = deque(op for op in ops if type(op) in rules)
    waiting = set(pending)
    while pending:
        op = pending.popleft()
        waiting.discard(op)
        if op.parent is None:
            continue
        for rule in rules[type(op)]:
            values = rule(op)
            if values is None:
                continue
            again = [v.owner for v in values if isinstance(v.owner, Operation)]
            again += [use.operation for r in op.results for use in r.uses]
            replace_op(op, [], list(values))
            for other in again:
                if type(other) in rules and other not in waiting:
                    waiting.add(other)
                    pending.append(other)
            break
