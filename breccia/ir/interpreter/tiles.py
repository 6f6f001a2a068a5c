"""Tiles: arrays with an extent on each axis, and the meaning of the ops that stand only in tiled kernels.

A partial window is a smaller tile. An extent is exact where a window fixes it, and a range where none does: constants
and first accumulators take any extent up to the full tile, and the last byte or block of an axis may be filled in part.
Tiles that meet must have an extent in common. Where an extent stays open, the largest is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from xdsl.ir import Operation

from breccia import numerics
from breccia.ir import tile_ops
from breccia.ir.interpreter import arithmetic, scaled
from breccia.ir.interpreter.values import Array, InterpreterError, Mode
from breccia.ir.interpreter.whole import given_levels
from breccia.ir.storage import PACKING
from breccia.ir.types import TensorType, format_of
from breccia.numerics.encode import row_major_strides


@dataclass(frozen=True)
class Extent:
    """How many elements of a tile's axis there are: between `low` and `high`."""

    low: int
    high: int

    @property
    def elastic(self) -> bool:
        """True for values that fit any window."""
        return self.low == 0 and self.high > 0

    def __str__(self) -> str:
        return str(self.high) if self.low == self.high else f"{self.low} to {self.high}"


def exact(size: int) -> Extent:
    """An extent that a window fixes."""
    return Extent(size, size)


@dataclass(frozen=True, eq=False)
class Tile:
    """Invariant: data has `extent[i].high` elements on axis i where tiles are clipped, the full block where padded."""

    data: Array
    extent: tuple[Extent, ...]


def meet(op: Operation, axis: int, pairs: Sequence[tuple[str, Extent]]) -> Extent:
    """The extent that tiles have in common; raises InterpreterError naming two operands that have none."""
    low, high = max(e.low for _, e in pairs), min(e.high for _, e in pairs)
    if low > high:
        first = next(p for p in pairs if p[1].low == low)
        second = next(p for p in pairs if p[1].high == high)
        raise InterpreterError(
            f"{op.name}: windows of {first[1]} and {second[1]} elements meet on tile axis {axis}: {first[0]} and "
            f"{second[0]} do not describe the same elements"
        )
    return Extent(low, high)


def operand_name(op: Operation, i: int) -> str:
    """An operand of an op, for messages."""
    hint = op.operands[i].name_hint
    return f"%{hint}" if hint else f"operand {i}"


def clipped(data: Array, extent: Sequence[Extent], mode: TileMode) -> Array:
    """`data` cut down to its extents, unless tiles are padded."""
    if mode.padded:
        return data
    return data[tuple(slice(e.high) for e in extent)]


@dataclass(frozen=True)
class TileMode:
    """How a kernel runs: sizes and precision, and whether tiles keep their full size (`padded`)."""

    mode: Mode
    padded: bool


def axis_is_one(type_: Any, axis: int) -> bool:
    """True where an axis of size 1 by type meets any size."""
    return isinstance(type_, TensorType) and type_.shape[axis] == 1


def broadcast_together(op: Operation, tiles: Sequence[Tile], mode: TileMode) -> tuple[list[Array], tuple[Extent, ...]]:
    """Data and extents of tiles that meet elementwise, by NumPy's rule on their types."""
    types = [o.type for o in op.operands]
    rank = max(t.data.ndim for t in tiles)
    cuts: list[list[Extent]] = [list(t.extent) for t in tiles]
    out: list[Extent] = []
    for axis in range(rank):
        here = [(i, axis - rank + t.data.ndim) for i, t in enumerate(tiles) if axis - rank + t.data.ndim >= 0]
        wide = [(i, a) for i, a in here if not axis_is_one(types[i], a)] or here
        common = meet(op, axis, [(operand_name(op, i), tiles[i].extent[a]) for i, a in wide])
        for i, a in wide:
            cuts[i][a] = common
        out.append(common)
    return [clipped(t.data, cut, mode) for t, cut in zip(tiles, cuts, strict=True)], tuple(out)


# -- the meaning of ops on tiles ---------------------------------------------------------------------------------------

TileMeaning = Callable[[Any, list[Tile], TileMode], list[Tile]]


def _contracted(op: Any, a: Tile, b: Tile, mode: TileMode) -> tuple[Array, Array, tuple[Extent, ...]]:
    """Both sides as [.., m, k] and [.., k, n] codes or floats, and the extents of their product."""
    form = op.form.data
    ka, kb = tile_ops.contraction_axes(form, a.data.ndim, b.data.ndim)
    common = meet(
        op, ka, [(operand_name(op, 0), a.extent[ka]), (operand_name(op, len(op.operands) // 2), b.extent[kb])]
    )
    sides: list[Array] = []
    for tile, axis in ((a, ka), (b, kb)):
        cut = [common if i == axis else e for i, e in enumerate(tile.extent)]
        sides.append(clipped(tile.data, cut, mode))
    x = np.swapaxes(sides[0], -1, -2) if form[0] == "t" else sides[0]
    y = np.swapaxes(sides[1], -1, -2) if form[1] == "t" else sides[1]
    m, n = a.extent[-1 if form[0] == "t" else -2], b.extent[-2 if form[1] == "t" else -1]
    return x, y, (*_batch_extents(op, a, b), m, n)


def _batch_extents(op: Any, a: Tile, b: Tile) -> list[Extent]:
    out: list[Extent] = []
    ranks, rank = (a.data.ndim - 2, b.data.ndim - 2), max(a.data.ndim, b.data.ndim) - 2
    types = (op.operands[0].type, op.operands[len(op.operands) // 2].type)
    for axis in range(rank):
        here = [(s, axis - rank + r) for s, r in enumerate(ranks) if axis - rank + r >= 0]
        wide = [(s, i) for s, i in here if not axis_is_one(types[s], i)] or here
        out.append(meet(op, axis, [(operand_name(op, s), (a, b)[s].extent[i]) for s, i in wide]))
    return out


def _dot(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    x, y, extent = _contracted(op, tiles[0], tiles[1], mode)
    x, y = (arithmetic.real(v, o.type.dtype, mode.mode) for v, o in zip((x, y), op.args, strict=True))
    return [Tile(arithmetic.product(x, y, mode.mode), extent)]


def _dot_scaled(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    a, sa, b, sb = tiles
    form, block = op.form.data, op.block.data
    ka, kb = tile_ops.contraction_axes(form, a.data.ndim, b.data.ndim)
    sides: list[Tile] = []
    for i, (tile, scale, axis) in enumerate(((a, sa, ka), (b, sb, kb))):
        codes, scales = op.args[2 * i].type.dtype, op.args[2 * i + 1].type.dtype
        spread = np.repeat(arithmetic.real(scale.data, scales, mode.mode), block, axis=axis)
        numbers = arithmetic.real(tile.data, codes, mode.mode)
        extent = list(tile.extent)
        for other in range(len(extent)):
            name = (operand_name(op, 2 * i), operand_name(op, 2 * i + 1))
            held = _expanded(scale.extent[other], block, block * scale.data.shape[other]) if other == axis else None
            extent[other] = meet(op, other, [(name[0], tile.extent[other]), (name[1], held or scale.extent[other])])
        numbers = clipped(numbers, extent, mode)
        spread = spread[tuple(slice(n) for n in numbers.shape)]
        sides.append(Tile(numbers * spread, tuple(extent)))
    x, y, extent = _contracted(op, sides[0], sides[1], mode)
    return [Tile(arithmetic.product(x, y, mode.mode), extent)]


def _expanded(e: Extent, by: int, to: int) -> Extent:
    low = (e.low - 1) * by + 1 if e.low > 0 else 0
    return Extent(min(low, to), min(e.high * by, to))


def _expand(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    (x,), axis = tiles, op.axis.data
    by, to = mode.mode.size(op.by.data[0]), mode.mode.size(op.to.data[0])
    extent = _expanded(x.extent[axis], by, to)
    extents = tuple(extent if i == axis else e for i, e in enumerate(x.extent))
    wide = np.repeat(x.data, by, axis=axis)[(slice(None),) * axis + (slice(to),)]
    return [Tile(clipped(wide, extents, mode), extents)]


def _unpack(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    (x,), order = tiles, op.order.data
    _, codes, size = PACKING[order]
    held, limit = x.extent[-1], mode.mode.size(op.size.data[0])
    high = min(limit, held.high // size * codes)
    low = min(high, max(0, held.low // size * codes - codes + 1)) if held.low else 0
    length = limit if mode.padded else high
    fmt = format_of(op.dtype)
    data = scaled.from_storage(np.ascontiguousarray(x.data), order, fmt, (*x.data.shape[:-1], length))
    return [Tile(data, (*x.extent[:-1], Extent(low, high)))]


def _pack(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    (x,), order = tiles, op.order.data
    _, codes, size = PACKING[order]
    e = x.extent[-1]
    extent = Extent(-(-e.low // codes) * size, -(-e.high // codes) * size)
    data = scaled.to_storage(x.data, order, op.args[0].type.format)
    return [Tile(data, (*x.extent[:-1], extent))]


def _unswizzle(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    (x,) = tiles
    shape = mode.mode.shape(op.shape.data)
    batch, (rows, columns) = x.extent[:-4], x.extent[-4:-2]
    logical = (_expanded(rows, 128, shape[-2]), _expanded(columns, 4, shape[-1]))
    data = scaled.from_storage(x.data, op.order.data, op.args[0].type.format, (*x.data.shape[:-4], *shape[-2:]))
    return [Tile(clipped(data, (*batch, *logical), mode), (*batch, *logical))]


def _mask(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    (x,), axis = tiles, op.axis.data
    valid = max(0, mode.mode.size(op.valid.data[0]))
    data = np.array(x.data)
    outside = (slice(None),) * axis + (slice(valid, None),)
    data[outside] = masked_value(op, data.dtype)
    return [Tile(data, x.extent)]


def masked_value(op: Any, dtype: np.dtype[Any]) -> Any:
    """The constant of a `mask`, as a code where the tile holds codes."""
    fmt = op.args[0].type.format
    if fmt is not None and fmt.bits <= 8:
        return numerics.encode(np.float32(op.value.data), fmt)[()]
    return dtype.type(op.value.data)


def _encode(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    x, given = tiles[0], given_levels(op)
    recipe = scaled.with_policy(op.recipe.data, op.policy.data, x.data.ndim)
    blocks = recipe.blocks(x.data.ndim)
    operands: list[Array] = []
    for i, level in enumerate(given, 1):
        wanted = [_blocks_of(e, b) for e, b in zip(x.extent, blocks[level], strict=True)]
        pairs = zip(tiles[i].extent, wanted, strict=True)
        names = (operand_name(op, i), operand_name(op, 0))
        common = [meet(op, axis, list(zip(names, pair, strict=True))) for axis, pair in enumerate(pairs)]
        operands.append(clipped(tiles[i].data, common, mode))
    operands += [t.data for t in tiles[1 + len(given) :]]
    value = scaled.quantize(x.data, recipe, given, operands, mode.mode, _place(op, mode.mode))
    out = [Tile(value.codes, x.extent)]
    for level, (scale, block) in enumerate(zip(value.scales, blocks, strict=True)):
        if level not in given:
            out.append(Tile(scale, tuple(_blocks_of(e, b) for e, b in zip(x.extent, block, strict=True))))
    inner = tuple(_blocks_of(e, b) for e, b in zip(x.extent, blocks[-1], strict=True))
    return out + [Tile(extra, inner) for extra in (value.zero_point, value.offset) if extra is not None]


def _blocks_of(e: Extent, block: int | None) -> Extent:
    if block is None:
        return exact(1)
    return Extent(-(-e.low // block), -(-e.high // block))


def _place(op: Any, mode: Mode) -> scaled.IndexOffset | None:
    """Where the tile lies in its tensor: the flat index of its first element, and the strides of the axes."""
    if op.origin is None or op.extent is None:
        return None
    extent = mode.shape(op.extent.data)
    strides = row_major_strides(extent)
    return sum(mode.size(o) * s for o, s in zip(op.origin.data, strides, strict=True)), strides


TILE_MEANING: dict[type[Operation], TileMeaning] = {
    tile_ops.DotOp: _dot,
    tile_ops.DotScaledOp: _dot_scaled,
    tile_ops.ExpandOp: _expand,
    tile_ops.UnpackOp: _unpack,
    tile_ops.PackOp: _pack,
    tile_ops.UnswizzleOp: _unswizzle,
    tile_ops.MaskOp: _mask,
    tile_ops.EncodeOp: _encode,
}
