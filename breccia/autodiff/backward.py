"""The backward function while it is built: gradients so far, and what the forward function has to save."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from xdsl.dialects import builtin
from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Attribute, Block, BlockArgument, Operation, SSAValue

from breccia.errors import GradientError
from breccia.ir.attributes import IntsAttr, NumberAttr
from breccia.ir.base import BrecciaOp
from breccia.ir.dims import Dim
from breccia.ir.ops import BinaryOp, ConvertOp, FullOp, IotaOp, ReduceOp, ReshapeOp, SelectOp, UnaryOp
from breccia.ir.rewriting import show_location, with_location
from breccia.ir.types import DimsAttr, ScaledType, TensorType, format_of, tensor


def differentiable(type_: Attribute) -> bool:
    """True for values that stand for real numbers: floats and stored elements, not truth values and indices."""
    return isinstance(type_, ScaledType) or (isinstance(type_, TensorType) and format_of(type_.dtype) is not None)


def gradient_type(type_: Attribute) -> TensorType:
    """The type in which the gradient of a value is summed: f32, so that f16 and bf16 are rounded once; f64 for f64."""
    assert isinstance(type_, TensorType | ScaledType), "only tensors have gradients"
    wide = isinstance(type_, TensorType) and type_.dtype == builtin.f64
    return tensor(type_.shape, builtin.f64 if wide else builtin.f32)


@dataclass
class Backward:
    """Where rules write to.

    Invariants: `gradients` holds a value of `gradient_type` for active values alone; every value in it, and in `saved`,
    belongs to `block`.
    """

    active: Collection[SSAValue]
    """Values of the forward function that depend on an argument whose gradient is wanted."""
    block: Block = field(default_factory=Block)
    gradients: dict[SSAValue, SSAValue] = field(default_factory=dict[SSAValue, SSAValue])
    saved: dict[SSAValue, BlockArgument] = field(default_factory=dict[SSAValue, BlockArgument])
    """Values of the forward function that the backward one takes, and the arguments by which it takes them."""
    place: Operation | None = None
    """The op of the forward function that is being differentiated: its line becomes that of what is emitted."""
    constants: dict[SSAValue, SSAValue] = field(default_factory=dict[SSAValue, SSAValue])

    def emit(self, kind: type[BrecciaOp], *args: SSAValue, **props: Any) -> SSAValue:
        """The only result of a new op at the end of the block."""
        (result,) = self.emit_all(kind, *args, **props)
        return result

    def emit_all(self, kind: type[BrecciaOp], *args: SSAValue, **props: Any) -> list[SSAValue]:
        """The results of a new op at the end of the block."""
        return self.append(kind.make(*args, **props))

    def append(self, op: BrecciaOp) -> list[SSAValue]:
        """The results of `op`, put at the end of the block with the line of what is being differentiated."""
        self.block.add_op(op if self.place is None else with_location(op, self.place))
        return list(op.outs)

    def save(self, value: SSAValue) -> SSAValue:
        """A value of the forward function, in the backward one. Constants are made again, everything else is saved."""
        owner = value.owner
        if isinstance(owner, FullOp | IotaOp):
            if value not in self.constants:
                copy = owner.clone()
                self.block.add_op(with_location(copy, owner))
                self.constants[value] = copy.out
            return self.constants[value]
        if value not in self.saved:
            argument = self.block.insert_arg(value.type, len(self.block.args))
            argument.name_hint = value.name_hint
            if isinstance(owner, Operation):
                argument.location = owner.location
            self.saved[value] = argument
        return self.saved[value]

    def wants(self, value: SSAValue) -> bool:
        """True if the gradient of a value is needed."""
        return value in self.active

    def add(self, value: SSAValue, make: Callable[[], SSAValue]) -> None:
        """Add to the gradient of a value, if it is needed, what `make` emits.

        Axes along which the value was broadcast are summed, and the dtype becomes that of the gradient.
        """
        if not self.wants(value):
            return
        wanted = gradient_type(value.type)
        new = self.convert(self.summed_to(make(), wanted.shape), wanted.dtype)
        if new.type != wanted and self.place is not None:
            raise no_gradient(
                self.place, f"of an operand of {wanted} it would be {new.type}, and these sizes cannot be told to be "
                "equal; make them static, or slice from the start or to the end"
            )  # fmt: skip
        known = self.gradients.get(value)
        self.gradients[value] = new if known is None else self.binary("add", known, new)

    def summed_to(self, x: SSAValue, shape: tuple[Dim, ...]) -> SSAValue:
        """`x` summed over the axes along which an array of `shape` was broadcast to it."""
        found = shape_of(x)
        lead = len(found) - len(shape)
        spread = [i for i, d in enumerate(shape, lead) if d == 1 and found[i] != 1]
        axes = (*range(lead), *spread)
        if axes:
            x = self.emit(ReduceOp, x, fn=StringAttr("sum"), axes=IntsAttr(axes))
        return self.emit(ReshapeOp, x, shape=DimsAttr(shape)) if lead else x

    # -- short names for what rules are written in ---------------------------------------------------------------------

    def unary(self, fn: str, x: SSAValue) -> SSAValue:
        return self.emit(UnaryOp, x, fn=StringAttr(fn))

    def binary(self, fn: str, x: SSAValue, y: SSAValue) -> SSAValue:
        return self.emit(BinaryOp, x, y, fn=StringAttr(fn))

    def mul(self, x: SSAValue, *others: SSAValue) -> SSAValue:
        """The product, from the left."""
        for other in others:
            x = self.binary("mul", x, other)
        return x

    def number(self, value: float, like: SSAValue) -> SSAValue:
        """A constant of rank 0 in the dtype of `like`."""
        assert isinstance(like.type, TensorType), "constants are plain tensors"
        return self.full(value, (), like.type.dtype)

    def full(self, value: float, shape: tuple[Dim, ...], dtype: Attribute) -> SSAValue:
        """A constant array."""
        return self.emit(FullOp, value=NumberAttr(value), shape=DimsAttr(shape), dtype=dtype)

    def where(self, condition: SSAValue, x: SSAValue, y: SSAValue) -> SSAValue:
        return self.emit(SelectOp, condition, x, y)

    def convert(self, x: SSAValue, dtype: Attribute) -> SSAValue:
        """`x` in a dtype; itself where it has it."""
        assert isinstance(x.type, TensorType), "only plain tensors are converted"
        return x if x.type.dtype == dtype else self.emit(ConvertOp, x, dtype=dtype)

    def sign(self, x: SSAValue) -> SSAValue:
        """1, -1, or 0 at 0 and NaN."""
        zero, one = self.number(0.0, x), self.number(1.0, x)
        below = self.where(self.binary("lt", x, zero), self.number(-1.0, x), zero)
        return self.where(self.binary("gt", x, zero), one, below)


def shape_of(x: SSAValue) -> tuple[Dim, ...]:
    """The logical shape of a value."""
    assert isinstance(x.type, TensorType | ScaledType), "values are tensors"
    return x.type.shape


Rule = Callable[[Backward, Any, SSAValue], None]
"""From an op and the gradient of its result to gradients of its operands, added to the backward function."""


def no_gradient(op: Operation, why: str) -> GradientError:
    """The error for an op that cannot be differentiated, naming the user's line."""
    place = show_location(op)
    word = op.properties.get("fn")
    name = op.name.removeprefix("breccia.") + (f" {word.data}" if isinstance(word, StringAttr) else "")
    return GradientError(f"{place + ': ' if place else ''}{name} has no gradient: {why}")
