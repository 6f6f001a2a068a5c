"""Products whose shape warp-specialized kernels take: what `_gluon` has to know of them, read off the tiled form.

    step (%acc, %a, %b, %s, %t) {                 finish (%acc, ..) { elementwise ops, encode .. }
      %p = dot nt %a, %b
      %f = binary mul %s, %t                      // any product of rows', columns' and tiles' scales, or none
      %q = binary mul %p, %f
      %r = binary add %acc, %q
    }

The tile of the form is what one instruction of a group of four warps computes: 64 rows. The schedule says how many
groups share the operands of a step, and how many tiles each has along m and n (`groups`, `waves_m`, `waves_n`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.ir import BlockArgument, Operation, SSAValue

from breccia.codegen.lines import tensor_type
from breccia.ir import dims
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import BinaryOp, FullOp, TransposeOp, YieldOp
from breccia.ir.tile_ops import DotOp
from breccia.ir.tiling import GridDim, Window

ROWS = 64
"""Rows of one tile: those of Hopper's matrix instruction of four warps."""
_ONE = ("one", "single")
"""What dimensions of one tile are called, which the grid leaves out."""
_KEEPING = frozenset((
    "full", "iota", "unary", "binary", "select", "convert", "broadcast", "mask", "reduce", "transpose", "encode",
    "yield",
))  # fmt: skip
"""Ops after which tiles still lie as the instruction leaves its sums."""
STEP_BYTES = 128
"""Bytes of a row of a step: what the widest swizzle of shared memory covers."""


@dataclass(frozen=True)
class Factor:
    """A scale of partial sums: an operand of the kernel, and what it differs along: "row", "column" or "tile"; step:
    the axis of the operand that runs along k.
    """

    operand: int
    along: str
    step: int


@dataclass(frozen=True)
class Product:
    """A kernel that fits. a, b: operands of the product; factors: what each step's sums are multiplied by.

    turned: arguments of `finish` that are read as columns only; their transposes take their place.
    """

    m: GridDim
    n: GridDim
    k: GridDim
    a: int
    b: int
    columns: int
    depth: int
    upright: bool
    """True where the second operand lies as [K, N], which instructions take of 16 bits only; else as [N, K]."""
    factors: tuple[Factor, ...]
    exact_sums: bool
    """True where instructions add up all of k themselves; else each step's sums are added in float32."""
    turned: frozenset[BlockArgument]


def specialized(kernel: KernelOp) -> Product | None:
    """What is said above, if the kernel fits and its schedule asks for it; else None."""
    said = kernel.entries
    if "groups" not in said or not kernel.is_tiled or not kernel.step.blocks:
        return None
    t = kernel.tiles
    parallel, walked = t.dims("parallel"), t.dims("reduction")
    if len(walked) != 1 or len(t.grid) != len(parallel) + 1 or len(parallel) > 2 or not plain_windows(kernel):
        return None
    parallel = (*parallel, *(GridDim(name, 1) for name in _ONE[len(parallel) :]))
    found = _dot(kernel)
    if found is None:
        return None
    dot, factors = found
    numbers = [operand_of(kernel, v) for v in dot.args]
    form = dot.form.data  # type: ignore[attr-defined]
    if None in numbers or form not in ("nt", "nn"):
        return None
    a, b = (n for n in numbers if n is not None)
    upright = form == "nn"
    m, n, k = _dims(t.inputs[a], t.inputs[b], parallel, walked, upright=upright)
    shape_a, shape_b = (tensor_type(v.type).shape for v in dot.args)
    formats = [tensor_type(v.type).format for v in dot.args]
    if m is None or n is None or k is None or None in formats or shape_a[0] != ROWS:
        return None
    bits = {fmt.bits for fmt in formats if fmt is not None}
    columns, depth = shape_b[1 if upright else 0], shape_a[1]
    if not isinstance(columns, int) or not isinstance(depth, int) or bits not in ({8}, {16}):
        return None
    wide = bits == {16}
    if depth * (16 if wide else 8) != STEP_BYTES * 8 or (upright and not wide) or (wide and len(set(formats)) > 1):
        return None
    known = [_factor(kernel, v, m, n, k) for v in factors]
    turned = turned_arguments(kernel)
    if None in known or turned is None or not stored_in_tiles(kernel, m, n, (ROWS, columns)):
        return None
    if not ends_in_tiles(kernel, turned, m, n, (ROWS, columns)):
        return None
    scales = tuple(f for f in known if f)
    return Product(m, n, k, a, b, columns, depth, upright, scales, wide and not factors, turned)


def plain_windows(kernel: KernelOp) -> bool:
    """True where windows are tiles that neither end early nor meet; operands without one are only looked up."""
    windows = [w for w in (*kernel.tiles.inputs, *kernel.tiles.outputs) if w is not None]
    if any(w.segment is not None or w.combine is not None or w.partial for w in windows):
        return False
    ending = set(kernel.tiles.finish_uses) - set(kernel.tiles.step_uses)
    ranks = [len(w.block) for w in windows]
    vectors = {i for i, w in enumerate(kernel.tiles.inputs) if w is not None and len(w.block) == 1}
    return set(ranks) <= {1, 2} and vectors <= ending and all(None not in w.block for w in windows)


def _dot(kernel: KernelOp) -> tuple[DotOp, list[SSAValue]] | None:
    """The product of a step, and what multiplies it; None where the step is more than that."""
    found = summed(kernel)
    if found is None:
        return None
    dot, factors, added = found
    total = KernelOp.terminator(kernel.step).args[0].owner
    used = {total, *_products(added), *(op for v in (dot.out, *factors) for op in _behind(v))}
    more = any(op not in used and not isinstance(op, YieldOp) for op in kernel.step.block.ops)
    return None if more else (dot, factors)


def summed(kernel: KernelOp) -> tuple[DotOp, list[SSAValue], SSAValue] | None:
    """(the one product that a step adds to its sums, what multiplies it, both together), if sums start from 0 and are
    all that is carried; the step may have other ops.
    """
    init, block = list(kernel.init.block.ops), kernel.step.block
    yielded = KernelOp.terminator(kernel.step).args
    if len(yielded) != 1 or len(init) != 2 or not isinstance(init[0], FullOp) or float(init[0].data("value")) != 0:
        return None
    total = yielded[0].owner
    if not isinstance(total, BinaryOp) or total.data("fn") != "add" or block.args[0] not in total.args:
        return None
    (added,) = [v for v in total.args if v is not block.args[0]] or [None]
    leaves = factors_of(added) if added is not None else []
    dots = [v.owner for v in leaves if isinstance(v.owner, DotOp)]
    if added is None or len(dots) != 1:
        return None
    return dots[0], [v for v in leaves if v.owner is not dots[0]], added


def factors_of(value: SSAValue) -> list[SSAValue]:
    """The factors of a product."""
    op = value.owner
    if isinstance(op, BinaryOp) and op.fn.data == "mul":  # type: ignore[attr-defined]
        return [leaf for v in op.operands for leaf in factors_of(v)]
    return [value]


def _products(value: SSAValue) -> list[Operation]:
    op = value.owner
    if isinstance(op, BinaryOp) and op.fn.data == "mul":  # type: ignore[attr-defined]
        return [op, *(o for v in op.operands for o in _products(v))]
    return []


def _behind(value: SSAValue) -> list[Operation]:
    """The op that makes a factor: the product itself, or a transposition of an argument."""
    op = value.owner
    return [op] if isinstance(op, DotOp | TransposeOp) else []


def operand_of(kernel: KernelOp, value: SSAValue) -> int | None:
    """The operand of the kernel that an argument of `step` is a window of."""
    if not isinstance(value, BlockArgument) or value.block is not kernel.step.block or value.index == 0:
        return None
    return kernel.tiles.step_uses[value.index - 1]


def _dims(
    a: Window | None, b: Window | None, parallel: Sequence[GridDim], walked: Sequence[GridDim], *, upright: bool
) -> tuple[GridDim | None, GridDim | None, GridDim | None]:
    """The dimensions that rows, columns and steps run along. A dimension of one tile may stand as 0."""
    assert a is not None and b is not None, "windows were checked"  # noqa: PT018
    k = walked[0]
    column, step = b.index[:: -1 if upright else 1]
    if along(a.index[1], k) and along(step, k):
        for m, n in (parallel, parallel[::-1]):
            if along(a.index[0], m) and along(column, n):
                return m, n, k
    return None, None, None


def along(index: dims.Dim, d: GridDim) -> bool:
    return index == dims.Sym(d.name) or (index == 0 and d.extent == 1)


def _factor(kernel: KernelOp, value: SSAValue, m: GridDim, n: GridDim, k: GridDim) -> Factor | None:
    op = value.owner
    source = op.args[0] if isinstance(op, TransposeOp) else value
    number = operand_of(kernel, source)
    if number is None or str(tensor_type(value.type).dtype) != "f32":
        return None
    window = kernel.tiles.inputs[number]
    assert window is not None, "windows were checked"
    stored, shape = tensor_type(source.type).shape, tensor_type(value.type).shape
    for step in (1, 0):  # the axis that runs along k
        place = window.index[1 - step]
        if stored[step] != 1 or not along(window.index[step], k):
            continue
        if shape == (1, 1) and (dims.symbols(place) <= {n.name} or dims.symbols(place) <= {m.name}):
            return Factor(number, "tile", step)
        if shape == (ROWS, 1) and along(place, m):
            return Factor(number, "row", step)
        if shape[0] == 1 and shape[1] == stored[1 - step] and along(place, n):
            return Factor(number, "column", step)
    return None


def turned_arguments(kernel: KernelOp, besides: Operation | None = None) -> frozenset[BlockArgument] | None:
    """The arguments of `finish` that are transposed and used in no other way; None where others are.

    besides: a transposition that does not count.
    """
    found: set[BlockArgument] = set()
    for op in kernel.finish.block.ops:
        if isinstance(op, TransposeOp) and op is not besides:
            x = op.args[0]
            if not isinstance(x, BlockArgument) or x.index == 0 or not x.has_one_use():
                return None
            found.add(x)
    return frozenset(found)


def ends_in_tiles(
    kernel: KernelOp, turned: frozenset[BlockArgument], m: GridDim, n: GridDim, tile: tuple[int, int]
) -> bool:
    """True where `finish` reads tiles, rows, columns and numbers alone, and keeps their shape."""
    block = kernel.finish.block
    if any(op.name.removeprefix("breccia.") not in _KEEPING for op in block.ops):
        return False
    for argument, i in zip(block.args[1:], kernel.tiles.finish_uses, strict=True):
        window = kernel.tiles.inputs[i]
        assert window is not None, "windows were checked"
        parts = list(zip(window.block, window.index, strict=True))
        if len(parts) == 1:  # a vector is a row: the same for all rows
            parts.insert(0, (1, 0))
        for (size, index), (whole, d) in zip(
            parts[:: -1 if argument in turned else 1], ((tile[0], m), (tile[1], n)), strict=True
        ):
            if size != 1 and not (size == whole and along(index, d)):
                return False
    return True


def stored_in_tiles(kernel: KernelOp, m: GridDim, n: GridDim, tile: tuple[int, int]) -> bool:
    """True where every result is a tile of the product, or one number for each of its rows."""
    for window in kernel.tiles.outputs:
        tall = window.block[0] == tile[0] and along(window.index[0], m) and along(window.index[1], n)
        if not tall or window.block[1] not in (tile[1], 1):
            return False
    return True
