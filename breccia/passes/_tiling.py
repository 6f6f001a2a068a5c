"""Turns the body of one kernel into its tiled form, by skeleton: product, grouped product, whole reduction, rowwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from xdsl.ir import BlockArgument, Operation, Region, SSAValue

from breccia.ir.attributes import ScheduleAttr
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import PartsOp, ReduceOp, ReshapeOp, YieldOp
from breccia.ir.rewriting import replace_op, with_location
from breccia.ir.tiling import Combine, GridDim, Tiling, Window
from breccia.ir.types import DimsAttr, TensorType, component_types, is_float
from breccia.passes._axes import Axis, AxisMap, Matmul
from breccia.passes._grouped import Groups, group_walks, split_epilogue
from breccia.passes._plan import (
    Walk,
    check_rules,
    contraction_walk,
    forbid_diagonals,
    grid_dim,
    is_sweep,
    keep_private,
    logical_results,
    make_cuts,
    output_axes,
    product_walks,
    rowwise_walks,
    skeleton,
    swept_walks,
    symbols_of,
)
from breccia.passes._product import epilogue, product
from breccia.passes._region import Operands, RegionBuilder
from breccia.passes._sharing import cone, separate_sides
from breccia.passes._windows import Cuts

EMPTY_SCHEDULE = ScheduleAttr(())
START = {"sum": 0.0, "amax": 0.0, "max": float("-inf"), "min": float("inf")}
"""What a reduction starts from."""
FOLD = {"sum": "add", "amax": "max", "max": "max", "min": "min"}
"""How partial results of a reduction are joined."""


def tile_kernel(kernel: KernelOp) -> None:
    """Replace `kernel` by its tiled form; a grouped product with an epilogue becomes two kernels."""
    kind = skeleton(kernel)
    if kind == "grouped":
        first, rest = split_epilogue(kernel)
        _Tiler(first).grouped()
        if rest is not None:
            tile_kernel(rest)
        return
    tiler = _Tiler(kernel)
    {"gemm": tiler.gemm, "reduce": tiler.reduce, "rowwise": tiler.rowwise}[kind]()


@dataclass(frozen=True)
class _Loop:
    """What runs before and at each point of the reduction dimensions."""

    init: Region
    step: Region
    uses: tuple[int, ...]


@dataclass(frozen=True)
class _Sum:
    """A product whose partial sums are carried."""

    op: Matmul
    shape: tuple[Dim, ...]

    def start(self, init: RegionBuilder) -> SSAValue:
        with init.spelling(self.op):
            return init.full(0.0, self.shape, self.op.out.type.dtype, "acc")  # type: ignore[attr-defined]

    def join(self, step: RegionBuilder, old: SSAValue) -> SSAValue:
        with step.spelling(self.op):
            return step.binary("add", old, product(step, self.op), "r")


@dataclass(frozen=True)
class _Fold:
    """A reduction of a whole tensor whose partial result is carried."""

    op: ReduceOp

    def start(self, init: RegionBuilder) -> SSAValue:
        t = self.op.out.type
        assert isinstance(t, TensorType), "reductions are of plain tensors"
        with init.spelling(self.op):
            return init.full(START[self.op.fn.data], t.shape, t.dtype, "acc")  # type: ignore[attr-defined]

    def join(self, step: RegionBuilder, old: SSAValue) -> SSAValue:
        with step.spelling(self.op):
            return step.binary(FOLD[self.op.fn.data], old, step.tile(self.op.out), "r")  # type: ignore[attr-defined]


def _is_result(op: Operation) -> bool:
    """True where a region yields the result of `op` and nothing else reads it."""
    return all(isinstance(use.operation, YieldOp) for use in op.results[0].uses)


def _independent(swept: Sequence[ReduceOp]) -> bool:
    """True where no reduction needs another one's result, and all are of floats."""
    if not all(is_float(op.out.type.dtype) for op in swept):  # type: ignore[attr-defined]
        return False
    return not any(other in cone(op.args[0]) for op in swept for other in swept)


@dataclass
class _Tiler:
    """State while one kernel is tiled."""

    kernel: KernelOp
    operands: Operands = field(default_factory=Operands)
    sources: dict[BlockArgument, SSAValue] = field(default_factory=dict[BlockArgument, SSAValue])

    def __post_init__(self) -> None:
        self.sources = separate_sides(self.kernel)
        self.body = self.kernel.body.block
        self.yielded = list(KernelOp.terminator(self.kernel.body).args)
        self.schedule = self.kernel.schedule or EMPTY_SCHEDULE
        self.taken = symbols_of(self.kernel)

    # ---- skeletons -------------------------------------------------------------------------------------------------

    def rowwise(self) -> None:
        axes = AxisMap(self.body)
        forbid_diagonals(axes, self.body)
        split = "block_n" in self.schedule.entries
        walks = rowwise_walks(axes, logical_results(self.kernel), self.schedule, split=split)
        walks = keep_private(walks, self._output_axes(axes))
        cuts = make_cuts(walks, self.taken)
        finish = self._builder(Cuts(axes, cuts))
        self._replace(Cuts(axes, cuts), [grid_dim(w, cuts[w.axis]) for w in walks], finish)

    def gemm(self) -> None:
        axes = AxisMap(self.body)
        forbid_diagonals(axes, self.body)
        walks = keep_private(product_walks(axes, self.schedule), self._output_axes(axes))
        self._product(axes, walks, None)

    def grouped(self) -> None:
        axes = AxisMap(self.body)
        groups = group_walks(axes, self.operands, self.sources, self.schedule, self.taken)
        self._product(axes, groups.walks, groups)

    def _product(self, axes: AxisMap, walks: list[Walk], groups: Groups | None) -> None:
        k = contraction_walk(axes, self.schedule)
        taken = self.taken | ({groups.dim.name} if groups else set())
        made = make_cuts([*walks, k] if k is not None else walks, taken)
        plan = made if groups is None else groups.bound(made)
        check_rules(self.kernel, axes, made)
        cuts = Cuts(axes, plan, groups.squeezed if groups else frozenset())
        placed = groups.grid_dim if groups else grid_dim
        grid = [*([groups.dim] if groups else []), *(placed(w, made[w.axis]) for w in walks)]
        op = axes.matmul
        assert op is not None, "this kernel has a product"
        finish, loop = self._builder(cuts), None
        if k is None:
            inner = product(finish, op)
        else:
            grid.append(grid_dim(k, made[k.axis], "reduction"))
            loop, (inner,) = self._accumulate(cuts, finish, [_Sum(op, cuts.tile_shape(op.out))])
        finish.bind(op.out, epilogue(finish, op, inner))
        combine: Combine | None = "add" if groups else None
        combines: list[Combine | None] = [combine for _ in self.yielded]
        self._replace(cuts, grid, finish, loop, combines)

    def reduce(self) -> None:
        swept = [op for op in self.body.ops if isinstance(op, ReduceOp) and is_sweep(op)]
        axes = AxisMap(self.body, frozenset(swept))
        forbid_diagonals(axes, self.body)
        walked = {a for op in swept for a in axes.axes(op.args[0])}
        if all(_is_result(op) and FOLD[op.fn.data] == "max" for op in swept):  # type: ignore[attr-defined]
            self._combine(axes, swept)
        elif _independent(swept) and all(walked.isdisjoint(out) for out in self._output_axes(axes)):
            self._sweep(axes, swept)
        else:
            self._whole()

    def _combine(self, axes: AxisMap, swept: Sequence[ReduceOp]) -> None:
        """Programs in parallel, each with the largest of its tile."""
        combined = [v.owner in swept for v in self.yielded]
        private = [o for o, c in zip(self._output_axes(axes), combined, strict=True) if not c]
        walks = keep_private(swept_walks(axes, [op.args[0] for op in swept], self.schedule), private)
        cuts = make_cuts(walks, self.taken)
        finish = self._builder(Cuts(axes, cuts))
        how: list[Combine | None] = ["max" if c else None for c in combined]
        self._replace(Cuts(axes, cuts), [grid_dim(w, cuts[w.axis]) for w in walks], finish, None, how)

    def _sweep(self, axes: AxisMap, swept: Sequence[ReduceOp]) -> None:
        """One program that walks the tensor."""
        walks = swept_walks(axes, [op.args[0] for op in swept], self.schedule)
        made = make_cuts(walks, self.taken)
        cuts = Cuts(axes, made)
        finish = self._builder(cuts)
        loop, arrived = self._accumulate(cuts, finish, [_Fold(op) for op in swept])
        for op, value in zip(swept, arrived, strict=True):
            finish.bind(op.out, value)
        self._replace(cuts, [grid_dim(w, made[w.axis], "reduction") for w in walks], finish, loop)

    def _whole(self) -> None:
        """One program that sees everything: always right, and meant for what is small."""
        cuts = Cuts(AxisMap(self.body), {})
        self._replace(cuts, [], self._builder(cuts))

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _builder(self, cuts: Cuts) -> RegionBuilder:
        return RegionBuilder(cuts, self.operands, self.sources)

    def _output_axes(self, axes: AxisMap) -> list[frozenset[Axis]]:
        return [output_axes(axes, v) for v in self.yielded]

    def _accumulate(
        self, cuts: Cuts, finish: RegionBuilder, carried: Sequence[_Sum | _Fold]
    ) -> tuple[_Loop, list[BlockArgument]]:
        """`init` and `step` for carried values, and how they arrive in `finish`."""
        init, step = self._builder(cuts), self._builder(cuts)
        starts = [c.start(init) for c in carried]
        olds = [step.carry(s.type, "acc") for s in starts]
        news = [c.join(step, old) for c, old in zip(carried, olds, strict=True)]
        loop = _Loop(init.finish(starts, self.kernel), step.finish(news, self.kernel), tuple(step.uses))
        return loop, [finish.carry(s.type, "acc") for s in starts]

    def _replace(
        self,
        cuts: Cuts,
        grid: Sequence[GridDim],
        finish: RegionBuilder,
        loop: _Loop | None = None,
        combines: Sequence[Combine | None] = (),
    ) -> None:
        finished = finish.finish([finish.tile(v) for v in self.yielded], self.kernel)
        combines = combines or [None] * len(self.yielded)
        outputs = [replace(self._out_window(cuts, v), combine=c) for v, c in zip(self.yielded, combines, strict=True)]
        tiling = Tiling(
            tuple(grid),
            tuple(self.operands.windows),
            tuple(outputs),
            loop.uses if loop else (),
            tuple(finish.uses),
        )
        new = KernelOp.make(
            self.kernel.kernel_name,
            self._distinct_operands(),
            [o.type for o in self.kernel.outs],
            tiling=tiling,
            init=loop.init if loop else None,
            step=loop.step if loop else None,
            finish=finished,
            schedule=self.kernel.schedule,
        )
        new.attributes.update(self.kernel.attributes)
        replace_op(self.kernel, new)

    def _out_window(self, cuts: Cuts, value: SSAValue) -> Window:
        op = value.owner
        if isinstance(op, PartsOp):
            name = component_types(op.args[0].type)[op.outs.index(value)][0]  # type: ignore[arg-type]
            return cuts.component_window(op.args[0], name)
        return cuts.window(value)

    def _distinct_operands(self) -> list[SSAValue]:
        """The operands; one that is seen through two windows stands again as a view of itself: names are unique."""
        values: list[SSAValue] = []
        for value in self.operands.values:
            if value in values:
                assert isinstance(value.type, TensorType), "a tiled kernel takes plain components"
                view = with_location(ReshapeOp.make(value, shape=DimsAttr(value.type.shape)), self.kernel)
                view.out.name_hint = value.name_hint
                block = self.kernel.parent_block()
                assert block is not None, "the kernel stands in a function"
                block.insert_op_before(view, self.kernel)
                value = view.out
            values.append(value)
        return values
