"""How each op on tiles is printed: one small function for each, in a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from xdsl.ir import Operation, SSAValue

from breccia import formats, numerics
from breccia.codegen.lines import origin, prop, tensor_type
from breccia.codegen.names import comment
from breccia.errors import UnsupportedError
from breccia.formats import Format
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.rewriting import show_location
from breccia.ir.tile_ops import DotOp
from breccia.ir.types import TensorType, format_of, is_float, tensor
from breccia.targets.triton import _casts, _functions, _quantize, _quantize_writer, _scales
from breccia.targets.triton._region import Region, arange, spread

_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    "and": "&", "or": "|",
}  # fmt: skip
NARROW = ("bf16", "f16")
"""Dtypes that are computed with in f32 and rounded once for each op."""


def write(region: Region, op: Operation) -> None:
    """The line, or lines, of one op; raises UnsupportedError for one that this target has no line for."""
    function = TABLE.get(op.name.removeprefix("breccia."))
    if function is None:
        raise unsupported(
            op, "it prints tiled modules of its own pipeline (breccia-opt --target triton:sm_90 -p default)"
        )
    function(region, op)


def unsupported(op: Operation, why: str) -> UnsupportedError:
    where = show_location(op)
    return UnsupportedError(f"triton: cannot print {op.name}{f' of {comment(where)}' if where else ''}; {why}")


# -- elementwise -------------------------------------------------------------------------------------------------------


def _full(region: Region, op: Operation) -> None:
    value, dtype = float(prop(op, "value")), str(prop(op, "dtype"))
    if dtype == "i1":
        text = str(bool(value))
    elif dtype in ("i32", "i64"):
        text = str(int(value))
    elif is_float(tensor_type(op.results[0].type).dtype):
        text = repr(value) if value - value == 0 else f'float("{value}")'
    else:
        raise unsupported(op, f"a constant of {dtype} is not printed; convert one of f32")
    region.literals[op.results[0]] = text


def _iota(region: Region, op: Operation) -> None:
    t, axis = tensor_type(op.results[0].type), prop(op, "axis")
    (start,) = prop(op, "start")
    size = t.shape[axis]
    if not isinstance(size, int):
        raise unsupported(op, "its size is not known")
    text = region.along(size, axis, t.rank)
    if start != 0:
        text = f"{region.size(start)} + {text}"
    if str(t.dtype) != "i32":
        text = f"({text}).to({region.dtype(t)})"
    region.assign(op, text)
    if any(d != 1 for i, d in enumerate(t.shape) if i != axis):
        region.elastic.add(op.results[0])


def _widened(region: Region, value: SSAValue) -> str:
    """An operand as f32 where its dtype is a narrow float."""
    text = region.loose(value)
    narrow = str(tensor_type(value.type).dtype) in NARROW and value not in region.literals
    return f"{text}.to(tl.float32)" if narrow else text


def _elementwise(region: Region, op: Operation, text: str) -> None:
    """Assign a result that was computed from `_widened` operands, rounded to its dtype."""
    t = tensor_type(op.results[0].type)
    if all(v in region.literals for v in op.operands):  # numbers alone do not make a tile
        region.assign(op, f"({text}) + {region.full(t, '0')}")
        return
    if str(t.dtype) in NARROW and op.name != "breccia.select":
        text = f"({text}).to({region.dtype(t)})"
    region.assign(op, text)
    if op.operands and all(region.broadcasts(v) or tensor_type(v.type).shape != t.shape for v in op.operands):
        region.elastic.add(op.results[0])


def _unary(region: Region, op: Operation) -> None:
    (x,) = op.operands
    if x in region.literals:
        t = tensor_type(x.type)
        region.name(x, region.bind(x, "number"))
        region.line(f"{region._texts[x]} = {region.full(t, region.literals.pop(x))}")
    fn = prop(op, "fn")
    if fn == "stop_gradient":
        region.alias(op.results[0], x)
        return
    _elementwise(region, op, _functions.unary(region.library, fn, _widened(region, x)))


def _binary(region: Region, op: Operation) -> None:
    (a, b), fn = op.operands, prop(op, "fn")
    if fn == "straight_through":  # the value of b, with the gradient of a, which no kernel asks for
        region.alias(op.results[0], b)
        return
    if _fused(region, op):
        return
    left, right = _widened(region, a), _widened(region, b)
    floats = is_float(tensor_type(a.type).dtype)
    if fn in _OPERATORS:
        _elementwise(region, op, f"{left} {_OPERATORS[fn]} {right}")
    elif fn == "div" and not floats:
        raise unsupported(op, "integers are not divided here")
    else:
        _elementwise(region, op, _functions.binary(region.library, fn, left, right, floats=floats))


def _fused(region: Region, op: Operation) -> bool:
    """`acc + a * b` and `acc + dot(a, b)` of a carried value as one instruction. True where that was printed."""
    out = op.results[0]
    if prop(op, "fn") != "add" or out not in region.targets or str(tensor_type(out.type).dtype) != "f32":
        return False
    for acc, other in (op.operands, op.operands[::-1]):
        if acc in region.delayed or other not in region.delayed:
            continue
        inner = region.delayed[other]
        if isinstance(inner, DotOp):
            region.assign(op, _dot_text(region, inner, region[acc]))
        else:
            x, y = (region[v] if tensor_type(v.type).shape == tensor_type(out.type).shape else
                    f"tl.broadcast_to({region.loose(v)}, {region.shape(tensor_type(out.type).shape)})"
                    for v in inner.operands)  # fmt: skip
            region.assign(op, f"tl.fma({x}, {y}, {region[acc]})")
        return True
    return False


def _select(region: Region, op: Operation) -> None:
    condition, x, y = op.operands
    _elementwise(region, op, f"tl.where({', '.join(region.loose(v) for v in (condition, x, y))})")


def _convert(region: Region, op: Operation) -> None:
    (x,) = op.operands
    source, target = tensor_type(x.type), tensor_type(op.results[0].type)
    if source.dtype == target.dtype:
        region.alias(op.results[0], x)
        return
    text = region[x] if x in region.literals else region.loose(x)
    text = _converted(region, op, text, source, target)
    region.assign(op, text)
    if x in region.elastic:
        region.elastic.add(op.results[0])


def _converted(region: Region, op: Operation, text: str, source: TensorType, target: TensorType) -> str:
    from_format, to_format, to = format_of(source.dtype), format_of(target.dtype), str(target.dtype)
    if from_format is not None and from_format.bits <= 8 and from_format.name != "uint8":
        if to in NARROW and _holds(to, from_format):
            return f"{_casts.decode(region.library, from_format, to)}({text})"
        text = f"{_casts.decode(region.library, from_format, 'f32')}({text})"
        source = tensor(source.shape, formats.float32)
        if to == "f32":
            return text
    if to_format is not None and to_format.bits <= 8:
        if str(source.dtype) != "f32":
            text = f"{text}.to(tl.float32)"
        return f"{_casts.encode(region.library, to_format)}({text})"
    if to == "i1":
        return f"{text} != 0"
    if to in ("i32", "i64") and is_float(source.dtype):
        return f"{_functions.to_integer(region.library, to)}({text}.to(tl.float32))"
    if to in NARROW and str(source.dtype) in ("i1", "i32", "i64"):
        text = f"{text}.to(tl.float32)"
    if is_float(target.dtype) or to in ("i32", "i64"):
        return f"{text}.to({region.dtype(target)})"
    raise unsupported(op, f"{source.dtype} is not converted to {to}")


def _holds(to: str, fmt: Format) -> bool:
    """True where bf16 or f16 (`to`) has every value of a format of at most 8 bits."""
    if fmt.is_power_of_two or fmt.kind == "codebook":
        return False
    digits = fmt.mantissa_bits + 1 if fmt.kind == "float" else fmt.bits
    return digits <= (8 if to == "bf16" else 11)


# -- shapes ------------------------------------------------------------------------------------------------------------


def _reduce(region: Region, op: Operation) -> None:
    (x,) = op.operands
    text = region[x]
    for axis in sorted(prop(op, "axes"), reverse=True):
        text = _functions.reduce(region.library, prop(op, "fn"), text, axis, tensor_type(x.type))
    region.assign(op, text)


def _broadcast(region: Region, op: Operation) -> None:
    (x,) = op.operands
    region.alias(op.results[0], x)
    if x not in region.literals:
        region.elastic.add(op.results[0])


def _transpose(region: Region, op: Operation) -> None:
    (x,), order = op.operands, tuple(prop(op, "order"))
    region.assign(op, f"tl.trans({region[x]})" if order == (1, 0) else f"tl.permute({region[x]}, {order})")


def _reshape(region: Region, op: Operation) -> None:
    (x,) = op.operands
    region.assign(op, f"tl.reshape({region[x]}, {region.shape(prop(op, 'shape'))})")


def _expand(region: Region, op: Operation) -> None:
    (x,), axis = op.operands, prop(op, "axis")
    t = tensor_type(op.results[0].type)
    (by,), (to,) = prop(op, "by"), prop(op, "to")
    blocks = tensor_type(x.type).shape[axis]
    if blocks == 1 or by == 1:
        region.alias(op.results[0], x)
        if by != 1:
            region.elastic.add(op.results[0])
        return
    if not (isinstance(by, int) and isinstance(to, int) and isinstance(blocks, int)) or by * blocks != to:
        raise unsupported(op, f"blocks of {by} do not tile {to} elements in powers of two")
    wide = [*t.shape[:axis], blocks, by, *t.shape[axis + 1 :]]
    text = f"tl.broadcast_to(tl.expand_dims({region[x]}, {axis + 1}), {region.shape(wide)})"
    region.assign(op, f"tl.reshape({text}, {region.shape(t.shape)})")


def _mask(region: Region, op: Operation) -> None:
    (x,), axis = op.operands, prop(op, "axis")
    t = tensor_type(x.type)
    (valid,) = prop(op, "valid")
    size, value = t.shape[axis], float(prop(op, "value"))
    assert isinstance(size, int), "masked tiles have known sizes"
    inside = f"({region.along(size, axis, t.rank)} < {region.size(valid, 3)})"
    if is_float(t.dtype) and t.format is not None and t.format.bits > 8:
        number = repr(value) if value - value == 0 else f'float("{value}")'
        region.assign(op, f"tl.where({inside}, {region.loose(x)}, {number})")
        return
    code = _whole(value, str(t.dtype)) if t.format is None else int(numerics.encode(np.float32(value), t.format))
    dtype = region.dtype(t)
    text = region[x]
    if dtype in ("tl.uint8", "tl.int1", "tl.int32", "tl.int64"):
        region.assign(op, f"tl.where({inside}, {text}, {code})")
    else:
        region.assign(op, f"tl.where({inside}, {text}.to(tl.uint8, bitcast=True), {code}).to({dtype}, bitcast=True)")


def _whole(value: float, dtype: str) -> int:
    """A number as an integer of `dtype`; the last one where it is infinite."""
    if dtype == "i1":
        return int(value > 0)
    most = (1 << int(dtype[1:]) - 1) - 1
    return int(value) if value - value == 0 else most if value > 0 else -most - 1


def _unpack(region: Region, op: Operation) -> None:
    (x,) = op.operands
    size = tensor_type(op.results[0].type).shape[-1]
    if prop(op, "order") == "packed4":
        one = size == 1  # in a byte of its own
        region.assign(op, f"{region[x]} & 15" if one else f"{_casts.unpack4(region.library)}({region[x]})")
        return
    if size in (1, 2):
        raise unsupported(op, f"{size} codes of 6 bits do not fill their last byte; store them unpacked")
    low, high = region.planes[x]
    rank = tensor_type(op.results[0].type).rank
    shift = f"({arange(size)} % 4 * 6 % 8).to(tl.uint16){spread(rank - 1, rank)}"  # type: ignore[arg-type]
    word = f"({low}.to(tl.uint16) | {high}.to(tl.uint16) << 8)"
    region.assign(op, f"(({word} >> {shift}) & 63).to(tl.uint8)")


def _pack(region: Region, op: Operation) -> None:
    (x,) = op.operands
    out, size = op.results[0], tensor_type(x.type).shape[-1]
    if prop(op, "order") == "packed4":
        if size == 1:  # in a byte of its own
            region.alias(out, x)
            return
        region.assign(op, f"{_casts.pack4(region.library, tensor_type(x.type).rank)}({region[x]})")
        return
    if size in (1, 2):
        raise unsupported(op, f"{size} codes of 6 bits do not fill their last byte; store them unpacked")
    region.planes[out] = (region[x],)  # packed where they are stored, into what the result's rows allow


# -- products ----------------------------------------------------------------------------------------------------------


def _dot(region: Region, op: Operation) -> None:
    region.assign(op, _dot_text(region, op, ""))


def _side(region: Region, value: SSAValue, letter: str) -> str:
    text = region[value]
    return f"tl.trans({text})" if letter == "t" else text


def _dot_text(region: Region, op: Operation, acc: str) -> str:
    (a, b), form = op.operands, prop(op, "form")
    ta, tb = tensor_type(a.type), tensor_type(b.type)
    if ta.rank != 2 or tb.rank != 2:
        raise unsupported(op, f"tiles of {ta} and {tb} have batch axes; only tiles of two axes are multiplied")
    sides = [_side(region, a, form[0]), _side(region, b, form[1])]
    kinds = [region.triton_dtype(t) for t in (ta, tb)]
    if "uint8" in kinds:  # codes that no instruction takes are multiplied as float32
        for i, t in enumerate((ta, tb)):
            assert t.format is not None, "operands of a product have formats"
            if t.format.bits <= 8:
                sides[i] = f"{_casts.decode(region.library, t.format, 'f32')}({sides[i]})"
            elif kinds[i] != "float32":
                sides[i] = f"{sides[i]}.to(tl.float32)"
        kinds = ["float32", "float32"]
    depth = ta.shape[1 if form[0] == "n" else 0]
    assert isinstance(depth, int), "tiles of products have known sizes"
    if depth == 1:  # an outer product, which no instruction is needed for
        parts = [s if k == "float32" else f"{s}.to(tl.float32)" for s, k in zip(sides, kinds, strict=True)]
        return f"{acc or '0.0'} + {' * '.join(parts)}"  # sums begin with 0, so that none is -0
    if kinds == ["int8", "int8"]:
        product = f"tl.dot({sides[0]}, {sides[1]}, out_dtype=tl.int32).to(tl.float32)"
        return f"{acc} + {product}" if acc else product
    if "int8" in kinds or (kinds[0] != kinds[1] and not all(k.startswith("float8") for k in kinds)):
        raise unsupported(op, f"{ta.dtype} times {tb.dtype} is no product of this architecture; convert one of them")
    options = ""
    if kinds[0] == "float32":  # as three products of tf32, which together keep float32's bits
        options = f', input_precision="{"tf32x3" if "tf32" in region.features else "ieee"}"'
    if not acc:
        return f"tl.dot({sides[0]}, {sides[1]}{options})"
    if all(k.startswith("float8") for k in kinds) and "wgmma" in region.features:
        # Hopper's tensor cores add FP8 products with 14 bits; every so many of k they are added up in float32.
        options += f", max_num_imprecise_acc={min(depth, 128)}"
    return f"tl.dot({sides[0]}, {sides[1]}, {acc}{options})"


_SCALED = {"float8e4nv": "e4m3", "float8e5": "e5m2"}


def _dot_scaled(region: Region, op: Operation) -> None:
    a, sa, b, sb = op.operands
    form = prop(op, "form")
    parts: list[str] = []
    for value, scale, letter, first in ((a, sa, form[0], True), (b, sb, form[1], False)):
        t = tensor_type(value.type)
        fmt = t.format
        assert fmt is not None, "operands of a product have formats"
        scales = region[scale]
        if (letter == "t") == first:  # Triton wants the scales of both sides as [m or n, blocks of k]
            scales = f"tl.trans({scales})"
        if fmt.bits == 4:
            text = region.packed[value]
            if (letter == "t") == first:  # packed along m or n, where the instruction wants neighbours along k
                text = f"{_functions.repack(region.library)}({text})"
            text = f"tl.trans({text})" if letter == "t" else text
            parts.append(f'{text}, {scales}, "e2m1"')
        else:
            text, kind = _as_fp8(region, value)
            parts.append(f'{f"tl.trans({text})" if letter == "t" else text}, {scales}, "{_SCALED[kind]}"')
    region.assign(op, f"tl.dot_scaled({parts[0]}, {parts[1]})")


def _as_fp8(region: Region, value: SSAValue) -> tuple[str, str]:
    """A tile that a scaled instruction takes, and its dtype. Values of 6-bit formats are values of E4M3 too."""
    t = tensor_type(value.type)
    if t.format is None or t.format.bits != 6:
        return region[value], region.triton_dtype(t)
    wider = formats.float8_e4m3fn
    inner = f"{_casts.decode(region.library, t.format, 'f32')}({region[value]})"
    return f"{_casts.encode(region.library, wider)}({inner})", _casts.triton_type(wider, region.library.native)


# -- encoding ----------------------------------------------------------------------------------------------------------


def _encode(region: Region, op: Operation) -> None:
    recipe, policy, given = prop(op, "recipe"), prop(op, "policy"), tuple(prop(op, "given") or ())
    x, *rest = op.operands
    shape = tensor_type(x.type).shape
    if not all(isinstance(d, int) for d in shape):
        raise unsupported(op, "its tile has no known size")
    narrow = str(tensor_type(x.type).dtype) in NARROW and x not in region.literals
    function = _quantize.quantize(region.library, recipe, policy, shape, given, narrow=narrow)  # type: ignore[arg-type]
    parts = [region[x], *(_as_codes(region, v) for v in rest[: len(given)])]
    if len(rest) > len(given):
        parts += _position(region, op, rest[len(given)], shape)  # type: ignore[arg-type]
    names = [region.bind(out, out.name_hint or "q") for out in op.results]
    # Where all scales are given, they come back nevertheless if blocks with NaN change them; nothing asks for them.
    unused = [region.names.fresh("unused") for _ in _quantize_writer.results(recipe, len(given))[len(names) :]]
    region.line(f"{', '.join([*names, *unused])} = {function}({', '.join(parts)})", origin(op, ", ".join(names)))
    for out, name in zip(op.results[1:], names[1:], strict=True):  # scales come as codes
        dtype = region.dtype(tensor_type(out.type))
        if dtype.startswith("tl.float8"):
            region.line(f"{name} = {name}.to({dtype}, bitcast=True)")


def _as_codes(region: Region, value: SSAValue) -> str:
    """Scales as `_quantize` takes them: FP8 ones as bytes."""
    typed = region.triton_dtype(tensor_type(value.type)).startswith("float8")
    return f"{region[value]}.to(tl.uint8, bitcast=True)" if typed else region[value]


def _position(region: Region, op: Operation, seed: SSAValue, shape: Sequence[int]) -> list[str]:
    """Words of the seed, and the flat index of every element in its tensor, for stochastic rounding."""
    if seed in region.literals:
        key = int(region.literals[seed]) & ((1 << 64) - 1)
        words = [str(key >> 32), str(key & 0xFFFFFFFF)]
    else:
        words = [f"({region[seed]} >> 32)", region[seed]]
    step: Dim = 1
    terms: list[str] = []
    for axis in reversed(range(len(shape))):
        start = prop(op, "origin")[axis]
        along = region.along(shape[axis], axis, len(shape))
        if start != 0:
            along = f"({region.size(start)} + {along})"
        along = f"{along}.to(tl.int64)"
        terms.insert(0, along if step == 1 else f"{along} * {region.size(step, 3)}")
        step = dims.mul(step, prop(op, "extent")[axis])
    index = region.names.fresh("index")
    region.line(f"{index} = {' + '.join(terms)}")
    return [*words, index]


def _scale_from_amax(region: Region, op: Operation) -> None:
    (amax,) = op.operands
    function = _scales.scale_from_amax(region.library, prop(op, "recipe"), prop(op, "policy"), prop(op, "level"))
    dtype = region.dtype(tensor_type(op.results[0].type))
    cast = f".to({dtype}, bitcast=True)" if dtype.startswith("tl.float8") else ""
    region.assign(op, f"{function}({region[amax]}){cast}")


def _history_update(region: Region, op: Operation) -> None:
    history, amax = op.operands
    (size,) = tensor_type(history.type).shape
    if not isinstance(size, int):
        raise unsupported(op, "the length of the history is not known")
    moved = f"tl.gather({region[history]}, tl.minimum({arange(size)} + 1, {size - 1}), 0)"
    region.assign(op, f"tl.where({arange(size)} == {size - 1}, {region.loose(amax)}, {moved})")


def _amax_from_history(region: Region, op: Operation) -> None:
    (history,) = op.operands
    t, text = tensor_type(history.type), region[history]
    if prop(op, "rule") == "max":
        region.assign(op, _functions.reduce(region.library, "max", text, 0, t))
        return
    (size,) = t.shape
    if not isinstance(size, int):
        raise unsupported(op, "the length of the history is not known")
    region.assign(op, f"tl.sum(tl.where({arange(size)} == {size - 1}, {text}, 0.0), 0, keep_dims=True)")


TABLE: dict[str, Callable[[Region, Operation], None]] = {
    "full": _full, "iota": _iota, "unary": _unary, "binary": _binary, "select": _select, "convert": _convert,
    "reduce": _reduce, "broadcast": _broadcast, "transpose": _transpose, "reshape": _reshape, "expand": _expand,
    "mask": _mask, "unpack": _unpack, "pack": _pack, "dot": _dot, "dot_scaled": _dot_scaled, "encode": _encode,
    "scale_from_amax": _scale_from_amax, "history_update": _history_update, "amax_from_history": _amax_from_history,
}  # fmt: skip
