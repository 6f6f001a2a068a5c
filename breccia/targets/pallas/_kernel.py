"""A tiled kernel as two functions: what one program computes, on references to blocks, and the `pallas_call` around it.

    def _gemm_0_kernel(a_ref, b_ref, out_ref, acc_ref, *, M):
        ...

    def _gemm_0(a, b, M):
        return rt.pallas_call(partial(_gemm_0_kernel, M=M), grid=(..), in_specs=[..], ..)(a, b)

Reduction dimensions are the last ones of the grid; what is carried along them lies in scratch memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xdsl.ir import Block, SSAValue

from breccia.codegen.constants import Constants
from breccia.codegen.lines import docstring, kernel_symbols, tensor_type
from breccia.codegen.names import RESERVED, Names, quoted
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import YieldOp
from breccia.ir.tiling import GridDim, Window
from breccia.ir.types import TensorType
from breccia.targets.pallas import _ops
from breccia.targets.pallas._groups import groups_of
from breccia.targets.pallas._region import Region, host_dtype, storage_dtype
from breccia.targets.pallas._windows import Place, place

NAMES = RESERVED | {"jnp", "pl", "pltpu", "partial", "tiles", "rt"}
"""Names that emitted code uses itself."""
_BITS = {"float32": 32, "int32": 32, "bfloat16": 16, "uint16": 16, "uint8": 8, "bool_": 8}
_NEUTRAL = {"add": "0", "max": 'float("-inf")'}


@dataclass(frozen=True)
class KernelText:
    """Source of both functions, and the sizes that the outer one takes after the kernel's operands."""

    source: str
    symbols: tuple[str, ...]


def kernel_text(kernel: KernelOp, name: str, constants: Constants) -> KernelText:
    """The functions of a kernel; the one to call is called `name`."""
    return _Kernel(kernel, constants).written(name)


class _Kernel:
    """Writes one kernel. Invariant: grid dimensions of extent 1 stand as 0."""

    def __init__(self, kernel: KernelOp, constants: Constants) -> None:
        self.kernel, self.tiles = kernel, kernel.tiles
        names = Names(NAMES)
        self.region = Region(names, constants, lambda i, entry: f"{self.refs[i]}[{entry}]")
        self.operands = [names.fresh(a.name_hint or f"arg{i}") for i, a in enumerate(kernel.args)]
        self.refs = [names.fresh(f"{o}_ref") for o in self.operands]
        self.results = [names.fresh(f"{o.name_hint or 'out'}_ref") for o in kernel.outs]
        for symbol in kernel_symbols(kernel):
            self.region.sizes.symbol(symbol, names.fresh(symbol))
        self.groups = groups_of(kernel, names)
        hidden = set() if self.groups is None else self.groups.dims
        self.single: dict[str, Dim] = {d.name: 0 for d in self.tiles.grid if d.extent == 1 and d.name not in hidden}
        self.grid = self._grid(names, hidden)
        self.scratch: list[tuple[str, TensorType]] = []
        self.places = [
            None if w is None else self._place(a, w) for a, w in zip(kernel.args, self.tiles.inputs, strict=True)
        ]
        self.out_places = [self._place(o, w, result=True) for o, w in zip(kernel.outs, self.tiles.outputs, strict=True)]

    # -- the grid ------------------------------------------------------------------------------------------------------

    def _grid(self, names: Names, hidden: set[str]) -> list[tuple[str, str, GridDim | None]]:
        """(name of the coordinate, extent, dimension) of each dimension of the launch; None for the list of work."""
        sizes = self.region.sizes
        found: list[tuple[str, str, GridDim | None]] = []
        moving = {d.name for d in self.tiles.grid}
        for d in sorted(self.tiles.grid, key=lambda d: d.kind == "reduction"):
            if d.name in hidden:
                continue
            if dims.symbols(d.extent) & moving or dims.has_lookup(d.extent):
                raise UnsupportedError(
                    f"pallas: kernel {self.kernel.kernel_name} has a dimension {d.name} whose extent depends on data "
                    "or on another dimension; give it a fixed extent"
                )
            sizes.grid(d.name, "0" if d.extent == 1 else names.fresh(d.name))
            if d.extent != 1:
                found.append((sizes[d.name], self.region.size(d.extent), d))
        if self.groups is not None:
            at = sum(d is not None and d.kind != "reduction" for _, _, d in found)
            found.insert(at, (self.groups.work, f"{self.groups.tiles}.size", None))
            for name, text in self.groups.spelled.items():
                sizes.grid(name, text)
        return found

    @property
    def _steps(self) -> list[str]:
        return [name for name, _, d in self.grid if d is not None and d.kind == "reduction"]

    def _place(self, value: SSAValue, window: Window, *, result: bool = False) -> Place:
        t = tensor_type(value.type)
        return place(t, window, _BITS[storage_dtype(t)], self.single, self.region.size, result=result)

    # -- the kernel ----------------------------------------------------------------------------------------------------

    def written(self, name: str) -> KernelText:
        self._body()
        body = self.region.text()
        heads = [
            f"    {coordinate} = pl.program_id({i})"
            for i, (coordinate, _, _) in enumerate(self.grid)
            if re.search(rf"\b{coordinate}\b", body)
        ]
        call = self._call()
        symbols = tuple(sorted(self.region.sizes.used))
        sizes = [self.region.sizes[s] for s in symbols]
        inner = [size for size in sizes if re.search(rf"\b{size}\b", body)]
        tables = [] if self.groups is None else self.groups.references
        windowed = [r for r, w in zip(self.refs, self.tiles.inputs, strict=True) if w is not None]
        looked = [r for r, w in zip(self.refs, self.tiles.inputs, strict=True) if w is None]
        given = [*tables, *looked, *windowed, *self.results, *(ref for ref, _ in self.scratch)]
        keywords = ["*", *inner] if inner else []
        doc = docstring(self.kernel.kernel_name, self.kernel.args, [o.type for o in self.kernel.outs])
        head = _head(f"{name}_kernel", [*given, *keywords])
        lines = "\n".join([*heads, *([""] if heads and self._steps else []), body])
        outer = _head(name, [*self.operands, *sizes])
        source = f"{head}\n{doc}{lines}\n\n\n{outer}\n{call.replace('SIZES', self._bound(name, inner))}"
        return KernelText(source, symbols)

    @staticmethod
    def _bound(name: str, sizes: Sequence[str]) -> str:
        if not sizes:
            return f"{name}_kernel"
        return f"partial({name}_kernel, {', '.join(f'{s}={s}' for s in sizes)})"

    def _body(self) -> None:
        region, kernel, steps = self.region, self.kernel, self._steps
        carried: list[SSAValue] = []
        if kernel.init.blocks and not steps:
            start = self._block(kernel.init.block, [], ())
            carried = self._block(kernel.step.block, start, self.tiles.step_uses)
        elif kernel.init.blocks:
            carried = self._loop(steps)
        if steps:
            last = [self._last(extent) for name, extent, _ in self.grid if name in steps]
            region.line("")
            region.line(f"@pl.when({_all(f'{n} == {e}' for n, e in zip(steps, last, strict=True))})")
            region.line("def _finish():")
            region.indent(1)
        values = self._block(kernel.finish.block, carried, self.tiles.finish_uses)
        for i, value in enumerate(values):
            self._store(i, value)
        region.indent(-1 if steps else 0)

    @staticmethod
    def _last(extent: str) -> str:
        return str(int(extent) - 1) if extent.isdigit() else f"{extent} - 1"

    def _loop(self, steps: Sequence[str]) -> list[SSAValue]:
        """Write what runs at the first step, and what runs at each; the carried values, as `finish` finds them."""
        region, kernel = self.region, self.kernel
        count = len(kernel.step.block.args) - len(self.tiles.step_uses)
        arguments: list[SSAValue] = list(kernel.step.block.args[:count])
        refs = [region.names.fresh(f"{a.name_hint or 'carried'}_ref") for a in arguments]
        self.scratch = [(ref, tensor_type(a.type)) for ref, a in zip(refs, arguments, strict=True)]
        region.line(f"@pl.when({_all(f'{name} == 0' for name in steps)})")
        region.line("def _start():")
        region.indent(1)
        for ref, value in zip(refs, self._block(kernel.init.block, [], ()), strict=True):
            region.line(f"{ref}[...] = {self._as_block(value)}")
        region.indent(-1)
        region.line("")
        for ref, argument in zip(refs, arguments, strict=True):
            t = tensor_type(argument.type)
            region.name(argument, f"{ref}[...]" + (f".reshape({region.shape(t.shape)})" if t.rank < 2 else ""))
        values = self._block(kernel.step.block, None, self.tiles.step_uses)
        texts = [self._as_block(value) for value in values]
        if len(refs) > 1:  # nothing is overwritten before all that need it are computed
            names = [region.names.fresh(ref.removesuffix("_ref")) for ref in refs]
            region.line(f"{', '.join(names)} = {', '.join(texts)}")
            texts = names
        for ref, text in zip(refs, texts, strict=True):
            region.line(f"{ref}[...] = {text}")
        return arguments

    def _as_block(self, value: SSAValue) -> str:
        """A value with two axes at least, as references have."""
        t = tensor_type(value.type)
        return self.region[value] + (f".reshape({self.region.shape(_at_least_two(t.shape))})" if t.rank < 2 else "")

    def _block(self, block: Block, carried: Sequence[SSAValue] | None, uses: Sequence[int]) -> list[SSAValue]:
        """Write a region; `carried` are the values of its first arguments, None where they are bound already."""
        region = self.region
        count = len(block.args) - len(uses)
        for argument, value in zip(block.args[:count], carried or (), strict=False):
            region.alias(argument, value)
        for argument, i in zip(block.args[count:], uses, strict=True):
            self._fetch(argument, i)
        for op in block.ops:
            if isinstance(op, YieldOp):
                return list(op.args)
            _ops.write(region, op)
        raise UnsupportedError(f"pallas: a region of kernel {self.kernel.kernel_name} ends without a yield")

    # -- windows -------------------------------------------------------------------------------------------------------

    def _fetch(self, argument: SSAValue, i: int) -> None:
        region, where, window = self.region, self.places[i], self.tiles.inputs[i]
        assert where is not None and window is not None, "regions use operands that have windows"  # noqa: PT018
        text = f"{self.refs[i]}[...]"
        for cut in where.cuts:
            text = f"tiles.cut({text}, {cut.axis}, {cut.start}, {cut.size})"
        if self._held(window, where) != window.tile:
            text = f"{text}.reshape({region.shape(window.tile)})"
        region.line(f"{region.bind(argument, f'{self.operands[i]}_tile')} = {text}")

    @staticmethod
    def _held(window: Window, where: Place) -> tuple[Dim, ...]:
        """The shape of what is cut out of a block: axes that the tile lacks have size 1, but for leading ones."""
        whole = [1 if b is None else b for b in window.block]
        return _at_least_two(tuple(whole[where.squeezed :]))

    def _store(self, i: int, value: SSAValue) -> None:
        region, where, window, ref = self.region, self.out_places[i], self.tiles.outputs[i], self.results[i]
        t = tensor_type(value.type)
        text = region[value]
        held = self._held(window, where)
        if held != t.shape:
            text = f"{text}.reshape({region.shape(held)})"
        if self.groups is not None and window.segment is not None:
            axis = window.kept_axes.index(window.segment.axis)
            self.groups.store(region, ref, text, axis)
            return
        if window.combine is not None and self._shared(i):
            self._combine(i, text, window.combine)
            return
        starts = ", ".join(f"({cut.axis}, {cut.start})" for cut in where.cuts)
        region.line(f"{ref}[...] = " + (f"tiles.put({ref}[...], {text}, {starts})" if starts else text))

    def _shared(self, i: int) -> list[str]:
        """Parallel dimensions along which programs meet in the window of a result."""
        used = set().union(*(dims.symbols(index) for index in self.tiles.outputs[i].index))
        return [name for name, _, d in self.grid if d is not None and d.kind != "reduction" and d.name not in used]

    def _combine(self, i: int, text: str, combine: str) -> None:
        region, ref, shared = self.region, self.results[i], self._shared(i)
        parallel = [name for name, _, d in self.grid if d is None or d.kind != "reduction"]
        if self.out_places[i].cuts or parallel[len(parallel) - len(shared) :] != shared:
            raise UnsupportedError(
                f"pallas: kernel {self.kernel.kernel_name} combines result {i} along {', '.join(shared)}, which are "
                "not the last parallel dimensions; put them last"
            )
        first = _all(f"{name} == 0" for name in shared)
        old = f"jnp.where({first}, {_NEUTRAL[combine]}, {ref}[...])"
        joined = f"{old} + {text}" if combine == "add" else f"jnp.maximum({old}, {text})"
        region.line(f"{ref}[...] = {joined}")

    # -- the call ------------------------------------------------------------------------------------------------------

    def _call(self) -> str:
        """The body of the function around the kernel; SIZES stands for the kernel with its sizes."""
        kernel, region = self.kernel, self.region
        inputs = [p for p in self.places if p is not None]
        tables = [o for o, w in zip(self.operands, self.tiles.inputs, strict=True) if w is None]
        windowed = [o for o, w in zip(self.operands, self.tiles.inputs, strict=True) if w is not None]
        first: list[str] = []
        if self.groups is not None:
            looked = dict(zip(self.refs, self.operands, strict=True))
            first = self.groups.lines(region, looked)
            tables = [*self.groups.tables, *tables]
        outs = [
            f"rt.Out({region.shape(t.shape)}, {quoted(host_dtype(t))})"
            for t in (tensor_type(o.type) for o in kernel.outs)
        ]
        scratch = [f"pltpu.VMEM({region.shape(_at_least_two(t.shape))}, {region.dtype(t)})" for _, t in self.scratch]
        lines = [
            "SIZES,",
            f"name={quoted(kernel.kernel_name)},",
            f"grid={_tuple([extent for _, extent, _ in self.grid])},",
            f"semantics={_tuple(list(map(quoted, self._semantics())))},",
            "in_specs=[",
            *(f"    {self._spec(p)}," for p in inputs),
            "],",
            "out_specs=[",
            *(f"    {self._spec(p)}," for p in self.out_places),
            "],",
            f"outs=[{', '.join(outs)}],",
            *([f"scratch=[{', '.join(scratch)}],"] if scratch else []),
            *([f"tables={len(tables)},"] if tables else []),
        ]
        inside = "\n".join(f"        {line}" for line in lines)
        call = f"    return rt.pallas_call(\n{inside}\n    )({', '.join([*tables, *windowed])})"
        return "\n".join([*(f"    {line}" for line in first), call])

    def _semantics(self) -> list[str]:
        shared = self.groups is not None or any(p.cuts for p in self.out_places)
        shared |= any(self._shared(i) for i, w in enumerate(self.tiles.outputs) if w.combine is not None)
        return ["arbitrary" if shared or d is None or d.kind == "reduction" else "parallel" for _, _, d in self.grid]

    def _spec(self, where: Place) -> str:
        """A BlockSpec; its index map takes the coordinates of the grid, then the tables."""
        looked = [r for r, w in zip(self.refs, self.tiles.inputs, strict=True) if w is None]
        tables = [*(self.groups.references if self.groups is not None else []), *looked]
        index = ", ".join(where.index)
        read = [i for i, table in enumerate(tables) if f"{table}[" in index]
        given = [name for name, _, _ in self.grid] + tables[: max(read, default=-1) + 1]
        given += ["*_"] if len(read) < len(tables) and len(given) < len(self.grid) + len(tables) else []
        arguments = f" {', '.join(given)}" if given else ""
        return f"pl.BlockSpec(({', '.join(where.block)}), lambda{arguments}: ({index}))"


def _tuple(parts: Sequence[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _all(conditions: Iterable[str]) -> str:
    """Conditions that have to hold together, as text."""
    found = list(conditions)
    return found[0] if len(found) == 1 else " & ".join(f"({c})" for c in found)


def _at_least_two(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    return (1,) * (2 - len(shape)) + shape if len(shape) < 2 else shape


def _head(name: str, parameters: Sequence[str]) -> str:
    """The first line of a function; more lines where it would be long."""
    line = f"def {name}({', '.join(parameters)}):"
    if len(line) <= 120:
        return line
    inside = "".join(f"    {p},\n" if p != "*" else "    *,\n" for p in parameters)
    return f"def {name}(\n{inside}):"
