"""Sizes and indices that may be unknown: small expressions over symbols.

A `Dim` is an int, or an `Expr` over symbols (`M`), grid dimensions (`m`) and table look-ups (`%offsets[e]`). Building
an expression folds constants, so two sizes that are written alike are equal as values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from breccia.errors import ShapeError

if TYPE_CHECKING:
    from xdsl.parser import AttrParser

Dim = Union[int, "Expr"]

MAX_TERMS = 64
"""Most terms, and factors of a term, in the text of one size."""
_INFIX = {"add": "+", "sub": "-", "mul": "*", "floordiv": "floordiv"}
_CALLS = ("ceildiv", "min", "max")


@dataclass(frozen=True)
class Expr:
    """Base of the expressions; supports `+ - * //` with ints and other expressions."""

    def __add__(self, other: Dim) -> Dim:
        return add(self, other)

    def __radd__(self, other: Dim) -> Dim:
        return add(other, self)

    def __sub__(self, other: Dim) -> Dim:
        return sub(self, other)

    def __mul__(self, other: Dim) -> Dim:
        return mul(self, other)

    def __rmul__(self, other: Dim) -> Dim:
        return mul(other, self)

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __repr__(self) -> str:
        return show(self)


@dataclass(frozen=True, repr=False)
class Sym(Expr):
    """A size that is known only at the call, or a grid dimension."""

    name: str


@dataclass(frozen=True, repr=False)
class Op(Expr):
    """One of add, sub, mul, floordiv, ceildiv, min, max."""

    kind: str
    left: Dim
    right: Dim


@dataclass(frozen=True, repr=False)
class Lookup(Expr):
    """Entry `index` of the kernel's operand number `operand`, a one-dimensional integer table."""

    operand: int
    index: Dim


def add(a: Dim, b: Dim) -> Dim:
    """A + b, folded; constants stand last.

    >>> add(1, sub(Sym("M"), 1))
    M
    """
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if a == 0:
        return b
    if b == 0:
        return a
    if isinstance(a, int):
        return add(b, a)
    if isinstance(b, int) and isinstance(a, Op) and a.kind == "add" and isinstance(a.right, int):
        return add(a.left, a.right + b)
    for rest, other in ((a, b), (b, a)):
        if isinstance(rest, Op) and rest.kind == "sub" and rest.right == other:
            return rest.left
    return Op("add", a, b)


def sub(a: Dim, b: Dim) -> Dim:
    """A - b, folded.

    >>> sub(add(Sym("M"), Sym("N")), Sym("M")), sub(Sym("M"), sub(Sym("M"), 1))
    (N, 1)
    """
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    if b == 0:
        return a
    if isinstance(a, Op) and a.kind == "add" and b in (a.left, a.right):
        return a.left if a.right == b else a.right
    if isinstance(b, Op) and b.kind == "sub" and b.left == a:
        return b.right
    return 0 if a == b else Op("sub", a, b)


def mul(a: Dim, b: Dim) -> Dim:
    """A * b, folded."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if a == 0 or b == 0:
        return 0
    if a == 1:
        return b
    if b == 1:
        return a
    if isinstance(b, int) and isinstance(a, Op) and a.kind == "mul" and isinstance(a.right, int):
        return mul(a.left, a.right * b)
    return mul(b, a) if isinstance(a, int) else Op("mul", a, b)


def floordiv(a: Dim, b: Dim) -> Dim:
    """A / b rounded down, folded."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1:
        return a
    return _divide_product(a, b) or Op("floordiv", a, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """Smallest whole number not below a / b.

    >>> ceildiv(Sym("M"), 128), ceildiv(300, 128)
    (ceildiv(M, 128), 3)
    """
    if isinstance(a, int) and isinstance(b, int):
        return -(-a // b)
    if b == 1:
        return a
    if a == b:
        return 1
    if isinstance(a, Op) and a.kind == "ceildiv" and isinstance(a.right, int) and isinstance(b, int):
        return ceildiv(a.left, a.right * b)
    return _divide_product(a, b) or Op("ceildiv", a, b)


def _divide_product(a: Dim, b: Dim) -> Dim | None:
    """A / b where a is visibly a multiple of b."""
    if isinstance(a, Op) and a.kind == "mul":
        if a.right == b:
            return a.left
        if isinstance(a.right, int) and isinstance(b, int) and a.right % b == 0:
            return mul(a.left, a.right // b)
    return None


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller of a and b, folded."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return a if a == b else Op("min", a, b)


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of a and b, folded."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return a if a == b else Op("max", a, b)


_BUILD: dict[str, Callable[[Dim, Dim], Dim]] = {
    "add": add, "sub": sub, "mul": mul, "floordiv": floordiv, "ceildiv": ceildiv, "min": minimum, "max": maximum,
}  # fmt: skip


def _max(a: Any, b: Any) -> Any:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else a * (a >= b) + b * (a < b)


_EVALUATE: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "ceildiv": lambda a, b: -(-a // b),
    "min": lambda a, b: -_max(-a, -b),
    "max": _max,
}


def evaluate(dim: Dim, env: Mapping[str, Any], lookup: Callable[[int, Any], Any] | None = None) -> Any:
    """The value of `dim` where `env` gives every symbol; values may be ints or integer arrays.

    Raises ShapeError for a symbol that `env` lacks.
    """
    if isinstance(dim, int):
        return dim
    if isinstance(dim, Sym):
        if dim.name not in env:
            raise ShapeError(f"size {dim.name} is unknown here; known: {', '.join(sorted(env)) or 'none'}")
        return env[dim.name]
    if isinstance(dim, Lookup):
        if lookup is None:
            raise ShapeError(f"{show(dim)} reads a table, which is not at hand here")
        return lookup(dim.operand, evaluate(dim.index, env, lookup))
    assert isinstance(dim, Op), "Dim is an int, Sym, Lookup or Op"
    return _EVALUATE[dim.kind](evaluate(dim.left, env, lookup), evaluate(dim.right, env, lookup))


def substitute(dim: Dim, env: Mapping[str, Dim]) -> Dim:
    """`dim` with symbols replaced, folded again."""
    if isinstance(dim, Sym):
        return env.get(dim.name, dim)
    if isinstance(dim, Lookup):
        return Lookup(dim.operand, substitute(dim.index, env))
    if isinstance(dim, Op):
        return _BUILD[dim.kind](substitute(dim.left, env), substitute(dim.right, env))
    return dim


def walk(dim: Dim) -> Iterator[Dim]:
    """`dim` and every expression in it."""
    yield dim
    if isinstance(dim, Op):
        yield from walk(dim.left)
        yield from walk(dim.right)
    elif isinstance(dim, Lookup):
        yield from walk(dim.index)


def symbols(dim: Dim) -> set[str]:
    """The names of all symbols in `dim`."""
    return {d.name for d in walk(dim) if isinstance(d, Sym)}


def has_lookup(dim: Dim) -> bool:
    """True where evaluating `dim` reads a table."""
    return any(isinstance(d, Lookup) for d in walk(dim))


def show(dim: Dim, operand_name: Callable[[int], str] = lambda i: f"table({i})") -> str:
    """`dim` as text that `parse` reads back. `operand_name` spells the table of a look-up."""
    if isinstance(dim, int):
        return str(dim)
    if isinstance(dim, Sym):
        return dim.name
    if isinstance(dim, Lookup):
        return f"{operand_name(dim.operand)}[{show(dim.index, operand_name)}]"
    assert isinstance(dim, Op), "Dim is an int, Sym, Lookup or Op"
    left, right = show(dim.left, operand_name), show(dim.right, operand_name)
    if dim.kind in _CALLS:
        return f"{dim.kind}({left}, {right})"
    if isinstance(dim.left, Op) and dim.left.kind in _INFIX and (dim.kind in ("mul", "floordiv")):
        left = f"({left})" if dim.left.kind in ("add", "sub") else left
    if isinstance(dim.right, Op) and dim.right.kind in _INFIX:
        right = f"({right})"
    return f"{left} {_INFIX[dim.kind]} {right}"


def parse(parser: AttrParser, operand_index: Callable[[str], int] | None = None) -> Dim:
    """Read an expression: `ceildiv(M, 128)`, `2 * G + 1`, `%offsets[e + 1]`, `h floordiv 2`."""
    left = _parse_product(parser, operand_index)
    for _ in range(MAX_TERMS):
        if parser.parse_optional_punctuation("+"):
            left = add(left, _parse_product(parser, operand_index))
        elif parser.parse_optional_punctuation("-"):
            left = sub(left, _parse_product(parser, operand_index))
        else:
            return left
    return parser.raise_error(f"a size has more than {MAX_TERMS} terms")


def _parse_product(parser: AttrParser, operand_index: Callable[[str], int] | None) -> Dim:
    left = _parse_atom(parser, operand_index)
    for _ in range(MAX_TERMS):
        if parser.parse_optional_punctuation("*"):
            left = mul(left, _parse_atom(parser, operand_index))
        elif parser.parse_optional_keyword("floordiv"):
            left = _divided(parser, floordiv, left, _parse_atom(parser, operand_index))
        else:
            return left
    return parser.raise_error(f"a size has more than {MAX_TERMS} factors")


def _parse_atom(parser: AttrParser, operand_index: Callable[[str], int] | None) -> Dim:
    integer = parser.parse_optional_integer(allow_boolean=False)
    if integer is not None:
        return integer
    if parser.parse_optional_punctuation("("):
        inner = parse(parser, operand_index)
        parser.parse_punctuation(")")
        return inner
    table = _parse_optional_table(parser, operand_index)
    if table is not None:
        parser.parse_punctuation("[")
        index = parse(parser, operand_index)
        parser.parse_punctuation("]")
        return Lookup(table, index)
    name = parser.parse_identifier(" in a size: an integer, a symbol, ceildiv(..), min(..) or max(..)")
    if name not in _CALLS:
        return Sym(name)
    parser.parse_punctuation("(")
    a = parse(parser, operand_index)
    parser.parse_punctuation(",")
    b = parse(parser, operand_index)
    parser.parse_punctuation(")")
    return _divided(parser, _BUILD[name], a, b) if name == "ceildiv" else _BUILD[name](a, b)


def _divided(parser: AttrParser, divide: Callable[[Dim, Dim], Dim], a: Dim, b: Dim) -> Dim:
    if b == 0:
        parser.raise_error("a size is divided by zero")
    return divide(a, b)


def _parse_optional_table(parser: AttrParser, operand_index: Callable[[str], int] | None) -> int | None:
    from xdsl.utils.mlir_lexer import MLIRTokenKind

    if operand_index is not None:
        token = parser._parse_optional_token(MLIRTokenKind.PERCENT_IDENT)  # pyright: ignore[reportPrivateUsage]
        return None if token is None else operand_index(token.text[1:])
    if parser.parse_optional_keyword("table") is None:
        return None
    parser.parse_punctuation("(")
    operand = parser.parse_integer()
    parser.parse_punctuation(")")
    return operand
