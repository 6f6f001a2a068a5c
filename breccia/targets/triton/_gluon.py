"""Products for Hopper in Gluon: one warp loads, groups of four warps multiply, and programs walk over tiles.

    _gemm_0        shared memory, barriers, and the start of the parts
    _gemm_0_load   one warp: tiles of both operands into a ring of stages, as soon as a stage is free
    _gemm_0_math   a group of four warps: matrix instructions on what has arrived; scales of the next step meanwhile
    _gemm_0_finish what becomes of the sums of one tile, and where it goes

Groups take turns by themselves: while one promotes its sums, the tensor cores work for another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xdsl.ir import BlockArgument, SSAValue

from breccia.codegen.lines import docstring, kernel_symbols, tensor_type
from breccia.codegen.names import RESERVED, Names
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.capabilities import Capabilities
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import TransposeOp, YieldOp
from breccia.ir.types import TensorType
from breccia.targets.triton import _ops
from breccia.targets.triton._casts import Library
from breccia.targets.triton._gluon_scales import Scales
from breccia.targets.triton._region import Region
from breccia.targets.triton._specialized import ROWS, STEP_BYTES, Product
from breccia.targets.triton._text import KernelText, head, signature_type, turned_results, turned_stride

_IMPORTED = (
    "async_load", "async_store", "fence_async_shared", "mbarrier", "store_wait", "warpgroup_mma", "warpgroup_mma_wait",
)  # fmt: skip
HEADER = (
    "from triton.experimental import gluon\nfrom triton.experimental.gluon import language as gl\n",
    "from breccia.targets.triton.hopper import (\n" + "".join(f"    {name},\n" for name in _IMPORTED) + ")\n",
)
"""What comes after Triton's own imports, and after breccia's."""
NAMES = frozenset({"gl", "gluon", *_IMPORTED})
"""What the header brings."""
WORDS = RESERVED | NAMES | {"LAYOUT", "acc", "m", "n", "full", "empty", "tiles", "group"}
"""Names with a meaning of their own in every function."""
LOADING_REGISTERS = 40
"""Registers of a thread of the warp that loads; what is left over is for those that multiply."""
MATH_REGISTERS = {2: 240, 3: 160}
_NEVER = '''
@gluon.jit
def _never():
    """False, which no compiler knows: so sums begin anew in registers that they have already."""
    zero = gl.inline_asm_elementwise(
        "mov.b32 $0, 0;", "=r,r", [gl.program_id(0)], dtype=gl.int32, is_pure=False, pack=1
    )
    return zero != 0
'''


@dataclass(frozen=True)
class Shape:
    """How many groups of warps share a program's tile, and how many tiles of the form each of them has."""

    groups: int
    waves_m: int
    waves_n: int
    stages: int
    raster: int
    turns: int
    """Groups that take turns along k, a stage each, instead of sharing the rows of a tile."""
    steps: int
    """Steps of one stage."""

    @property
    def rows(self) -> int:
        """Tiles of the form along m that a program has."""
        return self.groups * self.waves_m


class GluonRegion(Region):
    """A region whose tiles lie as the matrix instruction leaves its sums: in `layout`."""

    layout = "LAYOUT"

    def full(self, t: TensorType, number: str) -> str:
        if not t.shape:
            return super().full(t, number)
        return f"gl.full({self.shape(t.shape)}, {number}, {self.dtype(t)}, {self.layout})"

    def along(self, size: int, axis: int, rank: int) -> str:
        if rank != 2:
            raise UnsupportedError("triton: warp-specialized kernels have tiles of two axes")
        index = "[:, None]" if axis == 0 else "[None, :]"
        return f"gl.arange(0, {size}, gl.SliceLayout({1 - axis}, {self.layout})){index}"


def slot(stage: str, part: int, parts: int) -> str:
    """Where a part of a stage lies in a ring, which holds the parts of each stage one after the other."""
    return stage if parts == 1 else f"{stage} * {parts}" + (f" + {part}" if part else "")


class _Places:
    """The rows (0) and columns (1) of a tile in the tensor, written where they are first asked for."""

    def __init__(self, region: GluonRegion, rows: int, columns: int, row: Callable[[str], str]) -> None:
        self.region, self.sizes, self.row = region, (rows, columns), row
        self.names: dict[int, str] = {}

    def __getitem__(self, axis: int) -> str:
        if axis not in self.names:
            name = self.names[axis] = self.region.names.fresh(("rows", "columns")[axis])
            size = self.sizes[axis]
            place = f"n * {size}" if axis else self.row(f"m * {size}")
            self.region.line(f"{name} = {place} + {self.region.along(size, axis, 2)}")
        return self.names[axis]


class Gluon:
    """Writes the functions of one kernel; `Turns` writes some of them in another way."""

    walks = True
    """Whether programs walk over tiles; else each has one."""
    tall = ROWS
    """Rows of the result in a tile of the form."""
    loops = 1
    """How many loops go over them."""
    moving: Sequence[str] = ()
    """Names, besides a tile's place, that differ between tiles and that `finish` may use."""

    def __init__(
        self, kernel: KernelOp, product: Product, shape: Shape, name: str, library: Library, capabilities: Capabilities
    ) -> None:
        self.kernel, self.product, self.shape, self.name = kernel, product, shape, name
        self.library, self.features = library, capabilities.features
        names = Names(WORDS)
        self.operands = [names.fresh(a.name_hint or f"arg{i}") for i, a in enumerate(kernel.args)]
        self.results = [names.fresh(o.name_hint or "out") for o in kernel.outs]
        self.symbols = {s: names.fresh(s) for s in kernel_symbols(self.whole)}
        self.pointed = [i for i in range(len(kernel.args)) if i not in (product.a, product.b)]
        ranks = {i: self.rank(i) for i in self.pointed}
        self.strides = {
            i: [names.fresh(f"{self.operands[i]}_stride{j}") for j in range(ranks[i])] for i in self.pointed
        }
        self.turned = turned_results(kernel, capabilities)
        self.needed: list[str] = []
        """What `finish` makes use of, once it has been written."""
        self.boxed = [self.stored_boxed(i) for i in range(len(kernel.outs))]

    @property
    def whole(self) -> KernelOp:
        """The kernel as its callers see it."""
        return self.kernel

    def rank(self, i: int) -> int:
        """The axes of an operand."""
        return tensor_type(self.whole.args[i].type).rank

    def stored_boxed(self, i: int) -> bool:
        """True where a result is stored through a descriptor: its rows are multiples of 16 bytes."""
        t, window = tensor_type(self.kernel.outs[i].type), self.kernel.tiles.outputs[i]
        columns = t.shape[-1]
        bits = t.format.bits if t.format is not None else 0
        if bits not in (8, 16, 32) or window.block[1] == 1 or not isinstance(columns, int):
            return False
        return columns * bits % 128 == 0 and self.product.columns * bits >= 128

    # -- the whole -----------------------------------------------------------------------------------------------------

    def written(self) -> KernelText:
        source = "\n\n\n".join(write() for write in (self._finish, self.math, self.load, self.start))
        kernel, p = self.kernel, self.product
        types = [
            Region(Names(), self.library, ()).triton_dtype(tensor_type(v.type)) for v in (*kernel.args, *kernel.outs)
        ]
        boxes: list[tuple[int, int] | None] = [None] * len(types)
        boxes[p.a], boxes[p.b] = self.first_box(), self.second_box()
        for i, boxed in enumerate(self.boxed):
            if boxed:
                boxes[len(kernel.args) + i] = (ROWS, p.columns)
        strided = (
            *(self.rank(i) if i in self.pointed else 0 for i in range(len(kernel.args))),
            *(-2 if t else 0 for t in self.turned),
        )
        walked = [f.operand for f in p.factors if f.along != "tile" and f.step == 1]
        columns = tuple(i for i in walked if self.rank(i) == 2)
        return KernelText(
            source, ((*self.operands, *self.results), tuple(self.symbols.values()), tuple(self.all_strides())),
            tuple(sorted(self.symbols)), tuple(map(signature_type, types)), strided,
            self.tiles(), self.fills(), self.options(), self.turned, tuple(boxes), columns,
        )  # fmt: skip

    def tiles(self) -> dims.Dim:
        """How many tiles programs walk over, or how many programs there are at most."""
        p, s = self.product, self.shape
        return dims.mul(dims.ceildiv(p.m.extent, s.rows), dims.ceildiv(p.n.extent, s.waves_n))

    def fills(self) -> tuple[str | None, ...]:
        """What results hold before the kernel writes them."""
        return tuple(None for _ in self.results)

    def first_box(self) -> tuple[int, int]:
        return ROWS * self.shape.waves_m, self.product.depth

    def second_box(self) -> tuple[int, int]:
        p = self.product
        return (p.depth, p.columns) if p.upright else (p.columns, p.depth)

    def second_place(self, column: str, k: str) -> str:
        """Where a tile of the second operand begins."""
        return f"[{k}, {column}]" if self.product.upright else f"[{column}, {k}]"

    def second_tile(self, ring: str, slot: str) -> str:
        """A tile of the second operand as the instruction takes it: rows of k."""
        return f"{ring}.index({slot})" + ("" if self.product.upright else ".permute((1, 0))")

    def options(self) -> dict[str, int | str]:
        return {"num_warps": 4, "walks": int(self.walks)}

    def all_strides(self) -> list[str]:
        return [s for i in self.pointed for s in self.strides[i]]

    def sizes(self) -> list[str]:
        return [self.symbols[s] for s in sorted(self.symbols)]

    def region(self, extra: Sequence[str] = ()) -> GluonRegion:
        """A new function: names of all parameters are taken."""
        names = Names(RESERVED | NAMES | {"LAYOUT"})
        for name in (*self.operands, *self.results, *self.sizes(), *self.all_strides(), *extra):
            names.fresh(name)
        region = GluonRegion(names, self.library, self.features)
        for symbol, text in self.symbols.items():
            region.sizes.symbol(symbol, text)
        return region

    def function(self, suffix: str, parameters: Sequence[str], doc: str, region: Region) -> str:
        return f'@gluon.jit\n{head(f"{self.name}{suffix}", parameters)}\n    """{doc}"""\n{region.text()}'

    @property
    def layout(self) -> str:
        step = 256 // (STEP_BYTES // self.product.depth * 8)
        return (
            "LAYOUT: gl.constexpr = gl.NVMMADistributedLayout("
            f"version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, {self.product.columns}, {step}])"
        )

    @property
    def finish_layout(self) -> str:
        """The line that says how the sums lie that `finish` is given."""
        return self.layout

    # -- tiles ---------------------------------------------------------------------------------------------------------

    def _walk(self, region: Region) -> tuple[str, str]:
        """Write the loop over the program's tiles; names of the place of a tile, counted in those of programs."""
        p, s = self.product, self.shape
        fresh = region.names.fresh
        m_tiles, n_tiles, tile = fresh("m_tiles"), fresh("n_tiles"), fresh("tile")
        region.line(f"{m_tiles} = {region.size(dims.ceildiv(p.m.extent, s.rows))}")
        region.line(f"{n_tiles} = {region.size(dims.ceildiv(p.n.extent, s.waves_n))}")
        region.line(f"for {tile} in range(gl.program_id(0), {m_tiles} * {n_tiles}, gl.num_programs(0)):")
        region.indent(1)
        return self.rastered(region, tile, m_tiles, n_tiles)

    def rastered(self, region: Region, tile: str, m_tiles: str, n_tiles: str) -> tuple[str, str]:
        """Write and name the place of a tile: some rows of tiles at a time, so that operands are found in L2."""
        fresh, s = region.names.fresh, self.shape
        m, n, first, height = fresh("m"), fresh("n"), fresh("first"), fresh("height")
        region.line(f"{first} = {tile} // ({s.raster} * {n_tiles}) * {s.raster}")
        region.line(f"{height} = min({m_tiles} - {first}, {s.raster})")
        region.line(f"{m} = {first} + {tile} % ({s.raster} * {n_tiles}) % {height}")
        region.line(f"{n} = {tile} % ({s.raster} * {n_tiles}) // {height}")
        return m, n

    def row(self, place: str) -> str:
        """The row of the first operand and of results that is number `place` of the tiles."""
        return place

    def column(self, place: str) -> str:
        """The row, or column, of the second operand that is column `place` of the product."""
        return place

    def start_of(self, operand: int) -> str:
        """Where the part of an operand begins that the tiles belong to."""
        return self.operands[operand]

    def advance(self, region: Region, stage: str, phase: str, by: int = 1) -> None:
        """Write the way to the next stage of the ring."""
        stages = self.shape.stages
        region.line(f"{stage} += {by}")
        region.line(f"if {stage} >= {stages}:" if by > 1 else f"if {stage} == {stages}:")
        region.line(f"    {stage} -= {stages}" if by > 1 else f"    {stage} = 0")
        region.line(f"    {phase} ^= 1")

    # -- loading -------------------------------------------------------------------------------------------------------

    def rings(self) -> tuple[list[str], str]:
        """Names of the rings of the first operand, one for each group, and of the second one."""
        a, b = self.operands[self.product.a], self.operands[self.product.b]
        return [f"{a}_tiles{g}" for g in range(self.shape.groups)], f"{b}_tiles"

    def load_parameters(self) -> list[str]:
        rings, second = self.rings()
        operands = [self.operands[i] for i in (self.product.a, self.product.b)]
        return [*operands, *rings, second, "full", "empty", *self.sizes()]

    def load(self) -> str:
        p, s = self.product, self.shape
        a, b = self.operands[p.a], self.operands[p.b]
        rings, second = self.rings()
        region = self.region([*rings, second, "full", "empty"])
        stage, phase = region.names.fresh("stage"), region.names.fresh("phase")
        region.line(f"{stage} = 0")
        region.line(f"{phase} = 1")
        m, n = self._walk(region)
        k, arrived = region.names.fresh("k"), region.names.fresh("arrived")
        region.line(f"for {k} in range({region.size(p.k.extent)}):")
        region.indent(1)
        region.line(f"mbarrier.wait(empty.index({stage}), {phase})")
        region.line(f"{arrived} = full.index({stage})")
        rows, columns = ROWS * s.waves_m, p.columns * s.waves_n
        region.line(f"mbarrier.expect({arrived}, {(rows * s.groups + columns) * STEP_BYTES})")
        copy = "async_load"
        for g, ring in enumerate(rings):
            row = f"{m} * {rows * s.groups}" + (f" + {g * rows}" if g else "")
            region.line(f"{copy}({a}, [{self.row(row)}, {k} * {p.depth}], {arrived}, {ring}.index({stage}))")
            if g:
                continue
            for j in range(s.waves_n):
                column = f"{n} * {columns}" + (f" + {j * p.columns}" if j else "")
                place = f"{second}.index({slot(stage, j, s.waves_n)})"
                region.line(
                    f"{copy}({b}, {self.second_place(self.column(column), f'{k} * {p.depth}')}, {arrived}, {place})"
                )
        self.advance(region, stage, phase)
        return self.function(
            "_load", self.load_parameters(), "One warp: operands of each step, as soon as a stage is free.", region
        )

    # -- multiplying ---------------------------------------------------------------------------------------------------

    def finish_parameters(self) -> list[str]:
        """What `math` and `finish` take besides tiles, and a tile's sums and place."""
        buffers = [f"{self.results[i]}_tile" for i, boxed in enumerate(self.boxed) if boxed]
        pointed = [self.operands[i] for i in self.pointed]
        return [*pointed, *self.results, *buffers, *self.sizes(), *self.all_strides()]

    def finish_call(self, acc: str, m: str, n: str) -> str:
        """The call of `finish` for a tile. It has been written before."""
        return f"{self.name}_finish({', '.join([acc, m, n, *self.needed])})"

    def math_parameters(self) -> list[str]:
        return ["tiles", self.rings()[1], "full", "empty", *self.finish_parameters()]

    def math(self) -> str:
        p, s = self.product, self.shape
        _, second = self.rings()
        parameters = self.math_parameters()
        region = self.region([*parameters, "group"])
        fresh = region.names.fresh
        region.line(self.layout)
        nothing, never = fresh("nothing"), fresh("never")
        if not p.exact_sums:
            region.line(f"{nothing} = gl.zeros(({ROWS}, {p.columns}), gl.float32, LAYOUT)")
            region.line(f"{never} = {self.library.add('_never', _NEVER)}()")
        stage, phase = fresh("stage"), fresh("phase")
        region.line(f"{stage} = 0")
        region.line(f"{phase} = 0")
        m, n = self._walk(region)
        ms = [fresh(f"m{i}") for i in range(s.waves_m)]
        ns = [fresh(f"n{j}") for j in range(s.waves_n)] if s.waves_n > 1 else [n]
        for i, name in enumerate(ms):
            text = f"{m} * {s.groups} + group"
            region.line(
                f"{name} = {text}" if s.waves_m == 1 else f"{name} = ({text}) * {s.waves_m}" + (f" + {i}" if i else "")
            )
        for j, name in enumerate(ns):
            if name != n:
                region.line(f"{name} = {n} * {s.waves_n}" + (f" + {j}" if j else ""))
        waves = [(i, j) for i in range(s.waves_m) for j in range(s.waves_n)]
        sums = {w: fresh("acc" if len(waves) == 1 else f"acc{number}") for number, w in enumerate(waves)}
        for name in sums.values():
            region.line(f"{name} = gl.zeros(({ROWS}, {p.columns}), gl.float32, LAYOUT)")
        scales = Scales(self, region, ms, ns)
        k = fresh("k")
        scales.fetch("0")
        region.line(f"for {k} in range({region.size(p.k.extent)}):")
        region.indent(1)
        region.line(f"mbarrier.wait(full.index({stage}), {phase})")
        left = [
            f"tiles.index({stage})" + (f".slice({i * ROWS}, {ROWS})" if s.waves_m > 1 else "") for i in range(s.waves_m)
        ]
        right = [self.second_tile(second, slot(stage, j, s.waves_n)) for j in range(s.waves_n)]
        if p.exact_sums:
            self._accumulate(region, waves, sums, left, right, stage)
        else:
            self._promote(region, waves, sums, left, right, stage, (nothing, never, k), scales)
        self.advance(region, stage, phase)
        region.indent(-1)
        for (i, j), name in sums.items():
            region.line(self.finish_call(name, ms[i], ns[j]))
        region.indent(-self.loops)
        self.after(region)
        if any(self.boxed):
            region.line("store_wait(0)")
        given = ["group: gl.constexpr", *parameters]
        return self.function("_math", given, "Four warps: the sums of their share of each tile.", region)

    def after(self, region: Region) -> None:
        """Write what a group of warps does after all tiles."""

    def _promote(
        self, region: Region, waves: Sequence[tuple[int, int]], sums: dict[tuple[int, int], str],
        left: Sequence[str], right: Sequence[str], stage: str, names: tuple[str, str, str], scales: Scales,
    ) -> None:  # fmt: skip
        """The products of a step one after the other, each added in float32 before the next one starts.

        Scales that may still be on their way are first asked for when the tensor cores have work.
        """
        nothing, never, k = names
        combined: dict[tuple[int, int], str] = {}
        part = ""
        for number, (i, j) in enumerate(waves):
            new = region.names.fresh("part")
            start = f"{nothing}, use_acc=False" if not part else f"{part}, use_acc={never}"
            region.line(f"{new} = warpgroup_mma({left[i]}, {right[j]}, {start}, is_async=True)")
            if number == 0:
                combined = {w: scales.combined(*w) for w in waves}
                scales.ahead(k)
            region.line(f"{new} = warpgroup_mma_wait(0, deps=[{new}])")
            if number == len(waves) - 1:
                region.line(f"mbarrier.arrive(empty.index({stage}), count=1)")
            region.line(f"{sums[i, j]} = {scales.added(new, i, j, combined[i, j], sums[i, j])}")
            part = new
        scales.ahead_columns()

    def _accumulate(
        self, region: Region, waves: Sequence[tuple[int, int]], sums: dict[tuple[int, int], str],
        left: Sequence[str], right: Sequence[str], stage: str,
    ) -> None:  # fmt: skip
        """All products of a step at once, on top of the sums so far."""
        for i, j in waves:
            region.line(f"{sums[i, j]} = warpgroup_mma({left[i]}, {right[j]}, {sums[i, j]}, is_async=True)")
        names = ", ".join(sums[w] for w in waves)
        region.line(f"{names} = warpgroup_mma_wait(0, deps=[{names}])")
        region.line(f"mbarrier.arrive(empty.index({stage}), count=1)")

    # -- what becomes of the sums --------------------------------------------------------------------------------------

    def _finish(self) -> str:
        kernel, p = self.kernel, self.product
        region = self.region(["acc", "m", "n", *self.finish_parameters()])
        region.sizes.grid(p.m.name, "m")
        region.sizes.grid(p.n.name, "n")
        block = kernel.finish.block
        region.name(block.args[0], "acc")
        places = _Places(region, self.tall, p.columns, self.row)
        for argument, i in zip(block.args[1:], kernel.tiles.finish_uses, strict=True):
            self._fetch(region, argument, i, places)
        values: list[SSAValue] = []
        for op in block.ops:
            if isinstance(op, YieldOp):
                values = list(op.args)
            elif isinstance(op, TransposeOp):
                region.alias(op.out, op.args[0])  # which was loaded as columns
            else:
                _ops.write(region, op)
        for i, value in enumerate(values):
            self._store(region, i, value, places)
        text = region.text()
        self.needed = [name for name in (*self.moving, *self.finish_parameters()) if re.search(rf"\b{name}\b", text)]
        layout = f"    {self.finish_layout}\n" if "LAYOUT" in text else ""
        given = head(f"{self.name}_finish", ["acc", "m", "n", *self.needed])
        return f'@gluon.jit\n{given}\n    """What becomes of the sums of one tile."""\n{layout}{text}'

    def _fetch(self, region: GluonRegion, argument: BlockArgument, i: int, places: _Places) -> None:
        """Load a window of another operand. Outside the tensor nothing is read, and what stands there goes nowhere."""
        window, name = self.kernel.tiles.inputs[i], self.operands[i]
        assert window is not None, "windows were checked"
        turned, t = argument in self.product.turned, tensor_type(self.kernel.args[i].type)
        offsets: list[str] = []
        masks: list[str] = []
        for axis, block in enumerate(window.block):
            along = 1 - axis if turned or t.rank == 1 else axis
            if block == 1:
                start = region.size(window.index[axis], 3)
                offsets += [f"{start} * {self.strides[i][axis]}"] if start != "0" else []
                continue
            place = places[along]
            offsets.append(
                f"{place}.to(gl.int64) * {self.strides[i][axis]}"
                if along == 0
                else f"{place} * {self.strides[i][axis]}"
            )
            masks.append(f"({place} < {region.size(t.shape[axis])})")
        pointers = " + ".join([self.start_of(i), *offsets])
        zero = "0.0" if "float" in region.triton_dtype(t) else "0"
        mask = f", mask={' & '.join(masks)}, other={zero}" if masks else ""
        region.line(f"{region.bind(argument, f'{name}_tile')} = gl.load({pointers}{mask})")

    def _store(self, region: GluonRegion, i: int, value: SSAValue, places: _Places) -> None:
        t, p = tensor_type(self.kernel.outs[i].type), self.product
        name, buffer = self.results[i], f"{self.results[i]}_tile"
        if self.boxed[i]:
            region.line("store_wait(0)")
            region.line(f"{buffer}.store({region[value]})")
            region.line("fence_async_shared()")
            region.line(f"async_store({name}, [m * {ROWS}, n * {p.columns}], {buffer})")
            return
        height, width = (region.size(d, 2) for d in t.shape)
        single = self.kernel.tiles.outputs[i].block[1] == 1
        rows, column = places[0], "n" if single else places[1]
        place = f"{rows}.to(gl.int64) * {width} + {column}"
        if self.turned[i]:
            place = f"{rows} + tl.cast({column}, tl.int64) * {region.size(turned_stride(t.shape[0]), 3)}"
        inside = f"(n < {width})" if single else f"({column} < {width})"
        text = f"gl.convert_layout({region[value]}, LAYOUT)" if single else region[value]
        region.line(f"gl.store({name} + {place}, {text}, mask=({rows} < {height}) & {inside})")

    # -- the start -----------------------------------------------------------------------------------------------------

    def start(self) -> str:
        kernel, p, s = self.kernel, self.product, self.shape
        rings, second = self.rings()
        region = self.region([*rings, second, "full", "empty"])
        a, b = self.operands[p.a], self.operands[p.b]
        shape = f"[{s.stages}, {ROWS * s.waves_m}, {p.depth}]"
        for ring in rings:
            region.line(f"{ring} = gl.allocate_shared_memory({a}.dtype, {shape}, {a}.layout)")
        slots = s.stages * s.waves_n
        box = ", ".join(map(str, self.second_box()))
        region.line(f"{second} = gl.allocate_shared_memory({b}.dtype, [{slots}, {box}], {b}.layout)")
        buffers: dict[int, list[str]] = {}
        for i, boxed in enumerate(self.boxed):
            if boxed:
                out = self.results[i]
                buffers[i] = [region.names.fresh(f"{out}_tile{g}") for g in range(s.groups)]
                for name in buffers[i]:
                    region.line(f"{name} = gl.allocate_shared_memory({out}.dtype, [{ROWS}, {p.columns}], {out}.layout)")
        for name in ("full", "empty"):
            region.line(f"{name} = gl.allocate_shared_memory(gl.int64, [{s.stages}, 1], mbarrier.MBarrierLayout())")
        i = region.names.fresh("i")
        region.line(f"for {i} in gl.static_range({s.stages}):")
        region.line(f"    mbarrier.init(full.index({i}), count=1)")
        region.line(f"    mbarrier.init(empty.index({i}), count={s.groups})")
        region.line("fence_async_shared()")
        pointed = [self.operands[i] for i in self.pointed]
        tail = [*self.sizes(), *self.all_strides()]
        region.line("gl.warp_specialize(")
        region.line("    [")
        for g, ring in enumerate(rings):
            mine = [
                ring,
                second,
                "full",
                "empty",
                *pointed,
                *self.results,
                *(names[g] for names in buffers.values()),
                *tail,
            ]
            region.line(f"        ({self.name}_math, ({g}, {', '.join(mine)})),")
        region.line(f"        ({self.name}_load, ({', '.join(self.load_parameters())})),")
        registers = [str(MATH_REGISTERS.get(s.groups, 240))] * (s.groups - 1) + [str(LOADING_REGISTERS)]
        region.line(
            f"    ],\n        [{', '.join(['4'] * (s.groups - 1) + ['1'])}],\n        [{', '.join(registers)}],"
        )
        region.line(")")
        given = [*self.operands, *self.results, *tail]
        doc = docstring(kernel.kernel_name, self.whole.args, [o.type for o in kernel.outs])
        return f"@gluon.jit\n{head(self.name, given)}\n{doc}{region.text()}"
