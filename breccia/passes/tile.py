"""Cut every kernel into tiles: a grid, a window for each operand and result, and the regions `init`, `step`, `finish`.

Contract: reassociates. Partial windows are smaller tiles, so nothing changes but the order of sums; where the scales of
a product wait for its partial sums or its result, their multiplications move with them.

    %y = breccia.kernel "gemm" schedule<block_m = 128, ..> in (%e, %s, %w) out (..) body (%e, %s, %w) {
      %q = assemble %e, %s as ..   %y = matmul %q, %w place_a #breccia.place<epilogue>   yield %y }
    // becomes
    %y = breccia.kernel "gemm" grid(m = ceildiv(M, 128), n = 2, k = 5 reduction)
      in (%e window [128, 128] at (m, k), %w window [128, 128] at (k, n), %s window [128, 1] at (m, 0)) out (..)
      init { %acc = full 0.0 [128, 128] : f32  yield %acc }
      step (%acc, %e, %w) { %p = dot nn %e, %w  %r = binary add %acc, %p  yield %r }
      finish (%acc, %s) { %q = binary mul %acc, %s  yield %q }
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import kernels
from breccia.passes._tiling import tile_kernel


@dataclass(frozen=True)
class Tile(BrecciaPass):
    """Sizes come from each kernel's schedule; those that a recipe's blocks rule out are adjusted."""

    name: ClassVar[str] = "tile"
    contract: ClassVar = "reassociates"

    def run(self, module: ModuleOp) -> None:
        for kernel in kernels(module):
            if not kernel.is_tiled:
                tile_kernel(kernel)
