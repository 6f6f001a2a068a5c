"""Elementwise operations on traced values: coercion, promotion, and one rounding at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.dialects.builtin import IntAttr, StringAttr

from breccia.arrays import foreign
from breccia.errors import DTypeError, TraceError
from breccia.frontend.dtypes import (
    Dtype,
    bool_,
    compute_dtype,
    float32,
    int32,
    ir_dtype,
    is_float,
    is_narrow,
    promote,
)
from breccia.frontend.symbols import Size
from breccia.frontend.trace import Trace, Value, as_dtype, fail, held_by_jax, plain
from breccia.ir.attributes import IntsAttr, NumberAttr
from breccia.ir.functions import COMPARE, LOGIC
from breccia.ir.ops import BinaryOp, BroadcastOp, ConvertOp, FullOp, IotaOp, ReshapeOp, SelectOp, UnaryOp
from breccia.ir.types import DimsAttr
from breccia.tensor import ScaledTensor

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from breccia.ir.dims import Dim

Number = bool | int | float

_TWO_TRACES = "traced values of two functions meet; pass one function's values to the other as arguments"


def trace_of(*things: object) -> Trace:
    """The trace that the traced values among `things` belong to; raises TraceError where they belong to two."""
    found: Trace | None = None
    for thing in map(held_by_jax, things):
        trace = thing.trace if isinstance(thing, Value | Size) else None
        if trace is not None and found is not None and trace is not found:
            fail(TraceError, _TWO_TRACES)
        found = found or trace
    if found is None:
        fail(TraceError, "no operand is traced")
    return found


def as_value(trace: Trace, thing: Any) -> Value:
    """`thing` as a traced array: itself, or an array from outside, which becomes a constant argument."""
    thing = held_by_jax(thing)
    if isinstance(thing, Value):
        if thing.trace is not trace:
            trace.fail(TraceError, _TWO_TRACES)
        return thing
    if isinstance(thing, Size):
        return size_value(trace, thing)
    if isinstance(thing, np.generic):
        return full(trace, thing.item() if thing.dtype.kind in "fiub" else float(thing), (), thing.dtype)
    if isinstance(thing, np.ndarray | ScaledTensor) or foreign(thing):
        return trace.capture(thing)
    if isinstance(thing, bool | int | float):
        return full(trace, thing, (), promote([], [thing]))
    if isinstance(thing, list | tuple):
        if any(isinstance(t, Value) for t in thing):
            trace.fail(TraceError, "a list of traced values is no array; join them with breccia.concat or np.stack")
        return trace.capture(np.asarray(thing))
    return trace.fail(
        TraceError, f"{type(thing).__name__} {thing!r:.40} cannot meet a traced array; allowed: arrays and numbers"
    )


def full(trace: Trace, number: Number, shape: Sequence[Dim], dtype: Dtype) -> Value:
    """A constant of `dtype`; narrow floats are rounded from float32."""
    wide = float32 if is_narrow(dtype) else compute_dtype(dtype)
    value = NumberAttr(float(number))
    if wide.kind == "i" and float(number) != number:
        trace.fail(TraceError, f"the integer {number} is too large for a constant; pass it as an array")
    made = trace.emit(FullOp, value=value, shape=DimsAttr(tuple(shape)), dtype=ir_dtype(wide))
    return astype(trace.wrap(made, wide), dtype)


def size_value(trace: Trace, size: Size) -> Value:
    """A size as a traced number of rank 0 (int32)."""
    shape = DimsAttr((1,))
    made = trace.emit(IotaOp, axis=IntAttr(0), start=DimsAttr((size.dim,)), shape=shape, dtype=ir_dtype(int32))
    return trace.wrap(trace.emit(ReshapeOp, made, shape=DimsAttr(())), int32)


def astype(x: Value, dtype: DTypeLike) -> Value:
    """`x` in another dtype: one rounding to nearest even; what does not fit a format of 8 bits saturates."""
    target = as_dtype(dtype)
    plain(x, "astype")
    if target == x._dtype:
        return x
    ssa = x.ssa
    if is_narrow(x._dtype) or is_narrow(target):  # codes are only read as, and made from, float32
        for step in (float32, target):
            if x.trace.wrap(ssa).ir_type.dtype != ir_dtype(step):
                ssa = x.trace.emit(ConvertOp, ssa, dtype=ir_dtype(step))
        return x.trace.wrap(ssa, target)
    return x.trace.wrap(x.trace.emit(ConvertOp, ssa, dtype=ir_dtype(target)), target)


def widened(x: Value, what: str) -> Value:
    """`x` in the dtype that elementwise operations compute in."""
    plain(x, what)
    if is_narrow(x._dtype):
        x.trace.fail(DTypeError, f"{what} cannot compute on {x.describe()}; convert it with .astype(np.float32) first")
    return astype(x, compute_dtype(x._dtype))


def unary(fn: str, x: Value) -> Value:
    """One of the IR's unary functions, rounded to the dtype of `x`; integers are taken as float32."""
    if fn in ("neg", "abs", "square") and not is_float(x._dtype) and x._dtype != bool_:
        return _unary(fn, widened(x, fn), x._dtype)
    if fn == "not":
        return _unary(fn, as_truth(x), bool_)
    if fn == "stop_gradient":
        return _unary(fn, widened(x, fn), x._dtype)
    kept = x if is_float(x._dtype) else astype(plain(x, fn), float32)
    return _unary(fn, widened(kept, fn), bool_ if fn == "isnan" else kept._dtype)


def _unary(fn: str, wide: Value, out: Dtype) -> Value:
    trace = wide.trace
    made = trace.wrap(trace.emit(UnaryOp, wide.ssa, fn=StringAttr(fn)))
    return astype(made, out)


def as_truth(x: Value) -> Value:
    """`x` as truth values: itself, or whether it differs from 0."""
    return x if x._dtype == bool_ else binary("ne", x, 0)


def binary(fn: str, a: Any, b: Any) -> Value:
    """One of the IR's binary functions by NumPy's broadcasting and PyTorch's promotion."""
    trace = trace_of(a, b)
    numbers = [v for v in (a, b) if _is_number(v)]
    values = [as_value(trace, v) for v in (a, b) if not _is_number(v)]
    for value in values:
        plain(value, fn)
        if is_narrow(value._dtype):
            widened(value, fn)
    if fn in LOGIC:
        return _binary(trace, fn, [as_truth(as_value(trace, v)) for v in (a, b)], bool_)
    out = promote([(v._dtype, v.rank) for v in values], numbers)
    if out == bool_ and fn not in COMPARE:
        trace.fail(DTypeError, f"{fn} of truth values; use & and |, or convert with .astype first")
    if fn in ("div", "pow") and not is_float(out):
        out = float32
    wide = compute_dtype(out)
    if out == bool_:
        wide = int32
    operands = [full(trace, v, (), wide) if _is_number(v) else astype(as_value(trace, v), wide) for v in (a, b)]
    return _binary(trace, fn, operands, bool_ if fn in COMPARE else out)


def _is_number(thing: object) -> bool:
    return isinstance(thing, bool | int | float) and not isinstance(thing, np.generic)


def _binary(trace: Trace, fn: str, operands: Sequence[Value], out: Dtype) -> Value:
    trace.broadcast(fn, [v.dims for v in operands])
    made = trace.wrap(trace.emit(BinaryOp, *(v.ssa for v in operands), fn=StringAttr(fn)))
    return astype(made, out)


def power(base: Any, exponent: Any) -> Value:
    """`base ** exponent`; squares and square roots by their own functions."""
    if _is_number(exponent) and isinstance(base, Value):
        if exponent == 2:
            return unary("square", base)
        if exponent == 0.5:
            return unary("sqrt", base)
        if exponent == -0.5:
            return unary("rsqrt", base)
        if exponent == 1:
            return base
    return binary("pow", base, exponent)


def where(condition: Any, x: Any, y: Any) -> Value:
    """X where the condition holds, else y."""
    trace = trace_of(condition, x, y)
    truth = as_truth(plain(as_value(trace, condition), "where"))
    numbers = [v for v in (x, y) if _is_number(v)]
    values = [plain(as_value(trace, v), "where") for v in (x, y) if not _is_number(v)]
    out = promote([(v._dtype, v.rank) for v in values], numbers)
    wide = int32 if out == bool_ else compute_dtype(out)
    if is_narrow(out):
        widened(values[0], "where")
    x, y = (full(trace, v, (), wide) if _is_number(v) else astype(as_value(trace, v), wide) for v in (x, y))
    trace.broadcast("where", [truth.dims, x.dims, y.dims])
    made = trace.wrap(trace.emit(SelectOp, truth.ssa, x.ssa, y.ssa), wide)
    return binary("ne", made, 0) if out == bool_ else astype(made, out)


def clip(x: Any, low: Any, high: Any) -> Value:
    """`x` limited to low and high; None leaves a side open."""
    trace = trace_of(x, low, high)
    out = as_value(trace, x)
    for fn, bound in (("max", low), ("min", high)):
        if bound is not None:
            out = binary(fn, out, bound)
    return out


def broadcast_to(x: Value, shape: Sequence[Dim]) -> Value:
    """`x` repeated to `shape`, by NumPy's rule."""
    plain(x, "broadcast_to")
    wanted = tuple(shape)
    if x.trace.broadcast("broadcast_to", [x.dims, wanted]) != wanted:
        x.trace.broadcast("broadcast_to", [wanted, wanted])
        x.trace.fail(TraceError, f"broadcast_to: {x.trace.show(x.dims)} does not broadcast to {x.trace.show(wanted)}")
    if wanted == x.dims:
        return x
    return x.trace.wrap(x.trace.emit(BroadcastOp, x.ssa, shape=DimsAttr(wanted)), x._dtype)


def ints(axes: Sequence[int]) -> IntsAttr:
    """A list of integers as an attribute."""
    return IntsAttr(tuple(axes))
