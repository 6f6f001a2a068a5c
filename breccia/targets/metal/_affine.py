"""Encoding of integers with a zero point or an offset: `breccia.numerics.affine` in Metal's terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from breccia.errors import UnsupportedError
from breccia.formats import Format, int8
from breccia.numerics.affine import _INT16, _supported
from breccia.targets.metal import _casts
from breccia.targets.metal._encoding import Encoding
from breccia.targets.metal._library import number
from breccia.targets.metal._reductions import Found, reduce_blocks
from breccia.targets.metal._region import Array, Coords, Scope
from breccia.targets.metal._scales import span_scales

Made = list[Array | Callable[[Scope, Coords], str]]
_RANGE = (
    Found("low", "int", "min", "2147483647"), Found("high", "int", "max", "-2147483647 - 1"),
    Found("amax", "uint", "max", "0"),
)  # fmt: skip


def write_affine(encoding: Encoding) -> Made:
    """Write the scales of blocks, and their zero points or offsets; elements by a rule."""
    recipe, region = encoding.recipe, encoding.region
    _supported(recipe)
    outer = list(range(len(encoding.given), encoding.inner))
    if outer:
        raise UnsupportedError(
            f"metal: the outer scales of {recipe!r} are not computed in the kernel that encodes by them; give them"
        )
    extra = recipe.zero_point or recipe.offset
    assert extra is not None, "only recipes with a zero point or an offset come here"
    totals = encoding.grid("total", "float")
    shifts = encoding.grid("zero_point" if recipe.zero_point is not None else "offset", _kept(extra.dtype))
    if not encoding.static:
        encoding.new_scales(encoding.inner)

    def look(scope: Scope, coords: Coords) -> list[str]:
        bits = encoding.bits(scope, coords)
        key = scope.define("int", "key", f"{_casts.sortable(region.library)}(as_type<int>({bits}))")
        return [key, key, f"{bits} & 0x7FFFFFFFu"]

    def finish(scope: Scope, coords: Coords, found: Sequence[str]) -> None:
        low, high, bad = _range(encoding, scope, found)
        total = _total(encoding, scope, coords, low, high, bad)
        region.line(f"{totals.at(coords)} = {total};")
        shift = _zero_point(encoding, low, total) if recipe.zero_point is not None else _offset(encoding, low)
        region.line(f"{shifts.at(coords)} = {shift};")

    reduce_blocks(region, encoding.shape, encoding.blocks[-1], _RANGE, look, finish)

    def code(scope: Scope, coords: Coords) -> str:
        x = f"as_type<float>({encoding.bits(scope, coords)})"
        total, shift = (encoding.block_entry(scope, array, coords) for array in (totals, shifts))
        make = _around_zero if recipe.zero_point is not None else _above_offset
        return make(encoding, scope, x, total, shift, encoding.random(scope, coords))

    return [code, *encoding.scales.values(), shifts]


def _kept(dtype: Format) -> str:
    if dtype.bits > 32:
        raise UnsupportedError(f"metal: offsets of {dtype.name} are not written; use float32 or narrower")
    return "float" if dtype.bits > 8 else "uint"


def _range(encoding: Encoding, scope: Scope, found: Sequence[str]) -> tuple[str, str, str]:
    """The smallest and the largest of a block as floats, 0 where it holds NaN or infinity, and whether it does."""
    bad = scope.define("bool", "bad", f"{found[2]} >= 0x7F800000u")
    back = _casts.sortable(encoding.region.library)
    ends: list[str] = []
    for name, key in zip(("lowest", "highest"), found[:2], strict=True):
        bits = scope.define("int", "bits", f"{bad} ? 0 : {back}({key})")
        if encoding.recipe.zero_point is not None:  # the range includes 0, so that 0 is exact
            bits = scope.define(
                "int", "bits", f"{bits} < 0 ? {bits} : 0" if name == "lowest" else f"{bits} < 0 ? 0 : {bits}"
            )
        ends.append(scope.define("float", name, f"as_type<float>({bits})"))
    return ends[0], ends[1], bad


def _total(encoding: Encoding, scope: Scope, coords: Coords, low: str, high: str, bad: str) -> str:
    """Store the scale of a block; the product of all levels, 1 for 0."""
    region, recipe, inner = encoding.region, encoding.recipe, encoding.inner
    outside = f", {encoding.outer_product(scope, inner, coords, inner)}" if inner else ""
    if encoding.static:
        scale = encoding.value_of(encoding.stored(scope, inner, coords, inner), recipe.innermost.dtype)
    else:
        whole, half = span_scales(region.library, recipe), span_scales(region.library, recipe, 0.5)
        span = scope.define("uint", "span", f"as_type<uint>({high} - {low})")
        poisoned = scope.define("uint", "poisoned", f"{bad} ? 0x7FC00000u : min({span}, 0x7F7FFFFFu)")
        halved = f"{half}(as_type<uint>({high} * 0.5f - {low} * 0.5f){outside})"
        # Where the range is beyond float32, half of it over half of the steps is the same.
        code = scope.define("uint", "wide", f"{span} >= 0x7F800000u ? {halved} : {whole}({poisoned}{outside})")
        scale = encoding.keep_scale(scope, inner, coords, code)
    product = scope.define("float", "product", f"{scale}{outside.replace(', ', ' * ')}")
    return scope.define("float", "divisor", f"as_type<uint>({product}) == 0 ? 1.0f : {product}")


def _zero_point(encoding: Encoding, low: str, total: str) -> str:
    recipe, library = encoding.recipe, encoding.region.library
    assert recipe.zero_point is not None, "only recipes with a zero point come here"
    function = _casts.encode(library, recipe.zero_point.dtype)
    return f"{function}({number(recipe.element.min)} - {low} / {total})"


def _offset(encoding: Encoding, low: str) -> str:
    recipe, library = encoding.recipe, encoding.region.library
    assert recipe.offset is not None, "only recipes with an offset come here"
    dtype = recipe.offset.dtype
    if dtype.bits == 32:
        return low
    code = f"{_casts.encode(library, dtype)}({low})"
    return code if dtype.bits <= 8 else f"{_casts.decode(library, dtype)}({code})"


def _around_zero(encoding: Encoding, scope: Scope, x: str, total: str, point: str, random: str) -> str:
    recipe, element, library = encoding.recipe, encoding.recipe.element, encoding.region.library
    assert recipe.zero_point is not None, "only recipes with a zero point come here"
    wide = int8 if element.bits <= 6 else _INT16
    rounded = f"{_casts.encode(library, wide, recipe.policy.rounding)}({x} / {total}{random})"
    kind = "char" if wide.bits == 8 else "short"
    zero = f"int({_casts.decode(library, recipe.zero_point.dtype)}({point}))"
    nearest = scope.define("int", "nearest", f"int({kind}({rounded})) + {zero}")
    inside = f"clamp({nearest}, {int(element.min)}, {int(element.max)})"
    return scope.define("uint", "code", f"uint({inside}) & {hex((1 << element.bits) - 1)}u")


def _above_offset(encoding: Encoding, scope: Scope, x: str, total: str, offset: str, random: str) -> str:
    recipe, library = encoding.recipe, encoding.region.library
    assert recipe.offset is not None, "only recipes with an offset come here"
    policy = recipe.policy
    shift = encoding.value_of(offset, recipe.offset.dtype)
    function = _casts.encode(library, recipe.element, policy.rounding, policy.overflow)
    return scope.define("uint", "code", f"{function}(({x} - {shift}) / {total}{random})")
