"""A tiled kernel in a language like C: a work-group for each program, whose work-items share the entries of a tile.

What an op gives is an expression of one entry, part of what reads it; only what is read across entries, or more than
once, lies in the memory that work-items share. Tiles are whole: what a window has outside of its tensor is read as 0
and not stored, so modules have to be legalized and masked for `fetch_pad = zero`.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import SSAValue

from breccia.codegen.c.body import Body, Entry
from breccia.codegen.c.dialect import Dialect
from breccia.codegen.c.ops import write
from breccia.codegen.c.tables import Tables
from breccia.codegen.kernels import RegionParts, WindowAxis, region_of, window_axes
from breccia.codegen.lines import docstring, tensor_type
from breccia.ir.kernel import KernelOp
from breccia.ir.tiling import Window
from breccia.ir.types import TensorType


class CKernel(Body):
    """Writes one kernel.

    Its parameters are the arrays of operands and results, then `symbols` as integers of 64 bits. Work-groups are
    numbered along `programs`, dimensions of the grid, the last one fastest.

    Raises UnsupportedError, naming the kernel, for what the dialect cannot say, and for tiles that take more than
    `scratch_bytes` together.
    """

    def __init__(self, op: KernelOp, name: str, dialect: Dialect, tables: Tables, scratch_bytes: int) -> None:
        super().__init__(op, dialect, tables)
        self.name, self.scratch_bytes = name, scratch_bytes
        if op.tiles.dims("sequential"):
            raise self.unsupported("wants its programs in order, which work-groups are not")
        self.programs = op.tiles.dims("parallel")

    def text(self) -> str:
        """Source of the kernel."""
        op, d = self.op, self.dialect
        self._numbers_of_program()
        finish, carried = region_of(op, "finish"), self._steps()
        self.entries |= dict(zip(finish.carried, carried, strict=True))
        for out, window, value in zip(op.outs, op.tiles.outputs, self._region(finish), strict=True):
            self._store(out, window, value)
        if self.used_bytes > self.scratch_bytes:
            raise self.unsupported(
                f"has tiles of {self.used_bytes} bytes, and a work-group {self.scratch_bytes}: make them smaller"
            )
        arrays = [d.pointer.format(type=self.array_type(v), name=name) for v, name in self.arrays.items()]
        parameters = ", ".join([*arrays, *(d.size.format(name=self.sizes[s]) for s in self.symbols)])
        about = docstring(op.kernel_name, op.args, [o.type for o in op.outs]).replace('"""', "").strip().splitlines()
        body = "\n".join(f"  {line}" for line in (*self.shared, *self.lines))
        head = "".join(f"// {line.strip()}".rstrip() + "\n" for line in about)
        return head + d.kernel.format(name=self.name, parameters=parameters, body=body)

    # -- grid and regions ----------------------------------------------------------------------------------------------

    def _numbers_of_program(self) -> None:
        """Write which point of the grid a work-group computes."""
        self.lines.append(self.dialect.program)
        for d in reversed(self.programs):
            n = self.size(d.extent)
            self.lines.append(f"const long {self.sizes[d.name]} = program % {n}; program /= {n};")

    def _steps(self) -> list[Entry]:
        """Write `init` and the loop over `step`; how entries of the carried values are read after it."""
        step, loops = region_of(self.op, "step"), self.op.tiles.dims("reduction")
        for argument, value in zip(step.carried, self._region(region_of(self.op, "init")), strict=True):
            self.keep(argument, value)
        carried = [self.entries[argument] for argument in step.carried]
        for d in loops:
            k = self.sizes[d.name]
            self.lines.append(f"for (long {k} = 0; {k} < {self.size(d.extent)}; ++{k}) {{")
        start = len(self.lines)
        new = self._region(step)
        for value in new:  # all are computed before one of the old ones is overwritten
            self.keep(value, value if value in step.carried else None)
        for place, value in zip(carried, new, strict=True):
            shape = tensor_type(value.type).shape
            self.each(shape, lambda index, place=place, value=value: f"{place(index)} = {self.at(value, index)};")
        if loops:
            self.lines[start:] = [f"  {line}" for line in self.lines[start:]]
            self.lines.append("}" * len(loops))
        return carried

    def _region(self, parts: RegionParts) -> tuple[SSAValue, ...]:
        """Write a region whose carried values have entries; what it yields."""
        for argument, i in parts.fetched:
            self._fetch(argument, self.op.args[i], self.op.tiles.inputs[i])
        for op in parts.ops:
            write(self, op)
            for out in op.results:
                if not out.has_one_use():
                    self.keep(out)
        return parts.yields

    # -- windows -------------------------------------------------------------------------------------------------------

    def _fetch(self, argument: SSAValue, value: SSAValue, window: Window | None) -> None:
        """Read a window as an expression: 0 outside of the tensor."""
        assert window is not None, "what a region takes has a window"
        t, name, axes = tensor_type(value.type), self.arrays[value], window_axes(value, window, self.op.tiles.grid)
        load = self.dialect.loads.get(str(t.dtype), "{0}[{1}]")

        def entry(index: Sequence[str]) -> str:
            place, inside = self._place(t, axes, index)
            read = load.format(name, place)
            return f"({inside} ? {read} : 0)" if inside else read

        self.entries[argument] = entry
        if not argument.has_one_use():
            self.keep(argument)

    def _store(self, out: SSAValue, window: Window, value: SSAValue) -> None:
        """Write a window of a result."""
        t, name, axes = tensor_type(out.type), self.arrays[out], window_axes(out, window, self.op.tiles.grid)
        text = self.dialect.stores.get(str(t.dtype), "{0}[{1}] = {2};")
        if window.combine is not None:
            text = f"combine_{window.combine}({{0}} + {{1}}, {{2}});"
            if str(t.dtype) != "f32":
                raise self.unsupported(f"combines results of {t.dtype}; only f32 is combined")

        def body(index: list[str]) -> str:
            place, inside = self._place(t, axes, index)
            return (f"if ({inside}) " if inside else "") + text.format(name, place, self.at(value, index))

        self.each(window.tile, body)

    def _place(self, t: TensorType, axes: Sequence[WindowAxis], index: Sequence[str]) -> tuple[str, str]:
        """(where an entry of a window lies, what holds if it lies inside of the tensor)."""
        rest, whole, tests = iter(index), list[str](), list[str]()
        for axis in axes:
            start = self.size(axis.start, 1)
            if axis.block is None:
                whole.append(start)
                continue
            i = next(rest)
            whole.append(i if start == "0" else f"({start} + {i})")
            if axis.start != 0 or axis.block != axis.limit:
                tests.append(f"{whole[-1]} < {self.size(axis.limit)}")
        return self.flat(t.shape, whole), " && ".join(tests)
