"""What emitted kernels ask of numerics: components of one tile of a tensor, and scales of one level."""

from __future__ import annotations

from typing import Any

from breccia.arrays import Array
from breccia.numerics.encode import row_major_strides
from breccia.numerics.quantize import IndexOffset, quantize
from breccia.numerics.scale_rules import outer_scales, scale_from_amax
from breccia.recipes import Recipe


def quantize_tile(
    x: Array, recipe: Recipe, given: tuple[Array, ...], seed: Any, origin: tuple[Any, ...], extent: tuple[int, ...]
) -> tuple[Array, ...]:
    """Components of `x` by `recipe`: elements, scales that are not given, zero point, offset.

    origin, extent: where `x` begins in its tensor, and that tensor's shape; stochastic rounding belongs to elements.

    >>> from breccia import recipes
    >>> [part.tolist() for part in quantize_tile([[1.0, 12.0]], recipes.mxfp4, (), None, (), ())]
    [[[1, 7]], [[128]]]
    """
    place: IndexOffset | None = None
    if origin:
        strides = row_major_strides(extent)
        place = sum(start * stride for start, stride in zip(origin, strides, strict=True)), strides
    parts = quantize(x, recipe, scales=given or None, seed=seed, index_offset=place)
    extra = (part for part in (parts.zero_point, parts.offset) if part is not None)
    return (parts.elements, *parts.scales[len(given) :], *extra)


def level_scales(amax: Array, recipe: Recipe, level: int) -> Array:
    """Stored scales of a level (0 is the outermost) from the amax of its blocks, in its shape."""
    if level == len(recipe.levels) - 1:
        scale = scale_from_amax(amax, recipe.element, recipe.levels[level].dtype, recipe.policy)
    else:
        scale = outer_scales(amax, recipe, level)
    return scale.reshape(amax.shape)
