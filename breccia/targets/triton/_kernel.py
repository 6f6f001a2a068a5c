"""A tiled kernel as one Triton function: programs from a one-dimensional grid, windows as pointers with masks, loops
over reduction dimensions, regions line by line.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from xdsl.ir import Block, Operation, SSAValue

from breccia.codegen.lines import docstring, kernel_symbols, tensor_type
from breccia.codegen.names import RESERVED, Names
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.capabilities import Capabilities
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import BinaryOp, YieldOp
from breccia.ir.tile_ops import DotOp, DotScaledOp, EncodeOp, UnpackOp
from breccia.ir.tiling import GridDim, Window
from breccia.ir.types import TensorType
from breccia.targets.triton import _ops
from breccia.targets.triton._casts import Library
from breccia.targets.triton._guards import Guard, flags_of, guard_of
from breccia.targets.triton._region import Region, arange
from breccia.targets.triton._text import KernelText, head, signature_type, turned_results
from breccia.targets.triton._windows import Pointers

HALF_OF_REGISTERS = 128
"""Registers of a thread with which two programs of 8 warps are held at once. A tile that is encoded along both of its
axes would take a few more, and one program alone leaves the memory idle while it computes."""
FLAGS = 1024
"""Flags that a program reads at once."""
MOST_STORED = 64 << 10
"""Most bytes of a result's tile that are stored through a descriptor: they lie in shared memory, beside operands."""
GROUP = 8
"""Rows of tiles that are walked together, so that neighbouring programs find their operands in L2."""


def kernel_text(
    kernel: KernelOp, name: str, library: Library, capabilities: Capabilities, *, part: bool = False
) -> KernelText:
    """The Triton function of a kernel. part: it is called by another one, with the number of its program."""
    return _Kernel(kernel, library, capabilities, part=part).written(name)


class _Kernel:
    """Writes one kernel. Invariant: grid dimensions of extent 1 stand as 0."""

    def __init__(self, kernel: KernelOp, library: Library, capabilities: Capabilities, *, part: bool) -> None:
        self.kernel, self.tiles, self.capabilities, self.part = kernel, kernel.tiles, capabilities, part
        names = Names(RESERVED)
        self.pid = names.fresh("pid")
        self.region = Region(names, library, capabilities.features, self._entry)
        self.operands = [self.region.bind(a, a.name_hint or f"arg{i}") for i, a in enumerate(kernel.args)]
        self.results = [names.fresh(o.name_hint or "out") for o in kernel.outs]
        for symbol in kernel_symbols(kernel):
            self.region.sizes.symbol(symbol, names.fresh(symbol))
        for d in self.tiles.grid:
            self.region.sizes.grid(d.name, "0" if d.extent == 1 else names.fresh(d.name))
        self.pointers = Pointers(self.region, self.tiles.grid)
        self.guard = None if part else guard_of(kernel)

    def written(self, name: str) -> KernelText:
        region, kernel = self.region, self.kernel
        if self.guard is not None:
            self._skip_kept(self.guard)
        else:
            self._programs()
            self._skip_empty()
        carried = self._carried([d for d in self.tiles.grid if d.kind == "reduction"])
        values = self._block(kernel.finish.block, carried, self.tiles.finish_uses)
        turned = turned_results(kernel, self.capabilities)
        for i, (window, value) in enumerate(zip(self.tiles.outputs, values, strict=True)):
            self._store(kernel.outs[i], self.results[i], window, value, turned=turned[i])
        symbols = tuple(sorted(region.sizes.used))
        strided = [tensor_type(a.type).rank for a in kernel.args]
        strides = [self.pointers.stride(o, i) for o, r in zip(self.operands, strided, strict=True) for i in range(r)]
        sizes = tuple(region.sizes[s] for s in symbols)
        given = [*([self.pid] if self.part else ()), *self.operands, *self.results, *sizes, *strides]
        doc = docstring(kernel.kernel_name, kernel.args, [o.type for o in kernel.outs])
        types = [region.triton_dtype(tensor_type(v.type)) for v in (*kernel.args, *kernel.outs)]
        source = f"@triton.jit\n{head(name, given)}\n{doc}{region.text()}"
        return KernelText(
            source, ((*self.operands, *self.results), sizes, tuple(strides)), symbols,
            tuple(map(signature_type, types)), (*strided, *(-2 if t else 0 for t in turned)), self._count(),
            tuple(self._fill(w) for w in self.tiles.outputs), self._options(), turned,
            kept=() if self.guard is None else self.guard.kept,
        )  # fmt: skip

    def _entry(self, operand: int, index: str) -> str:
        """An entry of a table."""
        place = f"({index})" if " " in index else index
        return f"tl.load({self.operands[operand]} + {place} * {self.pointers.stride(self.operands[operand], 0)})"

    @property
    def _nvidia(self) -> bool:
        return self.capabilities.name.startswith("triton:sm_")

    # -- the grid ------------------------------------------------------------------------------------------------------

    def _parallel(self) -> list[GridDim]:
        return [d for d in self.tiles.grid if d.kind != "reduction" and d.extent != 1]

    def _count(self) -> dims.Dim:
        total: dims.Dim = 1
        for d in self._parallel():
            total = dims.mul(total, d.extent)
        return total

    def _options(self) -> dict[str, int | str]:
        said = self.kernel.entries
        options: dict[str, int | str] = {
            key: int(said.get(key, default)) for key, default in (("num_warps", 4), ("num_stages", 3))
        }
        if self.guard is not None:
            options["walks"] = 1
        encoded = [op.args[0] for op in self.kernel.finish.block.ops if isinstance(op, EncodeOp)]
        if self._nvidia and options["num_warps"] == 8 and len(set(encoded)) < len(encoded):
            options["maxnreg"] = HALF_OF_REGISTERS
        return options

    def _programs(self) -> None:
        """The place of this program in the grid; the last dimension runs fastest, tiles of products in groups."""
        region, parallel = self.region, self._parallel()
        if not parallel:
            return
        moving = {d.name for d in self.tiles.grid}
        for d in parallel:
            if dims.symbols(d.extent) & moving:
                raise UnsupportedError(
                    f"triton: kernel {self.kernel.kernel_name} has a parallel dimension {d.name} whose extent depends "
                    "on another one; give it a fixed extent"
                )
        pid = self.pid
        if not self.part and self.guard is None:
            region.line(f"{pid} = tl.program_id(0)")
        swizzled = len(parallel) > 1 and bool(self.kernel.step.blocks)
        rest = parallel[:-2] if swizzled else parallel
        if swizzled:
            self._swizzled(parallel[-2], parallel[-1], pid, alone=not rest)
        for d in reversed(rest):
            name, extent = region.sizes[d.name], region.size(d.extent, 3)
            region.line(f"{name} = {pid}" + ("" if d is rest[0] else f" % {extent}"))
            if d is not rest[0]:
                region.line(f"{pid} = {pid} // {extent}")

    def _swizzled(self, m: GridDim, n: GridDim, pid: str, *, alone: bool) -> None:
        """Dimensions of a product's tile: some rows of tiles at a time, so that operands are found in L2."""
        region = self.region
        rows, columns = region.names.fresh(f"{m.name}_tiles"), region.names.fresh(f"{n.name}_tiles")
        first, height, tile = (region.names.fresh(name) for name in ("first", "height", "tile"))
        region.line(f"{rows} = {region.size(m.extent)}")
        region.line(f"{columns} = {region.size(n.extent)}")
        region.line(f"{tile} = {pid}" + ("" if alone else f" % ({rows} * {columns})"))
        region.line(f"{first} = {tile} // ({GROUP} * {columns}) * {GROUP}")
        region.line(f"{height} = min({rows} - {first}, {GROUP})")
        region.line(f"{region.sizes[m.name]} = {first} + {tile} % ({GROUP} * {columns}) % {height}")
        region.line(f"{region.sizes[n.name]} = {tile} % ({GROUP} * {columns}) // {height}")
        if not alone:
            region.line(f"{pid} = {pid} // ({rows} * {columns})")

    def _skip_kept(self, guard: Guard) -> None:
        """Programs that walk over tiles, and end at once where no flag is set; what follows is for tiles with one."""
        region, found = self.region, flags_of(self.kernel, guard)
        anything, start = region.names.fresh("anything"), region.names.fresh("start")
        region.line(f"{anything} = tl.zeros(({FLAGS},), tl.int32)")
        for _, i in found:
            shape = tensor_type(self.kernel.args[i].type).shape
            axis = next((axis for axis, size in enumerate(shape) if size != 1), len(shape) - 1)
            size, stride = region.size(shape[axis], 2), self.pointers.stride(self.operands[i], axis)
            place = f"{start} + {arange(FLAGS)}"
            region.line(f"for {start} in range(0, {size}, {FLAGS}):")
            region.line(
                f"    {anything} |= tl.load({self.operands[i]} + ({place}) * {stride}, mask={place} < {size}, other=0)"
            )
        region.line(f"if tl.max({anything}) == 0:")
        region.line("    return")
        region.line(f"for {self.pid} in range(tl.program_id(0), {region.size(self._count())}, tl.num_programs(0)):")
        region.indent(1)
        self._programs()
        for argument, i in found:
            self.pointers.prepare(self.operands[i], self.kernel.args[i], self._window(i), argument, set())
            self._fetch(argument, i)
        region.line(f"if {' | '.join(f'tl.max({region[a]}.to(tl.int32))' for a, _ in found)}:")
        region.indent(1)

    def _skip_empty(self) -> None:
        """A program whose segment ends before its window does nothing."""
        region = self.region
        for window in {w.segment: w for w in self.tiles.outputs if w.segment}.values():
            segment = window.segment
            assert segment is not None, "windows with a segment were chosen"
            block = window.block[segment.axis]
            start = dims.add(segment.base, dims.mul(window.index[segment.axis], 1 if block is None else block))
            region.line(f"if {region.size(start)} >= {region.size(segment.limit)}:")
            region.line("    return")

    # -- regions -------------------------------------------------------------------------------------------------------

    def _carried(self, steps: Sequence[GridDim]) -> list[SSAValue]:
        """The carried values after all steps."""
        kernel, region = self.kernel, self.region
        if not kernel.init.blocks:
            return []
        start = self._block(kernel.init.block, [], ())
        arguments: list[SSAValue] = list(kernel.step.block.args[: len(start)])
        names: list[str] = []
        for value, argument in zip(start, arguments, strict=True):
            name = region.names.fresh(argument.name_hint or "carried")
            region.line(f"{name} = {region[value]}")
            region.name(argument, name)
            names.append(name)
        uses = self.tiles.step_uses
        fetched = list(zip(kernel.step.block.args[len(start) :], uses, strict=True))
        walked = {d.name for d in steps if d.extent != 1}
        for argument, i in fetched:
            if self._described(kernel.args[i], self._window(i), made_here=isinstance(kernel.args[i].owner, KernelOp)):
                self.pointers.describe(self.operands[i], kernel.args[i], self._window(i), argument)
            else:
                self.pointers.prepare(self.operands[i], kernel.args[i], self._window(i), argument, walked)
        for argument, i in fetched:
            if not self._walks(i, walked):
                self._fetch(argument, i)
        for d in steps:
            if d.extent != 1:
                region.line(f"for {region.sizes[d.name]} in range({region.size(d.extent)}):")
                region.indent(1)
        for argument, i in fetched:
            if self._walks(i, walked):
                self._fetch(argument, i)
        self._aim(kernel.step.block, arguments, names)
        values = self._ops(kernel.step.block)
        late = [(n, region[v]) for n, v in zip(names, values, strict=True) if region[v] != n]
        if late:  # `x * 1` where a carried name would stand for another: Triton's front end takes it for a constant
            texts = [f"{text} * 1" if text in names else text for _, text in late]
            region.line(f"{', '.join(n for n, _ in late)} = {', '.join(texts)}")
        region.indent(-sum(d.extent != 1 for d in steps))
        return arguments

    def _aim(self, block: Block, arguments: Sequence[SSAValue], names: Sequence[str]) -> None:
        """Results that take the place of a carried value get its name, where the old value is not read after that."""
        terminator = KernelOp.terminator(self.kernel.step)
        order = {op: i for i, op in enumerate(block.ops)}
        for argument, name, value in zip(arguments, names, terminator.args, strict=True):
            op = value.owner
            if not isinstance(op, Operation) or not value.has_one_use():
                continue
            users = [use.operation for use in argument.uses]
            if all(order[u] <= order[op] and u is not terminator for u in users):
                self.region.targets[value] = name
                self._delay(op, argument)

    def _delay(self, op: Operation, carried: SSAValue) -> None:
        """What is added to a carried value becomes part of the line that adds it."""
        if not isinstance(op, BinaryOp) or op.fn.data != "add" or carried not in op.operands:  # type: ignore[attr-defined]
            return
        other = next((v for v in op.operands if v is not carried), None)
        inner = other.owner if other is not None else None
        if other is None or not other.has_one_use() or not isinstance(inner, Operation):
            return
        product = isinstance(inner, BinaryOp) and inner.fn.data == "mul"  # type: ignore[attr-defined]
        if (product and str(tensor_type(other.type).dtype) == "f32") or isinstance(inner, DotOp):
            self.region.delayed[other] = inner

    def _block(self, block: Block, carried: Sequence[SSAValue], uses: Sequence[int]) -> list[SSAValue]:
        """Write a region; `carried` are the values of its first arguments. Its yields."""
        region = self.region
        count = len(block.args) - len(uses)
        for argument, value in zip(block.args[:count], carried, strict=True):
            region.alias(argument, value)
        for argument, i in zip(block.args[count:], uses, strict=True):
            if self.guard is not None and i in self.guard.flags:
                continue  # loaded already
            self.pointers.prepare(self.operands[i], self.kernel.args[i], self._window(i), argument, set())
            self._fetch(argument, i)
        return self._ops(block)

    def _ops(self, block: Block) -> list[SSAValue]:
        region = self.region
        delayed = set(region.delayed.values())
        for op in block.ops:
            if isinstance(op, YieldOp):
                return list(op.args)
            if op in delayed:
                continue
            if isinstance(op, UnpackOp) and _stays_packed(op):
                region.packed[op.out] = region[op.args[0]]
            else:
                _ops.write(region, op)
        raise UnsupportedError(f"triton: a region of kernel {self.kernel.kernel_name} ends without a yield")

    # -- windows -------------------------------------------------------------------------------------------------------

    def _window(self, i: int) -> Window:
        window = self.tiles.inputs[i]
        assert window is not None, "regions use operands that have windows"
        return window

    def _walks(self, i: int, walked: set[str]) -> bool:
        """True where the window moves with a dimension that the program walks."""
        window = self._window(i)
        found = set().union(*(dims.symbols(index) for index in window.index))
        if window.segment is not None:
            found |= dims.symbols(window.segment.base) | dims.symbols(window.segment.limit)
        return bool(found & walked)

    def _described(self, value: SSAValue, window: Window, *, made_here: bool) -> bool:
        """True where the window may be a box of a tensor descriptor: the tensor is one of our own, so that it is
        contiguous and aligned, and its rows are multiples of 16 bytes.
        """
        t = tensor_type(value.type)
        bits = t.format.bits if t.format is not None else 0
        if not made_here or "tma" not in self.capabilities.features or bits not in (8, 16, 32) or t.rank != 2:
            return False
        if window.segment is not None or None in window.block or not isinstance(t.shape[-1], int):
            return False
        boxed = all(isinstance(b, int) and 1 < b <= 256 for b in window.block)
        return boxed and t.shape[-1] * bits % 128 == 0 and window.block[-1] * bits >= 128  # type: ignore[operator]

    def _fetch(self, argument: SSAValue, i: int) -> None:
        """Load a window into a tile."""
        self.pointers.load(argument, f"{self.operands[i]}_tile", once=self._reads_once(i))

    def _reads_once(self, i: int) -> bool:
        """True where each element of an operand is read by one program, and by no kernel after this one: on NVIDIA,
        the cache is then left to what is written.
        """
        kernel, value = self.kernel, self.kernel.args[i]
        if kernel.step.blocks or tensor_type(value.type).rank < 2 or not self._nvidia:
            return False
        if any(op is not kernel and not op.is_before_in_block(kernel) for op in (u.operation for u in value.uses)):
            return False
        return not self._races(self._window(i)) and sum(argument is value for argument in kernel.args) == 1

    def _store(self, out: SSAValue, name: str, window: Window, value: SSAValue, *, turned: bool) -> None:
        region = self.region
        shape = tensor_type(out.type).shape
        if value in region.planes:
            (codes,) = region.planes[value]
            assert isinstance(value.owner, Operation), "codes are packed by an op"
            self.pointers.store_six(name, shape, window, codes, value.owner)
            return
        combine = window.combine if self._races(window) else None
        small = tile_bytes(tensor_type(value.type)) <= MOST_STORED
        if (
            not turned
            and self.pointers.descriptors
            and small
            and self._described(out, window, made_here=window.combine is None)
        ):
            self.pointers.store_described(name, shape, window, value)
            return
        self.pointers.store(name, shape, window, value, combine, turned=turned)

    def _races(self, window: Window) -> bool:
        """True where several programs meet in a window; segments keep programs of different groups apart."""
        used = set().union(*(dims.symbols(index) for index in window.index))
        if window.segment is not None:
            used |= dims.symbols(window.segment.base)
        return not {d.name for d in self._parallel()} <= used

    @staticmethod
    def _fill(window: Window) -> str | None:
        """What a result holds before programs combine into it; None where it needs nothing."""
        return {"add": "0", "max": 'float("-inf")', None: None}[window.combine]


def tile_bytes(t: TensorType) -> int:
    """Bytes of a tile; those of a size that is not known count as one."""
    count = prod(d for d in t.shape if isinstance(d, int))
    return count * (t.format.bits if t.format is not None else 8) // 8


def _stays_packed(op: UnpackOp) -> bool:
    """True for 4-bit codes that only scaled instructions read: those take them as bytes."""
    return op.order.data == "packed4" and all(isinstance(u.operation, DotScaledOp) for u in op.out.uses)  # type: ignore[attr-defined]
