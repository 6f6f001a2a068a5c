"""What a tiling must satisfy, checked without data: range, coverage, and no races.

Grids are enumerated for a few values of their symbols, with at most three blocks an axis. Axes of a window that share
no grid dimension are looked at one by one, so that large static grids stay cheap. Look-ups and segments depend on data
and are left to the interpreter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from xdsl.ir import Block
from xdsl.utils.exceptions import VerifyException

from breccia.errors import ShapeError
from breccia.ir import dims
from breccia.ir.tile_ops import EncodeOp
from breccia.ir.tiling import GridDim, Tiling, Window, show_window
from breccia.ir.types import TensorType
from breccia.recipes import Block as RecipeBlock

Array = np.ndarray[Any, np.dtype[np.int64]]


def check_tiling(tiling: Tiling, windowed: list[tuple[str, TensorType]], names: list[str]) -> None:
    """Raise VerifyException naming the operand and the blocks.

    windowed: name and storage type of every operand with a window, then of every result. names: of all operands, for
    look-ups.
    """
    problem = _problem(tiling, tuple(windowed), tuple(names))
    if problem:
        raise VerifyException(problem)


@lru_cache(maxsize=4096)
def _problem(tiling: Tiling, windowed: tuple[tuple[str, TensorType], ...], names: tuple[str, ...]) -> str:
    """The first problem, or an empty text. Kernels are verified after every pass, mostly unchanged: hence the cache."""
    check = _Check(tiling, windowed, names)
    return next(check.problems(), "")


@dataclass(frozen=True)
class _Placed:
    """One window with what it lies over. output: a result rather than an operand; reduces: `step` reads it."""

    name: str
    type: TensorType
    window: Window
    output: bool
    used: bool
    dims: frozenset[str]


class _Check:
    def __init__(self, tiling: Tiling, windowed: Sequence[tuple[str, TensorType]], names: Sequence[str]) -> None:
        self.tiling, self.names = tiling, names
        self.grid = {d.name: d for d in tiling.grid}
        self.program = [d.name for d in tiling.grid if d.kind != "reduction"]
        self.placed = list(self._place(windowed))
        self._known_points: dict[Any, dict[str, Array]] = {}
        self._known_groups: dict[int, list[list[int]]] = {}

    def _place(self, windowed: Sequence[tuple[str, TensorType]]) -> Iterator[_Placed]:
        inputs = [(i, w) for i, w in enumerate(self.tiling.inputs) if w is not None]
        program, every = frozenset(self.program), frozenset(self.grid)
        for (name, type_), (i, window) in zip(windowed, inputs, strict=False):
            used = i in self.tiling.step_uses or i in self.tiling.finish_uses
            known = program if i in self.tiling.finish_uses else every
            yield _Placed(name, type_, window, False, used, known)
        for (name, type_), window in zip(windowed[len(inputs) :], self.tiling.outputs, strict=True):
            yield _Placed(name, type_, window, True, True, program)

    def problems(self) -> Iterator[str]:
        yield from self._grid_problems()
        for p in self.placed:
            yield from self._name_problems(p)
        for sizes in self._samples():
            for p in self.placed:
                yield from self._window_problems(p, sizes)

    # ---- names -----------------------------------------------------------------------------------------------------

    def _grid_problems(self) -> Iterator[str]:
        symbols = {s for p in self.placed for d in p.type.shape for s in dims.symbols(d)}
        seen: set[str] = set()
        for d in self.tiling.grid:
            if d.name in seen or d.name in symbols:
                yield f"grid dimension {d.name}: the name stands for something else already"
            later = dims.symbols(d.extent) & (set(self.grid) - seen)
            if later:
                yield (
                    f"grid dimension {d.name}: its extent {dims.show(d.extent)} uses {', '.join(sorted(later))}, "
                    "which does not stand before it"
                )
            wrong = {s for s in dims.symbols(d.extent) & set(self.grid) if self.grid[s].kind == "reduction"}
            if wrong and d.kind != "reduction":
                yield f"grid dimension {d.name}: its extent uses {', '.join(sorted(wrong))}, a reduction dimension"
            unknown = dims.symbols(d.extent) - set(self.grid) - symbols
            if unknown and None not in self.tiling.inputs:  # a table's size is not known here
                yield (
                    f"grid dimension {d.name}: its extent uses {', '.join(sorted(unknown))}, which is no size of an "
                    "operand or result"
                )
            seen.add(d.name)

    def _name_problems(self, p: _Placed) -> Iterator[str]:
        if not p.used:
            yield f"{p.name}: it has a window, but neither step nor finish reads it"
        segment = (p.window.segment.base, p.window.segment.limit) if p.window.segment else ()
        for expression in (*p.window.index, *segment):
            outside = (dims.symbols(expression) & set(self.grid)) - p.dims
            if outside:
                what = "stored" if p.output else "read by finish"
                yield (
                    f"{p.name}: {self._shown(p)} uses {', '.join(sorted(outside))}, a reduction dimension, but it is "
                    f"{what} after the last step"
                )
        if p.window.combine and not p.output:
            yield f"{p.name}: {self._shown(p)}: only results can combine"
        if p.window.partial and p.output:
            yield f"{p.name}: {self._shown(p)}: results are written whole; `partial` is for operands"

    # ---- samples ---------------------------------------------------------------------------------------------------

    def _samples(self) -> Iterator[dict[str, int]]:
        """Values of the symbols: one element, a block, one more, and three blocks, the last partial; all mixed."""
        width: dict[str, int] = {}
        for p in self.placed:
            for size, block in zip(p.type.shape, p.window.block, strict=True):
                for s in dims.symbols(size):
                    width[s] = max(width.get(s, 1), block if isinstance(block, int) else 1)
        for d in self.tiling.grid:
            for s in dims.symbols(d.extent) - set(self.grid):
                width.setdefault(s, 1)
        seen: list[dict[str, int]] = []
        for first in range(4):
            choices = [(2 * b + 3, b + 1, b, 1)[(first + i) % 4] for i, b in enumerate(width.values())]
            sample = dict(zip(width, choices, strict=True))
            if sample not in seen:
                seen.append(sample)
                yield sample

    # ---- one window ------------------------------------------------------------------------------------------------

    def _window_problems(self, p: _Placed, sizes: dict[str, int]) -> Iterator[str]:
        try:
            shape = [int(dims.evaluate(d, sizes)) for d in p.type.shape]
            blocks = [1 if b is None else int(dims.evaluate(b, sizes)) for b in p.window.block]
        except ShapeError as error:
            yield f"{p.name}: {self._shown(p)}: {error}"
            return
        for axis, (b, size) in enumerate(zip(p.window.block, shape, strict=True)):
            if b is None and size != 1 and p.window.index[axis] == 0:
                yield f"{p.name}: {self._shown(p)} drops axis {axis}, which has {size} elements{_with(sizes)}"
        if min(shape, default=1) < 1 or min(blocks, default=1) < 1:
            return
        counts = [-(-n // b) for n, b in zip(shape, blocks, strict=True)]
        for axes in self._known_groups.get(id(p)) or self._known_groups.setdefault(id(p), self._groups(p)):
            yield from self._group_problems(p, axes, counts, sizes)
        if p.output and p.window.combine is None:
            yield from self._unused_dims(p, sizes)

    def _groups(self, p: _Placed) -> list[list[int]]:
        """Axes whose indices can be enumerated, grouped so that no two groups share a grid dimension."""
        groups: list[tuple[set[str], list[int]]] = []
        for axis, index in enumerate(p.window.index):
            if dims.has_lookup(index) or (p.window.segment and p.window.segment.axis == axis):
                continue
            used = self._closure(dims.symbols(index) & set(self.grid))
            if used is None:
                continue
            touching = [g for g in groups if g[0] & used]
            groups = [g for g in groups if not g[0] & used]
            groups.append((used.union(*(g[0] for g in touching)), [*(a for g in touching for a in g[1]), axis]))
        return [sorted(axes) for _, axes in groups]

    def _closure(self, names: Iterable[str]) -> set[str] | None:
        """Grid dimensions with those that their extents depend on; None where one depends on data."""
        out: set[str] = set()
        pending = list(names)
        while pending:
            d = self.grid[pending.pop()]
            if dims.has_lookup(d.extent):
                return None
            out.add(d.name)
            pending += [n for n in dims.symbols(d.extent) & set(self.grid) if n not in out]
        return out

    def _points(self, names: Iterable[str], sizes: Mapping[str, int]) -> dict[str, Array]:
        """All grid points, projected on `names`: one array of coordinates for each."""
        key = (frozenset(names), tuple(sizes.values()))
        if key in self._known_points:
            return self._known_points[key]
        columns: dict[str, Array] = {}
        count = 1
        for d in self._in_order(names):
            extent = np.broadcast_to(dims.evaluate(d.extent, {**sizes, **columns}), (count,))
            extent = np.maximum(np.asarray(extent, np.int64), 0)
            before = np.repeat(np.cumsum(extent) - extent, extent)
            columns = {n: np.repeat(c, extent) for n, c in columns.items()}
            columns[d.name] = np.arange(len(before)) - before
            count = len(before)
        self._known_points[key] = columns
        return columns

    def _in_order(self, names: Iterable[str]) -> list[GridDim]:
        wanted = set(names)
        return [d for d in self.tiling.grid if d.name in wanted]

    def _group_problems(self, p: _Placed, axes: list[int], counts: list[int], sizes: dict[str, int]) -> Iterator[str]:
        names = self._closure(n for a in axes for n in dims.symbols(p.window.index[a]) & set(self.grid))
        points = self._points(names or (), sizes)
        length = len(next(iter(points.values()))) if points else 1
        env = {**sizes, **points}
        flat = np.zeros(length, np.int64)
        for axis in axes:
            found = np.broadcast_to(np.asarray(dims.evaluate(p.window.index[axis], env), np.int64), (length,))
            outside = (found < 0) | (found >= counts[axis])
            if outside.any():
                yield (
                    f"{p.name}: {self._shown(p)} reaches block {found[outside][0]} on axis {axis}, which has blocks "
                    f"0 to {counts[axis] - 1}{_with(sizes)}"
                )
                return
            flat = flat * counts[axis] + found
        total = int(np.prod([counts[a] for a in axes]))
        hits = np.bincount(flat, minlength=total)
        if (hits == 0).any() and not p.window.partial:
            yield self._uncovered(p, axes, [counts[a] for a in axes], hits, sizes)
        if p.output and p.window.combine is None and (hits > 1).any():
            yield self._race(p, flat, int(np.argmax(hits > 1)), points, sizes)

    def _uncovered(self, p: _Placed, axes: list[int], counts: list[int], hits: Array, sizes: dict[str, int]) -> str:
        missing = np.argwhere(hits == 0)[:, 0]
        first = [int(i) for i in np.unravel_index(missing[0], counts)]
        where = ", ".join(f"block {i} of axis {a}" for i, a in zip(first, axes, strict=True))
        verb = "written" if p.output else "read"
        hint = "" if p.output else "; say `partial` if that is meant"
        return (
            f"{p.name}: {where} is never {verb} by {self._shown(p)} ({len(missing)} of {len(hits)} blocks are not)"
            f"{_with(sizes)}{hint}"
        )

    def _race(self, p: _Placed, flat: Array, block: int, points: Mapping[str, Array], sizes: dict[str, int]) -> str:
        first, second = np.argwhere(flat == block)[:2, 0]

        def at(i: int) -> str:
            return "(" + ", ".join(f"{n} = {c[i]}" for n, c in points.items()) + ")"

        return (
            f"{p.name}: the programs at {at(first)} and {at(second)} write one window, {self._shown(p)}{_with(sizes)}"
        )

    def _unused_dims(self, p: _Placed, sizes: dict[str, int]) -> Iterator[str]:
        """Program dimensions that the window does not mention would all write the same elements."""
        expressions = list(p.window.index)
        if p.window.segment:
            expressions += [p.window.segment.base, p.window.segment.limit]
        used = {n for e in expressions for n in dims.symbols(e)}
        for name in self.program:
            if name in used or dims.has_lookup(self.grid[name].extent):
                continue
            points = self._points(self._closure([name]) or (), sizes)
            if name in points and points[name].size and points[name].max() > 0:
                yield (
                    f"{p.name}: the programs at ({name} = 0) and ({name} = 1) write one window, {self._shown(p)}, "
                    f"which does not depend on {name}{_with(sizes)}; use `combine`, or a reduction dimension"
                )

    def _shown(self, p: _Placed) -> str:
        return show_window(p.window, lambda i: self.names[i])


def _with(sizes: Mapping[str, int]) -> str:
    return f" (with {', '.join(f'{s} = {n}' for s, n in sizes.items())})" if sizes else ""


def check_encodes(finish: Block, tiling: Tiling) -> None:
    """Raise VerifyException where tiles cut blocks of an `encode`: a block divides the tile, or spans the axis."""
    last = finish.last_op
    yielded = list(last.operands) if last is not None else []
    for op in finish.ops:
        if not isinstance(op, EncodeOp):
            continue
        given = op.given.data if op.given is not None else ()  # type: ignore[attr-defined]
        type_: Any = op.args[0].type
        blocks = [b for i, b in enumerate(op.recipe.data.blocks(type_.rank)) if i not in given]
        for scale, block in zip(op.outs[1:], blocks, strict=False):
            if scale in yielded:
                _check_blocks(type_, block, tiling.outputs[yielded.index(scale)], tiling)


def _check_blocks(type_: TensorType, block: RecipeBlock, window: Window, tiling: Tiling) -> None:
    grid = {d.name for d in tiling.grid}
    for axis, (b, size) in enumerate(zip(block, type_.shape, strict=True)):
        moves = dims.symbols(window.index[window.kept_axes[axis]]) & grid
        divides = b is not None and isinstance(size, int) and size % b == 0
        if moves and not divides and b != 1 and size != 1:
            what = "the whole axis" if b is None else f"blocks of {b}"
            raise VerifyException(
                f"encode: one scale for {what} on axis {axis}, but tiles of {dims.show(size)} elements move along "
                f"{', '.join(sorted(moves))}; widen the window to a multiple of it, or give the scales"
            )
