"""Decoding spelled out in the IR, found again, so that it is one pass over memory: `((E(e) - zero) * s_inner) * ... *
s_outer`.

    %e = unpack %bytes order packed4 size 576 : i4      rt.dequantize(xp, bytes, "int4", ((s, (1, 128)),),
    %x = convert %e : f32                                             zero=(z, (1, 128)), size=576)
    %d = binary sub %x, (expand %z axis 1 by 128 to 576)
    %y = binary mul %d, (expand %s axis 1 by 128 to 576)

Steps and their order stay, so the result is equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import f32
from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import tensor_type
from breccia.formats import Format
from breccia.ir.array_ops import BinaryOp, ConvertOp
from breccia.ir.tile_ops import ExpandOp, UnpackOp
from breccia.ir.types import format_of

Spread = tuple[SSAValue, tuple[int | None, ...]]
"""A value for each block, and the elements of a block along each axis: None where one entry serves the axis."""


@dataclass
class Chain:
    """One decoding. Invariant: every op in `ops` but the last has the next one as its only user."""

    source: SSAValue
    format: Format
    unpack: UnpackOp | None = None
    zero: Spread | None = None
    scales: list[Spread] = field(default_factory=list[Spread])
    ops: list[Operation] = field(default_factory=list[Operation])


def find_chains(ops: Sequence[Operation]) -> dict[Operation, Chain]:
    """The longest chains of a region's ops, by their last op."""
    found: dict[Operation, Chain] = {}
    inner: set[Operation] = set()
    for op in reversed(ops):
        if op in inner:
            continue
        chain = _match(op)
        if chain is not None and (chain.scales or chain.zero or chain.unpack):
            found[op] = chain
            inner.update(chain.ops)
    return found


def _match(op: Operation) -> Chain | None:
    if isinstance(op, ConvertOp):
        return _decoding(op)
    if not isinstance(op, BinaryOp) or op.properties["fn"].data not in ("mul", "sub"):  # type: ignore[attr-defined]
        return None
    multiplies = op.properties["fn"].data == "mul"  # type: ignore[attr-defined]
    pairs = [(op.args[0], op.args[1])] + ([(op.args[1], op.args[0])] if multiplies else [])
    for value, other in pairs:
        owner = value.owner
        if not isinstance(owner, Operation) or not value.has_one_use() or value.type != op.out.type:
            continue
        chain = _match(owner)
        spread = _spread(other, op.out)
        if chain is None or spread is None or (not multiplies and (chain.zero or chain.scales)):
            continue
        where, ops = spread
        if multiplies:
            chain.scales.append(where)
        else:
            chain.zero = where
        chain.ops += [*ops, op]
        return chain
    return None


def _decoding(op: ConvertOp) -> Chain | None:
    fmt = format_of(tensor_type(op.args[0].type).dtype)
    if op.properties["dtype"] != f32 or fmt is None or fmt.bits > 8:
        return None
    owner = op.args[0].owner
    if isinstance(owner, UnpackOp) and op.args[0].has_one_use():
        return Chain(owner.args[0], fmt, owner, ops=[owner, op])
    return Chain(op.args[0], fmt, ops=[op])


def _spread(value: SSAValue, like: SSAValue) -> tuple[Spread, list[Operation]] | None:
    """`value` as one entry for each block of `like`, and the `expand` ops that say so."""
    ops: list[Operation] = []
    blocks: dict[int, int] = {}
    while isinstance(value.owner, ExpandOp) and value.has_one_use():
        op = value.owner
        (by,) = op.properties["by"].data  # type: ignore[attr-defined]
        axis = op.properties["axis"].data  # type: ignore[attr-defined]
        if not isinstance(by, int) or axis in blocks:
            return None
        blocks[axis] = by
        ops.insert(0, op)
        value = op.args[0]
    small, large = tensor_type(value.type), tensor_type(like.type)
    if small.dtype != f32 or small.rank != large.rank:
        return None
    block: list[int | None] = []
    for axis, (n, size) in enumerate(zip(small.shape, large.shape, strict=True)):
        if n == 1:
            block.append(None)
        elif axis in blocks or n == size:
            block.append(blocks.get(axis, 1))
        else:
            return None
    return (value, tuple(block)), ops
