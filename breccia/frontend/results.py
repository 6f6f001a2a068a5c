"""Between a call's arguments and the plain components that emitted code takes and gives. No xDSL here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from breccia.errors import PassError
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor

Array = np.ndarray[Any, np.dtype[Any]]
Convert = Callable[[Any], Sequence[Array]]


@dataclass(frozen=True)
class Tree:
    """How results are nested: `array`, `static`, `tuple`, `list` or `dict`.

    Invariants: `keys` and `children` have one length in a dict; `cls` is the class of a named tuple.
    """

    kind: str
    children: tuple[Tree, ...] = ()
    keys: tuple[Any, ...] = ()
    value: Any = None
    cls: type | None = None

    def fill(self, arrays: Iterator[Any]) -> Any:
        """The results, with arrays taken from `arrays` in order."""
        if self.kind == "array":
            return next(arrays)
        if self.kind == "static":
            return self.value
        items = [child.fill(arrays) for child in self.children]
        if self.kind == "dict":
            return dict(zip(self.keys, items, strict=True))
        if self.cls is not None:
            return self.cls(*items)
        return tuple(items) if self.kind == "tuple" else items


@dataclass(frozen=True)
class Result:
    """One array that a function gives: its dtype, the recipe of a scaled one, and its logical shape."""

    dtype: np.dtype[Any]
    recipe: Recipe | None
    shape: tuple[Dim, ...]

    @property
    def is_plain(self) -> bool:
        """True where the emitted function's value is the array itself."""
        return self.recipe is None and (self.dtype.itemsize > 1 or self.dtype.name in ("bool", "uint8"))

    @property
    def components(self) -> int:
        """How many values of the emitted function it takes."""
        if self.recipe is None:
            return 1
        return 1 + len(self.recipe.levels) + (self.recipe.zero_point is not None) + (self.recipe.offset is not None)

    def assemble(self, parts: Sequence[Array], env: dict[str, int]) -> Any:
        """The array or ScaledTensor made of the components that the emitted function gave."""
        if self.recipe is None:
            (array,) = parts
            if array.dtype == self.dtype:
                return array
            if self.is_plain or array.dtype != np.uint8:
                raise PassError(f"emitted code gave {array.dtype} where {self.dtype} was meant")
            return array.view(self.dtype)
        shape = tuple(int(dims.evaluate(d, env)) for d in self.shape)
        recipe, rest = self.recipe, list(parts[1:])
        grids = [(level.block is None, rest.pop(0)) for level in recipe.levels]
        whole = recipe.innermost.block is None
        zero_point = _grid(whole, rest.pop(0)) if recipe.zero_point is not None else None
        offset = _grid(whole, rest.pop(0)) if recipe.offset is not None else None
        return ScaledTensor(
            parts[0], None, recipe, None, zero_point,
            shape=shape, dtype=self.dtype, scales=[_grid(*g) for g in grids], offset=offset,
        )  # fmt: skip


def _grid(whole: bool, array: Array) -> Array:
    """Scales of the whole tensor have no axes outside, and one entry on every axis inside."""
    return array.reshape(()) if whole else array


def convert_plain(dtype: np.dtype[Any]) -> Convert | None:
    """What makes an array of `dtype` a component; None where it is one."""
    if not dtype.isnative:
        native = dtype.newbyteorder("=")
        return lambda x: (x.astype(native),)
    if dtype.itemsize > 1 or dtype == np.bool_ or dtype == np.uint8:
        return None
    bits = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "float6_e2m3fn": 6, "float6_e3m2fn": 6}.get(dtype.name, 8)
    if bits == 8:
        return lambda x: (x.view(np.uint8),)
    mask = np.uint8((1 << bits) - 1)
    return lambda x: (x.view(np.uint8) & mask,)


def convert_scaled(x: ScaledTensor) -> Sequence[Array]:
    """The components of a ScaledTensor: elements, scales outermost first, zero point, offset."""
    data = x.data if x.data.dtype != np.int8 else x.data.view(np.uint8)
    ones = (1,) * len(x.shape)
    parts = [data, *(s if s.ndim else s.reshape(ones) for s in x.scales)]
    if x.zero_point is not None:
        parts.append(x.zero_point if x.zero_point.ndim else x.zero_point.reshape(ones))
    if x.offset is not None:
        parts.append(x.offset if x.offset.ndim else x.offset.reshape(ones))
    return parts


def converter(leaf: Any) -> Convert | None:
    """What makes the components of arguments like `leaf`; None where the argument is its own component."""
    if not isinstance(leaf, ScaledTensor):
        return convert_plain(leaf.dtype)
    stored_as_is = leaf.data.dtype == np.uint8 and leaf.zero_point is None and leaf.offset is None
    if not stored_as_is or any(s.ndim == 0 for s in leaf.scales):
        return convert_scaled
    return _one_level if len(leaf.scales) == 1 else _levels  # this is on the way of every call


def _one_level(x: ScaledTensor) -> Sequence[Array]:
    return x.data, x.scales[0]


def _levels(x: ScaledTensor) -> Sequence[Array]:
    return x.data, *x.scales
