"""PyTorch's functions on traced tensors: which ones there are, and what each means.

PyTorch hands a call over by `__torch_function__`; the function's name is looked up here. A table entry takes `Value`s,
Python numbers and sizes, with PyTorch's names of parameters. What is not in the table raises, naming what comes close.
PyTorch itself is not imported: it is there if one of its functions was called.
"""

# ruff: noqa: A006, D103 - parameters are named, and functions documented, as in PyTorch
from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from breccia.arrays import foreign
from breccia.errors import TraceError
from breccia.frontend import elementwise, shapes, torch_layers, torch_shapes
from breccia.frontend.dtypes import bool_, is_float
from breccia.frontend.elementwise import as_value, astype, binary, full, unary, where, widened
from breccia.frontend.trace import Trace, Value, as_dtype, fail
from breccia.tensor import ScaledTensor

_UNARY = {
    "neg": "neg", "negative": "neg", "__neg__": "neg", "abs": "abs", "absolute": "abs", "exp": "exp", "log": "log",
    "sqrt": "sqrt", "rsqrt": "rsqrt", "reciprocal": "reciprocal", "square": "square", "tanh": "tanh",
    "sigmoid": "sigmoid", "special_expit": "sigmoid", "erf": "erf", "special_erf": "erf", "sin": "sin", "cos": "cos",
    "floor": "floor", "isnan": "isnan", "logical_not": "not",
}  # fmt: skip
_BINARY = {
    "mul": "mul", "multiply": "mul", "__mul__": "mul", "__rmul__": "mul", "maximum": "max", "minimum": "min",
    "lt": "lt", "less": "lt", "__lt__": "lt", "le": "le", "less_equal": "le", "__le__": "le", "gt": "gt",
    "greater": "gt", "__gt__": "gt", "ge": "ge", "greater_equal": "ge", "__ge__": "ge", "eq": "eq", "__eq__": "eq",
    "ne": "ne", "not_equal": "ne", "__ne__": "ne", "logical_and": "and", "logical_or": "or",
}  # fmt: skip


class Extreme(NamedTuple):
    """What `max` and `min` along an axis give."""

    values: Value
    indices: object


class Untraced:
    """Stands where a function would give what is not traced; whatever uses it raises, showing this text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return f"<{self._text}>"


# -- elementwise -------------------------------------------------------------------------------------------------------


def _swapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda input, other: fn(other, input)


def add(input: Any, other: Any, alpha: float = 1) -> Value:
    return binary("add", input, other if alpha == 1 else binary("mul", other, alpha))


def sub(input: Any, other: Any, alpha: float = 1) -> Value:
    return binary("sub", input, other if alpha == 1 else binary("mul", other, alpha))


def div(input: Any, other: Any, rounding_mode: str | None = None) -> Value:
    made = binary("div", input, other)
    if rounding_mode is None:
        return made
    if rounding_mode != "floor" or not is_float(elementwise.promote(*_operands(input, other))):
        made.trace.fail(TraceError, f"div with rounding_mode={rounding_mode!r} is traced for floats and 'floor' only")
    return unary("floor", made)


def _operands(*operands: Any) -> tuple[list[tuple[Any, int]], list[Any]]:
    values = [(v._dtype, v.rank) for v in operands if isinstance(v, Value)]
    return values, [v for v in operands if not isinstance(v, Value)]


def bitwise(fn: str, input: Value, other: Value) -> Value:
    for operand in (input, other):
        if not isinstance(operand, bool) and getattr(operand, "_dtype", None) != bool_:
            elementwise.trace_of(input, other).fail(
                TraceError, f"bitwise {fn} is traced for truth values only, not for {operand!r}; compare first"
            )
    return binary(fn, input, other)


def bitwise_not(input: Value) -> Value:
    if input._dtype != bool_:
        input.trace.fail(TraceError, f"~ of {input._dtype}: only truth values are traced; compare first, as in x > 0")
    return unary("not", input)


def clamp(input: Value, min: Any = None, max: Any = None) -> Value:
    return elementwise.clip(input, min, max)


def chosen(condition: Value, input: Any = None, other: Any = None) -> Value:
    if input is None or other is None:
        condition.trace.fail(
            TraceError, "torch.where with one argument: sizes cannot depend on values; use torch.where(condition, x, y)"
        )
    return where(condition, input, other)


def masked_fill(input: Value, mask: Value, value: Any) -> Value:
    return astype(where(mask, value, input), input._dtype)


def detach(input: Value) -> Value:
    return unary("stop_gradient", input) if input.trace.differentiable and is_float(input._dtype) else input


def sign(input: Value) -> Value:
    """1, -1 or 0 by the sign; NaN stays."""
    positive = where(binary("gt", input, 0), 1, input)
    return astype(where(binary("lt", input, 0), -1, positive), input._dtype)


def isinf(input: Value) -> Value:
    return binary("eq", unary("abs", input), float("inf"))


def isfinite(input: Value) -> Value:
    return binary("lt", unary("abs", input), float("inf"))


# -- reductions --------------------------------------------------------------------------------------------------------


def _total(fn: Callable[..., Value]) -> Callable[..., Value]:
    def reduction(input: Value, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
        x = input if dtype is None else astype(input, dtype)
        return fn(x, _dims(dim), keepdims=keepdim, dtype=dtype)

    return reduction


def _dims(dim: Any) -> Any:
    """PyTorch takes no axes as all axes."""
    return None if dim in ((), []) else dim


def _amax(fn: str) -> Callable[..., Value]:
    return lambda input, dim=(), keepdim=False: shapes.reduce(fn, input, _dims(dim), keepdims=keepdim)


def _extreme(fn: str) -> Callable[..., Any]:
    """`max` or `min`: of all entries, of two tensors, or along an axis, with the indices, which are not traced."""

    def extreme(input: Value, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        second = other if other is not None else dim
        if isinstance(second, Value):
            return binary(fn, input, second)
        made = shapes.reduce(fn, input, dim, keepdims=keepdim)
        return made if dim is None else Extreme(made, Untraced(f"indices of {fn}, which are not traced: use a{fn}"))

    return extreme


def _spread(what: str) -> Callable[..., Value]:
    """`var` or `std`, which divide by one less than the count unless told otherwise."""

    def spread(
        input: Value, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: int = 1
    ) -> Value:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        ddof = correction if unbiased is None else int(unbiased)
        wide = widened(input, what)
        made = shapes.variance(wide, _dims(dim), keepdims=keepdim, ddof=ddof)
        return astype(unary("sqrt", made) if what == "std" else made, input._dtype)

    return spread


# -- dtypes and new tensors --------------------------------------------------------------------------------------------


def to(input: Value, *args: Any, dtype: Any = None, device: Any = None, other: Any = None, **_: Any) -> Value:
    """Another dtype; another device cannot be traced."""
    for arg in args if other is None else (*args, other):
        if isinstance(arg, Value):
            dtype = arg._dtype
        elif is_dtype(arg):
            dtype = arg
        elif not isinstance(arg, bool) and arg is not None:
            device = arg
    on_device(input.trace, device, ".to")
    return input if dtype is None else astype(input, dtype)


def is_dtype(x: object) -> bool:
    """True for a dtype of PyTorch or NumPy."""
    return isinstance(x, np.dtype | type) or type(x).__name__ == "dtype"


def on_device(trace: Trace, device: Any, what: str) -> None:
    """Raise TraceError where `device` is another one than that of the arguments."""
    here = trace.device
    if device is None or here is None or str(device) in (str(here), str(here).partition(":")[0]):
        return
    trace.fail(
        TraceError, f"{what}: a compiled function stays on the device of its arguments, {here}; {device} was asked for"
    )


def _converted(dtype: str) -> Callable[..., Value]:
    return lambda input, **_: astype(input, dtype)


def _like(number: float | None) -> Callable[..., Value]:
    """`zeros_like`, `ones_like`; with None, `full_like`."""

    def like(
        input: Value, *value: Any, fill_value: Any = None, dtype: Any = None, device: Any = None, **_: Any
    ) -> Value:
        on_device(input.trace, device, "a new tensor")
        fill = number if number is not None else value[0] if value else fill_value
        return full(input.trace, fill, input.dims, input._dtype if dtype is None else as_dtype(dtype))

    return like


def _new(number: float | None) -> Callable[..., Value]:
    """`x.new_zeros(shape)` and its like."""

    def new(input: Value, *size: Any, fill_value: Any = None, dtype: Any = None, device: Any = None, **_: Any) -> Value:
        on_device(input.trace, device, "a new tensor")
        sizes = size
        if number is None and fill_value is None:
            *sizes, fill_value = size
        dims = [shapes.as_dim(input.trace, s, "a new tensor") for s in shapes.shape_argument(sizes)]
        kind = input._dtype if dtype is None else as_dtype(dtype)
        return full(input.trace, fill_value if number is None else number, dims, kind)

    return new


def size(input: Value, dim: int | None = None) -> Any:
    if dim is None:
        return tuple(input.trace.size(d) for d in input.dims)
    return input.trace.size(input.dims[shapes.normalize_axes(input, dim, "size")[0]])


def _same(input: Value, **_: Any) -> Value:
    return input


def _type(input: Value, dtype: Any = None, **_: Any) -> Any:
    if dtype is None or isinstance(dtype, str):
        input.trace.fail(TraceError, "type() of a traced tensor; compare .dtype, and convert with .to(dtype)")
    return astype(input, dtype)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: partial(unary, fn) for name, fn in _UNARY.items()},
    **{name: partial(binary, fn) for name, fn in _BINARY.items()},
    **torch_shapes.FUNCTIONS,
    **torch_layers.FUNCTIONS,
    "add": add,
    "__add__": add,
    "__radd__": add,
    "sub": sub,
    "subtract": sub,
    "__sub__": sub,
    "rsub": _swapped(sub),
    "__rsub__": _swapped(sub),
    "div": div,
    "divide": div,
    "true_divide": div,
    "__truediv__": div,
    "__rtruediv__": _swapped(div),
    "__rdiv__": _swapped(div),
    "pow": elementwise.power,
    "__pow__": elementwise.power,
    "__rpow__": _swapped(elementwise.power),
    "bitwise_and": partial(bitwise, "and"),
    "__and__": partial(bitwise, "and"),
    "bitwise_or": partial(bitwise, "or"),
    "__or__": partial(bitwise, "or"),
    "bitwise_not": bitwise_not,
    "positive": _same,
    "clamp": clamp,
    "clip": clamp,
    "clamp_min": lambda input, min: elementwise.clip(input, min, None),
    "clamp_max": lambda input, max: elementwise.clip(input, None, max),
    "where": chosen,
    "masked_fill": masked_fill,
    "detach": detach,
    "sign": sign,
    "ceil": lambda input: unary("neg", unary("floor", unary("neg", input))),
    "isinf": isinf,
    "isfinite": isfinite,
    "sum": _total(partial(shapes.reduce, "sum")),
    "mean": _total(shapes.mean),
    "amax": _amax("max"),
    "amin": _amax("min"),
    "max": _extreme("max"),
    "min": _extreme("min"),
    "var": _spread("var"),
    "std": _spread("std"),
    "zeros_like": _like(0),
    "ones_like": _like(1),
    "full_like": _like(None),
    "clone": _same,
    "numel": lambda input: input.trace.size(shapes.product(input.dims)),
}

METHODS: dict[str, Callable[..., Any]] = {
    "to": to,
    "type": _type,
    "type_as": lambda input, other: astype(input, other._dtype),
    "float": _converted("float32"),
    "half": _converted("float16"),
    "bfloat16": _converted("bfloat16"),
    "double": _converted("float64"),
    "int": _converted("int32"),
    "long": _converted("int64"),
    "bool": _converted("bool"),
    "contiguous": _same,
    "is_contiguous": lambda input, **_: isinstance(input, Value),
    "size": size,
    "dim": lambda input: input.rank,
    "ndimension": lambda input: input.rank,
    "new_zeros": _new(0),
    "new_ones": _new(1),
    "new_full": _new(None),
}
"""What there is as a method only."""

_INSTEAD = {
    "__getitem__": "indexing with a traced tensor gathers; use torch.where to choose between values",
    "argmax": "call it on the compiled function's result",
    "cumsum": "multiply by a triangle of ones",
    "expm1": "use torch.exp(x) - 1",
    "floor_divide": "use torch.floor(a / b)",
    "gather": "gather before the compiled function",
    "index_select": "gather before the compiled function",
    "log1p": "use torch.log(1 + x)",
    "log2": "use torch.log(x) / math.log(2)",
    "multi_head_attention_forward": "write the projections and scaled_dot_product_attention out",
    "nonzero": "sizes cannot depend on values; use torch.where(condition, x, y)",
    "remainder": "use a - b * torch.floor(a / b)",
    "round": "use torch.floor(x + 0.5)",
    "softplus": "use torch.log(1 + torch.exp(x))",
    "sort": "sort before or after the compiled function",
    "topk": "call it on the compiled function's result",
}
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim", "x": "input", "x1": "input", "x2": "other", "self": "input"}
"""NumPy's spelling of parameters, which PyTorch takes as well."""


def function(called: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A function or method of PyTorch on traced tensors: what `__torch_function__` calls."""
    return call(getattr(called, "__name__", str(called)), args, kwargs)


def call(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What PyTorch's function `name` means on traced tensors. Raises TraceError."""
    trace = elementwise.trace_of(*_values((*args, *kwargs.values())))
    if kwargs.get("out") is not None:
        trace.fail(TraceError, f"torch.{name}(..., out=...) would write into a tensor; use its result instead")
    _refuse_writing(trace, name, kwargs)
    _refuse_autocast(trace)
    known = FUNCTIONS.get(name) or METHODS.get(name)
    if known is None:
        trace.fail(TraceError, unknown(name))
    given = {_NUMPY_NAMES.get(key, key): _captured(trace, v) for key, v in kwargs.items() if key not in _IGNORED}
    try:
        return known(*(_captured(trace, v) for v in args), **given)
    except TypeError as error:
        if "argument" in str(error) and error.__traceback__ is not None and error.__traceback__.tb_next is None:
            trace.fail(TraceError, f"torch.{name} is not traced with these arguments: {error}")
        raise


_IGNORED = ("out", "inplace", "memory_format", "layout", "pin_memory", "requires_grad", "non_blocking")


def _refuse_writing(trace: Trace, name: str, kwargs: Mapping[str, Any]) -> None:
    in_place = (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__iadd__", "__imul__")
    if not in_place and not kwargs.get("inplace"):
        return
    plain = name.strip("_")
    trace.fail(
        TraceError, f"{name}{'' if in_place else '(inplace=True)'} writes into a tensor, which is not traced; use "
        + ("torch.where(condition, new, old) or torch.cat" if plain == "setitem" else f"x = torch.{plain}(x, ...)"),
    )  # fmt: skip


def _refuse_autocast(trace: Trace) -> None:
    """Raise TraceError where PyTorch would choose dtypes by itself, and choose others once the code is compiled."""
    kind = getattr(trace.device, "type", None)
    if kind is not None and sys.modules["torch"].is_autocast_enabled(kind):
        trace.fail(
            TraceError, "torch.autocast is on, which is not traced; convert with .to(dtype), or cast by a recipe"
        )


def _values(things: Any) -> Iterator[Value]:
    for thing in things:
        if isinstance(thing, Value):
            yield thing
        elif isinstance(thing, tuple | list):
            yield from _values(thing)


def _captured(trace: Trace, thing: Any) -> Any:
    """An argument with the arrays in it as traced values."""
    if isinstance(thing, np.ndarray | ScaledTensor) or foreign(thing):
        return as_value(trace, thing)
    if type(thing) in (tuple, list):
        return type(thing)(_captured(trace, item) for item in thing)
    return thing


def unknown(name: str) -> str:
    """What to say of a function of PyTorch that cannot be traced."""
    known = sorted(n for n in (*FUNCTIONS, *METHODS) if not n.startswith("_"))
    near = difflib.get_close_matches(name, known, 3, 0.6)
    hint = _INSTEAD.get(name) or (f"close to it: {', '.join(near)}" if near else "")
    return f"torch's {name} cannot be traced{'; ' + hint if hint else ''}. Traced functions: {', '.join(known)}"


def torch_dtype(dtype: np.dtype[Any]) -> Any:
    """PyTorch's dtype of a traced tensor, which it has been given; NumPy's where PyTorch has none."""
    return getattr(sys.modules["torch"], dtype.name, dtype)


def no_attribute(name: str) -> None:
    """Raise TraceError for a method that writes in place."""
    if name.endswith("_") and not name.startswith("_"):
        fail(TraceError, f".{name} writes into a tensor, which is not traced; use x = x.{name.rstrip('_')}(...)")
