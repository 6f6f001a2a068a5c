"""What the bridges share: recipes by their parts, arrays in the host's memory, and what they refuse."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from breccia import formats
from breccia.arrays import Array, library, namespace, numpy_dtype
from breccia.errors import DTypeError, FormatError, RecipeError, UnsupportedError
from breccia.formats import Format
from breccia.layouts import swizzle_128x4
from breccia.numerics import decode
from breccia.numerics.storage import native
from breccia.recipes import Block, Level, Offset, Policy, Recipe, ZeroPoint, all_recipes, grid_shape
from breccia.tensor import ScaledTensor, assembled

Shape = tuple[int, ...]
HostArray = np.ndarray[Any, np.dtype[Any]]
Tensors = Mapping[str, Array]
"""The tensors of one weight by the last part of their names, such as `weight_scale`."""


# -- recipes -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def integer(bits: int, signed: bool) -> Format:
    """The integer format of so many bits: 1 to 16.

    >>> integer(4, signed=False), integer(3, signed=True)
    (<format uint4>, <format int3>)
    """
    name = f"{'' if signed else 'u'}int{bits}"
    found = {f.name: f for f in formats.ALL}.get(name)
    return found or Format(name, f"{'' if signed else 'u'}i{bits}", "int", bits, signed)


@lru_cache(maxsize=1)
def _named() -> dict[tuple[object, ...], Recipe]:
    return {recipe.decode_key: recipe for recipe in reversed(all_recipes().values())}


def recipe_of(
    element: Format, *levels: tuple[Format, Block | None], zero_point: Format | None = None,
    offset: Format | None = None,
) -> Recipe:  # fmt: skip
    """The recipe of these parts, levels outermost first: a named one wherever it decodes alike.

    >>> recipe_of(formats.float4_e2m1fn, (formats.float8_e8m0fnu, (1, 32)))
    <recipe mxfp4>
    """
    recipe = Recipe(
        element,
        tuple(Level(dtype, block) for dtype, block in levels),
        None if zero_point is None else ZeroPoint(zero_point),
        None if offset is None else Offset(offset),
        Policy(scale="ceil", zero_scale="smallest") if levels[-1][0].is_power_of_two else Policy(),
    )
    return _named().get(recipe.decode_key, recipe)


def float_format(x: Array, what: str) -> Format:
    """The float format of an array's dtype; raises DTypeError for any other."""
    name = namespace(x).dtype_name(x)
    found = {f.name: f for f in formats.ALL if f.kind == "float"}.get(name)
    if found is None:
        raise DTypeError(f"{what} must be an array of floats, got {name}")
    return found


def effective(block: Block, shape: Shape) -> Shape:
    """A block on a tensor of this shape, at most its size: equal ones cover it by the same grid."""
    return tuple(
        max(size, 1) if width is None else min(width, max(size, 1)) for size, width in zip(shape, block, strict=True)
    )


def same_blocks(st: ScaledTensor, *blocks: Block | None) -> bool:
    """Whether the levels of `st`, outermost first, cover it as these blocks do."""
    rank = st.ndim
    wanted = [Level(formats.float32, block).resolve(rank) for block in blocks]
    found = st.recipe.blocks(rank)
    return len(found) == len(wanted) and all(
        effective(a, st.shape) == effective(b, st.shape) for a, b in zip(found, wanted, strict=True)
    )


def level_dtypes(st: ScaledTensor) -> tuple[Format, ...]:
    """The formats of the scales, outermost first."""
    return tuple(level.dtype for level in st.recipe.levels)


# -- arrays ------------------------------------------------------------------------------------------------------------


def host(x: Any) -> HostArray:
    """A NumPy array of the same bits; a view where the memory is the host's."""
    return np.asarray(namespace(x).to_numpy(x))


def given_back(x: HostArray, like: Array) -> Array:
    """A NumPy array in the library of `like`, on its device; row-major, also in the strides of axes of one entry."""
    xp = namespace(like)
    return xp.from_numpy(
        np.ascontiguousarray(x).reshape(-1).reshape(x.shape), None if library(like) == "mlx" else xp.device(like)
    )


def native_view(x: Array, fmt: Format) -> Array:
    """Stored codes as the format's own dtype, such as `torch.float8_e4m3fn`; as they are where a library has none."""
    name = native(fmt)
    if name is None or fmt.bits != 8 or library(x) == "mlx":
        return x
    if library(x) == "torch":
        import torch

        return x.view(getattr(torch, name))  # E8M0 too, which the primitives have no use for
    return namespace(x).bitcast(x, name)


def as_bytes(x: Array, what: str, *allowed: str) -> Array:
    """The bits of an array of one-byte entries as uint8; raises DTypeError unless its dtype is among `allowed`."""
    xp = namespace(x)
    name = xp.dtype_name(x)
    if name not in (*allowed, "uint8"):
        raise DTypeError(f"{what} must be an array of {' or '.join(dict.fromkeys((*allowed, 'uint8')))}, got {name}")
    return xp.bitcast(x, "uint8")


def power_of_two_codes(scales: Array, what: str) -> Array:
    """The E8M0 codes of float32 scales that are powers of two; raises FormatError for any other value."""
    values = host(scales).astype(np.float32)
    bits = np.ascontiguousarray(values).reshape(values.shape).view(np.uint32)
    codes = (bits >> np.uint32(23)).astype(np.uint8)
    smallest = bits == np.uint32(0x400000)  # 2**-127 is a subnormal float32; its code is 0, as the exponent says
    right = ((bits & np.uint32(0x7FFFFF)) == 0) & (codes > 0) & (codes < 255) & (bits >> np.uint32(31) == 0) | smallest
    nans = np.isnan(values)
    if not np.all(right | nans):
        bad = values[~(right | nans)].reshape(-1)[0]
        raise FormatError(f"{what} must be powers of two to be stored as E8M0; {bad!r} is none: take them as float32")
    return given_back(np.where(nans, np.uint8(255), codes), scales)


# -- what is read and what is refused ----------------------------------------------------------------------------------


class Parts:
    """The tensors of one weight in a foreign format.

    Invariant: after `done`, every tensor was read, or is known not to touch the weight's values. A scale that nobody
    reads would be a silent error.
    """

    def __init__(self, peer: str, tensors: Tensors, ignored: Collection[str] = ()) -> None:
        self.peer, self._tensors, self._left = peer, tensors, set(tensors) - set(ignored)

    def take(self, name: str) -> Array:
        """The tensor called `name`; raises FormatError where there is none."""
        if name not in self._tensors:
            raise FormatError(
                f"{self.peer}: there is no tensor {name!r}; given are {', '.join(sorted(self._tensors)) or 'none'}"
            )
        self._left.discard(name)
        return self._tensors[name]

    def maybe(self, name: str) -> Array | None:
        """The tensor called `name`, or None."""
        return self.take(name) if self._tensors.get(name) is not None else None

    def has(self, name: str) -> bool:
        return self._tensors.get(name) is not None

    def done(self) -> None:
        """Raise FormatError where a tensor was not read."""
        left = sorted(name for name in self._left if self._tensors[name] is not None)
        if left:
            raise FormatError(
                f"{self.peer}: this bridge does not know the tensor{'s' * (len(left) > 1)} {', '.join(left)}, "
                "without which the weight may be wrong; leave out what does not belong to the weight"
            )


def cannot_hold(peer: str, st: ScaledTensor, holds: str, go_on: str) -> UnsupportedError:
    """The error for a tensor that a format has no place for."""
    return UnsupportedError(
        f"{peer} holds {holds}; it cannot hold a tensor of shape {st.shape} with {st.recipe.describe()} "
        f"({st.recipe!r}). To go on: {go_on}"
    )


def requantize_to(recipe: str) -> str:
    """How to go on where only another quantization helps, which nobody should get without asking."""
    return f"breccia.requantize(st, breccia.recipes.{recipe}), which changes values"


def check_shape(found: Shape, wanted: Shape, what: str, peer: str) -> None:
    """Raise FormatError unless a foreign tensor has the shape that the others call for."""
    if tuple(found) != tuple(wanted):
        raise FormatError(f"{peer}: {what} must have shape {tuple(wanted)}, got {tuple(found)}")


def entries(shape: Shape) -> int:
    """The number of entries of a shape."""
    return prod(shape)


def expected(st: ScaledTensor, recipe: Recipe | None, peer: str) -> ScaledTensor:
    """`st`, told to be of `recipe`, as 0.1's bridges let one say; raises RecipeError where that decodes otherwise."""
    if recipe is None:
        return st
    fits = recipe.element == st.recipe.element and level_dtypes(st) == tuple(level.dtype for level in recipe.levels)
    fits = fits and (recipe.zero_point, recipe.offset) == (st.recipe.zero_point, st.recipe.offset)
    if not fits or not same_blocks(st, *(level.block for level in recipe.levels)):
        raise RecipeError(
            f"{peer}: the tensor has {st.recipe.describe()} ({st.recipe!r}), which is not {recipe!r} "
            f"({recipe.describe()}); leave recipe out, or requantize to it afterwards"
        )
    return with_recipe(st, recipe)


def with_recipe(st: ScaledTensor, recipe: Recipe) -> ScaledTensor:
    """The same bits under a recipe that covers them alike."""
    rank = st.ndim
    scales = [
        namespace(scale).reshape(scale, () if level.block is None else grid_shape(st.shape, level.resolve(rank)))
        for scale, level in zip(st.scales, recipe.levels, strict=True)
    ]
    extra = [x if x is None else namespace(x).reshape(x, tuple(scales[-1].shape)) for x in (st.zero_point, st.offset)]
    return assembled(st.data, tuple(scales), recipe, extra[0], extra[1], st.shape, st.dtype)


def unpadded(scales: Array, logical: Shape, swizzled: bool, what: str, peer: str) -> Array:
    """Scales of shape `logical` (rows, columns), from padded ones, or from cuBLAS' 128x4 order of padded ones.

    Raises FormatError where there are fewer than `logical` calls for.
    """
    xp = namespace(scales)
    if swizzled:
        storage = swizzle_128x4.shape(logical)
        if entries(xp.shape(scales)) != entries(storage):
            raise FormatError(
                f"{peer}: {what} of {logical} in 128x4 order take {entries(storage)} bytes, got {xp.shape(scales)}"
            )
        return given_back(swizzle_128x4.unpack(host(scales).reshape(storage), logical), scales)
    found = xp.shape(scales)
    if len(found) != 2 or any(n < m for n, m in zip(found, logical, strict=True)):
        raise FormatError(f"{peer}: {what} must have at least shape {logical}, got {found}")
    return scales[: logical[0], : logical[1]]


def flag(arguments: Any, name: str, default: Any = None) -> Any:
    """A field of a configuration, given as a mapping or as an object with attributes; enums by their value."""
    found = arguments.get(name) if isinstance(arguments, Mapping) else getattr(arguments, name, None)
    found = default if found is None else found
    return getattr(found, "value", found)


def inverse(x: Array) -> HostArray:
    """1 / x in float32, on the host: between global scales that divide and scales, which multiply."""
    with np.errstate(all="ignore"):
        return np.float32(1) / host(x).astype(np.float32)


def dividing(outer: Array, peer: str) -> HostArray:
    """The global scale that divides and whose inverse is `outer`, bit for bit; raises UnsupportedError if none is."""
    wanted = host(outer).astype(np.float32).reshape(())
    near = np.asarray(inverse(wanted))
    for steps in (0, 1, -1, 2, -2):
        made = np.asarray((near.view(np.int32) + np.int32(steps)).view(np.float32))
        if np.asarray(inverse(made)).tobytes() == wanted.tobytes():
            return made
    raise UnsupportedError(
        f"{peer} divides by its global scale, and no float32 has {float(wanted)!r} as its inverse; give the one that "
        "the tensor came with, or requantize"
    )


def exactly_in(scales: Array, fmt: Format, to: Format) -> HostArray | None:
    """Stored scales (or offsets) in another float format, on the host; None where that would change one."""
    values = host(decode(scales, fmt)).astype(np.float32)
    with np.errstate(all="ignore"):
        made = values.astype(numpy_dtype(to.name))
    same = made.astype(np.float32).view(np.uint32) == values.view(np.uint32)
    return made if bool(np.all(same)) else None
