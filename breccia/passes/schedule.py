"""Give each kernel its tile sizes, from the target's rows and the blocks of the recipes it works on.

Contract: exact. A schedule changes speed only; `tile` reads it.

    %y = breccia.kernel "gemm" in (..) ..
    // becomes, on a target whose row is `gemm 128 128 128`, with an operand in blocks of [1, 32]
    %y = breccia.kernel "gemm" schedule<block_m = 128, block_n = 128, block_k = 128> in (..) ..
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from breccia.errors import PassError
from breccia.ir.attributes import Entries, ScheduleAttr
from breccia.ir.capabilities import Capabilities, TileRow, target_of
from breccia.ir.kernel import KernelOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import kernels
from breccia.passes._plan import planned_blocks, skeleton
from breccia.passes._tile_sizes import product_tiles, row_tiles


@dataclass(frozen=True)
class Schedule(BrecciaPass):
    """Kernels that have a schedule already keep what it says; what it leaves out is filled in."""

    name: ClassVar[str] = "schedule"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        todo = [k for k in kernels(module) if not k.is_tiled]
        if not todo:
            return
        capabilities = target_of(module, self.name)
        for kernel in todo:
            entries = default_schedule(kernel, capabilities, kernel.entries)
            if entries:
                kernel.properties["schedule"] = ScheduleAttr.of(entries)


def default_schedule(kernel: KernelOp, capabilities: Capabilities, said: Entries) -> Entries:
    """What the cost model picks for a kernel that is not tiled yet, besides what is said already."""
    kind = skeleton(kernel)
    row = _row(capabilities, kind, kernel)
    wanted: Entries = {"block_m": row.m, "block_n": row.n, "block_k": row.k}
    if not capabilities.pow2_tiles or kind == "reduce":
        return {**planned_blocks(kernel, kind, {**wanted, **said}), **said}
    if kind == "rowwise":
        return row_tiles(kernel, wanted, row.m * row.n, said)
    return product_tiles(kernel, kind, wanted, capabilities, said)


def _row(capabilities: Capabilities, kind: str, kernel: KernelOp) -> TileRow:
    for row in capabilities.tiles:
        if row.skeleton == kind:
            return row
    known = ", ".join(row.skeleton for row in capabilities.tiles) or "none"
    raise PassError(
        f"schedule: {capabilities.name} has no tile row for {kind} kernels such as {kernel.kernel_name} "
        f"(rows: {known}); add TileRow({kind!r}, m, n, k) to its capabilities"
    )
