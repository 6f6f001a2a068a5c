"""Folds leading axes that a product's other operand lacks into its rows. Contract: exact.

A product [B, S, K] x [K, N] is the one of [B * S, K]: so it takes the kernels of matrices. What comes before and after
it, element by element or along the last axis, folds with it, so that it stays in the same kernels; around it stand
reshapes of contiguous axes, which move nothing (other ones are copied by the array library).

    %q = breccia.quantize %x to #k128             %f = breccia.reshape %x to [B * S, 64]
    %y = breccia.matmul %q, %w            ->      %q = breccia.quantize %f to #k128
    %g = breccia.unary silu %y                    %y = breccia.matmul %q, %w
    func.return %g                                %g = breccia.unary silu %y
                                                  %r = breccia.reshape %g to [B, S, 32]    func.return %r
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.utils.exceptions import VerifyException

from breccia.ir import dims
from breccia.ir.attributes import IntsAttr
from breccia.ir.base import BrecciaOp
from breccia.ir.capabilities import TARGET_KEY, CapabilitiesAttr
from breccia.ir.dims import Dim
from breccia.ir.hints import ROWS_TOGETHER, scales_of_rows
from breccia.ir.ops import (
    BinaryOp,
    ConvertOp,
    DequantizeOp,
    GroupedMatmulOp,
    IotaOp,
    MatmulOp,
    QuantizeOp,
    ReduceOp,
    ReshapeOp,
    SelectOp,
    UnaryOp,
)
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import erase_dead, functions, insert_before, inserted, with_location
from breccia.ir.types import DimsAttr, RecipeAttr, ScaledType, TensorType
from breccia.passes._fold_views import VIEW_RULES
from breccia.passes.canonicalize import simplify

Shape = tuple[Dim, ...]
_ALONG_ROWS = (UnaryOp, BinaryOp, SelectOp, ConvertOp, QuantizeOp, DequantizeOp, ReduceOp, MatmulOp)
"""Ops that may treat each row alike."""
_FUSED = (UnaryOp, BinaryOp, SelectOp, ConvertOp, QuantizeOp)
"""Ops that would join the kernel of a product whose result they read."""


@dataclass(frozen=True)
class FoldBatch(BrecciaPass):
    """Invariant: products that both operands have leading axes for stay as they are, and so does all around them."""

    name: ClassVar[str] = "fold-batch"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        target = module.attributes.get(TARGET_KEY)
        together = isinstance(target, CapabilitiesAttr) and ROWS_TOGETHER in target.data.features
        for function in functions(module):
            block = function.body.block
            for ops in _parts(block, together=together):
                _fold(block, ops)
            simplify([op for op in block.ops if isinstance(op, ReshapeOp)], {ReshapeOp: VIEW_RULES[ReshapeOp]})
            erase_dead(block)


# -- what can be folded ------------------------------------------------------------------------------------------------


def _parts(block: Block, *, together: bool) -> list[list[Operation]]:
    """Ops that fold together, in order; each list holds what is to be folded, and nothing else joins its kernels."""
    able = {op: leading for op in block.ops if (leading := _leading(op)) is not None and _folded(op) is not None}
    towards: dict[Operation, Operation] = {op: op for op in able}

    def first(op: Operation) -> Operation:
        while towards[op] is not op:
            towards[op] = op = towards[towards[op]]
        return op

    for op, leading in able.items():
        for value in op.operands:
            other = value.owner
            if isinstance(other, Operation) and able.get(other) == leading and _spans(value, leading):
                towards[first(op)] = first(other)
    parts: dict[Operation, list[Operation]] = {}
    for op in able:
        parts.setdefault(first(op), []).append(op)
    return [ops for ops in parts.values() if any(_wants(op, together=together) for op in ops) and _closed(ops)]


def _wants(op: Operation, *, together: bool) -> bool:
    """True for what is to be folded: a product, and what enters or leaves a grouped one, whose rows are folded.

    together: also a cast whose scales are to lie by columns, which matrices have.
    """
    if isinstance(op, MatmulOp) or _enters_groups(op) or _leaves_groups(op):
        return True
    found = _folded(op) if together and isinstance(op, QuantizeOp) else None
    recipe = found[1]["recipe"] if found is not None else None
    return isinstance(recipe, RecipeAttr) and scales_of_rows(recipe.data, 2)


def _enters_groups(op: Operation) -> bool:
    reshapes = [use.operation for use in op.results[0].uses if isinstance(use.operation, ReshapeOp)]
    uses = [use for reshape in reshapes for use in reshape.out.uses]
    return any(isinstance(use.operation, GroupedMatmulOp) and use.index == 0 for use in uses)


def _leaves_groups(op: Operation) -> bool:
    for value in op.operands:
        source = value.owner.args[0].owner if isinstance(value.owner, ReshapeOp) else None
        while isinstance(source, ConvertOp):
            source = source.args[0].owner
        if isinstance(source, GroupedMatmulOp):
            return True
    return False


def _closed(ops: Sequence[Operation]) -> bool:
    """True where nothing outside would have joined the kernel of a product."""
    inside = set(ops)
    after: set[Operation] = set()
    for op in ops:
        if isinstance(op, MatmulOp) or _leaves_groups(op) or any(v.owner in after for v in op.operands):
            after.add(op)
    users = {use.operation for op in after for result in op.results for use in result.uses}
    return not any(isinstance(user, _FUSED) for user in users - inside)


def _leading(op: Operation) -> Shape | None:
    """The axes of an op's result before the last one, where there are several; not where they are known to hold
    nothing, which no tile covers.
    """
    shape = _shape(op.results[0].type) if isinstance(op, _ALONG_ROWS) else ()
    return shape[:-1] if len(shape) > 2 and _product(shape[:-1]) != 0 else None


def _shape(type_: Attribute) -> Shape:
    return type_.shape if isinstance(type_, TensorType | ScaledType) else ()


def _spans(value: SSAValue, leading: Shape) -> bool:
    """True where a value has exactly these axes before its last one."""
    return _shape(value.type)[:-1] == leading


def _flat_shape(shape: Shape, leading: Shape) -> Shape | None:
    """The folded shape of an operand; None where it differs along some of the leading axes."""
    if len(shape) < 2:
        return shape
    own = (*(1 for _ in range(len(leading) + 1 - len(shape))), *shape[:-1])
    if own == leading:
        return (_product(leading), shape[-1])
    return (1, shape[-1]) if all(size == 1 for size in own) else None


def _product(sizes: Shape) -> Dim:
    total: Dim = 1
    for size in sizes:
        total = dims.mul(total, size)
    return total


def _flat_type(type_: Attribute, shape: Shape) -> Attribute:
    """The type of a value after its reshape; raises VerifyException where blocks forbid it, or it would not go back."""
    if _shape(type_) == shape:
        return type_
    (flat,) = ReshapeOp.infer([type_], {"shape": DimsAttr(shape)})
    if ReshapeOp.infer([flat], {"shape": DimsAttr(_shape(type_))}) != [type_]:
        raise VerifyException(f"{type_} is another one after a reshape to {DimsAttr(shape)} and back")
    return flat


def _folded(op: Operation) -> tuple[list[Shape], dict[str, Attribute]] | None:
    """The shapes that an op's operands get and its properties then; None where it does not treat rows alike."""
    leading = _leading(op)
    assert leading is not None, "only ops with leading axes are asked about"
    assert isinstance(op, BrecciaOp), "ops along rows are of the dialect"
    if isinstance(op, MatmulOp):
        wanted = [_flat_shape(_shape(op.args[0].type), leading), _shape(op.args[1].type)]
        if len(_shape(op.args[1].type)) != 2:
            return None
    else:
        wanted = [_flat_shape(_shape(v.type), leading) for v in op.operands]
    shapes = [shape for shape in wanted if shape is not None]
    if len(shapes) < len(wanted) or any(isinstance(v.owner, IotaOp) and _shape(v.type) for v in op.operands):
        return None
    properties = dict(op.properties)
    if isinstance(op, ReduceOp):
        if op.data("axes") != (len(leading),):
            return None
        properties["axes"] = IntsAttr((1,))
    if isinstance(op, QuantizeOp) and op.properties["policy"].data.rounding == "stochastic":  # type: ignore[attr-defined]
        return None  # which depends on where an element lies
    try:
        types = [_flat_type(v.type, shape) for v, shape in zip(op.operands, shapes, strict=True)]
        out = _flat_type(op.results[0].type, (_product(leading), _shape(op.results[0].type)[-1]))
        if isinstance(op, QuantizeOp):
            assert isinstance(out, ScaledType), "quantize gives a scaled tensor"
            properties["recipe"] = out.encoding
        return (shapes, properties) if type(op).infer(types, properties) == [out] else None
    except VerifyException:
        return None


# -- folding -----------------------------------------------------------------------------------------------------------


def _fold(block: Block, ops: Sequence[Operation]) -> None:
    """Put folded ops in the place of `ops`, and reshapes where values come from elsewhere or are used there."""
    flat: dict[SSAValue, SSAValue] = {}
    for op in ops:
        found = _folded(op)
        assert found is not None, "ops were chosen by this"
        assert isinstance(op, BrecciaOp), "ops along rows are of the dialect"
        operands = [
            flat[v] if v in flat else _reshaped(v, shape, op) for v, shape in zip(op.operands, found[0], strict=True)
        ]
        new = type(op).make(*operands, **found[1])
        new.attributes |= op.attributes
        insert_before(op, new)
        new.results[0].name_hint = op.results[0].name_hint
        flat[op.results[0]] = new.results[0]
    inside = set(ops)
    for op in ops:
        result = op.results[0]
        if any(use.operation not in inside for use in result.uses):
            back = with_location(ReshapeOp.make(flat[result], shape=DimsAttr(_shape(result.type))), op)
            block.insert_op_after(back, op)
            back.out.name_hint = result.name_hint
            result.replace_uses_with_if(back.out, lambda use: use.operation not in inside)
    for op in reversed(ops):
        op.detach()
        op.erase()


def _reshaped(value: SSAValue, shape: Shape, before: Operation) -> SSAValue:
    """A value in another shape; itself where it has that one."""
    if _shape(value.type) == shape:
        return value
    made = ReshapeOp.make(value, shape=DimsAttr(shape))
    made.out.name_hint = value.name_hint
    return inserted(before, made)
