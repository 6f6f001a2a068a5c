"""Arguments of a call: their arrays in order, and a key under which compiled code is found again. No xDSL here.

A key holds what code depends on: containers, dtypes, shapes, recipes, and the values of Python scalars. Under
`dynamic` it leaves out the leading size of plain arrays of two axes or more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from breccia.arrays import foreign, namespace
from breccia.errors import DTypeError, TraceError
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor

Array = np.ndarray[Any, np.dtype[Any]]
Key = tuple[Any, ...]

_STATIC = (int, str, bytes, bool, type(None), type(Ellipsis))


class InlineError(Exception):
    """An argument is traced: the call is part of another function's trace."""


_TOKENS: dict[int, tuple[Recipe, int]] = {}
_BY_VALUE: dict[Recipe, int] = {}
_MOST_TOKENS = 4096


def recipe_token(recipe: Recipe) -> int:
    """A small integer, the same for equal recipes."""
    known = _TOKENS.get(id(recipe))
    if known is not None and known[0] is recipe:
        return known[1]
    token = _BY_VALUE.setdefault(recipe, len(_BY_VALUE))
    if len(_TOKENS) >= _MOST_TOKENS:
        _TOKENS.clear()
    _TOKENS[id(recipe)] = recipe, token  # holds the recipe, so that its id is not used again
    return token


def call_key(args: Sequence[Any], kwargs: Mapping[str, Any], dynamic: bool) -> tuple[Key, list[Any]]:
    """(key, arrays in order) of a call; raises DTypeError or UnsupportedError for what cannot be an argument."""
    parts: list[Any] = []
    leaves: list[Any] = []
    for x in args:
        if type(x) is np.ndarray and x.ndim > 1 and dynamic:  # these two come first, and without a call, for speed
            parts += (x.dtype, x.ndim, x.shape[1:])
            leaves.append(x)
        elif type(x) is ScaledTensor and (known := _TOKENS.get(id(x.recipe))) is not None and known[0] is x.recipe:
            parts += (type(x.data), known[1], x.shape, x.dtype)
            leaves.append(x)
            if type(x.data) is not np.ndarray:
                parts += _place(x.scales[-1])
        else:
            _add(x, dynamic, parts, leaves)
    if kwargs:
        _add(dict(kwargs), dynamic, parts, leaves)
    return tuple(parts), leaves


def _add(x: Any, dynamic: bool, parts: list[Any], leaves: list[Any]) -> None:
    kind = type(x)
    if kind is ScaledTensor:
        parts += (type(x.data), recipe_token(x.recipe), x.shape, x.dtype)
        leaves.append(x)
        if type(x.data) is not np.ndarray:
            parts += _place(x.scales[-1])
    elif kind is np.ndarray:
        parts += (x.dtype, x.ndim, x.shape[1:]) if dynamic and x.ndim > 1 else (x.dtype, x.shape)
        leaves.append(x)
    elif kind in _STATIC:
        parts += (kind, x)
    elif kind is float:
        parts += (float, x.hex())
    elif isinstance(x, tuple | list):
        parts += (kind, len(x))
        for item in x:
            _add(item, dynamic, parts, leaves)
    elif isinstance(x, dict):
        parts += (dict, tuple(x))
        for item in x.values():
            _add(item, dynamic, parts, leaves)
    elif isinstance(x, Recipe):
        parts += (Recipe, recipe_token(x))
    elif isinstance(x, np.dtype | type):
        parts += (type, x)
    elif foreign(x):
        sizes, place = tuple(x.shape), _place(x)
        if dynamic and len(sizes) > 1:
            parts += (kind, x.dtype, *place, len(sizes), sizes[1:])
            if place[1]:  # kernels are chosen by it
                parts.append(typical(sizes[0]))
        else:
            parts += (kind, x.dtype, *place, sizes)
        leaves.append(x)
    else:
        _add(as_array(x), dynamic, parts, leaves)


_PLACES: dict[type, tuple[Callable[[Any], Any], Callable[[Any], str]]] = {}


def _place(x: Any) -> tuple[Any, str]:
    """Where an array of another library than NumPy lies, and the architecture whose kernels may be given it."""
    known = _PLACES.get(type(x))
    if known is None:
        xp = namespace(x)
        known = _PLACES[type(x)] = xp.device, xp.architecture
    return known[0](x), known[1](x)


def typical(size: int) -> int:
    """The size that stands for a range of leading sizes, for which kernels are chosen alike.

    >>> typical(1), typical(100), typical(100000)
    (16, 256, 4096)
    """
    return 16 if size <= 16 else 32 if size <= 32 else 64 if size <= 64 else 256 if size <= 256 else 4096


def library_of(leaf: Any) -> str:
    """The library of an array or ScaledTensor."""
    return leaf.library if isinstance(leaf, ScaledTensor) else foreign(leaf) or "numpy"


def one_library(leaves: Sequence[Any]) -> str:
    """The library that all arrays of a call belong to; NumPy where there are none. DTypeError where they differ.

    NumPy's numbers (arrays without axes) go with every library.
    """
    found = {library_of(leaf): leaf for leaf in leaves if type(leaf) is not np.ndarray or leaf.ndim}
    if len(found) > 1:
        shown = ", ".join(
            f"{name} ({type(leaf).__name__} of shape {tuple(leaf.shape)})" for name, leaf in found.items()
        )
        raise DTypeError(
            f"the arrays of one call belong to one library, and here are some of {shown}; convert them first: "
            "ScaledTensors with .to(...), arrays with their library's own functions"
        )
    return next(iter(found), "numpy")


def traced(*things: Any) -> bool:
    """True where one of `things` is traced. Nothing can be before the tracer is loaded, which loads xDSL."""
    tracer = sys.modules.get("breccia.frontend.tracer")
    return tracer is not None and tracer.traced(*things)


def as_array(x: Any) -> Array:
    """`x` as an array where it is one in other clothes: a NumPy number, a subclass of ndarray."""
    if isinstance(x, np.generic | np.ndarray):
        return np.asarray(x)
    if traced(x):
        raise InlineError("an argument is traced")
    where = "an argument of a compiled function"
    if isinstance(x, ScaledTensor):
        raise DTypeError(f"{type(x).__name__}, a subclass of ScaledTensor, cannot be {where}")
    raise TraceError(
        f"{type(x).__name__} cannot be {where}; allowed: arrays, ScaledTensors, Python numbers, strings, None, "
        "recipes, dtypes, and tuples, lists and dicts of them"
    )


def is_dynamic(leaf: Any, dynamic: bool) -> bool:
    """True for an argument whose leading size is left out of the key."""
    return dynamic and not isinstance(leaf, ScaledTensor) and len(leaf.shape) > 1


def rebuild(x: Any, replace: Callable[[Any], Any]) -> Any:
    """`x` with every array replaced by `replace(array)`, in the order of `call_key`."""
    if isinstance(x, ScaledTensor | np.ndarray) or foreign(x):
        return replace(x)
    if isinstance(x, tuple | list):
        items = [rebuild(item, replace) for item in x]
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    if isinstance(x, dict):
        return {key: rebuild(item, replace) for key, item in x.items()}
    if isinstance(x, np.generic):
        return replace(np.asarray(x))
    return x


def named_leaves(x: Any, name: str) -> Iterator[str]:
    """A name for every array of an argument called `name`, in the order of `call_key`."""
    if isinstance(x, tuple | list):
        fields: Sequence[str] = getattr(x, "_fields", ())
        for i, item in enumerate(x):  # a number without underscore: xDSL would take `_0` for a suffix of its own
            yield from named_leaves(item, f"{name}_{fields[i]}" if fields else f"{name}{i}")
    elif isinstance(x, dict):
        for key, item in x.items():
            yield from named_leaves(item, f"{name}_{key}")
    elif isinstance(x, ScaledTensor | np.ndarray | np.generic) or foreign(x):
        yield name
