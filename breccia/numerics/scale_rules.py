"""From the amax of blocks to their scales. Powers of two come from integer bits, never from log2, exp2 or pow."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from breccia.arrays import Array, Primitives, namespace
from breccia.errors import FormatError, RecipeError, ShapeError
from breccia.formats import Format
from breccia.numerics import bits as f32
from breccia.numerics.decode import decode
from breccia.numerics.encode import encode
from breccia.recipes import Block, Level, Policy, Recipe, ScaleRule, grid_shape, resolve_block

Known = tuple[int, int] | None
"""The smallest and the largest of words (`Primitives.known_range`), where values can be read at no cost."""


def block_amax(x: Any, block: Block | None) -> Array:
    """Largest |x| of every block: float32, one entry for each block, of the rank of x; NaN where a block holds NaN.

    block: as in `Level`, for the trailing axes; None for the whole tensor. Raises ShapeError for rank 0.

    >>> block_amax([[1.0, -3.0, 2.0]], (1, 2)).tolist()
    [[3.0, 2.0]]
    """
    return _amax(x, block, finite=False)


def finite_amax(x: Any, block: Block | None) -> Array:
    """`block_amax` of the finite values alone: what outer levels see, so that one NaN poisons only its own block."""
    return _amax(x, block, finite=True)


def _amax(x: Any, block: Block | None, finite: bool) -> Array:
    xp = namespace(x)
    x = xp.as_float32(x)
    return xp.bitcast(xp.block_amax_bits(x, resolve_block(block, rank_of(xp, x)), finite), "float32")


def rank_of(xp: Primitives, x: Array) -> int:
    """The rank of x; ShapeError for rank 0, which has no axis for blocks to lie along."""
    rank = len(xp.shape(x))
    if rank == 0:
        raise ShapeError("cannot quantize an array of rank 0, which has no axis; reshape it to (1,) first")
    return rank


def level_targets(recipe: Recipe) -> tuple[float, ...]:
    """For each level, outermost first, the value that its amax is mapped to.

    The innermost maps to the largest element; a level outside it also to the largest scale of each level inside, so
    that those use their whole range. E8M0 levels count as 1: their range never runs out.

    >>> from breccia import recipes
    >>> level_targets(recipes.nvfp4)
    (2688.0, 6.0)
    """
    element = recipe.policy.max or recipe.element.max
    ranges = [1.0 if level.dtype.is_power_of_two else level.dtype.max for level in recipe.levels[1:]]
    return tuple(element * prod(ranges[i:]) for i in range(len(recipe.levels)))


def scale_from_amax(
    amax: Any, element: Format, dtype: Format, policy: Policy, outer: Array | None = None, known: Known = None
) -> Array:
    """The scales of the innermost level: as stored (float32, float16, bfloat16, or uint8 codes), in the shape of
    `amax`.

    amax: float32, in value units; NaN and infinity give NaN scales.
    outer: float32 scales of the outer levels, multiplied up, to broadcast against `amax`.
    known: bounds of the bits of amax, which save work.

    `exact` is ((amax / max) / outer), every step rounded to float32 and the last one to `dtype`, all to nearest even.

    >>> from breccia import formats
    >>> scale_from_amax([448.0, 449.0], formats.float8_e4m3fn, formats.float8_e8m0fnu, Policy(scale="ceil")).tolist()
    [127, 128]
    """
    xp = namespace(amax)
    return _scale(
        xp, xp.as_float32(amax), policy.max or element.max, element, dtype, policy, policy.scale, outer, known=known
    )


def outer_scales(amax: Any, recipe: Recipe, level: int = 0, outer: Array | None = None, known: Known = None) -> Array:
    """The scales of an outer level (0 is the outermost) from the amax of its blocks, as stored, in the shape of `amax`.

    >>> from breccia import recipes
    >>> float(outer_scales(5376.0, recipes.nvfp4))
    2.0
    """
    if not 0 <= level < len(recipe.levels) - 1:
        raise RecipeError(f"{recipe!r} has {len(recipe.levels) - 1} outer levels; there is no outer level {level}")
    xp = namespace(amax)
    target, dtype = level_targets(recipe)[level], recipe.levels[level].dtype
    rule: ScaleRule = "floor" if dtype.is_power_of_two else "exact"
    return _scale(
        xp, xp.as_float32(amax), target, recipe.element, dtype, recipe.policy, rule, outer, inner=False, known=known
    )


def span_scales(span: Array, recipe: Recipe, outer: Array | None, share: float = 1.0) -> Array:
    """The innermost scales of an asymmetric recipe: (largest - smallest) / (number of codes - 1).

    share: which part of the range `span` is, 0.5 where the whole would overflow.
    """
    xp = namespace(span)
    steps = share * ((1 << recipe.element.bits) - 1)
    policy = recipe.policy
    return _scale(xp, span, steps, recipe.element, recipe.innermost.dtype, policy, policy.scale, outer)


def _scale(
    xp: Primitives, amax: Array, top: float, element: Format, dtype: Format, policy: Policy, rule: ScaleRule,
    outer: Array | None, inner: bool = True, known: Known = None,
) -> Array:  # fmt: skip
    smallest, largest = known or (0, f32.MAGNITUDE)
    shape = xp.shape(amax)
    given = xp.bitcast(amax if shape else xp.reshape(amax, (1,)), "uint32")
    bits = given
    if inner and policy.amax_min is not None:
        bits = xp.maximum(bits, f32.float32_bits(policy.amax_min))
    clean = largest < f32.INFINITY
    usable = xp.bitcast(bits if clean else xp.where(bits < f32.INFINITY, bits, 0), "float32")
    margin = policy.margin if inner and policy.amax == "delayed" else 0
    if rule == "exact":
        codes = _exact(xp, usable, top, dtype, policy, margin, outer)
    else:
        normal = outer is None and smallest >= f32.HIDDEN
        codes = _power_of_two(xp, usable, top, element, dtype, rule, margin, outer, normal)
    codes = _at_least(xp, codes, dtype, policy.scale_min if inner else None)
    if smallest == 0:
        codes = xp.where(bits == 0, _zero_code(dtype, policy) if inner else _code_of_one(dtype), codes)
    if not clean:
        codes = _poisoned(xp, codes, given >= f32.INFINITY, dtype)
    return xp.reshape(stored(xp, codes, dtype), shape)


def _exact(
    xp: Primitives, amax: Array, top: float, dtype: Format, policy: Policy, margin: int, outer: Array | None
) -> Array:
    if policy.division == "reciprocal":
        quotient = xp.multiply(amax, _number(xp, amax, top, inverse=True))
    elif policy.division == "inverse":
        return _codes(xp, _inverse(xp, amax, top, margin, outer), dtype)
    else:
        quotient = xp.divide(amax, _number(xp, amax, top))
    if outer is not None:
        quotient = xp.divide(quotient, outer)
    if margin:
        quotient = xp.multiply(quotient, _number(xp, amax, 1.0, margin))
    return _codes(xp, quotient, dtype)


def _inverse(xp: Primitives, amax: Array, top: float, margin: int, outer: Array | None) -> Array:
    """1 / (top / 2**margin / amax), where the inner quotient is at most the largest float32, over the outer scales."""
    factor = xp.bitcast(xp.divide(_number(xp, amax, top, -margin), amax), "uint32")
    factor = xp.bitcast(xp.minimum(factor & f32.MAGNITUDE, f32.LARGEST), "float32")
    quotient = xp.divide(_number(xp, amax, 1.0), factor)
    return quotient if outer is None else xp.divide(quotient, outer)


def _number(xp: Primitives, like: Array, value: float, power: int = 0, inverse: bool = False) -> Array:
    """The number value * 2**power, or one over it, rounded to float32."""
    return xp.number(_number_bits(value, power, inverse), len(xp.shape(like)), like)


@lru_cache(maxsize=256)
def _number_bits(value: float, power: int, inverse: bool) -> int:
    exact = Fraction(value) * Fraction(2) ** power
    return f32.float32_bits(1 / exact if inverse else exact)


def _power_of_two(
    xp: Primitives, amax: Array, top: float, element: Format, dtype: Format, rule: ScaleRule, margin: int,
    outer: Array | None, normal: bool,
) -> Array:  # fmt: skip
    if outer is not None:
        amax = xp.divide(amax, outer)
    exponent, fraction = _normalized(xp, xp.bitcast(amax, "uint32"), normal)
    top_bits = f32.float32_bits(top)
    exponent = exponent - ((top_bits >> 23) - 127) + margin
    if rule == "ceil":
        exponent = exponent + xp.convert(fraction > (top_bits & f32.FRACTION), "int32")
    elif rule == "even":
        mantissa = element.mantissa_bits if element.kind == "float" else element.bits - 1 - element.signed
        rounded = (fraction | f32.HIDDEN) + (1 << (22 - mantissa))
        exponent = exponent + xp.convert(rounded >> 24, "int32")
    if dtype.is_power_of_two:
        return xp.convert(xp.minimum(xp.maximum(exponent + dtype.bias, 0), dtype.max_code), "uint32")
    exponent = xp.minimum(xp.maximum(exponent, -149), 127)
    normal = xp.maximum(exponent + 127, 0) << 23
    small = xp.convert(exponent * 0 + 1, "int32") << xp.minimum(xp.maximum(exponent + 149, 0), 23)
    return _codes(xp, xp.bitcast(xp.where(exponent < -126, small, normal), "float32"), dtype)


def _normalized(xp: Primitives, bits: Array, normal: bool) -> tuple[Array, Array]:
    """(floor of log2 as int32, the 23 bits after the leading one) of non-negative finite values; zero counts as
    2**-149. normal: all are normal float32.
    """
    field, fraction = bits >> 23, bits & f32.FRACTION
    if normal:
        return xp.convert(field, "int32") - 127, fraction
    # An integer converts exactly to a normal float, whose exponent field is the place of the leading bit.
    as_float = xp.bitcast(xp.convert(xp.maximum(fraction, 1), "float32"), "uint32")
    place = xp.convert(as_float >> 23, "int32") - 127
    exponent = xp.where(field > 0, xp.convert(field, "int32") - 127, place - 149)
    return exponent, xp.where(field > 0, fraction, as_float & f32.FRACTION)


def _codes(xp: Primitives, values: Array, dtype: Format) -> Array:
    """Codes of non-negative float32 values."""
    if dtype.name == "float32":
        return xp.minimum(xp.bitcast(values, "uint32"), f32.LARGEST)
    return xp.convert(encode(values, dtype), "uint32")


def _at_least(xp: Primitives, codes: Array, dtype: Format, smallest: float | None) -> Array:
    """Codes of positive values order as the values do, so that the floor is a maximum of codes."""
    return xp.maximum(codes, _code_of(dtype.smallest_positive if smallest is None else smallest, dtype))


@lru_cache(maxsize=256)
def _code_of(value: float, dtype: Format) -> int:
    bits = np.array([f32.float32_bits(value)], np.uint32)
    return int(_codes(namespace(bits), bits.view(np.float32), dtype)[0])


def _zero_code(dtype: Format, policy: Policy) -> int:
    if policy.zero_scale == "zero" and dtype.zero:
        return 0
    if policy.zero_scale == "one":
        return _code_of_one(dtype)
    return _code_of(policy.scale_min or dtype.smallest_positive, dtype)


def _code_of_one(dtype: Format) -> int:
    return dtype.bias << dtype.mantissa_bits if dtype.kind == "float" else 1 << dtype.fraction_bits


def poison(xp: Primitives, scales: Array, bad: Array, dtype: Format) -> Array:
    """Stored scales with NaN where `bad`."""
    if xp.surely_none(bad):
        return scales
    # As words: libraries compute little on 16-bit integers.
    codes = xp.convert(xp.bitcast(scales, f"uint{max(8, dtype.bits)}"), "uint32")
    return stored(xp, _poisoned(xp, codes, bad, dtype), dtype)


def _poisoned(xp: Primitives, codes: Array, bad: Array, dtype: Format) -> Array:
    if dtype.nan_code is None:
        if not xp.surely_none(bad) and xp.any(bad):
            raise FormatError(
                f"x holds NaN or infinity, and scales of {dtype.name} cannot say so; "
                "clean x, or use a float scale format"
            )
        return codes
    return xp.where(bad, dtype.nan_code, codes)


def stored(xp: Primitives, codes: Array, dtype: Format) -> Array:
    """Codes as the storage dtype of a scale format: float32, float16, bfloat16, else uint8 codes."""
    if dtype.bits <= 8:
        return xp.convert(codes, "uint8")
    return xp.bitcast(xp.convert(codes, f"uint{dtype.bits}"), dtype.name)


def scale_shape(level: Level, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a level's scales for a tensor of `shape`: () for one scale for the whole tensor.

    >>> from breccia import recipes
    >>> scale_shape(recipes.nvfp4.innermost, (4, 40))
    (4, 3)
    """
    return () if level.block is None else grid_shape(shape, level.resolve(len(shape)))


def block_ratio(outer: Block, inner: Block) -> Block:
    """How many inner blocks lie in an outer one along each axis; None where the outer block spans the axis."""
    return tuple(None if o is None or i is None else o // i for o, i in zip(outer, inner, strict=True))


def without_zeros(xp: Primitives, scales: Array) -> Array:
    """float32 scales with 1 for 0. A scale of zero (of a block of zeros, or by underflow of a product) decodes
    everything to zero, so that its elements may be encoded as they are. Compared by bits: hosts may take subnormals
    for zero.
    """
    bits = xp.bitcast(scales, "uint32")
    return xp.bitcast(xp.where(bits == 0, f32.float32_bits(1.0), bits), "float32")


def combined_scales(xp: Primitives, scales: tuple[Array, ...], recipe: Recipe, shape: tuple[int, ...]) -> Array:
    """The product of all levels' stored scales on the innermost grid, float32, innermost first."""
    grids = level_grids(xp, scales, recipe, shape)
    total = grids[-1]
    for grid in reversed(grids[:-1]):
        total = xp.multiply(total, grid)
    return total


def outer_product(
    xp: Primitives, scales: tuple[Array, ...], recipe: Recipe, shape: tuple[int, ...], block: Block
) -> Array | None:
    """The product of the first levels' scales, innermost of them first, on the grid of `block`; None for no levels."""
    if not scales:
        return None
    blocks = recipe.blocks(len(shape))
    total = None
    for i in reversed(range(len(scales))):
        grid = xp.reshape(decode(scales[i], recipe.levels[i].dtype), grid_shape(shape, blocks[i]))
        grid = xp.expand(grid, block_ratio(blocks[i], block), grid_shape(shape, block))
        total = grid if total is None else xp.multiply(total, grid)
    return total


def level_grids(xp: Primitives, scales: tuple[Array, ...], recipe: Recipe, shape: tuple[int, ...]) -> list[Array]:
    """Each level's scales as float32, spread over the innermost grid, outermost first."""
    blocks = recipe.blocks(len(shape))
    inner = blocks[-1]
    grids: list[Array] = []
    for level, block, array in zip(recipe.levels, blocks, scales, strict=False):
        grid = xp.reshape(decode(array, level.dtype), grid_shape(shape, block))
        grids.append(xp.expand(grid, block_ratio(block, inner), grid_shape(shape, inner)))
    return grids
