"""Canonical forms of elementwise ops, and constant folding. Each rule gives values for an op's results, or None.

Constants are folded through operations that IEEE 754 rounds correctly, and through conversions. `exp` and its like
stay, since a target's last bit may differ from this machine's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from xdsl.ir import Attribute, Operation, SSAValue

from breccia import formats
from breccia.ir.attributes import NumberAttr
from breccia.ir.ops import (
    BinaryOp,
    ConvertOp,
    DequantizeOp,
    FullOp,
    GroupedMatmulOp,
    MatmulOp,
    SelectOp,
    UnaryOp,
)
from breccia.ir.types import DimsAttr, TensorType, format_of
from breccia.passes._exactness import contains, survives
from breccia.passes._fold_views import Values, built

_NUMPY: Mapping[str, Any] = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "i1": np.bool_, "i32": np.int32, "i64": np.int64,
}  # fmt: skip
_FOLDED_UNARY: Mapping[str, Callable[[Any], Any]] = {
    "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "square": np.square, "floor": np.floor,
    "not": np.logical_not, "isnan": np.isnan,
}  # fmt: skip
_FOLDED_BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "and": np.logical_and, "or": np.logical_or,
}  # fmt: skip
_UNDONE_BY_ITSELF = ("neg", "not")


def constant(value: SSAValue) -> float | None:
    """The number that every element of `value` has, or None."""
    return value.owner.data("value") if isinstance(value.owner, FullOp) else None


def dtype(value: SSAValue) -> Attribute:
    """The dtype of a plain tensor."""
    assert isinstance(value.type, TensorType), f"a plain tensor is wanted, not {value.type}"
    return value.type.dtype


def _scalar(value: SSAValue) -> Any:
    """A constant as a NumPy scalar of its dtype; None for what is no constant of a plain dtype."""
    number, type_ = constant(value), value.type
    if number is None or not isinstance(type_, TensorType) or str(type_.dtype) not in _NUMPY:
        return None
    return np.asarray(number).astype(_NUMPY[str(type_.dtype)])


def _full(op: Operation, number: Any, type_: Attribute) -> Values:
    assert isinstance(type_, TensorType), "elementwise ops give plain tensors"
    value = NumberAttr(float(number))
    return built(op, FullOp.make(value=value, shape=DimsAttr(type_.shape), dtype=type_.dtype))


def fold(op: UnaryOp | BinaryOp) -> Values:
    """An op on constants is a constant."""
    table: Mapping[str, Callable[..., Any]] = _FOLDED_UNARY if isinstance(op, UnaryOp) else _FOLDED_BINARY
    function = table.get(op.data("fn"))
    scalars = [_scalar(a) for a in op.args]
    if function is None or any(s is None for s in scalars):
        return None
    if op.data("fn") == "div" and not np.issubdtype(scalars[0].dtype, np.floating):
        return None
    with np.errstate(all="ignore"):
        return _full(op, function(*scalars), op.out.type)


def fold_convert(op: ConvertOp) -> Values:
    """A constant converted between wide floats, rounded as at run time."""
    scalar, wanted = _scalar(op.args[0]), _NUMPY.get(str(op.properties["dtype"]))
    floats = ("f64", "f32", "f16", "bf16")
    if scalar is None or str(dtype(op.args[0])) not in floats or str(op.properties["dtype"]) not in floats:
        return None
    with np.errstate(all="ignore"):
        # By way of float32, as everywhere: ml_dtypes rounds float64 to bfloat16 in two steps as well.
        return _full(op, scalar.astype(wanted), op.out.type)


def undone(op: UnaryOp) -> Values:
    """neg(neg x), not(not x); abs(neg x) and abs(abs x)."""
    inner, fn = op.args[0].owner, op.data("fn")
    if not isinstance(inner, UnaryOp):
        return None
    below = inner.data("fn")
    if fn in _UNDONE_BY_ITSELF and below == fn:
        return [inner.args[0]]
    if fn == "abs" and below in ("neg", "abs"):
        return built(op, UnaryOp.make(inner.args[0], fn=op.properties["fn"]))
    return None


def _negative_zero(number: float) -> bool:
    return number == 0 and math.copysign(1, number) < 0


def _positive_zero(number: float) -> bool:
    return number == 0 and math.copysign(1, number) > 0


_NEUTRAL: Mapping[str, tuple[Callable[[float], bool] | None, Callable[[float], bool]]] = {
    "mul": (lambda c: c == 1, lambda c: c == 1),
    "div": (None, lambda c: c == 1),
    "add": (_negative_zero, _negative_zero),
    "sub": (None, _positive_zero),
    "max": (lambda c: c == -math.inf, lambda c: c == -math.inf),
    "min": (lambda c: c == math.inf, lambda c: c == math.inf),
    "and": (bool, bool),
    "or": (lambda c: c == 0, lambda c: c == 0),
}
"""When the left, or the right, operand is neutral for all values of the other one: x + -0.0 is, x + 0.0 is not."""


def neutral(op: BinaryOp) -> Values:
    """Gives x for x * 1, x / 1, x + -0.0, x - 0.0, max(x, -inf) and min(x, inf)."""
    for place, is_neutral in enumerate(_NEUTRAL.get(op.data("fn"), ())):
        number, other = constant(op.args[place]), op.args[1 - place]
        if is_neutral is not None and number is not None and is_neutral(number) and other.type == op.out.type:
            return [other]
    return None


def select(op: SelectOp) -> Values:
    """A select whose condition is constant, or whose branches are one value."""
    condition, x, y = op.args
    known = constant(condition)
    chosen = x if x is y else None if known is None else x if known else y
    return [chosen] if chosen is not None and chosen.type == op.out.type else None


def convert(op: ConvertOp) -> Values:
    """To the same dtype; back to a narrower one; and a widening before another conversion."""
    source = op.args[0].type
    if source == op.out.type:
        return [op.args[0]]
    inner = op.args[0].owner
    if not isinstance(inner, ConvertOp):
        return None
    first, middle, last = (format_of(dtype(v)) for v in (inner.args[0], op.args[0], op.out))
    if first is None or middle is None or last is None:
        return None
    if first == last and survives(first, middle):
        return [inner.args[0]]
    if first != last and contains(middle, first) and first.bits > 8 and last.bits > 8:
        return built(op, ConvertOp.make(inner.args[0], dtype=op.properties["dtype"]))
    return None


def decoded_operand(op: MatmulOp | GroupedMatmulOp) -> Values:
    """A product decodes its operands to float32 itself: `dequantize` and exact widening before it say nothing new."""
    if "compute" in op.properties or "place_a" in op.properties or "place_b" in op.properties:
        return None
    sources = [*map(_before_decoding, op.args[:2]), *op.args[2:]]
    if all(s is a for s, a in zip(sources, op.args, strict=True)):
        return None
    return built(op, type(op).make(*sources, **op.properties))


def _before_decoding(value: SSAValue) -> SSAValue:
    inner = value.owner
    if isinstance(inner, DequantizeOp):
        return inner.args[0]
    if isinstance(inner, ConvertOp) and format_of(dtype(value)) == formats.float32:
        narrow = format_of(dtype(inner.args[0]))
        if narrow is not None and contains(formats.float32, narrow):
            return inner.args[0]
    return value


VALUE_RULES: Mapping[type[Operation], Sequence[Callable[[Any], Values]]] = {
    UnaryOp: (fold, undone),
    BinaryOp: (fold, neutral),
    SelectOp: (select,),
    ConvertOp: (convert, fold_convert),
    MatmulOp: (decoded_operand,),
    GroupedMatmulOp: (decoded_operand,),
}
