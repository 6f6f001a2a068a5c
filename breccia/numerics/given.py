"""What people hand in beside elements: scales of every level, zero points and offsets, checked and stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from breccia.arrays import Array, Primitives, library
from breccia.errors import DTypeError, RecipeError, ShapeError
from breccia.numerics.scale_rules import scale_shape
from breccia.numerics.storage import Shape, level_dtype, level_storage, whole_zero_points
from breccia.recipes import Recipe


def array_like(x: object, what: str) -> None:
    """Raise DTypeError unless x has a shape and a dtype."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise DTypeError(f"{what} must be array-like with .shape and .dtype, got {type(x).__name__}")


def given_levels(scale: Any, scales: Sequence[Any] | None, recipe: Recipe) -> tuple[Any, ...]:
    """All levels, outermost first, from either way of giving them; None for an outer one that was left out."""
    if scales is not None:
        if scale is not None:
            raise RecipeError("give scale (the innermost level) or scales (all levels, outermost first), not both")
        if len(scales) != len(recipe.levels):
            raise RecipeError(f"{recipe!r} has {len(recipe.levels)} levels; got {len(scales)} arrays of scales")
        for array in scales:
            array_like(array, "scales")
        return tuple(scales)
    array_like(scale, "scale")
    return (*(None for _ in recipe.levels[1:]), scale)


def any_given(scale: Any, recipe: Recipe) -> bool:
    """False where `cast` computes the scales of all levels: `scale` is None, or a tuple of it for each level."""
    if isinstance(scale, tuple) and len(scale) == len(recipe.levels):
        return any(level is not None for level in scale)
    return scale is not None


class Side:
    """Turns what is given beside the elements into arrays of their library. Invariant: one library and device."""

    def __init__(self, xp: Primitives, data: Array) -> None:
        self.xp, self.data = xp, data

    def array(self, given: Any, what: str) -> Array:
        mine, theirs = library(self.data), library(given)
        if mine != theirs:
            if isinstance(given, np.generic | np.ndarray) and given.shape == ():
                return self.xp.from_numpy(np.asarray(given), self.xp.device(self.data))
            raise DTypeError(
                f"{what} of a tensor whose data is an array of {mine} must be one of {mine} too, not of {theirs}"
            )
        here, there = self.xp.device(self.data), self.xp.device(given)
        if here != there and None not in (here, there):
            raise DTypeError(f"{what} must lie on the device of data, {here}, not on {there}; move one of them")
        return np.asarray(given) if mine == "numpy" else given


def level_arrays(xp: Primitives, levels: tuple[Any, ...], recipe: Recipe, shape: Shape, like: Array) -> tuple[Any, ...]:
    """The scales of all levels, or of the outer ones, in storage after a check; ones for those that are None."""
    arrays: list[Array] = []
    for i, (level, given) in enumerate(zip(recipe.levels, levels, strict=False)):
        what = "scale" if i == len(recipe.levels) - 1 else f"scales[{i}]"
        needed = scale_shape(level, shape)
        if given is None:
            given = xp.full(needed, _code_of_one(level.dtype), level_dtype(level.dtype), like)
        arrays.append(level_storage(xp, given, level.dtype, needed, f"{what} of a {shape} tensor", recipe))
    return tuple(arrays)


def _code_of_one(dtype: Any) -> int:
    if dtype.bits > 8:
        return 1
    return dtype.bias << dtype.mantissa_bits if dtype.kind == "float" else 1


def check_zero_point(zero_point: Any, scale: Any, recipe: Recipe) -> None:
    """Raise ShapeError, as 0.1 has it, unless zero points have the shape of the scales."""
    if zero_point is None:
        return
    if not hasattr(zero_point, "shape"):
        raise DTypeError(f"zero_point must be array-like, got {type(zero_point).__name__}")
    if tuple(zero_point.shape) != tuple(scale.shape):
        raise ShapeError(
            f"zero_point.shape ({tuple(zero_point.shape)}) must match scale.shape ({tuple(scale.shape)}) for {recipe!r}"
        )


def innermost_array(side: Side, given: Any, what: str, kind: Any, recipe: Recipe, shape: Shape) -> Array | None:
    """Zero points or offsets in storage after a check; None where the recipe has none."""
    if (given is None) != (kind is None):
        need = f"needs a {what}" if kind is not None else f"has no {what}, but one was given"
        raise RecipeError(f"{recipe!r} ({recipe.describe()}) {need}; its shape is that of the scales")
    if kind is None:
        return None
    array = side.array(given, what)
    if what == "zero_point":
        array = whole_zero_points(side.xp, array, kind.dtype)
    needed = scale_shape(recipe.innermost, shape)
    return level_storage(side.xp, array, kind.dtype, needed, f"{what} of a {shape} tensor", recipe)
