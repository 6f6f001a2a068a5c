"""Rebuilds a tiled kernel with some dimensions of its grid gone: their windows show whole axes.

Values that fit any window (constants, first accumulators) are kept with axes of size 1 and broadcast where they meet
others; scales that stood for a whole tile are repeated where the axis now holds several of their blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from xdsl.dialects.builtin import IntAttr
from xdsl.ir import Block, Operation, Region, SSAValue

from breccia.ir import dims
from breccia.ir.base import BrecciaOp
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp, tile_type
from breccia.ir.ops import BinaryOp, BroadcastOp, ConcatOp, FullOp, IotaOp, ReduceOp, ReshapeOp, SliceOp, YieldOp
from breccia.ir.rewriting import erase_dead, with_location
from breccia.ir.tile_ops import DotOp, DotScaledOp, EncodeOp, ExpandOp, UnpackOp, UnswizzleOp
from breccia.ir.tiling import Tiling, Window
from breccia.ir.types import DimsAttr, TensorType
from breccia.passes._walked import ELEMENTWISE, RefusedError, Tag, Tags, index_tag, merged, region_tags, shape

NEUTRAL = {"add": 0.0, "max": float("-inf"), "min": float("inf")}
"""What leaves the other operand of a binary function as it is."""


@dataclass(frozen=True)
class Wide:
    """A value of a rebuilt region. elastic: axes on which it stands for any size, and has size 1."""

    value: SSAValue
    elastic: frozenset[int] = frozenset()


class Sizes:
    """Lengths of whole axes, by the rate at which a dimension walked them."""

    def __init__(self, kernel: KernelOp, tags: Mapping[SSAValue, Tags], walked: frozenset[str]) -> None:
        self._known: dict[Tag, Dim] = {}
        self._elements: dict[str, Tag] = {}
        for type_, window in windows(kernel):
            self._learn(type_, window, walked)
        for op in kernel.walk():
            if isinstance(op, UnpackOp) and op.of is not None and tags[op.out][-1] is not None:
                self._known.setdefault(tags[op.out][-1], op.of.data[0])  # type: ignore[attr-defined, arg-type]
        for found in [t for ts in tags.values() for t in ts if t is not None]:
            fastest = self._elements.get(found.dim)
            if fastest is None or found.rate > fastest.rate:
                self._elements[found.dim] = found
        for name, tag in self._elements.items():
            if tag not in self._known:
                self._known[tag] = self._infer(name)

    def _learn(self, type_: TensorType, window: Window, walked: frozenset[str]) -> None:
        for size, block, index in zip(type_.shape, window.block, window.index, strict=True):
            tag = index_tag(block, index, walked)
            if tag is not None:
                self._known.setdefault(tag, size)

    def _infer(self, name: str) -> Dim:
        """The number of elements of an axis that is seen only through packed codes or scales, where sizes tell it."""
        for tag, size in list(self._known.items()):
            inner = size.left if isinstance(size, dims.Op) and size.kind == "mul" else size
            if tag.dim == name and isinstance(inner, dims.Op) and inner.kind == "ceildiv":
                return inner.left
        raise RefusedError(name)

    def __getitem__(self, tag: Tag) -> Dim:
        if tag in self._known:
            return self._known[tag]
        fastest = self._elements[tag.dim]
        by = fastest.rate / tag.rate
        if by.denominator != 1:
            raise RefusedError(tag.dim)
        return dims.ceildiv(self._known[fastest], by.numerator)


def windows(kernel: KernelOp) -> list[tuple[TensorType, Window]]:
    """Type and window of each operand and result that has one."""
    t = kernel.tiles
    pairs = [(a.type, w) for a, w in zip(kernel.args, t.inputs, strict=True) if w is not None]
    pairs += [(o.type, w) for o, w in zip(kernel.outs, t.outputs, strict=True)]
    return [(type_, w) for type_, w in pairs if isinstance(type_, TensorType)]


class Widening:
    """One attempt at widening the dimensions in `walked`; raises RefusedError for one that must stay."""

    def __init__(self, kernel: KernelOp, walked: frozenset[str]) -> None:
        self.kernel = kernel
        self.walked = walked
        self.tags = region_tags(kernel, walked)
        self.sizes = Sizes(kernel, self.tags, walked)
        self.gone: dict[str, Dim] = dict.fromkeys(walked, 0)
        t = kernel.tiles
        self.inputs = [
            None if w is None else self._window(a.type, w) for a, w in zip(kernel.args, t.inputs, strict=True)
        ]
        self.outputs = [self._window(o.type, w) for o, w in zip(kernel.outs, t.outputs, strict=True)]

    def run(self) -> KernelOp:
        """The rebuilt kernel, not yet inserted."""
        kernel, t = self.kernel, self.kernel.tiles
        grid = tuple(d for d in t.grid if d.name not in self.walked)
        folds = bool(kernel.init.blocks) and not any(d.kind == "reduction" for d in grid)
        init = step = None
        step_uses, finish_uses = t.step_uses, t.finish_uses
        if folds:
            finish, finish_uses = self._folded()
        else:
            if kernel.init.blocks:
                init, step = self._loop()
            finish = self._finish()
        tiling = Tiling(grid, tuple(self.inputs), tuple(self.outputs), () if folds else step_uses, finish_uses)
        return KernelOp.make(
            kernel.kernel_name, list(kernel.args), [o.type for o in kernel.outs], tiling=tiling,
            init=init, step=step, finish=finish, schedule=kernel.schedule,
        )  # fmt: skip

    # ---- windows ---------------------------------------------------------------------------------------------------

    def _window(self, type_: Any, window: Window) -> Window:
        blocks: list[Dim | None] = []
        for size, block, index in zip(type_.shape, window.block, window.index, strict=True):
            blocks.append(block if index_tag(block, index, self.walked) is None else size)
        index = tuple(dims.substitute(i, self.gone) for i in window.index)
        return replace(window, block=tuple(blocks), index=index)

    # ---- regions ---------------------------------------------------------------------------------------------------

    def _loop(self) -> tuple[Region, Region]:
        """`init` and `step` of a kernel that keeps reduction dimensions."""
        kernel = self.kernel
        old_step = kernel.step.block
        yields = KernelOp.terminator(kernel.step).args
        init = _Rebuilder(self, Block())
        first = init.walk(kernel.init.block, {})
        starts = [init.stretched(init.of(v), self.axis_sizes(y)) for v, y in zip(first, yields, strict=True)]
        init.end(starts, KernelOp.terminator(kernel.init))
        step = _Rebuilder(self, Block(arg_types=[s.type for s in starts]))
        given = {a: Wide(n) for a, n in zip(old_step.args, step.block.args, strict=False)}
        step.arguments(old_step, len(starts), kernel.tiles.step_uses, given)
        step.walk(old_step, given)
        step.end([step.stretched(step.of(y), self.axis_sizes(y)) for y in yields], KernelOp.terminator(kernel.step))
        return Region(init.block), Region(step.block)

    def axis_sizes(self, value: SSAValue) -> tuple[Dim, ...]:
        """The shape that a value has once its dimensions are widened."""
        return tuple(d if t is None else self.sizes[t] for d, t in zip(shape(value), self.tags[value], strict=True))

    def _finish(self) -> Region:
        kernel = self.kernel
        old = kernel.finish.block
        count = len(old.args) - len(kernel.tiles.finish_uses)
        carried = KernelOp.terminator(kernel.step).args if kernel.step.blocks else ()
        types = [TensorType(DimsAttr(self.axis_sizes(c)), c.type.dtype) for c in carried]  # type: ignore[attr-defined]
        finish = _Rebuilder(self, Block(arg_types=types))
        given = {a: Wide(n) for a, n in zip(old.args, finish.block.args, strict=False)}
        finish.arguments(old, count, kernel.tiles.finish_uses, given)
        finish.walk(old, given)
        return self._ended(finish)

    def _folded(self) -> tuple[Region, tuple[int, ...]]:
        """One region out of `init`, a single `step`, and `finish`."""
        kernel, t = self.kernel, self.kernel.tiles
        out = _Rebuilder(self, Block())
        uses = [*t.step_uses, *(i for i in t.finish_uses if i not in t.step_uses)]
        tiles: dict[int, Wide] = {}
        for i in uses:
            window = self.inputs[i]
            assert window is not None, "regions use operands that have windows"
            arg = out.block.insert_arg(tile_type(kernel.args[i].type, window), len(out.block.args))
            arg.name_hint = kernel.args[i].name_hint
            tiles[i] = Wide(arg)
        starts = [out.of(v) for v in out.walk(kernel.init.block, {})]
        for source, numbers in ((kernel.step.block, t.step_uses), (kernel.finish.block, t.finish_uses)):
            given = dict(zip(source.args, [*starts, *(tiles[i] for i in numbers)], strict=True))
            starts = [out.of(v) for v in out.walk(source, given)]
        return self._ended(out), tuple(uses)

    def _ended(self, finish: _Rebuilder) -> Region:
        terminator = KernelOp.terminator(self.kernel.finish)
        pairs = zip(terminator.args, self.outputs, strict=True)
        values = [finish.stretched(finish.of(value), window.tile) for value, window in pairs]
        finish.end(values, terminator)
        return Region(finish.block)


class _Rebuilder:
    """Rebuilds the ops of one region with whole axes."""

    def __init__(self, widening: Widening, block: Block) -> None:
        self.w = widening
        self.block = block
        self._values: dict[SSAValue, Wide] = {}
        self._like: Operation | None = None

    def of(self, value: SSAValue) -> Wide:
        return self._values[value]

    def add(self, op: BrecciaOp, hint: str | None = None) -> SSAValue:
        if self._like is not None:
            with_location(op, self._like)
        self.block.add_op(op)
        op.outs[0].name_hint = hint
        return op.outs[0]

    def end(self, values: list[SSAValue], like: Operation) -> None:
        """Finish the region, without the constants that turned out to change nothing."""
        self.block.add_op(with_location(YieldOp.make(*values), like))
        erase_dead(self.block)

    def arguments(self, old: Block, carried: int, uses: tuple[int, ...], given: dict[Any, Wide]) -> None:
        """Add an argument for each operand that a region reads, and enter it in `given`."""
        for a, n in zip(old.args, self.block.args, strict=False):
            n.name_hint = a.name_hint
        for arg, i in zip(old.args[carried:], uses, strict=True):
            window = self.w.inputs[i]
            assert window is not None, "regions use operands that have windows"
            new = self.block.insert_arg(tile_type(self.w.kernel.args[i].type, window), len(self.block.args))
            new.name_hint = arg.name_hint
            given[arg] = Wide(new)

    def walk(self, source: Block, given: Mapping[Any, Wide]) -> list[SSAValue]:
        """Rebuild all ops of a region; what it yields, as values of the old kernel."""
        self._values.update(given)
        for op in source.ops:
            if isinstance(op, YieldOp):
                return list(op.args)
            assert isinstance(op, BrecciaOp), "regions hold ops of this dialect alone"
            self._like = op
            self._rebuild(op)
        return []

    # ---- ops -------------------------------------------------------------------------------------------------------

    def _rebuild(self, op: BrecciaOp) -> None:
        args = [self.of(a) for a in op.args]
        if isinstance(op, FullOp):
            self._full(op)
        elif isinstance(op, IotaOp):
            self._iota(op)
        elif isinstance(op, BroadcastOp):
            self._broadcast(op, args[0])
        elif isinstance(op, ELEMENTWISE):
            self._elementwise(op, args)
        else:
            self._plain(op, args)

    def _set(self, op: BrecciaOp, new: BrecciaOp, elastic: frozenset[int] = frozenset()) -> None:
        with_location(new, op)
        self.block.add_op(new)
        for old, out in zip(op.outs, new.outs, strict=True):
            out.name_hint = old.name_hint
            self._values[old] = Wide(out, elastic)

    def _full(self, op: FullOp) -> None:
        sizes = shape(op.out)
        elastic = frozenset(i for i, d in enumerate(sizes) if d != 1)
        ones = DimsAttr(tuple(1 for _ in sizes))
        self._set(op, FullOp.make(**{**op.properties, "shape": ones}), elastic)

    def _iota(self, op: IotaOp) -> None:
        axis: int = op.axis.data  # type: ignore[attr-defined]
        sizes, tag = shape(op.out), self.w.tags[op.out][axis]
        length = sizes[axis] if tag is None else self.w.sizes[tag]
        new_shape = DimsAttr(tuple(length if i == axis else 1 for i in range(len(sizes))))
        start = DimsAttr((dims.substitute(op.start.data[0], self.w.gone),))  # type: ignore[attr-defined]
        elastic = frozenset(i for i, d in enumerate(sizes) if d != 1 and i != axis)
        self._set(op, IotaOp.make(**{**op.properties, "shape": new_shape, "start": start}), elastic)

    def _broadcast(self, op: BroadcastOp, arg: Wide) -> None:
        """Leave axes of size 1, which whoever reads the value broadcasts."""
        old, new = shape(op.args[0]), shape(op.out)
        shift = len(new) - len(old)
        value = arg.value
        if shift:
            value = self.add(ReshapeOp.make(value, shape=DimsAttr((*(1 for _ in range(shift)), *shape(value)))))
        elastic = {i for i, d in enumerate(new) if d != 1 and (i < shift or old[i - shift] == 1)}
        self._values[op.out] = Wide(value, frozenset(elastic | {i + shift for i in arg.elastic}))

    def _elementwise(self, op: BrecciaOp, args: list[Wide]) -> None:
        if isinstance(op, BinaryOp) and self._passes_through(op, args):
            return
        rank = len(shape(op.out))
        tags = merged(op, [self.w.tags[a] for a in op.args])
        values = [self._repeated(a, w, tags, rank) for a, w in zip(op.args, args, strict=True)]
        new = type(op).make(*values, **op.properties)
        elastic = {i + rank - len(shape(a)) for a, w in zip(op.args, args, strict=True) for i in w.elastic}
        fixed = {
            i + rank - len(shape(a))
            for a, w in zip(op.args, args, strict=True)
            for i, d in enumerate(shape(a))
            if d != 1 and i not in w.elastic
        }
        self._set(op, new, frozenset(elastic - fixed))

    def _passes_through(self, op: BinaryOp, args: list[Wide]) -> bool:
        """True where one operand is a constant that changes nothing, as a first accumulator is; the other stands."""
        neutral = NEUTRAL.get(op.fn.data)  # type: ignore[attr-defined]
        for mine, other in ((0, 1), (1, 0)):
            source = args[mine].value.owner
            same = shape(op.args[other]) == shape(op.out) and not args[other].elastic
            if same and args[mine].elastic and isinstance(source, FullOp) and source.value.data == neutral:  # type: ignore[attr-defined]
                self._values[op.out] = args[other]
                return True
        return False

    def _repeated(self, old: SSAValue, wide: Wide, tags: Tags, rank: int) -> SSAValue:
        """`wide`, with axes that moved slower than the result's repeated to its length."""
        value, mine = wide.value, self.w.tags[old]
        for i, tag in enumerate(mine):
            target = tags[i + rank - len(mine)]
            if tag is None or target is None or tag.rate == target.rate:
                continue
            by: Fraction = target.rate / tag.rate
            if by.denominator != 1:
                raise RefusedError(tag.dim)
            value = self.add(
                ExpandOp.make(
                    value, axis=IntAttr(i), by=DimsAttr((by.numerator,)), to=DimsAttr((self.w.sizes[target],))
                ),
                old.name_hint,
            )
        return value

    def _plain(self, op: BrecciaOp, args: list[Wide]) -> None:
        """Any other op: rebuilt on whole axes, which constants are first stretched to."""
        self._check(op)
        values = [
            self.stretched(w, self._stretch_to(op, a)) if w.elastic else w.value
            for a, w in zip(op.args, args, strict=True)
        ]
        properties = dict(op.properties)
        if isinstance(op, ExpandOp):
            properties["to"] = DimsAttr((self._length(op.out, op.axis.data),))  # type: ignore[attr-defined]
        if isinstance(op, UnpackOp):
            properties["size"] = DimsAttr((self._length(op.out, len(shape(op.out)) - 1),))
        if isinstance(op, UnswizzleOp):
            properties["shape"] = DimsAttr(self.w.axis_sizes(op.out))
        if isinstance(op, EncodeOp) and op.origin is not None:
            properties["origin"] = DimsAttr(tuple(dims.substitute(d, self.w.gone) for d in op.origin.data))  # type: ignore[attr-defined]
        self._set(op, type(op).make(*values, **properties))

    def _length(self, value: SSAValue, axis: int) -> Dim:
        tag = self.w.tags[value][axis]
        return shape(value)[axis] if tag is None else self.w.sizes[tag]

    def _stretch_to(self, op: BrecciaOp, old: SSAValue) -> tuple[Dim, ...]:
        """The shape that a constant of any extent takes where `op` looks across its elements."""
        if any(tag is not None for value in op.args for tag in self.w.tags[value]):
            raise RefusedError(None)
        return shape(old)

    def stretched(self, wide: Wide, to: tuple[Dim, ...]) -> SSAValue:
        """A value of shape `to`."""
        if shape(wide.value) == to:
            return wide.value
        source = wide.value.owner
        if isinstance(source, FullOp):
            return self.add(FullOp.make(**{**source.properties, "shape": DimsAttr(to)}), wide.value.name_hint)
        return self.add(BroadcastOp.make(wide.value, shape=DimsAttr(to)), wide.value.name_hint)

    def _check(self, op: BrecciaOp) -> None:
        """Refuse dimensions along which `op` would see more than the tile it is meant to see."""
        if isinstance(op, SliceOp | ConcatOp | ReshapeOp):
            for tag in [t for a in op.args for t in self.w.tags[a] if t is not None]:
                raise RefusedError(tag.dim)
        if isinstance(op, ReduceOp):
            for axis in op.axes.data:  # type: ignore[attr-defined]
                tag = self.w.tags[op.args[0]][axis]
                if tag is not None and not self._may_join(op, tag.dim):
                    raise RefusedError(tag.dim)
        if isinstance(op, DotOp | DotScaledOp):
            a = self.w.tags[op.args[0]]
            tag = a[-2 if op.form.data[0] == "t" else -1]  # type: ignore[attr-defined]
            if tag is not None and not self._may_join(op, tag.dim):
                raise RefusedError(tag.dim)

    def _may_join(self, op: BrecciaOp, name: str) -> bool:
        """True where one result over all of a dimension is what joining the results of its tiles gives."""
        kernel = self.w.kernel
        (dim,) = [d for d in kernel.tiles.grid if d.name == name]
        joins = joiner(op)
        if dim.kind == "reduction":
            return is_carried_join(kernel, op.outs[0], joins)
        uses = list(op.outs[0].uses)
        outs = kernel.tiles.outputs
        return all(
            isinstance(u.operation, YieldOp)
            and u.operation is KernelOp.terminator(kernel.finish)
            and outs[u.index].combine == joins
            for u in uses
        )


def joiner(op: Operation) -> str:
    """The function that joins partial results of `op`."""
    if isinstance(op, ReduceOp):
        return {"sum": "add", "amax": "max", "max": "max", "min": "min"}[op.fn.data]  # type: ignore[attr-defined]
    return "add"


def is_carried_join(kernel: KernelOp, value: SSAValue, fn: str) -> bool:
    """True where `value` only goes into `carried = fn(carried, value)`."""
    if not kernel.step.blocks:
        return False
    yields = list(KernelOp.terminator(kernel.step).args)
    for use in value.uses:
        op = use.operation
        if not (isinstance(op, BinaryOp) and op.fn.data == fn and op.out in yields):  # type: ignore[attr-defined]
            return False
        carried = kernel.step.block.args[yields.index(op.out)]
        if op.args[1 - use.index] is not carried or len(list(carried.uses)) != 1 or len(list(op.out.uses)) != 1:
            return False
    return True
