"""How each op on tiles is printed: one small function for each, in a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from xdsl.ir import Operation, SSAValue

from breccia import numerics
from breccia.codegen.lines import origin, tensor_type
from breccia.codegen.names import comment, quoted
from breccia.errors import UnsupportedError
from breccia.ir.rewriting import show_location
from breccia.ir.types import TensorType, format_of, is_float
from breccia.targets.pallas._region import Region

_UNARY = {
    "neg": "-{x}", "abs": "jnp.abs({x})", "exp": "jnp.exp({x})", "log": "jnp.log({x})", "sqrt": "jnp.sqrt({x})",
    "rsqrt": "1 / jnp.sqrt({x})", "reciprocal": "1 / {x}", "square": "{x} * {x}", "sin": "jnp.sin({x})",
    "cos": "jnp.cos({x})", "floor": "jnp.floor({x})", "tanh": "jnp.tanh({x})", "isnan": "{x} != {x}",
    "not": "~{x}", "sigmoid": "1 / (1 + jnp.exp(-{x}))", "silu": "{x} / (1 + jnp.exp(-{x}))",
    "relu": "jnp.where({x} <= 0, 0.0, {x})", "erf": "tiles.erf({x})", "gelu": "tiles.gelu({x})",
    "gelu_tanh": "tiles.gelu_tanh({x})",
}  # fmt: skip
_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip
_CALLS = {"max": "jnp.maximum", "min": "jnp.minimum", "pow": "jnp.power"}
NARROW = ("bf16", "f16")


def prop(op: Operation, name: str) -> Any:
    """The data of a property, None where it is absent."""
    found = op.properties.get(name)
    return getattr(found, "data", found)


def unsupported(op: Operation, why: str) -> UnsupportedError:
    """What cannot be printed, with the user's line."""
    where = show_location(op)
    return UnsupportedError(f"pallas: cannot print {op.name}{f' of {comment(where)}' if where else ''}: {why}")


def write(region: Region, op: Operation) -> None:
    """The line, or lines, of one op; raises UnsupportedError for one that this target has no line for."""
    function = TABLE.get(op.name.removeprefix("breccia."))
    if function is None:
        raise unsupported(op, "it has no line on tiles (breccia-opt --target pallas:v6e -p default shows what has)")
    function(region, op)


# -- elementwise -------------------------------------------------------------------------------------------------------


def _full(region: Region, op: Operation) -> None:
    value, t = float(prop(op, "value")), tensor_type(op.results[0].type)
    dtype = str(t.dtype)
    if dtype == "i1":
        text = str(bool(value))
    elif dtype in ("i32", "i64"):
        text = str(int(value))
    elif is_float(t.dtype) and dtype != "f16":
        text = repr(value) if value - value == 0 else f'float("{value}")'
    else:
        raise unsupported(op, f"a constant of {dtype} is not printed; convert one of f32")
    region.literals[op.results[0]] = text


def _iota(region: Region, op: Operation) -> None:
    t, axis = tensor_type(op.results[0].type), prop(op, "axis")
    (start,) = prop(op, "start")
    text = f"tiles.iota({region.shape(t.shape)}, {axis})"
    if start != 0:
        text = f"{region.size(start, 1)} + {text}"
    if str(t.dtype) not in ("i32", "i64"):
        text = f"({text}).astype({region.dtype(t)})"
    region.assign(op, text)


def _as_f32(region: Region, value: SSAValue) -> str:
    """An operand of arithmetic: narrow floats as f32."""
    t, text = tensor_type(value.type), region.loose(value)
    if value in region.literals or str(t.dtype) not in NARROW:
        return text
    return f"{text}.astype(jnp.float32)" if str(t.dtype) == "bf16" else f'tiles.decode({text}, "float16")'


def _elementwise(region: Region, op: Operation, text: str) -> None:
    """Assign a result that was computed in f32, rounded to its dtype."""
    t = tensor_type(op.results[0].type)
    if str(t.dtype) == "bf16" and op.name != "breccia.select":
        text = f"({text}).astype(jnp.bfloat16)"
    elif str(t.dtype) == "f16" and op.name != "breccia.select":
        text = f'tiles.encode({text}, "float16")'
    region.assign(op, text)
    if op.operands and all(region.broadcasts(v) or tensor_type(v.type).shape != t.shape for v in op.operands):
        region.elastic.add(op.results[0])


def _solid(region: Region, value: SSAValue) -> None:
    """Give a literal a line, where Python numbers alone would not make a tile."""
    if value in region.literals:
        text = region[value]
        del region.literals[value]
        name = region.bind(value, "number")
        region.line(f"{name} = {text}")


def _unary(region: Region, op: Operation) -> None:
    (x,), fn = op.operands, prop(op, "fn")
    if fn == "stop_gradient":
        region.alias(op.results[0], x)
        return
    if fn not in _UNARY:
        raise unsupported(op, f"there is no function {fn}; express it by others")
    _solid(region, x)
    _elementwise(region, op, _UNARY[fn].format(x=_as_f32(region, x)))


def _binary(region: Region, op: Operation) -> None:
    (a, b), fn = op.operands, prop(op, "fn")
    if fn == "straight_through":  # the value of b, with the gradient of a, which no kernel asks for
        region.alias(op.results[0], b)
        return
    if a in region.literals and b in region.literals:
        _solid(region, a)
    left, right = _as_f32(region, a), _as_f32(region, b)
    if fn in _CALLS:
        _elementwise(region, op, f"{_CALLS[fn]}({left}, {right})")
    elif fn == "div" and not is_float(tensor_type(a.type).dtype):
        raise unsupported(op, "integers are not divided here")
    else:
        _elementwise(region, op, f"{left} {_OPERATORS[fn]} {right}")


def _select(region: Region, op: Operation) -> None:
    condition, x, y = op.operands
    t = tensor_type(op.results[0].type)
    parts = [region.loose(condition), *(region.loose(v) for v in (x, y))]
    if x in region.literals and y in region.literals:
        parts[1] = f"jnp.asarray({parts[1]}, {region.dtype(t)})"
    _elementwise(region, op, f"jnp.where({', '.join(parts)})")


def _convert(region: Region, op: Operation) -> None:
    (x,) = op.operands
    source, target = tensor_type(x.type), tensor_type(op.results[0].type)
    if source.dtype == target.dtype:
        region.alias(op.results[0], x)
        return
    text = region[x] if x in region.literals else region.loose(x)
    region.assign(op, _converted(op, text, source, target))
    if x in region.elastic:
        region.elastic.add(op.results[0])


def _converted(op: Operation, text: str, source: TensorType, target: TensorType) -> str:
    to, from_format, to_format = str(target.dtype), format_of(source.dtype), format_of(target.dtype)
    if from_format is not None and (from_format.bits <= 8 or from_format.name == "float16"):
        text = f"tiles.decode({text}, {quoted(from_format.name)})"
    elif str(source.dtype) == "bf16":
        text = f"{text}.astype(jnp.float32)"
    if to == "f32" and is_float(source.dtype):
        return text
    if to_format is not None and (to_format.bits <= 8 or to == "f16"):
        text = text if is_float(source.dtype) else f"{text}.astype(jnp.float32)"
        return f"tiles.encode({text}, {quoted(to_format.name)})"
    if to == "i1":
        return f"{text} != 0"
    if to in ("i32", "i64"):
        floats = is_float(source.dtype)
        return f"tiles.to_integers({text})" if floats else f"{text}.astype(jnp.int32)"
    if to in ("f32", "bf16"):
        text = text if is_float(source.dtype) else f"{text}.astype(jnp.float32)"
        return text if to == "f32" else f"{text}.astype(jnp.bfloat16)"
    raise unsupported(op, f"{source.dtype} is not converted to {to}")


# -- shapes ------------------------------------------------------------------------------------------------------------


def _reduce(region: Region, op: Operation) -> None:
    (x,), fn, axes = op.operands, prop(op, "fn"), tuple(prop(op, "axes"))
    t = tensor_type(x.type)
    text = region[x] if str(t.dtype) not in NARROW or x in region.literals else _as_f32(region, x)
    if str(t.dtype) == "i1":
        raise unsupported(op, "truth values are not reduced here; convert to i32 first")
    if fn == "amax":
        text = f"jnp.abs({text})"
    function = {"sum": "sum", "amax": "max", "max": "max", "min": "min"}[fn]
    _elementwise(region, op, f"jnp.{function}({text}, {axes}, keepdims=True)")
    region.elastic.discard(op.results[0])


def _broadcast(region: Region, op: Operation) -> None:
    (x,) = op.operands
    t, shape = tensor_type(x.type), tensor_type(op.results[0].type).shape
    if x in region.literals:
        region.alias(op.results[0], x)
    elif t.rank == len(shape):
        region.alias(op.results[0], x)
        region.elastic.add(op.results[0])
    else:
        region.assign(op, f"jnp.broadcast_to({region[x]}, {region.shape(shape)})")


def _transpose(region: Region, op: Operation) -> None:
    (x,), order = op.operands, tuple(prop(op, "order"))
    region.assign(op, f"{region[x]}.T" if order == (1, 0) else f"jnp.transpose({region[x]}, {order})")


def _reshape(region: Region, op: Operation) -> None:
    (x,) = op.operands
    region.assign(op, f"{region[x]}.reshape({region.shape(prop(op, 'shape'))})")


def _slice(region: Region, op: Operation) -> None:
    (x,), axis = op.operands, prop(op, "axis")
    (start,), (stop,) = prop(op, "start"), prop(op, "stop")
    cut = f"{region.size(start)}:{region.size(stop)}"
    region.assign(op, f"{region[x]}[{', '.join([':'] * axis + [cut])}]")


def _concat(region: Region, op: Operation) -> None:
    parts = ", ".join(region[v] for v in op.operands)
    region.assign(op, f"jnp.concatenate(({parts},), {prop(op, 'axis')})")


def _expand(region: Region, op: Operation) -> None:
    (x,), axis = op.operands, prop(op, "axis")
    (by,), (to,) = prop(op, "by"), prop(op, "to")
    if tensor_type(x.type).shape[axis] == 1 or by == 1:
        region.alias(op.results[0], x)
        if by != 1:
            region.elastic.add(op.results[0])
        return
    region.assign(op, f"tiles.expand({region[x]}, {axis}, {region.size(by)}, {region.size(to)})")


def _mask(region: Region, op: Operation) -> None:
    (x,), axis = op.operands, prop(op, "axis")
    t = tensor_type(x.type)
    (valid,) = prop(op, "valid")
    text, value = region[x], float(prop(op, "value"))
    if is_float(t.dtype) and t.format is not None and (t.format.bits > 8 and str(t.dtype) != "f16"):
        number = repr(value) if value - value == 0 else f'float("{value}")'
    elif t.format is None:
        number = str(_whole(value, str(t.dtype)))
    else:
        number = str(int(numerics.encode(np.float32(value), t.format)))
    region.assign(op, f"tiles.mask({text}, {axis}, {region.size(valid)}, {number})")


def _whole(value: float, dtype: str) -> int:
    """A number as an integer of `dtype`; the last one where it is infinite."""
    if dtype == "i1":
        return int(value > 0)
    most = (1 << 31) - 1  # JAX's integers have 32 bits
    return int(value) if value - value == 0 else most if value > 0 else -most - 1


def _unpack(region: Region, op: Operation) -> None:
    (x,), (size,) = op.operands, prop(op, "size")
    region.assign(op, f"tiles.unpack({region[x]}, {quoted(prop(op, 'order'))}, {region.size(size)})")


def _pack(region: Region, op: Operation) -> None:
    (x,) = op.operands
    region.assign(op, f"tiles.pack({region[x]}, {quoted(prop(op, 'order'))})")


# -- products and codes ------------------------------------------------------------------------------------------------


def _dot(region: Region, op: Operation) -> None:
    sides: list[str] = []
    for value in op.operands:
        t = tensor_type(value.type)
        if t.rank != 2:
            raise unsupported(op, f"tiles of {t} have batch axes; only tiles of two axes are multiplied")
        fmt = t.format
        assert fmt is not None, "operands of a product have formats"
        coded = fmt.bits <= 8 or fmt.name == "float16"
        sides.append(f"tiles.operand({region[value]}, {quoted(fmt.name)})" if coded else region[value])
    region.assign(op, f"tiles.dot({', '.join(sides)}, {quoted(prop(op, 'form'))})")


def _encode(region: Region, op: Operation) -> None:
    given = tuple(prop(op, "given") or ())
    if given != tuple(range(len(given))):
        raise unsupported(op, f"scales of levels {list(given)} are given; give outer levels first")
    recipe, policy = prop(op, "recipe"), prop(op, "policy")
    if policy.nonfinite == "error":
        raise unsupported(op, "nonfinite='error' cannot raise in a kernel; use 'poison' or 'saturate'")
    x, *rest = op.operands
    narrow = str(tensor_type(x.type).dtype) in NARROW and not region.broadcasts(x)
    parts = [_as_f32(region, x) if narrow else region[x], region.constants.recipe(recipe, policy)]
    if given:
        parts.append(f"given=({', '.join(region[v] for v in rest[: len(given)])},)")
    if len(rest) > len(given):
        parts += [
            f"seed={region[rest[len(given)]]}",
            f"origin={region.shape(prop(op, 'origin'))}",
            f"extent={region.shape(prop(op, 'extent'))}",
        ]
    names = [region.bind(out, out.name_hint or "q") for out in op.results]
    about = origin(op, ", ".join(names))
    region.line(f"{', '.join(names)}{',' if len(names) == 1 else ''} = tiles.quantize({', '.join(parts)})", about)


def _scale_from_amax(region: Region, op: Operation) -> None:
    (amax,) = op.operands
    recipe = region.constants.recipe(prop(op, "recipe"), prop(op, "policy"))
    region.assign(op, f"tiles.level_scales({region[amax]}, {recipe}, {prop(op, 'level')})")


def _history_update(region: Region, op: Operation) -> None:
    history, amax = op.operands
    region.assign(op, f"tiles.history_update({region[history]}, {region[amax]})")


def _amax_from_history(region: Region, op: Operation) -> None:
    (history,) = op.operands
    region.assign(op, f"tiles.amax_from_history({region[history]}, {quoted(prop(op, 'rule'))})")


TABLE: dict[str, Callable[[Region, Operation], None]] = {
    "full": _full, "iota": _iota, "unary": _unary, "binary": _binary, "select": _select, "convert": _convert,
    "reduce": _reduce, "broadcast": _broadcast, "transpose": _transpose, "reshape": _reshape, "slice": _slice,
    "concat": _concat, "expand": _expand, "mask": _mask, "unpack": _unpack, "pack": _pack, "dot": _dot,
    "encode": _encode, "scale_from_amax": _scale_from_amax, "history_update": _history_update,
    "amax_from_history": _amax_from_history,
}  # fmt: skip
