"""Windows as blocks that a TPU fetches: rows of 8 registers' words, columns of 128, or whole axes.

A window that is thinner, such as the scales [128, 1] of one step along k, lies in a block that is legal: in the aligned
one around it where blocks of that size hold whole windows, else in one over the whole axis. The kernel cuts it out of
the block then, or puts it in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.tiling import Window
from breccia.ir.types import TensorType

LANES = 128
SUBLANES = {32: 8, 16: 16, 8: 32}
"""Rows of a native tile, by the bits of an entry."""

Spell = Callable[[Dim, int], str]
"""A size as text that binds as strongly as asked."""


@dataclass(frozen=True)
class Cut:
    """Where a window begins in its block, along one axis of the block, as text; and its size."""

    axis: int
    start: str
    size: int


@dataclass(frozen=True)
class Place:
    """A window's block: its shape and the index of the block, as text, and what is cut out of it.

    squeezed: leading axes that the block does not have. moves: the dimensions that the block's index depends on.
    """

    block: tuple[str, ...]
    index: tuple[str, ...]
    cuts: tuple[Cut, ...]
    squeezed: int
    moves: frozenset[str]


def place(
    type_: TensorType, window: Window, bits: int, single: Mapping[str, Dim], spell: Spell, *, result: bool = False
) -> Place:
    """The block that holds a window of an operand or a result.

    bits: of an entry, as it is stored. single: grid dimensions of extent 1, as 0. spell: sizes for index maps and
    kernels alike. result: blocks are written by several programs where they are larger than a window, and have to stay
    until the last of them, so that they hold whole axes. Operands of fewer than two axes stand as rows.
    """
    shape, blocks, indices = list(type_.shape), list(window.block), [*window.index]
    while len(shape) < 2:
        shape.insert(0, 1)
        blocks.insert(0, 1)
        indices.insert(0, 0)
    block, index, cuts, squeezed, moves = list[str](), list[str](), list[Cut](), 0, frozenset[str]()
    last = len(shape) - 1
    for axis, (size, wanted, at) in enumerate(zip(shape, blocks, indices, strict=True)):
        at = dims.substitute(at, single)
        found = frozenset(dims.symbols(at))
        if axis < last - 1:
            if wanted is None:
                squeezed += 1 if axis == squeezed else 0
            block.append("None" if wanted is None else spell(wanted, 0))
            index.append(spell(at, 0))
            moves |= found
            continue
        unit = LANES if axis == last else SUBLANES[bits]
        width = 1 if wanted is None else wanted
        if not isinstance(width, int):
            raise UnsupportedError(f"pallas: a window of {dims.show(width)} entries of {type_} has no known size")
        if size == width or width % unit == 0:
            block.append(str(width))
            index.append(spell(at, 0))
            moves |= found
            continue
        start = "0" if at == 0 else spell(at, 2) + (f" * {width}" if width != 1 else "")
        if unit % width == 0 and not result:
            block.append(str(unit))
            each = unit // width
            index.append("0" if at == 0 else f"{spell(at, 3)} // {each}")
            if at != 0:
                start = f"{spell(at, 3)} % {each}" + (f" * {width}" if width != 1 else "")
            moves |= found
        else:
            block.append(
                str(-(-size // unit) * unit) if isinstance(size, int) else f"rt.rounded({spell(size, 0)}, {unit})"
            )
            index.append("0")
        cuts.append(Cut(axis - len(shape), start, width))
    return Place(tuple(block), tuple(index), tuple(cuts), squeezed, moves)
