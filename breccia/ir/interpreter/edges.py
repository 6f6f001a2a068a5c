"""What happens at the edges of tiles to ops that also work on whole tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from xdsl.ir import Operation

from breccia.ir import array_ops, scaled_ops
from breccia.ir.interpreter.tiles import (
    TILE_MEANING,
    Extent,
    Tile,
    TileMeaning,
    TileMode,
    axis_is_one,
    broadcast_together,
    clipped,
    exact,
    meet,
    operand_name,
)
from breccia.ir.interpreter.values import Array, InterpreterError
from breccia.ir.interpreter.whole import MEANING


def elastic(data: Array) -> Tile:
    """A value that fits any window: constants and positions."""
    return Tile(data, tuple(Extent(0 if n > 1 else n, n) for n in data.shape))


def _constant(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    return [elastic(MEANING[type(op)](op, [], mode.mode)[0])]


def _elementwise(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    data, extent = broadcast_together(op, tiles, mode)
    return [Tile(r, extent) for r in MEANING[type(op)](op, data, mode.mode)]


def _reduce(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    (x,) = tiles
    (data,) = MEANING[type(op)](op, [x.data], mode.mode)
    return [Tile(data, tuple(exact(1) if i in op.axes.data else e for i, e in enumerate(x.extent)))]


def _transpose(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    order = op.order.data
    return [Tile(np.transpose(tiles[0].data, order), tuple(tiles[0].extent[i] for i in order))]


def _broadcast(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    (x,), shape = tiles, mode.mode.shape(op.shape.data)
    new = len(shape) - x.data.ndim
    extent: list[Extent] = []
    for axis, size in enumerate(shape):
        old = axis - new
        widened = old < 0 or (axis_is_one(op.args[0].type, old) and size != 1)
        extent.append(Extent(0 if size > 1 else size, size) if widened else x.extent[old])
    target = [n if mode.padded else e.high for n, e in zip(shape, extent, strict=True)]
    return [Tile(np.broadcast_to(x.data, target), tuple(extent))]


def _reshape(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    """Axes of size 1 come and go; anything else only on tiles that are full."""
    (x,), old, new = tiles, op.args[0].type.shape, op.out.type.shape
    if [d for d in old if d != 1] == [d for d in new if d != 1]:
        kept = iter([(n, e) for n, e, d in zip(x.data.shape, x.extent, old, strict=True) if d != 1])
        pairs = [(1, exact(1)) if d == 1 else next(kept) for d in new]
        return [Tile(x.data.reshape([n for n, _ in pairs]), tuple(e for _, e in pairs))]
    full = mode.mode.shape(old)
    if any(e.high != n or not (e.elastic or e.low == n) for e, n in zip(x.extent, full, strict=True)):
        raise InterpreterError(
            f"{op.name}: {operand_name(op, 0)} has {' x '.join(map(str, x.extent))} of {' x '.join(map(str, full))} "
            "elements here; only full tiles can be regrouped"
        )
    data = x.data.reshape(mode.mode.shape(new))
    if all(e.elastic or e.high == 1 for e in x.extent):
        return [elastic(data)]
    return [Tile(data, tuple(exact(n) for n in data.shape))]


def _slice(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    (x,), axis = tiles, op.axis.data
    start, stop = mode.mode.size(op.start.data[0]), mode.mode.size(op.stop.data[0])
    full = mode.mode.size(op.args[0].type.shape[axis])
    if not 0 <= start <= stop <= full:
        raise InterpreterError(f"{op.name}: {start} to {stop} is out of range on tile axis {axis} of {full} elements")
    e = x.extent[axis]
    low, high = (max(0, min(n, stop) - start) for n in (e.low, e.high))
    cut = Extent(low, high)
    data = x.data[(slice(None),) * axis + (slice(start, stop),)]
    return [Tile(data, tuple(cut if i == axis else old for i, old in enumerate(x.extent)))]


def _concat(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
    axis, last = op.axis.data, len(tiles) - 1
    for i, (tile, arg) in enumerate(zip(tiles[:-1], op.args[:-1], strict=True)):
        full = mode.mode.size(arg.type.shape[axis])
        if tile.extent[axis].high != full:
            raise InterpreterError(
                f"{op.name}: {operand_name(op, i)} has {tile.extent[axis]} of {full} elements on tile axis {axis}; "
                "only the last part may be smaller than its tile"
            )
    extent: list[Extent] = []
    for i in range(tiles[0].data.ndim):
        if i != axis:
            extent.append(meet(op, i, [(operand_name(op, j), t.extent[i]) for j, t in enumerate(tiles)]))
        else:
            before = sum(t.extent[i].high for t in tiles[:-1])
            extent.append(Extent(before + tiles[last].extent[i].low, before + tiles[last].extent[i].high))
    cuts = [[t.extent[i] if i == axis else e for i, e in enumerate(extent)] for t in tiles]
    parts = [clipped(t.data, cut, mode) for t, cut in zip(tiles, cuts, strict=True)]
    return [Tile(np.concatenate(parts, axis=axis), tuple(extent))]


def _whole(extents: Callable[[Sequence[Tile]], tuple[Extent, ...]]) -> TileMeaning:
    def run(op: Any, tiles: list[Tile], mode: TileMode) -> list[Tile]:
        (data,) = MEANING[type(op)](op, [t.data for t in tiles], mode.mode)
        return [Tile(data, extents(tiles))]

    return run


MEANING_ON_TILES: dict[type[Operation], TileMeaning] = {
    **TILE_MEANING,
    array_ops.FullOp: _constant,
    array_ops.IotaOp: _constant,
    array_ops.UnaryOp: _elementwise,
    array_ops.BinaryOp: _elementwise,
    array_ops.SelectOp: _elementwise,
    array_ops.ConvertOp: _elementwise,
    array_ops.ReduceOp: _reduce,
    array_ops.BroadcastOp: _broadcast,
    array_ops.TransposeOp: _transpose,
    array_ops.ReshapeOp: _reshape,
    array_ops.SliceOp: _slice,
    array_ops.ConcatOp: _concat,
    scaled_ops.ScaleFromAmaxOp: _elementwise,
    scaled_ops.HistoryUpdateOp: _whole(lambda tiles: tiles[0].extent),
    scaled_ops.AmaxFromHistoryOp: _whole(lambda _: (exact(1),)),
}
"""Every op that may stand in a region of a tiled kernel."""
