"""NumPy's functions on traced arrays: which ones there are, and what each means.

A table from NumPy's name to a function on `Value`s; what is not in it raises, naming what comes close.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from breccia.errors import TraceError
from breccia.frontend import contraction, elementwise, shapes
from breccia.frontend.dtypes import bool_, is_float, scalar_dtype
from breccia.frontend.elementwise import as_value, astype, binary, full, unary
from breccia.frontend.scaled import matmul
from breccia.frontend.trace import Trace, Value, as_dtype, plain

_UNARY = {
    "negative": "neg", "absolute": "abs", "fabs": "abs", "exp": "exp", "log": "log", "sqrt": "sqrt", "square": "square",
    "reciprocal": "reciprocal", "tanh": "tanh", "sin": "sin", "cos": "cos", "floor": "floor", "isnan": "isnan",
    "logical_not": "not", "invert": "not",
}  # fmt: skip
_BINARY = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "maximum": "max", "minimum": "min",
    "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge", "equal": "eq", "not_equal": "ne",
    "logical_and": "and", "logical_or": "or",
}  # fmt: skip

UFUNCS: dict[str, Callable[..., Value]] = {
    **{name: partial(unary, fn) for name, fn in _UNARY.items()},
    **{name: partial(binary, fn) for name, fn in _BINARY.items()},
    "power": elementwise.power,
    "matmul": matmul,
    "clip": elementwise.clip,
    "positive": lambda x: plain(x, "positive"),
}


def bitwise(fn: str, a: Any, b: Any) -> Value:
    """`&` and `|`, which are traced for truth values only."""
    trace = elementwise.trace_of(a, b)
    for operand in (a, b):
        dtype = scalar_dtype(operand) if isinstance(operand, bool | int | float) else as_value(trace, operand)._dtype
        if dtype != bool_:
            trace.fail(TraceError, f"bitwise {fn} of {dtype}: only truth values are traced; compare first, as in x > 0")
    return binary(fn, a, b)


UFUNCS["bitwise_and"] = partial(bitwise, "and")
UFUNCS["bitwise_or"] = partial(bitwise, "or")


def invert(x: Value) -> Value:
    """`~`, which is traced for truth values only."""
    if x._dtype != bool_:
        x.trace.fail(TraceError, f"~ of {x._dtype}: only truth values are traced; compare first, as in x > 0")
    return unary("not", x)


UFUNCS["invert"] = invert


def _axis(fn: Callable[..., Value]) -> Callable[..., Value]:
    """NumPy's spelling of a reduction."""

    def reduction(a: Value, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Value:
        return fn(a, axis, keepdims=keepdims, dtype=dtype)

    return reduction


def _extreme(fn: str) -> Callable[..., Value]:
    return lambda a, axis=None, keepdims=False: shapes.reduce(fn, a, axis, keepdims=keepdims)


def _variance(a: Value, axis: Any = None, dtype: Any = None, *, ddof: int = 0, keepdims: bool = False) -> Value:
    return astype(shapes.variance(a, axis, keepdims=keepdims, ddof=ddof), dtype or _float_of(a))


def _deviation(a: Value, axis: Any = None, dtype: Any = None, *, ddof: int = 0, keepdims: bool = False) -> Value:
    wide = elementwise.widened(a if is_float(a._dtype) else astype(a, np.float32), "std")
    return astype(unary("sqrt", shapes.variance(wide, axis, keepdims=keepdims, ddof=ddof)), dtype or _float_of(a))


def _float_of(a: Value) -> Any:
    return a._dtype if is_float(a._dtype) else np.float32


def _where(condition: Any, *choices: Any) -> Value:
    if len(choices) != 2:
        elementwise.trace_of(condition).fail(
            TraceError, "np.where with one argument: sizes cannot depend on values; use np.where(condition, x, y)"
        )
    return elementwise.where(condition, *choices)


def _clip(a: Value, a_min: Any = None, a_max: Any = None, **newer: Any) -> Value:
    low, high = newer.pop("min", a_min), newer.pop("max", a_max)
    if newer:
        raise TypeError(f"clip() got an unexpected keyword argument {next(iter(newer))!r}")
    return elementwise.clip(a, low, high)


def _split(ary: Value, indices_or_sections: Any, axis: int = 0) -> list[Value]:
    return shapes.split(ary, indices_or_sections, axis)


# NumPy's names of parameters, which may be given by keyword.


def _transpose(a: Value, axes: Any = None) -> Value:
    return shapes.transpose(a, axes)


def _swapaxes(a: Value, axis1: int, axis2: int) -> Value:
    return shapes.swapaxes(a, axis1, axis2)


def _moveaxis(a: Value, source: Any, destination: Any) -> Value:
    return shapes.moveaxis(a, source, destination)


def _expand_dims(a: Value, axis: Any) -> Value:
    return shapes.expand_dims(a, axis)


def _squeeze(a: Value, axis: Any = None) -> Value:
    return shapes.squeeze(a, axis)


def _dot(a: Value, b: Any) -> Value:
    return matmul(a, b)


def _astype(x: Value, dtype: Any) -> Value:
    return astype(x, dtype)


def _like(number: Any, a: Value, dtype: Any = None) -> Value:
    return full(a.trace, number, a.dims, a._dtype if dtype is None else as_dtype(dtype))


def _reshape(a: Value, shape: Any = None, *, newshape: Any = None) -> Value:
    wanted = newshape if shape is None else shape
    return shapes.reshape(a, wanted if isinstance(wanted, tuple | list) else (wanted,))


def _broadcast_to(array: Value, shape: Any) -> Value:
    wanted = shape if isinstance(shape, tuple | list) else (shape,)
    return elementwise.broadcast_to(array, [shapes.as_dim(array.trace, s, "broadcast_to") for s in wanted])


def _size(a: Value, axis: Any = None) -> Any:
    return a.trace.size(shapes.product(a.dims) if axis is None else a.dims[axis])


def _einsum(subscripts: str, *operands: Any, optimize: Any = False) -> Value:  # noqa: ARG001 - the order is ours
    return contraction.einsum(elementwise.trace_of(*operands), subscripts, operands)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum": _axis(partial(shapes.reduce, "sum")),
    "mean": _axis(shapes.mean),
    "var": _variance,
    "std": _deviation,
    "max": _extreme("max"),
    "min": _extreme("min"),
    "amax": _extreme("max"),
    "amin": _extreme("min"),
    "where": _where,
    "clip": _clip,
    "concatenate": lambda arrays, axis=0: shapes.concat(arrays, axis),
    "concat": lambda arrays, axis=0: shapes.concat(arrays, axis),
    "stack": lambda arrays, axis=0: shapes.stack(arrays, axis),
    "split": _split,
    "reshape": _reshape,
    "ravel": lambda a: shapes.reshape(a, (-1,)),
    "transpose": _transpose,
    "permute_dims": _transpose,
    "matrix_transpose": lambda x: shapes.swapaxes(x, -1, -2),
    "swapaxes": _swapaxes,
    "moveaxis": _moveaxis,
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "broadcast_to": _broadcast_to,
    "dot": _dot,
    "einsum": _einsum,
    "zeros_like": lambda a, dtype=None: _like(0, a, dtype),
    "ones_like": lambda a, dtype=None: _like(1, a, dtype),
    "full_like": lambda a, fill_value, dtype=None: _like(fill_value, a, dtype),
    "astype": _astype,
    "shape": lambda a: tuple(a.trace.size(d) for d in a.dims),
    "ndim": lambda a: a.rank,
    "size": _size,
}

_INSTEAD = {
    "nonzero": "sizes cannot depend on values; use np.where(condition, x, y)",
    "unique": "sizes cannot depend on values",
    "sort": "sort before or after the compiled function",
    "argmax": "call it on the compiled function's result",
    "exp2": "use np.exp(x * np.log(2))",
    "expm1": "use np.exp(x) - 1",
    "log1p": "use np.log(1 + x)",
    "log2": "use np.log(x) / np.log(2)",
    "floor_divide": "use np.floor(a / b)",
    "remainder": "use a - b * np.floor(a / b)",
    "copyto": "build a new array, for instance with np.where",
    "cbrt": "use x ** (1 / 3)",
}


def ufunc(trace: Trace, function: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Value:
    """A NumPy ufunc on traced operands."""
    name = function.__name__
    if method != "__call__":
        instead = {"add": "np.sum", "maximum": "np.max", "minimum": "np.min"}.get(name, "a loop over slices")
        trace.fail(TraceError, f"np.{name}.{method} cannot be traced; use {instead}")
    if kwargs.get("out") is not None:
        trace.fail(TraceError, f"np.{name}(..., out=...) would write into an array; use its result instead")
    unknown = set(kwargs) - {"dtype", "out", "casting"}
    if unknown:
        trace.fail(TraceError, f"np.{name} is traced without {', '.join(sorted(unknown))}")
    if name not in UFUNCS:
        trace.fail(TraceError, unknown_function(name))
    operands = [trace.capture(v) if isinstance(v, np.ndarray) else v for v in inputs]
    operands = [as_value(trace, v) if isinstance(v, list | tuple) else v for v in operands]
    if len(operands) == 1:
        operands = [as_value(trace, operands[0])]
    result = UFUNCS[name](*operands)
    return result if kwargs.get("dtype") is None else astype(result, kwargs["dtype"])


def function(trace: Trace, called: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A NumPy function on traced arguments."""
    name = called.__name__
    if kwargs.get("out") is not None:
        trace.fail(TraceError, f"np.{name}(..., out=...) would write into an array; use its result instead")
    if name not in FUNCTIONS or not getattr(called, "__module__", "numpy").startswith("numpy"):
        trace.fail(TraceError, unknown_function(name))
    wanted = {key: value for key, value in kwargs.items() if value is not np._NoValue}  # type: ignore[attr-defined]
    wanted.pop("out", None)
    first = args[0] if args else None
    if args and not isinstance(first, list | tuple | str) and name != "where":
        args = (as_value(trace, first), *args[1:])
    try:
        return FUNCTIONS[name](*args, **wanted)
    except TypeError as error:
        if "argument" in str(error) and error.__traceback__ is not None and error.__traceback__.tb_next is None:
            trace.fail(TraceError, f"np.{name} is not traced with these arguments: {error}")
        raise


def unknown_function(name: str) -> str:
    """What to say of a NumPy function that cannot be traced."""
    known = sorted({*UFUNCS, *FUNCTIONS})
    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = _INSTEAD.get(name) or (f"close to it: {', '.join('np.' + n for n in near)}" if near else "")
    return f"np.{name} cannot be traced{'; ' + hint if hint else ''}. Traced NumPy functions: {', '.join(known)}"
