"""Arithmetic on block borders: which slices, reshapes and joins keep every block whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from breccia.arrays import Array, namespace
from breccia.errors import BlockBorderError, RecipeError, ShapeError
from breccia.recipes import Level, Recipe

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """A checked index. Invariants: one entry for each axis; `key` holds slices of step 1 or integers, all in range."""

    key: tuple[slice | int, ...]
    shape: Shape


def cut(key: Any, shape: Shape, recipe: Recipe) -> Cut:
    """Normalize an index of a tensor and check that it cuts no block; raises BlockBorderError, ShapeError,
    IndexError.
    """
    entries = _all_axes(key, shape)
    done: list[slice | int] = []
    for axis, (entry, size) in enumerate(zip(entries, shape, strict=True)):
        widths = sorted({block[axis] or 0 for block in recipe.blocks(len(shape))})
        if isinstance(entry, slice):
            done.append(_slice(entry, axis, size, max(widths), shape, recipe))
        else:
            done.append(_integer(entry, axis, size, widths, shape, recipe))
    return Cut(tuple(done), shape)


def _all_axes(key: Any, shape: Shape) -> list[Any]:
    entries = list(key) if isinstance(key, tuple) else [key]
    dots = [i for i, entry in enumerate(entries) if entry is Ellipsis]
    given = len(entries) - len(dots)
    if len(dots) > 1 or given > len(shape):
        raise IndexError(f"too many indices for shape {shape}: {key!r}")
    missing = [slice(None)] * (len(shape) - given)
    at = dots[0] if dots else len(entries)
    return entries[:at] + missing + entries[at + len(dots) :]


def _slice(entry: slice, axis: int, size: int, width: int, shape: Shape, recipe: Recipe) -> slice:
    start, stop, step = entry.indices(size)
    if step != 1:
        raise ShapeError(f"slice step {step} on axis {axis} of shape {shape}: only step 1 keeps blocks together")
    stop = max(start, stop)
    for end in (start, stop):
        if width > 1 and end % width and end != size and start != stop:
            low = end // width * width
            raise BlockBorderError(
                f"slice {start}:{stop} on axis {axis} of shape {shape} cuts a block of {width} of {recipe!r}; "
                f"nearest borders: {low} and {min(low + width, size)}; slice there, or dequantize first"
            )
    return slice(start, stop)


def _integer(entry: Any, axis: int, size: int, widths: list[int], shape: Shape, recipe: Recipe) -> int:
    try:
        index = entry.__index__()
    except AttributeError:
        raise ShapeError(
            f"index {entry!r} on axis {axis} of shape {shape}: allowed are slices of step 1, integers and ...; "
            "dequantize first for more"
        ) from None
    if isinstance(entry, (bool, np.bool_)) or not -size <= index < size:
        raise IndexError(f"index {entry!r} is out of range for axis {axis} of shape {shape}")
    if max(widths) > 1:
        raise BlockBorderError(
            f"index {index} on axis {axis} of shape {shape} cuts a block of {max(widths)} of {recipe!r}; "
            "take a slice on block borders, or dequantize first"
        )
    return index % size


def cut_grid(grid: Array, cut: Cut, level: Level) -> Array:
    """The part of a level's array that belongs to a cut."""
    if level.block is None:
        return grid
    keys: list[slice | int] = []
    for entry, width, size in zip(cut.key, level.resolve(len(cut.shape)), cut.shape, strict=True):
        if isinstance(entry, int):
            keys.append(0 if width is None else entry)
        elif width is None:
            keys.append(slice(None))
        elif entry.start >= entry.stop:
            keys.append(slice(0, 0))
        else:
            keys.append(slice(entry.start // width, -(-min(entry.stop, size) // width)))
    return grid[tuple(keys)]


def drop_axes(recipe: Recipe, cut: Cut, rank: int) -> Recipe:
    """The recipe of a cut: axes indexed by an integer are gone."""
    kept = [axis for axis, entry in enumerate(cut.key) if isinstance(entry, slice)]
    if len(kept) == rank:
        return recipe
    if not kept:
        raise ShapeError(f"indexing {cut.shape} down to rank 0 leaves no block; dequantize first")
    return _with_blocks(recipe, [tuple(block[axis] for axis in kept) for block in recipe.blocks(rank)])


def _with_blocks(recipe: Recipe, blocks: list[tuple[int | None, ...]]) -> Recipe:
    """The recipe with these blocks; itself where they are what it resolves to anyway."""
    levels = tuple(
        level if level.block is None or level.resolve(len(block)) == block else replace(level, block=block)
        for level, block in zip(recipe.levels, blocks, strict=True)
    )
    return recipe if levels == recipe.levels else recipe.with_levels(levels)


@dataclass(frozen=True)
class Reshape:
    """How to reshape. Invariant: axes from `kept_from` on stay; those before become `lead`."""

    shape: Shape
    lead: Shape
    kept_from: int
    recipe: Recipe


def reshape(shape: Shape, wanted: Shape, recipe: Recipe) -> Reshape:
    """Plan a reshape that keeps every block; raises ShapeError where one would change."""
    wanted = _fill_minus_one(shape, wanted)
    blocks = recipe.blocks(len(shape))
    explicit = [b for b, level in zip(blocks, recipe.levels, strict=True) if level.block is not None]
    kept_from = min((next((i for i, n in enumerate(b) if n != 1), len(shape)) for b in explicit), default=len(shape))
    kept = shape[kept_from:]
    if kept and wanted[-len(kept) :] != kept:
        raise ShapeError(
            f"cannot reshape {shape} to {wanted}: the last {len(kept)} axes {kept} hold blocks of {recipe!r} and must "
            "stay; dequantize first to reshape them"
        )
    lead = wanted[: len(wanted) - len(kept)]
    moved = [(1,) * len(lead) + b[kept_from:] for b in blocks]
    return Reshape(wanted, lead, kept_from, _with_blocks(recipe, moved))


def _fill_minus_one(shape: Shape, wanted: Shape) -> Shape:
    total = prod(shape)
    if wanted.count(-1) == 1:
        rest = prod(n for n in wanted if n != -1)
        if rest and total % rest == 0:
            wanted = tuple(total // rest if n == -1 else n for n in wanted)
    if not wanted or min(wanted) < 0 or prod(wanted) != total:
        raise ShapeError(f"cannot reshape {shape} ({total} values) to {wanted}")
    return wanted


def check_concat(shapes: list[Shape], recipes: list[Recipe], axis: int) -> None:
    """Raise unless tensors of these shapes and recipes can be joined along `axis` without joining blocks."""
    first, rank = shapes[0], len(shapes[0])
    for shape, recipe in zip(shapes, recipes, strict=True):
        if len(shape) != rank or shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ShapeError(f"concat along axis {axis}: shapes {first} and {shape} differ on another axis")
        if recipe.blocks(rank) != recipes[0].blocks(rank) or recipe.decode_key[::2] != recipes[0].decode_key[::2]:
            raise RecipeError(
                f"concat needs one recipe, got {recipes[0].describe()} and {recipe.describe()}; requantize"
            )
    for block in recipes[0].blocks(rank):
        width = block[axis] or 1
        for shape in shapes[:-1]:
            if shape[axis] % width:
                low = shape[axis] // width * width
                raise BlockBorderError(
                    f"concat along axis {axis}: a part of shape {shape} ends inside a block of {width} of "
                    f"{recipes[0]!r}; nearest borders: {low} and {low + width}"
                )


def join_grids(parts: list[Array], level: Level, rank: int, axis: int, recipe: Recipe) -> Array:
    """A level's arrays of tensors joined along `axis`."""
    if level.block is not None and level.resolve(rank)[axis] is not None:
        return namespace(parts[0]).concat(parts, axis)
    if any(_differ(part, parts[0]) for part in parts[1:]):
        raise RecipeError(
            f"concat along axis {axis}: one scale of {recipe!r} spans that axis, and the parts' scales differ; "
            "requantize the joined values"
        )
    return parts[0]


def _differ(a: Array, b: Array) -> bool:
    """Whether two scales have different bits. Waits for the device: joining under one scale is only legal if they
    agree.
    """
    xp = namespace(a)
    word = "uint8" if xp.dtype_name(a) == "uint8" else f"uint{xp.nbytes(a) // max(1, prod(xp.shape(a))) * 8}"
    return xp.any(xp.bitcast(a, word) != xp.bitcast(b, word))
