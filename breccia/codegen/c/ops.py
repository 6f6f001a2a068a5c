"""How each op is printed: most as the expression of one entry, at an index that what reads it asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.ir import Operation, SSAValue

from breccia.codegen.c.body import Body
from breccia.codegen.c.encode import encode, scale_from_amax
from breccia.codegen.c.spelling import atom, number
from breccia.codegen.host import place_of
from breccia.codegen.lines import prop, tensor_type
from breccia.ir.functions import COMPARE, LOGIC
from breccia.ir.types import format_of, is_float
from breccia.recipes import Policy

Index = Sequence[str]
_UNARY = {"neg": "-{0}", "reciprocal": "1.0f / {0}", "not": "!{0}", "stop_gradient": "{0}"}
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&&", "or": "||",
         "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}  # fmt: skip
_CALLS = {"max": "larger", "min": "smaller", "pow": "pow"}
_REDUCE = {
    "sum": ("0.0f", "s + {0}"),
    "max": ("-INFINITY", "larger(s, {0})"),
    "min": ("INFINITY", "smaller(s, {0})"),
    "amax": ("0.0f", "larger(s, fabs({0}))"),
}


def write(k: Body, op: Operation) -> None:
    """Say how entries of what `op` gives are read; raises UnsupportedError for an op that is not printed."""
    name = op.name.removeprefix("breccia.")
    if name in _STATEMENTS:
        _STATEMENTS[name](k, op)
    elif name in _ENTRIES:
        entry, args = _ENTRIES[name], tuple(op.operands)
        k.entries[op.results[0]] = lambda index: entry(k, op, args, [atom(i) for i in index])
    else:
        raise k.unsupported(f"has {op.name} {place_of(op)}".rstrip() + ", which is not printed")


def _rounded(k: Body, op: Operation, text: str) -> str:
    """What an op computed in float, rounded once to the dtype that it gives."""
    dtype = tensor_type(op.results[0].type).dtype
    return k.converted(str(dtype), text) if is_float(dtype) and str(dtype) != "f32" else f"({text})"


def _full(_k: Body, op: Operation, _args: Sequence[SSAValue], _index: Index) -> str:
    value = float(prop(op, "value"))
    return number(value) if is_float(prop(op, "dtype")) else str(int(value))


def _unary(k: Body, op: Operation, args: Sequence[SSAValue], index: Index) -> str:
    fn = prop(op, "fn")
    text = k.dialect.functions.get(fn, _UNARY.get(fn, f"{fn}({{0}})")).format(k.at(args[0], index))
    return f"({text})" if fn in ("not", "isnan", "stop_gradient") else _rounded(k, op, text)


def _binary(k: Body, op: Operation, args: Sequence[SSAValue], index: Index) -> str:
    fn, dtype, (a, b) = prop(op, "fn"), tensor_type(args[0].type).dtype, (k.at(v, index) for v in args)
    if fn == "straight_through":
        return b
    if fn in ("div", *_CALLS) and not is_float(dtype):
        raise k.unsupported(f"has {fn} of {dtype}, which is printed for floats alone; convert to f32 first")
    text = f"{_CALLS[fn]}({a}, {b})" if fn in _CALLS else f"{a} {_SIGNS[fn]} {b}"
    return f"({text})" if fn in (*COMPARE, *LOGIC) else _rounded(k, op, text)


def _convert(k: Body, op: Operation, args: Sequence[SSAValue], index: Index) -> str:
    text, source, target = k.at(args[0], index), tensor_type(args[0].type).dtype, prop(op, "dtype")
    codes, wanted = format_of(source), format_of(target)
    if source == target:
        return text
    if codes is not None and codes.bits <= 8:
        text = k.tables.decode(codes, text)
    elif not is_float(source):
        text = f"(float)({text})"  # integers of the IR are indices and truth values
    if wanted is not None and wanted.bits <= 8:
        return k.tables.encode(wanted, Policy(), text)
    return f"({text} != 0)" if str(target) == "i1" else k.converted(str(target), text)


def _iota(k: Body, op: Operation, _args: Sequence[SSAValue], index: Index) -> str:
    return f"({index[prop(op, 'axis')]} + {k.size(prop(op, 'start')[0])})"


def _select(k: Body, _op: Operation, args: Sequence[SSAValue], index: Index) -> str:
    condition, x, y = (k.at(v, index) for v in args)
    return f"({condition} ? {x} : {y})"


def _mask(k: Body, op: Operation, args: Sequence[SSAValue], index: Index) -> str:
    inside = f"{index[prop(op, 'axis')]} < {k.size(prop(op, 'valid')[0])}"
    value = float(prop(op, "value"))
    outside = number(value) if is_float(tensor_type(args[0].type).dtype) else str(int(value))
    return f"({inside} ? {k.at(args[0], index)} : {outside})"


def _unpack(k: Body, op: Operation, args: Sequence[SSAValue], index: Index) -> str:
    """Codes lie in bytes from the lowest bit on; one of 6 bits may end in the next byte."""
    fmt = format_of(prop(op, "dtype"))
    assert fmt is not None, "what is packed are codes"
    bit = f"{index[-1]} * {fmt.bits}"
    low, high = (k.at(args[0], [*index[:-1], f"({bit}) / 8{more}"]) for more in ("", " + 1"))
    word = low if fmt.bits == 4 else f"({low} | (({bit}) % 8 > 2 ? {high} << 8 : 0))"
    return f"({word} >> ({bit}) % 8 & {(1 << fmt.bits) - 1})"


def _pack(k: Body, _op: Operation, args: Sequence[SSAValue], index: Index) -> str:
    t = tensor_type(args[0].type)
    fmt = format_of(t.dtype)
    assert fmt is not None, "what is packed are codes"
    first, last = f"({index[-1]} * 8 / {fmt.bits})", k.size(t.shape[-1])
    low, high = (k.at(args[0], [*index[:-1], f"({first}{more})"]) for more in ("", " + 1"))
    shift = f"{index[-1]} * 8 % {fmt.bits}"
    low, high = f"({first} < {last} ? {low} : 0)", f"({first} + 1 < {last} ? {high} : 0)"
    return f"(({low} >> {shift} | {high} << ({fmt.bits} - {shift})) & 255)"


def _moved(k: Body, op: Operation, args: Sequence[SSAValue], index: Index) -> str:
    """The same entry elsewhere."""
    name, at, axis = op.name.removeprefix("breccia."), list(index), prop(op, "axis")
    if name == "expand":
        at[axis] = f"({at[axis]} / {k.size(prop(op, 'by')[0])})"
    elif name == "slice":
        at[axis] = f"({at[axis]} + {k.size(prop(op, 'start')[0])})"
    elif name == "transpose":
        for to, i in zip(prop(op, "order"), index, strict=True):
            at[to] = i
    elif name == "reshape":
        flat, at = k.flat(tensor_type(op.results[0].type).shape, index), []
        for n in reversed(tensor_type(args[0].type).shape):
            at.insert(0, f"({flat} % {k.size(n)})")
            flat = f"({flat} / {k.size(n)})"
    return k.at(args[0], at)


def _concat(k: Body, op: Operation, args: Sequence[SSAValue], index: Index) -> str:
    axis, at = prop(op, "axis"), list(index)
    (first, *rest), n = args, k.size(tensor_type(args[0].type).shape[prop(op, "axis")])
    if not rest:
        return k.at(first, at)
    at[axis] = f"({index[axis]} - {n})"
    return f"({index[axis]} < {n} ? {k.at(first, index)} : {_concat(k, op, rest, at)})"


def _dot(k: Body, op: Operation) -> None:
    """A sum in float for each entry of the product; codes are decoded there."""
    form, depth = prop(op, "form"), tensor_type(op.operands[0].type).shape[-2 if prop(op, "form")[0] == "t" else -1]
    for value in op.operands:
        k.keep(value)

    def factor(side: int, batch: list[str], row: str, column: str) -> str:
        value = op.operands[side]
        text = k.at(value, [*batch, column, row] if form[side] == "t" else [*batch, row, column])
        fmt = tensor_type(value.type).format
        return k.tables.decode(fmt, text) if fmt is not None and fmt.bits <= 8 else text

    def body(place: str, index: list[str]) -> str:
        *batch, m, n = index
        product = f"{factor(0, batch, m, 't')} * {factor(1, batch, 't', n)}"
        return f"float s = 0.0f; for (int t = 0; t < {k.size(depth)}; ++t) s += {product}; {place} = s;"

    k.compute(op.results[0], body)


def _reduce(k: Body, op: Operation) -> None:
    (x,), axes = op.operands, prop(op, "axes")
    shape, (start, step) = k.numbers(tensor_type(x.type).shape), _REDUCE[prop(op, "fn")]

    def body(place: str, index: list[str]) -> str:
        loops = "".join(f"for (int r{i} = 0; r{i} < {shape[i]}; ++r{i}) " for i in axes)
        entry = k.at(x, [f"r{i}" if i in axes else at for i, at in enumerate(index)])
        return f"float s = {start}; {loops}s = {step.format(entry)}; {place} = {_rounded(k, op, 's')};"

    k.compute(op.results[0], body)


_ENTRIES: dict[str, Callable[[Body, Operation, Sequence[SSAValue], Index], str]] = {
    "full": _full, "iota": _iota, "unary": _unary, "binary": _binary, "convert": _convert, "select": _select,
    "mask": _mask, "unpack": _unpack, "pack": _pack, "concat": _concat,
    **dict.fromkeys(("expand", "slice", "transpose", "reshape", "broadcast"), _moved),
}  # fmt: skip
_STATEMENTS: dict[str, Callable[[Body, Operation], None]] = {
    "dot": _dot, "reduce": _reduce, "encode": encode, "scale_from_amax": scale_from_amax,
}  # fmt: skip
