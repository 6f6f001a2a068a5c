"""How each op is printed: one small function for each, in a table."""

from __future__ import annotations

from collections.abc import Callable

from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import origin, prop, tensor_type
from breccia.codegen.names import comment, quoted
from breccia.errors import UnsupportedError
from breccia.ir.rewriting import show_location
from breccia.ir.types import TensorType, format_of, is_float
from breccia.targets.numpy._chains import Chain
from breccia.targets.numpy._region import Region

_UNARY = {
    "neg": "-{x}", "rsqrt": "1 / xp.sqrt({x})", "reciprocal": "1 / {x}", "square": "{x} * {x}", "isnan": "{x} != {x}",
    "not": "xp.logical_not({x})",
    **{fn: f"xp.{fn}({{x}})" for fn in ("abs", "exp", "log", "sqrt", "tanh", "sin", "cos", "floor")},
    **{fn: f"rt.{fn}(xp, {{x}})" for fn in ("sigmoid", "silu", "gelu", "gelu_tanh", "relu", "erf", "stop_gradient")},
}  # fmt: skip
_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip
_CALLS = {"max": "maximum", "min": "minimum", "and": "logical_and", "or": "logical_or", "pow": "power"}
_IN_PLACE = ("add", "sub", "mul", "div")
_SWAPPABLE = ("add", "mul")


def arguments(op: Operation) -> tuple[SSAValue, ...]:
    return tuple(op.operands)


def write(region: Region, op: Operation) -> None:
    """The line, or lines, of one op; raises UnsupportedError for one that this target has no line for."""
    function = TABLE.get(op.name.removeprefix("breccia."))
    if function is None:
        where = show_location(op)
        raise UnsupportedError(
            f"numpy: cannot print {op.name}{f' of {comment(where)}' if where else ''}; it prints tiled modules of the "
            "pipeline for numpy (breccia-opt --target numpy -p default)"
        )
    function(region, op)


def _full(region: Region, op: Operation) -> None:
    value, dtype = float(prop(op, "value")), str(prop(op, "dtype"))
    if dtype == "i1":
        text = str(bool(value))
    elif dtype.startswith("i"):
        text = str(int(value))
    else:
        text = repr(value) if value - value == 0 else f'float("{value}")'
    if not is_float(tensor_type(op.results[0].type).dtype) and not dtype.startswith("i"):
        raise UnsupportedError(f"numpy: a constant of {dtype} is not printed; convert one of f32")
    region.literals[op.results[0]] = text


def _iota(region: Region, op: Operation) -> None:
    t, axis = tensor_type(op.results[0].type), prop(op, "axis")
    (start,) = prop(op, "start")
    shape = [size if i == axis else 1 for i, size in enumerate(t.shape)]
    clipped = region.clip(start, t.shape[axis]) if region.clipped else None
    size = clipped or _extent(region, op.results[0], axis) or region.size(t.shape[axis])
    text = f"rt.iota(xp, {region.size(start)}, {size}, {axis}, {t.rank}, {quoted(t.dtype)})"
    region.assign(op, text, fresh=shape == list(t.shape))
    if shape != list(t.shape):
        region.elastic.add(op.results[0])


def _extent(region: Region, value: SSAValue, axis: int) -> str | None:
    """In a loop: the size, as it is met there, of an axis of what `value` is combined with; None elsewhere."""
    if not region.clipped:
        return None
    t = tensor_type(value.type)
    for use in value.uses:
        op = use.operation
        for other in op.operands:
            o = other.type
            same = isinstance(o, TensorType) and o.rank == t.rank and o.shape[axis] == t.shape[axis]
            if other is not value and same and not region.broadcasts(other) and region.knows(other):
                return f"{region[other]}.shape[{axis}]"
    return None


def _unary(region: Region, op: Operation) -> None:
    (x,) = arguments(op)
    region.assign(op, _UNARY[prop(op, "fn")].format(x=region.loose(x)))
    _spread_elastic(region, op)


def _spread_elastic(region: Region, op: Operation) -> None:
    """A result of elastic operands alone is elastic."""
    if all(region.broadcasts(v) for v in op.operands):
        region.elastic.add(op.results[0])


def _binary(region: Region, op: Operation) -> None:
    (a, b), fn = arguments(op), prop(op, "fn")
    floats = is_float(tensor_type(a.type).dtype)
    if fn == "straight_through":
        region.assign(op, f"rt.straight_through(xp, {region.loose(a)}, {region.loose(b)})")
    elif fn in _CALLS:
        region.assign(op, f"xp.{_CALLS[fn]}({region.loose(a)}, {region.loose(b)})")
    elif fn == "div" and not floats:
        region.assign(op, f"rt.divide(xp, {region.loose(a)}, {region.loose(b)})")
    else:
        left, right = _operand(region, a, b), _operand(region, b, a)
        sign = _OPERATORS[fn]
        if fn in _IN_PLACE and _may_write(region, op, a):
            region.update(op, a, f"{sign}= {right}")
        elif fn in _SWAPPABLE and _may_write(region, op, b):
            region.update(op, b, f"{sign}= {left}")
        else:
            region.assign(op, f"{left} {sign} {right}")
    _spread_elastic(region, op)


def _operand(region: Region, value: SSAValue, other: SSAValue) -> str:
    """A literal beside an array takes the array's dtype, so it may stand as a Python number."""
    if value in region.literals and not region.broadcasts(other):
        return region.literals[value]
    return region.loose(value)


def _may_write(region: Region, op: Operation, value: SSAValue) -> bool:
    """True where `value` is an array of the result's type that only `op` uses."""
    return (
        value in region.fresh
        and not region.broadcasts(value)
        and value.type == op.results[0].type
        and value.has_one_use()
    )


def _select(region: Region, op: Operation) -> None:
    condition, x, y = arguments(op)
    parts = (region.loose(condition), _operand(region, x, y), _operand(region, y, x))
    region.assign(op, f"xp.where({', '.join(parts)})")
    _spread_elastic(region, op)


def _convert(region: Region, op: Operation) -> None:
    (x,) = arguments(op)
    source, target = tensor_type(x.type).dtype, prop(op, "dtype")
    if source == target:
        region.alias(op.results[0], x)
        region.fresh.discard(op.results[0])
        return
    from_format, to_format = format_of(source), format_of(target)
    text = region.loose(x)
    if from_format is not None and from_format.bits <= 8:
        text = f"rt.decode(xp, {text}, {quoted(from_format.name)})"
        if str(target) != "f32":
            text = f"rt.convert(xp, {text}, {quoted(target)})" if to_format is None or to_format.bits > 8 else text
    if to_format is not None and to_format.bits <= 8:
        text = f"rt.encode(xp, {text}, {quoted(to_format.name)})"
    elif from_format is None or from_format.bits > 8:
        text = f"rt.convert(xp, {text}, {quoted(target)})"
    region.assign(op, text)
    _spread_elastic(region, op)


def _reduce(region: Region, op: Operation) -> None:
    (x,) = arguments(op)
    region.assign(op, f"rt.{prop(op, 'fn')}(xp, {region[x]}, {tuple(prop(op, 'axes'))})")


def _broadcast(region: Region, op: Operation) -> None:
    (x,) = arguments(op)
    if region.clipped:
        region.alias(op.results[0], x)
        region.fresh.discard(op.results[0])
        region.elastic.add(op.results[0])
        if x in region.literals:
            region.elastic.discard(op.results[0])
        return
    region.assign(op, f"xp.broadcast_to({region.loose(x)}, {region.shape(prop(op, 'shape'))})", fresh=False)


def _transpose(region: Region, op: Operation) -> None:
    (x,), order = arguments(op), prop(op, "order")
    text = f"{region[x]}.T" if tuple(order) == (1, 0) else f"xp.transpose({region[x]}, {tuple(order)})"
    region.assign(op, text, fresh=False)


def _reshape(region: Region, op: Operation) -> None:
    (x,) = arguments(op)
    if region.clipped:
        raise UnsupportedError(
            "numpy: a reshape of a tile that may be smaller than its type is not printed; coarsen first"
        )
    region.assign(op, f"xp.reshape({region[x]}, {region.shape(prop(op, 'shape'))})", fresh=False)


def _slice(region: Region, op: Operation) -> None:
    (x,), axis = arguments(op), prop(op, "axis")
    (start,), (stop,) = prop(op, "start"), prop(op, "stop")
    cut = f"{region.size(start)}:{region.size(stop)}"
    region.assign(op, f"{region[x]}[{', '.join([':'] * axis + [cut])}]", fresh=False)


def _concat(region: Region, op: Operation) -> None:
    parts = ", ".join(region[v] for v in op.operands)
    region.assign(op, f"xp.concatenate(({parts},), {prop(op, 'axis')})")


def _dot(region: Region, op: Operation) -> None:
    sides: list[str] = []
    for value, letter in zip(arguments(op), prop(op, "form"), strict=True):
        t = tensor_type(value.type)
        text = region[value]
        if t.format is not None and t.format.bits <= 8:
            text = f"rt.decode(xp, {text}, {quoted(t.format.name)})"
        elif str(t.dtype) != "f32":
            text = f'rt.convert(xp, {text}, "f32")'
        if letter == "t":
            text = f"{text}.T" if t.rank == 2 else f"xp.swapaxes({text}, -1, -2)"
        sides.append(text)
    region.assign(op, f"xp.matmul({', '.join(sides)})")


def _expand(region: Region, op: Operation) -> None:
    (x,), axis = arguments(op), prop(op, "axis")
    (by,), (to,) = prop(op, "by"), prop(op, "to")
    size = _extent(region, op.results[0], axis) or region.size(to)
    region.assign(op, f"rt.expand(xp, {region[x]}, {axis}, {region.size(by)}, {size})", fresh=False)


def _unpack(region: Region, op: Operation) -> None:
    (x,) = arguments(op)
    check_whole_rows(region, x)
    (size,) = prop(op, "size")
    region.assign(op, f"rt.unpack(xp, {region[x]}, {quoted(prop(op, 'order'))}, {region.size(size)})")


def check_whole_rows(region: Region, packed: SSAValue) -> None:
    """How many codes a cut row of bytes holds is not known here."""
    if packed in region.cut_rows:
        raise UnsupportedError(
            "numpy: a window that cuts packed rows is not printed; run coarsen, which takes whole rows"
        )


def _pack(region: Region, op: Operation) -> None:
    (x,) = arguments(op)
    region.assign(op, f"rt.pack(xp, {region[x]}, {quoted(prop(op, 'order'))})")


def _encode(region: Region, op: Operation) -> None:
    given = tuple(prop(op, "given") or ())
    if given != tuple(range(len(given))):
        raise UnsupportedError(f"numpy: encode with scales of levels {list(given)} given; give outer levels first")
    recipe, policy = prop(op, "recipe"), prop(op, "policy")
    x, *rest = arguments(op)
    parts = [f"rt.quantize(xp, {region[x]}, {region.constants.recipe(recipe, policy)}"]
    if given:
        parts.append(f"given=({', '.join(region[v] for v in rest[: len(given)])},)")
    if len(rest) > len(given):
        parts.append(f"seed={region[rest[len(given)]]}")
        parts.append(f"origin={region.shape(prop(op, 'origin'))}")
        parts.append(f"extent={region.shape(prop(op, 'extent'))}")
    names = [region.bind(out, out.name_hint or "q") for out in op.results]
    about = origin(op, ", ".join(names))
    region.line(f"{', '.join(names)}{',' if len(names) == 1 else ''} = {', '.join(parts)})", about)


def _scale_from_amax(region: Region, op: Operation) -> None:
    (amax,) = arguments(op)
    recipe = region.constants.recipe(prop(op, "recipe"), prop(op, "policy"))
    region.assign(op, f"rt.scale_from_amax(xp, {region[amax]}, {recipe}, {prop(op, 'level')})")


def _history_update(region: Region, op: Operation) -> None:
    history, amax = arguments(op)
    region.assign(op, f"rt.history_update(xp, {region[history]}, {region[amax]})")


def _amax_from_history(region: Region, op: Operation) -> None:
    (history,) = arguments(op)
    region.assign(op, f"rt.amax_from_history(xp, {region[history]}, {quoted(prop(op, 'rule'))})")


TABLE: dict[str, Callable[[Region, Operation], None]] = {
    "full": _full, "iota": _iota, "unary": _unary, "binary": _binary, "select": _select, "convert": _convert,
    "reduce": _reduce, "broadcast": _broadcast, "transpose": _transpose, "reshape": _reshape, "slice": _slice,
    "concat": _concat, "dot": _dot, "expand": _expand, "unpack": _unpack, "pack": _pack, "encode": _encode,
    "scale_from_amax": _scale_from_amax, "history_update": _history_update, "amax_from_history": _amax_from_history,
}  # fmt: skip


def write_chain(region: Region, op: Operation, chain: Chain) -> None:
    """One line for a decoding that takes several ops in the IR."""
    parts = [region[chain.source], quoted(chain.format.name)]
    if chain.scales:
        parts.append("(" + " ".join(f"({region.loose(v)}, {block})," for v, block in chain.scales) + ")")
    if chain.zero is not None:
        value, block = chain.zero
        parts.append(f"zero=({region.loose(value)}, {block})")
    if chain.unpack is not None:
        check_whole_rows(region, chain.source)
        (size,) = prop(chain.unpack, "size")
        parts.append(f"size={region.size(size)}")
    function = "dequantize" if chain.scales or chain.zero else "decode"
    source = region[chain.source].removesuffix("_tile").removesuffix("_elements")
    region.assign(op, f"rt.{function}(xp, {', '.join(parts)})", wanted=f"{source}_values")
