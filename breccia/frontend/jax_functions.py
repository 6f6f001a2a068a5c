"""JAX's functions on traced arrays: what each primitive of `jax.lax` means in the IR.

`jax.numpy`, `jax.nn` and `jax.lax` apply primitives; `arrays.jax_trace` hands them over with their operands: `Held`
for what is traced, and JAX's arrays and numbers for the rest. Sizes are numbers, and dtypes are those that JAX gives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np

from breccia.errors import TraceError, UnsupportedError
from breccia.frontend import contraction, elementwise, shapes, torch_shapes
from breccia.frontend.dtypes import Dtype, bool_, is_float
from breccia.frontend.elementwise import as_value, astype, binary, full, unary, where
from breccia.frontend.symbols import Pin, Retrace
from breccia.frontend.trace import Trace, Value, as_dtype, fail
from breccia.ir.ops import ReshapeOp

_UNARY = {
    "neg": "neg", "exp": "exp", "log": "log", "tanh": "tanh", "logistic": "sigmoid", "rsqrt": "rsqrt", "sqrt": "sqrt",
    "sin": "sin", "cos": "cos", "erf": "erf", "floor": "floor", "abs": "abs", "square": "square",
    "stop_gradient": "stop_gradient",
}  # fmt: skip
_BINARY = {
    "add": "add", "add_any": "add", "sub": "sub", "mul": "mul", "div": "div", "max": "max", "min": "min", "eq": "eq",
    "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge",
}  # fmt: skip
_SAME = ("copy", "copy_p", "optimization_barrier", "pvary")
_NEUTRAL = {"add": 0, "max": float("-inf"), "min": float("inf")}
"""Numbers that change no integer sum, no maximum, no minimum."""
_PROGRAMS: dict[tuple[str, tuple[str, ...]], str] = {
    ("silu", ("logistic", "mul")): "silu",
    ("relu", ("max",)): "relu",
}  # fmt: skip
"""JAX's functions that are one operation here, by name and primitives."""


@dataclass(frozen=True)
class Held:
    """A traced value, or a number, that stands for an array of `shape`.

    Invariants: `what` broadcasts to `shape`; operations that do not broadcast take `whole`.
    """

    what: Value | bool | int | float
    shape: tuple[int, ...]
    dtype: Dtype
    trace: Trace

    @property
    def whole(self) -> Value:
        """The value with all its entries."""
        if not isinstance(self.what, Value):
            return full(self.trace, self.what, self.shape, self.dtype)
        return elementwise.broadcast_to(self.what, self.shape)


@dataclass(frozen=True)
class Call:
    """A primitive applied: to `operands`, giving what looks like `outs`.

    Invariants: an operand is `Held`, or an array or number that is not traced.
    """

    trace: Trace
    operands: Sequence[Any]
    params: Mapping[str, Any]
    outs: Sequence[Any]

    @property
    def dtype(self) -> Dtype:
        """Of the first result."""
        return as_dtype(self.outs[0].dtype)

    def operand(self, i: int) -> Any:
        """A number, or a value that may have fewer entries than it stands for."""
        return _operand(self.trace, self.operands[i])

    def whole(self, i: int) -> Value:
        """A value with all its entries."""
        return _whole(self.trace, self.operands[i])

    def value(self) -> Value:
        """The first operand, as a value that may have fewer entries than it stands for."""
        x = self.operand(0)
        return x if isinstance(x, Value) else self.whole(0)

    def pair(self) -> list[Any]:
        """Two operands, of which one at least is a value."""
        pair = [self.operand(0), self.operand(1)]
        return pair if any(isinstance(x, Value) for x in pair) else [self.whole(0), pair[1]]


Rule = Callable[[Call], Any]


def _number(x: Any) -> Any:
    """A number of JAX's or NumPy's as Python's; other things as they are."""
    if isinstance(x, Held):
        return x.what if not x.shape or not isinstance(x.what, Value) else x
    if isinstance(x, bool | int | float) or np.shape(x) != ():
        return x
    number = np.asarray(x)
    return number.item() if number.dtype.kind in "biu" else float(number)


def _operand(trace: Trace, x: Any) -> Any:
    """A number, or a value that may have fewer entries than it stands for."""
    x = _number(x)
    if isinstance(x, bool | int | float | Value):
        return x
    return x.what if isinstance(x, Held) else as_value(trace, x)


def _whole(trace: Trace, x: Any) -> Value:
    return x.whole if isinstance(x, Held) else as_value(trace, x)


class TracingRules:
    """The rules of one trace. See `arrays.jax_trace.Rules`."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def owns(self, x: Any) -> bool:
        return isinstance(x, Held)

    def value(self, x: Held) -> Value:
        return x.whole

    def refuse(self, message: str) -> Exception:
        return TraceError(f"{message} (at {self.trace.where()})")

    def stages(self, primitive: str, operands: Sequence[Any]) -> bool:
        return primitive == "iota" or (primitive == "broadcast_in_dim" and np.shape(operands[0]) == ())

    def named(self, name: str, primitives: Sequence[str], operands: Sequence[Any]) -> Any | None:
        fn, held = _PROGRAMS.get((name, tuple(primitives))), operands[0] if operands else None
        if fn is None or len(operands) != 1 or not isinstance(held, Held) or not is_float(held.dtype):
            return None
        return Held(unary(fn, held.whole), held.shape, held.dtype, self.trace)

    def apply(self, primitive: str, operands: Sequence[Any], params: Mapping[str, Any], outs: Sequence[Any]) -> Any:
        rule = RULES.get(primitive)
        if rule is None:
            self.trace.fail(TraceError, unknown(primitive))
        made = rule(Call(self.trace, operands, params, outs))
        results = made if isinstance(made, list) else [made]
        return [self._held(x, out) for x, out in zip(results, outs, strict=True)]

    def _held(self, made: Any, out: Any) -> Held:
        dtype = as_dtype(out.dtype)
        if isinstance(made, Value) and made._dtype != dtype:
            made = astype(made, dtype)
        return Held(made, tuple(int(n) for n in out.shape), dtype, self.trace)


# -- elementwise -------------------------------------------------------------------------------------------------------


def _unary(fn: str, call: Call) -> Value:
    return unary(fn, call.value())


def _binary(fn: str, call: Call) -> Value:
    a, b = call.pair()
    if fn == "div" and not is_float(call.dtype):
        call.trace.fail(TraceError, f"jax.lax.div of {call.dtype} drops the rest, which is not traced; use floats")
    neutral = _NEUTRAL.get(fn)
    if fn != "add" or not is_float(call.dtype):  # x + 0 is not x where x is -0
        for value, other in ((a, b), (b, a)):
            if isinstance(value, Value) and not isinstance(other, Value) and other == neutral:
                return value
    return binary(fn, a, b)


def _truths(fn: str, call: Call) -> Value:
    if call.dtype != bool_:
        call.trace.fail(TraceError, f"bitwise {fn} of {call.dtype}: only truth values are traced; compare first")
    pair = call.pair()
    for value, other in (pair, reversed(pair)):
        if isinstance(other, bool) and other is (fn == "and"):
            return value
    return binary(fn, *pair)


def _not(call: Call) -> Value:
    if call.dtype != bool_:
        call.trace.fail(TraceError, f"bitwise not of {call.dtype}: only truth values are traced; compare first")
    return unary("not", call.value())


def _power(call: Call) -> Value:
    if not is_float(call.dtype):
        call.trace.fail(TraceError, f"a power of {call.dtype} is not traced; convert with .astype(jnp.float32) first")
    return elementwise.power(*call.pair())


def _one_minus_square(call: Call) -> Any:
    return binary("sub", 1.0, unary("square", call.operand(0)))


def _integer_power(call: Call) -> Any:
    """By squaring, as JAX has it."""
    x, left = call.operand(0), abs(call.params["y"])
    if left == 0:
        return 1
    product: Value | None = None
    while left:
        if left & 1:
            product = x if product is None else binary("mul", product, x)
        left >>= 1
        x = unary("square", x) if left else x
    return product if call.params["y"] > 0 or product is None else unary("reciprocal", product)


def _select(call: Call) -> Any:
    which, *cases = (_operand(call.trace, x) for x in call.operands)
    if len(cases) != 2 or (isinstance(which, Value) and which._dtype != bool_):
        call.trace.fail(TraceError, "jax.lax.select_n with an integer to choose by is not traced; use jnp.where")
    if not isinstance(which, Value):
        return cases[bool(which)]
    if not any(isinstance(c, Value) for c in cases):
        cases[0] = full(call.trace, cases[0], (), call.dtype)
    return where(which, cases[1], cases[0])


def _clamp(call: Call) -> Value:
    low, x, high = (_operand(call.trace, v) for v in call.operands)
    return elementwise.clip(x if isinstance(x, Value) else call.whole(1), low, high)


def _sign(call: Call) -> Value:
    x = call.value()
    return where(binary("lt", x, 0), -1, where(binary("gt", x, 0), 1, x))


def _is_finite(call: Call) -> Value:
    return binary("lt", unary("abs", call.value()), float("inf"))


def _ceil(call: Call) -> Value:
    return unary("neg", unary("floor", unary("neg", call.value())))


def _erfc(call: Call) -> Value:
    """1 - erf(x): small values, where x is large, are exact to 1e-7 only."""
    return binary("sub", 1, unary("erf", call.value()))


def _converted(call: Call) -> Any:
    x = call.operand(0)
    dtype = as_dtype(call.params["new_dtype"])
    if isinstance(x, Value):
        return astype(x, dtype)
    return np.asarray(x).astype(dtype).item() if dtype.kind in "biu" else float(np.asarray(x).astype(dtype))


def _same(call: Call) -> Any:
    return [_operand(call.trace, x) for x in call.operands]


# -- shapes ------------------------------------------------------------------------------------------------------------


def _reshaped(x: Value, shape: Sequence[int]) -> Value:
    """`x` in another shape; a change that takes the last one back gives what there was."""
    before = x.ssa.owner
    if isinstance(before, ReshapeOp) and x.recipe is None:
        source = x.trace.wrap(before.operands[0], x._dtype)
        if source.dims == tuple(shape):
            return source
    return shapes.reshape_to(x, tuple(shape))


def _broadcast(call: Call) -> Any:
    """The operand with axes of size 1 where the result has others; entries are repeated where they are needed."""
    x = call.operand(0)
    if not isinstance(x, Value) or not x.rank:
        return x
    x, shape = call.whole(0), [1] * len(call.params["shape"])
    for size, axis in zip(x.dims, call.params["broadcast_dimensions"], strict=True):
        shape[int(axis)] = size  # type: ignore[call-overload]
    leading = next((i for i, n in enumerate(shape) if n != 1), len(shape))
    return _reshaped(x, shape[leading:] if shape[leading:] == list(x.dims) else shape)


def _reshape(call: Call) -> Value:
    if "new_sizes" in call.params and call.params.get("dimensions") is not None:
        call.trace.fail(TraceError, "jax.lax.reshape with dimensions is not traced; transpose first")
    return _reshaped(call.whole(0), [int(n) for n in call.outs[0].shape])


def _transpose(call: Call) -> Value:
    return shapes.transpose(call.whole(0), [int(a) for a in call.params["permutation"]])


def _concatenate(call: Call) -> Value:
    return shapes.concat([_whole(call.trace, x) for x in call.operands], int(call.params["dimension"]))


def _stack(call: Call) -> Value:
    return shapes.stack([_whole(call.trace, x) for x in call.operands], int(call.params["axis"]))


def _tile(call: Call) -> Value:
    return torch_shapes.tile(call.whole(0), tuple(int(n) for n in call.params["reps"]))


def _cut(x: Value, starts: Sequence[Any], stops: Sequence[Any]) -> Value:
    for axis, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        x = shapes.slice_axis(x, axis, int(start), int(stop))
    return x


def _slice(call: Call) -> Value:
    strides = call.params.get("strides")
    if strides is not None and any(s != 1 for s in strides):
        call.trace.fail(TraceError, f"a slice of steps {tuple(map(int, strides))}; only step 1 is traced")
    return _cut(call.whole(0), call.params["start_indices"], call.params["limit_indices"])


def _dynamic_slice(call: Call) -> Value:
    x, starts = call.whole(0), [_number(s) for s in call.operands[1:]]
    if any(not isinstance(s, int) for s in starts):
        call.trace.fail(TraceError, "a slice from a traced value: sizes cannot depend on values; use jnp.where")
    sizes = [int(n) for n in call.params["slice_sizes"]]
    first = [min(max(s, 0), call.trace.number(d, "a slice") - n) for s, d, n in zip(starts, x.dims, sizes, strict=True)]
    return _cut(x, first, [a + n for a, n in zip(first, sizes, strict=True)])


def _split(call: Call) -> list[Any]:
    borders = np.cumsum([int(n) for n in call.params["sizes"]])[:-1].tolist()
    return shapes.split(call.whole(0), borders, int(call.params["axis"]))


def _pad(call: Call) -> Value:
    x, value = call.whole(0), _number(call.operands[1])
    config = [tuple(int(n) for n in axis) for axis in call.params["padding_config"]]
    if any(inner for _, _, inner in config) or not isinstance(value, bool | int | float):
        call.trace.fail(
            TraceError, "jax.lax.pad between entries, or with a traced value, is not traced; use jnp.concatenate"
        )
    return torch_shapes.pad(x, [n for low, high, _ in reversed(config) for n in (low, high)], value=value)


def _iota(call: Call) -> Value:
    shape, axis = [1] * len(call.outs[0].shape), int(call.params["dimension"])
    shape[axis] = int(call.outs[0].shape[axis])
    return torch_shapes.iota(call.trace, shape, axis)


# -- reductions and products -------------------------------------------------------------------------------------------


def _reduced(fn: str, call: Call) -> Value:
    axes = tuple(int(a) for a in call.params["axes"])
    return shapes.reduce(fn, call.whole(0), axes, dtype=call.dtype)


def _dot(call: Call) -> Value:
    a, b = (_whole(call.trace, x) for x in call.operands)
    out = call.dtype
    if not all(map(is_float, (a._dtype, b._dtype, out))):
        call.trace.fail(
            TraceError, f"products of {a._dtype} and {b._dtype} in {out}: only floats; convert with .astype"
        )
    (of_a, of_b), (batch_a, batch_b) = call.params["dimension_numbers"]
    return contraction.contract(a, b, (_ints(of_a), _ints(of_b)), (_ints(batch_a), _ints(batch_b)), out)


def _ints(axes: Sequence[Any]) -> list[int]:
    return [int(a) for a in axes]


RULES: dict[str, Rule] = {
    **{name: partial(_unary, fn) for name, fn in _UNARY.items()},
    **{name: partial(_binary, fn) for name, fn in _BINARY.items()},
    **dict.fromkeys(_SAME, _same),
    "and": partial(_truths, "and"),
    "or": partial(_truths, "or"),
    "not": _not,
    "pow": _power,
    "exp2": lambda call: elementwise.power(2.0, call.value()),
    "integer_pow": _integer_power,
    "one_minus_square": _one_minus_square,  # of JAX 0.11 on, where tanh is differentiated
    "select_n": _select,
    "clamp": _clamp,
    "sign": _sign,
    "is_finite": _is_finite,
    "ceil": _ceil,
    "erfc": _erfc,
    "convert_element_type": _converted,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "tile": _tile,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "split": _split,
    "pad": _pad,
    "iota": _iota,
    "reduce_sum": partial(_reduced, "sum"),
    "reduce_max": partial(_reduced, "max"),
    "reduce_min": partial(_reduced, "min"),
    "dot_general": _dot,
}
"""By the name of JAX's primitive: what a call of it gives."""

_INSTEAD = {
    "argmax": "call it on the compiled function's result",
    "cond": "use jnp.where to choose between values",
    "cumsum": "multiply by a triangle of ones",
    "expm1": "use jnp.exp(x) - 1",
    "gather": "index with slices and integers, or gather before the compiled function",
    "log1p": "use jnp.log(1 + x)",
    "rem": "use a - b * jnp.floor(a / b)",
    "rev": "concatenate slices, or reverse before the compiled function",
    "round": "use jnp.floor(x + 0.5)",
    "scan": "write the loop in Python: it is unrolled",
    "scatter": "build the array with jnp.where or jnp.concatenate",
    "sort": "sort before or after the compiled function",
    "while": "write the loop in Python: it is unrolled",
}


def unknown(primitive: str) -> str:
    """What to say of a primitive that cannot be traced."""
    hint = _INSTEAD.get(primitive, "call the function outside the compiled one, or write it with what is traced")
    return f"jax's {primitive} cannot be traced; {hint}. Traced primitives: {', '.join(sorted(RULES))}"


# -- in and out --------------------------------------------------------------------------------------------------------


def handing(trace: Trace) -> AbstractContextManager[None]:
    """While this is open, JAX's functions on values of `trace` are traced; nothing happens where JAX is not loaded."""
    if sys.modules.get("jax") is None:
        return nullcontext()
    try:
        return _begin(trace)
    except UnsupportedError:  # a version of JAX that nobody may be using here: `hand` says so where it is used
        return nullcontext()


@cache
def _taught(cls: type[Value]) -> None:
    from breccia.arrays import jax_trace

    jax_trace.teach(cls, hand)


def _begin(trace: Trace) -> AbstractContextManager[None]:
    from breccia.arrays import jax_trace

    _taught(trace.value_class)
    trace.jax = jax_trace.HandingTrace(TracingRules(trace))
    return jax_trace.handing(trace.jax)


def hand(x: Value) -> Any:
    """`x` as JAX sees it. Sizes become numbers, and 64 bits 32 where JAX has no more."""
    trace = x.trace
    if x.recipe is not None:
        trace.fail(
            TraceError,
            f"JAX's functions take plain arrays, not {x.describe()}; multiply it with @ or breccia.matmul, or decode "
            "it with .dequantize()",
        )
    if trace.jax is None:
        import_module("breccia.arrays.jax_trace")
        fail(TraceError, "a function of JAX was called while tracing, and JAX was not loaded before; import it first")
    _number_sizes(trace)
    narrow = sys.modules["jax"].dtypes.canonicalize_dtype(x._dtype)
    value = astype(x, narrow)
    held = Held(value, trace.hints(value.dims), value._dtype, trace)
    return trace.jax.hand(held, held.shape, held.dtype)


def _number_sizes(trace: Trace) -> None:
    """Make all leading sizes numbers, at once: JAX traces with numbers."""
    symbols = trace.symbols
    if len(symbols.pins) == len(symbols.sizes):
        return
    reason = f"JAX's functions take sizes as numbers, as at {trace.where()}"
    for slot, size in enumerate(symbols.sizes):
        symbols.pins.setdefault(slot, Pin(slot, size, reason, number=False))
    raise Retrace
