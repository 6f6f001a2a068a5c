"""Two checkpoints held against each other, weight by weight, by the values that they decode to.

Values are decoded in runs of rows, so that memory holds one stored weight of each side and a run, not its values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf, lcm, prod, sqrt
from typing import Any, Literal

import numpy as np

from breccia.checkpoint.checkpoint import Checkpoint
from breccia.errors import FormatError
from breccia.tensor import ScaledTensor, assembled

HostArray = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
Verdict = Literal["equal", "differs", "another shape", "only in A", "only in B"]

RUN = 1 << 20
"""Values decoded at a time, unless one row of blocks has more."""


@dataclass(frozen=True)
class Comparison:
    """What became of one weight. Figures are of decoded values; they are 0 where nothing was compared."""

    name: str
    verdict: Verdict
    size: int = 0
    """Values compared."""
    unequal: int = 0
    """Values that differ. NaN is equal to NaN, and -0 to 0."""
    largest: float = 0.0
    """The largest difference; infinite where one side alone is NaN or infinite."""
    relative: float = 0.0
    """The norm of the differences, relative to that of A's finite values."""
    detail: str = ""

    def within(self, tolerance: float) -> bool:
        """Whether it is equal, or differs by a relative norm of at most `tolerance`."""
        return self.verdict == "equal" or (self.verdict == "differs" and 0 < tolerance >= self.relative)


def compare(
    a: Checkpoint, b: Checkpoint, *, rename: Callable[[str], str] = str, only: tuple[str, ...] = ()
) -> Iterator[Comparison]:
    """Compare every weight of two checkpoints, in the order of A, then what only B has.

    rename: gives A's name for a name of B. only: parts of names, of which one must be in A's name; all by default.

    Raises FormatError where two names of B become one, or a weight cannot be read.

    >>> import tempfile, pathlib, breccia
    >>> from breccia.checkpoint import open_checkpoint
    >>> x = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     one, two = pathlib.Path(folder) / "1.safetensors", pathlib.Path(folder) / "2.safetensors"
    ...     st = breccia.cast(x, breccia.recipes.mxfp4)
    ...     breccia.save_safetensors({"w": st}, one)
    ...     breccia.save_safetensors({"w": st.numpy()}, two)
    ...     with open_checkpoint(one) as a, open_checkpoint(two) as b:
    ...         print(*(each.verdict for each in compare(a, b)))
    equal
    """
    theirs: dict[str, str] = {}
    for name in b:
        renamed = rename(name)
        if renamed in theirs:
            raise FormatError(f"{b.path}: {theirs[renamed]!r} and {name!r} would both be called {renamed!r}")
        theirs[renamed] = name

    def chosen(name: str) -> bool:
        return not only or any(part in name for part in only)

    for name in filter(chosen, a):
        if name in theirs:
            yield _compared(name, a, b, theirs[name])
        else:
            yield Comparison(name, "only in A")
    for name in filter(chosen, theirs):
        if name not in a:
            yield Comparison(name, "only in B", detail=theirs[name] if theirs[name] != name else "")


def _compared(name: str, a: Checkpoint, b: Checkpoint, theirs: str) -> Comparison:
    shapes = a.weights[name].shape, b.weights[theirs].shape
    if shapes[0] != shapes[1]:
        return Comparison(name, "another shape", detail=f"{shapes[0]} and {shapes[1]}")
    x, y = a[name], b[theirs]
    unequal, largest, squares, norm = 0, 0.0, 0.0, 0.0
    for part in _runs(shapes[0], lcm(_border(x), _border(y))):
        u, v = _values(x, part), _values(y, part)
        apart = ~((u == v) | ((u != u) & (v != v)))
        norm += _squares(u[np.isfinite(u)])
        if not np.any(apart):
            continue
        unequal += int(np.count_nonzero(apart))
        with np.errstate(invalid="ignore", over="ignore"):
            differences = np.abs(_wide(u[apart]) - _wide(v[apart]))
        differences = np.where(np.isnan(differences), inf, differences)
        largest = max(largest, float(differences.max()))
        squares += _squares(differences)
    if not unequal:
        return Comparison(name, "equal", prod(shapes[0]))
    relative = sqrt(squares / norm) if norm else inf
    return Comparison(name, "differs", prod(shapes[0]), unequal, largest, relative)


def _runs(shape: Shape, border: int) -> Iterator[slice | None]:
    """Runs of rows that start at multiples of `border`, of at most RUN values where that is possible; None is all."""
    if len(shape) < 2:
        yield None
        return
    row = max(prod(shape[1:]), 1)
    step = max(RUN // row // border, 1) * border
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _border(x: ScaledTensor | HostArray) -> int:
    """The number of rows that blocks span together; 1 where blocks span all rows, since their scale is then one."""
    if not isinstance(x, ScaledTensor) or x.ndim < 2:
        return 1
    return lcm(*(block[0] for block in x.recipe.blocks(x.ndim) if block[0] is not None))


def _values(x: ScaledTensor | HostArray, rows: slice | None) -> HostArray:
    """The values of these rows: of ScaledTensors and floats of 16 bits and less in float32, others as they are."""
    if isinstance(x, ScaledTensor):
        return np.asarray((x if rows is None else _rows(x, rows)).dequantize("float32"))
    part = x if rows is None else x[rows]
    return part if part.dtype.kind in "biufc" and part.dtype.itemsize > 2 else part.astype(np.float32)


def _rows(x: ScaledTensor, rows: slice) -> ScaledTensor:
    """These rows of a tensor of two axes or more, whose packing runs along the last one: views, no copies."""

    def side(grid: HostArray, width: int | None) -> HostArray:
        return grid if width is None or not grid.ndim else grid[rows.start // width : -(-rows.stop // width)]

    widths = [block[0] for block in x.recipe.blocks(x.ndim)]
    scales = tuple(side(grid, width) for grid, width in zip(x.scales, widths, strict=True))
    extra = [None if grid is None else side(grid, widths[-1]) for grid in (x.zero_point, x.offset)]
    shape = (rows.stop - rows.start, *x.shape[1:])
    return assembled(x.data[rows], scales, x.recipe, extra[0], extra[1], shape, x.dtype)


def _wide(x: HostArray) -> HostArray:
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def _squares(x: HostArray) -> float:
    flat = np.abs(_wide(x)).reshape(-1)
    with np.errstate(over="ignore"):
        return float(np.dot(flat, flat))
