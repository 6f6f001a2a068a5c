"""Bring tiles into the sizes and ranks that a target can work on; what cannot be is an error with a way out.

Contract: exact. On targets with power-of-two tiles, a window over a whole axis grows to the next power of two and is
partial then; batch axes of which a program sees one element are dropped from tiles.

    in (%x window [1, 8, 576] at (b, m, 0)) ..  finish (%x) { %s = reduce sum %x axis [2] ..}
    // becomes, where tiles are powers of two
    in (%x window [one, 8, 1024] at (b, m, 0)) ..  finish (%x) { %s = reduce sum %x axis [1] ..}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp

from breccia.errors import UnknownSizeError, UnsupportedError
from breccia.ir import dims
from breccia.ir.capabilities import Capabilities, target_of
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import UnaryOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import kernels, replace_op
from breccia.ir.tile_ops import DotOp, contraction_axes
from breccia.ir.tiling import Window
from breccia.ir.types import TensorType
from breccia.passes._resizing import Resizing, byte_units, can_squeeze, legal_block, next_power
from breccia.passes._widening import windows


@dataclass(frozen=True)
class LegalizeWindows(BrecciaPass):
    """Raises UnsupportedError naming the kernel, the window and what to change."""

    name: ClassVar[str] = "legalize-windows"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        todo = [k for k in kernels(module) if k.is_tiled]
        if not todo:
            return
        capabilities = target_of(module, self.name)
        for kernel in todo:
            _check_functions(kernel, capabilities)
            _check_sizes(kernel, capabilities)
            _legalize(kernel, capabilities)


def _legalize(kernel: KernelOp, capabilities: Capabilities) -> None:
    squeezed = can_squeeze(kernel)
    units = byte_units(kernel)
    rounded = capabilities.pow2_tiles and not all(
        _is_legal(w, axis, units) for _, w in windows(kernel) for axis in w.kept_axes
    )
    longer = _short_dots(kernel, capabilities.shortest_dot)
    if not squeezed and not rounded and not longer:
        return

    def resize(size: int) -> int:
        power = next_power(size) if capabilities.pow2_tiles else size
        return longer.get(power, power)

    new = Resizing(kernel, resize, squeezed, capabilities.name).run()
    new.attributes.update(kernel.attributes)
    replace_op(kernel, new)


def _short_dots(kernel: KernelOp, least: int) -> dict[int, int]:
    """Tile sizes along k that are too short for a `dot`, and what they have to become. Other axes of such a size grow
    along with them.
    """
    found: dict[int, int] = {}
    for _, region in kernel.named_regions():
        for op in region.block.ops:
            if not isinstance(op, DotOp):
                continue
            a, b = (v.type for v in op.args)
            assert isinstance(a, TensorType) and isinstance(b, TensorType), "dots take tiles"  # noqa: PT018
            size = a.shape[contraction_axes(op.form.data, a.rank, b.rank)[0]]  # type: ignore[attr-defined]
            bits = min(t.format.bits if t.format is not None else 32 for t in (a, b))
            wanted = 2 * least if bits <= 8 else least
            if isinstance(size, int) and 1 < next_power(size) < wanted:
                found[next_power(size)] = wanted
    return found


def _is_legal(window: Window, axis: int, units: dict[Window, tuple[int, int]]) -> bool:
    """True where a window has a power of two of elements (or of units of packed bytes) on an axis."""
    last = axis == len(window.block) - 1
    block, unit = window.block[axis], units.get(window, (1, 1))[1] if last else 1
    return not isinstance(block, int) or legal_block(block, unit) == block


def _check_functions(kernel: KernelOp, capabilities: Capabilities) -> None:
    for _, region in kernel.named_regions():
        for op in region.block.ops:
            fn = op.fn.data if isinstance(op, UnaryOp) else ""  # type: ignore[attr-defined]
            if fn and capabilities.functions and fn not in capabilities.functions:
                raise UnsupportedError(
                    f"kernel {kernel.kernel_name}: {capabilities.name} has no function {fn}; it has "
                    f"{', '.join(capabilities.functions)}: express {fn} by those"
                )


def _check_sizes(kernel: KernelOp, capabilities: Capabilities) -> None:
    fixed = capabilities.pow2_tiles or capabilities.min_tile != (1, 1)
    moving = {d.name: d.extent for d in kernel.tiles.grid if d.extent != 1}
    units = byte_units(kernel)
    for type_, window in windows(kernel):
        for axis, (block, index) in enumerate(zip(window.block, window.index, strict=True)):
            where = f"kernel {kernel.kernel_name}: a window over axis {axis} of {type_}"
            if fixed and block is not None and not isinstance(block, int):
                raise UnknownSizeError(
                    f"{where} holds all of it, and {dims.show(block)} is known only at the call; {capabilities.name} "
                    "needs tiles of a known size: compile with dynamic=False, or give that axis a static size"
                )
            walks = bool(dims.symbols(index) & set(moving))
            if walks and capabilities.pow2_tiles and not _is_legal(window, axis, units):
                raise UnsupportedError(
                    f"{where} moves in steps of {dims.show(block or 1)}, which is no power of two as "
                    f"{capabilities.name} needs; use a recipe whose blocks are powers of two, or give the kernel "
                    "another tile size in its schedule"
                )
    for window in kernel.tiles.outputs if capabilities.min_tile != (1, 1) else ():
        _check_minimum(kernel, capabilities, window, set(moving))


def _check_minimum(kernel: KernelOp, capabilities: Capabilities, window: Window, moving: set[str]) -> None:
    """Tiles of elements on the last two axes; thin windows of scales are a matter of their layout."""
    smallest = capabilities.min_tile[-len(window.block) :]
    for block, index, least in zip(window.block[-2:], window.index[-2:], smallest, strict=True):
        walks = bool(dims.symbols(index) & moving)
        if isinstance(block, int) and walks and block > least and block % least:
            raise UnsupportedError(
                f"kernel {kernel.kernel_name}: result tiles of {block} are no multiple of {least}, the smallest tile "
                f"of {capabilities.name}; give the kernel another tile size in its schedule"
            )
