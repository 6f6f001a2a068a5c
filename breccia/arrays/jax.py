"""The primitives on JAX. Words are uint32; nothing needs 64-bit dtypes, callbacks, or values.

XLA on CPU flushes subnormal numbers, contracts products and sums, and multiplies by the reciprocals of constants, so
`divide`, `multiply` and `add` go through `exact`. Encoding needs no such care: see `native_encode`.
"""

# The library's annotations are partial, and some of what it exports is not in them.
# pyright: reportAttributeAccessIssue=false, reportUntypedFunctionDecorator=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import lax

from breccia.arrays import exact, jax_blocks, statics
from breccia.errors import DTypeError, GradientError, UnsupportedError
from breccia.formats import Format
from breccia.recipes import Block, Recipe, grid_shape

TABLES = False

Array = Any
_MAGNITUDE = 0x7FFFFFFF


def as_float32(x: Any) -> Array:
    """`x` as float32: exact from 8- and 16-bit types, to nearest even from float64 and integers."""
    name = dtype_name(x)
    if name == "float32":
        return x
    if name == "bfloat16":
        return _widened(x)
    if name.startswith(("complex", "float8_e8m0", "key<")):
        hint = "take x.real and x.imag apart" if name.startswith("complex") else "convert with x.astype(jnp.float32)"
        raise DTypeError(
            f"cannot quantize an array of dtype {name} and shape {shape(x)}; "
            f"allowed: float16, bfloat16, float32, float64, narrow floats, integers and bool; {hint}"
        )
    return x.astype(jnp.float32)


@jax.custom_jvp
def _widened(x: Array) -> Array:
    """bfloat16 to float32 by bits, as conversions may flush."""
    return bitcast(bitcast(x, "uint16").astype(jnp.uint32) << 16, "float32")


@_widened.defjvp
def _widened_jvp(primals: Any, tangents: Any) -> Any:
    return _widened(*primals), tangents[0].astype(jnp.float32)


def dtype_name(x: Array) -> str:
    """The dtype in NumPy's spelling."""
    return x.dtype.name


def shape(x: Array) -> tuple[int, ...]:
    """The shape."""
    return tuple(x.shape)


def nbytes(x: Array) -> int:
    """The bytes of all entries."""
    return int(np.prod(x.shape, dtype=np.int64)) * x.dtype.itemsize


def device(x: Array) -> Any:
    """The device that `x` lies on; None where it is traced, a mere shape, or spread over several."""
    if isinstance(x, jax.core.Tracer) or not isinstance(x, jax.Array) or len(x.devices()) != 1:
        return None
    return next(iter(x.devices()))


# -- known values ------------------------------------------------------------------------------------------------------


def any(x: Array) -> bool:
    """Whether any entry is true; waits for the device."""
    if isinstance(x, jax.core.Tracer):
        raise UnsupportedError(
            "a value has to be known here (a policy that raises on NaN?), and JAX is tracing; "
            "use nonfinite='poison' or 'saturate', or call this outside jax.jit, jax.vmap and jax.grad"
        )
    return bool(jnp.any(x))


def surely_none(x: Array) -> bool:  # noqa: ARG001
    """False: to know, one would have to wait for the device."""
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
    target = jnp.dtype(dtype)
    if x.dtype == target:
        return x
    if x.dtype in (jnp.int4, jnp.uint4, jnp.float4_e2m1fn) and target == jnp.uint8:
        pairs = lax.bitcast_convert_type(x, jnp.uint4).astype(jnp.uint8)
        return pairs & 15
    return lax.bitcast_convert_type(x, target)


def convert(x: Array, dtype: str) -> Array:
    """The values in another dtype."""
    target = jnp.dtype(dtype)
    if x.dtype == target:
        return x
    if x.dtype == jnp.float32 and dtype in ("bfloat16", "float16"):
        return _to_bfloat16(x) if dtype == "bfloat16" else _to_float16(x)
    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise UnsupportedError("JAX has no float64 unless jax_enable_x64 is set; use float32")
    return x.astype(target)


def _signed(narrow: Array, bits: Array, target: Any) -> Array:
    """16 bits of a magnitude with the sign of a float32, as a float of 16 bits."""
    return lax.bitcast_convert_type((narrow | ((bits >> 16) & 0x8000)).astype(jnp.uint16), target)


@jax.custom_jvp
def _to_bfloat16(x: Array) -> Array:
    """float32 to bfloat16, to nearest even, on integers: conversions flush subnormal numbers."""
    bits = bitcast(x, "uint32")
    magnitude = bits & _MAGNITUDE
    rounded = (magnitude + 0x7FFF + ((magnitude >> 16) & 1)) >> 16
    return _signed(jnp.where(magnitude > 0x7F800000, np.uint32(0x7FC0), rounded), bits, jnp.bfloat16)


@jax.custom_jvp
def _to_float16(x: Array) -> Array:
    """float32 to float16, to nearest even: a sum with 2**23 quanta rounds to a whole number of quanta, ties to even,
    and leaves it in the low bits.
    """
    bits = bitcast(x, "uint32")
    magnitude = bits & _MAGNITUDE
    limited = minimum(magnitude, np.uint32(0x477FF000))  # halfway from the largest float16 to 2**16
    field = maximum(limited >> 23, np.uint32(113))
    anchor = (field + 13) << 23
    total = lax.bitcast_convert_type(limited, jnp.float32) + lax.bitcast_convert_type(anchor, jnp.float32)
    narrow = ((field - 113) << 10) + (bitcast(total, "uint32") - anchor)
    return _signed(jnp.where(magnitude > 0x7F800000, np.uint32(0x7E00), narrow), bits, jnp.float16)


@_to_bfloat16.defjvp
def _to_bfloat16_jvp(primals: Any, tangents: Any) -> Any:
    return _to_bfloat16(*primals), tangents[0].astype(jnp.bfloat16)


@_to_float16.defjvp
def _to_float16_jvp(primals: Any, tangents: Any) -> Any:
    return _to_float16(*primals), tangents[0].astype(jnp.float16)


def full(shape: tuple[int, ...], value: float, dtype: str, like: Array) -> Array:  # noqa: ARG001 - JAX places it
    """An array of one value."""
    return jnp.full(shape, value, jnp.dtype(dtype))


def _alike(a: Any, b: Any) -> tuple[Any, Any]:
    """Python numbers in the dtype of the other operand."""
    if not hasattr(a, "dtype") and hasattr(b, "dtype"):
        return np.asarray(a, b.dtype), b
    if not hasattr(b, "dtype") and hasattr(a, "dtype"):
        return a, np.asarray(b, a.dtype)
    return a, b


def number(bits: int, rank: int, like: Array) -> Array:
    """A float32 constant of one entry."""
    return bitcast(full((1,) * rank, bits, "uint32", like), "float32")


def where(condition: Array, a: Any, b: Any) -> Array:
    """Entries of `a` where the condition holds, else of `b`."""
    if not hasattr(a, "dtype") and not hasattr(b, "dtype"):
        a = np.asarray(a, np.float32 if isinstance(a, float) else np.int32)
    a, b = _alike(a, b)
    return jnp.where(condition, a, b)


def minimum(a: Any, b: Any) -> Array:
    """The smaller of two, entry by entry; of unsigned ones by a comparison, as TPUs have no other way."""
    a, b = _alike(a, b)
    return jnp.where(a < b, a, b) if jnp.issubdtype(a.dtype, jnp.unsignedinteger) else jnp.minimum(a, b)


def maximum(a: Any, b: Any) -> Array:
    """The larger of two, entry by entry; of unsigned ones by a comparison."""
    a, b = _alike(a, b)
    return jnp.where(a < b, b, a) if jnp.issubdtype(a.dtype, jnp.unsignedinteger) else jnp.maximum(a, b)


def shift_right(x: Array, places: int) -> Array:
    """Words shifted right, zeros coming in from the left."""
    return lax.shift_right_logical(x, np.asarray(places, x.dtype))


def take(table: Any, index: Array) -> Array:
    """Entries of a constant one-dimensional NumPy table."""
    return jnp.take(np.asarray(table), index.astype(jnp.int32), mode="clip")


def searchsorted(thresholds: Any, x: Array) -> Array:
    """How many thresholds are at most x: compared with each, which is faster than a search for the few there are."""
    count = jnp.zeros(x.shape, jnp.int32)
    for threshold in np.asarray(thresholds):
        count = count + (x >= threshold).astype(jnp.int32)
    return count


class _Words:
    """These primitives as an object, for `exact`."""

    bitcast, convert, where = staticmethod(bitcast), staticmethod(convert), staticmethod(where)
    minimum, maximum = staticmethod(minimum), staticmethod(maximum)


_WORDS: Any = _Words()


@jax.custom_jvp
def divide(a: Array, b: Array) -> Array:
    """IEEE float32 quotient to nearest even, subnormals included."""
    return exact.divide(_WORDS, a, b, jnp.divide)


@divide.defjvp
def _divide_jvp(primals: Any, tangents: Any) -> Any:
    (a, b), (da, db) = primals, tangents
    quotient = divide(a, b)
    return quotient, (da - db * quotient) / b


@jax.custom_jvp
def multiply(a: Array, b: Array) -> Array:
    """IEEE float32 product to nearest even, subnormals included."""
    return exact.multiply(_WORDS, a, b, jnp.multiply)


@multiply.defjvp
def _multiply_jvp(primals: Any, tangents: Any) -> Any:
    (a, b), (da, db) = primals, tangents
    return multiply(a, b), da * b + a * db


@jax.custom_jvp
def add(a: Array, b: Array) -> Array:
    """IEEE float32 sum to nearest even, subnormals included."""
    return exact.add(_WORDS, a, b, jnp.add)


@add.defjvp
def _add_jvp(primals: Any, tangents: Any) -> Any:
    (a, b), (da, db) = primals, tangents
    return add(a, b), da + db


# -- random numbers ----------------------------------------------------------------------------------------------------


def flat_index(shape: tuple[int, ...], offset: int, strides: tuple[int, ...], like: Array) -> tuple[Array, Array]:  # noqa: ARG001
    """(high, low) words of offset + sum of index * stride, in `shape`."""
    high = jnp.full((1,) * len(shape), offset >> 32, jnp.uint32)
    low = jnp.full((1,) * len(shape), offset & 0xFFFFFFFF, jnp.uint32)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        # The place of every index along one axis is known now; NumPy counts it in 64 bits.
        step = np.arange(size, dtype=np.uint64) * np.uint64(stride)
        step = step.reshape((1,) * axis + (size,) + (1,) * (len(shape) - axis - 1))
        total = low + (step & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        high = high + (step >> np.uint64(32)).astype(np.uint32) + (total < low).astype(jnp.uint32)
        low = total
    return jnp.broadcast_to(high, shape), jnp.broadcast_to(low, shape)


def seed_words(seed: Any, like: Array) -> tuple[Array, Array]:  # noqa: ARG001
    """(high, low) words of a 64-bit seed; an array of 32 bits is extended by its sign."""
    if not isinstance(seed, jax.Array):
        value = int(seed) & 0xFFFFFFFFFFFFFFFF
        return jnp.uint32(value >> 32), jnp.uint32(value & 0xFFFFFFFF)
    seed = seed.reshape(())
    if seed.dtype.itemsize == 8:
        return (seed >> 32).astype(jnp.uint32), seed.astype(jnp.uint32)
    negative = (seed < 0).astype(jnp.uint32)
    return jnp.uint32(0) - negative, seed.astype(jnp.uint32)


# -- encoding ----------------------------------------------------------------------------------------------------------


def native_encode(x: Array, fmt: Format, rounding: str, overflow: str, tame: bool = False) -> Array | None:  # noqa: ARG001
    """Codes by a few integer and float steps on normal numbers, for formats of 8 bits or fewer."""
    if rounding != "rne" or overflow != "saturate" or fmt.bits > 8 or fmt.is_power_of_two:
        return None
    if fmt.kind == "int":
        return _integers(x, fmt)
    return _floats(x, fmt) if fmt.kind == "float" else None


def _integers(x: Array, fmt: Format) -> Array:
    unit = float(1 << fmt.fraction_bits)
    whole = jnp.round(jnp.clip(x * np.float32(unit), fmt.min * unit, fmt.max * unit))
    whole = jnp.where(jnp.isnan(x), np.float32(0), whole)
    return (whole.astype(jnp.int32) & ((1 << fmt.bits) - 1)).astype(jnp.uint8)


def _floats(x: Array, fmt: Format) -> Array:
    """A sum with 2**23 quanta rounds to a whole number of quanta, ties to even, and leaves it in the low bits.

    A subnormal x is flushed to 0, as it rounds to 0 anyway.
    """
    bits = bitcast(x, "uint32")
    magnitude = bits & _MAGNITUDE
    limit = int(np.float32(fmt.max).view(np.uint32))
    limited = minimum(magnitude, np.uint32(limit))
    smallest = 128 - fmt.bias
    field = maximum(limited >> 23, np.uint32(smallest))
    anchor = (field + np.uint32(23 - fmt.mantissa_bits)) << 23
    total = lax.bitcast_convert_type(limited, jnp.float32) + lax.bitcast_convert_type(anchor, jnp.float32)
    count = bitcast(total, "uint32") - anchor
    codes = ((field - np.uint32(smallest)) << fmt.mantissa_bits) + count
    signed = codes | ((bits >> 31) << (fmt.bits - 1))
    if not fmt.has_negative_zero:
        signed = jnp.where(codes == 0, np.uint32(0), signed)
    nan = 0 if fmt.nan_code is None else fmt.nan_code
    return jnp.where(magnitude > 0x7F800000, np.uint32(nan), signed).astype(jnp.uint8)


def native_quantize(x: Array, recipe: Recipe) -> None:
    """None: there is no faster way."""


def native_decode(codes: Array, fmt: Format) -> None:
    """None: a table is the way."""


# -- shapes and blocks -------------------------------------------------------------------------------------------------


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """Another shape, row-major."""
    return jnp.reshape(x, shape)


def transpose(x: Array, order: tuple[int, ...]) -> Array:
    """Axes in another order."""
    return jnp.transpose(x, order)


def concat(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays behind each other."""
    return jnp.concatenate(list(arrays), axis)


def block_amax_bits(x: Array, block: Block, finite: bool = False) -> Array:
    """Largest |x| of every block as float32 bits in uint32: NaN above infinity above every number; 0 where empty."""
    magnitude = bitcast(x, "uint32") & _MAGNITUDE
    if finite:
        magnitude = jnp.where(magnitude < 0x7F800000, magnitude, np.uint32(0))
    return jax_blocks.largest(magnitude, block, np.uint32(0))


def block_range(x: Array, block: Block) -> tuple[Array, Array]:
    """Smallest and largest x of every block as float32, of finite blocks; both 0 where a block is empty."""
    if x.size == 0:
        zero = jnp.zeros(grid_shape(shape(x), block), jnp.float32)
        return zero, zero
    keys = _sortable(bitcast(x, "int32"))
    smallest = np.int32(-0x80000000)
    low, high = ~jax_blocks.largest(~keys, block, smallest), jax_blocks.largest(keys, block, smallest)
    return bitcast(_sortable(low), "float32"), bitcast(_sortable(high), "float32")


def _sortable(bits: Array) -> Array:
    """Float bits to integers of the same order, and back: the map is its own inverse."""
    return bits ^ ((bits >> 31) & _MAGNITUDE)


def map_blocks(
    function: Callable[..., Array], operands: tuple[Array, ...], grids: tuple[Array, ...], block: Block, dtype: str
) -> Array:
    """`function(*operands, *grids)`, elementwise, each entry of a grid standing for one block of the operands."""
    size = shape(operands[0])
    if not all(w is None or n % w == 0 for n, w in zip(size, block, strict=True)):
        return convert(function(*operands, *(expand(g, block, size) for g in grids)), dtype)
    split = tuple(n for s, w in zip(size, block, strict=True) for n in ((1, s) if w is None else (s // w, w)))
    wide = (settled(g).reshape(tuple(n for count in g.shape for n in (count, 1))) for g in grids)
    return convert(function(*(x.reshape(split) for x in operands), *wide), dtype).reshape(size)


@jax.custom_jvp
def settled(grid: Array) -> Array:
    """`grid`, computed once for each block: XLA would compute what is cheap again for each element of the block.

    It does not for a division, so that the words are divided by a one of which it does not see that it is one.
    """
    if grid.dtype.itemsize == 4:
        return bitcast(_divided_by_one(bitcast(grid, "uint32")), grid.dtype.name)
    return _divided_by_one(convert(grid, "uint32")).astype(grid.dtype) if grid.dtype == jnp.uint8 else grid


def _divided_by_one(words: Array) -> Array:
    return lax.div(words, ((words & _MAGNITUDE) >> 31) | 1)


@settled.defjvp
def _settled_jvp(primals: Any, tangents: Any) -> Any:
    return settled(*primals), tangents[0]


expand = jax_blocks.expand
pack_nibbles, unpack_nibbles = jax_blocks.pack_nibbles, jax_blocks.unpack_nibbles
pack_sixes, unpack_sixes = jax_blocks.pack_sixes, jax_blocks.unpack_sixes


@lru_cache(maxsize=1024)
def _jitted(function: Callable[..., Any], static: Any) -> Callable[..., Any]:
    return jax.jit(partial(function, static))


def fused(function: Callable[..., Any], static: Any, arrays: tuple[Array, ...]) -> Any:
    """`function(static, *arrays)` under `jax.jit`; as it is where JAX traces already."""
    for x in arrays:
        if isinstance(x, jax.core.Tracer):
            return function(static, *arrays)
    return _jitted(function, static)(*arrays)


# -- gradients ---------------------------------------------------------------------------------------------------------


def stop_gradient(x: Array) -> Array:
    """`x` as a constant to differentiation."""
    return lax.stop_gradient(x)


@jax.custom_jvp
def _straight_through(x: Array, value: Array) -> Array:  # noqa: ARG001
    return value


@_straight_through.defjvp
def _straight_through_jvp(primals: Any, tangents: Any) -> Any:
    x, value = primals
    return _straight_through(x, value), tangents[0].astype(value.dtype)


def straight_through(x: Array, value: Array) -> Array:
    """`value`, whose gradient goes to `x` unchanged."""
    return _straight_through(x, lax.stop_gradient(value))


def refuse_gradient(x: Array, message: str) -> Array:
    """`x`; raises GradientError where it is differentiated."""
    if not isinstance(x, jax.core.Tracer) or not jnp.issubdtype(x.dtype, jnp.floating):
        return x

    @jax.custom_jvp
    def identity(value: Array) -> Array:
        return value

    @identity.defjvp
    def _(*_: Any) -> Any:
        raise GradientError(message)

    return identity(x)


# -- between libraries -------------------------------------------------------------------------------------------------


def to_numpy(x: Array) -> Any:
    """A NumPy array of the same bits, read-only; a view of memory in the host."""
    if isinstance(x, jax.core.Tracer):
        raise UnsupportedError("JAX is tracing, and a traced array has no values yet; call this outside jax.jit")
    return np.asarray(x)


def from_numpy(x: Any, device: Any = None) -> Array:
    """JAX's array of a NumPy array's bits."""
    array = np.ascontiguousarray(x).reshape(np.shape(x))
    if array.dtype.itemsize == 8 and not jax.config.jax_enable_x64:
        raise UnsupportedError(f"JAX has no {array.dtype} unless jax_enable_x64 is set; convert to 32 bits first")
    return jax.device_put(array, None if device is None else _device(device))


def _device(device: Any) -> Any:
    if not isinstance(device, str):
        return device
    kind, _, index = device.partition(":")
    try:
        return jax.devices({"cuda": "gpu"}.get(kind, kind))[int(index or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        raise UnsupportedError(
            f"JAX cannot reach the device {device!r}: {error}; it has {', '.join(str(d) for d in jax.devices())}"
        ) from error


def from_dlpack(x: Any) -> Array | None:
    """JAX's array of another library's array on an accelerator, sharing its memory."""
    kind, _ = x.__dlpack_device__() if hasattr(x, "__dlpack_device__") else (1, 0)
    if int(kind) == 1:
        return None
    try:
        return jax.dlpack.from_dlpack(x)
    except (RuntimeError, ValueError, TypeError):  # this build of JAX does not reach that accelerator
        return None


def register_container(cls: type, flatten: Callable[..., Any], unflatten: Callable[..., Any]) -> None:
    """Make objects of `cls` pytrees of JAX, in exported programs too."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    try:
        jax.tree_util.register_pytree_node(cls, flatten, unflatten)
        jax.export.register_pytree_node_serialization(
            cls, serialized_name=name, serialize_auxdata=statics.dumps, deserialize_auxdata=statics.loads
        )
    except ValueError as error:  # registered already
        if "uplicate" not in str(error):
            raise
