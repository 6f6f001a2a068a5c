"""Encoding of tiles: scales of blocks in threadgroup memory, codes of elements by rules.

    amax of each block -> the stored scale, and the product of all levels' scales as a float, one thread a block
    an element's code   = encode(x / that product), where the element is stored

`_affine` has what is particular to zero points and offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import prop, tensor_type
from breccia.errors import RecipeError, UnknownSizeError
from breccia.ir.dims import Dim
from breccia.recipes import Recipe
from breccia.targets.metal import _casts
from breccia.targets.metal._affine import write_affine
from breccia.targets.metal._encoding import Encoding, outer_level
from breccia.targets.metal._ops import unsupported
from breccia.targets.metal._reductions import Found, groups_of, reduce_blocks
from breccia.targets.metal._region import Array, Coords, Region, Scope
from breccia.targets.metal._scales import check_scale_format, scale_from_amax

KEPT_BYTES = 8192
"""Tiles up to this size that took some computing are kept while they are encoded."""


def write_encode(region: Region, op: Operation) -> None:
    """Write scales, and leave rules for codes."""
    encoding = _begun(region, op)
    if _took_computing(encoding.x, region) and _small(encoding.shape):
        region.keep(encoding.x, encoding.x.name_hint or "x")
    if encoding.recipe.zero_point is not None or encoding.recipe.offset is not None:
        results = write_affine(encoding)
    else:
        results = _symmetric(encoding)
    for out, made in zip(op.results, results, strict=True):
        if isinstance(made, Array):
            region.arrays[out] = made
        else:
            region.rules[out] = made


def _begun(region: Region, op: Operation) -> Encoding:
    recipe: Recipe = replace(prop(op, "recipe"), policy=prop(op, "policy"))
    levels, given = len(recipe.levels), tuple(prop(op, "given") or ())
    if given not in ((), tuple(range(levels - 1)), tuple(range(levels))):
        raise RecipeError(f"levels {given} of {recipe!r} are given; give all outer ones, or all, outermost first")
    if recipe.policy.nonfinite == "error":
        raise unsupported(
            op, "its policy is nonfinite='error', and kernels cannot raise; use nonfinite='poison', or the numpy target"
        )
    shape = tensor_type(op.operands[0].type).shape
    blocks = [
        tuple(
            size if width is None or (isinstance(size, int) and width >= size) else width
            for size, width in zip(shape, block, strict=True)
        )
        for block in recipe.blocks(len(shape))
    ]
    for block in blocks:
        for size, width in zip(shape, block, strict=True):
            if not isinstance(size, int) and width != size:
                raise UnknownSizeError(
                    f"metal: scales of blocks of {width} of an axis of unknown size cannot be kept; compile with "
                    "dynamic=False, or give that axis a static size"
                )
    return Encoding(region, op, recipe, shape, blocks, tuple(op.operands[1 : 1 + len(given)]), {})


def _took_computing(x: SSAValue, region: Region) -> bool:
    """True for what is not simply read, or converted from what is read."""
    while x not in region.arrays and x not in region.rules and x not in region.literals:
        op = x.owner
        assert isinstance(op, Operation), "arguments of regions have rules"
        if op.name not in ("breccia.convert", "breccia.mask"):
            return True
        x = op.operands[0]
    return False


def _small(shape: Sequence[Dim]) -> bool:
    total = 4
    for size in shape:
        if not isinstance(size, int):
            return False
        total *= size
    return total <= KEPT_BYTES


def _symmetric(encoding: Encoding) -> list[Array | Callable[[Scope, Coords], str]]:
    """Elements, and the scales that are not given."""
    recipe, region = encoding.recipe, encoding.region
    element, inner = recipe.element, encoding.inner
    for level in range(len(encoding.given), inner):
        outer_level(encoding, level, encoding.bits)
    totals = encoding.grid("total", "float")
    if encoding.static:
        _given_totals(encoding, totals)
    else:
        encoding.new_scales(inner)
        function = scale_from_amax(region.library, recipe, recipe.policy, inner)

        def look(scope: Scope, coords: Coords) -> list[str]:
            return [f"{encoding.bits(scope, coords)} & 0x7FFFFFFFu"]

        def finish(scope: Scope, coords: Coords, found: Sequence[str]) -> None:
            outer = f", {encoding.outer_product(scope, inner, coords, inner)}" if inner else ""
            total = encoding.keep_scale(scope, inner, coords, f"{function}({found[0]}{outer})")
            _keep_total(encoding, scope, totals, coords, f"{total}{outer.replace(', ', ' * ')}")

        wanted = [Found("amax", "uint", "max", "0")]
        reduce_blocks(region, encoding.shape, encoding.blocks[-1], wanted, look, finish)

    def code(scope: Scope, coords: Coords) -> str:
        bits = encoding.bits(scope, coords)
        if encoding.static and element.has_nan:  # the scales stay, so that such elements themselves become NaN
            bits = scope.define("uint", "bits", f"({bits} & 0x7FFFFFFFu) >= 0x7F800000u ? 0x7FC00000u : {bits}")
        x, total = f"as_type<float>({bits})", encoding.block_entry(scope, totals, coords)
        ratio = scope.define("float", "ratio", _ratio(encoding, x, total))
        function = _casts.encode(region.library, element, recipe.policy.rounding, recipe.policy.overflow)
        return scope.define("uint", "code", f"{function}({ratio}{encoding.random(scope, coords)})")

    return [code, *(encoding.scales[level] for level in range(len(encoding.given), len(recipe.levels)))]


def _by_power(encoding: Encoding) -> bool:
    """True where elements are divided by one power of two, whose exponent tells the factor."""
    levels = encoding.recipe.levels
    return len(levels) == 1 and levels[0].dtype.is_power_of_two


def _keep_total(encoding: Encoding, scope: Scope, totals: Array, coords: Coords, product: str) -> None:
    """Store what elements of a block are divided by: 1 for 0, which decodes to zero whatever is stored."""
    region = encoding.region
    total = scope.define("float", "product", product)
    text = total if _by_power(encoding) else f"as_type<uint>({total}) == 0 ? 1.0f : {total}"
    region.line(f"{totals.at(coords)} = {text};")


def _given_totals(encoding: Encoding, totals: Array) -> None:
    """Write what elements are divided by where all scales are given. Of an element without NaN, blocks with NaN or
    infinity get NaN here, and become zeros; their scale says that they are NaN.
    """
    region, recipe, inner = encoding.region, encoding.recipe, encoding.inner
    poisoned = not recipe.element.has_nan
    if poisoned:
        check_scale_format(recipe.innermost.dtype, recipe)

    def product(scope: Scope, coords: Coords) -> str:
        parts = [
            encoding.value_of(encoding.stored(scope, i, coords, inner), recipe.levels[i].dtype)
            for i in reversed(range(len(recipe.levels)))
        ]
        return " * ".join(parts)

    if poisoned:

        def look(scope: Scope, coords: Coords) -> list[str]:
            return [f"{encoding.bits(scope, coords)} & 0x7FFFFFFFu"]

        def finish(scope: Scope, coords: Coords, found: Sequence[str]) -> None:
            total = scope.define("float", "product", product(scope, coords))
            _keep_total(encoding, scope, totals, coords, f"{found[0]} >= 0x7F800000u ? NAN : {total}")

        wanted = [Found("amax", "uint", "max", "0")]
        reduce_blocks(region, encoding.shape, encoding.blocks[-1], wanted, look, finish)
        return
    with region.each(groups_of(encoding.shape, encoding.blocks[-1])) as (scope, coords):
        _keep_total(encoding, scope, totals, coords, product(scope, coords))
    region.barrier()


def _ratio(encoding: Encoding, x: str, total: str) -> str:
    """The quotient of an element and its scale."""
    if not _by_power(encoding):
        return f"{x} / {total}"
    body = """
uint bits = as_type<uint>(scale);
if (isnan(scale)) {
    return scale;
}
int power = bits == 0x00400000u ? 127 : 127 - int(bits >> 23);
int half_of_it = power / 2;
return x * as_type<float>(uint(half_of_it + 127) << 23) * as_type<float>(uint(power - half_of_it + 127) << 23);
"""
    function = encoding.region.library.define(
        "float", "over_power", "float x, float scale",
        "x over a power of two, by factors that are no subnormal numbers, which a GPU may take for 0.", body,
    )  # fmt: skip
    return f"{function}({x}, {total})"


def write_scale_from_amax(region: Region, op: Operation) -> None:
    """The scales of an op of their own, each computed once."""
    (amax,), out = op.operands, op.results[0]
    recipe, level = prop(op, "recipe"), prop(op, "level")
    t = tensor_type(out.type)
    function = scale_from_amax(region.library, recipe, prop(op, "policy"), level)
    outer = ", 1.0f" if level else ""  # an amax of outer scales is given in units of them
    dtype = recipe.levels[level].dtype
    array = region.array(out.name_hint or "scale", "float" if dtype.bits > 8 else "uint", t.shape, what="scales")
    with region.each(t.shape) as (scope, coords):
        code = f"{function}(as_type<uint>({scope.value(amax, coords)}){outer})"
        if dtype.bits > 8:
            code = f"as_type<float>({code})" if dtype.bits == 32 else f"{_casts.decode(region.library, dtype)}({code})"
        region.line(f"{array.at(coords)} = {code};")
    region.barrier()
    region.arrays[out] = array
