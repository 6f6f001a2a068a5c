"""How the axes of an iteration space are cut, and the windows that follow for values and for stored components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import SSAValue

from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim, Sym
from breccia.ir.storage import PACKING
from breccia.ir.tiling import Segment, Window
from breccia.ir.types import LayoutAttr, ScaledType
from breccia.passes._axes import Axis, AxisMap, component_block, scaled_type, shape_of


@dataclass(frozen=True)
class Cut:
    """What a grid point sees of an axis: tile number `index` of `block` elements; the whole axis where index is 0.

    bounds: first element and limit of the part of the axis that is walked (ragged groups); None for all of it.
    """

    index: Dim
    block: Dim
    bounds: tuple[Dim, Dim] | None = None

    @property
    def is_whole(self) -> bool:
        return self.index == 0

    @property
    def origin(self) -> Dim:
        """The first element that a tile sees."""
        start = dims.mul(self.index, self.block)
        return start if self.bounds is None else dims.add(self.bounds[0], start)


@dataclass(frozen=True)
class Part:
    """A tile along one axis of a component: block index, and entries."""

    index: Dim
    block: Dim
    bounds: tuple[Dim, Dim] | None = None


ONE = Part(0, 1)


class Cuts:
    """The cut of every axis, and the windows over values and components that follow.

    squeezed: values whose first axis is dropped from tiles (the expert axis of grouped weights).
    """

    def __init__(self, axes: AxisMap, cuts: Mapping[Axis, Cut], squeezed: frozenset[SSAValue] = frozenset()) -> None:
        self.axes = axes
        self._cuts = cuts
        self._squeezed = squeezed

    def of(self, value: SSAValue, axis: int) -> Cut | None:
        """How an axis of a value is cut; None for an axis of size 1."""
        found = self.axes.of(value, axis)
        if found is None:
            return None
        return self._cuts.get(found, Cut(0, found.size))

    def dropped(self, value: SSAValue) -> int:
        """How many leading axes tiles of `value` lack."""
        return int(value in self._squeezed)

    def parts(self, value: SSAValue) -> list[Part]:
        """The tile of a plain value, axis by axis."""
        cuts = [self.of(value, i) for i in range(len(shape_of(value.type)))]
        return [ONE if c is None else Part(c.index, c.block, c.bounds) for c in cuts]

    def tile_shape(self, value: SSAValue) -> tuple[Dim, ...]:
        """Shape of the tile of a plain value."""
        return tuple(p.block for p in self.parts(value)[self.dropped(value) :])

    def window(self, value: SSAValue) -> Window:
        """The window over a plain value."""
        return _window(self.parts(value), self.dropped(value))

    def scale_parts(self, value: SSAValue, block: Sequence[int | None]) -> list[Part]:
        """The tile of an array that has one entry for each `block` of `value`, axis by axis."""
        return [self._scale_part(value, i, g) for i, g in enumerate(block)]

    def _scale_part(self, value: SSAValue, axis: int, g: int | None) -> Part:
        cut = self.of(value, axis)
        if cut is None or g is None:
            return ONE
        if g == 1:
            return Part(cut.index, cut.block, cut.bounds)
        size = shape_of(value.type)[axis]
        if isinstance(size, int) and size <= g:
            return ONE
        if cut.is_whole:
            return Part(0, dims.ceildiv(size, g))
        if cut.bounds is not None:
            raise UnsupportedError(
                f"{value.type}: blocks of {g} along axis {axis} cross the borders of groups, which are known only at "
                "the call; quantize the rows of a grouped matmul with blocks of 1 along them"
            )
        return _block_part(cut, g, size)

    def component_parts(self, value: SSAValue, name: str) -> list[Part]:
        """The tile of a component in logical order, axis by axis."""
        return self.scale_parts(value, component_block(scaled_type(value), name))

    def component_shape(self, value: SSAValue, name: str) -> tuple[Dim, ...]:
        return tuple(p.block for p in self.component_parts(value, name)[self.dropped(value) :])

    def component_window(self, value: SSAValue, name: str) -> Window:
        """The window over a component's storage."""
        parts = _stored(self.component_parts(value, name), order_of(scaled_type(value), name))
        return _window(parts, self.dropped(value))


def _block_part(cut: Cut, g: int, size: Dim) -> Part:
    block = cut.block
    assert isinstance(block, int), "only whole axes have tiles of a symbolic size"
    if block % g == 0:
        return Part(cut.index, block // g)
    if g % block == 0:
        return Part(dims.floordiv(cut.index, g // block), 1)
    if block == size:
        return Part(cut.index, dims.ceildiv(block, g))
    raise UnsupportedError(
        f"tiles of {block} elements and blocks of {g} do not meet; give the kernel another tile size"
    )


def order_of(t: ScaledType, name: str) -> str:
    """The layout of a component; row-major where the type has none."""
    return t.layout.order(name) if isinstance(t.layout, LayoutAttr) else "row_major"


def _stored(parts: list[Part], order: str) -> list[Part]:
    """Logical tile to a tile of memory."""
    if order == "row_major":
        return parts
    if order in PACKING:
        _, codes, size = PACKING[order]
        return [*parts[:-1], Part(parts[-1].index, dims.mul(dims.ceildiv(parts[-1].block, codes), size))]
    *lead, rows, columns = parts
    if order == "mn_major":
        return [*lead, columns, rows]
    if order == "swizzle_128x4":
        units = [Part(p.index, dims.ceildiv(p.block, u)) for p, u in ((rows, 128), (columns, 4))]
        return [*lead, *units, Part(0, 32), Part(0, 16)]
    raise UnsupportedError(
        f"layout {order} has no window; known are row_major, mn_major, swizzle_128x4, {', '.join(PACKING)}"
    )


def _window(parts: Sequence[Part], dropped: int = 0) -> Window:
    segment = None
    for axis, part in enumerate(parts):
        if part.bounds is not None:
            segment = Segment(axis, *part.bounds)
    blocks = tuple(None if i < dropped else p.block for i, p in enumerate(parts))
    return Window(blocks, tuple(p.index for p in parts), segment)


def grid_names(wanted: Sequence[str], taken: set[str]) -> list[str]:
    """Names for grid dimensions that clash with no symbol."""
    names: list[str] = []
    for name in wanted:
        while name in taken or name in names:
            name += "_"
        names.append(name)
    return names


def dim_cut(name: str, block: Dim) -> Cut:
    """A cut walked by a grid dimension."""
    return Cut(Sym(name), block)
