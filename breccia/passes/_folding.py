"""Products whose scales of short blocks are powers of two, as products of FP8 with scales of long blocks.

A scale that is a power of two moves into an FP8 element as long as the element's exponent has room. So the operand is
encoded again, its exponents aligned to the largest one of a longer block, and elements keep their value, unless they
are so much smaller than others of the new block that they become subnormal. Every row notes whether it lost more than
its bound, and those rows are computed the slow way:

    %y = matmul %a, %w
    // becomes
    %x = dequantize %a   %q = quantize %x .. to f8E4M3FN, f32 per [1, 128]
    %l = reduce max (scales %q > 256 * scales %a, and %x is not 0)           // likewise for %w, with scales of rows
    %f = matmul %q, %r   %e = matmul %a, %w   %y = select %l, %e, (select %m, %e, %f) {breccia.guard}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import StringAttr, UnitAttr, f32
from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument, SSAValue

from breccia import formats
from breccia.formats import Format
from breccia.ir.attributes import IntsAttr, NumberAttr, PolicyAttr
from breccia.ir.base import BrecciaOp
from breccia.ir.capabilities import Capabilities
from breccia.ir.hints import expected, typical_sizes
from breccia.ir.ops import (
    BinaryOp,
    DequantizeOp,
    FullOp,
    MatmulOp,
    QuantizeOp,
    ReduceOp,
    ScalesOp,
    SelectOp,
    TransposeOp,
)
from breccia.ir.rewriting import inserted, replace_op
from breccia.ir.types import DimsAttr, RecipeAttr, ScaledType, TensorType
from breccia.passes._placement import decide
from breccia.passes.hoist_prepare import constants
from breccia.recipes import Block, Level, Policy, Recipe

GUARD = "breccia.guard"
"""Attribute of a `select` between a quick product and an exact one."""
FOLDED = "breccia.folded"
"""Attribute of a product of folded operands: what was done, for `explain`."""
BLOCK = 128
"""Elements along k that share an exponent after folding: as many as are summed before float32 takes over."""
SPREAD = 256.0
"""How many times its old scale a bounded element's new one may be. Elements lose half of E4M3's smallest number, 2**-9,
at most: that is a quarter of the old scale, and 2**-9.8 of the largest value that the old block can hold."""
ELEMENT = formats.float8_e4m3fn
POLICY = Policy(scale="ceil", scale_min=2.0**-126)
"""The smallest scale whose reciprocal is a float32 too."""
NARROW = 6
"""Bits up to which an element always fits E4M3, so that nothing but its exponent can be lost."""


Known = dict[tuple[SSAValue, int, int], tuple[SSAValue, SSAValue]]
"""Folded operands with their flags, by what they are made of, the axis along k, and the side they stand on."""


@dataclass(frozen=True)
class _Side:
    """An operand that can be folded. base: before transposes; axis: of it, the one along k; whole: one scale for k."""

    base: SSAValue
    axis: int
    whole: bool

    @property
    def type(self) -> ScaledType:
        assert isinstance(self.base.type, ScaledType), "operands that fold are scaled"
        return self.base.type


def fold(op: MatmulOp, capabilities: Capabilities, known: Known, *, bounded: bool) -> None:
    """Replace a product by a quick one and an exact one that stands in for its rows, where that is a gain.

    bounded: elements of 8 bits too, which may lose what `SPREAD` allows; else only what loses nothing. known: what has
    been folded before, which products share.
    """
    a, b = op.args
    if not _large(op, capabilities) or (ELEMENT.mlir, ELEMENT.mlir) not in {(m.a, m.b) for m in capabilities.mma}:
        return
    decision = decide(_array(a), _array(b), capabilities)
    places = (decision.places_a, decision.places_b)
    if decision.compute is None:
        return  # the elements are multiplied as they are already
    found = [_side(op, i, bounded=bounded) if "operand" in places[i] else None for i in (0, 1)]
    if not all(s or _stays(v, p, i) for i, (v, s, p) in enumerate(zip(op.args, found, places, strict=True))):
        return
    quick: list[SSAValue] = []
    lost: list[SSAValue] = []
    for i, (value, side) in enumerate(zip(op.args, found, strict=True)):
        new, flags = _shared(op, side, i, known) if side else (value, None)
        quick.append(new)
        lost += [flags] if flags is not None else []
    fast = inserted(op, MatmulOp.make(*quick))
    fast.name_hint = "quick"
    fast.owner.attributes[FOLDED] = StringAttr(_reason(found, bounded=bounded))  # type: ignore[union-attr]
    slow = inserted(op, MatmulOp.make(a, b))
    slow.name_hint = "exact"
    out = fast
    for flags in lost:
        out = inserted(op, SelectOp.make(flags, slow, out))
        out.owner.attributes[GUARD] = UnitAttr()  # type: ignore[union-attr]
    out.name_hint = op.out.name_hint
    replace_op(op, [], [out])


def _large(op: MatmulOp, capabilities: Capabilities) -> bool:
    """True where a product is bound by its instructions."""
    least, sizes = capabilities.decode_rows, typical_sizes(op)
    shape = op.out.type.shape  # type: ignore[attr-defined]
    found = [expected(d, sizes) for d in shape]
    return len(shape) == 2 and least > 0 and all(n is not None and n >= least for n in found)


def _array(value: SSAValue) -> ScaledType | TensorType:
    assert isinstance(value.type, ScaledType | TensorType), "operands of products are arrays"
    return value.type


def _stays(value: SSAValue, places: Sequence[str], side: int) -> bool:
    """True for an operand that FP8 instructions take as it is, with scales of at least `BLOCK` along k."""
    type_ = value.type
    if not isinstance(type_, ScaledType) or type_.recipe.element.mlir != ELEMENT.mlir or "operand" in places:
        return False
    blocks = [block[-1 if side == 0 else -2] for block in type_.recipe.blocks(type_.rank)]
    return type_.recipe.zero_point is None and all(b is None or b >= BLOCK for b in blocks)


def _side(op: MatmulOp, number: int, *, bounded: bool) -> _Side | None:
    """How an operand can be folded, if it can."""
    value, axis = op.args[number], 1 if number == 0 else 0
    while isinstance(value.owner, TransposeOp) and value.owner.data("order") == (1, 0):
        value, axis = value.owner.args[0], 1 - axis
    type_ = value.type
    if not isinstance(type_, ScaledType) or type_.rank != 2:
        return None
    recipe = type_.recipe
    if len(recipe.levels) != 1 or recipe.zero_point is not None or recipe.offset is not None:
        return None
    block = recipe.blocks(2)[0]
    along, across = block[axis], block[1 - axis]
    powers = recipe.innermost.dtype == formats.float8_e8m0fnu
    if not powers or across != 1 or along is None or BLOCK % along or not _fits(recipe.element, bounded=bounded):
        return None
    if axis == 0 and not _constant(value):
        return None  # FP8 is multiplied as rows of k: turning it at every call costs what folding gains
    return _Side(value, axis, whole=number == 1)


def _fits(element: Format, *, bounded: bool) -> bool:
    """True where every element's significant bits are among E4M3's."""
    if element.kind != "float" or element.mantissa_bits > ELEMENT.mantissa_bits:
        return False
    return element.bits <= NARROW or (bounded and element == ELEMENT)


def _constant(value: SSAValue) -> bool:
    if not isinstance(value, BlockArgument):
        return False
    function = value.block.parent_op()
    return isinstance(function, FuncOp) and value.index in constants(function)


def _shared(op: MatmulOp, side: _Side, number: int, known: Known) -> tuple[SSAValue, SSAValue]:
    """The folded operand and its flags, made now if no product before has asked for them."""
    key = side.base, side.axis, number
    if key not in known:
        known[key] = _folded(op, side, number)
    return known[key]


def _folded(op: MatmulOp, side: _Side, number: int) -> tuple[SSAValue, SSAValue]:
    """The operand with aligned exponents; for each of its rows (for the second: columns) if that loses too much."""

    def add(new: BrecciaOp) -> SSAValue:
        return inserted(op, new)

    def number_of(value: float) -> SSAValue:
        return add(FullOp.make(value=NumberAttr(value), shape=DimsAttr(()), dtype=f32))

    def turned(value: SSAValue) -> SSAValue:
        return add(TransposeOp.make(value, order=IntsAttr((1, 0))))

    def binary(fn: str, x: SSAValue, y: SSAValue) -> SSAValue:
        return add(BinaryOp.make(x, y, fn=StringAttr(fn)))

    base = side.base if side.axis == 1 else turned(side.base)
    base.name_hint = side.base.name_hint
    values = add(DequantizeOp.make(base))
    block: Block = (1, None if side.whole else BLOCK)
    recipe = RecipeAttr(Recipe(ELEMENT, (Level(formats.float32, block),)))
    new = add(QuantizeOp.make(values, policy=PolicyAttr(POLICY), recipe=recipe))
    new.name_hint = f"{side.base.name_hint}_folded" if side.base.name_hint else None
    # Told from the scales, so that elements need not be decoded again; zeros fit any scale.
    room = binary("mul", add(ScalesOp.make(base)), number_of(_spread(side.type.recipe.element)))
    fits = binary("ge", room, add(ScalesOp.make(new)))
    kept = binary("or", fits, binary("eq", values, number_of(0.0)))
    # NaN compares false, so a row that holds one is computed the slow way.
    flags = add(SelectOp.make(kept, number_of(0.0), number_of(1.0)))
    lost = binary("gt", add(ReduceOp.make(flags, fn=StringAttr("max"), axes=IntsAttr((1,)))), number_of(0.0))
    lost.name_hint = f"{side.base.name_hint}_lost" if side.base.name_hint else None
    if number == 0:
        return new, lost
    columns = turned(lost)
    columns.name_hint = lost.name_hint
    return turned(new), columns


def _spread(element: Format) -> float:
    """How many times its old scale an element's new one may be, so that it loses nothing, or `SPREAD`'s bound."""
    return SPREAD if element == ELEMENT else element.smallest_positive / ELEMENT.smallest_positive


def _reason(found: Sequence[_Side | None], *, bounded: bool) -> str:
    names = [name for name, side in zip("ab", found, strict=True) if side is not None]
    blocks = " and ".join(
        f"{name} ({s.type.encoding} to {ELEMENT.mlir}, f32 per {'all of k' if s.whole else f'{BLOCK} along k'})"
        for name, s in zip(names, (s for s in found if s is not None), strict=True)
    )
    loss = f"more than 2**-9.8 of the largest value of their block of {_along(found)}" if bounded else "anything"
    return (
        f"exponents of {blocks} are folded into elements, so that FP8 instructions multiply them; rows and columns "
        f"that would lose {loss} are computed from the operands as they are"
    )


def _along(found: Sequence[_Side | None]) -> str:
    sizes = sorted({str(b) for s in found if s for b in [s.type.recipe.blocks(2)[0][s.axis]]})
    return " or ".join(sizes)
