"""A tiled kernel as the body of a Metal function: one threadgroup for each point of the grid's parallel dimensions,
loops over the others, regions op by op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from xdsl.ir import Block, Operation, SSAValue

from breccia.codegen.lines import kernel_symbols, prop, solve, tensor_type
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.capabilities import Capabilities
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import AmaxFromHistoryOp, BinaryOp, FullOp, ReduceOp, ScaleFromAmaxOp, YieldOp
from breccia.ir.tile_ops import DotOp, EncodeOp
from breccia.ir.tiling import GridDim, Window
from breccia.targets.metal import _encode, _products, _windows
from breccia.targets.metal._library import Library
from breccia.targets.metal._ops import entry, literal
from breccia.targets.metal._reductions import write_reduce, write_reduce_op
from breccia.targets.metal._region import SIMD, THREADS, Array, Names, Region, scalar_type
from breccia.targets.metal._windows import strides


@dataclass(frozen=True)
class KernelText:
    """What MLX is told of a kernel.

    body: the lines between the braces, which MLX puts a head before; inputs, outputs: their names. programs: how many
    threadgroups there are, as a size. sizes: symbols that come as one more input, `sizes`, as no shape tells them.
    fill: what results hold before programs combine into them; None for nothing.
    """

    name: str
    body: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kinds: tuple[tuple[str, ...], tuple[str, ...]]
    programs: dims.Dim
    sizes: tuple[str, ...]
    fill: str | None
    header: tuple[str, ...] = field(default=())


def kernel_text(kernel: KernelOp, name: str, library: Library, capabilities: Capabilities) -> KernelText:
    """The Metal text of a kernel; helpers go to `library`. UnsupportedError names what cannot be printed."""
    return _Kernel(kernel, library, capabilities).written(name)


class _Kernel:
    """Writes one kernel. Invariant: grid dimensions of extent 1 stand as 0."""

    def __init__(self, kernel: KernelOp, library: Library, capabilities: Capabilities) -> None:
        self.kernel, self.tiles = kernel, kernel.tiles
        names = Names()
        self.operands = [names.fresh(a.name_hint or f"arg{i}") for i, a in enumerate(kernel.args)]
        self.results = [names.fresh(o.name_hint or "out") for o in kernel.outs]
        for operand in self.operands:
            for what in ("shape", "strides"):
                names.fresh(f"{operand}_{what}")
        self.sizes = names.fresh("sizes")
        self.region = Region(library, names, self._entry, entry, capabilities.scratch_bytes or 1 << 15)
        for symbol in kernel_symbols(kernel):
            self.region.sizes.symbol(symbol, names.fresh(symbol))
        self.single: dict[str, dims.Dim] = {d.name: 0 for d in self.tiles.grid if d.extent == 1}
        for d in self.tiles.grid:
            self.region.sizes.grid(d.name, "0" if d.extent == 1 else names.fresh(d.name))

    def written(self, name: str) -> KernelText:
        region, kernel = self.region, self.kernel
        self._programs()
        self._skip_empty()
        self._carried([d for d in self.tiles.grid if d.kind == "reduction" and d.extent != 1])
        self._bind(kernel.finish.block, self.tiles.finish_uses)
        values = self._ops(kernel.finish.block)
        for i, (window, value) in enumerate(zip(self.tiles.outputs, values, strict=True)):
            combine = window.combine if self._races(window) else None
            _windows.store(region, self.results[i], kernel.outs[i], window, value, self.single, combine=combine)
        head, sizes = self._head()
        kinds = tuple(
            tuple(_windows.device_type(tensor_type(v.type)) for v in values) for values in (kernel.args, kernel.outs)
        )
        return KernelText(
            name, "\n".join([*head, *region.declared, *region.lines]), tuple(self.operands), tuple(self.results),
            (kinds[0], kinds[1]), self._count(), sizes, self._fill(),
        )  # fmt: skip

    def _entry(self, operand: int, index: str) -> str:
        """An entry of a table."""
        name = self.operands[operand]
        place = f"({index})" if " " in index else index
        return f"int({name}[{place} * {strides(name, 0)}])"

    def _head(self) -> tuple[list[str], tuple[str, ...]]:
        """Lines that say who this thread is and how large operands are; symbols that no shape tells."""
        region = self.region
        lines = [
            "const int thread_id = thread_index_in_threadgroup;",
            *(["const int simdgroup = simdgroup_index_in_threadgroup;"] if self._says("simdgroup") else []),
            *(["const int lane = thread_index_in_simdgroup;"] if self._says("lane") else []),
        ]
        found: dict[str, str] = {}
        for name, value in zip(self.operands, self.kernel.args, strict=True):
            for axis, size in enumerate(tensor_type(value.type).shape):
                solved = solve(size, f"{name}_shape[{axis}]")
                if solved is not None and (isinstance(size, dims.Sym) or solved[0] not in found):
                    found.setdefault(solved[0], solved[1].replace("//", "/"))
        used = sorted(region.sizes.used)
        rest = tuple(s for s in used if s not in found)
        for symbol in used:
            text = found.get(symbol, f"{self.sizes}[{rest.index(symbol) if symbol in rest else 0}]")
            lines.append(f"const int {region.sizes[symbol]} = {text};")
        return lines, rest

    def _says(self, word: str) -> bool:
        return any(word in line for line in self.region.lines)

    # -- the grid ------------------------------------------------------------------------------------------------------

    def _parallel(self) -> list[GridDim]:
        return [d for d in self.tiles.grid if d.kind != "reduction" and d.extent != 1]

    def _count(self) -> dims.Dim:
        total: dims.Dim = 1
        for d in self._parallel():
            total = dims.mul(total, d.extent)
        return total

    def _programs(self) -> None:
        """The place of this program in the grid; the last dimension runs fastest."""
        region, parallel = self.region, self._parallel()
        moving = {d.name for d in self.tiles.grid}
        for d in parallel:
            if dims.symbols(d.extent) & moving:
                raise UnsupportedError(
                    f"metal: kernel {self.kernel.kernel_name} has a parallel dimension {d.name} whose extent depends "
                    "on another one; give it a fixed extent"
                )
        if len(parallel) == 1:
            region.line(f"const int {region.sizes[parallel[0].name]} = threadgroup_position_in_grid.x;")
        if len(parallel) < 2:
            return
        region.line("int program = threadgroup_position_in_grid.x;")
        for d in reversed(parallel):
            name, extent = region.sizes[d.name], region.size(d.extent, 3)
            if d is parallel[0]:
                region.line(f"const int {name} = program;")
            else:
                region.line(f"const int {name} = program % {extent};")
                region.line(f"program = program / {extent};")

    def _skip_empty(self) -> None:
        """A program whose segment ends before its window does nothing."""
        region = self.region
        for window in {w.segment: w for w in self.tiles.outputs if w.segment}.values():
            segment = window.segment
            assert segment is not None, "windows with a segment were chosen"
            first = _windows.start(window, segment.axis, self.single)
            with region.block(f"if ({region.size(first)} >= {region.size(segment.limit, 1)})"):
                region.line("return;")

    def _races(self, window: Window) -> bool:
        """True where several programs meet in a window; segments keep programs of different groups apart."""
        used = set[str]().union(*(dims.symbols(index) for index in window.index))
        if window.segment is not None:
            used |= dims.symbols(window.segment.base)
        return not {d.name for d in self._parallel()} <= used

    def _fill(self) -> str | None:
        kinds = {w.combine for w in self.tiles.outputs if w.combine is not None}
        if len(kinds) > 1:
            raise UnsupportedError(
                f"metal: kernel {self.kernel.kernel_name} adds up one result and takes the maximum of another; make "
                "two kernels of it"
            )
        return {"add": "0.0", "max": 'float("-inf")'}[kinds.pop()] if kinds else None

    # -- regions -------------------------------------------------------------------------------------------------------

    def _bind(self, block: Block, uses: Sequence[int]) -> None:
        """Say where the entries of operands come from."""
        for argument, i in zip(block.args[len(block.args) - len(uses) :], uses, strict=True):
            window = self.tiles.inputs[i]
            assert window is not None, "regions use operands that have windows"
            self.region.rules[argument] = _windows.load_rule(self.operands[i], self.kernel.args[i], window, self.single)

    def _carried(self, steps: Sequence[GridDim]) -> None:
        """The loop over reduction dimensions; what it carries is bound to the arguments of `finish` after it."""
        kernel, region = self.kernel, self.region
        if not kernel.init.blocks:
            return
        start = self._ops(kernel.init.block)
        step, arguments = kernel.step.block, kernel.step.block.args[: len(start)]
        self._bind(step, self.tiles.step_uses)
        yields = KernelOp.terminator(kernel.step).args
        sums: dict[int, tuple[Operation, tuple[Array, Array], _products.Fragments]] = {}
        kept: dict[int, tuple[Array, Array]] = {}
        for i, (value, argument, out) in enumerate(zip(start, arguments, yields, strict=True)):
            dot = self._summed(value, argument, out)
            name = argument.name_hint or "carried"
            if dot is not None:
                fragments = _products.new_fragments(region, *_products.tile_of(dot))
                sums[i] = dot, _products.prepare(region, dot), fragments
            else:
                kept[i] = self._kept(name, value, argument)
        with ExitStack() as loops:
            for d in steps:
                name = region.sizes[d.name]
                loops.enter_context(
                    region.block(f"for (int {name} = 0; {name} < {region.size(d.extent, 1)}; {name}++)")
                )
            skipped = {op for dot, _, _ in sums.values() for op in (dot, *(u.operation for u in dot.results[0].uses))}
            self._ops(step, skipped)
            for dot, arrays, fragments in sums.values():
                _products.fill(region, dot, arrays)
                _products.multiply(region, dot, arrays, fragments)
            self._advance(kept, yields)
            region.barrier()
        for i, argument in enumerate(kernel.finish.block.args[: len(start)]):
            if i in sums:
                dot, _, fragments = sums[i]
                name = f"{argument.name_hint or 'sums'}_tile"
                region.arrays[argument] = _products.write_out(region, fragments, name, *_products.tile_of(dot))
            else:
                region.arrays[argument] = kept[i][0]

    def _summed(self, start: SSAValue, argument: SSAValue, out: SSAValue) -> Operation | None:
        """The product whose sums a carried value is: 0, to which every step adds one."""
        op = out.owner
        if start not in self.region.literals or self.region.literals[start] != "0.0f":
            return None
        if not isinstance(op, BinaryOp) or prop(op, "fn") != "add" or argument not in op.args:
            return None
        other = op.args[1] if op.args[0] is argument else op.args[0]
        alone = out.has_one_use() and argument.has_one_use() and other.has_one_use()
        return other.owner if alone and isinstance(other.owner, DotOp) else None

    def _kept(self, name: str, value: SSAValue, argument: SSAValue) -> tuple[Array, Array]:
        """A carried value in threadgroup memory, as `init` gives it, and room for the next one."""
        region, t = self.region, tensor_type(value.type)
        array = region.array(name, scalar_type(t), t.shape, what="a carried value")
        following = region.array(f"next_{name}", scalar_type(t), t.shape, what="a carried value")
        with region.each(t.shape) as (scope, coords):
            text = scope.value(value, coords)
            region.line(f"{array.at(coords)} = {text};")
        region.barrier()
        region.arrays[argument] = array
        return array, following

    def _advance(self, kept: dict[int, tuple[Array, Array]], yields: Sequence[SSAValue]) -> None:
        """Write what carried values become: all of them are computed before any is overwritten."""
        region = self.region
        for i, (_, following) in kept.items():
            with region.each(following.shape) as (scope, coords):
                text = scope.value(yields[i], coords)
                region.line(f"{following.at(coords)} = {text};")
        if kept:
            region.barrier()
        for array, following in kept.values():
            with region.each(array.shape) as (_, coords):
                region.line(f"{array.at(coords)} = {following.at(coords)};")

    def _ops(self, block: Block, skipped: set[Operation] | None = None) -> list[SSAValue]:
        """Write what has to be in threadgroup memory before entries of the block's results can be computed."""
        region = self.region
        for op in block.ops:
            if isinstance(op, YieldOp):
                return list(op.args)
            if isinstance(op, FullOp):
                region.literals[op.results[0]] = literal(op)
            elif skipped and op in skipped:
                continue
            elif type(op) in _COOPERATIVE:
                _COOPERATIVE[type(op)](region, op)
            elif isinstance(op, AmaxFromHistoryOp) and prop(op, "rule") == "max":
                write_reduce(region, op, op.operands[0], "max", (0,))
        raise UnsupportedError(f"metal: a region of kernel {self.kernel.kernel_name} ends without a yield")


_COOPERATIVE: dict[type, Callable[[Region, Operation], None]] = {
    DotOp: _products.write_dot,
    EncodeOp: _encode.write_encode,
    ReduceOp: write_reduce_op,
    ScaleFromAmaxOp: _encode.write_scale_from_amax,
}
"""Ops whose results threads compute together."""

assert THREADS % SIMD == 0, "programs are whole simdgroups"
