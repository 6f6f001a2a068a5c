"""Tensors to components: elements, scales of every level, zero point, offset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from breccia.arrays import Array, Primitives, Words, namespace
from breccia.arrays.numpy import words
from breccia.errors import RecipeError, ShapeError
from breccia.numerics import affine
from breccia.numerics import bits as f32
from breccia.numerics.encode import encode, row_major_strides
from breccia.numerics.nonfinite import clamp_infinity, refuse_nonfinite
from breccia.numerics.scale_rules import (
    Known,
    block_ratio,
    combined_scales,
    finite_amax,
    outer_product,
    outer_scales,
    poison,
    rank_of,
    scale_from_amax,
    scale_shape,
    without_zeros,
)
from breccia.recipes import Block, Recipe

IndexOffset = int | tuple[int, tuple[int, ...]] | Array
"""Where a tile lies in its tensor: the flat index of its first element (if rows are whole), that and the strides of
the axes, or the flat index of every element (NumPy's uint64)."""


_TAME = f32.float32_bits(2.0**-100), f32.float32_bits(2.0**100)

_NO_GRADIENT = (
    "breccia.cast has no gradient: it stores codes. Use breccia.cast_ste (straight-through) where gradients should "
    "pass, or cast a detached array: x.detach() in PyTorch, stop_gradient(x) in JAX and MLX"
)


@dataclass(frozen=True, eq=False)
class Components:
    """A quantized tensor in parts. Invariants: `elements` are unpacked unsigned codes in the tensor's shape;
    `scales` run outermost first, in storage dtypes; `zero_point` and `offset` have the innermost scales' shape.
    """

    elements: Array
    scales: tuple[Array, ...]
    zero_point: Array | None = None
    offset: Array | None = None


def quantize(
    x: Any,
    recipe: Recipe,
    *,
    scales: tuple[Array, ...] | None = None,
    seed: Any = None,
    index_offset: IndexOffset | None = None,
) -> Components:
    """Encode `x` by `recipe` and its policy.

    x: array of rank 1 or more and any real dtype, taken to float32 first; blocks may be partial at the end of an axis.
    scales: scales already known, outermost first: all outer levels (so that a tile can be encoded alone), or all levels
        (static scaling). In storage dtypes and shapes.
    seed: key of stochastic rounding, a Python integer or an integer array of one entry; index_offset: where a tile
        lies in its tensor, see `IndexOffset`.

    A block with NaN (and infinity, unless the policy saturates it) gets a NaN scale. Where all scales are given and the
    element has a NaN, the scale stays and the element alone becomes NaN.

    Raises ShapeError for rank 0 or scales of the wrong shape, DTypeError for complex input, FormatError for NaN or
    infinity under `nonfinite="error"`, RecipeError for stochastic rounding without a seed, GradientError where x is
    differentiated.

    >>> from breccia import recipes
    >>> parts = quantize([[1.0, 2.0, 12.0]], recipes.mxfp4)
    >>> parts.elements.tolist(), parts.scales[0].tolist()
    ([[1, 2, 7]], [[128]])
    """
    xp = namespace(x)
    x = xp.refuse_gradient(x, _NO_GRADIENT)
    rank_of(xp, x)
    if scales is None and (quick := xp.native_quantize(x, recipe)) is not None:
        return Components(*quick)
    x = xp.as_float32(x)
    given = check_given(xp, scales, recipe, xp.shape(x))
    index = _index(xp, recipe, x, index_offset)
    if recipe.zero_point is not None or recipe.offset is not None:
        elements, levels, zero_point, offset = affine.quantize(xp, x, recipe, given, seed, index)
        return Components(elements, levels, zero_point, offset)
    if len(given) == len(recipe.levels):
        return _with_given_scales(xp, x, recipe, given, seed, index)
    inner = recipe.blocks(len(xp.shape(x)))[-1]
    x, amax_bits, known = _checked(xp, x, recipe, inner)
    levels = (*given, *_missing_outer(xp, x, amax_bits, recipe, given, known))
    levels = (*levels, _innermost(xp, amax_bits, recipe, levels, xp.shape(x), known))
    return Components(_elements(xp, x, recipe, levels, seed, index, not given and _tame(recipe, known)), levels)


def _tame(recipe: Recipe, known: Known) -> bool:
    """Whether x over its scales surely exceeds the largest element by no more than a few roundings of float32.

    Scales far from the ends of the range are not below amax / max by more than that, in the formats named here.
    """
    if known is None or known[0] < _TAME[0] or known[1] > _TAME[1] or len(recipe.levels) > 1:
        return False
    policy, dtype = recipe.policy, recipe.innermost.dtype
    scale = (policy.scale == "exact" and dtype.name == "float32") or (policy.scale == "ceil" and dtype.is_power_of_two)
    return scale and policy.max is None


def check_given(
    xp: Primitives, scales: tuple[Array, ...] | None, recipe: Recipe, shape: tuple[int, ...]
) -> tuple[Array, ...]:
    """Given scales after a check of their number and shapes."""
    given = () if scales is None else tuple(scales)
    if given and len(given) not in (len(recipe.levels) - 1, len(recipe.levels)):
        raise RecipeError(
            f"{len(given)} arrays of scales for {recipe!r}, which has {len(recipe.levels)} levels; give the "
            f"{len(recipe.levels) - 1} outer ones or all {len(recipe.levels)}, outermost first"
        )
    for level, array in zip(recipe.levels, given, strict=False):
        if xp.shape(array) != scale_shape(level, shape):
            raise ShapeError(
                f"scales of shape {xp.shape(array)} do not fit x of shape {shape} under {recipe!r}; "
                f"needed: {scale_shape(level, shape)}"
            )
    return given


def _index(xp: Primitives, recipe: Recipe, x: Array, offset: IndexOffset | None) -> Words | None:
    if recipe.policy.rounding != "stochastic":
        return None
    shape = xp.shape(x)
    if offset is None or isinstance(offset, int):
        return xp.flat_index(shape, offset or 0, row_major_strides(shape), x)
    if isinstance(offset, tuple):
        return xp.flat_index(shape, offset[0], offset[1], x)
    return words(offset)


def _checked(xp: Primitives, x: Array, recipe: Recipe, block: Block) -> tuple[Array, Array, Known]:
    """(x with infinities clamped if the policy says so, amax bits of its blocks, what is known of them)."""
    bits = xp.block_amax_bits(x, block)
    known = xp.known_range(bits)
    if known is not None and known[1] < f32.INFINITY:
        return x, bits, known
    refuse_nonfinite(xp, bits >= f32.INFINITY, recipe, xp.shape(x))
    if recipe.policy.nonfinite == "saturate":
        return clamp_infinity(xp, x), xp.where(bits == f32.INFINITY, f32.LARGEST, bits), None
    return x, bits, known


def _missing_outer(
    xp: Primitives, x: Array, amax_bits: Array, recipe: Recipe, given: tuple[Array, ...], known: Known
) -> tuple[Array, ...]:
    if given or len(recipe.levels) == 1:
        return ()
    shape = xp.shape(x)
    blocks = recipe.blocks(len(shape))
    clean = known is not None and known[1] < f32.INFINITY
    found: tuple[Array, ...] = ()
    for i, level in enumerate(recipe.levels[:-1]):
        if clean:
            inner_amax = xp.bitcast(amax_bits, "float32")
            amax = xp.bitcast(xp.block_amax_bits(inner_amax, block_ratio(blocks[i], blocks[-1])), "float32")
        else:
            amax = finite_amax(x, blocks[i])
        outside = outer_product(xp, found, recipe, shape, blocks[i])
        found += (
            xp.reshape(outer_scales(amax, recipe, i, outside, known if clean else None), scale_shape(level, shape)),
        )
    return found


def _innermost(
    xp: Primitives, amax_bits: Array, recipe: Recipe, outer: tuple[Array, ...], shape: tuple[int, ...], known: Known
) -> Array:
    inner = recipe.blocks(len(shape))[-1]
    outside = outer_product(xp, outer, recipe, shape, inner)
    amax = xp.bitcast(amax_bits, "float32")
    scale = scale_from_amax(amax, recipe.element, recipe.innermost.dtype, recipe.policy, outside, known)
    return xp.reshape(xp.settled(scale), scale_shape(recipe.innermost, shape))


def _with_given_scales(
    xp: Primitives, x: Array, recipe: Recipe, given: tuple[Array, ...], seed: Any, index: Words | None
) -> Components:
    inner = recipe.blocks(len(xp.shape(x)))[-1]
    x, amax_bits, known = _checked(xp, x, recipe, inner)
    if known is not None and known[1] < f32.INFINITY:
        pass
    elif recipe.element.has_nan:
        bits = xp.bitcast(x, "uint32")
        x = xp.bitcast(xp.where((bits & f32.MAGNITUDE) >= f32.INFINITY, f32.NAN, bits), "float32")
    else:
        bad = xp.reshape(amax_bits >= f32.INFINITY, scale_shape(recipe.innermost, xp.shape(x)))
        given = (*given[:-1], poison(xp, given[-1], bad, recipe.innermost.dtype))
    return Components(_elements(xp, x, recipe, given, seed, index), given)


def _elements(
    xp: Primitives, x: Array, recipe: Recipe, scales: tuple[Array, ...], seed: Any, index: Words | None,
    tame: bool = False,
) -> Array:  # fmt: skip
    policy, element = recipe.policy, recipe.element
    total = combined_scales(xp, scales, recipe, xp.shape(x))
    if not tame:  # whose scales are positive
        total = without_zeros(xp, total)

    def encode_part(values: Array, *rest: Array) -> Array:
        ratio = xp.divide(values, rest[-1])
        position = (rest[0], rest[1]) if len(rest) == 3 else None
        return encode(ratio, element, policy.rounding, policy.overflow, seed, position, tame)

    operands = (x,) if index is None else (x, *index)
    return xp.map_blocks(encode_part, operands, (total,), recipe.blocks(len(xp.shape(x)))[-1], _code_dtype(recipe))


def _code_dtype(recipe: Recipe) -> str:
    return "uint8" if recipe.element.bits <= 8 else f"uint{recipe.element.bits}"
