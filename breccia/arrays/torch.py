"""The primitives on PyTorch, on any device.

Words are int32, since PyTorch computes little on uint32. Where a tensor is concrete and in the host's memory, work on
large tensors goes block by block in chunks that stay in cache; everywhere else (accelerators, torch.compile,
FakeTensor, torch.func) each function is plain tensor operations that a compiler can fuse, and nothing looks at values.
"""

# The library's annotations are partial, and some of what it exports is not in them.
# pyright: reportAttributeAccessIssue=false, reportUntypedFunctionDecorator=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch.autograd import forward_ad
from torch.utils import _pytree

from breccia.arrays import exact, softfloat, statics, torch_encode, torch_quantize
from breccia.arrays.numpy import cut_grid, whole_block_parts
from breccia.errors import DTypeError, GradientError, UnsupportedError
from breccia.recipes import Block, Recipe, grid_shape, of_token

TABLES = False
CHUNK = 1 << 18
"""Elements handled at a time: large enough that PyTorch's threads are worth waking, small enough for L2 caches."""

Array = torch.Tensor

_DTYPES = {
    "bool": torch.bool, "uint8": torch.uint8, "int8": torch.int8, "int16": torch.int16, "uint16": torch.uint16,
    "int32": torch.int32, "uint32": torch.int32, "int64": torch.int64, "float16": torch.float16,
    "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items() if name != "uint32"}
_FLOAT8 = torch_encode.FLOAT8
_MAGNITUDE = 0x7FFFFFFF


def as_float32(x: Any) -> Array:
    """`x` as float32: exact from 8- and 16-bit types, to nearest even from float64 and integers."""
    if x.layout is not torch.strided or x.is_nested:
        kind = "nested" if x.is_nested else "sparse"
        raise DTypeError(
            f"cannot quantize a {kind} tensor (layout {x.layout}); allowed: strided tensors; make it one with "
            f"{'x.to_padded_tensor(0.0)' if x.is_nested else 'x.to_dense()'}"
        )
    if x.dtype is torch.float32:
        return x
    if x.is_complex() or x.is_quantized or dtype_name(x) == "float8_e8m0fnu" or dtype_name(x).endswith("_x2"):
        hint = "take x.real and x.imag apart" if x.is_complex() else "convert with x.to(torch.float32)"
        raise DTypeError(
            f"cannot quantize a tensor of dtype {x.dtype} and shape {tuple(x.shape)}; "
            f"allowed: float16, bfloat16, float32, float64, float8, integers and bool; {hint}"
        )
    return x.to(torch.float32)


def dtype_name(x: Array) -> str:
    """The dtype in NumPy's spelling; int32 words are "int32"."""
    known = _NAMES.get(x.dtype)
    return str(x.dtype).rpartition(".")[2] if known is None else known


def shape(x: Array) -> tuple[int, ...]:
    """The shape."""
    return tuple(x.shape)


def nbytes(x: Array) -> int:
    """The bytes of all entries."""
    return x.numel() * x.element_size()


def device(x: Array) -> torch.device:
    """The device that `x` lies on."""
    return x.device


def ordinary(x: Array) -> bool:
    """True for a tensor outside any trace."""
    return (
        type(x) in (torch.Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0  # pyright: ignore[reportAttributeAccessIssue]
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)  # pyright: ignore[reportAttributeAccessIssue]
    )


def architecture(x: Array) -> str:
    """The architecture of the GPU that `x` lies on; empty in the host's memory, in a trace, and under autograd."""
    if not x.is_cuda or forward_ad._current_level >= 0 or _dispatch_modes() or _is_wrapped(x):
        return ""
    if (x.requires_grad and torch.is_grad_enabled()) or type(x) not in _PLAIN:
        return ""
    return _ARCHITECTURES.get(x.get_device()) or _architecture(x.get_device())


_PLAIN = (torch.Tensor, torch.nn.Parameter)
_ARCHITECTURES: dict[int, str] = {}
_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def _architecture(index: int) -> str:
    if torch.version.hip:
        found = torch.cuda.get_device_properties(index).gcnArchName.partition(":")[0]
    else:
        found = "sm_" + "".join(map(str, torch.cuda.get_device_capability(index)))
    _ARCHITECTURES[index] = found
    return found


def concrete(x: Array) -> bool:
    """True for an ordinary tensor in the host's memory: its values may be read at no cost."""
    return x.device.type == "cpu" and ordinary(x)


# -- known values ------------------------------------------------------------------------------------------------------


def any(x: Array) -> bool:
    """Whether any entry is true; waits for the device."""
    if not concrete(x) and (torch.compiler.is_compiling() or type(x) is not torch.Tensor or x.is_meta):
        raise UnsupportedError(
            "a value has to be known here (a policy that raises on NaN?), and PyTorch is tracing; "
            "use nonfinite='poison' or 'saturate', or call this outside torch.compile and FakeTensor"
        )
    return bool(x.any())


def surely_none(x: Array) -> bool:
    """True if no entry is true and the values are in the host's memory."""
    return concrete(x) and not x.any()


def surely_any(x: Array) -> bool:
    """True if an entry is true and the values are in the host's memory."""
    return concrete(x) and bool(x.any())


def known_range(words: Array) -> tuple[int, int] | None:
    """The smallest and the largest of words in the host's memory."""
    if not concrete(words):
        return None
    if words.numel() <= 1:
        return (int(words), int(words)) if words.numel() else (0, 0)
    low, high = torch.aminmax(words)
    return int(low), int(high)


# -- entry by entry ----------------------------------------------------------------------------------------------------


def bitcast(x: Array, dtype: str) -> Array:
    """The same bits as another dtype of the same width."""
    target = _FLOAT8.get(dtype) or _DTYPES[dtype]
    if target == x.dtype:
        return x
    if x.dtype is torch.int32 and target.itemsize == 2:  # a word that holds 16 bits
        x = x.to(torch.int16)
    return x.view(target)


def convert(x: Array, dtype: str) -> Array:
    """The values in another dtype; words to fewer bits keep the low ones."""
    target = _DTYPES[dtype]
    if dtype == "uint16" and x.dtype is torch.int32:
        # Through int16: PyTorch converts to uint16 on few devices.
        return ((x << 16) >> 16).to(torch.int16).view(torch.uint16)
    if dtype == "uint32" and x.dtype in (torch.int16, torch.uint16):
        return x.view(torch.int16).to(torch.int32) & 0xFFFF
    return x if x.dtype is target else x.to(target)


def full(shape: tuple[int, ...], value: float, dtype: str, like: Array) -> Array:
    """An array of one value on the device of `like`."""
    if dtype == "uint32" and value >= 1 << 31:
        value = int(value) - (1 << 32)
    return torch.full(shape, value, dtype=_DTYPES[dtype], device=like.device)


@lru_cache(maxsize=256)
def _number(bits: int, rank: int) -> Array:
    return torch.tensor([bits], dtype=torch.int32).view(torch.float32).reshape((1,) * rank)


def number(bits: int, rank: int, like: Array) -> Array:
    """A float32 constant of one entry."""
    if concrete(like):
        return _number(bits, rank)
    return full((1,) * rank, bits, "uint32", like).view(torch.float32)


def where(condition: Array, a: Any, b: Any) -> Array:
    """Entries of `a` where the condition holds, else of `b`."""
    if not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor):
        return torch.where(condition, a, b).to(torch.float32 if isinstance(a, float) else torch.int32)
    return torch.where(condition, a, b)


def minimum(a: Any, b: Any) -> Array:
    """The smaller of two, entry by entry; NaN where there is one."""
    if isinstance(b, torch.Tensor):
        return torch.minimum(a, b) if isinstance(a, torch.Tensor) else b.clamp(max=a)
    return a.clamp(max=b)


def maximum(a: Any, b: Any) -> Array:
    """The larger of two, entry by entry; NaN where there is one."""
    if isinstance(b, torch.Tensor):
        return torch.maximum(a, b) if isinstance(a, torch.Tensor) else b.clamp(min=a)
    return a.clamp(min=b)


def shift_right(x: Array, places: int) -> Array:
    """Words shifted right, zeros coming in from the left."""
    return x if places == 0 else (x >> places) & (_MAGNITUDE >> (places - 1))


@lru_cache(maxsize=256)
def _constant(data: bytes, dtype: str, place: torch.device) -> Array:
    return torch.from_numpy(np.frombuffer(data, dtype).copy()).to(place)


def _table(table: Any, like: Array) -> Array:
    array = np.ascontiguousarray(table)
    if ordinary(like):
        return _constant(array.tobytes(), array.dtype.name, like.device)
    # What is made in a trace belongs to it, and must not be kept.
    return torch.tensor(array.tolist(), dtype=_DTYPES[array.dtype.name], device=like.device)


def take(table: Any, index: Array) -> Array:
    """Entries of a constant one-dimensional NumPy table."""
    values = _table(table, index)
    if concrete(index):
        return values.index_select(0, index.reshape(-1).to(torch.int32)).reshape(index.shape)
    return values[index.to(torch.int64)]


def searchsorted(thresholds: Any, x: Array) -> Array:
    """How many thresholds are at most x."""
    return torch.bucketize(x.contiguous(), _table(thresholds, x), out_int32=True, right=True)


def _flushes(x: Array) -> bool:
    return x.device.type == "cpu" and softfloat.host_flushes()


def divide(a: Array, b: Array) -> Array:
    """IEEE float32 quotient to nearest even, subnormals included whatever the host's flush mode is."""
    return exact.divide(_SELF, a, b, torch.div) if _flushes(a) else a / b


def multiply(a: Array, b: Array) -> Array:
    """IEEE float32 product to nearest even, subnormals included whatever the host's flush mode is."""
    return exact.multiply(_SELF, a, b, torch.mul) if _flushes(a) else a * b


def add(a: Array, b: Array) -> Array:
    """IEEE float32 sum to nearest even, subnormals included whatever the host's flush mode is."""
    return exact.add(_SELF, a, b, torch.add) if _flushes(a) else a + b


# -- random numbers ----------------------------------------------------------------------------------------------------


def flat_index(shape: tuple[int, ...], offset: int, strides: tuple[int, ...], like: Array) -> tuple[Array, Array]:
    """(high, low) words of offset + sum of index * stride, in `shape`."""
    index = torch.full((1,) * len(shape), offset, dtype=torch.int64, device=like.device)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        step = torch.arange(size, dtype=torch.int64, device=like.device) * stride
        index = index + step.reshape((1,) * axis + (size,) + (1,) * (len(shape) - axis - 1))
    return _words(index.expand(shape))


def _words(x: Array) -> tuple[Array, Array]:
    return (x >> 32).to(torch.int32), x.to(torch.int32)


def seed_words(seed: Any, like: Array) -> tuple[Array, Array]:
    """(high, low) words of a 64-bit seed."""
    if isinstance(seed, torch.Tensor):
        return _words(seed.reshape(()).to(torch.int64))
    value = int(seed) & 0xFFFFFFFFFFFFFFFF
    return tuple(full((), half, "uint32", like) for half in (value >> 32, value & 0xFFFFFFFF))  # type: ignore[return-value]


# -- encoding ----------------------------------------------------------------------------------------------------------


def native_quantize(x: Array, recipe: Recipe) -> tuple[Array, tuple[Array, ...]] | None:
    """(codes, stored scales) of an ordinary tensor in the host's memory, where `torch_quantize` has a way."""
    return torch_quantize.quantize(x, recipe) if concrete(x) else None


def native_decode(codes: Array, fmt: object) -> None:
    """None: a table is the way."""


native_encode = torch_encode.native_encode
pack_nibbles, unpack_nibbles = torch_encode.pack_nibbles, torch_encode.unpack_nibbles
pack_sixes, unpack_sixes = torch_encode.pack_sixes, torch_encode.unpack_sixes


# -- shapes and blocks -------------------------------------------------------------------------------------------------


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """Another shape, row-major."""
    return x.reshape(shape)


def transpose(x: Array, order: tuple[int, ...]) -> Array:
    """Axes in another order."""
    return x.permute(order)


def concat(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays behind each other."""
    return torch.cat(list(arrays), axis)


def _chunks(split: tuple[int, ...]) -> list[tuple[int, slice]]:
    """Slices along the first axis longer than one, each of about CHUNK elements: (axis, slice)."""
    total = 1
    for n in split:
        total *= n
    if not total:
        return []
    axis = next((i for i, n in enumerate(split) if n > 1), len(split) - 1)
    step = max(1, CHUNK * split[axis] // total)
    return [(axis, slice(start, start + step)) for start in range(0, split[axis], step)]


def _spread(grid: Array, part: tuple[slice, ...]) -> Array:
    cut = grid[part]
    return cut.reshape(tuple(n for size in cut.shape for n in (size, 1)))


def block_amax_bits(x: Array, block: Block, finite: bool = False) -> Array:
    """Largest |x| of every block as float32 bits in int32: NaN above infinity above every number; 0 where empty."""
    if finite:
        x = torch.where(x.abs() < float("inf"), x, 0.0)
    grid = grid_shape(tuple(x.shape), block)
    if not concrete(x):
        return _reduced((x.view(torch.int32) & _MAGNITUDE), block, torch.amax, 0)
    x = x.detach()
    parts = list(whole_block_parts(tuple(x.shape), block))
    if len(parts) == 1 and 0 < x.numel() <= CHUNK:
        inner = tuple(range(1, 2 * x.dim(), 2))
        return (x.reshape(parts[0][2]).view(torch.int32) & _MAGNITUDE).amax(inner)
    out = torch.zeros(grid, dtype=torch.int32)
    buffer = torch.empty(min(x.numel(), 2 * CHUNK), dtype=torch.int32)
    for array, where_, split in parts:
        view, target = x[array].reshape(split), _spread(out, where_)
        inner = tuple(range(1, len(split), 2))
        for axis, piece in _chunks(split):
            chunk = view[(slice(None),) * axis + (piece,)]
            space = buffer[: chunk.numel()].view(chunk.shape) if chunk.numel() <= buffer.numel() else None
            bits = torch.bitwise_and(chunk.view(torch.int32), _MAGNITUDE, out=space)
            goal = target if target.shape[axis] == 1 else target[(slice(None),) * axis + (piece,)]
            torch.maximum(goal, bits.amax(inner, keepdim=True), out=goal)
    return out


def _reduced(x: Array, block: Block, reduce: Callable[..., Array], empty: int) -> Array:
    """A reduction over blocks in plain operations: ends of axes are filled up with `empty`, which no maximum feels."""
    split: list[int] = []
    for axis, (size, width) in enumerate(zip(x.shape, block, strict=True)):
        count = 1 if width is None else -(-size // width)
        wide = size if width is None else width
        more = count * wide - size + (wide == 0)
        if more:
            tail = torch.full((*x.shape[:axis], more, *x.shape[axis + 1 :]), empty, dtype=x.dtype, device=x.device)
            x = torch.cat([x, tail], axis)
        split += [count, max(wide, 1)]
    return reduce(x.reshape(split), tuple(range(1, len(split), 2)))


def block_range(x: Array, block: Block) -> tuple[Array, Array]:
    """Smallest and largest x of every block as float32, of finite blocks; both 0 where a block is empty."""
    if x.numel() == 0:
        zero = torch.zeros(grid_shape(tuple(x.shape), block), device=x.device)
        return zero, zero
    keys = _sortable(x.detach().view(torch.int32))
    low = _reduced(keys, block, torch.amin, 0x7FFFFFFF)
    high = _reduced(keys, block, torch.amax, -0x80000000)
    return _sortable(low).view(torch.float32), _sortable(high).view(torch.float32)


def _sortable(bits: Array) -> Array:
    """Float bits to integers of the same order, and back: the map is its own inverse."""
    return bits ^ ((bits >> 31) & _MAGNITUDE)


def expand(grid: Array, ratio: Block, shape: tuple[int, ...]) -> Array:
    """Repeat entry i of `grid` along each axis for `ratio` places, cut to `shape`; a ratio of None fills the axis."""
    for axis, (count, size) in enumerate(zip(ratio, shape, strict=True)):
        if count == 1 or (count is None and size == 1):
            continue
        if count is None:
            grid = grid.expand(*grid.shape[:axis], size, *grid.shape[axis + 1 :])
        else:
            grid = grid.repeat_interleave(count, axis).narrow(axis, 0, size)
    return grid


def map_blocks(
    function: Callable[..., Array], operands: tuple[Array, ...], grids: tuple[Array, ...], block: Block, dtype: str
) -> Array:
    """`function(*operands, *grids)`, elementwise, each entry of a grid standing for one block of the operands."""
    size = tuple(operands[0].shape)
    if not all_concrete(operands + grids):
        return _map_whole(function, operands, grids, block, dtype)
    operands, grids = tuple(x.detach() for x in operands), tuple(g.detach() for g in grids)
    parts = list(whole_block_parts(size, block))
    if len(parts) == 1 and operands[0].numel() <= CHUNK:
        array, grid, split = parts[0]
        wide = (_spread(g, grid) for g in grids)
        return convert(function(*(x.reshape(split) for x in operands), *wide), dtype).reshape(size)
    out = torch.empty(size, dtype=_DTYPES[dtype])
    for array, grid, split in parts:
        target = out[array].view(split) if len(parts) == 1 else torch.empty(split, dtype=out.dtype)
        views = [x[array].reshape(split) for x in operands]
        wide = [_spread(g, grid) for g in grids]
        for axis, piece in _chunks(split):
            here = (slice(None),) * axis + (piece,)
            target[here] = function(*(v[here] for v in views), *(cut_grid(g, axis, piece) for g in wide))
        if len(parts) > 1:
            out[array] = target.reshape(out[array].shape)
    return out


def all_concrete(arrays: Sequence[Array]) -> bool:
    """True where every array is `concrete`."""
    return all(concrete(x) for x in arrays)


def _map_whole(
    function: Callable[..., Array], operands: tuple[Array, ...], grids: tuple[Array, ...], block: Block, dtype: str
) -> Array:
    size = tuple(operands[0].shape)
    even = all(w is None or n % w == 0 for n, w in zip(size, block, strict=True))
    if even and all(size):
        split = tuple(n for s, w in zip(size, block, strict=True) for n in ((1, s) if w is None else (s // w, w)))
        wide = (g.reshape(tuple(n for count in g.shape for n in (count, 1))) for g in grids)
        return convert(function(*(x.reshape(split) for x in operands), *wide), dtype).reshape(size)
    return convert(function(*operands, *(expand(g, block, size) for g in grids)), dtype)


def settled(grid: Array) -> Array:
    """`grid` as it is: nothing is computed twice here."""
    return grid


def fused(function: Callable[..., Any], static: Any, arrays: tuple[Array, ...]) -> Any:
    """`function(static, *arrays)`."""
    return function(static, *arrays)


# -- gradients ---------------------------------------------------------------------------------------------------------


class _StraightThrough(torch.autograd.Function):
    """The value of the second argument, the gradient of the first."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Array, value: Array) -> Array:  # noqa: ARG004  # pyright: ignore[reportIncompatibleMethodOverride]
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        ctx.dtypes = inputs[0].dtype, inputs[1].dtype

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0].to(ctx.dtypes[0]), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tangents[0].to(ctx.dtypes[1])


def stop_gradient(x: Array) -> Array:
    """`x` as a constant to autograd."""
    return x.detach()


def straight_through(x: Array, value: Array) -> Array:
    """`value`, whose gradient goes to `x` unchanged."""
    return _StraightThrough.apply(x, value.detach())


def refuse_gradient(x: Array, message: str) -> Array:
    """`x`; raises GradientError where autograd records it."""
    if x.requires_grad and torch.is_grad_enabled():
        raise GradientError(message)
    return x


# -- between libraries -------------------------------------------------------------------------------------------------


def to_numpy(x: Array) -> Any:
    """A NumPy array of the same bits, a view of memory in the host."""
    x = x.detach().cpu()
    if x.dtype is torch.bfloat16:
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    if x.dtype not in _NAMES:
        return x.view(torch.uint8).numpy().view(getattr(ml_dtypes, dtype_name(x), np.uint8))
    return x.numpy()


def from_numpy(x: Any, device: Any = None) -> Array:
    """The tensor of a NumPy array's bits; shares memory that may be written to."""
    array = np.asarray(x)
    if not array.flags.writeable or _walks_back(array.strides):
        array = array.copy()
    if array.dtype.name == "bfloat16":
        made = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        made = torch.from_numpy(array)
    if device is None:
        return made
    try:
        return made.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UnsupportedError(f"PyTorch cannot reach the device {device!r}: {error}") from error


def _walks_back(strides: tuple[int, ...]) -> bool:
    """True where NumPy walks an axis backwards, which PyTorch cannot."""
    return min(strides, default=0) < 0


def from_dlpack(x: Any) -> Array | None:
    """The tensor of another library's array, sharing its memory; None where PyTorch does not reach it."""
    try:
        return torch.from_dlpack(x)
    except (RuntimeError, BufferError, ValueError, TypeError, AttributeError):
        return None


def register_container(cls: type, flatten: Callable[..., Any], unflatten: Callable[..., Any]) -> None:
    """Make objects of `cls` pytrees of PyTorch."""
    if cls in _pytree.SUPPORTED_NODES:
        return

    def parts(obj: Any) -> tuple[list[Any], Any]:
        # Dynamo reads this: it can hold integers and text alone, so the recipe goes by its token, and sizes that may
        # be symbols are left to the arrays. Packing hides the last one.
        arrays, (recipe, size, *rest) = flatten(obj)
        return list(arrays), (recipe.token, len(size), int(size[-1]), *rest)

    def whole(arrays: Any, static: Any) -> Any:
        token, rank, last, *rest = static
        size = (*getattr(arrays[0], "shape", (0,) * rank)[:-1], last)
        return unflatten((of_token(token), size, *rest), list(arrays))

    def to_text(static: Any) -> str:
        token, *rest = static
        return statics.dumps((of_token(token), *rest)).hex()

    def from_text(text: str) -> Any:
        recipe, *rest = statics.loads(bytes.fromhex(text))
        return recipe.token, *rest

    def with_keys(obj: Any) -> Any:
        arrays, static = parts(obj)
        return [(_pytree.SequenceKey(i), x) for i, x in enumerate(arrays)], static

    _pytree.register_pytree_node(
        cls,
        parts,
        whole,
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        to_dumpable_context=to_text,
        flatten_with_keys_fn=with_keys,
        from_dumpable_context=from_text,
    )


class _Self:
    """These primitives as an object, for `exact`."""

    bitcast, convert, where = staticmethod(bitcast), staticmethod(convert), staticmethod(where)
    minimum, maximum = staticmethod(minimum), staticmethod(maximum)


_SELF: Any = _Self()
