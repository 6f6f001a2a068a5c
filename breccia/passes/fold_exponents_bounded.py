"""Fold scales that are powers of two into FP8 elements, with a bounded loss. Contract: changes_value.

For products of MXFP8 that say `accuracy bounded`, as `breccia.compile(.., accuracy="bounded")` makes them: a value may
lose up to 2**-9.8 of the largest value of its old block; rows and columns that would lose more are computed exactly.
See `_folding.py`.

    %y = breccia.matmul %a, %w accuracy bounded
    ->  %f = breccia.matmul %q, %r   %e = breccia.matmul %a, %w   %y = breccia.select %lost, %e, %f {breccia.guard}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from breccia.ir.pipeline import BrecciaPass
from breccia.passes.fold_exponents import run


@dataclass(frozen=True)
class FoldExponentsBounded(BrecciaPass):
    """Invariant: products that do not ask for it stay as they are."""

    name: ClassVar[str] = "fold-exponents-bounded"
    contract: ClassVar = "changes_value"

    def run(self, module: ModuleOp) -> None:
        run(module, self.name, bounded=True)
