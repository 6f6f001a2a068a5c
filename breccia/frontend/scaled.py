"""Encoding, decoding and products on traced values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.dialects.builtin import StringAttr

from breccia.errors import DTypeError, RecipeError, ShapeError
from breccia.frontend.dtypes import Dtype, float32, float64, int32, int64, ir_dtype, is_float, promote
from breccia.frontend.elementwise import as_value, astype, binary, full, ints, trace_of, unary, where, widened
from breccia.frontend.shapes import reshape_to, transpose
from breccia.frontend.trace import Trace, Value, as_dtype, fail, plain
from breccia.ir import dims
from breccia.ir.attributes import PolicyAttr
from breccia.ir.base import as_tensor
from breccia.ir.ops import (
    AssembleOp,
    BinaryOp,
    BroadcastOp,
    ConvertOp,
    DequantizeOp,
    GroupedMatmulOp,
    MatmulOp,
    PartsOp,
    QuantizeOp,
)
from breccia.ir.scaled_ops import ACCURACIES
from breccia.ir.types import DimsAttr, RecipeAttr, TensorType, component_types, decode_half, scaled
from breccia.numerics import any_given
from breccia.numerics.decode import element_range
from breccia.recipes import Recipe
from breccia.tensor import logical_dtype

if TYPE_CHECKING:
    from numpy.typing import DTypeLike
    from xdsl.ir import SSAValue

_DECODED = ("float16", "bfloat16")


def check_recipe(recipe: object) -> Recipe:
    """`recipe` if it is one; else DTypeError, as 0.1 has it."""
    if isinstance(recipe, Recipe):
        return recipe
    name = recipe if isinstance(recipe, type) else type(recipe).__name__
    return fail(DTypeError, f"unsupported recipe: {name}; give an instance, such as breccia.recipes.mxfp8_e4m3")


def cast(
    x: Value, recipe: Recipe, axis: int = -1, dtype: DTypeLike | None = None, seed: Any = None, scale: Any = None
) -> Value:
    """`x` encoded by `recipe`, whose last axis lies along `axis`."""
    recipe = check_recipe(recipe)
    trace = trace_of(x, seed, scale)
    value = plain(as_value(trace, x), "cast")
    if value.rank == 0:
        trace.fail(ShapeError, f"cannot cast an array of rank 0 to {recipe!r}; reshape it to (1,) first")
    if not -value.rank <= axis < value.rank:
        trace.fail(ShapeError, f"cast: axis {axis} is out of range for {value.describe()}")
    recipe = recipe.along(axis, value.rank)
    logical = logical_dtype(dtype) if dtype is not None else value._dtype
    if dtype is None and logical.name not in _DECODED:
        logical = float32
    if not is_float(value._dtype) or value._dtype == float64:
        value = astype(value, float32)
    operands, given = _given_scales(trace, value, recipe, scale)
    operands += _seed(trace, recipe, seed)
    props: dict[str, Any] = {"given": ints(given)} if given else {}
    encoding = RecipeAttr(decode_half(recipe, value.rank))
    ssa = trace.emit(QuantizeOp, value.ssa, *operands, policy=PolicyAttr(recipe.policy), recipe=encoding, **props)
    return trace.wrap(ssa, logical, recipe)


def _given_scales(trace: Trace, x: Value, recipe: Recipe, scale: Any) -> tuple[list[SSAValue], list[int]]:
    """Operands for known scales, and the levels they stand for."""
    if not any_given(scale, recipe):
        if recipe.policy.amax == "static":
            trace.fail(RecipeError, f"{recipe!r} has static scales: pass scale=<the scale to multiply by>")
        return [], []
    count = len(recipe.levels)
    levels = scale if isinstance(scale, tuple) else (*(1.0 for _ in recipe.levels[1:]), scale)
    if len(levels) != count:
        trace.fail(RecipeError, f"{recipe!r} has {count} levels; got {len(levels)} arrays of scales")
    parts = component_types(scaled(x.dims, ir_dtype(x._dtype), recipe))
    known = levels[:-1] if levels[-1] is None else levels
    operands = [_scale_operand(trace, s, kind) for s, (_, kind) in zip(known, parts[1:], strict=False)]
    return operands, list(range(len(known)))


def _scale_operand(trace: Trace, given: Any, kind: TensorType) -> SSAValue:
    """A scale in its level's dtype and shape."""
    value = as_value(trace, given if isinstance(given, Value) else _as_scale(given))
    if value.rank == 0:
        value = reshape_to(value, [1] * kind.rank)
    if value.dims != kind.shape:
        trace.broadcast("cast: scale", [value.dims, kind.shape])
        if any(a != b and a != 1 for a, b in zip(value.dims, kind.shape, strict=False)) or value.rank != kind.rank:
            trace.fail(ShapeError, f"cast: scale is {value.describe()}; {trace.show(kind.shape)} is needed")
        value = trace.wrap(trace.emit(BroadcastOp, value.ssa, shape=DimsAttr(kind.shape)), value._dtype)
    if value.ir_type.dtype == kind.dtype:
        return value.ssa
    return trace.emit(ConvertOp, astype(value, float32).ssa, dtype=kind.dtype)


def _as_scale(given: Any) -> Any:
    if given is None:
        return np.float32(1)
    return np.float32(given) if isinstance(given, int | float) else given


def _seed(trace: Trace, recipe: Recipe, seed: Any) -> list[SSAValue]:
    """The seed operand of stochastic rounding."""
    if recipe.policy.rounding != "stochastic":
        return []
    if seed is None:
        trace.fail(RecipeError, f"{recipe!r} rounds stochastically: pass seed=<an integer, or a traced one>")
    if isinstance(seed, int):
        return [full(trace, seed, (), int64).ssa]
    value = as_value(trace, seed)
    if value.dims not in ((), (1,)) or value._dtype not in (int32, int64):
        trace.fail(DTypeError, f"cast: a seed is one integer (int64), not {value.describe()}")
    return [reshape_to(astype(value, int64), ()).ssa]


def dequantize(x: Value, dtype: DTypeLike | None = None) -> Value:
    """The values of a scaled tensor, in `dtype` or its own: decoded in float32, then rounded."""
    if x.recipe is None:
        x.trace.fail(DTypeError, f"dequantize takes a scaled tensor, not {x.describe()}; cast it first")
    target = x._dtype if dtype is None else logical_dtype(dtype)
    return astype(x.trace.wrap(x.trace.emit(DequantizeOp, x.ssa), float32), target)


def requantize(x: Value, recipe: Recipe, axis: int = -1, seed: Any = None) -> Value:
    """The values of a scaled tensor encoded by another recipe; the logical dtype stays."""
    return cast(dequantize(x, float32), recipe, axis, x._dtype, seed)


def matmul(a: Any, b: Any, out_dtype: DTypeLike | None = None, accuracy: str | None = None) -> Value:
    """The product of matrices, plain or scaled, in float32, rounded to `out_dtype` (None: as the operands promote)."""
    trace = trace_of(a, b)
    left, right = _operand(trace, a), _operand(trace, b)
    out = promote([(left._dtype, 2), (right._dtype, 2)]) if out_dtype is None else _float_dtype(trace, out_dtype)
    if out == float64:
        trace.fail(
            DTypeError, "matmul sums in float32, so float64 results would promise too much; use .astype(np.float32)"
        )
    check_matmul(trace, left, right)
    wanted = check_accuracy(accuracy or trace.accuracy)
    scaled_sides = left.recipe is not None or right.recipe is not None
    props = {"accuracy": StringAttr(wanted)} if wanted != "exact" and scaled_sides else {}
    made = trace.wrap(trace.emit(MatmulOp, left.ssa, right.ssa, **props), float32)
    return astype(made, out)


def check_accuracy(accuracy: str) -> str:
    """`accuracy` if it is one; else DTypeError."""
    if accuracy not in ACCURACIES:
        return fail(DTypeError, f"accuracy is {accuracy!r}; allowed: {', '.join(map(repr, ACCURACIES))}")
    return accuracy


def matmul_transposed(a: Any, b: Any, out_dtype: DTypeLike | None = None, accuracy: str | None = None) -> Value:
    """The product of `a` and the transpose of a matrix `b`."""
    trace = trace_of(a, b)
    return matmul(a, transpose(as_value(trace, b)), out_dtype, accuracy)


def _operand(trace: Trace, x: Any) -> Value:
    value = as_value(trace, x)
    if value.recipe is not None or (is_float(value._dtype) and value._dtype != float64):
        return value
    return astype(value, float32) if value._dtype != float64 else value


def _float_dtype(trace: Trace, dtype: DTypeLike) -> Dtype:
    out = as_dtype(dtype)
    if not is_float(out):
        trace.fail(DTypeError, f"matmul: out_dtype {out} is no float; allowed: float32, bfloat16, float16")
    return out


def check_matmul(trace: Trace, a: Value, b: Value) -> None:
    """Raise ShapeError or DTypeError where two values cannot be multiplied."""
    shapes = f"a is {trace.show(a.dims)} and b is {trace.show(b.dims)}"
    if a.rank < 2 or b.rank < 2:
        trace.fail(
            ShapeError,
            f"matmul: shape mismatch: {shapes}; both need two axes or more: reshape a vector to (1, K) or (K, 1)",
        )
    if trace.unify("matmul", a.dims[-1], b.dims[-2], broadcast=False) is None:
        trace.fail(
            ShapeError,
            f"matmul: shape mismatch: {shapes}; the last axis of a ({trace.hint(a.dims[-1])}) must equal the second to "
            f"last of b ({trace.hint(b.dims[-2])})",
        )
    trace.broadcast("matmul: batch axes", [a.dims[:-2], b.dims[:-2]])
    check_fnuz(trace, a, b)


def check_fnuz(trace: Trace, a: Value, b: Value) -> None:
    """Raise DTypeError where FP8 of two families meets: the same bits mean other values in each."""
    names = [v.recipe.element.name for v in (a, b) if v.recipe is not None]
    families = {name.endswith("fnuz") for name in names if name.startswith("float8")}
    if len(families) == 2:
        trace.fail(
            DTypeError,
            f"matmul: elements are {' and '.join(names)}; fn and fnuz are different families, and no hardware "
            "multiplies them: requantize one operand",
        )


def grouped_matmul(x: Any, w: Any, offsets: Any, out_dtype: DTypeLike = np.float32) -> Value:
    """Rows offsets[e] to offsets[e + 1] of x [T, K] times w[e] of [E, K, N]; other rows give 0.

    Or the first counts[e] rows of x[e], for x [E, M, K] and counts [E].
    """
    trace = trace_of(x, w, offsets)
    left, right = _operand(trace, x), _operand(trace, w)
    table = as_value(trace, offsets)
    if left.rank == 3:
        return _counted(trace, left, right, table, _float_dtype(trace, out_dtype))
    shapes = f"x is {trace.show(left.dims)}, w is {trace.show(right.dims)} and offsets {trace.show(table.dims)}"
    fits = left.rank == 2 and right.rank == 3 and table.rank == 1
    if not fits or trace.unify("grouped_matmul", left.dims[1], right.dims[1], broadcast=False) is None:
        trace.fail(
            ShapeError, f"grouped_matmul: shape mismatch: takes x [T, K], w [E, K, N], offsets [E + 1]; {shapes}"
        )
    if table._dtype not in (int32, int64):
        trace.fail(DTypeError, f"grouped_matmul: offsets are {table.describe()}; allowed: int32, int64")
    experts = trace.number(right.dims[0], "grouped_matmul")
    if trace.unify("grouped_matmul", table.dims[0], experts + 1, broadcast=False) is None:
        trace.fail(ShapeError, f"grouped_matmul: shape mismatch: {experts + 1} offsets are needed; {shapes}")
    check_fnuz(trace, left, right)
    ssa = trace.emit(GroupedMatmulOp, left.ssa, right.ssa, table.ssa)
    return astype(trace.wrap(ssa, float32), _float_dtype(trace, out_dtype))


def grouped_matmul_transposed(x: Any, w: Any, offsets: Any, out_dtype: DTypeLike = np.float32) -> Value:
    """The grouped product of `x` and the transposes of matrices `w`."""
    trace = trace_of(x, w, offsets)
    return grouped_matmul(x, transpose(as_value(trace, w), (0, 2, 1)), offsets, out_dtype)


def _counted(trace: Trace, x: Value, w: Value, counts: Value, out_dtype: Dtype) -> Value:
    """The first rows of each matrix of x [E, M, K], as many as counts [E] say, times w[e] of [E, K, N]."""
    shapes = f"x is {trace.show(x.dims)}, w is {trace.show(w.dims)} and counts {trace.show(counts.dims)}"
    pairs = [(x.dims[2], w.dims[1]), (x.dims[0], w.dims[0]), (counts.dims[0], w.dims[0])] if w.rank == 3 else []
    if counts.rank != 1 or not pairs or any(trace.unify("grouped_matmul", *p, broadcast=False) is None for p in pairs):
        trace.fail(ShapeError, f"grouped_matmul: shape mismatch: takes x [E, M, K], w [E, K, N], counts [E]; {shapes}")
    if counts._dtype not in (int32, int64):
        trace.fail(DTypeError, f"grouped_matmul: counts are {counts.describe()}; allowed: int32, int64")
    check_fnuz(trace, x, w)
    experts, room = trace.number(w.dims[0], "grouped_matmul"), x.dims[1]
    rows = reshape_to(x, (dims.mul(experts, room), x.dims[2]))
    made = trace.emit(GroupedMatmulOp, rows.ssa, w.ssa, counts.ssa, each=DimsAttr((room,)))
    return reshape_to(astype(trace.wrap(made, float32), out_dtype), (experts, room, w.dims[2]))


def round_trip(x: Value, recipe: Recipe, axis: int = -1, seed: Any = None) -> Value:
    """`x` encoded and decoded, in its own dtype; its gradient is the identity where the library has gradients."""
    x = as_value(trace_of(x, seed), x)
    return _through(x, cast(_still(x), recipe, axis, None, seed))


def _still(x: Value) -> Value:
    """`x` as a constant to differentiation."""
    return unary("stop_gradient", x) if x.trace.differentiable and is_float(x._dtype) else x


def _through(x: Value, st: Value) -> Value:
    value = astype(dequantize(st, float32), x._dtype if is_float(x._dtype) else float32)
    if not x.trace.differentiable or value._dtype != x._dtype:
        return value
    operands = [widened(v, "cast_ste").ssa for v in (x, value)]
    made = x.trace.emit(BinaryOp, *operands, fn=StringAttr("straight_through"))
    return astype(x.trace.wrap(made), x._dtype)


def round_trip_clipped(
    x: Value, recipe: Recipe, low: float | None, high: float | None, axis: int = -1, seed: Any = None
) -> Value:
    """`round_trip`, whose gradient is 0 where x lies beyond its element's largest values, or outside low to high."""
    trace = trace_of(x, seed)
    x = plain(as_value(trace, x), "cast_ste_clipped")
    still = _still(x)
    st = cast(still, recipe, axis, None, seed)
    through = _through(x, st)
    if not trace.differentiable or not is_float(x._dtype):
        return through
    wide = astype(still, float32)
    smallest, largest = element_range(recipe.element)
    inside = binary("and", binary("ge", wide, _limit(st, smallest)), binary("le", wide, _limit(st, largest)))
    for fn, bound in (("ge", low), ("le", high)):
        if bound is not None:
            inside = binary("and", inside, binary(fn, wide, bound))
    return where(inside, through, _still(through))


def _limit(st: Value, number: float) -> Value:
    """What every element of `st` would decode to if it were `number`."""
    trace = st.trace
    elements, *side = trace.emit(PartsOp, st.ssa).owner.results  # type: ignore[union-attr]
    kind = as_tensor("cast_ste_clipped", "elements", elements.type)
    codes = trace.emit(ConvertOp, full(trace, number, st.dims, float32).ssa, dtype=kind.dtype)
    whole = trace.emit(AssembleOp, codes, *side, type=st.ssa.type)
    return dequantize(trace.wrap(whole, float32, st.recipe), float32)
