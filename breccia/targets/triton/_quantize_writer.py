"""Writes one quantize function, line by line: tiles and their blocks, amax, scales, elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from breccia.errors import RecipeError, UnsupportedError
from breccia.formats import Format, float32
from breccia.numerics import bits as f32
from breccia.recipes import Recipe
from breccia.targets.triton._casts import (
    Library,
    decode,
    encode,
    encode_number,
    limit,
    round_magnitude,
    triton_type,
)
from breccia.targets.triton._division import (
    NARROW_QUOTIENT,
    QUOTIENT,
    computed_divisor,
    divisor,
    float_reciprocal,
    inverse,
    narrow_divisor,
    reciprocal,
)
from breccia.targets.triton._scales import as_codes, check_scale_format, literal, may_be_zero, scale_from_amax

Shape = tuple[int, ...]


# -- tiles -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tile:
    """How the blocks of one level lie in a tile.

    Invariants: `view` is the tile with every axis that holds several blocks split in two, `inner` the axes of the view
    that run within a block, `kept` the view with 1 for those, `grid` the shape of the level's scales.
    """

    view: Shape
    inner: tuple[int, ...]
    grid: Shape

    @property
    def kept(self) -> Shape:
        return tuple(1 if axis in self.inner else size for axis, size in enumerate(self.view))


def _tile(shape: Shape, block: tuple[int | None, ...], what: str) -> _Tile:
    view: list[int] = []
    inner: list[int] = []
    grid: list[int] = []
    for size, width in zip(shape, block, strict=True):
        if width is None or width >= size:
            inner.append(len(view))
            view.append(size)
            grid.append(1)
        elif size % width:
            raise UnsupportedError(f"a tile of {_by(shape)} cuts blocks of {_by(block)} of {what}; use a multiple")
        else:
            view.append(size // width)
            grid.append(size // width)
            if width > 1:
                inner.append(len(view))
                view.append(width)
    return _Tile(tuple(view), tuple(inner), tuple(grid))


def _by(shape: tuple[int | None, ...]) -> str:
    return "x".join("all" if n is None else str(n) for n in shape)


def _per(block: tuple[int | None, ...]) -> str:
    return "tensor" if all(n is None for n in block) else _by(block)


def reduced(values: str, tile: _Tile, function: str = "max") -> str:
    for axis in reversed(tile.inner):
        if tile.view[axis] > 1:
            values = f"tl.{function}({values}, axis={axis}, keep_dims=True)"
    return values


def reshaped(value: str, old: Shape, new: Shape) -> str:
    """`value` of shape `old` as `new`; one entry stays as it is, as it broadcasts anyway."""
    return value if old == new else f"tl.reshape({value}, {new!r})"


def _spread(value: str, outer: Shape, tile: _Tile) -> str:
    """Scales of an outer level, a grid of `outer`, to broadcast against `tile.kept`."""
    if prod(outer) == 1:
        return value
    if outer != tile.grid:
        split = tuple(n for o in outer for n in (o, 1))
        wide = tuple(n for o, i in zip(outer, tile.grid, strict=True) for n in (o, i // o))
        value = f"tl.reshape({value}, {split!r})"
        value = f"tl.broadcast_to({value}, {wide!r})"
        return f"tl.reshape({value}, {tile.kept!r})"
    return reshaped(value, outer, tile.kept)


def results(recipe: Recipe, given: int = 0) -> tuple[str, ...]:
    """What a function of `quantize` returns with `given` levels given: `elements`, `scale0` and so on.

    Where all scales are given and the element has no NaN, the innermost scales are returned all the same, as blocks
    with NaN or infinity poison them.
    """
    levels = len(recipe.levels)
    first = given
    affine = recipe.zero_point is not None or recipe.offset is not None
    if given == levels and not affine and not recipe.element.has_nan:
        first = levels - 1
    extra = ("zero_point",) if recipe.zero_point is not None else ("offset",) if recipe.offset is not None else ()
    return ("elements", *(f"scale{i}" for i in range(first, levels)), *extra)


class Writer:
    """Writes one quantize function, line by line."""

    def __init__(self, library: Library, recipe: Recipe, shape: Shape, given: tuple[int, ...], narrow: bool) -> None:
        levels = len(recipe.levels)
        if given not in ((), tuple(range(levels - 1)), tuple(range(levels))):
            raise RecipeError(f"levels {given} of {recipe!r} are given; give all outer ones, or all, outermost first")
        if recipe.policy.nonfinite == "error":
            raise UnsupportedError(
                f"the policy of {recipe!r} is nonfinite='error', but a Triton kernel cannot raise; use "
                "nonfinite='poison', or the numpy target"
            )
        self.library, self.recipe, self.shape, self.given = library, recipe, shape, given
        self.policy, self.element = recipe.policy, recipe.element
        blocks = recipe.blocks(len(shape))
        self.tiles = [_tile(shape, block, repr(recipe)) for block in blocks]
        self.tile = self.tiles[-1]
        self.static = len(given) == levels
        self.narrow = narrow and recipe.policy.nonfinite != "saturate"  # which makes numbers of 24 bits
        self.affine = recipe.zero_point is not None or recipe.offset is not None
        self.lines: list[str] = []

    def say(self, *lines: str) -> None:
        self.lines += lines

    def define(self, affine: Callable[[Writer], None]) -> str:
        """Register the function; `affine` writes what is particular to zero points and offsets."""
        name = self.recipe.name.replace(" ", "_") or self.element.name
        parameters = ["x", *(f"scale{i}" for i in self.given)]
        if self.policy.rounding == "stochastic":
            parameters += ["seed_hi", "seed_lo", "index"]
        self._load()
        if self.affine:
            affine(self)
        else:
            self._symmetric()
        levels = zip(self.recipe.blocks(len(self.shape)), self.recipe.levels, strict=True)
        blocks = ", ".join(f"{_per(block)} of {level.dtype.name}" for block, level in levels)
        doc = f"A tile of {_by(self.shape)} as {self.element.name}, with scales per {blocks}."
        suffix = "_given" + "".join(str(i) for i in self.given) if self.given else ""
        name = f"_quantize_{name}_{_by(self.shape)}{suffix}"
        return self.library.define(name, ", ".join(parameters), doc, "\n".join(self.lines))

    def _load(self) -> None:
        value = "x.to(tl.float32)"
        self.say(f"x = {reshaped(value, self.shape, self.tile.view)}")
        self.say("bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # of |x|: they order as values do, NaN above all")
        if self.policy.nonfinite == "saturate":
            self.say(
                "# Infinity becomes the largest float32.",
                "x = tl.where(bits == 0x7F800000, x.to(tl.int32, bitcast=True) - 1, x.to(tl.int32, bitcast=True))",
                "x = x.to(tl.float32, bitcast=True)",
                "bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF",
            )

    def _symmetric(self) -> None:
        recipe, tile = self.recipe, self.tile
        inner = len(recipe.levels) - 1
        has_nan = self.element.has_nan
        if self.static and has_nan:
            self.say("x = tl.where(bits >= 0x7F800000, float('nan'), x)  # the scales are given: such elements are NaN")
        else:
            self.say(f"amax = {reduced('bits', tile)}")
        if self.static and not has_nan:
            dtype = recipe.innermost.dtype
            check_scale_format(dtype, recipe)
            nan = literal(f32.NAN) if dtype.bits > 8 else str(dtype.nan_code)
            self.say(f"stored = {self.given_grid(inner)}")
            self.say(f"scale{inner} = tl.where(amax >= 0x7F800000, {nan}, stored){self._cast(dtype)}")
        elif not self.static:
            self.outer_levels()
            function = scale_from_amax(self.library, recipe, self.policy, inner, narrow=self.narrow)
            self.say(f"scale{inner} = {self.scale_call(function, 'amax.to(tl.float32, bitcast=True)')}")
        self.combine(inner_ready=not (self.static and has_nan))
        self._elements()
        shapes = [f"tl.reshape(elements, {self.shape!r})" if tile.view != self.shape else "elements"]
        for name in results(recipe, len(self.given))[1:]:
            level = int(name[5:])
            shapes.append(self.stored_grid(name, level))
        self.say(f"return {', '.join(shapes)}" if len(shapes) > 1 else f"return {shapes[0]}")

    def _cast(self, dtype: Format) -> str:
        return f".to(tl.{triton_type(dtype, frozenset())})"

    def stored_grid(self, name: str, level: int) -> str:
        """Scales as the caller gets them; those of outer levels lie on their own grid already."""
        if level == len(self.recipe.levels) - 1:
            return reshaped(name, self.tile.kept, self.tile.grid)
        return name

    def given_grid(self, level: int) -> str:
        """A level's scales, given or computed, to broadcast against the innermost blocks."""
        name = f"scale{level}"
        if level == len(self.recipe.levels) - 1 and not self.static:
            return name
        return _spread(name, self.tiles[level].grid, self.tile)

    def decoded(self, name: str, dtype: Format) -> str:
        if dtype.bits > 8:
            return name if dtype.bits == 32 else f"({name}).to(tl.float32)"
        # By integers, for the same reason as they are encoded so: see `_scales`.
        return f"{decode(as_codes(self.library, hardware=False), dtype)}({name})"

    def outer_levels(self) -> None:
        """Scales of the outer levels that are not given, and `outer`: the product of all outer ones."""
        recipe, tile = self.recipe, self.tile
        count = len(recipe.levels) - 1
        if not count:
            return
        if not self.given:
            self.say(
                "# The tile is the whole tensor. NaN and infinity poison their own blocks alone, so that outer levels"
            )
            self.say("# see finite values only.")
            self.say(f"finite = {reduced('tl.where(bits < 0x7F800000, bits, 0)', tile)}")
            for i in range(count):
                self._outer_level(i)
        outside = [self.decoded(self.given_grid(i), recipe.levels[i].dtype) for i in reversed(range(count))]
        self.say(f"outer = {' * '.join(outside)}")

    def _outer_level(self, i: int) -> None:
        recipe, tile = self.recipe, self.tile
        grid, inner = self.tiles[i].grid, tile.grid
        function = scale_from_amax(self.library, recipe, self.policy, i)
        value = "finite"
        ratio = tuple(n // g for n, g in zip(inner, grid, strict=True))
        split = _tile(inner, ratio, repr(recipe))
        value = reshaped(value, tile.kept, split.view)
        value = reduced(value, split)
        value = reshaped(value, split.kept, grid)
        self.say(f"largest = {value}.to(tl.float32, bitcast=True)")
        if i == 0:
            self.say(f"scale{i} = {function}(largest)")
            return
        parts = []
        for j in reversed(range(i)):
            value = self.decoded(f"scale{j}", recipe.levels[j].dtype)
            other = self.tiles[j].grid
            target = _Tile(grid, (), grid)
            parts.append(_spread(value, other, target))
        self.say(f"scale{i} = {function}(largest, {' * '.join(parts)})")

    def scale_call(self, function: str, amax: str) -> str:
        return f"{function}({amax}, outer)" if len(self.recipe.levels) > 1 else f"{function}({amax})"

    def combine(self, inner_ready: bool) -> None:
        """`total`: the product of all levels, innermost first; 1 for 0, which decodes to zero whatever is stored."""
        recipe = self.recipe
        inner = len(recipe.levels) - 1
        name = f"scale{inner}" if inner_ready else self.given_grid(inner)
        if self.power_of_two:
            return
        parts = [self.decoded(name, recipe.innermost.dtype)]
        parts += [self.decoded(self.given_grid(i), recipe.levels[i].dtype) for i in reversed(range(inner))]
        self.say(f"total = {' * '.join(parts)}")
        if not self.computed:
            self.say("total = tl.where(total.to(tl.int32, bitcast=True) == 0, 1.0, total)")

    @property
    def computed(self) -> bool:
        """True where the divisor is one stored scale that was computed here: neither 0, nor infinite, nor negative."""
        return len(self.recipe.levels) == 1 and not self.static and not may_be_zero(self.recipe)

    @property
    def power_of_two(self) -> bool:
        return len(self.recipe.levels) == 1 and (self.recipe.innermost.dtype.is_power_of_two or self.float_power)

    @property
    def float_power(self) -> bool:
        """True where the only scale is a float32 that is a power of two, and so is its reciprocal."""
        policy, dtype = self.policy, self.recipe.innermost.dtype
        ruled = policy.scale != "exact" and policy.scale_min is not None and policy.scale_min >= 2.0**-126
        return dtype == float32 and ruled and not self.static and self.element.has_nan

    def random(self) -> None:
        if self.policy.rounding == "stochastic":
            function = random_bits(self.library)
            index = reshaped("index", self.shape, self.tile.view)
            self.say(f"random = {function}(seed_hi, seed_lo, {index})")

    @property
    def direct(self) -> bool:
        """Whether blocks without a number can be told by a bound of 0, at no cost for each element."""
        element, policy = self.element, self.policy
        plain = element.kind == "float" and element.signed and element.has_negative_zero and not element.has_nan
        return plain and policy.rounding == "rne"

    def _elements(self) -> None:
        self.random()
        if self.power_of_two:
            self._multiplied()
            return
        element, policy = self.element, self.policy
        if not element.has_nan:
            self.say("broken = total != total  # such a block is stored as zeros: its scale says that it is NaN")
            self.say("total = tl.where(broken, 1.0, total)")
        full = not self.library.fused_division or policy.rounding == "stochastic" or element.kind == "codebook"
        if not element.has_nan and (full or not self.direct):
            self.say("x = tl.where(broken, 0.0, x)")
        if full:
            random = ", random" if policy.rounding == "stochastic" else ""
            function = encode(self.library, element, policy.rounding, policy.overflow)
            self.say(f"elements = {function}(tl.div_rn(x, total){random})")
        else:
            self._divided()

    def _multiplied(self) -> None:
        """Elements where the scale is one power of two: its reciprocal is a float32 too, which saves the division."""
        element, policy = self.element, self.policy
        nan, inner = element.has_nan, self.given_grid(0)
        if not nan:
            self.say(f"broken = {inner} == 255  # such a block is stored as zeros: its scale says that it is NaN")
        if not nan and not self.direct:
            self.say("x = tl.where(broken, 0.0, x)")
        upended = float_reciprocal(self.library) if self.float_power else reciprocal(self.library, nan)
        self.say(f"x = x * {upended}({inner})")
        if self.direct:
            self.say(f"magnitude = tl.minimum(tl.abs(x), tl.where(broken, 0.0, {limit(element, 'saturate')!r}))")
            self._joined("magnitude")
            return
        random = ", random" if policy.rounding == "stochastic" else ""
        function = (encode if nan else encode_number)(self.library, element, policy.rounding, policy.overflow)
        self.say(f"elements = {function}(x{random})")

    def _joined(self, magnitude: str) -> None:
        """Elements from magnitudes within the range and the sign of x."""
        element = self.element
        shift, sign = 32 - element.bits, 1 << (element.bits - 1)
        self.say(f"sign = (x.to(tl.int32, bitcast=True) >> {shift}) & tl.where(broken, 0, {sign})")
        self.say(f"codes = {round_magnitude(self.library, element)}({magnitude})")
        self.say("elements = (codes | sign).to(tl.uint8)")

    def _divided(self) -> None:
        """Elements by fused multiply-adds: see `divisor` and `narrow_divisor` for why they are right."""
        element, policy = self.element, self.policy
        narrow = self.narrow and element.kind == "float" and element.mantissa_bits <= 3
        if narrow and self.computed and element.has_nan:
            self._signed()
            return
        top = limit(element, policy.overflow) if element.kind == "float" else 2.0 * max(element.max, -element.min)
        # Scales of few bits lie where their reciprocals neither over- nor underflow.
        small = narrow and self.computed and self.recipe.innermost.dtype.bits <= 8
        bound = f"{top!r} * {'total' if small else 'divisor'}"
        if self.direct:
            bound = f"tl.where(broken, 0.0, {bound})"
        nan = ", propagate_nan=tl.PropagateNan.ALL" if element.has_nan else ""
        if small:
            self.say(f"inverse, more = {inverse(self.library)}(total)")
        else:
            function = (narrow_divisor if narrow else divisor)(self.library, element.has_nan)
            self.say(f"factor, divisor, inverse, more = {function}(total)")
        steps = NARROW_QUOTIENT if narrow else QUOTIENT
        self.say(*(line.replace("LIMIT", bound).replace("NAN", nan) for line in steps[1 if small else 0 :]))
        if self.direct:
            self._joined("quotient")
            return
        function = (encode if element.has_nan else encode_number)(
            self.library, element, policy.rounding, policy.overflow
        )
        self.say("sign = (x.to(tl.int32, bitcast=True) >> 31) << 31")
        self.say("quotient = (quotient.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)")
        self.say(f"elements = {function}(quotient)")

    def _signed(self) -> None:
        """Elements of both signs at once: `more` is positive, so that even a quotient of 0 has the sign of x.

        The scale came from the largest element, so that no quotient is too large to be encoded.
        """
        self.say(f"factor, inverse, more = {computed_divisor(self.library)}(total)")
        self.say("x = x * factor")
        function = encode(self.library, self.element, self.policy.rounding, self.policy.overflow)
        self.say(f"elements = {function}(tl.fma(x, inverse, x * more))")


def random_bits(library: Library) -> str:
    """A function from the two words of a key and flat indices to 32 random bits each, as `numerics.rounding` has it."""
    mix = library.define(
        "_mix",
        "x",
        "A bijection of 32-bit words that scatters them (Wellons' hash prospector).",
        "x = x ^ (x >> 16)\nx = x * 0x7FEB352D\nx = x ^ (x >> 15)\nx = x * 0x846CA68B\nreturn x ^ (x >> 16)",
    )
    body = f"""
index = index.to(tl.int64)
low = (index & 0xFFFFFFFF).to(tl.uint32)
high = (index >> 32).to(tl.uint32)
seed_hi = tl.cast(seed_hi, tl.uint32)
seed_lo = tl.cast(seed_lo, tl.uint32)
state = {mix}(high ^ seed_hi) + 0x9E3779B9
state = {mix}(state ^ seed_lo)
return {mix}({mix}(low ^ state) + (state ^ 0x85EBCA6B))
"""
    return library.define(
        "_random_bits", "seed_hi, seed_lo, index", "32 uniform bits for each index, decided by the key.", body
    )
