"""What all ops of the dialect share: one syntax, inferred result types, one constructor.

An op is written `breccia.name [word] operands [keyword value]...`, and its result types follow from its operands and
properties, so regions print without types. `infer` is both the constructor's and the verifier's rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from xdsl.dialects.builtin import IntAttr, StringAttr
from xdsl.ir import Attribute, Operation, OpResult, SSAValue
from xdsl.irdl import IRDLOperation, var_operand_def, var_result_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.mlir_lexer import MLIRTokenKind

from breccia.ir import dims
from breccia.ir.attributes import IntsAttr, NumberAttr, number, parse_number
from breccia.ir.dims import Dim
from breccia.ir.types import DimsAttr, ScaledType, TensorType, is_compute

_WRONG_KIND = (AttributeError, TypeError, KeyError)
"""What `infer` runs into where text gives `policy 5`: properties are attributes of any class until then."""
FieldKind = Literal["word", "name", "int", "ints", "number", "dim", "dims", "type", "attr"]


@dataclass(frozen=True)
class Field:
    """One property in the syntax. A `word` stands before the operands, everything else after them.

    keyword: what introduces the value; empty for a word.
    """

    prop: str
    kind: FieldKind
    keyword: str = ""
    optional: bool = False


def _parse_dims(parser: Parser) -> Attribute:
    return DimsAttr(DimsAttr.parse_parameter(parser))


_PARSE: dict[FieldKind, Callable[[Parser], Attribute]] = {
    "word": lambda p: StringAttr(p.parse_identifier()),
    "name": lambda p: StringAttr(p.parse_identifier()),
    "int": lambda p: IntAttr(p.parse_integer()),
    "ints": lambda p: IntsAttr(IntsAttr.parse_parameter(p)),
    "number": lambda p: NumberAttr(parse_number(p)),
    "dim": lambda p: DimsAttr((dims.parse(p),)),
    "dims": _parse_dims,
    "type": lambda p: p.parse_type(),
    "attr": lambda p: p.parse_attribute(),
}


def _print_field(printer: Printer, kind: FieldKind, value: Any) -> None:
    if kind in ("word", "name", "int"):
        printer.print_string(str(value.data))
    elif kind == "number":
        printer.print_string(number(value.data))
    elif kind == "dim":
        printer.print_string(dims.show(value.data[0]))
    elif kind in ("ints", "dims"):
        value.print_parameter(printer)
    else:
        printer.print_attribute(value)


class BrecciaOp(IRDLOperation):
    """Base of all ops but `kernel`. Invariant, held by the verifier: result types equal `infer(...)`."""

    args = var_operand_def()
    outs = var_result_def()

    SYNTAX: ClassVar[tuple[Field, ...]] = ()
    ARITY: ClassVar[tuple[int, int | None]] = (1, 1)
    """Fewest and most operands; None for no upper bound."""

    @classmethod
    def infer(cls, types: Sequence[Attribute], props: Mapping[str, Any]) -> list[Attribute]:
        """Result types from operand types and properties; raises VerifyException naming operand, shape, recipe."""
        raise NotImplementedError(f"{cls.__name__}.infer")

    @classmethod
    def make(cls, *args: SSAValue | Operation, **props: Attribute) -> Self:
        """A new op with inferred result types."""
        operands = [SSAValue.get(a) for a in args]
        cls.check_arity(len(operands))
        results = cls.infer([o.type for o in operands], props)
        return cls(operands=[operands], result_types=[results], properties=dict(props))

    @classmethod
    def check_arity(cls, given: int) -> None:
        low, high = cls.ARITY
        if given < low or (high is not None and given > high):
            wanted = str(low) if low == high else f"{low} to {high}" if high is not None else f"at least {low}"
            raise VerifyException(f"{cls.name} has {given} operands; it takes {wanted}")

    @property
    def out(self) -> OpResult:
        """The only result."""
        return self.outs[0]  # type: ignore[return-value]

    def data(self, prop: str) -> Any:
        """The Python value of a property: the name of a function, axes, a shape, a recipe."""
        return self.properties[prop].data  # type: ignore[attr-defined]

    @property
    def short_name(self) -> str:
        """`dot` for `breccia.dot`."""
        return self.name.removeprefix("breccia.")

    def verify_(self) -> None:
        self.check_arity(len(self.args))
        try:
            wanted = self.infer([a.type for a in self.args], self.properties)
        except _WRONG_KIND as error:
            raise VerifyException(f"{self.name}: a property is missing or of the wrong kind: {error}") from error
        found = [r.type for r in self.outs]
        if found != wanted:
            raise VerifyException(
                f"{self.name}: result types are {', '.join(map(str, found)) or 'none'}; "
                f"the operands give {', '.join(map(str, wanted)) or 'none'}"
            )

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        props: dict[str, Attribute] = {}
        start = parser._current_token.span  # pyright: ignore[reportPrivateUsage]
        for f in cls.SYNTAX:
            if f.kind == "word":
                props[f.prop] = _PARSE["word"](parser)
        operands: list[SSAValue] = []
        token = parser._current_token  # pyright: ignore[reportPrivateUsage]
        if token.kind == MLIRTokenKind.PERCENT_IDENT:
            operands = parser.parse_comma_separated_list(parser.Delimiter.NONE, lambda: parse_defined(parser))
        for f in cls.SYNTAX:
            if f.kind == "word":
                continue
            if f.optional and not cls._starts(parser, f.keyword):
                continue
            cls._expect(parser, f.keyword)
            props[f.prop] = _PARSE[f.kind](parser)
        attributes = parser.parse_optional_attr_dict()
        try:
            op = cls.make(*operands, **props)
            op.attributes.update(attributes)
            return op
        except VerifyException as error:
            parser.raise_error(f"{cls.name}: {error}", start)
        except _WRONG_KIND as error:
            parser.raise_error(f"{cls.name}: a property is of the wrong kind: {error}", start)

    @staticmethod
    def _starts(parser: Parser, keyword: str) -> bool:
        token = parser._current_token  # pyright: ignore[reportPrivateUsage]
        return token.text == keyword

    @staticmethod
    def _expect(parser: Parser, keyword: str) -> None:
        if keyword == ":":
            parser.parse_punctuation(":")
        elif keyword:
            parser.parse_keyword(keyword)

    def print(self, printer: Printer) -> None:
        for f in self.SYNTAX:
            if f.kind == "word":
                printer.print_string(f" {self.properties[f.prop].data}")  # type: ignore[attr-defined]
        if self.args:
            printer.print_string(" ")
            printer.print_list(self.args, printer.print_operand)
        for f in self.SYNTAX:
            if f.kind == "word" or f.prop not in self.properties:
                continue
            printer.print_string(f" {f.keyword} " if f.keyword else " ")
            _print_field(printer, f.kind, self.properties[f.prop])
        printer.print_op_attributes(self.attributes)


def parse_defined(parser: Parser) -> SSAValue:
    """An operand that is defined before its use, so that its type is known."""
    unresolved = parser.parse_unresolved_operand()
    found = parser.ssa_values.get(unresolved.operand_name)
    if found is None or unresolved.index >= len(found):
        parser.raise_error(f"%{unresolved.operand_name} is not defined before this use", unresolved.span)
    return found[unresolved.index]


def as_tensor(op: str, operand: str, type_: Attribute) -> TensorType:
    """`type_` if it is a plain tensor; else an error that names the operand and what to do."""
    if isinstance(type_, TensorType):
        return type_
    hint = "; dequantize it first" if isinstance(type_, ScaledType) else ""
    raise VerifyException(f"{op}: {operand} is {type_}, a !breccia.tensor is wanted{hint}")


def as_scaled(op: str, operand: str, type_: Attribute) -> ScaledType:
    """`type_` if it is a scaled tensor; else an error."""
    if isinstance(type_, ScaledType):
        return type_
    raise VerifyException(f"{op}: {operand} is {type_}, a !breccia.scaled is wanted; quantize it first")


def as_array(op: str, operand: str, type_: Attribute) -> TensorType | ScaledType:
    """`type_` if it is a plain or a scaled tensor; else an error."""
    if isinstance(type_, TensorType | ScaledType):
        return type_
    raise VerifyException(f"{op}: {operand} is {type_}; a !breccia.tensor or !breccia.scaled is wanted")


def broadcast_shapes(op: str, shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
    """NumPy's rule: axes are aligned at the right, and an axis of size 1 meets any size."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = []
    for axis in range(rank):
        sizes = {s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0}
        many = sizes - {1}
        if len(many) > 1:
            text = " and ".join(show_shape(s) for s in shapes)
            raise VerifyException(f"{op}: shapes {text} do not broadcast: axis {axis} has {_sizes(many)}")
        out.append(many.pop() if many else 1)
    return tuple(out)


def _sizes(sizes: set[Dim]) -> str:
    return " and ".join(sorted(map(dims.show, sizes)))


def show_shape(shape: Sequence[Dim]) -> str:
    """A shape as text: `[M, 256]`."""
    return "[" + ", ".join(map(dims.show, shape)) + "]"


def check_axis(op: str, axis: int, rank: int) -> None:
    """Raise VerifyException unless `axis` is one of `rank` axes, counted from 0."""
    if not 0 <= axis < rank:
        raise VerifyException(f"{op}: axis {axis} is out of range for a tensor of rank {rank}")


def as_compute(op: str, operand: str, type_: Attribute) -> TensorType:
    """`type_` if elementwise ops may compute on it: f32, f64, i1, i32 or i64."""
    t = as_tensor(op, operand, type_)
    if not is_compute(t.dtype):
        raise VerifyException(
            f"{op}: {operand} is {t}; elementwise ops take f32, f64, i1, i32 or i64: convert it first"
        )
    return t


def known_function(op: str, fn: str, allowed: Sequence[str]) -> str:
    """`fn` if it is one of `allowed`."""
    if fn not in allowed:
        raise VerifyException(f"{op}: unknown function {fn!r}; known: {', '.join(allowed)}")
    return fn
