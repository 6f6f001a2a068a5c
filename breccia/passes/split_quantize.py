"""Takes the scales that no tile can know out of `quantize`. Contract: exact.

A kernel sees whole rows (the last axis) but tiles of all other axes. Where a level's block spans another axis (a scale
for the tensor, NVFP4's outer level, a scale for a column), its amax is a reduction of its own, and `quantize` is given
the scale. Levels that are given already (delayed and static scaling) need nothing.

    %q = breccia.quantize %x policy #p to #nvfp4
    ->  %v = breccia.select (abs %x < inf), %x, 0.0          // outer levels look at finite values only
        %a = breccia.reduce amax %v axis [0, 1]
        %s = breccia.scale_from_amax %a policy #p to #nvfp4 level 0
        %q = breccia.quantize %x, %s given [0] policy #p to #nvfp4
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import IntAttr, ModuleOp, StringAttr, UnitAttr, f32
from xdsl.ir import Attribute, SSAValue

from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.attributes import IntsAttr, NumberAttr
from breccia.ir.base import BrecciaOp, show_shape
from breccia.ir.dims import Dim
from breccia.ir.ops import (
    BinaryOp,
    ConvertOp,
    FullOp,
    QuantizeOp,
    ReduceOp,
    ReshapeOp,
    ScaleFromAmaxOp,
    SelectOp,
    UnaryOp,
)
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import functions, inserted, replace_op, show_location
from breccia.ir.types import DimsAttr, ScaledType, TensorType, scale_shape
from breccia.recipes import Block

OWN_AMAX = "breccia.own_amax"
"""Attribute of a `quantize` whose only given scale comes from the amax of what it quantizes: a NaN is in it already."""
_LARGEST_FLOAT32 = 3.4028234663852886e38


@dataclass(frozen=True)
class SplitQuantize(BrecciaPass):
    """Invariant: afterwards every `quantize` finds the scales it is not given within whole rows of its operand."""

    name: ClassVar[str] = "split-quantize"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        for function in functions(module):
            shared: dict[Hashable, SSAValue] = {}
            for op in list(function.body.block.ops):
                if isinstance(op, QuantizeOp):
                    _split(op, shared)


def tiled_axes(shape: tuple[Dim, ...], block: Block) -> list[int]:
    """The axes that a block spans but a tile may not: all but the last, unless they have one entry."""
    pairs = list(zip(shape, block, strict=True))[:-1]
    return [i for i, (size, b) in enumerate(pairs) if b is None and size != 1]


def _split(op: QuantizeOp, shared: dict[Hashable, SSAValue]) -> None:
    type_ = op.out.type
    assert isinstance(type_, ScaledType), "quantize gives a scaled tensor"
    recipe, shape = type_.recipe, type_.shape
    given = op.data("given") if "given" in op.properties else ()
    blocks = recipe.blocks(type_.rank)
    apart = [i for i in range(len(blocks)) if tiled_axes(shape, blocks[i])]
    missing = [i for i in apart if i not in given]
    if apart and (recipe.zero_point is not None or recipe.offset is not None):
        axis = tiled_axes(shape, blocks[apart[-1]])[0]
        raise UnsupportedError(
            f"{_where(op)}quantize of {show_shape(shape)} to {type_.encoding}: a zero point or offset needs the range "
            f"of its block, and blocks of {_text(blocks[apart[-1]])} span axis {axis}, which kernels see in tiles; let "
            "blocks run along the last axis, such as (1, 128), or use a symmetric recipe"
        )
    if not missing:
        return
    if missing != [0]:
        raise UnsupportedError(
            f"{_where(op)}quantize of {show_shape(shape)} to {type_.encoding}: the scales of level {missing[-1]} span "
            "a tiled axis and depend on the level outside; only the outermost level can span one. Use one level, or "
            "finite blocks inside"
        )
    scale = _scale(op, blocks[0], shared)
    scale.name_hint = f"{op.out.name_hint}_scale" if op.out.name_hint else None
    new = QuantizeOp.make(
        op.args[0], scale, *op.args[1:], given=IntsAttr((0, *given)), policy=op.policy, recipe=op.recipe
    )
    new.attributes.update(op.attributes)
    if len(blocks) == 1:
        new.attributes[OWN_AMAX] = UnitAttr()
    replace_op(op, new)


def _where(op: QuantizeOp) -> str:
    place = show_location(op)
    return f"{place}: " if place else ""


def _text(block: Block) -> str:
    return "[" + ", ".join("all" if b is None else str(b) for b in block) + "]"


def _scale(op: QuantizeOp, block: Block, shared: dict[Hashable, SSAValue]) -> SSAValue:
    """The scales of level 0. Equal ones are computed once."""
    levels = len(op.recipe.data.levels)
    key = (op.args[0], block, levels > 1, op.policy.data.nonfinite)

    def add(new: BrecciaOp) -> SSAValue:
        return inserted(op, new)

    if key not in shared:  # ops are walked in order, so a shared amax stands before its next user
        shared[key] = _amax(op, block, outer=levels > 1)
    return add(ScaleFromAmaxOp.make(shared[key], policy=op.policy, recipe=op.recipe, level=IntAttr(0)))


def _amax(op: QuantizeOp, block: Block, *, outer: bool) -> SSAValue:
    """The amax of every block, as f32, in the shape of the scales; what NaN and infinity do follows the policy.

    An outer level looks at finite values only, so that a NaN poisons its own inner block and nothing else; a level that
    is the innermost one too becomes NaN.
    """

    def add(new: BrecciaOp) -> SSAValue:
        return inserted(op, new)

    def full(number: float) -> SSAValue:
        return add(FullOp.make(value=NumberAttr(number), shape=DimsAttr(()), dtype=f32))

    x = op.args[0]
    assert isinstance(x.type, TensorType), "quantize takes a plain tensor"
    if x.type.dtype != f32:
        x = add(ConvertOp.make(x, dtype=f32))
    saturates = op.policy.data.nonfinite == "saturate"
    if outer and saturates:
        x = add(SelectOp.make(add(UnaryOp.make(x, fn=StringAttr("isnan"))), full(0.0), x))
    elif outer:
        size = add(UnaryOp.make(x, fn=StringAttr("abs")))
        finite = add(BinaryOp.make(size, full(float("inf")), fn=StringAttr("lt")))
        x = add(SelectOp.make(finite, x, full(0.0)))
    amax = _reduced(op, x, block)
    if saturates:
        amax = add(BinaryOp.make(amax, full(_LARGEST_FLOAT32), fn=StringAttr("min")))
    return amax


def _reduced(op: QuantizeOp, x: SSAValue, block: Block) -> SSAValue:
    assert isinstance(x.type, TensorType), "the values are a plain tensor"
    shape, grid = x.type.shape, scale_shape(x.type.shape, block)

    def add(new: BrecciaOp) -> SSAValue:
        return inserted(op, new)

    amax: Attribute = StringAttr("amax")
    if all(b in (None, 1) for b in block):
        axes = tuple(i for i, b in enumerate(block) if b is None)
        return add(ReduceOp.make(x, fn=amax, axes=IntsAttr(axes)))
    split: list[Dim] = []
    axes_of_blocks: list[int] = []
    for size, b in zip(shape, block, strict=True):
        if b in (None, 1):
            axes_of_blocks += [len(split)] if b is None else []
            split.append(size)
            continue
        assert b is not None, "finite blocks only"
        if not isinstance(size, int) or size % b:
            raise UnsupportedError(
                f"{_where(op)}quantize of {show_shape(shape)}: blocks of {_text(block)} span a tiled axis, and "
                f"{dims.show(size)} is not known to be a multiple of {b}; use a static multiple of {b}, or blocks of 1 "
                "or of the whole axis"
            )
        split += [size // b, b]
        axes_of_blocks.append(len(split) - 1)
    x = add(ReshapeOp.make(x, shape=DimsAttr(tuple(split))))
    reduced = add(ReduceOp.make(x, fn=amax, axes=IntsAttr(tuple(axes_of_blocks))))
    return add(ReshapeOp.make(reduced, shape=DimsAttr(grid)))
