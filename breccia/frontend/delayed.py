"""The state of delayed scaling on traced values: one step of history and scale."""

from __future__ import annotations

from typing import Any

from xdsl.dialects.builtin import IntAttr, StringAttr, f32

from breccia import formats
from breccia.errors import ShapeError
from breccia.frontend.dtypes import float32
from breccia.frontend.elementwise import as_value, astype, binary, trace_of, where
from breccia.frontend.shapes import reshape_to
from breccia.frontend.trace import Trace, Value, plain
from breccia.ir.attributes import PolicyAttr
from breccia.ir.ops import AmaxFromHistoryOp, ConvertOp, HistoryUpdateOp, ScaleFromAmaxOp
from breccia.ir.types import RecipeAttr, decode_half
from breccia.recipes import Level, Policy, Recipe

_USABLE = Recipe(
    formats.float8_e4m3fn, (Level(formats.float32),), policy=Policy("delayed", max=1.0, margin=149, zero_scale="zero")
)
"""amax times 2**149, at most the largest float32, and NaN where amax is not finite: positive exactly where amax is
positive and finite. Compared directly, a subnormal amax would be zero to libraries that flush them."""


def update(history: Any, scale: Any, amax: Any, recipe: Recipe) -> tuple[Value, Value]:
    """History [length] and scale [] one step on."""
    trace = trace_of(history, scale, amax)
    old = _float(trace, history, "history", (recipe.policy.history,))
    kept, newest = (_float(trace, x, name, ()) for name, x in (("scale", scale), ("amax", amax)))
    entry = reshape_to(newest, (1,))
    following = trace.wrap(trace.emit(HistoryUpdateOp, old.ssa, entry.ssa), float32)
    rule = StringAttr(recipe.policy.history_rule)
    top = trace.wrap(trace.emit(AmaxFromHistoryOp, following.ssa, rule=rule), float32)
    usable = binary("gt", _scale(top, _USABLE), 0.0)
    return following, where(reshape_to(usable, ()), reshape_to(_scale(top, recipe), ()), kept)


def _scale(amax: Value, recipe: Recipe) -> Value:
    trace, encoding = amax.trace, RecipeAttr(decode_half(recipe, 1))
    made = trace.emit(ScaleFromAmaxOp, amax.ssa, policy=PolicyAttr(recipe.policy), recipe=encoding, level=IntAttr(0))
    return trace.wrap(made if recipe.innermost.dtype == f32 else trace.emit(ConvertOp, made, dtype=f32), float32)


def _float(trace: Trace, x: Any, name: str, shape: tuple[int, ...]) -> Value:
    value = astype(plain(as_value(trace, x), f"delayed_update: {name}"), float32)
    if value.dims == shape or (shape == () and value.dims == (1,)):
        return reshape_to(value, shape)
    fits = shape != () and value.rank == 1
    if fits and trace.unify("delayed_update", value.dims[0], *shape, broadcast=False) is not None:
        return value
    return trace.fail(
        ShapeError,
        f"delayed_update: {name} is {value.describe()}; this recipe needs {shape}: make it with delayed_init(recipe)",
    )
