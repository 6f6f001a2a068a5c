"""What stands in the part of a tile that lies outside its tensor, followed through the ops of a region.

For every axis of every value: nothing (all of it is inside, or it fits any window), or an `Edge`, with the number of
elements inside and the value outside. A fetch leaves zero bits or garbage there; ops change what is known about it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from xdsl.ir import Attribute, Operation, SSAValue

from breccia import numerics
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.ops import (
    BinaryOp,
    BroadcastOp,
    ConcatOp,
    ConvertOp,
    FullOp,
    IotaOp,
    ReduceOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    TransposeOp,
    UnaryOp,
)
from breccia.ir.storage import PACKING
from breccia.ir.tile_ops import (
    DotOp,
    DotScaledOp,
    EncodeOp,
    ExpandOp,
    MaskOp,
    PackOp,
    UnpackOp,
    UnswizzleOp,
    contraction_axes,
)
from breccia.ir.tiling import Window
from breccia.ir.types import TensorType, format_of
from breccia.numerics.elementwise import BINARY, UNARY
from breccia.passes._walked import shape

POISON = math.nan
"""Anything may stand outside, NaN too."""


@dataclass(frozen=True)
class Edge:
    """valid: how many entries of the axis lie inside. pad: the value of those outside, NaN where it is not known.

    exact: False where `valid` may count a few entries too many (the last byte or block of an axis is filled in part).
    """

    valid: Dim
    pad: float
    exact: bool = True


Edges = tuple[Edge | None, ...]


def window_edges(type_: TensorType, window: Window, fetch_pad: str, *, spare: bool = False) -> Edges:
    """The edges of a fetched tile. spare: the last byte of the last axis holds codes that are none of the tensor's."""
    fmt = format_of(type_.dtype)
    pad = POISON
    if fetch_pad == "zero":
        pad = 0.0 if fmt is None or fmt.bits > 8 else _code_zero(type_.dtype)
    out: list[Edge | None] = []
    for axis, (size, block, index) in enumerate(zip(type_.shape, window.block, window.index, strict=True)):
        if block is None:
            continue
        valid = dims.sub(size, dims.mul(index, block))
        segment = window.segment if window.segment is not None and window.segment.axis == axis else None
        if segment is not None:
            end = dims.minimum(segment.limit, size)
            valid = dims.sub(dims.sub(end, segment.base), dims.mul(index, block))
        whole = block == 1 or (segment is None and divides(block, size))
        whole = whole and not (spare and axis == len(type_.shape) - 1)
        out.append(None if whole else Edge(valid, pad))
    return tuple(out)


def has_spare_codes(argument: SSAValue) -> bool:
    """True for packed bytes of which the last one is not full."""
    for use in argument.uses:
        op = use.operation
        if isinstance(op, UnpackOp) and op.of is not None:
            (length,) = op.of.data  # type: ignore[attr-defined]
            if dims.mul(dims.ceildiv(length, _codes(op)), _codes(op)) != length:
                return True
    return False


def _codes(op: UnpackOp) -> int:
    """How many codes a unit of bytes holds."""
    return PACKING[op.order.data][1]  # type: ignore[attr-defined]


def divides(block: Dim, size: Dim) -> bool:
    """True where tiles of `block` elements end with the axis, whatever the values of symbols."""
    if block == size:
        return True
    if not isinstance(block, int):
        return False
    if isinstance(size, int):
        return size % block == 0
    return (
        isinstance(size, dims.Op)
        and size.kind == "mul"
        and any(divides(block, side) for side in (size.left, size.right))
    )


def _code_zero(dtype: Attribute) -> float:
    """The value of code 0."""
    fmt = format_of(dtype)
    assert fmt is not None, "codes have a format"
    return float(numerics.decode(np.zeros((), np.uint8), fmt))


def transfer(op: Operation, edges: Sequence[Edges]) -> list[Edges]:
    """The edges of an op's results from those of its operands."""
    for kinds, rule in _RULES:
        if isinstance(op, kinds):
            return rule(op, list(edges))
    return [
        _forgotten(edges[0]) if edges and len(shape(r)) == len(edges[0]) else (None,) * len(shape(r))
        for r in op.results
    ]


def _forgotten(edges: Edges) -> Edges:
    return tuple(None if e is None else replace(e, pad=POISON) for e in edges)


def _map(edges: Edges, fn: Callable[[float], float]) -> Edges:
    return tuple(None if e is None else replace(e, pad=fn(e.pad)) for e in edges)


def _calculate(fn: Callable[..., object], *values: float) -> float:
    if any(math.isnan(v) for v in values):
        return POISON
    with np.errstate(all="ignore"):
        return float(np.asarray(fn(np, *(np.float32(v) for v in values))))


def _unary(op: UnaryOp, edges: list[Edges]) -> list[Edges]:
    fn = UNARY[op.fn.data]  # type: ignore[attr-defined]
    return [_map(edges[0], lambda pad: _calculate(fn, pad))]


def _convert(op: ConvertOp, edges: list[Edges]) -> list[Edges]:
    """Zero stays zero in every format that has it; other values are known only where nothing is rounded."""
    fmt, wide = format_of(op.dtype), str(op.dtype) in ("f32", "f64")  # type: ignore[attr-defined]
    has_zero = fmt is None or not fmt.is_power_of_two
    return [_map(edges[0], lambda pad: pad if wide or (pad == 0 and has_zero) else POISON)]


def _aligned(op: Operation, edges: list[Edges]) -> list[list[tuple[int, Edge | None, bool]]]:
    """For each axis of the result: (operand, its edge there, whether it broadcasts)."""
    rank = len(shape(op.results[0]))
    out: list[list[tuple[int, Edge | None, bool]]] = []
    for axis in range(rank):
        here: list[tuple[int, Edge | None, bool]] = []
        size = shape(op.results[0])[axis]
        for i, e in enumerate(edges):
            at = axis - rank + len(e)
            if at >= 0:
                here.append((i, e[at], shape(op.operands[i])[at] != size))
        out.append(here)
    return out


def _tightest(found: Sequence[Edge]) -> Edge:
    """Of edges that describe one axis, one whose count is exact."""
    return min(found, key=lambda e: not e.exact)


def _elementwise(op: BinaryOp | SelectOp, edges: list[Edges]) -> list[Edges]:
    out: list[Edge | None] = []
    for here in _aligned(op, edges):
        known = [e for _, e, _ in here if e is not None]
        if not known:
            out.append(None)
            continue
        pads: list[float | None] = [None] * len(edges)
        tight = any(e.exact for e in known)
        for i, e, broadcasts in here:
            # Between a count that is exact and one that is too large, the other operand has real entries.
            pads[i] = e.pad if e is not None and not broadcasts and (e.exact or not tight) else None
        out.append(replace(_tightest(known), pad=_combined(op, pads)))
    return [tuple(out)]


def _combined(op: BinaryOp | SelectOp, pads: list[float | None]) -> float:
    """The value outside, where None stands for one that is finite and else unknown."""
    if isinstance(op, SelectOp):
        condition, x, y = pads
        if condition is not None and not math.isnan(condition):
            x = y = x if condition else y
        return x if x is not None and x == y else POISON
    fn, (a, b) = op.fn.data, pads  # type: ignore[attr-defined]
    if a is not None and b is not None:
        return _calculate(BINARY[fn], a, b)
    if (fn == "mul" and 0 in (a, b)) or (fn == "div" and a == 0):
        return 0.0
    one = a if a is not None else b
    if one is not None and math.isinf(one):
        if fn == "add" or (fn == "sub" and a is not None):
            return one
        if fn == "sub":
            return -one
        if (fn == "max" and one > 0) or (fn == "min" and one < 0):
            return one
    return POISON


def _reduce(op: ReduceOp, edges: list[Edges]) -> list[Edges]:
    fn, axes = op.fn.data, op.axes.data  # type: ignore[attr-defined]

    def after(pad: float) -> float:
        if fn == "sum":
            return 0.0 if pad == 0 else POISON
        return abs(pad) if fn == "amax" else pad

    return [tuple(None if i in axes else e for i, e in enumerate(_map(edges[0], after)))]


def _transpose(op: TransposeOp, edges: list[Edges]) -> list[Edges]:
    return [tuple(edges[0][i] for i in op.order.data)]  # type: ignore[attr-defined]


def _broadcast(op: BroadcastOp, edges: list[Edges]) -> list[Edges]:
    return [(*(None for _ in range(len(shape(op.out)) - len(edges[0]))), *edges[0])]


def _dot(op: DotOp | DotScaledOp, edges: list[Edges]) -> list[Edges]:
    a, b, form = edges[0], edges[len(edges) // 2], op.form.data  # type: ignore[attr-defined]
    m, n = a[-1 if form[0] == "t" else -2], b[-2 if form[1] == "t" else -1]
    rank = len(shape(op.out))
    return [
        (
            *(None for _ in range(rank - 2)),
            *_map((m, n), lambda pad: 0.0 if pad == 0 and isinstance(op, DotOp) else POISON),
        )
    ]


def _constant(op: FullOp | IotaOp, _: list[Edges]) -> list[Edges]:
    return [(None,) * len(shape(op.out))]


def _expand(op: ExpandOp, edges: list[Edges]) -> list[Edges]:
    axis, (by,) = op.axis.data, op.by.data  # type: ignore[attr-defined]
    edge = edges[0][axis]
    if edge is not None:
        edge = Edge(dims.mul(edge.valid, by), edge.pad, exact=False)
    return [tuple(edge if i == axis else e for i, e in enumerate(edges[0]))]


def _unpack(op: UnpackOp, edges: list[Edges]) -> list[Edges]:
    _, codes, size = PACKING[op.order.data]  # type: ignore[attr-defined]
    zero = _code_zero(op.dtype)  # type: ignore[arg-type]
    front = _map(edges[0], lambda pad: zero if pad == 0 else POISON)
    last = front[-1]
    if last is not None:
        valid = dims.mul(last.valid, codes) if size == 1 else dims.floordiv(dims.mul(last.valid, codes), size)
        spare: Dim = 0
        if op.of is not None:
            (length,) = op.of.data  # type: ignore[attr-defined]
            spare = dims.sub(dims.mul(dims.ceildiv(length, codes), codes), length)
        last = Edge(dims.sub(valid, spare), last.pad, exact=op.of is not None)
    return [(*front[:-1], last)]


def _pack(op: PackOp, edges: list[Edges]) -> list[Edges]:
    _, codes, size = PACKING[op.order.data]  # type: ignore[attr-defined]
    front = _forgotten(edges[0])
    last = front[-1]
    if last is not None:
        last = replace(last, valid=dims.mul(dims.ceildiv(last.valid, codes), size))
    return [(*front[:-1], last)]


def _encode(op: EncodeOp, edges: list[Edges]) -> list[Edges]:
    x = _forgotten(edges[0])
    full, out = shape(op.args[0]), list[Edges]()
    for result in op.outs:
        row: list[Edge | None] = []
        for e, tile, entries in zip(x, full, shape(result), strict=True):
            if e is None or tile == entries:
                row.append(e)
            elif entries == 1 or not (isinstance(tile, int) and isinstance(entries, int)):
                row.append(None)
            else:
                row.append(replace(e, valid=dims.ceildiv(e.valid, -(-tile // entries))))
        out.append(tuple(row))
    return out


def _mask(op: MaskOp, edges: list[Edges]) -> list[Edges]:
    axis, value = op.axis.data, op.value.data  # type: ignore[attr-defined]
    return [tuple(replace(e, pad=value) if i == axis and e is not None else e for i, e in enumerate(edges[0]))]


def _regroup(op: Operation, edges: list[Edges]) -> list[Edges]:
    """Views that count positions stand only on axes that tiles hold whole; other axes keep their edges."""
    if isinstance(op, ReshapeOp):
        moving = iter([e for e, d in zip(edges[0], shape(op.args[0]), strict=True) if d != 1])
        same = [d for d in shape(op.args[0]) if d != 1] == [d for d in shape(op.out) if d != 1]
        return [tuple(next(moving) if same and d != 1 else None for d in shape(op.out))]
    axis = op.axis.data  # type: ignore[attr-defined]
    merged = [next((e[i] for e in edges if e[i] is not None), None) for i in range(len(edges[0]))]
    pads = [{e[i].pad for e in edges if e[i] is not None} for i in range(len(edges[0]))]  # type: ignore[union-attr]
    return [
        tuple(
            None if i == axis or e is None else (e if len(p) == 1 else replace(e, pad=POISON))
            for i, (e, p) in enumerate(zip(merged, pads, strict=True))
        )
    ]


def _unswizzle(_: UnswizzleOp, edges: list[Edges]) -> list[Edges]:
    *front, rows, columns = _forgotten(edges[0])[:-2]
    scaled = [
        None if e is None else Edge(dims.mul(e.valid, u), POISON, exact=False) for e, u in ((rows, 128), (columns, 4))
    ]
    return [(*front, *scaled)]


_RULES: tuple[tuple[type | tuple[type, ...], Callable[..., list[Edges]]], ...] = (
    (UnaryOp, _unary),
    (ConvertOp, _convert),
    ((BinaryOp, SelectOp), _elementwise),
    (ReduceOp, _reduce),
    (TransposeOp, _transpose),
    (BroadcastOp, _broadcast),
    ((DotOp, DotScaledOp), _dot),
    ((FullOp, IotaOp), _constant),
    (ExpandOp, _expand),
    (UnpackOp, _unpack),
    (PackOp, _pack),
    (EncodeOp, _encode),
    (MaskOp, _mask),
    ((ReshapeOp, SliceOp, ConcatOp), _regroup),
    (UnswizzleOp, _unswizzle),
)


@dataclass(frozen=True)
class Need:
    """Operand number `operand` of an op must hold `value` outside, on `axis`, since the op looks across that axis."""

    operand: int
    axis: int
    value: float


NEUTRAL = {"sum": 0.0, "max": -math.inf, "min": math.inf, "amax": 0.0}


def needs(op: Operation, edges: Sequence[Edges]) -> list[Need]:
    """The masks that an op needs on its operands, given what stands outside of them."""
    if isinstance(op, ReduceOp):
        wanted = [Need(0, axis, NEUTRAL[op.fn.data]) for axis in op.axes.data]  # type: ignore[attr-defined]
    elif isinstance(op, DotOp):
        return _dot_needs(op, edges)
    elif isinstance(op, DotScaledOp):
        return _scaled_needs(op, edges)
    elif isinstance(op, EncodeOp):
        wanted = [Need(0, axis, 0.0) for axis in read_across(op)]
    elif isinstance(op, PackOp):
        wanted = [Need(0, len(edges[0]) - 1, _code_zero(op.args[0].type.dtype))]  # type: ignore[attr-defined]
    else:
        return []
    return [n for n in wanted if (e := edges[n.operand][n.axis]) is not None and e.pad != n.value]


def read_across(op: EncodeOp) -> list[int]:
    """Axes along which `encode` derives scales, zero points or offsets from several elements."""
    recipe, given = op.recipe.data, op.given.data if op.given is not None else ()  # type: ignore[attr-defined]
    rank = len(shape(op.args[0]))
    blocks = [b for i, b in enumerate(recipe.blocks(rank)) if i not in given]
    if recipe.zero_point is not None or recipe.offset is not None:
        blocks.append(recipe.blocks(rank)[-1])
    return [axis for axis in range(rank) if any(b[axis] != 1 for b in blocks)]


def _dot_needs(op: DotOp, edges: Sequence[Edges]) -> list[Need]:
    """Products outside must be 0: one side 0 and the other one finite."""
    axes = contraction_axes(op.form.data, len(edges[0]), len(edges[1]))  # type: ignore[attr-defined]
    found = [edges[i][axes[i]] for i in (0, 1)]
    if found == [None, None]:
        return []
    pads = [1.0 if e is None else e.pad for e in found]
    out: list[Need] = []
    for i in (0, 1):
        if not math.isfinite(pads[i]):
            out.append(Need(i, axes[i], 0.0))
            pads[i] = 0.0
    if 0.0 not in pads:
        side = 0 if found[0] is not None else 1
        out.append(Need(side, axes[side], 0.0))
    return out


def _scaled_needs(op: DotScaledOp, edges: Sequence[Edges]) -> list[Need]:
    """Elements outside must be 0, and their scales finite."""
    ka, kb = contraction_axes(op.form.data, len(edges[0]), len(edges[2]))  # type: ignore[attr-defined]
    out: list[Need] = []
    for operand, axis, value in ((0, ka, 0.0), (1, ka, 1.0), (2, kb, 0.0), (3, kb, 1.0)):
        edge = edges[operand][axis]
        right = edge is None or (edge.pad == 0 if value == 0 else math.isfinite(edge.pad))
        if not right:
            out.append(Need(operand, axis, value))
    return out
