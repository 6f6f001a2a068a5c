"""Decoding of packed storage by tables of pairs, on NumPy: the same bits as `dequantize`, several times faster."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from breccia.arrays import numpy as xp
from breccia.arrays import softfloat
from breccia.formats import Format
from breccia.numerics.decode import code_bits
from breccia.numerics.scale_rules import level_grids
from breccia.recipes import Block, Recipe

Array = np.ndarray[Any, np.dtype[Any]]
_SMALL = 1 << 16


def dequantize_storage(data: Array, shape: tuple[int, ...], scales: tuple[Array, ...], recipe: Recipe) -> Array | None:
    """float32 values of canonical storage without zero point or offset; None where this way does not apply.

    It applies to 4- and 8-bit elements when no pair of neighbours lies in two blocks. One gather decodes two elements.
    """
    block = recipe.blocks(len(shape))[-1]
    if not _applies(data, shape, block, recipe) or softfloat.host_flushes():
        return None
    grids = list(reversed(level_grids(xp, scales, recipe, shape)))
    table = pair_table(recipe.element)
    with np.errstate(all="ignore"):
        if all(grid.size == 1 for grid in grids):
            values = table.view(np.float32)
            for grid in grids:
                values = values * grid.reshape(-1)
            table, grids = values.view(np.uint64), []
        return _gather(data, shape, table, grids, block)


def _applies(data: Array, shape: tuple[int, ...], block: Block, recipe: Recipe) -> bool:
    element = recipe.element
    plain = recipe.zero_point is None and recipe.offset is None and element.bits in (4, 8)
    even = shape[-1] % 2 == 0 and (block[-1] is None or block[-1] % 2 == 0)
    return plain and even and data.size > _SMALL and data.flags.c_contiguous


def _gather(data: Array, shape: tuple[int, ...], table: Array, grids: list[Array], block: Block) -> Array:
    pairs = data if table.size == 256 else data.view(np.uint16)
    halved = (*block[:-1], None if block[-1] is None else block[-1] // 2)
    out = np.empty(pairs.shape, np.uint64)
    for array, grid, split in xp.whole_block_parts(pairs.shape, halved):
        source, target = pairs[array].reshape(split), out[array].reshape(split)
        wide = [xp.spread(g, grid) for g in grids]
        for axis, piece in xp.chunks(split):
            here = (slice(None),) * axis + (piece,)
            goal = target[here]
            table.take(source[here], out=goal, mode="clip")
            values = goal.view(np.float32)
            for g in wide:
                np.multiply(values, xp.cut_grid(g, axis, piece), out=values)
    return out.view(np.float32).reshape(shape)


@lru_cache(maxsize=16)
def pair_table(element: Format) -> Array:
    """Two float32 in a uint64 for each byte of two 4-bit codes, or each uint16 of two 8-bit codes."""
    single = np.array(code_bits(element), np.uint32)
    table = np.empty((single.size, single.size, 2), np.uint32)
    table[..., 0], table[..., 1] = single[None, :], single[:, None]
    table.setflags(write=False)
    return table.reshape(-1).view(np.uint64)
