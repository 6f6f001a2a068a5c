"""The primitives on JAX inside a Pallas kernel for TPU: those of `arrays.jax`, where its compiler takes them.

Mosaic gathers from no table, captures no array, reduces no unsigned integers and holds no float16: tables become a few
integer steps, words are compared as signed ones (magnitudes have no top bit), and halves stay the words that hold them.
Whatever moves along the last axis moves by gathers and turns within registers of 128 lanes: reshapes that would do the
same take ten to a hundred times as many instructions.
`arrays.within("jax_tiles")` makes numerics run over these.
"""

# The library's annotations are partial, and some of what it exports is not in them.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import tpu as pltpu

from breccia.arrays import jax as plain
from breccia.errors import UnsupportedError
from breccia.formats import Format
from breccia.recipes import Block

TABLES = False

Array = Any
_MAGNITUDE, _INFINITY = 0x7FFFFFFF, 0x7F800000
_TYPED = {"float8_e4m3fn": jnp.float8_e4m3fn, "float8_e5m2": jnp.float8_e5m2}
"""Formats that every TPU since v5 converts from by itself."""
_MOST_SELECTS = 16
_LANES = 128

as_float32, dtype_name, shape, nbytes, device = (
    plain.as_float32, plain.dtype_name, plain.shape, plain.nbytes, plain.device,
)  # fmt: skip
any, surely_none, surely_any, known_range = plain.any, plain.surely_none, plain.surely_any, plain.known_range
convert, full, number, where = plain.convert, plain.full, plain.number, plain.where
minimum, maximum, shift_right, searchsorted = plain.minimum, plain.maximum, plain.shift_right, plain.searchsorted
divide, multiply, add, seed_words = plain.divide, plain.multiply, plain.add, plain.seed_words
native_encode, native_quantize, architecture = plain.native_encode, plain.native_quantize, plain.architecture
reshape, transpose, concat, fused = plain.reshape, plain.transpose, plain.concat, plain.fused
stop_gradient, straight_through, refuse_gradient = plain.stop_gradient, plain.straight_through, plain.refuse_gradient
to_numpy, from_numpy, from_dlpack = plain.to_numpy, plain.from_numpy, plain.from_dlpack
register_container = plain.register_container


def bitcast(x: Array, dtype: str) -> Array:
    """The same bits as another dtype of the same width; float16 stays uint16."""
    return x if dtype == "float16" else plain.bitcast(x, dtype)


def settled(grid: Array) -> Array:
    """`grid`: nothing is computed again here."""
    return grid


# -- tables ------------------------------------------------------------------------------------------------------------


def take(table: Any, index: Array) -> Array:
    """Entries of a short constant table, one comparison for each."""
    entries = np.asarray(table)
    if len(entries) > _MOST_SELECTS:
        raise UnsupportedError(
            f"kernels for TPU look into tables of {_MOST_SELECTS} entries at most, not {len(entries)}"
        )
    index = index.astype(jnp.int32)
    wide = jnp.float32 if entries.dtype == np.float32 else jnp.int32
    found = jnp.full(index.shape, entries[0], wide)
    for i, entry in enumerate(entries[1:], 1):
        found = jnp.where(index >= i, np.asarray(entry, wide), found)
    return found.astype(entries.dtype)


def native_decode(codes: Array, fmt: Format) -> Array:
    """The float32 values of codes, by integer steps, or by the conversion of the hardware."""
    if fmt.name in _TYPED:
        return lax.bitcast_convert_type(codes, _TYPED[fmt.name]).astype(jnp.float32)
    wide = codes.astype(jnp.int32)
    if fmt.kind == "codebook":
        return take(np.array(fmt.codebook, np.float32), wide)
    if fmt.kind == "int":
        half = 1 << (fmt.bits - 1)
        whole = ((wide ^ half) - half if fmt.signed else wide).astype(jnp.float32)
        return whole * np.float32(2.0**-fmt.fraction_bits) if fmt.fraction_bits else whole
    if fmt.is_power_of_two:
        bits = jnp.where(wide == 0, 0x00400000, wide << 23)  # 2**-127 is subnormal
        return lax.bitcast_convert_type(jnp.where(wide == 255, 0x7FC00000, bits), jnp.float32)
    return _floats(wide, fmt)


def _floats(codes: Array, fmt: Format) -> Array:
    """A small integer counts the subnormal numbers, and all others have the form of float32."""
    digits, signed = fmt.mantissa_bits, fmt.bits - 1
    magnitude = codes & ((1 << signed) - 1)
    normal = lax.bitcast_convert_type((magnitude << (23 - digits)) + ((127 - fmt.bias) << 23), jnp.float32)
    small = magnitude.astype(jnp.float32) * np.float32(2.0 ** (1 - fmt.bias - digits))
    value = jnp.where(magnitude < (1 << digits), small, normal)
    value = jnp.where((codes >> signed) == 1, -value, value)
    if fmt.bits > 8:  # float16, whose last exponent is infinity and NaN
        top = ((1 << fmt.exponent_bits) - 1) << digits
        infinite = jnp.where((codes >> signed) == 1, np.float32(-np.inf), np.float32(np.inf))
        return jnp.where(magnitude > top, np.float32(np.nan), jnp.where(magnitude == top, infinite, value))
    for code in range(1 << fmt.bits):
        special = fmt.decode_code(code)
        if special - special != 0:
            value = jnp.where(codes == code, np.float32(special), value)
    return value


# -- random numbers ----------------------------------------------------------------------------------------------------


def flat_index(shape: tuple[int, ...], offset: Any, strides: tuple[int, ...], like: Array) -> tuple[Array, Array]:  # noqa: ARG001
    """(high, low) words of offset + sum of index * stride, in `shape`; tensors have less than 2**32 elements."""
    low = jnp.full(shape, 0, jnp.int32) + offset
    for axis, stride in enumerate(strides):
        low = low + lax.broadcasted_iota(jnp.int32, shape, axis) * stride
    return jnp.full(shape, 0, jnp.uint32), lax.bitcast_convert_type(low, jnp.uint32)


# -- blocks ------------------------------------------------------------------------------------------------------------


def block_amax_bits(x: Array, block: Block, finite: bool = False) -> Array:
    """Largest |x| of every block as float32 bits in uint32: NaN above infinity above every number."""
    magnitude = lax.bitcast_convert_type(x, jnp.int32) & _MAGNITUDE
    if finite:
        magnitude = jnp.where(magnitude < _INFINITY, magnitude, 0)
    return lax.bitcast_convert_type(_largest(magnitude, block), jnp.uint32)


def block_range(x: Array, block: Block) -> tuple[Array, Array]:
    """Smallest and largest x of every block as float32, of finite blocks."""
    keys = _sortable(lax.bitcast_convert_type(x, jnp.int32))
    low, high = ~_largest(~keys, block), _largest(keys, block)
    return tuple(lax.bitcast_convert_type(_sortable(k), jnp.float32) for k in (low, high))  # type: ignore[return-value]


def _sortable(bits: Array) -> Array:
    """Float bits to integers of the same order, and back: the map is its own inverse."""
    return bits ^ ((bits >> 31) & _MAGNITUDE)


def _largest(x: Array, block: Block) -> Array:
    """The largest integer of every block."""
    for axis, width in enumerate(block):
        size = x.shape[axis]
        if width is None or width >= size:
            x = jnp.max(x, axis, keepdims=True)
        elif axis == x.ndim - 1 and 1 < width < _LANES and _LANES % width == 0:
            x = _largest_lanes(x, width)
        elif width > 1 and size % width == 0 and axis < x.ndim - 1:
            x = jnp.max(x.reshape(*x.shape[:axis], size // width, width, *x.shape[axis + 1 :]), axis + 1)
        elif width > 1:
            cuts = (lax.slice_in_dim(x, i, min(i + width, size), axis=axis) for i in range(0, size, width))
            x = jnp.concatenate([jnp.max(part, axis, keepdims=True) for part in cuts], axis)
    return x


def _largest_lanes(x: Array, width: int) -> Array:
    """The largest of every `width` neighbours along the last axis: maxima with what lies 1, 2, 4 ... lanes further."""
    count = -(-x.shape[-1] // width)
    x = _filled(x, np.iinfo(np.int32).min)
    lanes, step = x.shape[-1], 1
    while step < width:
        x = jnp.maximum(x, pltpu.roll(x, lanes - step, x.ndim - 1))
        step *= 2
    return every(x, width, 0, count)


# -- along the last axis -----------------------------------------------------------------------------------------------


def _filled(x: Array, value: Any = 0) -> Array:
    """`x` with its last axis filled up to whole registers."""
    missing = -x.shape[-1] % _LANES
    if not missing:
        return x
    return jnp.concatenate([x, jnp.full((*x.shape[:-1], missing), value, x.dtype)], -1)


def _gathered(x: Array, first: int, index: Array) -> Array:
    """Lanes `index` of the register of lanes that begins at `first`. A row by itself is gathered eight times: gathers
    of one row are spelled in a way that Mosaic does not know.
    """
    register = lax.slice_in_dim(x, first, first + _LANES, axis=x.ndim - 1)
    rows = x.shape[:-1]
    if rows and rows[-1] == 1:
        many = (*rows[:-1], 8, _LANES)
        register, index = jnp.broadcast_to(register, many), jnp.broadcast_to(index, many)
    found = jnp.take_along_axis(register, index, axis=-1, mode="promise_in_bounds")
    return found[..., :1, :] if rows and rows[-1] == 1 else found


def _lanes(x: Array) -> Array:
    """The number of every lane of one register with the leading axes of `x`."""
    return lax.broadcasted_iota(jnp.int32, (*x.shape[:-1], _LANES), x.ndim - 1)


def _assembled(x: Array, size: int, make: Callable[[int], Array]) -> Array:
    """Registers that `make` gives for their first lanes, one after the other, cut to `size`; in the dtype of `x`."""
    made = [make(first) for first in range(0, size, _LANES)]
    whole = made[0] if len(made) == 1 else jnp.concatenate(made, -1)
    return lax.slice_in_dim(whole, 0, size, axis=x.ndim - 1).astype(x.dtype)


def _wide(x: Array) -> Array:
    """`x` in 32 bits, which are what moves between lanes."""
    return x if x.dtype.itemsize == 4 else x.astype(jnp.float32 if x.dtype == jnp.bfloat16 else jnp.int32)


def repeat(x: Array, by: int, size: int) -> Array:
    """Every entry of the last axis `by` times, cut to `size`."""
    if by % _LANES == 0:
        wide = [jnp.broadcast_to(x[..., i : i + 1], (*x.shape[:-1], by)) for i in range(-(-size // by))]
        return lax.slice_in_dim(jnp.concatenate(wide, -1), 0, size, axis=x.ndim - 1)
    source = _filled(_wide(x))

    def register(first: int) -> Array:
        start = first // by
        begin = start // _LANES * _LANES
        if (first + _LANES - 1) // by - begin >= _LANES:  # they lie in two registers
            begin = min(start, source.shape[-1] - _LANES)
        return _gathered(source, begin, (_lanes(source) + first) // by - begin)

    return _assembled(x, size, register)


def every(x: Array, step: int, offset: int, count: int) -> Array:
    """Entries offset, offset + step, ... of the last axis, `count` of them."""
    source = _filled(_wide(x))

    def register(first: int) -> Array:
        place = _lanes(source) * step + offset
        found = _gathered(source, first * step, place % _LANES)
        for i in range(1, step):
            begin = first * step + i * _LANES
            if begin < source.shape[-1]:
                found = jnp.where(place // _LANES == i, _gathered(source, begin, place % _LANES), found)
        return found

    return _assembled(x, count, register)


def map_blocks(
    function: Callable[..., Array], operands: tuple[Array, ...], grids: tuple[Array, ...], block: Block, dtype: str
) -> Array:
    """`function(*operands, *grids)`, elementwise, each entry of a grid standing for one block of the operands."""
    size = shape(operands[0])
    return convert(function(*operands, *(expand(g, block, size) for g in grids)), dtype)


def expand(grid: Array, ratio: Block, shape: tuple[int, ...]) -> Array:
    """Repeat entry i of `grid` along each axis for `ratio` places, cut to `shape`; a ratio of None fills the axis."""
    for axis, (count, size) in enumerate(zip(ratio, shape, strict=True)):
        if grid.shape[axis] == 1 or count is None:
            grid = jnp.broadcast_to(grid, (*grid.shape[:axis], size, *grid.shape[axis + 1 :]))
        elif count > 1 and axis == grid.ndim - 1:
            grid = repeat(grid, count, size)
        elif count > 1:
            grid = lax.slice_in_dim(jnp.repeat(grid, count, axis=axis), 0, size, axis=axis)
    return grid


# -- sub-byte storage --------------------------------------------------------------------------------------------------


def _joined(codes: Array, count: int, bits: int) -> Array:
    """Every `count` codes along the last axis in one word, the first in the lowest bits."""
    size = codes.shape[-1]
    wide = codes.astype(jnp.int32)
    if size % count:
        wide = jnp.concatenate([wide, jnp.full((*wide.shape[:-1], -size % count), 0, jnp.int32)], -1)
    length = -(-size // count)
    word = every(wide, count, 0, length)
    for i in range(1, count):
        word = word | (every(wide, count, i, length) << (bits * i))
    return word


def _split(words: Array, count: int, bits: int) -> Array:
    """`count` codes of `bits` bits from every word along the last axis."""
    wide = repeat(words, count, words.shape[-1] * count)
    place = lax.broadcasted_iota(jnp.int32, wide.shape, wide.ndim - 1) % count
    return ((wide >> (place * bits)) & ((1 << bits) - 1)).astype(jnp.uint8)


def pack_nibbles(codes: Array) -> Array:
    """Two codes a byte along the last axis, the first in the low nibble; an odd length is padded with code 0."""
    return _joined(codes, 2, 4).astype(jnp.uint8)


def unpack_nibbles(packed: Array, length: int) -> Array:
    """Inverse of `pack_nibbles` for a last axis of `length` codes."""
    return _split(packed.astype(jnp.int32), 2, 4)[..., :length]


def pack_sixes(codes: Array) -> Array:
    """Four codes in three bytes along the last axis: a little-endian word of 24 bits, the first code lowest."""
    return _split(_joined(codes, 4, 6), 3, 8)


def unpack_sixes(packed: Array, length: int) -> Array:
    """Inverse of `pack_sixes` for a last axis of `length` codes."""
    return _split(_joined(packed, 3, 8), 4, 6)[..., :length]
