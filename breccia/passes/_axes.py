"""Which axes of the values in a kernel's body run together, and what a tile must respect on each.

Every axis of every value belongs to one `Axis`: elementwise ops join the axes they align, a matmul joins the rows of
its result with those of its left side, and so on. An axis of size 1 belongs to none: whoever meets it broadcasts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import lcm

from xdsl.ir import Attribute, Block, Operation, SSAValue

from breccia.errors import UnsupportedError
from breccia.ir.base import BrecciaOp
from breccia.ir.dims import Dim, show
from breccia.ir.ops import (
    AmaxFromHistoryOp,
    AssembleOp,
    BinaryOp,
    BroadcastOp,
    ConcatOp,
    ConvertLayoutOp,
    ConvertOp,
    DequantizeOp,
    FullOp,
    GroupedMatmulOp,
    HistoryUpdateOp,
    IotaOp,
    MatmulOp,
    PartsOp,
    QuantizeOp,
    ReduceOp,
    ReshapeOp,
    ScaleFromAmaxOp,
    ScalesOp,
    SelectOp,
    SliceOp,
    TransposeOp,
    UnaryOp,
    YieldOp,
)
from breccia.ir.storage import PACKING
from breccia.ir.types import LayoutAttr, ScaledType, TensorType, component_types
from breccia.recipes import Block as RecipeBlock

Matmul = MatmulOp | GroupedMatmulOp


@dataclass(eq=False)
class Axis:
    """One axis of the iteration space.

    size: its length. whole: a program must see all of it (a reduction, or a quantize block that spans it).
    meets: block lengths of scales; a tile holds a whole number of them, or they hold a whole number of tiles.
    holds: lengths of which a tile must be a whole number (blocks that are encoded, bytes of packed codes).
    within: block lengths that a tile may not exceed and must divide (partial sums that are scaled).
    """

    size: Dim
    whole: bool = False
    meets: set[int] = field(default_factory=set[int])
    holds: set[int] = field(default_factory=set[int])
    within: set[int] = field(default_factory=set[int])

    def absorb(self, other: Axis) -> None:
        self.whole |= other.whole
        self.meets |= other.meets
        self.holds |= other.holds
        self.within |= other.within

    def fits(self, block: int) -> bool:
        """True if tiles of `block` elements respect every rule of this axis."""
        if self.size == block:
            return not self.within or all(block <= g for g in self.within)
        return (
            all(block % g == 0 or g % block == 0 for g in self.meets)
            and all(block % g == 0 for g in self.holds)
            and all(g % block == 0 for g in self.within)
        )

    def fit(self, block: int) -> int:
        """The longest tile up to `block` that fits, else the shortest above it; UnsupportedError if there is none."""
        if isinstance(self.size, int):
            block = min(block, self.size)
        unit = lcm(*self.holds, *self.meets)
        powers = [1 << i for i in range(block.bit_length(), -1, -1)]
        rounded = [max(block // unit, 1) * unit, unit, lcm(*self.holds)]
        divisors = [d for g in sorted(self.within, reverse=True) for d in range(min(g, block), 0, -1) if g % d == 0]
        whole = [self.size] if isinstance(self.size, int) else []
        found = [c for c in [block, *rounded, *powers, *divisors, *whole] if self.fits(c)]
        smaller = [c for c in found if c <= block]
        if found:
            return max(smaller) if smaller else min(found)
        raise UnsupportedError(
            f"no tile fits an axis of {show(self.size)} elements: it must be a multiple of {sorted(self.holds) or 1}, "
            f"meet blocks of {sorted(self.meets) or 1} and divide blocks of {sorted(self.within) or 1}; use a recipe "
            "whose blocks divide each other"
        )


class AxisMap:
    """The axes of all values in a body. `matmul` is its only product, or None; `contracted` is that one's k axis.

    swept: reductions that a program may do bit by bit, so that their axes need not be whole.
    """

    def __init__(self, body: Block, swept: frozenset[ReduceOp] = frozenset()) -> None:
        self._swept = swept
        self._axis: dict[tuple[SSAValue, int], Axis] = {}
        self._joined: dict[Axis, Axis] = {}
        self.matmul: Matmul | None = None
        for arg in body.args:
            self._enter(arg)
        for op in body.ops:
            for result in op.results:
                self._enter(result)
            self._rule(op)(op)

    # ---- what passes ask -------------------------------------------------------------------------------------------

    def of(self, value: SSAValue, axis: int) -> Axis | None:
        """The axis that axis number `axis` of `value` belongs to; None for one of size 1."""
        found = self._axis.get((value, axis))
        return None if found is None else self._find(found)

    def axes(self, value: SSAValue) -> tuple[Axis | None, ...]:
        """The axes of a value, in order."""
        return tuple(self.of(value, i) for i in range(len(shape_of(value.type))))

    @property
    def contracted(self) -> Axis | None:
        return None if self.matmul is None else self.of(self.matmul.args[0], rank_of(self.matmul.args[0]) - 1)

    # ---- joining ---------------------------------------------------------------------------------------------------

    def _find(self, axis: Axis) -> Axis:
        while axis in self._joined:
            axis = self._joined[axis]
        return axis

    def _enter(self, value: SSAValue) -> None:
        for i, size in enumerate(shape_of(value.type)):
            if size != 1:
                self._axis[value, i] = Axis(size)

    def _join(self, a: SSAValue, i: int, b: SSAValue, j: int) -> None:
        x, y = self.of(a, i), self.of(b, j)
        if x is None or y is None or x is y:
            return
        self._joined[y] = x
        x.absorb(y)

    def _join_right(self, values: Iterable[SSAValue], out: SSAValue) -> None:
        rank = rank_of(out)
        for value in values:
            shift = rank - rank_of(value)
            for i in range(rank_of(value)):
                self._join(out, i + shift, value, i)

    # ---- rules, one for each op ------------------------------------------------------------------------------------

    def _rule(self, op: Operation) -> Callable[[Operation], None]:
        for kinds, rule in (
            ((UnaryOp, BinaryOp, SelectOp, ConvertOp, BroadcastOp, ScaleFromAmaxOp), self._elementwise),
            ((DequantizeOp, ScalesOp), self._elementwise),
            ((ConvertLayoutOp,), self._elementwise),
            ((FullOp, IotaOp, YieldOp), lambda _: None),
            ((ReduceOp,), self._reduce),
            ((TransposeOp,), self._transpose),
            ((ReshapeOp, SliceOp, ConcatOp), self._regroup),
            ((HistoryUpdateOp, AmaxFromHistoryOp), self._history),
            ((AssembleOp,), self._assemble),
            ((PartsOp,), self._parts),
            ((QuantizeOp,), self._quantize),
            ((MatmulOp,), self._matmul),
            ((GroupedMatmulOp,), self._grouped),
        ):
            if isinstance(op, kinds):
                return rule  # type: ignore[return-value]
        raise UnsupportedError(
            f"{op.name} cannot stand in the body of a kernel that is tiled; keep it at function level"
        )

    def _elementwise(self, op: BrecciaOp) -> None:
        self._join_right(op.args, op.out)
        if isinstance(op, DequantizeOp | ScalesOp):
            t = scaled_type(op.args[0])
            for block in t.recipe.blocks(t.rank):
                self._meet(op.args[0], block)

    def _meet(self, value: SSAValue, block: RecipeBlock, skip: int | None = None) -> None:
        for i, g in enumerate(block):
            axis = self.of(value, i)
            if axis is not None and g not in (None, 1) and i != skip:
                axis.meets.add(g)  # type: ignore[arg-type]

    def _hold(self, value: SSAValue, block: RecipeBlock) -> None:
        for i, g in enumerate(block):
            axis = self.of(value, i)
            if axis is not None and g is not None and g > 1:
                axis.holds.add(g)

    def _reduce(self, op: ReduceOp) -> None:
        reduced = op.properties["axes"].data  # type: ignore[attr-defined]
        for i in range(rank_of(op.args[0])):
            if i not in reduced:
                self._join(op.out, i, op.args[0], i)
            elif op not in self._swept and (axis := self.of(op.args[0], i)) is not None:
                axis.whole = True

    def _transpose(self, op: TransposeOp) -> None:
        for i, j in enumerate(op.properties["order"].data):  # type: ignore[attr-defined]
            self._join(op.out, i, op.args[0], j)

    def _regroup(self, op: BrecciaOp) -> None:
        """A view that cuts or joins elements is only right on axes that a program sees whole."""
        cut = op.properties["axis"].data if not isinstance(op, ReshapeOp) else None  # type: ignore[attr-defined]
        for value in (*op.args, op.out):
            for i in range(rank_of(value)):
                axis = self.of(value, i)
                if cut is not None and i != cut:
                    self._join(op.out, i, value, i)
                elif axis is not None:
                    axis.whole = True

    def _history(self, op: BrecciaOp) -> None:
        for value in (*op.args, *op.outs):
            for axis in self.axes(value):
                if axis is not None:
                    axis.whole = True
        if isinstance(op, HistoryUpdateOp):
            self._join(op.out, 0, op.args[0], 0)

    def _assemble(self, op: AssembleOp) -> None:
        self._hold_storage(op.out)

    def _parts(self, op: PartsOp) -> None:
        self._hold_storage(op.args[0])

    def _hold_storage(self, value: SSAValue) -> None:
        """Tiles of packed and swizzled components start at whole bytes and whole swizzle units."""
        t = scaled_type(value)
        if not isinstance(t.layout, LayoutAttr):
            return
        for name, _ in component_types(t):
            block = component_block(t, name)
            order = t.layout.order(name)
            units = [1] * t.rank
            if order in PACKING:
                units[-1] = PACKING[order][1]
            elif order == "swizzle_128x4":
                units[-2:] = [128, 4]
            self._hold(
                value, tuple(None if g is None else g * u if u > 1 else 1 for g, u in zip(block, units, strict=True))
            )

    def _quantize(self, op: QuantizeOp) -> None:
        self._join_right([op.args[0]], op.out)
        t = scaled_type(op.out)
        given = op.properties["given"].data if "given" in op.properties else ()  # type: ignore[attr-defined]
        for level, block in enumerate(t.recipe.blocks(t.rank)):
            self._hold(op.out, block)
            for i, g in enumerate(block):
                axis = self.of(op.out, i)
                if g is None and axis is not None and level not in given:
                    axis.whole = True
        for level, scale in zip(given, op.args[1:], strict=False):
            for i, g in enumerate(t.recipe.blocks(t.rank)[level]):
                if g == 1:
                    self._join(op.out, i, scale, i)

    def _one_matmul(self, op: Matmul) -> None:
        if self.matmul is not None:
            raise UnsupportedError("a kernel holds one product; partition puts each matmul into a kernel of its own")
        self.matmul = op

    def _matmul(self, op: MatmulOp) -> None:
        self._one_matmul(op)
        a, b, out = op.args[0], op.args[1], op.out
        ra, rb, r = rank_of(a), rank_of(b), rank_of(out)
        self._join(out, r - 2, a, ra - 2)
        self._join(out, r - 1, b, rb - 1)
        self._join(a, ra - 1, b, rb - 2)
        for value, rank in ((a, ra), (b, rb)):
            for i in range(rank - 2):
                self._join(out, i + r - rank, value, i)
        self._place(a, ra - 1, placement(op, "place_a"))
        self._place(b, rb - 2, placement(op, "place_b"))

    def _grouped(self, op: GroupedMatmulOp) -> None:
        self._one_matmul(op)
        x, w, out = op.args[0], op.args[1], op.out
        self._join(out, 0, x, 0)
        self._join(out, 1, w, 2)
        self._join(x, 1, w, 1)
        self._place(x, 1, placement(op, "place_a"))
        self._place(w, 1, placement(op, "place_b"))

    def _place(self, value: SSAValue, k: int, places: Sequence[str]) -> None:
        if not isinstance(value.type, ScaledType):
            return
        t = value.type
        for place, block in zip(places, t.recipe.blocks(t.rank), strict=True):
            axis, g = self.of(value, k), block[k]
            self._meet(value, block, skip=k)
            if axis is None or g is None:
                continue
            if place == "mainloop":
                axis.within.add(g)
            elif place == "mma":
                axis.holds.add(g)
            elif place == "operand" and g > 1:
                axis.meets.add(g)


def placement(op: Matmul, key: str) -> tuple[str, ...]:
    """Where the scales of one side are applied, a word for each level; `operand` unless `place-scales` said more."""
    value = op.args[0 if key == "place_a" else 1]
    if key in op.properties:
        return op.properties[key].data  # type: ignore[attr-defined]
    return ("operand",) * len(value.type.recipe.levels) if isinstance(value.type, ScaledType) else ()


def component_block(t: ScaledType, name: str) -> RecipeBlock:
    """Elements for each entry of a component, on each axis: 1s for the elements themselves."""
    if name == "elements":
        return (1,) * t.rank
    blocks = t.recipe.blocks(t.rank)
    return blocks[int(name.removeprefix("scale"))] if name.startswith("scale") else blocks[-1]


def shape_of(type_: Attribute) -> tuple[Dim, ...]:
    assert isinstance(type_, TensorType | ScaledType), f"a value of a kernel body is an array, not {type_}"
    return type_.shape


def rank_of(value: SSAValue) -> int:
    return len(shape_of(value.type))


def scaled_type(value: SSAValue) -> ScaledType:
    assert isinstance(value.type, ScaledType), f"{value.type} is no scaled tensor"
    return value.type
