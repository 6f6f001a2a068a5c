"""Sizes to expect: what a call looked like for which code is made. They change speed and never a result.

func.func @f(%x: !breccia.tensor<[M, 4096], bf16>) attributes {breccia.typical = "M=4096"}
"""

from __future__ import annotations

from collections.abc import Mapping

from xdsl.dialects.builtin import StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation

from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.recipes import Recipe

ROWS_TOGETHER = "wgmma"
"""The feature of targets whose products read the scales of one step for many rows at once."""
TYPICAL = "breccia.typical"


def scales_of_rows(recipe: Recipe, rank: int) -> bool:
    """True for a matrix with one level of float32 scales of blocks along rows, such as 1x128.

    A product reads the scales of one step for all of its rows at once: where the rows are neighbours, that is one line
    of memory, and else a line each. So targets with `ROWS_TOGETHER` write such scales column by column.
    """
    if rank != 2 or len(recipe.levels) != 1 or recipe.zero_point is not None or recipe.offset is not None:
        return False
    rows, columns = recipe.blocks(2)[0]
    return recipe.innermost.dtype.bits == 32 and rows == 1 and columns is not None and columns > 1


def set_typical(function: FuncOp, sizes: Mapping[str, int]) -> None:
    """Say which sizes the symbols of `function` usually have."""
    if sizes:
        function.attributes[TYPICAL] = StringAttr(" ".join(f"{name}={size}" for name, size in sorted(sizes.items())))


def typical_sizes(op: Operation) -> dict[str, int]:
    """What is known of the symbols of the function around `op`."""
    parent: Operation | None = op
    while parent is not None and not isinstance(parent, FuncOp):
        parent = parent.parent_op()
    attribute = parent.attributes.get(TYPICAL) if parent is not None else None
    if not isinstance(attribute, StringAttr):
        return {}
    pairs = (entry.partition("=") for entry in attribute.data.split())
    return {name: int(size) for name, _, size in pairs}


def expected(size: Dim, sizes: Mapping[str, int]) -> int | None:
    """A size as a number where it is one, or is expected to be one; else None."""
    if isinstance(size, int):
        return size
    return dims.evaluate(size, dict(sizes)) if dims.symbols(size) <= set(sizes) else None
