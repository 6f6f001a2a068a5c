"""Softmax and the norms on traced values: computed in float32, rounded once."""

from __future__ import annotations

from typing import Any

from breccia.errors import DTypeError, ShapeError
from breccia.frontend.dtypes import float32, is_float
from breccia.frontend.elementwise import as_value, astype, binary, trace_of, unary, widened
from breccia.frontend.shapes import mean, normalize_axes, reduce
from breccia.frontend.trace import Trace, Value, plain


def softmax(x: Value, axis: int = -1) -> Value:
    """exp(x - max) over its sum along an axis."""
    plain(x, "softmax")
    axes = normalize_axes(x, axis, "softmax")
    out = x._dtype if is_float(x._dtype) else float32
    wide = widened(astype(x, out), "softmax")
    powers = unary("exp", binary("sub", wide, reduce("max", wide, axes, keepdims=True)))
    return astype(binary("div", powers, reduce("sum", powers, axes, keepdims=True)), out)


def rms_norm(x: Value, weight: Any = None, eps: float = 1e-6) -> Value:
    """X / sqrt(mean(x**2) + eps) over the last axis, times `weight`."""
    trace = trace_of(x, weight)
    x = _checked(trace, x, "rms_norm")
    wide = widened(x, "rms_norm")
    spread = binary("add", mean(unary("square", wide), -1, keepdims=True), float(eps))
    return astype(_affine(trace, binary("mul", wide, unary("rsqrt", spread)), weight, None, "rms_norm"), x._dtype)


def layer_norm(x: Value, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Value:
    """(x - mean) / sqrt(variance + eps) over the last axis, times `weight`, plus `bias`."""
    trace = trace_of(x, weight, bias)
    x = _checked(trace, x, "layer_norm")
    wide = widened(x, "layer_norm")
    centred = binary("sub", wide, mean(wide, -1, keepdims=True))
    spread = binary("add", mean(unary("square", centred), -1, keepdims=True), float(eps))
    normal = binary("mul", centred, unary("rsqrt", spread))
    return astype(_affine(trace, normal, weight, bias, "layer_norm"), x._dtype)


def _checked(trace: Trace, x: Any, what: str) -> Value:
    value = plain(as_value(trace, x), what)
    if value.rank == 0:
        trace.fail(ShapeError, f"{what} works along the last axis, and {value.describe()} has none")
    if not is_float(value._dtype):
        trace.fail(DTypeError, f"{what} takes floats, not {value.describe()}; convert with .astype(np.float32) first")
    return value


def _affine(trace: Trace, x: Value, weight: Any, bias: Any, what: str) -> Value:
    for fn, given, name in (("mul", weight, "weight"), ("add", bias, "bias")):
        if given is None:
            continue
        value = widened(as_value(trace, given), f"{what}: {name}")
        if value.rank > x.rank:
            trace.fail(ShapeError, f"{what}: {name} is {value.describe()}, which has more axes than x ({x.describe()})")
        x = binary(fn, x, value)
    return x
