"""Components back to values: the whole meaning of a recipe."""

from __future__ import annotations

from breccia.arrays import Array, namespace
from breccia.errors import ShapeError
from breccia.numerics.decode import decode
from breccia.numerics.quantize import Components, check_given
from breccia.numerics.scale_rules import level_grids
from breccia.recipes import Recipe, grid_shape


def dequantize(components: Components, recipe: Recipe, shape: tuple[int, ...] | None = None) -> Array:
    """float32 values: `((E(e) - zero) * s_inner) * ... * s_outer + offset`, every step rounded to float32.

    shape: the tensor's shape, checked against the elements' if given. Raises ShapeError if components do not fit
    together.

    >>> from breccia import recipes
    >>> from breccia.numerics import quantize
    >>> dequantize(quantize([[1.0, 2.0, 12.0]], recipes.mxfp4), recipes.mxfp4).tolist()
    [[1.0, 2.0, 12.0]]
    """
    xp = namespace(components.elements)
    actual = xp.shape(components.elements)
    if shape is not None and tuple(shape) != actual:
        raise ShapeError(f"elements have shape {actual}, not {tuple(shape)}, for {recipe!r}; unpack them first")
    check_given(xp, components.scales, recipe, actual)
    block = recipe.blocks(len(actual))[-1]
    grid = grid_shape(actual, block)
    grids = list(reversed(level_grids(xp, components.scales, recipe, actual)))
    levels = len(grids)
    has_zero = recipe.zero_point is not None and components.zero_point is not None
    if recipe.zero_point is not None and components.zero_point is not None:
        grids.append(xp.reshape(decode(components.zero_point, recipe.zero_point.dtype), grid))
    if recipe.offset is not None and components.offset is not None:
        grids.append(xp.reshape(decode(components.offset, recipe.offset.dtype), grid))

    def part(codes: Array, *rest: Array) -> Array:
        values = decode(codes, recipe.element)
        if has_zero:
            values = values - rest[levels]
        for scale in rest[:levels]:
            values = xp.multiply(values, scale)
        return xp.add(values, rest[-1]) if recipe.offset is not None else values

    return xp.map_blocks(part, (components.elements,), tuple(grids), block, "float32")
