"""Spells a matmul out on tiles: operands decoded where their placement says so, and the scales that wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects import builtin
from xdsl.dialects.builtin import IntAttr, StringAttr
from xdsl.ir import SSAValue

from breccia.errors import UnsupportedError
from breccia.ir.dims import Dim
from breccia.ir.ops import TransposeOp
from breccia.ir.tile_ops import DotOp, DotScaledOp
from breccia.ir.types import ScaledType
from breccia.passes._axes import Matmul, placement, rank_of, scaled_type, shape_of
from breccia.passes._region import RegionBuilder, is_codes


@dataclass(frozen=True)
class Side:
    """One operand of a product.

    value: as the matmul has it, k last (a) or second to last (b). source: what `value` transposes, or itself.
    places: one word for each level of scales, outermost first; none for a plain operand.
    """

    value: SSAValue
    source: SSAValue
    places: tuple[str, ...]

    @property
    def letter(self) -> str:
        return "n" if self.source is self.value else "t"

    @property
    def is_scaled(self) -> bool:
        return isinstance(self.value.type, ScaledType)

    def levels(self, place: str) -> list[int]:
        """The levels that are applied at `place`, innermost first."""
        return [level for level in reversed(range(len(self.places))) if self.places[level] == place]

    @property
    def is_raw(self) -> bool:
        """True where the codes themselves can be multiplied: nothing is applied on load."""
        if not self.is_scaled:
            return False
        recipe = scaled_type(self.value).recipe
        return not self.levels("operand") and recipe.zero_point is None and recipe.offset is None


def sides(op: Matmul) -> tuple[Side, Side]:
    """Both operands of a product."""
    return _side(op.args[0], placement(op, "place_a")), _side(op.args[1], placement(op, "place_b"))


def _side(value: SSAValue, places: tuple[str, ...]) -> Side:
    source, op, r = value, value.owner, rank_of(value)
    if isinstance(op, TransposeOp) and op.properties["order"].data == (*range(r - 2), r - 1, r - 2):  # type: ignore[attr-defined]
        source = op.args[0]
    side = Side(value, source, places)
    if side.is_scaled:
        _check_offsets(side)
    return side


def _check_offsets(side: Side) -> None:
    t = scaled_type(side.value)
    late = [p for p in side.places if p != "operand"]
    if late and t.recipe.offset is not None:
        raise UnsupportedError(
            f"{t} adds an offset after scaling, so its scales cannot wait for {late[0]}; place them at operand"
        )
    if t.recipe.zero_point is not None and "mma" in late:
        raise UnsupportedError(
            f"{t} has zero points, which no scaled matrix instruction subtracts; place its scales at operand"
        )


def product(builder: RegionBuilder, op: Matmul) -> SSAValue:
    """The product of two tiles, with operand, mma and mainloop scales applied."""
    with builder.spelling(op):
        return _product(builder, op)


def epilogue(builder: RegionBuilder, op: Matmul, inner: SSAValue) -> SSAValue:
    """A product with the scales that have waited for its result."""
    with builder.spelling(op):
        return _apply_factors(builder, inner, _factors(builder, sides(op), "epilogue"))


def _product(builder: RegionBuilder, op: Matmul) -> SSAValue:
    a, b = sides(op)
    form = StringAttr(a.letter + b.letter)
    if a.levels("mma") or b.levels("mma"):
        out = _scaled_dot(builder, a, b, form)
    else:
        x, y = _operands(builder, op, a, b)
        out = builder.add(DotOp.make(x, y, form=form), "p")
    return _apply_factors(builder, out, _factors(builder, (a, b), "mainloop"))


def _scaled_dot(builder: RegionBuilder, a: Side, b: Side, form: StringAttr) -> SSAValue:
    blocks: set[int | None] = set()
    for side in (a, b):
        t = scaled_type(side.value) if side.is_scaled else None
        inner = len(side.places) - 1
        if t is None or side.levels("mma") != [inner] or side.levels("operand"):
            raise UnsupportedError(
                f"placement mma takes the innermost level of both operands and nothing on load; here {a.value.type} is "
                f"at {list(a.places)} and {b.value.type} at {list(b.places)}"
            )
        k = t.rank - 1 if side is a else t.rank - 2
        blocks.add(t.recipe.blocks(t.rank)[inner][k])
    if len(blocks) != 1 or None in blocks:
        raise UnsupportedError(
            f"a scaled matrix instruction takes one block along k; here are {sorted(map(str, blocks))}"
        )
    tiles: list[SSAValue] = []
    for side in (a, b):
        tiles += [builder.component(side.source, n) for n in ("elements", f"scale{len(side.places) - 1}")]
    block = blocks.pop()
    assert block is not None, "checked above"
    return builder.add(DotScaledOp.make(*tiles, form=form, block=IntAttr(block)), "p")


def _operands(builder: RegionBuilder, op: Matmul, a: Side, b: Side) -> tuple[SSAValue, SSAValue]:
    """Both tiles of a plain dot: codes as they are where nothing is applied on load, else decoded into one dtype."""
    compute = op.properties.get("compute")
    tiles = [_load(builder, side) for side in (a, b)]
    if compute is not None:
        x, y = (builder.convert(t, compute) for t in tiles)
        return x, y
    same = tiles[0].type.dtype == tiles[1].type.dtype  # type: ignore[attr-defined]
    if same or all(is_codes(t) for t in tiles):
        return tiles[0], tiles[1]
    return builder.convert(tiles[0], builtin.f32), builder.convert(tiles[1], builtin.f32)


def _load(builder: RegionBuilder, side: Side) -> SSAValue:
    if not side.is_scaled:
        return builder.tile(side.source)
    if side.is_raw:
        return builder.component(side.source, "elements")
    return builder.decode(side.source, set(side.levels("operand")))


def _factors(builder: RegionBuilder, both: Sequence[Side], place: str) -> list[SSAValue]:
    """The scales that are applied at `place`, as tiles that broadcast to the product."""
    return [builder.factor(side.value, level) for side in both for level in side.levels(place)]


def _apply_factors(builder: RegionBuilder, out: SSAValue, scales: list[SSAValue]) -> SSAValue:
    """`out` times all scales; scales are multiplied among themselves first where that makes nothing larger."""
    merged: list[SSAValue] = []
    for scale in sorted(scales, key=lambda s: sum(d != 1 for d in shape_of(s.type))):
        if merged and _covers(shape_of(scale.type), shape_of(merged[-1].type)):
            merged[-1] = builder.binary("mul", merged[-1], scale, "s")
        else:
            merged.append(scale)
    for scale in merged:
        out = builder.binary("mul", out, scale, "q")
    return out


def _covers(big: Sequence[Dim], small: Sequence[Dim]) -> bool:
    """True where `small` broadcasts to `big` without enlarging it."""
    if len(small) > len(big):
        return False
    shift = len(big) - len(small)
    return all(d in (1, big[i + shift]) for i, d in enumerate(small))
