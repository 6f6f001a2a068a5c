"""The primitives that numerics is written over: one file per array library, found by the argument's own module.

No library is imported before somebody passes one of its arrays. A file `arrays/<library>.py` holds the functions of
`Primitives`; nothing else is needed to teach numerics a new library.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol, cast

from breccia.errors import DTypeError, UnsupportedError
from breccia.recipes import Block

Array = Any
"""An array of any supported library; the primitives below say what may be done with it besides `+ - * & | ^ ~ < ==
[]`."""

_ALIASES = {"jaxlib": "jax", "ml_dtypes": "numpy", "builtins": "numpy"}
_LIBRARIES = ("numpy", "torch", "jax", "mlx")


class Primitives(Protocol):
    """What numerics asks of an array library. Integer arithmetic wraps; shifts are at most 31 places.

    dtypes are named by strings in NumPy's spelling. `block` has one entry for each axis; None spans the axis.
    """

    @property
    def TABLES(self) -> bool:
        """True where a gather from a table of 256 KiB is the fastest encoder."""
        ...

    def as_float32(self, x: Any) -> Array: ...
    def dtype_name(self, x: Array) -> str: ...
    def shape(self, x: Array) -> tuple[int, ...]: ...
    def bitcast(self, x: Array, dtype: str) -> Array: ...
    def convert(self, x: Array, dtype: str) -> Array: ...
    def constant(self, values: Sequence[int] | Sequence[float], dtype: str) -> Array: ...
    def full(self, shape: tuple[int, ...], value: float, dtype: str) -> Array: ...
    def where(self, condition: Array, a: Any, b: Any) -> Array: ...
    def minimum(self, a: Any, b: Any) -> Array: ...
    def maximum(self, a: Any, b: Any) -> Array: ...
    def take(self, table: Array, index: Array) -> Array: ...
    def take_first_axis(self, x: Array, index: Array) -> Array: ...
    def searchsorted(self, thresholds: Array, x: Array) -> Array: ...
    def any(self, x: Array) -> bool: ...
    def divide(self, a: Array, b: Array) -> Array: ...
    def multiply(self, a: Array, b: Array) -> Array: ...
    def add(self, a: Array, b: Array) -> Array: ...
    def flat_index(self, shape: tuple[int, ...], offset: int, strides: tuple[int, ...]) -> Array: ...
    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array: ...
    def block_amax_bits(self, x: Array, block: Block) -> Array: ...
    def block_range(self, x: Array, block: Block) -> tuple[Array, Array]: ...
    def expand(self, grid: Array, ratio: Block, shape: tuple[int, ...]) -> Array: ...
    def map_blocks(
        self,
        function: Callable[..., Array],
        operands: tuple[Array, ...],
        grids: tuple[Array, ...],
        block: Block,
        dtype: str,
    ) -> Array: ...
    def pack_nibbles(self, codes: Array) -> Array: ...
    def unpack_nibbles(self, packed: Array, length: int) -> Array: ...
    def pack_sixes(self, codes: Array) -> Array: ...
    def unpack_sixes(self, packed: Array, length: int) -> Array: ...


def library(x: Any) -> str:
    """The array library that `x` belongs to; subclasses of its array count, wherever they were defined.

    >>> library([1.0, 2.0])
    'numpy'
    """
    for cls in type(x).__mro__:
        root = cls.__module__.partition(".")[0]
        name = _ALIASES.get(root, root)
        if name in _LIBRARIES and root != "builtins":
            return name
    if isinstance(x, (bool, int, float, complex, list, tuple)) or hasattr(x, "__array__") or hasattr(x, "__buffer__"):
        return "numpy"
    raise DTypeError(
        f"{type(x).__name__} is not an array; allowed: arrays of {', '.join(_LIBRARIES)}, lists and numbers"
    )


def namespace(x: Any) -> Primitives:
    """The primitives of the library that `x` belongs to.

    Raises UnsupportedError for a library that has no file in this folder, DTypeError for what is no array.
    """
    return _namespace(library(x), type(x).__name__)


@lru_cache(maxsize=64)
def _namespace(name: str, given: str) -> Primitives:
    if importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise UnsupportedError(f"arrays of {name} ({given}) are not supported yet; convert to NumPy first")
    return cast(Primitives, cast(object, importlib.import_module(f"{__name__}.{name}")))
