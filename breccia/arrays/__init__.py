"""The primitives that numerics is written over: one file per array library, found by the argument's own module.

No library is imported before somebody passes one of its arrays. A file `arrays/<library>.py` holds the functions of
`Primitives`; nothing else is needed to teach numerics a new library.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any, Protocol, TypeVar, cast

import ml_dtypes
import numpy as np

from breccia.errors import DTypeError, UnsupportedError
from breccia.formats import Format
from breccia.recipes import Block, Recipe

Array = Any
"""An array of any supported library; the primitives below say what may be done with it besides `+ - * & | ^ ~ < ==
[]`."""

Words = tuple[Array, Array]
"""The high and the low half of 64-bit integers."""

_ALIASES = {"jaxlib": "jax", "ml_dtypes": "numpy", "builtins": "numpy"}
_LIBRARIES = ("numpy", "torch", "jax", "mlx")


class Primitives(Protocol):
    """What numerics asks of an array library.

    dtypes are named by strings in NumPy's spelling, or ml_dtypes'. `block` has one entry for each axis; None spans
    the axis. Functions return arrays of the library, on the device of their arguments, and wait for no device; only
    `any` may. Every function works where the library traces (jit, vmap, FakeTensor), except `any`, which then raises.

    Words: "uint32" may be a signed dtype of 32 bits where a library has no unsigned one; `dtype_name` then says
    "uint32" of neither. Numerics therefore uses on words only what is the same for both: + - * & | ^ ~ << wrap, `>>`
    and `<` where the top bit is 0, and `shift_right` anywhere. Python integers meet words below 2**31 only; larger
    ones are made by `full`.
    """

    @property
    def TABLES(self) -> bool:
        """True where a gather from a table of 256 KiB is the fastest encoder."""
        ...

    # -- what an array is ----------------------------------------------------------------------------------------------

    def as_float32(self, x: Any) -> Array:
        """`x` as float32, see `arrays.numpy`; raises DTypeError."""
        ...

    def dtype_name(self, x: Array) -> str: ...
    def shape(self, x: Array) -> tuple[int, ...]: ...
    def nbytes(self, x: Array) -> int: ...
    def device(self, x: Array) -> Any:
        """The device that `x` lies on, comparable with ==; None where the library has but one."""
        ...

    def architecture(self, x: Array) -> str:
        """The architecture of the GPU whose kernels may be given `x`, such as `sm_90`; empty where there is none, or
        where `x` is traced or differentiated.
        """
        ...

    # -- known values --------------------------------------------------------------------------------------------------

    def any(self, x: Array) -> bool:
        """Whether any entry is true. May wait for a device; raises UnsupportedError where values are not known yet."""
        ...

    def surely_none(self, x: Array) -> bool:
        """True if it is known now, without waiting for a device, that no entry is true: work may be skipped."""
        ...

    def surely_any(self, x: Array) -> bool:
        """True if it is known now, without waiting for a device, that an entry is true: an error may be raised."""
        ...

    def known_range(self, words: Array) -> tuple[int, int] | None:
        """The smallest and the largest of words below 2**31, if known now, without waiting for a device."""
        ...

    # -- entry by entry ------------------------------------------------------------------------------------------------

    def bitcast(self, x: Array, dtype: str) -> Array: ...
    def convert(self, x: Array, dtype: str) -> Array: ...
    def full(self, shape: tuple[int, ...], value: float, dtype: str, like: Array) -> Array:
        """An array of one value on the device of `like`; uint32 values up to 2**32 - 1."""
        ...

    def number(self, bits: int, rank: int, like: Array) -> Array:
        """The float32 constant of these bits, as an array of one entry that nobody writes to."""
        ...

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        """Entries of a or b in the dtype of the one that is an array; Python numbers take the other's dtype."""
        ...

    def minimum(self, a: Any, b: Any) -> Array: ...
    def maximum(self, a: Any, b: Any) -> Array: ...
    def shift_right(self, x: Array, places: int) -> Array:
        """Words shifted right by 0 to 31 places, zeros coming in from the left."""
        ...

    def take(self, table: Any, index: Array) -> Array:
        """Entries of a constant one-dimensional NumPy table."""
        ...

    def searchsorted(self, thresholds: Any, x: Array) -> Array:
        """How many entries of a constant ascending NumPy table are at most x, as an index for `take`."""
        ...

    def divide(self, a: Array, b: Array) -> Array:
        """IEEE float32, subnormals included whatever the host's flush mode is; so are `multiply` and `add`."""
        ...

    def multiply(self, a: Array, b: Array) -> Array: ...
    def add(self, a: Array, b: Array) -> Array: ...
    def flat_index(self, shape: tuple[int, ...], offset: int, strides: tuple[int, ...], like: Array) -> Words:
        """(high, low) words of the 64-bit offset + sum of index * stride, in `shape`."""
        ...

    def seed_words(self, seed: Any, like: Array) -> Words:
        """(high, low) words, of rank 0, of a 64-bit seed: a Python integer, or an integer array of one entry."""
        ...

    def native_encode(self, x: Array, fmt: Format, rounding: str, overflow: str, tame: bool = False) -> Array | None:
        """A faster way to the codes that `numerics.bit_encode` defines, for every float32; None where there is none.

        tame: no entry is NaN, or larger than the largest finite element by more than a few float32 roundings.
        """
        ...

    def native_quantize(self, x: Array, recipe: Recipe) -> tuple[Array, tuple[Array, ...]] | None:
        """(codes, stored scales, outermost first): a faster way to `numerics.quantize`; None where there is none."""
        ...

    def native_decode(self, codes: Array, fmt: Format) -> Array | None:
        """The float32 values of codes without a table; None where a table is the faster way, or there is no other."""
        ...

    # -- shapes and blocks ---------------------------------------------------------------------------------------------

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array: ...
    def transpose(self, x: Array, order: tuple[int, ...]) -> Array: ...
    def concat(self, arrays: Sequence[Array], axis: int) -> Array: ...
    def block_amax_bits(self, x: Array, block: Block, finite: bool = False) -> Array:
        """Largest |x| of every block as float32 bits in words: NaN above infinity above every number; 0 where empty.

        finite: of the finite values alone, 0 where there are none.
        """
        ...

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

    def settled(self, grid: Array) -> Array:
        """The same entries, few and costly, that a compiler shall not compute again wherever they are used."""
        ...

    def fused(self, function: Callable[..., Any], static: Any, arrays: tuple[Array, ...]) -> Any:
        """`function(static, *arrays)`, as one computation where the library compiles; `static` is hashable."""
        ...

    # -- gradients -----------------------------------------------------------------------------------------------------

    def stop_gradient(self, x: Array) -> Array:
        """`x` as a constant to differentiation."""
        ...

    def straight_through(self, x: Array, value: Array) -> Array:
        """`value`, whose gradient goes to `x` unchanged; first and higher derivatives, forward and reverse."""
        ...

    def refuse_gradient(self, x: Array, message: str) -> Array:
        """`x`; raises GradientError with `message` where it is, or would be, differentiated."""
        ...

    # -- between libraries ---------------------------------------------------------------------------------------------

    def to_numpy(self, x: Array) -> Any:
        """A NumPy array of the same bits, a view where memory can be shared; waits for the device."""
        ...

    def from_numpy(self, x: Any, device: Any = None) -> Array:
        """The library's array of a NumPy array's bits, on `device`; a view where memory can be shared."""
        ...

    def from_dlpack(self, x: Any) -> Array | None:
        """The library's array of another library's array, sharing its memory, on a device that both reach; None where
        that cannot be.
        """
        ...

    def register_container(self, cls: type, flatten: Callable[..., Any], unflatten: Callable[..., Any]) -> None:
        """Let the library's transformations look into objects of `cls`; twice is once.

        flatten(obj) gives (tuple of arrays, hashable rest); unflatten(rest, arrays) the object again, without checks.
        """
        ...


def library(x: Any) -> str:
    """The array library that `x` belongs to; subclasses of its array count, wherever they were defined.

    >>> library([1.0, 2.0])
    'numpy'
    """
    known = _NAMED.get(type(x))
    if known is not None:
        return known
    for cls in type(x).__mro__:
        root = cls.__module__.partition(".")[0]
        name = _ALIASES.get(root, root)
        if name in _LIBRARIES and root != "builtins":
            _NAMED[type(x)] = name
            return name
    if isinstance(x, (bool, int, float, complex, list, tuple)) or hasattr(x, "__array__") or hasattr(x, "__buffer__"):
        return "numpy"
    raise DTypeError(
        f"{type(x).__name__} is not an array; allowed: arrays of {', '.join(_LIBRARIES)}, lists and numbers"
    )


_NAMED: dict[type, str] = {}
_OF_CLASS: dict[type, str] = {}


def foreign(x: Any) -> str:
    """The library of an array that is not NumPy's; empty for everything else. Quick: known by the class.

    >>> foreign([1.0])
    ''
    """
    cls = type(x)
    known = _OF_CLASS.get(cls)
    if known is None:
        known = ""
        if hasattr(cls, "shape") and hasattr(cls, "dtype"):
            with suppress(DTypeError):
                known = library(x)
        known = _OF_CLASS[cls] = "" if known == "numpy" else known
    return known


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy (or ml_dtypes) dtype of any library's spelling of one; raises DTypeError.

    >>> numpy_dtype("bfloat16").itemsize
    2
    """
    name = dtype if isinstance(dtype, str) else str(dtype).rpartition(".")[2] if _is_foreign_dtype(dtype) else ""
    try:
        return np.dtype(getattr(ml_dtypes, name, None) or {"bool": "bool_"}.get(name) or name or dtype)
    except TypeError as error:
        raise DTypeError(
            f"{dtype!r} is no dtype: {error}; allowed: NumPy's, ml_dtypes', PyTorch's, JAX's and MLX's, or a name such "
            "as 'bfloat16'"
        ) from None


def _is_foreign_dtype(dtype: Any) -> bool:
    return type(dtype).__module__.partition(".")[0] in ("torch", "mlx")


WHOLE: dict[str, Callable[..., Any]] = {}
"""Functions that `torch.compile` does not look into, by name."""

CONTAINERS: list[tuple[type, Callable[..., Any], Callable[..., Any]]] = []
"""Classes that hold arrays, with their `flatten` and `unflatten`: see `Primitives.register_container`."""

F = TypeVar("F", bound=Callable[..., Any])


def compiling() -> bool:
    """True where `torch.compile` reads the code that asks: Dynamo answers while it traces."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_dynamo_compiling()


def opaque(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call of a function of `WHOLE` in the graph that Dynamo makes."""
    from breccia.arrays.torch_trace import call

    return call(name, args, kwargs)


def whole(function: F) -> F:
    """A function that `torch.compile` takes as a whole: its tensor operations are traced, its Python is not read."""
    name = f"{function.__module__}.{function.__qualname__}"
    WHOLE[name] = function

    @wraps(function)
    def outside(*args: Any, **kwargs: Any) -> Any:
        if compiling():
            return opaque(name, args, kwargs)
        return function(*args, **kwargs)

    return cast(F, outside)


_WITHIN: ContextVar[str] = ContextVar("within", default="")


@contextmanager
def within(name: str) -> Generator[None]:
    """Let `namespace` give the primitives `arrays/<name>.py` for arrays of the library that the name begins with.

    name: such as `jax_tiles`, for JAX's arrays inside a kernel, whose compiler takes less than XLA does.
    """
    token = _WITHIN.set(name)
    try:
        yield
    finally:
        _WITHIN.reset(token)


def namespace(x: Any) -> Primitives:
    """The primitives of the library that `x` belongs to, or of the place in it that `within` says.

    Raises UnsupportedError for a library that cannot be imported, DTypeError for what is no array.
    """
    name, place = library(x), _WITHIN.get()
    return _namespace(place if place and place.partition("_")[0] == name else name)


@lru_cache(maxsize=64)
def _namespace(name: str) -> Primitives:
    try:
        return cast(Primitives, cast(object, importlib.import_module(f"{__name__}.{name}")))
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"{name} is not installed ({error}); install it: pip install breccia[{name}]") from error


def primitives_of(name: str) -> Primitives:
    """The primitives of a library by its name; DTypeError for an unknown one, UnsupportedError if it is not installed.

    >>> primitives_of("numpy").shape([1.0])
    (1,)
    """
    if name not in _LIBRARIES:
        raise DTypeError(f"{name!r} is no array library that breccia knows; allowed: {', '.join(_LIBRARIES)}")
    return _namespace(name)


def transfer(x: Array, name: str, device: Any = None) -> Array:
    """`x` as an array of the library `name`, on `device` or where it lies; memory is shared where both can.

    Between devices of one kind by DLPack, else through the host's memory. Raises DTypeError or UnsupportedError.
    """
    source, target = namespace(x), primitives_of(name)
    if source is target and (device is None or source.device(x) == device):
        return x
    if device is None and "numpy" not in (name, library(x)):
        shared = target.from_dlpack(x)
        if shared is not None:
            return shared
    return target.from_numpy(source.to_numpy(x), device)
