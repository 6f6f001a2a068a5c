"""Groups of rows on TPU: windows begin where a group begins, which no block may.

Tiles of rows are aligned instead, and each goes through the kernel once for every group that has rows in it: the grid
walks a list of (group, tile), made at the call, in the order of tiles. What a tile holds of other groups is computed
and not stored. Rows of no group become 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from breccia.codegen.lines import tensor_type
from breccia.codegen.names import Names
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.tiling import Segment
from breccia.ir.types import DimsAttr
from breccia.targets.pallas._region import Region


@dataclass(frozen=True)
class Groups:
    """How the groups of a kernel stand in its text.

    Invariant: `group` and `row` are dimensions of the tiled kernel that the list of work replaces; `references` are the
    parameters that hold the tables made by `lines`, in the order of `tables`.
    """

    group: str
    row: str
    extent: int
    rows: Dim
    block: int
    segment: Segment
    work: str
    names: tuple[str, str, str, str]

    @property
    def dims(self) -> set[str]:
        return {self.group, self.row}

    @property
    def tables(self) -> list[str]:
        """Groups and tiles of the list, and where groups begin and end."""
        return list(self.names)

    @property
    def tiles(self) -> str:
        return self.names[1]

    @property
    def references(self) -> list[str]:
        return [f"{name}_ref" for name in self.names]

    @property
    def spelled(self) -> dict[str, str]:
        """The dimensions that are looked up in the list."""
        groups, tiles, _, _ = self.references
        return {self.group: f"{groups}[{self.work}]", self.row: f"{tiles}[{self.work}]"}

    def lines(self, region: Region, operands: Mapping[str, str]) -> list[str]:
        """What makes the tables. operands: those that the kernel looks into, by their references."""
        _, _, begin, end = self.names
        each = region.names.fresh(self.group)

        def text(dim: Dim) -> str:
            region.sizes.grid(self.group, each)
            found = region.size(dim)
            for reference, operand in operands.items():
                found = found.replace(f"{reference}[", f"{operand}[")
            region.sizes.grid(self.group, self.spelled[self.group])
            return found

        return [
            f"{each} = jnp.arange({self.extent})",
            f"{begin}, {end} = {text(self.segment.base)}, {text(self.segment.limit)}",
            f"{self.names[0]}, {self.names[1]} = rt.work_list({begin}, {end}, {region.size(self.rows)}, {self.block})",
        ]

    def store(self, region: Region, ref: str, text: str, axis: int) -> None:
        """Write a tile of the result with the rows of this program's group from `text`; the others stay, or are 0."""
        groups, tiles, begin, end = self.references
        group, start, mine, old = (region.names.fresh(n) for n in ("group", "start", "mine", "old"))
        region.line(f"{group}, {start} = {groups}[{self.work}], {tiles}[{self.work}] * {self.block}")
        region.line(f"{mine} = tiles.inside({text}, {axis}, {begin}[{group}] - {start}, {end}[{group}] - {start})")
        first = f"({self.work} == 0) | ({tiles}[{self.work}] != {tiles}[jnp.maximum({self.work} - 1, 0)])"
        region.line(f"{old} = jnp.where({first}, 0, {ref}[...])")
        region.line(f"{ref}[...] = jnp.where({mine}, {text}, {old})")


def groups_of(kernel: KernelOp, names: Names) -> Groups | None:
    """The groups of a kernel, None where it has none; UnsupportedError for what aligned tiles cannot say."""
    t = kernel.tiles
    pairs = zip((*kernel.args, *kernel.outs), (*t.inputs, *t.outputs), strict=True)
    found = [(v, w, w.segment) for v, w in pairs if w is not None and w.segment is not None]
    if not found:
        return None
    kinds = {(s.base, s.limit, w.block[s.axis], w.index[s.axis]) for _, w, s in found}
    value, window, segment = found[-1]
    block, row = window.block[segment.axis], window.index[segment.axis]
    group = dims.symbols(segment.base) & {d.name for d in t.grid}
    extents = {d.name: d.extent for d in t.grid}
    simple = len(kinds) == 1 and isinstance(row, dims.Sym) and isinstance(block, int) and len(group) == 1
    name = next(iter(group), "")
    if not simple or not isinstance(extents.get(name), int) or _looks_at_rows(kernel, {name, row.name}):  # type: ignore[union-attr]
        raise UnsupportedError(
            f"pallas: kernel {kernel.kernel_name} looks at places inside groups of rows, which on TPU lie in tiles "
            "with rows of other groups; quantize and reduce along rows before or after the grouped product"
        )
    assert isinstance(row, dims.Sym) and isinstance(block, int), "checked above"  # noqa: PT018
    fresh = ("groups", "row_tiles", "begin", "end")
    texts = tuple(names.fresh(n) for n in fresh)
    for n in texts:
        names.fresh(f"{n}_ref")
    rows = tensor_type(value.type).shape[segment.axis]
    return Groups(name, row.name, int(extents[name]), rows, block, segment, names.fresh("work"), texts)  # type: ignore[arg-type]


def _looks_at_rows(kernel: KernelOp, hidden: set[str]) -> bool:
    """True where an op of a region asks where its tile lies in its group."""
    for _, region in kernel.named_regions():
        for op in region.block.ops:
            for attribute in op.properties.values():
                if isinstance(attribute, DimsAttr) and any(dims.symbols(d) & hidden for d in attribute.data):
                    return True
    return False
