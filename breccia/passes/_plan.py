"""Decides how the iteration space of a kernel is cut: which axes the grid walks, in tiles of which size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import Block, SSAValue

from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.attributes import ScheduleAttr
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import GroupedMatmulOp, MatmulOp, PartsOp, ReduceOp
from breccia.ir.tiling import GridDim
from breccia.ir.types import ScaledType, component_types
from breccia.passes._axes import Axis, AxisMap, component_block, rank_of, shape_of
from breccia.passes._windows import Cut, dim_cut, grid_names

DEFAULT_TILE = 128


@dataclass(frozen=True)
class Walk:
    """An axis that the grid walks: the stem of its name, and its tile."""

    axis: Axis
    stem: str
    block: int


def skeleton(kernel: KernelOp) -> str:
    """What kind of loop a kernel is, by what its body holds: `gemm`, `grouped`, `reduce` or `rowwise`."""
    kinds = {type(op) for op in kernel.body.block.ops}
    if MatmulOp in kinds:
        return "gemm"
    if GroupedMatmulOp in kinds:
        return "grouped"
    return "reduce" if any(is_sweep(op) for op in kernel.body.block.ops) else "rowwise"


def is_sweep(op: object) -> bool:
    """True for a reduction of a whole tensor of two or more axes, which is too much for one tile."""
    if not isinstance(op, ReduceOp) or rank_of(op.args[0]) < 2:
        return False
    return len(op.properties["axes"].data) == rank_of(op.args[0])  # type: ignore[attr-defined]


def product_walks(axes: AxisMap, schedule: ScheduleAttr) -> list[Walk]:
    """The axes of a product: batch axes one by one, m and n in tiles; k comes last.

    Groups of warps multiply tiles of a fixed shape, also where an axis is shorter.
    """
    op = axes.matmul
    assert op is not None, "only kernels with a product ask for this"
    out = axes.axes(op.out)
    stems = ["b"] * (len(out) - 2) + ["m", "n"]
    wanted = {"b": 1, "m": schedule.integer("block_m", DEFAULT_TILE), "n": schedule.integer("block_n", DEFAULT_TILE)}
    walks: list[Walk] = []
    for axis, stem in zip(out, stems, strict=True):
        if axis is not None and axis is not axes.contracted:
            _add(walks, axis, stem, wanted[stem], fixed="groups" in schedule.entries)
    return walks


def contraction_walk(axes: AxisMap, schedule: ScheduleAttr) -> Walk | None:
    """How k is walked; None where a program sees all of it at once."""
    k = axes.contracted
    if k is None or k.whole:
        return None
    return Walk(k, "k", k.fit(schedule.integer("block_k", DEFAULT_TILE)))


def rowwise_walks(
    axes: AxisMap, values: Sequence[SSAValue], schedule: ScheduleAttr, *, split: bool = False
) -> list[Walk]:
    """The axes of a rowwise kernel: rows come in tiles.

    A last axis of known size is whole, unless only another one has to be; one of unknown size where it has to be.
    split: last axes of known size come in tiles too, unless they have to be whole.
    """
    roles: dict[Axis, str] = {}
    for value in sorted(values, key=rank_of, reverse=True):
        for i, axis in enumerate(reversed(axes.axes(value))):
            if axis is not None and axis not in roles:
                roles[axis] = "nm"[i] if i < 2 else "b"
    needed = any(axis.whole for axis in roles)
    wanted = {"b": 1, "m": schedule.integer("block_m", DEFAULT_TILE), "n": schedule.integer("block_n", DEFAULT_TILE)}
    walks: list[Walk] = []
    for stem in "bmn":
        for axis in [a for a in reversed(roles) if roles[a] == stem]:
            if stem != "n" or needed or split or not isinstance(axis.size, int):
                _add(walks, axis, stem, wanted[stem])
    return walks


def swept_walks(axes: AxisMap, values: Sequence[SSAValue], schedule: ScheduleAttr) -> list[Walk]:
    """The axes of a kernel that reduces a whole tensor: all are walked."""
    wanted = {"b": 1, "m": schedule.integer("block_m", DEFAULT_TILE), "n": schedule.integer("block_n", DEFAULT_TILE)}
    walks: list[Walk] = []
    for value in sorted(values, key=rank_of, reverse=True):
        r = rank_of(value)
        for i, axis in enumerate(axes.axes(value)):
            if axis is not None:
                stem = "nm"[r - 1 - i] if r - i <= 2 else "b"
                _add(walks, axis, stem, wanted[stem])
    return walks


def _add(walks: list[Walk], axis: Axis, stem: str, block: int, *, fixed: bool = False) -> None:
    if axis.whole or any(w.axis is axis for w in walks):
        return
    if fixed and isinstance(axis.size, int) and axis.size < block and axis.fits(block):
        walks.append(Walk(axis, stem, block))
        return
    block = axis.fit(block)
    if isinstance(axis.size, int) and axis.size <= block:
        axis.whole = True  # one tile covers it: no dimension of the grid is spent on it
        return
    walks.append(Walk(axis, stem, block))


def keep_private(walks: list[Walk], outputs: Sequence[frozenset[Axis]]) -> list[Walk]:
    """Drop axes that some result lacks: two programs would write its elements."""
    shared = [w for w in walks if not all(w.axis in out for out in outputs)]
    for walk in shared:
        walk.axis.whole = True
    return [w for w in walks if w not in shared]


def forbid_diagonals(axes: AxisMap, body: Block) -> None:
    """An axis that stands twice in one value (x + x.T) cannot be walked: only diagonal tiles would be seen."""
    values = [*body.args, *(r for op in body.ops for r in op.results)]
    for value in values:
        found = [a for a in axes.axes(value) if a is not None]
        for axis in found:
            if found.count(axis) > 1:
                axis.whole = True


def output_axes(axes: AxisMap, value: SSAValue) -> frozenset[Axis]:
    """The axes along which a result, or a component of one, has entries of its own."""
    op = value.owner
    if not isinstance(op, PartsOp):
        return frozenset(a for a in axes.axes(value) if a is not None)
    source = op.args[0]
    t = source.type
    assert isinstance(t, ScaledType), "parts takes a scaled tensor apart"
    block = component_block(t, component_types(t)[op.outs.index(value)][0])
    found = [a for a, g in zip(axes.axes(source), block, strict=True) if g is not None]
    return frozenset(a for a in found if a is not None)


def make_cuts(walks: Sequence[Walk], taken: set[str]) -> dict[Axis, Cut]:
    """A grid dimension for each walked axis."""
    stems = [w.stem for w in walks]
    counts = {stem: stems.count(stem) for stem in stems}
    numbers = dict.fromkeys(stems, 0)
    wanted: list[str] = []
    for stem in stems:
        wanted.append(stem if counts[stem] == 1 else f"{stem}{numbers[stem]}")
        numbers[stem] += 1
    return {w.axis: dim_cut(n, w.block) for w, n in zip(walks, grid_names(wanted, taken), strict=True)}


def grid_dim(walk: Walk, cut: Cut, kind: str = "parallel", size: dims.Dim | None = None) -> GridDim:
    """The grid dimension that walks an axis; size: how far, if not to its end."""
    assert isinstance(cut.index, dims.Sym), "a walked axis is indexed by its dimension"
    return GridDim(cut.index.name, dims.ceildiv(walk.axis.size if size is None else size, cut.block), kind)  # type: ignore[arg-type]


def check_rules(kernel: KernelOp, axes: AxisMap, walked: dict[Axis, Cut]) -> None:
    """Raise UnsupportedError where an axis is whole although its blocks want partial sums to be scaled."""
    k = axes.contracted
    if k is not None and k not in walked and any(g != k.size for g in k.within if dims.ceildiv(k.size, g) != 1):
        raise UnsupportedError(
            f"kernel {kernel.kernel_name}: partial sums over k = {dims.show(k.size)} in blocks of {sorted(k.within)} "
            "cannot be scaled where all of k is reduced at once; place those scales at operand"
        )


def symbols_of(kernel: KernelOp) -> set[str]:
    """Names of all sizes that a kernel's types use."""
    body = kernel.body.block
    names: set[str] = set()
    for value in [*body.args, *(r for op in body.ops for r in op.results)]:
        for size in shape_of(value.type):
            names |= dims.symbols(size)
    return names


def logical_results(kernel: KernelOp) -> list[SSAValue]:
    """What a body yields, before scaled tensors are taken apart."""
    yields = KernelOp.terminator(kernel.body).args
    return [v.owner.args[0] if isinstance(v.owner, PartsOp) else v for v in yields]


def planned_blocks(
    kernel: KernelOp, kind: str, entries: Mapping[str, int | str], *, split: bool = False
) -> dict[str, int]:
    """The tile sizes that `tile` will arrive at from these entries of a schedule, by their names there."""
    schedule = ScheduleAttr.of(entries)
    body = kernel.body.block
    swept = [op for op in body.ops if isinstance(op, ReduceOp) and is_sweep(op)]
    axes = AxisMap(body, frozenset(swept))
    if kind in ("gemm", "grouped"):
        walks = product_walks(axes, schedule)
        k = contraction_walk(axes, schedule)
        walks = [*walks, k] if k is not None else walks
    elif kind == "reduce":
        walks = swept_walks(axes, [op.args[0] for op in swept], schedule)
    else:
        walks = rowwise_walks(axes, logical_results(kernel), schedule, split=split)
    return {f"block_{w.stem}": w.block for w in walks if w.stem in ("m", "n", "k")}
