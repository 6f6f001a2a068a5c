"""Between a call's arguments and the plain components that emitted code takes and gives. No xDSL here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from breccia.arrays import namespace, numpy_dtype
from breccia.errors import PassError
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.numerics.storage import storage_dtype
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor, assembled

Array = np.ndarray[Any, np.dtype[Any]]
Convert = Callable[[Any], Sequence[Array]]
Assemble = Callable[[Sequence[Any], dict[str, int]], Any]


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
            return _named(parts[0], self.dtype, plain=self.is_plain)
        shape = tuple(int(dims.evaluate(d, env)) for d in self.shape)
        recipe, rest = self.recipe, list(parts[1:])
        grids = [(level.block is None, rest.pop(0)) for level in recipe.levels]
        whole = recipe.innermost.block is None
        zero_point = _grid(whole, rest.pop(0)) if recipe.zero_point is not None else None
        offset = _grid(whole, rest.pop(0)) if recipe.offset is not None else None
        xp = namespace(parts[0])
        data = xp.bitcast(parts[0], storage_dtype(recipe.element))
        return assembled(data, tuple(_grid(*g) for g in grids), recipe, zero_point, offset, shape, self.dtype)

    def assembler(self) -> Assemble:
        """`assemble`, with what does not change between calls done beforehand: it is on the way of every call."""
        recipe, dtype = self.recipe, self.dtype
        if recipe is None or recipe.zero_point or recipe.offset or any(level.block is None for level in recipe.levels):
            return self.assemble
        storage, dims_ = storage_dtype(recipe.element), self.shape
        fixed = tuple(d for d in dims_ if isinstance(d, int))
        leading = dims_[0].name if len(fixed) == len(dims_) - 1 and isinstance(dims_[0], dims.Sym) else None
        if leading is None and len(fixed) != len(dims_):
            return self.assemble

        def assemble(parts: Sequence[Array], env: dict[str, int]) -> Any:
            data, *scales = parts
            if _dtype_name(data) != storage:
                return self.assemble(parts, env)
            shape = fixed if leading is None else (env[leading], *fixed)
            return assembled(data, tuple(scales), recipe, None, None, shape, dtype)

        return assemble


_DTYPE_NAMES: dict[Any, str] = {}


def _dtype_name(array: Any) -> str:
    """The name of an array's dtype, remembered by the dtype."""
    name = _DTYPE_NAMES.get(array.dtype)
    if name is None:
        name = _DTYPE_NAMES[array.dtype] = namespace(array).dtype_name(array)
    return name


def _named(array: Any, dtype: np.dtype[Any], *, plain: bool) -> Any:
    """A result under its dtype: codes become an array of their format where the library has one."""
    if isinstance(array, np.ndarray):
        if array.dtype == dtype:
            return array
        if plain or array.dtype != np.uint8:
            raise PassError(f"emitted code gave {array.dtype} where {dtype} was meant")
        return array.view(dtype)
    xp = namespace(array)
    if plain or xp.dtype_name(array) != "uint8":
        return array
    try:
        return xp.bitcast(array, dtype.name)
    except (KeyError, TypeError):  # the library has no such dtype, and bytes of codes are what it holds instead
        return array


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


def convert_foreign(name: str) -> Convert | None:
    """`convert_plain` for a dtype of another library, by its name."""
    dtype = numpy_dtype(name)
    if dtype.itemsize > 1 or name in ("bool", "uint8"):
        return None
    return lambda x: (namespace(x).bitcast(x, "uint8"),)


def convert_scaled(x: ScaledTensor) -> Sequence[Array]:
    """The components of a ScaledTensor: elements, scales outermost first, zero point, offset."""
    xp = namespace(x.data)
    data = xp.bitcast(x.data, "uint8") if xp.dtype_name(x.data) == "int8" else x.data
    ones = (1,) * len(x.shape)
    side = [*x.scales, *(a for a in (x.zero_point, x.offset) if a is not None)]
    return [data, *(a if len(a.shape) else xp.reshape(a, ones) for a in side)]


def converter(leaf: Any) -> Convert | None:
    """What makes the components of arguments like `leaf`; None where the argument is its own component."""
    if not isinstance(leaf, ScaledTensor):
        if isinstance(leaf, np.ndarray):
            return convert_plain(leaf.dtype)
        return convert_foreign(namespace(leaf).dtype_name(leaf))
    stored_as_is = (
        namespace(leaf.data).dtype_name(leaf.data) == "uint8" and leaf.zero_point is None and leaf.offset is None
    )
    if not stored_as_is or any(len(s.shape) == 0 for s in leaf.scales):
        return convert_scaled
    return _one_level if len(leaf.scales) == 1 else _levels  # this is on the way of every call


def _one_level(x: ScaledTensor) -> Sequence[Array]:
    return x.data, x.scales[0]


def _levels(x: ScaledTensor) -> Sequence[Array]:
    return x.data, *x.scales
