"""Sizes and coordinates as C expressions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from breccia.codegen.names import comment
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim

_OPERATORS = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "floordiv": ("/", 2)}
_ATOM = re.compile(r"\w+(\[\w+\]|\(\w+\))?")


def size_text(
    dim: Dim, names: Mapping[str, str], table: Callable[[int, str], str] | None = None, strength: int = 0
) -> str:
    """A size, which is never negative, as a C expression. `table` spells an entry of an operand.

    >>> size_text(dims.ceildiv(dims.Sym("M"), 128), {"M": "M"})
    '(M + 127) / 128'
    """

    def text(d: Dim, strength: int = 0) -> str:
        return size_text(d, names, table, strength)

    if isinstance(dim, int):
        return str(dim)
    if isinstance(dim, dims.Sym):
        if dim.name not in names:
            raise UnsupportedError(f"metal: size {comment(dim.name)} cannot be found from the arguments' shapes")
        return names[dim.name]
    if isinstance(dim, dims.Lookup):
        if table is None:
            raise UnsupportedError(f"metal: {dims.show(dim)} reads a table outside of a kernel")
        return table(dim.operand, text(dim.index))
    assert isinstance(dim, dims.Op), "a size is an int, a symbol, a look-up or an operation"
    if dim.kind in _OPERATORS:
        sign, own = _OPERATORS[dim.kind]
        joined = f"{text(dim.left, own)} {sign} {text(dim.right, own + 1)}"
        return f"({joined})" if own < strength else joined
    if dim.kind == "ceildiv":
        joined = f"({text(dims.add(dim.left, dims.sub(dim.right, 1)))}) / {text(dim.right, 3)}"
        return f"({joined})" if strength > 2 else joined
    return f"{dim.kind}({text(dim.left)}, {text(dim.right)})"


def atom(text: str) -> str:
    """`text` as an operand of any operator.

    >>> atom("i + 1"), atom("i"), atom("x_strides[0]")
    ('(i + 1)', 'i', 'x_strides[0]')
    """
    return text if _ATOM.fullmatch(text) else f"({text})"


def plus(a: str, b: str) -> str:
    """The sum of two expressions, folded where one is 0."""
    return b if a == "0" else a if b == "0" else f"{a} + {b}"


def times(a: str, b: str) -> str:
    """The product of two expressions, folded where one is 0 or 1."""
    if "0" in (a, b):
        return "0"
    return b if a == "1" else a if b == "1" else f"{atom(a)} * {atom(b)}"


def over(a: str, b: str) -> str:
    """The quotient of two expressions that are not negative, rounded down."""
    return "0" if a == "0" else a if b == "1" else f"{atom(a)} / {atom(b)}"


def modulo(a: str, b: str) -> str:
    """What is left of `a` after whole `b`s."""
    return "0" if a == "0" or b == "1" else f"{atom(a)} % {atom(b)}"


def below(a: str, b: str) -> str:
    """The test that `a` is smaller than `b`."""
    return f"{a} < {b}"
