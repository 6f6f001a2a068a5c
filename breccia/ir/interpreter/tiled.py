"""Runs a tiled kernel window by window: the definition of what its grid, windows and regions mean.

Programs are the points of the parallel and sequential dimensions, in order. Each runs `init`, then `step` once for
every point of the reduction dimensions, then `finish`, and stores what that yields. A program whose output window is
empty does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from xdsl.ir import Block, Operation

from breccia.errors import ShapeError
from breccia.ir.interpreter.edges import MEANING_ON_TILES
from breccia.ir.interpreter.tiles import Tile, TileMode, exact
from breccia.ir.interpreter.values import Array, InterpreterError, Mode, Value, array_dtype
from breccia.ir.interpreter.whole import run_block
from breccia.ir.kernel import KernelOp
from breccia.ir.tiling import GridDim, Window
from breccia.ir.types import TensorType, format_of

Range = tuple[int, int]


def run_tiled(op: KernelOp, values: Sequence[Value], mode: Mode, pad: Literal["nan", "zero"] | None) -> list[Array]:
    """The results of a tiled kernel.

    pad: what stands in the part of a tile that lies outside its tensor; None for smaller tiles instead.
    Raises InterpreterError for extents that differ, reads outside, and output elements written twice or never.
    """
    arrays = [np.asarray(v) for v in values]
    run = _Run(op, arrays, mode, pad)
    try:
        for point in run.programs():
            run.program(point)
    except ShapeError as error:
        raise InterpreterError(str(error)) from None
    return run.finished()


@dataclass
class _Output:
    """A result under construction. `written` counts how often each element was stored."""

    data: Array
    window: Window
    type: TensorType
    written: Array = field(init=False)

    def __post_init__(self) -> None:
        self.written = np.zeros(self.data.shape, np.int32)


class _Run:
    """One run of one kernel."""

    def __init__(self, op: KernelOp, values: list[Array], mode: Mode, pad: str | None) -> None:
        self.op, self.values, self.pad = op, values, pad
        self.mode = replace(mode, lookup=self._lookup)
        self.names = op.operand_names()
        self.outputs = [_output(o.type, w, self.mode) for o, w in zip(op.outs, op.tiles.outputs, strict=True)]

    def _lookup(self, operand: int, index: int) -> int:
        table = self.values[operand]
        if table.ndim != 1 or not 0 <= index < len(table):
            raise InterpreterError(f"{self.names[operand]}[{index}] is out of range for a table of shape {table.shape}")
        return int(table[index])

    # ---- the grid --------------------------------------------------------------------------------------------------

    def programs(self) -> Iterator[dict[str, int]]:
        """Sizes, extended by the coordinates of each program."""
        return self._points([d for d in self.op.tiles.grid if d.kind != "reduction"], dict(self.mode.sizes))

    def _points(self, grid: Sequence[GridDim], sizes: dict[str, int]) -> Iterator[dict[str, int]]:
        if not grid:
            yield sizes
            return
        for i in range(self._at(sizes).size(grid[0].extent)):
            yield from self._points(grid[1:], {**sizes, grid[0].name: i})

    def _at(self, sizes: Mapping[str, int]) -> Mode:
        return replace(self.mode, sizes=sizes)

    def program(self, point: dict[str, int]) -> None:
        """Run the program at one point and store its results."""
        tiles, here = self.op.tiles, self._at(point)
        places = [window_ranges(o.window, o.data.shape, here) for o in self.outputs]
        if any(start >= stop for ranges in places for start, stop in ranges):
            return
        carried = self._region(self.op.init.block, [], here) if self.op.init.blocks else []
        if self.op.step.blocks:
            for inner in self._points(tiles.dims("reduction"), point):
                now = self._at(inner)
                carried = self._region(
                    self.op.step.block, carried + [self._fetch(i, now) for i in tiles.step_uses], now
                )
        results = self._region(self.op.finish.block, carried + [self._fetch(i, here) for i in tiles.finish_uses], here)
        for i, (tile, ranges) in enumerate(zip(results, places, strict=True)):
            self._store(i, tile, ranges, point)

    def _region(self, block: Block, tiles: list[Tile], mode: Mode) -> list[Tile]:
        how = TileMode(mode, self.pad is not None)

        def run_op(op: Operation, given: list[Any]) -> list[Any]:
            meaning = MEANING_ON_TILES.get(type(op))
            if meaning is None:
                raise InterpreterError(f"{op.name} has no meaning on tiles; spell it out in components")
            return meaning(op, given, how)

        arguments: list[Any] = list(tiles)
        results: list[Any] = run_block(block, arguments, run_op)
        return results

    # ---- windows ---------------------------------------------------------------------------------------------------

    def _fetch(self, i: int, mode: Mode) -> Tile:
        window, value, type_ = self.op.tiles.inputs[i], self.values[i], self.op.args[i].type
        assert window is not None, "the verifier lets regions use windowed operands only"
        assert isinstance(type_, TensorType), "tiled kernels take plain components"
        ranges = window_ranges(window, value.shape, mode)
        for axis, ((start, stop), size) in enumerate(zip(ranges, value.shape, strict=True)):
            if start < 0 or (start >= size > 0) or (stop <= start and size > 0):
                where = ", ".join(
                    f"{d.name} = {mode.sizes[d.name]}" for d in self.op.tiles.grid if d.name in mode.sizes
                )
                raise InterpreterError(
                    f"{self.names[i]}: the window at ({where}) starts at element {start} of axis {axis}, "
                    f"which has {size}"
                )
        tile = value[tuple(slice(*r) for r in ranges)]
        squeezed = tuple(a for a, b in enumerate(window.block) if b is None)
        extent = tuple(exact(tile.shape[a]) for a in window.kept_axes)
        kept = [n for a, n in enumerate(tile.shape) if a not in squeezed]
        data = np.ascontiguousarray(tile).reshape(kept)  # reshaped last: a contiguous copy has one axis or more
        return Tile(self._padded(data, mode.shape(window.tile), type_), extent)

    def _padded(self, data: Array, full: tuple[int, ...], type_: TensorType) -> Array:
        if self.pad is None or data.shape == full:
            return data
        out = np.full(full, poison(type_) if self.pad == "nan" else 0, data.dtype)
        out[tuple(slice(n) for n in data.shape)] = data
        return out

    def _store(self, i: int, tile: Tile, ranges: list[Range], point: Mapping[str, int]) -> None:
        out = self.outputs[i]
        sizes = [ranges[a][1] - ranges[a][0] for a in out.window.kept_axes]
        for axis, (e, n) in enumerate(zip(tile.extent, sizes, strict=True)):
            if not e.low <= n <= e.high:
                raise InterpreterError(
                    f"result {i}: a tile of {e} elements on axis {axis} is stored in a window of {n} elements"
                )
        place = tuple(slice(*r) for r in ranges)
        if out.window.combine is None and np.any(out.written[place]):
            where = ", ".join(f"{d.name} = {point[d.name]}" for d in self.op.tiles.grid if d.name in point)
            raise InterpreterError(f"result {i}: the program at ({where}) writes elements that another one wrote")
        data = tile.data[tuple(slice(n) for n in sizes)].reshape(out.data[place].shape).astype(out.data.dtype)
        if out.window.combine == "add":
            data = out.data[place] + data
        elif out.window.combine == "max":
            data = np.maximum(out.data[place], data)
        out.data[place] = data
        out.written[place] += 1

    def finished(self) -> list[Array]:
        """The results, once every element has been written.

        Where programs combine into segments, rows of no segment stay as they began.
        """
        for i, out in enumerate(self.outputs):
            if out.window.combine is not None and out.window.segment is not None:
                continue
            if not np.all(out.written):
                first = [int(n) for n in np.argwhere(out.written == 0)[0]]
                raise InterpreterError(
                    f"result {i}: {int(np.sum(out.written == 0))} of {out.data.size} elements were never written, "
                    f"first at {first}"
                )
        return [out.data for out in self.outputs]


def _output(type_: Any, window: Window, mode: Mode) -> _Output:
    dtype = array_dtype(type_.dtype, mode.wide)
    start: Any = 0
    if window.combine == "max":
        start = -np.inf if dtype.kind == "f" or dtype.kind == "V" else np.iinfo(dtype).min
    return _Output(np.full(mode.shape(type_.shape), start, dtype), window, type_)


def window_ranges(window: Window, shape: Sequence[int], mode: Mode) -> list[Range]:
    """The elements of each axis that a window shows: `[base + i * block, min(base + (i + 1) * block, limit, size))`."""
    out: list[Range] = []
    for axis, (block, index, size) in enumerate(zip(window.block, window.index, shape, strict=True)):
        width = 1 if block is None else mode.size(block)
        start = mode.size(index) * width
        stop = start + width
        if window.segment is not None and window.segment.axis == axis:
            base, limit = mode.size(window.segment.base), mode.size(window.segment.limit)
            start, stop = base + start, min(base + stop, limit)
        out.append((start, min(stop, size)))
    return out


def poison(type_: TensorType) -> Any:
    """What must not reach a result: NaN, the NaN code, or the code with all bits set; a large number for integers."""
    fmt = format_of(type_.dtype)
    if fmt is None:
        return True if str(type_.dtype) == "i1" else 2**30 + 1
    if fmt.bits > 8:
        return np.nan
    return fmt.nan_code if fmt.nan_code is not None else (1 << fmt.bits) - 1
