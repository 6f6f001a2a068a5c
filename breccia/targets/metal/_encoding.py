"""One tile while it is encoded: its blocks, the scales of levels, and random numbers for its elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import prop, tensor_type
from breccia.formats import Format
from breccia.ir.dims import Dim
from breccia.recipes import Recipe
from breccia.targets.metal import _casts
from breccia.targets.metal._reductions import Found, groups_of, reduce_blocks
from breccia.targets.metal._region import Array, Coords, Region, Scope
from breccia.targets.metal._scales import scale_from_amax
from breccia.targets.metal._sizes import over, plus, times


@dataclass
class Encoding:
    """One `encode` while it is written.

    Invariants: `blocks` holds the tile's elements of a block along each axis, a level each, outermost first; `scales`
    holds the stored scales of levels that are not given, `totals` the product of all of them.
    """

    region: Region
    op: Operation
    recipe: Recipe
    shape: tuple[Dim, ...]
    blocks: list[tuple[Dim, ...]]
    given: tuple[SSAValue, ...]
    scales: dict[int, Array]

    @property
    def x(self) -> SSAValue:
        return self.op.operands[0]

    @property
    def inner(self) -> int:
        return len(self.recipe.levels) - 1

    @property
    def static(self) -> bool:
        """True where all scales are given."""
        return len(self.given) == len(self.recipe.levels)

    def bits(self, scope: Scope, coords: Coords) -> str:
        """The bits of an element of x, infinity taken for the largest number where the policy says so."""
        bits = scope.define("uint", "bits", f"as_type<uint>({scope.value(self.x, coords)})")
        if self.recipe.policy.nonfinite == "saturate":
            bits = scope.define("uint", "bits", f"({bits} & 0x7FFFFFFFu) == 0x7F800000u ? {bits} - 1 : {bits}")
        return bits

    def stored(self, scope: Scope, level: int, coords: Coords, level_of: int) -> str:
        """The code, or the float, of a level's scale for the block at `coords` of another level."""
        place = tuple(
            self._block_of(scope, coord, mine, theirs, size)
            for coord, mine, theirs, size in zip(
                coords, self.blocks[level], self.blocks[level_of], self.shape, strict=True
            )
        )
        if level in self.scales:
            return scope.define(self.scales[level].ctype, f"scale{level}", self.scales[level].at(place))
        return scope.value(self.given[level], place)

    def _block_of(self, scope: Scope, coord: str, mine: Dim, theirs: Dim, size: Dim) -> str:
        if mine == size:
            return "0"
        assert isinstance(mine, int) and isinstance(theirs, int), "blocks that are not whole have known sizes"  # noqa: PT018
        return scope.number(over(coord, str(mine // theirs)))

    def value_of(self, text: str, dtype: Format) -> str:
        """A stored scale as a float."""
        return text if dtype.bits > 8 else f"{_casts.decode(self.region.library, dtype)}({text})"

    def outer_product(self, scope: Scope, levels: int, coords: Coords, level_of: int) -> str:
        """The product of the first levels' scales, the innermost of them first, for a block of `level_of`."""
        parts = [
            self.value_of(self.stored(scope, i, coords, level_of), self.recipe.levels[i].dtype)
            for i in reversed(range(levels))
        ]
        return scope.define("float", "outer", " * ".join(parts))

    def keep_scale(self, scope: Scope, level: int, coords: Coords, code: str) -> str:
        """Store the code of a scale that was computed for the block at `coords`; the scale as a float."""
        array, dtype = self.scales[level], self.recipe.levels[level].dtype
        if dtype.bits > 8:
            value = (
                f"as_type<float>({code})"
                if dtype.bits == 32
                else f"{_casts.decode(self.region.library, dtype)}({code})"
            )
            name = scope.define("float", f"scale{level}", value)
            self.region.line(f"{array.at(coords)} = {name};")
            return name
        name = scope.define("uint", f"scale{level}", code)
        self.region.line(f"{array.at(coords)} = {name};")
        return f"{_casts.decode(self.region.library, dtype)}({name})"

    def new_scales(self, level: int) -> None:
        """Room for a level's scales."""
        wide = self.recipe.levels[level].dtype.bits > 8
        shape = groups_of(self.shape, self.blocks[level])
        self.scales[level] = self.region.array(f"scale{level}", "float" if wide else "uint", shape, what="scales")

    def grid(self, wanted: str, ctype: str) -> Array:
        """Room for a number of each innermost block."""
        return self.region.array(wanted, ctype, groups_of(self.shape, self.blocks[-1]), what=wanted)

    def block_entry(self, scope: Scope, array: Array, coords: Coords) -> str:
        """The entry of such an array for the element at `coords`."""
        place = tuple(
            "0" if width == size else scope.number(over(c, self.region.size(width, 3)))
            for c, width, size in zip(coords, self.blocks[-1], self.shape, strict=True)
        )
        return scope.define(array.ctype, array.name, array.at(place))

    def random(self, scope: Scope, coords: Coords) -> str:
        """`, random` for stochastic rounding: 32 bits that belong to the element, whatever tile it lies in."""
        if self.recipe.policy.rounding != "stochastic":
            return ""
        seed = self.op.operands[1 + len(self.given)]
        index, step = "0", "1"
        origin, extent = prop(self.op, "origin"), prop(self.op, "extent")
        for axis in reversed(range(len(self.shape))):
            place = plus(self.region.size(origin[axis]), coords[axis])
            index = plus(times(f"long({place})", step), index)
            step = times(self.region.size(extent[axis], 3), step)
        key = scope.value(seed, ("0",) * tensor_type(seed.type).rank)
        function = _casts.random_bits(self.region.library)
        return f", {scope.define('uint', 'random', f'{function}({key}, {index})')}"


def outer_level(encoding: Encoding, level: int, bits: Callable[[Scope, Coords], str]) -> None:
    """Write the scales of an outer level: the tile is the whole tensor. NaN and infinity poison their own blocks alone,
    so that outer levels see finite values only.
    """
    region, recipe = encoding.region, encoding.recipe
    function = scale_from_amax(region.library, recipe, recipe.policy, level)
    encoding.new_scales(level)

    def look(scope: Scope, coords: Coords) -> list[str]:
        size = scope.define("uint", "size", f"{bits(scope, coords)} & 0x7FFFFFFFu")
        return [f"({size} < 0x7F800000u ? {size} : 0)"]

    def finish(scope: Scope, coords: Coords, found: Sequence[str]) -> None:
        outer = f", {encoding.outer_product(scope, level, coords, level)}" if level else ""
        encoding.keep_scale(scope, level, coords, f"{function}({found[0]}{outer})")

    reduce_blocks(region, encoding.shape, encoding.blocks[level], [Found("amax", "uint", "max", "0")], look, finish)
