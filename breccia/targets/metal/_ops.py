"""How the entry of each op's result is computed: one small function for each op, in a table.

A function gets a scope to write lines into, the op, and the place of the entry; it gives a name or a number.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
from xdsl.ir import Operation, SSAValue

from breccia import numerics
from breccia.codegen.lines import prop, tensor_type
from breccia.codegen.names import comment
from breccia.errors import UnsupportedError
from breccia.ir.rewriting import show_location
from breccia.ir.types import format_of, is_float
from breccia.targets.metal import _casts, _functions
from breccia.targets.metal._library import number
from breccia.targets.metal._region import NARROW, Coords, Scope, scalar_type
from breccia.targets.metal._sizes import over, plus, times

_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    "and": "&&", "or": "||",
}  # fmt: skip


def entry(scope: Scope, value: SSAValue, coords: Coords) -> str:
    """The entry of a value that is neither in memory nor made by a rule; UnsupportedError for an op without a line."""
    op = value.owner
    assert isinstance(op, Operation), "arguments of regions have rules"
    function = TABLE.get(op.name.removeprefix("breccia."))
    if function is None:
        raise unsupported(
            op, "it prints tiled modules of its own pipeline (breccia-opt --target metal:apple -p default)"
        )
    return function(scope, op, coords)


def unsupported(op: Operation, why: str) -> UnsupportedError:
    where = show_location(op)
    return UnsupportedError(f"metal: cannot print {op.name}{f' of {comment(where)}' if where else ''}; {why}")


def literal(op: Operation) -> str:
    """The number of a `full`, in its dtype."""
    value, t = float(prop(op, "value")), tensor_type(op.results[0].type)
    name = str(t.dtype)
    if name == "i1":
        return "true" if value else "false"
    if name in ("i32", "i64"):
        return str(int(value))
    if not is_float(t.dtype):
        raise unsupported(op, f"a constant of {name} is not printed; convert one of f32")
    narrow = {"bf16": ml_dtypes.bfloat16, "f16": np.float16}.get(name, np.float32)
    return number(float(np.float64(value).astype(np.float32).astype(narrow)))


# -- elementwise -------------------------------------------------------------------------------------------------------


def _assigned(scope: Scope, op: Operation, text: str) -> str:
    """A result computed from floats, rounded to its dtype."""
    t, out = tensor_type(op.results[0].type), op.results[0]
    if str(t.dtype) in NARROW:
        text = f"{_casts.round_to(scope.region.library, str(t.dtype))}({text})"
    return scope.define(scalar_type(t), out.name_hint or "v", text, op)


def _iota(scope: Scope, op: Operation, coords: Coords) -> str:
    (start,) = prop(op, "start")
    text = plus(scope.region.size(start), coords[prop(op, "axis")])
    t = tensor_type(op.results[0].type)
    return _assigned(scope, op, f"{scalar_type(t)}({text})")


def _unary(scope: Scope, op: Operation, coords: Coords) -> str:
    (x,), fn = op.operands, prop(op, "fn")
    text = scope.operand(x, coords)
    if fn == "stop_gradient":
        return text
    return _assigned(scope, op, _functions.unary(scope.region.library, fn, text))


def _binary(scope: Scope, op: Operation, coords: Coords) -> str:
    (a, b), fn = op.operands, prop(op, "fn")
    if fn == "straight_through":  # the value of b, with the gradient of a, which no kernel asks for
        return scope.operand(b, coords)
    left, right = scope.operand(a, coords), scope.operand(b, coords)
    t, library = tensor_type(a.type), scope.region.library
    floats = is_float(t.dtype)
    if fn in _OPERATORS:
        text = f"{left} {_OPERATORS[fn]} {right}"
    elif fn == "div":
        text = f"{left} / {right}" if floats else f"{_functions.divided(library, scalar_type(t))}({left}, {right})"
    elif fn in ("max", "min") and floats:
        text = f"{_functions.larger(library) if fn == 'max' else _functions.smaller(library)}({left}, {right})"
    elif fn in ("max", "min"):
        text = f"{fn}({left}, {right})"
    elif fn == "pow" and floats:
        text = f"{_functions.power(library)}({left}, {right})"
    else:
        raise unsupported(op, f"there is no {fn} of {t.dtype} here")
    return _assigned(scope, op, text)


def _select(scope: Scope, op: Operation, coords: Coords) -> str:
    condition, x, y = (scope.operand(v, coords) for v in op.operands)
    t = tensor_type(op.results[0].type)
    return scope.define(scalar_type(t), op.results[0].name_hint or "v", f"{condition} ? {x} : {y}", op)


def _convert(scope: Scope, op: Operation, coords: Coords) -> str:
    (x,) = op.operands
    source, target = tensor_type(x.type), tensor_type(op.results[0].type)
    text = scope.operand(x, coords)
    if source.dtype == target.dtype:
        return text
    return scope.define(scalar_type(target), op.results[0].name_hint or "v", _converted(scope, op, text), op)


def _converted(scope: Scope, op: Operation, text: str) -> str:
    source, target = tensor_type(op.operands[0].type), tensor_type(op.results[0].type)
    library, to = scope.region.library, str(target.dtype)
    was, becomes = format_of(source.dtype), format_of(target.dtype)
    floats = is_float(source.dtype)
    if was is not None and was.bits <= 8:
        text, floats = f"{_casts.decode(library, was)}({text})", True
    if becomes is not None and becomes.bits <= 8:
        return f"{_casts.encode(library, becomes)}({text if floats else f'float({text})'})"
    if to == "i1":
        return f"{text} != 0"
    if to in ("i32", "i64"):
        ctype = scalar_type(target)
        if floats:
            return f"{_functions.to_integer(library, ctype)}({text})"
        if str(source.dtype) == "i64":
            return f"int(clamp({text}, -2147483648L, 2147483647L))"
        return f"{ctype}({text})"
    if not is_float(target.dtype):
        raise unsupported(op, f"{source.dtype} is not converted to {to}")
    text = text if floats else f"float({text})"
    return f"{_casts.round_to(library, to)}({text})" if to in NARROW else text


def _mask(scope: Scope, op: Operation, coords: Coords) -> str:
    (x,), axis = op.operands, prop(op, "axis")
    t = tensor_type(x.type)
    (valid,) = prop(op, "valid")
    value = float(prop(op, "value"))
    if is_float(t.dtype):
        other = number(value)
    elif t.format is not None:
        other = str(int(numerics.encode(np.float32(value), t.format)))
    else:
        other = _whole(value, str(t.dtype))
    text = f"{coords[axis]} < {scope.region.size(valid, 1)} ? {scope.operand(x, coords)} : {other}"
    return scope.define(scalar_type(t), op.results[0].name_hint or "v", text)


def _whole(value: float, dtype: str) -> str:
    """A number as an integer of `dtype`; the last one where it is infinite."""
    if dtype == "i1":
        return "true" if value > 0 else "false"
    most = (1 << int(dtype[1:]) - 1) - 1
    return str(int(value) if value - value == 0 else most if value > 0 else -most)


# -- shapes ------------------------------------------------------------------------------------------------------------


def _broadcast(scope: Scope, op: Operation, coords: Coords) -> str:
    return scope.operand(op.operands[0], coords)


def _transpose(scope: Scope, op: Operation, coords: Coords) -> str:
    order = tuple(prop(op, "order"))
    return scope.value(op.operands[0], tuple(coords[order.index(axis)] for axis in range(len(order))))


def _reshape(scope: Scope, op: Operation, coords: Coords) -> str:
    region, (x,) = scope.region, op.operands
    index = "0"
    for size, coord in zip(tensor_type(op.results[0].type).shape, coords, strict=True):
        index = plus(times(index, region.size(size, 3)), coord)
    sizes = [region.size(d, 3) for d in tensor_type(x.type).shape]
    return scope.value(x, scope.split(index, sizes))


def _expand(scope: Scope, op: Operation, coords: Coords) -> str:
    (x,), axis = op.operands, prop(op, "axis")
    (by,) = prop(op, "by")
    one = tensor_type(x.type).shape[axis] == 1
    block = "0" if one else scope.number(over(coords[axis], scope.region.size(by, 3)))
    return scope.value(x, tuple(block if i == axis else c for i, c in enumerate(coords)))


# -- packed codes ------------------------------------------------------------------------------------------------------


def _unpack(scope: Scope, op: Operation, coords: Coords) -> str:
    (x,), out = op.operands, op.results[0]
    *rest, j = coords
    wanted = out.name_hint or "code"
    if prop(op, "order") == "packed4":
        byte = scope.value(x, (*rest, scope.number(over(j, "2"))))
        text = f"{byte} & 15" if j == "0" else f"{byte} >> {times(f'{j} % 2', '4')} & 15"
        return scope.define("uint", wanted, text, op)
    first = scope.number(f"{times(over(j, '4'), '3')} + {j} % 4 * 6 / 8")
    last = scope.number(f"{times(over(j, '4'), '3')} + ({j} % 4 * 6 + 5) / 8")
    low, high = scope.value(x, (*rest, first)), scope.value(x, (*rest, last))
    return scope.define("uint", wanted, f"({low} | {high} << 8) >> {j} % 4 * 6 % 8 & 63", op)


def _pack(scope: Scope, op: Operation, coords: Coords) -> str:
    (x,), out = op.operands, op.results[0]
    *rest, j = coords
    size = tensor_type(x.type).shape[-1]

    def code(place: str, unit: int) -> str:
        """A code, or 0 past the end, where the last byte is filled up."""
        if isinstance(size, int) and size % unit == 0:
            return scope.value(x, (*rest, scope.number(place)))
        limit = scope.region.size(size, 1)
        inside = scope.value(x, (*rest, scope.number(f"min({place}, {limit} - 1)")))
        return scope.define("uint", "code", f"{place} < {limit} ? {inside} : 0")

    wanted = out.name_hint or "packed"
    if prop(op, "order") == "packed4":
        low, high = code(times(j, "2"), 2), code(plus(times(j, "2"), "1"), 2)
        return scope.define("uint", wanted, f"{low} | {high} << 4", op)
    start = plus(times(over(j, "3"), "4"), "0" if j == "0" else f"{j} % 3")
    low, high = code(start, 4), code(plus(start, "1"), 4)
    shift = scope.number(f"{j} % 3 * 2", "shift")
    return scope.define("uint", wanted, f"({low} >> {shift} | {high} << (6 - {shift})) & 255", op)


# -- delayed scaling ---------------------------------------------------------------------------------------------------


def _history_update(scope: Scope, op: Operation, coords: Coords) -> str:
    history, amax = op.operands
    last = scope.region.size(tensor_type(history.type).shape[0], 1)
    (i,) = coords
    older = scope.value(history, (scope.number(f"min({plus(i, '1')}, {last} - 1)"),))
    newest = scope.operand(amax, coords)
    return scope.define("float", op.results[0].name_hint or "v", f"{plus(i, '1')} < {last} ? {older} : {newest}", op)


def _amax_from_history(scope: Scope, op: Operation, coords: Coords) -> str:  # noqa: ARG001 - it has one entry
    (history,) = op.operands
    last = scope.region.size(tensor_type(history.type).shape[0], 1)
    return scope.value(history, (scope.number(f"{last} - 1"),))


Entry = Callable[[Scope, Operation, Coords], str]
TABLE: dict[str, Entry] = {
    "iota": _iota, "unary": _unary, "binary": _binary, "select": _select, "convert": _convert, "mask": _mask,
    "broadcast": _broadcast, "transpose": _transpose, "reshape": _reshape, "expand": _expand, "unpack": _unpack,
    "pack": _pack, "history_update": _history_update, "amax_from_history": _amax_from_history,
}  # fmt: skip
