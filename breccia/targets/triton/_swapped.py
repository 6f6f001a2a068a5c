"""Products of few rows whose weight is decoded in registers: what `_gluon_weights` knows, read off the tiled form.

    step (%acc, %x, %w, %z, %s) {                 finish (%acc, ..) { %t = transpose %acc [1, 0]  elementwise ops ..}
      %c = unpack %w order packed4 size 128 ..
      %v = convert %c : bf16                      // or less a zero point, or times scales of blocks along k
      %p = dot nt %v, %x
      %q = binary mul %p, %f                      // any product of rows' scales in float32, or none
      %r = binary add %acc, %q
    }

`swap-operands` has made it: a tile of the form is 64 rows of the weight by the rows of the activation.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import BlockArgument, SSAValue

from breccia.codegen.lines import tensor_type
from breccia.formats import Format
from breccia.ir import dims
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import BinaryOp, ConvertOp, TransposeOp
from breccia.ir.tile_ops import DotOp, ExpandOp, MaskOp, UnpackOp
from breccia.ir.tiling import GridDim
from breccia.targets.triton._specialized import (
    ROWS,
    Product,
    along,
    ends_in_tiles,
    operand_of,
    plain_windows,
    stored_in_tiles,
    summed,
    turned_arguments,
)

DEPTHS = (32, 64, 128)
"""Elements along k that a step may have."""
WIDTHS = (16, 32, 64)
"""Rows of the activation that a tile may have: columns of the instruction."""


@dataclass(frozen=True)
class Decode:
    """How codes become what is multiplied. computed: "bf16" or "f16"; zero: the operand that holds a zero point for
    each row and step; scale: the operand that holds a scale for each row and `block` elements along k.
    """

    element: Format
    computed: str
    zero: int | None = None
    scale: int | None = None
    block: int = 0


@dataclass(frozen=True)
class Weights:
    """A kernel that fits. product: as for others, with the activation as its first operand, and `columns` of the
    result; rows: of the result in a tile; factors: operands with a scale of partial sums for each row of the weight.
    """

    product: Product
    rows: int
    decode: Decode
    factors: tuple[int, ...]


def swapped(kernel: KernelOp) -> Weights | None:
    """What is said above, if the kernel fits and its schedule asks for it; else None."""
    said = kernel.entries
    if "groups" not in said or "operands" not in said or not kernel.is_tiled or not kernel.step.blocks:
        return None
    t = kernel.tiles
    parallel, walked = t.dims("parallel"), t.dims("reduction")
    if len(parallel) != 2 or len(walked) != 1 or len(t.grid) != 3 or not plain_windows(kernel):
        return None
    found = _step(kernel)
    if found is None:
        return None
    dot, factors = found
    (rows, depth), kind = tensor_type(dot.args[1].type).shape, str(tensor_type(dot.args[1].type).dtype)
    if not isinstance(rows, int) or not isinstance(depth, int) or rows not in WIDTHS or depth not in DEPTHS:
        return None
    decoded, x = decode_of(kernel, dot.args[0], depth), operand_of(kernel, dot.args[1])
    if decoded is None or x is None or dot.data("form") != "nt":
        return None
    w, decode = decoded
    placed = _dims(kernel, x, w, parallel, walked[0], depth)
    if placed is None or kind != decode.computed:
        return None
    m, n = placed
    numbers = [_scale(kernel, f) for f in factors]
    rowwise = [number for number in (*numbers, decode.zero, decode.scale) if number is not None]
    if None in numbers or not all(_rowwise(kernel, number, n, walked[0]) for number in rowwise):
        return None
    turned = _ending(kernel, m, n, rows)
    if turned is None:
        return None
    product = Product(m, n, walked[0], x, w, ROWS, depth, False, (), False, turned)
    return Weights(product, rows, decode, tuple(number for number in numbers if number is not None))


def _step(kernel: KernelOp) -> tuple[DotOp, list[SSAValue]] | None:
    """The product of a step and what multiplies it, where nothing else reads the sums."""
    found, ops = summed(kernel), list(kernel.step.block.ops)
    if found is None or sum(isinstance(op, DotOp) for op in ops) != 1:
        return None
    carried = sum(kernel.step.block.args[0] in op.operands for op in ops)
    return found[:2] if carried == 1 else None


def _dims(
    kernel: KernelOp, x: int, w: int, parallel: tuple[GridDim, ...], k: GridDim, depth: int
) -> tuple[GridDim, GridDim] | None:
    """The dimensions that rows and columns of the result run along."""
    a, b = kernel.tiles.inputs[x], kernel.tiles.inputs[w]
    assert a is not None and b is not None, "windows were checked"  # noqa: PT018
    if not (along(a.index[1], k) and along(b.index[1], k)) or b.block != (ROWS, depth // 2) or a.block[1] != depth:
        return None
    for m, n in (parallel, parallel[::-1]):
        if along(a.index[0], m) and along(b.index[0], n):
            return m, n
    return None


def _ending(kernel: KernelOp, m: GridDim, n: GridDim, rows: int) -> frozenset[BlockArgument] | None:
    """The arguments of `finish` that are read as columns, if it turns the sums first and keeps tiles' shape then."""
    block = kernel.finish.block
    first = block.first_op
    if not isinstance(first, TransposeOp) or first.args[0] is not block.args[0] or not block.args[0].has_one_use():
        return None
    turned = turned_arguments(kernel, besides=first)
    if turned is None or not stored_in_tiles(kernel, m, n, (rows, ROWS)):
        return None
    return turned if ends_in_tiles(kernel, turned, m, n, (rows, ROWS)) else None


# -- decoding ----------------------------------------------------------------------------------------------------------


def decode_of(kernel: KernelOp, value: SSAValue, depth: int) -> tuple[int, Decode] | None:
    """The operand with the packed codes that `value` is decoded from, and how; None for what is not known here.

    depth: elements along k of a step.
    """
    value = _unmasked(value)
    op = value.owner
    if not isinstance(op, ConvertOp) or str(tensor_type(value.type).dtype) not in ("bf16", "f16"):
        return None
    computed, inner = str(tensor_type(value.type).dtype), op.args[0]
    codes = _codes(inner, depth)
    if codes is None and isinstance(inner.owner, BinaryOp):
        return _with_numbers(kernel, inner.owner, computed, depth)
    operand = operand_of(kernel, codes.args[0]) if codes is not None else None
    element = tensor_type(codes.out.type).format if codes is not None else None
    return (operand, Decode(element, computed)) if operand is not None and _known(element, computed) else None  # type: ignore[arg-type]


def _with_numbers(kernel: KernelOp, op: BinaryOp, computed: str, depth: int) -> tuple[int, Decode] | None:
    """Codes less a zero point, or times a scale."""
    left, right = (_unmasked(v) for v in op.args)
    codes = _codes(left.owner.args[0], depth) if isinstance(left.owner, ConvertOp) else None
    if codes is None:
        return None
    operand, element = operand_of(kernel, codes.args[0]), tensor_type(codes.out.type).format
    block = depth
    if isinstance(right.owner, ExpandOp):
        (block,) = right.owner.data("by")
        if right.owner.data("axis") != 1 or not isinstance(block, int) or depth % block:
            return None
        right = right.owner.args[0]
    number = operand_of(kernel, right.owner.args[0]) if isinstance(right.owner, ConvertOp) else None
    if number is None or operand is None or element is None or not _known(element, computed):
        return None
    fn = op.data("fn")
    if fn == "sub" and element.kind == "int" and not element.signed and block == depth:
        zero = tensor_type(kernel.args[number].type).format
        return (operand, Decode(element, computed, zero=number)) if zero == element else None
    if fn == "mul" and element.kind == "float":
        return operand, Decode(element, computed, scale=number, block=block)
    return None


def _known(element: Format | None, computed: str) -> bool:
    if element is None or element.bits != 4:
        return False
    return element.kind == "int" or (element.kind == "float" and computed == "bf16")


def _codes(value: SSAValue, depth: int) -> UnpackOp | None:
    op = _unmasked(value).owner
    whole = isinstance(op, UnpackOp) and op.data("order") == "packed4" and op.data("size") == (depth,)
    return op if whole and isinstance(op, UnpackOp) else None


def _unmasked(value: SSAValue) -> SSAValue:
    """What a mask along k is put on: beyond k the activation is zero, which does the same, since codes are finite."""
    op = value.owner
    return _unmasked(op.args[0]) if isinstance(op, MaskOp) and op.data("axis") == 1 else value


# -- scales ------------------------------------------------------------------------------------------------------------


def _scale(kernel: KernelOp, value: SSAValue) -> int | None:
    """The operand that a factor of each row is read from."""
    if tensor_type(value.type).shape != (ROWS, 1) or str(tensor_type(value.type).dtype) != "f32":
        return None
    value = value.owner.args[0] if isinstance(value.owner, ConvertOp) else value
    return operand_of(kernel, value) if str(tensor_type(value.type).dtype) in ("f32", "bf16", "f16") else None


def _rowwise(kernel: KernelOp, number: int, n: GridDim, k: GridDim) -> bool:
    """True where an operand has numbers for the rows of a tile, and other ones along k."""
    window = kernel.tiles.inputs[number]
    assert window is not None, "windows were checked"
    return window.block[0] == ROWS and along(window.index[0], n) and dims.symbols(window.index[1]) <= {k.name}
