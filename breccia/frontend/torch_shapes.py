"""PyTorch's functions that change shapes, on traced tensors, with PyTorch's names of parameters."""

# ruff: noqa: A006, D103 - parameters are named, and functions documented, as in PyTorch
from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from xdsl.dialects.builtin import IntAttr

from breccia.errors import ShapeError, TraceError
from breccia.frontend import elementwise, shapes
from breccia.frontend.dtypes import int32, ir_dtype
from breccia.frontend.elementwise import binary, full, where
from breccia.frontend.trace import Trace, Value
from breccia.ir.dims import Dim
from breccia.ir.ops import IotaOp
from breccia.ir.types import DimsAttr


def _sizes(x: Value, sizes: Sequence[Any], what: str) -> list[Dim]:
    return [shapes.as_dim(x.trace, s, what) for s in shapes.shape_argument(sizes)]


def reshape(input: Value, *shape: Any, size: Any = None) -> Value:
    wanted = shape if size is None else (size,)
    if any(not isinstance(s, tuple | list) and not hasattr(s, "__index__") for s in wanted):
        input.trace.fail(TraceError, "view(dtype) reads the bits as another dtype, which is not traced; use .to(dtype)")
    return shapes.reshape(input, shapes.shape_argument(wanted))


def reshape_as(input: Value, other: Value) -> Value:
    return shapes.reshape(input, [other.trace.size(d) for d in other.dims])


def flatten(input: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    if not input.rank:
        return shapes.reshape_to(input, (1,))
    first, last = (shapes.normalize_axes(input, a, "flatten")[0] for a in (start_dim, end_dim))
    middle = shapes.product(input.dims[first : last + 1])
    return shapes.reshape_to(input, [*input.dims[:first], middle, *input.dims[last + 1 :]])


def unflatten(input: Value, dim: int, sizes: Sequence[Any]) -> Value:
    axis = shapes.normalize_axes(input, dim, "unflatten")[0]
    size = input.trace.size
    before, after = map(size, input.dims[:axis]), map(size, input.dims[axis + 1 :])
    part = [shapes.as_dim(input.trace, s, "unflatten") for s in sizes]
    if -1 in part:
        whole = input.trace.number(input.dims[axis], "unflatten")
        known = -shapes.product(part)  # type: ignore[operator]
        part[part.index(-1)] = whole // known if known else 0
    return shapes.reshape(input, [*before, *map(size, part), *after])


def permute(input: Value, *dims: Any) -> Value:
    return shapes.transpose(input, shapes.shape_argument(dims))


def transpose(input: Value, dim0: Any, dim1: Any = None, *more: Any) -> Value:
    """Two axes exchanged; NumPy's spelling, with all axes, is understood where it is no other."""
    if dim1 is None or more:
        return shapes.transpose(input, dim0 if dim1 is None else (dim0, dim1, *more))
    return shapes.swapaxes(input, dim0, dim1)


def movedim(input: Value, source: Any, destination: Any) -> Value:
    return shapes.moveaxis(input, source, destination)


def t(input: Value) -> Value:
    if input.rank > 2:
        input.trace.fail(ShapeError, f"t() takes at most two axes, not {input.describe()}; use .transpose(a, b)")
    return shapes.transpose(input)


def squeeze(input: Value, dim: Any = None) -> Value:
    if dim is None:
        return shapes.squeeze(input)
    axes = shapes.normalize_axes(input, dim, "squeeze")
    return shapes.drop_axes(input, [a for a in axes if input.dims[a] == 1])


def unsqueeze(input: Value, dim: int) -> Value:
    if not -input.rank - 1 <= dim <= input.rank:
        input.trace.fail(ShapeError, f"unsqueeze: place {dim} is out of range for {input.describe()}")
    return shapes.expand_dims(input, dim)


def expand(input: Value, *sizes: Any, size: Any = None) -> Value:
    wanted = _sizes(input, sizes if size is None else (size,), "expand")
    new = len(wanted) - input.rank
    if new < 0:
        input.trace.fail(ShapeError, f"expand: {len(wanted)} sizes for {input.describe()}")
    return elementwise.broadcast_to(input, [input.dims[i - new] if s == -1 else s for i, s in enumerate(wanted)])


def expand_as(input: Value, other: Value) -> Value:
    return elementwise.broadcast_to(input, other.dims)


def repeat(input: Value, *repeats: Any) -> Value:
    counts = shapes.shape_argument(repeats)
    if len(counts) < input.rank:
        input.trace.fail(ShapeError, f"repeat: {len(counts)} counts for {input.describe()}")
    return tile(input, counts)


def tile(input: Value, *dims: Any) -> Value:
    counts = _sizes(input, dims, "tile")
    counts = [1] * (input.rank - len(counts)) + counts
    sizes: list[Dim] = [1] * (len(counts) - input.rank) + list(input.dims)
    pairs = [(c, n) for c, n in zip(counts, sizes, strict=True)]
    spread = shapes.reshape_to(input, [d for _, n in pairs for d in (1, n)])
    whole = elementwise.broadcast_to(spread, [d for c, n in pairs for d in (c, n)])
    return shapes.reshape_to(whole, [shapes.product(pair) for pair in pairs])


def repeat_interleave(input: Value, repeats: Any, dim: int | None = None, *, output_size: Any = None) -> Value:  # noqa: ARG001
    """Every entry along an axis `repeats` times in a row."""
    if isinstance(repeats, Value):
        input.trace.fail(TraceError, "repeat_interleave with a tensor of counts: sizes cannot depend on values")
    x = input if dim is not None else shapes.reshape(input, (-1,))
    axis = shapes.normalize_axes(x, 0 if dim is None else dim, "repeat_interleave")[0]
    count = shapes.as_dim(x.trace, repeats, "repeat_interleave")
    spread = shapes.expand_dims(x, axis + 1)
    whole = elementwise.broadcast_to(spread, [*spread.dims[: axis + 1], count, *spread.dims[axis + 2 :]])
    merged = shapes.product([x.dims[axis], count])
    return shapes.reshape_to(whole, [*x.dims[:axis], merged, *x.dims[axis + 1 :]])


def cat(tensors: Sequence[Any], dim: int = 0) -> Value:
    return shapes.concat(tensors, dim)


def stack(tensors: Sequence[Any], dim: int = 0) -> Value:
    return shapes.stack(tensors, dim)


def split(input: Value, split_size_or_sections: Any = None, dim: int = 0, *, split_size: Any = None) -> tuple[Any, ...]:
    """Parts of a size, the last one perhaps smaller, or of the sizes given."""
    wanted = split_size_or_sections if split_size is None else split_size
    axis = shapes.normalize_axes(input, dim, "split")[0]
    whole = input.trace.number(input.dims[axis], "split")
    if isinstance(wanted, tuple | list):
        if sum(wanted) != whole:
            input.trace.fail(ShapeError, f"split: sizes {wanted} do not add up to {whole}, axis {axis}")
        borders = list(accumulate(int(s) for s in wanted))[:-1]
    elif int(wanted) < 1:
        input.trace.fail(ShapeError, f"split: parts of size {wanted}; allowed: 1 or more")
    else:
        borders = list(range(int(wanted), whole, int(wanted)))
    return tuple(shapes.split(input, borders, axis))


def chunk(input: Value, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    whole = input.trace.number(input.dims[shapes.normalize_axes(input, dim, "chunk")[0]], "chunk")
    return split(input, max(1, -(-whole // chunks)), dim)


def unbind(input: Value, dim: int = 0) -> tuple[Any, ...]:
    whole = input.trace.number(input.dims[shapes.normalize_axes(input, dim, "unbind")[0]], "unbind")
    return tuple(select(input, dim, i) for i in range(whole))


def select(input: Value, dim: int, index: int) -> Value:
    axis = shapes.normalize_axes(input, dim, "select")[0]
    return shapes.getitem(input, (slice(None),) * axis + (index,))


def narrow(input: Value, dim: int, start: Any, length: Any) -> Value:
    axis = shapes.normalize_axes(input, dim, "narrow")[0]
    whole = input.trace.number(input.dims[axis], "narrow")
    first = int(start) % whole if int(start) < 0 else int(start)
    if first + int(length) > whole:
        input.trace.fail(ShapeError, f"narrow: {start} and {length} more are outside {input.describe()}, axis {axis}")
    return shapes.slice_axis(input, axis, first, first + int(length))


def roll(input: Value, shifts: Any, dims: Any = None) -> Value:
    if dims is None:
        return reshape_as(roll(shapes.reshape(input, (-1,)), shifts, 0), input)
    pairs = zip(shifts, dims, strict=True) if isinstance(dims, tuple | list) else ((shifts, dims),)
    for shift, dim in pairs:
        axis = shapes.normalize_axes(input, dim, "roll")[0]
        whole = input.trace.number(input.dims[axis], "roll")
        if whole and shift % whole:
            front, back = shapes.split(input, [whole - shift % whole], axis)
            input = shapes.concat([back, front], axis)
    return input


def pad(input: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    """Constants before and behind the last axes; negative counts cut."""
    if mode != "constant":
        input.trace.fail(TraceError, f"pad: mode {mode!r} is not traced; allowed: 'constant'")
    for i, (before, behind) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        axis = input.rank - 1 - i
        if before < 0 or behind < 0:
            whole = input.trace.number(input.dims[axis], "pad")
            input = shapes.slice_axis(input, axis, max(0, -before), whole - max(0, -behind))
        parts = [_filled(input, axis, n, value or 0) if n > 0 else None for n in (before, behind)]
        kept = [p for p in (parts[0], input, parts[1]) if p is not None]
        input = shapes.concat(kept, axis) if len(kept) > 1 else input
    return input


def _filled(x: Value, axis: int, count: int, value: float) -> Value:
    return full(x.trace, value, [*x.dims[:axis], count, *x.dims[axis + 1 :]], x._dtype)


def iota(trace: Trace, shape: Sequence[Dim], axis: int) -> Value:
    """0, 1, 2 ... along an axis, as int32."""
    props = {"axis": IntAttr(axis), "start": DimsAttr((0,)), "shape": DimsAttr(tuple(shape))}
    return trace.wrap(trace.emit(IotaOp, **props, dtype=ir_dtype(int32)), int32)


def below(trace: Trace, rows: Dim, columns: Dim, diagonal: int) -> Value:
    """The truth values [rows, columns] of column <= row + diagonal."""
    row, column = iota(trace, [rows, 1], 0), iota(trace, [1, columns], 1)
    return binary("le", column, binary("add", row, diagonal) if diagonal else row)


def triangle(*, lower: bool) -> Callable[..., Value]:
    """`tril`, or `triu`."""

    def kept(input: Value, diagonal: int = 0) -> Value:
        if input.rank < 2:
            input.trace.fail(ShapeError, f"tril and triu take two axes or more, not {input.describe()}")
        inside = below(input.trace, input.dims[-2], input.dims[-1], diagonal if lower else diagonal - 1)
        return where(inside, input, 0) if lower else where(inside, 0, input)

    return kept


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "reshape": reshape,
    "view": reshape,
    "view_as": reshape_as,
    "reshape_as": reshape_as,
    "flatten": flatten,
    "ravel": flatten,
    "unflatten": unflatten,
    "permute": permute,
    "transpose": transpose,
    "swapaxes": transpose,
    "swapdims": transpose,
    "movedim": movedim,
    "moveaxis": movedim,
    "t": t,
    "adjoint": lambda input: shapes.swapaxes(input, -1, -2),
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "expand": expand,
    "broadcast_to": expand,
    "expand_as": expand_as,
    "repeat": repeat,
    "tile": tile,
    "repeat_interleave": repeat_interleave,
    "cat": cat,
    "concat": cat,
    "concatenate": cat,
    "stack": stack,
    "split": split,
    "split_with_sizes": split,
    "chunk": chunk,
    "unbind": unbind,
    "select": select,
    "narrow": narrow,
    "roll": roll,
    "pad": pad,
    "tril": triangle(lower=True),
    "triu": triangle(lower=False),
}
"""By PyTorch's name. Parameters are named as PyTorch names them, since they may be given by keyword."""
