"""Decoding on NumPy in slabs that stay in cache: one gather for two codes, then the scales where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import lcm, prod
from typing import Any

import numpy as np

from breccia.arrays.numpy import CHUNK
from breccia.formats import Format
from breccia.numerics.decode import code_bits
from breccia.numerics.fast import pair_table
from breccia.numerics.pack import unpack

Array = np.ndarray[Any, np.dtype[Any]]
Block = tuple[int | None, ...]
Spread = tuple[Array, Block]
"""float32, one entry for each block; a block is None along an axis that one entry serves."""


def dequantize(
    codes: Array, fmt: Format, scales: Sequence[Spread] = (), zero: Spread | None = None, size: int | None = None
) -> Array:
    """`((E(e) - zero) * scales[0]) * scales[1] ...` in float32, rounded after each step.

    codes: uint8, one a byte; with `size`, packed bytes that hold `size` codes along the last axis.

    >>> from breccia import formats
    >>> dequantize(np.array([[1, 7]], np.uint8), formats.float4_e2m1fn, [(np.float32([[2.0]]), (1, 2))]).tolist()
    [[1.0, 12.0]]
    """
    if size is None and codes.ndim == 2 and codes.flags.f_contiguous and not codes.flags.c_contiguous:
        turned = [(grid.T, block[::-1]) for grid, block in scales]
        return dequantize(codes.T, fmt, turned, None if zero is None else (zero[0].T, zero[1][::-1])).T
    shape = codes.shape if size is None else (*codes.shape[:-1], size)
    out = np.empty(shape, np.float32)
    if len(shape) < 2:
        return _flat(codes, fmt, scales, zero, size)
    if not out.size:
        return out
    lead = next((i for i, n in enumerate(shape[:-1]) if n > 1), 0)
    rows = out.reshape(shape[lead:])
    read = _reader(codes, fmt, size, len(rows))
    steps = [(np.subtract, *_from_axis(zero, lead))] if zero is not None else []
    steps += [(np.multiply, *_from_axis(scale, lead)) for scale in scales]
    height = max(1, CHUNK // prod(rows.shape[1:]))
    together = lcm(*(block[0] or 1 for _, _, block in steps))
    height = height // together * together or height
    for start in range(0, len(rows), height):
        slab = rows[start : start + height]
        read(start, slab)
        for function, grid, block in steps:
            _apply(function, slab, start, grid, block)
    return out


def _flat(codes: Array, fmt: Format, scales: Sequence[Spread], zero: Spread | None, size: int | None) -> Array:
    """The same for rank 0 and 1."""
    if codes.ndim == 0:
        return dequantize(codes.reshape(1, 1), fmt, [(g.reshape(1, 1), (None, None)) for g, _ in scales]).reshape(())
    wide = [(grid[None], (None, *block)) for grid, block in scales]
    return dequantize(codes[None], fmt, wide, None if zero is None else (zero[0][None], (None, *zero[1])), size)[0]


def _from_axis(spread: Spread, axis: int) -> Spread:
    """The same without leading axes, which have size 1."""
    grid, block = spread
    return grid.reshape(grid.shape[axis:]), block[axis:]


def _reader(codes: Array, fmt: Format, size: int | None, count: int) -> Callable[[int, Array], None]:
    """A function that decodes rows from `start` on into a slab; two codes at a time where rows are whole words."""
    words, table = codes, pair_table(fmt) if fmt.bits in (4, 8) else _single(fmt)
    if size is not None and (fmt.bits != 4 or size % 2):
        words, table = unpack(np.ascontiguousarray(codes), fmt, size), _single(fmt)
    elif size is None and fmt.bits == 8 and codes.shape[-1] % 2 == 0:
        words = np.ascontiguousarray(codes).view(np.uint16)
    elif size is None:
        table = _single(fmt)
    words = words.reshape(count, -1)

    def read(start: int, slab: Array) -> None:
        target = slab.reshape(len(slab), -1).view(table.dtype)
        table.take(words[start : start + len(slab)], out=target, mode="clip")

    return read


@lru_cache(maxsize=32)
def _single(fmt: Format) -> Array:
    table = np.array(code_bits(fmt), np.uint32).view(np.float32)
    table.setflags(write=False)
    return table


def _apply(function: Any, slab: Array, start: int, grid: Array, block: Block) -> None:
    """`slab = function(slab, grid)`, where slab holds the rows from `start` on."""
    rows, stop = block[0], start + len(slab)
    if rows == 1:
        grid = grid[start:stop]
    elif rows is not None and start % rows == 0 and len(slab) % rows == 0:
        slab = slab.reshape(len(slab) // rows, rows, *slab.shape[1:])
        grid = grid[start // rows : stop // rows, None]
    elif rows is not None:
        grid = grid.take(np.arange(start, stop) // rows, axis=0)
    first = slab.ndim - len(block) + 1
    for axis, width in enumerate(block[1:-1], first):
        if width is not None and width > 1:
            grid = grid.take(np.arange(slab.shape[axis]) // width, axis=axis)
    width = block[-1]
    if width is None or width == 1:
        function(slab, grid, out=slab)
        return
    whole = slab.shape[-1] // width
    body = slab[..., : whole * width].reshape(*slab.shape[:-1], whole, width)
    function(body, grid[..., :whole, None], out=body)
    if slab.shape[-1] % width:
        tail = slab[..., whole * width :]
        function(tail, grid[..., whole : whole + 1], out=tail)
