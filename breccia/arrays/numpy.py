"""The primitives on NumPy. Work on large arrays goes block by block in chunks, so that temporaries stay in cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from breccia.arrays import softfloat
from breccia.errors import DTypeError, UnsupportedError
from breccia.formats import Format
from breccia.recipes import Block, Recipe, grid_shape

TABLES = True
CHUNK = 1 << 16
"""Elements handled at a time: four bytes each, so that a few temporaries fit into a core's L2 cache."""

Array = np.ndarray[Any, np.dtype[Any]]
_EXACT_KINDS = "biu"
_FLOATS = tuple(
    np.dtype(t)
    for t in (
        np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz, ml_dtypes.float6_e2m3fn, ml_dtypes.float6_e3m2fn,
        ml_dtypes.float4_e2m1fn, ml_dtypes.int4, ml_dtypes.uint4,
    )
)  # fmt: skip


def as_float32(x: Any) -> Array:
    """`x` as a native float32 array: exact from 8- and 16-bit types, to nearest even from float64 and integers.

    Raises DTypeError for complex, text, object and extended types.
    """
    array = np.asarray(x)
    native = array.dtype.newbyteorder("=")
    if native == np.float32:
        return array.astype(np.float32, copy=False)
    if native.kind not in _EXACT_KINDS and native not in _FLOATS:
        hint = "take x.real and x.imag apart" if native.kind == "c" else "convert with x.astype(np.float32)"
        raise DTypeError(
            f"cannot quantize an array of dtype {array.dtype} and shape {array.shape}; "
            f"allowed: float16, bfloat16, float32, float64, integers and bool; {hint}"
        )
    with np.errstate(all="ignore"):
        return array.astype(np.float32)


def dtype_name(x: Array) -> str:
    """The name of a dtype, byte order aside."""
    return np.asarray(x).dtype.newbyteorder("=").name


def shape(x: Array) -> tuple[int, ...]:
    """The shape, also of lists and numbers."""
    return np.shape(x)


def nbytes(x: Array) -> int:
    """The bytes of all entries."""
    return int(x.nbytes)


def device(x: Array) -> None:  # noqa: ARG001
    """None: NumPy's arrays lie in the host's memory."""
    return


def architecture(x: Array) -> str:  # noqa: ARG001
    """Empty: no target writes kernels for this library's arrays."""
    return ""


def bitcast(x: Array, dtype: str) -> Array:
    """The same bits as another dtype of the same width."""
    return np.asarray(x).view(np.dtype(dtype))


def convert(x: Array, dtype: str) -> Array:
    """The values in another dtype."""
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(np.dtype(dtype), copy=False)


def full(shape: tuple[int, ...], value: float, dtype: str, like: Array) -> Array:  # noqa: ARG001 - one device
    """An array of one value."""
    return np.full(shape, value, np.dtype(dtype))


@lru_cache(maxsize=256)
def _number(bits: int, rank: int) -> Array:
    made = np.array([bits], np.uint32).view(np.float32).reshape((1,) * rank)
    made.setflags(write=False)
    return made


def number(bits: int, rank: int, like: Array) -> Array:  # noqa: ARG001 - one device
    """A float32 constant of one entry."""
    return _number(bits, rank)


def where(condition: Array, a: Any, b: Any) -> Array:
    """Entries of `a` where the condition holds, else of `b`."""
    return np.where(condition, a, b)


def minimum(a: Any, b: Any) -> Array:
    """The smaller of two, entry by entry."""
    return np.minimum(a, b)


def maximum(a: Any, b: Any) -> Array:
    """The larger of two, entry by entry."""
    return np.maximum(a, b)


def take(table: Array, index: Array) -> Array:
    """Entries of a one-dimensional table."""
    return table.take(index)


def searchsorted(thresholds: Array, x: Array) -> Array:
    """How many thresholds are at most x."""
    return np.searchsorted(thresholds, x, side="right")


def shift_right(x: Array, places: int) -> Array:
    """Words shifted right, zeros coming in from the left."""
    return x >> np.uint32(places)


def any(x: Array) -> bool:
    """Whether any entry is true."""
    return bool(np.any(x))


def surely_none(x: Array) -> bool:
    """Whether no entry is true."""
    return not np.any(x)


surely_any = any


def known_range(words: Array) -> tuple[int, int] | None:
    """The smallest and the largest of words."""
    return (int(words.min()), int(words.max())) if words.size else (0, 0)


def divide(a: Array, b: Array) -> Array:
    """IEEE float32 division to nearest even, subnormals included whatever the host's flush mode is."""
    if softfloat.host_flushes():
        return softfloat.divide(a, b)
    with np.errstate(all="ignore"):
        return np.divide(a, b)


def multiply(a: Array, b: Array) -> Array:
    """IEEE float32 product to nearest even, subnormals included whatever the host's flush mode is."""
    if softfloat.host_flushes():
        return softfloat.multiply(a, b)
    with np.errstate(all="ignore"):
        return np.multiply(a, b)


def add(a: Array, b: Array) -> Array:
    """IEEE float32 sum to nearest even, subnormals included whatever the host's flush mode is."""
    if softfloat.host_flushes():
        return softfloat.add(a, b)
    with np.errstate(all="ignore"):
        return np.add(a, b)


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """Another shape, row-major."""
    return np.reshape(x, shape)


def transpose(x: Array, order: tuple[int, ...]) -> Array:
    """Axes in another order."""
    return np.transpose(x, order)


def concat(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays behind each other."""
    return np.concatenate(arrays, axis)


def flat_index(
    shape: tuple[int, ...],
    offset: int,
    strides: tuple[int, ...],
    like: Array,  # noqa: ARG001 - one device
) -> tuple[Array, Array]:
    """(high, low) words of offset + sum of index * stride, in `shape`."""
    index = np.full(shape, offset, np.uint64)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        step = np.arange(size, dtype=np.uint64) * np.uint64(stride)
        index += step.reshape((1,) * axis + (size,) + (1,) * (len(shape) - axis - 1))
    return words(index)


def words(x: Array) -> tuple[Array, Array]:
    """(high, low) halves of uint64."""
    return (x >> np.uint64(32)).astype(np.uint32), x.astype(np.uint32)


def seed_words(seed: Any, like: Array) -> tuple[Array, Array]:  # noqa: ARG001 - one device
    """(high, low) words of a 64-bit seed."""
    return words(np.array(int(seed) & 0xFFFFFFFFFFFFFFFF, np.uint64))


def native_encode(x: Array, fmt: Format, rounding: str, overflow: str, tame: bool = False) -> Array | None:  # noqa: ARG001
    """None: `numerics.tables` is NumPy's faster way."""
    return None


def native_quantize(x: Array, recipe: Recipe) -> None:
    """None: there is no faster way."""


def native_decode(codes: Array, fmt: Format) -> None:
    """None: a table is the way."""


# -- blocks ------------------------------------------------------------------------------------------------------------

_Part = tuple[tuple[slice, ...], tuple[slice, ...], tuple[int, ...]]


def whole_block_parts(shape: tuple[int, ...], block: Block) -> Iterator[_Part]:
    """Cut an array so that all blocks of a part have one size: (slices of array, slices of grid, split shape)."""
    axes: list[list[tuple[slice, slice, tuple[int, int]]]] = []
    for size, width in zip(shape, block, strict=True):
        if width is None:
            axes.append([(slice(0, size), slice(0, 1), (1, size))])
            continue
        count, rest = divmod(size, width)
        parts = [(slice(0, count * width), slice(0, count), (count, width))] if count else []
        if rest:
            parts.append((slice(count * width, size), slice(count, count + 1), (1, rest)))
        axes.append(parts)
    for combination in product(*axes):
        array, grid, split = zip(*combination, strict=True)
        yield tuple(array), tuple(grid), tuple(n for pair in split for n in pair)


def chunks(split: tuple[int, ...]) -> Iterator[tuple[int, slice]]:
    """Slices along the first axis longer than one, each of about CHUNK elements: (axis, slice)."""
    if not prod(split):
        return
    axis = next((i for i, n in enumerate(split) if n > 1), len(split) - 1)
    step = max(1, CHUNK // prod(split[axis + 1 :]))
    for start in range(0, split[axis], step):
        yield axis, slice(start, start + step)


def spread(grid: Array, part: tuple[slice, ...]) -> Array:
    """A part of the grid with an axis of one after each axis, to broadcast against a split array."""
    cut = grid[part]
    return cut.reshape(tuple(n for size in cut.shape for n in (size, 1)))


def cut_grid(array: Array, axis: int, piece: slice) -> Array:
    """A piece of an axis; the whole where the axis is one long, to be broadcast."""
    return array if array.shape[axis] == 1 else array[(slice(None),) * axis + (piece,)]


def block_amax_bits(x: Array, block: Block, finite: bool = False) -> Array:
    """Largest |x| of every block as float32 bits in uint32: NaN above infinity above every number; 0 where empty."""
    out = np.zeros(grid_shape(x.shape, block), np.uint32)
    for array, grid, split in whole_block_parts(x.shape, block):
        view, target = x[array].reshape(split), spread(out, grid)
        inner = tuple(range(1, len(split), 2))
        for axis, piece in chunks(split):
            chunk = np.ascontiguousarray(view[(slice(None),) * axis + (piece,)]).view(np.uint32)
            magnitude = chunk & np.uint32(0x7FFFFFFF)
            if finite:
                magnitude[magnitude >= np.uint32(0x7F800000)] = 0
            largest = _largest(magnitude, inner)
            goal = cut_grid(target, axis, piece)
            np.maximum(goal, largest, out=goal)
    return out


def _largest(bits: Array, axes: tuple[int, ...]) -> Array:
    """Maximum over `axes`, kept as ones; by halves where rows are short, for which NumPy's own loop costs most."""
    width = bits.shape[-1]
    short = 1 < width <= 64 and width & (width - 1) == 0 and all(bits.shape[a] == 1 for a in axes[:-1])
    if not short:
        return bits.max(axis=axes, keepdims=True)
    flat = bits.reshape(-1)
    while width > 1:
        flat = np.maximum(flat[0::2], flat[1::2])
        width //= 2
    return flat.reshape(*bits.shape[:-1], 1)


def block_range(x: Array, block: Block) -> tuple[Array, Array]:
    """Smallest and largest x of every block as float32, of finite blocks; both 0 where a block is empty.

    Compared as integers that order as the floats do, as a host that flushes takes all subnormals for equal.
    """
    low = np.full(grid_shape(x.shape, block), np.iinfo(np.int32).max, np.int32)
    high = np.full(low.shape, np.iinfo(np.int32).min, np.int32)
    if not x.size:
        return np.zeros(low.shape, np.float32), np.zeros(low.shape, np.float32)
    for array, grid, split in whole_block_parts(x.shape, block):
        view = x[array].reshape(split)
        inner = tuple(range(1, len(split), 2))
        for axis, piece in chunks(split):
            keys = _sortable(np.ascontiguousarray(view[(slice(None),) * axis + (piece,)]).view(np.int32))
            for target, ufunc in ((low, np.minimum), (high, np.maximum)):
                goal = cut_grid(spread(target, grid), axis, piece)
                ufunc(goal, ufunc.reduce(keys, axis=inner, keepdims=True), out=goal)
    return _sortable(low).view(np.float32), _sortable(high).view(np.float32)


def _sortable(bits: Array) -> Array:
    """Float bits to integers of the same order, and back: the map is its own inverse."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


def expand(grid: Array, ratio: Block, shape: tuple[int, ...]) -> Array:
    """Repeat entry i of `grid` along each axis for `ratio` places, cut to `shape`; a ratio of None fills the axis."""
    for axis, (count, size) in enumerate(zip(ratio, shape, strict=True)):
        if count == 1 or (count is None and size == 1):
            continue
        if count is None:
            grid = np.broadcast_to(grid, (*grid.shape[:axis], size, *grid.shape[axis + 1 :]))
        else:
            grid = np.repeat(grid, count, axis=axis)[(slice(None),) * axis + (slice(0, size),)]
    return grid


def map_blocks(
    function: Callable[..., Array], operands: tuple[Array, ...], grids: tuple[Array, ...], block: Block, dtype: str
) -> Array:
    """`function(*operands, *grids)`, elementwise, each entry of a grid standing for one block of the operands."""
    shape = operands[0].shape
    out = np.empty(shape, np.dtype(dtype))
    for array, grid, split in whole_block_parts(shape, block):
        target = out[array].reshape(split)
        views = [x[array].reshape(split) for x in operands]
        wide = [spread(g, grid) for g in grids]
        for axis, piece in chunks(split):
            here = (slice(None),) * axis + (piece,)
            target[here] = function(*(v[here] for v in views), *(cut_grid(g, axis, piece) for g in wide))
    return out


# -- sub-byte storage --------------------------------------------------------------------------------------------------


def _padded(codes: Array, multiple: int) -> Array:
    rest = -codes.shape[-1] % multiple
    if rest:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], rest), np.uint8)], axis=-1)
    return np.ascontiguousarray(codes)


def pack_nibbles(codes: Array) -> Array:
    """Two codes a byte along the last axis, the first in the low nibble; an odd length is padded with code 0."""
    pairs = _padded(codes, 2).view(np.dtype("<u2"))
    out = np.empty(pairs.shape, np.uint8)
    source, target = pairs.reshape(-1), out.reshape(-1)
    for start in range(0, source.size, CHUNK):
        part = source[start : start + CHUNK]
        target[start : start + CHUNK] = part | (part >> np.uint16(4))
    return out


def unpack_nibbles(packed: Array, length: int) -> Array:
    """Inverse of `pack_nibbles` for a last axis of `length` codes."""
    wide = packed.astype(np.uint16)
    wide |= wide << np.uint16(4)
    wide &= np.uint16(0x0F0F)
    return wide.astype(np.dtype("<u2"), copy=False).view(np.uint8)[..., :length]


def pack_sixes(codes: Array) -> Array:
    """Four codes in three bytes along the last axis: a little-endian word of 24 bits, the first code lowest."""
    words = _padded(codes, 4)
    words = words.reshape(*codes.shape[:-1], words.shape[-1] // 4, 4)
    a, b, c, d = np.moveaxis(words, -1, 0)
    triples = np.stack([a | (b << 6), (b >> 2) | (c << 4), (c >> 4) | (d << 2)], axis=-1)
    return triples.reshape(*codes.shape[:-1], words.shape[-2] * 3)


def unpack_sixes(packed: Array, length: int) -> Array:
    """Inverse of `pack_sixes` for a last axis of `length` codes."""
    words = packed.shape[-1] // 3
    a, b, c = np.moveaxis(packed.reshape(*packed.shape[:-1], words, 3), -1, 0)
    codes = np.stack([a & 63, (a >> 6) | ((b & 15) << 2), (b >> 4) | ((c & 3) << 4), c >> 2], axis=-1)
    return codes.reshape(*packed.shape[:-1], words * 4)[..., :length]


def settled(grid: Array) -> Array:
    """`grid` as it is: nothing is computed twice here."""
    return grid


def fused(function: Callable[..., Any], static: Any, arrays: tuple[Array, ...]) -> Any:
    """`function(static, *arrays)`."""
    return function(static, *arrays)


# -- gradients and other libraries -------------------------------------------------------------------------------------


def stop_gradient(x: Array) -> Array:
    """`x`: NumPy has no gradients."""
    return x


def straight_through(x: Array, value: Array) -> Array:  # noqa: ARG001
    """`value`: NumPy has no gradients."""
    return value


def refuse_gradient(x: Array, message: str) -> Array:  # noqa: ARG001
    """`x`: NumPy has no gradients."""
    return x


def to_numpy(x: Array) -> Array:
    """The array itself."""
    return np.asarray(x)


def from_numpy(x: Any, device: Any = None) -> Array:
    """The array itself; raises UnsupportedError for another device than the host."""
    if device not in (None, "cpu"):
        raise UnsupportedError(
            f"NumPy's arrays lie in the host's memory, not on {device!r}; allowed: device=None, 'cpu'"
        )
    return np.asarray(x)


def from_dlpack(x: Any) -> None:  # noqa: ARG001
    """None: NumPy reaches no accelerator."""
    return


def register_container(cls: type, flatten: Any, unflatten: Any) -> None:
    """Nothing to do: NumPy transforms no functions."""
