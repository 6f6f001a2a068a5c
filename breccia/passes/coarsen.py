"""Widen windows to whole axes, so that a kernel runs as few programs as its meaning allows: one, wherever possible.

Contract: reassociates. For targets that work on whole arrays: each product becomes one dot. A dimension stays where
tiles are no parts of a whole: partial sums that are scaled, groups that a table bounds.

    grid(m = ceildiv(M, 128), k = 5 reduction) in (%a window [128, 128] at (m, k), ..)
      init { %acc = full 0.0 ..} step (%acc, %a, %w) { %p = dot nn %a, %w  %r = binary add %acc, %p ..} ..
    // becomes
    grid() in (%a window [M, 576] at (0, 0), ..)  finish (%a, %w) { %p = dot nn %a, %w ..}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from breccia.ir import dims
from breccia.ir.dims import Lookup
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import BinaryOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import kernels, replace_op
from breccia.passes._walked import RefusedError
from breccia.passes._widening import Widening, is_carried_join, joiner


@dataclass(frozen=True)
class Coarsen(BrecciaPass):
    """Afterwards a grid has only the dimensions that cannot go."""

    name: ClassVar[str] = "coarsen"
    contract: ClassVar = "reassociates"

    def run(self, module: ModuleOp) -> None:
        for kernel in kernels(module):
            if kernel.is_tiled:
                _coarsen(kernel)


def _coarsen(kernel: KernelOp) -> None:
    walked = _candidates(kernel)
    while walked:
        try:
            new = Widening(kernel, walked).run()
        except RefusedError as refused:
            if refused.dim is None:
                return
            walked -= {refused.dim}
            continue
        new.attributes.update(kernel.attributes)
        replace_op(kernel, new)
        return


def _candidates(kernel: KernelOp) -> frozenset[str]:
    """Dimensions that nothing but plain window indices and positions depend on, and whose steps add up."""
    tiling = kernel.tiles
    fixed: set[str] = set()
    for d in tiling.grid:
        fixed |= dims.symbols(d.extent)
        if d.kind == "sequential" or (d.kind == "reduction" and not _adds_up(kernel)):
            fixed.add(d.name)
    for window in [*tiling.inputs, *tiling.outputs]:
        if window is None:
            continue
        if window.segment is not None:
            fixed |= dims.symbols(window.segment.base) | dims.symbols(window.segment.limit)
        for index in window.index:
            fixed |= {n for part in dims.walk(index) if isinstance(part, Lookup) for n in dims.symbols(part)}
        if window.partial:
            fixed |= {n for index in window.index for n in dims.symbols(index)}
    return frozenset(d.name for d in tiling.grid) - fixed


def _adds_up(kernel: KernelOp) -> bool:
    """True where every carried value is joined with something that does not depend on carried values."""
    carried = kernel.step.block.args[: len(kernel.step.block.args) - len(kernel.tiles.step_uses)]
    for old, new in zip(carried, KernelOp.terminator(kernel.step).args, strict=True):
        op = new.owner
        if not isinstance(op, BinaryOp) or old not in op.args:
            return False
        other = op.args[1 - list(op.args).index(old)]
        source = other.owner
        if source.name not in ("breccia.dot", "breccia.dot_scaled", "breccia.reduce"):  # type: ignore[union-attr]
            return False
        if not is_carried_join(kernel, other, joiner(source)):  # type: ignore[arg-type]
            return False
    return True
