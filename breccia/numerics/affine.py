"""Asymmetric encoding: integers with a zero point (`(q - zero) * scale`) or an offset (`q * scale + offset`)."""

from __future__ import annotations

from typing import Any

from breccia.arrays import Array, Primitives, Words
from breccia.errors import FormatError, UnsupportedError
from breccia.formats import Format, int8
from breccia.numerics import bits as f32
from breccia.numerics.bit_encode import bit_encode
from breccia.numerics.decode import decode
from breccia.numerics.encode import encode
from breccia.numerics.nonfinite import clamp_infinity, refuse_nonfinite
from breccia.numerics.scale_rules import (
    block_ratio,
    combined_scales,
    outer_product,
    outer_scales,
    scale_shape,
    span_scales,
    stored,
    without_zeros,
)
from breccia.recipes import Recipe, Rounding, grid_shape

_INT16 = Format("int16", "i16", "int", 16)

Parts = tuple[Array, tuple[Array, ...], Array | None, Array | None]


def quantize(
    xp: Primitives, x: Array, recipe: Recipe, given: tuple[Array, ...], seed: Any, index: Words | None
) -> Parts:
    """(elements, scales, zero point, offset) of float32 x.

    With a zero point the range is widened to include 0, so that 0 is exact: scale = (hi - lo) / (2**bits - 1),
    zero = round(qmin - lo / scale), q = clip(round(x / scale) + zero). With an offset the range is taken as it is:
    offset = lo, q = round((x - offset) / scale).
    """
    _supported(recipe)
    shape, rank = xp.shape(x), len(xp.shape(x))
    block = recipe.blocks(rank)[-1]
    x, low, high, bad = _range(xp, x, recipe)
    if recipe.zero_point is not None:
        # By sign bits, as a host that flushes takes subnormals for zero.
        low = xp.where(xp.shift_right(xp.bitcast(low, "uint32"), 31) == 1, low, 0.0)
        high = xp.where(xp.shift_right(xp.bitcast(high, "uint32"), 31) == 1, 0.0, high)
    scales = given if len(given) == len(recipe.levels) else _scales(xp, low, high, bad, recipe, given, shape)
    safe = without_zeros(xp, combined_scales(xp, scales, recipe, shape))
    if recipe.zero_point is not None:
        points = _zero_points(xp, low, safe, recipe, recipe.zero_point.dtype)
        elements = _around_zero(xp, x, safe, points, recipe, seed, index)
        return elements, scales, xp.reshape(points, scale_shape(recipe.innermost, shape)), None
    offsets, elements = _above_offset(xp, x, low, safe, recipe, seed, index)
    return elements, scales, None, xp.reshape(offsets, xp.shape(scales[-1])) if block else None


def _supported(recipe: Recipe) -> None:
    element = recipe.element
    if element.kind != "int" or element.fraction_bits:
        raise UnsupportedError(f"a zero point or offset can be encoded for integer elements only, not {element.name}")
    if recipe.zero_point is not None and recipe.offset is not None:
        raise UnsupportedError(f"{recipe!r} has a zero point and an offset; such tensors can be decoded, not encoded")
    if recipe.offset is not None and element.signed:
        raise UnsupportedError(
            f"an offset can be encoded for unsigned integers only, not {element.name}; use u{element.name}"
        )


def _range(xp: Primitives, x: Array, recipe: Recipe) -> tuple[Array, Array, Array, Array]:
    block = recipe.blocks(len(xp.shape(x)))[-1]
    bad = xp.block_amax_bits(x, block) >= f32.INFINITY
    if not xp.surely_none(bad):
        refuse_nonfinite(xp, bad, recipe, xp.shape(x))
        if recipe.policy.nonfinite == "saturate":
            x = clamp_infinity(xp, x)
            bad = xp.block_amax_bits(x, block) >= f32.INFINITY
    low, high = xp.block_range(x, block)
    return x, xp.where(bad, 0.0, low), xp.where(bad, 0.0, high), bad


def _scales(
    xp: Primitives,
    low: Array,
    high: Array,
    bad: Array,
    recipe: Recipe,
    given: tuple[Array, ...],
    shape: tuple[int, ...],
) -> tuple[Array, ...]:
    span = xp.bitcast(xp.add(high, -low), "uint32")
    overflow = span >= f32.INFINITY
    span = xp.minimum(span, f32.LARGEST)
    blocks = recipe.blocks(len(shape))
    levels = given
    for i in range(len(given), len(recipe.levels) - 1):
        amax = xp.block_amax_bits(xp.bitcast(span, "float32"), block_ratio(blocks[i], blocks[-1]))
        outside = outer_product(xp, levels, recipe, shape, blocks[i])
        scale = outer_scales(xp.bitcast(amax, "float32"), recipe, i, outside)
        levels += (xp.reshape(scale, scale_shape(recipe.levels[i], shape)),)
    poisoned = xp.bitcast(xp.where(bad, f32.NAN, span), "float32")
    outside = outer_product(xp, levels, recipe, shape, blocks[-1])
    inner = span_scales(poisoned, recipe, outside)
    if not xp.surely_none(overflow):
        half = xp.full((1,) * len(shape), 0.5, "float32", span)
        halved = xp.add(xp.multiply(high, half), -xp.multiply(low, half))
        inner = xp.where(overflow, span_scales(halved, recipe, outside, share=0.5), inner)
    return (*levels, xp.reshape(inner, scale_shape(recipe.innermost, shape)))


def _zero_points(xp: Primitives, low: Array, scale: Array, recipe: Recipe, dtype: Format) -> Array:
    smallest = xp.full((1,) * len(xp.shape(low)), recipe.element.min, "float32", low)
    ideal = xp.add(smallest, -xp.divide(low, scale))
    return bit_encode(xp, ideal, dtype, "rne", "saturate", None)


def _around_zero(
    xp: Primitives, x: Array, scale: Array, points: Array, recipe: Recipe, seed: Any, index: Words | None
) -> Array:
    element = recipe.element
    if recipe.zero_point is None:
        raise FormatError(f"{recipe!r} has no zero point")
    zero = xp.reshape(
        decode(points, recipe.zero_point.dtype), grid_shape(xp.shape(x), recipe.blocks(len(xp.shape(x)))[-1])
    )
    zero = xp.convert(zero, "int32")

    def part(values: Array, *rest: Array) -> Array:
        position = (rest[0], rest[1]) if len(rest) == 4 else None
        nearest = _rounded(xp, xp.divide(values, rest[-2]), element, recipe.policy.rounding, seed, position)
        codes = xp.minimum(xp.maximum(nearest + rest[-1], int(element.min)), int(element.max))
        return xp.convert(codes & ((1 << element.bits) - 1), "uint8")

    operands = (x,) if index is None else (x, *index)
    return xp.map_blocks(part, operands, (scale, zero), recipe.blocks(len(xp.shape(x)))[-1], "uint8")


def _rounded(xp: Primitives, x: Array, element: Format, rounding: Rounding, seed: Any, index: Words | None) -> Array:
    """X rounded to integers, saturating where adding any zero point would leave the element's range anyway."""
    wide, dtype = (int8, "int8") if element.bits <= 6 else (_INT16, "int16")
    codes = encode(x, wide, rounding, "saturate", seed, index)
    return xp.convert(xp.bitcast(codes, dtype), "int32")


def _above_offset(
    xp: Primitives, x: Array, low: Array, scale: Array, recipe: Recipe, seed: Any, index: Words | None
) -> tuple[Array, Array]:
    if recipe.offset is None:
        raise FormatError(f"{recipe!r} has no offset")
    dtype, policy = recipe.offset.dtype, recipe.policy
    offsets = stored(xp, bit_encode(xp, low, dtype, "rne", "saturate", None), dtype)

    def part(values: Array, *rest: Array) -> Array:
        ratio = xp.divide(xp.add(values, -rest[-1]), rest[-2])
        return encode(
            ratio,
            recipe.element,
            policy.rounding,
            policy.overflow,
            seed,
            (rest[0], rest[1]) if len(rest) == 4 else None,
        )

    operands = (x,) if index is None else (x, *index)
    grids = (scale, decode(offsets, dtype))
    return offsets, xp.map_blocks(part, operands, grids, recipe.blocks(len(xp.shape(x)))[-1], "uint8")
