"""Grouped products: one dimension of the grid walks the groups, whose rows are looked up in the table of offsets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Block, BlockArgument, Operation, Region, SSAValue

from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.attributes import ScheduleAttr
from breccia.ir.dims import Lookup, Sym
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import ConvertOp, GroupedMatmulOp, UnaryOp, YieldOp
from breccia.ir.rewriting import erase_dead, insert_before, replace_op, with_location
from breccia.ir.tiling import GridDim
from breccia.ir.types import TensorType
from breccia.passes._axes import Axis, AxisMap, shape_of
from breccia.passes._plan import DEFAULT_TILE, Walk, grid_dim
from breccia.passes._region import Operands
from breccia.passes._sharing import cone
from breccia.passes._windows import Cut, grid_names

ZERO_TO_ZERO = ("neg", "abs", "square", "sqrt", "relu", "silu", "gelu", "gelu_tanh", "tanh", "erf", "sin")
"""Functions that map 0 to 0: rows of no group, which the launcher sets to 0, come out right."""


@dataclass(frozen=True)
class Groups:
    """How groups are walked.

    dim: the grid dimension over groups. walks: rows and columns. room: most rows of a group. bounds: first row and
    limit of a group, by table. squeezed: values that hold all groups, of which a program sees one.
    """

    dim: GridDim
    walks: list[Walk]
    room: dims.Dim
    rows: Axis
    experts: Axis | None
    bounds: tuple[dims.Dim, dims.Dim]
    squeezed: frozenset[SSAValue]

    def grid_dim(self, walk: Walk, cut: Cut) -> GridDim:
        """The grid dimension that walks an axis: rows only as far as a group may have some."""
        return grid_dim(walk, cut) if walk.axis is not self.rows else grid_dim(walk, cut, size=self.room)

    def bound(self, cuts: Mapping[Axis, Cut]) -> dict[Axis, Cut]:
        """The cuts, with rows kept inside their group."""
        out = {**cuts, self.rows: replace(cuts[self.rows], bounds=self.bounds)}
        if self.experts is not None:
            out[self.experts] = Cut(Sym(self.dim.name), 1)
        return out


def group_walks(
    axes: AxisMap,
    operands: Operands,
    sources: Mapping[BlockArgument, SSAValue],
    schedule: ScheduleAttr,
    taken: set[str],
) -> Groups:
    """Plan a kernel whose only op besides what 0 passes through is a grouped matmul."""
    op = axes.matmul
    assert isinstance(op, GroupedMatmulOp), "only grouped kernels ask for this"
    _, w, offsets = op.args
    rows, columns = axes.of(op.out, 0), axes.of(op.out, 1)
    if rows is None:
        raise UnsupportedError(
            "grouped_matmul of a single row: its group is known only at the call; give rows a symbolic size"
        )
    if not isinstance(offsets, BlockArgument):
        raise UnsupportedError(
            "the offsets of a grouped_matmul are looked up by the grid, so they must be a kernel's operand"
        )
    table = operands.index(sources[offsets], None)
    (name,) = grid_names(["e"], taken)
    groups = shape_of(w.type)[0]
    walks = [Walk(rows, "m", rows.fit(schedule.integer("block_m", DEFAULT_TILE)))]
    if columns is not None and not columns.whole:
        block = columns.fit(schedule.integer("block_n", DEFAULT_TILE))
        if columns.size == block:
            columns.whole = True
        else:
            walks.append(Walk(columns, "n", block))
    ops = cone(w)
    squeezed = frozenset({w, *(v for o in ops for v in (*o.operands, *o.results))})
    room, bounds = rows.size, (Lookup(table, Sym(name)), Lookup(table, dims.add(Sym(name), 1)))
    if op.each is not None:
        (room,) = op.data("each")
        start = dims.mul(Sym(name), room)
        bounds = (start, dims.add(start, Lookup(table, Sym(name))))
    return Groups(GridDim(name, groups), walks, room, rows, axes.of(w, 0), bounds, squeezed)


def split_epilogue(kernel: KernelOp) -> tuple[KernelOp, KernelOp | None]:
    """A grouped kernel, and another one with what comes after the product where that would not keep zeros.

    Rows that no group covers are 0 before the epilogue. No program computes them, so an epilogue that turns 0 into
    something else (a bias) or encodes it runs in a kernel that sees every row. What keeps zeros stays with the product
    as far as its result is the narrower for it.
    """
    body = kernel.body.block
    (product,) = [op for op in body.ops if isinstance(op, GroupedMatmulOp)]
    before = cone(product.out)
    after = [op for op in body.ops if op not in before]
    if all(_keeps_zero(op) for op in after):
        return kernel, None
    value = _narrowest(product)
    return _first(kernel, value, cone(value)), kernel


def _narrowest(product: GroupedMatmulOp) -> SSAValue:
    """What a product becomes before anything turns 0 into something else: the last of the values with fewest bits."""
    chain: list[SSAValue] = [product.out]
    while chain[-1].has_one_use():
        op = next(iter(chain[-1].uses)).operation
        if isinstance(op, YieldOp) or not _keeps_zero(op):
            break
        chain.append(op.results[0])
    return min(reversed(chain), key=_bits)


def _bits(value: SSAValue) -> int:
    t = value.type
    return t.format.bits if isinstance(t, TensorType) and t.format is not None else 0


def _keeps_zero(op: Operation) -> bool:
    if isinstance(op, UnaryOp):
        return op.fn.data in ZERO_TO_ZERO  # type: ignore[attr-defined]
    return isinstance(op, ConvertOp | YieldOp)


def _first(kernel: KernelOp, value: SSAValue, before: set[Operation]) -> KernelOp:
    """Move the ops that make a value out of `kernel`, which then reads it."""
    body = kernel.body.block
    needed = [a for a in body.args if any(use.operation in before for use in a.uses)]
    region = Region(Block(arg_types=[a.type for a in needed]))
    mapping: dict[SSAValue, SSAValue] = dict(zip(needed, region.block.args, strict=True))
    for old, new in zip(needed, region.block.args, strict=True):
        new.name_hint = old.name_hint
    for op in [o for o in body.ops if o in before]:
        region.block.add_op(op.clone(mapping))
    made = value.owner
    assert isinstance(made, Operation), "an op makes the value"
    region.block.add_op(with_location(YieldOp.make(mapping[value]), made))
    operands = [kernel.args[body.args.index(a)] for a in needed]
    first = KernelOp.make(kernel.kernel_name, operands, [value.type], body=region, schedule=kernel.schedule)
    first.outs[0].name_hint = value.name_hint
    insert_before(kernel, first)
    _continue(kernel, made, first)
    return first


def _continue(kernel: KernelOp, made: Operation, first: KernelOp) -> None:
    """Let `kernel` take what an op made as an operand."""
    body = kernel.body.block
    arrived = body.insert_arg(made.results[0].type, len(body.args))
    arrived.name_hint = made.results[0].name_hint
    replace_op(made, [], [arrived])
    kernel.operands = [*kernel.args, first.outs[0]]
    erase_dead(body)
    for arg in [a for a in body.args if not a.uses]:
        number = body.args.index(arg)
        body.erase_arg(arg)
        kernel.operands = [o for i, o in enumerate(kernel.args) if i != number]
    kernel.properties["sym_name"] = StringAttr(f"{kernel.kernel_name}_epilogue")
