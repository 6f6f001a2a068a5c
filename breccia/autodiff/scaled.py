"""Derivatives of encoding, decoding and products. The gradient of a scaled tensor is that of its decoded values, f32.

q = quantize x            dx = dq where the element was not saturated, else 0; scales are constants
x = dequantize q          dq = dx
y = matmul a, b           da = dy bᵀ,  db = aᵀ dy, summed over leading axes that were broadcast
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from xdsl.dialects import builtin
from xdsl.ir import SSAValue

from breccia import formats
from breccia.autodiff.backward import Backward, no_gradient, shape_of
from breccia.formats import Format
from breccia.ir.attributes import IntsAttr
from breccia.ir.ops import (
    AssembleOp,
    DequantizeOp,
    GroupedMatmulOp,
    MatmulOp,
    PartsOp,
    QuantizeOp,
    ScalesOp,
    TransposeOp,
)
from breccia.ir.types import TensorType
from breccia.numerics.decode import element_range

_NARROW = (builtin.f16, builtin.bf16)


def dequantize(b: Backward, op: DequantizeOp, g: SSAValue) -> None:
    """The gradient of a scaled tensor is that of its decoded values."""
    b.add(op.args[0], lambda: g)


def quantize(b: Backward, op: QuantizeOp, g: SSAValue) -> None:
    """Straight through (Bengio et al. 2013), but 0 where the element saturated, and in blocks with NaN if any may."""
    x = op.args[0]

    def inside() -> SSAValue:
        values, zero = b.convert(b.save(x), builtin.f32), b.number(0.0, g)
        low, high = _limits(b, op)
        fits = b.binary("and", b.binary("ge", values, low), b.binary("le", values, high))
        return b.where(fits, g, zero)

    b.add(x, inside if may_saturate(op) else lambda: g)


def may_saturate(op: QuantizeOp) -> bool:
    """True unless the scales of every block are sure to make room for its amax."""
    recipe, policy = op.recipe.data, op.policy.data
    symmetric = recipe.zero_point is None and recipe.offset is None
    roomy = recipe.innermost.dtype.is_power_of_two or recipe.innermost.dtype == formats.float32
    own = "given" not in op.properties and policy.scale in ("exact", "ceil") and policy.max is None
    return not (own and symmetric and roomy)


def reach(element: Format) -> tuple[float, float]:
    """The numbers that still round to an element: half a step beyond the smallest and the largest one.

    >>> from breccia import formats
    >>> reach(formats.float8_e4m3fn), reach(formats.int8)
    ((-464.0, 464.0), (-128.5, 127.5))
    """
    smallest, largest = element_range(element)
    decoded = {element.decode_code(code) for code in range(1 << element.bits)}
    values = sorted(v for v in decoded if smallest <= v <= largest)
    steps = [after - before for before, after in pairwise(values)]
    return smallest - steps[0] / 2, largest + steps[-1] / 2


def _limits(b: Backward, op: QuantizeOp) -> tuple[SSAValue, SSAValue]:
    """What every element could just have held, in value units: with a zero point or an offset, by decoding it."""
    element = op.recipe.data.element
    q = b.save(op.out)
    scales = b.emit(ScalesOp, q)
    low, high = reach(element)
    if op.recipe.data.zero_point is None and op.recipe.data.offset is None:
        return b.mul(scales, b.number(low, scales)), b.mul(scales, b.number(high, scales))
    smallest, largest = element_range(element)
    below, above = _decoded(b, q, smallest), _decoded(b, q, largest)
    return (
        b.binary("add", below, b.mul(scales, b.number(low - smallest, scales))),
        b.binary("add", above, b.mul(scales, b.number(high - largest, scales))),
    )


def _decoded(b: Backward, q: SSAValue, number: float) -> SSAValue:
    """What every element of `q` would decode to if it were `number`."""
    elements, *side = b.emit_all(PartsOp, q)
    assert isinstance(elements.type, TensorType), "elements are a plain tensor"
    codes = b.convert(b.full(number, shape_of(q), builtin.f32), elements.type.dtype)
    return b.emit(DequantizeOp, b.emit(AssembleOp, codes, *side, type=q.type))


def transposed(b: Backward, x: SSAValue) -> SSAValue:
    """`x` with its last two axes exchanged; blocks move along."""
    rank = len(shape_of(x))
    return b.emit(TransposeOp, x, order=IntsAttr((*range(rank - 2), rank - 1, rank - 2)))


def gradient_operand(b: Backward, x: SSAValue, w: SSAValue, g: SSAValue) -> SSAValue:
    """The gradient of a product as its gradients multiply it: rounded to the narrow float of two plain operands."""
    plain = [v.type.dtype for v in (x, w) if isinstance(v.type, TensorType)]
    return b.convert(g, plain[0]) if len(plain) == 2 and plain[0] == plain[1] and plain[0] in _NARROW else g


def matmul(b: Backward, op: MatmulOp, g: SSAValue) -> None:
    """Of plain operands in one narrow float, the products of the gradient are of that float too, as in frameworks."""
    x, w = op.args
    props: dict[str, Any] = {key: op.properties[key] for key in ("accuracy", "compute") if key in op.properties}
    g = gradient_operand(b, x, w, g)
    b.add(x, lambda: b.emit(MatmulOp, g, transposed(b, b.save(w)), **props))
    b.add(w, lambda: b.emit(MatmulOp, transposed(b, b.save(x)), g, **props))


def grouped_matmul(b: Backward, op: GroupedMatmulOp, g: SSAValue) -> None:
    """Of the rows alone: the same groups of the gradient, times each group's transposed weights."""
    x, w, table = op.args
    if b.wants(w):
        raise no_gradient(
            op, "the products of each group's rows, which its weights need, are not an op yet; take the gradient of x "
            "alone (stop_gradient of w), or write the groups as matmuls"
        )  # fmt: skip
    props: dict[str, Any] = {key: op.properties[key] for key in ("compute", "each") if key in op.properties}
    b.add(x, lambda: b.emit(GroupedMatmulOp, g, transposed(b, b.save(w)), b.save(table), **props))
