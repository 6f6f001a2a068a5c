"""A tiled kernel as an emitter walks it: what its regions take and give, and which elements a program sees.

    for argument, operand in region_of(kernel, "step").fetched:
        axes = window_axes(kernel.args[operand], kernel.tiles.inputs[operand])

writes the fetches of the main loop; the same axes with `kernel.outs` and `kernel.tiles.outputs` write the stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import tensor_type
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import YieldOp
from breccia.ir.tiling import GridDim, Window


@dataclass(frozen=True)
class RegionParts:
    """One region of a tiled kernel.

    Invariants: its arguments are `carried`, then those of `fetched`; `yields` has as many values as the region that
    follows it has carried ones, or as the kernel has results.
    """

    carried: tuple[SSAValue, ...]
    """Arguments that hold what `init`, or the step before, yielded."""
    fetched: tuple[tuple[SSAValue, int], ...]
    """Arguments that hold a window, each with the number of the kernel's operand."""
    ops: tuple[Operation, ...]
    """All but the yield."""
    yields: tuple[SSAValue, ...]


def region_of(kernel: KernelOp, name: Literal["init", "step", "finish"]) -> RegionParts:
    """A region of a tiled kernel; one that the kernel has not has no parts."""
    region = getattr(kernel, name)
    if not region.blocks:
        return RegionParts((), (), (), ())
    uses = {"init": (), "step": kernel.tiles.step_uses, "finish": kernel.tiles.finish_uses}[name]
    ops, arguments = tuple(region.block.ops), tuple(region.block.args)
    if not ops or not isinstance(ops[-1], YieldOp):
        raise UnsupportedError(f"{name} of kernel {kernel.kernel_name} ends without a yield")
    count = len(arguments) - len(uses)
    return RegionParts(
        arguments[:count], tuple(zip(arguments[count:], uses, strict=True)), ops[:-1], tuple(ops[-1].args)
    )


@dataclass(frozen=True)
class WindowAxis:
    """One axis of an operand or result, as one program sees it: elements from `start` on, up to `limit`.

    block: how many elements a full tile has there; None where the tile drops the axis, which holds element `start`.
    Sizes are in symbols, grid dimensions and look-ups; `breccia.codegen.names.size_text` spells them.
    """

    start: Dim
    block: Dim | None
    limit: Dim


def window_axes(value: SSAValue, window: Window, grid: tuple[GridDim, ...] = ()) -> tuple[WindowAxis, ...]:
    """Which elements of `value` a program sees through `window`, axis by axis.

    grid: that of the kernel; its dimensions of extent 1 then stand as 0, so that what does not move says so.
    """
    single: dict[str, Dim] = {d.name: 0 for d in grid if d.extent == 1}
    axes: list[WindowAxis] = []
    for axis, (block, index) in enumerate(zip(window.block, window.index, strict=True)):
        start = dims.mul(dims.substitute(index, single), 1 if block is None else block)
        limit = tensor_type(value.type).shape[axis]
        if window.segment is not None and window.segment.axis == axis:
            base = dims.substitute(window.segment.base, single)
            start, limit = dims.add(base, start), dims.substitute(window.segment.limit, single)
        axes.append(WindowAxis(start, block, limit))
    return tuple(axes)
