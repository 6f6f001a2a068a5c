"""Names and sizes in emitted code. Whatever an IR name holds, only identifiers reach code, and only printable text
comments.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping

from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.dims import Dim

RESERVED = frozenset((
    "xp", "rt", "np", "runtime", "tl", "triton", "range", "min", "max", "int", "slice", "float", "True", "False",
    "None", *keyword.softkwlist,
))  # fmt: skip
"""Names that emitted code uses itself."""


def identifier(name: str) -> str:
    """`name` as a Python identifier that is no keyword and none of `RESERVED`.

    >>> identifier("0"), identifier("lambda"), identifier("a-b; import os")
    ('v0', 'lambda_', 'a_b_import_os')
    """
    text = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "v"
    if text[0].isdigit():
        text = f"v{text}"
    return f"{text}_" if keyword.iskeyword(text) or text in RESERVED else text


def comment(text: str) -> str:
    """`text` fit for a comment or docstring: one printable line without quotes or backslashes."""
    return "".join(c if c.isprintable() and c not in '"\\' else "?" for c in text)[:120]


def quoted(name: object) -> str:
    """The name of a format, dtype or order as a string literal."""
    text = str(name)
    assert re.fullmatch(r"\w+", text), f"{text!r} is no name of a format, dtype or order"
    return f'"{text}"'


def entry_name(function: str) -> str:
    """The Python name of the IR function `function`; those of kernels and constants begin with an underscore."""
    return identifier(function)


def check_entries(names: Iterable[str], target: str) -> None:
    """Raise UnsupportedError where functions of these IR names would have one name in Python."""
    entries: dict[str, str] = {}
    for name in names:
        clash = entries.setdefault(entry_name(name), name)
        if clash != name:
            raise UnsupportedError(
                f"{target}: functions {comment(clash)} and {comment(name)} have one name in Python; rename one"
            )


class Names:
    """Unique identifiers. Invariant: no two calls of `fresh` give the same name."""

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        self._taken = set(taken)

    def fresh(self, wanted: str) -> str:
        """`wanted` as an identifier; with a number after it if that is taken."""
        base = identifier(wanted)
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name


_OPERATORS = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "floordiv": (None, 2)}


def python_ceildiv(a: str, b: str) -> str:
    """`a / b` rounded up, where `//` rounds down."""
    return f"-(-{a} // {b})"


def size_text(
    dim: Dim,
    names: Mapping[str, str],
    table: Callable[[int, str], str] | None = None,
    strength: int = 0,
    ceildiv: Callable[[str, str], str] = python_ceildiv,
    floordiv: str = "//",
) -> str:
    """A size as an expression. `names` spells symbols and grid dimensions; `table` the entry of an operand, by the
    operand's number and the entry's index; `ceildiv` a division rounded up, of operands that bind tightly; `floordiv`
    is the operator of one rounded down: `/` in C, since sizes are not negative.

    >>> size_text(dims.ceildiv(dims.Sym("M"), 128), {"M": "M"})
    '-(-M // 128)'
    """

    def text(d: Dim, strength: int = 0) -> str:
        return size_text(d, names, table, strength, ceildiv, floordiv)

    if isinstance(dim, int):
        return str(dim)
    if isinstance(dim, dims.Sym):
        if dim.name not in names:
            raise UnsupportedError(f"size {comment(dim.name)} cannot be found from the arguments' shapes")
        return names[dim.name]
    if isinstance(dim, dims.Lookup):
        if table is None:
            raise UnsupportedError(f"{dims.show(dim)} reads a table outside of a kernel")
        return table(dim.operand, text(dim.index))
    assert isinstance(dim, dims.Op), "a size is an int, a symbol, a look-up or an operation"
    if dim.kind in _OPERATORS:
        sign, own = _OPERATORS[dim.kind]
        joined = f"{text(dim.left, own)} {sign or floordiv} {text(dim.right, own + 1)}"
        return f"({joined})" if own < strength else joined
    if dim.kind == "ceildiv":
        return ceildiv(text(dim.left, 3), text(dim.right, 3))
    return f"{dim.kind}({text(dim.left)}, {text(dim.right)})"
