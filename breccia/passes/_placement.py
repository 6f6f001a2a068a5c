"""The rules of scale placement: what is legal for one level of one matmul operand, and why.

Everything follows from the operands' types and the target's capabilities; nothing from names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal

from breccia import formats
from breccia.ir import dims
from breccia.ir.attributes import PLACEMENTS
from breccia.ir.capabilities import Capabilities
from breccia.ir.dims import Dim
from breccia.ir.types import ScaledType, TensorType
from breccia.passes._exactness import Numbers, differences, fits, numbers, products
from breccia.recipes import Block, Level

ArrayType = TensorType | ScaledType
Verdict = tuple[bool, str]
"""Whether a placement is legal, and why (or why not)."""


@dataclass(frozen=True)
class Decision:
    """Placements of both operands, outermost level first, the dtype that operands are held in, and all reasons.

    compute: None where operands enter the product as they are stored, or in f32.
    """

    places_a: tuple[str, ...]
    places_b: tuple[str, ...]
    compute: str | None
    reasons: tuple[str, ...]


@dataclass
class _Side:
    """One operand. k and mn: the axes that are summed over and that the result keeps."""

    name: Literal["a", "b"]
    type: ArrayType
    k: int
    mn: int
    places: list[str] = field(default_factory=list[str])

    @property
    def size(self) -> Dim:
        return self.type.shape[self.k]

    @property
    def levels(self) -> tuple[Level, ...]:
        return self.type.recipe.levels if isinstance(self.type, ScaledType) else ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.type.recipe.blocks(self.type.rank) if isinstance(self.type, ScaledType) else ()

    @property
    def element(self) -> str:
        """The stored format in MLIR's spelling."""
        return self.type.recipe.element.mlir if isinstance(self.type, ScaledType) else str(self.type.dtype)

    @property
    def shifted(self) -> str:
        """What stands between the elements and their scales; empty for nothing."""
        recipe = self.type.recipe if isinstance(self.type, ScaledType) else None
        return "zero point" if recipe and recipe.zero_point else "offset" if recipe and recipe.offset else ""

    def label(self, level: int) -> str:
        block = "[" + ", ".join("all" if b is None else str(b) for b in self.blocks[level]) + "]"
        return f"{self.name} level {level} ({self.levels[level].dtype.mlir} per {block})"


def decide(a: ArrayType, b: ArrayType, capabilities: Capabilities, prefer: str = "") -> Decision:
    """Place all scales of `a` [.., m, k] times `b` [.., k, n]."""
    left, right = _Side("a", a, a.rank - 1, a.rank - 2), _Side("b", b, b.rank - 2, b.rank - 1)
    order = ((prefer,) if prefer else ()) + PLACEMENTS
    mma = _scaled_instruction(left, right, capabilities)
    met: list[int] = []
    reasons = [
        _place(side, level, order, mma, met, (left, right), capabilities)
        for side in (left, right)
        for level in range(len(side.levels))
    ]
    _settle_mma(left, right, reasons)
    compute, why = _compute(left, right, capabilities)
    return Decision(tuple(left.places), tuple(right.places), compute, (*reasons, why))


def _place(
    side: _Side,
    level: int,
    order: Sequence[str],
    mma: Verdict,
    met: list[int],
    both: tuple[_Side, _Side],
    capabilities: Capabilities,
) -> str:
    """Choose for one level; the reason names every placement that was passed over."""
    out: list[str] = []
    for place in dict.fromkeys(order):
        legal, why = _verdict(place, side, level, mma, met, both, capabilities)
        if not legal:
            out.append(f"{place} is out: {why}")
            continue
        side.places.append(place)
        if place == "mainloop":
            block = side.blocks[level][side.k]
            assert block is not None, "a block of the whole axis goes to the epilogue"
            met.append(block)
        advice = _advice(side, level, place)
        return "; ".join([f"{side.label(level)}: {place}, {why}", *out, *advice])
    raise AssertionError("operand is always legal")


def _verdict(
    place: str,
    side: _Side,
    level: int,
    mma: Verdict,
    met: list[int],
    both: tuple[_Side, _Side],
    capabilities: Capabilities,
) -> Verdict:
    if place == "operand":
        return True, "since decoding on load is always legal"
    if side.shifted == "offset":
        return False, "an offset is added after the scale, so that values must be decoded first"
    if place not in capabilities.placements and not (place == "mma" and not capabilities.scaled_mma):
        return False, f"{capabilities.name} does not offer it"
    if place == "epilogue":
        return _epilogue(side, level)
    if place == "mma":
        return _mma(side, level, mma)
    return _mainloop(side, level, met, both, capabilities)


def _epilogue(side: _Side, level: int) -> Verdict:
    block, size = side.blocks[level][side.k], side.size
    if block is None or (isinstance(size, int) and block >= size):
        return True, f"since one scale covers all of k = {dims.show(size)}"
    return False, f"the block does not cover k = {dims.show(size)}"


def _mma(side: _Side, level: int, mma: Verdict) -> Verdict:
    if level != len(side.levels) - 1:
        return False, "instructions take the innermost level only"
    if "operand" in side.places:
        return False, "a level outside it must be applied on load, which comes first"
    return mma


def _scaled_instruction(a: _Side, b: _Side, capabilities: Capabilities) -> Verdict:
    """Whether the target has an instruction that takes the elements and innermost scales of both operands."""
    for side in (a, b):
        if not side.levels:
            return False, f"{side.name} is plain ({side.element}), and scaled instructions take scales on both sides"
        if side.shifted:
            return False, f"{side.name} has a {side.shifted}, which no instruction takes"
        element, scale = side.element, side.levels[-1].dtype.mlir
        rows = [r for r in capabilities.scaled_mma if (r.a if side is a else r.b) == element and r.scale == scale]
        if not rows:
            return False, f"{capabilities.name} has no scaled instruction for {element} with {scale} scales"
        block = side.blocks[-1]
        along = [r for r in rows if r.block == block[side.k]]
        if not along:
            widths = " or ".join(sorted({str(r.block) for r in rows}))
            found = _size(block[side.k])
            return False, f"the instruction takes blocks of {widths} along k, and {side.name} has {found}"
        if any(b != 1 for axis, b in enumerate(block) if axis != side.k):
            return False, f"the instruction takes blocks of 1 across k, and {side.name} has {_across(side)}"
    for row in capabilities.scaled_mma:
        same = (row.a, row.b) == (a.element, b.element) and row.block == a.blocks[-1][a.k] == b.blocks[-1][b.k]
        if same and row.scale == a.levels[-1].dtype.mlir == b.levels[-1].dtype.mlir:
            kinds = f"{row.a} by {row.b} with {row.scale} scales per {row.block} along k"
            return True, f"since {capabilities.name} multiplies {kinds}"
    return False, f"{capabilities.name} has no scaled instruction for {a.element} times {b.element} with these scales"


def _across(side: _Side) -> str:
    return " and ".join(_size(b) for axis, b in enumerate(side.blocks[-1]) if axis != side.k and b != 1)


def _size(block: int | None) -> str:
    return "all" if block is None else str(block)


def _mainloop(
    side: _Side, level: int, met: list[int], both: tuple[_Side, _Side], capabilities: Capabilities
) -> Verdict:
    block, least = side.blocks[level][side.k], capabilities.mainloop_min_block
    if block is None:
        return False, "one scale covers all of k"
    if least > capabilities.mainloop_least_block and _decodes_to_f32(side, capabilities):
        least = capabilities.mainloop_least_block
    if block < least:
        return False, f"blocks of {block} along k are shorter than {least}, from where scaling partial sums pays"
    step = dot_step(both[0].element, both[1].element, capabilities)
    if block % step:
        return False, f"the dot's step of {step} along k does not divide blocks of {block}"
    for other in met:
        if block % other and other % block:
            return False, f"blocks of {block} do not meet the blocks of {other} that partial sums are already scaled by"
    return True, f"since blocks of {block} along k meet the tile"


def _decodes_to_f32(side: _Side, capabilities: Capabilities) -> bool:
    """True where no narrower dtype holds the values of an operand whose further scales are applied on load."""
    places = [*side.places, *("operand" for _ in side.levels[len(side.places) :])]
    return exact_dtype(((side.type, places),), capabilities.compute, capabilities.smallest_kept) == "f32"


def dot_step(a: str, b: str, capabilities: Capabilities) -> int:
    """The step along k of the instruction that multiplies elements `a` by `b`, or decoded ones; 1 without one."""
    rows = {(r.a, r.b): r.step for r in capabilities.mma}
    decoded = [rows[c, c] for c in capabilities.compute if (c, c) in rows]
    return rows.get((a, b), decoded[0] if decoded else 1)


def _settle_mma(left: _Side, right: _Side, reasons: list[str]) -> None:
    """An instruction scales both sides or none: where only one of them took `mma`, it decodes on load instead."""
    sides = [s for s in (left, right) if "mma" in s.places]
    if len(sides) != 1:
        return
    side = sides[0]
    at = side.places.index("mma")
    side.places[at] = "operand"
    row = at + (len(left.levels) if side is right else 0)
    other = right if side is left else left
    reasons[row] = (
        f"{side.label(at)}: operand, since decoding on load is always legal; mma is out: {other.name} is placed at "
        f"{other.places[-1]}, and the instruction scales both sides"
    )


def _advice(side: _Side, level: int, place: str) -> list[str]:
    """What a user can do about blocks that run along the wrong axis."""
    block = side.blocks[level]
    if place != "operand" or block[side.k] != 1 or side.size == 1 or block[side.mn] == 1:
        return []
    if side.name == "b":
        return ["cast the weight with axis=0 so that its blocks run along k and the scale folds"]
    return ["cast a with axis=-1 so that its blocks run along k and the scale folds"]


# ---- the dtype that operands are held in -----------------------------------------------------------------------------


def held(type_: ArrayType, places: Sequence[str]) -> Numbers | None:
    """The values that enter the product: elements less zero points, times the scales placed at `operand`.

    None where only f32 will do: added offsets, and index dtypes.
    """
    if isinstance(type_, TensorType):
        return None if type_.format is None else numbers(type_.format)
    recipe = type_.recipe
    if recipe.offset is not None:
        return None
    elements = numbers(recipe.element)
    if recipe.zero_point is not None:
        elements = differences(recipe.element, recipe.zero_point.dtype)
    on_load = [numbers(level.dtype) for level, place in zip(recipe.levels, places, strict=True) if place == "operand"]
    return reduce(products, reversed(on_load), elements)


def exact_dtype(
    sides: Sequence[tuple[ArrayType, Sequence[str]]], compute: Sequence[str], smallest_kept: int = -149
) -> str:
    """The first of `compute` that holds all operands without rounding; f32 otherwise."""
    values = [held(type_, places) for type_, places in sides]
    for name in compute:
        if all(v is not None and fits(v, formats.find(name), smallest_kept) for v in values):
            return name
    return "f32"


def _compute(left: _Side, right: _Side, capabilities: Capabilities) -> tuple[str | None, str]:
    raw = not any("operand" in s.places or s.shifted for s in (left, right))
    if "mma" in left.places:
        return None, "compute: the scaled instruction takes elements as they are"
    if raw and any((r.a, r.b) == (left.element, right.element) for r in capabilities.mma):
        return None, f"compute: {capabilities.name} multiplies {left.element} by {right.element} as they are"
    sides = ((left.type, left.places), (right.type, right.places))
    found = exact_dtype(sides, capabilities.compute, capabilities.smallest_kept)
    order = capabilities.compute
    narrower = order[: order.index(found)] if found in order else order
    why = f"compute {found}: it holds both operands exactly"
    if found != exact_dtype(sides, capabilities.compute):
        why += f" but for values below 2**{capabilities.smallest_kept}"
    if narrower:
        why += f", which {' and '.join(narrower)} would round"
    return (None if found == "f32" else found), why
