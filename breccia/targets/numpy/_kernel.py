"""A tiled kernel as one function: loops over what `coarsen` left of its grid, windows as slices, regions line by
line.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import SSAValue

from breccia.codegen.constants import Constants
from breccia.codegen.kernels import RegionParts, region_of, window_axes
from breccia.codegen.lines import docstring, kernel_symbols, tensor_type
from breccia.codegen.names import RESERVED, Names, quoted
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.kernel import KernelOp
from breccia.ir.tiling import GridDim, Window
from breccia.targets.numpy._chains import find_chains
from breccia.targets.numpy._native import find_products, write_product
from breccia.targets.numpy._ops import write, write_chain
from breccia.targets.numpy._region import Region


def kernel_function(
    kernel: KernelOp, name: str, constants: Constants, *, native: bool = False
) -> tuple[str, list[str]]:
    """(source of the kernel's function, symbols that it takes after its operands). native: see `_native`."""
    writer = _Kernel(kernel, constants)
    writer.region.native = native
    writer.write()
    symbols = sorted(writer.region.sizes.used)
    parameters = ", ".join(["xp", "rt", *writer.operands, *(writer.region.sizes[s] for s in symbols)])
    doc = docstring(kernel.kernel_name, kernel.args, [o.type for o in kernel.outs])
    return f"def {name}({parameters}):\n{doc}{writer.region.text()}", symbols


class _Kernel:
    """Writes one kernel. Invariant: inside `region`, grid dimensions of extent 1 stand as 0."""

    def __init__(self, kernel: KernelOp, constants: Constants) -> None:
        self.kernel, self.tiles = kernel, kernel.tiles
        self.region = Region(Names(RESERVED), constants, lambda i, entry: f"int({self.operands[i]}[{entry}])")
        self.region.clip = self._clip
        self.operands = [self.region.bind(a, a.name_hint or f"arg{i}") for i, a in enumerate(kernel.args)]
        for symbol in kernel_symbols(kernel):
            self.region.sizes.symbol(symbol, self.region.names.fresh(symbol))

    def write(self) -> None:
        region, t = self.region, self.tiles
        programs = [d for d in t.grid if d.kind != "reduction" and d.extent != 1]
        steps = [d for d in t.grid if d.kind == "reduction" and d.extent != 1]
        for d in t.grid:
            region.sizes.grid(d.name, "0" if d.extent == 1 else region.names.fresh(d.name))
        windows = zip((*self.kernel.args, *self.kernel.outs), (*t.inputs, *t.outputs), strict=True)
        region.clipped = any(w is not None and not self._whole(v, w) for v, w in windows)
        outs = self._allocate(bool(programs))
        for d in programs:
            self._loop(d)
        self._skip_empty(programs)
        carried = self._carried(steps)
        values = self._region(region_of(self.kernel, "finish"), carried)
        if outs is None:
            region.line(f"return {', '.join(region[v] for v in values)}")
            return
        for out, name, window, value in zip(self.kernel.outs, outs, t.outputs, values, strict=True):
            self._store(out, name, window, value)
        region.indent(-len(programs))
        region.line(f"return {', '.join(outs)}")

    # -- outputs -------------------------------------------------------------------------------------------------------

    def _allocate(self, looped: bool) -> list[str] | None:
        """Arrays that programs store into; None where the only program gives the results whole."""
        pairs = list(zip(self.kernel.outs, self.tiles.outputs, strict=True))
        if not looped and all(self._whole(out, w) for out, w in pairs):
            return None
        names: list[str] = []
        for out, window in pairs:
            t = tensor_type(out.type)
            name = self.region.names.fresh(out.name_hint or "out")
            shape, dtype = self.region.shape(t.shape), quoted(t.dtype)
            if window.combine is None:
                text = f"rt.empty(xp, {shape}, {dtype})"
            else:
                neutral = "0" if window.combine == "add" else 'float("-inf")'
                text = f"rt.full(xp, {shape}, {neutral}, {dtype})"
            self.region.line(f"{name} = {text}")
            names.append(name)
        return names

    def _store(self, out: SSAValue, name: str, window: Window, value: SSAValue) -> None:
        index = f"rt.at[{', '.join(self._cuts(out, window))}]"
        combine = f", {quoted(window.combine)}" if window.combine else ""
        self.region.line(f"{name} = rt.store(xp, {name}, {index}, {self.region.loose(value)}{combine})")

    # -- windows -------------------------------------------------------------------------------------------------------

    def _whole(self, value: SSAValue, window: Window) -> bool:
        """True where the window is the whole operand."""
        shape = tensor_type(value.type).shape
        first = (self._is_zero(i) for i in window.index)
        return window.segment is None and all(
            b == size and zero for b, size, zero in zip(window.block, shape, first, strict=True)
        )

    def _clip(self, start: dims.Dim, block: dims.Dim) -> str | None:
        """How many of `block` elements from `start` on lie in the operand that is cut there; None if none is."""
        single: dict[str, dims.Dim] = {d.name: 0 for d in self.tiles.grid if d.extent == 1}
        windows = zip((*self.kernel.args, *self.kernel.outs), (*self.tiles.inputs, *self.tiles.outputs), strict=True)
        for value, window in windows:
            if window is None:
                continue
            for axis, (b, index) in enumerate(zip(window.block, window.index, strict=True)):
                segment = window.segment is not None and window.segment.axis == axis
                if b is not None and b == block and not segment:
                    first = dims.mul(dims.substitute(index, single), b)
                    if first == dims.substitute(start, single):
                        size = dims.sub(tensor_type(value.type).shape[axis], first)
                        return self.region.size(dims.minimum(block, size))
        return None

    def _is_zero(self, index: dims.Dim) -> bool:
        single = {d.name: 0 for d in self.tiles.grid if d.extent == 1}
        return dims.substitute(index, single) == 0

    def _cuts(self, value: SSAValue, window: Window) -> list[str]:
        """One slice or index for each axis of the operand."""
        region, cuts = self.region, []
        for axis, size in zip(window_axes(value, window, self.tiles.grid), tensor_type(value.type).shape, strict=True):
            if axis.block is None:
                cuts.append(region.size(axis.start))
            elif (axis.start, axis.block, axis.limit) == (0, size, size):
                cuts.append(":")
            else:
                stop = dims.add(axis.start, axis.block)
                stop = stop if axis.limit == size else dims.minimum(stop, axis.limit)  # slices end with the array
                cuts.append(f"{region.size(axis.start)}:{region.size(stop)}")
        return cuts

    def _skip_empty(self, programs: Sequence[GridDim]) -> None:
        """A program whose segment ends before its window does nothing."""
        region = self.region
        limits = {
            (w.segment, w.block[w.segment.axis], w.index[w.segment.axis]) for w in self.tiles.outputs if w.segment
        }
        for segment, block, index in sorted(limits, key=str):
            if not programs:
                raise UnsupportedError(
                    f"numpy: kernel {self.kernel.kernel_name} stores a segment, but loops over nothing"
                )
            start = dims.add(segment.base, dims.mul(index, 1 if block is None else block))
            region.line(f"if {region.size(start)} >= {region.size(segment.limit)}:")
            region.line("    continue")

    # -- regions -------------------------------------------------------------------------------------------------------

    def _loop(self, d: GridDim) -> None:
        self.region.line(f"for {self.region.sizes[d.name]} in range({self.region.size(d.extent)}):")
        self.region.indent(1)

    def _carried(self, steps: Sequence[GridDim]) -> list[SSAValue]:
        """The carried values after all steps."""
        kernel, region = self.kernel, self.region
        if not kernel.init.blocks:
            return []
        start = self._region(region_of(kernel, "init"), [])
        step = region_of(kernel, "step")
        if not steps:
            return self._region(step, start)
        names = [region.names.fresh(a.name_hint or "carried") for a in step.carried]
        for name, value, argument in zip(names, start, step.carried, strict=True):
            region.line(f"{name} = {region.loose(value)}")
            region.name(argument, name)
            region.elastic.add(argument)
        for d in steps:
            self._loop(d)
        values = self._region(step, None)
        region.line(f"{', '.join(names)} = {', '.join(region.loose(v) for v in values)}")
        region.indent(-len(steps))
        return list(step.carried)

    def _region(self, parts: RegionParts, carried: Sequence[SSAValue] | None) -> list[SSAValue]:
        """Write a region; `carried` are the values of its first arguments, None where they are bound already. Its
        yields.
        """
        region = self.region
        for argument, value in zip(parts.carried, carried or (), strict=False):
            region.alias(argument, value)
        for argument, i in parts.fetched:
            self._fetch(argument, i)
        chains = find_chains(parts.ops)
        products = find_products(parts.ops, chains) if region.native else {}
        inner = {op for last, chain in chains.items() for op in chain.ops if op is not last}
        inner |= {op for product in products.values() for op in product.ops[:-1]}
        for op in parts.ops:
            if op in inner:
                continue
            if op in products:
                write_product(region, op, products[op])
            elif op in chains:
                write_chain(region, op, chains[op])
            else:
                write(region, op)
        return list(parts.yields)

    def _fetch(self, argument: SSAValue, i: int) -> None:
        """Bind a region's argument to its window."""
        value, window = self.kernel.args[i], self.tiles.inputs[i]
        if window is None or self._whole(value, window):
            self.region.name(argument, self.operands[i])
            return
        name = self.region.bind(argument, f"{self.operands[i]}_tile")
        cuts = self._cuts(value, window)
        if cuts and cuts[-1] != ":":
            self.region.cut_rows.add(argument)
        self.region.line(f"{name} = {self.operands[i]}[{', '.join(cuts)}]")
