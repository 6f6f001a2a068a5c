"""Windows of a kernel: entries of operands, which are 0 outside of them, and stores of results."""

from __future__ import annotations

from collections.abc import Mapping

from xdsl.ir import SSAValue

from breccia.codegen.lines import tensor_type
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.tiling import Window
from breccia.ir.types import TensorType, format_of
from breccia.targets.metal import _functions
from breccia.targets.metal._region import Coords, Region, Rule, Scope, scalar_type
from breccia.targets.metal._sizes import plus, times

_LONG = 1 << 31


def strides(operand: str, axis: int) -> str:
    """How MLX spells the distance of neighbours along an axis of an operand, in entries."""
    return f"{operand}_strides[{axis}]"


def start(window: Window, axis: int, single: Mapping[str, Dim]) -> Dim:
    """The first entry of a window along an axis. single: grid dimensions of one step."""
    block = window.block[axis]
    first = dims.mul(dims.substitute(window.index[axis], single), 1 if block is None else block)
    if window.segment is not None and window.segment.axis == axis:
        return dims.add(window.segment.base, first)
    return first


def limit(window: Window, axis: int, shape: tuple[Dim, ...]) -> Dim | None:
    """Where the entries of a window end along an axis; None where every tile is full."""
    if window.segment is not None and window.segment.axis == axis:
        return window.segment.limit
    block, size = window.block[axis], shape[axis]
    if block is None or block == size or (isinstance(size, int) and isinstance(block, int) and size % block == 0):
        return None
    return size


def load_rule(operand: str, value: SSAValue, window: Window, single: Mapping[str, Dim]) -> Rule:
    """What gives the entries of a tile of an operand."""
    t = tensor_type(value.type)

    def load(scope: Scope, coords: Coords) -> str:
        region = scope.region
        offset, inside = "0", list[str]()
        for axis in range(t.rank):
            if t.shape[axis] == 1 and window.segment is None:
                continue
            place = _place(scope, window, axis, single, coords)
            offset = plus(offset, times(place, strides(operand, axis)))
            end = limit(window, axis, t.shape)
            if end is not None:
                inside.append(f"{place} < {region.size(end, 1)}")
        read = f"{operand}[{offset}]" if t.rank else operand  # MLX hands scalars over by reference
        kind = scalar_type(t)
        text = read if str(t.dtype) in ("f32", "i32", "i64", "i1") else f"{kind}({read})"
        if inside:
            text = f"{' && '.join(inside)} ? {text} : {_ZERO[kind]}"
        return scope.define(kind, operand, text)

    return load


_ZERO = {"float": "0.0f", "bool": "false", "int": "0", "long": "0L", "uint": "0u"}


def _place(scope: Scope, window: Window, axis: int, single: Mapping[str, Dim], coords: Coords) -> str:
    """The index along an axis of the operand of an entry of its tile."""
    first = scope.region.size(start(window, axis, single))
    kept = window.kept_axes
    within = coords[kept.index(axis)] if axis in kept else "0"
    return scope.number(plus(first, within), "place")


def device_type(t: TensorType) -> str:
    """The type of entries in device memory, as MLX names it. Codes of 8 bits and fewer are bytes."""
    name = str(t.dtype)
    known = {"f32": "float", "bf16": "bfloat16_t", "f16": "float16_t", "i1": "bool", "i32": "int32_t", "i64": "int64_t"}
    if name in known:
        return known[name]
    fmt = format_of(t.dtype)
    if fmt is None or fmt.bits > 8:
        raise UnsupportedError(f"metal: arrays of {name} are not printed; use float32")
    return "uint8_t"


def store(region: Region, name: str, out: SSAValue, window: Window, value: SSAValue, single: Mapping[str, Dim], *,
          combine: str | None) -> None:  # fmt: skip
    """Write the loop that stores a tile, or what lies inside the result. combine: `add` or `max`, with what other
    programs store there.
    """
    t = tensor_type(out.type)
    with region.each(tensor_type(value.type).shape) as (scope, coords):
        offset, inside, places = "0", list[str](), list[str]()
        for axis in range(t.rank):
            places.append(_place(scope, window, axis, single, coords))
            end = limit(window, axis, t.shape)
            if end is not None:
                inside.append(f"{places[-1]} >= {region.size(end, 1)}")
        step: Dim = 1
        for axis in reversed(range(t.rank)):
            if t.shape[axis] != 1:
                wide = places[axis] if _is_short(t, step) or places[axis] == "0" else f"long({places[axis]})"
                offset = plus(times(wide, region.size(step, 3)), offset)
            step = dims.mul(step, t.shape[axis])
        if inside:
            region.line(f"if ({' || '.join(inside)}) {{")
            region.line("    continue;")
            region.line("}")
        text = scope.value(value, coords)
        if combine is not None:
            if str(t.dtype) != "f32":
                raise UnsupportedError(f"metal: programs combine results of f32 alone, not of {t.dtype}; convert them")
            region.line(f"{_functions.combine(region.library, combine)}(&{name}[{offset}], {text});")
            return
        kind = device_type(t)
        region.line(f"{name}[{offset}] = {_narrowed(kind, text)};")


def _narrowed(kind: str, text: str) -> str:
    """A value as it is stored. Floats were rounded before, so that the conversion is exact."""
    return text if kind in ("float", "bool", "int32_t", "int64_t") else f"{kind}({text})"


def _is_short(t: TensorType, step: Dim) -> bool:
    """Whether offsets along an axis surely fit 32 bits."""
    total: Dim = 1
    for size in t.shape:
        total = dims.mul(total, size)
    return step == 1 or (isinstance(total, int) and total < _LONG)
