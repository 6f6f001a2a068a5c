"""Which grid dimension walks each axis of each value in a tiled kernel, and how fast.

A `Tag` says that an axis moves by `rate` entries with every step of a grid dimension: a window of 128 elements at m has
the rate 128 of m, its scales in blocks of 32 have 4, and scales in blocks of 512 have 1/4.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from xdsl.ir import Block, Operation, SSAValue

from breccia.ir import dims
from breccia.ir.dims import Dim, Sym
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import (
    BinaryOp,
    BroadcastOp,
    ConvertOp,
    FullOp,
    IotaOp,
    ReduceOp,
    ScaleFromAmaxOp,
    SelectOp,
    TransposeOp,
    UnaryOp,
    YieldOp,
)
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
from breccia.ir.types import TensorType

ELEMENTWISE = (UnaryOp, BinaryOp, SelectOp, ConvertOp, ScaleFromAmaxOp, MaskOp)


@dataclass(frozen=True)
class Tag:
    """The grid dimension that walks an axis, and entries a step."""

    dim: str
    rate: Fraction


Tags = tuple[Tag | None, ...]


class RefusedError(Exception):
    """A dimension that cannot be treated as asked; None where the kernel as a whole cannot."""

    def __init__(self, dim: str | None) -> None:
        super().__init__(dim)
        self.dim = dim


def window_tags(window: Window, walked: frozenset[str]) -> Tags:
    """The tags of the axes that a window keeps; raises RefusedError for an index that is no plain dimension."""
    tags: list[Tag | None] = []
    for block, index in zip(window.block, window.index, strict=True):
        tag = index_tag(block, index, walked)
        if block is not None:
            tags.append(tag)
        elif tag is not None:
            raise RefusedError(tag.dim)
    return tuple(tags)


def index_tag(block: Dim | None, index: Dim, walked: frozenset[str]) -> Tag | None:
    names = dims.symbols(index) & walked
    if not names:
        return None
    (name, *more) = sorted(names)
    if more:
        raise RefusedError(name)
    if index == Sym(name) and (block is None or isinstance(block, int)):
        return Tag(name, Fraction(block or 1))
    if (
        isinstance(index, dims.Op)
        and index.kind == "floordiv"
        and index.left == Sym(name)
        and isinstance(index.right, int)
    ):
        if block == 1:
            return Tag(name, Fraction(1, index.right))
    raise RefusedError(name)


def shape(value: SSAValue) -> tuple[Dim, ...]:
    assert isinstance(value.type, TensorType), "regions of tiled kernels hold plain tensors"
    return value.type.shape


def region_tags(kernel: KernelOp, walked: frozenset[str]) -> dict[SSAValue, Tags]:
    """The tags of every value in a kernel's regions, for the dimensions in `walked`."""
    t = kernel.tiles
    found: dict[SSAValue, Tags] = {}
    carried: list[Tags] = []
    if kernel.init.blocks:
        _walk(kernel.init.block, found, walked)
        # What is carried starts as a constant of any extent; one look at the step tells how it is walked.
        carried = [found[v] for v in KernelOp.terminator(kernel.init).args]
        for _ in range(2):
            _enter(kernel, kernel.step.block, carried, t.step_uses, found, walked)
            _walk(kernel.step.block, found, walked)
            carried = [found[v] for v in KernelOp.terminator(kernel.step).args]
    _enter(kernel, kernel.finish.block, carried, t.finish_uses, found, walked)
    _walk(kernel.finish.block, found, walked)
    return found


def _enter(
    kernel: KernelOp,
    block: Block,
    carried: list[Tags],
    uses: tuple[int, ...],
    found: dict[SSAValue, Tags],
    walked: frozenset[str],
) -> None:
    windows = [kernel.tiles.inputs[i] for i in uses]
    tags = [window_tags(w, walked) for w in windows if w is not None]
    found.update(zip(block.args, [*carried, *tags], strict=True))


def _walk(block: Block, found: dict[SSAValue, Tags], walked: frozenset[str]) -> None:
    for op in block.ops:
        if isinstance(op, YieldOp):
            return
        found.update(zip(op.results, _op_tags(op, [found[a] for a in op.operands], walked), strict=True))


def _op_tags(op: Operation, tags: list[Tags], walked: frozenset[str]) -> list[Tags]:
    """Tags of an op's results from those of its operands."""
    if isinstance(op, (*ELEMENTWISE, BroadcastOp)):
        return [merged(op, tags)]
    if isinstance(op, DotOp | DotScaledOp):
        return [_dot_tags(op, tags[0], tags[len(tags) // 2])]
    if isinstance(op, ReduceOp):
        return [tuple(None if i in op.axes.data else t for i, t in enumerate(tags[0]))]  # type: ignore[attr-defined]
    if isinstance(op, TransposeOp):
        return [tuple(tags[0][i] for i in op.order.data)]  # type: ignore[attr-defined]
    if isinstance(op, FullOp):
        return [(None,) * len(shape(op.out))]
    if isinstance(op, IotaOp):
        return [_iota_tags(op, walked)]
    if isinstance(op, ExpandOp | UnpackOp | PackOp | EncodeOp):
        return [_rescaled(tags[0], shape(op.args[0]), shape(r)) for r in op.outs]
    if isinstance(op, UnswizzleOp):
        old = (*shape(op.args[0])[:-2],)
        return [_rescaled(tags[0][:-2], old, shape(op.out))]
    for tag in [t for ts in tags for t in ts]:
        if tag is not None:
            raise RefusedError(tag.dim)
    return [(None,) * len(shape(r)) for r in op.results]


def _rescaled(tags: Tags, old: tuple[Dim, ...], new: tuple[Dim, ...]) -> Tags:
    """Tags after every axis has changed its size from `old` to `new`."""
    out: list[Tag | None] = []
    for tag, a, b in zip(tags, old, new, strict=True):
        if tag is None or a == b:
            out.append(tag)
        elif isinstance(a, int) and isinstance(b, int):
            out.append(Tag(tag.dim, tag.rate * b / a))
        else:
            raise RefusedError(tag.dim)
    return tuple(out)


def _iota_tags(op: IotaOp, walked: frozenset[str]) -> Tags:
    axis, (start,) = op.axis.data, op.start.data  # type: ignore[attr-defined]
    names = dims.symbols(start) & walked
    size = shape(op.out)[axis]
    if not names:
        return (None,) * len(shape(op.out))
    name = min(names)
    rest = dims.substitute(start, {name: 0})
    if len(names) > 1 or dims.has_lookup(start) or not isinstance(size, int) or not isinstance(rest, int):
        raise RefusedError(name)
    step = dims.evaluate(start, {name: 1}) - rest
    if step != size or dims.evaluate(start, {name: 2}) - rest != 2 * size:
        raise RefusedError(name)
    return tuple(Tag(name, Fraction(size)) if i == axis else None for i in range(len(shape(op.out))))


def merged(op: Operation, tags: list[Tags]) -> Tags:
    """Tags of an elementwise result: of tiles that meet on an axis, the one that moves fastest."""
    rank = len(shape(op.results[0]))
    out: list[Tag | None] = []
    for axis in range(rank):
        here = [t[axis - rank + len(t)] for t in tags if axis - rank + len(t) >= 0]
        known = [t for t in here if t is not None]
        if len({t.dim for t in known}) > 1:
            raise RefusedError(max(t.dim for t in known))
        if known and _stays(op, tags, axis - rank):
            raise RefusedError(known[0].dim)
        out.append(max(known, key=lambda t: t.rate) if known else None)
    return tuple(out)


def _stays(op: Operation, tags: list[Tags], axis: int) -> bool:
    """True where one number of a walked axis meets many of an axis that is not walked: of all of its numbers, each
    would have to meet all of those.
    """
    sizes = [(t[axis], shape(v)[axis]) for t, v in zip(tags, op.operands, strict=True) if -axis <= len(t)]
    return all(size == 1 for tag, size in sizes if tag is not None) and any(s != 1 for t, s in sizes if t is None)


def _dot_tags(op: Operation, a: Tags, b: Tags) -> Tags:
    form = op.form.data  # type: ignore[attr-defined]
    ka, kb = contraction_axes(form, len(a), len(b))
    if a[ka] != b[kb]:
        tag = a[ka] or b[kb]
        raise RefusedError(tag.dim if tag else None)
    m, n = a[-1 if form[0] == "t" else -2], b[-2 if form[1] == "t" else -1]
    rank = max(len(a), len(b)) - 2
    batch: list[Tag | None] = []
    for axis in range(rank):
        here = [t[axis - rank + len(t) - 2] for t in (a, b) if axis - rank + len(t) - 2 >= 0]
        known = {t for t in here if t is not None}
        if len(known) > 1:
            raise RefusedError(min(t.dim for t in known))
        batch.append(known.pop() if known else None)
    return (*batch, m, n)
