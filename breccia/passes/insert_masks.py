"""Put a neutral value into the part of tiles that lies outside their tensors, wherever an op would look there.

Contract: exact. Partial windows are smaller tiles by definition; a target that fetches full tiles gets, after this
pass, the same results from them. What a fetch leaves outside (`fetch_pad`: zero bits or garbage) is followed through
the ops, and a mask stands only in front of ops that look across an axis and would find something else than a neutral
value.

    %p = dot nn %a, %w
    // becomes, for windows [128, 64] at (m, k) and [64, 128] at (k, n), on a target that fetches garbage
    %a_1 = mask %a axis 1 valid K - k * 64 value 0.0
    %w_1 = mask %w axis 0 valid K - k * 64 value 0.0
    %p = dot nn %a_1, %w_1
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from xdsl.dialects.builtin import IntAttr, ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from breccia.errors import UnsupportedError
from breccia.ir.attributes import NumberAttr
from breccia.ir.capabilities import target_of
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import YieldOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import insert_before, kernels
from breccia.ir.tile_ops import EncodeOp, MaskOp
from breccia.ir.types import DimsAttr, TensorType
from breccia.passes._pad_analysis import (
    POISON,
    Edge,
    Edges,
    Need,
    has_spare_codes,
    needs,
    read_across,
    transfer,
    window_edges,
)


@dataclass(frozen=True)
class InsertMasks(BrecciaPass):
    """Runs after `legalize-windows`, which makes windows partial."""

    name: ClassVar[str] = "insert-masks"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        todo = [k for k in kernels(module) if k.is_tiled]
        if not todo:
            return
        fetch_pad = target_of(module, self.name).fetch_pad
        for kernel in todo:
            _Masks(kernel, fetch_pad).run()


class _Masks:
    """State while one kernel is masked: the edges of every value in its regions."""

    def __init__(self, kernel: KernelOp, fetch_pad: str) -> None:
        self.kernel, self.fetch_pad = kernel, fetch_pad
        self.edges: dict[SSAValue, Edges] = {}

    def run(self) -> None:
        kernel, t = self.kernel, self.kernel.tiles
        carried: list[Edges] = []
        if kernel.init.blocks:
            carried = self._region(kernel.init.block, [], mask=True)
            # What is carried is known only after a step; a second look finds nothing new: edges are those of windows.
            again = self._region(kernel.step.block, self._entering(carried, t.step_uses, kernel.step.block), mask=False)
            carried = [_joined(a, b) for a, b in zip(carried, again, strict=True)]
            last = self._region(kernel.step.block, self._entering(carried, t.step_uses, kernel.step.block), mask=True)
            carried = [_joined(a, b) for a, b in zip(carried, last, strict=True)]
        self._region(kernel.finish.block, self._entering(carried, t.finish_uses, kernel.finish.block), mask=True)

    def _entering(self, carried: list[Edges], uses: tuple[int, ...], block: Block) -> list[Edges]:
        entering = list(carried)
        for argument, i in zip(block.args[len(carried) :], uses, strict=True):
            type_, window = self.kernel.args[i].type, self.kernel.tiles.inputs[i]
            assert isinstance(type_, TensorType), "tiled kernels take plain components"
            assert window is not None, "regions use operands that have windows"
            entering.append(window_edges(type_, window, self.fetch_pad, spare=has_spare_codes(argument)))
        return entering

    def _region(self, block: Block, entering: list[Edges], *, mask: bool) -> list[Edges]:
        for arg, edges in zip(block.args, entering, strict=True):
            self.edges[arg] = edges
        for op in list(block.ops):
            found = [self.edges[a] for a in op.operands]
            if isinstance(op, YieldOp):
                return found
            if mask:
                self._check_offsets(op, found)
                for need in needs(op, found):
                    self._mask(op, need)
            found = [self.edges[a] for a in op.operands]
            for result, edges in zip(op.results, transfer(op, found), strict=True):
                self.edges[result] = edges
        raise AssertionError("every region ends in a yield")

    def _check_offsets(self, op: Operation, found: list[Edges]) -> None:
        """Refuse blocks whose offset is their smallest value where they may lie across the edge of a tensor."""
        if not isinstance(op, EncodeOp) or op.recipe.data.offset is None:  # type: ignore[attr-defined]
            return
        if any(found[0][axis] is not None for axis in read_across(op)):
            raise UnsupportedError(
                f"kernel {self.kernel.kernel_name}: blocks of {op.recipe.data} may lie across the edge of the tensor, "  # type: ignore[attr-defined]
                "and no value outside leaves the range of such a block as it is; give that axis a size that tiles "
                "divide, or use a recipe with a zero point instead of an offset"
            )

    def _mask(self, op: Operation, need: Need) -> None:
        value = op.operands[need.operand]
        edge = self.edges[value][need.axis]
        assert edge is not None, "only axes with an edge are masked"
        new = MaskOp.make(value, axis=IntAttr(need.axis), valid=DimsAttr((edge.valid,)), value=NumberAttr(need.value))
        new.out.name_hint = value.name_hint
        insert_before(op, new)
        op.operands[need.operand] = new.out
        found = self.edges[value]
        self.edges[new.out] = tuple(replace(edge, pad=need.value) if i == need.axis else e for i, e in enumerate(found))


def _joined(a: Edges, b: Edges) -> Edges:
    """What is known of a value that is one of two."""

    def join(x: Edge | None, y: Edge | None) -> Edge | None:
        if x is None or y is None:
            return y if x is None else x
        return x if x.pad == y.pad else replace(x, pad=POISON)

    return tuple(join(x, y) for x, y in zip(a, b, strict=True))
