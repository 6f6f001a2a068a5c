"""Scaled tensors: encoding, decoding, storage orders and views, all through `breccia.numerics`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from xdsl.ir import Attribute

from breccia import numerics
from breccia.arrays import numpy as primitives
from breccia.errors import RecipeError
from breccia.formats import Format
from breccia.ir.interpreter.values import Array, InterpreterError, Mode, ScaledValue, scaled_value
from breccia.ir.types import LayoutAttr, ScaledType, TensorType, component_types, decode_half
from breccia.recipes import Policy, Recipe

IndexOffset = tuple[int, tuple[int, ...]]


def with_policy(recipe: Recipe, policy: Policy, rank: int) -> Recipe:
    """A type's recipe together with an op's policy; raises InterpreterError where they contradict each other."""
    try:
        return replace(decode_half(recipe, rank), policy=policy)
    except RecipeError as error:
        raise InterpreterError(f"policy and recipe do not fit: {error}") from None


def quantize(
    x: Array,
    recipe: Recipe,
    given: Sequence[int],
    operands: Sequence[Array],
    mode: Mode,
    index: IndexOffset | None = None,
) -> ScaledValue:
    """Encode `x`, rounded to float32 first.

    operands: the scales of the levels in `given`, then a seed if rounding is stochastic. index: where a tile lies.
    """
    if list(given) != list(range(len(given))):
        raise InterpreterError(
            f"quantize: levels {list(given)} are given; outer levels must be given before inner ones"
        )
    scales = tuple(_stored(s) for s in operands[: len(given)])
    seed = int(operands[len(given)]) if len(operands) > len(given) else None
    parts = numerics.quantize(x.astype(np.float32), recipe, scales=scales or None, seed=seed, index_offset=index)

    def carry(a: Array | None) -> Array | None:
        return a if a is None or a.dtype != np.float32 else a.astype(mode.real)

    levels = tuple(s.astype(mode.real) if s.dtype == np.float32 else s for s in parts.scales)
    return ScaledValue(parts.elements, levels, carry(parts.zero_point), carry(parts.offset))


def _stored(scale: Array) -> Array:
    return scale.astype(np.float32) if scale.dtype == np.float64 else scale


def dequantize(value: ScaledValue, recipe: Recipe, mode: Mode) -> Array:
    """`((E(e) - zero) * s_innermost) * ... * s_outermost + offset`; every step rounds to f32, or f64 in wide mode."""
    if not mode.wide:
        parts = numerics.Components(value.codes, value.scales, value.zero_point, value.offset)
        return numerics.dequantize(parts, recipe)
    blocks, shape = recipe.blocks(value.codes.ndim), value.codes.shape

    def spread(stored: Array, fmt: Format, level: int) -> Array:
        numbers = stored if stored.dtype == np.float64 else numerics.decode(stored, fmt).astype(np.float64)
        return primitives.expand(numbers, blocks[level], shape)

    out = numerics.decode(value.codes, recipe.element).astype(np.float64)
    if recipe.zero_point is not None and value.zero_point is not None:
        out = out - spread(value.zero_point, recipe.zero_point.dtype, -1)
    for i in reversed(range(len(recipe.levels))):
        out = out * spread(value.scales[i], recipe.levels[i].dtype, i)
    if recipe.offset is not None and value.offset is not None:
        out = out + spread(value.offset, recipe.offset.dtype, -1)
    return out


def scales(value: ScaledValue, recipe: Recipe, mode: Mode) -> Array:
    """What each element is multiplied by, innermost level first; every step rounds to f32, or f64 in wide mode."""
    ones = np.ones(value.codes.shape, mode.real)
    return scaled_by(ones, value, recipe, range(len(recipe.levels)), mode)


def without_scales(value: ScaledValue, recipe: Recipe, levels: Sequence[int]) -> ScaledValue:
    """`value` with the scales of some levels set to 1."""

    def ones(scale: Array, fmt: Format) -> Array:
        one = np.ones(scale.shape, np.float32)
        return numerics.encode(one, fmt) if fmt.bits <= 8 else one.astype(scale.dtype)

    scales = tuple(ones(s, recipe.levels[i].dtype) if i in levels else s for i, s in enumerate(value.scales))
    return replace(value, scales=scales)


def scaled_by(x: Array, value: ScaledValue, recipe: Recipe, levels: Sequence[int], mode: Mode) -> Array:
    """`x` times the scales of some levels of `value`, innermost first."""
    blocks, shape = recipe.blocks(value.codes.ndim), value.codes.shape
    for i in reversed(levels):
        scale = value.scales[i]
        numbers = scale if scale.dtype == np.float64 else numerics.decode(scale, recipe.levels[i].dtype)
        x = x * primitives.expand(numbers.astype(mode.real), blocks[i], shape)
    return x


def scale_from_amax(amax: Array, recipe: Recipe, policy: Policy, level: int, mode: Mode) -> Array:
    """The stored scales of a level from the amax of its blocks, rounded to float32 first."""
    if recipe.zero_point is not None or recipe.offset is not None:
        raise InterpreterError(f"scale_from_amax: {recipe!r} takes its scales from a block's range, not from its amax")
    whole = with_policy(recipe, policy, max(len(level.block or ()) for level in recipe.levels))
    amax = amax.astype(np.float32)
    if level == len(recipe.levels) - 1:
        scale = numerics.scale_from_amax(amax, recipe.element, recipe.levels[level].dtype, policy)
    else:
        scale = numerics.outer_scales(amax, whole, level)
    scale = np.asarray(scale).reshape(amax.shape)
    return scale.astype(mode.real) if scale.dtype == np.float32 else scale


# -- storage -----------------------------------------------------------------------------------------------------------


def to_storage(x: Array, order: str, fmt: Format | None) -> Array:
    """A logical component in memory order `order`. Padding of swizzled scales is code 0."""
    if order == "row_major":
        return x
    if order == "mn_major":
        return np.ascontiguousarray(np.swapaxes(x, -1, -2))
    if order == "swizzle_128x4":
        return _swizzle(x)
    if order in ("packed4", "packed6") and fmt is not None:
        return numerics.pack(np.ascontiguousarray(x), fmt)
    raise InterpreterError(f"unknown memory order {order!r}")


def from_storage(x: Array, order: str, fmt: Format | None, shape: tuple[int, ...]) -> Array:
    """Inverse of `to_storage` for a component of logical shape `shape`."""
    if order == "row_major":
        return x
    if order == "mn_major":
        return np.ascontiguousarray(np.swapaxes(x, -1, -2))
    if order == "swizzle_128x4":
        return _unswizzle(x)[..., : shape[-2], : shape[-1]]
    if order in ("packed4", "packed6") and fmt is not None:
        return numerics.unpack(x, fmt, shape[-1])
    raise InterpreterError(f"unknown memory order {order!r}")


def _swizzle(x: Array) -> Array:
    *batch, rows, columns = x.shape
    padded = np.zeros((*batch, -(-rows // 128) * 128, -(-columns // 4) * 4), x.dtype)
    padded[..., :rows, :columns] = x
    tiles = padded.reshape(*batch, -(-rows // 128), 4, 32, -(-columns // 4), 4)
    n = len(batch)
    moved = np.transpose(tiles, [*range(n), n, n + 3, n + 2, n + 1, n + 4])
    return np.ascontiguousarray(moved).reshape(*batch, -(-rows // 128), -(-columns // 4), 32, 16)


def _unswizzle(x: Array) -> Array:
    *batch, row_tiles, column_tiles, _, _ = x.shape
    n = len(batch)
    tiles = x.reshape(*batch, row_tiles, column_tiles, 32, 4, 4)
    moved = np.transpose(tiles, [*range(n), n, n + 3, n + 2, n + 1, n + 4])
    return np.ascontiguousarray(moved).reshape(*batch, row_tiles * 128, column_tiles * 4)


def orders(type_: ScaledType) -> list[str]:
    """The memory order of each component; logical order where the type has no layout."""
    names = [name for name, _ in component_types(type_)]
    layout = type_.layout
    return [layout.order(name) if isinstance(layout, LayoutAttr) else "row_major" for name in names]


def parts(type_: ScaledType, value: ScaledValue) -> list[Array]:
    """The components as they are stored under the type's layout."""
    rows = zip(value.components, orders(type_), component_types(type_), strict=True)
    return [to_storage(x, order, t.format) for x, order, (_, t) in rows]


def assemble(type_: ScaledType, stored: Sequence[Array], mode: Mode) -> ScaledValue:
    """Inverse of `parts`."""
    rows = zip(stored, orders(type_), component_types(type_), strict=True)
    return scaled_value(type_, [from_storage(x, order, t.format, mode.shape(t.shape)) for x, order, (_, t) in rows])


# -- views -------------------------------------------------------------------------------------------------------------


def map_components(type_: ScaledType, value: ScaledValue, function: Any) -> ScaledValue:
    """`function(component, block)` of every component; elements have blocks of 1, extras the innermost ones."""
    blocks = type_.recipe.blocks(type_.rank)
    each = [(1,) * type_.rank, *blocks, *([blocks[-1]] * (len(value.components) - 1 - len(blocks)))]
    return scaled_value(type_, [function(c, b) for c, b in zip(value.components, each, strict=True)])


def slice_component(component: Array, width: int | None, axis: int, start: int, stop: int) -> Array:
    """The entries that belong to elements `start` to `stop` of an axis; one that spans the axis stays."""
    if width is None:
        return component
    return component[(slice(None),) * axis + (slice(start // width, -(-stop // width)),)]


def as_types(type_: Attribute) -> list[tuple[str, TensorType]]:
    """Component names and logical types of a scaled type, or the type itself under the name `value`."""
    return component_types(type_) if isinstance(type_, ScaledType) else [("value", type_)]  # type: ignore[list-item]
