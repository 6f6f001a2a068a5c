"""Grouped products for Hopper in Gluon: programs walk over the tiles of all groups, whose rows a table on the device
says, so that the host waits for nothing.

Each part of a program goes through the groups by itself, and finds the same tiles: a group has as many as its rows
want, counted on from those of the groups before it. The last tile of a group may end early. Then loads reach into the
rows of the next group, or into the next group's matrix, which costs nothing; but what is stored is masked, so that no
row of another group is touched. Rows of no group are set to 0 at the end, by whoever is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from xdsl.ir import Block, SSAValue

from breccia.codegen.lines import tensor_type
from breccia.ir import dims
from breccia.ir.capabilities import Capabilities
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.rewriting import with_location
from breccia.ir.tiling import GridDim, Segment, Tiling, Window
from breccia.ir.types import TensorType, tensor
from breccia.targets.triton._casts import Library
from breccia.targets.triton._gluon import Gluon, GluonRegion, Shape
from breccia.targets.triton._region import Region
from breccia.targets.triton._specialized import ROWS, Product

_LINE_BYTES = 16
"""What a thread stores at once."""
_WARP = 32


@dataclass(frozen=True)
class Groups:
    """A grouped kernel, as what it does for one group.

    whole: the kernel itself. one: that of one group, without an axis of groups, whose rows are all rows;
    it stands in no function. dim: the grid dimension over groups. segment: where a group's rows begin and end. many:
    operands whose first axis is that of groups, which `one` has not. shared: those of them with one matrix for all.
    """

    whole: KernelOp
    one: KernelOp
    dim: GridDim
    segment: Segment
    many: frozenset[int]
    shared: frozenset[int]


def groups_of(kernel: KernelOp) -> Groups | None:
    """A grouped product taken apart; None for other kernels."""
    if not kernel.is_tiled or not kernel.step.blocks:
        return None
    t = kernel.tiles
    windows = [w for w in (*t.inputs, *t.outputs) if w is not None]
    segments = {w.segment for w in windows if w.segment is not None}
    if len(segments) != 1 or any(w.segment is None or w.combine != "add" for w in t.outputs):
        return None
    (segment,) = segments
    named = [d for d in t.grid if d.kind == "parallel" and d.name in dims.symbols(segment.base)]
    if len(named) != 1 or segment.axis != 0:
        return None
    (dim,) = named
    many = frozenset(i for i, w in enumerate(t.inputs) if w is not None and None in w.block)
    if not all(_of_one(w, dim, squeezed=i in many) for i, w in enumerate(t.inputs) if w is not None):
        return None
    if not all(_of_one(w, dim, squeezed=False) for w in t.outputs):
        return None
    shared = frozenset(i for i in many if _first_index(t.inputs[i]) == 0)
    return Groups(kernel, _one(kernel, dim, many), dim, segment, many, shared)


def _first_index(window: Window | None) -> Dim | None:
    return window.index[0] if window is not None else None


def _of_one(window: Window, dim: GridDim, *, squeezed: bool) -> bool:
    """True where a window is one of rows that are kept in their group, or of a group's own matrix."""
    rest = window.index[1:] if squeezed else window.index
    if squeezed and (window.block[0] is not None or window.index[0] not in (0, dims.Sym(dim.name)) or window.segment):
        return False
    return not any(dim.name in dims.symbols(index) for index in rest)


def _one(kernel: KernelOp, dim: GridDim, many: frozenset[int]) -> KernelOp:
    """The kernel of one group, with the same numbers for operands."""
    t = kernel.tiles
    types = [_without_first(a.type) if i in many else a.type for i, a in enumerate(kernel.args)]
    block = Block(arg_types=types)
    for old, new in zip(kernel.args, block.args, strict=True):
        new.name_hint = old.name_hint
    tiling = Tiling(
        tuple(d for d in t.grid if d is not dim),
        tuple(None if w is None else _plain(w, squeezed=i in many) for i, w in enumerate(t.inputs)),
        tuple(_plain(w, squeezed=False) for w in t.outputs),
        t.step_uses,
        t.finish_uses,
    )
    regions = {name: getattr(kernel, name).clone() for name in ("init", "step", "finish")}
    types_out = [o.type for o in kernel.outs]
    one = KernelOp.make(
        kernel.kernel_name, list(block.args), types_out, tiling=tiling, schedule=kernel.schedule, **regions
    )
    for old, new in zip(kernel.outs, one.outs, strict=True):
        new.name_hint = old.name_hint
    return with_location(one, kernel)


def _without_first(type_: object) -> TensorType:
    assert isinstance(type_, TensorType), "operands of tiled kernels are components"
    return tensor(type_.shape[1:], type_.dtype)


def _plain(window: Window, *, squeezed: bool) -> Window:
    window = replace(window, segment=None, combine=None)
    return replace(window, block=window.block[1:], index=window.index[1:]) if squeezed else window


class Grouped(Gluon):
    """Writes the kernel of a grouped product: as for one group, and where each of them begins.

    Invariant: `begin` and `end` are a group's first row and the one after its last, and `e` is its number, wherever
    tiles are worked on.
    """

    loops = 2
    moving = ("begin", "end", "e")

    def __init__(
        self, groups: Groups, product: Product, shape: Shape, name: str, library: Library, capabilities: Capabilities
    ) -> None:
        self.groups = groups
        super().__init__(groups.one, product, shape, name, library, capabilities)
        self.outer = {i: self.strides[i].pop(0) for i in groups.many if i in self.strides}
        """The distance of one group's matrix from the next one's."""

    @property
    def whole(self) -> KernelOp:
        return self.groups.whole

    def all_strides(self) -> list[str]:
        return [s for i in self.pointed for s in (*([self.outer[i]] if i in self.outer else []), *self.strides[i])]

    def tiles(self) -> Dim:
        return dims.mul(super().tiles(), self.groups.dim.extent)

    def stored_boxed(self, i: int) -> bool:  # noqa: ARG002 - a box would reach into the next group
        return False

    def load_parameters(self) -> list[str]:
        tables = sorted({d.operand for d in self._bounds() if isinstance(d, dims.Lookup)})
        return [*super().load_parameters(), *(n for i in tables for n in (self.operands[i], *self.strides[i]))]

    def _bounds(self) -> list[Dim]:
        return [d for bound in (self.groups.segment.base, self.groups.segment.limit) for d in dims.walk(bound)]

    def region(self, extra: Sequence[str] = ()) -> GluonRegion:
        region = super().region([*extra, *self.moving])
        region.table = self._entry
        return region

    def _entry(self, operand: int, index: str) -> str:
        """An entry of a table. Rows are counted in 32 bits, as boxes are placed."""
        place = f"({index})" if " " in index else index
        entry = f"gl.load({self.operands[operand]} + {place} * {self.strides[operand][0]})"
        return f"{entry}.to(gl.int32)" if str(tensor_type(self.kernel.args[operand].type).dtype) == "i64" else entry

    # -- tiles ---------------------------------------------------------------------------------------------------------

    def _walk(self, region: Region) -> tuple[str, str]:
        """Write the loops over groups and over the program's tiles of each; names of the place of a tile in its group.

        Tiles are dealt to programs in turn, as if all groups were one.
        """
        g, p, s = self.groups, self.product, self.shape
        fresh = region.names.fresh
        before, number, tile = fresh("before"), fresh("number"), fresh("tile")
        m_tiles, n_tiles, after = fresh("m_tiles"), fresh("n_tiles"), fresh("after")
        region.sizes.grid(g.dim.name, "e")
        rows = tensor_type(self.kernel.args[p.a].type).shape[0]
        region.line(f"{after} = 0")
        region.line(f"{n_tiles} = {region.size(dims.ceildiv(p.n.extent, s.waves_n))}")
        region.line(f"for e in range({region.size(g.dim.extent)}):")
        region.indent(1)
        region.line(f"begin = {region.size(g.segment.base)}")
        region.line(f"end = min({region.size(g.segment.limit)}, {region.size(rows)})")
        region.line(f"{m_tiles} = (end - begin + {ROWS * s.rows - 1}) // {ROWS * s.rows}")
        self._deal(region, (before, after, number), f"{m_tiles} * {n_tiles}", "gl.program_id(0)", "gl.num_programs(0)")
        region.line(f"{tile} = {number} - {before}")
        return self.rastered(region, tile, m_tiles, n_tiles)

    @staticmethod
    def _deal(region: Region, names: tuple[str, str, str], count: str, mine: str, parts: str) -> None:
        """Write the loop over the numbers of a group's `count` tiles that are dealt to `mine` of `parts`.

        names: how many tiles come before the group, how many until its end, which is carried from group to group, and a
        tile's number among all. The body has to use the first: Triton 3.6 takes what only bounds of inner loops depend
        on for dead, and every group's tiles would go to the same programs.
        """
        before, after, number = names
        region.line(f"{before} = {after} + 0")
        region.line(f"{after} += {count}")
        first = f"{before} + ({mine} + {parts} - {before} % {parts}) % {parts}"
        region.line(f"for {number} in range({first}, {after}, {parts}):")
        region.indent(1)

    def row(self, place: str) -> str:
        return f"begin + {place}"

    def column(self, place: str) -> str:
        return f"e * {self._columns()} + {place}"

    def _columns(self) -> str:
        columns = tensor_type(self.kernel.args[self.product.b].type).shape[0]
        assert isinstance(columns, int), "products of grouped kernels have columns of known number"
        return str(columns)

    def start_of(self, operand: int) -> str:
        name = self.operands[operand]
        each = operand in self.outer and operand not in self.groups.shared
        return f"{name} + e * {self.outer[operand]}" if each else name

    # -- results -------------------------------------------------------------------------------------------------------

    def _store(self, region: GluonRegion, i: int, value: SSAValue, places: object) -> None:  # noqa: ARG002
        place, mask = self._stored(region, i, "m", "n")
        region.line(f"gl.store({place}, gl.convert_layout({region[value]}, STORED), mask={mask})")

    def _stored(self, region: Region, i: int, m: str, n: str) -> tuple[str, str]:
        """Write where a tile of a result goes, in whole lines of memory; pointers, and which of them may be used."""
        t, columns = tensor_type(self.kernel.outs[i].type), self.product.columns
        assert t.format is not None, "results of products are floats"
        several = _LINE_BYTES * 8 // t.format.bits
        across = min(columns // several, _WARP)
        fresh = region.names.fresh
        rows, line = fresh("stored_rows"), fresh("stored_columns")
        layout = f"[1, {several}], [{_WARP // across}, {across}], [4, 1], [1, 0]"
        region.line(f"STORED: gl.constexpr = gl.BlockedLayout({layout})")
        along = [f"gl.arange(0, {size}, gl.SliceLayout({1 - a}, STORED))" for a, size in enumerate((ROWS, columns))]
        region.line(f"{rows} = {self.row(f'{m} * {ROWS}')} + {along[0]}[:, None]")
        region.line(f"{line} = {n} * {columns} + {along[1]}[None, :]")
        width = region.size(t.shape[1], 2)
        place = f"{self.results[i]} + {rows}.to(gl.int64) * {width} + {line}"
        return place, f"({rows} < end) & ({line} < {width})"

    def after(self, region: Region) -> None:
        """Write 0 to rows between groups, before the first and after the last; each group of warps its share."""
        g, p = self.groups, self.product
        e, groups = dims.Sym(g.dim.name), g.dim.extent
        following = dims.substitute(g.segment.base, {g.dim.name: dims.add(e, 1)})
        assert isinstance(groups, int), "the number of groups is known"
        rows = region.size(tensor_type(self.kernel.args[p.a].type).shape[0])
        fresh = region.names.fresh
        parts, before, after = fresh("parts"), fresh("before"), fresh("cleared")
        number, tile = fresh("number"), fresh("tile")
        m_tiles, n_tiles = fresh("m_tiles"), fresh("n_tiles")
        region.line(f"{parts} = gl.num_programs(0) * {self.shape.groups}")
        region.line(f"{after} = 0")
        region.line(f"{n_tiles} = {region.size(p.n.extent)}")
        step = f", {groups}" if following == g.segment.limit else ""  # groups follow one another without a gap
        region.line(f"for e in range(-1, {groups}{step}):")
        region.indent(1)
        region.line("begin = 0")
        region.line(f"end = {rows} + 0")
        region.line("if e >= 0:")
        region.line(f"    begin = {region.size(g.segment.limit)}")
        region.line(f"if e < {groups - 1}:")
        region.line(f"    end = min({region.size(following)}, {rows})")
        region.line(f"{m_tiles} = (end - begin + {ROWS - 1}) // {ROWS}")
        mine = f"gl.program_id(0) * {self.shape.groups} + group"
        self._deal(region, (before, after, number), f"{m_tiles} * {n_tiles}", mine, parts)
        region.line(f"{tile} = {number} - {before}")
        for i, out in enumerate(self.kernel.outs):
            place, mask = self._stored(region, i, f"({tile} // {n_tiles})", f"({tile} % {n_tiles})")
            dtype = region.triton_dtype(tensor_type(out.type))
            region.line(f"gl.store({place}, gl.zeros(({ROWS}, {p.columns}), gl.{dtype}, STORED), mask={mask})")
        region.indent(-2)
