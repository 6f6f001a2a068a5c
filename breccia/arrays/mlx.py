"""The primitives on MLX. Words are uint32; everything stays lazy, so that `mx.compile` and `mx.grad` can look inside.

Run on the CPU backend; the GPU backend (Metal) was not run. As its arithmetic may flush subnormal numbers and
approximate quotients, it gets the integer routines of `exact`.
"""

# The library's annotations are partial, and some of what it exports is not in them.
# pyright: reportAttributeAccessIssue=false, reportUntypedFunctionDecorator=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import ml_dtypes
import mlx.core as mx
import numpy as np

from breccia.arrays import exact
from breccia.errors import DTypeError, GradientError, UnsupportedError
from breccia.formats import Format
from breccia.recipes import Block, Recipe, grid_shape

TABLES = False

CHUNK = 1 << 18
"""Elements handled at a time on CPU."""

Array = Any
_MAGNITUDE = 0x7FFFFFFF
_MINUS_INFINITY = 0xFF800000 - 0x100000000
"""As a signed word, above those of all negative numbers, -0 included, and below those of negative NaN."""
_LIFT = 0x100000000 - 0x7F800000
_DTYPES = {
    "bool": mx.bool_, "uint8": mx.uint8, "int8": mx.int8, "int16": mx.int16, "uint16": mx.uint16, "int32": mx.int32,
    "uint32": mx.uint32, "int64": mx.int64, "uint64": mx.uint64, "float16": mx.float16, "bfloat16": mx.bfloat16,
    "float32": mx.float32, "float64": mx.float64,
}  # fmt: skip


def as_float32(x: Any) -> Array:
    """`x` as float32: exact from 16-bit types, to nearest even from integers."""
    if x.dtype == mx.float32:
        return x
    if x.dtype == mx.complex64:
        raise DTypeError(
            f"cannot quantize an array of dtype complex64 and shape {shape(x)}; "
            "allowed: float16, bfloat16, float32, float64, integers and bool; take mx.real(x) and mx.imag(x) apart"
        )
    return x.astype(mx.float32)


def dtype_name(x: Array) -> str:
    """The dtype in NumPy's spelling."""
    return str(x.dtype).rpartition(".")[2]


def shape(x: Array) -> tuple[int, ...]:
    """The shape."""
    return tuple(x.shape)


def nbytes(x: Array) -> int:
    """The bytes of all entries."""
    return int(x.nbytes)


def device(x: Array) -> None:  # noqa: ARG001
    """None: memory is unified, and every device reads every array."""
    return


# -- known values ------------------------------------------------------------------------------------------------------


def any(x: Array) -> bool:
    """Whether any entry is true; evaluates it."""
    try:
        return bool(mx.any(x).item())
    except ValueError as error:
        raise UnsupportedError(
            "a value has to be known here (a policy that raises on NaN?), and MLX is transforming a function; "
            f"use nonfinite='poison' or 'saturate', or call this outside mx.compile and mx.vmap ({error})"
        ) from error


def surely_none(x: Array) -> bool:  # noqa: ARG001
    """False: to know, one would have to evaluate."""
    return False


surely_any = surely_none


def known_range(words: Array) -> None:
    """None, for the same reason."""


# -- entry by entry ----------------------------------------------------------------------------------------------------


def architecture(x: Array) -> str:  # noqa: ARG001
    """Empty: no target writes kernels for this library's arrays."""
    return ""


def bitcast(x: Array, dtype: str) -> Array:
    """The same bits as another dtype of the same width."""
    target = _DTYPES[dtype]
    return x if x.dtype == target else x.view(target)


def convert(x: Array, dtype: str) -> Array:
    """The values in another dtype."""
    target = _DTYPES[dtype]
    return x if x.dtype == target else x.astype(target)


def full(shape: tuple[int, ...], value: float, dtype: str, like: Array) -> Array:  # noqa: ARG001 - unified memory
    """An array of one value."""
    return mx.full(shape, mx.array(value, _DTYPES[dtype]))


def _alike(a: Any, b: Any) -> tuple[Any, Any]:
    """Python numbers in the dtype of the other operand."""
    if not isinstance(a, mx.array) and isinstance(b, mx.array):
        return mx.array(a, b.dtype), b
    if not isinstance(b, mx.array) and isinstance(a, mx.array):
        return a, mx.array(b, a.dtype)
    return a, b


def number(bits: int, rank: int, like: Array) -> Array:
    """A float32 constant of one entry."""
    return bitcast(full((1,) * rank, bits, "uint32", like), "float32")


def where(condition: Array, a: Any, b: Any) -> Array:
    """Entries of `a` where the condition holds, else of `b`."""
    if not isinstance(a, mx.array) and not isinstance(b, mx.array):
        a = mx.array(a, mx.float32 if isinstance(a, float) else mx.int32)
    return mx.where(condition, *_alike(a, b))


def minimum(a: Any, b: Any) -> Array:
    """The smaller of two, entry by entry."""
    return mx.minimum(*_alike(a, b))


def maximum(a: Any, b: Any) -> Array:
    """The larger of two, entry by entry."""
    return mx.maximum(*_alike(a, b))


def shift_right(x: Array, places: int) -> Array:
    """Words shifted right, zeros coming in from the left."""
    return x >> places


def take(table: Any, index: Array) -> Array:
    """Entries of a constant one-dimensional NumPy table; raises GradientError where the index is differentiated."""
    values = from_numpy(table)

    @mx.custom_function
    def look_up(places: Array) -> Array:
        return mx.take(values, places)

    look_up.vjp(_refuse_codes)
    look_up.jvp(_refuse_codes)
    look_up.vmap(lambda inputs, axes: (mx.take(values, _only(inputs)), _only(axes)))
    return look_up(index)


def _only(x: Any) -> Any:
    return x[0] if isinstance(x, list | tuple) else x


def _refuse_codes(*_: Any) -> Any:
    # MLX differentiates backwards: decoding is met before the cast that made the codes.
    raise GradientError(
        "codes have no gradient, and what was decoded here depends on the argument through breccia.cast; use "
        "breccia.cast_ste (straight-through) where gradients should pass, or cast mx.stop_gradient(x)"
    )


def searchsorted(thresholds: Any, x: Array) -> Array:
    """How many thresholds are at most x."""
    count = mx.zeros(x.shape, mx.int32)
    for threshold in from_numpy(thresholds):
        count = count + (x >= threshold).astype(mx.int32)
    return count


class _Words:
    """These primitives as an object, for `exact`."""

    bitcast, convert, where = staticmethod(bitcast), staticmethod(convert), staticmethod(where)
    minimum, maximum = staticmethod(minimum), staticmethod(maximum)


_WORDS: Any = _Words()


def _on_gpu() -> bool:
    return mx.default_device() == mx.Device(mx.gpu)


def divide(a: Array, b: Array) -> Array:
    """IEEE float32 quotient to nearest even, subnormals included."""
    return exact.divide(_WORDS, a, b, mx.divide) if _on_gpu() else a / b


def multiply(a: Array, b: Array) -> Array:
    """IEEE float32 product to nearest even, subnormals included."""
    return exact.multiply(_WORDS, a, b, mx.multiply) if _on_gpu() else a * b


def add(a: Array, b: Array) -> Array:
    """IEEE float32 sum to nearest even, subnormals included."""
    return exact.add(_WORDS, a, b, mx.add) if _on_gpu() else a + b


# -- random numbers ----------------------------------------------------------------------------------------------------


def flat_index(shape: tuple[int, ...], offset: int, strides: tuple[int, ...], like: Array) -> tuple[Array, Array]:  # noqa: ARG001
    """(high, low) words of offset + sum of index * stride, in `shape`."""
    index = mx.full((1,) * len(shape), mx.array(offset, mx.uint64))
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        step = mx.arange(size).astype(mx.uint64) * mx.array(stride, mx.uint64)
        index = index + step.reshape((1,) * axis + (size,) + (1,) * (len(shape) - axis - 1))
    return _halves(mx.broadcast_to(index, shape))


def _halves(x: Array) -> tuple[Array, Array]:
    return (x >> 32).astype(mx.uint32), x.astype(mx.uint32)


def seed_words(seed: Any, like: Array) -> tuple[Array, Array]:  # noqa: ARG001
    """(high, low) words of a 64-bit seed."""
    if isinstance(seed, mx.array):
        return _halves(seed.reshape(()).astype(mx.int64).view(mx.uint64))
    return _halves(mx.array(int(seed) & 0xFFFFFFFFFFFFFFFF, mx.uint64))


# -- encoding ----------------------------------------------------------------------------------------------------------


def native_encode(x: Array, fmt: Format, rounding: str, overflow: str, tame: bool = False) -> Array | None:  # noqa: ARG001
    """Codes by a few integer and float steps, for formats of 8 bits or fewer."""
    if rounding != "rne" or overflow != "saturate" or fmt.bits > 8 or fmt.is_power_of_two:
        return None
    if fmt.kind == "int":
        return _integers(x, fmt)
    if fmt.kind != "float":
        return None
    return _few_floats(x, fmt) if fmt.bits <= 4 and fmt.has_negative_zero and not fmt.has_nan else _floats(x, fmt)


def _integers(x: Array, fmt: Format) -> Array:
    unit = float(1 << fmt.fraction_bits)
    whole = mx.round(mx.clip(x * unit if unit > 1 else x, fmt.min * unit, fmt.max * unit))
    whole = mx.where(mx.isnan(x), mx.array(0.0, mx.float32), whole)
    return (whole.astype(mx.int32) & ((1 << fmt.bits) - 1)).astype(mx.uint8)


def _few_floats(x: Array, fmt: Format) -> Array:
    """How many borders between neighbouring magnitudes x lies beyond; a border goes to the even code. NaN is none."""
    magnitude, negative = mx.abs(x), x.view(mx.int32) <= _MINUS_INFINITY
    codes = negative.view(mx.uint8) * (1 << (fmt.bits - 1))
    for below in range(fmt.max_code):
        border = float(fmt.decode_code(below) + fmt.decode_code(below + 1)) / 2
        beyond = magnitude > border if below % 2 == 0 else magnitude >= border
        codes = codes + beyond.view(mx.uint8)
    return codes


def _floats(x: Array, fmt: Format) -> Array:
    """A sum with 2**23 quanta rounds to a whole number of quanta, ties to even, and leaves it in the low bits."""
    bits = x.view(mx.uint32)
    magnitude = bits & _MAGNITUDE
    limited = mx.minimum(magnitude, mx.array(int(np.float32(fmt.max).view(np.uint32)), mx.uint32))
    smallest = 128 - fmt.bias
    field = mx.maximum(limited >> 23, mx.array(smallest, mx.uint32))
    anchor = (field + (23 - fmt.mantissa_bits)) << 23
    count = (limited.view(mx.float32) + anchor.view(mx.float32)).view(mx.uint32) - anchor
    codes = ((field - smallest) << fmt.mantissa_bits) + count
    signed = codes | ((bits >> 31) << (fmt.bits - 1))
    if not fmt.has_negative_zero:
        signed = where(codes == 0, 0, signed)
    nan = 0 if fmt.nan_code is None else fmt.nan_code
    return where(magnitude > 0x7F800000, nan, signed).astype(mx.uint8)


def native_quantize(x: Array, recipe: Recipe) -> None:
    """None: there is no faster way."""


def native_decode(codes: Array, fmt: Format) -> None:
    """None: a table is the way."""


# -- shapes and blocks -------------------------------------------------------------------------------------------------


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """Another shape, row-major."""
    return mx.reshape(x, shape)


def transpose(x: Array, order: tuple[int, ...]) -> Array:
    """Axes in another order."""
    return mx.transpose(x, order)


def concat(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays behind each other."""
    return arrays[0] if len(arrays) == 1 else mx.concatenate(list(arrays), axis)


def _blocks(x: Array, block: Block, empty: int) -> tuple[Array, tuple[int, ...]]:
    """(x cut into blocks: two axes for each, axes inside blocks). Ends are filled up with `empty`."""
    split: list[int] = []
    padding: list[tuple[int, int]] = []
    for size, width in zip(x.shape, block, strict=True):
        count, wide = (1, size) if width is None else (-(-size // width), width)
        padding.append((0, count * wide - size))
        split += [count, wide]
    if max((after for _, after in padding), default=0):
        x = mx.pad(x, padding, constant_values=mx.array(empty, x.dtype))
    return x.reshape(split), tuple(range(1, len(split), 2))


def block_amax_bits(x: Array, block: Block, finite: bool = False) -> Array:
    """Largest |x| of every block as float32 bits in uint32: NaN above infinity above every number; 0 where empty."""
    if x.size == 0:
        return mx.zeros(grid_shape(shape(x), block), mx.uint32)
    found: list[Array] = []
    for rows, _ in _pieces(shape(x), block):
        magnitude = x[rows].view(mx.uint32) & _MAGNITUDE
        # What is not finite becomes the least of all words, by the shift that takes the largest finite to the top.
        words = magnitude + _LIFT if finite else magnitude
        found.append(mx.max(*_blocks(words, block, 0)))
    whole = concat(found, 0)
    if block[0] is None and len(found) > 1:
        whole = mx.max(whole, 0, keepdims=True)
    return mx.where(whole >= _LIFT, whole - _LIFT, mx.array(0, mx.uint32)) if finite else whole


def block_range(x: Array, block: Block) -> tuple[Array, Array]:
    """Smallest and largest x of every block as float32, of finite blocks; both 0 where a block is empty."""
    if x.size == 0:
        zero = mx.zeros(grid_shape(shape(x), block), mx.float32)
        return zero, zero
    keys = _sortable(x.view(mx.int32))
    low, inner = _blocks(keys, block, 0x7FFFFFFF)
    high, _ = _blocks(keys, block, -0x80000000)
    return _sortable(mx.min(low, inner)).view(mx.float32), _sortable(mx.max(high, inner)).view(mx.float32)


def _sortable(bits: Array) -> Array:
    """Float bits to integers of the same order, and back: the map is its own inverse."""
    return bits ^ ((bits >> 31) & _MAGNITUDE)


def expand(grid: Array, ratio: Block, shape: tuple[int, ...]) -> Array:
    """Repeat entry i of `grid` along each axis for `ratio` places, cut to `shape`; a ratio of None fills the axis."""
    for axis, (count, size) in enumerate(zip(ratio, shape, strict=True)):
        if count == 1 or (count is None and size == 1):
            continue
        if count is None:
            grid = mx.broadcast_to(grid, (*grid.shape[:axis], size, *grid.shape[axis + 1 :]))
        else:
            grid = mx.repeat(grid, count, axis=axis)[(slice(None),) * axis + (slice(0, size),)]
    return grid


def map_blocks(
    function: Callable[..., Array], operands: tuple[Array, ...], grids: tuple[Array, ...], block: Block, dtype: str
) -> Array:
    """`function(*operands, *grids)`, elementwise, each entry of a grid standing for one block of the operands."""
    size = shape(operands[0])
    if not prod(size):
        return mx.zeros(size, _DTYPES[dtype])
    parts = [
        _map_whole(function, tuple(x[rows] for x in operands), tuple(g[own] for g in grids), block, dtype)
        for rows, own in _pieces(size, block)
    ]
    return concat(parts, 0)


def _pieces(size: tuple[int, ...], block: Block) -> list[tuple[slice, slice]]:
    """Whole blocks along the first axis, in pieces that stay in the processor's caches: (rows, rows of the grid).

    On CPU, where MLX runs one operation after the other and takes fresh memory for large results.
    """
    width = block[0]
    step = max(1, CHUNK * size[0] // prod(size))
    step = step if width is None else max(1, step // width) * width
    if _on_gpu() or step >= size[0]:
        return [(slice(None), slice(None))]
    starts = range(0, size[0], step)
    if width is None:
        return [(slice(i, i + step), slice(None)) for i in starts]
    return [(slice(i, i + step), slice(i // width, (i + step) // width)) for i in starts]


def _map_whole(
    function: Callable[..., Array], operands: tuple[Array, ...], grids: tuple[Array, ...], block: Block, dtype: str
) -> Array:
    size = shape(operands[0])
    if not all(w is None or n % w == 0 for n, w in zip(size, block, strict=True)):
        return convert(function(*operands, *(expand(g, block, size) for g in grids)), dtype)
    split = tuple(n for s, w in zip(size, block, strict=True) for n in ((1, s) if w is None else (s // w, w)))
    wide = (g.reshape(tuple(n for count in g.shape for n in (count, 1))) for g in grids)
    return convert(function(*(x.reshape(split) for x in operands), *wide), dtype).reshape(size)


# -- sub-byte storage --------------------------------------------------------------------------------------------------


def _words_of(codes: Array, count: int) -> tuple[Array, ...]:
    """The codes of every word of `count`, apart; the last word is filled up with code 0."""
    rest = -codes.shape[-1] % count
    if rest:
        codes = mx.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, rest)])
    words = codes.reshape(*codes.shape[:-1], codes.shape[-1] // count, count)
    return tuple(words[..., i] for i in range(count))


def pack_nibbles(codes: Array) -> Array:
    """Two codes a byte along the last axis, the first in the low nibble; an odd length is padded with code 0."""
    if codes.shape[-1] % 2:
        codes = mx.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, 1)])
    pairs = mx.contiguous(codes).view(mx.uint16)
    return (pairs | (pairs >> 4)).astype(mx.uint8)


def unpack_nibbles(packed: Array, length: int) -> Array:
    """Inverse of `pack_nibbles` for a last axis of `length` codes."""
    pairs = mx.stack([packed & 15, packed >> 4], -1)
    return pairs.reshape(*packed.shape[:-1], 2 * packed.shape[-1])[..., :length]


def pack_sixes(codes: Array) -> Array:
    """Four codes in three bytes along the last axis: a little-endian word of 24 bits, the first code lowest."""
    a, b, c, d = _words_of(codes, 4)
    triples = mx.stack([a | (b << 6), (b >> 2) | (c << 4), (c >> 4) | (d << 2)], -1)
    return triples.reshape(*triples.shape[:-2], triples.shape[-2] * 3)


def unpack_sixes(packed: Array, length: int) -> Array:
    """Inverse of `pack_sixes` for a last axis of `length` codes."""
    a, b, c = _words_of(packed, 3)
    codes = mx.stack([a & 63, (a >> 6) | ((b & 15) << 2), (b >> 4) | ((c & 3) << 4), c >> 2], -1)
    return codes.reshape(*codes.shape[:-2], codes.shape[-2] * 4)[..., :length]


def settled(grid: Array) -> Array:
    """`grid` as it is: nothing is computed twice here."""
    return grid


def fused(function: Callable[..., Any], static: Any, arrays: tuple[Array, ...]) -> Any:
    """`function(static, *arrays)`; MLX is lazy, and `mx.compile` needs a C++ compiler on CPU."""
    return function(static, *arrays)


# -- gradients ---------------------------------------------------------------------------------------------------------


def stop_gradient(x: Array) -> Array:
    """`x` as a constant to differentiation."""
    return mx.stop_gradient(x)


@mx.custom_function
def _straight_through(x: Array, value: Array) -> Array:  # noqa: ARG001
    return value


@_straight_through.vjp
def _(primals: Any, cotangent: Any, output: Any) -> Any:  # noqa: ARG001
    return cotangent.astype(primals[0].dtype), mx.zeros_like(primals[1])


@_straight_through.jvp
def _(primals: Any, tangents: Any) -> Any:
    return mx.zeros_like(primals[1]) if tangents[0] is None else tangents[0].astype(primals[1].dtype)


@_straight_through.vmap
def _(inputs: Any, axes: Any) -> Any:
    return inputs[1], axes[1]


def straight_through(x: Array, value: Array) -> Array:
    """`value`, whose gradient goes to `x` unchanged."""
    return _straight_through(x, mx.stop_gradient(value))


def refuse_gradient(x: Array, message: str) -> Array:
    """`x`; raises GradientError where it is differentiated."""
    if x.dtype not in (mx.float32, mx.float16, mx.bfloat16, mx.float64):
        return x

    @mx.custom_function
    def identity(value: Array) -> Array:
        return value

    def refuse(*_: Any) -> Any:
        raise GradientError(message)

    identity.vjp(refuse)
    identity.jvp(refuse)
    identity.vmap(lambda inputs, axes: (_only(inputs), _only(axes)))
    return identity(x)


# -- between libraries -------------------------------------------------------------------------------------------------


def to_numpy(x: Array) -> Any:
    """A NumPy array of the same bits; a view of unified memory."""
    if x.dtype == mx.bfloat16:
        return np.asarray(x.view(mx.uint16)).view(ml_dtypes.bfloat16)
    return np.asarray(x)


def from_numpy(x: Any, device: Any = None) -> Array:
    """MLX's array of a NumPy array's bits, copied."""
    if device is not None and str(device).partition(":")[0] not in ("cpu", "gpu", "Device(cpu, 0)", "Device(gpu, 0)"):
        raise UnsupportedError(f"MLX has no device {device!r}; memory is unified: allowed: None, 'cpu', 'gpu'")
    array = np.ascontiguousarray(x).reshape(np.shape(x))
    if array.dtype.name == "bfloat16":
        return mx.array(array.view(np.uint16)).view(mx.bfloat16)
    if array.dtype.name not in _DTYPES:
        raise DTypeError(f"MLX has no dtype {array.dtype}; view it as uint8 codes first")
    return mx.array(array, _DTYPES[array.dtype.name])


def from_dlpack(x: Any) -> None:  # noqa: ARG001
    """None: no other library here computes in MLX's memory."""
    return


def register_container(cls: type, flatten: Callable[..., Any], unflatten: Callable[..., Any]) -> None:
    """Nothing to do: MLX's transformations look into dicts, lists and tuples alone."""
