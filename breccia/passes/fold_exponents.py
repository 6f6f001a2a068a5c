"""Fold scales that are powers of two into FP8 elements, where that loses nothing. Contract: reassociates.

For elements of up to 6 bits (MXFP4, MXFP6) on targets that multiply FP8 but no such elements: see `_folding.py`. A row
or column whose exponents lie too far apart is computed as before. `fold-exponents-bounded` does it for MXFP8.

    %y = breccia.matmul %a, %w        // f4E2M1FN, f8E8M0FNU per 32 along k
    ->  %q = breccia.quantize (dequantize %a) to f8E4M3FN, f32 per [1, 128]   // likewise %r of %w, f32 per row
        %f = breccia.matmul %q, %r   %e = breccia.matmul %a, %w
        %y = breccia.select %lost, %e, %f {breccia.guard}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from breccia.ir.capabilities import target_of
from breccia.ir.ops import MatmulOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import functions
from breccia.passes._folding import Known, fold


@dataclass(frozen=True)
class FoldExponents(BrecciaPass):
    """Invariant: every value of the quick product's operands equals that of the exact one's, in rows that it keeps."""

    name: ClassVar[str] = "fold-exponents"
    contract: ClassVar = "reassociates"

    def run(self, module: ModuleOp) -> None:
        run(module, self.name, bounded=False)


def run(module: ModuleOp, name: str, *, bounded: bool) -> None:
    """Fold the operands of all products for which that is asked or allowed."""
    capabilities = target_of(module, name)
    for function in functions(module):
        known: Known = {}
        for op in list(function.body.block.ops):
            if isinstance(op, MatmulOp) and "place_a" not in op.properties and (asked(op) or not bounded):
                fold(op, capabilities, known, bounded=bounded)


def asked(op: MatmulOp) -> bool:
    """True where the user allows a declared loss."""
    return "accuracy" in op.properties and op.data("accuracy") == "bounded"
