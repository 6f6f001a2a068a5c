"""Reductions and changes of shape on traced values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.dialects.builtin import IntAttr, StringAttr

from breccia.errors import DTypeError, ShapeError, TraceError
from breccia.frontend.dtypes import Dtype, bool_, float32, int64, is_float, is_narrow, promote
from breccia.frontend.elementwise import as_value, astype, binary, ints, trace_of, widened
from breccia.frontend.symbols import Size, factors, product, quotient, uncommon
from breccia.frontend.trace import Trace, Value, as_dtype, plain
from breccia.ir import dims
from breccia.ir.ops import ConcatOp, ReduceOp, ReshapeOp, SliceOp, TransposeOp
from breccia.ir.types import DimsAttr, ScaledType

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from breccia.ir.dims import Dim
    from breccia.recipes import Recipe

Axes = int | Sequence[int] | None


def normalize_axes(x: Value, axis: Any, what: str) -> tuple[int, ...]:
    """Axes counted from 0; None means all of them. Raises ShapeError."""
    if axis is None:
        return tuple(range(x.rank))
    axes = tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    for a in axes:
        if isinstance(a, bool) or not isinstance(a, int) or not -x.rank <= a < x.rank:
            allowed = f"{-x.rank} to {x.rank - 1}" if x.rank else "none, since it has no axes"
            x.trace.fail(ShapeError, f"{what}: axis {a!r} is out of range for {x.describe()}; allowed: {allowed}")
    out = tuple(a % x.rank for a in axes)
    if len(set(out)) != len(out):
        x.trace.fail(ShapeError, f"{what}: axes {axes} name an axis twice")
    return out


def reduce(fn: str, x: Value, axis: Any = None, *, keepdims: bool = False, dtype: DTypeLike | None = None) -> Value:
    """`sum`, `max`, `min` or `amax` over axes, computed in float32 and rounded once."""
    plain(x, fn)
    axes = normalize_axes(x, axis, fn)
    out = as_dtype(dtype) if dtype is not None else _reduced_dtype(fn, x)
    wide = widened(astype(x, int64) if fn == "sum" and not is_float(x._dtype) else x, fn)
    made = wide if not axes else x.trace.wrap(x.trace.emit(ReduceOp, wide.ssa, fn=StringAttr(fn), axes=ints(axes)))
    rounded = astype(made, out)
    return rounded if keepdims else drop_axes(rounded, axes)


def _reduced_dtype(fn: str, x: Value) -> Dtype:
    if fn == "sum" and not is_float(x._dtype):
        return int64
    if x._dtype == bool_:
        x.trace.fail(DTypeError, f"{fn} of truth values; convert with .astype first")
    return x._dtype


def mean(x: Value, axis: Any = None, *, keepdims: bool = False, dtype: DTypeLike | None = None) -> Value:
    """The mean over axes: the float32 sum divided by the number of elements, rounded once."""
    plain(x, "mean")
    axes = normalize_axes(x, axis, "mean")
    out = as_dtype(dtype) if dtype is not None else x._dtype if is_float(x._dtype) else float32
    wide = widened(x if is_float(x._dtype) else astype(x, float32), "mean")
    total = reduce("sum", wide, axes, keepdims=True) if axes else wide
    rounded = astype(binary("div", total, x.trace.size(product([x.dims[a] for a in axes]))), out)
    return rounded if keepdims else drop_axes(rounded, axes)


def variance(x: Value, axis: Any = None, *, keepdims: bool = False, ddof: int = 0) -> Value:
    """The mean of squared differences from the mean; `ddof` is subtracted from the number of elements."""
    plain(x, "var")
    axes = normalize_axes(x, axis, "var")
    out = x._dtype if is_float(x._dtype) else float32
    wide = widened(x if is_float(x._dtype) else astype(x, float32), "var")
    centred = binary("sub", wide, mean(wide, axes, keepdims=True))
    total = reduce("sum", binary("mul", centred, centred), axes, keepdims=True)
    count = x.trace.size(dims.sub(product([x.dims[a] for a in axes]), ddof))
    rounded = astype(binary("div", total, count), out)
    return rounded if keepdims else drop_axes(rounded, axes)


def drop_axes(x: Value, axes: Sequence[int]) -> Value:
    """`x` without axes of size 1."""
    return reshape_to(x, [d for i, d in enumerate(x.dims) if i not in axes])


def scaled_result(x: Value, ssa: Any, recipe: Recipe | None) -> Value:
    """What a view gives: the dtype stays; `recipe` is the one of the result."""
    return x.trace.wrap(ssa, x._dtype, recipe)


def reshape_to(x: Value, shape: Sequence[Dim]) -> Value:
    """`x` in another shape with as many elements."""
    wanted = tuple(shape)
    if wanted == x.dims:
        return x
    ssa = x.trace.emit(ReshapeOp, x.ssa, shape=DimsAttr(wanted))
    return scaled_result(x, ssa, _retyped(x, ssa))


def _retyped(x: Value, ssa: Any) -> Recipe | None:
    """The recipe of a view of a scaled value: the blocks of the new type, the policy of the old recipe."""
    if x.recipe is None:
        return None
    kind = ssa.type
    assert isinstance(kind, ScaledType), "views of scaled tensors are scaled"
    return x.recipe.with_levels(kind.recipe.levels)


def reshape(x: Value, shape: Sequence[Any]) -> Value:
    """`x` in another shape; one entry may be -1."""
    trace = x.trace
    wanted = [as_dim(trace, s, "reshape") for s in shape]
    free = [i for i, s in enumerate(wanted) if s == -1]
    if len(free) > 1:
        trace.fail(ShapeError, f"reshape: {tuple(shape)} has more than one -1")
    if free:
        rest = [s for s in wanted if s != -1]
        wanted[free[0]] = _missing(x, rest)
    if factors(wanted) != factors(x.dims):
        counts = (trace.hint(product(s)) for s in (wanted, x.dims))
        if len(set(counts)) > 1:
            trace.fail(ShapeError, f"reshape: {trace.show(x.dims)} has not as many elements as {trace.show(wanted)}")
        for dim in uncommon(wanted, x.dims):
            trace.number(dim, f"reshape to {trace.show(wanted)}")
    return reshape_to(x, wanted)


def _missing(x: Value, rest: Sequence[Dim]) -> Dim:
    """The size that -1 stands for."""
    trace = x.trace
    found = quotient(x.dims, rest)
    if found is not None:
        return found
    total, known = (trace.hint(product(s)) for s in (x.dims, rest))
    if known == 0 or total % known:
        trace.fail(ShapeError, f"reshape: {trace.show(x.dims)} does not divide into {trace.show([*rest, -1])}")
    for dim in uncommon(rest, x.dims):
        trace.number(dim, "reshape with -1")
    return total // known


def as_dim(trace: Trace, size: Any, what: str) -> Dim:
    """A size that the user gives: an integer or a symbolic one."""
    if isinstance(size, Size):
        return size.dim
    if hasattr(size, "__index__") and not isinstance(size, bool | Value):
        return int(size.__index__())
    return trace.fail(ShapeError, f"{what}: {size!r} is no size; allowed: integers and entries of .shape")


def shape_argument(args: Sequence[Any]) -> tuple[Any, ...]:
    """Sizes or axes given as one sequence or one by one."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], tuple | list) else tuple(args)


def transpose(x: Value, axes: Sequence[int] | None = None) -> Value:
    """`x` with permuted axes; None reverses them. Blocks of a scaled value turn with their axes."""
    order = normalize_axes(x, tuple(axes), "transpose") if axes is not None else tuple(reversed(range(x.rank)))
    if len(order) != x.rank:
        x.trace.fail(ShapeError, f"transpose: axes {axes} are no permutation of the axes of {x.describe()}")
    if order == tuple(range(x.rank)):
        return x
    ssa = x.trace.emit(TransposeOp, x.ssa, order=ints(order))
    return scaled_result(x, ssa, x.recipe.permuted(order) if x.recipe is not None else None)


def swapaxes(x: Value, a: int, b: int) -> Value:
    """`x` with two axes exchanged."""
    a, b = (normalize_axes(x, axis, "swapaxes")[0] for axis in (a, b))
    order = list(range(x.rank))
    order[a], order[b] = order[b], order[a]
    return transpose(x, order)


def moveaxis(x: Value, source: Any, destination: Any) -> Value:
    """`x` with axes moved to new places; the others stay in order."""
    come, go = normalize_axes(x, source, "moveaxis"), normalize_axes(x, destination, "moveaxis")
    order = [i for i in range(x.rank) if i not in come]
    for place, axis in sorted(zip(go, come, strict=True)):
        order.insert(place, axis)
    return transpose(x, order)


def expand_dims(x: Value, axis: Any) -> Value:
    """`x` with new axes of size 1 at the places `axis` of the result."""
    axes = tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    rank = x.rank + len(axes)
    places = sorted(a % rank for a in axes)
    shape = list(x.dims)
    for place in places:
        shape.insert(place, 1)
    return reshape_to(x, shape)


def squeeze(x: Value, axis: Any = None) -> Value:
    """`x` without axes of size 1: those named, or all whose size is known to be 1."""
    axes = [i for i, d in enumerate(x.dims) if d == 1] if axis is None else list(normalize_axes(x, axis, "squeeze"))
    for a in axes:
        if x.trace.number(x.dims[a], "squeeze") != 1:
            x.trace.fail(ShapeError, f"squeeze: axis {a} of {x.trace.show(x.dims)} is not of size 1")
    return drop_axes(x, axes)


def concat(values: Sequence[Any], axis: int = 0) -> Value:
    """Arrays behind each other along an axis."""
    trace = trace_of(*values)
    parts = [as_value(trace, v) for v in values]
    first = parts[0]
    axis = normalize_axes(first, axis, "concat")[0]
    for part in parts[1:]:
        _check_continues(first, part, axis)
    if first.recipe is None:
        out = promote([(p._dtype, p.rank) for p in parts])
        if any(is_narrow(p._dtype) and p._dtype != out for p in parts):
            trace.fail(DTypeError, "concat: narrow dtypes differ; convert them with .astype first")
        parts = [astype(p, out) for p in parts]
    ssa = trace.emit(ConcatOp, *(p.ssa for p in parts), axis=IntAttr(axis))
    return scaled_result(parts[0], ssa, first.recipe)


def _check_continues(first: Value, part: Value, axis: int) -> None:
    trace = first.trace
    if (first.recipe is None) != (part.recipe is None):
        trace.fail(
            DTypeError, f"concat: {first.describe()} and {part.describe()}; dequantize or cast one of them first"
        )
    if first.rank != part.rank:
        trace.fail(
            ShapeError, f"concat: shape mismatch: {trace.show(first.dims)} and {trace.show(part.dims)} differ in rank"
        )
    for i, (a, b) in enumerate(zip(first.dims, part.dims, strict=True)):
        if i != axis and trace.unify("concat", a, b, broadcast=False) is None:
            trace.fail(
                ShapeError,
                f"concat: shape mismatch: {trace.show(first.dims)} and {trace.show(part.dims)} differ on axis {i}",
            )


def stack(values: Sequence[Any], axis: int = 0) -> Value:
    """Arrays joined along a new axis."""
    trace = trace_of(*values)
    return concat([expand_dims(as_value(trace, v), axis) for v in values], axis)


def split(x: Value, sections: Any, axis: int = 0) -> list[Value]:
    """Equal parts, or parts that end at the given indices, along an axis."""
    axis = normalize_axes(x, axis, "split")[0]
    size = x.trace.number(x.dims[axis], "split")
    if isinstance(sections, int):
        if sections < 1 or size % sections:
            x.trace.fail(ShapeError, f"split: axis {axis} of {x.trace.show(x.dims)} has no {sections} equal parts")
        borders = [i * (size // sections) for i in range(sections + 1)]
    else:
        borders = [0, *(min(int(s), size) for s in sections), size]
    return [slice_axis(x, axis, a, max(a, b)) for a, b in pairwise(borders)]


def slice_axis(x: Value, axis: int, start: Dim, stop: Dim) -> Value:
    """The part of `x` from start to stop on one axis."""
    if start == 0 and stop == x.dims[axis]:
        return x
    limits = {"start": DimsAttr((start,)), "stop": DimsAttr((stop,))}
    ssa = x.trace.emit(SliceOp, x.ssa, axis=IntAttr(axis), **limits)
    return scaled_result(x, ssa, x.recipe)


def getitem(x: Value, key: Any) -> Value:
    """Basic indexing: slices of step 1, integers, `...` and None."""
    entries = list(key) if isinstance(key, tuple) else [key]
    taken = sum(e is not None and e is not Ellipsis for e in entries)
    if taken > x.rank:
        x.trace.fail(ShapeError, f"{taken} indices for {x.describe()}")
    fill = [slice(None)] * (x.rank - taken)
    dots = [i for i, e in enumerate(entries) if e is Ellipsis]
    if len(dots) > 1:
        x.trace.fail(TraceError, "an index may hold `...` once")
    at = dots[0] if dots else len(entries)
    entries[at : at + len(dots)] = fill
    shape: list[Dim] = []
    axis, dropped = 0, False
    for entry in entries:
        if entry is None:
            shape.append(1)
            dropped = True
            continue
        x, kept = _index_axis(x, axis, entry)
        dropped = dropped or not kept
        shape += [x.dims[axis]] * kept
        axis += 1
    return reshape_to(x, shape) if dropped else x


def _index_axis(x: Value, axis: int, entry: Any) -> tuple[Value, bool]:
    """`x` cut along one axis, and whether the axis stays."""
    trace, size = x.trace, x.dims[axis]
    if isinstance(entry, slice):
        return _slice_entry(x, axis, entry), True
    if isinstance(entry, Value):
        trace.fail(TraceError, "indexing with a traced array; use breccia.where to choose between values")
    if isinstance(entry, bool | np.ndarray) or not hasattr(entry, "__index__"):
        trace.fail(
            TraceError,
            f"indexing with {type(entry).__name__}: only integers, slices, `...` and None are traced; "
            "take the part with slices and breccia.concat, or index before the compiled function",
        )
    known = trace.number(size, f"index [{entry}]")
    index = int(entry)
    if not -known <= index < known:
        trace.fail(ShapeError, f"index {index} is out of range on axis {axis} of {trace.show(x.dims)}")
    index %= known
    return slice_axis(x, axis, index, index + 1), False


def _slice_entry(x: Value, axis: int, entry: slice) -> Value:
    trace, size = x.trace, x.dims[axis]
    if entry.step not in (None, 1):
        trace.fail(TraceError, f"a slice of step {entry.step}; only step 1 is traced")
    if any(isinstance(e, Value) for e in (entry.start, entry.stop)):
        trace.fail(TraceError, "a slice from a traced value: sizes cannot depend on values; use breccia.where")
    start, stop = (e.dim if isinstance(e, Size) else e for e in (entry.start, entry.stop))
    if start in (None, 0) and (stop is None or stop == size):
        return x
    known = trace.number(size, "a slice")
    first, last, _ = slice(*(None if e is None else trace.number(e, "a slice") for e in (start, stop))).indices(known)
    return slice_axis(x, axis, first, max(first, last))
